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
  // (size, near_stride) at distance 0, or null: query i gets the dot product of itself and of the first at i - j, and of key
  // j and the second, beside that with the key
  const float *near_key = nullptr, *near_query = nullptr;
  int64_t near_stride = 0;

  // What `count` queries from `first` on read.
  Head within(int64_t first, int64_t count, int64_t window) const {
    Head found = *this;
    const int64_t low = most(0, first - window);
    found.key += low, found.value += low, found.relative -= low;
    found.tokens = least(tokens, first + count + window) - low;
    return found;
  }
};

// Features i and i + half of queries or keys turned together, in place; `turns` (2 half, stride): cosines, then sines.
static inline void turn(float* rows, int64_t half, int64_t stride, const float* turns, int64_t tokens) {
  for (int64_t d = 0; d < half; d++)
    for (int64_t t = 0; t < tokens; t += LANES) {
      float *const upper = rows + d * stride + t, *const lower = upper + half * stride;
      const floats cosine = load(turns + d * stride + t), sine = load(turns + (half + d) * stride + t);
      const floats a = load(upper), b = load(lower);
      store(upper, fused(a, cosine, -b * sine));
      store(lower, fused(b, cosine, a * sine));
    }
}

// As `scores`, with positions.
template <int Q>
static inline void disentangled(const Head& head, int64_t first, float* to) {
  for (int64_t key = 0; key < head.tokens; key += KEYS) {
    floats sums[KEYS][Q];
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) sums[k][q] = floats{};
    const float *query = head.query + first, *keys = head.key + key;
    const float *by_key = head.near_key + first - key, *by_query = head.near_query + first - key;
    for (int64_t d = 0; d < head.size; d++) {
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) {
        const floats here = load(query + q * LANES);
#pragma GCC unroll 8
        for (int k = 0; k < KEYS; k++) {
          const floats one = all(keys[k]);
          sums[k][q] = fused(here, one + load(by_key + q * LANES - k), sums[k][q]);
          sums[k][q] = fused(one, load(by_query + q * LANES - k), sums[k][q]);
        }
      }
      query += head.stride, keys += head.stride, by_key += head.near_stride, by_query += head.near_stride;
    }
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; k++)
#pragma GCC unroll 3
      for (int q = 0; q < Q; q++) store(to + ((key + k) * Q + q) * LANES, sums[k][q]);
  }
}

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
static inline void some_queries(const Head& whole, int64_t first, float* room, int64_t window) {
  floats share[Q];
  const Head head = window ? whole.within(first, Q * LANES, window) : whole;
  if (head.near_key) disentangled<Q>(head, first, room);
  else scores<Q>(head, first, room);
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

// `room`: (tokens and KEYS more, QUERIES, LANES). Keys are read up to `window` tokens away, or all where it is 0. What is written
// behind the last token is overwritten by whom it belongs to.
static inline void attend(const Head& head, float* room, int64_t window) {
  in_turn(head.tokens, [&](auto wide, int64_t first) { some_queries<decltype(wide)::value>(head, first, room, window); });
}
