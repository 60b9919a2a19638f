// Products where no instruction sums products of four bytes. Of rows with small levels vpmaddubsw sums two exactly, and
// several such sums fit into a word; other rows are taken apart into words, of which vpmaddwd sums two.

constexpr int AT_ONCE = 6;     // rows: with two vectors, 12 sums in registers
constexpr int64_t FEWEST = 4;  // quads whose sums fit into words; with fewer, words are quicker

// Rows of a chunk, in groups of STEP; of each group those with small levels first.
struct Sorted {
  static constexpr int64_t MOST = (HF_CHUNK / 64 / STEP + 1) * STEP;
  const int8_t* rows[MOST];    // levels, or words
  uint8_t order[MOST];         // which ones of their group these are
  uint8_t small[MOST / STEP];  // rows of a group
  int64_t every[MOST / STEP];  // quads whose sums fit, for all of these

  static int64_t quads_of(uint8_t highest) { return 32767 / (2 * 255 * most(1, highest)); }
  static int64_t word_stride(int64_t quads) {  // bytes; at no multiple of what caches alias
    const int64_t bytes = up_to(quads, 8) * 8;
    return bytes % 1024 == 0 ? bytes + 64 : bytes;
  }

  // Large levels as words at `words`, where there are any.
  Sorted(const Matrix& matrix, int64_t first, int64_t last, int8_t* words) {
    for (int64_t group = 0, start = first; start < last; group++, start += STEP) {
      const int64_t end = least(last, start + STEP);
      int64_t at = start - first;
      every[group] = 1 << 30;
      for (int64_t row = start; row < end; row++) {
        const int64_t quads = quads_of(matrix.highest[row]);
        if (quads < FEWEST) continue;
        every[group] = least(every[group], quads);
        order[at] = (uint8_t)(row - start), rows[at++] = matrix.levels + row * matrix.stride;
      }
      small[group] = (uint8_t)(at - (start - first));
      for (int64_t row = start; row < end; row++) {
        if (quads_of(matrix.highest[row]) >= FEWEST) continue;
        order[at] = (uint8_t)(row - start), rows[at++] = matrix.levels + row * matrix.stride;
        if (!words) continue;
        take_apart(matrix.levels + row * matrix.stride, matrix.quads, words);
        rows[at - 1] = words, words += word_stride(matrix.quads);
      }
    }
  }

  // Eight quads after the other: their first and third levels, and then the others.
  static HF_INLINE void take_apart(const int8_t* from, int64_t quads, int8_t* to) {
    for (int64_t q = 0; q < quads; q += 8, from += 32, to += 64) {
      __m256i both = _mm256_loadu_si256((const __m256i*)from);
      if (q + 8 > quads) {  // zeros behind the last quad
        const __m256i left = _mm256_set1_epi32((int)(quads - q));
        both = _mm256_and_si256(both, _mm256_cmpgt_epi32(left, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)));
      }
      _mm256_storeu_si256((__m256i*)to, _mm256_srai_epi16(_mm256_slli_epi16(both, 8), 8));
      _mm256_storeu_si256((__m256i*)(to + 32), _mm256_srai_epi16(both, 8));
    }
  }
};

HF_INLINE __m256i four_of(const int8_t* from) {
  int32_t value;
  __builtin_memcpy(&value, from, 4);
  return _mm256_set1_epi32(value);
}
// Sums that stay in their registers: compilers would put products off, of which there is no room for more than one.
HF_INLINE void add_words(__m256i& sum, __m256i x) { asm("vpaddw %1, %0, %0" : "+x"(sum) : "x"(x)); }
HF_INLINE void add_ints(__m256i& sum, __m256i x) { asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(x)); }
HF_INLINE __m256i vector_at(const uint8_t* from) { return _mm256_loadu_si256((const __m256i*)from); }
HF_INLINE __m256i even_of(__m256i bytes) { return _mm256_and_si256(bytes, _mm256_set1_epi16(255)); }

// A line of each of the rows that come after these, `ahead` bytes behind them; 0 brings none.
template <int R>
HF_INLINE void bring(const int8_t* const (&rows)[R], int64_t quad, int64_t ahead) {
  if (!ahead || quad % 16) return;
#pragma GCC unroll 6
  for (int r = 0; r < R; r++) prefetch(rows[r] + 4 * quad + ahead);
}

// Small levels: `every` quads' sums fit into words.
struct Small {
  template <int R, int V>
  static inline void sum(const uint8_t* x, const int8_t* const* from, int64_t quads, int64_t every, int64_t ahead,
                         __m256i (&total)[R][V]) {
    const int8_t* rows[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      rows[r] = from[r];
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) total[r][v] = _mm256_setzero_si256();
    }
    for (int64_t q = 0; q < quads;) {
      __m256i sums[R][V];
#pragma GCC unroll 6
      for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sums[r][v] = _mm256_setzero_si256();
      for (const int64_t end = least(quads, q + every); q < end; q++, x += V * 32) {
        if (V == 1) bring<R>(rows, q, ahead);
        __m256i here[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) here[v] = vector_at(x + v * 32);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
          const __m256i w = four_of(rows[r] + 4 * q);
#pragma GCC unroll 2
          for (int v = 0; v < V; v++) add_words(sums[r][v], _mm256_maddubs_epi16(here[v], w));
        }
      }
#pragma GCC unroll 6
      for (int r = 0; r < R; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++)
          total[r][v] = _mm256_add_epi32(total[r][v], _mm256_madd_epi16(sums[r][v], _mm256_set1_epi16(1)));
    }
  }
};

// Any levels, as words.
struct Words {
  template <int R, int V>
  static inline void sum(const uint8_t* x, const int8_t* const* from, int64_t quads, int64_t, int64_t,
                         __m256i (&total)[R][V]) {
    const int8_t* rows[R];
    __m256i sums[R][V];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) {
      rows[r] = from[r];
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sums[r][v] = _mm256_setzero_si256();
    }
    const auto add = [&](const __m256i(&here)[V], int64_t at) __attribute__((always_inline)) {
#pragma GCC unroll 6
      for (int r = 0; r < R; r++) {
        const __m256i w = four_of(rows[r] + at);
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) add_ints(sums[r][v], _mm256_madd_epi16(here[v], w));
      }
    };
    for (int64_t q = 0, at = 0; q < quads; q += 8, at += 32)
      for (int i = 0; i < 8; i++, at += 4, x += V * 32) {
        __m256i here[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) here[v] = even_of(vector_at(x + v * 32));
        add(here, at);
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) here[v] = _mm256_srli_epi16(vector_at(x + v * 32), 8);
        add(here, at + 32);
      }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) total[r][v] = sums[r][v];
  }
};

// Any levels, made words where they are read: for a single vector of tokens. Of a token there are two sums, side by side.
struct Bytewise {
  template <int R, int V>
  static inline void sum(const uint8_t* x, const int8_t* const* from, int64_t quads, int64_t, int64_t ahead,
                         __m256i (&total)[R][V]) {
    const int8_t* rows[R];
    __m256i low[R], high[R];  // of the first and the last four tokens
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) rows[r] = from[r], low[r] = high[r] = _mm256_setzero_si256();
    for (int64_t q = 0; q < quads; q++, x += 32) {
      bring<R>(rows, q, ahead);
      const __m256i first = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)x));
      const __m256i last = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(x + 16)));
#pragma GCC unroll 6
      for (int r = 0; r < R; r++) {
        const __m256i w = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(four_of(rows[r] + 4 * q)));
        add_ints(low[r], _mm256_madd_epi16(first, w));
        add_ints(high[r], _mm256_madd_epi16(last, w));
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; r++) total[r][0] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(low[r], high[r]), 0xd8);
  }
};

// `to`: (rows of the group, V, LANES) sums; `order` says which ones those of `rows` are.
template <int R, int V, class Kind>
static inline void some_rows(const uint8_t* x, const int8_t* const* rows, const uint8_t* order, int64_t quads,
                             int64_t every, int64_t ahead, int32_t* to) {
  __m256i total[R][V];
  Kind::template sum<R, V>(x, rows, quads, every, ahead, total);
#pragma GCC unroll 6
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) _mm256_storeu_si256((__m256i*)(to + (order[r] * V + v) * LANES), total[r][v]);
}

template <int V, class Kind>
static inline void all_rows(const uint8_t* x, const int8_t* const* rows, const uint8_t* order, int64_t count, int64_t quads,
                            int64_t every, int64_t ahead, int32_t* to) {
  for (; count >= AT_ONCE; count -= AT_ONCE, rows += AT_ONCE, order += AT_ONCE)
    some_rows<AT_ONCE, V, Kind>(x, rows, order, quads, every, ahead, to);
  switch (count) {
    case 5: some_rows<5, V, Kind>(x, rows, order, quads, every, ahead, to); break;
    case 4: some_rows<4, V, Kind>(x, rows, order, quads, every, ahead, to); break;
    case 3: some_rows<3, V, Kind>(x, rows, order, quads, every, ahead, to); break;
    case 2: some_rows<2, V, Kind>(x, rows, order, quads, every, ahead, to); break;
    case 1: some_rows<1, V, Kind>(x, rows, order, quads, every, ahead, to); break;
  }
}

// Rows `from` to `to` of a matrix, which are sorted, and one panel; see the other `strip`.
template <int V, class Kind, class Put>
static inline void strip(const Bytes& x, int64_t vector, const Matrix& matrix, const Sorted& sorted, int64_t from, int64_t to,
                         const Put& put) {
  alignas(64) int32_t sums[MOST_SUMS * WIDEST];
  const uint8_t* const panel = x.panel(vector);
  const int64_t ahead = matrix.planes.blocks ? 0 : AT_ONCE * matrix.stride;
  for (int64_t group = 0, row = from; row < to; group++, row += STEP) {
    const int64_t count = least(to - row, STEP), first = row - from, small = sorted.small[group];
    const int8_t* const* const rows = sorted.rows + first;
    const uint8_t* const order = sorted.order + first;
    all_rows<V, Small>(panel, rows, order, small, matrix.quads, sorted.every[group], ahead, sums);
    all_rows<V, Kind>(panel, rows + small, order + small, count - small, matrix.quads, 0, ahead, sums);
    put.template tile<V>(vector, row, (int)count, sums);
  }
}

// See the other one.
template <class Put>
static inline void product(const Panels& panels, const Bytes& x, const Matrix& all_rows, int64_t from, int64_t to,
                           const Put& put, const Decoder& decoder, const int8_t*) {
  const bool alone = panels.count() == 1;
  // What is decoded for a single panel is read at once.
  const int64_t rows = alone && !all_rows.levels ? STEP : most(STEP, CHUNK / all_rows.stride / STEP * STEP);
  for (int64_t first = from; first < to; first += rows) {
    const int64_t last = least(to, first + rows);
    const Matrix matrix = decoder(all_rows, first, last);
    const bool single = alone && panels.width(0) == 1;
    const Sorted sorted(matrix, first, last, single ? nullptr : decoder.words(all_rows.stride));
    if (single) {
      strip<1, Bytewise>(x, 0, matrix, sorted, first, last, put);
      continue;
    }
    for (int64_t p = 0; p < panels.count(); p++) {
      const int64_t vector = panels.first(p);
      if (panels.width(p) == 1) strip<1, Words>(x, vector, matrix, sorted, first, last, put);
      else strip<2, Words>(x, vector, matrix, sorted, first, last, put);
    }
  }
}
