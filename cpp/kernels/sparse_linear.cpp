// Masked products of an input of zeros and ones, given by the indices of its ones: sums of rows of W.
//
//   sparse_linear                  y_r = g((sum_{k in ones(r)} W_k + addend_r) + b)
//   sparse_linear_weight_gradient  dW_k = sum_{r: k in ones(r)} dy_r,  db = sum_r dy_r
//
// The same bits as masked_linear on the same input: a term of zero leaves a chain as it is, and 1 w + s is w + s. Cost: an
// addition for each one and live weight of its row; for binarized MNIST 13 % of the dense product. Threads: panels of 32
// outputs.
#include "panels.hpp"

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
  const size_t blocks = blocks_beside(panels, tiles, most);
  const int threads = int(smaller(size_t(most), panels * blocks));
  const size_t longest = (n_rows + blocks) / (blocks + !blocks) + 16;
  uint32_t *memory = static_cast<uint32_t *>(arena(size_t(threads) * longest * sizeof(uint32_t)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  if (n_rows == 0) return CHAINRULE_OK;
  return for_each(exec, threads, panels * blocks, 1, [&](size_t piece, size_t, int worker) {
    const size_t panel = folded(piece / blocks, panels), block = piece % blocks, column = panel * kPanel;
    const size_t begin = n_rows * block / blocks, end = n_rows * (block + 1) / blocks;
    const Spans spans = spans_of(w, panel);
    const size_t full = full_until(spans), last = spans.last();
    uint32_t *place = memory + size_t(worker) * longest;  // how far each row has come in its ones
    for (size_t r = begin; r < end; ++r)
      place[r - begin] = uint32_t(spans.first() ? place_of(x->index + r * x->ld, x->count[r], spans.first()) : 0);
    // Chunk by chunk, so that a chunk of the panel stays in cache for all rows; the sum of chunks waits in y.
    size_t start = spans.first() / kChunk * kChunk;
    bool first = true;
    do {
      const size_t stop = smaller(start + kChunk, last);
      const bool done = stop >= last;
      for (size_t r = begin; r < end; ++r) {
        Sums part = no_sums();
        uint32_t &at = place[r - begin];
        at = uint32_t(add_ones(part, w, panel, spans, full, stop, x->index + r * x->ld, at, x->count[r]));
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const size_t lane = column + size_t(v) * kWidth;
          const int n = lanes_at(lane, w.n_out);
          Real *to = y + r * ldy + lane;
          const Vec<Real> sum = (first ? zero<Real>() : load_part(to, n)) + part.v[v];
          store_part(to, done ? finish(f, sum, r, lane, n) : sum, n);
        }
      }
      first = false;
      start += kChunk;
    } while (start < last);
  });
}

// Rows in chunks of 256, one after the other: the chunk's ones by unit (a counting sort), then panels of dW.
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
  const size_t places = (w.n_in + 2 + most_ones + 15) / 16 * 16;  // uint32 each
  const size_t share = kChunk * kPanel * sizeof(Real);
  char *memory = static_cast<char *>(arena(size_t(threads) * share + places * sizeof(uint32_t)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  uint32_t *from = reinterpret_cast<uint32_t *>(memory + size_t(threads) * share), *rows_of = from + w.n_in + 2;
  size_t start = 0;
  do {  // at least once: no rows, gradient zero
    const size_t rows = smaller(n_rows - start, kChunk);
    const bool first = start == 0;
    for (size_t k = 0; k < w.n_in + 2; ++k) from[k] = 0;
    for (size_t r = 0; r < rows; ++r) {
      const uint32_t *index = x->index + (start + r) * x->ld;
      for (uint32_t i = 0; i < x->count[start + r]; ++i) ++from[index[i] + 2];
    }
    for (size_t k = 2; k < w.n_in + 2; ++k) from[k] += from[k - 1];
    for (size_t r = 0; r < rows; ++r) {
      const uint32_t *index = x->index + (start + r) * x->ld;
      for (uint32_t i = 0; i < x->count[start + r]; ++i) rows_of[from[index[i] + 1]++] = uint32_t(r);
    }  // now the rows of unit k stand at from[k] .. from[k + 1]
    const chainrule_status status = for_each(exec, threads, panels, 1, [&](size_t piece, size_t, int worker) {
      const size_t panel = folded(piece, panels), column = panel * kPanel;
      const Spans spans = spans_of(w.mask, panel, w.n_in, lanes_of(panel, w.n_out));
      Real *b = reinterpret_cast<Real *>(memory + size_t(worker) * share);
      for (size_t r = 0; r < rows; ++r)
        for (size_t j = 0; j < kPanel; j += kWidth)
          store(b + r * kPanel + j, load_part(dy + (start + r) * lddy + column + j, lanes_at(column + j, w.n_out)));
      auto put = [&](Real *to, const Sums &part, uint32_t live) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const size_t j = size_t(v) * kWidth;
          store_live(to + j, (first ? zero<Real>() : load_live(to + j, live >> j)) + part.v[v], live >> j);
        }
      };
      if (db) {
        Sums part = no_sums();
        for (size_t r = 0; r < rows; ++r) add(part, b + r * kPanel);
        put(db + column, part, spans.lanes);
      }
      const bool whole = first && w.whole;
      if (whole) clear_gaps(w, panel, spans, 0, w.n_in, dW);
      for_spans(spans, 0, w.n_in, [&](size_t k, size_t end) {
        for (; k < end; ++k) {
          Sums part = no_sums();
          for (uint32_t i = from[k]; i < from[k + 1]; ++i) add(part, b + rows_of[i] * kPanel);
          if (w.rows && k + kAhead < end) fetch(w, dW, panel, k + kAhead);
          Real *row = dW + panel * w.panel + row_of(w, k) * w.ldw;
          if (whole && spans.word(k) != spans.lanes) clear_row(row, spans.lanes);
          put(row, part, spans.word(k));
        }
      });
    });
    if (status != CHAINRULE_OK) return status;
    start += kChunk;
  } while (start < n_rows);
  return CHAINRULE_OK;
}

}  // namespace chainrule
