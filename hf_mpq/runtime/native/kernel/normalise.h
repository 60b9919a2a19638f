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

// One vector of tokens, its features `stride` floats apart, as bytes; `across`: tokens of its panel.
static inline void quantize(const float* from, int64_t stride, int64_t features, const hf_grid& grid, const Extent& extent,
                            const Bytes& to, int64_t token, uint8_t* at, int64_t across, bool with_total) {
  floats step, total{};
  ints zero, sum{};
  range_of(extent, grid, step, zero);
  const Levels levels(grid, step, zero);
  const bool plain = !with_total && !grid.symmetric && grid.levels == 255;
  int64_t f = 0;
  for (; f + 4 <= features; f += 4) {
    floats values[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) values[i] = load(from + (f + i) * stride);
    ints four{};
    if (plain) four = levels.exact(values);
    else
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        const ints one = levels(values[i]);
        sum += one;
        four |= one << (8 * i);
      }
    store((int32_t*)(at + f * across), four);
  }
  if (f < features) {
    ints four{};
    for (int i = 0; f + i < features; i++) {
      const ints one = levels(load(from + (f + i) * stride));
      sum += one;
      four |= one << (8 * i);
    }
    store((int32_t*)(at + f * across), four);
  }
  store(to.step + token, step);
  store(to.zero + token, zero);
  if (with_total) total = as_floats(sum - zero * all((int32_t)features)) * step;
  store(to.shift + token, total);
}

// Extent of one vector of tokens.
static inline Extent extent_of(const float* from, int64_t stride, int64_t features) {
  Extent found;
  for (int64_t f = 0; f < features; f++) found.see(load(from + f * stride));
  return found;
}

// Floats as a matrix reads them, where it shifts and scales its inputs; then the extent is that of what is in `to`, which can
// be where they come from.
static inline const float* adjusted(const float* from, float* to, int64_t stride, int64_t features, const Matrix& reader,
                                    Extent& found) {
  if (!reader.input_scale) return from;
  found = Extent();
  for (int64_t f = 0; f < features; f++) {
    const floats y = (load(from + f * stride) - all(reader.input_shift[f])) / all(reader.input_scale[f]);
    store(to + f * stride, y);
    found.see(y);
  }
  return to;
}

// One vector of tokens normalised, in two passes: in one, the variance would be lost beside large means. It can stay in
// place.
static inline Extent normalise(const float* values, float* to, int64_t stride, int64_t features, const Norm& norm) {
  const floats share = all(1.0f / features);
  const auto average = [&](const auto& of) {
    floats sums[4];
    for (int i = 0; i < 4; i++) sums[i] = floats{};
    int64_t f = 0;
    for (; f + 4 <= features; f += 4)
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) sums[i] = of(sums[i], load(values + (f + i) * stride));
    for (; f < features; f++) sums[0] = of(sums[0], load(values + f * stride));
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) * share;
  };
  const floats mean = average([](floats sum, floats x) { return sum + x; });
  const floats variance = average([&](floats sum, floats x) { const floats d = x - mean; return fused(d, d, sum); });
  const floats scale = all(1.0f) / root(variance + all(norm.eps));
  Extent found;
  for (int64_t f = 0; f < features; f++) {
    const floats y = fused((load(values + f * stride) - mean) * scale, all(norm.weight[f]), all(norm.bias[f]));
    store(to + f * stride, y);
    found.see(y);
  }
  return found;
}
