// Rows of a panel of weights that move by their gradient: what steps by a product, dense and sparse, share.
#pragma once
#include "optimizer.hpp"
#include "panels.hpp"

namespace chainrule {
namespace {

// One row, at `at` of every array, by its gradient, the vector at column j being g(j). Lanes without a live weight stay as they are.
template <int Rule, class G> CHAINRULE_INLINE void move_row(const Constants &c, const Moved &m, size_t at, uint32_t live, G &&g) {
#pragma GCC unroll 4
  for (size_t j = 0; j < kPanel; j += kWidth) {
    const size_t i = at + j;
    const uint32_t some = live >> j;
    if (live == kAll) move<Rule>(c, m, g(j), [i](const Real *a) { return load(a + i); }, [i](Real *a, Vec<Real> v) { store(a + i, v); });
    else
      move<Rule>(c, m, g(j), [i, some](const Real *a) { return load_live(a + i, some); },
                 [i, some](Real *a, Vec<Real> v) { store_live(a + i, v, some); });
  }
}

// f(first row, rows) of every chunk; once without rows: a gradient of zeros.
template <class F> CHAINRULE_INLINE void for_chunks(size_t n_rows, F &&f) {
  size_t start = 0;
  do {
    f(start, smaller(n_rows - start, kChunk));
    start += kChunk;
  } while (start < n_rows);
}

// Asks for one row of a panel in all that moves.
CHAINRULE_INLINE void ask(const Moved &m, size_t i) {
  for (size_t j = i; j < i + kPanel; j += 64 / sizeof(Real)) {
    __builtin_prefetch(m.p + j, 1);
    if (m.s) __builtin_prefetch(m.s + j, 1);
    if (m.t) __builtin_prefetch(m.t + j, 1);
    if (m.average) __builtin_prefetch(m.average + j, 1);
  }
}

}  // namespace
}  // namespace chainrule
