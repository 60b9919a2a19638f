// The C interface: encoders made of plain data, and requests cut into blocks.
#include "interface.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "pool.h"

namespace hf_mpq {

extern const Path PORTABLE;
#if defined(__x86_64__)
extern const Path AMX, AVX512_GFNI, AVX512_VNNI, AVX_VNNI, AVX2;
#elif defined(__aarch64__)
extern const Path NEON_I8MM, NEON_DOT;
#endif

namespace {

const Path* const PATHS[] = {
#if defined(__x86_64__)
    &AMX, &AVX512_GFNI, &AVX512_VNNI, &AVX_VNNI, &AVX2,
#elif defined(__aarch64__)
    &NEON_I8MM, &NEON_DOT,
#endif
    &PORTABLE,
};

constexpr int64_t BLOCK = 256;  // tokens that one thread takes at once: what it works on should fit in its cache
constexpr float LOG2_E = 1.44269504088896341f;

// Memory that is given back all at once.
class Arena {
 public:
  ~Arena() {
    for (void* one : taken) std::free(one);
  }
  template <class T>
  T* take(int64_t count) {
    const size_t size = ((count * sizeof(T) + ALIGN - 1) / ALIGN + 1) * ALIGN;
    void* const found = std::aligned_alloc(ALIGN, size);
    if (!found) throw std::bad_alloc();
    std::memset(found, 0, size);
    taken.push_back(found), held += size;
    return (T*)found;
  }
  float* copy(const float* from, int64_t count) {
    float* const to = take<float>(count);
    std::copy_n(from, count, to);
    return to;
  }
  int64_t held = 0;

 private:
  std::vector<void*> taken;
};

// Blocks that are used; 0 of a matrix that is not in planes, otherwise at least 1.
int32_t count_blocks(const hf_matrix& from) {
  if (!from.planes.blocks) return 0;
  int32_t count = 1;
  for (int64_t i = 0; i < from.rows; i++)
    if (from.planes.places[i] != HF_NOWHERE) count = std::max(count, from.planes.places[i] % HF_BLOCKS + 1);
  return count;
}

Matrix empty(Arena& arena, int64_t rows, int64_t columns, bool offset, int32_t blocks) {
  Matrix made;
  made.rows = rows, made.columns = columns, made.quads = (columns + 3) / 4;
  made.padded_rows = (rows + ROWS - 1) / ROWS * ROWS;
  const int64_t held = made.padded_rows + TILE;
  made.stride = (made.columns + 63) / 64 * 64;  // tiles are read whole, with zeros behind the last column
  if (made.stride % 1024 == 0) made.stride += 64;  // rows would fall on the same lines of the cache
  if (blocks) {
    made.planes.blocks = arena.take<hf_block>(blocks), made.planes.columns = columns;
    int32_t* const places = arena.take<int32_t>(held);
    std::fill_n(places, held, HF_NOWHERE);
    made.planes.places = places;
  } else {
    made.levels = arena.take<int8_t>(held * made.stride);
  }
  made.scale = arena.take<float>(held), made.bias = arena.take<float>(held);
  made.level_sum = arena.take<int32_t>(held), made.highest = arena.take<uint8_t>(held);
  if (offset) made.offset = arena.take<float>(held);
  return made;
}

// Takes over the blocks of one that is laid out in it, as those from `first` on.
void put_blocks(Matrix& to, int32_t first, const hf_matrix& from) {
  std::copy_n(from.planes.blocks, count_blocks(from), (hf_block*)to.planes.blocks + first);
  to.planes.line = from.planes.line;
}

// Of a row in planes: each plane counts its bits.
int32_t sum_of(const hf_planes& planes, int32_t place, int64_t columns) {
  if (place == HF_NOWHERE) return 0;
  const hf_block& block = planes.blocks[place % HF_BLOCKS];
  const uint8_t* from = block.planes + place / HF_BLOCKS * planes.line;
  int64_t codes = 0;
  for (int32_t p = 0; p < block.bits; p++, from += block.plane) {
    int64_t bits = 0;
    for (int64_t i = 0; i < columns; i += 64) {
      uint64_t eight = 0;
      std::memcpy(&eight, from + i / 8, std::min<int64_t>(8, (columns - i + 7) / 8));
      bits += __builtin_popcountll(eight);
    }
    codes = 2 * codes + bits;
  }
  return (int32_t)(block.slope * codes - block.shift * columns);
}

// Levels of a row in planes lie between minus `shift` and this.
uint8_t highest_of(const hf_planes& planes, int32_t place) {
  if (place == HF_NOWHERE) return 0;
  const hf_block& block = planes.blocks[place % HF_BLOCKS];
  const int32_t last = block.slope * ((1 << block.bits) - 1) - block.shift;
  return (uint8_t)std::min(255, std::max(std::abs(last), std::abs(block.shift)));
}

void put_row(Matrix& to, int64_t at, const hf_matrix& from, int64_t row, float factor, int32_t first_block) {
  if (from.planes.blocks) {
    const int32_t place = from.planes.places[row];
    ((int32_t*)to.planes.places)[at] = place == HF_NOWHERE ? place : place + first_block;
    to.level_sum[at] = sum_of(from.planes, place, from.columns), to.highest[at] = highest_of(from.planes, place);
  } else {
    int8_t* const levels = to.levels + at * to.stride;
    int32_t sum = 0, highest = 0;
    for (int64_t i = 0; i < from.columns; i++) {
      sum += levels[i] = from.levels[row * from.columns + i];
      highest = std::max(highest, std::abs((int32_t)levels[i]));
    }
    to.level_sum[at] = sum, to.highest[at] = (uint8_t)highest;
  }
  to.scale[at] = from.scale[row] * factor, to.bias[at] = from.bias[row] * factor;
  if (from.offset) to.offset[at] = from.offset[row] * factor;
}

// What is known of a matrix beside its rows once its grid is.
void complete(Arena& arena, Matrix& made, const hf_grid& shared, int64_t size = 1) {
  made.start = arena.take<int32_t>(made.padded_rows + TILE), made.step_scale = arena.take<float>(made.padded_rows + TILE);
  double scale = 0, bias = 0;
  for (int64_t i = 0; i < made.padded_rows; i++) {
    const hf_grid& grid = made.apart && i / size % 3 == 2 ? *made.apart : shared;
    if (!grid.dynamic) made.start[i] = -(int32_t)grid.zero * made.level_sum[i], made.step_scale[i] = grid.step * made.scale[i];
    scale += std::abs((double)made.scale[i]), bias += std::abs((double)made.bias[i]);
  }
  const double sums = 255.0 * 255 * made.columns * scale;  // NaN and infinity of one row are of all
  if (!made.offset && std::isfinite(sums) && bias < 1e30) made.largest = (float)std::min(1e30, 1e30 / std::max(sums, 1e-30));
}

// The same, for steps of which the outputs fit into 32 bits as levels of another grid.
float largest_step(const Matrix& made, float limit) {
  double scale = 0, bias = 0;
  for (int64_t i = 0; i < made.rows; i++) {
    scale = std::max(scale, std::abs((double)made.scale[i])), bias = std::max(bias, std::abs((double)made.bias[i]));
  }
  return (float)std::min<double>(made.largest, (limit - bias) / std::max(255.0 * 255 * made.columns * scale, 1e-30));
}

// Inputs' shifts and scales.
void adjust(Arena& arena, Matrix& made, const hf_matrix& from) {
  if (!from.input_scale && !from.input_shift) return;
  float* const scale = arena.take<float>(from.columns);
  float* const shift = arena.take<float>(from.columns);
  for (int64_t i = 0; i < from.columns; i++) {
    scale[i] = from.input_scale ? from.input_scale[i] : 1;
    if (from.input_shift) shift[i] = from.input_shift[i];
  }
  made.input_scale = scale, made.input_shift = shift;
}

// Rows of one that is gated alternate.
Matrix laid_out(Arena& arena, const hf_matrix& from, const hf_grid& grid, bool gated = false) {
  Matrix made = empty(arena, from.rows, from.columns, from.offset, count_blocks(from));
  if (from.planes.blocks) put_blocks(made, 0, from);
  for (int64_t i = 0; i < from.rows; i++) put_row(made, i, from, gated ? i % 2 * (from.rows / 2) + i / 2 : i, 1, 0);
  complete(arena, made, grid);
  adjust(arena, made, from);
  return made;
}

// Query, key and value of each head after those of the one before.
Matrix by_heads(Arena& arena, const hf_layer& from, int64_t size) {
  const bool joined = !from.key.rows;
  const hf_matrix* const parts[] = {&from.query, joined ? &from.query : &from.key, joined ? &from.query : &from.value};
  const bool offset = from.query.offset || from.key.offset || from.value.offset;
  int32_t first_block[4] = {};
  const int matrices = joined ? 1 : 3;
  for (int i = 0; i < matrices; i++) first_block[i + 1] = first_block[i] + count_blocks(*parts[i]);
  Matrix made = empty(arena, 3 * from.heads * size, from.query.columns, offset, first_block[matrices]);
  for (int i = 0; i < matrices && from.query.planes.blocks; i++) put_blocks(made, first_block[i], *parts[i]);
  for (int64_t h = 0; h < from.heads; h++)
    for (int part = 0; part < 3; part++)
      for (int64_t i = 0; i < size; i++)
        put_row(made, (3 * h + part) * size + i, *parts[part], ((joined ? part * from.heads : 0) + h) * size + i,
                part ? 1 : LOG2_E * from.scale, joined ? 0 : first_block[part]);
  if (from.value_apart) {
    hf_grid* const apart = arena.take<hf_grid>(1);
    *apart = from.value_grid, made.apart = apart;
  }
  complete(arena, made, from.attend_grid, size);
  adjust(arena, made, from.query);
  return made;
}

Norm norm_of(Arena& arena, const hf_norm& from, int64_t features) {
  if (!from.weight) return {};
  return {arena.copy(from.weight, features), arena.copy(from.bias, features), from.eps};
}

struct Made : Encoder {
  Arena arena;
  const Path* path;
  bool by_distance = false;  // attention depends on how far tokens are apart
  mutable std::mutex mutex;
  mutable std::vector<std::pair<int64_t, void*>> rooms;  // memory of earlier calls

  ~Made() {
    for (auto& room : rooms) std::free(room.second);
  }

  void* take_room(int64_t& size) const {
    std::lock_guard<std::mutex> held(mutex);
    if (!rooms.empty()) {
      const auto found = rooms.back();
      rooms.pop_back();
      if (found.first >= size) {
        size = found.first;
        return found.second;
      }
      std::free(found.second);
    }
    return std::malloc(size);
  }

  int64_t bytes() const {
    std::lock_guard<std::mutex> held(mutex);
    int64_t all = arena.held;
    for (auto& room : rooms) all += room.first;
    return all;
  }

  void give_back(void* room, int64_t size) const {
    std::lock_guard<std::mutex> held(mutex);
    rooms.emplace_back(size, room);
  }
};

// What is added to scores by distance, where those beyond a window have no part.
const float* near_of(Arena& arena, int64_t window) {
  const int64_t reach = window + SLACK;
  float* const made = arena.take<float>(2 * reach + 1);
  for (int64_t i = 0; i <= 2 * reach; i++) made[i] = std::abs(i - reach) > window ? -1e30f : 0;
  return made + reach;
}

// What positions add to scores; zeros where there is nothing.
const float* positions_of(Arena& arena, const float* from, int64_t count, float factor) {
  float* const made = arena.take<float>(count);
  for (int64_t i = 0; from && i < count; i++) made[i] = from[i] * factor;
  return made;
}

Layer layer_of(Arena& arena, const hf_layer& from, int64_t hidden, int64_t places) {
  Layer made;
  made.heads = from.heads, made.head_size = from.query.rows / (from.key.rows ? 1 : 3) / from.heads;
  made.gated = from.gated, made.turn = from.turn, made.window = from.window;
  if (from.window) made.near = near_of(arena, from.window);
  if (from.position_key || from.position_query) {
    const int64_t count = made.heads * made.head_size * places;
    made.position_key = positions_of(arena, from.position_key, count, 1);
    made.position_query = positions_of(arena, from.position_query, count, LOG2_E * from.scale);
  }
  made.attend = by_heads(arena, from, made.head_size);
  made.output = laid_out(arena, from.output, from.output_grid);
  made.up = laid_out(arena, from.up, from.up_grid, from.gated), made.down = laid_out(arena, from.down, from.down_grid);
  const hf_grid& grid = from.down_grid;
  made.bytes_fit = !grid.dynamic && !grid.symmetric && grid.levels == 255 && std::isnormal(grid.step);
  if (made.bytes_fit) made.up.largest = largest_step(made.up, 1e9f * grid.step);
  made.attend_grid = from.attend_grid, made.output_grid = from.output_grid;
  made.up_grid = from.up_grid, made.down_grid = from.down_grid;
  made.attention_norm = norm_of(arena, from.attention_norm, hidden), made.norm = norm_of(arena, from.norm, hidden);
  made.activation = from.activation;
  return made;
}

void measure(Made& made, const Layer* layers, int64_t count) {
  made.most_inner = made.most_wide = made.most_head = 0;
  made.most_columns = std::max(made.width, made.hidden);
  for (const Layer* layer = layers; layer < layers + count; layer++) {
    made.most_inner = std::max(made.most_inner, layer->output.columns);
    made.most_wide = std::max(made.most_wide, layer->up.padded_rows);
    made.most_head = std::max(made.most_head, layer->head_size);
  }
  made.most_wide = std::max({made.most_wide, made.hidden, made.width});  // also holds what is read, where that is not hidden
  made.most_columns = std::max({made.most_columns, made.most_inner, made.most_wide});
  made.most_stride = (made.most_columns + 63) / 64 * 64 + 64;
}

// Scores' biases by query minus key, with room at both ends, which vectors of queries reach over.
void place_relative(Made& made, const hf_encoder& from, int64_t heads) {
  const int64_t row = 2 * from.span - 1 + 2 * ALIGN;
  made.relative = made.arena.take<float>(heads * row);
  made.span = from.span;
  for (int64_t h = 0; h < heads; h++)
    for (int64_t i = 0; i < 2 * from.span - 1; i++)
      made.relative[h * row + ALIGN + i] = from.relative[h * (2 * from.span - 1) + 2 * from.span - 2 - i] * LOG2_E;
}

void place_distances(Made& made, const hf_encoder& from) {
  const int64_t middle = from.distances + SLACK;
  int32_t* const places = made.arena.take<int32_t>(2 * middle + 1);
  for (int64_t i = 0; i <= 2 * middle; i++)
    places[i] = from.places[std::clamp<int64_t>(i - SLACK - 1, 0, 2 * from.distances - 2)];
  made.places = places + middle, made.distances = from.distances, made.place_count = from.place_count;
}

void place_turns(Made& made, const hf_encoder& from, int64_t size) {
  made.turn_kinds = from.turn_kinds, made.turn_positions = from.turn_positions;
  made.turns = made.arena.copy(from.turns, from.turn_kinds * from.turn_positions * size);
}

Made* make(const hf_encoder& from, const Path* path) {
  auto made = std::make_unique<Made>();
  made->path = path, made->decode = path->decode;
  made->width = from.width, made->hidden = from.hidden, made->passes = from.layers;
  made->words = from.words, made->positions = from.positions, made->types = from.types;
#if defined(__x86_64__)
  made->bfloat16 = from.bfloat16 && __builtin_cpu_supports("avx512bf16");
#endif
  made->norm_last = from.norm_last, made->norm_first = from.norm_first;
  made->embedding_norm = norm_of(made->arena, from.embedding_norm, from.norm_last ? from.hidden : from.width);
  made->final_norm = norm_of(made->arena, from.final_norm, from.hidden);
  if (from.projection.rows) made->projection = laid_out(made->arena, from.projection, from.projection_grid);
  made->projection_grid = from.projection_grid;
  if (from.pooler.rows) made->pooler = laid_out(made->arena, from.pooler, from.pooler_grid);
  made->pooler_grid = from.pooler_grid;
  Layer* const layers = made->arena.take<Layer>(from.distinct_layers);
  for (int64_t i = 0; i < from.distinct_layers; i++) layers[i] = layer_of(made->arena, from.distinct[i], from.hidden, from.place_count);
  made->layers = made->arena.take<const Layer*>(from.layers);
  for (int64_t i = 0; i < from.layers; i++) made->layers[i] = &layers[from.order[i]];
  for (int64_t i = 0; i < from.layers; i++) {
    Layer& layer = layers[from.order[i]];
    layer.attend.next = layer.output.levels, layer.output.next = layer.up.levels, layer.up.next = layer.down.levels;
    layer.down.next = layers[from.order[(i + 1) % from.layers]].attend.levels;
  }
  measure(*made, layers, from.distinct_layers);
  made->by_distance = from.relative || from.places;
  for (int64_t i = 0; i < from.distinct_layers; i++) made->by_distance |= layers[i].window > 0;
  if (from.relative) place_relative(*made, from, layers[0].heads);
  if (from.places) place_distances(*made, from);
  if (from.turns) place_turns(*made, from, layers[0].head_size);
  return made.release();
}

// The tokens of a batch that are not masked, by sequences.
struct Packed {
  std::vector<int64_t> starts{0}, places;
  bool empty_rows = false;

  explicit Packed(const hf_request& request) {
    places.reserve(request.batch * request.tokens);
    for (int64_t b = 0; b < request.batch; b++) {
      for (int64_t place = b * request.tokens; place < (b + 1) * request.tokens; place++)
        if (!request.mask || request.mask[place]) places.push_back(place);
      empty_rows |= (int64_t)places.size() == starts.back();
      starts.push_back(places.size());
    }
  }

  bool holes() const {
    for (size_t s = 0; s + 1 < starts.size(); s++)
      if (places[starts[s + 1] - 1] - places[starts[s]] != starts[s + 1] - starts[s] - 1) return true;
    return false;
  }
};

struct Work {
  int64_t first, sequences;
};

bool inside(const hf_table& table, const int64_t* rows, const std::vector<int64_t>& places) {
  if (!rows || !table.rows) return true;
  return std::all_of(places.begin(), places.end(), [&](int64_t place) { return rows[place] >= 0 && rows[place] < table.rows; });
}

// Whole sequences of together about BLOCK tokens, and few enough that every thread gets some.
std::vector<Work> cut(const Packed& packed, int threads) {
  const int64_t sequences = packed.starts.size() - 1, tokens = packed.places.size();
  const int64_t limit = std::max<int64_t>(1, std::min(BLOCK, (tokens + threads - 1) / threads));
  std::vector<Work> found;
  for (int64_t s = 0; s < sequences;) {
    int64_t next = s + 1;
    while (next < sequences && packed.starts[next + 1] - packed.starts[s] <= limit) next++;
    found.push_back({s, next - s});
    s = next;
  }
  return found;
}

// One block, by a team that shares its memory.
int by_team(const Made& made, const hf_request& request, const Packed& packed, const Work& work, int threads) {
  std::vector<int64_t> starts;
  int64_t longest = 0;
  for (int64_t s = work.first; s <= work.first + work.sequences; s++) {
    starts.push_back(packed.starts[s] - packed.starts[work.first]);
    if (s > work.first) longest = std::max(longest, packed.starts[s] - packed.starts[s - 1]);
  }
  const Block block{work.sequences, starts.back(), longest, starts.data(), packed.places.data() + packed.starts[work.first]};
  int64_t size = made.path->bytes(made, block, threads);
  void* const room = made.take_room(size);
  if (!room) return HF_NO_MEMORY;
  together(threads, [&](Team& team) { made.path->run(made, block, request, (char*)room, team); });
  made.give_back(room, size);
  return 0;
}

int pool(const Made& made, const hf_request& request) {
  int64_t size = made.path->pool_bytes(made, request.batch);
  void* const room = made.take_room(size);
  if (!room) return HF_NO_MEMORY;
  made.path->pool(made, request, (char*)room);
  made.give_back(room, size);
  return 0;
}

int encode(const Made& made, const hf_request& request) {
  const Packed packed(request);
  const int64_t hidden = made.hidden;
  if (packed.empty_rows) return HF_NO_TOKEN;
  if (made.by_distance && packed.holes()) return HF_HOLES;
  if ((made.relative && request.tokens > made.span) || (made.places && request.tokens > made.distances)) return HF_HOLES;
  if (made.turns) {
    const hf_table turns{nullptr, nullptr, nullptr, nullptr, made.turn_positions};
    if (!inside(turns, request.positions, packed.places)) return HF_OUTSIDE_TABLE;
    if (!request.positions && request.tokens > made.turn_positions) return HF_OUTSIDE_TABLE;
  }
  if (request.ids && !(inside(made.words, request.ids, packed.places) && inside(made.types, request.types, packed.places) &&
                       inside(made.positions, request.positions, packed.places)))
    return HF_OUTSIDE_TABLE;
  if (request.ids && made.positions.rows && !request.positions && request.tokens > made.positions.rows) return HF_OUTSIDE_TABLE;
  if (request.mask)
    for (int64_t place = 0; place < request.batch * request.tokens; place++)
      if (!request.mask[place]) std::fill_n(request.out + place * hidden, hidden, 0.0f);
  const int threads = std::max(1, request.threads);
  const std::vector<Work> works = cut(packed, threads);
  if (threads == 1 || (int64_t)works.size() < threads) {
    for (const Work& work : works)
      if (const int failed = by_team(made, request, packed, work, threads)) return failed;
    return 0;
  }
  std::atomic<size_t> next{0};
  std::atomic<int> failed{0};
  together(threads, [&](Team&) {
    for (size_t i; (i = next++) < works.size();)
      if (const int one = by_team(made, request, packed, works[i], 1)) failed = one;
  });
  return failed;
}

int serve(const Made& made, const hf_request& request) {
  const int failed = encode(made, request);
  return failed || !request.pooled || !made.pooler.rows ? failed : pool(made, request);
}

}  // namespace
}  // namespace hf_mpq

using namespace hf_mpq;

#ifndef HF_MPQ_INTERFACE
#define HF_MPQ_INTERFACE 0
#endif

uint32_t hf_mpq_interface(void) { return HF_MPQ_INTERFACE; }

const char* hf_mpq_paths(void) {
  static const std::string names = [] {
    std::string found;
    for (const Path* path : PATHS)
      if (path->available()) found += (found.empty() ? "" : ",") + std::string(path->name);
    return found;
  }();
  return names.c_str();
}

void* hf_mpq_make(const hf_encoder* encoder, const char* path) {
  try {
    for (const Path* one : PATHS)
      if (one->available() && (!path || std::string(path) == one->name)) return make(*encoder, one);
  } catch (const std::bad_alloc&) {
  }
  return nullptr;
}

void hf_mpq_drop(void* encoder) { delete (Made*)encoder; }

int64_t hf_mpq_bytes(const void* encoder) { return ((const Made*)encoder)->bytes(); }

int hf_mpq_run(const void* encoder, const hf_request* request) {
  try {
    return serve(*(const Made*)encoder, *request);
  } catch (const std::bad_alloc&) {
    return HF_NO_MEMORY;
  }
}
