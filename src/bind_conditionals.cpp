// Conditional distributions from logits: Bernoulli and categorical.
#include <algorithm>
#include <vector>

#include "arrays.hpp"

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

// Logits of categorical columns: where each column's begin, and the largest value of each.
template <class T> struct Categorical {
  Matrix<T> z;
  size_t n_features;
  const uint32_t *first;
  const uint8_t *reference;
  std::vector<uint8_t> largest;

  Categorical(const py::array &logits, const py::array &first_, const py::object &reference_)
      : z(matrix<T>(logits, "logits", -1, -1)) {
    auto starts = vector<uint32_t>(first_, "first", -1);
    if (starts.size == 0) throw py::value_error("first must have an entry for each column and one more, not none");
    first = starts.data, n_features = starts.size - 1;
    if (first[0] != 0) throw py::value_error("first must start at 0, not " + std::to_string(first[0]));
    largest.resize(n_features);
    for (size_t i = 0; i < n_features; ++i) {
      const std::string entry = "entry " + std::to_string(i + 1) + " is " + std::to_string(first[i + 1]) + " after " + std::to_string(first[i]);
      if (first[i + 1] < first[i]) throw py::value_error("first must not decrease: " + entry);
      if (first[i + 1] - first[i] > 255) throw py::value_error("first must give a column at most 256 values, which are 255 logits: " + entry);
      largest[i] = uint8_t(first[i + 1] - first[i]);
    }
    if (first[n_features] != z.columns)
      throw py::value_error("first must end at the number of logits, " + std::to_string(z.columns) + ", not " + std::to_string(first[n_features]));
    reference = optional_vector<uint8_t>(reference_, "reference", py::ssize_t(n_features));
    for (size_t i = 0; reference && i < n_features; ++i)
      if (reference[i] > largest[i])
        throw py::value_error("reference must be a value of each column: entry " + std::to_string(i) + " is " + std::to_string(int(reference[i])) +
                              ", column " + std::to_string(i) + " has values 0.." + std::to_string(int(largest[i])));
  }

  Matrix<uint8_t> values(const py::array &x) const {
    auto m = matrix<uint8_t>(x, "x", py::ssize_t(z.rows), py::ssize_t(n_features));
    for (size_t r = 0; r < m.rows; ++r) {
      const uint8_t *row = m.data + r * m.ld;
      bool wrong = false;
      for (size_t i = 0; i < n_features; ++i) wrong |= row[i] > largest[i];
      for (size_t i = 0; wrong && i < n_features; ++i)
        if (row[i] > largest[i])
          throw py::value_error("x has values outside those of their columns (first: " + std::to_string(int(row[i])) + " at row " +
                                std::to_string(r) + ", column " + std::to_string(i) + ", which has 0.." + std::to_string(int(largest[i])) + ")");
    }
    return m;
  }
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
