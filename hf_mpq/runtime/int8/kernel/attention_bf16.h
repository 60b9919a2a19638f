// Products of softmax attention on pairs of bfloat16, summed in float32.
#pragma once
#include <immintrin.h>

#include <vector>

#include "vectors.h"

namespace hf_mpq {

typedef int32_t unaligned_ints __attribute__((vector_size(64), aligned(4), may_alias));

inline ints load_pairs(const int32_t* from) { return *(const unaligned_ints*)from; }
inline ints broadcast_pair(int32_t pair) { return ints{} + pair; }
inline floats add_product(floats sum, ints a, ints b) {
  return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
// Of 32 floats, rounded to the nearest.
inline ints pairs_of(const float* from) {
  return (ints)_mm512_cvtne2ps_pbh((__m512)load(from + LANES), (__m512)load(from));
}

// Keys and values of one head where the products read them.
struct PairHead {
  static floats exponent(floats x) { return share_of<true>(x); }  // as exact as what is made of it

  int64_t size, pairs, padded_size, tokens, padded_tokens;
  std::vector<int32_t> keys;     // (pairs of features, padded_tokens)
  std::vector<int32_t> values;   // (pairs of tokens, padded_size)
  std::vector<int32_t> queries;  // (QUERIES, pairs)
  std::vector<int32_t> shares;   // (QUERIES, pairs of tokens)
  std::vector<float> scores;     // (QUERIES, padded_tokens)
  std::vector<float> mixed;      // (QUERIES, padded_size)
  std::vector<float> row, next;  // (padded_size)

  PairHead(int64_t size, int64_t tokens)
      : size(size), pairs((size + 31) / 32 * 16), padded_size((size + 31) / 32 * 32), tokens(tokens),
        padded_tokens((tokens + 2 * LANES - 1) / (2 * LANES) * 2 * LANES), keys(pairs * padded_tokens),
        values(padded_tokens / 2 * padded_size), queries(QUERIES * pairs), shares(QUERIES * padded_tokens / 2),
        scores(QUERIES * padded_tokens), mixed(QUERIES * padded_size), row(padded_size), next(padded_size) {}

  // Features of one token, two by two.
  void read_pairs(const float* from, int32_t* to) {
    std::copy_n(from, size, row.data());
    for (int64_t k = 0; k < padded_size; k += 32) *(unaligned_ints*)(to + k / 2) = pairs_of(&row[k]);
  }

  void read(const float* key, const float* value, int64_t stride) {
    int32_t* const one = queries.data();
    for (int64_t j = 0; j < tokens; j++) {
      read_pairs(key + j * stride, one);
      for (int64_t k = 0; k < pairs; k++) keys[k * padded_tokens + j] = one[k];
    }
    // low halves from the first token, high halves from the second
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t j = 0; j < tokens; j += 2) {
      std::copy_n(value + j * stride, size, row.data());
      if (j + 1 < tokens) std::copy_n(value + (j + 1) * stride, size, next.data());
      else std::fill(next.begin(), next.end(), 0.0f);
      for (int64_t k = 0; k < padded_size; k += LANES) {
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)load(&next[k]), (__m512)load(&row[k]));
        *(unaligned_ints*)&values[j / 2 * padded_size + k] = (ints)_mm512_permutexvar_epi16(order, both);
      }
    }
  }
};

template <int VECTORS>
inline void mix(PairHead& head, int64_t start, const float* scales) {
  floats sums[QUERIES][VECTORS] = {};
  for (int64_t j = 0; j < (head.tokens + 1) / 2; j++) {
    ints values[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) values[v] = load_pairs(&head.values[j * head.padded_size + start + v * LANES]);
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; i++) {
      const ints share = broadcast_pair(head.shares[i * (head.padded_tokens / 2) + j]);
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) sums[i][v] = add_product(sums[i][v], share, values[v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < QUERIES; i++)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) store(&head.mixed[i * head.padded_size + start + v * LANES], sums[i][v] * scales[i]);
}

inline void mix_all(PairHead& head, const float* scales) {
  for (int i = 0; i < QUERIES; i++)
    for (int64_t j = 0; j < head.padded_tokens; j += 32)
      *(unaligned_ints*)&head.shares[(i * head.padded_tokens + j) / 2] = pairs_of(&head.scores[i * head.padded_tokens + j]);
  for (int64_t column = 0; column < head.padded_size; column += 2 * LANES) mix<2>(head, column, scales);
}

inline void scores_of(PairHead& head, const float* const* query, float scale, const float* const* bias) {
  for (int i = 0; i < QUERIES; i++) head.read_pairs(query[i], &head.queries[i * head.pairs]);
  for (int64_t j = 0; j < head.padded_tokens; j += 2 * LANES) {
    floats sums[QUERIES][2] = {};
    for (int64_t k = 0; k < (head.size + 1) / 2; k++) {
      const ints first = load_pairs(&head.keys[k * head.padded_tokens + j]);
      const ints second = load_pairs(&head.keys[k * head.padded_tokens + j + LANES]);
#pragma GCC unroll 8
      for (int i = 0; i < QUERIES; i++) {
        const ints one = broadcast_pair(head.queries[i * head.pairs + k]);
        sums[i][0] = add_product(sums[i][0], one, first);
        sums[i][1] = add_product(sums[i][1], one, second);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; i++) {
      store(&head.scores[i * head.padded_tokens + j], sums[i][0] * scale + load(bias[i] + j));
      store(&head.scores[i * head.padded_tokens + j + LANES], sums[i][1] * scale + load(bias[i] + j + LANES));
    }
  }
}

}  // namespace hf_mpq
