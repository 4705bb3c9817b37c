// The rules of optimizers on vectors of parameters: what a step on a flat buffer and one by a product share.
//
//   gradient   g := scale g + l2 p                                    (global-norm clipping and L2 come in here)
//   sgd        p -= lr g                                              momentum > 0:  s = mu s - lr g;  p += s
//   nesterov   s' = mu s - lr g;  p += (1 + mu) s' - mu s
//   adagrad    s += g^2;  p -= lr g / (sqrt(s) + eps)
//   rmsprop    s = rho s + (1 - rho) g^2;  p -= lr g / sqrt(s + eps)
//   adadelta   s = rho s + (1 - rho) g^2;  d = sqrt(t + eps) / sqrt(s + eps) g;  t = rho t + (1 - rho) d^2;  p -= lr d
//   adam       s += (1 - b1)(g - s);  t += (1 - b2)(g^2 - t);  p -= lr (s / c1) / (sqrt(t / c2) + eps)
//   then       p -= lr decay p (before the rule's step, decoupled);   average += (1 - d)(p - average)
//
// Sources: Duchi et al. 2011, Zeiler 2012, Kingma & Ba 2015, Loshchilov & Hutter 2019. c1 = 1 - b1^t, c2 = 1 - b2^t come
// from the caller as running products (no pow here). A root and a division take 17 cycles a logical vector on Zen 4, in
// one register or two.
#pragma once
#include "real.hpp"

namespace chainrule {
namespace {

// The options as vectors, made once a sweep: a store to the parameters may alias the struct, so that the compiler would
// load them, and divide 1 / c2 and lr / c1, for every vector anew (Adam: 9.6 ns a vector; like this 4.6).
struct Constants {
  Vec<Real> scale, l2, decay, lr, descent, beta1, gain1, gain2, inverse2, eps, average;
};

CHAINRULE_INLINE Constants constants(const chainrule_optimizer &o) {
  auto all = [](double x) { return set1(Real(x)); };
  return {.scale = all(o.gradient_scale),
          .l2 = all(o.l2),
          .decay = all(-o.learning_rate * o.weight_decay),
          .lr = all(o.learning_rate),
          .descent = all(-(o.learning_rate / o.correction1)),
          .beta1 = all(o.beta1),
          .gain1 = all(1 - o.beta1),
          .gain2 = all(1 - o.beta2),
          .inverse2 = all(1 / o.correction2),
          .eps = all(o.epsilon),
          .average = all(1 - o.average_decay)};
}

struct State {
  Vec<Real> p, s, t;
};

template <int Rule> CHAINRULE_INLINE State step(const Constants &c, State at, Vec<Real> g) {
  auto squares = [&](Vec<Real> s, Vec<Real> x) { return fma(c.gain2, fma(x, x, -s), s); };
  g = fma(c.l2, at.p, c.scale * g);
  at.p = fma(c.decay, at.p, at.p);
  if constexpr (Rule == CHAINRULE_SGD) at.p = fma(-c.lr, g, at.p);
  if constexpr (Rule == CHAINRULE_MOMENTUM) {
    at.s = fma(c.beta1, at.s, -(c.lr * g));
    at.p = at.p + at.s;
  }
  if constexpr (Rule == CHAINRULE_NESTEROV) {
    const Vec<Real> next = fma(c.beta1, at.s, -(c.lr * g));
    at.p = at.p + fma(c.beta1, next - at.s, next);
    at.s = next;
  }
  if constexpr (Rule == CHAINRULE_ADAGRAD) {
    at.s = fma(g, g, at.s);
    at.p = fma(-c.lr, g / (sqrt(at.s) + c.eps), at.p);
  }
  if constexpr (Rule == CHAINRULE_RMSPROP) {
    at.s = squares(at.s, g);
    at.p = fma(-c.lr, g / sqrt(at.s + c.eps), at.p);
  }
  if constexpr (Rule == CHAINRULE_ADADELTA) {
    at.s = squares(at.s, g);
    const Vec<Real> d = sqrt((at.t + c.eps) / (at.s + c.eps)) * g;
    at.t = squares(at.t, d);
    at.p = fma(-c.lr, d, at.p);
  }
  if constexpr (Rule == CHAINRULE_ADAM) {
    at.s = fma(c.gain1, g - at.s, at.s);
    at.t = squares(at.t, g);
    at.p = fma(c.descent, at.s / (sqrt(at.t * c.inverse2) + c.eps), at.p);
  }
  return at;
}

constexpr int states(int rule) {
  return rule == CHAINRULE_SGD ? 0 : rule == CHAINRULE_ADADELTA || rule == CHAINRULE_ADAM ? 2 : 1;
}

// What moves, element for element: parameters, the states a rule has, and an average, if any.
struct Moved {
  Real *p, *s, *t, *average;
};
// One vector: get(array) and put(array, vector) are its place in each.
template <int Rule, class Get, class Put> CHAINRULE_INLINE void move(const Constants &c, const Moved &m, Vec<Real> g, Get &&get, Put &&put) {
  constexpr int n_states = states(Rule);
  State at = {get(m.p), n_states > 0 ? get(m.s) : zero<Real>(), n_states > 1 ? get(m.t) : zero<Real>()};
  at = step<Rule>(c, at, g);
  put(m.p, at.p);
  if (n_states > 0) put(m.s, at.s);
  if (n_states > 1) put(m.t, at.t);
  if (m.average) {
    const Vec<Real> old = get(m.average);
    put(m.average, fma(c.average, at.p - old, old));
  }
}
// f<Rule>() for the rule of an optimizer.
template <class F> CHAINRULE_INLINE auto by_rule(const chainrule_optimizer &o, F &&f) {
  switch (o.rule) {
    case CHAINRULE_SGD: return f.template operator()<CHAINRULE_SGD>();
    case CHAINRULE_MOMENTUM: return f.template operator()<CHAINRULE_MOMENTUM>();
    case CHAINRULE_NESTEROV: return f.template operator()<CHAINRULE_NESTEROV>();
    case CHAINRULE_ADAGRAD: return f.template operator()<CHAINRULE_ADAGRAD>();
    case CHAINRULE_RMSPROP: return f.template operator()<CHAINRULE_RMSPROP>();
    case CHAINRULE_ADADELTA: return f.template operator()<CHAINRULE_ADADELTA>();
    default: return f.template operator()<CHAINRULE_ADAM>();
  }
}

}  // namespace
}  // namespace chainrule
