// Layer normalisation of a row (Ba, Kiros & Hinton 2016), one definition for every kernel that normalises.
//
//   mean = sum_j x_j / n,  r = 1 / sqrt(sum_j (x_j - mean)^2 / n + epsilon),  y_j = (x_j - mean) r gain_j + bias_j
//
// Two sums over lanes (docs/reproducibility.md, 4), the second of fused squares: the variance is never a difference of two
// sums. Cost: three walks over a row that is in cache, a division and a square root.
#pragma once
#include "real.hpp"

namespace chainrule {
namespace {

// f(k, n) over a row's vectors in ascending order: n of the lanes from k on exist. n is a constant but in the last one.
template <class F> CHAINRULE_INLINE void for_vectors(size_t n, F &&f) {
  size_t k = 0;
  for (; k + kWidth <= n; k += kWidth) f(k, int(kWidth));
  if (k < n) f(k, int(n - k));
}
CHAINRULE_INLINE Vec<Real> load_lanes(const Real *p, int n) { return n == int(kWidth) ? load(p) : load_part(p, n); }
CHAINRULE_INLINE void store_lanes(Real *p, Vec<Real> v, int n) {
  if (n == int(kWidth)) store(p, v);
  else store_part(p, v, n);
}
// v in the first n lanes, 0 in the others.
CHAINRULE_INLINE Vec<Real> first_lanes(Vec<Real> v, int n) {
  static constexpr Real lane[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return n == int(kWidth) ? v : select(load(lane) < set1(Real(n)), v, zero<Real>());
}

// statistics [2] gets mean and r; NULL: not wanted. y may be x.
CHAINRULE_INLINE void layer_norm_row(const Real *x, size_t n, const Real *gain, const Real *bias, Real epsilon, Real *y,
                                     Real *statistics) {
  Vec<Real> sum = zero<Real>(), squares = zero<Real>();
  for_vectors(n, [&](size_t k, int lanes) __attribute__((always_inline)) { sum = sum + load_lanes(x + k, lanes); });
  const Real mean = hsum(sum) / Real(n);
  for_vectors(n, [&](size_t k, int lanes) __attribute__((always_inline)) {
    const Vec<Real> d = first_lanes(load_lanes(x + k, lanes) - set1(mean), lanes);
    squares = fma(d, d, squares);
  });
  const Vec<Real> root = sqrt(set1(hsum(squares) / Real(n) + epsilon)), r = set1(Real(1)) / root;
  for_vectors(n, [&](size_t k, int lanes) __attribute__((always_inline)) {
    const Vec<Real> normal = (load_lanes(x + k, lanes) - set1(mean)) * r;
    store_lanes(y + k, fma(normal, load_lanes(gain + k, lanes), load_lanes(bias + k, lanes)), lanes);
  });
  if (statistics) statistics[0] = mean, statistics[1] = hsum(first_lanes(r, 1));
}

}  // namespace
}  // namespace chainrule
