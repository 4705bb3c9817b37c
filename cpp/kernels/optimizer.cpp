// Optimizers on a flat parameter buffer: one pass, a rule's state beside the parameters, bound by memory.
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
// from the caller as running products (no pow here). Bytes an element in float32: sgd 12, one state 20, two 28, an average
// 8 more. A root and a division take 17 cycles a logical vector on Zen 4, in one register or two: within the L3 cache
// longer than the bytes.
//
// After a gradient of NADE (784 x 500) Adam takes 0.32 ms on two cores that share an L3 cache, 1.75 ms on two that do not:
// the lines of p, which both have read, go back to one of them. Giving each core the columns whose gradient it wrote made
// that 2.5 ms, prefetchw changed nothing.
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

template <int Rule>
CHAINRULE_INLINE void sweep(const chainrule_optimizer &o, size_t begin, size_t end, Real *p, const Real *g, Real *s, Real *t, Real *average) {
  constexpr size_t width = Vec<Real>::width;
  constexpr int n_states = states(Rule);
  const Constants c = constants(o);
  auto run = [&](auto &&get, auto &&put) {
    State at = {get(p), n_states > 0 ? get(s) : zero<Real>(), n_states > 1 ? get(t) : zero<Real>()};
    at = step<Rule>(c, at, get(g));
    put(p, at.p);
    if (n_states > 0) put(s, at.s);
    if (n_states > 1) put(t, at.t);
    if (average) {
      const Vec<Real> old = get(average);
      put(average, fma(c.average, at.p - old, old));
    }
  };
  size_t i = begin;
  for (; i + width <= end; i += width)
    run([i](const Real *a) { return load(a + i); }, [i](Real *a, Vec<Real> v) { store(a + i, v); });
  if (const int n = int(end - i))
    run([i, n](const Real *a) { return load_part(a + i, n); }, [i, n](Real *a, Vec<Real> v) { store_part(a + i, v, n); });
}

}  // namespace

CHAINRULE_KERNEL(optimizer_step)(const chainrule_optimizer *optimizer, size_t n, Real *p, const Real *g, Real *s, Real *t,
                                 Real *average, size_t n_live, const uint64_t *live, const chainrule_exec *exec) {
  constexpr size_t grain = 16384;
  const chainrule_optimizer o = *optimizer;
  size_t count = live ? 0 : n;  // elements that move
  for (size_t k = 0; live && k < n_live; ++k) count += size_t(live[2 * k + 1] - live[2 * k]);
  const int threads = plan_threads(exec, (count + grain - 1) / grain, double(count) * 4);
  auto all = [&]<int Rule>() {
    return for_each(exec, threads, count, grain, [&](size_t begin, size_t end, int) {
      if (!live) return sweep<Rule>(o, begin, end, p, g, s, t, average);
      for (size_t k = 0, at = 0; at < end; ++k) {  // `at`: number of live elements before range k
        const size_t first = size_t(live[2 * k]), size = size_t(live[2 * k + 1]) - first;
        const size_t from = begin > at ? begin - at : 0, to = end - at < size ? end - at : size;
        if (from < to) sweep<Rule>(o, first + from, first + to, p, g, s, t, average);
        at += size;
      }
    });
  };
  switch (o.rule) {
    case CHAINRULE_SGD: return all.template operator()<CHAINRULE_SGD>();
    case CHAINRULE_MOMENTUM: return all.template operator()<CHAINRULE_MOMENTUM>();
    case CHAINRULE_NESTEROV: return all.template operator()<CHAINRULE_NESTEROV>();
    case CHAINRULE_ADAGRAD: return all.template operator()<CHAINRULE_ADAGRAD>();
    case CHAINRULE_RMSPROP: return all.template operator()<CHAINRULE_RMSPROP>();
    case CHAINRULE_ADADELTA: return all.template operator()<CHAINRULE_ADADELTA>();
    default: return all.template operator()<CHAINRULE_ADAM>();
  }
}

// sum_k x_k^2 in double, for the global norm: lane sums in chunks of 16384 elements, the chunks added in order.
CHAINRULE_KERNEL(sum_squares)(size_t n, const Real *x, double *sum, const chainrule_exec *exec) {
  constexpr size_t grain = 16384;
  const size_t chunks = (n + grain - 1) / grain;
  double *part = static_cast<double *>(arena(chunks * sizeof(double) + 64));
  if (!part) return CHAINRULE_NO_MEMORY;
  const int threads = plan_threads(exec, chunks, double(n));
  const chainrule_status status = for_each(exec, threads, n, grain, [&](size_t begin, size_t end, int) {
    Vec<double> lanes = zero<double>();
    size_t i = begin;
    for (; i + 8 <= end; i += 8) {
      const Vec<double> v = load_double(x + i);
      lanes = fma(v, v, lanes);
    }
    if (i < end) {
      Real last[8] = {};
      for (size_t k = 0; i + k < end; ++k) last[k] = x[i + k];
      const Vec<double> v = load_double(last);
      lanes = fma(v, v, lanes);
    }
    part[begin / grain] = hsum(lanes);
  });
  *sum = 0;
  for (size_t k = 0; k < chunks && status == CHAINRULE_OK; ++k) *sum += part[k];
  return status;
}

}  // namespace chainrule
