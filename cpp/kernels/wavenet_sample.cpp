// Generation from WaveNet, each sample once (fast WaveNet, Le Paine et al. 2016): layers keep the inputs they will meet again.
//
//   h_0 = E[x_{t-1}];  every block: z, u, skip and h as in gated_block.cpp, its past taps from a ring of the last H inputs;
//   parameters = relu(relu(skip) W_1 + c_1) W_2 + c_2;  x_t = F^-1(u_t)
//
// Sums meet their inputs as the scorer's do, so the conditionals are the scorer's, bit for bit. Cost a sample: every weight
// is used once; for one stream, reading them is the cost. The product of a past tap is known `dilation` steps ahead: for one
// stream it is made for up to 8 steps at once, which spares most of those reads. A tile of streams marches through all steps
// on one thread, rows of one product; a single stream with more weights than a core's cache holds is shared by a team of
// threads, each the owner of panels of every layer, which meet at a spin barrier twice a layer; the
// layer's skips, which only the head waits for, are made while its residuals travel.
#include "categorical.hpp"
#include "conv.hpp"
#include "logistic_mixture.hpp"

namespace chainrule {
namespace {

constexpr size_t kStepsAhead = 8;  // steps of a past tap at once
constexpr size_t kTeamBytes = 5 * 1048576 / 4;  // weights that repay a team: more than one core's second-level cache
constexpr size_t kGroup = Vec<Real>::regs == 1 ? 4 : 2;  // panels of one row side by side: sums enough to hide latency

constexpr Finish kSums = {nullptr, 0, nullptr, CHAINRULE_IDENTITY, nullptr, 0};  // nothing else

CHAINRULE_INLINE size_t whole_panels(size_t n) { return panels_in(n) * kPanel; }

// One row, G panels: out[g][32], chains that begin with `begun` (NULL: zero) where no chunk ends before the first segment.
template <size_t G>
CHAINRULE_INLINE void one_row(const Segment *segments, size_t count, size_t stride, const Real *begun, Real *out) {
  Vec<Real> sum[G * size_t(kVectors)];
#pragma GCC unroll 16
  for (size_t i = 0; i < G * size_t(kVectors); ++i) sum[i] = begun ? load(begun + i * kWidth) : zero<Real>();
  size_t k = 0;
  bool first = true;
  auto add = [&] {
#pragma GCC unroll 16
    for (size_t i = 0; i < G * size_t(kVectors); ++i) {
      store(out + i * kWidth, (first ? zero<Real>() : load(out + i * kWidth)) + sum[i]);
      sum[i] = zero<Real>();
    }
    first = false;
  };
  for (size_t s = 0; s < count; ++s)
    for (size_t i = 0; i < segments[s].n;) {
      if (k && k % kChunk == 0) add();
      const size_t n = smaller(segments[s].n - i, kChunk - k % kChunk);
      const Real *x = segments[s].x + i, *w = segments[s].W + i * kPanel;
      for (size_t c = 0; c < n; ++c, w += kPanel) {
        const Vec<Real> xc = set1(x[c]);
#pragma GCC unroll 4
        for (size_t g = 0; g < G; ++g)
#pragma GCC unroll 4
          for (size_t v = 0; v < size_t(kVectors); ++v)
            sum[g * size_t(kVectors) + v] = fma(xc, load(w + g * stride + v * kWidth), sum[g * size_t(kVectors) + v]);
      }
      i += n, k += n;
    }
  add();
}

// The panels [from, to) of a matrix with n_out outputs, `stride` from one to the next, for R rows: out[r ldo + o]. The segments'
// W is that of panel 0. begun: [..][32] chains of one row.
void products(size_t rows, const Segment *segments, size_t count, size_t stride, size_t from, size_t to, const Real *begun,
              const Finish &f, size_t n_out, Real *out, size_t ldo) {
  Segment at[CHAINRULE_MAX_TAPS];
  for (size_t panel = from; panel < to;) {
    const size_t column = panel * kPanel;
    for (size_t s = 0; s < count; ++s) at[s] = segments[s], at[s].W += panel * stride;
    if (rows == 1) {
      Real sums[kGroup * kPanel];
      const Real *start = begun ? begun + column : nullptr;
      if (panel + kGroup <= to) one_row<kGroup>(at, count, stride, start, sums), panel += kGroup;
      else if (kGroup > 2 && panel + 2 <= to) one_row<2>(at, count, stride, start, sums), panel += 2;
      else one_row<1>(at, count, stride, start, sums), ++panel;
      for (size_t j = column; j < smaller(panel * kPanel, n_out); j += kWidth) {
        const int n = lanes_at(j, n_out);
        store_part(out + j, finish(f, load(sums + j - column), 0, j, n), n);
      }
      continue;
    }
    for_row_tiles(rows, [&]<int R>(size_t first) {
      Segment tile[CHAINRULE_MAX_TAPS];
      for (size_t s = 0; s < count; ++s) tile[s] = at[s], tile[s].x += first * at[s].ldx;
      Finish of_tile = f;
      if (f.addend) of_tile.addend += first * f.lda;
      multiply_to<R>(tile, count, of_tile, column, n_out, out + first * ldo, ldo);
    });
    ++panel;
  }
}

// The team's barrier: a counter a worker, each in a line of its own. Work that nobody waits for goes between its two halves.
struct Team {
  uint32_t *counters;  // [workers][kLine]
  int workers;
};
constexpr size_t kLine = 32;
CHAINRULE_INLINE void arrive(const Team &team, int worker) {
  if (team.workers == 1) return;
  uint32_t *mine = team.counters + size_t(worker) * kLine;
  __atomic_store_n(mine, *mine + 1, __ATOMIC_RELEASE);
}
CHAINRULE_INLINE void await(const Team &team, int worker) {
  if (team.workers == 1) return;
  const uint32_t turn = team.counters[size_t(worker) * kLine];
  for (int other = 0; other < team.workers; ++other)
    for (unsigned spins = 1; int32_t(__atomic_load_n(team.counters + size_t(other) * kLine, __ATOMIC_ACQUIRE) - turn) < 0; ++spins)
      if (spins % 16384 == 0) give_way();
      else pause_();
}
CHAINRULE_INLINE void meet(const Team &team, int worker) { arrive(team, worker), await(team, worker); }

// A worker's share of n panels.
struct Share {
  size_t from, to;
};
CHAINRULE_INLINE Share share_of(size_t n, int worker, int workers) {
  return {n * size_t(worker) / size_t(workers), n * size_t(worker + 1) / size_t(workers)};
}

struct Sizes {
  size_t x, z, skip, parameters;  // padded
  size_t ahead;                   // of all blocks, in one row's chains
  size_t draw;                    // of a mixture: its parameters, transposed, and theirs in double
};
CHAINRULE_INLINE size_t steps_ahead(const GatedBlock &block) {
  if (block.width * block.n_channels > kChunk) return 1;  // a chain would end between the taps
  size_t steps = 1;
  while (steps < kStepsAhead && block.dilation % (2 * steps) == 0) steps *= 2;
  return steps;
}
CHAINRULE_INLINE Sizes sizes_of(const Wavenet &net) {
  const size_t channels = net.blocks[0].n_channels, z = gate_panels(channels) * kPanel;
  size_t ahead = 0;
  for (size_t l = 0; l < net.n_blocks; ++l)
    if (const size_t steps = steps_ahead(net.blocks[l]); steps > 1) ahead += steps * z;
  return {larger(whole_panels(channels), z / 2), z, whole_panels(net.blocks[0].n_skip), whole_panels(net.n_parameters), ahead,
          net.n_components ? mixture::tile_size(net.n_components) + 3 * mixture::kDrawn * net.n_components * sizeof(double) / sizeof(Real) : 0};
}
// Of a tile of streams: x, z, u, skip, hidden and parameters of each, one row's chains ahead, and a draw's workspace.
CHAINRULE_INLINE size_t tile_size(const Sizes &s, size_t rows) {
  return rows * (s.x + s.z + 2 * (s.z / 2) + 2 * s.skip + s.parameters) + s.ahead + s.draw + kPanel;
}
CHAINRULE_INLINE size_t weights_of(const Wavenet &net) {
  const GatedBlock &b = net.blocks[0];
  return net.n_blocks * b.n_channels * ((2 * b.width + 1) * b.n_channels + b.n_skip) + b.n_skip * (b.n_skip + net.n_parameters);
}

struct Streams {
  size_t first, rows, all;  // of this tile, and of the call
  size_t n_steps;
  const double *u;
  size_t ldu;
  const int32_t *previous;
  Real *state;
  uint64_t taken;  // steps before this call: where the rings stand
  int32_t *x;
  size_t ldx;
  const Frames *frames;
  Real *scratch;
  int32_t *stop;
};

// h_0 of a step from the value before it: a row of the table, or a level's place on [-1, 1] times the weights.
void input_of(const Wavenet &net, int32_t value, Real *x) {
  const size_t channels = net.blocks[0].n_channels;
  const double last = double(net.n_values) - 1;
  const Vec<Real> level = set1(Real(last > 0 ? (2 * double(value) - last) / last : 0));
  for (size_t j = 0; j < channels; j += kWidth) {
    Vec<Real> h = zero<Real>();
    if (value >= 0 && net.n_components) h = (zero<Real>() + fma(level, load(net.input + j), zero<Real>())) + load_part(net.input_bias + j, lanes_at(j, channels));
    else if (value >= 0) h = load(net.input + (j / kPanel * net.n_values + size_t(value)) * kPanel + j % kPanel);
    store_part(x + j, h, lanes_at(j, channels));
  }
}

// Codes of up to 8 rows from their logits, side by side in lanes.
constexpr size_t kTogether = 8;
template <class F>
void draw_together(const Real *parameters, size_t ld, size_t n_values, size_t rows, F &&uniform, int32_t *value) {
  constexpr size_t B = size_t(block_width<Real>);
  Real z[kMaxValues * kWidth];
  const Real *row[kTogether];
  double u[kTogether];
  uint8_t code[kTogether];
  for (size_t r = 0; r < kTogether; ++r) row[r] = parameters + (r < rows ? r : 0) * ld, u[r] = uniform(r < rows ? r : 0);
  for (size_t k = 0; k + 1 < n_values; k += B)
    for (size_t r = 0; r < kTogether; r += B) transpose_block(row + r, k, z + k * kWidth + r, kWidth);
  categorical_draw8(z, n_values, 0, u, code);
  for (size_t r = 0; r < rows; ++r) value[r] = code[r];
}

// Values of all rows from the parameters of their conditionals, x = F^-1(u).
void draw(const Wavenet &net, const Streams &s, size_t step, Real *parameters, size_t ld, Real *scratch, int32_t *value) {
  const size_t K = net.n_components;
  for (size_t r = 0; net.temperature != 1 && r < s.rows; ++r) {
    Real *z = parameters + r * ld;
    double log_temperature[8];
    store(log_temperature, log(set1<double>(net.temperature)));
    for (size_t k = 0; k < (K ? K : net.n_parameters); ++k) z[k] /= Real(net.temperature);
    for (size_t k = 2 * K; k < 3 * K; ++k) z[k] += Real(log_temperature[0]);
  }
  auto uniform = [&](size_t r) { return s.u[(s.first + r) * s.ldu + step]; };
  if (!K) {
    for (size_t r = 0; r < s.rows; r += kTogether)
      if (r + 1 < s.rows) draw_together(parameters + r * ld, ld, net.n_values, smaller(s.rows - r, kTogether), [&](size_t i) { return uniform(r + i); }, value + r);
      else value[r] = categorical_draw(parameters + r * ld, net.n_values, 0, uniform(r));
    return;
  }
  static_assert(kR <= mixture::kDrawn && mixture::kDrawn <= mixture::kLanes);
  double *draws = reinterpret_cast<double *>(scratch), u[mixture::kDrawn];
  const mixture::Tile tile = mixture::tile_at(reinterpret_cast<Real *>(draws + 3 * mixture::kDrawn * K), K);
  for (size_t j = 0; j < mixture::kLanes; ++j) mixture::copy(parameters + (j < s.rows ? j : 0) * ld, tile.rows + j * tile.ld, 3 * K);
  mixture::to_columns(tile);
  for (size_t j = 0; j < mixture::kDrawn; ++j) u[j] = uniform(j < s.rows ? j : 0);
  const chainrule_logistic_mixture conditional = {1, K, int32_t(net.n_values), net.log_scale_min};
  mixture::mixture_draw(tile, conditional, 0, u, draws, value);
}

// u = tanh(f) sigmoid(g) of R rows, from those of a panel.
template <int R> CHAINRULE_INLINE void join(Gates<R> &gates, size_t rows, Real *u, size_t ldu) {
  activate(gates);
  for (size_t r = 0; r < rows; ++r)
    for (size_t j = 0; j < kHalf; j += kWidth) store(u + r * ldu + j, load(gates.at(r, j)) * load(gates.at(r, kHalf + j)));
}
// A share of the panels of a block's gates.
void gate(size_t rows, const Share &share, const Segment *taps, size_t count, size_t stride, const Real *begun, const Finish &f,
          Real *z, Real *u, size_t ldu) {
  if (rows == 1) {  // two panels side by side instead
    products(1, taps, count, stride, share.from, share.to, begun, f, share.to * kPanel, z, 0);
    for (size_t p = share.from; p < share.to; p += 2) {
      Gates<2> pair;
      const size_t n = smaller(share.to - p, 2);
      for (size_t i = 0; i < 2; ++i)
        for (size_t j = 0; j < kPanel; j += kWidth) store(pair.at(i, j), load(z + (i < n ? p + i : p) * kPanel + j));
      join(pair, n, u + p * kHalf, kHalf);
    }
    return;
  }
  for (size_t p = share.from; p < share.to; ++p)
    for_row_tiles(rows, [&]<int R>(size_t first) {
      Segment tile[CHAINRULE_MAX_TAPS];
      for (size_t s = 0; s < count; ++s) tile[s] = taps[s], tile[s].x += first * taps[s].ldx, tile[s].W += p * stride;
      auto context = [&](size_t r) { return f.addend ? f.addend + (first + r) * f.lda + p * kPanel : nullptr; };
      Gates<R> gates;
      multiply_gates(tile, count, context, f.b + p * kPanel, gates);
      join(gates, size_t(R), u + first * ldu + p * kHalf, ldu);
    });
}

void march(const Wavenet &net, const Streams &s, const Team &team, int worker, const chainrule_exec *exec) {
  const Sizes size = sizes_of(net);
  const size_t rows = s.rows, channels = net.blocks[0].n_channels, panels = gate_panels(channels), units = size.z / 2;
  const size_t n_skip = net.blocks[0].n_skip;
  Real *x = s.scratch, *z = x + rows * size.x, *both = z + rows * size.z, *skip = both + 2 * rows * units, *hidden = skip + rows * size.skip,
       *parameters = hidden + rows * size.skip, *ahead_of_all = parameters + rows * size.parameters;
  const Share gates = share_of(panels, worker, team.workers), residuals = share_of(panels_in(channels), worker, team.workers),
              skips = share_of(panels_in(n_skip), worker, team.workers), outputs = share_of(panels_in(net.n_parameters), worker, team.workers);
  const size_t low = smaller(residuals.from * kPanel, channels), high = smaller(residuals.to * kPanel, channels);
  if (worker == 0)
    for (size_t r = 0; r < rows; ++r) input_of(net, s.previous[s.first + r], x + r * size.x);
  meet(team, worker);
  for (size_t step = 0; step < s.n_steps; ++step) {
    const uint64_t t = s.taken + step;
    Real *ring = s.state, *ahead = ahead_of_all;
    for (size_t l = 0; l < net.n_blocks; ++l) {
      const GatedBlock &block = net.blocks[l];
      Real *u = both + l % 2 * rows * units;  // others may write the next block's while this one's is read
      const size_t width = block.width, history = (width - 1) * block.dilation, stride = width * channels * kPanel, slot = s.all * channels;
      Segment taps[CHAINRULE_MAX_TAPS];
      auto past = [&](uint64_t when) {
        for (size_t k = 0; k + 1 < width; ++k)
          taps[k] = {ring + size_t((when + k * block.dilation) % history) * slot + s.first * channels, channels, channels, block.W + k * channels * kPanel};
      };
      if (width > 1) past(t);
      taps[width - 1] = {x, size.x, channels, block.W + (width - 1) * channels * kPanel};
      const Frames *f = s.frames ? s.frames + l : nullptr;
      const Finish finish = {f ? f->data + s.first * f->row + (step + f->phase) / f->hop * f->ld : nullptr, f ? f->row : 0, block.b, CHAINRULE_IDENTITY, nullptr, 0};
      const size_t steps = s.all == 1 && width > 1 ? steps_ahead(block) : 1;
      if (steps > 1) {
        Real *begun = ahead + (t % steps) * size.z;
        // Slots of the next steps stand side by side, since `steps` divides the dilation.
        if (t % steps == 0 || step == 0) products(steps - size_t(t % steps), taps, width - 1, stride, gates.from, gates.to, nullptr, kSums, size.z, begun, size.z);
        gate(1, gates, taps + width - 1, 1, stride, begun, finish, z, u, units);
        ahead += steps * size.z;
      } else {
        gate(rows, gates, taps, width, stride, nullptr, finish, z, u, units);
      }
      if (l + 1 < net.n_blocks && s.all > 1) {  // the next block's oldest input
        const size_t next = (net.blocks[l + 1].width - 1) * net.blocks[l + 1].dilation;
        if (next) ask(ring + history * slot + size_t(t % next) * slot + s.first * channels, rows * channels);
      }
      meet(team, worker);
      if (history)  // where the oldest input was: all have read it
        for (size_t r = 0; r < rows; ++r) {
          Real *to = ring + size_t(t % history) * slot + (s.first + r) * channels;
          for (size_t j = low; j < high; ++j) to[j] = x[r * size.x + j];
        }
      const Segment input = {u, units, channels, block.residual}, skip_input = {u, units, channels, block.skip};
      if (block.residual)
        products(rows, &input, 1, channels * kPanel, residuals.from, residuals.to, nullptr, {x, size.x, block.residual_bias, CHAINRULE_IDENTITY, nullptr, 0}, channels, x, size.x);
      const bool last = l + 1 == net.n_blocks;
      if (!last) arrive(team, worker);  // nobody waits for skips but the head
      const Finish skipped = {l ? skip : nullptr, size.skip, block.skip_bias, last ? CHAINRULE_RELU : CHAINRULE_IDENTITY, nullptr, 0};
      products(rows, &skip_input, 1, channels * kPanel, skips.from, skips.to, nullptr, skipped, n_skip, skip, size.skip);
      if (last) arrive(team, worker);
      await(team, worker);
      ring += history * slot;
    }
    auto layer = [&](const Real *from, const Real *W, const Real *b, size_t n_out, const Share &share, int32_t activation, Real *to, size_t ld) {
      const Segment in = {from, size.skip, n_skip, W};
      products(rows, &in, 1, n_skip * kPanel, share.from, share.to, nullptr, {nullptr, 0, b, activation, nullptr, 0}, n_out, to, ld);
    };
    layer(skip, net.head, net.head_bias, n_skip, skips, CHAINRULE_RELU, hidden, size.skip);
    meet(team, worker);
    layer(hidden, net.output, net.output_bias, net.n_parameters, outputs, CHAINRULE_IDENTITY, parameters, size.parameters);
    meet(team, worker);
    if (worker == 0) {
      int32_t value[mixture::kDrawn];
      draw(net, s, step, parameters, size.parameters, ahead_of_all + size.ahead, value);
      for (size_t r = 0; r < rows; ++r) {
        s.x[(s.first + r) * s.ldx + step] = value[r];
        input_of(net, value[r], x + r * size.x);
      }
      if (step % 64 == 63 && asked_to_stop(exec)) __atomic_store_n(s.stop, 1, __ATOMIC_RELAXED);
    }
    meet(team, worker);
    if (__atomic_load_n(s.stop, __ATOMIC_RELAXED)) return;
  }
}

}  // namespace

CHAINRULE_KERNEL(wavenet_sample)(const Wavenet *net, size_t n_rows, size_t n_steps, const double *u, size_t ldu,
                                 const int32_t *previous, Real *state, uint64_t taken, const Frames *frames, int32_t *x,
                                 size_t ldx, const chainrule_exec *exec) {
  const Sizes size = sizes_of(*net);
  const double work = double(weights_of(*net)) * double(n_steps);
  const bool shared = n_rows == 1 && weights_of(*net) * sizeof(Real) > kTeamBytes;
  const int threads = plan_threads(exec, shared ? panels_in(net->blocks[0].n_channels) : n_rows, work * double(n_rows));
  size_t tiles = shared || !n_rows ? 1 : size_t(threads);
  while (n_rows > tiles * kR) tiles += size_t(threads);
  const size_t most = (n_rows + tiles - 1) / tiles, each = (tile_size(size, most) + kPanel - 1) / kPanel * kPanel;
  const size_t counters = size_t(threads) * kLine * sizeof(uint32_t);
  char *memory = static_cast<char *>(arena(counters + 64 + (shared ? 1 : tiles) * each * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  uint32_t *counter = reinterpret_cast<uint32_t *>(memory);
  for (size_t i = 0; i < size_t(threads) * kLine; ++i) counter[i] = 0;
  int32_t *stop = reinterpret_cast<int32_t *>(memory + counters);
  *stop = 0;
  Real *scratch = reinterpret_cast<Real *>(memory + counters + 64);
  auto streams = [&](size_t tile) -> Streams {
    const size_t first = n_rows * tile / tiles, rows = n_rows * (tile + 1) / tiles - first;
    return {first, rows, n_rows, n_steps, u, ldu, previous, state, taken, x, ldx, frames, scratch + tile * each, stop};
  };
  if (shared && threads > 1)
    run_team(threads, [&](int worker, int workers) { march(*net, streams(0), {counter, workers}, worker, exec); });
  else if (n_rows) {
    const chainrule_status status = for_each(exec, threads, tiles, 1, [&](size_t tile, size_t, int worker) {
      // Interruption is asked for on the calling thread alone.
      march(*net, streams(tile), {counter, 1}, 0, worker == 0 ? exec : nullptr);
    });
    if (status != CHAINRULE_OK) return status;
  }
  return *stop ? CHAINRULE_INTERRUPTED : CHAINRULE_OK;
}

}  // namespace chainrule
