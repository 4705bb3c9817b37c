// Optimizers on a flat parameter buffer (rules: optimizer.hpp): one pass, a rule's state beside the parameters, bound by memory.
//
// Bytes an element in float32: sgd 12, one state 20, two 28, an average 8 more. Within the L3 cache a root and a division take
// longer than the bytes.
//
// After a gradient of NADE (784 x 500) Adam takes 0.32 ms on two cores that share an L3 cache, 1.75 ms on two that do not:
// the lines of p, which both have read, go back to one of them. Giving each core the columns whose gradient it wrote made
// that 2.5 ms, prefetchw changed nothing.
#include "optimizer.hpp"

namespace chainrule {
namespace {

template <int Rule> CHAINRULE_INLINE void sweep(const chainrule_optimizer &o, size_t begin, size_t end, const Moved &m, const Real *g) {
  constexpr size_t width = Vec<Real>::width;
  const Constants c = constants(o);
  size_t i = begin;
  for (; i + width <= end; i += width)
    move<Rule>(c, m, load(g + i), [i](const Real *a) { return load(a + i); }, [i](Real *a, Vec<Real> v) { store(a + i, v); });
  if (const int n = int(end - i))
    move<Rule>(c, m, load_part(g + i, n), [i, n](const Real *a) { return load_part(a + i, n); },
               [i, n](Real *a, Vec<Real> v) { store_part(a + i, v, n); });
}

}  // namespace

CHAINRULE_KERNEL(optimizer_step)(const chainrule_optimizer *optimizer, size_t n, Real *p, const Real *g, Real *s, Real *t,
                                 Real *average, size_t n_live, const uint64_t *live, const chainrule_exec *exec) {
  constexpr size_t grain = 16384;
  const chainrule_optimizer o = *optimizer;
  size_t count = live ? 0 : n;  // elements that move
  for (size_t k = 0; live && k < n_live; ++k) count += size_t(live[2 * k + 1] - live[2 * k]);
  const int threads = plan_threads(exec, (count + grain - 1) / grain, double(count) * 4);
  const Moved m = {p, s, t, average};
  return by_rule(o, [&]<int Rule>() {
    return for_each(exec, threads, count, grain, [&](size_t begin, size_t end, int) {
      if (!live) return sweep<Rule>(o, begin, end, m, g);
      for (size_t k = 0, at = 0; at < end; ++k) {  // `at`: number of live elements before range k
        const size_t first = size_t(live[2 * k]), size = size_t(live[2 * k + 1]) - first;
        const size_t from = begin > at ? begin - at : 0, to = end - at < size ? end - at : size;
        if (from < to) sweep<Rule>(o, first + from, first + to, m, g);
        at += size;
      }
    });
  });
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
