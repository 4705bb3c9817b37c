// The columns of a matrix in panels under a permutation, for hidden units that stand in another order from batch to batch.
//
//   permute_columns   out[k][o] = W[k][columns[o]]
//
// Rows need no copy: the products read them where they stand (chainrule_linear's `rows`). A few rows are gathered whole, so
// that what is picked from lies near and each panel is read and written in longer pieces. Cost: a read and a write of the
// matrix, one element at a time. Threads: blocks of rows.
#include "panels.hpp"

namespace chainrule {
namespace {

constexpr size_t kRowsAtOnce = 8;

// One element at a time: gathers are slower.
[[gnu::noinline, gnu::optimize("no-tree-vectorize")]] void pick(const Real *from, const uint32_t *place, size_t n, Real *to) {
  for (size_t j = 0; j < n; ++j) to[j] = from[place[j]];
}

// Asks for memory some time before its use: each panel is a stream of its own, too many for the machine to follow.
CHAINRULE_INLINE void fetch(const Real *from, const Real *to) {
  for (; from < to; from += 64 / sizeof(Real)) __builtin_prefetch(from);
}

}  // namespace

CHAINRULE_KERNEL(permute_columns)(size_t n_in, size_t n_out, const Real *W, size_t panel, const uint32_t *columns, Real *out,
                                  const chainrule_exec *exec) {
  const size_t panels = panels_in(n_out), ld = panels * kPanel;
  const int threads = plan_threads(exec, (n_in + kRowsAtOnce - 1) / kRowsAtOnce, double(n_in) * double(n_out) * 4);
  Real *memory = static_cast<Real *>(arena((size_t(threads) * kRowsAtOnce * ld + 1) * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, n_in, kRowsAtOnce, [&](size_t begin, size_t end, int worker) {
    Real *rows = memory + size_t(worker) * kRowsAtOnce * ld;
    for (size_t p = 0; p < panels; ++p)
      for (size_t k = begin; k < end; ++k)
#pragma GCC unroll 4
        for (size_t j = 0; j < kPanel; j += kWidth) store(rows + (k - begin) * ld + p * kPanel + j, load(W + p * panel + k * kPanel + j));
    const size_t next = smaller(end + kRowsAtOnce, n_in);
    for (size_t p = 0; p < panels; ++p) {
      fetch(W + p * panel + end * kPanel, W + p * panel + next * kPanel);
      if (out != W) fetch(out + p * panel + end * kPanel, out + p * panel + next * kPanel);
      for (size_t k = begin; k < end; ++k)
        pick(rows + (k - begin) * ld, columns + p * kPanel, smaller(n_out - p * kPanel, kPanel), out + p * panel + k * kPanel);
    }
  });
}

}  // namespace chainrule
