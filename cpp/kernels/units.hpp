// Backward passes of NADE: a few vectors of hidden units in registers, and hidden units dealt out to threads in blocks, each
// the owner of its columns of every gradient.
#pragma once
#include "real.hpp"

namespace chainrule {
namespace {

constexpr int kMaxBlock = Vec<Real>::regs == 1 ? 4 : 1;  // vectors of units in a block: what registers hold
constexpr int kMinBlock = Vec<Real>::regs == 1 ? 2 : 1;  // of the last blocks, and of all when there are many threads

// N logical vectors of units in registers.
template <int N> struct Units {
  Vec<Real> v[N];
};
template <int N> CHAINRULE_INLINE Units<N> load_units(const Real *p) {
  Units<N> u;
#pragma GCC unroll 4
  for (int k = 0; k < N; ++k) u.v[k] = load(p + k * kWidth);
  return u;
}
template <int N> CHAINRULE_INLINE void store_units(Real *p, Units<N> u) {
#pragma GCC unroll 4
  for (int k = 0; k < N; ++k) store(p + k * kWidth, u.v[k]);
}
template <int N, class F> CHAINRULE_INLINE Units<N> each(F &&f) {
  Units<N> u;
#pragma GCC unroll 4
  for (int k = 0; k < N; ++k) u.v[k] = f(k);
  return u;
}

// The units [first, first + N vectors) of rows of n_hidden units, to and from rows of a block; lanes beyond are zero.
template <int N> struct Slice {
  size_t first, n_hidden;
  bool add;  // to what stands there, or in its place
  CHAINRULE_INLINE int lanes(int k) const {
    const size_t at = first + size_t(k) * kWidth, left = at < n_hidden ? n_hidden - at : 0;
    return int(left < kWidth ? left : kWidth);
  }
  CHAINRULE_INLINE void gather(Real *to, const Real *row) const {
    for (int k = 0; k < N; ++k) store(to + k * kWidth, load_part(row + first + size_t(k) * kWidth, lanes(k)));
  }
  CHAINRULE_INLINE void scatter(Real *row, const Real *from) const {
    for (int k = 0; k < N; ++k) {
      Real *at = row + first + size_t(k) * kWidth;
      const Vec<Real> value = load(from + k * kWidth);
      store_part(at, add ? load_part(at, lanes(k)) + value : value, lanes(k));
    }
  }
};

// The gradient of n biases: sums over rows of errors, in ascending order.
CHAINRULE_INLINE void bias_gradient(size_t n, size_t n_rows, const Real *errors, size_t lde, bool add, Real *b) {
  for (size_t i = 0; i < n; i += kWidth) {
    const int live = n - i < kWidth ? int(n - i) : int(kWidth);
    Vec<Real> sum = zero<Real>();
    for (size_t r = 0; r < n_rows; ++r) sum = sum + load(errors + r * lde + i);
    store_part(b + i, add ? load_part(b + i, live) + sum : sum, live);
  }
}

// Blocks of kMaxBlock vectors of units, the rest of kMinBlock.
struct UnitBlocks {
  size_t large, count;
  // f<N>(unit): the N vectors of units of block `piece` start at `unit`.
  template <class F> CHAINRULE_INLINE void visit(size_t piece, F &&f) const {
    if (piece < large) f.template operator()<kMaxBlock>(piece * kMaxBlock * kWidth);
    else f.template operator()<kMinBlock>((large * kMaxBlock + (piece - large) * kMinBlock) * kWidth);
  }
};
CHAINRULE_INLINE UnitBlocks unit_blocks(const chainrule_exec *exec, size_t n_hidden, double work) {
  const size_t vectors = padded(n_hidden) / kWidth;
  const bool few = vectors / kMaxBlock < size_t(plan_threads(exec, vectors, work));
  const size_t large = few ? 0 : vectors / kMaxBlock + (vectors % kMaxBlock > kMinBlock);
  const size_t rest = large * kMaxBlock < vectors ? vectors - large * kMaxBlock : 0;
  return {large, large + (rest + kMinBlock - 1) / kMinBlock};
}

}  // namespace
}  // namespace chainrule
