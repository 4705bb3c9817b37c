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

// Where column o of a matrix in panels stands in its row.
CHAINRULE_INLINE size_t *places_of(size_t n_out, size_t panel, const uint32_t *columns) {
  size_t *place = static_cast<size_t *>(arena((n_out + 1) * sizeof(size_t)));
  for (size_t o = 0; place && o < n_out; ++o) place[o] = columns[o] / kPanel * panel + columns[o] % kPanel;
  return place;
}

template <class F>
CHAINRULE_INLINE chainrule_status for_rows(const Linear &w, const chainrule_exec *exec, F &&f) {
  const size_t pieces = (w.n_in + kRowsAtOnce - 1) / kRowsAtOnce;
  const int threads = plan_threads(exec, pieces, double(w.n_in) * double(w.n_out) * 8);
  return for_each(exec, threads, w.n_in, kRowsAtOnce, [&](size_t begin, size_t end, int) {
    for (size_t k = begin; k < end; ++k)
      for (size_t p = 0; p < panels_in(w.n_out); ++p)
        f(k, p, w.mask ? w.mask->words[p * w.n_in + k] : kAll, smaller(w.n_out - p * kPanel, kPanel));
  });
}

}  // namespace

CHAINRULE_KERNEL(permute_panels)(const Linear *linear, const uint32_t *rows, const uint32_t *columns, Real *out,
                                 const chainrule_exec *exec) {
  const Linear &w = *linear;
  const size_t *place = places_of(w.n_out, w.panel, columns);
  if (!place) return CHAINRULE_NO_MEMORY;
  return for_rows(w, exec, [&](size_t k, size_t p, uint32_t live, size_t lanes) {
    if (!live) return;
    const Real *from = w.W + rows[k] * w.ldw;
    Real *to = out + p * w.panel + k * w.ldw;
    for (size_t j = 0; j < lanes; ++j) to[j] = from[place[p * kPanel + j]];
  });
}

CHAINRULE_KERNEL(unpermute_panels)(const Linear *linear, const uint32_t *rows, const uint32_t *columns, Real *out,
                                   const chainrule_exec *exec) {
  const Linear &w = *linear;
  const size_t *place = places_of(w.n_out, w.panel, columns);
  if (!place) return CHAINRULE_NO_MEMORY;
  return for_rows(w, exec, [&](size_t k, size_t p, uint32_t live, size_t lanes) {
    const Real *from = w.W + p * w.panel + k * w.ldw;
    Real *to = out + rows[k] * w.ldw;
    for (size_t j = 0; j < lanes; ++j) to[place[p * kPanel + j]] = live >> j & 1 ? from[j] : Real(0);
  });
}

}  // namespace chainrule
