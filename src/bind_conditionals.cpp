// Conditional distributions from logits: Bernoulli and categorical.
#include "codes.hpp"

namespace {

// A gradient may take the place of the logits, and overlap them in no other way.
template <class T> Matrix<T> gradient_of(const py::array &dlogits, const Matrix<T> &z) {
  auto d = matrix<T>(dlogits, "dlogits", py::ssize_t(z.rows), py::ssize_t(z.columns), true);
  if (z.rows && z.columns && !(d.data == z.data && (d.ld == z.ld || z.rows == 1))) {
    const auto from = reinterpret_cast<uintptr_t>(z.data), to = reinterpret_cast<uintptr_t>(d.data);
    const size_t from_size = ((z.rows - 1) * z.ld + z.columns) * sizeof(T), to_size = ((d.rows - 1) * d.ld + d.columns) * sizeof(T);
    if (from < to + to_size && to < from + from_size)
      throw py::value_error("dlogits must be the logits themselves, or share no memory with them");
  }
  return d;
}

void bernoulli_log_prob(const py::array &logits, const py::array &x, const py::object &log_prob, const py::object &terms, int n_threads) {
  with_precision(logits, "logits", [&]<class T>() {
    auto z = matrix<T>(logits, "logits", -1, -1);
    const auto rows = py::ssize_t(z.rows), columns = py::ssize_t(z.columns);
    auto b = bits(x, "x", rows, columns);
    double *total = optional_vector<double>(log_prob, "log_prob", rows, true);
    double *each = optional_matrix<double>(terms, "terms", rows, columns, true);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::bernoulli_log_prob()(z.rows, z.columns, z.data, z.ld, b.data, b.ld, total, each, exec);
    });
  });
}

void bernoulli_sample(const py::array &logits, const py::array &u, const py::array &x, int n_threads) {
  with_precision(logits, "logits", [&]<class T>() {
    auto z = matrix<T>(logits, "logits", -1, -1);
    const auto rows = py::ssize_t(z.rows), columns = py::ssize_t(z.columns);
    auto uniform = matrix<double>(u, "u", rows, columns);
    auto out = matrix<uint8_t>(x, "out", rows, columns, true);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::bernoulli_sample()(z.rows, z.columns, z.data, z.ld, uniform.data, uniform.ld, out.data, out.ld, exec);
    });
  });
}

void bernoulli_gradient(const py::array &logits, const py::array &x, const py::object &weight, const py::object &log_prob,
                        const py::array &dlogits, int n_threads) {
  with_precision(logits, "logits", [&]<class T>() {
    auto z = matrix<T>(logits, "logits", -1, -1);
    const auto rows = py::ssize_t(z.rows), columns = py::ssize_t(z.columns);
    auto b = bits(x, "x", rows, columns);
    const T *weights = optional_vector<T>(weight, "weight", rows);
    double *total = optional_vector<double>(log_prob, "log_prob", rows, true);
    auto d = gradient_of(dlogits, z);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::bernoulli_gradient()(z.rows, z.columns, z.data, z.ld, b.data, b.ld, weights, total, d.data, d.ld, exec);
    });
  });
}

// Logits of categorical columns, and what they mean.
template <class T> struct Categorical : Columns {
  Matrix<T> z;

  Categorical(const py::array &logits, const py::array &first, const py::object &reference)
      : Categorical(matrix<T>(logits, "logits", -1, -1), first, reference) {}
  Matrix<uint8_t> values(const py::array &x) const { return Columns::values(x, "x", py::ssize_t(z.rows)); }

 private:
  Categorical(Matrix<T> z, const py::array &first, const py::object &reference) : Columns(first, reference, z.columns, "logits"), z(z) {}
};

void categorical_log_prob(const py::array &logits, const py::array &x, const py::array &first, const py::object &reference,
                          const py::object &log_prob, const py::object &terms, int n_threads) {
  with_precision(logits, "logits", [&]<class T>() {
    const Categorical<T> c(logits, first, reference);
    const auto rows = py::ssize_t(c.z.rows);
    auto v = c.values(x);
    double *total = optional_vector<double>(log_prob, "log_prob", rows, true);
    double *each = optional_matrix<double>(terms, "terms", rows, py::ssize_t(c.n_features), true);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::categorical_log_prob()(c.z.rows, c.n_features, c.first, c.reference, c.z.data, c.z.ld, v.data, v.ld, total,
                                                each, exec);
    });
  });
}

void categorical_gradient(const py::array &logits, const py::array &x, const py::array &first, const py::object &reference,
                          const py::object &weight, const py::object &log_prob, const py::array &dlogits, int n_threads) {
  with_precision(logits, "logits", [&]<class T>() {
    const Categorical<T> c(logits, first, reference);
    const auto rows = py::ssize_t(c.z.rows);
    auto v = c.values(x);
    const T *weights = optional_vector<T>(weight, "weight", rows);
    double *total = optional_vector<double>(log_prob, "log_prob", rows, true);
    auto d = gradient_of(dlogits, c.z);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::categorical_gradient()(c.z.rows, c.n_features, c.first, c.reference, c.z.data, c.z.ld, v.data, v.ld, weights,
                                                total, d.data, d.ld, exec);
    });
  });
}

void categorical_sample(const py::array &logits, const py::array &u, const py::array &first, const py::object &reference,
                        const py::array &x, int n_threads) {
  with_precision(logits, "logits", [&]<class T>() {
    const Categorical<T> c(logits, first, reference);
    const auto rows = py::ssize_t(c.z.rows), columns = py::ssize_t(c.n_features);
    auto uniform = matrix<double>(u, "u", rows, columns);
    auto out = matrix<uint8_t>(x, "out", rows, columns, true);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::categorical_sample()(c.z.rows, c.n_features, c.first, c.reference, c.z.data, c.z.ld, uniform.data, uniform.ld,
                                              out.data, out.ld, exec);
    });
  });
}

}  // namespace

void bind_conditionals(py::module_ &m) {
  using py::arg;
  m.def("bernoulli_log_prob", &bernoulli_log_prob, arg("logits"), arg("x"), arg("log_prob"), arg("terms"), arg("n_threads"));
  m.def("bernoulli_sample", &bernoulli_sample, arg("logits"), arg("u"), arg("out"), arg("n_threads"));
  m.def("bernoulli_gradient", &bernoulli_gradient, arg("logits"), arg("x"), arg("weight"), arg("log_prob"), arg("dlogits"),
        arg("n_threads"));
  m.def("categorical_log_prob", &categorical_log_prob, arg("logits"), arg("x"), arg("first"), arg("reference"), arg("log_prob"),
        arg("terms"), arg("n_threads"));
  m.def("categorical_gradient", &categorical_gradient, arg("logits"), arg("x"), arg("first"), arg("reference"), arg("weight"),
        arg("log_prob"), arg("dlogits"), arg("n_threads"));
  m.def("categorical_sample", &categorical_sample, arg("logits"), arg("u"), arg("first"), arg("reference"), arg("out"),
        arg("n_threads"));
}
