// Conditional distributions from given parameters: Bernoulli, categorical, mixtures of logistics.
#include "codes.hpp"

namespace {

// A gradient may take the place of the parameters, and overlap them in no other way.
template <class T> Matrix<T> gradient_of(const py::array &gradient, const Matrix<T> &z, const std::string &of = "logits") {
  auto d = matrix<T>(gradient, ("d" + of).c_str(), py::ssize_t(z.rows), py::ssize_t(z.columns), true);
  if (z.rows && z.columns && !(d.data == z.data && (d.ld == z.ld || z.rows == 1))) {
    const auto from = reinterpret_cast<uintptr_t>(z.data), to = reinterpret_cast<uintptr_t>(d.data);
    const size_t from_size = ((z.rows - 1) * z.ld + z.columns) * sizeof(T), to_size = ((d.rows - 1) * d.ld + d.columns) * sizeof(T);
    if (from < to + to_size && to < from + from_size)
      throw py::value_error("d" + of + " must be the " + of + " themselves, or share no memory with them");
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

// Parameters of mixtures of logistics, and what they mean.
template <class T> struct LogisticMixture {
  Matrix<T> parameters;
  chainrule_logistic_mixture shape;

  LogisticMixture(const py::array &a, py::ssize_t n_values, py::ssize_t n_components, double log_scale_min)
      : parameters(matrix<T>(a, "parameters", -1, -1)) {
    if (n_values < 1 || n_values > 65536) throw py::value_error("n_values must be from 1 to 65536, not " + std::to_string(n_values));
    if (n_components < 1 || n_components > 1024) throw py::value_error("n_components must be from 1 to 1024, not " + std::to_string(n_components));
    if (!(log_scale_min >= -40 && log_scale_min <= 40))
      throw py::value_error("log_scale_min must be from -40 to 40, not " + std::string(py::str(py::float_(log_scale_min))));
    const size_t K = size_t(n_components), columns = parameters.columns;
    if (K > columns ? columns != 0 : columns % (3 * K) != 0)
      throw py::value_error("parameters must have 3 * n_components = " + std::string(py::str(py::int_(3) * py::int_(K))) +
                            " columns for each variable, not " + std::to_string(columns) + " in all");
    shape = {K > columns ? 0 : columns / (3 * K), K, int32_t(n_values), log_scale_min};
  }
  py::ssize_t rows() const { return py::ssize_t(parameters.rows); }
  py::ssize_t features() const { return py::ssize_t(shape.n_features); }
  Matrix<int32_t> values(const py::array &x) const {
    auto m = matrix<int32_t>(x, "x", rows(), features());
    const auto n_values = uint32_t(shape.n_values);
    for (size_t r = 0; r < m.rows; ++r) {
      const int32_t *row = m.data + r * m.ld;
      unsigned wrong = 0;
      for (size_t i = 0; i < m.columns; ++i) wrong |= unsigned(uint32_t(row[i]) >= n_values);
      for (size_t i = 0; wrong && i < m.columns; ++i)
        if (uint32_t(row[i]) >= n_values)
          throw py::value_error("x has values outside 0.." + std::to_string(n_values - 1) + " (first: " + std::to_string(row[i]) +
                                " at row " + std::to_string(r) + ", column " + std::to_string(i) + ")");
    }
    return m;
  }
};

void logistic_mixture_log_prob(const py::array &parameters, const py::array &x, py::ssize_t n_values, py::ssize_t n_components,
                               double log_scale_min, const py::object &log_prob, const py::object &terms, int n_threads) {
  with_precision(parameters, "parameters", [&]<class T>() {
    const LogisticMixture<T> mixture(parameters, n_values, n_components, log_scale_min);
    auto v = mixture.values(x);
    double *total = optional_vector<double>(log_prob, "log_prob", mixture.rows(), true);
    double *each = optional_matrix<double>(terms, "terms", mixture.rows(), mixture.features(), true);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::logistic_mixture_log_prob()(&mixture.shape, v.rows, mixture.parameters.data, mixture.parameters.ld, v.data,
                                                     v.ld, total, each, exec);
    });
  });
}

void logistic_mixture_gradient(const py::array &parameters, const py::array &x, py::ssize_t n_values, py::ssize_t n_components,
                               double log_scale_min, const py::object &weight, const py::object &log_prob,
                               const py::array &dparameters, int n_threads) {
  with_precision(parameters, "parameters", [&]<class T>() {
    const LogisticMixture<T> mixture(parameters, n_values, n_components, log_scale_min);
    auto v = mixture.values(x);
    const T *weights = optional_vector<T>(weight, "weight", mixture.rows());
    double *total = optional_vector<double>(log_prob, "log_prob", mixture.rows(), true);
    auto d = gradient_of(dparameters, mixture.parameters, "parameters");
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::logistic_mixture_gradient()(&mixture.shape, v.rows, mixture.parameters.data, mixture.parameters.ld, v.data,
                                                     v.ld, weights, total, d.data, d.ld, exec);
    });
  });
}

void logistic_mixture_sample(const py::array &parameters, const py::array &u, py::ssize_t n_values, py::ssize_t n_components,
                             double log_scale_min, const py::array &x, int n_threads) {
  with_precision(parameters, "parameters", [&]<class T>() {
    const LogisticMixture<T> mixture(parameters, n_values, n_components, log_scale_min);
    auto uniform = matrix<double>(u, "u", mixture.rows(), mixture.features());
    auto out = matrix<int32_t>(x, "out", mixture.rows(), mixture.features(), true);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::logistic_mixture_sample()(&mixture.shape, uniform.rows, mixture.parameters.data, mixture.parameters.ld,
                                                   uniform.data, uniform.ld, out.data, out.ld, exec);
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
  m.def("logistic_mixture_log_prob", &logistic_mixture_log_prob, arg("parameters"), arg("x"), arg("n_values"), arg("n_components"),
        arg("log_scale_min"), arg("log_prob"), arg("terms"), arg("n_threads"));
  m.def("logistic_mixture_gradient", &logistic_mixture_gradient, arg("parameters"), arg("x"), arg("n_values"), arg("n_components"),
        arg("log_scale_min"), arg("weight"), arg("log_prob"), arg("dparameters"), arg("n_threads"));
  m.def("logistic_mixture_sample", &logistic_mixture_sample, arg("parameters"), arg("u"), arg("n_values"), arg("n_components"),
        arg("log_scale_min"), arg("out"), arg("n_threads"));
}
