// The same attention with its products by tiles of bfloat16. A float is the sum of two of them, high and low: of their
// products all but low by low are added, which is float32 to a few 1e-5. Without SPLIT the high parts alone are read. Sums
// and powers are float32.

#if HF_AMX
constexpr int64_t ROWS_TOGETHER = 32;  // keys, or features of values, of which sums are made together: two tiles
constexpr int64_t DEEP = 32;           // bfloat16 values in a row of a tile

// What a head reads, in high parts and, with SPLIT, low ones, `rest` values further.
struct Tiled {
  int32_t* query;   // (pairs of features, query_stride)
  uint16_t* key;    // (tokens, size)
  uint16_t* value;  // (features, keys)
  int64_t query_stride, query_rest, size, key_rest, keys, value_rest;

  static int64_t deep(int64_t head) { return up_to(head, DEEP); }
  static int64_t padded(int64_t longest) { return up_to(longest, DEEP) + DEEP; }
  // Values: of one part.
  static int64_t query_room(int64_t head, int64_t stride) { return deep(head) / 2 * stride + 2 * LANES; }
  static int64_t key_room(int64_t head, int64_t stride) { return (stride + ROWS_TOGETHER) * deep(head); }
  static int64_t value_room(int64_t head, int64_t longest) { return up_to(head, ROWS_TOGETHER) * padded(longest); }
};

// Rounded, one vector behind the other.
#ifdef HF_EMULATED_TILES
HF_INLINE __m512i bfloats(floats low, floats high) {
  const auto half = [](floats x) {
    const ints bits = (ints)x;
    return _mm512_cvtepi32_epi16((__m512i)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16));
  };
  return _mm512_inserti64x4(_mm512_castsi256_si512(half(low)), half(high), 1);
}
#else
HF_INLINE __m512i bfloats(floats low, floats high) { return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }
#endif
// Values 0 and 16, 1 and 17 ... side by side.
HF_INLINE ints side_by_side(__m512i values) {
  alignas(64) static const uint16_t order[32] = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                                 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (ints)_mm512_permutexvar_epi16(_mm512_load_si512(order), values);
}

// Two vectors in pairs: their high parts, and what is left of them.
template <bool SPLIT>
HF_INLINE void split_pair(floats a, floats b, ints& high, ints& low) {
  high = side_by_side(bfloats(a, b));
  if (!SPLIT) return;
  const floats rest_a = a - (floats)(high << 16), rest_b = b - (floats)(high & all((int32_t)0xffff0000));
  low = side_by_side(bfloats(rest_a, rest_b));
}

// Queries and keys of all sequences of a block; features beyond the last are 0.
template <bool SPLIT>
static inline void tile_features(const float* query, const float* key, int64_t size, int64_t stride, int64_t tokens,
                                 const Tiled& to) {
  const auto feature = [&](const float* from, int64_t d, int64_t t) { return d < size ? load(from + d * stride + t) : floats{}; };
  for (int64_t t = 0; t < tokens; t += LANES)
    for (int64_t d = 0; d < to.size; d += DEEP) {
      ints high[16], low[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        int32_t* const at = to.query + (d / 2 + i) * to.query_stride + t;
        split_pair<SPLIT>(feature(query, d + 2 * i, t), feature(query, d + 2 * i + 1, t), high[i], low[i]);
        store(at, high[i]);
        if (SPLIT) store(at + to.query_rest, low[i]);
      }
      for (int i = 0; i < 16; i++)
        split_pair<SPLIT>(feature(key, d + 2 * i, t), feature(key, d + 2 * i + 1, t), high[i], low[i]);
      turn_over(high);
      if (SPLIT) turn_over(low);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        uint16_t* const at = to.key + (t + i) * to.size + d;
        _mm512_storeu_si512(at, (__m512i)high[i]);
        if (SPLIT) _mm512_storeu_si512(at + to.key_rest, (__m512i)low[i]);
      }
    }
}

// Values of one sequence. What lies behind its last token is 0: times a power of 0, anything else might be NaN.
template <bool SPLIT>
static inline void tile_values(const Head& head, const Tiled& to) {
  const int64_t last = Tiled::padded(head.tokens);
  for (int64_t d = 0; d < head.size; d++) {
    const float* const from = head.value + d * head.stride;
    uint16_t* const row = to.value + d * to.keys;
    for (int64_t t = 0; t < last; t += 2 * LANES) {
      const auto some = [&](int64_t first) {
        const int64_t here = most(0, least(LANES, head.tokens - first));
        return (floats)_mm512_maskz_loadu_ps((__mmask16)((1u << here) - 1), from + first);
      };
      const floats a = some(t), b = some(t + LANES);
      const __m512i high = bfloats(a, b);
      _mm512_storeu_si512(row + t, high);
      if (!SPLIT) continue;
      const auto wide = [](__m256i half) { return (floats)(ints)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16); };
      const floats rest_a = a - wide(_mm512_castsi512_si256(high)), rest_b = b - wide(_mm512_extracti64x4_epi64(high, 1));
      _mm512_storeu_si512(row + t + to.value_rest, bfloats(rest_a, rest_b));
    }
  }
}

HF_INLINE void no_sums(int q) {
  HF_TILE_ZERO(0);
  HF_TILE_ZERO(1);
  if (q < 2) return;
  HF_TILE_ZERO(2);
  HF_TILE_ZERO(3);
}

template <int Q>
HF_INLINE void multiply_tiles() {
  HF_TILE_PAIRS(0, 4, 6);
  HF_TILE_PAIRS(1, 5, 6);
  if (Q < 2) return;
  HF_TILE_PAIRS(2, 4, 7);
  HF_TILE_PAIRS(3, 5, 7);
}

HF_INLINE void load_rows(const uint16_t* rows, int64_t stride) {
  HF_TILE_LOAD(4, rows, 2 * stride);
  HF_TILE_LOAD(5, rows + 16 * stride, 2 * stride);
}

template <int Q>
HF_INLINE void load_vectors(const int32_t* vectors, int64_t stride) {
  HF_TILE_LOAD(6, vectors, 4 * stride);
  if (Q > 1) HF_TILE_LOAD(7, vectors + LANES, 4 * stride);
}

// Adds products of 32 rows and Q vectors to the sums in tiles 0 to 3. Rows are in 4 and 5, vectors in 6 and 7.
template <int Q, bool SPLIT>
HF_INLINE void add_tiles(const uint16_t* rows, int64_t row_rest, int64_t row_stride, const int32_t* vectors,
                         int64_t vector_rest, int64_t vector_stride) {
  load_vectors<Q>(vectors, vector_stride);
  if (SPLIT) {
    load_rows(rows + row_rest, row_stride);
    multiply_tiles<Q>();
  }
  load_rows(rows, row_stride);
  multiply_tiles<Q>();
  if (!SPLIT) return;
  load_vectors<Q>(vectors + vector_rest, vector_stride);
  multiply_tiles<Q>();
}

// As (32, Q, LANES).
template <int Q>
HF_INLINE void store_sums(float* to) {
  HF_TILE_STORE(0, to, 4 * Q * LANES);
  HF_TILE_STORE(1, to + 16 * Q * LANES, 4 * Q * LANES);
  if (Q < 2) return;
  HF_TILE_STORE(2, to + LANES, 4 * Q * LANES);
  HF_TILE_STORE(3, to + 16 * Q * LANES + LANES, 4 * Q * LANES);
}

// Positions added to scores of keys `key` to `last`, and the largest kept.
template <int Q>
HF_INLINE void see_scores(const Head& head, int64_t first, int64_t key, int64_t last, float* to, floats (&best)[Q]) {
  if (head.relative)
    for (int64_t k = key; k < last; k++)
#pragma GCC unroll 2
      for (int q = 0; q < Q; q++) {
        float* const one = to + (k * Q + q) * LANES;
        store(one, load(one) + load(head.relative + first + q * LANES - k));
      }
  floats found[Q];
#pragma GCC unroll 2
  for (int q = 0; q < Q; q++) found[q] = best[q];
  for (; key < last; key++)
#pragma GCC unroll 2
    for (int q = 0; q < Q; q++) found[q] = larger(found[q], load(to + (key * Q + q) * LANES));
#pragma GCC unroll 2
  for (int q = 0; q < Q; q++) best[q] = found[q];
}

// Scores (keys, Q, LANES) of Q vectors of queries from `first` on, and the largest; keys from `low` of the sequence on.
template <int Q, bool SPLIT>
static inline void tile_scores(const Head& head, const Tiled& tiled, int64_t start, int64_t first, int64_t low, float* to,
                               floats (&best)[Q]) {
#pragma GCC unroll 2
  for (int q = 0; q < Q; q++) best[q] = all(-3.4e38f);
  int64_t key = 0;
  for (; key < head.tokens; key += ROWS_TOGETHER) {
    no_sums(Q);
    for (int64_t d = 0; d < tiled.size; d += DEEP)
      add_tiles<Q, SPLIT>(tiled.key + (start + low + key) * tiled.size + d, tiled.key_rest, tiled.size,
                          tiled.query + d / 2 * tiled.query_stride + start + first, tiled.query_rest, tiled.query_stride);
    store_sums<Q>(to + key * Q * LANES);
    if (key) see_scores<Q>(head, first, key - ROWS_TOGETHER, key, to, best);  // those are stored by now
  }
  see_scores<Q>(head, first, key - ROWS_TOGETHER, head.tokens, to, best);
}

// 2^x of what is not above 0: what is far below becomes 0 by itself here.
HF_INLINE floats power_of(floats x) {
  const floats n = rounded(x);
  return power_of_two(n, x - n);
}

// Scores made pairs of powers of two in their place: the high parts of keys 2i and 2i + 1 where the first was, and the low
// ones where the second was; 0 behind the last key.
template <int Q, bool SPLIT>
static inline void tile_softmax(float* scores, int64_t tokens, const floats (&best)[Q], floats (&share)[Q]) {
  floats sum[Q], largest[Q];
#pragma GCC unroll 2
  for (int q = 0; q < Q; q++) sum[q] = floats{}, largest[q] = best[q];
  const auto put = [&](float* one, floats a, floats b) {
    ints high, low;
    split_pair<SPLIT>(a, b, high, low);
    store((int32_t*)one, high);
    if (SPLIT) store((int32_t*)one + Q * LANES, low);
  };
  float* at = scores;
  for (int64_t k = 0; k + 2 <= tokens; k += 2, at += 2 * Q * LANES)
#pragma GCC unroll 2
    for (int q = 0; q < Q; q++) {
      const floats a = power_of(load(at + q * LANES) - largest[q]), b = power_of(load(at + (Q + q) * LANES) - largest[q]);
      put(at + q * LANES, a, b);
      sum[q] = sum[q] + a + b;
    }
  if (tokens % 2) {
#pragma GCC unroll 2
    for (int q = 0; q < Q; q++) {
      const floats a = power_of(load(at + q * LANES) - largest[q]);
      put(at + q * LANES, a, floats{});
      sum[q] = sum[q] + a;
    }
    at += 2 * Q * LANES;
  }
  for (float* const end = scores + up_to(tokens, DEEP) * Q * LANES; at < end; at += LANES) store(at, floats{});
#pragma GCC unroll 2
  for (int q = 0; q < Q; q++) share[q] = all(1.0f) / sum[q];
}

template <int Q, bool SPLIT>
static inline void tile_mix(const Head& head, const Tiled& tiled, int64_t first, int64_t low, const float* powers,
                            const floats (&share)[Q]) {
  alignas(64) float sums[ROWS_TOGETHER * Q * LANES];
  for (int64_t d = 0; d < head.size; d += ROWS_TOGETHER) {
    no_sums(Q);
    for (int64_t key = 0; key < head.tokens; key += DEEP)
      add_tiles<Q, SPLIT>(tiled.value + d * tiled.keys + low + key, tiled.value_rest, tiled.keys,
                          (const int32_t*)powers + key * Q * LANES, Q * LANES, 2 * Q * LANES);
    store_sums<Q>(sums);
    const int64_t here = least(ROWS_TOGETHER, head.size - d);
    for (int64_t i = 0; i < here; i++)
#pragma GCC unroll 2
      for (int q = 0; q < Q; q++)
        store(head.out + (d + i) * head.out_stride + first + q * LANES, load(sums + (i * Q + q) * LANES) * share[q]);
  }
}

template <int Q, bool SPLIT>
static inline void some_tiles(const Head& whole, const Tiled& tiled, int64_t start, int64_t first, float* room, int64_t window) {
  floats best[Q], share[Q];
  const Head head = window ? whole.within(first, Q * LANES, window) : whole;
  const int64_t low = head.key - whole.key;
  tile_scores<Q, SPLIT>(head, tiled, start, first, low, room, best);
  tile_softmax<Q, SPLIT>(room, head.tokens, best, share);
  tile_mix<Q, SPLIT>(head, tiled, first, low, room, share);
}

// `start`: token of the block that the sequence begins with; `room` as for the other `attend`.
template <bool SPLIT>
static inline void attend(const Head& head, const Tiled& tiled, int64_t start, float* room, int64_t window) {
  tile_values<SPLIT>(head, tiled);
  int64_t first = 0;
  for (; first + LANES < head.tokens; first += 2 * LANES) some_tiles<2, SPLIT>(head, tiled, start, first, room, window);
  for (; first < head.tokens; first += LANES) some_tiles<1, SPLIT>(head, tiled, start, first, room, window);
}
#endif
