// AVX2 alone, which has no exact sums of products of four bytes.
#include "plan.h"

#if defined(__x86_64__)
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define HF_PATH avx2
#define HF_AVX2 1
#define HF_WORDS 1
#define HF_LANES 8
#define HF_WIDEST 2
#define HF_QUERIES 2
#define HF_KEYS 4
#define HF_CHUNK 32768
#include "kernel.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace hf_mpq {
extern const Path AVX2;
static bool available() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
const Path AVX2{"avx2", available, avx2::bytes_of, avx2::run, avx2::pool_bytes, avx2::pool, avx2::decode};
}  // namespace hf_mpq
#endif
