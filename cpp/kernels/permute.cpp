// Parameters under a permutation of their units, for networks whose masks change from batch to batch.
//
//   permute_panels     out[k][o] = W[rows[k]][columns[o]]                        where (k, o) is live in the mask
//   unpermute_panels   out[rows[k]][columns[o]] = live(k, o) ? W[k][o] : 0       every element is written
//
// Both matrices in panels of 32 columns; the mask belongs to the permuted one. Cost: a read and a write of the matrix, one
// element at a time. Threads: blocks of k, so that none writes into another's lines.
#include "panels.hpp"

namespace chainrule {
namespace {

constexpr size_t kRowsAtOnce = 16;

// One element at a time: gathers are slower.
[[gnu::noinline, gnu::optimize("no-tree-vectorize")]] void pick(const Real *from, const uint32_t *place, size_t n, Real *to) {
  for (size_t j = 0; j < n; ++j) to[j] = from[place[j]];
}

// f(k, row buffer) for every row of the result, from first to last: rows are read in any order and written in their own.
template <class F> CHAINRULE_INLINE chainrule_status for_rows(const Linear &w, int threads, Real *rows, const chainrule_exec *exec, F &&f) {
  return for_each(exec, threads, w.n_in, kRowsAtOnce, [&](size_t begin, size_t end, int worker) {
    for (size_t k = begin; k < end; ++k) f(k, rows + size_t(worker) * panels_in(w.n_out) * kPanel);
  });
}
CHAINRULE_INLINE int threads_for(const Linear &w, const chainrule_exec *exec) {
  return plan_threads(exec, (w.n_in + kRowsAtOnce - 1) / kRowsAtOnce, double(w.n_in) * double(w.n_out) * 4);
}
CHAINRULE_INLINE uint32_t word_of(const Linear &w, size_t panel, size_t k) {
  return w.mask ? w.mask->words[panel * w.n_in + k] : kAll;
}
// Asks for the row that will be read some rows later: they are in no order that the machine could guess.
CHAINRULE_INLINE void fetch(const Linear &w, const uint32_t *rows, size_t k) {
  constexpr size_t ahead = 4;
  if (k + ahead >= w.n_in) return;
  const Real *from = w.W + rows[k + ahead] * w.ldw;
  for (size_t p = 0; p < panels_in(w.n_out); ++p)
    for (size_t j = 0; j < kPanel; j += 64 / sizeof(Real)) __builtin_prefetch(from + p * w.panel + j);
}

// The live lanes of a panel's row, zeros beside them. Where none is live `from` may be memory that was never touched, and a
// masked load from an absent page takes a hundred times as long.
CHAINRULE_INLINE void copy_lanes(const Real *from, Real *to, uint32_t live) {
#pragma GCC unroll 4
  for (size_t j = 0; j < kPanel; j += kWidth) store(to + j, live ? load_live(from + j, live >> j) : zero<Real>());
}

}  // namespace

CHAINRULE_KERNEL(permute_panels)(const Linear *linear, const uint32_t *rows, const uint32_t *columns, Real *out,
                                 const chainrule_exec *exec) {
  const Linear &w = *linear;
  const size_t panels = panels_in(w.n_out);
  const int threads = threads_for(w, exec);
  Real *memory = static_cast<Real *>(arena((size_t(threads) * panels * kPanel + 1) * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_rows(w, threads, memory, exec, [&](size_t k, Real *row) {
    fetch(w, rows, k);
    for (size_t p = 0; p < panels; ++p) copy_lanes(w.W + p * w.panel + rows[k] * w.ldw, row + p * kPanel, kAll);
    for (size_t p = 0; p < panels; ++p)
      if (word_of(w, p, k)) pick(row, columns + p * kPanel, smaller(w.n_out - p * kPanel, kPanel), out + p * w.panel + k * w.ldw);
  });
}

CHAINRULE_KERNEL(unpermute_panels)(const Linear *linear, const uint32_t *rows, const uint32_t *columns, Real *out,
                                   const chainrule_exec *exec) {
  const Linear &w = *linear;
  const size_t panels = panels_in(w.n_out);
  const int threads = threads_for(w, exec);
  const size_t shared = (w.n_in + w.n_out + 15) / 16 * 16 * sizeof(uint32_t);
  char *memory = static_cast<char *>(arena(shared + (size_t(threads) * panels * kPanel + 1) * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  uint32_t *row_of = reinterpret_cast<uint32_t *>(memory), *column_of = row_of + w.n_in;  // the inverse permutations
  for (size_t k = 0; k < w.n_in; ++k) row_of[rows[k]] = uint32_t(k);
  for (size_t o = 0; o < w.n_out; ++o) column_of[columns[o]] = uint32_t(o);
  return for_rows(w, threads, reinterpret_cast<Real *>(memory + shared), exec, [&](size_t to, Real *row) {
    const size_t k = row_of[to];
    fetch(w, row_of, to);
    for (size_t p = 0; p < panels; ++p) copy_lanes(w.W + p * w.panel + k * w.ldw, row + p * kPanel, word_of(w, p, k));
    for (size_t p = 0; p < panels; ++p)
      pick(row, column_of + p * kPanel, smaller(w.n_out - p * kPanel, kPanel), out + p * w.panel + to * w.ldw);
  });
}

}  // namespace chainrule
