// The Gaussian error linear unit (Hendrycks & Gimpel 2016) and its slope, one definition for every kernel that activates.
//
//   erf    y = x Phi(x) = x (1 + erf(x / sqrt 2)) / 2          y' = Phi(x) + x phi(x)
//   tanh   y = x sigmoid(2 u) = x (1 + tanh u) / 2             y' = s + x s (1 - s) 2 u',  s = sigmoid(2 u)
//          u = sqrt(2 / pi) (x + 0.044715 x^3)
//
// The sigmoid saves an addition and keeps the left tail's digits. From -10 (double: -20) on to the left y is what it is there,
// within 2e-37 of 0, so that an infinite x has a value; the slope is kept on both sides, within 1e-21 of 0 and 1. Error: docs/math.md.
// Cost: an exponential and a division an element (tanh), an exponential (erf), two for the slope of the erf form.
#pragma once
#include "real.hpp"

namespace chainrule {
namespace {

constexpr Real kFar = pick<Real>(10.0f, 20.0);  // where the sigmoid and the error function have reached their ends

// 2 u, and 2 u'.
template <int N> CHAINRULE_INLINE Vec<Real, N> gelu_argument(Vec<Real, N> x) {
  const Vec<Real, N> linear = set1<Real, N>(Real(1.5957691216057308)), cubic = set1<Real, N>(Real(0.07135481627260025));
  return x * fma(x * x, cubic, linear);
}
template <int N> CHAINRULE_INLINE Vec<Real, N> gelu_argument_slope(Vec<Real, N> x) {
  const Vec<Real, N> linear = set1<Real, N>(Real(1.5957691216057308)), cubic = set1<Real, N>(Real(0.21406444881780076));
  return fma(x * x, cubic, linear);
}
// Phi(x).
template <int N> CHAINRULE_INLINE Vec<Real, N> normal_below(Vec<Real, N> x) {
  const Vec<Real, N> half = set1<Real, N>(Real(0.5));
  return fma(half, erf(x * set1<Real, N>(Real(0.7071067811865476))), half);
}

template <int Form, int N> CHAINRULE_INLINE Vec<Real, N> gelu(Vec<Real, N> x) {
  x = max(set1<Real, N>(-kFar), x);
  if constexpr (Form == CHAINRULE_GELU_TANH) return x * sigmoid(gelu_argument(x));
  else return x * normal_below(x);
}

// dy / dx.
template <int Form, int N> CHAINRULE_INLINE Vec<Real, N> gelu_slope(Vec<Real, N> x) {
  x = clamp(x, -kFar, kFar);
  if constexpr (Form == CHAINRULE_GELU_TANH) {
    // s (1 - s) from the smaller of the two: beside 1 it would have lost its digits, and x 2 u' is large there.
    const Vec<Real, N> small = sigmoid(-magnitude(gelu_argument(x))), one = set1<Real, N>(1);
    const Vec<Real, N> s = select(x < zero<Real, N>(), small, one - small);
    return fma(x * fma(-small, small, small), gelu_argument_slope(x), s);
  } else {
    const Vec<Real, N> density = exp(x * x * set1<Real, N>(Real(-0.5))) * set1<Real, N>(Real(0.3989422804014327));
    return fma(x, density, normal_below(x));
  }
}

// y of a form known at run time alone.
template <int N> CHAINRULE_INLINE Vec<Real, N> gelu(int32_t form, Vec<Real, N> x) {
  return form == CHAINRULE_GELU_TANH ? gelu<CHAINRULE_GELU_TANH>(x) : gelu<CHAINRULE_GELU_ERF>(x);
}

}  // namespace
}  // namespace chainrule
