// Layers of Transformers, row by row: layer norm, GELU, dropout, and the softmax over a vocabulary.
#include "arrays.hpp"

namespace {

std::string text_of(double value) { return std::string(py::str(py::float_(value))); }

// An output may take the place of an input, and overlap it in no other way.
template <class T> void same_or_apart(const Matrix<T> &out, const char *out_name, const Matrix<T> &in, const char *name) {
  if (out.data == in.data && (out.ld == in.ld || in.rows <= 1)) return;
  if (overlap(out.data, out.ld, in.data, in.ld, in.rows, out.columns, in.columns))
    throw py::value_error(std::string(out_name) + " must be " + name + " itself, or share no memory with it");
}
template <class T> void apart(const Matrix<T> &out, const char *out_name, const Matrix<T> &in, const char *name) {
  if (overlap(out.data, out.ld, in.data, in.ld, in.rows, out.columns, in.columns))
    throw py::value_error(std::string(out_name) + " must share no memory with " + name);
}
template <class T> Matrix<T> as_row(const Vector<T> &v) { return {v.data, 1, v.size, v.size}; }

template <class T> Matrix<T> rows_of(const py::array &a, const char *name) {
  auto m = matrix<T>(a, name, -1, -1);
  if (!m.columns) throw py::value_error(std::string(name) + " must have at least one column");
  return m;
}

void layer_norm(const py::array &x, const py::array &gain, const py::array &bias, double epsilon, const py::array &out,
                const py::object &statistics, int n_threads) {
  with_precision(x, "x", [&]<class T>() {
    auto in = rows_of<T>(x, "x");
    const auto rows = py::ssize_t(in.rows), columns = py::ssize_t(in.columns);
    const T *scale = vector<T>(gain, "gain", columns).data, *shift = vector<T>(bias, "bias", columns).data;
    if (!(epsilon > 0 && epsilon < 1e30)) throw py::value_error("epsilon must be positive, not " + text_of(epsilon));
    auto y = matrix<T>(out, "out", rows, columns, true);
    same_or_apart(y, "out", in, "x");
    T *kept = optional_matrix<T>(statistics, "statistics", rows, 2, true);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::layer_norm()(in.rows, in.columns, in.data, in.ld, scale, shift, epsilon, y.data, y.ld, kept, exec);
    });
  });
}

void layer_norm_gradient(const py::array &x, const py::array &gain, const py::array &statistics, const py::array &dy,
                         const py::object &addend, const py::array &dx, const py::array &dgain, const py::array &dbias, int n_threads) {
  with_precision(x, "x", [&]<class T>() {
    auto in = rows_of<T>(x, "x");
    const auto rows = py::ssize_t(in.rows), columns = py::ssize_t(in.columns);
    const T *scale = vector<T>(gain, "gain", columns).data, *kept = optional_matrix<T>(statistics, "statistics", rows, 2);
    auto back = matrix<T>(dy, "dy", rows, columns), to = matrix<T>(dx, "dx", rows, columns, true);
    Matrix<T> more = {nullptr, in.rows, in.columns, in.columns};
    if (!addend.is_none()) more = matrix<T>(array_of(addend, "addend"), "addend", rows, columns);
    apart(to, "dx", in, "x"), same_or_apart(to, "dx", back, "dy"), same_or_apart(to, "dx", more, "addend");
    T *to_gain = vector<T>(dgain, "dgain", columns, true).data, *to_bias = vector<T>(dbias, "dbias", columns, true).data;
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::layer_norm_gradient()(in.rows, in.columns, in.data, in.ld, scale, kept, back.data, back.ld, more.data, more.ld,
                                               to.data, to.ld, to_gain, to_bias, exec);
    });
  });
}

void gelu(int form, const py::array &x, const py::array &out, int n_threads) {
  with_precision(x, "x", [&]<class T>() {
    auto in = vector<T>(x, "x", -1);
    auto y = vector<T>(out, "out", py::ssize_t(in.size), true);
    same_or_apart(as_row(y), "out", as_row(in), "x");
    run(n_threads, [&](auto *exec) { return Kernels<T>::gelu()(form, in.size, in.data, y.data, exec); });
  });
}

void gelu_gradient(int form, const py::array &x, const py::array &dy, const py::array &out, int n_threads) {
  with_precision(x, "x", [&]<class T>() {
    auto in = vector<T>(x, "x", -1);
    auto back = vector<T>(dy, "dy", py::ssize_t(in.size)), dx = vector<T>(out, "out", py::ssize_t(in.size), true);
    apart(as_row(dx), "out", as_row(in), "x"), same_or_apart(as_row(dx), "out", as_row(back), "dy");
    run(n_threads, [&](auto *exec) { return Kernels<T>::gelu_gradient()(form, in.size, in.data, back.data, dx.data, exec); });
  });
}

void dropout(const py::array &x, uint64_t key0, uint64_t key1, uint64_t first_block, double rate, const py::array &out, int n_threads) {
  with_precision(x, "x", [&]<class T>() {
    auto in = vector<T>(x, "x", -1);
    auto y = vector<T>(out, "out", py::ssize_t(in.size), true);
    same_or_apart(as_row(y), "out", as_row(in), "x");
    if (!(rate >= 0 && rate < 1)) throw py::value_error("rate must be at least 0 and below 1, not " + text_of(rate));
    const uint64_t key[2] = {key0, key1};
    run(n_threads, [&](auto *exec) { return Kernels<T>::dropout()(key, first_block, rate, in.size, in.data, y.data, exec); });
  });
}

// A value of every row.
const int32_t *targets(const py::array &target, py::ssize_t rows, size_t n_values) {
  auto v = vector<int32_t>(target, "target", rows);
  for (size_t r = 0; r < v.size; ++r)
    if (v.data[r] < 0 || size_t(v.data[r]) >= n_values)
      throw py::value_error("target must be from 0 to " + std::to_string(n_values - 1) + "; entry " + std::to_string(r) + " is " + std::to_string(v.data[r]));
  return v.data;
}

void softmax_log_prob(const py::array &logits, const py::array &target, const py::array &out, int n_threads) {
  with_precision(logits, "logits", [&]<class T>() {
    auto z = rows_of<T>(logits, "logits");
    const auto rows = py::ssize_t(z.rows);
    const int32_t *values = targets(target, rows, z.columns);
    double *log_prob = vector<double>(out, "out", rows, true).data;
    run(n_threads, [&](auto *exec) { return Kernels<T>::softmax_log_prob()(z.rows, z.columns, z.data, z.ld, values, log_prob, exec); });
  });
}

void softmax_gradient(const py::array &logits, const py::array &target, const py::object &weight, const py::object &log_prob,
                      const py::array &dlogits, int n_threads) {
  with_precision(logits, "logits", [&]<class T>() {
    auto z = rows_of<T>(logits, "logits");
    const auto rows = py::ssize_t(z.rows);
    const int32_t *values = targets(target, rows, z.columns);
    const T *weights = optional_vector<T>(weight, "weight", rows);
    double *total = optional_vector<double>(log_prob, "log_prob", rows, true);
    auto d = matrix<T>(dlogits, "dlogits", rows, py::ssize_t(z.columns), true);
    same_or_apart(d, "dlogits", z, "logits");
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::softmax_gradient()(z.rows, z.columns, z.data, z.ld, values, weights, total, d.data, d.ld, exec);
    });
  });
}

void softmax_sample(const py::array &logits, const py::array &u, double temperature, py::ssize_t top_k, double top_p, const py::array &out,
                    int n_threads) {
  with_precision(logits, "logits", [&]<class T>() {
    constexpr size_t most = size_t(1) << 22;
    auto z = rows_of<T>(logits, "logits");
    const auto rows = py::ssize_t(z.rows);
    if (z.columns > most) throw py::value_error("logits must have at most " + std::to_string(most) + " columns, not " + std::to_string(z.columns));
    const double *uniform = vector<double>(u, "u", rows).data;
    int32_t *x = vector<int32_t>(out, "out", rows, true).data;
    if (!(temperature >= 0 && temperature <= 1e300)) throw py::value_error("temperature must be 0 or positive, not " + text_of(temperature));
    if (!(top_p >= 0 && top_p <= 1)) throw py::value_error("top_p must be from 0 to 1, not " + text_of(top_p));
    if (top_k < 0) throw py::value_error("top_k must be 0 or positive, not " + std::to_string(top_k));
    const chainrule_choice choice = {temperature, top_p, size_t(top_k) < z.columns ? uint32_t(top_k) : 0};
    run(n_threads, [&](auto *exec) { return Kernels<T>::softmax_sample()(&choice, z.rows, z.columns, z.data, z.ld, uniform, x, exec); });
  });
}

}  // namespace

void bind_layers(py::module_ &m) {
  using py::arg;
  m.def("layer_norm", &layer_norm, arg("x"), arg("gain"), arg("bias"), arg("epsilon"), arg("out"), arg("statistics"), arg("n_threads"));
  m.def("layer_norm_gradient", &layer_norm_gradient, arg("x"), arg("gain"), arg("statistics"), arg("dy"), arg("addend"), arg("dx"), arg("dgain"),
        arg("dbias"), arg("n_threads"));
  m.def("gelu", &gelu, arg("form"), arg("x"), arg("out"), arg("n_threads"));
  m.def("gelu_gradient", &gelu_gradient, arg("form"), arg("x"), arg("dy"), arg("out"), arg("n_threads"));
  m.def("dropout", &dropout, arg("x"), arg("key0"), arg("key1"), arg("first_block"), arg("rate"), arg("out"), arg("n_threads"));
  m.def("softmax_log_prob", &softmax_log_prob, arg("logits"), arg("target"), arg("out"), arg("n_threads"));
  m.def("softmax_gradient", &softmax_gradient, arg("logits"), arg("target"), arg("weight"), arg("log_prob"), arg("dlogits"), arg("n_threads"));
  m.def("softmax_sample", &softmax_sample, arg("logits"), arg("u"), arg("temperature"), arg("top_k"), arg("top_p"), arg("out"), arg("n_threads"));
}
