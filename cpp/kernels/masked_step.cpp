// An optimizer's step by the gradient of a masked layer's weights, x' dy, which is never written:
//
//   W := step(W, x' dy)           live weights alone; x [rows][in], dy [rows][out]; W, s, t and average in panels
//
// A tile of the gradient, once its sums are done, moves the weights where it stands (optimizer.hpp has the rules). Cost: rows x
// live weights multiply-adds, and each live weight and its state read and written once: 24 bytes an element for Adam in float32,
// where a gradient that is written first makes it 36. They are asked for while the tile's sums are made, so that memory works
// beside the arithmetic. A tile meets all rows of x: for batches of some hundreds of them. Threads: panels, and blocks of inputs where panels are few.
#include "masked_step.hpp"

namespace chainrule {
namespace {

// Rows [k, k + n) of a panel by their gradient g [n][32].
template <int Rule> void move_rows(const Constants &all, const Moved &m, size_t at, const Spans &spans, size_t k, int n, const Real *g) {
  const Constants c = all;
  for (int r = 0; r < n; ++r)
    move_row<Rule>(c, m, at + (k + size_t(r)) * kPanel, spans.word(k + size_t(r)), [=](size_t j) { return load(g + size_t(r) * kPanel + j); });
}

}  // namespace

CHAINRULE_KERNEL(masked_linear_step)(const chainrule_optimizer *optimizer, const Linear *linear, size_t n_rows, const Real *x, size_t ldx,
                                     const Real *dy, size_t lddy, Real *p, Real *s, Real *t, Real *average, Real *db,
                                     const chainrule_exec *exec) {
  const Linear w = *linear;
  const Moved m = {p, s, t, average};
  const Constants c = constants(*optimizer);
  const size_t panels = panels_in(w.n_out), tiles = (w.n_in + 4 * kR - 1) / (4 * kR);
  const int most = plan_threads(exec, panels * tiles, (live_work(w.mask, w.n_in, w.n_out) + double(w.n_out)) * double(n_rows + 8));
  const size_t blocks = larger(blocks_beside(panels, tiles, most), 1);
  const int threads = int(smaller(size_t(most), panels * blocks));
  Real *memory = static_cast<Real *>(arena(size_t(threads) * larger(n_rows, 1) * kPanel * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, panels * blocks, 1, [&](size_t piece, size_t, int worker) {
    const size_t panel = dealt(piece / blocks, panels, size_t(threads)), block = piece % blocks, column = panel * kPanel;
    const size_t lanes = smaller(w.n_out - column, kPanel), place = panel * w.panel;
    const Spans spans = spans_of(w.mask, panel, w.n_in, lanes_of(panel, w.n_out));
    Real *b = memory + size_t(worker) * n_rows * kPanel;
    copy_columns(dy + column, lddy, n_rows, lanes, b);
    for_chunks(n_rows, [&](size_t start, size_t rows) {
      if (db && block == 0) bias_gradient(b + start * kPanel, kPanel, rows, lanes, start == 0, db + column);
    });
    for_spans(spans, w.n_in * block / blocks, w.n_in * (block + 1) / blocks, [&](size_t from, size_t to) {
      for_row_tiles(to - from, [&]<int R>(size_t at) {
        const size_t k = from + at;
        Real g[R * kPanel] = {};
        for (size_t lane = 0; lane < lanes; lane += kLanes) {
          for_chunks(n_rows, [&](size_t start, size_t rows) {
            Tile<R> tile;
            clear(tile);
            constexpr size_t kPieces = 4;  // rows of the panel are asked for some at a time: no more can be on their way
            for (size_t q = 0; q < kPieces; ++q) {
              for (size_t r = size_t(R) * q / kPieces; start == 0 && lane == 0 && r < size_t(R) * (q + 1) / kPieces; ++r)
                ask(m, place + (k + r) * kPanel);
              const size_t first = start + rows * q / kPieces, last = start + rows * (q + 1) / kPieces;
              multiply<R, true>(tile, x + first * ldx + k, ldx, b + first * kPanel + lane, kPanel, last - first);
            }
            for_tile(tile, [&](Vec<Real> sum, size_t r, size_t j) {
              Real *whole = g + r * kPanel + lane + j;
              store(whole, load(whole) + sum);
            });
          });
        }
        by_rule(*optimizer, [&]<int Rule>() { move_rows<Rule>(c, m, place, spans, k, R, g); });
      });
    });
  });
}

}  // namespace chainrule
