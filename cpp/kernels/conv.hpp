// Sums over several stretches of inputs, and activations that run in time: what causal convolutions share.
//
// A dilated causal convolution is a product whose inputs are the taps, one after the other, oldest first; each tap is a view
// of the same activations, shifted in time. So no copy of shifted inputs is ever made: a tile of rows (time steps, or
// streams that march together) meets each tap where it stands. The sums follow the rule of panels.hpp, k running over all
// taps: chunks of 256 at absolute k.
#pragma once
#include "panels.hpp"

namespace chainrule {
namespace {

constexpr size_t kHalf = kPanel / 2;  // a panel of gates: 16 units of the filter, then the same 16 of the gate

CHAINRULE_INLINE size_t gate_panels(size_t n_channels) { return (n_channels + kHalf - 1) / kHalf; }

// n inputs of R rows, and their 32 weights each: x[r ldx + k], W[32 k + j].
struct Segment {
  const Real *x;
  size_t ldx, n;
  const Real *W;
};

// The sums of a tile that begins at `lane` of its panel; what comes before the last chunk waits beside it.
template <int R> CHAINRULE_INLINE void multiply(Tile<R> &tile, const Segment *segments, size_t count, size_t lane) {
  Real whole[size_t(R) * kLanes];
  size_t k = 0;
  clear(tile);
  for (size_t s = 0; s < count; ++s) {
    const Segment &g = segments[s];
    for (size_t i = 0; i < g.n;) {
      if (k && k % kChunk == 0) put(tile, k == kChunk, nullptr, 0, 0, kLanes, whole, kLanes), clear(tile);
      const size_t n = smaller(g.n - i, kChunk - k % kChunk);
      multiply<R, false>(tile, g.x + i, g.ldx, g.W + i * kPanel + lane, kPanel, n);
      i += n, k += n;
    }
  }
  if (k > kChunk) for_tile(tile, [&](Vec<Real> &sum, size_t r, size_t j) { sum = load(whole + r * kLanes + j) + sum; });
  else for_tile(tile, [&](Vec<Real> &sum, size_t, size_t) { sum = zero<Real>() + sum; });
}

// R rows of one panel of outputs, finished: f's first row and out are those of the tile.
template <int R>
CHAINRULE_INLINE void multiply_to(const Segment *segments, size_t count, const Finish &f, size_t column, size_t n_out, Real *out, size_t ldo) {
  for (size_t lane = 0; lane < kPanel && column + lane < n_out; lane += kLanes) {
    Tile<R> tile;
    multiply(tile, segments, count, lane);
    put(tile, true, &f, 0, column + lane, n_out, out, ldo);
  }
}

// A panel of gates of R rows in halves, each in one piece; one row more, so that functions may go two rows at a time.
template <int R> struct Gates {
  static_assert(kR + 1 <= 13);
  Real half[2][(R + 1) * kHalf];
  CHAINRULE_INLINE Real *at(size_t row, size_t lane) { return half[lane / kHalf] + row * kHalf + lane % kHalf; }
};
// z becomes tanh(f) and sigmoid(g).
template <int R> CHAINRULE_INLINE void activate(Gates<R> &z) {
  if (R % 2)
    for (size_t j = 0; j < kHalf; ++j) z.half[0][size_t(R) * kHalf + j] = z.half[1][size_t(R) * kHalf + j] = Real(0);
  for (size_t j = 0; j < size_t(R) * kHalf; j += 2 * kWidth) {
    store(z.half[0] + j, tanh(load<Real, 2>(z.half[0] + j)));
    store(z.half[1] + j, sigmoid(load<Real, 2>(z.half[1] + j)));
  }
}
// z of R rows from their taps: (sums + context(row)) + b, where there is a context.
template <int R, class F>
CHAINRULE_INLINE void multiply_gates(const Segment *taps, size_t count, F &&context, const Real *b, Gates<R> &z) {
  for (size_t lane = 0; lane < kPanel; lane += kLanes) {
    Tile<R> tile;
    multiply(tile, taps, count, lane);
    if (context(0)) for_tile(tile, [&](Vec<Real> &sum, size_t r, size_t j) { sum = sum + load(context(r) + lane + j); });
    for_tile(tile, [&](Vec<Real> sum, size_t r, size_t j) { store(z.at(r, lane + j), sum + load(b + lane + j)); });
  }
}

// Asks for n Reals some time before they are read.
CHAINRULE_INLINE void ask(const Real *from, size_t n) {
  for (size_t j = 0; j < n; j += 64 / sizeof(Real)) __builtin_prefetch(from + j);
}

// The first n_in inputs of the transpose of a matrix in panels, in panels of 32 inputs: to[panel][n_out][32].
CHAINRULE_INLINE void transpose_panels(const Real *W, size_t panel_size, size_t n_in, size_t n_out, Real *to) {
  const Linear w = {n_in, n_out, W, kPanel, panel_size, nullptr, nullptr, nullptr, 0, 0};
  for (size_t p = 0; p < panels_in(n_in); ++p)
    copy_panel_transposed(w, p, spans_of(nullptr, p, n_out, kAll), 0, n_out, to + p * n_out * kPanel);
}

// Time steps in tiles of at most 96, whole tiles to a thread.
constexpr size_t kSteps = 96;
constexpr size_t kMaxWidth = CHAINRULE_MAX_TAPS;
CHAINRULE_INLINE size_t tiles_in(size_t n_steps) { return (n_steps + kSteps - 1) / kSteps; }

// f(row, first step, steps, worker) over tiles of steps.
template <class F>
chainrule_status for_tiles(const chainrule_exec *exec, int threads, size_t n_rows, size_t n_steps, F &&f) {
  const size_t tiles = tiles_in(n_steps);
  return for_each(exec, threads, n_rows * tiles, 1, [&](size_t piece, size_t, int worker) {
    const size_t row = piece / tiles, tile = piece % tiles;
    const size_t from = n_steps * tile / tiles, to = n_steps * (tile + 1) / tiles;
    f(row, from, to - from, worker);
  });
}

CHAINRULE_INLINE double conv_work(const Conv &c, size_t n_rows, size_t n_steps) {
  return double(c.linear.n_in) * double(c.linear.n_out) * double(n_rows) * double(n_steps);
}

// dx of a convolution: dx_t = sum_k dy_{t - k d} W_k', and the addend for the steps after the history. Where start is given and
// start[row] > 0, outputs before it do not exist, nor do inputs as early: their dx is left as it is.
struct InputGradient {
  const Conv *conv;
  const Real *transposed;  // as transpose_taps leaves it
  size_t n_steps;          // of dy
  const uint32_t *start;
  const Sequences *dy, *addend, *dx;
};
// The taps' transposed panels, one after the other, and their size.
CHAINRULE_INLINE size_t transposed_size(const Conv &c) {
  return c.width * panels_in(c.linear.n_in / c.width) * c.linear.n_out * kPanel + 8 * kPanel;  // copied in blocks of 8 outputs
}
CHAINRULE_INLINE void transpose_taps(const Conv &c, Real *to) {
  const size_t channels = c.linear.n_in / c.width, size = panels_in(channels) * c.linear.n_out * kPanel;
  for (size_t k = 0; k < c.width; ++k)
    transpose_panels(c.linear.W + k * channels * kPanel, c.linear.panel, channels, c.linear.n_out, to + k * size);
}

// dx of the steps [from, to) of a row.
inline void input_gradient_of(const InputGradient &g, size_t row, size_t from, size_t to) {
  const Linear &w = g.conv->linear;
  const Sequences *dy = g.dy, *addend = g.addend, *dx = g.dx;
  const size_t width = g.conv->width, d = g.conv->dilation, channels = w.n_in / width, history = (width - 1) * d;
  const size_t panels = panels_in(channels), size = panels * w.n_out * kPanel;
  const size_t none = g.start && g.start[row] ? g.start[row] + history : 0;
  for (size_t low = larger(from, none); low < to;) {
    // Up to the next step at which a tap begins or ends to have an output, the taps are the same.
    size_t stop = to, count = 0, tap[kMaxWidth];
    for (size_t k = 0; k < width; ++k) {
      const size_t begins = k * d, ends = k * d + g.n_steps;
      if (begins > low) stop = smaller(stop, begins);
      else if (ends > low) tap[count++] = k, stop = smaller(stop, ends);
    }
    if (addend && low < history) stop = smaller(stop, history);
    for (size_t p = 0; p < panels; ++p)
      for_row_tiles(stop - low, [&]<int R>(size_t at) {
        Segment taps[kMaxWidth];
        for (size_t i = 0; i < count; ++i)
          taps[i] = {dy->data + row * dy->row + (low + at - tap[i] * d) * dy->ld, dy->ld, w.n_out,
                     g.transposed + tap[i] * size + p * w.n_out * kPanel};
        const size_t step = low + at;
        const bool added = addend && low >= history;
        const Finish f = {added ? addend->data + row * addend->row + (step - history) * addend->ld : nullptr, added ? addend->ld : 0, nullptr, CHAINRULE_IDENTITY, nullptr, 0};
        multiply_to<R>(taps, count, f, p * kPanel, channels, dx->data + row * dx->row + step * dx->ld, dx->ld);
      });
    low = stop;
  }
}

}  // namespace
}  // namespace chainrule
