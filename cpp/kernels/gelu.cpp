// GELU (gelu.hpp) and its gradient dx = dy y'(x), over n elements in one piece.
//
// Cost: 0.2 to 0.5 ns an element of float in cache, else one read (the gradient: two) and one write of memory.
#include "gelu.hpp"

namespace chainrule {
namespace {

constexpr size_t kPiece = 4096;  // elements a thread takes at a time
constexpr double kWork = 20;     // multiply-adds that cost as much as one element

// f(i, lanes, N) over n elements, two vectors at a time while there are as many.
template <class F> CHAINRULE_INLINE chainrule_status over_pairs(size_t n, const chainrule_exec *exec, F &&f) {
  const int threads = plan_threads(exec, (n + kPiece - 1) / kPiece, double(n) * kWork);
  return for_each(exec, threads, n, kPiece, [&](size_t i, size_t end, int) {
    for (; i + 2 * kWidth <= end; i += 2 * kWidth) f.template operator()<2>(i, int(2 * kWidth));
    for (; i < end; i += kWidth) f.template operator()<1>(i, end - i < kWidth ? int(end - i) : int(kWidth));
  });
}
template <int N> CHAINRULE_INLINE Vec<Real, N> load_lanes(const Real *p, int n) {
  if constexpr (N == 2) return load<Real, 2>(p);
  else return load_part(p, n);
}
template <int N> CHAINRULE_INLINE void store_lanes(Real *p, Vec<Real, N> v, int n) {
  if constexpr (N == 2) store(p, v);
  else store_part(p, v, n);
}

template <int Form> CHAINRULE_INLINE chainrule_status forward(size_t n, const Real *x, Real *y, const chainrule_exec *exec) {
  return over_pairs(n, exec, [=]<int N>(size_t i, int lanes) __attribute__((always_inline)) {
    store_lanes<N>(y + i, gelu<Form>(load_lanes<N>(x + i, lanes)), lanes);
  });
}
template <int Form>
CHAINRULE_INLINE chainrule_status backward(size_t n, const Real *x, const Real *dy, Real *dx, const chainrule_exec *exec) {
  return over_pairs(n, exec, [=]<int N>(size_t i, int lanes) __attribute__((always_inline)) {
    store_lanes<N>(dx + i, load_lanes<N>(dy + i, lanes) * gelu_slope<Form>(load_lanes<N>(x + i, lanes)), lanes);
  });
}

}  // namespace

CHAINRULE_KERNEL(gelu)(int32_t form, size_t n, const Real *x, Real *y, const chainrule_exec *exec) {
  return form == CHAINRULE_GELU_TANH ? forward<CHAINRULE_GELU_TANH>(n, x, y, exec) : forward<CHAINRULE_GELU_ERF>(n, x, y, exec);
}

CHAINRULE_KERNEL(gelu_gradient)(int32_t form, size_t n, const Real *x, const Real *dy, Real *dx, const chainrule_exec *exec) {
  return form == CHAINRULE_GELU_TANH ? backward<CHAINRULE_GELU_TANH>(n, x, dy, dx, exec)
                                     : backward<CHAINRULE_GELU_ERF>(n, x, dy, dx, exec);
}

}  // namespace chainrule
