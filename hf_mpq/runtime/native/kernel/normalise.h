// Layer normalisation and quantization of panels, a token in each lane.

struct Extent {
  floats low{}, high{}, none{};  // every range holds 0; `none` is NaN where a value is NaN or infinite

  HF_INLINE void see(floats value) {
    low = smaller(low, value);
    high = larger(high, value);
    none = fused(value, floats{}, none);
  }
};

// Step and zero point of each token's range.
HF_INLINE void range_of(const Extent& extent, const hf_grid& grid, floats& step, ints& zero) {
  step = all(grid.step);
  zero = all((int32_t)grid.zero);
  if (grid.dynamic) {
    const floats width = grid.symmetric ? larger(-extent.low, extent.high) : extent.high - extent.low;
    step = width / all(grid.levels);
    const floats below = step == 0 ? floats{} : rounded(-extent.low / step);
    zero = grid.symmetric ? all(128) : nearest(below);
  }
  step = step + fused(step, floats{}, extent.none * floats{});  // NaN where there is none
}

// V vectors of tokens from floats (features, V, LANES) to bytes.
template <int V>
static inline void quantize(const float* from, int64_t stride, int64_t features, const hf_grid& grid,
                            const Extent (&extent)[V], const Bytes& to, int64_t vector, bool with_total) {
  for (int v = 0; v < V; v++) {
    floats step, total{};
    ints zero, sum{};
    range_of(extent[v], grid, step, zero);
    const Levels levels(grid, step, zero);
    uint8_t* const panel = to.panel(vector) + v * LANES * 4;
    floats none{};
    int64_t f = 0;
    for (; f + 4 <= features; f += 4) {
      ints four{};
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const ints one = levels(load(from + (f + i) * stride + v * LANES), none);
        if (with_total) sum += one;
        four |= one << (8 * i);
      }
      store((int32_t*)(panel + f / 4 * V * LANES * 4), four);
    }
    if (f < features) {
      ints four{};
      for (int i = 0; f + i < features; i++) {
        const ints one = levels(load(from + (f + i) * stride + v * LANES), none);
        sum += one;
        four |= one << (8 * i);
      }
      store((int32_t*)(panel + f / 4 * V * LANES * 4), four);
    }
    const int64_t token = (vector + v) * LANES;
    store(to.step + token, step);
    store(to.zero + token, zero);
    if (with_total) total = as_floats(sum - zero * all((int32_t)features)) * step;
    store(to.shift + token, total);
  }
}

// Extents of floats (features, V, LANES), `stride` floats apart.
template <int V>
static inline void extents(const float* from, int64_t stride, int64_t features, Extent (&found)[V]) {
  for (int64_t f = 0; f < features; f++)
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) found[v].see(load(from + f * stride + v * LANES));
}

// Floats as a matrix reads them, where it shifts and scales its inputs; then extents are those of what is in `to`, which can
// be where they come from.
template <int V>
static inline const float* adjusted(const float* from, float* to, int64_t stride, int64_t features, const Matrix& reader,
                                    Extent (&found)[V]) {
  if (!reader.input_scale) return from;
  for (int v = 0; v < V; v++) found[v] = Extent();
  for (int64_t f = 0; f < features; f++)
    for (int v = 0; v < V; v++) {
      const int64_t at = f * stride + v * LANES;
      const floats y = (load(from + at) - all(reader.input_shift[f])) / all(reader.input_scale[f]);
      store(to + at, y);
      found[v].see(y);
    }
  return to;
}

// Floats (features, V, LANES) normalised, in two passes: in one, the variance would be lost beside large means. They can
// stay in place.
template <int V>
static inline void normalise(const float* values, float* to, int64_t features, const Norm& norm, Extent (&found)[V]) {
  constexpr int64_t stride = V * LANES;
  const floats share = all(1.0f / features);
  floats mean[V], scale[V];
  const auto average = [&](const auto& of, floats(&to)[V]) {
    floats sums[4][V];
    for (int i = 0; i < 4; i++)
      for (int v = 0; v < V; v++) sums[i][v] = floats{};
    int64_t f = 0;
    for (; f + 4 <= features; f += 4)
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++)
#pragma GCC unroll 3
        for (int v = 0; v < V; v++) sums[i][v] = of(sums[i][v], load(values + (f + i) * stride + v * LANES), v);
    for (; f < features; f++)
      for (int v = 0; v < V; v++) sums[0][v] = of(sums[0][v], load(values + f * stride + v * LANES), v);
    for (int v = 0; v < V; v++) to[v] = ((sums[0][v] + sums[1][v]) + (sums[2][v] + sums[3][v])) * share;
  };
  average([](floats sum, floats x, int) { return sum + x; }, mean);
  average([&](floats sum, floats x, int v) { const floats d = x - mean[v]; return fused(d, d, sum); }, scale);
  for (int v = 0; v < V; v++) scale[v] = all(1.0f) / root(scale[v] + all(norm.eps));
  for (int64_t f = 0; f < features; f++) {
    const floats weight = all(norm.weight[f]), bias = all(norm.bias[f]);
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) {
      const int64_t at = f * stride + v * LANES;
      const floats y = fused((load(values + at) - mean[v]) * scale[v], weight, bias);
      store(to + at, y);
      found[v].see(y);
    }
  }
}
