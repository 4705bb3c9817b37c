// Elementwise functions, reductions, the optimizer and random numbers.
#include "optimizer.hpp"

namespace {

void map(int function, const py::array &x, const py::array &out, int n_threads) {
  with_precision(x, "x", [&]<class T>() {
    auto from = vector<T>(x, "x", -1);
    auto to = vector<T>(out, "out", py::ssize_t(from.size), true);
    run(n_threads, [&](auto *exec) { return Kernels<T>::map()(function, from.size, from.data, to.data, exec); });
  });
}

void logsumexp(const py::array &x, const py::array &out, int n_threads) {
  with_precision(x, "x", [&]<class T>() {
    auto from = matrix<T>(x, "x", -1, -1);
    auto to = vector<T>(out, "out", py::ssize_t(from.rows), true);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::logsumexp()(from.rows, from.columns, from.data, from.ld, to.data, exec);
    });
  });
}

void optimizer_step(const py::tuple &optimizer, const py::array &parameters, const py::array &gradient, const py::object &s,
                    const py::object &t, const py::object &average, const py::object &live, int n_threads) {
  with_precision(parameters, "parameters", [&]<class T>() {
    auto p = vector<T>(parameters, "parameters", -1, true);
    const auto n = py::ssize_t(p.size);
    auto g = vector<T>(gradient, "gradient", n);
    const chainrule_optimizer o = optimizer_of(optimizer, s, t);
    T *first = optional_vector<T>(s, "s", n, true), *second = optional_vector<T>(t, "t", n, true);
    T *mean = optional_vector<T>(average, "average", n, true);
    size_t n_live = 0;
    const uint64_t *pairs = nullptr;
    if (!live.is_none()) {
      auto ranges = matrix<uint64_t>(array_of(live, "live"), "live", -1, 2);
      if (ranges.rows > 1 && ranges.ld != 2) throw py::value_error("live must be C-contiguous");
      pairs = ranges.data, n_live = ranges.rows;
      for (size_t k = 0; k < n_live; ++k)
        if (pairs[2 * k] > pairs[2 * k + 1] || pairs[2 * k + 1] > p.size || (k && pairs[2 * k] < pairs[2 * k - 1]))
          throw py::value_error("live must hold ascending ranges within the parameters; range " + std::to_string(k) + " is not");
    }
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::optimizer_step()(&o, p.size, p.data, g.data, first, second, mean, n_live, pairs, exec);
    });
  });
}

double sum_squares(const py::array &x, int n_threads) {
  double sum = 0;
  with_precision(x, "x", [&]<class T>() {
    auto v = vector<T>(x, "x", -1);
    run(n_threads, [&](auto *exec) { return Kernels<T>::sum_squares()(v.size, v.data, &sum, exec); });
  });
  return sum;
}

void uniforms(uint64_t key0, uint64_t key1, uint64_t first_block, const py::array &out, int n_threads) {
  auto u = vector<double>(out, "out", -1, true);
  const uint64_t key[2] = {key0, key1};
  run(n_threads, [&](auto *exec) { return api().uniforms(key, first_block, u.size, u.data, exec); });
}

}  // namespace

void bind_elementwise(py::module_ &m) {
  using py::arg;
  m.def("map", &map, arg("function"), arg("x"), arg("out"), arg("n_threads"));
  m.def("logsumexp", &logsumexp, arg("x"), arg("out"), arg("n_threads"));
  m.def("optimizer_step", &optimizer_step, arg("optimizer"), arg("parameters"), arg("gradient"), arg("s"), arg("t"),
        arg("average"), arg("live"), arg("n_threads"));
  m.def("sum_squares", &sum_squares, arg("x"), arg("n_threads"));
  m.def("uniforms", &uniforms, arg("key0"), arg("key1"), arg("first_block"), arg("out"), arg("n_threads"));
}
