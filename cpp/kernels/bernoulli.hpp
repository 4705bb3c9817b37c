// The Bernoulli conditional, one definition for every kernel that scores or draws bits: p(x = 1) = sigmoid(z).
#pragma once
#include "real.hpp"

namespace chainrule {
namespace {

// log p(x) = -softplus((1 - 2x) z), never log(sigmoid(z)); e = e^-|z|.
template <int N> CHAINRULE_INLINE Vec<Real, N> bernoulli_log_prob(Vec<Real, N> z, Vec<Real, N> x, Vec<Real, N> e) {
  return -softplus(fma(set1<Real, N>(Real(-2)), x, set1<Real, N>(Real(1))) * z, e);
}

// f(z, x, at, n) on a row: two vectors at a time, whose chains overlap, and the rest one by one with their n elements.
template <class F> CHAINRULE_INLINE void for_row(size_t n_features, const Real *z, const uint8_t *x, F &&f) {
  size_t i = 0;
  for (; i + 2 * kWidth <= n_features; i += 2 * kWidth) f(load<Real, 2>(z + i), load_bytes<Real, 2>(x + i), i, int(2 * kWidth));
  for (; i < n_features; i += kWidth) {
    const int n = int(n_features - i < kWidth ? n_features - i : kWidth);
    uint8_t byte[kWidth] = {};
    for (int k = 0; k < n; ++k) byte[k] = x[i + size_t(k)];
    f(load_part(z + i, n), load_bytes<Real>(byte), i, n);
  }
}
// v to n elements of p; a pair of vectors is whole.
CHAINRULE_INLINE void store_part(Real *p, Vec<Real, 2> v, int) { store(p, v); }
// The same, and zeros up to the end of the vector.
CHAINRULE_INLINE void store_padded(Real *p, Vec<Real, 2> v, int) { store(p, v); }
CHAINRULE_INLINE void store_padded(Real *p, Vec<Real> v, int n) {
  store(p, zero<Real>());
  store_part(p, v, n);
}

// Terms log p(x_i) of a row, zeros after them up to padded(n_features), as sum_terms wants. The row's exponentials come first,
// then its logarithms: neighbours overlap in each, where one chain through both takes twice as long.
CHAINRULE_INLINE void bernoulli_terms(size_t n_features, const Real *z, const uint8_t *x, Real *terms) {
  for_row(n_features, z, x, [terms](auto logits, auto, size_t i, int n) __attribute__((always_inline)) {
    store_padded(terms + i, exp(-magnitude(logits)), n);
  });
  for_row(n_features, z, x, [terms]<int N>(Vec<Real, N> logits, Vec<Real, N> bits, size_t i, int n) __attribute__((always_inline)) {
    store_padded(terms + i, bernoulli_log_prob(logits, bits, load<Real, N>(terms + i)), n);
  });
}

// Sum of n terms in double: 8 lane sums in ascending order, then the tree. The array is readable to padded(n), zeros there.
CHAINRULE_INLINE double sum_terms(const Real *terms, size_t n) {
  Vec<double> sum = zero<double>();
  for (size_t i = 0; i < n; i += 8) sum = sum + load_double(terms + i);
  return hsum(sum);
}

// x = F^-1(u) for 8 logits: x = 1 where u >= p(x = 0) = sigmoid(-z), in double, so that rare values keep their frequency.
CHAINRULE_INLINE void bernoulli_draw8(const Real *z, const double *u, uint8_t *x) {
  IVec<double> one = sigmoid(-load_double(z)) <= load(u);
  for (int k = 0; k < 8; ++k) x[k] = uint8_t(one.r[k / Vec<double>::reg_width][k % Vec<double>::reg_width] & 1);
}

}  // namespace
}  // namespace chainrule
