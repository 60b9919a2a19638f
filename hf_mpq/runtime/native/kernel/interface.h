// The C interface: plain data in, one call per request. Nothing here knows torch or Python.
#pragma once
#include <stdint.h>

#ifdef _WIN32
#define HF_EXPORT extern "C" __declspec(dllexport)
#else
#define HF_EXPORT extern "C" __attribute__((visibility("default")))
#endif

// What an activation is quantized to; bytes of symmetric levels are 128 higher.
typedef struct {
  int32_t dynamic;    // one range per token instead of step and zero
  int32_t symmetric;
  float levels;       // 2^b - 1, or 2^(b-1) - 1 when symmetric
  float step, zero;   // zero: the byte that stands for 0
} hf_grid;

// Rows of one precision among bit planes: of eight codes a byte in each plane, and level = slope code - shift.
typedef struct {
  const uint8_t* planes;  // of the first row, that of the highest bits first; not copied: they must outlive the encoder
  int64_t plane;          // bytes from one plane to the next
  int32_t bits, slope, shift;
} hf_block;

enum {
  HF_BLOCKS = 64,   // of a matrix at most; of matrices that read the same input, all together
  HF_NOWHERE = -1,  // place of a row whose levels are 0
};

// Where levels are stored as bit planes.
typedef struct {
  const hf_block* blocks;  // null: they are not
  const int32_t* places;   // (rows): HF_BLOCKS times the row of a block, plus the number of the block; or HF_NOWHERE
  int64_t line;            // bytes of a row in one plane
} hf_planes;

// weight = levels scale + offset, by rows; read while an encoder is made, and copied, but for planes. Of each input x,
// (x - input_shift) / input_scale is quantized; those of query, key and value are the query's.
typedef struct {
  const int8_t* levels;  // (rows, columns); null: they are in planes
  const float* scale;    // (rows)
  const float* offset;   // (rows), or null
  const float* bias;     // (rows)
  int64_t rows, columns;
  const float *input_scale, *input_shift;  // (columns), or null
  hf_planes planes;
} hf_matrix;

typedef struct {
  const float *weight, *bias;
  float eps;
} hf_norm;

// Rows that are looked up: floats, or levels times scale (plus offset). Not copied: it must outlive the encoder.
typedef struct {
  const float* floats;
  const int8_t* levels;
  const float *scale, *offset;
  int64_t rows;
  hf_planes planes;  // in place of levels
} hf_table;

enum { HF_GELU = 0, HF_GELU_TANH = 1, HF_RELU = 2 };

// h = attention_norm(x + output(attention(x))), then norm(h + down(activation(up(h)))). Where norms come before:
// h = x + output(attention(attention_norm(x))), then h + down(activation(up(norm(h)))).
typedef struct {
  hf_matrix query, key, value, output, up, down;  // key and value without rows: query holds all three, one below the other
  hf_grid attend_grid, output_grid, up_grid, down_grid;  // of what each reads
  hf_grid value_grid;  // of what value reads, where `value_apart` says that it is another than attend_grid
  int32_t value_apart;
  hf_norm attention_norm, norm;
  int64_t heads;
  int32_t activation;
  int32_t gated;     // whether the lower half of what up gives is multiplied with the activated upper half
  float scale;       // of scores: one over the root of a head's size, or less
  int32_t turn;      // which turn of the encoder queries and keys get; -1: none
  int64_t window;    // tokens read no others that are further away; 0: they read all
  // (rows of query, places), or both null: query i and key j get scale (query_i position_key[p] + key_j position_query[p])
  // more, where p is the encoder's place of i - j.
  const float *position_key, *position_query;
} hf_layer;

typedef struct {
  int64_t width;                     // of the embeddings
  int64_t hidden;                    // of the layers
  hf_table words, positions, types;  // words without rows: requests bring their embeddings as floats
  hf_norm embedding_norm;            // without weight: there is none
  hf_matrix projection;              // from width to hidden; without rows: there is none
  hf_grid projection_grid;
  int32_t norm_last;                 // whether embedding_norm comes after projection
  int32_t norm_first;                // whether layers normalise what matrices read, and not sums
  hf_norm final_norm;                // after all layers; without weight: there is none
  // (kinds, turn_positions, size of a head): cosines for the first half of a head, then sines; or null. Features i and
  // i + half are turned together.
  const float* turns;
  int64_t turn_kinds, turn_positions;
  const int32_t* places;             // (2 distances - 1), by query minus key; or null
  int64_t distances, place_count;
  const float* relative;             // (heads, 2 span - 1) added to scores, by key minus query; or null
  int64_t span;
  int64_t layers;                    // passes through layers; `order` says through which, so that they can be shared
  const hf_layer* distinct;
  const int32_t* order;
  int64_t distinct_layers;
  int32_t bfloat16;                  // what attention multiplies, where the machine does
  hf_matrix pooler;                  // tanh of its outputs for the first column of each row; without rows: there is none
  hf_grid pooler_grid;
} hf_encoder;

// One batch, (batch, tokens) everywhere. What is masked is never computed: its outputs are 0.
typedef struct {
  int64_t batch, tokens;
  const int64_t* ids;        // null: `embedded` is given
  const float* embedded;     // (batch, tokens, width), normalised and all
  const uint8_t* mask;       // 0 is padding; null: there is none
  const int64_t* positions;  // null: the column
  const int64_t* types;      // null: 0
  float* out;                // (batch, tokens, hidden)
  float* pooled;             // (batch, rows of pooler), or null
  int32_t threads;
} hf_request;

// The CRC-32 of this file as it was when the kernel was built; 0: not said.
HF_EXPORT uint32_t hf_mpq_interface(void);

HF_EXPORT const char* hf_mpq_paths(void);                                // what this machine can run, fastest first, by commas
HF_EXPORT void* hf_mpq_make(const hf_encoder* encoder, const char* path);  // null where memory is short, or the path is unknown
HF_EXPORT void hf_mpq_drop(void* encoder);
HF_EXPORT int64_t hf_mpq_bytes(const void* encoder);  // that it holds, of what was copied and of earlier requests
HF_EXPORT int hf_mpq_run(const void* encoder, const hf_request* request);  // 0, or one of the below
enum {
  HF_OUTSIDE_TABLE = 1,
  HF_NO_MEMORY = 2,
  HF_NO_TOKEN = 3,  // a row of which all is masked
  HF_HOLES = 4,     // masked tokens between others, or more tokens than distances, where attention depends on them
};
