// Products of softmax attention in float32.
#pragma once
#include <vector>

#include "vectors.h"

namespace hf_mpq {


// Keys and values of one head where the products read them.
struct FloatHead {
  static floats exponent(floats x) { return share_of<false>(x); }

  int64_t size, padded_size, tokens, padded_tokens;
  std::vector<float> keys;    // (size, padded_tokens)
  std::vector<float> values;  // (tokens, padded_size)
  std::vector<float> scores;  // (QUERIES, padded_tokens)
  std::vector<float> mixed;   // (QUERIES, padded_size)

  FloatHead(int64_t size, int64_t tokens)
      : size(size), padded_size((size + LANES - 1) / LANES * LANES), tokens(tokens),
        padded_tokens((tokens + 2 * LANES - 1) / (2 * LANES) * 2 * LANES), keys(size * padded_tokens),
        values(tokens * padded_size), scores(QUERIES * padded_tokens), mixed(QUERIES * padded_size) {}

  void read(const float* key, const float* value, int64_t stride) {
    for (int64_t j = 0; j < tokens; j++) {
      for (int64_t k = 0; k < size; k++) keys[k * padded_tokens + j] = key[j * stride + k];
      for (int64_t k = 0; k < size; k++) values[j * padded_size + k] = value[j * stride + k];
    }
  }
};

template <int VECTORS>
inline void mix(FloatHead& head, int64_t start, const float* shares) {
  floats sums[QUERIES][VECTORS] = {};
  for (int64_t j = 0; j < head.tokens; j++) {
    floats values[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) values[v] = load(&head.values[j * head.padded_size + start + v * LANES]);
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; i++) {
      const float share = head.scores[i * head.padded_tokens + j];
#pragma GCC unroll 2
      for (int v = 0; v < VECTORS; v++) sums[i][v] += share * values[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < QUERIES; i++)
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) store(&head.mixed[i * head.padded_size + start + v * LANES], sums[i][v] * shares[i]);
}

inline void scores_of(FloatHead& head, const float* const* query, float scale, const float* const* bias) {
  for (int64_t j = 0; j < head.padded_tokens; j += 2 * LANES) {
    floats sums[QUERIES][2] = {};
    for (int64_t k = 0; k < head.size; k++) {
      const floats first = load(&head.keys[k * head.padded_tokens + j]);
      const floats second = load(&head.keys[k * head.padded_tokens + j + LANES]);
#pragma GCC unroll 8
      for (int i = 0; i < QUERIES; i++) {
        sums[i][0] += query[i][k] * first;
        sums[i][1] += query[i][k] * second;
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; i++) {
      store(&head.scores[i * head.padded_tokens + j], sums[i][0] * scale + load(bias[i] + j));
      store(&head.scores[i * head.padded_tokens + j + LANES], sums[i][1] * scale + load(bias[i] + j + LANES));
    }
  }
}

inline void mix_all(FloatHead& head, const float* shares) {
  int64_t column = 0;
  for (; column + 2 * LANES <= head.padded_size; column += 2 * LANES) mix<2>(head, column, shares);
  if (column < head.padded_size) mix<1>(head, column, shares);
}

}  // namespace hf_mpq
