// Log-likelihoods of rows under a masked network: the network that masked_sample draws from, forwards, in one call.
//
//   log p(x) = sum_i log p(x_i | x_<i),  logits = (h_L V + (x A + addend)) + b,  h_l = g((h_{l-1} W_l + addend) + b) [+ h_{l-1}]
//
// Codes and their ones, hidden units, logits and log-likelihoods of a tile of rows follow one another while they are in a
// core's cache; a panel of weights is read once a tile. The same bits as encode, sparse_linear, masked_linear and the
// conditional's log_prob one after the other. Cost a row: a multiply-add for each live weight (the first layer's and A's: an
// addition for each one and live weight), a softplus a bit or an exponential a logit. Threads: tiles; panels where rows are few.
#include "../runtime/integers.hpp"
#include "bernoulli.hpp"
#include "categorical.hpp"
#include "masked.hpp"

namespace chainrule {
namespace {

constexpr size_t kFewRows = 48;  // for a thread: with fewer, threads share the panels of a layer
size_t tile_rows(bool copies) { return copies ? 384 : 192; }  // more, where every panel is copied before it is used

CHAINRULE_INLINE size_t units_of(const Network &net) { return net.first ? net.first[net.n_features] : net.n_features; }
CHAINRULE_INLINE double work_of(const Linear &w) { return live_work(w.mask, w.n_in, w.n_out); }
CHAINRULE_INLINE bool copies(const Linear &w) { return w.turned || w.rows; }

// Bytes of n elements, in whole lines of cache.
CHAINRULE_INLINE size_t bytes_of(size_t n, size_t size) { return (n * size + 63) / 64 * 64; }

// What a tile of rows needs; ld: of hidden units and logits, apart from powers of two.
struct Room {
  size_t rows, ldh, ldz, terms;
  bool direct, by_panel;  // by_panel: bits are scored panel by panel, so that no logit leaves the nearest cache
  Columns columns;
};
Room room_for(const Network &net, size_t rows, bool alone) {
  size_t widest = 0;
  for (size_t l = 0; l < net.n_layers; ++l) widest = larger(widest, net.hidden[l].linear.n_out);
  const Columns columns = {net.n_features, net.first, nullptr};
  const size_t terms = net.first ? categorical_row_size(columns) : padded(net.n_features);
  return {rows, padded(widest) + kWidth, padded(units_of(net)) + kWidth, terms, net.direct.W && net.n_layers, alone && net.n_layers && !net.first, columns};
}
struct Buffers {
  Real *h[2], *direct, *z;
  double *sums;  // [rows][8], of lanes
  uint32_t *index, *count;
  uint8_t *codes;
  char *apart;  // of each thread on the tile
};
size_t bytes_apart(const Room &room) {  // a stretch of a panel or a chunk of two, the terms of a row, the places of all rows
  return bytes_of(kStretch * kPanel + room.terms, sizeof(Real)) + bytes_of(room.rows, sizeof(uint32_t));
}
// From `memory` on; the size of it, with NULL.
size_t place_buffers(const Network &net, const Room &room, char *memory, Buffers &b) {
  size_t at = 0;
  auto take = [&]<class T>(T *&p, size_t n) {
    p = memory ? reinterpret_cast<T *>(memory + at) : nullptr;
    at += bytes_of(n, sizeof(T));
  };
  take(b.h[0], net.n_layers ? room.rows * room.ldh : 0), take(b.h[1], net.n_layers > 1 ? room.rows * room.ldh : 0);
  take(b.direct, room.direct ? room.rows * room.ldz : 0), take(b.z, room.rows * (room.by_panel ? kPanel : room.ldz));
  take(b.sums, room.by_panel ? room.rows * Vec<double>::width : 0);
  take(b.index, room.rows * net.n_features), take(b.count, room.rows), take(b.codes, room.rows * net.n_features);
  take(b.apart, 0);
  return at;
}

// A panel of a layer's units for all rows of a tile.
void dense_panel(const Linear &w, size_t panel, size_t rows, const Real *x, size_t ldx, const Finish &f, Real *y, size_t ldy,
                 Real *scratch) {
  if (!w.turned) return product<false>(w, panel, spans_of(w, panel), w.n_out, 0, rows, x, ldx, f, y, ldy, scratch);
  const Linear kept = as_kept(w);
  product<true>(kept, panel, spans_of(kept.transposed, panel, w.n_in, kAll), w.n_out, 0, rows, x, ldx, f, y, ldy, scratch);
}
CHAINRULE_INLINE void add_panel(const Real *x, size_t panel, size_t rows, size_t n_out, Real *y, size_t ld) {
  for (size_t r = 0; r < rows; ++r)
    for (size_t o = panel * kPanel; o < smaller(n_out, (panel + 1) * kPanel); o += kWidth) {
      const int n = lanes_at(o, n_out);
      store_part(y + r * ld + o, load_part(x + r * ld + o, n) + load_part(y + r * ld + o, n), n);
    }
}

struct Rows {
  size_t begin, end;
  const uint8_t *x;
  size_t ldx;
  double *log_prob, *terms;
};
// Panel after panel of logits, each as it is computed: terms and their sums over lanes, in the order of sum_terms.
void score_bits(const Network &net, const Room &room, const Rows &at, const Buffers &b, const Real *h, const Finish &f, Real *own) {
  constexpr size_t width = Vec<double>::width;
  const size_t rows = at.end - at.begin, n = net.n_features;
  for (size_t i = 0; i < rows * width; i += width) store(b.sums + i, zero<double>());
  for (size_t panel = 0; panel < panels_in(n); ++panel) {
    const size_t column = panel * kPanel, lanes = smaller(n - column, kPanel);
    dense_panel(net.output.linear, panel, rows, h, room.ldh, f, b.z - column, kPanel, own);
    for (size_t r = 0; r < rows; ++r) {
      Real t[kPanel];
      bernoulli_terms(lanes, b.z + r * kPanel, b.codes + r * n + column, t);
      Vec<double> sum = load(b.sums + r * width);
      for (size_t i = 0; i < lanes; i += width) sum = sum + load_double(t + i);
      store(b.sums + r * width, sum);
      if (at.terms)
        for (size_t i = 0; i < lanes; ++i) at.terms[(at.begin + r) * n + column + i] = double(t[i]);
    }
  }
  for (size_t r = 0; at.log_prob && r < rows; ++r) at.log_prob[at.begin + r] = hsum(load(b.sums + r * width));
}

chainrule_status score(const Network &net, const Room &room, const Rows &at, const Buffers &b, int threads, const chainrule_exec *exec) {
  const size_t rows = at.end - at.begin, n = net.n_features, apart = bytes_apart(room);
  auto scratch = [&](int worker) { return reinterpret_cast<Real *>(b.apart + size_t(worker) * apart); };
  chainrule_status status = encode(rows, n, at.x + at.begin * at.ldx, at.ldx, net.order, net.reference, net.first, b.codes, n, b.index, n, b.count, exec);
  const chainrule_ones ones = {n, b.index, b.count};
  auto panels = [&](const Linear &w, size_t together, auto &&f) {
    const size_t count = (panels_in(w.n_out) + together - 1) / together;
    if (status != CHAINRULE_OK || !count) return;
    const size_t team = smaller(size_t(threads), count);
    status = for_each(exec, int(team), count, 1,
                      [&](size_t piece, size_t, int worker) { f(dealt(piece, count, team) * together, scratch(worker)); });
  };
  auto from_ones = [&](const Linear &w, const Finish &f, Real *y, size_t ldy) {
    panels(w, 2, [&](size_t panel, Real *own) {
      uint32_t *place = reinterpret_cast<uint32_t *>(own + kStretch * kPanel + room.terms);
      Real *copy = rows >= kWorthCopy ? own : nullptr;
      if (panel + 1 < panels_in(w.n_out)) product_of_ones<2>(w, panel, 0, rows, ones, f, y, ldy, place, copy);
      else product_of_ones<1>(w, panel, 0, rows, ones, f, y, ldy, place, copy);
    });
  };
  auto finish_of = [&](const Layer &layer) {
    return Finish{layer.addend ? layer.addend + at.begin * layer.lda : nullptr, layer.lda, layer.b, layer.activation, nullptr, 0};
  };
  const Real *h = nullptr;
  for (size_t l = 0; l < net.n_layers; ++l) {
    const Layer &layer = net.hidden[l];
    Real *to = b.h[l % 2];
    if (l == 0) from_ones(layer.linear, finish_of(layer), to, room.ldh);
    else
      panels(layer.linear, 1, [&](size_t panel, Real *own) {
        dense_panel(layer.linear, panel, rows, h, room.ldh, finish_of(layer), to, room.ldh, own);
        if (layer.residual) add_panel(h, panel, rows, layer.linear.n_out, to, room.ldh);
      });
    h = to;
  }
  Finish f = finish_of(net.output);
  f.activation = CHAINRULE_IDENTITY;
  if (net.direct.W) {
    Finish part = f;
    if (net.n_layers) part.b = nullptr;
    Real *to = net.n_layers ? b.direct : b.z;
    from_ones(net.direct, part, to, room.ldz);
    f.addend = to, f.lda = room.ldz;
  }
  if (room.by_panel && status == CHAINRULE_OK) {
    score_bits(net, room, at, b, h, f, scratch(0));
    return CHAINRULE_OK;
  }
  if (net.n_layers)
    panels(net.output.linear, 1, [&](size_t panel, Real *own) { dense_panel(net.output.linear, panel, rows, h, room.ldh, f, b.z, room.ldz, own); });
  if (status != CHAINRULE_OK) return status;
  return for_each(exec, int(smaller(size_t(threads), rows)), rows, 16, [&](size_t begin, size_t end, int worker) {
    Real *own = scratch(worker) + kStretch * kPanel;
    for (size_t r = begin; r < end; ++r) {
      const Real *z = b.z + r * room.ldz, *t = own;
      if (net.first) t = categorical_terms(room.columns, z, b.codes + r * n, categorical_row_at(own, room.columns));
      else bernoulli_terms(n, z, b.codes + r * n, own);
      if (at.terms)
        for (size_t i = 0; i < n; ++i) at.terms[(at.begin + r) * n + i] = double(t[i]);
      if (at.log_prob) at.log_prob[at.begin + r] = sum_terms(t, n);
    }
  });
}

}  // namespace

CHAINRULE_KERNEL(masked_score)(const Network *network, size_t n_rows, const uint8_t *x, size_t ldx, double *log_prob,
                               double *terms, const chainrule_exec *exec) {
  const Network &net = *network;
  double work = net.direct.W ? work_of(net.direct) : 0;
  bool apart = net.n_layers && copies(net.output.linear);
  for (size_t l = 0; l < net.n_layers; ++l) work += work_of(net.hidden[l].linear), apart = apart || copies(net.hidden[l].linear);
  if (net.n_layers) work += work_of(net.output.linear);
  if (n_rows == 0) return CHAINRULE_OK;
  const int threads = plan_threads(exec, panels_in(units_of(net)) * n_rows, (work + 40 * double(net.n_features)) * double(n_rows));
  const bool few = n_rows < size_t(threads) * kFewRows;
  const size_t fewest = few ? 1 : (n_rows + tile_rows(apart) - 1) / tile_rows(apart), side = few ? 1 : size_t(threads);
  const size_t tiles = smaller((fewest + side - 1) / side * side, n_rows);  // as many for each thread
  const Room room = room_for(net, (n_rows + tiles - 1) / tiles, !few || threads == 1);
  Buffers b;
  const size_t shared = place_buffers(net, room, nullptr, b), size = shared + (few ? size_t(threads) : 1) * bytes_apart(room);
  char *memory = static_cast<char *>(arena(side * size));
  if (!memory) return CHAINRULE_NO_MEMORY;
  auto tile = [&](size_t t, int worker, int team, const chainrule_exec *how) {
    Buffers own;
    place_buffers(net, room, memory + size_t(worker) * size, own);
    return score(net, room, {n_rows * t / tiles, n_rows * (t + 1) / tiles, x, ldx, log_prob, terms}, own, team, how);
  };
  if (few) return tile(0, 0, threads, exec);
  const chainrule_exec alone = {1, nullptr, nullptr};
  return for_each(exec, int(side), tiles, 1, [&](size_t t, size_t, int worker) { tile(t, worker, 1, &alone); });
}

}  // namespace chainrule
