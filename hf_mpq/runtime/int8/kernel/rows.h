// One pass over one row of activations: ranges, quantization, layer normalisation, the end of a product.
#pragma once
#include <algorithm>

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

// Step and zero of one row, and the sum of its bytes.
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
  if (grid.symmetric) return {std::max(-low, high) / grid.levels, 128, 0};
  const float step = (high - low) / grid.levels;
  return {step, step == 0 ? 0 : std::nearbyint(-low / step), 0};
}

typedef uint8_t octets __attribute__((vector_size(16), aligned(1), may_alias));

// Bytes of floats.
struct Levels {
  float inverse, zero, bottom, top;

  Levels(const Grid& grid, const RowGrid& found)
      : inverse(found.step == 0 ? 1 : 1 / found.step), zero(found.zero), bottom(grid.symmetric ? 128 - grid.levels : 0),
        top(grid.symmetric ? 128 + grid.levels : grid.levels) {}

  octets operator()(floats values) const {
    const floats level = smaller(larger(nearest(values * inverse) + zero, broadcast(bottom)), broadcast(top));
    return __builtin_convertvector(__builtin_convertvector(level, ints), octets);
  }
  uint8_t operator()(float value) const {
    return (uint8_t)std::min(std::max(std::nearbyint(value * inverse) + zero, bottom), top);
  }
};

// Bytes of a row.
inline RowGrid quantize(const float* row, uint8_t* bytes, int64_t count, const Grid& grid, bool with_total) {
  RowGrid found = range_of(row, count, grid);
  const Levels levels(grid, found);
  by_lanes(count, [&](int64_t i) { *(octets*)(bytes + i) = levels(load(row + i)); },
           [&](int64_t i) { bytes[i] = levels(row[i]); });
  if (with_total) {
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++) total += bytes[i];
    found.total = total;
  }
  return found;
}

// The integer product of a row, as the floats that it was scaled to, made the layer's output in place:
// step (raw - zero column_sum) + step (total - columns zero) offset + bias. Offset may be null.
inline void finish(float* raw, int64_t rows, int64_t columns, const RowGrid& grid, const float* column_sum,
                   const float* offset, const float* bias) {
  const float shift = grid.step * (grid.total - columns * grid.zero);
  by_lanes(rows,
           [&](int64_t i) {
             floats y = (load(raw + i) - grid.zero * load(column_sum + i)) * grid.step + load(bias + i);
             store(raw + i, offset ? y + shift * load(offset + i) : y);
           },
           [&](int64_t i) {
             const float y = (raw[i] - grid.zero * column_sum[i]) * grid.step + bias[i];
             raw[i] = offset ? y + shift * offset[i] : y;
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
