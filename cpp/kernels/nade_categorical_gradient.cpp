// NADE on columns of 0..K-1: gradient of -sum_r weight_r log p(x_r). nade_categorical.hpp has the equations.
//
// Forward, threads over groups of tiles of rows: the march gives the logits, and errors e_k = weight (softmax - [y = v]) stay,
// [rows][n_logits]. Backward, threads over blocks of hidden units, each owning its columns of every gradient:
//
//   for i = n..1:  gW_k += da at k = f_i + y_i - 1, y_i > 0;  gV_k += e_k h_i, k of step i;  t = sum_k e_k V_k;
//                  da += t g'(a_i);      gc += da, gb_k += e_k
//
// kRows rows go back together, so that a step is two small products, [K - 1][rows][units] and [rows][K - 1][units], in
// registers. Their states are recomputed from sums kept every kSteps variables, and kept for kSteps: nothing is subtracted,
// so nothing drifts.
//
// Sums over rows are chains in chunks of 256 rows at absolute positions; t is one chain over the logits of a step. Cost a
// row, m moves: 3 n_logits d multiply-adds and 2 m d activations in all. Floor at 100 rows of 60 nucleotides (n_logits 180,
// d = 500, float, two threads: 100 G multiply-adds, 10.6 G sigmoids a second): 0.66 ms; takes 1.23. Memory: 256 rows of
// errors, 4 n_logits blocks of units a thread.
#include "nade_categorical.hpp"
#include "units.hpp"

namespace chainrule {
namespace {

constexpr size_t kRows = 32;   // rows that go back together
constexpr size_t kSteps = 16;  // variables between checkpoints
constexpr int kAtOnce = 4;     // logits of gV, rows of t in registers

// One worker's memory for a block of B units.
struct Block {
  Real *W, *gW, *V, *gV;  // [n_logits][B]
  Real *c, *gc;           // [B]
  Real *part, *whole;     // [kRows][segments][B]: sums at the start of a segment of kSteps variables
  Real *da;               // [kRows][B]: d log p / d a
  Real *history;          // [kRows][kSteps][B]: g(a) before the moves of a segment, and after each but a last one
};
CHAINRULE_INLINE size_t segments_in(size_t n) { return (n + kSteps - 1) / kSteps; }
CHAINRULE_INLINE size_t block_size(const NadeCategorical &nade) {
  return kMaxBlock * kWidth * (4 * n_logits(nade) + 2 + kRows * (2 * segments_in(nade.n_features) + 1 + kSteps));
}
template <int N> CHAINRULE_INLINE Block block_at(Real *p, const NadeCategorical &nade) {
  const size_t logits = n_logits(nade), segments = segments_in(nade.n_features);
  auto take = [&p](size_t rows) { Real *at = p; p += rows * N * kWidth; return at; };
  Block block;
  block.W = take(logits), block.gW = take(logits), block.V = take(logits), block.gV = take(logits);
  block.c = take(1), block.gc = take(1);
  block.part = take(kRows * segments), block.whole = take(kRows * segments);
  block.da = take(kRows), block.history = take(kRows * kSteps);
  return block;
}

// Sums of a row on their way: whole chunks, the current one, and where that ends.
template <int N> struct Sums {
  Units<N> whole, part;
  size_t next;
};
template <int N> CHAINRULE_INLINE void reach(Sums<N> &sums, size_t unit) {
  if (unit < sums.next) return;
  sums.next = unit / kChunk * kChunk + kChunk;
  sums.whole = each<N>([&](int k) __attribute__((always_inline)) { return sums.whole.v[k] + sums.part.v[k]; });
  sums.part = each<N>([](int) __attribute__((always_inline)) { return zero<Real>(); });
}
template <int N> CHAINRULE_INLINE void add_unit(Sums<N> &sums, const Block &block, size_t unit) {
  reach(sums, unit);
  const Real *w = block.W + unit * N * kWidth;
  sums.part = each<N>([&](int k) __attribute__((always_inline)) { return sums.part.v[k] + load(w + size_t(k) * kWidth); });
}

// One row, forwards: its sums at the start of every segment.
template <int N>
CHAINRULE_INLINE void checkpoints(const NadeCategorical &nade, const Block &block, const uint8_t *y, Real *part, Real *whole) {
  constexpr size_t B = N * kWidth;
  const Units<N> nothing = each<N>([](int) { return zero<Real>(); });
  Sums<N> sums = {nothing, nothing, kChunk};
  for (size_t i = 0; i < nade.n_features; ++i) {
    if (i % kSteps == 0) {
      reach(sums, nade.first[i]);
      store_units<N>(part + i / kSteps * B, sums.part);
      store_units<N>(whole + i / kSteps * B, sums.whole);
    }
    if (y[i]) add_unit(sums, block, nade.first[i] + y[i] - 1);
  }
}

// One row, variables [begin, end) of a segment, forwards: g(a) wherever one of them looks at it. Returns where the last does.
template <int A, int N>
CHAINRULE_INLINE size_t remember(const NadeCategorical &nade, const Block &block, const uint8_t *y, size_t begin, size_t end,
                                 const Real *part, const Real *whole, Real *history) {
  constexpr size_t B = N * kWidth;
  Sums<N> sums = {load_units<N>(whole), load_units<N>(part), nade.first[begin] / kChunk * kChunk + kChunk};
  size_t at = 0;
  for (size_t i = begin;;) {
    store_units<N>(history + at * B, each<N>([&](int k) __attribute__((always_inline)) {
      return activate<A>((sums.whole.v[k] + sums.part.v[k]) + load(block.c + size_t(k) * kWidth));
    }));
    while (i + 1 < end && !y[i]) ++i;
    if (i + 1 >= end) return at;
    add_unit(sums, block, nade.first[i] + y[i] - 1);
    ++i, ++at;
  }
}

// Rows [0, n_rows) of gV for L logits: a chain over rows.
template <int N, int L>
CHAINRULE_INLINE void add_rows(Real *gv, const Real *const *h, const Real *e, size_t lde, size_t n_rows) {
  constexpr size_t B = N * kWidth;
  Units<N> sum[L];
#pragma GCC unroll 4
  for (int l = 0; l < L; ++l) sum[l] = load_units<N>(gv + size_t(l) * B);
  for (size_t r = 0; r < n_rows; ++r) {
    const Units<N> hr = load_units<N>(h[r]);
#pragma GCC unroll 4
    for (int l = 0; l < L; ++l) {
      const Vec<Real> error = set1(e[r * lde + size_t(l)]);
#pragma GCC unroll 4
      for (int k = 0; k < N; ++k) sum[l].v[k] = fma(error, hr.v[k], sum[l].v[k]);
    }
  }
#pragma GCC unroll 4
  for (int l = 0; l < L; ++l) store_units<N>(gv + size_t(l) * B, sum[l]);
}
// da of R rows: a chain over the logits of a step, times the slope.
template <int A, int N, int R>
CHAINRULE_INLINE void add_logits(Real *da, const Real *const *h, const Real *v, size_t n_logits, const Real *e, size_t lde) {
  constexpr size_t B = N * kWidth;
  Units<N> t[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) t[r] = each<N>([](int) __attribute__((always_inline)) { return zero<Real>(); });
  for (size_t l = 0; l < n_logits; ++l) {
    const Units<N> vl = load_units<N>(v + l * B);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vec<Real> error = set1(e[size_t(r) * lde + l]);
#pragma GCC unroll 4
      for (int k = 0; k < N; ++k) t[r].v[k] = fma(error, vl.v[k], t[r].v[k]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (size_t k = 0; k < N * kWidth; k += kWidth) {
      Real *to = da + size_t(r) * B + k;
      store(to, fma(t[r].v[k / kWidth], activation_slope<A>(load(h[r] + k)), load(to)));
    }
}

// Units [unit, unit + live) of every gradient, over one chunk of rows; the first chunk overwrites, later ones add.
template <int A, int N>
void backward_block(const NadeCategorical &nade, const NadeGradient &gradient, size_t unit, size_t n_rows, const uint8_t *y,
                    size_t ldy, const Real *errors, size_t lde, bool add, Real *scratch) {
  constexpr size_t B = N * kWidth;
  const size_t n = nade.n_features, logits = n_logits(nade), segments = segments_in(n);
  const Block block = block_at<N>(scratch, nade);
  const Slice<N> slice{unit, nade.n_hidden, add};
  const Units<N> nothing = each<N>([](int) { return zero<Real>(); });
  for (size_t k = 0; k < logits; ++k) {
    slice.gather(block.W + k * B, nade.W + k * nade.ldw);
    slice.gather(block.V + k * B, nade.V + k * nade.ldv);
    store_units<N>(block.gW + k * B, nothing);
    store_units<N>(block.gV + k * B, nothing);
  }
  slice.gather(block.c, nade.c);
  store_units<N>(block.gc, nothing);

  for (size_t row = 0; row < n_rows; row += kRows) {
    const size_t rows = n_rows - row < kRows ? n_rows - row : kRows;
    const uint8_t *yr = y + row * ldy;
    for (size_t r = 0; r < rows; ++r) {
      checkpoints<N>(nade, block, yr + r * ldy, block.part + r * segments * B, block.whole + r * segments * B);
      store_units<N>(block.da + r * B, nothing);
    }
    for (size_t segment = segments; segment-- > 0;) {
      const size_t begin = segment * kSteps, end = begin + kSteps < n ? begin + kSteps : n;
      const Real *h[kRows];  // g(a) at the step at hand
      for (size_t r = 0; r < rows; ++r) {
        Real *history = block.history + r * kSteps * B;
        const size_t at = (r * segments + segment) * B;
        h[r] = history + B * remember<A, N>(nade, block, yr + r * ldy, begin, end, block.part + at, block.whole + at, history);
      }
      for (size_t i = end; i-- > begin;) {
        const size_t first = nade.first[i], count = nade.first[i + 1] - first;
        const Real *e = errors + row * lde + first;
        for (size_t r = 0; r < rows; ++r) {
          const uint8_t code = yr[r * ldy + i];
          if (!code) continue;
          Real *gw = block.gW + (first + code - 1) * B;
          const Real *da = block.da + r * B;
          store_units<N>(gw, each<N>([&](int k) { return load(gw + k * kWidth) + load(da + k * kWidth); }));
          if (i + 1 < end) h[r] -= B;
        }
        size_t k = 0;
        for (; k + kAtOnce <= count; k += kAtOnce) add_rows<N, kAtOnce>(block.gV + (first + k) * B, h, e + k, lde, rows);
        const size_t left = count - k;
        if (left == 3) add_rows<N, 3>(block.gV + (first + k) * B, h, e + k, lde, rows);
        if (left == 2) add_rows<N, 2>(block.gV + (first + k) * B, h, e + k, lde, rows);
        if (left == 1) add_rows<N, 1>(block.gV + (first + k) * B, h, e + k, lde, rows);
        size_t r = 0;
        const Real *v = block.V + first * B;
        for (; r + kAtOnce <= rows; r += kAtOnce) add_logits<A, N, kAtOnce>(block.da + r * B, h + r, v, count, e + r * lde, lde);
        for (; r < rows; ++r) add_logits<A, N, 1>(block.da + r * B, h + r, v, count, e + r * lde, lde);
      }
    }
    for (size_t r = 0; r < rows; ++r)
      store_units<N>(block.gc, each<N>([&](int k) {
        return load(block.gc + size_t(k) * kWidth) + load(block.da + r * B + size_t(k) * kWidth);
      }));
  }

  const bool tied = nade.V == nade.W;
  for (size_t k = 0; k < logits; ++k) {
    Real *gw = block.gW + k * B, *gv = block.gV + k * B;
    if (tied) store_units<N>(gw, each<N>([&](int q) { return load(gw + q * kWidth) + load(gv + q * kWidth); }));
    else slice.scatter(gradient.V + k * gradient.ldv, gv);
    slice.scatter(gradient.W + k * gradient.ldw, gw);
  }
  slice.scatter(gradient.c, block.gc);
}

}  // namespace

CHAINRULE_KERNEL(nade_categorical_gradient)(const NadeCategorical *model, size_t n_rows, const uint8_t *x, size_t ldx,
                                            const Real *weight, double *log_prob, const NadeGradient *gradient,
                                            const chainrule_exec *exec) {
  const NadeCategorical nade = *model;
  const size_t n = nade.n_features, d = nade.n_hidden, logits = n_logits(nade), width = padded(n), lde = padded(logits);
  const size_t chunk_rows = n_rows < kChunk ? n_rows : kChunk;
  const double work = march_work(nade, chunk_rows) * 3;
  const UnitBlocks units = unit_blocks(exec, d, work);
  const size_t tiles = (chunk_rows + kTile - 1) / kTile;
  const int threads = plan_threads(exec, tiles > units.count ? tiles : units.count, work);
  const size_t group = group_of(chunk_rows, threads), group_rows = group * kTile;

  const size_t forward = group * tile_size(d) + kLogitLanes + group_rows * width, backward = block_size(nade);
  const size_t share = ((forward > backward ? forward : backward) * sizeof(Real) + 63) / 64 * 64;
  const size_t shared = chunk_rows * lde * sizeof(Real) + (chunk_rows * width + 63) / 64 * 64;
  char *memory = static_cast<char *>(arena(shared + size_t(threads) * share));
  if (!memory) return CHAINRULE_NO_MEMORY;
  Real *errors = reinterpret_cast<Real *>(memory);                                                 // [rows][lde]
  uint8_t *y = reinterpret_cast<uint8_t *>(memory + chunk_rows * lde * sizeof(Real));              // [rows][width]
  auto scratch = [&](int worker) { return reinterpret_cast<Real *>(memory + shared + size_t(worker) * share); };

  return with_activation(nade.activation, [&]<int A>() {
    size_t start = 0;
    do {  // at least once: no rows, gradient zero
      const size_t rows = n_rows - start < kChunk ? n_rows - start : kChunk;
      chainrule_status status = for_each(exec, threads, rows, group_rows, [&](size_t begin, size_t end, int worker) {
        Tile all[kGroup];
        for (size_t t = 0; t < group; ++t) all[t] = tile_at(scratch(worker) + t * tile_size(d), d);
        Real *z = scratch(worker) + group * tile_size(d), *term = z + kLogitLanes;
        for_groups(begin, end, [&]<int R>(size_t first, size_t n_tiles) {
          encode(nade, n_tiles * R, x + (start + first) * ldx, ldx, y + first * width, width);
          march<A, R>(nade, all, n_tiles, z, [&](size_t t, size_t i, Real *zi, uint8_t *code) {
            const size_t count = nade.first[i + 1] - nade.first[i], row = first + t * R;
            for (size_t r = 0; r < R; ++r) code[r] = y[(row + r) * width + i];
            const Vec<Real> chosen = logits_of(zi, code, R);
            const CategoricalLanes lanes = exponentials(zi, count);
            if (log_prob) {
              Real lane[kWidth];
              store(lane, log_prob_of(chosen, lanes));
              for (size_t r = 0; r < R; ++r) term[(t * R + r) * width + i] = lane[r];
            }
            for (size_t k = 0; k < count; ++k) store(zi + k * kWidth, load(zi + k * kWidth) / lanes.s);
            for (size_t r = 0; r < R; ++r) {
              if (code[r]) zi[(size_t(code[r]) - 1) * kWidth + r] -= 1;
              const Real w = weight ? weight[start + row + r] : Real(1) / Real(n_rows);
              Real *e = errors + (row + r) * lde + nade.first[i];
              for (size_t k = 0; k < count; ++k) e[k] = w * zi[k * kWidth + r];
            }
          });
          for (size_t r = 0; log_prob && r < n_tiles * R; ++r) {
            fill(term + r * width, n, width, 0);
            log_prob[start + first + r] = sum_terms(term + r * width, n);
          }
        });
      });
      if (status != CHAINRULE_OK) return status;

      const bool add = start > 0;
      status = for_each(exec, threads, units.count + 1, 1, [&](size_t piece, size_t, int worker) {
        if (piece == units.count) {
          bias_gradient(logits, rows, errors, lde, add, gradient->b);
          return;
        }
        units.visit(piece, [&]<int N>(size_t unit) {
          backward_block<A, N>(nade, *gradient, unit, rows, y, width, errors, lde, add, scratch(worker));
        });
      });
      if (status != CHAINRULE_OK) return status;
      start += rows;
    } while (start < n_rows);
    return CHAINRULE_OK;
  });
}

}  // namespace chainrule
