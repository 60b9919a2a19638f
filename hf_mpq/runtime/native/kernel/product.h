// Sums of unsigned bytes times int8 weights. Sixteen tokens of four features are a vector, four weights of a row are
// broadcast to it.

#if HF_AVX512 || HF_NEON
constexpr int TILE_ROWS[] = {0, 24, 12, 8};  // by the panel's vectors: 24 sums in registers
#elif HF_AVX2
constexpr int TILE_ROWS[] = {0, 8, 4};
#else
constexpr int TILE_ROWS[] = {0, 4};
#endif
constexpr int MOST_SUMS = 24 * LANES;
#if HF_AMX
constexpr int64_t STEP = 32;
#else
constexpr int64_t STEP = 24;  // rows that are given out together
#endif

#if !HF_WORDS
struct Sums {
#if HF_AVX512
  typedef __m512i Vector;
  static HF_INLINE Vector load(const uint8_t* x) { return _mm512_loadu_si512(x); }
  static HF_INLINE Vector weights(const int8_t* four) {
    int32_t value;
    __builtin_memcpy(&value, four, 4);
    return _mm512_set1_epi32(value);
  }
  static HF_INLINE ints add(ints sums, Vector x, Vector w) { return (ints)_mm512_dpbusd_epi32((__m512i)sums, x, w); }
#elif HF_AVX_VNNI
  typedef __m256i Vector;
  static HF_INLINE Vector load(const uint8_t* x) { return _mm256_loadu_si256((const __m256i*)x); }
  static HF_INLINE Vector weights(const int8_t* four) {
    int32_t value;
    __builtin_memcpy(&value, four, 4);
    return _mm256_set1_epi32(value);
  }
  static HF_INLINE ints add(ints sums, Vector x, Vector w) { return (ints)_mm256_dpbusd_avx_epi32((__m256i)sums, x, w); }
#elif HF_I8MM
  typedef uint8x16_t Vector;
  static HF_INLINE Vector load(const uint8_t* x) { return vld1q_u8(x); }
  static HF_INLINE int8x16_t weights(const int8_t* four) {
    int32_t value;
    __builtin_memcpy(&value, four, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(value));
  }
  static HF_INLINE ints add(ints sums, Vector x, int8x16_t w) { return (ints)vusdotq_s32((int32x4_t)sums, x, w); }
#elif HF_NEON
  // Both factors of vdot are signed: bytes are 128 less, which `first` makes up for.
  typedef int8x16_t Vector;
  static HF_INLINE Vector load(const uint8_t* x) { return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(x), vdupq_n_u8(128))); }
  static HF_INLINE Vector weights(const int8_t* four) {
    int32_t value;
    __builtin_memcpy(&value, four, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(value));
  }
  static HF_INLINE ints add(ints sums, Vector x, Vector w) { return (ints)vdotq_s32((int32x4_t)sums, x, w); }
#else
  struct Vector {
    ints at[4];
  };
  static HF_INLINE Vector load(const uint8_t* x) {
    ints all4;
    __builtin_memcpy(&all4, x, sizeof all4);
    return {{all4 & 255, (all4 >> 8) & 255, (all4 >> 16) & 255, (all4 >> 24) & 255}};
  }
  static HF_INLINE Vector weights(const int8_t* four) { return {{all(four[0]), all(four[1]), all(four[2]), all(four[3])}}; }
  static HF_INLINE ints add(ints sums, Vector x, Vector w) {
    for (int i = 0; i < 4; i++) sums += x.at[i] * w.at[i];
    return sums;
  }
#endif
  typedef ints Total;
  static HF_INLINE void put(int32_t* to, ints sums) { store(to, sums); }
  // What sums of a row begin with.
  static HF_INLINE ints first(int32_t level_sum) {
#if HF_NEON && !HF_I8MM
    return all(128 * level_sum);
#else
    return ints{};
#endif
  }
};

#if HF_AVX512 && !HF_AMX
#define HF_HALVES 1
// The same for the lower half of a vector: where 512 bits are worked on in two halves, in half the time.
struct HalfSums {
  typedef __m256i Vector, Total;
  static HF_INLINE Vector load(const uint8_t* x) { return _mm256_loadu_si256((const __m256i*)x); }
  static HF_INLINE Vector weights(const int8_t* four) {
    int32_t value;
    __builtin_memcpy(&value, four, 4);
    return _mm256_set1_epi32(value);
  }
  static HF_INLINE Total add(Total sums, Vector x, Vector w) { return _mm256_dpbusd_epi32(sums, x, w); }
  static HF_INLINE Total first(int32_t) { return _mm256_setzero_si256(); }
  static HF_INLINE void put(int32_t* to, Total sums) { _mm512_storeu_si512(to, _mm512_zextsi256_si512(sums)); }
};
#endif

// R rows from `row` on, times a panel of V vectors: sums (ROWS, V, LANES).
template <int R, int V, class S = Sums>
static inline void tile(const uint8_t* x, const Matrix& matrix, int64_t row, int32_t* to) {
  const int8_t* const weights = matrix.levels + row * matrix.stride;
  const int64_t stride = matrix.stride, quads = matrix.quads;
  typename S::Total sums[R][V];
  const int8_t* rows[R / 4];
#pragma GCC unroll 24
  for (int r = 0; r < R; r++)
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) sums[r][v] = S::first(matrix.level_sum[row + r]);
#pragma GCC unroll 6
  for (int g = 0; g < R / 4; g++) rows[g] = weights + 4 * g * stride;
  const int64_t three = 3 * stride, ahead = R * stride;
  for (int64_t q = 0; q < quads; q++) {
    if (HF_AHEAD && q % 16 == 0 && matrix.coming.planes) {
      const uint8_t* const from = matrix.coming.from + row * matrix.coming.line + q / 16 * R * 8;
      for (int p = 0; p < matrix.coming.planes; p++)
        for (int b = 0; b < R * 8; b += 64) prefetch(from + p * matrix.coming.plane + b);
    } else if (HF_AHEAD && q % 16 == 0 && !matrix.planes.blocks)  // the rows of the next tile
#pragma GCC unroll 6
      for (int g = 0; g < R / 4; g++) {
        prefetch(rows[g] + ahead), prefetch(rows[g] + stride + ahead);
        prefetch(rows[g] + 2 * stride + ahead), prefetch(rows[g] + three + ahead);
      }
    typename S::Vector here[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) here[v] = S::load(x + v * LANES * 4);
    x += V * LANES * 4;
#pragma GCC unroll 6
    for (int g = 0; g < R / 4; g++) {
      const int64_t steps[] = {0, stride, 2 * stride, three};
#pragma GCC unroll 4
      for (int r = 0; r < 4; r++) {
        const auto w = S::weights(rows[g] + steps[r]);
#pragma GCC unroll 3
        for (int v = 0; v < V; v++) sums[4 * g + r][v] = S::add(sums[4 * g + r][v], here[v], w);
      }
      rows[g] += 4;
    }
  }
#pragma GCC unroll 24
  for (int r = 0; r < R; r++)
#pragma GCC unroll 3
    for (int v = 0; v < V; v++) S::put(to + (r * V + v) * LANES, sums[r][v]);
}

#if HF_AMX
// Weights that are multiplied next, brought near a few lines at a time while others are.
struct Ahead {
  const int8_t *at = nullptr, *end = nullptr;
  int64_t each = 0;  // lines

  // As many bytes as `rows` of a matrix have, while these are multiplied with so many panels. Nothing, where `from` is null.
  Ahead(const int8_t* from, const Matrix& matrix, int64_t rows, int64_t panels) {
    if (!from) return;
    const int64_t bytes = rows * matrix.stride, steps = panels * ((rows + 31) / 32) * ((matrix.quads + 15) / 16);
    at = from, end = from + bytes, each = (bytes / 64 + steps - 1) / steps;
  }
  HF_INLINE void bring() {
    for (int64_t i = 0; i < each && at < end; i++, at += 64) prefetch(at);
  }
};

// Tiles: sums of 32 rows and V vectors in 0 to 3, rows of weights in 4 and 5, vectors in 6 and 7. What weights and bytes
// have behind the last column is multiplied with zeros.
template <int V>
static inline void rows_of_tiles(const uint8_t* x, const Matrix& matrix, int64_t row, int32_t* to, Ahead& ahead) {
  const int8_t* const upper = matrix.levels + row * matrix.stride;
  const int8_t* const lower = upper + 16 * matrix.stride;
  constexpr int64_t across = V * LANES * 4;
  HF_TILE_ZERO(0);
  HF_TILE_ZERO(1);
  if (V > 1) {
    HF_TILE_ZERO(2);
    HF_TILE_ZERO(3);
  }
  for (int64_t q = 0; q < matrix.quads; q += 16) {
    HF_TILE_LOAD(6, x + q * across, across);
    HF_TILE_LOAD(4, upper + 4 * q, matrix.stride);
    HF_TILE_PRODUCT(0, 4, 6);
    HF_TILE_LOAD(5, lower + 4 * q, matrix.stride);
    HF_TILE_PRODUCT(1, 5, 6);
    if (V > 1) {
      HF_TILE_LOAD(7, x + q * across + LANES * 4, across);
      HF_TILE_PRODUCT(2, 4, 7);
      HF_TILE_PRODUCT(3, 5, 7);
    }
    ahead.bring();
  }
  HF_TILE_STORE(0, to, across);
  HF_TILE_STORE(1, to + 16 * V * LANES, across);
  if (V > 1) {
    HF_TILE_STORE(2, to + LANES, across);
    HF_TILE_STORE(3, to + 16 * V * LANES + LANES, across);
  }
}

template <int V, class Put>
static inline void strip(const Bytes& x, int64_t vector, const Matrix& matrix, int64_t from, int64_t to, const Put& put,
                         Ahead& ahead) {
  alignas(64) int32_t sums[32 * V * LANES];
  const uint8_t* const panel = x.panel(vector);
  for (int64_t row = from; row < to; row += 32) {
    rows_of_tiles<V>(panel, matrix, row, sums, ahead);
    put.template tile<V>(vector, row, (int)least(32, to - row), sums);
  }
}
#else
// `put(V, first vector, row, rows, sums)` for rows `from` to `to` of a matrix and one panel.
template <int V, class S = Sums, class Put>
static inline void strip(const Bytes& x, int64_t vector, const Matrix& matrix, int64_t from, int64_t to, const Put& put) {
  alignas(64) int32_t sums[MOST_SUMS];
  const uint8_t* const panel = x.panel(vector);
  int64_t row = from;
  for (; row + TILE_ROWS[V] <= to; row += TILE_ROWS[V]) {
    tile<TILE_ROWS[V], V, S>(panel, matrix, row, sums);
    put.template tile<V>(vector, row, TILE_ROWS[V], sums);
  }
  for (; row < to; row += 4) {
    tile<4, V, S>(panel, matrix, row, sums);
    put.template tile<V>(vector, row, 4, sums);
  }
}
#endif
#endif  // HF_WORDS

// Bytes of weights that stay in the cache while all panels pass.
constexpr int64_t CHUNK = HF_CHUNK;

// Planes decoded for one thread.
struct Decoder {
  Decode* decode;
  int8_t* levels;

  static int64_t bytes(int64_t most_stride) {
    const int64_t chunk = most(CHUNK, STEP * most_stride), own = chunk + TILE * most_stride + OVER;
    return HF_WORDS ? own + 2 * chunk + STEP * most_stride + OVER : own;
  }
  // For as many levels of a chunk, as words.
  int8_t* words(int64_t most_stride) const { return levels + most(CHUNK, STEP * most_stride) + TILE * most_stride + OVER; }
  // The matrix, of which only rows from `first` to `last` have levels.
  Matrix operator()(const Matrix& matrix, int64_t first, int64_t last) const {
    Matrix found = matrix;
    if (matrix.levels) return found;
    decode(matrix.planes, first, last, levels, matrix.stride);
    found.levels = levels - first * matrix.stride;
    return found;
  }
  // The same for as many rows as are brought near meanwhile.
  Matrix operator()(const Matrix& matrix, int64_t first, int64_t last, int64_t end) const {
    Matrix found = (*this)(matrix, first, last);
    if (matrix.levels || last == end || matrix.planes.places[last] == HF_NOWHERE) return found;
    const int32_t place = matrix.planes.places[last];
    const hf_block& block = matrix.planes.blocks[place % HF_BLOCKS];
    found.coming = {block.planes + (place / HF_BLOCKS - first) * matrix.planes.line, block.plane, matrix.planes.line, block.bits};
    return found;
  }
};

#if HF_WORDS
#include "product_words.h"
#else
// The same for all panels; `from` and `to` are multiples of 4. `after`: levels that this thread multiplies next, or null.
template <class Put>
static inline void product(const Panels& panels, const Bytes& x, const Matrix& all_rows, int64_t from, int64_t to,
                           const Put& put, const Decoder& decoder, const int8_t* after) {
  // What is decoded for a single panel is read at once.
  const bool once = !all_rows.levels && panels.count() == 1;
  const int64_t rows = once ? STEP : most(STEP, CHUNK / all_rows.stride / STEP * STEP);
  for (int64_t first = from; first < to; first += rows) {
    const int64_t last = least(to, first + rows);
    const Matrix matrix = once ? decoder(all_rows, first, last, to) : decoder(all_rows, first, last);
#if HF_AMX
    const int8_t* const coming = last < to && all_rows.levels ? all_rows.levels + last * all_rows.stride : after;
    Ahead ahead(all_rows.levels ? coming : nullptr, all_rows, last - first, panels.count());
#endif
    for (int64_t p = 0; p < panels.count(); p++) {
      const int64_t vector = panels.first(p);
#if HF_AMX
      if (panels.width(p) == 1) strip<1>(x, vector, matrix, first, last, put, ahead);
      else strip<2>(x, vector, matrix, first, last, put, ahead);
#else
#ifdef HF_HALVES
      if (panels.half(p)) {
        strip<1, HalfSums>(x, vector, matrix, first, last, put);
        continue;
      }
#endif
      switch (panels.width(p)) {
        case 1: strip<1>(x, vector, matrix, first, last, put); break;
#if HF_WIDEST > 1
        case 2: strip<2>(x, vector, matrix, first, last, put); break;
#endif
#if HF_WIDEST > 2
        case 3: strip<3>(x, vector, matrix, first, last, put); break;
#endif
      }
#endif
    }
  }
}
#endif
