// Matrices in panels of 32 outputs, and the tile that multiplies them: what all products share.
//
//   y_ro = sum_k x_rk W_ko        over the live k of panel o / 32 alone
//
// A tile is kR rows by kV vectors of outputs, its sums in registers; the rows are broadcast, the outputs are lanes. By the
// contract's rule an element is a chain of fused multiply-adds over k ascending, in chunks of 256 at absolute k, each
// started at +0 and added to the whole, which waits in y. Weights outside the mask, and k outside the spans, are no part
// of it: a skipped term is one whose weight is zero.
#pragma once
#include "activation.hpp"

namespace chainrule {
namespace {

constexpr size_t kPanel = 32;
#ifdef CHAINRULE_TILE_ROWS  // of sanitizer builds, which take minutes to compile twelve heights
constexpr int kR = CHAINRULE_TILE_ROWS;
#else
constexpr int kR = Vec<Real>::regs == 1 ? 12 : 6;  // rows of a tile, and vectors of outputs: what registers hold
#endif
constexpr int kV = Vec<Real>::regs == 1 ? 2 : 1;
constexpr size_t kLanes = size_t(kV) * kWidth;     // outputs of a tile

CHAINRULE_INLINE size_t panels_in(size_t n) { return (n + kPanel - 1) / kPanel; }
CHAINRULE_INLINE size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
CHAINRULE_INLINE size_t larger(size_t a, size_t b) { return a > b ? a : b; }

// One panel's live inputs, and the lanes that may be touched.
struct Spans {
  const uint32_t *words;  // by input; NULL: all inputs
  const uint32_t *pair;   // [count][2]
  size_t count;
  uint32_t whole[2];
  uint32_t lanes;
  CHAINRULE_INLINE size_t begin(size_t i) const { return words ? pair[2 * i] : whole[0]; }
  CHAINRULE_INLINE size_t end(size_t i) const { return words ? pair[2 * i + 1] : whole[1]; }
  CHAINRULE_INLINE size_t first() const { return count ? begin(0) : 0; }
  CHAINRULE_INLINE size_t last() const { return count ? end(count - 1) : 0; }
  CHAINRULE_INLINE uint32_t word(size_t k) const { return words ? words[k] & lanes : lanes; }
};
constexpr uint32_t kAll = ~uint32_t(0);
CHAINRULE_INLINE uint32_t lanes_of(size_t panel, size_t n_out) {
  const size_t lanes = n_out - panel * kPanel;
  return lanes < kPanel ? (uint32_t(1) << lanes) - 1 : kAll;
}
CHAINRULE_INLINE Spans spans_of(const chainrule_mask *mask, size_t panel, size_t n_in, uint32_t lanes) {
  if (!mask) return {nullptr, nullptr, size_t(n_in > 0), {0, uint32_t(n_in)}, lanes};
  const uint32_t first = mask->span_of[panel];
  return {mask->words + panel * n_in, mask->spans + 2 * first, mask->span_of[panel + 1] - first, {0, 0}, lanes};
}
// The last panel of a plain matrix ends with its last output; one that is kept in panels is padded to 32.
CHAINRULE_INLINE Spans spans_of(const Linear &w, size_t panel) {
  return spans_of(w.mask, panel, w.n_in, w.panel == kPanel ? lanes_of(panel, w.n_out) : kAll);
}
// Where row k of the matrix that is kept stands.
CHAINRULE_INLINE size_t row_of(const Linear &w, size_t k) { return w.rows ? w.rows[k] : k; }
// Asks for a panel's row k of dW some time before it is written: rows that stand elsewhere come in no order that the machine
// could guess.
CHAINRULE_INLINE void fetch(const Linear &w, const Real *dW, size_t panel, size_t k) {
  const Real *row = dW + panel * w.panel + row_of(w, k) * w.ldw;
#pragma GCC unroll 4
  for (size_t j = 0; j < kPanel; j += 64 / sizeof(Real)) __builtin_prefetch(row + j);
}
constexpr size_t kAhead = 8;  // rows
// A matrix that is kept as its transpose, as it is kept.
CHAINRULE_INLINE Linear as_kept(const Linear &w) {
  return {w.n_out, w.n_in, w.W, w.ldw, w.panel, w.transposed, w.mask, w.rows, 0, w.whole};
}
// f(begin, end) over the live inputs within [from, to).
template <class F> CHAINRULE_INLINE void for_spans(const Spans &spans, size_t from, size_t to, F &&f) {
  for (size_t i = 0; i < spans.count; ++i) {
    const size_t begin = larger(spans.begin(i), from), end = smaller(spans.end(i), to);
    if (begin < end) f(begin, end);
  }
}
// And over those between them, without a live weight.
template <class F> CHAINRULE_INLINE void for_gaps(const Spans &spans, size_t from, size_t to, F &&f) {
  for_spans(spans, from, to, [&](size_t begin, size_t end) {
    if (from < begin) f(from, begin);
    from = end;
  });
  if (from < to) f(from, to);
}
CHAINRULE_INLINE size_t live_inputs(const Spans &spans) {
  size_t n = 0;
  for (size_t i = 0; i < spans.count; ++i) n += spans.end(i) - spans.begin(i);
  return n;
}
// Live inputs of all panels: multiply-adds of a row are 32 times as many.
CHAINRULE_INLINE double live_work(const chainrule_mask *mask, size_t n_in, size_t n_out) {
  double work = 0;
  for (size_t p = 0; p < panels_in(n_out); ++p) work += double(live_inputs(spans_of(mask, p, n_in, kAll)));
  return work * double(kPanel);
}

// Piece i of n in an order that deals them out, the heaviest first, to and fro among the threads, each of which has its range
// of the pieces: equal shares of a staircase are then equal work, and a thread's next panel is nearly like the one it has.
CHAINRULE_INLINE size_t dealt(size_t i, size_t n, size_t threads) {
  size_t thread = 0, longer = 0;  // whose piece it is; how many before it have one more than the others
  auto count = [&] { return n * (thread + 1) / threads - n * thread / threads; };
  for (; n * (thread + 1) / threads <= i; ++thread) longer += count() > n / threads;
  const size_t turn = i - n * thread / threads;
  const size_t rank = turn == n / threads ? turn * threads + longer : turn * threads + (turn % 2 ? threads - 1 - thread : thread);
  return n - 1 - rank;
}

// Blocks into which the other side is cut so that there are some pieces for every thread.
CHAINRULE_INLINE size_t blocks_beside(size_t panels, size_t tiles, int threads) {
  if (threads == 1 || panels >= 4 * size_t(threads)) return 1;
  return smaller((4 * size_t(threads) + panels - 1) / panels, tiles);
}

template <int R> struct Tile {
  Vec<Real> v[R][kV];
};
template <int R> CHAINRULE_INLINE void clear(Tile<R> &tile) {
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) tile.v[r][v] = zero<Real>();
}

// tile += a b over n terms. a: element (r, k) at a[r lda + k], or a[k lda + r] when it comes by columns. b: [n][ldb]. Memory
// brings meanwhile, if asked, what stands from `ahead` on: so many bytes of it a term.
template <int R, bool ByColumn, bool Asks = false>
CHAINRULE_INLINE void multiply(Tile<R> &tile, const Real *a, size_t lda, const Real *b, size_t ldb, size_t n, const char *ahead = nullptr, size_t bytes = 0) {
  for (size_t k = 0; k < n; ++k) {
    if constexpr (ByColumn) __builtin_prefetch(a + 64 / sizeof(Real), 0, 2);  // of the next tile of columns
    if constexpr (Asks) __builtin_prefetch(ahead + k * bytes, 0, 2);
    Vec<Real> bk[kV];
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) bk[v] = load(b + size_t(v) * kWidth);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const Vec<Real> ar = set1(ByColumn ? a[r] : a[size_t(r) * lda]);
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) tile.v[r][v] = fma(ar, bk[v], tile.v[r][v]);
    }
    a += ByColumn ? lda : 1;
    b += ldb;
  }
}

// f<R>(first) over n rows in tiles of nearly equal height, at most kR.
template <class F> CHAINRULE_INLINE void for_row_tiles(size_t n, F &&f) {
  const size_t tiles = (n + kR - 1) / kR;
  for (size_t t = 0, at = 0; t < tiles; ++t) {
    const size_t rows = n * (t + 1) / tiles - at;
#define CHAINRULE_ROWS(R) \
  case R:                 \
    if constexpr (R <= kR) f.template operator()<R>(at); \
    break;
    switch (rows) {
      CHAINRULE_ROWS(1) CHAINRULE_ROWS(2) CHAINRULE_ROWS(3) CHAINRULE_ROWS(4) CHAINRULE_ROWS(5) CHAINRULE_ROWS(6)
      CHAINRULE_ROWS(7) CHAINRULE_ROWS(8) CHAINRULE_ROWS(9) CHAINRULE_ROWS(10) CHAINRULE_ROWS(11) CHAINRULE_ROWS(12)
    }
#undef CHAINRULE_ROWS
    at += rows;
  }
}

// What becomes of a sum: ((sum + addend) + b), then g of it, or times g'(h).
struct Finish {
  const Real *addend;
  size_t lda;
  const Real *b;
  int32_t activation;
  const Real *h;  // not NULL: g' in terms of h instead of g
  size_t ldh;
};
CHAINRULE_INLINE Vec<Real> finish_activation(const Finish &f, Vec<Real> sum, size_t row, size_t column, int n) {
  if (f.h) {
    const Vec<Real> h = load_part(f.h + row * f.ldh + column, n);
    if (f.activation == CHAINRULE_RELU) return sum * activation_slope<CHAINRULE_RELU>(h);
    if (f.activation == CHAINRULE_SIGMOID) return sum * activation_slope<CHAINRULE_SIGMOID>(h);
    if (f.activation == CHAINRULE_TANH) return sum * activation_slope<CHAINRULE_TANH>(h);
    return sum;
  }
  return activate(f.activation, sum);
}
CHAINRULE_INLINE Vec<Real> finish(const Finish &f, Vec<Real> sum, size_t row, size_t column, int n) {
  if (f.addend) sum = sum + load_part(f.addend + row * f.lda + column, n);
  if (f.b) sum = sum + load_part(f.b + column, n);
  return finish_activation(f, sum, row, column, n);
}

// Lanes of a panel's vector at `column` that exist.
CHAINRULE_INLINE int lanes_at(size_t column, size_t n_out) {
  return column >= n_out ? 0 : int(smaller(n_out - column, kWidth));
}

// f(vector, row, column) for each vector of a tile, unrolled.
template <int R, class F> CHAINRULE_INLINE void for_tile(Tile<R> &tile, F &&f) {
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) f(tile.v[r][v], size_t(r), size_t(v) * kWidth);
}
// Asks for the place of a tile's results while their sums are made.
template <int R> CHAINRULE_INLINE void fetch_tile(const Real *y, size_t ldy) {
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (size_t j = 0; j < kLanes; j += 64 / sizeof(Real)) __builtin_prefetch(y + size_t(r) * ldy + j, 1);
}
// The sums of a chunk join the whole that waits in y, or start it; after the last chunk comes the finish. One plain step after
// the other for a tile whose lanes all exist: choices at every vector take longer than what they choose.
template <int R>
CHAINRULE_INLINE void put(Tile<R> &tile, bool first, const Finish *f, size_t row, size_t column, size_t n_out, Real *y, size_t ldy) {
  Real *to = y + row * ldy + column;
  if (column + kLanes > n_out) {
    Real sums[size_t(R) * kLanes];
    for_tile(tile, [&](Vec<Real> sum, size_t r, size_t j) { store(sums + r * kLanes + j, sum); });
    for (size_t r = 0; r < size_t(R); ++r)
      for (size_t j = 0; column + j < n_out; j += kWidth) {
        const int n = lanes_at(column + j, n_out);
        const Vec<Real> sum = (first ? zero<Real>() : load_part(to + r * ldy + j, n)) + load(sums + r * kLanes + j);
        store_part(to + r * ldy + j, f ? finish(*f, sum, row + r, column + j, n) : sum, n);
      }
    return;
  }
  if (first) for_tile(tile, [&](Vec<Real> &sum, size_t, size_t) { sum = zero<Real>() + sum; });
  else for_tile(tile, [&](Vec<Real> &sum, size_t r, size_t j) { sum = load(to + r * ldy + j) + sum; });
  if (f && f->addend) {
    const Real *addend = f->addend + row * f->lda + column;
    for_tile(tile, [&](Vec<Real> &sum, size_t r, size_t j) { sum = sum + load(addend + r * f->lda + j); });
  }
  if (f && f->b) for_tile(tile, [&](Vec<Real> &sum, size_t, size_t j) { sum = sum + load(f->b + column + j); });
  for_tile(tile, [&](Vec<Real> sum, size_t r, size_t j) { store(to + r * ldy + j, sum); });
  if (f && f->activation != CHAINRULE_IDENTITY)
    for (size_t r = 0; r < size_t(R); ++r)
      for (size_t j = 0; j < kLanes; j += kWidth)
        store(to + r * ldy + j, finish_activation(*f, load(to + r * ldy + j), row + r, column + j, int(kWidth)));
}

// The live inputs from `start` to `stop` of a panel of W, input k into row k - start of b [..][32], masked.
CHAINRULE_INLINE void copy_panel(const Linear &w, size_t panel, const Spans &spans, size_t start, size_t stop, Real *b) {
  for_spans(spans, start, stop, [&](size_t begin, size_t end) {
    for (size_t k = begin; k < end; ++k) {
      const Real *from = w.W + panel * w.panel + row_of(w, k) * w.ldw;
      Real *to = b + (k - start) * kPanel;
      const uint32_t live = spans.word(k);
      if (live == kAll) {
#pragma GCC unroll 4
        for (size_t j = 0; j < kPanel; j += kWidth) store(to + j, load(from + j));
      } else {
        for (size_t j = 0; j < kPanel; j += kWidth) store(to + j, load_live(from + j, live >> j));
      }
    }
  });
}

// The same of the transpose: the live outputs of W from `start` (a multiple of 32) to `stop` for the 32 inputs of
// `panel`. In blocks of 8 outputs (4 in double), then masked.
CHAINRULE_INLINE void copy_panel_transposed(const Linear &w, size_t panel, const Spans &spans, size_t start, size_t stop,
                                            Real *b) {
  constexpr size_t B = size_t(block_width<Real>);
  const size_t inputs = smaller(w.n_in - panel * kPanel, kPanel);
  const Real *row[kPanel];
  for (size_t j = 0; j < inputs; ++j) row[j] = w.W + row_of(w, panel * kPanel + j) * w.ldw;
  size_t copied = start;
  auto block = [&](size_t o) {
    const size_t at = o / kPanel * w.panel + o % kPanel;
    const size_t outputs = w.panel == kPanel && o + B > w.n_out ? w.n_out - o : B;  // that can be read
    Real *to = b + (o - start) * kPanel;
    size_t j = 0;
    if (outputs == B)
      for (; j + B <= inputs; j += B) transpose_block(row + j, at, to + j, kPanel);
    for (; j < kPanel; ++j)
      for (size_t i = 0; i < outputs; ++i) to[i * kPanel + j] = j < inputs ? row[j][at + i] : Real(0);
  };
  for_spans(spans, start, stop, [&](size_t begin, size_t end) {
    for (size_t o = larger(copied, begin / B * B); o < end; o += B) block(o), copied = o + B;
    for (size_t o = begin; o < end; ++o)
      if (const uint32_t live = spans.word(o); live != kAll)
        for (size_t j = 0; j < kPanel; j += kWidth) {
          Real *to = b + (o - start) * kPanel + j;
          store(to, load_live(to, live >> j));
        }
  });
}

// tile += x W over the inputs [from, to) of a panel, W read where it stands: every row at its own place.
template <int R>
CHAINRULE_INLINE void multiply_in_place(Tile<R> &tile, const Real *x, size_t ldx, const Linear &w, size_t panel,
                                        const Spans &spans, size_t from, size_t to, size_t lane) {
  const Real *b = w.W + panel * w.panel + lane;
  while (from < to) {
    size_t k = from;
    while (k < to && spans.word(k) == kAll) ++k;
    multiply<R, false>(tile, x + from, ldx, b + from * w.ldw, w.ldw, k - from);
    for (; k < to && spans.word(k) != kAll; ++k) {
      Real masked[kLanes];
      for (size_t j = 0; j < kLanes; j += kWidth)
        store(masked + j, load_live(b + k * w.ldw + j, spans.word(k) >> (lane + j)));
      multiply<R, false>(tile, x + k, ldx, masked, kLanes, 1);
    }
    from = k;
  }
}

// db of at most 32 columns of one chunk of rows: their sum is added to what is there, or starts it.
CHAINRULE_INLINE void bias_gradient(const Real *dy, size_t lddy, size_t rows, size_t columns, bool first, Real *db) {
  for (size_t j = 0; j < columns; j += kWidth) {
    const int n = lanes_at(j, columns);
    Vec<Real> sum = zero<Real>();
    for (size_t r = 0; r < rows; ++r) sum = sum + load_part(dy + r * lddy + j, n);
    store_part(db + j, first ? zero<Real>() + sum : load_part(db + j, n) + sum, n);
  }
}

// A gradient that is written whole has zeros where no weight is live: the first chunk of rows puts them down.
CHAINRULE_INLINE void clear_row(Real *row, uint32_t lanes) {
#pragma GCC unroll 4
  for (size_t j = 0; j < kPanel; j += kWidth) store_live(row + j, zero<Real>(), lanes >> j);
}
CHAINRULE_INLINE void clear_gaps(const Linear &w, size_t panel, const Spans &spans, size_t low, size_t high, Real *dW) {
  for_gaps(spans, low, high, [&](size_t k, size_t end) {
    for (; k < end; ++k) {
      if (k + kAhead < end) fetch(w, dW, panel, k + kAhead);
      clear_row(dW + panel * w.panel + row_of(w, k) * w.ldw, spans.lanes);
    }
  });
}

// Some columns of n rows, in a panel: to[row][32], zeros after them.
CHAINRULE_INLINE void copy_columns(const Real *from, size_t ld, size_t n, size_t columns, Real *to) {
  for (size_t r = 0; r < n; ++r)
    for (size_t j = 0; j < kPanel; j += kWidth) store(to + r * kPanel + j, load_part(from + r * ld + j, lanes_at(j, columns)));
}

// One chunk of rows of a panel of dW = x' dy, for the inputs [low, high), and of db where that is wanted: sums of the chunk
// are added to what is there, or start it. b: room for a copy of the panel of dy, [256][32].
CHAINRULE_INLINE void weight_gradient(const Linear &w, size_t panel, size_t low, size_t high, size_t rows, const Real *x,
                                      size_t ldx, const Real *dy, size_t lddy, bool first, Real *dW, Real *db, Real *b) {
  const size_t column = panel * kPanel, lanes = smaller(w.n_out - column, kPanel);
  const Spans spans = spans_of(w.mask, panel, w.n_in, lanes_of(panel, w.n_out));
  copy_columns(dy + column, lddy, rows, lanes, b);
  if (db) bias_gradient(b, kPanel, rows, lanes, first, db + column);
  const bool whole = first && w.whole;
  if (whole) clear_gaps(w, panel, spans, low, high, dW);
  for_spans(spans, low, high, [&](size_t from, size_t to) {
    for_row_tiles(to - from, [&]<int R>(size_t at) {
      const size_t k = from + at;
      for (size_t lane = 0; lane < lanes; lane += kLanes) {
        Tile<R> tile;
        clear(tile);
        if (w.rows && lane == 0)
          for (int r = 0; r < R; ++r) fetch(w, dW, panel, k + size_t(r));
        multiply<R, true>(tile, x + k, ldx, b + lane, kPanel, rows);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
          const uint32_t live = spans.word(k + size_t(r));
          Real *row = dW + panel * w.panel + row_of(w, k + size_t(r)) * w.ldw;
          if (whole && live != spans.lanes && lane == 0) clear_row(row, spans.lanes);
#pragma GCC unroll 2
          for (int v = 0; v < kV; ++v) {
            const size_t j = lane + size_t(v) * kWidth;
            Real *to_row = row + j;
            store_live(to_row, (first ? zero<Real>() : load_live(to_row, live >> j)) + tile.v[r][v], live >> j);
          }
        }
      }
    });
  });
}

// A panel's 32 sums of one row in registers, for inputs of ones: rows of W are added.
constexpr int kVectors = int(kPanel / kWidth);
struct Sums {
  Vec<Real> v[kVectors];
};
CHAINRULE_INLINE Sums no_sums() {
  Sums s;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) s.v[v] = zero<Real>();
  return s;
}
CHAINRULE_INLINE void add(Sums &s, const Real *row) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) s.v[v] = s.v[v] + load(row + size_t(v) * kWidth);
}
CHAINRULE_INLINE void add_live(Sums &s, const Real *row, uint32_t live) {
  if (live == kAll) return add(s, row);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) s.v[v] = s.v[v] + load_live(row + size_t(v) * kWidth, live >> (size_t(v) * kWidth));
}
CHAINRULE_INLINE void fold(Sums &whole, Sums &part) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) whole.v[v] = whole.v[v] + part.v[v];
  part = no_sums();
}

// The first place in index[0, n) whose unit is at least k.
CHAINRULE_INLINE size_t place_of(const uint32_t *index, size_t n, size_t k) {
  size_t low = 0;
  while (n) {
    const size_t half = n / 2;
    if (index[low + half] < k) low += half + 1, n -= half + 1;
    else n = half;
  }
  return low;
}

// The inputs before which every weight of a panel is live, from its first live one on.
CHAINRULE_INLINE size_t full_until(const Spans &spans) {
  size_t k = spans.first();
  if (spans.count)
    while (k < spans.end(0) && spans.word(k) == kAll) ++k;
  return k;
}

// part += the rows of W for the ones in [.., stop) from place i on; returns the place after them.
CHAINRULE_INLINE size_t add_ones(Sums &part, const Linear &w, size_t panel, const Spans &spans, size_t full, size_t stop,
                                 const uint32_t *index, size_t i, size_t count) {
  const Real *weights = w.W + panel * w.panel;
  const size_t plain = smaller(full, stop);
  for (; i < count && index[i] < plain; ++i) add(part, weights + row_of(w, index[i]) * w.ldw);
  for (; i < count && index[i] < stop; ++i) add_live(part, weights + row_of(w, index[i]) * w.ldw, spans.word(index[i]));
  return i;
}

}  // namespace
}  // namespace chainrule
