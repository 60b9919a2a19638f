// Every instruction set of the machine that this runs on against plain C++, on a small random encoder. Prints a line for
// each, and ends with 1 where one is wrong. For machines that are only emulated: it needs neither Python nor torch.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "interface.h"

namespace {

constexpr int64_t HIDDEN = 48, ODD = 45, INNER = 100, HEADS = 3, WORDS = 50, LAYERS = 2, BATCH = 6, TOKENS = 37;
constexpr int64_t PLACES = 20;
std::mt19937 engine(0);

std::vector<float> floats(int64_t count, float spread, float middle = 0) {
  std::normal_distribution<float> normal(middle, spread);
  std::vector<float> found(count);
  for (float& one : found) one = normal(engine);
  return found;
}

// Keeps what encoders point at.
struct Random {
  std::vector<std::vector<float>> kept;
  std::vector<std::vector<int8_t>> levels;
  hf_grid grid;
  bool largest = false;

  const float* of(int64_t count, float spread, float middle = 0) {
    kept.push_back(floats(count, spread, middle));
    return kept.back().data();
  }
  // Rows of 1 to 8 bits; with `largest`, every level of a row is the same, and as far from 0 as these allow.
  hf_matrix matrix(int64_t rows, int64_t columns, bool offset) {
    std::vector<int8_t> made(rows * columns);
    for (int64_t row = 0; row < rows; row++) {
      const int top = std::min(127, 1 << row * 5 % 8);
      std::uniform_int_distribution<int> level(-top - (top == 127), top);
      for (int64_t i = 0; i < columns; i++) made[row * columns + i] = largest ? row % 3 ? top : -top - (top == 127) : level(engine);
    }
    levels.push_back(made);
    return {levels.back().data(), of(rows, 1e-4f, 2e-3f), offset ? of(rows, 0.01f) : nullptr, of(rows, 0.1f), rows, columns, {}};
  }
  // The same levels, in planes: rows of 1 to 8 bits, of which some are empty.
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<std::vector<int32_t>> places;
  std::vector<std::vector<hf_block>> blocks;
  hf_matrix stored(hf_matrix matrix, int slope) {
    const int64_t line = (matrix.columns + 7) / 8, most = matrix.rows / 9 + 1;
    int8_t* const to = levels.back().data();
    std::vector<hf_block> made;
    for (int bits = 1; bits <= 8; bits++) {
      const bool doubled = slope == 2 && bits < 8;
      bytes.emplace_back(bits * most * line);
      made.push_back({bytes.back().data(), most * line, bits, doubled ? 2 : 1, doubled ? (1 << bits) - 1 : 1 << (bits - 1)});
    }
    std::vector<int32_t> place(matrix.rows, HF_NOWHERE);
    for (int64_t row = 0; row < matrix.rows; row++) {
      const int bits = row % 9;
      const hf_block* const block = bits ? &made[bits - 1] : nullptr;
      if (bits) place[row] = row / 9 * HF_BLOCKS + bits - 1;
      for (int64_t i = 0; i < matrix.columns; i++) {
        const unsigned code = bits ? engine() % (1u << bits) : 0;
        to[row * matrix.columns + i] = bits ? block->slope * code - block->shift : 0;
        for (int p = 0; p < bits; p++)
          if (code >> (bits - 1 - p) & 1)
            ((uint8_t*)block->planes)[p * block->plane + row / 9 * line + i / 8] |= 128 >> i % 8;
      }
    }
    blocks.push_back(made), places.push_back(place);
    matrix.planes = {blocks.back().data(), places.back().data(), line};
    return matrix;
  }
  hf_norm norm() { return {of(HIDDEN, 0.1f, 1), of(HIDDEN, 0.1f), 1e-5f}; }
  hf_table table(int64_t rows) {
    const float* const made = of(rows * HIDDEN, 0.5f);
    if (largest)  // all features but one have the highest byte
      for (int64_t i = 0; i < rows * HIDDEN; i++) ((float*)made)[i] = i % HIDDEN ? 0.01f : 0;
    return {made, nullptr, nullptr, nullptr, rows, {}};
  }
  hf_table table_of(const hf_matrix& m) { return {nullptr, m.levels, m.scale, m.offset, m.rows, m.planes}; }
};

std::vector<float> run(const hf_encoder& encoder, const char* path, int threads) {
  void* const made = hf_mpq_make(&encoder, path);
  std::vector<int64_t> ids(BATCH * TOKENS);
  std::vector<uint8_t> mask(BATCH * TOKENS);
  const int64_t lengths[BATCH] = {37, 1, 16, 5, 33, 20};
  for (int64_t i = 0; i < BATCH * TOKENS; i++) ids[i] = (7 * i + i / 5) % WORDS, mask[i] = i % TOKENS < lengths[i / TOKENS];
  const size_t hidden = BATCH * TOKENS * encoder.hidden;
  std::vector<float> out(hidden + BATCH * encoder.pooler.rows);
  hf_request request{};
  request.batch = BATCH, request.tokens = TOKENS, request.ids = ids.data(), request.mask = mask.data();
  request.out = out.data(), request.threads = threads;
  if (encoder.pooler.rows) request.pooled = out.data() + hidden;
  if (!made || hf_mpq_run(made, &request)) out.clear();
  hf_mpq_drop(made);
  return out;
}

// `exact`: by tiles too, attention is float32, so that with fixed ranges nothing falls on another level.
bool check(const std::string& path, const std::vector<float>& want, const hf_encoder& encoder, const std::string& kind, bool exact) {
  const std::vector<float> got = run(encoder, path.c_str(), 1), threads = run(encoder, path.c_str(), 3);
  double largest = 0, worst = 0, sum = 0;
  for (size_t i = 0; i < got.size() && i < want.size(); i++) {
    const double difference = std::abs((double)got[i] - want[i]);
    largest = std::max(largest, std::abs((double)want[i])), worst = std::max(worst, difference), sum += difference;
  }
  const double average = sum / want.size();
  const bool same = got.size() == threads.size() && !std::memcmp(got.data(), threads.data(), got.size() * sizeof(float));
  const bool right = !want.empty() && got.size() == want.size() && average < (exact ? 1e-6 : 2e-3) * largest && worst < 0.1 * largest && same;
  std::printf("%s %s: mean %.1e, most %.1e of %.2f, threads %s: %s\n", path.c_str(), kind.c_str(), average, worst, largest,
              same ? "agree" : "differ", right ? "right" : "WRONG");
  return right;
}

// What is read where it is stored against levels that are copied, bit for bit.
bool check_planes(const std::string& path, int slope) {
  std::vector<float> found[2];
  for (const bool planes : {false, true}) {
    engine.seed(1);
    Random random;
    const auto matrix = [&](int64_t rows, int64_t columns) {
      hf_matrix made = random.stored(random.matrix(rows, columns, slope == 1), slope);
      if (planes) made.levels = nullptr;
      else made.planes = {};
      return made;
    };
    hf_layer layer{};
    for (hf_matrix* m : {&layer.query, &layer.key, &layer.value, &layer.output}) *m = matrix(ODD, ODD);
    layer.up = matrix(INNER, ODD), layer.down = matrix(ODD, INNER);
    layer.attend_grid = layer.output_grid = layer.up_grid = layer.down_grid = {1, 0, 255, 0, 0};
    layer.attention_norm = random.norm(), layer.norm = random.norm(), layer.heads = HEADS;
    layer.scale = 0.25f, layer.turn = -1;
    const int32_t order[] = {0};
    hf_encoder encoder{};
    encoder.width = encoder.hidden = ODD;
    encoder.words = random.table_of(matrix(WORDS, ODD));
    encoder.embedding_norm = random.norm(), encoder.layers = encoder.distinct_layers = 1;
    encoder.distinct = &layer, encoder.order = order;
    found[planes] = run(encoder, path.c_str(), 2);
  }
  const bool same = !found[0].empty() && found[0].size() == found[1].size() &&
                    !std::memcmp(found[0].data(), found[1].data(), found[0].size() * sizeof(float));
  std::printf("%s planes, slope %d: %s\n", path.c_str(), slope, same ? "right" : "WRONG");
  return same;
}

}  // namespace

int main() {
  bool right = true;
  const struct {
    const char* name;
    hf_grid grid;
    bool offset;
  } kinds[] = {
      {"range per token", {1, 0, 255, 0, 0}, false},
      {"range per token, symmetric", {1, 1, 127, 0, 0}, false},
      {"fixed range", {0, 0, 255, 0.03f, 128}, false},
      {"range per token, offsets", {1, 0, 255, 0, 0}, true},
  };
  const struct {
    const char* name;
    bool norm_first, places, inputs, largest;
  } forms[] = {{"", false, false, false, false},
               {", norms first, turned, near, gated", true, false, false, false},
               {", disentangled, shifted inputs", false, true, true, false},
               {", largest sums", true, false, false, true}};
  for (const auto& kind : kinds)
    for (const auto& form : forms) {
      Random random;
      random.largest = form.largest;
      hf_layer layers[LAYERS]{};
      for (hf_layer& one : layers) {
        for (hf_matrix* m : {&one.query, &one.key, &one.value, &one.output}) *m = random.matrix(HIDDEN, HIDDEN, kind.offset);
        one.up = random.matrix(INNER, HIDDEN, kind.offset), one.down = random.matrix(HIDDEN, INNER, kind.offset);
        one.attend_grid = one.output_grid = one.up_grid = one.down_grid = kind.grid;
        one.attention_norm = random.norm(), one.norm = random.norm(), one.heads = HEADS, one.activation = HF_GELU;
        one.scale = 0.25f, one.turn = -1;
        if (form.norm_first) {
          one.query = random.matrix(3 * HIDDEN, HIDDEN, kind.offset), one.key = one.value = hf_matrix{};
          one.up = random.matrix(2 * INNER, HIDDEN, kind.offset);
          one.gated = 1, one.turn = &one - layers, one.window = &one == layers ? 5 : 0;
          if (&one == layers) one.attention_norm = hf_norm{};
        }
        if (form.places) {
          one.position_key = random.of(HIDDEN * PLACES, 0.3f), one.position_query = random.of(HIDDEN * PLACES, 0.3f);
          one.value_apart = !kind.grid.dynamic, one.value_grid = kind.grid, one.value_grid.step *= 1.5f;
        }
        if (form.inputs)
          for (hf_matrix* m : {&one.query, &one.output, &one.up, &one.down})
            m->input_scale = random.of(m->columns, 0.1f, 1), m->input_shift = random.of(m->columns, 0.1f);
      }
      const int32_t order[] = {0, 1};
      hf_encoder encoder{};
      encoder.width = encoder.hidden = HIDDEN;
      encoder.words = random.table(WORDS), encoder.positions = random.table(TOKENS);
      encoder.embedding_norm = form.largest ? hf_norm{} : random.norm();
      encoder.layers = encoder.distinct_layers = LAYERS, encoder.distinct = layers, encoder.order = order;
      encoder.pooler = random.matrix(ODD, HIDDEN, kind.offset), encoder.pooler_grid = kind.grid;
      std::vector<int32_t> places;
      for (int64_t d = 1 - TOKENS; d < TOKENS; d++) places.push_back(std::max<int64_t>(0, std::min(PLACES - 1, d + PLACES / 2)));
      if (form.places) encoder.places = places.data(), encoder.distances = TOKENS, encoder.place_count = PLACES;
      if (form.norm_first) {
        encoder.norm_first = 1, encoder.final_norm = random.norm();
        encoder.turns = random.of(LAYERS * TOKENS * HIDDEN / HEADS, 0.7f), encoder.turn_kinds = LAYERS;
        encoder.turn_positions = TOKENS;
      }
      const std::vector<float> want = run(encoder, "portable", 1);
      std::stringstream paths(hf_mpq_paths());
      for (std::string path; std::getline(paths, path, ',');)
        right &= check(path, want, encoder, std::string(kind.name) + form.name, path == "amx" && !kind.grid.dynamic);
    }
  std::stringstream paths(hf_mpq_paths());
  for (std::string path; std::getline(paths, path, ',');) right &= check_planes(path, 1) & check_planes(path, 2);
  return !right;
}
