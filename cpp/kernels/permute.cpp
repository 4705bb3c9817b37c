// The columns of a matrix in panels under a permutation, for hidden units that stand in another order from batch to batch.
//
//   permute_columns   out[k][o] = W[k][columns[o]]
//
// Rows need no copy: the products read them where they stand (chainrule_linear's `rows`). A row is gathered whole, so that
// what is picked from lies in L1, and rows are taken in turn, so that the memory's next lines are those that come next. Cost:
// a read and a write of the matrix, one element at a time. Threads: blocks of rows.
#include "panels.hpp"

namespace chainrule {
namespace {

// One element at a time: gathers are slower.
[[gnu::noinline, gnu::optimize("no-tree-vectorize")]] void pick(const Real *from, const uint32_t *place, size_t n, Real *to) {
  for (size_t j = 0; j < n; ++j) to[j] = from[place[j]];
}

}  // namespace

CHAINRULE_KERNEL(permute_columns)(size_t n_in, size_t n_out, const Real *W, size_t panel, const uint32_t *columns, Real *out,
                                  const chainrule_exec *exec) {
  constexpr size_t grain = 16;
  const size_t panels = panels_in(n_out);
  const int threads = plan_threads(exec, (n_in + grain - 1) / grain, double(n_in) * double(n_out) * 4);
  Real *memory = static_cast<Real *>(arena((size_t(threads) * panels * kPanel + 1) * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, n_in, grain, [&](size_t begin, size_t end, int worker) {
    Real *row = memory + size_t(worker) * panels * kPanel;
    for (size_t k = begin; k < end; ++k) {
      for (size_t p = 0; p < panels; ++p)
#pragma GCC unroll 4
        for (size_t j = 0; j < kPanel; j += kWidth) store(row + p * kPanel + j, load(W + p * panel + k * kPanel + j));
      for (size_t p = 0; p < panels; ++p)
        pick(row, columns + p * kPanel, smaller(n_out - p * kPanel, kPanel), out + p * panel + k * kPanel);
    }
  });
}

}  // namespace chainrule
