// Elementwise functions, and log-sum-exp over rows: the functions of simd/math.hpp as kernels.
//
//   y_i = f(x_i)                                   x, y: [n], y may be x
//   y_r = log sum_k exp x_rk = m_r + log sum_k exp(x_rk - m_r),  m_r = max_k x_rk      x: [n_rows][ldx], y: [n_rows]
//
// Cost: 0.2 to 0.9 ns an element of float in cache (docs/math.md), else one read and one write of memory.
#include "real.hpp"

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

// n numbers as a vector, the lanes beyond them -inf.
CHAINRULE_INLINE Vec<Real> load_or_nothing(const Real *x, size_t n) {
  static constexpr Real lane[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return select(load(lane) < set1(Real(n)), load_part(x, int(n)), set1(-infinity<Real>));
}

// m and sum_k exp(x_k - m) of a row. The sum has one order: lane j of a vector sums elements j, j + 16, ... (double:
// j + 8) ascending, then hsum's tree; a short last vector is filled up with -inf, which adds 0.
struct Row {
  Real m, sum;
};
CHAINRULE_INLINE Row max_and_sum(size_t n, const Real *x) {
  const size_t full = n - n % kLanes;
  const Vec<Real> last = load_or_nothing(x + full, n - full);
  Vec<Real> largest = last;
  for (size_t k = 0; k < full; k += kLanes) largest = max(largest, load(x + k));
  Real lanes[kLanes];
  store(lanes, largest);
  for (size_t half = kLanes / 2; half; half /= 2)
    for (size_t j = 0; j < half; ++j) lanes[j] = lanes[j] > lanes[j + half] ? lanes[j] : lanes[j + half];
  // An infinite maximum is the answer already, in the sum of the exponentials too; a NaN comes back through it.
  const Real m = lanes[0] - lanes[0] == 0 ? lanes[0] : 0;

  Vec<Real> sum = zero<Real>();
  for (size_t k = 0; k < full; k += kLanes) sum = sum + exp(load(x + k) - set1(m));
  return {m, hsum(sum + exp(last - set1(m)))};
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
        Row row = max_and_sum(n_columns, x + (r + k) * ldx);
        m[k] = row.m, sum[k] = row.sum;
      }
      store_part(y + r, load(m) + log(load(sum)), int(rows));
    }
  });
}

}  // namespace chainrule
