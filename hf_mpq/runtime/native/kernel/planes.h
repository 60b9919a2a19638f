// Levels of rows that are stored as bit planes: of eight codes a byte in each plane, the first of them in its highest bit.

#if HF_GFNI
constexpr int64_t CODES = 128;  // codes that are decoded at once
#elif HF_AVX512
constexpr int64_t CODES = 64;
#elif HF_AVX2
constexpr int64_t CODES = 32;
#elif HF_NEON
constexpr int64_t CODES = 16;
#else
constexpr int64_t CODES = 8;
#endif
constexpr int64_t REST = CODES / 8, AHEAD = 1024;  // bytes

struct Bytes64 {
  uint8_t at[64];
};

// Of 64 codes, the byte that each is in.
static constexpr Bytes64 spread_bytes() {
  Bytes64 made{};
  for (int i = 0; i < 64; i++) made.at[i] = i / 8;
  return made;
}
alignas(64) static constexpr Bytes64 SPREAD = spread_bytes();

// Of 16 bytes of each plane, plane after plane: for eight bytes of them, those of all planes side by side, as the bits of
// codes times the slope are.
static constexpr Bytes64 side_by_side(int bits, int slope) {
  Bytes64 made{};
  for (int i = 0; i < 64; i++) {
    const int plane = i % 8 - (8 - bits) + slope - 1;
    made.at[i] = plane < 0 || plane >= bits ? 255 : 16 * plane + i / 8;
  }
  return made;
}
template <int BITS, int SLOPE>
alignas(64) static constexpr Bytes64 ORDER = side_by_side(BITS, SLOPE);

// `CODES` levels from as many bits of each of BITS planes.
template <int BITS>
struct Unpack {
#if HF_GFNI
  // Bytes of all planes side by side are 8 x 8 bits, which are transposed.
  __m512i order, second, shift;
  __mmask64 used;
  explicit Unpack(const hf_block& block) {
    order = block.slope == 2 ? _mm512_load_si512(&ORDER<BITS, 2>) : _mm512_load_si512(&ORDER<BITS, 1>);
    used = _mm512_cmpneq_epi8_mask(order, _mm512_set1_epi8(-1));
    second = _mm512_add_epi8(order, _mm512_set1_epi8(8)), shift = _mm512_set1_epi8((char)block.shift);
  }
  static HF_INLINE __m512i four(const uint8_t* from, int64_t plane, int count) {
    const auto sixteen = [&](int p) { return _mm_loadu_si128((const __m128i*)(from + p * plane)); };
    __m512i found = _mm512_castsi128_si512(sixteen(0));
    if (count > 1) found = _mm512_inserti64x2(found, sixteen(1), 1);
    if (count > 2) found = _mm512_inserti64x2(found, sixteen(2), 2);
    if (count > 3) found = _mm512_inserti64x2(found, sixteen(3), 3);
    return found;
  }
  HF_INLINE void put(__m512i bits, int8_t* to) const {
    const __m512i codes = _mm512_gf2p8affine_epi64_epi8(_mm512_set1_epi64(0x0102040810204080), bits, 0);
    _mm512_storeu_si512(to, _mm512_sub_epi8(codes, shift));
  }
  HF_INLINE void operator()(const uint8_t* from, int64_t plane, int8_t* to) const {
    const __m512i high = four(from, plane, BITS);
    if (BITS <= 4) {
      put(_mm512_maskz_permutexvar_epi8(used, order, high), to);
      put(_mm512_maskz_permutexvar_epi8(used, second, high), to + 64);
    } else {
      const __m512i low = four(from + 4 * plane, plane, BITS - 4);
      put(_mm512_maskz_permutex2var_epi8(used, high, order, low), to);
      put(_mm512_maskz_permutex2var_epi8(used, high, second, low), to + 64);
    }
  }
#elif HF_AVX512
  __m512i spread, doubled, shift;
  explicit Unpack(const hf_block& block) {
    spread = _mm512_load_si512(&SPREAD);
    doubled = _mm512_set1_epi8(block.slope == 2 ? -1 : 0), shift = _mm512_set1_epi8((char)block.shift);
  }
  HF_INLINE void operator()(const uint8_t* from, int64_t plane, int8_t* to) const {
    const __m512i one = _mm512_set1_epi64(0x0102040810204080);
    __m512i code = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int p = 0; p < BITS; p++) {
      int64_t eight;
      __builtin_memcpy(&eight, from + p * plane, 8);
      const __m512i spreaded = _mm512_shuffle_epi8(_mm512_set1_epi64(eight), spread);
      code = _mm512_mask_add_epi8(code, _mm512_test_epi8_mask(spreaded, one), code,
                                  _mm512_set1_epi8((char)(1 << (BITS - 1 - p))));
    }
    _mm512_storeu_si512(to, _mm512_sub_epi8(_mm512_add_epi8(code, _mm512_and_si512(code, doubled)), shift));
  }
#elif HF_AVX2
  __m256i spread, doubled, shift;
  explicit Unpack(const hf_block& block) {
    spread = _mm256_load_si256((const __m256i*)&SPREAD);
    doubled = _mm256_set1_epi8(block.slope == 2 ? -1 : 0), shift = _mm256_set1_epi8((char)block.shift);
  }
  HF_INLINE void operator()(const uint8_t* from, int64_t plane, int8_t* to) const {
    const __m256i one = _mm256_set1_epi64x(0x0102040810204080);
    __m256i code = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int p = 0; p < BITS; p++) {
      int32_t four;
      __builtin_memcpy(&four, from + p * plane, 4);
      const __m256i bits = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(four), spread), one);
      const __m256i weight = _mm256_set1_epi8((char)(1 << (BITS - 1 - p)));
      code = _mm256_or_si256(code, _mm256_and_si256(_mm256_cmpeq_epi8(bits, one), weight));
    }
    code = _mm256_sub_epi8(_mm256_add_epi8(code, _mm256_and_si256(code, doubled)), shift);
    _mm256_storeu_si256((__m256i*)to, code);
  }
#elif HF_NEON
  uint8x16_t doubled, shift;
  explicit Unpack(const hf_block& block) {
    doubled = vdupq_n_u8(block.slope == 2 ? 255 : 0), shift = vdupq_n_u8((uint8_t)block.shift);
  }
  HF_INLINE void operator()(const uint8_t* from, int64_t plane, int8_t* to) const {
    const uint8x16_t one = vreinterpretq_u8_u64(vdupq_n_u64(0x0102040810204080));
    uint8x16_t code = vdupq_n_u8(0);
#pragma GCC unroll 8
    for (int p = 0; p < BITS; p++) {
      const uint8_t* const two = from + p * plane;
      const uint8x16_t set = vtstq_u8(vcombine_u8(vdup_n_u8(two[0]), vdup_n_u8(two[1])), one);
      code = vorrq_u8(code, vandq_u8(set, vdupq_n_u8(1 << (BITS - 1 - p))));
    }
    vst1q_s8(to, vreinterpretq_s8_u8(vsubq_u8(vaddq_u8(code, vandq_u8(code, doubled)), shift)));
  }
#else
  int slope, shift;
  explicit Unpack(const hf_block& block) : slope(block.slope), shift(block.shift) {}
  HF_INLINE void operator()(const uint8_t* from, int64_t plane, int8_t* to) const {
    uint64_t codes = 0;  // the first in the lowest byte
    for (int p = 0; p < BITS; p++) {
      const uint64_t bits = from[p * plane] * 0x0101010101010101ull & 0x0102040810204080ull;
      codes = 2 * codes + ((bits + 0x7f7f7f7f7f7f7f7full) >> 7 & 0x0101010101010101ull);
    }
    for (int i = 0; i < 8; i++) to[i] = (int8_t)(slope * (int)(codes >> 8 * i & 255) - shift);
  }
#endif
};

// Rows from `first` on, as long as they are of the same block; returns the next one.
template <int BITS>
static int64_t unpack_rows(const Planes& planes, int64_t first, int64_t last, int8_t* to, int64_t stride) {
  const int32_t number = planes.places[first] % HF_BLOCKS;
  const hf_block& block = planes.blocks[number];
  const int64_t columns = planes.columns;
  const Unpack<BITS> unpack(block);
  int64_t row = first;
  for (; row < last && planes.places[row] % HF_BLOCKS == number; row++, to += stride) {
    const uint8_t* const from = block.planes + planes.places[row] / HF_BLOCKS * planes.line;
    for (int p = 0; p < BITS; p++) {
      __builtin_prefetch(from + p * block.plane + AHEAD), __builtin_prefetch(from + p * block.plane + AHEAD + 64);
    }
    int64_t i = 0;
    for (; i + CODES <= columns; i += CODES) unpack(from + i / 8, block.plane, to + i);
    if (i < columns) {
      uint8_t rest[BITS * REST] = {};  // nothing is read that lies behind the row
      for (int p = 0; p < BITS; p++) __builtin_memcpy(rest + REST * p, from + p * block.plane + i / 8, (columns - i + 7) / 8);
      unpack(rest, REST, to + i);
    }
    for (i = columns; i % 64; i++) to[i] = 0;
  }
  return row;
}

static int64_t empty_rows(const Planes& planes, int64_t first, int64_t last, int8_t* to, int64_t stride) {
  int64_t row = first;
  for (; row < last && planes.places[row] == HF_NOWHERE; row++, to += stride)
    __builtin_memset(to, 0, (planes.columns + 63) / 64 * 64);
  return row;
}

// See `Decode`.
static void decode(const Planes& planes, int64_t first, int64_t last, int8_t* to, int64_t stride) {
  for (int64_t row = first, next; row < last; to += (next - row) * stride, row = next) {
    const int32_t place = planes.places[row];
    switch (place == HF_NOWHERE ? 0 : planes.blocks[place % HF_BLOCKS].bits) {
      case 0: next = empty_rows(planes, row, last, to, stride); break;
      case 1: next = unpack_rows<1>(planes, row, last, to, stride); break;
      case 2: next = unpack_rows<2>(planes, row, last, to, stride); break;
      case 3: next = unpack_rows<3>(planes, row, last, to, stride); break;
      case 4: next = unpack_rows<4>(planes, row, last, to, stride); break;
      case 5: next = unpack_rows<5>(planes, row, last, to, stride); break;
      case 6: next = unpack_rows<6>(planes, row, last, to, stride); break;
      case 7: next = unpack_rows<7>(planes, row, last, to, stride); break;
      default: next = unpack_rows<8>(planes, row, last, to, stride);
    }
  }
}
