// The Bernoulli conditional, one definition for every kernel that scores or draws bits: p(x = 1) = sigmoid(z).
#pragma once
#include "real.hpp"

namespace chainrule {
namespace {

// log p(x) = -softplus((1 - 2x) z), never log(sigmoid(z)).
template <int N> CHAINRULE_INLINE Vec<Real, N> bernoulli_log_prob(Vec<Real, N> z, Vec<Real, N> x) {
  return -softplus(fma(set1<Real, N>(Real(-2)), x, set1<Real, N>(Real(1))) * z);
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
