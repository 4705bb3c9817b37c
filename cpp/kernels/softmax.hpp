// The largest element of a row and the sum of its exponentials: what log-sum-exp, a softmax and its gradient share.
//
//   m = max_k x_k,  s = sum_k exp(x_k - m)
//
// One order of the sum: lane j of a vector adds elements j, j + 16, ... (double: j + 8) ascending, then hsum's tree; a short last
// vector is filled up with -inf, which adds 0. Cost: two walks over the row, an exponential an element.
#pragma once
#include "real.hpp"

namespace chainrule {
namespace {

// n numbers as a vector, the lanes beyond them `rest`.
CHAINRULE_INLINE Vec<Real> load_filled(const Real *x, size_t n, Real rest) {
  static constexpr Real lane[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return select(load(lane) < set1(Real(n)), load_part(x, int(n)), set1(rest));
}

CHAINRULE_INLINE Real row_max(size_t n, const Real *x) {
  const size_t full = n - n % kWidth;
  Vec<Real> largest = load_filled(x + full, n - full, -infinity<Real>);
  for (size_t k = 0; k < full; k += kWidth) largest = max(largest, load(x + k));
  Real lanes[kWidth];
  store(lanes, largest);
  for (size_t half = kWidth / 2; half; half /= 2)
    for (size_t j = 0; j < half; ++j) lanes[j] = lanes[j] > lanes[j + half] ? lanes[j] : lanes[j + half];
  return lanes[0];
}

struct RowSum {
  Real m, s;
};
// each(k, lanes, e) gets the exponentials, `lanes` of them from element k on; it may write where they come from.
template <class F> CHAINRULE_INLINE RowSum max_and_sum(size_t n, const Real *x, F &&each) {
  const size_t full = n - n % kWidth;
  const Real top = row_max(n, x);
  // An infinite maximum is the answer already, in the sum of the exponentials too; a NaN comes back through it.
  const Real m = top - top == 0 ? top : 0;
  Vec<Real> sum = zero<Real>();
  size_t k = 0;
  for (; k + 2 * kWidth <= full; k += 2 * kWidth) {  // a function is a long chain, and two overlap
    const Vec<Real> e = exp(load(x + k) - set1(m)), f = exp(load(x + k + kWidth) - set1(m));
    sum = sum + e;
    sum = sum + f;
    each(k, int(kWidth), e), each(k + kWidth, int(kWidth), f);
  }
  for (; k < n; k += kWidth) {
    const int lanes = n - k < kWidth ? int(n - k) : int(kWidth);
    const Vec<Real> e = exp(load_filled(x + k, size_t(lanes), -infinity<Real>) - set1(m));
    sum = sum + e;
    each(k, lanes, e);
  }
  return {m, hsum(sum)};
}
CHAINRULE_INLINE RowSum max_and_sum(size_t n, const Real *x) {
  return max_and_sum(n, x, [](size_t, int, Vec<Real>) __attribute__((always_inline)) {});
}

}  // namespace
}  // namespace chainrule
