// One pass over one row of activations: ranges, quantization, layer normalisation, the end of a product.
#pragma once
#include <algorithm>
#include <cfloat>

#include "vectors.h"

namespace hf_mpq {

// What an activation is quantized to; levels are stored as unsigned bytes, symmetric ones 128 higher.
struct Grid {
  bool dynamic;    // one range per row instead of step and zero
  bool symmetric;
  float levels;    // 2^b - 1, or 2^(b-1) - 1 when symmetric
  float step;
  float zero;      // byte that stands for 0
};

// Step and zero of one row, and the sum of its bytes. No byte says NaN or infinity: the step of a row that holds one is
// NaN, and so are the outputs that are made of it.
struct RowGrid {
  float step, zero, total;
};

template <class Each, class Last>
inline void by_lanes(int64_t count, const Each& each, const Last& last) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) each(i);
  for (; i < count; i++) last(i);
}

inline RowGrid range_of(const float* row, int64_t count, const Grid& grid) {
  if (!grid.dynamic) return {grid.step, grid.zero, 0};
  floats lows{}, highs{};  // every range holds 0
  float low = 0, high = 0;
  by_lanes(count,
           [&](int64_t i) { floats x = load(row + i); lows = smaller(lows, x); highs = larger(highs, x); },
           [&](int64_t i) { low = std::min(low, row[i]); high = std::max(high, row[i]); });
  low = std::min(low, smallest(lows));
  high = std::max(high, largest(highs));
  const float step = (grid.symmetric ? std::max(-low, high) : high - low) / grid.levels;
  if (!std::isfinite(step)) return {NAN, 0, 0};
  return {step, grid.symmetric ? 128 : step == 0 ? 0 : std::nearbyint(-low / step), 0};
}

typedef uint8_t octets __attribute__((vector_size(16), aligned(1), may_alias));

// Bytes of floats: what dividing by the step would give, by an inverse of twice the precision.
struct Levels {
  float inverse, rest, low, high;
  int32_t zero;

  Levels(const Grid& grid, const RowGrid& found)
      : inverse(found.step == 0 ? 1 : std::min(1 / found.step, FLT_MAX)),
        rest(found.step < FLT_MIN ? 0 : 1 / (double)found.step - inverse),
        low((grid.symmetric ? 128 - grid.levels : 0) - found.zero),
        high((grid.symmetric ? 128 + grid.levels : grid.levels) - found.zero), zero(found.zero) {}

  // `none` becomes NaN where a value is NaN or infinite.
  octets operator()(floats values, floats& none) const {
    none = add_product(none, values, floats{});
    const floats ratio = add_product(values * rest, values, broadcast(inverse));
    return __builtin_convertvector(nearest_ints(between(low, ratio, high)) + zero, octets);
  }
  uint8_t operator()(float value, floats& none) const { return (*this)(broadcast(value), none)[0]; }
};

// Bytes of a row.
inline RowGrid quantize(const float* row, uint8_t* bytes, int64_t count, const Grid& grid, bool with_total) {
  RowGrid found = range_of(row, count, grid);
  const Levels levels(grid, found);
  floats none{};
  by_lanes(count, [&](int64_t i) { *(octets*)(bytes + i) = levels(load(row + i), none); },
           [&](int64_t i) { bytes[i] = levels(row[i], none); });
  if (any_nan(none)) found.step = NAN;
  if (with_total) {
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++) total += bytes[i];
    found.total = total;
  }
  return found;
}

// The sums of a row made the layer's output in place:
// step scale (sum - zero level_sum) + step (total - columns zero) offset + bias. Offset may be null.
inline void finish(float* sums, int64_t rows, int64_t columns, const RowGrid& grid, const float* scale,
                   const float* level_sum, const float* offset, const float* bias) {
  const float shift = grid.step * (grid.total - columns * grid.zero);
  by_lanes(rows,
           [&](int64_t i) {
             const floats sum = load(sums + i) - grid.zero * load(level_sum + i);
             const floats y = sum * load(scale + i) * grid.step + load(bias + i);
             store(sums + i, offset ? y + shift * load(offset + i) : y);
           },
           [&](int64_t i) {
             const float y = (sums[i] - grid.zero * level_sum[i]) * scale[i] * grid.step + bias[i];
             sums[i] = offset ? y + shift * offset[i] : y;
           });
}

inline void activate_row(float* row, int64_t count, Activation kind) {
  by_lanes(count, [&](int64_t i) { store(row + i, activate(load(row + i), kind)); },
           [&](int64_t i) { row[i] = activate(broadcast(row[i]), kind)[0]; });
}

// row = LayerNorm(row + other); other may be null.
inline void normalise(float* row, const float* other, const float* weight, const float* bias, int64_t count, float eps) {
  floats sums{};
  float mean = 0;
  if (other) by_lanes(count, [&](int64_t i) { store(row + i, load(row + i) + load(other + i)); },
                      [&](int64_t i) { row[i] += other[i]; });
  by_lanes(count, [&](int64_t i) { sums += load(row + i); }, [&](int64_t i) { mean += row[i]; });
  mean = (mean + sum(sums)) / count;
  floats squares{};
  float variance = 0;
  by_lanes(count, [&](int64_t i) { floats d = load(row + i) - mean; squares += d * d; },
           [&](int64_t i) { variance += (row[i] - mean) * (row[i] - mean); });
  const float scale = 1 / std::sqrt((variance + sum(squares)) / count + eps);
  by_lanes(count, [&](int64_t i) { store(row + i, (load(row + i) - mean) * scale * load(weight + i) + load(bias + i)); },
           [&](int64_t i) { row[i] = (row[i] - mean) * scale * weight[i] + bias[i]; });
}

}  // namespace hf_mpq
