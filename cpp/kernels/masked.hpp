// One panel of outputs of a masked layer for some rows: what its products, sparse and dense, and the scorer share.
//
// A tile of rows takes its chunks of inputs one after the other, so that their sum, which waits in y, is met again at once; four
// chunks of weights stay in the second cache for all rows.
#pragma once
#include "panels.hpp"

namespace chainrule {
namespace {

constexpr size_t kStretch = 4 * kChunk;  // inputs of a panel whose weights are copied at once, and stay in the second cache

// The weights of a panel that comes later, which memory brings while this one is multiplied: 32 inputs of it for 32 of this one,
// of which each tile of rows asks for its share.
struct Later {
  const Real *W = nullptr;  // NULL: nothing is asked for
  size_t stride = 0;        // from the 32 rows of a block to the next
};
template <bool Transposed> CHAINRULE_INLINE Later later_panel(const Linear &w, size_t panel) {
  const bool far = !w.rows && w.ldw == kPanel && w.n_in * w.n_out * sizeof(Real) > size_t(1) << 20;  // not in the second cache
  if (!far) return {};
  return Transposed ? Later{w.W + panel * kPanel * kPanel, w.panel} : Later{w.W + panel * w.panel, kPanel * kPanel};
}
// tile += a b over the inputs [from, to), b from row `from` on.
template <int R>
CHAINRULE_INLINE void multiply(Tile<R> &tile, const Real *a, size_t lda, const Real *b, size_t from, size_t to, const Later &later, size_t share, size_t shares) {
  if (!later.W) return multiply<R, false>(tile, a + from, lda, b, kPanel, to - from);
  const size_t size = kPanel * kPanel * sizeof(Real), bytes = (size / kPanel + shares - 1) / shares;
  while (from < to) {
    const size_t block = from / kPanel, end = smaller((block + 1) * kPanel, to);
    const char *ahead = reinterpret_cast<const char *>(later.W + block * later.stride) + size * share / shares + from % kPanel * bytes;
    multiply<R, false, true>(tile, a + from, lda, b, kPanel, end - from, ahead, bytes);
    b += (end - from) * kPanel;
    from = end;
  }
}

// Rows [begin, end) of one panel of y = g((x W + addend) + b). scratch: [kStretch][32], a masked copy of a stretch of the panel;
// what stands as the tile wants it is read where it stands.
template <bool Transposed>
void product(const Linear &w, size_t panel, const Spans &spans, size_t n_out, size_t begin, size_t end,
             const Real *x, size_t ldx, const Finish &f, Real *y, size_t ldy, Real *scratch, const Later &later = {}) {
  const size_t column = panel * kPanel;
  const size_t last = spans.last();
  const bool stands = !Transposed && !w.rows && w.ldw == kPanel, packed = stands && !spans.words && spans.lanes == kAll;
  const bool in_place = !Transposed && !w.rows && end - begin <= 2 && !packed;  // a row or two would not repay a copy
  const size_t plain = packed ? last : stands && !in_place ? full_until(spans) : 0;  // inputs before it need none
  const size_t shares = (end - begin + kR - 1) / kR * (kPanel / kLanes);
  size_t start = spans.first() / kChunk * kChunk;
  bool first = true;
  do {
    const size_t stop = smaller(start + kStretch, last), copied = larger(start, smaller(plain, stop));
    if constexpr (Transposed) copy_panel_transposed(w, panel, spans, start, stop, scratch);
    else if (!in_place) copy_panel(w, panel, spans, copied, stop, scratch);
    size_t share = 0;
    for_row_tiles(end - begin, [&]<int R>(size_t at) {
      const size_t row = begin + at;
      for (size_t lane = 0; lane < kPanel && column + lane < n_out; lane += kLanes, ++share) {
        fetch_tile<R>(y + row * ldy + column + lane, ldy);
        size_t chunk = start;
        do {
          const size_t chunk_end = smaller(chunk + kChunk, stop);
          Tile<R> tile;
          clear(tile);
          for_spans(spans, chunk, chunk_end, [&](size_t from, size_t to) {
            const Real *a = x + row * ldx;
            if (R <= 2 && in_place) return multiply_in_place<R>(tile, a, ldx, w, panel, spans, from, to, lane);
            const size_t mid = larger(from, smaller(copied, to));
            if (!Transposed) multiply(tile, a, ldx, w.W + panel * w.panel + from * kPanel + lane, from, mid, later, share, shares);
            multiply(tile, a, ldx, scratch + (mid - copied) * kPanel + lane, mid, to, later, share, shares);
          });
          put(tile, first && chunk == start, chunk_end >= last ? &f : nullptr, row, column + lane, n_out, y, ldy);
          chunk += kChunk;
        } while (chunk < stop);
      }
    });
    first = false;
    start += kStretch;
  } while (start < last);
}

constexpr size_t kWorthCopy = 16;  // rows for which what is masked of a panel is copied

// The same of inputs that are zeros and ones, for N panels side by side: they share the walk along the ones, and their chains
// of additions overlap. place: [end - begin], how far each row has come in its ones. scratch: [N][256][32], masked copies of
// what is not wholly live; NULL: rows are too few for one. Stands: rows of W stand one after the other, which is not to be
// asked anew at every one.
template <int N, bool Stands>
void product_of_ones(const Linear &linear, size_t panel, size_t begin, size_t end, const chainrule_ones &x, const Finish &f,
                     Real *y, size_t ldy, uint32_t *place, Real *scratch) {
  Linear w = linear;
  if constexpr (Stands) w.rows = nullptr, w.ldw = kPanel;
  const Real *weights = w.W + panel * w.panel;
  Spans spans[N];
  size_t full = ~size_t(0), low = full, last = 0;  // before `full` every weight is live, from the first live one of a panel on
#pragma GCC unroll 2
  for (int p = 0; p < N; ++p) {
    spans[p] = spans_of(w, panel + size_t(p));
    full = smaller(full, full_until(spans[p])), last = larger(last, spans[p].last());
    low = smaller(low, spans[p].count ? spans[p].first() : low);
  }
#pragma GCC unroll 2
  for (int p = 0; p < N; ++p)
    if (spans[p].first() != low) full = 0;
  low = smaller(low, last);
  for (size_t r = begin; r < end; ++r) place[r - begin] = uint32_t(low ? place_of(x.index + r * x.ld, x.count[r], low) : 0);
  size_t start = low / kChunk * kChunk;
  bool first = true;
  do {
    const size_t stop = smaller(start + kChunk, last), plain = smaller(full, stop), copied = larger(start, plain);
    const bool done = stop >= last;
#pragma GCC unroll 2
    for (int p = 0; scratch && p < N; ++p) {
      Real *to = scratch + size_t(p) * kChunk * kPanel;
      copy_panel(w, panel + size_t(p), spans[p], copied, stop, to);
      for_gaps(spans[p], copied, stop, [&](size_t k, size_t gap_end) {
        for (; k < gap_end; ++k) clear_row(to + (k - copied) * kPanel, kAll);
      });
    }
    for (size_t r = begin; r < end; ++r) {
      const uint32_t *index = x.index + r * x.ld, count = x.count[r];
      Sums part[N];
#pragma GCC unroll 2
      for (int p = 0; p < N; ++p) part[p] = no_sums();
      uint32_t at = place[r - begin];
      for (; at < count && index[at] < plain; ++at)
#pragma GCC unroll 2
        for (int p = 0; p < N; ++p) add(part[p], weights + size_t(p) * w.panel + row_of(w, index[at]) * w.ldw);
      for (; scratch && at < count && index[at] < stop; ++at)
#pragma GCC unroll 2
        for (int p = 0; p < N; ++p) add(part[p], scratch + (size_t(p) * kChunk + index[at] - copied) * kPanel);
      for (; at < count && index[at] < stop; ++at)
#pragma GCC unroll 2
        for (int p = 0; p < N; ++p)
          add_live(part[p], weights + size_t(p) * w.panel + row_of(w, index[at]) * w.ldw, spans[p].word(index[at]));
      place[r - begin] = at;
#pragma GCC unroll 2
      for (int p = 0; p < N; ++p)
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const size_t lane = (panel + size_t(p)) * kPanel + size_t(v) * kWidth;
          const int n = lanes_at(lane, w.n_out);
          Real *to = y + r * ldy + lane;
          const Vec<Real> sum = (first ? zero<Real>() : load_part(to, n)) + part[p].v[v];
          store_part(to, done ? finish(f, sum, r, lane, n) : sum, n);
        }
    }
    first = false;
    start += kChunk;
  } while (start < last);
}
template <int N>
CHAINRULE_INLINE void product_of_ones(const Linear &w, size_t panel, size_t begin, size_t end, const chainrule_ones &x, const Finish &f,
                                      Real *y, size_t ldy, uint32_t *place, Real *scratch) {
  if (!w.rows && w.ldw == kPanel) return product_of_ones<N, true>(w, panel, begin, end, x, f, y, ldy, place, scratch);
  product_of_ones<N, false>(w, panel, begin, end, x, f, y, ldy, place, scratch);
}

}  // namespace
}  // namespace chainrule
