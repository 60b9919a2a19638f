// Threads that wait for work by spinning for a while, then by yielding, then asleep.
#pragma once
#include <functional>

#include "plan.h"

namespace hf_mpq {

// `work(team)` on `threads` threads, this one among them. Where others are busy with another call, `work` runs with a
// team of one. A process that was forked gets threads of its own.
void together(int threads, const std::function<void(Team&)>& work);

}  // namespace hf_mpq
