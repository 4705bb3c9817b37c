// Elementwise functions, and log-sum-exp over rows: the functions of simd/math.hpp as kernels.
//
//   y_i = f(x_i)                                   x, y: [n], y may be x
//   y_r = log sum_k exp x_rk = m_r + log sum_k exp(x_rk - m_r),  m_r = max_k x_rk      x: [n_rows][ldx], y: [n_rows]
//
// Cost: 0.2 to 0.9 ns an element of float in cache (docs/math.md), else one read and one write of memory.
#include "softmax.hpp"

namespace chainrule {
namespace {

constexpr size_t kPiece = 4096;    // elements a thread takes at a time
constexpr double kWork = 16;       // multiply-adds that cost as much as one function value
constexpr size_t kLanes = Vec<Real>::width;

// Two vectors at a time: a function is a long chain, and two overlap.
template <class F> CHAINRULE_INLINE chainrule_status map_with(size_t n, const Real *x, Real *y, const chainrule_exec *exec, F f) {
  const int threads = plan_threads(exec, (n + kPiece - 1) / kPiece, double(n) * kWork);
  return for_each(exec, threads, n, kPiece, [=](size_t i, size_t end, int) {
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) store(y + i, f(load<Real, 2>(x + i)));
    for (; i < end; i += kLanes) {
      const int left = end - i < kLanes ? int(end - i) : int(kLanes);
      store_part(y + i, f(load_part(x + i, left)), left);
    }
  });
}

}  // namespace

CHAINRULE_KERNEL(map)(int32_t function, size_t n, const Real *x, Real *y, const chainrule_exec *exec) {
#define CHAINRULE_CASE(number, f) \
  case number:                    \
    return map_with(n, x, y, exec, [](auto v) __attribute__((always_inline)) { return f(v); });
  switch (function) {
    CHAINRULE_CASE(CHAINRULE_EXP, exp)
    CHAINRULE_CASE(CHAINRULE_EXPM1, expm1)
    CHAINRULE_CASE(CHAINRULE_LOG, log)
    CHAINRULE_CASE(CHAINRULE_LOG1P, log1p)
    CHAINRULE_CASE(CHAINRULE_SIGMOID_OF, sigmoid)
    CHAINRULE_CASE(CHAINRULE_TANH_OF, tanh)
    CHAINRULE_CASE(CHAINRULE_SOFTPLUS, softplus)
    CHAINRULE_CASE(CHAINRULE_ERF, erf)
    CHAINRULE_CASE(CHAINRULE_SIN, sin)
    CHAINRULE_CASE(CHAINRULE_COS, cos)
  }
#undef CHAINRULE_CASE
  return CHAINRULE_OK;
}

CHAINRULE_KERNEL(logsumexp)(size_t n_rows, size_t n_columns, const Real *x, size_t ldx, Real *y, const chainrule_exec *exec) {
  const size_t grain = kLanes + kPiece / (n_columns + 1);
  const double work = double(n_rows) * double(n_columns + kLanes) * kWork;
  const int threads = plan_threads(exec, (n_rows + grain - 1) / grain, work);
  return for_each(exec, threads, n_rows, grain, [=](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; r += kLanes) {  // as many rows as lanes share a log
      const size_t rows = end - r < kLanes ? end - r : kLanes;
      Real m[kLanes] = {}, sum[kLanes] = {};
      for (size_t k = 0; k < rows; ++k) {
        const RowSum row = max_and_sum(n_columns, x + (r + k) * ldx);
        m[k] = row.m, sum[k] = row.s;
      }
      store_part(y + r, load(m) + log(load(sum)), int(rows));
    }
  });
}

}  // namespace chainrule
