// Tiles of 16 rows of 64 bytes in plain C++, one set for each thread.
#pragma once
#include <stdint.h>
#include <string.h>

namespace hf_mpq {

struct EmulatedTile {
  uint8_t rows[16][64];
};
inline thread_local EmulatedTile emulated[8];

inline void emulated_load(int tile, const void* from, int64_t stride) {
  for (int r = 0; r < 16; r++) memcpy(emulated[tile].rows[r], (const char*)from + r * stride, 64);
}
inline void emulated_store(int tile, void* to, int64_t stride) {
  for (int r = 0; r < 16; r++) memcpy((char*)to + r * stride, emulated[tile].rows[r], 64);
}
// Adds products of signed bytes (16 rows, 64) and unsigned ones (16 quads, 16 columns, 4).
inline void emulated_product(int to, int weights, int bytes) {
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 16; n++) {
      int32_t sum;
      memcpy(&sum, emulated[to].rows[m] + 4 * n, 4);
      for (int k = 0; k < 64; k++)
        sum += (int32_t)(int8_t)emulated[weights].rows[m][k] * emulated[bytes].rows[k / 4][4 * n + k % 4];
      memcpy(emulated[to].rows[m] + 4 * n, &sum, 4);
    }
}
// Adds products of pairs of bfloat16: (16 rows, 32) and (16 pairs, 16 columns, 2).
inline float emulated_float(const uint8_t* from) {
  uint16_t half;
  memcpy(&half, from, 2);
  const uint32_t whole = (uint32_t)half << 16;
  float value;
  memcpy(&value, &whole, 4);
  return value;
}
inline void emulated_pairs(int to, int rows, int vectors) {
  for (int m = 0; m < 16; m++)
    for (int n = 0; n < 16; n++) {
      float sum;
      memcpy(&sum, emulated[to].rows[m] + 4 * n, 4);
      for (int k = 0; k < 32; k++)
        sum += emulated_float(emulated[rows].rows[m] + 2 * k) * emulated_float(emulated[vectors].rows[k / 2] + 4 * n + k % 2 * 2);
      memcpy(emulated[to].rows[m] + 4 * n, &sum, 4);
    }
}

}  // namespace hf_mpq

#define HF_TILE_ZERO(tile) memset(&hf_mpq::emulated[tile], 0, sizeof(hf_mpq::EmulatedTile))
#define HF_TILE_LOAD(tile, from, stride) hf_mpq::emulated_load(tile, from, stride)
#define HF_TILE_STORE(tile, to, stride) hf_mpq::emulated_store(tile, to, stride)
#define HF_TILE_PRODUCT(to, weights, bytes) hf_mpq::emulated_product(to, weights, bytes)
#define HF_TILE_PAIRS(to, rows, vectors) hf_mpq::emulated_pairs(to, rows, vectors)
