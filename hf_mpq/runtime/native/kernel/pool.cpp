#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>
#ifndef _WIN32
#include <pthread.h>
#endif

namespace hf_mpq {
namespace {

constexpr int SPINS = 4000, YIELDS = 64;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Ready>
bool spin(const Ready& ready) {
  for (int i = 0; i < SPINS; i++, pause())
    if (ready()) return true;
  for (int i = 0; i < YIELDS; i++, std::this_thread::yield())
    if (ready()) return true;
  return false;
}

struct Barrier {
  std::atomic<int> here{0}, round{0};

  void wait(int count) {
    const int now = round.load(std::memory_order_acquire);
    if (here.fetch_add(1, std::memory_order_acq_rel) + 1 == count) {
      here.store(0, std::memory_order_relaxed);
      round.store(now + 1, std::memory_order_release);
      return;
    }
    const auto over = [&] { return round.load(std::memory_order_acquire) != now; };
    while (!spin(over)) {
    }
  }
};

struct Member : Team {
  Barrier* barrier = nullptr;
  void wait() override {
    if (count > 1) barrier->wait(count);
  }
};

class Pool {
 public:
  void run(int threads, const std::function<void(Team&)>& work) {
    grow(threads - 1);
    const int count = std::min<int>(threads, (int)workers.size() + 1);
    {
      std::lock_guard<std::mutex> held(mutex);
      task = &work;
      team = count;
      left.store(count - 1, std::memory_order_relaxed);
      round.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
    one(0, work, count);
    const auto over = [&] { return left.load(std::memory_order_acquire) == 0; };
    while (!spin(over)) {
    }
  }

  std::mutex busy;

 private:
  void grow(int count) {
    while ((int)workers.size() < count) {
      try {
        const int index = (int)workers.size() + 1, seen = round.load();
        workers.emplace_back([this, index, seen] { serve(index, seen); });
        workers.back().detach();
      } catch (const std::system_error&) {
        return;  // as many as there may be
      }
    }
  }

  void serve(int index, int seen) {
    while (true) {
      const auto called = [&] { return round.load(std::memory_order_acquire) != seen; };
      if (!spin(called)) {
        std::unique_lock<std::mutex> held(mutex);
        wake.wait(held, called);
      }
      const std::function<void(Team&)>* work;
      int count;
      {
        std::lock_guard<std::mutex> held(mutex);
        seen = round.load(std::memory_order_relaxed);
        work = task, count = team;
      }
      if (index >= count) continue;
      one(index, *work, count);
      left.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void one(int index, const std::function<void(Team&)>& work, int count) {
    Member member;
    member.index = index, member.count = count, member.barrier = &barrier;
    work(member);
  }

  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<int> round{0}, left{0};
  const std::function<void(Team&)>* task = nullptr;
  int team = 1;
  Barrier barrier;
};

Pool* pool = nullptr;  // never taken down: threads may be inside when the process ends
std::mutex making;

Pool& the_pool() {
  std::lock_guard<std::mutex> held(making);
  if (!pool) {
#ifndef _WIN32
    static bool told = false;
    if (!told) pthread_atfork(nullptr, nullptr, [] {
        pool = nullptr;  // its threads stayed in the parent
        new (&making) std::mutex;
      });
    told = true;
#endif
    pool = new Pool;
  }
  return *pool;
}

}  // namespace

void together(int threads, const std::function<void(Team&)>& work) {
  if (threads > 1) {
    Pool& all = the_pool();
    std::unique_lock<std::mutex> held(all.busy, std::try_to_lock);
    if (held) {
      all.run(threads, work);
      return;
    }
  }
  Team alone;
  work(alone);
}

}  // namespace hf_mpq
