// Masked products of an input of zeros and ones, given by the indices of its ones: sums of rows of W.
//
//   sparse_linear                  y_r = g((sum_{k in ones(r)} W_k + addend_r) + b)
//   sparse_linear_weight_gradient  dW_k = sum_{r: k in ones(r)} dy_r,  db = sum_r dy_r
//
// The same bits as masked_linear on the same input: a term of zero leaves a chain as it is, and 1 w + s is w + s. Cost: an
// addition for each one and live weight of its row; for binarized MNIST 13 % of the dense product. What is masked of a panel is
// copied for many rows, so that they meet no masks. Threads: pairs of panels of 32 outputs.
#include "masked.hpp"
#include "ones.hpp"

namespace chainrule {

CHAINRULE_KERNEL(sparse_linear)(const Linear *linear, size_t n_rows, const chainrule_ones *x, const Real *addend, size_t lda,
                                const Real *b, int32_t activation, Real *y, size_t ldy, const chainrule_exec *exec) {
  const Linear &w = *linear;
  const Finish f = {addend, lda, b, activation, nullptr, 0};
  const size_t panels = panels_in(w.n_out);
  double ones = 0;
  for (size_t r = 0; r < n_rows; ++r) ones += x->count[r];
  const double work = (ones + double(n_rows)) * (live_work(w.mask, w.n_in, w.n_out) / double(w.n_in + !w.n_in) + double(w.n_out));
  const size_t tiles = (n_rows + 63) / 64;
  const int most = plan_threads(exec, panels * tiles, work);
  const size_t together = panels_together(panels, most), groups = (panels + together - 1) / together;
  const size_t blocks = blocks_beside(groups, tiles, most);
  const int threads = int(smaller(size_t(most), groups * blocks));
  const size_t longest = (n_rows + blocks) / (blocks + !blocks) + 16;
  const size_t copied = together * kChunk * kPanel;
  Real *memory = static_cast<Real *>(arena(size_t(threads) * (copied * sizeof(Real) + longest * sizeof(uint32_t))));
  if (!memory) return CHAINRULE_NO_MEMORY;
  uint32_t *places = reinterpret_cast<uint32_t *>(memory + size_t(threads) * copied);
  if (n_rows == 0) return CHAINRULE_OK;
  return for_each(exec, threads, groups * blocks, 1, [&](size_t piece, size_t, int worker) {
    const size_t group = dealt(piece / blocks, groups, size_t(threads)), block = piece % blocks;
    const auto [panel, count] = group_of(group, panels, together);
    const size_t begin = n_rows * block / blocks, end = n_rows * (block + 1) / blocks;
    uint32_t *place = places + size_t(worker) * longest;
    Real *copy = end - begin >= kWorthCopy ? memory + size_t(worker) * copied : nullptr;
    if (count == 2) product_of_ones<2>(w, panel, begin, end, *x, f, y, ldy, place, copy);
    else product_of_ones<1>(w, panel, begin, end, *x, f, y, ldy, place, copy);
  });
}

namespace {

// One chunk of rows of N panels of dW, and of db where that is wanted. Unit k is one in the rows rows_of[from[k]] ..
// rows_of[from[k + 1] - 1]. Panels side by side share the walk through them, and their chains of additions overlap. b: room
// for a copy of the panels of dy, [256][N][32].
template <int N>
void weight_gradient_of_ones(const Linear &w, size_t panel, size_t rows, const uint32_t *from, const uint32_t *rows_of,
                             const Real *dy, size_t lddy, bool first, Real *dW, Real *db, Real *b) {
  const bool whole = first && w.whole;
  Spans spans[N];
  size_t low = w.n_in, high = 0;  // the units with a live weight; all, where dead ones become zero
#pragma GCC unroll 2
  for (int p = 0; p < N; ++p) {
    spans[p] = spans_of(w.mask, panel + size_t(p), w.n_in, lanes_of(panel + size_t(p), w.n_out));
    if (spans[p].count) low = smaller(low, spans[p].first()), high = larger(high, spans[p].last());
  }
  if (whole) low = 0, high = w.n_in;
  const size_t column = panel * kPanel;
  copy_panels<N>(dy, lddy, rows, column, w.n_out, b);
  if (db) bias_gradient_of<N>(b, rows, spans, first, db + column);
  for (size_t k = low; k < high; ++k) {
    uint32_t live[N], any = 0;
    Sums part[N];
#pragma GCC unroll 2
    for (int p = 0; p < N; ++p) {
      any |= live[p] = spans[p].word(k);
      part[p] = no_sums();
      if (w.rows && k + kAhead < high && (whole || spans[p].word(k + kAhead))) fetch(w, dW, panel + size_t(p), k + kAhead);
    }
    if (any) add_rows<N>(part, b, rows_of, from[k], from[k + 1]);
#pragma GCC unroll 2
    for (int p = 0; p < N; ++p) {
      Real *row = dW + (panel + size_t(p)) * w.panel + row_of(w, k) * w.ldw;
      if (whole && live[p] != spans[p].lanes) clear_row(row, spans[p].lanes);
      if (live[p]) put_sums(part[p], live[p], first, row);
    }
  }
}

}  // namespace

// Rows in chunks of 256, one after the other: the chunk's ones by unit, then panels of dW, two by two where that leaves
// enough of them for the threads.
CHAINRULE_KERNEL(sparse_linear_weight_gradient)(const Linear *linear, size_t n_rows, const chainrule_ones *x, const Real *dy,
                                                size_t lddy, Real *dW, Real *db, const chainrule_exec *exec) {
  const Linear &w = *linear;
  const size_t panels = panels_in(w.n_out);
  size_t most_ones = 0;
  for (size_t start = 0; start < n_rows; start += kChunk) {
    size_t ones = 0;
    for (size_t r = start; r < smaller(start + kChunk, n_rows); ++r) ones += x->count[r];
    most_ones = larger(most_ones, ones);
  }
  const double work = double(most_ones) * (live_work(w.mask, w.n_in, w.n_out) / double(w.n_in + !w.n_in) + kPanel) +
                      live_work(w.mask, w.n_in, w.n_out);
  const int threads = plan_threads(exec, panels, work);
  const size_t together = panels_together(panels, threads), pieces = (panels + together - 1) / together;
  const size_t places = (w.n_in + 1 + most_ones + 15) / 16 * 16;  // uint32 each
  const size_t share = 2 * kChunk * kPanel * sizeof(Real);
  char *memory = static_cast<char *>(arena(size_t(threads) * share + places * sizeof(uint32_t)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  uint32_t *from = reinterpret_cast<uint32_t *>(memory + size_t(threads) * share), *rows_of = from + w.n_in + 1;
  size_t start = 0;
  do {  // at least once: no rows, gradient zero
    const size_t rows = smaller(n_rows - start, kChunk);
    chainrule_status status = sort_ones(*x, start, rows, w.n_in, from, rows_of, threads, exec);
    if (status != CHAINRULE_OK) return status;
    status = for_each(exec, threads, pieces, 1, [&](size_t piece, size_t, int worker) {
      const auto [panel, count] = group_of(dealt(piece, pieces, size_t(threads)), panels, together);
      Real *b = reinterpret_cast<Real *>(memory + size_t(worker) * share);
      if (count == 2)
        weight_gradient_of_ones<2>(w, panel, rows, from, rows_of, dy + start * lddy, lddy, start == 0, dW, db, b);
      else
        weight_gradient_of_ones<1>(w, panel, rows, from, rows_of, dy + start * lddy, lddy, start == 0, dW, db, b);
    });
    if (status != CHAINRULE_OK) return status;
    start += kChunk;
  } while (start < n_rows);
  return CHAINRULE_OK;
}

}  // namespace chainrule
