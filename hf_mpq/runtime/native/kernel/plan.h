// An encoder as the kernels read it: laid out once, the same for every instruction set.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "interface.h"

namespace hf_mpq {

constexpr int64_t ALIGN = 64;
constexpr int64_t TILE = 32;  // rows that may be read behind the last one
constexpr int64_t ROWS = 4;  // matrices have a multiple of so many rows, the last ones empty

struct Planes : hf_planes {
  int64_t columns = 0;
};

// Levels of rows `first` to `last`, one behind the other; what lies behind the columns is 0 up to a multiple of 64.
// Up to 128 bytes behind the last row are written too.
typedef void Decode(const Planes&, int64_t first, int64_t last, int8_t* to, int64_t stride);
constexpr int64_t OVER = 128;

// Stored rows that are decoded next, to be brought near: row r begins at `from` + r line in its first plane.
struct Coming {
  const uint8_t* from = nullptr;
  int64_t plane = 0, line = 0;
  int32_t planes = 0;
};

// Weights in their natural row order, `stride` bytes a row.
struct Matrix {
  int64_t rows = 0, columns = 0, padded_rows = 0, stride = 0, quads = 0;
  int8_t* levels = nullptr;  // null: they are decoded from planes
  const int8_t* next = nullptr;  // levels of what is multiplied after this one
  Planes planes{};
  Coming coming{};
  float *scale = nullptr, *bias = nullptr, *offset = nullptr;
  uint8_t* highest = nullptr;  // of each row, what no level is further from 0 than
  int32_t *level_sum = nullptr, *start = nullptr;  // start: minus zero times level_sum, of a fixed grid
  float* step_scale = nullptr;                     // of a fixed grid: its step times scale
  const float *input_scale = nullptr, *input_shift = nullptr;  // both, or none
  const hf_grid* apart = nullptr;                  // of what the last third of each head's rows reads, where it differs
  float largest = -1;  // for steps up to this outputs are finite, and integers of them do not overflow
};

struct Norm {
  float *weight = nullptr, *bias = nullptr;
  float eps = 0;
};

// Rows of `attend` go by heads: query, key and value of the first, of the second... Queries are scaled for exp2.
struct Layer {
  Matrix attend, output, up, down;
  bool bytes_fit;  // on the grid of down: all of a byte, and outputs of up never beyond 32 bits
  hf_grid attend_grid, output_grid, up_grid, down_grid;
  Norm attention_norm, norm;
  int64_t heads, head_size;
  int32_t activation, gated, turn;  // rows of a gated `up` alternate: activated, factor
  int64_t window;
  const float* near = nullptr;      // of a window, at distance 0: added to scores by query minus key
  const float *position_key = nullptr, *position_query = nullptr;  // (heads head_size, places), the latter scaled for exp2
};

constexpr int64_t SLACK = 128;  // distances that vectors of queries and keys reach over

struct Encoder {
  int64_t width, hidden;
  hf_table words, positions, types;
  Decode* decode;
  Norm embedding_norm;
  Matrix projection;
  hf_grid projection_grid;
  float* relative = nullptr;  // (heads, 2 span - 1), by query minus key, scaled for exp2
  int64_t span = 0;
  bool bfloat16 = false;  // products of attention, where the machine has them
  Matrix pooler;
  hf_grid pooler_grid;
  bool norm_last, norm_first;
  Norm final_norm;
  const float* turns = nullptr;
  int64_t turn_kinds = 0, turn_positions = 0;
  const int32_t* places = nullptr;  // at distance 0, by query minus key, SLACK beyond both ends
  int64_t distances = 0, place_count = 0;
  int64_t passes;
  const Layer** layers;       // (passes)
  int64_t most_inner, most_wide, most_head, most_columns, most_stride;  // largest of all layers
};

// Whole sequences, their tokens one behind the other without padding.
struct Block {
  int64_t sequences, tokens, longest;
  const int64_t* starts;  // (sequences + 1) of tokens
  const int64_t* places;  // (tokens) rows of the batch
};

// Threads that work on one block.
class Team {
 public:
  int index = 0, count = 1;
  virtual void wait() {}
  virtual ~Team() {}
};

// One instruction set.
struct Path {
  const char* name;
  bool (*available)();
  int64_t (*bytes)(const Encoder&, const Block&, int threads);  // of memory that a block needs
  void (*run)(const Encoder&, const Block&, const hf_request&, char* memory, Team& team);
  int64_t (*pool_bytes)(const Encoder&, int64_t batch);
  void (*pool)(const Encoder&, const hf_request&, char* memory);
  Decode* decode;
};

}  // namespace hf_mpq
