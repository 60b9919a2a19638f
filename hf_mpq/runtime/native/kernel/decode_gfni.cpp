// Bit planes decoded by transpositions of 8 x 8 bits, which machines with AVX512 have since Ice Lake and Zen 4.
#include "plan.h"

#if defined(__x86_64__)
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,gfni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,gfni,prefer-vector-width=512")
#endif

#define HF_GFNI 1
#define HF_INLINE inline __attribute__((always_inline))
namespace hf_mpq::gfni {
#include "planes.h"
}

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace hf_mpq {
bool transposes_bits() { return __builtin_cpu_supports("gfni") && __builtin_cpu_supports("avx512vbmi"); }
void decode_gfni(const Planes& planes, int64_t first, int64_t last, int8_t* to, int64_t stride) {
  gfni::decode(planes, first, last, to, stride);
}
}  // namespace hf_mpq
#endif
