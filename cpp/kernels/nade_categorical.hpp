// NADE on columns of 0..K-1: what its scorer, gradient and sampler share.
//
//   a_1 = c;  z_{i,v} = b_k + V_k . g(a_i), k = f_i + v - 1, v = 1..K_i - 1;  a_{i+1} = a_i + W_k at v = y_i > 0
//
// (Larochelle & Murray 2011, with the softmax of categorical.hpp in the place of the sigmoid; f_i counts the logits before
// step i.) y_i is a code: the commonest value of a column is 0, and moves nothing. Sums follow nade.hpp with units k in the
// place of variables: chunks of 256 units at absolute positions. With K = 2 everywhere k = i, and this is nade.hpp.
//
// A step of R rows costs (K - 1) R d multiply-adds; a move d additions and d activations. Several tiles march together, so
// that the rows of V of a step, which may be many, come from the inner cache for all tiles but the first.
#pragma once
#include "categorical.hpp"
#include "nade.hpp"

namespace chainrule {
namespace {

constexpr int kLogits = Vec<Real>::regs == 1 ? 2 : 1;  // rows of V at a time: what registers hold beside a tile
constexpr size_t kGroup = 4;                           // tiles that march together
constexpr size_t kLogitLanes = (kMaxValues - 1) * kWidth;

CHAINRULE_INLINE size_t n_logits(const NadeCategorical &nade) { return nade.first[nade.n_features]; }
CHAINRULE_INLINE size_t reference(const NadeCategorical &nade, size_t column) { return nade.reference ? nade.reference[column] : 0; }

// decide(t, i, z, code) sees the logits of step i of tile t, z[(v - 1) kWidth + row], and gives the codes of its R rows; z
// is its own to overwrite, in lanes of rows there are. z has kLogitLanes elements.
template <int A, int R, class Decide>
CHAINRULE_INLINE void march(const NadeCategorical &nade, const Tile *tiles, size_t n_tiles, Real *z, Decide &&decide) {
  uint32_t next[kGroup][kTile];  // the end of the chunk that a row's part belongs to
  for (size_t t = 0; t < n_tiles; ++t) {
    start<A, R>(nade, tiles[t]);
    for (int r = 0; r < R; ++r) next[t][r] = kChunk;
  }
  const size_t vectors = padded(nade.n_hidden) / kWidth;
  auto nothing = [](size_t) __attribute__((always_inline)) {};
  for (size_t k = 0; k < kLogitLanes; k += kWidth) store(z + k, zero<Real>());
  for (size_t i = 0; i < nade.n_features; ++i) {
    const size_t first = nade.first[i], last = nade.first[i + 1];
    for (size_t t = 0; t < n_tiles; ++t) {
      const Tile tile = tiles[t];
      size_t k = first;
      for (; k + kLogits <= last; k += kLogits) dots<R, kLogits>(nade, tile, k, z + (k - first) * kWidth, kWidth, nothing);
      for (; k < last; ++k) dots<R, 1>(nade, tile, k, z + (k - first) * kWidth, kWidth, nothing);
      uint8_t code[8];
      decide(t, i, z, code);
      if (i + 1 == nade.n_features) continue;  // nothing looks at the state after the last step
      for (size_t r = 0; r < R; ++r) {
        if (!code[r]) continue;
        const size_t unit = first + code[r] - 1;
        if (unit >= next[t][r]) {
          next[t][r] = uint32_t(unit / kChunk * kChunk + kChunk);
          for (size_t j = 0; j < vectors; ++j) {
            Real *part = state<R>(tile.part, j, r), *whole = state<R>(tile.whole, j, r);
            store(whole, load(whole) + load(part));
            store(part, zero<Real>());
          }
        }
        move<A, R>(nade, tile, r, unit);
      }
    }
  }
}

// Tiles a worker marches together, so that every thread has some.
CHAINRULE_INLINE size_t group_of(size_t n_rows, int threads) {
  const size_t tiles = (n_rows + kTile - 1) / kTile, share = (tiles + size_t(threads) - 1) / size_t(threads);
  return share < 1 ? 1 : share < kGroup ? share : kGroup;
}
// f<R>(first, n_tiles) over rows [begin, end): groups of up to kGroup whole tiles, then a tile of what is left.
template <class F> CHAINRULE_INLINE void for_groups(size_t begin, size_t end, F &&f) {
  while (end - begin >= kTile) {
    const size_t tiles = (end - begin) / kTile, n = tiles < kGroup ? tiles : kGroup;
    f.template operator()<kTile>(begin, n);
    begin += n * kTile;
  }
  for_tiles(begin, end, [&]<int R>(size_t at) { f.template operator()<R>(at, 1); });
}

// Codes of n rows in the order of the chain: bytes [n][stride].
CHAINRULE_INLINE void encode(const NadeCategorical &nade, size_t n, const uint8_t *x, size_t ldx, uint8_t *y, size_t stride) {
  for (size_t i = 0; i < nade.n_features; ++i) {
    const size_t k = column(nade, i), zero = reference(nade, k);
    for (size_t r = 0; r < n; ++r) y[r * stride + i] = uint8_t(code_of(x[r * ldx + k], zero));
  }
}

CHAINRULE_INLINE double march_work(const NadeCategorical &nade, size_t n_rows) {
  return double(n_rows) * (double(n_logits(nade)) + 10 * double(nade.n_features)) * double(nade.n_hidden + 8);
}

}  // namespace
}  // namespace chainrule
