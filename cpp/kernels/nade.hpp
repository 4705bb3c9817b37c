// NADE, the part that scoring, gradient and sampling share: the march of a tile of rows along the chain. Its pieces (start,
// dots, move) also make the march of nade_categorical.hpp, where a step has several logits.
//
//   a_1 = c;  z_i = b_i + V_i . g(a_i);  a_{i+1} = a_i + y_i W_i        (Larochelle & Murray 2011)
//
// y_i is a bit, so a row's hidden state moves at y_i = 1 alone, and only there are activations computed: the columns are
// encoded so that the rarer value is 1. R rows march together and share each row of V and W. A step costs R d
// multiply-adds and one horizontal sum a row; a move d additions and d activations.
//
// Sums follow the rule for GEMM elements: a_i = (whole chunks + the current chunk) + c with chunks of 256 variables at
// absolute positions, so the state after any prefix is the one a full masked product of that prefix would give.
#pragma once
#include "activation.hpp"
#include "bernoulli.hpp"

namespace chainrule {
namespace {

constexpr int kTile = Vec<Real>::regs == 1 ? 8 : 4;         // rows that march together: accumulators fit the registers
static_assert(kTile <= 8);

// Two vectors side by side, and one of them back.
CHAINRULE_INLINE Vec<Real, 2> pair(Vec<Real> a, Vec<Real> b) {
  Vec<Real, 2> v;
  for (int q = 0; q < Vec<Real>::regs; ++q) v.r[q] = a.r[q], v.r[q + Vec<Real>::regs] = b.r[q];
  return v;
}
CHAINRULE_INLINE Vec<Real> half(Vec<Real, 2> v, int k) {
  Vec<Real> a;
  for (int q = 0; q < Vec<Real>::regs; ++q) a.r[q] = v.r[q + k * Vec<Real>::regs];
  return a;
}

// The hidden states of a tile: [vector of units][row][lane], so that a step reads them in one stream.
struct Tile {
  Real *h, *part, *whole;  // g(a); sum of the current chunk; sum of the chunks before it
};
CHAINRULE_INLINE size_t tile_size(size_t n_hidden) { return 3 * kTile * padded(n_hidden); }
CHAINRULE_INLINE Tile tile_at(Real *scratch, size_t n_hidden) {
  const size_t size = kTile * padded(n_hidden);
  return {scratch, scratch + size, scratch + 2 * size};
}

template <int R> CHAINRULE_INLINE Real *state(Real *base, size_t j, size_t r) { return base + (j * R + r) * kWidth; }

// a = c, before the first step.
template <int A, int R, class Model> CHAINRULE_INLINE void start(const Model &nade, Tile tile) {
  const size_t d = nade.n_hidden, full = d / kWidth;
  for (size_t j = 0; j * kWidth < d; ++j) {
    const Real *c = nade.c + j * kWidth;
    Vec<Real> h = activate<A>(zero<Real>() + (j < full ? load(c) : load_part(c, int(d % kWidth))));
    for (size_t r = 0; r < R; ++r) {
      store(state<R>(tile.h, j, r), h);
      store(state<R>(tile.part, j, r), zero<Real>());
      store(state<R>(tile.whole, j, r), zero<Real>());
    }
  }
}

// The logits of L rows of V from row k on: z[l ldz + r] for R rows of data. ahead(j) is told of each whole vector before.
template <int R, int L, class Model, class Ahead>
CHAINRULE_INLINE void dots(const Model &nade, Tile tile, size_t k, Real *z, size_t ldz, Ahead &&ahead) {
  const size_t d = nade.n_hidden, full = d / kWidth;
  const int tail = int(d % kWidth);
  const Real *v = nade.V + k * nade.ldv;
  Vec<Real> sum[L][R];
  for (int l = 0; l < L; ++l)
    for (int r = 0; r < R; ++r) sum[l][r] = zero<Real>();
  auto step = [&](size_t j, auto &&units) __attribute__((always_inline)) {
    Vec<Real> vj[L];
#pragma GCC unroll 2
    for (int l = 0; l < L; ++l) vj[l] = units(v + size_t(l) * nade.ldv + j * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec<Real> h = load(state<R>(tile.h, j, size_t(r)));
#pragma GCC unroll 2
      for (int l = 0; l < L; ++l) sum[l][r] = fma(h, vj[l], sum[l][r]);
    }
  };
  for (size_t j = 0; j < full; ++j) {
    ahead(j);
    step(j, [](const Real *p) __attribute__((always_inline)) { return load(p); });
  }
  if (tail) step(full, [tail](const Real *p) __attribute__((always_inline)) { return load_part(p, tail); });
#pragma GCC unroll 2
  for (int l = 0; l < L; ++l) {
    hsum_each(sum[l], z + size_t(l) * ldz);
    for (int r = 0; r < R; ++r) z[size_t(l) * ldz + size_t(r)] += nade.b[k + size_t(l)];
  }
}

// Row r of the tile moves by row k of W.
template <int A, int R, class Model> CHAINRULE_INLINE void move(const Model &nade, Tile tile, size_t r, size_t k) {
  const size_t d = nade.n_hidden, full = d / kWidth;
  const int tail = int(d % kWidth);
  const Real *w = nade.W + k * nade.ldw;
  auto two = [&](size_t j, Vec<Real, 2> wj, Vec<Real, 2> cj) __attribute__((always_inline)) {
    Vec<Real, 2> part = pair(load(state<R>(tile.part, j, r)), load(state<R>(tile.part, j + 1, r))) + wj;
    Vec<Real, 2> whole = pair(load(state<R>(tile.whole, j, r)), load(state<R>(tile.whole, j + 1, r)));
    Vec<Real, 2> h = activate<A>((whole + part) + cj);
    for (int q = 0; q < 2; ++q) {
      store(state<R>(tile.part, j + size_t(q), r), half(part, q));
      store(state<R>(tile.h, j + size_t(q), r), half(h, q));
    }
  };
  auto one = [&](size_t j, Vec<Real> wj, Vec<Real> cj) __attribute__((always_inline)) {
    Vec<Real> part = load(state<R>(tile.part, j, r)) + wj;
    store(state<R>(tile.part, j, r), part);
    store(state<R>(tile.h, j, r), activate<A>((load(state<R>(tile.whole, j, r)) + part) + cj));
  };
  auto last = [=](const Real *p) __attribute__((always_inline)) { return load_part(p + full * kWidth, tail); };
  size_t j = 0;  // two vectors at once: their activations overlap
  for (; j + 2 <= full; j += 2) two(j, load<Real, 2>(w + j * kWidth), load<Real, 2>(nade.c + j * kWidth));
  if (j < full && tail) two(j, pair(load(w + j * kWidth), last(w)), pair(load(nade.c + j * kWidth), last(nade.c)));
  else if (j < full) one(j, load(w + j * kWidth), load(nade.c + j * kWidth));
  else if (tail) one(full, last(w), last(nade.c));
}

// decide(i, z) sees the R logits of step i (encoded: of y_i = 1) and returns the bit mask of rows whose y_i is 1.
template <int A, int R, class Decide> CHAINRULE_INLINE void march(const Nade &nade, Tile tile, Decide &&decide) {
  start<A, R>(nade, tile);
  for (size_t i = 0; i < nade.n_features; ++i) {
    if (i % kChunk == 0 && i > 0) {
      for (size_t k = 0; k < R * padded(nade.n_hidden); k += kWidth) {
        store(tile.whole + k, load(tile.whole + k) + load(tile.part + k));
        store(tile.part + k, zero<Real>());
      }
    }
    // The next row of W is asked for ahead: with 8 rows of bits, two steps in three use it.
    const Real *next = nade.W + (i + 1 < nade.n_features ? i + 1 : i) * nade.ldw;
    Real z[8] = {};
    dots<R, 1>(nade, tile, i, z, 8, [next](size_t j) __attribute__((always_inline)) { __builtin_prefetch(next + j * kWidth); });
    for (unsigned moves = decide(i, z); moves; moves &= moves - 1) move<A, R>(nade, tile, size_t(__builtin_ctz(moves)), i);
  }
}

// f<A, R>(first, R) over rows [begin, end), in tiles of 8, 4, 2, 1.
template <class F> CHAINRULE_INLINE void for_tiles(size_t begin, size_t end, F &&f) {
  while (begin < end) {
    const size_t left = end - begin;
    if (kTile == 8 && left >= 8) f.template operator()<8>(begin), begin += 8;
    else if (left >= 4) f.template operator()<4>(begin), begin += 4;
    else if (left >= 2) f.template operator()<2>(begin), begin += 2;
    else f.template operator()<1>(begin), begin += 1;
  }
}

// The column of step i, and whether it is flipped.
template <class Model> CHAINRULE_INLINE size_t column(const Model &nade, size_t i) { return nade.order ? nade.order[i] : i; }
CHAINRULE_INLINE uint8_t flip(const Nade &nade, size_t column) { return nade.flip ? nade.flip[column] : 0; }

// y = encode(x) of R rows in the order of the chain: bytes [R][stride] (zeros to the end), and the mask of rows per step.
template <int R>
CHAINRULE_INLINE void encode(const Nade &nade, const uint8_t *x, size_t ldx, uint8_t *y, size_t stride, uint8_t *moves) {
  const size_t n = nade.n_features;
  for (size_t i = 0; i < n; ++i) {
    const size_t k = column(nade, i);
    const uint8_t f = flip(nade, k);
    unsigned mask = 0;
    for (size_t r = 0; r < R; ++r) {
      const uint8_t bit = x[r * ldx + k] ^ f;
      y[r * stride + i] = bit;
      mask |= unsigned(bit) << r;
    }
    moves[i] = uint8_t(mask);
  }
  for (size_t r = 0; r < R; ++r)
    for (size_t i = n; i < stride; ++i) y[r * stride + i] = 0;
}

// Multiply-adds of a march, a sigmoid counted as 12: for plan_threads.
CHAINRULE_INLINE double march_work(const Nade &nade, size_t n_rows) {
  return double(n_rows) * double(nade.n_features) * double(nade.n_hidden + 8) * 3;
}

}  // namespace
}  // namespace chainrule
