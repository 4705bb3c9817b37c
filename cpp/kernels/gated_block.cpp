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
// sigmoid(g) are read from `gates` and replaced by dz there; a chunk of 256 steps goes through dz, the sums of all weights and
// dx on one thread, while it is in that core's cache. The sums of a chunk are added to the gradients where all chunks before are
// there, and wait elsewhere for the others' (28 K for 64 channels and 128 skips); dx that needs another thread's dz comes after.
#include "conv.hpp"

namespace chainrule {
namespace {

constexpr size_t kWindow = 24;    // chunks that a thread takes before sums are merged
constexpr size_t kQuarters = 4;  // of a chunk whose dx is left for later

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

CHAINRULE_INLINE void zero_steps(const Sequences *s, size_t row, size_t from, size_t to, size_t columns) {
  for (size_t t = from; t < to; ++t)
    for (size_t j = 0; j < columns; j += kWidth) store_part(step_of(s, row, t) + j, zero<Real>(), lanes_at(j, columns));
}

// ((u W + addend) + b) for R steps of all outputs; addend and out [R][..].
template <int R>
CHAINRULE_INLINE void outputs(const Real *u, size_t units, size_t channels, const Real *W, const Real *b, size_t n_out,
                              const Real *addend, size_t lda, Real *out, size_t ldo) {
  const Finish f = {addend, lda, b, CHAINRULE_IDENTITY, nullptr, 0};
  for (size_t column = 0; column < n_out; column += kPanel) {
    const Segment input = {u, units, channels, W + column * channels};
    multiply_to<R>(&input, 1, f, column, n_out, out, ldo);
  }
}

// A chunk of steps of a row; dx of [begin, left) waits for dz of other chunks.
struct Chunk {
  size_t row, begin, end, left;
};
// Chunks that a worker took one after the other, the last of them before `next`.
struct Run {
  size_t first, next;
};
// A gradient of n Reals, whose place in the sums of a chunk is `at`.
struct Part {
  Real *to;
  size_t n, at;
};
// The sums of x' dy over n rows of a chunk, dy in a panel with `lanes` columns: put down whole, or added.
CHAINRULE_INLINE void chunk_sums(const Real *x, size_t ldx, size_t n_in, const Real *dy, size_t n, size_t lanes, bool whole, Real *to) {
  for_row_tiles(n_in, [&]<int R>(size_t k) {
    for (size_t r = 0; whole && lanes < kPanel && r < size_t(R); ++r) clear_row(to + (k + r) * kPanel, kAll);
    for (size_t lane = 0; lane < lanes; lane += kLanes) {
      Tile<R> tile;
      clear(tile);
      multiply<R, true>(tile, x + k, ldx, dy + lane, kPanel, n);
      put(tile, whole, nullptr, k, lane, lanes, to, kPanel);
    }
  });
}

}  // namespace

CHAINRULE_KERNEL(gated_block)(const GatedBlock *block, size_t n_rows, size_t n_steps, size_t n_skip_steps,
                              const uint32_t *start, const Sequences *x, const Frames *frames, const Sequences *y,
                              const Sequences *skip, int32_t first, const Sequences *gates, const chainrule_exec *exec) {
  const Shape s = shape_of(*block);
  const size_t skip_from = n_steps - n_skip_steps;
  size_t most = start ? 0 : n_steps;  // steps that exist
  for (size_t row = 0; start && row < n_rows; ++row) most = larger(most, n_steps - smaller(start[row], n_steps));
  const size_t tiles = larger(tiles_in(most), 1);
  const int threads = plan_threads(exec, n_rows * tiles, work(*block, n_rows, n_steps));
  Real *memory = static_cast<Real *>(arena(size_t(threads) * kSteps * s.units * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, n_rows * tiles, 1, [&](size_t piece, size_t, int worker) {
    Real *u = memory + size_t(worker) * kSteps * s.units;
    const size_t row = piece / tiles, tile = piece % tiles, absent = start ? smaller(start[row], n_steps) : 0;
    const size_t from = absent + (n_steps - absent) * tile / tiles, end = absent + (n_steps - absent) * (tile + 1) / tiles;
    if (absent) {  // a share of the steps that do not exist
      const size_t begin = absent * tile / tiles, stop = absent * (tile + 1) / tiles;
      if (y) zero_steps(y, row, begin, stop, s.channels);
      if (gates) zero_steps(gates, row, begin, stop, s.panels * kPanel);
      if (skip && first) zero_steps(skip, row, larger(begin, skip_from) - skip_from, larger(stop, skip_from) - skip_from, block->n_skip);
    }
    for (size_t panel = 0; panel < s.panels; ++panel)
      for_row_tiles(end - from, [&]<int R>(size_t at) {
        Segment taps[kMaxWidth];
        const Real *W = block->W + panel * block->width * s.channels * kPanel;
        for (size_t k = 0; k < block->width; ++k)
          taps[k] = {step_of(x, row, from + at + k * block->dilation), x->ld, s.channels, W + k * s.channels * kPanel};
        for (size_t t = from + at; t < from + at + size_t(R); ++t) {  // a share of what comes next
          const size_t n = s.channels / s.panels, n_skip = block->n_skip / s.panels;
          ask(step_of(x, row, smaller(t + kSteps, n_steps - 1) + s.history) + panel * n, n);
          if (skip && !first && t >= skip_from) ask(step_of(skip, row, t - skip_from) + panel * n_skip, n_skip);
        }
        auto context = [&](size_t r) -> const Real * {
          return frames ? frames->data + row * frames->row + (from + at + r + frames->phase) / frames->hop * frames->ld + panel * kPanel : nullptr;
        };
        Gates<R> z;
        multiply_gates(taps, block->width, context, block->b + panel * kPanel, z);
        activate(z);
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
  const size_t r_panels = dy ? panels_in(s.channels) : 0, s_panels = panels_in(block->n_skip);
  const size_t residual_size = s.channels * kPanel, skip_size = block->n_skip * kPanel, tap_panels = s.panels * block->width;
  const Conv conv = {{block->width * s.channels, s.panels * kPanel, block->W, kPanel, block->width * residual_size, nullptr, nullptr, nullptr, 0, 0}, block->width, block->dilation};
  auto start_of = [&](size_t row) { return start ? size_t(start[row]) : 0; };
  auto chunks_of = [&](size_t row) {  // that have a step which exists
    return start_of(row) < n_steps ? (n_steps - 1) / kChunk + 1 - start_of(row) / kChunk : 0;
  };
  size_t chunks = 0;
  for (size_t row = 0; row < n_rows; ++row) chunks += chunks_of(row);
  const int threads = plan_threads(exec, chunks, 2 * work(*block, n_rows, n_steps));
  const size_t windows = (chunks + size_t(threads) * kWindow - 1) / (size_t(threads) * kWindow);
  const size_t most = windows ? (chunks + windows - 1) / windows : 0;  // chunks of a window

  // The gradients of all parameters, and their places in the sums of a chunk.
  Part parts[] = {{gradient->W, tap_panels * residual_size, 0},
                  {gradient->b, s.panels * kPanel, 0},
                  {gradient->residual, r_panels * residual_size, 0},
                  {gradient->residual_bias, dy ? s.channels : 0, 0},
                  {gradient->skip, s_panels * residual_size, 0},
                  {gradient->skip_bias, block->n_skip, 0}};
  size_t sums_size = 0;
  for (Part &part : parts) {
    part.at = sums_size, sums_size += padded(part.n);
    for (size_t i = 0; i < part.n; ++i) part.to[i] = Real(0);  // sums over steps are added to what is there
  }

  const size_t transposed = z_panels * (residual_size + skip_size), of_worker = kChunk * (s.units + kPanel);
  const size_t reals = transposed + transposed_size(conv) + size_t(threads) * of_worker + (threads > 1 ? most * sums_size : 0);
  Real *memory = static_cast<Real *>(arena(reals * sizeof(Real) + most * sizeof(Chunk) + size_t(threads) * sizeof(Run)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  Real *residual = memory, *skips = residual + z_panels * residual_size, *taps = memory + transposed,
       *own = taps + transposed_size(conv), *sums = own + size_t(threads) * of_worker;
  Chunk *window = reinterpret_cast<Chunk *>(memory + reals);
  Run *runs = reinterpret_cast<Run *>(window + most);  // of each worker
  if (dy) transpose_panels(block->residual, s.channels * kPanel, s.channels, s.channels, residual);
  transpose_panels(block->skip, s.channels * kPanel, s.channels, block->n_skip, skips);
  if (dx) transpose_taps(conv, taps);
  const InputGradient back = {&conv, taps, n_steps, start, gates, dy, dx};

  // dz of some steps where the gates were, and u of them.
  auto gates_back = [&](size_t row, size_t from, size_t end, Real *u) {
    const size_t middle = smaller(larger(from, skip_from), end);  // from here on there are skips
    for (size_t p = 0; p < z_panels; ++p) {
      auto steps = [&]<int R>(size_t at, bool skipped) {
        Segment segments[2];
        size_t count = 0;
        if (dy) segments[count++] = {step_of(dy, row, at), dy->ld, s.channels, residual + p * residual_size};
        if (skipped) segments[count++] = {step_of(dskip, row, at - skip_from), dskip->ld, block->n_skip, skips + p * skip_size};
        for (size_t next = at + size_t(R); next < smaller(at + 2 * size_t(R), end); ++next) {
          ask(step_of(gates, row, next) + 2 * p * kPanel, 2 * kPanel);
          if (p) continue;
          if (dy) ask(step_of(dy, row, next), s.channels);
          if (skipped) ask(step_of(dskip, row, next - skip_from), block->n_skip);
          for (size_t k = 0; k < block->width; ++k) ask(step_of(x, row, next + k * block->dilation), s.channels);
        }
        for (size_t lane = 0; lane < kPanel && p * kPanel + lane < s.units; lane += kLanes) {
          Tile<R> du;
          multiply(du, segments, count, lane);
          for_tile(du, [&](Vec<Real> d, size_t r, size_t j) {
            const size_t unit = p * kPanel + lane + j;
            if (unit >= s.units) return;
            Real *gate = step_of(gates, row, at + r) + unit / kHalf * kPanel + unit % kHalf;
            const Vec<Real> f = load(gate), g = load(gate + kHalf), fg = f * g;
            store(u + (at + r - from) * s.units + unit, fg);
            store(gate, d * g * fma(-f, f, set1(Real(1))));
            store(gate + kHalf, d * fma(-fg, g, fg));
          });
        }
      };
      for_row_tiles(middle - from, [&]<int R>(size_t at) { steps.template operator()<R>(from + at, false); });
      for_row_tiles(end - middle, [&]<int R>(size_t at) { steps.template operator()<R>(middle + at, true); });
    }
  };
  // A chunk's sums: added to the gradients, or put down in `apart`. u: of the steps that exist, from `from` on.
  auto weights_back = [&](size_t row, size_t begin, size_t from, size_t end, const Real *u, Real *copy, Real *apart) {
    auto place = [&](const Part &part) { return apart ? apart + part.at : part.to; };
    for (size_t panel = 0; panel < s.panels; ++panel) {
      copy_columns(step_of(gates, row, begin) + panel * kPanel, gates->ld, end - begin, kPanel, copy);
      bias_gradient(copy, kPanel, end - begin, kPanel, apart, place(parts[1]) + panel * kPanel);
      for (size_t k = 0; k < block->width; ++k)
        chunk_sums(step_of(x, row, begin + k * block->dilation), x->ld, s.channels, copy, end - begin, kPanel, apart,
                   place(parts[0]) + (panel * block->width + k) * residual_size);
    }
    auto outputs_back = [&](const Sequences *d, size_t n_out, size_t since, size_t before, const Part *part) {
      const size_t n = since < end ? end - since : 0;
      for (size_t column = 0; column < n_out; column += kPanel) {
        const size_t lanes = smaller(n_out - column, kPanel);
        if (n) copy_columns(step_of(d, row, since - before) + column, d->ld, n, lanes, copy);
        bias_gradient(copy, kPanel, n, lanes, apart, place(part[1]) + column);
        chunk_sums(u + (since - from) * s.units, s.units, s.channels, copy, n, lanes, apart, place(part[0]) + column / kPanel * residual_size);
      }
    };
    if (dy) outputs_back(dy, s.channels, from, 0, parts + 2);
    outputs_back(dskip, block->n_skip, larger(from, skip_from), skip_from, parts + 4);
  };

  size_t row = 0, chunk = 0;  // the next one: chunk `chunk` of those of `row`
  for (size_t w = 0; w < windows; ++w) {
    const size_t n = chunks * (w + 1) / windows - chunks * w / windows;
    for (size_t i = 0; i < n; ++i, ++chunk) {
      for (; chunk == chunks_of(row); chunk = 0) ++row;
      const size_t begin = (start_of(row) / kChunk + chunk) * kChunk;
      window[i] = {row, begin, smaller(begin + kChunk, n_steps), begin};
    }
    for (int worker = 0; worker < threads; ++worker) runs[worker] = {n, n};
    size_t added = 0;  // chunks whose sums are in the gradients: those of the run that began with the first
    // A worker takes chunks in runs: dz, the weights' sums, and the dx that needs no dz of other runs.
    chainrule_status status = for_each(exec, threads, n, 1, [&](size_t i, size_t, int worker) {
      Chunk &c = window[i];
      Run &run = runs[worker];
      if (run.next != i) run.first = i;
      run.next = i + 1;
      if (run.first == 0) added = run.next;
      const Chunk &first = window[run.first];
      Real *u = own + size_t(worker) * of_worker, *copy = u + kChunk * s.units;
      const size_t from = larger(c.begin, start_of(c.row));
      gates_back(c.row, from, c.end, u);
      weights_back(c.row, c.begin, from, c.end, u, copy, run.first ? sums + i * sums_size : nullptr);
      if (!dx) return;
      if (run.first && first.row == c.row && first.begin) c.left = smaller(larger(c.begin, first.begin + s.history), c.end);
      input_gradient_of(back, c.row, c.left, c.end);
    });
    if (status != CHAINRULE_OK) return status;
    if (threads == 1) continue;
    // The sums of the others, chunk after chunk, and the dx that is left.
    status = for_each(exec, threads, n * kQuarters, 1, [&](size_t i, size_t, int) {
      for (const Part &part : parts) {
        const size_t vectors = padded(part.n) / kWidth;
        for (size_t v = vectors * i / (n * kQuarters); v < vectors * (i + 1) / (n * kQuarters); ++v) {
          const int lanes = lanes_at(v * kWidth, part.n);
          Vec<Real> sum = load_part(part.to + v * kWidth, lanes);
          for (size_t other = added; other < n; ++other) sum = sum + load_part(sums + other * sums_size + part.at + v * kWidth, lanes);
          store_part(part.to + v * kWidth, sum, lanes);
        }
      }
      const Chunk &c = window[i % n];
      const size_t quarter = i / n, left = c.left - c.begin;
      if (dx && left) input_gradient_of(back, c.row, c.begin + left * quarter / kQuarters, c.begin + left * (quarter + 1) / kQuarters);
    });
    if (status != CHAINRULE_OK) return status;
  }
  if (dx && s.history) {  // inputs after the last output's newest
    const chainrule_status status = for_tiles(exec, plan_threads(exec, n_rows * tiles_in(s.history), conv_work(conv, n_rows, s.history)), n_rows, s.history, [&](size_t at, size_t from, size_t steps, int) {
      input_gradient_of(back, at, n_steps + from, n_steps + from + steps);
    });
    if (status != CHAINRULE_OK) return status;
  }
  if (!dframes) return CHAINRULE_OK;
  // Of a frame, its steps one after the other.
  const size_t frames = (n_steps - 1 + dframes->phase) / dframes->hop + 1;
  return for_each(exec, threads, n_rows * frames, 1, [&](size_t piece, size_t, int) {
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
}

}  // namespace chainrule
