// Every instruction set of the machine that this runs on against plain C++, on a small random encoder. Prints a line for
// each, and ends with 1 where one is wrong. For machines that are only emulated: it needs neither Python nor torch.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "interface.h"

namespace {

constexpr int64_t HIDDEN = 48, INNER = 100, HEADS = 3, WORDS = 50, LAYERS = 2, BATCH = 6, TOKENS = 37;
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

  const float* of(int64_t count, float spread, float middle = 0) {
    kept.push_back(floats(count, spread, middle));
    return kept.back().data();
  }
  hf_matrix matrix(int64_t rows, int64_t columns, bool offset) {
    std::uniform_int_distribution<int> level(-127, 127);
    std::vector<int8_t> made(rows * columns);
    for (int8_t& one : made) one = level(engine);
    levels.push_back(made);
    return {levels.back().data(), of(rows, 1e-4f, 2e-3f), offset ? of(rows, 0.01f) : nullptr, of(rows, 0.1f), rows, columns};
  }
  hf_norm norm() { return {of(HIDDEN, 0.1f, 1), of(HIDDEN, 0.1f), 1e-5f}; }
  hf_table table(int64_t rows) { return {of(rows * HIDDEN, 0.5f), nullptr, nullptr, nullptr, rows}; }
};

std::vector<float> run(const hf_encoder& encoder, const char* path, int threads) {
  void* const made = hf_mpq_make(&encoder, path);
  std::vector<int64_t> ids(BATCH * TOKENS);
  std::vector<uint8_t> mask(BATCH * TOKENS);
  const int64_t lengths[BATCH] = {37, 1, 16, 5, 33, 20};
  for (int64_t i = 0; i < BATCH * TOKENS; i++) ids[i] = (7 * i + i / 5) % WORDS, mask[i] = i % TOKENS < lengths[i / TOKENS];
  std::vector<float> out(BATCH * TOKENS * HIDDEN);
  hf_request request{};
  request.batch = BATCH, request.tokens = TOKENS, request.ids = ids.data(), request.mask = mask.data();
  request.out = out.data(), request.threads = threads;
  if (!made || hf_mpq_run(made, &request)) out.clear();
  hf_mpq_drop(made);
  return out;
}

bool check(const std::string& path, const std::vector<float>& want, const hf_encoder& encoder, const char* kind) {
  const std::vector<float> got = run(encoder, path.c_str(), 1), threads = run(encoder, path.c_str(), 3);
  double largest = 0, worst = 0, sum = 0;
  for (size_t i = 0; i < got.size() && i < want.size(); i++) {
    const double difference = std::abs((double)got[i] - want[i]);
    largest = std::max(largest, std::abs((double)want[i])), worst = std::max(worst, difference), sum += difference;
  }
  const double average = sum / want.size();
  const bool same = got.size() == threads.size() && !std::memcmp(got.data(), threads.data(), got.size() * sizeof(float));
  const bool right = !want.empty() && got.size() == want.size() && average < 2e-3 * largest && worst < 0.1 * largest && same;
  std::printf("%s %s: mean %.1e, most %.1e of %.2f, threads %s: %s\n", path.c_str(), kind, average, worst, largest,
              same ? "agree" : "differ", right ? "right" : "WRONG");
  return right;
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
  for (const auto& kind : kinds) {
    Random random;
    hf_layer layers[LAYERS]{};
    for (hf_layer& one : layers) {
      for (hf_matrix* m : {&one.query, &one.key, &one.value, &one.output}) *m = random.matrix(HIDDEN, HIDDEN, kind.offset);
      one.up = random.matrix(INNER, HIDDEN, kind.offset), one.down = random.matrix(HIDDEN, INNER, kind.offset);
      one.attend_grid = one.output_grid = one.up_grid = one.down_grid = kind.grid;
      one.attention_norm = random.norm(), one.norm = random.norm(), one.heads = HEADS, one.activation = HF_GELU;
      one.scale = 0.25f, one.turn = -1;
    }
    const int32_t order[] = {0, 1};
    hf_encoder encoder{};
    encoder.width = encoder.hidden = HIDDEN;
    encoder.words = random.table(WORDS), encoder.positions = random.table(TOKENS);
    encoder.embedding_norm = random.norm(), encoder.layers = encoder.distinct_layers = LAYERS;
    encoder.distinct = layers, encoder.order = order;
    const std::vector<float> want = run(encoder, "portable", 1);
    std::stringstream paths(hf_mpq_paths());
    for (std::string path; std::getline(paths, path, ',');) right &= check(path, want, encoder, kind.name);
  }
  return !right;
}
