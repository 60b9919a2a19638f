// Bytes of floats: what dividing by the step would give, by an inverse of twice the precision.

struct Levels {
  floats inverse, rest, low, high;
  ints zero;

  Levels(const hf_grid& grid, floats step, ints zero) : zero(zero) {
    const floats largest = all(3.40282347e38f);
    const floats plain = smaller(largest, all(1.0f) / step);
    inverse = step == 0 ? all(1.0f) : plain;
    rest = step < all(1.17549435e-38f) ? floats{} : fused(-step, inverse, all(1.0f)) * inverse;
    const floats at = as_floats(zero);
    low = all(grid.symmetric ? 128 - grid.levels : 0.0f) - at;
    high = all(grid.symmetric ? 128 + grid.levels : grid.levels) - at;
  }

  // Of four vectors, as bytes, where every byte is a level and no value is NaN or infinite.
  HF_INLINE ints four(const floats (&values)[4]) const {
    const floats at = as_floats(zero);
    return packed(nearest(fused(values[0], inverse, at)), nearest(fused(values[1], inverse, at)),
                  nearest(fused(values[2], inverse, at)), nearest(fused(values[3], inverse, at)));
  }

  // Of four vectors, exactly as one by one, where every byte is a level.
  HF_INLINE ints exact(const floats (&values)[4]) const {
    const auto level = [&](floats value) {
      return nearest(smaller(all(1e9f), larger(all(-1e9f), fused(value, inverse, value * rest)))) + zero;
    };
    return packed(level(values[0]), level(values[1]), level(values[2]), level(values[3]));
  }

  // The same of any one.
  HF_INLINE ints careful(floats values, floats& none) const {
    none = fused(values, floats{}, none);
    return nearest(smaller(all(255.0f), larger(floats{}, fused(values, inverse, as_floats(zero)))));
  }

  HF_INLINE ints operator()(floats values) const {
    const floats ratio = fused(values, inverse, values * rest);
    return nearest(smaller(high, larger(low, ratio))) + zero;
  }

  // `none` becomes NaN where a value is NaN or infinite.
  HF_INLINE ints operator()(floats values, floats& none) const {
    none = fused(values, floats{}, none);
    return (*this)(values);
  }
};
