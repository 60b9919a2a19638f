// Vectors of LANES floats, tokens in the lanes. Included once per instruction set, inside its namespace: no function of
// the standard library is called here, of which the linker might keep the copy of another instruction set.

constexpr int LANES = HF_LANES;
typedef float floats __attribute__((vector_size(4 * HF_LANES)));
typedef float loose_floats __attribute__((vector_size(4 * HF_LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * HF_LANES)));
typedef int32_t loose_ints __attribute__((vector_size(4 * HF_LANES), aligned(4), may_alias));
typedef int8_t loose_bytes __attribute__((vector_size(HF_LANES), aligned(1), may_alias));
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
// What GELU is below ReLU, an even function, by cubics on 32 segments around 0, 1/6, 2/6 ... 31/6; absolute error 5e-7.
alignas(64) const float BELOW_RELU[4][32] = {
    {-2.494348195e-08f, 7.230231911e-02f, 1.231468096e-01f, 1.542685628e-01f, 1.683282703e-01f, 1.686070114e-01f,
     1.586553752e-01f, 1.419514418e-01f, 1.216151789e-01f, 1.002110168e-01f, 7.965078205e-02f, 6.119041890e-02f,
     4.550037161e-02f, 3.278203681e-02f, 2.290246263e-02f, 1.552416664e-02f, 1.021433435e-02f, 6.525898818e-03f,
     4.049669486e-03f, 2.441429067e-03f, 1.430181903e-03f, 8.141868166e-04f, 4.504991521e-04f, 2.422944963e-04f,
     1.266799809e-04f, 6.438976561e-05f, 3.181961074e-05f, 1.528843313e-05f, 7.142313279e-06f, 3.244425670e-06f,
     1.433087618e-06f, 6.155378856e-07f},
    {8.333493024e-02f, 6.137385219e-02f, 4.060789198e-02f, 2.208423615e-02f, 6.587961223e-03f, -5.432946607e-03f,
     -1.388584729e-02f, -1.899873279e-02f, -2.124480158e-02f, -2.124487609e-02f, -1.966750622e-02f, -1.714347303e-02f,
     -1.420533657e-02f, -1.125567872e-02f, -8.561538532e-03f, -6.268530618e-03f, -4.426495638e-03f, -3.019006690e-03f,
     -1.990941120e-03f, -1.270626439e-03f, -7.853083080e-04f, -4.702899896e-04f, -2.730179986e-04f, -1.537021308e-04f,
     -8.393985627e-05f, -4.448071559e-05f, -2.287647840e-05f, -1.142103156e-05f, -5.535970104e-06f, -2.605664122e-06f,
     -1.191065735e-06f, -5.288046623e-07f},
    {-1.109771617e-02f, -1.076506637e-02f, -9.890683927e-03f, -8.550604805e-03f, -6.898867432e-03f, -5.112673156e-03f,
     -3.364585107e-03f, -1.798384124e-03f, -5.131609505e-04f, 4.427586973e-04f, 1.068423619e-03f, 1.399887726e-03f,
     1.496277167e-03f, 1.425685594e-03f, 1.253498369e-03f, 1.034559566e-03f, 8.094106452e-04f, 6.039963337e-04f,
     4.316567793e-04f, 2.963072620e-04f, 1.957805944e-04f, 1.247152832e-04f, 7.668937178e-05f, 4.556659405e-05f,
     2.618192229e-05f, 1.455745132e-05f, 7.836736586e-06f, 4.086493391e-06f, 2.064913360e-06f, 1.011425525e-06f,
     4.803669071e-07f, 2.212734103e-07f},
    {5.120755668e-05f, 2.005156421e-04f, 3.766220179e-04f, 5.082722055e-04f, 5.831302842e-04f, 5.981838913e-04f,
     5.593404057e-04f, 4.793945409e-04f, 3.748245363e-04f, 2.624642220e-04f, 1.566786668e-04f, 6.758030941e-05f,
     4.334004018e-07f, -4.390938193e-05f, -6.789157487e-05f, -7.587471919e-05f, -7.283306331e-05f, -6.340569962e-05f,
     -5.129439887e-05f, -3.907226346e-05f, -2.824777584e-05f, -1.948429053e-05f, -1.286899260e-05f, -8.160330253e-06f,
     -4.977761819e-06f, -2.925425861e-06f, -1.658439601e-06f, -9.078024732e-07f, -4.801905789e-07f, -2.456164623e-07f,
     -1.215537111e-07f, -5.823111238e-08f},
};

HF_INLINE floats gelu(floats x) {
  const floats size = smaller(all(5.2499f), (floats)_mm512_abs_ps((__m512)x));
  const floats placed = fused(size, all(6.0f), all(8388608.0f));  // 2^23: the nearest whole number is in the last bits
  const floats at = fused(size, all(6.0f), all(8388608.0f) - placed);
  const auto of = [&](int power) {
    const float* const from = BELOW_RELU[power];
    return (floats)_mm512_permutex2var_ps(_mm512_load_ps(from), (__m512i)placed, _mm512_load_ps(from + 16));
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

// 1 - 2 / (1 + e^2x); absolute error 2e-7.
HF_INLINE floats tanh_of(floats x) {
  return all(1.0f) - all(2.0f) / (all(1.0f) + bounded_exp2(x * all(2.885390082f)));
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

// LANES x LANES words turned over.
#if HF_AVX512
static inline void turn_over(ints (&rows)[16]) {
  ints half[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    half[2 * i] = (ints)_mm512_unpacklo_epi32((__m512i)rows[2 * i], (__m512i)rows[2 * i + 1]);
    half[2 * i + 1] = (ints)_mm512_unpackhi_epi32((__m512i)rows[2 * i], (__m512i)rows[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
#pragma GCC unroll 2
    for (int j = 0; j < 2; j++) {
      rows[4 * i + 2 * j] = (ints)_mm512_unpacklo_epi64((__m512i)half[4 * i + j], (__m512i)half[4 * i + j + 2]);
      rows[4 * i + 2 * j + 1] = (ints)_mm512_unpackhi_epi64((__m512i)half[4 * i + j], (__m512i)half[4 * i + j + 2]);
    }
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++)
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      half[8 * i + j] = (ints)_mm512_shuffle_i32x4((__m512i)rows[8 * i + j], (__m512i)rows[8 * i + 4 + j], 0x88);
      half[8 * i + 4 + j] = (ints)_mm512_shuffle_i32x4((__m512i)rows[8 * i + j], (__m512i)rows[8 * i + 4 + j], 0xdd);
    }
#pragma GCC unroll 8
  for (int j = 0; j < 8; j++) {
    rows[j] = (ints)_mm512_shuffle_i32x4((__m512i)half[j], (__m512i)half[8 + j], 0x88);
    rows[8 + j] = (ints)_mm512_shuffle_i32x4((__m512i)half[j], (__m512i)half[8 + j], 0xdd);
  }
}
#else
static inline void turn_over(ints (&rows)[LANES]) {
  for (int i = 0; i < LANES; i++)
    for (int j = 0; j < i; j++) {
      const int32_t kept = rows[i][j];
      rows[i][j] = rows[j][i], rows[j][i] = kept;
    }
}
#endif

// The first of a vector.
HF_INLINE void store_some(int32_t* to, ints values, int64_t count) {
  if (count == LANES) store(to, values);
  else
    for (int64_t i = 0; i < count; i++) to[i] = values[i];
}
