// Softmax attention of one head for some queries of one sequence.
#pragma once
#include "attention_float.h"
#ifdef __AVX512BF16__
#include "attention_bf16.h"
#endif

namespace hf_mpq {

#ifndef __AVX512BF16__
using PairHead = FloatHead;
#endif

// e^(score - largest) in place; the reciprocal of the sum, and 0 where no key may be seen, as in torch.
template <class Head>
inline float exponentials(float* scores, int64_t count) {
  floats best = load(scores);
  for (int64_t j = LANES; j < count; j += LANES) best = larger(best, load(scores + j));
  const float most = largest(best);
  const bool none = most == -INFINITY;
  const float top = none ? 0 : most;
  floats total{};
  for (int64_t j = 0; j < count; j += LANES) {
    const floats share = Head::exponent(load(scores + j) - top);
    total += share;
    store(scores + j, share);
  }
  return none ? 0 : 1 / sum(total);
}

// out[i] = softmax(scale query[i] keys + bias[i]) values, for `count` queries. Bias rows hold padded_tokens floats;
// bias_stride is 0 where all queries share one.
template <class Head>
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
    for (int i = 0; i < QUERIES; i++) shares[i] = exponentials<Head>(&head.scores[i * head.padded_tokens], head.padded_tokens);
    mix_all(head, shares);
    for (int64_t i = 0; i < here; i++)
      for (int64_t k = 0; k < head.size; k++) out[(start + i) * out_stride + k] = head.mixed[i * head.padded_size + k];
  }
}

}  // namespace hf_mpq
