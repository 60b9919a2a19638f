// One encoder layer with normalisation after each sum, its products in int8, all the rest in as few passes
// over the activations as there are places where rows must wait for each other.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/utils/pybind.h>

#include <atomic>
#include <optional>
#include <string>

#include "attention.h"
#include "product.h"

namespace hf_mpq {

using at::Tensor;
using Scalars = c10::List<std::optional<at::Scalar>>;
using Product = Tensor(Tensor, double, int64_t, Tensor, Tensor, Tensor, std::optional<Tensor>, double, int64_t,
                       std::optional<c10::ScalarType>, c10::string_view, Scalars, c10::string_view);

// Bytes of some rows, and the grid of each.
struct Bytes {
  int64_t rows, columns;
  Tensor values;
  std::vector<RowGrid> grids;

  Bytes(int64_t rows, int64_t columns)
      : rows(rows), columns(columns), grids(rows),
        values(at::empty({rows * columns + 4}, at::kByte).slice(0, 0, rows * columns).view({rows, columns})) {}

  uint8_t* row(int64_t i) const { return values.data_ptr<uint8_t>() + i * columns; }  // 4 bytes beyond it can be read
};

// A matrix of the layer, and what its input is quantized to. Its products are this kernel's where it has panels, and
// oneDNN's otherwise.
struct Matrix {
  Tensor packed, scale, zeros, bias, level_sum;
  std::optional<Tensor> offset;  // what every weight of a row is above its scaled integer
  int64_t rows, columns;
  Grid grid;
  Tensor panels, start;  // undefined where oneDNN multiplies; then `packed` is, and `unit`
  Tensor unit;           // scales of oneDNN's sums that we finish
  bool finite = false;   // whether oneDNN can finish the product itself, and no bytes make it infinite or NaN

  bool own() const { return panels.defined(); }
  bool plain() const { return !grid.dynamic && !offset; }  // oneDNN can finish the product itself

  // The outputs of some rows of bytes, float32 and complete where `done` says so.
  Tensor multiply(const Bytes& bytes, bool threads, Activation then = Activation::none) const {
    if (!own()) return by_onednn(bytes.values, at::kFloat);
    Tensor out = at::empty({bytes.rows, rows}, at::kFloat);
    float* const to = out.data_ptr<float>();
    by_panels(bytes, threads, [=, this](int64_t i, int64_t output, int64_t count, floats y) {
      y = activate(y, then);
      if (count == LANES) store(to + i * rows + output, y);
      else std::copy_n((const float*)&y, count, to + i * rows + output);
    });
    return out;
  }

  // The same, on the fixed grid of the matrix that reads it; only by panels.
  void multiply(const Bytes& bytes, bool threads, Activation then, const Grid& reader, Bytes& to) const {
    const Levels levels(reader, {reader.step, reader.zero, 0});
    std::fill(to.grids.begin(), to.grids.end(), RowGrid{reader.step, reader.zero, 0});
    uint8_t* const first = to.row(0);
    RowGrid* const grids = to.grids.data();
    by_panels(bytes, threads, [=, this](int64_t i, int64_t output, int64_t count, floats y) {
      floats none{};
      const octets found = levels(activate(y, then), none);
      if (any_nan(none)) std::atomic_ref(grids[i].step).store(NAN, std::memory_order_relaxed);
      if (count == LANES) *(octets*)(first + i * rows + output) = found;
      else std::copy_n((const uint8_t*)&found, count, first + i * rows + output);
    });
  }

  // What `multiply` leaves undone of one row.
  bool done() const { return own() || plain(); }
  void complete(float* row, const RowGrid& found) const {
    if (!done())
      finish(row, rows, columns, found, scale.data_ptr<float>(), level_sum.data_ptr<float>(),
             offset ? offset->data_ptr<float>() : nullptr, bias.data_ptr<float>());
    else if (!own() && std::isnan(found.step))
      std::fill_n(row, rows, NAN);  // oneDNN has finished what it read of the bytes
  }

  Tensor by_onednn(const Tensor& bytes, c10::ScalarType type, const char* then = "none", double step = 1,
                   int64_t zero = 0) const {
    static const auto product =
        c10::Dispatcher::singleton().findSchemaOrThrow("onednn::qlinear_pointwise", "").typed<Product>();
    const std::optional<Tensor> added = plain() ? std::optional<Tensor>(bias) : std::nullopt;
    return product.call(bytes, plain() ? grid.step : 1.0, plain() ? (int64_t)grid.zero : 0, packed,
                        plain() ? scale : unit, zeros, added, step, zero, type, then, Scalars(),
                        std::string(then) == "none" ? "" : "none");
  }

  // `put(row, output, how many outputs, values)` for every vector of outputs.
  template <class Put>
  void by_panels(const Bytes& bytes, bool threads, const Put& put) const {
#ifdef __AVX512VNNI__
    const int64_t quads = (columns + 3) / 4, tiles = (bytes.rows + TILE_ROWS - 1) / TILE_ROWS;
    const Finish finish{scale.data_ptr<float>(), level_sum.data_ptr<float>(), bias.data_ptr<float>(),
                        offset ? offset->data_ptr<float>() : nullptr, (float)columns, !grid.dynamic};
    const uint8_t* const from = bytes.row(0);
    const int8_t* const weights = panels.data_ptr<int8_t>();
    const int32_t* const starts = start.data_ptr<int32_t>();
    const auto some = [&](int64_t begin, int64_t end) {
      alignas(64) int32_t sums[TILE_ROWS * PANEL];
      for (int64_t one = begin; one < end; one++) {
        const int64_t first = one / tiles * PANEL, row = one % tiles * TILE_ROWS;
        const int here = std::min<int64_t>(TILE_ROWS, bytes.rows - row);
        some_rows<TILE_ROWS>(here, from + row * columns, columns, weights + first * quads * 4, quads, starts + first,
                             sums);
        for (int64_t output = first; output < std::min(first + PANEL, rows); output += LANES) {
          const Finish::Output finish_one = finish.at(output);
          const int64_t count = std::min<int64_t>(LANES, rows - output);
          for (int i = 0; i < here; i++)
            put(row + i, output, count, finish_one(*(const ints*)&sums[i * PANEL + output - first], bytes.grids[row + i]));
        }
      }
    };
    const int64_t all = panels.size(0) * tiles;
    threads ? at::parallel_for(0, all, (all + at::get_num_threads() - 1) / at::get_num_threads(), some) : some(0, all);
#endif
  }
};

struct Norm {
  Tensor weight, bias;
  float eps;

  void apply(float* row, const float* other, int64_t count) const {
    normalise(row, other, weight.data_ptr<float>(), bias.data_ptr<float>(), count, eps);
  }
};

struct Layer {
  Matrix attend, output, up, down;  // query, key and value are one matrix
  Norm attention_norm, norm;
  int64_t heads;
  Activation activation;
  bool bfloat16;  // attention products, where the CPU has them
};

// Row i of the matrix's input.
inline void take(Bytes& bytes, const float* row, int64_t i, const Matrix& reader) {
  bytes.grids[i] = quantize(row, bytes.row(i), reader.columns, reader.grid, reader.offset.has_value());
}

// Additive mask, `(batch, 1 or tokens, padded tokens)`; keys beyond the last token can never be read.
struct Mask {
  Tensor values;
  bool per_query;

  Mask(const std::optional<Tensor>& mask, int64_t batch, int64_t tokens, int64_t padded) {
    per_query = mask && mask->size(-2) > 1 && mask->stride(-2) != 0 && !same_rows(*mask, tokens);
    values = at::full({batch, per_query ? tokens : 1, padded}, -INFINITY, at::kFloat);
    Tensor seen = values.slice(2, 0, tokens);
    if (!mask) {
      seen.zero_();
      return;
    }
    const Tensor rows = mask->select(1, 0).slice(1, 0, per_query ? tokens : 1);
    if (rows.scalar_type() == at::kBool)
      seen.copy_(at::where(rows, at::zeros({}, at::kFloat), at::full({}, -INFINITY, at::kFloat)));
    else
      seen.copy_(rows);
  }

  static bool same_rows(const Tensor& mask, int64_t tokens) {
    return at::equal(mask.slice(2, 1, tokens), mask.slice(2, 0, 1).expand_as(mask.slice(2, 1, tokens)));
  }

  const float* row(int64_t sequence, int64_t query) const {
    return values.data_ptr<float>() + (sequence * values.size(1) + (per_query ? query : 0)) * values.size(2);
  }
  int64_t stride() const { return per_query ? values.size(2) : 0; }
};

// Rows of whole sequences, alone on one thread or together on all of them.
struct Part {
  const Layer& layer;
  const Mask& mask;
  int64_t first_sequence, sequences, tokens;
  bool threads;

  int64_t rows() const { return sequences * tokens; }

  template <class Work>
  void each_row(const Work& work) const {
    const int64_t grain = (rows() + at::get_num_threads() - 1) / at::get_num_threads();
    const auto some = [&](int64_t begin, int64_t end) { for (int64_t i = begin; i < end; i++) work(i); };
    threads ? at::parallel_for(0, rows(), grain, some) : some(0, rows());
  }

  // in and out: (rows, hidden)
  void run(const float* in, float* out) const {
    const Layer& l = layer;
    const int64_t hidden = l.norm.weight.numel(), inner = l.output.columns;
    Bytes bytes(rows(), hidden);
    each_row([&](int64_t i) { take(bytes, in + i * hidden, i, l.attend); });
    Tensor projected = l.attend.multiply(bytes, threads);
    float* const qkv = projected.data_ptr<float>();
    if (!l.attend.own()) each_row([&](int64_t i) { l.attend.complete(qkv + i * l.attend.rows, bytes.grids[i]); });

    Bytes mixed(rows(), inner);
    l.bfloat16 ? attention<PairHead>(qkv, mixed) : attention<FloatHead>(qkv, mixed);
    Tensor summed = l.output.multiply(mixed, threads);
    float* const middle = summed.data_ptr<float>();
    each_row([&](int64_t i) {
      l.output.complete(middle + i * hidden, mixed.grids[i]);
      l.attention_norm.apply(middle + i * hidden, in + i * hidden, hidden);
      take(bytes, middle + i * hidden, i, l.up);
    });

    Bytes wide = feed_forward(bytes);
    Tensor last = l.down.multiply(wide, threads);
    float* const narrow = last.data_ptr<float>();
    each_row([&](int64_t i) {
      l.down.complete(narrow + i * hidden, wide.grids[i]);
      l.norm.apply(narrow + i * hidden, middle + i * hidden, hidden);
      std::copy_n(narrow + i * hidden, hidden, out + i * hidden);
    });
  }

  Bytes feed_forward(const Bytes& bytes) const {
    const Matrix &up = layer.up, &down = layer.down;
    Bytes wide(rows(), up.rows);
    if (up.own() && !down.grid.dynamic && !down.offset) {
      up.multiply(bytes, threads, layer.activation, down.grid, wide);
      return wide;
    }
    if (up.finite && down.plain() && whole_byte(down.grid) && layer.activation != Activation::gelu_tanh) {
      wide.grids = bytes.grids;
      wide.values = up.by_onednn(bytes.values, at::kByte, layer.activation == Activation::relu ? "relu" : "gelu",
                                 down.grid.step, (int64_t)down.grid.zero);
      return wide;
    }
    Tensor raw = up.multiply(bytes, threads, layer.activation);
    float* const values = raw.data_ptr<float>();
    each_row([&](int64_t i) {
      if (!up.own()) {
        up.complete(values + i * up.rows, bytes.grids[i]);
        activate_row(values + i * up.rows, up.rows, layer.activation);
      }
      take(wide, values + i * up.rows, i, down);
    });
    return wide;
  }

  static bool whole_byte(const Grid& grid) { return !grid.symmetric && grid.levels == 255; }

  template <class Head>
  void attention(const float* qkv, Bytes& mixed) const {
    const int64_t inner = layer.output.columns, stride = layer.attend.rows, size = inner / layer.heads;
    const float scale = 1 / std::sqrt((float)size);
    Tensor joined = at::empty({rows(), inner}, at::kFloat);
    float* const out = joined.data_ptr<float>();
    const auto some = [&](int64_t begin, int64_t end) {
      Head head(size, tokens);
      for (int64_t s = begin / tokens; s * tokens < end; s++) {
        const int64_t first = std::max(begin, s * tokens), count = std::min(end, (s + 1) * tokens) - first;
        for (int64_t h = 0; h < layer.heads; h++) {
          const float* const query = qkv + h * size;
          head.read(query + s * tokens * stride + inner, query + s * tokens * stride + 2 * inner, stride);
          attend(head, query + first * stride, stride, count, scale, mask.row(first_sequence + s, first - s * tokens),
                 mask.stride(), out + first * inner + h * size, inner);
        }
      }
      for (int64_t i = begin; i < end; i++) take(mixed, out + i * inner, i, layer.output);
    };
    const int64_t grain = (rows() + at::get_num_threads() - 1) / at::get_num_threads();
    threads ? at::parallel_for(0, rows(), grain, some) : some(0, rows());
  }
};

constexpr int64_t ROWS_AT_ONCE = 256;  // what one thread works on should fit in its cache

// hidden: (batch, tokens, hidden) float32, contiguous; mask: None or (batch, 1, 1 or tokens, tokens), bool or a float.
Tensor run(const Layer& layer, const Tensor& hidden, const std::optional<Tensor>& mask) {
  Tensor out = at::empty_like(hidden);  // an ordinary tensor, which a head's backward pass may keep
  if (!hidden.numel()) return out;
  const c10::InferenceMode guard;
  const int64_t batch = hidden.size(0), tokens = hidden.size(1), width = hidden.size(2), threads = at::get_num_threads();
  const Mask added(mask, batch, tokens, FloatHead(1, tokens).padded_tokens);
  const float* const in = hidden.data_ptr<float>();
  float* const to = out.data_ptr<float>();
  if (batch < threads) {
    Part{layer, added, 0, batch, tokens, true}.run(in, to);
    return out;
  }
  const int64_t each = std::max<int64_t>(1, std::min((batch + threads - 1) / threads, ROWS_AT_ONCE / tokens));
  at::parallel_for(0, (batch + each - 1) / each, 1, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode here;
    for (int64_t part = begin; part < end; part++) {
      const int64_t first = part * each, count = std::min(each, batch - first), skip = first * tokens * width;
      Part{layer, added, first, count, tokens, false}.run(in + skip, to + skip);
    }
  });
  return out;
}

// A matrix in the kernel's own form: levels (rows, columns) int8, all else (rows,) float32.
Matrix in_panels(const Tensor& levels, const Tensor& scale, const Tensor& bias, const std::optional<Tensor>& offset,
                 const Grid& grid) {
  const int64_t rows = levels.size(0), columns = levels.size(1), panels = (rows + PANEL - 1) / PANEL;
  const auto padded = [&](const Tensor& one) { return at::constant_pad_nd(one, {0, panels * PANEL - rows}); };
  const Tensor sums = padded(levels.sum({1}, false, at::kInt));
  Matrix made{{}, padded(scale), {}, padded(bias), sums.to(at::kFloat), {}, rows, columns, grid,
              at::zeros({panels, (columns + 3) / 4, PANEL, 4}, at::kChar),
              sums * (grid.dynamic ? 0 : -(int64_t)grid.zero), {}};
  if (offset) made.offset = padded(*offset);
  fill_panels(levels.data_ptr<int8_t>(), rows, columns, made.panels.data_ptr<int8_t>());
  return made;
}

// One product, its input quantized and its output complete: (..., columns) float32, contiguous, to (..., rows).
Tensor linear(const Matrix& matrix, const Tensor& x) {
  const at::NoGradGuard guard;
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = matrix.rows;
  if (!x.numel()) return at::empty(sizes, at::kFloat);
  const int64_t rows = x.numel() / matrix.columns;
  const int64_t grain = std::max<int64_t>(1, 16384 / matrix.columns);
  Bytes bytes(rows, matrix.columns);
  const float* const in = x.data_ptr<float>();
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) take(bytes, in + i * matrix.columns, i, matrix);
  });
  Tensor out = matrix.multiply(bytes, true);
  float* const to = out.data_ptr<float>();
  at::parallel_for(0, matrix.own() ? 0 : rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) matrix.complete(to + i * matrix.rows, bytes.grids[i]);
  });
  return out.view(sizes);
}

Activation activation_of(const std::string& name) {
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "relu") return Activation::relu;
  throw std::invalid_argument("no activation " + name);
}

}  // namespace hf_mpq

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  using namespace hf_mpq;
  namespace py = pybind11;
  module.attr("HAS_PRODUCTS") = HAS_PRODUCTS;
  py::class_<Grid>(module, "Grid").def(py::init<bool, bool, float, float, float>());
  py::class_<Matrix>(module, "Matrix")
      .def(py::init([](Tensor packed, Tensor scale, Tensor zeros, Tensor bias, Tensor level_sum,
                       std::optional<Tensor> offset, int64_t rows, int64_t columns, Grid grid) {
        Matrix made{packed, scale, zeros, bias, level_sum, offset, rows, columns, grid, {}, {}, at::ones_like(scale)};
        const Tensor most = scale.abs() * (255.0 * 128.0 * columns * grid.step) + bias.abs();
        made.finite = made.plain() && most.isfinite().all().item<bool>();
        return made;
      }))
      .def_static("in_panels", &in_panels)
      .def("linear", &linear, py::call_guard<py::gil_scoped_release>());
  py::class_<Norm>(module, "Norm").def(py::init([](Tensor weight, Tensor bias, float eps) {
    return Norm{weight, bias, eps};
  }));
  py::class_<Layer>(module, "Layer")
      .def(py::init([](Matrix attend, Matrix output, Matrix up, Matrix down, Norm attention_norm, Norm norm,
                       int64_t heads, const std::string& activation, bool bfloat16) {
        return Layer{attend, output, up, down, attention_norm, norm, heads, activation_of(activation), bfloat16};
      }))
      .def("run", &run, py::call_guard<py::gil_scoped_release>());
}
