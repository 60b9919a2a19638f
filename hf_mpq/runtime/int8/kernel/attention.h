// Softmax attention of one head, in float32, for some queries of one sequence.
#pragma once
#include <vector>

#include "vectors.h"

namespace hf_mpq {

constexpr int QUERIES = 8;  // at once: with two vectors of keys, sixteen accumulators

// Keys and values of one head where the products read them.
struct Head {
  int64_t size, padded_size, tokens, padded_tokens;
  std::vector<float> keys;    // (size, padded_tokens)
  std::vector<float> values;  // (tokens, padded_size)
  std::vector<float> scores;  // (QUERIES, padded_tokens)
  std::vector<float> mixed;   // (QUERIES, padded_size)

  Head(int64_t size, int64_t tokens)
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
inline void mix(Head& head, int64_t start, const float* shares) {
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

inline void scores_of(Head& head, const float* const* query, float scale, const float* const* bias) {
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

// e^(score - largest) in place; the reciprocal of the sum.
inline float exponentials(float* scores, int64_t count) {
  floats best = load(scores);
  for (int64_t j = LANES; j < count; j += LANES) best = larger(best, load(scores + j));
  const float most = largest(best);
  floats total{};
  for (int64_t j = 0; j < count; j += LANES) {
    const floats share = exponential(load(scores + j) - most);
    total += share;
    store(scores + j, share);
  }
  return 1 / sum(total);
}

// out[i] = softmax(scale query[i] keys + bias[i]) values, for `count` queries. Bias rows hold padded_tokens floats;
// bias_stride is 0 where all queries share one.
inline void attend(Head& head, const float* query, int64_t stride, int64_t count, float scale, const float* bias,
                   int64_t bias_stride, float* out, int64_t out_stride) {
  for (int64_t start = 0; start < count; start += QUERIES) {
    const int64_t here = std::min<int64_t>(QUERIES, count - start);
    const float *queries[QUERIES], *biases[QUERIES];
    float shares[QUERIES];
    for (int64_t i = 0; i < QUERIES; i++) {
      queries[i] = query + (start + std::min(i, here - 1)) * stride;
      biases[i] = bias + (start + std::min(i, here - 1)) * bias_stride;
    }
    scores_of(head, queries, scale, biases);
    for (int i = 0; i < QUERIES; i++) shares[i] = exponentials(&head.scores[i * head.padded_tokens], head.padded_tokens);
    int64_t column = 0;
    for (; column + 2 * LANES <= head.padded_size; column += 2 * LANES) mix<2>(head, column, shares);
    if (column < head.padded_size) mix<1>(head, column, shares);
    for (int64_t i = 0; i < here; i++)
      for (int64_t k = 0; k < head.size; k++) out[(start + i) * out_stride + k] = head.mixed[i * head.padded_size + k];
  }
}

}  // namespace hf_mpq
