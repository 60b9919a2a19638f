// Products of unsigned bytes with int8 weights by AVX512-VNNI, and what becomes of each sum while it is in a register.
#pragma once
#include <algorithm>

#include "rows.h"

namespace hf_mpq {

constexpr int TILE_ROWS = 8, TILE_VECTORS = 2;  // more accumulators than these sixteen are spilled by the compiler
constexpr int64_t PANEL = TILE_VECTORS * LANES;  // outputs of one panel

#ifdef __AVX512VNNI__

// What turns sums into outputs: step scale (sum - zero level_sum) + bias, and step (total - columns zero) offset where
// every weight of an output has an offset; all arrays are padded to whole panels. The zero point is taken off integers:
// scaled first, they would be rounded at several times the size of the difference. The zero point of a fixed grid is in
// what the sums start from.
struct Finish {
  const float *scale, *level_sum, *bias, *offset;  // offset may be null
  float columns;
  bool fixed;

  struct Output {
    floats scale, level_sum, bias, offset;
    float columns;
    bool fixed, shifted;

    floats operator()(ints sums, const RowGrid& grid) const {
      const floats sum = __builtin_convertvector(sums, floats);
      const floats y = (fixed ? sum : sum - grid.zero * level_sum) * scale * grid.step + bias;
      return shifted ? y + grid.step * (grid.total - columns * grid.zero) * offset : y;
    }
  };

  // Of a vector of outputs.
  Output at(int64_t output) const {
    return {load(scale + output), load(level_sum + output), load(bias + output),
            offset ? load(offset + output) : floats{}, columns, fixed, offset != nullptr};
  }
};

// Sums `(ROWS, PANEL)` of one tile: ROWS rows of bytes, one panel of weights `(quads, PANEL, 4)`, from `(PANEL)` on.
template <int ROWS>
inline void tile(const uint8_t* bytes, int64_t stride, const int8_t* panel, int64_t quads, const int32_t* start,
                 int32_t* to) {
  __m512i sums[ROWS][TILE_VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++) {
    sums[i][0] = _mm512_loadu_si512(start);
    sums[i][1] = _mm512_loadu_si512(start + LANES);
  }
  for (int64_t q = 0; q < quads; q++) {
    const __m512i first = _mm512_load_si512(panel + q * 4 * PANEL), second = _mm512_load_si512(panel + q * 4 * PANEL + 64);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
      int32_t four;
      __builtin_memcpy(&four, bytes + i * stride + 4 * q, 4);
      const __m512i one = _mm512_set1_epi32(four);
      sums[i][0] = _mm512_dpbusd_epi32(sums[i][0], one, first);
      sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], one, second);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++) {
    _mm512_store_si512(to + i * PANEL, sums[i][0]);
    _mm512_store_si512(to + i * PANEL + LANES, sums[i][1]);
  }
}

template <int ROWS>
inline void some_rows(int rows, const uint8_t* bytes, int64_t stride, const int8_t* panel, int64_t quads,
                      const int32_t* start, int32_t* to) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) tile<ROWS>(bytes, stride, panel, quads, start, to);
    else some_rows<ROWS - 1>(rows, bytes, stride, panel, quads, start, to);
  }
}

constexpr bool HAS_PRODUCTS = true;

#else

constexpr bool HAS_PRODUCTS = false;

#endif

// Weights `(outputs, columns)` as panels: `(panels, quads of columns, PANEL, 4)`, what is beyond them 0.
inline void fill_panels(const int8_t* weights, int64_t outputs, int64_t columns, int8_t* panels) {
  const int64_t quads = (columns + 3) / 4;
  for (int64_t n = 0; n < outputs; n++)
    for (int64_t k = 0; k < columns; k++)
      panels[((n / PANEL * quads + k / 4) * PANEL + n % PANEL) * 4 + k % 4] = weights[n * columns + k];
}

}  // namespace hf_mpq
