// The same attention with its products by tiles of bfloat16. A float is the sum of PARTS of them, each the rounded rest of
// those before; of their products those are added that are not below the last part. Two parts are float32 to a few 1e-5,
// three to its last bits, and one is bfloat16. Sums and powers are float32.

#if HF_AMX
constexpr int64_t ROWS_TOGETHER = 32;  // keys, or features of values, of which sums are made together: two tiles
constexpr int64_t DEEP = 32;           // bfloat16 values in a row of a tile
constexpr int MOST_PARTS = 3;
template <int PARTS>
struct Parts {
  static constexpr int value = PARTS;
};

// What a head reads, in parts that are `rest` values apart.
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

// Two vectors in pairs; `put` takes each part.
template <int PARTS, typename Put>
HF_INLINE void split_pair(floats a, floats b, Put put) {
#pragma GCC unroll 3
  for (int part = 0; part < PARTS; part++) {
    const ints pair = side_by_side(bfloats(a, b));
    put(part, pair);
    a = a - (floats)(pair << 16), b = b - (floats)(pair & all((int32_t)0xffff0000));
  }
}

// Queries and keys of all sequences of a block; features beyond the last are 0.
template <int PARTS>
static inline void tile_features(const float* query, const float* key, int64_t size, int64_t stride, int64_t tokens,
                                 const Tiled& to) {
  const auto feature = [&](const float* from, int64_t d, int64_t t) { return d < size ? load(from + d * stride + t) : floats{}; };
  for (int64_t t = 0; t < tokens; t += LANES)
    for (int64_t d = 0; d < to.size; d += DEEP) {
      ints parts[PARTS][16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) {
        int32_t* const at = to.query + (d / 2 + i) * to.query_stride + t;
        split_pair<PARTS>(feature(query, d + 2 * i, t), feature(query, d + 2 * i + 1, t),
                          [&](int part, ints pair) { store(at + part * to.query_rest, pair); });
      }
      for (int i = 0; i < 16; i++)
        split_pair<PARTS>(feature(key, d + 2 * i, t), feature(key, d + 2 * i + 1, t),
                          [&](int part, ints pair) { parts[part][i] = pair; });
      for (int part = 0; part < PARTS; part++) {
        turn_over(parts[part]);
        uint16_t* const at = to.key + part * to.key_rest + t * to.size + d;
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) _mm512_storeu_si512(at + i * to.size, (__m512i)parts[part][i]);
      }
    }
}

// Values of one sequence. What lies behind its last token is 0: times a power of 0, anything else might be NaN.
template <int PARTS>
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
      const auto wide = [](__m256i half) { return (floats)(ints)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16); };
      floats a = some(t), b = some(t + LANES);
#pragma GCC unroll 3
      for (int part = 0; part < PARTS; part++) {
        const __m512i both = bfloats(a, b);
        _mm512_storeu_si512(row + t + part * to.value_rest, both);
        a = a - wide(_mm512_castsi512_si256(both)), b = b - wide(_mm512_extracti64x4_epi64(both, 1));
      }
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

// Adds products of 32 rows and Q vectors to the sums in tiles 0 to 3. Rows are in 4 and 5, vectors in 6 and 7; `load(part)`
// loads those. Rows that end one part of the vectors and begin the next are loaded once for both.
template <int Q, int PARTS, typename Load>
HF_INLINE void add_tiles(const uint16_t* rows, int64_t row_rest, int64_t row_stride, Load load) {
#pragma GCC unroll 3
  for (int part = 0; part < PARTS; part++) {
    load(part);
    const bool back = part % 2 == 0;  // from the last rows to the first, or from the first on
#pragma GCC unroll 3
    for (int i = 0; i < PARTS - part; i++) {
      if (back || i) load_rows(rows + (back ? PARTS - part - 1 - i : i) * row_rest, row_stride);
      multiply_tiles<Q>();
    }
  }
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
template <int Q, int PARTS>
static inline void tile_scores(const Head& head, const Tiled& tiled, int64_t start, int64_t first, int64_t low, float* to,
                               floats (&best)[Q]) {
#pragma GCC unroll 2
  for (int q = 0; q < Q; q++) best[q] = all(-3.4e38f);
  int64_t key = 0;
  for (; key < head.tokens; key += ROWS_TOGETHER) {
    no_sums(Q);
    for (int64_t d = 0; d < tiled.size; d += DEEP)
      add_tiles<Q, PARTS>(tiled.key + (start + low + key) * tiled.size + d, tiled.key_rest, tiled.size, [&](int part) {
        load_vectors<Q>(tiled.query + part * tiled.query_rest + d / 2 * tiled.query_stride + start + first, tiled.query_stride);
      });
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

// Pairs of powers of two, where their scores were: the first parts of keys 2i and 2i + 1 in the place of the first, the second
// ones in that of the second, and the third ones behind all scores.
template <int Q>
struct Powers {
  int32_t* at;
  int64_t keys;  // up to a whole tile

  static Powers of(float* scores, int64_t tokens) { return {(int32_t*)scores, up_to(tokens, DEEP)}; }
  // Of this key, which is even, and the next one; `stride` apart from those of the next pair.
  int32_t* pair(int part, int64_t key) const {
    return part < 2 ? at + (key + part) * Q * LANES : at + (keys + key / 2) * Q * LANES;
  }
  static int64_t stride(int part) { return (part < 2 ? 2 : 1) * Q * LANES; }
};
static_assert(QUERIES >= 3, "the room of scores of a vector more is for the third parts of two");

// Scores made powers, 0 behind the last key.
template <int Q, int PARTS>
static inline void tile_softmax(float* scores, int64_t tokens, const floats (&best)[Q], floats (&share)[Q]) {
  floats sum[Q], largest[Q];
#pragma GCC unroll 2
  for (int q = 0; q < Q; q++) sum[q] = floats{}, largest[q] = best[q];
  const Powers<Q> powers = Powers<Q>::of(scores, tokens);
  const auto put = [&](int64_t key, int q, floats a, floats b) {
    split_pair<PARTS>(a, b, [&](int part, ints pair) { store(powers.pair(part, key) + q * LANES, pair); });
  };
  const auto power = [&](int64_t key, int q) { return power_of(load(scores + (key * Q + q) * LANES) - largest[q]); };
  int64_t key = 0;
  for (; key + 2 <= tokens; key += 2)
#pragma GCC unroll 2
    for (int q = 0; q < Q; q++) {
      const floats a = power(key, q), b = power(key + 1, q);
      put(key, q, a, b);
      sum[q] = sum[q] + a + b;
    }
  if (tokens % 2) {
#pragma GCC unroll 2
    for (int q = 0; q < Q; q++) {
      const floats a = power(key, q);
      put(key, q, a, floats{});
      sum[q] = sum[q] + a;
    }
    key += 2;
  }
  for (; key < powers.keys; key += 2)
#pragma GCC unroll 2
    for (int q = 0; q < Q; q++) put(key, q, floats{}, floats{});
#pragma GCC unroll 2
  for (int q = 0; q < Q; q++) share[q] = all(1.0f) / sum[q];
}

template <int Q, int PARTS>
static inline void tile_mix(const Head& head, const Tiled& tiled, int64_t first, int64_t low, const Powers<Q>& powers,
                            const floats (&share)[Q]) {
  alignas(64) float sums[ROWS_TOGETHER * Q * LANES];
  for (int64_t d = 0; d < head.size; d += ROWS_TOGETHER) {
    no_sums(Q);
    for (int64_t key = 0; key < head.tokens; key += DEEP)
      add_tiles<Q, PARTS>(tiled.value + d * tiled.keys + low + key, tiled.value_rest, tiled.keys,
                          [&](int part) { load_vectors<Q>(powers.pair(part, key), powers.stride(part)); });
    store_sums<Q>(sums);
    const int64_t here = least(ROWS_TOGETHER, head.size - d);
    for (int64_t i = 0; i < here; i++)
#pragma GCC unroll 2
      for (int q = 0; q < Q; q++)
        store(head.out + (d + i) * head.out_stride + first + q * LANES, load(sums + (i * Q + q) * LANES) * share[q]);
  }
}

template <int Q, int PARTS>
static inline void some_tiles(const Head& whole, const Tiled& tiled, int64_t start, int64_t first, float* room, int64_t window) {
  floats best[Q], share[Q];
  const Head head = window ? whole.within(first, Q * LANES, window) : whole;
  const int64_t low = head.key - whole.key;
  tile_scores<Q, PARTS>(head, tiled, start, first, low, room, best);
  tile_softmax<Q, PARTS>(room, head.tokens, best, share);
  tile_mix<Q, PARTS>(head, tiled, first, low, Powers<Q>::of(room, head.tokens), share);
}

// `start`: token of the block that the sequence begins with; `room` as for the other `attend`.
template <int PARTS>
static inline void attend(const Head& head, const Tiled& tiled, int64_t start, float* room, int64_t window) {
  tile_values<PARTS>(head, tiled);
  int64_t first = 0;
  for (; first + LANES < head.tokens; first += 2 * LANES) some_tiles<2, PARTS>(head, tiled, start, first, room, window);
  for (; first < head.tokens; first += LANES) some_tiles<1, PARTS>(head, tiled, start, first, room, window);
}
#endif
