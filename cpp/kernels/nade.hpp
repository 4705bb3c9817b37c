// NADE, the part that scoring, gradient and sampling share: the march of a tile of rows along the chain.
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

// decide(i, z) sees the R logits of step i (encoded: of y_i = 1) and returns the bit mask of rows whose y_i is 1.
template <int A, int R, class Decide> CHAINRULE_INLINE void march(const Nade &nade, Tile tile, Decide &&decide) {
  const size_t d = nade.n_hidden, full = d / kWidth;
  const int tail = int(d % kWidth);
  auto state = [](Real *base, size_t j, size_t r) { return base + (j * R + r) * kWidth; };
  auto units = [=](const Real *row, size_t j) { return j < full ? load(row + j * kWidth) : load_part(row + j * kWidth, tail); };
  const size_t vectors = full + (tail != 0);

  for (size_t j = 0; j < vectors; ++j) {
    Vec<Real> h = activate<A>(zero<Real>() + units(nade.c, j));
    for (size_t r = 0; r < R; ++r) {
      store(state(tile.h, j, r), h);
      store(state(tile.part, j, r), zero<Real>());
      store(state(tile.whole, j, r), zero<Real>());
    }
  }
  for (size_t i = 0; i < nade.n_features; ++i) {
    if (i % kChunk == 0 && i > 0) {
      for (size_t k = 0; k < vectors * R * kWidth; k += kWidth) {
        store(tile.whole + k, load(tile.whole + k) + load(tile.part + k));
        store(tile.part + k, zero<Real>());
      }
    }
    const Real *v = nade.V + i * nade.ldv;
    Vec<Real> sum[R];
    for (int r = 0; r < R; ++r) sum[r] = zero<Real>();
    auto step = [&](size_t j, Vec<Real> vj) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sum[r] = fma(load(state(tile.h, j, size_t(r))), vj, sum[r]);
    };
    // The next row of W is asked for ahead: with 8 rows of bits, two steps in three use it.
    const Real *next = nade.W + (i + 1 < nade.n_features ? i + 1 : i) * nade.ldw;
    for (size_t j = 0; j < full; ++j) {
      __builtin_prefetch(next + j * kWidth);
      step(j, load(v + j * kWidth));
    }
    if (tail) step(full, load_part(v + full * kWidth, tail));
    Real z[8] = {};
    hsum_each(sum, z);
    for (int r = 0; r < R; ++r) z[r] += nade.b[i];

    const Real *w = nade.W + i * nade.ldw;
    for (unsigned moves = decide(i, z); moves; moves &= moves - 1) {
      const size_t r = size_t(__builtin_ctz(moves));
      auto move = [&](size_t j, Vec<Real> wj, Vec<Real> cj) {
        Vec<Real> part = load(state(tile.part, j, r)) + wj;
        store(state(tile.part, j, r), part);
        store(state(tile.h, j, r), activate<A>((load(state(tile.whole, j, r)) + part) + cj));
      };
      size_t j = 0;
      for (; j + 2 <= full; j += 2) {  // two vectors at once: their activations overlap
        Vec<Real, 2> part = pair(load(state(tile.part, j, r)), load(state(tile.part, j + 1, r))) + load<Real, 2>(w + j * kWidth);
        Vec<Real, 2> whole = pair(load(state(tile.whole, j, r)), load(state(tile.whole, j + 1, r)));
        Vec<Real, 2> h = activate<A>((whole + part) + load<Real, 2>(nade.c + j * kWidth));
        for (int k = 0; k < 2; ++k) {
          store(state(tile.part, j + size_t(k), r), half(part, k));
          store(state(tile.h, j + size_t(k), r), half(h, k));
        }
      }
      for (; j < full; ++j) move(j, load(w + j * kWidth), load(nade.c + j * kWidth));
      if (tail) move(full, load_part(w + full * kWidth, tail), load_part(nade.c + full * kWidth, tail));
    }
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
CHAINRULE_INLINE size_t column(const Nade &nade, size_t i) { return nade.order ? nade.order[i] : i; }
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
