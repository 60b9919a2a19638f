// The same attention with its products in bfloat16, by pairs of features, and pairs of keys; sums and powers are float32.

#if HF_BF16 && !HF_AMX  // tiles have their own
HF_INLINE ints rounded_to_16(floats x) { return (ints)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)x)); }
HF_INLINE ints pair(floats low, floats high) { return rounded_to_16(low) | rounded_to_16(high) << 16; }
HF_INLINE floats add_pairs(floats sums, ints a, ints b) {
  return (floats)_mm512_dpbf16_ps((__m512)sums, (__m512bh)a, (__m512bh)b);
}

// What a head reads, in pairs.
struct Pairs {
  int32_t *query, *key;  // (pairs of features, stride)
  int32_t* value;        // (features and KEYS more, pairs of keys)
  int64_t keys;          // stride of `value`
};

static inline void pair_features(const float* from, int64_t size, int64_t stride, int64_t tokens, int32_t* to) {
  for (int64_t d = 0; d < size; d += 2, to += stride)
    for (int64_t t = 0; t < tokens; t += LANES) {
      const floats low = load(from + d * stride + t), high = d + 1 < size ? load(from + (d + 1) * stride + t) : floats{};
      store(to + t, pair(low, high));
    }
}

// Of one sequence. What lies behind its last token is 0: times a power of 0, anything else might be NaN.
static inline void pair_keys(const Head& head, const Pairs& pairs) {
  for (int64_t d = 0; d < head.size; d++) {
    const float* const from = head.value + d * head.stride;
    uint16_t* const to = (uint16_t*)(pairs.value + d * pairs.keys);
    for (int64_t t = 0; t < head.tokens; t += LANES)
      _mm256_storeu_si256((__m256i*)(to + t), (__m256i)_mm512_cvtneps_pbh((__m512)load(from + t)));
    if (head.tokens % 2) to[head.tokens] = 0;
  }
}

template <int Q>
static inline void pair_scores(const Head& head, const Pairs& pairs, int64_t start, int64_t first, float* to) {
  for (int64_t key = 0; key < head.tokens; key += KEYS) {
    floats sums[KEYS][Q];
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) sums[k][q] = floats{};
    const int32_t *query = pairs.query + start + first, *keys = pairs.key + start + key;
    for (int64_t d = 0; d < head.size; d += 2, query += head.stride, keys += head.stride) {
      ints here[Q];
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) here[q] = load(query + q * LANES);
#pragma GCC unroll 8
      for (int k = 0; k < KEYS; k++) {
        const ints one = all(keys[k]);
#pragma GCC unroll 3
        for (int q = 0; q < Q; q++) sums[k][q] = add_pairs(sums[k][q], here[q], one);
      }
    }
    put_scores<Q>(head, first, key, sums, to);
  }
}

// Scores made pairs of powers of two, (pairs of keys, Q, LANES), in their place.
template <int Q>
static inline void pair_softmax(float* scores, int64_t tokens, floats (&share)[Q]) {
  floats best[Q], sum[Q];
  largest_score<Q>(scores, tokens, best);
#pragma GCC unroll 3
  for (int q = 0; q < Q; q++) sum[q] = floats{};
  for (int64_t k = 0; k < tokens; k += 2)
#pragma GCC unroll 3
    for (int q = 0; q < Q; q++) {
      const floats low = exp2_of(load(scores + (k * Q + q) * LANES) - best[q]);
      sum[q] = sum[q] + low;
      floats high{};
      if (k + 1 < tokens) {
        high = exp2_of(load(scores + ((k + 1) * Q + q) * LANES) - best[q]);
        sum[q] = sum[q] + high;
      }
      store((int32_t*)scores + (k / 2 * Q + q) * LANES, pair(low, high));
    }
#pragma GCC unroll 3
  for (int q = 0; q < Q; q++) share[q] = all(1.0f) / sum[q];
}

template <int Q>
static inline void pair_mix(const Head& head, const Pairs& pairs, int64_t first, const int32_t* powers, const floats (&share)[Q]) {
  for (int64_t d = 0; d < head.size; d += KEYS) {
    floats sums[KEYS][Q];
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) sums[k][q] = floats{};
    const int32_t* rows[KEYS];
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; k++) rows[k] = pairs.value + (d + k) * pairs.keys;
    const int32_t* power = powers;
    for (int64_t key = 0; key < (head.tokens + 1) / 2; key++, power += Q * LANES) {
      ints here[Q];
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) here[q] = load(power + q * LANES);
#pragma GCC unroll 8
      for (int k = 0; k < KEYS; k++) {
        const ints one = all(rows[k][key]);
#pragma GCC unroll 3
        for (int q = 0; q < Q; q++) sums[k][q] = add_pairs(sums[k][q], here[q], one);
      }
    }
    put_mixed<Q>(head, first, d, sums, share);
  }
}

template <int Q>
static inline void some_pairs(const Head& head, const Pairs& pairs, int64_t start, int64_t first, float* room) {
  floats share[Q];
  pair_scores<Q>(head, pairs, start, first, room);
  pair_softmax<Q>(room, head.tokens, share);
  pair_mix<Q>(head, pairs, first, (const int32_t*)room, share);
}

// `start`: token of the block that the sequence begins with.
static inline void attend(const Head& head, const Pairs& pairs, int64_t start, float* room) {
  pair_keys(head, pairs);
  in_turn(head.tokens, [&](auto wide, int64_t first) { some_pairs<decltype(wide)::value>(head, pairs, start, first, room); });
}
#endif
