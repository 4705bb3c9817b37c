// Activations g of hidden units, and g' in terms of g(a).
#pragma once
#include "real.hpp"

namespace chainrule {
namespace {

template <int A, int N> CHAINRULE_INLINE Vec<Real, N> activate(Vec<Real, N> a) {
  if constexpr (A == CHAINRULE_SIGMOID) return sigmoid(a);
  if constexpr (A == CHAINRULE_RELU) return max(zero<Real, N>(), a);  // a NaN stays one
  if constexpr (A == CHAINRULE_TANH) return tanh(a);
  if constexpr (A == CHAINRULE_IDENTITY) return a;
}

// g'(a) in terms of h = g(a).
template <int A> CHAINRULE_INLINE Vec<Real> activation_slope(Vec<Real> h) {
  if constexpr (A == CHAINRULE_SIGMOID) return fma(-h, h, h);
  if constexpr (A == CHAINRULE_RELU) return select(zero<Real>() < h, set1(Real(1)), zero<Real>());
  if constexpr (A == CHAINRULE_TANH) return fma(-h, h, set1(Real(1)));
  if constexpr (A == CHAINRULE_IDENTITY) return set1(Real(1));
}

// g of an activation known at run time alone.
template <int N> CHAINRULE_INLINE Vec<Real, N> activate(int32_t activation, Vec<Real, N> a) {
  if (activation == CHAINRULE_RELU) return activate<CHAINRULE_RELU>(a);
  if (activation == CHAINRULE_SIGMOID) return activate<CHAINRULE_SIGMOID>(a);
  if (activation == CHAINRULE_TANH) return activate<CHAINRULE_TANH>(a);
  return a;
}

// Calls f<A>() for an activation.
template <class F> CHAINRULE_INLINE auto with_activation(int32_t activation, F &&f) {
  if (activation == CHAINRULE_RELU) return f.template operator()<CHAINRULE_RELU>();
  if (activation == CHAINRULE_TANH) return f.template operator()<CHAINRULE_TANH>();
  return f.template operator()<CHAINRULE_SIGMOID>();
}

}  // namespace
}  // namespace chainrule
