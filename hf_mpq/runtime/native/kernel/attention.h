// Attention of one head over one sequence: queries in the lanes, keys and values broadcast.

constexpr int QUERIES = HF_QUERIES;  // vectors of queries at once
constexpr int KEYS = HF_KEYS;        // keys, or features of values, at once: QUERIES times KEYS sums in registers

// Query, key and value (size, stride) at the sequence's first token, queries scaled for exp2; what lies behind the last
// token is read, and has no part in what is kept.
struct Head {
  const float *query, *key, *value;
  int64_t size, stride, tokens;
  const float* relative;  // added to the score of query i and key j at i - j; or null
  float* out;             // (size, out_stride)
  int64_t out_stride;
};

template <int Q>
HF_INLINE void put_scores(const Head& head, int64_t first, int64_t key, const floats (&sums)[KEYS][Q], float* to) {
#pragma GCC unroll 8
  for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 3
    for (int q = 0; q < Q; q++) {
      float* const at = to + ((key + k) * Q + q) * LANES;
      store(at, head.relative ? sums[k][q] + load(head.relative + first + q * LANES - key - k) : sums[k][q]);
    }
}

template <int Q>
HF_INLINE void put_mixed(const Head& head, int64_t first, int64_t d, const floats (&sums)[KEYS][Q], const floats (&share)[Q]) {
  const int here = (int)least(KEYS, head.size - d);
#pragma GCC unroll 8
  for (int k = 0; k < KEYS; k++)
    if (k < here)
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) store(head.out + (d + k) * head.out_stride + first + q * LANES, sums[k][q] * share[q]);
}

template <int Q>
HF_INLINE void largest_score(const float* scores, int64_t tokens, floats (&best)[Q]) {
#pragma GCC unroll 3
  for (int q = 0; q < Q; q++) best[q] = load(scores + q * LANES);
  for (int64_t k = 1; k < tokens; k++)
#pragma GCC unroll 3
    for (int q = 0; q < Q; q++) best[q] = larger(best[q], load(scores + (k * Q + q) * LANES));
}

// Scores (tokens, Q, LANES) of Q vectors of queries from `first` on.
template <int Q>
static inline void scores(const Head& head, int64_t first, float* to) {
  for (int64_t key = 0; key < head.tokens; key += KEYS) {
    floats sums[KEYS][Q];
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) sums[k][q] = floats{};
    const float *query = head.query + first, *keys = head.key + key;
    for (int64_t d = 0; d < head.size; d++, query += head.stride, keys += head.stride) {
      floats here[Q];
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) here[q] = load(query + q * LANES);
#pragma GCC unroll 8
      for (int k = 0; k < KEYS; k++) {
        const floats one = all(keys[k]);
#pragma GCC unroll 3
        for (int q = 0; q < Q; q++) sums[k][q] = fused(here[q], one, sums[k][q]);
      }
    }
    put_scores<Q>(head, first, key, sums, to);
  }
}

// Scores made powers of two, and what their sums are to be multiplied with.
template <int Q>
static inline void softmax(float* scores, int64_t tokens, floats (&share)[Q]) {
  floats best[Q], sum[Q];
  largest_score<Q>(scores, tokens, best);
#pragma GCC unroll 3
  for (int q = 0; q < Q; q++) sum[q] = floats{};
  for (int64_t k = 0; k < tokens; k++)
#pragma GCC unroll 3
    for (int q = 0; q < Q; q++) {
      float* const at = scores + (k * Q + q) * LANES;
      const floats power = exp2_of(load(at) - best[q]);
      store(at, power);
      sum[q] = sum[q] + power;
    }
#pragma GCC unroll 3
  for (int q = 0; q < Q; q++) share[q] = all(1.0f) / sum[q];
}

template <int Q>
static inline void mix(const Head& head, int64_t first, const float* powers, const floats (&share)[Q]) {
  for (int64_t d = 0; d < head.size; d += KEYS) {
    floats sums[KEYS][Q];
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) sums[k][q] = floats{};
    const float* rows[KEYS];
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; k++) rows[k] = head.value + (d + k) * head.stride;
    const float* power = powers;
    for (int64_t key = 0; key < head.tokens; key++, power += Q * LANES) {
      floats here[Q];
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) here[q] = load(power + q * LANES);
#pragma GCC unroll 8
      for (int k = 0; k < KEYS; k++) {
        const floats one = all(rows[k][key]);
#pragma GCC unroll 3
        for (int q = 0; q < Q; q++) sums[k][q] = fused(here[q], one, sums[k][q]);
      }
    }
    put_mixed<Q>(head, first, d, sums, share);
  }
}

template <int Q>
static inline void some_queries(const Head& head, int64_t first, float* room) {
  floats share[Q];
  scores<Q>(head, first, room);
  softmax<Q>(room, head.tokens, share);
  mix<Q>(head, first, room, share);
}

// `work(Wide<vectors>, first query)` for all queries.
template <class Work>
HF_INLINE void in_turn(int64_t tokens, const Work& work) {
  int64_t first = 0;
  for (; first + (QUERIES - 1) * LANES < tokens; first += QUERIES * LANES) work(Wide<QUERIES>(), first);
#if HF_QUERIES > 2
  for (; first + LANES < tokens; first += 2 * LANES) work(Wide<2>(), first);
#endif
  for (; first < tokens; first += LANES) work(Wide<1>(), first);
}

// `room`: (tokens and KEYS more, QUERIES, LANES). What is written behind the last token is overwritten by whom it belongs to.
static inline void attend(const Head& head, float* room) {
  in_turn(head.tokens, [&](auto wide, int64_t first) { some_queries<decltype(wide)::value>(head, first, room); });
}
