// Vectors of LANES floats, tokens in the lanes. Included once per instruction set, inside its namespace: no function of
// the standard library is called here, of which the linker might keep the copy of another instruction set.

constexpr int LANES = HF_LANES;
typedef float floats __attribute__((vector_size(4 * HF_LANES)));
typedef float loose_floats __attribute__((vector_size(4 * HF_LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * HF_LANES)));
typedef int32_t loose_ints __attribute__((vector_size(4 * HF_LANES), aligned(4), may_alias));
#define HF_INLINE inline __attribute__((always_inline))

HF_INLINE floats load(const float* from) { return *(const loose_floats*)from; }
HF_INLINE void store(float* to, floats value) { *(loose_floats*)to = value; }
HF_INLINE ints load(const int32_t* from) { return *(const loose_ints*)from; }
HF_INLINE void store(int32_t* to, ints value) { *(loose_ints*)to = value; }
HF_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
HF_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
HF_INLINE int64_t up_to(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

#if HF_AVX512
HF_INLINE floats all(float value) { return (floats)_mm512_set1_ps(value); }
HF_INLINE ints all(int32_t value) { return (ints)_mm512_set1_epi32(value); }
HF_INLINE floats fused(floats a, floats b, floats c) { return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
// Of a limit and a value: a value that is NaN stays it.
HF_INLINE floats smaller(floats limit, floats value) { return (floats)_mm512_min_ps((__m512)limit, (__m512)value); }
HF_INLINE floats larger(floats limit, floats value) { return (floats)_mm512_max_ps((__m512)limit, (__m512)value); }
HF_INLINE ints nearest(floats value) { return (ints)_mm512_cvtps_epi32((__m512)value); }
HF_INLINE floats rounded(floats value) { return (floats)_mm512_roundscale_ps((__m512)value, 8); }
HF_INLINE floats as_floats(ints value) { return (floats)_mm512_cvtepi32_ps((__m512i)value); }
HF_INLINE floats root(floats value) { return (floats)_mm512_sqrt_ps((__m512)value); }
HF_INLINE floats times_two_to(floats value, floats n) { return (floats)_mm512_scalef_ps((__m512)value, (__m512)n); }
HF_INLINE floats reciprocal(floats x) {  // relative error 2^-27
  const floats guess = (floats)_mm512_rcp14_ps((__m512)x);
  return guess * fused(-x, guess, all(2.0f));
}
#elif HF_AVX2
HF_INLINE floats all(float value) { return (floats)_mm256_set1_ps(value); }
HF_INLINE ints all(int32_t value) { return (ints)_mm256_set1_epi32(value); }
HF_INLINE floats fused(floats a, floats b, floats c) { return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
HF_INLINE floats smaller(floats limit, floats value) { return (floats)_mm256_min_ps((__m256)limit, (__m256)value); }
HF_INLINE floats larger(floats limit, floats value) { return (floats)_mm256_max_ps((__m256)limit, (__m256)value); }
HF_INLINE ints nearest(floats value) { return (ints)_mm256_cvtps_epi32((__m256)value); }
HF_INLINE floats rounded(floats value) { return (floats)_mm256_round_ps((__m256)value, 8); }
HF_INLINE floats as_floats(ints value) { return (floats)_mm256_cvtepi32_ps((__m256i)value); }
HF_INLINE floats root(floats value) { return (floats)_mm256_sqrt_ps((__m256)value); }
HF_INLINE floats reciprocal(floats x) { return 1.0f / x; }
#elif HF_NEON
HF_INLINE floats all(float value) { return (floats)vdupq_n_f32(value); }
HF_INLINE ints all(int32_t value) { return (ints)vdupq_n_s32(value); }
HF_INLINE floats fused(floats a, floats b, floats c) { return (floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
HF_INLINE floats smaller(floats limit, floats value) { return (floats)vminq_f32((float32x4_t)limit, (float32x4_t)value); }
HF_INLINE floats larger(floats limit, floats value) { return (floats)vmaxq_f32((float32x4_t)limit, (float32x4_t)value); }
HF_INLINE ints nearest(floats value) { return (ints)vcvtnq_s32_f32((float32x4_t)value); }
HF_INLINE floats rounded(floats value) { return (floats)vrndnq_f32((float32x4_t)value); }
HF_INLINE floats as_floats(ints value) { return (floats)vcvtq_f32_s32((int32x4_t)value); }
HF_INLINE floats root(floats value) { return (floats)vsqrtq_f32((float32x4_t)value); }
HF_INLINE floats reciprocal(floats x) { return 1.0f / x; }
#else
HF_INLINE floats all(float value) {
  floats found;
  for (int i = 0; i < LANES; i++) found[i] = value;
  return found;
}
HF_INLINE ints all(int32_t value) {
  ints found;
  for (int i = 0; i < LANES; i++) found[i] = value;
  return found;
}
HF_INLINE floats fused(floats a, floats b, floats c) { return a * b + c; }
HF_INLINE floats smaller(floats limit, floats value) { return limit < value ? limit : value; }
HF_INLINE floats larger(floats limit, floats value) { return limit > value ? limit : value; }
HF_INLINE floats rounded(floats value) {  // of what is below 2^22 in size, halves to even
  const floats magic = all(12582912.0f);
  return (value + magic) - magic;
}
HF_INLINE ints nearest(floats value) { return __builtin_convertvector(rounded(value), ints); }
HF_INLINE floats as_floats(ints value) { return __builtin_convertvector(value, floats); }
HF_INLINE floats root(floats value) {
  for (int i = 0; i < LANES; i++) value[i] = __builtin_sqrtf(value[i]);
  return value;
}
HF_INLINE floats reciprocal(floats x) { return 1.0f / x; }
#endif

#if !HF_AVX512
HF_INLINE floats times_two_to(floats value, floats n) {  // n a whole number from -126 to 127
  return value * (floats)((nearest(n) + 127) << 23);
}
#endif

// 2^n 2^r, the latter by a polynomial; relative error 1e-7 where |r| <= 1/2.
HF_INLINE floats power_of_two(floats n, floats r) {
  floats p = fused(all(1.326472708044639e-3f), r, all(9.671512862324563e-3f));
  p = fused(p, r, all(5.550733745645625e-2f));
  p = fused(p, r, all(2.402224208184086e-1f));
  p = fused(p, r, all(6.931469775965878e-1f));
  p = fused(p, r, all(1.0f));
  return times_two_to(p, n);
}

// 2^x of what is not above 0; below 2^-126 it is about that, or 0. NaN stays NaN.
HF_INLINE floats exp2_of(floats x) {
  x = larger(all(-126.0f), x);
  const floats n = rounded(x);
  return power_of_two(n, x - n);
}

// erf(x / sqrt(2)) as a ratio of polynomials, and beyond 4 sqrt(2), where it is 1 to float32, as there; absolute error
// 4e-7.
HF_INLINE floats normal_erf(floats x) {
  const floats bounded = smaller(all(5.65685425f), larger(all(-5.65685425f), x));
  const floats square = bounded * bounded;
  floats p = fused(square, all(-3.01199012050038e-12f), all(6.1223988253004e-10f));
  p = fused(p, square, all(-9.28530207850775e-8f));
  p = fused(p, square, all(-5.03151234198254e-6f));
  p = fused(p, square, all(-1.29929214703174e-4f));
  p = fused(p, square, all(-1.04460878015564e-3f));
  p = fused(p, square, all(-1.138161431519e-2f));
  floats q = fused(square, all(-9.10379490406225e-7f), all(-2.66717569098631e-5f));
  q = fused(q, square, all(-4.20706743595508e-4f));
  q = fused(q, square, all(-3.68666458360234e-3f));
  q = fused(q, square, all(-1.42647394514189e-2f));
  return bounded * p * reciprocal(q);
}

// 2^x within the range of floats.
HF_INLINE floats bounded_exp2(floats x) {
  x = smaller(all(126.0f), larger(all(-126.0f), x));
  const floats n = rounded(x);
  return power_of_two(n, x - n);
}

#if HF_AVX512
// What GELU is below ReLU, an even function, by cubics on sixteen segments around 0, h, 2 h ... 15 h with h = 1 / 3.1;
// absolute error 5e-6.
alignas(64) const float BELOW_RELU[4][16] = {
    {-3.459209665e-07f, 1.204815879e-01f, 1.673607230e-01f, 1.612143219e-01f, 1.270601749e-01f, 8.610407263e-02f,
     5.122526363e-02f, 2.703150921e-02f, 1.272455417e-02f, 5.361060612e-03f, 2.025797265e-03f, 6.874810206e-04f,
     2.097171673e-04f, 5.754166705e-05f, 1.420668468e-05f, 3.157167839e-06f},
    {1.613125205e-01f, 8.107922971e-02f, 1.625679061e-02f, -2.423350513e-02f, -4.046412557e-02f, -3.930756450e-02f,
     -2.973590791e-02f, -1.884217001e-02f, -1.029848307e-02f, -4.927104805e-03f, -2.080756938e-03f, -7.796953432e-04f,
     -2.601372253e-04f, -7.746362826e-05f, -2.062365456e-05f, -4.915508271e-06f},
    {-4.173578694e-02f, -3.721846640e-02f, -2.665119246e-02f, -1.386720967e-02f, -3.120300127e-03f, 3.308921121e-03f,
     5.512314383e-03f, 5.005113780e-03f, 3.465007059e-03f, 1.983056078e-03f, 9.694522596e-04f, 4.116729833e-04f,
     1.533421164e-04f, 5.041619806e-05f, 1.469366271e-05f, 3.807728717e-06f},
    {7.148951408e-04f, 2.640362596e-03f, 4.159981385e-03f, 4.120180383e-03f, 2.919038059e-03f, 1.378359855e-03f,
     1.803549530e-04f, -4.233945219e-04f, -5.440695677e-04f, -4.234877706e-04f, -2.545853495e-04f, -1.265790925e-04f,
     -5.362957745e-05f, -1.967500248e-05f, -6.311204288e-06f, -1.781467859e-06f},
};

HF_INLINE floats gelu(floats x) {
  const floats size = smaller(all(4.99967f), (floats)_mm512_abs_ps((__m512)x));
  const floats placed = fused(size, all(3.1f), all(8388608.0f));  // 2^23: the nearest whole number is in the last bits
  const floats at = fused(size, all(3.1f), all(8388608.0f) - placed);
  const auto of = [&](int power) {
    return (floats)_mm512_permutexvar_ps((__m512i)placed, _mm512_load_ps(BELOW_RELU[power]));
  };
  return larger(floats{}, x) - fused(fused(fused(of(3), at, of(2)), at, of(1)), at, of(0));
}
#else
HF_INLINE floats gelu(floats x) {
  const floats half = all(0.5f) * x;
  return fused(half, normal_erf(x), half);
}
#endif

// x / (1 + e^(-2 sqrt(2 / pi) (x + 0.044715 x^3))), which is GELU by tanh.
HF_INLINE floats gelu_tanh(floats x) {
  const floats inner = x * fused(x * x, all(0.044715f), all(1.0f));
  return x * reciprocal(all(1.0f) + bounded_exp2(inner * all(-2.302208198f)));
}

template <int ACTIVATION>
HF_INLINE floats activated(floats x) {
  if (ACTIVATION == HF_GELU) return gelu(x);
  if (ACTIVATION == HF_GELU_TANH) return gelu_tanh(x);
  return larger(floats{}, x);
}

HF_INLINE bool any_nan(floats value) {
#if HF_AVX512
  return _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q);
#elif HF_AVX2
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)value, (__m256)value, _CMP_UNORD_Q));
#else
  bool found = false;
  for (int i = 0; i < LANES; i++) found |= value[i] != value[i];
  return found;
#endif
}

HF_INLINE bool any_above(floats value, float limit) {  // or NaN
#if HF_AVX512
  return _mm512_cmp_ps_mask((__m512)value, _mm512_set1_ps(limit), _CMP_NLE_UQ);
#elif HF_AVX2
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)value, _mm256_set1_ps(limit), _CMP_NLE_UQ));
#else
  bool found = false;
  for (int i = 0; i < LANES; i++) found |= !(value[i] <= limit);
  return found;
#endif
}

// Four vectors of integers as the bytes of one, in the order of the vectors; what is no byte becomes the nearest.
HF_INLINE ints packed(ints a, ints b, ints c, ints d) {
#if HF_AVX512
  const __m512i words = _mm512_packus_epi16(_mm512_packs_epi32((__m512i)a, (__m512i)b), _mm512_packs_epi32((__m512i)c, (__m512i)d));
  return (ints)_mm512_shuffle_epi8(words, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
#elif HF_AVX2
  const __m256i words = _mm256_packus_epi16(_mm256_packs_epi32((__m256i)a, (__m256i)b), _mm256_packs_epi32((__m256i)c, (__m256i)d));
  return (ints)_mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
#else
  const auto byte = [](ints x) { return x < 0 ? ints{} : x > 255 ? all(255) : x; };
  return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
#endif
}

HF_INLINE void prefetch(const void* at) { __builtin_prefetch(at, 0, 2); }
