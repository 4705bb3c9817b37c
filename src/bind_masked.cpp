// Masked networks: masks, rows as their ones, products forwards and backwards, sampling.
#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <variant>
#include <vector>

#include "masks.hpp"
#include "optimizer.hpp"

namespace {

// Where a matrix is kept: plain (n_in, n_out), or in panels (ceil(n_out / 32), n_in, 32).
template <class T> struct Place {
  T *data;
  size_t ldw, panel;
};
template <class T> Place<T> place(const py::array &W, const char *name, size_t inputs, size_t outputs, bool writable) {
  const auto n_in = py::ssize_t(inputs), n_out = py::ssize_t(outputs), panels = (n_out + 31) / 32;
  if (W.ndim() != 3) {
    auto m = matrix<T>(W, name, n_in, n_out, writable);
    return {m.data, m.ld, 32};
  }
  T *data = data_of<T>(W, name, writable);
  const auto size = py::ssize_t(sizeof(T));
  if (W.shape(0) != panels || W.shape(1) != n_in || W.shape(2) != 32)
    refuse(name, "of shape (" + std::to_string(n_in) + ", " + std::to_string(n_out) + ") or in panels (" + std::to_string(panels) + ", " + std::to_string(n_in) + ", 32)", W);
  if (W.size() && (W.strides(2) != size || W.strides(1) != 32 * size || (panels > 1 && W.strides(0) < n_in * 32 * size)))
    throw py::value_error(std::string(name) + " must have contiguous panels");
  return {data, 32, panels > 1 ? size_t(W.strides(0) / size) : inputs * 32};
}
template <class T> typename Kernels<T>::Linear linear(const Mask &mask, const py::array &W, const char *name, bool writable = false,
                                                      const py::object &rows = py::none(), bool turned = false, bool whole = false) {
  const size_t n_in = turned ? mask.n_out : mask.n_in, n_out = turned ? mask.n_in : mask.n_out;  // of what is kept
  auto at = place<T>(W, name, n_in, n_out, writable);
  return {mask.n_in, mask.n_out, at.data, at.ldw, at.panel, mask.live(), mask.transposed(), optional_order(rows, py::ssize_t(n_in), "rows"), turned, whole};
}

template <class T> struct Addend {
  const T *data;
  size_t ld;
};
template <class T> Addend<T> optional_addend(const py::object &a, const char *name, py::ssize_t rows, size_t columns) {
  if (a.is_none()) return {nullptr, 0};
  auto m = matrix<T>(array_of(a, name), name, rows, py::ssize_t(columns));
  return {m.data, m.ld};
}

// Sums of chunks wait in out, so what is read after the first must not lie there.
template <class T> void apart(const Matrix<T> &out, const T *other, size_t ld, size_t columns, const char *name) {
  if (overlap<T>(out.data, out.ld, other, ld, out.rows, out.columns, columns)) throw py::value_error("out must share no memory with " + std::string(name));
}

int checked(int activation) {
  if (activation < 0 || activation > CHAINRULE_IDENTITY) throw py::value_error("activation must be 0 to 3, not " + std::to_string(activation));
  return activation;
}

void masked_linear(const Mask &mask, const py::array &x, const py::array &W, const py::object &rows, bool turned,
                   const py::object &addend, const py::object &b, int activation, const py::array &y, int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    auto w = linear<T>(mask, W, "W", false, rows, turned);
    auto in = matrix<T>(x, "x", -1, py::ssize_t(w.n_in));
    const auto n_rows = py::ssize_t(in.rows);
    auto added = optional_addend<T>(addend, "addend", n_rows, w.n_out);
    const T *bias = optional_vector<T>(b, "b", py::ssize_t(w.n_out));
    auto out = matrix<T>(y, "out", n_rows, py::ssize_t(w.n_out), true);
    checked(activation);
    apart<T>(out, in.data, in.ld, in.columns, "x"), apart<T>(out, added.data, added.ld, w.n_out, "addend");
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::masked_linear()(&w, in.rows, in.data, in.ld, added.data, added.ld, bias, activation, out.data, out.ld, exec);
    });
  });
}

void masked_linear_input_gradient(const Mask &mask, const py::array &dy, const py::array &W, const py::object &rows, bool turned,
                                  const py::object &addend, const py::object &h, int activation, const py::array &dx, int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    auto w = linear<T>(mask, W, "W", false, rows, turned);
    auto in = matrix<T>(dy, "dy", -1, py::ssize_t(w.n_out));
    const auto n_rows = py::ssize_t(in.rows);
    auto added = optional_addend<T>(addend, "addend", n_rows, w.n_in), hidden = optional_addend<T>(h, "h", n_rows, w.n_in);
    auto out = matrix<T>(dx, "out", n_rows, py::ssize_t(w.n_in), true);
    checked(activation);
    apart<T>(out, in.data, in.ld, in.columns, "dy"), apart<T>(out, added.data, added.ld, w.n_in, "addend");
    apart<T>(out, hidden.data, hidden.ld, w.n_in, "h");
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::masked_linear_input_gradient()(&w, in.rows, in.data, in.ld, added.data, added.ld, hidden.data, hidden.ld,
                                                        activation, out.data, out.ld, exec);
    });
  });
}

void masked_linear_weight_gradient(const Mask &mask, const py::array &x, const py::array &dy, const py::array &dW,
                                   const py::object &rows, bool turned, bool whole, const py::object &db, int n_threads) {
  with_precision(dW, "dW", [&]<class T>() {
    auto w = linear<T>(mask, dW, "dW", true, rows, turned, whole);
    auto in = matrix<T>(x, "x", -1, py::ssize_t(w.n_in));
    auto grad = matrix<T>(dy, "dy", py::ssize_t(in.rows), py::ssize_t(w.n_out));
    T *bias = optional_vector<T>(db, "db", py::ssize_t(w.n_out), true);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::masked_linear_weight_gradient()(&w, in.rows, in.data, in.ld, grad.data, grad.ld, const_cast<T *>(w.W), bias, exec);
    });
  });
}

// Rows of codes and their ones; made by `encode` alone, so that kernels may trust the indices.
struct Ones {
  py::array codes, index, count;
  size_t rows, n_units;
  chainrule_ones view() const {
    return {size_t(index.shape(1)), static_cast<const uint32_t *>(index.data()), static_cast<const uint32_t *>(count.data())};
  }
};

void check_units(const Ones &x, size_t n_in, const char *name) {
  if (x.n_units != n_in)
    throw py::value_error("the rows have " + std::to_string(x.n_units) + " units, " + name + " has " + std::to_string(n_in) + " inputs");
}

const uint32_t *checked_first(const py::object &first, py::ssize_t n) {
  const uint32_t *units = optional_vector<uint32_t>(first, "first", n + 1);
  for (py::ssize_t i = 0; units && i < n; ++i)
    if (units[0] != 0 || units[i + 1] < units[i] || units[i + 1] - units[i] > 255)
      throw py::value_error("first must start at 0 and grow by 0 to 255 a variable; entry " + std::to_string(i + 1) + " is " + std::to_string(units[i + 1]));
  return units;
}

// No value of x above the largest of its column.
void check_codes(const Matrix<uint8_t> &in, const uint8_t *limit) {
  for (size_t r = 0; r < in.rows; ++r) {
    const uint8_t *row = in.data + r * in.ld;
    uint8_t bad = 0;
    for (size_t k = 0; k < in.columns; ++k) bad = uint8_t(bad | (row[k] > limit[k]));
    for (size_t k = 0; bad && k < in.columns; ++k)
      if (row[k] > limit[k])
        throw py::value_error("x has values outside 0 to " + std::to_string(int(limit[k])) + " (first: " + std::to_string(int(row[k])) + " at row " +
                              std::to_string(r) + ", column " + std::to_string(k) + ")");
  }
}

// Into `out` where it has the shape already, else into new memory.
std::shared_ptr<Ones> encode(const py::array &x, const py::object &order, const py::object &reference, const py::object &first,
                             std::shared_ptr<Ones> out, int n_threads) {
  auto in = matrix<uint8_t>(x, "x", -1, -1);
  const auto n = py::ssize_t(in.columns), rows = py::ssize_t(in.rows);
  const uint32_t *permutation = optional_order(order, n), *units = checked_first(first, n);
  const uint8_t *zero = optional_vector<uint8_t>(reference, "reference", n);
  auto values = [&](py::ssize_t i) { return units ? units[i + 1] - units[i] + 1 : 2u; };
  for (py::ssize_t i = 0; zero && i < n; ++i)
    if (zero[permutation ? permutation[i] : i] >= values(i))
      throw py::value_error("reference must be a value of its column; that of column " + std::to_string(permutation ? permutation[i] : i) + " is " + std::to_string(int(zero[permutation ? permutation[i] : i])));
  std::vector<uint8_t> limit(size_t(n), 1);
  if (units)
    for (py::ssize_t i = 0; i < n; ++i) limit[permutation ? permutation[i] : size_t(i)] = uint8_t(values(i) - 1);
  check_codes(in, limit.data());
  auto ones = out ? out : std::make_shared<Ones>();
  if (!out || out->rows != in.rows || out->codes.shape(1) != n)
    ones->codes = py::array_t<uint8_t>({rows, n}), ones->index = py::array_t<uint32_t>({rows, n}), ones->count = py::array_t<uint32_t>(rows);
  ones->rows = in.rows, ones->n_units = units ? units[n] : size_t(n);
  for (py::array *array : {&ones->index, &ones->count}) array->attr("setflags")(py::arg("write") = false);  // to all but this function
  auto *codes = static_cast<uint8_t *>(const_cast<void *>(ones->codes.data()));
  auto *index = static_cast<uint32_t *>(const_cast<void *>(ones->index.data())), *count = static_cast<uint32_t *>(const_cast<void *>(ones->count.data()));
  run(n_threads, [&](auto *exec) {
    return api().encode(in.rows, in.columns, in.data, in.ld, permutation, zero, units, codes, in.columns, index, in.columns, count, exec);
  });
  return ones;
}

void sparse_linear(const Mask &mask, const Ones &x, const py::array &W, const py::object &rows, const py::object &addend,
                   const py::object &b, int activation, const py::array &y, int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    auto w = linear<T>(mask, W, "W", false, rows);
    const auto n_rows = py::ssize_t(x.rows);
    check_units(x, w.n_in, "W");
    auto added = optional_addend<T>(addend, "addend", n_rows, w.n_out);
    const T *bias = optional_vector<T>(b, "b", py::ssize_t(w.n_out));
    auto out = matrix<T>(y, "out", n_rows, py::ssize_t(w.n_out), true);
    checked(activation);
    apart<T>(out, added.data, added.ld, w.n_out, "addend");
    const chainrule_ones ones = x.view();
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::sparse_linear()(&w, x.rows, &ones, added.data, added.ld, bias, activation, out.data, out.ld, exec);
    });
  });
}

void sparse_linear_weight_gradient(const Mask &mask, const Ones &x, const py::array &dy, const py::array &dW,
                                   const py::object &rows, bool whole, const py::object &db, int n_threads) {
  with_precision(dW, "dW", [&]<class T>() {
    auto w = linear<T>(mask, dW, "dW", true, rows, false, whole);
    check_units(x, w.n_in, "dW");
    auto grad = matrix<T>(dy, "dy", py::ssize_t(x.rows), py::ssize_t(w.n_out));
    T *bias = optional_vector<T>(db, "db", py::ssize_t(w.n_out), true);
    const chainrule_ones ones = x.view();
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::sparse_linear_weight_gradient()(&w, x.rows, &ones, grad.data, grad.ld, const_cast<T *>(w.W), bias, exec);
    });
  });
}

// Weights move by a product of x, a matrix or Ones, and dy.
template <class X> void linear_step(const py::tuple &optimizer, const Mask &mask, const X &x, const py::array &dy, const py::array &W,
                                    const py::object &s, const py::object &t, const py::object &average, const py::object &db, int n_threads) {
  constexpr bool sparse = std::is_same_v<X, Ones>;
  with_precision(W, "W", [&]<class T>() {
    auto w = linear<T>(mask, W, "W", true);
    if (W.ndim() != 3) refuse("W", "in panels", W);
    Matrix<T> in = {};
    if constexpr (sparse) in.rows = x.rows, check_units(x, w.n_in, "W");
    else in = matrix<T>(x, "x", -1, py::ssize_t(w.n_in));
    auto grad = matrix<T>(dy, "dy", py::ssize_t(in.rows), py::ssize_t(w.n_out));
    T *bias = optional_vector<T>(db, "db", py::ssize_t(w.n_out), true);
    const chainrule_optimizer o = optimizer_of(optimizer, s, t);
    auto beside = [&](const py::object &array, const char *name) -> T * {  // what stands as W does
      if (array.is_none()) return nullptr;
      auto at = place<T>(array_of(array, name), name, w.n_in, w.n_out, true);
      if (at.ldw != w.ldw || at.panel != w.panel) throw py::value_error(std::string(name) + " must be laid out as W");
      return at.data;
    };
    T *first = beside(s, "s"), *second = beside(t, "t"), *mean = beside(average, "average"), *p = const_cast<T *>(w.W);
    run(n_threads, [&](auto *exec) {
      if constexpr (sparse) {
        const chainrule_ones ones = x.view();
        return Kernels<T>::sparse_linear_step()(&o, &w, in.rows, &ones, grad.data, grad.ld, p, first, second, mean, bias, exec);
      } else {
        return Kernels<T>::masked_linear_step()(&o, &w, in.rows, in.data, in.ld, grad.data, grad.ld, p, first, second, mean, bias, exec);
      }
    });
  });
}

void permute_columns(const Mask &mask, const py::array &W, const py::object &rows, bool turned, const py::array &columns, bool back,
                     const py::array &out, int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    if (W.ndim() != 3 || out.ndim() != 3) throw py::value_error("W and out must stand in panels");
    auto from = linear<T>(mask, W, "W", false, rows, turned), to = linear<T>(mask, out, "out", true, rows, turned);
    if (from.panel != to.panel) throw py::value_error("out must be laid out as W");
    const size_t span = W.size() ? size_t(W.shape(0) - 1) * from.panel + size_t(W.shape(1)) * 32 : 0;
    if (from.W != to.W && from.W < to.W + span && to.W < from.W + span) throw py::value_error("out must be W or share no memory with it");
    const uint32_t *order = optional_order(columns, py::ssize_t(turned ? mask.n_in : mask.n_out), "columns");
    run(n_threads, [&](auto *exec) { return Kernels<T>::permute_columns()(&from, order, back, const_cast<T *>(to.W), exec); });
  });
}

// A layer as Python says it: (mask, W, b, activation, residual, ready, addend, rows, turned).
template <class T> typename Kernels<T>::Layer layer(const py::handle &item, const char *name, py::ssize_t n_rows, bool output) {
  auto parts = py::cast<py::tuple>(item);
  if (parts.size() != 9) throw py::value_error(std::string(name) + " must be (mask, W, b, activation, residual, ready, addend, rows, turned)");
  const auto &mask = py::cast<const Mask &>(parts[0]);
  typename Kernels<T>::Layer l = {};
  l.linear = linear<T>(mask, array_of(parts[1], "W"), "W", false, parts[7], py::cast<bool>(parts[8]));
  l.b = optional_vector<T>(parts[2], "b", py::ssize_t(mask.n_out));
  l.activation = checked(py::cast<int>(parts[3]));
  l.residual = py::cast<bool>(parts[4]);
  auto added = optional_addend<T>(parts[6], "addend", n_rows, mask.n_out);
  l.addend = added.data, l.lda = added.ld;
  if (output) return l;
  l.ready = vector<int32_t>(array_of(parts[5], "ready"), "ready", py::ssize_t(mask.n_out)).data;
  for (size_t o = 1; o < mask.n_out; ++o)
    if (l.ready[o] < l.ready[o - 1]) throw py::value_error("ready must not decrease; entry " + std::to_string(o) + " does");
  return l;
}

// A network as Python says it, for rows of n variables; n_rows: of its addends.
struct NetworkParts {
  py::tuple hidden;
  py::object output, direct, addend, b, order, reference, first;
};
template <class T> struct Built {
  std::vector<typename Kernels<T>::Layer> layers;
  typename Kernels<T>::Network net = {};
};
template <class T> Built<T> build(const NetworkParts &parts, py::ssize_t n, py::ssize_t n_rows) {
  Built<T> built;
  auto &net = built.net;
  auto &layers = built.layers;
  net.n_features = size_t(n), net.n_layers = parts.hidden.size();
  if (net.n_layers > CHAINRULE_MAX_LAYERS) throw py::value_error("at most " + std::to_string(CHAINRULE_MAX_LAYERS) + " hidden layers, not " + std::to_string(net.n_layers));
  net.order = optional_order(parts.order, n), net.first = checked_first(parts.first, n);
  net.reference = optional_vector<uint8_t>(parts.reference, "reference", n);
  for (py::ssize_t i = 0; net.reference && i < n; ++i)
    if (net.reference[net.order ? net.order[i] : i] > (net.first ? net.first[i + 1] - net.first[i] : 1))
      throw py::value_error("reference must be a value of its column");
  const size_t units = net.first ? net.first[n] : net.n_features;
  auto joins = [](size_t from, size_t to) {
    if (from != to) throw py::value_error("a layer of " + std::to_string(from) + " units does not fit one of " + std::to_string(to) + " inputs");
  };
  size_t width = units;
  for (const auto &item : parts.hidden) {
    layers.push_back(layer<T>(item, "hidden", n_rows, false));
    joins(width, layers.back().linear.n_in);
    if (layers.size() == 1 && layers.back().linear.turned) throw py::value_error("the first layer takes no turned W");
    if (layers.back().residual && (layers.size() == 1 || layers.back().linear.n_out != width)) throw py::value_error("a residual layer must be as wide as the one before");
    width = layers.back().linear.n_out;
  }
  net.hidden = layers.data();
  if (net.n_layers) {
    net.output = layer<T>(parts.output, "output", n_rows, true);
    joins(width, net.output.linear.n_in), joins(net.output.linear.n_out, units);
  } else {
    auto added = optional_addend<T>(parts.addend, "addend", n_rows, units);
    net.output.b = optional_vector<T>(parts.b, "b", py::ssize_t(units)), net.output.addend = added.data, net.output.lda = added.ld;
  }
  if (!parts.direct.is_none()) {
    auto pair = py::cast<py::tuple>(parts.direct);
    net.direct = linear<T>(py::cast<const Mask &>(pair[0]), array_of(pair[1], "W"), "W", false, pair.size() > 2 ? py::object(pair[2]) : py::none());
    joins(net.direct.n_in, units), joins(net.direct.n_out, units);
  }
  return built;
}
template <class F> void with_precision(const NetworkParts &parts, F &&f) {
  if (parts.hidden.empty() && parts.direct.is_none()) throw py::value_error("a network without hidden layers needs direct weights");
  if (!parts.hidden.empty() && parts.output.is_none()) throw py::value_error("output must be given with hidden layers");
  const py::object decides = py::cast<py::tuple>(parts.hidden.empty() ? parts.direct : parts.output)[1];
  ::with_precision(array_of(decides, "W"), "W", f);
}

void masked_sample(const py::list &hidden, const py::object &output, const py::object &direct, const py::object &addend, const py::object &b,
                   const py::object &order, const py::object &reference, const py::object &first, const py::array &u,
                   const py::object &observed, const py::array &x, int n_threads) {
  const NetworkParts parts = {py::tuple(hidden), output, direct, addend, b, order, reference, first};
  with_precision(parts, [&]<class T>() {
    auto uniform = matrix<double>(u, "u", -1, -1);
    const auto rows = py::ssize_t(uniform.rows), n = py::ssize_t(uniform.columns);
    const Built<T> built = build<T>(parts, n, rows);
    const auto &net = built.net;
    auto stays = [](const auto &w) {
      if (w.turned || w.rows) throw py::value_error("the sampler takes matrices as they are multiplied, without rows and not turned");
    };
    for (const auto &hidden_layer : built.layers) stays(hidden_layer.linear);
    stays(net.output.linear), stays(net.direct);
    auto out = matrix<uint8_t>(x, "out", rows, n, true);
    const uint8_t *known = nullptr;
    if (!observed.is_none()) {
      auto mask = bits(array_of(observed, "observed"), "observed", rows, n);
      if (mask.ld != out.ld) throw py::value_error("observed must be laid out as out");
      known = mask.data;
      for (py::ssize_t r = 0; r < rows; ++r)
        for (py::ssize_t i = 0; i < n; ++i) {
          const size_t at = size_t(r) * out.ld + (net.order ? net.order[i] : size_t(i));
          if (known[at] && out.data[at] > (net.first ? net.first[i + 1] - net.first[i] : 1))
            throw py::value_error("given has values outside their column's (first: " + std::to_string(int(out.data[at])) + " at row " + std::to_string(r) + ")");
        }
    }
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::masked_sample()(&net, uniform.rows, uniform.data, uniform.ld, known, out.data, out.ld, exec);
    });
  });
}

// A network that is checked once and scored many times. It has its own copies of what its kernels take indices from; weights
// are read where they stand.
struct Network {
  Network(const py::list &hidden, const py::object &output, const py::object &direct, const py::object &addend, const py::object &b,
          const py::object &order, const py::object &reference, const py::object &first, py::ssize_t n_features, py::ssize_t n_rows)
      : parts{py::tuple(hidden), output, direct, addend, b, order, reference, first}, n_rows(n_rows) {
    with_precision(parts, [&]<class T>() {
      auto &built = std::get<Built<T>>(either = build<T>(parts, n_features, n_rows));
      auto &net = built.net;
      for (auto &hidden_layer : built.layers) own(hidden_layer.linear.rows, hidden_layer.linear.turned ? hidden_layer.linear.n_out : hidden_layer.linear.n_in), hidden_layer.ready = nullptr;
      own(net.output.linear.rows, net.output.linear.turned ? net.output.linear.n_out : net.output.linear.n_in);
      own(net.direct.rows, net.direct.n_in);
      own(net.order, net.n_features), own(net.first, net.n_features + 1);
      if (net.reference) zeros.assign(net.reference, net.reference + net.n_features), net.reference = zeros.data();
      largest.assign(net.n_features, 1);
      for (size_t i = 0; net.first && i < net.n_features; ++i) largest[net.order ? net.order[i] : i] = uint8_t(net.first[i + 1] - net.first[i]);
    });
  }
  Network(const Network &) = delete;

  void score(const py::array &x, const py::object &log_prob, const py::object &terms, int n_threads) const {
    std::visit([&]<class T>(const Built<T> &built) {
      const size_t n = built.net.n_features;
      auto in = built.net.first ? codes(x, n) : bits(x, "x", -1, py::ssize_t(n));
      const auto rows = py::ssize_t(in.rows);
      if (n_rows >= 0 && rows != n_rows) throw py::value_error("x must have a row for each of the addends' " + std::to_string(n_rows) + ", not " + std::to_string(rows));
      double *sums = optional_vector<double>(log_prob, "log_prob", rows, true), *each = optional_matrix<double>(terms, "terms", rows, py::ssize_t(n), true);
      run(n_threads, [&](auto *exec) { return Kernels<T>::masked_score()(&built.net, in.rows, in.data, in.ld, sums, each, exec); });
    }, either);
  }

 private:
  NetworkParts parts;  // keeps the arrays
  py::ssize_t n_rows;
  std::variant<Built<float>, Built<double>> either;
  std::deque<std::vector<uint32_t>> indices;
  std::vector<uint8_t> zeros, largest;  // the reference; by column, the largest code

  void own(const uint32_t *&index, size_t n) {
    if (!index) return;
    indices.emplace_back(index, index + n);
    index = indices.back().data();
  }
  Matrix<const uint8_t> codes(const py::array &x, size_t n) const {
    auto in = matrix<uint8_t>(x, "x", -1, py::ssize_t(n));
    check_codes(in, largest.data());
    return {in.data, in.rows, in.columns, in.ld};
  }
};

}  // namespace

template <class F> void Mask::build(Side &side, size_t inputs, size_t outputs, F &&fill) {
  const size_t panels = (outputs + 31) / 32;
  side.words.assign(panels * inputs + 1, 0);
  side.span_of.assign(1, 0);
  for (size_t p = 0; p < panels; ++p) {
    uint32_t *word = side.words.data() + p * inputs;
    fill(word, p, side.spans);
    side.span_of.push_back(uint32_t(side.spans.size() / 2));
  }
  side.spans.push_back(0);  // never an empty array
  side.view = {side.words.data(), side.spans.data(), side.span_of.data()};
}

// The runs of a panel's inputs with a live weight.
static void find_spans(const uint32_t *word, size_t inputs, std::vector<uint32_t> &spans) {
  for (size_t k = 0; k < inputs; ++k)
    if (word[k]) {
      if (k && word[k - 1]) spans.back() = uint32_t(k + 1);
      else spans.push_back(uint32_t(k)), spans.push_back(uint32_t(k + 1));
    }
}

Mask::Mask(size_t n_in, size_t n_out, const py::object &live) : n_in(n_in), n_out(n_out) {
  if (n_in >= UINT32_MAX || n_out >= UINT32_MAX) throw py::value_error("a mask may have up to 2^32 - 2 units a side");
  if (live.is_none()) return;
  dense = false;
  if (py::isinstance<py::tuple>(live)) {
    auto labels = py::cast<py::tuple>(live);
    if (labels.size() != 2) throw py::value_error("live must be an array or the labels (first, last)");
    staircase(vector<int32_t>(array_of(labels[0], "first"), "first", py::ssize_t(n_in)).data,
              vector<int32_t>(array_of(labels[1], "last"), "last", py::ssize_t(n_out)).data);
    return;
  }
  auto m = bits(array_of(live, "live"), "live", py::ssize_t(n_in), py::ssize_t(n_out));
  build(forward, n_in, n_out, [&](uint32_t *word, size_t p, std::vector<uint32_t> &spans) {
    const size_t lanes = std::min<size_t>(32, n_out - 32 * p);
    for (size_t k = 0; k < n_in; ++k) {
      uint8_t bit[32] = {};
      std::copy_n(m.data + k * m.ld + 32 * p, lanes, bit);
      for (size_t j = 0; j < 4; ++j) {  // eight bytes of 0 and 1 become eight bits
        uint64_t eight;
        std::memcpy(&eight, bit + 8 * j, 8);
        word[k] |= uint32_t(eight * 0x0102040810204080u >> 56) << (8 * j);
      }
    }
    find_spans(word, n_in, spans);
  });
  std::vector<uint32_t> row(n_out);  // apart from the bytes, so that the loop goes by vectors
  build(backward, n_out, n_in, [&](uint32_t *word, size_t p, std::vector<uint32_t> &spans) {
    for (size_t j = 0; j < std::min<size_t>(32, n_in - 32 * p); ++j) {
      std::copy_n(m.data + (32 * p + j) * m.ld, n_out, row.data());
      for (size_t o = 0; o < n_out; ++o) word[o] |= row[o] << j;
    }
    find_spans(word, n_out, spans);
  });
}

// Input k feeds the outputs from the first that reaches it on, output o takes the inputs up to its last.
void Mask::staircase(const int32_t *low, const int32_t *high) {
  if (!std::is_sorted(low, low + n_in) || !std::is_sorted(high, high + n_out)) throw py::value_error("the labels of a staircase must not decrease");
  auto below = [](size_t bits) { return bits >= 32 ? ~uint32_t(0) : (uint32_t(1) << bits) - 1; };
  std::vector<size_t> inputs(n_out), start(n_in);  // of each output, how many inputs feed it; of each input, the first it feeds
  for (size_t o = 0, k = 0; o < n_out; ++o) {
    while (k < n_in && low[k] <= high[o]) start[k++] = o;
    inputs[o] = k;
    if (o + 1 == n_out) std::fill(start.begin() + py::ssize_t(k), start.end(), n_out);
  }
  auto span = [](std::vector<uint32_t> &spans, size_t begin, size_t end) {
    if (begin < end) spans.push_back(uint32_t(begin)), spans.push_back(uint32_t(end));
  };
  build(forward, n_in, n_out, [&](uint32_t *word, size_t p, std::vector<uint32_t> &spans) {
    const size_t lanes = std::min<size_t>(32, n_out - 32 * p);
    size_t k = 0;
    for (size_t j = 0; j < lanes; k = inputs[32 * p + j++]) std::fill(word + k, word + inputs[32 * p + j], below(lanes) & ~below(j));
    span(spans, 0, k);
  });
  build(backward, n_out, n_in, [&](uint32_t *word, size_t p, std::vector<uint32_t> &spans) {
    const size_t lanes = std::min<size_t>(32, n_in - 32 * p);
    for (size_t j = 0; j < lanes; ++j)
      std::fill(word + start[32 * p + j], word + (j + 1 < lanes ? start[32 * p + j + 1] : n_out), below(j + 1));
    span(spans, start[32 * p], n_out);
  });
}

py::array Mask::ranges() const {
  std::vector<py::ssize_t> pairs;
  const size_t panels = (n_out + 31) / 32;
  for (size_t p = 0; p < panels; ++p) {
    if (dense) pairs.insert(pairs.end(), {py::ssize_t(p * n_in * 32), py::ssize_t((p + 1) * n_in * 32)});
    for (uint32_t i = dense ? 0 : forward.span_of[p]; i < (dense ? 0 : forward.span_of[p + 1]); ++i)
      pairs.insert(pairs.end(), {py::ssize_t((p * n_in + forward.spans[2 * i]) * 32), py::ssize_t((p * n_in + forward.spans[2 * i + 1]) * 32)});
  }
  py::array_t<py::ssize_t> out({py::ssize_t(pairs.size() / 2), py::ssize_t(2)});
  std::copy(pairs.begin(), pairs.end(), out.mutable_data());
  return out;
}

void bind_masked(py::module_ &m) {
  using py::arg;
  py::class_<Mask>(m, "Mask")
      .def(py::init<size_t, size_t, const py::object &>(), arg("n_in"), arg("n_out"), arg("live"))
      .def_readonly("n_in", &Mask::n_in)
      .def_readonly("n_out", &Mask::n_out)
      .def("ranges", &Mask::ranges);
  py::class_<Ones, std::shared_ptr<Ones>>(m, "Ones")
      .def_readonly("codes", &Ones::codes)
      .def_readonly("index", &Ones::index)
      .def_readonly("count", &Ones::count)
      .def_readonly("n_units", &Ones::n_units);
  m.def("encode", &encode, arg("x"), arg("order"), arg("reference"), arg("first"), arg("out"), arg("n_threads"));
  m.def("masked_linear", &masked_linear, arg("mask"), arg("x"), arg("W"), arg("rows"), arg("turned"), arg("addend"),
        arg("b"), arg("activation"), arg("out"), arg("n_threads"));
  m.def("masked_linear_input_gradient", &masked_linear_input_gradient, arg("mask"), arg("dy"), arg("W"), arg("rows"),
        arg("turned"), arg("addend"), arg("h"), arg("activation"), arg("out"), arg("n_threads"));
  m.def("masked_linear_weight_gradient", &masked_linear_weight_gradient, arg("mask"), arg("x"), arg("dy"), arg("dW"),
        arg("rows"), arg("turned"), arg("whole"), arg("db"), arg("n_threads"));
  auto step = [&m](const char *name, auto function) {
    m.def(name, function, arg("optimizer"), arg("mask"), arg("x"), arg("dy"), arg("W"), arg("s"), arg("t"), arg("average"), arg("db"),
          arg("n_threads"));
  };
  step("masked_linear_step", &linear_step<py::array>), step("sparse_linear_step", &linear_step<Ones>);
  m.def("sparse_linear", &sparse_linear, arg("mask"), arg("x"), arg("W"), arg("rows"), arg("addend"), arg("b"),
        arg("activation"), arg("out"), arg("n_threads"));
  m.def("sparse_linear_weight_gradient", &sparse_linear_weight_gradient, arg("mask"), arg("x"), arg("dy"), arg("dW"),
        arg("rows"), arg("whole"), arg("db"), arg("n_threads"));
  m.def("permute_columns", &permute_columns, arg("mask"), arg("W"), arg("rows"), arg("turned"), arg("columns"), arg("back"), arg("out"),
        arg("n_threads"));
  m.def("masked_sample", &masked_sample, arg("hidden"), arg("output"), arg("direct"), arg("addend"), arg("b"), arg("order"),
        arg("reference"), arg("first"), arg("u"), arg("observed"), arg("out"), arg("n_threads"));
  py::class_<Network>(m, "Network")
      .def(py::init<const py::list &, const py::object &, const py::object &, const py::object &, const py::object &, const py::object &,
                    const py::object &, const py::object &, py::ssize_t, py::ssize_t>(),
           arg("hidden"), arg("output"), arg("direct"), arg("addend"), arg("b"), arg("order"), arg("reference"), arg("first"),
           arg("n_features"), arg("n_rows"))
      .def("score", &Network::score, arg("x"), arg("log_prob"), arg("terms"), arg("n_threads"));
}
