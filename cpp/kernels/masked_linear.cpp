// Masked matrix products (MADE, Germain et al. 2015), forwards and backwards, on panels.hpp's tiles.
//
//   masked_linear                  y  = g((x W + addend) + b)         x [rows][in], W [in][out], y [rows][out]
//   masked_linear_input_gradient   dx = (dy W' + addend) g'(h)        dy [rows][out], dx, h [rows][in]
//   masked_linear_weight_gradient  dW = x' dy, db = sum_r dy_r
//
// Units sorted by degree make a mask a staircase: a panel of 32 outputs has the live inputs [0, e), and its work is e
// rows. Cost: rows x live weights multiply-adds each (half of the dense product for uniform degrees), and one copy of W
// from row-major or transposed storage. The copy takes each row from where it stands, so another order of the units costs
// nothing. Threads: panels, and blocks of rows where panels are few.
#include "masked.hpp"

namespace chainrule {
namespace {

// Whether a panel's weights stand side by side, so that nothing needs a copy.
bool stands_packed(const Linear &w) { return !w.mask && !w.rows && w.ldw == kPanel && w.panel != kPanel; }

// Rows of a block: 256 KB of inputs, in tiles.
size_t block_rows(size_t n_in) { return larger((size_t(1) << 18) / (larger(n_in, 1) * sizeof(Real)) / kR, 1) * kR; }
bool many(size_t n_rows, size_t n_in) { return n_rows >= 4 * block_rows(n_in); }

// Many rows of a matrix that stands packed.
chainrule_status dense_product(const Linear &w, size_t n_rows, const Real *x, size_t ldx, const Finish &f, Real *y, size_t ldy,
                               const chainrule_exec *exec) {
  const size_t panels = panels_in(w.n_out), rows = block_rows(w.n_in), blocks = (n_rows + rows - 1) / rows;
  const int threads = plan_threads(exec, panels * blocks, double(n_rows) * double(w.n_in) * double(w.n_out));
  return for_each(exec, threads, panels * blocks, 1, [&](size_t piece, size_t, int) {
    const size_t panel = piece % panels, block = piece / panels;
    product<false>(w, panel, spans_of(w, panel), w.n_out, block * rows, smaller((block + 1) * rows, n_rows), x, ldx, f, y, ldy, nullptr);
  });
}
// The transpose of a matrix without a mask, packed once for all its rows.
chainrule_status dense_transposed(const Linear &w, size_t n_rows, const Real *x, size_t ldx, const Finish &f, Real *y, size_t ldy,
                                  const chainrule_exec *exec) {
  constexpr size_t B = size_t(block_width<Real>);  // rows are copied by so many
  const size_t panels = panels_in(w.n_in), size = (w.n_out + B - 1) / B * B * kPanel;
  Real *memory = static_cast<Real *>(arena(panels * size * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  const int threads = plan_threads(exec, panels, 4 * double(w.n_in) * double(w.n_out));
  const chainrule_status status = for_each(exec, threads, panels, 1, [&](size_t panel, size_t, int) {
    copy_panel_transposed(w, panel, spans_of(nullptr, panel, w.n_out, kAll), 0, w.n_out, memory + panel * size);
  });
  if (status != CHAINRULE_OK) return status;
  return dense_product({w.n_out, w.n_in, memory, kPanel, size, nullptr, nullptr, nullptr, 0, 0}, n_rows, x, ldx, f, y, ldy, exec);
}

template <bool Transposed>
chainrule_status products(const Linear &w, size_t n_rows, const Real *x, size_t ldx, const Finish &f, Real *y,
                          size_t ldy, const chainrule_exec *exec) {
  const size_t n_in = Transposed ? w.n_out : w.n_in, n_out = Transposed ? w.n_in : w.n_out;
  const chainrule_mask *mask = Transposed ? w.transposed : w.mask;
  if (many(n_rows, n_in)) {
    if (Transposed && !mask && n_in > 1) return dense_transposed(w, n_rows, x, ldx, f, y, ldy, exec);
    if (!Transposed && stands_packed(w)) return dense_product(w, n_rows, x, ldx, f, y, ldy, exec);
  }
  const size_t panels = panels_in(n_out);
  const size_t tiles = (n_rows + 4 * kR - 1) / (4 * kR);  // blocks of rows worth a copy of the panel
  const int most = plan_threads(exec, panels * tiles, (live_work(mask, n_in, n_out) + double(n_out)) * double(n_rows));
  const size_t blocks = blocks_beside(panels, tiles, most);
  const int threads = int(smaller(size_t(most), panels * blocks));
  Real *memory = static_cast<Real *>(arena(size_t(threads) * kStretch * kPanel * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  if (n_rows == 0) return CHAINRULE_OK;
  auto nth = [&](size_t i) {  // the heaviest panels of a staircase first: the last ones, or, transposed, the first
    const size_t panel = dealt(i, panels, size_t(threads));
    return Transposed ? panels - 1 - panel : panel;
  };
  return for_each(exec, threads, panels * blocks, 1, [&](size_t piece, size_t, int worker) {
    const size_t panel = nth(piece / blocks), block = piece % blocks, next = piece / blocks + 1;
    const Later later = blocks == 1 && next < panels ? later_panel<Transposed>(w, nth(next)) : Later{};
    product<Transposed>(w, panel, Transposed ? spans_of(mask, panel, n_in, kAll) : spans_of(w, panel), n_out, n_rows * block / blocks,
                        n_rows * (block + 1) / blocks, x, ldx, f, y, ldy, memory + size_t(worker) * kStretch * kPanel, later);
  });
}

}  // namespace

CHAINRULE_KERNEL(masked_linear)(const Linear *linear, size_t n_rows, const Real *x, size_t ldx, const Real *addend,
                                size_t lda, const Real *b, int32_t activation, Real *y, size_t ldy,
                                const chainrule_exec *exec) {
  const Finish f = {addend, lda, b, activation, nullptr, 0};
  if (linear->turned) return products<true>(as_kept(*linear), n_rows, x, ldx, f, y, ldy, exec);
  return products<false>(*linear, n_rows, x, ldx, f, y, ldy, exec);
}

CHAINRULE_KERNEL(masked_linear_input_gradient)(const Linear *linear, size_t n_rows, const Real *dy, size_t lddy,
                                               const Real *addend, size_t lda, const Real *h, size_t ldh,
                                               int32_t activation, Real *dx, size_t lddx, const chainrule_exec *exec) {
  if (!h) activation = CHAINRULE_IDENTITY;
  const Finish f = {addend, lda, nullptr, activation, h, ldh};
  if (linear->turned) return products<false>(as_kept(*linear), n_rows, dy, lddy, f, dx, lddx, exec);
  return products<true>(*linear, n_rows, dy, lddy, f, dx, lddx, exec);
}

// Rows in chunks of 256, one after the other; in a chunk, panels of dW, each from its copy of the panel of dy (of x, when dW
// is kept as its transpose dy' x).
CHAINRULE_KERNEL(masked_linear_weight_gradient)(const Linear *linear, size_t n_rows, const Real *x, size_t ldx,
                                                const Real *dy, size_t lddy, Real *dW, Real *db,
                                                const chainrule_exec *exec) {
  const bool turned = linear->turned;
  const Linear w = turned ? as_kept(*linear) : *linear;
  const Real *by_rows = turned ? dy : x, *by_columns = turned ? x : dy;  // of dW as it is kept
  const size_t ldr = turned ? lddy : ldx, ldc = turned ? ldx : lddy;
  const size_t panels = panels_in(w.n_out), biases = turned && db ? linear->n_out : 0;  // each piece has its share of them
  const double work = (live_work(w.mask, w.n_in, w.n_out) + double(linear->n_out)) * double(smaller(n_rows, kChunk));
  const size_t tiles = (w.n_in + 4 * kR - 1) / (4 * kR);
  const int most = plan_threads(exec, panels * tiles, work);
  const size_t blocks = blocks_beside(panels, tiles, most), pieces = larger(panels * blocks, biases > 0);
  const int threads = int(smaller(size_t(most), pieces));
  Real *memory = static_cast<Real *>(arena(size_t(threads) * kChunk * kPanel * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  size_t start = 0;
  do {  // at least once: no rows, gradient zero
    const size_t rows = smaller(n_rows - start, kChunk);
    const bool first = start == 0;
    const chainrule_status status = for_each(exec, threads, pieces, 1, [&](size_t piece, size_t, int worker) {
      const size_t low = biases * piece / pieces, high = biases * (piece + 1) / pieces;
      if (low < high) bias_gradient(dy + start * lddy + low, lddy, rows, high - low, first, db + low);
      if (panels == 0) return;
      const size_t panel = dealt(piece / blocks, panels, size_t(threads)), block = piece % blocks;
      weight_gradient(w, panel, w.n_in * block / blocks, w.n_in * (block + 1) / blocks, rows, by_rows + start * ldr, ldr,
                      by_columns + start * ldc, ldc, first, dW, block == 0 && !turned ? db : nullptr,
                      memory + size_t(worker) * kChunk * kPanel);
    });
    if (status != CHAINRULE_OK) return status;
    start += kChunk;
  } while (start < n_rows);
  return CHAINRULE_OK;
}

}  // namespace chainrule
