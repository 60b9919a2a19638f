// AVX512 with VNNI: 24 of 32 registers hold sums.
#include "plan.h"

#if defined(__x86_64__)
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,prefer-vector-width=512")
#endif

#define HF_PATH avx512vnni
#define HF_AVX512 1
#define HF_BF16 1
#define HF_LANES 16
#define HF_WIDEST 3
#define HF_QUERIES 3
#define HF_KEYS 8
#define HF_CHUNK 65536
#define HF_AHEAD true
#include "kernel.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace hf_mpq {
extern const Path AVX512_VNNI, AVX512_GFNI;
Decode decode_gfni;
bool transposes_bits();
static bool available() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}
const Path AVX512_VNNI{"avx512-vnni", available, avx512vnni::bytes_of, avx512vnni::run, avx512vnni::pool_bytes, avx512vnni::pool, avx512vnni::decode};
static bool transposes() { return available() && transposes_bits(); }
const Path AVX512_GFNI{"avx512-gfni", transposes, avx512vnni::bytes_of, avx512vnni::run, avx512vnni::pool_bytes, avx512vnni::pool, decode_gfni};
}  // namespace hf_mpq
#endif
