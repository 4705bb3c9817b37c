// NADE: score, gradient, sample, of bits and of codes.
#include "codes.hpp"

namespace {

// W and V of one shape, a bias for each of their rows, c for their columns.
template <class T> struct Weights {
  Matrix<T> W, V;
  const T *b, *c;
};
template <class T>
Weights<T> weights(const py::array &W, const py::array &V, const py::array &b, const py::array &c, int activation) {
  auto w = matrix<T>(W, "W", -1, -1);
  const auto rows = py::ssize_t(w.rows), d = py::ssize_t(w.columns);
  auto v = matrix<T>(V, "V", rows, d);
  auto bias = vector<T>(b, "b", rows), hidden = vector<T>(c, "c", d);
  if (activation < 0 || activation > CHAINRULE_TANH) throw py::value_error("activation must be 0, 1 or 2, not " + std::to_string(activation));
  return {w, v, bias.data, hidden.data};
}

// The arrays of a model of bits, checked against one another.
template <class T>
typename Kernels<T>::Nade nade(const py::array &W, const py::array &V, const py::array &b, const py::array &c,
                               int activation, const py::object &order, const py::object &flip) {
  auto w = weights<T>(W, V, b, c, activation);
  const auto n = py::ssize_t(w.W.rows);
  const uint32_t *permutation = optional_order(order, n);
  const uint8_t *flips = optional_vector<uint8_t>(flip, "flip", n);
  for (py::ssize_t i = 0; flips && i < n; ++i)
    if (flips[i] > 1) throw py::value_error("flip has values outside {0, 1} (entry " + std::to_string(i) + " is " + std::to_string(int(flips[i])) + ")");
  return {w.W.rows, w.W.columns, w.W.data, w.V.data, w.b, w.c, w.W.ld, w.V.ld, activation, permutation, flips};
}

void nade_score(const py::array &x, const py::array &W, const py::array &V, const py::array &b, const py::array &c,
                int activation, const py::object &order, const py::object &flip, const py::object &log_prob,
                const py::object &terms, const py::object &logits, int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    auto model = nade<T>(W, V, b, c, activation, order, flip);
    const auto n = py::ssize_t(model.n_features);
    auto rows = bits(x, "x", -1, n);
    const auto count = py::ssize_t(rows.rows);
    double *total = optional_vector<double>(log_prob, "log_prob", count, true);
    double *each = optional_matrix<double>(terms, "terms", count, n, true);
    T *z = optional_matrix<T>(logits, "logits", count, n, true);
    run(n_threads, [&](auto *exec) { return Kernels<T>::nade_score()(&model, rows.rows, rows.data, rows.ld, total, each, z, exec); });
  });
}

void nade_gradient(const py::array &x, const py::array &W, const py::array &V, const py::array &b, const py::array &c,
                   int activation, const py::object &order, const py::object &flip, const py::object &weight,
                   const py::object &log_prob, const py::array &gW, const py::array &gV, const py::array &gb,
                   const py::array &gc, int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    auto model = nade<T>(W, V, b, c, activation, order, flip);
    const auto n = py::ssize_t(model.n_features), d = py::ssize_t(model.n_hidden);
    auto rows = bits(x, "x", -1, n);
    const auto count = py::ssize_t(rows.rows);
    const T *weights = optional_vector<T>(weight, "weight", count);
    double *total = optional_vector<double>(log_prob, "log_prob", count, true);
    auto dW = matrix<T>(gW, "dW", n, d, true), dV = matrix<T>(gV, "dV", n, d, true);
    auto db = vector<T>(gb, "db", n, true), dc = vector<T>(gc, "dc", d, true);
    const typename Kernels<T>::NadeGradient gradient = {dW.data, dV.data, db.data, dc.data, dW.ld, dV.ld};
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::nade_gradient()(&model, rows.rows, rows.data, rows.ld, weights, total, &gradient, exec);
    });
  });
}

void nade_sample(const py::array &u, const py::array &W, const py::array &V, const py::array &b, const py::array &c,
                 int activation, const py::object &order, const py::object &flip, const py::object &observed, const py::array &x,
                 int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    auto model = nade<T>(W, V, b, c, activation, order, flip);
    const auto n = py::ssize_t(model.n_features);
    auto uniform = matrix<double>(u, "u", -1, n);
    auto out = matrix<uint8_t>(x, "out", py::ssize_t(uniform.rows), n, true);
    const uint8_t *known = nullptr;
    if (!observed.is_none()) {
      auto mask = bits(array_of(observed, "observed"), "observed", py::ssize_t(out.rows), n);
      if (mask.ld != out.ld) throw py::value_error("observed must be laid out as out");
      bits(x, "given", py::ssize_t(out.rows), n);
      known = mask.data;
    }
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::nade_sample()(&model, uniform.rows, uniform.data, uniform.ld, known, out.data, out.ld, exec);
    });
  });
}

// The arrays of a model of codes, checked against one another.
template <class T> struct Codes : Columns {
  typename Kernels<T>::NadeCategorical model;
  Codes(const py::array &W, const py::array &V, const py::array &b, const py::array &c, int activation, const py::object &order,
        const py::array &first_, const py::object &reference_)
      : Codes(weights<T>(W, V, b, c, activation), activation, order, first_, reference_) {}

 private:
  Codes(const Weights<T> &w, int activation, const py::object &order, const py::array &first_, const py::object &reference_)
      : Columns(first_, reference_, w.W.rows, "rows of W", order),
        model{n_features, w.W.columns, w.W.data, w.V.data, w.b, w.c, w.W.ld, w.V.ld, activation,
              optional_vector<uint32_t>(order, "order", py::ssize_t(n_features)), first, reference} {}
};

void nade_categorical_score(const py::array &x, const py::array &W, const py::array &V, const py::array &b, const py::array &c,
                            int activation, const py::object &order, const py::array &first, const py::object &reference,
                            const py::object &log_prob, const py::object &terms, const py::object &logits, int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    const Codes<T> codes(W, V, b, c, activation, order, first, reference);
    auto rows = codes.values(x, "x", -1);
    const auto count = py::ssize_t(rows.rows);
    double *total = optional_vector<double>(log_prob, "log_prob", count, true);
    double *each = optional_matrix<double>(terms, "terms", count, py::ssize_t(codes.n_features), true);
    T *z = optional_matrix<T>(logits, "logits", count, py::ssize_t(codes.first[codes.n_features]), true);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::nade_categorical_score()(&codes.model, rows.rows, rows.data, rows.ld, total, each, z, exec);
    });
  });
}

void nade_categorical_gradient(const py::array &x, const py::array &W, const py::array &V, const py::array &b, const py::array &c,
                               int activation, const py::object &order, const py::array &first, const py::object &reference,
                               const py::object &weight, const py::object &log_prob, const py::array &gW, const py::array &gV,
                               const py::array &gb, const py::array &gc, int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    const Codes<T> codes(W, V, b, c, activation, order, first, reference);
    auto rows = codes.values(x, "x", -1);
    const auto count = py::ssize_t(rows.rows), logits = py::ssize_t(codes.first[codes.n_features]), d = py::ssize_t(codes.model.n_hidden);
    const T *weights = optional_vector<T>(weight, "weight", count);
    double *total = optional_vector<double>(log_prob, "log_prob", count, true);
    auto dW = matrix<T>(gW, "dW", logits, d, true), dV = matrix<T>(gV, "dV", logits, d, true);
    auto db = vector<T>(gb, "db", logits, true), dc = vector<T>(gc, "dc", d, true);
    const typename Kernels<T>::NadeGradient gradient = {dW.data, dV.data, db.data, dc.data, dW.ld, dV.ld};
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::nade_categorical_gradient()(&codes.model, rows.rows, rows.data, rows.ld, weights, total, &gradient, exec);
    });
  });
}

void nade_categorical_sample(const py::array &u, const py::array &W, const py::array &V, const py::array &b, const py::array &c,
                             int activation, const py::object &order, const py::array &first, const py::object &reference,
                             const py::object &observed, const py::array &x, int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    const Codes<T> codes(W, V, b, c, activation, order, first, reference);
    const auto n = py::ssize_t(codes.n_features);
    auto uniform = matrix<double>(u, "u", -1, n);
    auto out = matrix<uint8_t>(x, "out", py::ssize_t(uniform.rows), n, true);
    const uint8_t *known = nullptr;
    if (!observed.is_none()) {
      auto mask = bits(array_of(observed, "observed"), "observed", py::ssize_t(out.rows), n);
      if (mask.ld != out.ld) throw py::value_error("observed must be laid out as out");
      codes.values(x, "given", py::ssize_t(out.rows));
      known = mask.data;
    }
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::nade_categorical_sample()(&codes.model, uniform.rows, uniform.data, uniform.ld, known, out.data, out.ld, exec);
    });
  });
}

}  // namespace

void bind_nade(py::module_ &m) {
  using py::arg;
  m.def("nade_score", &nade_score, arg("x"), arg("W"), arg("V"), arg("b"), arg("c"), arg("activation"), arg("order"),
        arg("flip"), arg("log_prob"), arg("terms"), arg("logits"), arg("n_threads"));
  m.def("nade_gradient", &nade_gradient, arg("x"), arg("W"), arg("V"), arg("b"), arg("c"), arg("activation"),
        arg("order"), arg("flip"), arg("weight"), arg("log_prob"), arg("dW"), arg("dV"), arg("db"), arg("dc"),
        arg("n_threads"));
  m.def("nade_sample", &nade_sample, arg("u"), arg("W"), arg("V"), arg("b"), arg("c"), arg("activation"), arg("order"),
        arg("flip"), arg("observed"), arg("out"), arg("n_threads"));
  m.def("nade_categorical_score", &nade_categorical_score, arg("x"), arg("W"), arg("V"), arg("b"), arg("c"),
        arg("activation"), arg("order"), arg("first"), arg("reference"), arg("log_prob"), arg("terms"), arg("logits"),
        arg("n_threads"));
  m.def("nade_categorical_gradient", &nade_categorical_gradient, arg("x"), arg("W"), arg("V"), arg("b"), arg("c"),
        arg("activation"), arg("order"), arg("first"), arg("reference"), arg("weight"), arg("log_prob"), arg("dW"),
        arg("dV"), arg("db"), arg("dc"), arg("n_threads"));
  m.def("nade_categorical_sample", &nade_categorical_sample, arg("u"), arg("W"), arg("V"), arg("b"), arg("c"),
        arg("activation"), arg("order"), arg("first"), arg("reference"), arg("observed"), arg("out"), arg("n_threads"));
}
