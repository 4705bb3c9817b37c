// The columns of a matrix in panels under a permutation, for hidden units that stand in another order from batch to batch.
//
//   permute_columns   out[r][j] = W[r][columns[j]] where its panel's row has a live weight
//             back:   out[r][columns[j]] = W[r][j] where live, 0 elsewhere
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

// The live lanes of a panel's row, zeros beside them. Where none is live, nothing is read.
CHAINRULE_INLINE void copy_lanes(const Real *from, Real *to, uint32_t live) {
#pragma GCC unroll 4
  for (size_t j = 0; j < kPanel; j += kWidth)
    store(to + j, live == kAll ? load(from + j) : live ? load_live(from + j, live >> j) : zero<Real>());
}

}  // namespace

CHAINRULE_KERNEL(permute_columns)(const Linear *linear, const uint32_t *columns, int32_t back, Real *out, const chainrule_exec *exec) {
  const Linear w = linear->turned ? as_kept(*linear) : *linear;
  const size_t panels = panels_in(w.n_out), ld = panels * kPanel;
  const int threads = plan_threads(exec, (w.n_in + kRowsAtOnce - 1) / kRowsAtOnce, double(w.n_in) * double(w.n_out) * 4);
  const size_t shared = (w.n_in + w.n_out + 16) / 16 * 16 * sizeof(uint32_t);
  char *memory = static_cast<char *>(arena(shared + size_t(threads) * kRowsAtOnce * ld * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  uint32_t *unit_of = reinterpret_cast<uint32_t *>(memory), *column_of = unit_of + w.n_in;  // the inverse permutations
  for (size_t k = 0; k < w.n_in; ++k) unit_of[row_of(w, k)] = uint32_t(k);
  for (size_t j = 0; back && j < w.n_out; ++j) column_of[columns[j]] = uint32_t(j);
  const uint32_t *place = back ? column_of : columns;
  const auto word = [&](size_t p, size_t r) { return w.mask ? w.mask->words[p * w.n_in + unit_of[r]] : kAll; };
  return for_each(exec, threads, w.n_in, kRowsAtOnce, [&](size_t begin, size_t end, int worker) {
    Real *rows = reinterpret_cast<Real *>(memory + shared) + size_t(worker) * kRowsAtOnce * ld;
    for (size_t p = 0; p < panels; ++p)
      for (size_t r = begin; r < end; ++r)
        copy_lanes(w.W + p * w.panel + r * kPanel, rows + (r - begin) * ld + p * kPanel, back ? word(p, r) : kAll);
    const size_t next = smaller(end + kRowsAtOnce, w.n_in);
    for (size_t p = 0; p < panels; ++p) {
      fetch(w.W + p * w.panel + end * kPanel, w.W + p * w.panel + next * kPanel);
      if (out != w.W) fetch(out + p * w.panel + end * kPanel, out + p * w.panel + next * kPanel);
      for (size_t r = begin; r < end; ++r)
        if (back || word(p, r))
          pick(rows + (r - begin) * ld, place + p * kPanel, smaller(w.n_out - p * kPanel, kPanel), out + p * w.panel + r * kPanel);
    }
  });
}

}  // namespace chainrule
