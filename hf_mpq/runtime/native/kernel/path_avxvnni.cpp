// AVX2 with VNNI in 256 bits, as of laptops without AVX512.
#include "plan.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avxvnni")
#endif

#define HF_PATH avxvnni
#define HF_AVX2 1
#define HF_AVX_VNNI 1
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
extern const Path AVX_VNNI;
static bool available() {
  unsigned a, b, c, d;  // of leaf 7.1, whose name not every compiler knows
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
         (a >> 4 & 1);
}
const Path AVX_VNNI{"avx-vnni", available, avxvnni::bytes_of, avxvnni::run, avxvnni::pool_bytes, avxvnni::pool, avxvnni::decode};
}  // namespace hf_mpq
#endif
