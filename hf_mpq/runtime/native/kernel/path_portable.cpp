// Plain C++, for every machine.
#include "plan.h"

#define HF_PATH portable
#define HF_LANES 4
#define HF_WIDEST 1
#define HF_QUERIES 1
#define HF_KEYS 8
#define HF_CHUNK 32768
#include "kernel.h"

namespace hf_mpq {
extern const Path PORTABLE;
const Path PORTABLE{"portable", [] { return true; }, portable::bytes_of, portable::run, portable::pool_bytes, portable::pool, portable::decode};
}  // namespace hf_mpq
