// What becomes of sums: outputs in float, and then one of four things.

// Outputs of one vector of tokens: step scale (sum - zero level_sum) + shift offset + bias. The zero point is taken off
// integers: scaled first, they would be rounded at several times the size of the difference. On a fixed grid, much of
// that is known before. Whatever other tokens of the vector are, one is rounded in the same places.
struct Output {
  floats step, shift;
  ints zero;
  const Matrix& matrix;
  bool fixed, plain;  // plain: and no step is NaN

  Output(const Bytes& x, const Matrix& matrix, int64_t token)
      : step(load(x.step + token)), shift(load(x.shift + token)), zero(load(x.zero + token)), matrix(matrix),
        fixed(x.fixed && !matrix.offset), plain(fixed && !any_nan(step)) {}

  template <bool PLAIN>
  HF_INLINE floats at(int64_t row, const int32_t* sums) const {
    if (PLAIN || fixed) {
      const floats y = fused(as_floats(load(sums) + all(matrix.start[row])), all(matrix.step_scale[row]), all(matrix.bias[row]));
      return PLAIN ? y : step == step ? y : step;
    }
    const ints whole = load(sums) - zero * all(matrix.level_sum[row]);
    const floats y = fused(as_floats(whole) * step, all(matrix.scale[row]), all(matrix.bias[row]));
    return matrix.offset ? fused(shift, all(matrix.offset[row]), y) : y;
  }

  // `put(r, y)` for rows from `row` on; the sums of each are `stride` apart.
  template <class Put>
  HF_INLINE void each(int64_t row, int rows, const int32_t* sums, int64_t stride, const Put& put) const {
    if (plain)
      for (int r = 0; r < rows; r++) put(r, at<true>(row + r, sums + r * stride));
    else
      for (int r = 0; r < rows; r++) put(r, at<false>(row + r, sums + r * stride));
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
      float* const first = to + (row - base) * stride + (vector + v) * LANES;
      Output(x, matrix, (vector + v) * LANES).each(row, rows, sums + v * LANES, V * LANES, [&](int r, floats y) {
        store(first + r * stride, y);
      });
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
    float* const panel = to + vector * LANES * matrix.rows + row * V * LANES;
    const int here = (int)least(rows, matrix.rows - row);
    for (int v = 0; v < V; v++)
      Output(x, matrix, (vector + v) * LANES).each(row, here, sums + v * LANES, V * LANES, [&](int r, floats y) {
        float* const at = panel + (r * V + v) * LANES;
        store(at, ADD ? y + load(at) : y);
      });
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
    float* const panel = to + vector * LANES * matrix.rows + row * V * LANES;
    const int here = (int)least(rows, matrix.rows - row);
    for (int v = 0; v < V; v++)
      Output(x, matrix, (vector + v) * LANES).each(row, here, sums + v * LANES, V * LANES, [&](int r, floats y) {
        store(panel + (r * V + v) * LANES, activated<ACTIVATION>(y));
      });
  }
};

// The same of rows that alternate: activated, and what that is multiplied with.
template <int ACTIVATION>
struct ToGated {
  const Bytes& x;
  const Matrix& matrix;
  float* to;

  template <int V>
  HF_INLINE void tile(int64_t vector, int64_t row, int rows, const int32_t* sums) const {
    float* const panel = to + vector * LANES * (matrix.rows / 2) + row / 2 * V * LANES;
    const int here = (int)least(rows, matrix.rows - row);
    for (int v = 0; v < V; v++) {
      floats first{};
      Output(x, matrix, (vector + v) * LANES).each(row, here, sums + v * LANES, V * LANES, [&](int r, floats y) {
        if (r % 2) store(panel + (r / 2 * V + v) * LANES, first * y);
        else first = activated<ACTIVATION>(y);
      });
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
  bool bytes_fit;

  template <int V>
  HF_INLINE void tile(int64_t vector, int64_t row, int rows, const int32_t* sums) const {
    for (int v = 0; v < V; v++) {
      const Output output(x, matrix, (vector + v) * LANES);
      uint8_t* const at = to.panel(vector) + (row / 4 * V + v) * LANES * 4;
      if (!bytes_fit || any_above(output.step, matrix.largest)) careful<V>(output, vector + v, row, rows, sums + v * LANES, at);
      else if (output.plain) quick<V, true>(output, row, rows, sums + v * LANES, at);
      else quick<V, false>(output, row, rows, sums + v * LANES, at);
    }
  }

  template <int V, bool PLAIN>
  HF_INLINE void quick(const Output& output, int64_t row, int rows, const int32_t* sums, uint8_t* at) const {
    for (int r = 0; r < rows; r += 4) {
      floats y[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) y[i] = activated<ACTIVATION>(output.at<PLAIN>(row + r + i, sums + (r + i) * V * LANES));
      store((int32_t*)(at + r * V * LANES), levels.four(y));
    }
  }

  template <int V>
  void careful(const Output& output, int64_t vector, int64_t row, int rows, const int32_t* sums, uint8_t* at) const {
    floats none{};
    for (int r = 0; r < rows; r += 4) {
      ints four{};
      for (int i = 0; i < 4; i++) {
        const floats y = activated<ACTIVATION>(output.at<false>(row + r + i, sums + (r + i) * V * LANES));
        four |= (bytes_fit ? levels.careful(y, none) : levels(y, none)) << (8 * i);
      }
      store((int32_t*)(at + r * V * LANES), four);
    }
    if (any_nan(none)) to.spoil(vector * LANES, none);
  }
};
