// The block of WaveNet (van den Oord et al. 2016, section 2.3), forwards and backwards, fused over tiles of time.
//
//   z_t = (sum_k x_{t + k d} W_k + a_t) + b            the filter's half f and the gate's half g
//   u_t = tanh(f_t) sigmoid(g_t)
//   y_t = (u_t W_r + x_{t + H}) + b_r                  residual, H = (width - 1) d; the last block has none
//   skip_t = (u_t W_s + skip_t) + b_s                  of the last n_skip_steps steps
//
// x: [n_rows][H + n_steps][channels], y: [n_rows][n_steps][channels], skip: [n_rows][n_skip_steps][n_skip]. W in panels of
// gates: 16 units of the filter beside the same 16 of the gate, so that a tile has both halves and gates them at once. a is
// a context by frames: row (t + phase) / hop of frames of each sequence; one frame is a context for the whole of it.
// y and gates of steps before start[row] are zero: what lies before a sequence is zero in the features of every layer.
//
// A tile of 96 steps passes through the whole block: u never leaves the cache. Cost a step: (2 width + 1) channels^2 +
// channels x n_skip multiply-adds and 2 channels transcendentals; twice the multiply-adds backwards. Backwards, tanh(f) and
// sigmoid(g) are read from `gates` and replaced by dz there; chunks of 1024 steps go through dz and the gradients of all
// weights while they are in cache, then dx is one convolution backwards.
#include "conv.hpp"

namespace chainrule {
namespace {

constexpr size_t kStretch = 4 * kChunk;  // steps between the two phases of the backward pass

struct Shape {
  size_t channels, panels, units, history;  // panels of gates; units: channels padded to whole panels
};
CHAINRULE_INLINE Shape shape_of(const GatedBlock &block) {
  const size_t panels = gate_panels(block.n_channels);
  return {block.n_channels, panels, panels * kHalf, (block.width - 1) * block.dilation};
}
CHAINRULE_INLINE Real *step_of(const Sequences *s, size_t row, size_t step) { return s->data + row * s->row + step * s->ld; }
CHAINRULE_INLINE double work(const GatedBlock &block, size_t n_rows, size_t n_steps) {
  const double c = double(block.n_channels);
  return double(n_rows) * double(n_steps) * c * (c * double(2 * block.width + 1) + double(block.n_skip) + 40);
}

// z of R steps of a panel of gates, from the sums: the addend of each step, then the bias.
template <int R>
CHAINRULE_INLINE void add_context(PanelSums<R> &z, const GatedBlock &block, const Frames *frames, size_t row, size_t step, size_t panel) {
  for (int r = 0; r < R; ++r) {
    const Real *a = frames ? frames->data + row * frames->row + (step + size_t(r) + frames->phase) / frames->hop * frames->ld + panel * kPanel : nullptr;
    for (size_t j = 0; j < kPanel; j += kWidth) {
      Real *at = z.at(size_t(r), j);
      Vec<Real> sum = load(at);
      if (a) sum = sum + load(a + j);
      store(at, sum + load(block.b + panel * kPanel + j));
    }
  }
}

// Both halves become tanh(f) and sigmoid(g).
template <int R> CHAINRULE_INLINE void activate_halves(PanelSums<R> &z) {
  for (size_t j = 0; j < size_t(R) * kHalf; j += 2 * kWidth) {
    store(z.v[0] + j, tanh(load<Real, 2>(z.v[0] + j)));
    store(z.v[1] + j, sigmoid(load<Real, 2>(z.v[1] + j)));
  }
}

CHAINRULE_INLINE void zero_steps(const Sequences *s, size_t row, size_t from, size_t to, size_t columns) {
  for (size_t t = from; t < to; ++t)
    for (size_t j = 0; j < columns; ++j) step_of(s, row, t)[j] = Real(0);
}

// ((u W + addend) + b) for R steps of all outputs; addend and out [R][..].
template <int R>
CHAINRULE_INLINE void outputs(const Real *u, size_t units, size_t channels, const Real *W, const Real *b, size_t n_out,
                              const Real *addend, size_t lda, Real *out, size_t ldo) {
  for (size_t column = 0; column < n_out; column += kPanel) {
    const Segment input = {u, units, channels, W + column * channels};
    PanelSums<R> sums;
    multiply(sums, &input, 1);
    for (int r = 0; r < R; ++r)
      for (size_t j = 0; j < kPanel && column + j < n_out; j += kWidth) {
        const int n = lanes_at(column + j, n_out);
        Vec<Real> sum = load(sums.at(size_t(r), j));
        if (addend) sum = sum + load_part(addend + size_t(r) * lda + column + j, n);
        store_part(out + size_t(r) * ldo + column + j, sum + load_part(b + column + j, n), n);
      }
  }
}

}  // namespace

CHAINRULE_KERNEL(gated_block)(const GatedBlock *block, size_t n_rows, size_t n_steps, size_t n_skip_steps,
                              const uint32_t *start, const Sequences *x, const Frames *frames, const Sequences *y,
                              const Sequences *skip, int32_t first, const Sequences *gates, const chainrule_exec *exec) {
  const Shape s = shape_of(*block);
  const size_t tiles = tiles_in(n_steps), skip_from = n_steps - n_skip_steps;
  const int threads = plan_threads(exec, n_rows * tiles, work(*block, n_rows, n_steps));
  Real *memory = static_cast<Real *>(arena(size_t(threads) * kSteps * s.units * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, n_rows * tiles, 1, [&](size_t piece, size_t, int worker) {
    Real *u = memory + size_t(worker) * kSteps * s.units;
    const size_t row = piece / tiles, tile = piece % tiles;
    const size_t begin = n_steps * tile / tiles, end = n_steps * (tile + 1) / tiles;
    const size_t from = start ? smaller(larger(begin, start[row]), end) : begin;
    if (y) zero_steps(y, row, begin, from, s.channels);
    if (gates) zero_steps(gates, row, begin, from, s.panels * kPanel);
    if (skip && first && begin < from) zero_steps(skip, row, larger(begin, skip_from) - skip_from, larger(from, skip_from) - skip_from, block->n_skip);
    for (size_t panel = 0; panel < s.panels; ++panel)
      for_row_tiles(end - from, [&]<int R>(size_t at) {
        Segment taps[kMaxWidth];
        const Real *W = block->W + panel * block->width * s.channels * kPanel;
        for (size_t k = 0; k < block->width; ++k)
          taps[k] = {step_of(x, row, from + at + k * block->dilation), x->ld, s.channels, W + k * s.channels * kPanel};
        PanelSums<R> z;
        multiply(z, taps, block->width);
        add_context(z, *block, frames, row, from + at, panel);
        if (R % 2)
          for (size_t j = 0; j < kHalf; ++j) z.v[0][size_t(R) * kHalf + j] = z.v[1][size_t(R) * kHalf + j] = Real(0);
        activate_halves(z);
        for (size_t r = 0; r < size_t(R); ++r)
          for (size_t j = 0; j < kHalf; j += kWidth) {
            const Vec<Real> f = load(z.at(r, j)), g = load(z.at(r, kHalf + j));
            store(u + (at + r) * s.units + panel * kHalf + j, f * g);
            if (gates) {
              Real *to = step_of(gates, row, from + at + r) + panel * kPanel + j;
              store(to, f), store(to + kHalf, g);
            }
          }
      });
    if (y)
      for_row_tiles(end - from, [&]<int R>(size_t at) {
        outputs<R>(u + at * s.units, s.units, s.channels, block->residual, block->residual_bias, s.channels,
                   step_of(x, row, from + at + s.history), x->ld, step_of(y, row, from + at), y->ld);
      });
    if (skip && end > skip_from) {
      const size_t low = larger(from, skip_from);
      for_row_tiles(end - low, [&]<int R>(size_t at) {
        Real *to = step_of(skip, row, low + at - skip_from);
        outputs<R>(u + (low - from + at) * s.units, s.units, s.channels, block->skip, block->skip_bias, block->n_skip,
                   first ? nullptr : to, skip->ld, to, skip->ld);
      });
    }
  });
}

CHAINRULE_KERNEL(gated_block_gradient)(const GatedBlock *block, size_t n_rows, size_t n_steps, size_t n_skip_steps,
                                       const uint32_t *start, const Sequences *x, const Sequences *gates, const Sequences *dy,
                                       const Sequences *dskip, const GatedBlockGradient *gradient, const Frames *dframes,
                                       const Sequences *dx, const chainrule_exec *exec) {
  const Shape s = shape_of(*block);
  const size_t skip_from = n_steps - n_skip_steps, z_panels = panels_in(s.units);  // panels of 32 units: two of gates
  const size_t residual_size = s.channels * kPanel, skip_size = block->n_skip * kPanel;
  const size_t most_steps = smaller(n_steps, kStretch);
  const double cost = 2 * work(*block, n_rows, n_steps);
  const size_t r_panels = dy ? panels_in(s.channels) : 0, s_panels = panels_in(block->n_skip);
  const size_t pieces = s.panels * block->width + r_panels + s_panels;
  const int threads = plan_threads(exec, larger(n_rows * tiles_in(n_steps), pieces), cost);
  Real *memory = static_cast<Real *>(arena(
      (z_panels * (residual_size + skip_size) + most_steps * s.units + size_t(threads) * kChunk * kPanel) * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  Real *residual = memory, *skips = residual + z_panels * residual_size, *u = skips + z_panels * skip_size,
       *copies = u + most_steps * s.units;
  if (dy) transpose_panels(block->residual, s.channels * kPanel, s.channels, s.channels, residual);
  transpose_panels(block->skip, s.channels * kPanel, s.channels, block->n_skip, skips);

  // Sums over steps are added to what is there, so they start from zero.
  auto clear_panels = [](Real *to, size_t n) { for (size_t i = 0; to && i < n; ++i) to[i] = Real(0); };
  clear_panels(gradient->W, s.panels * block->width * residual_size), clear_panels(gradient->b, s.panels * kPanel);
  clear_panels(gradient->residual, r_panels * residual_size), clear_panels(gradient->residual_bias, dy ? s.channels : 0);
  clear_panels(gradient->skip, s_panels * residual_size), clear_panels(gradient->skip_bias, block->n_skip);

  for (size_t row = 0; row < n_rows; ++row)
    for (size_t low = start ? start[row] / kStretch * kStretch : 0; low < n_steps; low += kStretch) {
      const size_t high = smaller(low + kStretch, n_steps);
      const size_t tiles = (tiles_in(high - low) + size_t(threads) - 1) / size_t(threads) * size_t(threads);  // as many for each
      // dz where the gates were, and u.
      chainrule_status status = for_each(exec, threads, tiles, 1, [&](size_t tile, size_t, int) {
        const size_t begin = low + (high - low) * tile / tiles, end = low + (high - low) * (tile + 1) / tiles;
        const size_t from = start ? smaller(larger(begin, start[row]), end) : begin;
        for (size_t i = (begin - low) * s.units; i < (from - low) * s.units; ++i) u[i] = Real(0);
        const size_t middle = smaller(larger(from, skip_from), end);  // from here on there are skips
        for (size_t p = 0; p < z_panels; ++p) {
          auto steps = [&]<int R>(size_t at, bool skipped) {
            Segment segments[2];
            size_t count = 0;
            if (dy) segments[count++] = {step_of(dy, row, at), dy->ld, s.channels, residual + p * residual_size};
            if (skipped) segments[count++] = {step_of(dskip, row, at - skip_from), dskip->ld, block->n_skip, skips + p * skip_size};
            PanelSums<R> du;
            multiply(du, segments, count);
            for (size_t r = 0; r < size_t(R); ++r)
              for (size_t j = 0; j < kPanel && p * kPanel + j < s.units; j += kWidth) {
                Real *gate = step_of(gates, row, at + r) + (2 * p + j / kHalf) * kPanel + j % kHalf;
                const Vec<Real> f = load(gate), g = load(gate + kHalf), d = load(du.at(r, j)), fg = f * g;
                store(u + (at + r - low) * s.units + p * kPanel + j, fg);
                store(gate, d * g * fma(-f, f, set1(Real(1))));
                store(gate + kHalf, d * fma(-fg, g, fg));
              }
          };
          for_row_tiles(middle - from, [&]<int R>(size_t at) { steps.template operator()<R>(from + at, false); });
          for_row_tiles(end - middle, [&]<int R>(size_t at) { steps.template operator()<R>(middle + at, true); });
        }
      });
      if (status != CHAINRULE_OK) return status;
      // Every weight's gradient: a panel of W and a tap, a panel of the residual, or one of the skip.
      status = for_each(exec, threads, pieces, 1, [&](size_t piece, size_t, int worker) {
        Real *copy = copies + size_t(worker) * kChunk * kPanel;
        for (size_t t = low; t < high; t += kChunk) {
          const size_t n = smaller(high - t, kChunk);
          if (start && t + n <= start[row]) continue;
          if (piece < s.panels * block->width) {
            const size_t panel = piece / block->width, tap = piece % block->width;
            const Linear w = {s.channels, s.panels * kPanel, nullptr, kPanel, block->width * residual_size, nullptr, nullptr, nullptr, 0, 0};
            weight_gradient(w, panel, 0, s.channels, n, step_of(x, row, t + tap * block->dilation), x->ld, step_of(gates, row, t), gates->ld,
                            false, gradient->W + tap * residual_size, tap ? nullptr : gradient->b, copy);
            continue;
          }
          // Of the outputs, those of steps that exist.
          const bool of_residual = piece < s.panels * block->width + r_panels;
          const size_t exist = start ? larger(t, start[row]) : t, since = of_residual ? exist : larger(exist, skip_from);
          if (since >= t + n) continue;
          const Real *input = u + (since - low) * s.units;
          const Linear w = {s.channels, of_residual ? s.channels : block->n_skip, nullptr, kPanel, residual_size, nullptr, nullptr, nullptr, 0, 0};
          if (of_residual)
            weight_gradient(w, piece - s.panels * block->width, 0, s.channels, t + n - since, input, s.units, step_of(dy, row, since), dy->ld,
                            false, gradient->residual, gradient->residual_bias, copy);
          else
            weight_gradient(w, piece - s.panels * block->width - r_panels, 0, s.channels, t + n - since, input, s.units,
                            step_of(dskip, row, since - skip_from), dskip->ld, false, gradient->skip, gradient->skip_bias, copy);
        }
      });
      if (status != CHAINRULE_OK) return status;
    }

  if (dframes) {  // the steps of a frame, one after the other
    const size_t frames = (n_steps - 1 + dframes->phase) / dframes->hop + 1;
    const chainrule_status status = for_each(exec, threads, n_rows * frames, 1, [&](size_t piece, size_t, int) {
      const size_t row = piece / frames, frame = piece % frames, first_step = frame * dframes->hop;
      const size_t from = first_step > dframes->phase ? first_step - dframes->phase : 0;
      const size_t to = smaller(first_step + dframes->hop - dframes->phase, n_steps);
      for (size_t j = 0; j < s.panels * kPanel; j += kWidth) {
        Vec<Real> whole = zero<Real>();
        for (size_t t = from; t < to; t += kChunk) {
          Vec<Real> part = zero<Real>();
          for (size_t i = t; i < to && i < t + kChunk; ++i) part = part + load(step_of(gates, row, i) + j);
          whole = whole + part;
        }
        store(dframes->data + row * dframes->row + frame * dframes->ld + j, whole);
      }
    });
    if (status != CHAINRULE_OK) return status;
  }
  if (!dx) return CHAINRULE_OK;
  const Conv conv = {{block->width * s.channels, s.panels * kPanel, block->W, kPanel, block->width * residual_size, nullptr, nullptr, nullptr, 0, 0}, block->width, block->dilation};
  return input_gradient(&conv, n_rows, n_steps, start, gates, dy, dx, exec);
}

}  // namespace chainrule
