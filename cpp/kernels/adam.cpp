// Adam (Kingma & Ba 2015, algorithm 1) on a flat buffer: one pass, 4 reads and 3 writes an element, bound by memory.
//
//   m += (1 - beta1)(g - m);  v += (1 - beta2)(g^2 - v);  p -= lr (m / correction1) / (sqrt(v / correction2) + epsilon)
//
// correction1 = 1 - beta1^t, correction2 = 1 - beta2^t come from the caller as running products (no pow here).
#include "real.hpp"

namespace chainrule {

CHAINRULE_KERNEL(adam)(size_t n, Real *p, const Real *g, Real *m, Real *v, Real lr, Real beta1, Real beta2,
                       Real correction1, Real correction2, Real epsilon, const chainrule_exec *exec) {
  constexpr size_t width = Vec<Real>::width, grain = 16384;
  const Vec<Real> gain1 = set1(Real(1) - beta1), gain2 = set1(Real(1) - beta2), step = set1(-lr / correction1),
                  root = set1(Real(1) / correction2), eps = set1(epsilon);
  const int threads = plan_threads(exec, (n + grain - 1) / grain, double(n) * 4);
  return for_each(exec, threads, n, grain, [&](size_t begin, size_t end, int) {
    auto update = [&](Vec<Real> &pi, Vec<Real> gi, Vec<Real> &mi, Vec<Real> &vi) {
      mi = fma(gain1, gi - mi, mi);
      vi = fma(gain2, fma(gi, gi, -vi), vi);
      pi = fma(step, mi / (sqrt(vi * root) + eps), pi);
    };
    size_t i = begin;
    for (; i + width <= end; i += width) {
      Vec<Real> pi = load(p + i), mi = load(m + i), vi = load(v + i);
      update(pi, load(g + i), mi, vi);
      store(p + i, pi), store(m + i, mi), store(v + i, vi);
    }
    if (int tail = int(end - i)) {
      Vec<Real> pi = load_part(p + i, tail), mi = load_part(m + i, tail), vi = load_part(v + i, tail);
      update(pi, load_part(g + i, tail), mi, vi);
      store_part(p + i, pi, tail), store_part(m + i, mi, tail), store_part(v + i, vi, tail);
    }
  });
}

}  // namespace chainrule
