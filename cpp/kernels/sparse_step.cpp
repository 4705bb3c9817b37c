// An optimizer's step by the gradient of a masked layer's weights whose inputs are zeros and ones, which is never written:
//
//   W_k := step(W_k, sum_{r: k in ones(r)} dy_r)     live weights alone; W, s, t and average in panels
//
// A unit's sums, once all rows are in them, move its weights where they stand (optimizer.hpp has the rules): roots and divisions
// of one unit overlap with the sums of the next. Cost: an addition for each one and live weight of its row, and each live weight
// and its state read and written once. The same bits as sparse_linear_weight_gradient and the optimizer. Threads: pairs of panels.
#include "masked_step.hpp"
#include "ones.hpp"

namespace chainrule {
namespace {

// N panels, for all units. b: room for a copy of the panels of dy, [rows][N][32].
template <int Rule, int N>
void step_of_ones(const Constants &all, const Moved &arrays, const Linear &w, size_t panel, size_t n_rows, const uint32_t *from,
                  const uint32_t *rows_of, const Real *dy, size_t lddy, Real *db, Real *b) {
  const Constants c = all;  // copies: no store to what moves can change them
  const Moved m = arrays;
  const size_t column = panel * kPanel;
  Spans spans[N];
#pragma GCC unroll 2
  for (int p = 0; p < N; ++p) spans[p] = spans_of(w.mask, panel + size_t(p), w.n_in, lanes_of(panel + size_t(p), w.n_out));
  copy_panels<N>(dy, lddy, n_rows, column, w.n_out, b);
  for_chunks(n_rows, [&](size_t start, size_t rows) {
    if (db) bias_gradient_of<N>(b + start * size_t(N) * kPanel, rows, spans, start == 0, db + column);
  });
  for (size_t k = 0; k < w.n_in; ++k) {
    uint32_t live[N], any = 0;
    Sums sum[N];
#pragma GCC unroll 2
    for (int p = 0; p < N; ++p) any |= live[p] = spans[p].word(k), sum[p] = no_sums();
    if (!any) continue;
    uint32_t at = from[k];
    for_chunks(n_rows, [&](size_t start, size_t rows) {
      uint32_t end = from[k + 1];
      if (start + rows < n_rows)
        for (end = at; end < from[k + 1] && rows_of[end] < start + rows;) ++end;
      Sums part[N];
#pragma GCC unroll 2
      for (int p = 0; p < N; ++p) part[p] = no_sums();
      add_rows<N>(part, b, rows_of, at, end);
#pragma GCC unroll 2
      for (int p = 0; p < N; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[p].v[v] = sum[p].v[v] + part[p].v[v];
      at = end;
    });
#pragma GCC unroll 2
    for (int p = 0; p < N; ++p)
      if (live[p]) move_row<Rule>(c, m, (panel + size_t(p)) * w.panel + k * kPanel, live[p], [&](size_t j) { return sum[p].v[j / kWidth]; });
  }
}

}  // namespace

CHAINRULE_KERNEL(sparse_linear_step)(const chainrule_optimizer *optimizer, const Linear *linear, size_t n_rows, const chainrule_ones *x,
                                     const Real *dy, size_t lddy, Real *p, Real *s, Real *t, Real *average, Real *db,
                                     const chainrule_exec *exec) {
  const Linear &w = *linear;
  const Moved m = {p, s, t, average};
  const Constants c = constants(*optimizer);
  const size_t panels = panels_in(w.n_out);
  size_t ones = 0;
  for (size_t r = 0; r < n_rows; ++r) ones += x->count[r];
  const double live = live_work(w.mask, w.n_in, w.n_out);
  const int threads = plan_threads(exec, panels, double(ones) * (live / double(w.n_in + !w.n_in) + kPanel) + 8 * live);
  const size_t together = panels_together(panels, threads), pieces = (panels + together - 1) / together;
  const size_t places = (w.n_in + 1 + ones + 15) / 16 * 16, share = 2 * larger(n_rows, 1) * kPanel * sizeof(Real);
  char *memory = static_cast<char *>(arena(size_t(threads) * share + places * sizeof(uint32_t)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  uint32_t *from = reinterpret_cast<uint32_t *>(memory + size_t(threads) * share), *rows_of = from + w.n_in + 1;
  const chainrule_status status = sort_ones(*x, 0, n_rows, w.n_in, from, rows_of, threads, exec);
  if (status != CHAINRULE_OK) return status;
  return by_rule(*optimizer, [&]<int Rule>() {
    return for_each(exec, threads, pieces, 1, [&](size_t piece, size_t, int worker) {
      const auto [panel, count] = group_of(dealt(piece, pieces, size_t(threads)), panels, together);
      Real *b = reinterpret_cast<Real *>(memory + size_t(worker) * share);
      if (count == 2) step_of_ones<Rule, 2>(c, m, w, panel, n_rows, from, rows_of, dy, lddy, db, b);
      else step_of_ones<Rule, 1>(c, m, w, panel, n_rows, from, rows_of, dy, lddy, db, b);
    });
  });
}

}  // namespace chainrule
