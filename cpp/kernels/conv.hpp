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

// The sums of R rows of a panel, in halves: element (row r, lane j) stands at place(R, r, j). One row more than R, so that
// elementwise work may go two rows at a time.
template <int R> struct PanelSums {
  static_assert(kR + 1 <= 13);
  Real v[2][(R + 1) * kHalf];
  CHAINRULE_INLINE Real *at(size_t row, size_t lane) { return v[lane / kHalf] + row * kHalf + lane % kHalf; }
};

template <int R> CHAINRULE_INLINE void multiply(PanelSums<R> &sums, const Segment *segments, size_t count) {
  for (size_t lane = 0; lane < kPanel; lane += kLanes) {
    Tile<R> tile;
    clear(tile);
    size_t k = 0;
    bool first = true;
    auto add = [&] {
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) {
          Real *to = sums.at(size_t(r), lane + size_t(v) * kWidth);
          store(to, (first ? zero<Real>() : load(to)) + tile.v[r][v]);
        }
      first = false;
    };
    for (size_t s = 0; s < count; ++s) {
      const Segment &g = segments[s];
      for (size_t i = 0; i < g.n;) {
        if (k && k % kChunk == 0) add(), clear(tile);
        const size_t n = smaller(g.n - i, kChunk - k % kChunk);
        multiply<R, false>(tile, g.x + i, g.ldx, g.W + i * kPanel + lane, kPanel, n);
        i += n, k += n;
      }
    }
    add();
  }
}

// The first n_in inputs of the transpose of a matrix in panels, in panels of 32 inputs: to[panel][n_out][32].
CHAINRULE_INLINE void transpose_panels(const Real *W, size_t panel_size, size_t n_in, size_t n_out, Real *to) {
  const Linear w = {n_in, n_out, W, kPanel, panel_size, nullptr, nullptr};
  for (size_t p = 0; p < panels_in(n_in); ++p)
    copy_panel_transposed(w, p, spans_of(nullptr, p, n_out, kAll), 0, n_out, to + p * n_out * kPanel);
}

// Time steps in tiles, whole tiles to a thread.
constexpr size_t kSteps = 96;
CHAINRULE_INLINE size_t tiles_in(size_t n_steps) { return (n_steps + kSteps - 1) / kSteps; }

}  // namespace
}  // namespace chainrule
