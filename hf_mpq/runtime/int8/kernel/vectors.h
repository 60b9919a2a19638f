// Vectors of sixteen floats, lowered by the compiler to what the machine has.
#pragma once
#include <cmath>
#include <cstdint>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace hf_mpq {

constexpr int LANES = 16;
constexpr int QUERIES = 8;  // of attention at once: with two vectors of keys, sixteen accumulators
typedef float floats __attribute__((vector_size(64)));
typedef float unaligned_floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(64)));

inline floats load(const float* from) { return *(const unaligned_floats*)from; }
inline void store(float* to, floats value) { *(unaligned_floats*)to = value; }
inline floats broadcast(float value) { return floats{} + value; }
// Of a limit and a value: a value that is NaN stays it.
inline floats smaller(floats limit, floats value) { return limit < value ? limit : value; }
inline floats larger(floats limit, floats value) { return limit > value ? limit : value; }
inline floats between(float low, floats value, float high) {
  return smaller(broadcast(high), larger(broadcast(low), value));
}

inline bool any_nan(floats value) {
#ifdef __AVX512F__
  return _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q);
#else
  bool found = false;
  for (int i = 0; i < LANES; i++) found |= value[i] != value[i];
  return found;
#endif
}

inline float sum(floats value) {
  float total = 0;
  for (int i = 0; i < LANES; i++) total += value[i];
  return total;
}

inline float largest(floats value) {
  float best = value[0];
  for (int i = 1; i < LANES; i++) best = value[i] > best ? value[i] : best;
  return best;
}

inline float smallest(floats value) { return -largest(-value); }

// Nearest integer, halves to even, of what is below 2^22 in size.
inline floats nearest(floats value) {
  const floats magic = broadcast(12582912.0f);  // 1.5 * 2^23
  return (value + magic) - magic;
}

inline ints nearest_ints(floats value) {
#ifdef __AVX512F__
  return (ints)_mm512_cvtps_epi32((__m512)value);
#else
  return __builtin_convertvector(nearest(value), ints);
#endif
}

// sum + a b, rounded once where the machine can.
inline floats add_product(floats sum, floats a, floats b) {
#ifdef __AVX512F__
  return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#else
  return sum + a * b;
#endif
}

// 1 / x, relative error 2^-27.
inline floats reciprocal(floats x) {
#ifdef __AVX512F__
  const floats guess = (floats)_mm512_rcp14_ps((__m512)x);
  return guess * (2.0f - x * guess);
#else
  return 1.0f / x;
#endif
}

// e^x by 2^n e^r with |r| <= ln(2) / 2, relative error 2e-7; zero below -87, no larger than e^88.
inline floats exponential(floats x) {
  const floats bounded = between(-87.0f, x, 88.0f);
  const floats n = nearest(bounded * 1.44269504f);
  const floats r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const ints power = (__builtin_convertvector(n, ints) + 127) << 23;
  return x < -87.0f ? floats{} : p * (floats)power;
}

// e^x of what is not above 0; what is below -87 gives no more than e^-87. Relative error 3e-7, or 4e-5 when rough.
template <bool ROUGH>
inline floats share_of(floats x) {
  const floats bounded = larger(broadcast(-87.0f), x);
  const floats n = nearest(bounded * 1.44269504f);
  const floats r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
  floats p = broadcast(4.1666667e-2f);
  if (!ROUGH) {
    p = r * 1.3981999507e-3f + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
  }
  p = p * r + 1.6666665459e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const ints power = (__builtin_convertvector(n, ints) + 127) << 23;
  return p * (floats)power;
}

// erf(x / sqrt(2)) as a ratio of polynomials, and beyond 4 sqrt(2), where it is 1 to float32, as there; absolute error
// 4e-7.
inline floats normal_erf(floats x) {
  const floats bounded = between(-5.65685425f, x, 5.65685425f);
  const floats square = bounded * bounded;
  floats p = square * -3.01199012050038e-12f + 6.1223988253004e-10f;
  p = p * square - 9.28530207850775e-8f;
  p = p * square - 5.03151234198254e-6f;
  p = p * square - 1.29929214703174e-4f;
  p = p * square - 1.04460878015564e-3f;
  p = p * square - 1.138161431519e-2f;
  floats q = square * -9.10379490406225e-7f - 2.66717569098631e-5f;
  q = q * square - 4.20706743595508e-4f;
  q = q * square - 3.68666458360234e-3f;
  q = q * square - 1.42647390514189e-2f;
  return bounded * p * reciprocal(q);
}

inline floats tanh(floats x) {
  const floats e = exponential(x + x);
  return 1.0f - 2.0f * reciprocal(e + 1.0f);
}

enum class Activation { none, gelu, gelu_tanh, relu };

inline floats activate(floats x, Activation kind) {
  if (kind == Activation::none) return x;
  if (kind == Activation::relu) return larger(floats{}, x);
  const floats half = 0.5f * x;
  if (kind == Activation::gelu) return half + half * normal_erf(x);
  return half + half * tanh(0.79788456f * (x + 0.044715f * x * x * x));
}

}  // namespace hf_mpq
