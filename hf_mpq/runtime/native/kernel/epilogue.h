// What becomes of sums: outputs in float, and then one of four things.

// Outputs of one vector of tokens: step scale (sum - zero level_sum) + shift offset + bias. The zero point is taken off
// integers: scaled first, they would be rounded at several times the size of the difference.
struct Output {
  floats step, shift;
  ints zero;

  Output(const Bytes& x, int64_t token) : step(load(x.step + token)), shift(load(x.shift + token)), zero(load(x.zero + token)) {}
  HF_INLINE floats operator()(const Matrix& matrix, int64_t row, const int32_t* sums) const {
    const ints whole = load(sums) - zero * all(matrix.level_sum[row]);
    const floats y = fused(as_floats(whole) * step, all(matrix.scale[row]), all(matrix.bias[row]));
    return matrix.offset ? fused(shift, all(matrix.offset[row]), y) : y;
  }
};

// Stored by rows, (rows, stride), from row `base` on.
struct ToRows {
  const Bytes& x;
  const Matrix& matrix;
  float* to;
  int64_t base, stride;

  template <int V>
  HF_INLINE void tile(int64_t vector, int64_t row, int rows, const int32_t* sums) const {
    for (int v = 0; v < V; v++) {
      const Output output(x, (vector + v) * LANES);
      for (int r = 0; r < rows; r++)
        store(to + (row + r - base) * stride + (vector + v) * LANES, output(matrix, row + r, sums + (r * V + v) * LANES));
    }
  }
};

// Added to floats in panels, or, without ADD, stored there.
template <bool ADD>
struct ToPanels {
  const Bytes& x;
  const Matrix& matrix;
  float* to;  // (features, tokens) by panels

  template <int V>
  HF_INLINE void tile(int64_t vector, int64_t row, int rows, const int32_t* sums) const {
    float* const panel = to + vector * LANES * matrix.rows;
    const int here = (int)least(rows, matrix.rows - row);
    for (int v = 0; v < V; v++) {
      const Output output(x, (vector + v) * LANES);
      for (int r = 0; r < here; r++) {
        float* const at = panel + (row + r) * V * LANES + v * LANES;
        const floats y = output(matrix, row + r, sums + (r * V + v) * LANES);
        store(at, ADD ? y + load(at) : y);
      }
    }
  }
};

// Activated and stored in panels, for a range per token.
template <int ACTIVATION>
struct ToActivated {
  const Bytes& x;
  const Matrix& matrix;
  float* to;

  template <int V>
  HF_INLINE void tile(int64_t vector, int64_t row, int rows, const int32_t* sums) const {
    float* const panel = to + vector * LANES * matrix.rows;
    const int here = (int)least(rows, matrix.rows - row);
    for (int v = 0; v < V; v++) {
      const Output output(x, (vector + v) * LANES);
      for (int r = 0; r < here; r++)
        store(panel + (row + r) * V * LANES + v * LANES,
              activated<ACTIVATION>(output(matrix, row + r, sums + (r * V + v) * LANES)));
    }
  }
};

// Activated and quantized to a fixed range, in the form that the next matrix reads. Rows beyond the last become bytes of
// no column.
template <int ACTIVATION>
struct ToBytes {
  const Bytes& x;
  const Matrix& matrix;
  const Levels& levels;
  const Bytes& to;

  template <int V>
  HF_INLINE void tile(int64_t vector, int64_t row, int rows, const int32_t* sums) const {
    uint8_t* const panel = to.panel(vector);
    for (int v = 0; v < V; v++) {
      const Output output(x, (vector + v) * LANES);
      floats none{};
      for (int r = 0; r < rows; r += 4) {
        ints four{};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
          const floats y = activated<ACTIVATION>(output(matrix, row + r + i, sums + ((r + i) * V + v) * LANES));
          four |= levels(y, none) << (8 * i);
        }
        store((int32_t*)(panel + ((row + r) / 4 * V + v) * LANES * 4), four);
      }
      if (any_nan(none)) to.spoil((vector + v) * LANES, none);
    }
  }
};
