// Ancestral sampling from a masked network, every unit computed once, when its last input is known.
//
// Variable by variable along the chain: its logits are finished and a value drawn, which completes the hidden units that
// waited for it alone, layer by layer. A panel of 32 units is opened when its first unit is due, by one product over all
// inputs known by then (the tiles of panels.hpp); while it is open, each further input is added as it becomes known. So a
// sum meets its inputs in ascending order, in the chunks of the contract: the logits are those of the scorer, bit for bit.
//
// Cost a row: the multiply-adds of one masked_linear through the network. A tile of rows shares each weight; threads
// take tiles.
#include "bernoulli.hpp"
#include "categorical.hpp"
#include "panels.hpp"

namespace chainrule {
namespace {

constexpr size_t kClosed = ~size_t(0);  // no panel

// A product on its way: the open panel of W, with the sums of each row.
struct Product {
  Linear w;
  Real *whole, *part;  // [kR][32]: sums of whole chunks, and of the chunk that ends at next[r]
  size_t next[kR];
  size_t panel;        // the open one; none at first
  Spans spans;
};

CHAINRULE_INLINE Real *sums_of(Real *sums, size_t row) { return sums + row * kPanel; }

// Ends the chunk of a row when input k is beyond it.
CHAINRULE_INLINE void reach(Product &p, size_t row, size_t k) {
  if (k < p.next[row]) return;
  p.next[row] = k / kChunk * kChunk + kChunk;
  Real *whole = sums_of(p.whole, row), *part = sums_of(p.part, row);
#pragma GCC unroll 4
  for (size_t j = 0; j < kPanel; j += kWidth) {
    store(whole + j, load(whole + j) + load(part + j));
    store(part + j, zero<Real>());
  }
}

CHAINRULE_INLINE void clear(Product &p, size_t panel, size_t rows) {
  p.panel = panel, p.spans = spans_of(p.w, panel);
  for (size_t j = 0; j < rows * kPanel; j += kWidth) {
    store(p.whole + j, zero<Real>());
    store(p.part + j, zero<Real>());
  }
  for (size_t r = 0; r < rows; ++r) p.next[r] = kChunk;
}

// Opens a panel with the inputs known so far: units [0, known) of h, or the ones of each row.
void open(Product &p, size_t panel, size_t rows, const Real *h, size_t ldh, size_t known) {
  clear(p, panel, rows);
  for (size_t start = p.spans.first() / kChunk * kChunk; start < known && start < p.spans.last(); start += kChunk) {
    for (size_t r = 0; r < rows; ++r) reach(p, r, start);
    for_row_tiles(rows, [&]<int R>(size_t at) {
      for (size_t lane = 0; lane < kPanel; lane += kLanes) {
        Tile<R> tile;
        chainrule::clear(tile);
        for_spans(p.spans, start, smaller(start + kChunk, known), [&](size_t from, size_t to) {
          multiply_in_place<R>(tile, h + at * ldh, ldh, p.w, panel, p.spans, from, to, lane);
        });
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
          for (int v = 0; v < kV; ++v) store(sums_of(p.part, at + size_t(r)) + lane + size_t(v) * kWidth, tile.v[r][v]);
      }
    });
  }
}
void open_ones(Product &p, size_t panel, size_t rows, const uint32_t *ones, size_t ld, const size_t *n_ones) {
  clear(p, panel, rows);
  const size_t full = full_until(p.spans), last = p.spans.last();
  for (size_t r = 0; r < rows; ++r) {
    const uint32_t *index = ones + r * ld;
    size_t i = p.spans.first() ? place_of(index, n_ones[r], p.spans.first()) : 0;
    while (i < n_ones[r] && index[i] < last) {
      reach(p, r, index[i]);
      Sums part = no_sums();
      i = add_ones(part, p.w, panel, p.spans, full, smaller(p.next[r], last), index, i, n_ones[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) store(sums_of(p.part, r) + size_t(v) * kWidth, part.v[v]);
    }
  }
}

// A unit of input became known: into the open panel.
CHAINRULE_INLINE void push(Product &p, size_t k, size_t rows, const Real *h, size_t ldh) {
  if (p.panel == kClosed) return;
  const uint32_t live = p.spans.word(k);
  if (!live) return;
  const Real *w = p.w.W + p.panel * p.w.panel + k * p.w.ldw;
  for (size_t r = 0; r < rows; ++r) {
    reach(p, r, k);
    const Vec<Real> hk = set1(h[r * ldh + k]);
    Real *part = sums_of(p.part, r);
#pragma GCC unroll 4
    for (size_t j = 0; j < kPanel; j += kWidth) store(part + j, fma(hk, load_live(w + j, live >> j), load(part + j)));
  }
}
CHAINRULE_INLINE void push_one(Product &p, size_t k, size_t row) {
  if (p.panel == kClosed) return;
  const uint32_t live = p.spans.word(k);
  if (!live) return;
  const Real *w = p.w.W + p.panel * p.w.panel + k * p.w.ldw;
  reach(p, row, k);
  Real *part = sums_of(p.part, row);
#pragma GCC unroll 4
  for (size_t j = 0; j < kPanel; j += kWidth) store(part + j, load(part + j) + load_live(w + j, live >> j));
}

CHAINRULE_INLINE Real sum_at(const Product &p, size_t row, size_t unit) {
  return sums_of(p.whole, row)[unit % kPanel] + sums_of(p.part, row)[unit % kPanel];
}

// One tile of rows on its way along the chain.
struct State {
  const Network &net;
  size_t first_row, rows;
  uint8_t *codes;        // [kR][n_features] in chain order
  uint32_t *ones;        // [kR][n_features]: input units that are one, n_ones[r] of them
  size_t n_ones[kR];
  size_t known[CHAINRULE_MAX_LAYERS];  // units of each layer that are computed
  Real *h[CHAINRULE_MAX_LAYERS];       // [kR][ld_of(units)]
  Product hidden[CHAINRULE_MAX_LAYERS], output, direct;
};
// Rows of a layer are kept apart, so that the same unit of all rows does not fall into one cache set.
CHAINRULE_INLINE size_t ld_of(size_t units) { return padded(units) + kWidth; }

CHAINRULE_INLINE size_t state_bytes(const Network &net) {
  size_t reals = 2 * (net.n_layers + 2) * kR * kPanel;
  for (size_t l = 0; l < net.n_layers; ++l) reals += kR * ld_of(net.hidden[l].linear.n_out);
  return (reals * sizeof(Real) + kR * net.n_features * (sizeof(uint32_t) + 1) + 63) / 64 * 64;
}
CHAINRULE_INLINE State state_at(char *memory, const Network &net, size_t first_row, size_t rows) {
  State s = {net, first_row, rows, nullptr, nullptr, {}, {}, {}, {}, {}, {}};
  Real *at = reinterpret_cast<Real *>(memory);
  auto take = [&at](size_t n) { Real *p = at; at += n; return p; };
  auto product = [&](Product &p, const Linear &w) {
    p.w = w, p.panel = kClosed, p.whole = take(kR * kPanel), p.part = take(kR * kPanel);
  };
  for (size_t l = 0; l < net.n_layers; ++l) {
    product(s.hidden[l], net.hidden[l].linear);
    s.h[l] = take(kR * ld_of(net.hidden[l].linear.n_out));
  }
  product(s.output, net.output.linear), product(s.direct, net.direct);
  s.ones = reinterpret_cast<uint32_t *>(at), s.codes = reinterpret_cast<uint8_t *>(s.ones + kR * net.n_features);
  return s;
}

CHAINRULE_INLINE size_t first_unit(const Network &net, size_t i) { return net.first ? net.first[i] : i; }

// Sums of unit u over the ones, or over h of layer l, for each row.
CHAINRULE_INLINE void sums_of_ones(State &s, Product &p, size_t u, Real *sum) {
  if (p.panel != u / kPanel) open_ones(p, u / kPanel, s.rows, s.ones, s.net.n_features, s.n_ones);
  for (size_t r = 0; r < s.rows; ++r) sum[r] = sum_at(p, r, u);
}
CHAINRULE_INLINE void sums_of_layer(State &s, Product &p, size_t l, size_t u, Real *sum) {
  if (p.panel != u / kPanel) open(p, u / kPanel, s.rows, s.h[l], ld_of(s.net.hidden[l].linear.n_out), s.known[l]);
  for (size_t r = 0; r < s.rows; ++r) sum[r] = sum_at(p, r, u);
}
CHAINRULE_INLINE void add_addend(const State &s, const Layer &layer, size_t u, Real *sum) {
  if (layer.addend)
    for (size_t r = 0; r < s.rows; ++r) sum[r] += layer.addend[(s.first_row + r) * layer.lda + u];
}
CHAINRULE_INLINE void add_bias(const State &s, const Layer &layer, size_t u, Real *sum) {
  if (layer.b)
    for (size_t r = 0; r < s.rows; ++r) sum[r] += layer.b[u];
}

// Computes the hidden units that wait for nothing beyond variable i, and hands them on.
void complete(State &s, int32_t i) {
  for (size_t l = 0; l < s.net.n_layers; ++l) {
    const Layer &layer = s.net.hidden[l];
    const size_t units = layer.linear.n_out, ld = ld_of(units);
    for (size_t &u = s.known[l]; u < units && layer.ready[u] <= i; ++u) {
      Real a[16] = {};
      if (l == 0) sums_of_ones(s, s.hidden[0], u, a);
      else sums_of_layer(s, s.hidden[l], l - 1, u, a);
      add_addend(s, layer, u, a);
      add_bias(s, layer, u, a);
      for (size_t r = 0; r < s.rows; r += kWidth) store(a + r, activate(layer.activation, load(a + r)));
      for (size_t r = 0; r < s.rows; ++r)
        s.h[l][r * ld + u] = layer.residual ? s.h[l - 1][r * ld + u] + a[r] : a[r];
      push(l + 1 < s.net.n_layers ? s.hidden[l + 1] : s.output, u, s.rows, s.h[l], ld);
    }
  }
}

// Logits of output unit u: (h W + (x A + addend)) + b.
void logits(State &s, size_t u, Real *z) {
  Real direct[16] = {};
  const bool hidden = s.net.n_layers > 0;
  if (s.net.direct.W) sums_of_ones(s, s.direct, u, direct);
  add_addend(s, s.net.output, u, direct);
  if (hidden) sums_of_layer(s, s.output, s.net.n_layers - 1, u, z);
  if (!hidden)
    for (size_t r = 0; r < s.rows; ++r) z[r] = direct[r];
  else if (s.net.direct.W || s.net.output.addend)
    for (size_t r = 0; r < s.rows; ++r) z[r] += direct[r];
  add_bias(s, s.net.output, u, z);
}

// Values of variable i from its logits, or as observed.
void draw(State &s, size_t i, const double *u, size_t ldu, const uint8_t *observed, uint8_t *x, size_t ldx) {
  const Network &net = s.net;
  const size_t column = net.order ? net.order[i] : i, unit = first_unit(net, i);
  const size_t values = net.first ? net.first[i + 1] - net.first[i] + 1 : 2;
  const uint8_t reference = net.reference ? net.reference[column] : 0;
  uint8_t drawn[16] = {};
  if (!net.first) {
    Real z[16] = {};
    double uniform[16] = {};
    logits(s, unit, z);
    for (size_t r = 0; r < s.rows; ++r) {
      uniform[r] = u[(s.first_row + r) * ldu + i];
      z[r] = reference ? -z[r] : z[r];
    }
    for (size_t r = 0; r < kR; r += 8) bernoulli_draw8(z + r, uniform + r, drawn + r);
  } else {
    Real z[kR][kMaxValues];
    for (size_t v = 1; v < values; ++v) {
      Real zv[16] = {};
      logits(s, unit + v - 1, zv);
      for (size_t r = 0; r < s.rows; ++r) z[r][v - 1] = zv[r];
    }
    for (size_t r = 0; r < s.rows; ++r) drawn[r] = categorical_draw(z[r], values, reference, u[(s.first_row + r) * ldu + i]);
  }
  for (size_t r = 0; r < s.rows; ++r) {
    const size_t at = (s.first_row + r) * ldx + column;
    if (!observed || !observed[at]) x[at] = drawn[r];
    const size_t code = code_of(x[at], reference);
    if (!code) continue;
    const size_t k = unit + code - 1;
    s.ones[r * net.n_features + s.n_ones[r]++] = uint32_t(k);
    if (net.n_layers) push_one(s.hidden[0], k, r);
    if (net.direct.W) push_one(s.direct, k, r);
  }
}

}  // namespace

CHAINRULE_KERNEL(masked_sample)(const Network *network, size_t n_rows, const double *u, size_t ldu, const uint8_t *observed,
                                uint8_t *x, size_t ldx, const chainrule_exec *exec) {
  const Network &net = *network;
  double work = net.direct.W ? live_work(net.direct.mask, net.direct.n_in, net.direct.n_out) : 0;
  for (size_t l = 0; l < net.n_layers; ++l) work += live_work(net.hidden[l].linear.mask, net.hidden[l].linear.n_in, net.hidden[l].linear.n_out);
  if (net.n_layers) work += live_work(net.output.linear.mask, net.output.linear.n_in, net.output.linear.n_out);
  work = (work + 100 * double(net.n_features)) * double(n_rows);
  const size_t fewest = (n_rows + kR - 1) / kR;
  const size_t threads = size_t(plan_threads(exec, n_rows, work));
  const size_t tiles = smaller((fewest + threads - 1) / threads * threads, n_rows);  // as many for each thread
  const size_t share = state_bytes(net);
  char *memory = static_cast<char *>(arena(threads * share));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_each(exec, int(threads), tiles, 1, [&](size_t tile, size_t, int worker) {
    const size_t begin = n_rows * tile / tiles, end = n_rows * (tile + 1) / tiles;
    State s = state_at(memory + size_t(worker) * share, net, begin, end - begin);
    complete(s, -1);
    for (size_t i = 0; i < net.n_features; ++i) {
      draw(s, i, u, ldu, observed, x, ldx);
      complete(s, int32_t(i));
    }
  });
}

}  // namespace chainrule
