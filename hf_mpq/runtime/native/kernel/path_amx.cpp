// AMX: products by tiles, all else by AVX512. Built with HF_EMULATED_TILES, the tiles are plain C++, for tests on
// machines without them.
#include "plan.h"

#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef HF_EMULATED_TILES
#include "emulated_tiles.h"
#else
#define HF_TILE_ZERO(tile) _tile_zero(tile)
#define HF_TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define HF_TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define HF_TILE_PRODUCT(to, weights, bytes) _tile_dpbsud(to, weights, bytes)
#define HF_TILE_PAIRS(to, rows, vectors) _tile_dpbf16ps(to, rows, vectors)
#endif
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,amx-tile,amx-int8,amx-bf16"))), apply_to = function)
#else
#pragma GCC push_options
#ifdef HF_EMULATED_TILES
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,prefer-vector-width=512")
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,fma,amx-tile,amx-int8,amx-bf16,prefer-vector-width=512")
#endif
#endif

#define HF_PATH amx
#define HF_AVX512 1
#define HF_BF16 1
#define HF_AMX 1
#define HF_LANES 16
#define HF_WIDEST 2
#define HF_QUERIES 3
#define HF_KEYS 8
#define HF_CHUNK 65536
#include "kernel.h"

namespace hf_mpq::amx {

// Eight tiles of 16 rows of 64 bytes, for this thread as long as it lives: other libraries leave shapes of their own.
class Tiles {
 public:
#ifdef HF_EMULATED_TILES
  Tiles() {}
#else
  Tiles() {
    alignas(64) struct {
      uint8_t palette = 1, first = 0, none[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shapes;
    _tile_loadconfig(&shapes);
  }
  ~Tiles() { _tile_release(); }
#endif
};

static void run_with_tiles(const Encoder& encoder, const Block& block, const hf_request& request, char* memory, Team& team) {
  const Tiles tiles;
  run(encoder, block, request, memory, team);
}

static void pool_with_tiles(const Encoder& encoder, const hf_request& request, char* memory) {
  const Tiles tiles;
  pool(encoder, request, memory);
}

// Whether 32 rows of 100 columns, of all sizes, give what they should; some machines that are emulated only say that they
// have tiles.
static bool right() {
  constexpr int ROWS_HERE = 32, COLUMNS = 100, STRIDE = 128, QUADS = 25, ACROSS = 2 * LANES;
  alignas(64) int8_t levels[ROWS_HERE * STRIDE] = {};
  alignas(64) uint8_t bytes[32 * ACROSS * 4];
  alignas(64) int32_t sums[ROWS_HERE * ACROSS];
  uint32_t state = 1;
  const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 24; };
  for (uint8_t& one : bytes) one = (uint8_t)next();
  for (int r = 0; r < ROWS_HERE; r++)
    for (int k = 0; k < COLUMNS; k++) levels[r * STRIDE + k] = (int8_t)next();
  Matrix matrix;
  matrix.levels = levels, matrix.stride = STRIDE, matrix.quads = QUADS;
  const Tiles tiles;
  Ahead none(nullptr, matrix, ROWS_HERE, 1);
  rows_of_tiles<2>(bytes, matrix, 0, sums, none);
  for (int r = 0; r < ROWS_HERE; r++)
    for (int n = 0; n < ACROSS; n++) {
      int32_t sum = 0;
      for (int k = 0; k < COLUMNS; k++) sum += levels[r * STRIDE + k] * bytes[k / 4 * ACROSS * 4 + n * 4 + k % 4];
      if (sum != sums[r * ACROSS + n]) return false;
    }
  return true;
}

}  // namespace hf_mpq::amx

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace hf_mpq {
extern const Path AMX, AVX512_VNNI;
Decode decode_gfni;
bool transposes_bits();

static void decode_fastest(const Planes& planes, int64_t first, int64_t last, int8_t* to, int64_t stride) {
  (transposes_bits() ? decode_gfni : amx::decode)(planes, first, last, to, stride);
}

// Whether the processor has them and products of bfloat16, and the system lets this process use them, which is asked for
// once.
static bool allowed() {
#ifdef HF_EMULATED_TILES
  return true;
#elif defined(__linux__)
  constexpr long ASK = 0x1023, DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
  unsigned a = 7, b = 0, c = 0, d = 0;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return __builtin_cpu_supports("avx512bf16") && (d >> 22 & 1) && (d >> 24 & 1) && (d >> 25 & 1) && !syscall(SYS_arch_prctl, ASK, DATA);
#else
  return false;
#endif
}

static bool available() {
  static const bool found = AVX512_VNNI.available() && allowed() && amx::right();
  return found;
}
const Path AMX{"amx", available, amx::bytes_of, amx::run_with_tiles, amx::pool_bytes, amx::pool_with_tiles, decode_fastest};
}  // namespace hf_mpq
#endif
