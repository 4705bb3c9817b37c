// Inputs of zeros and ones, by the unit: what the gradient of their weights, and a step by it, share.
#pragma once
#include "panels.hpp"

namespace chainrule {
namespace {

// Two panels at a time, where that leaves pieces enough for the threads. The first panel of an odd number, the lightest of a
// staircase, is alone.
size_t panels_together(size_t panels, int threads) { return panels >= 4 * size_t(threads) ? 2 : 1; }
struct Group {
  size_t panel, count;
};
Group group_of(size_t group, size_t panels, size_t together) {
  if (together == 1 || panels % 2 == 0) return {group * together, together};
  return group ? Group{2 * group - 1, 2} : Group{0, 1};
}

// The ones of a chunk of rows by unit, for the units [begin, end): those of unit k come to stand at from[k] .. from[k + 1],
// rows ascending. A counting sort; what comes before `begin` is known from the rows themselves, so threads need not meet.
void sort_ones(const chainrule_ones &x, size_t start, size_t rows, size_t begin, size_t end, size_t n_in, uint32_t *from,
               uint32_t *rows_of) {
  auto for_ones = [&](auto &&f) __attribute__((always_inline)) {
    for (size_t r = 0; r < rows; ++r) {
      const uint32_t *index = x.index + (start + r) * x.ld, n = x.count[start + r];
      const size_t low = begin ? place_of(index, n, begin) : 0, high = end < n_in ? place_of(index, n, end) : n;
      f(r, index, low, high);
    }
  };
  uint32_t *count = from + 1, at = 0;  // count[k]: of unit k; then where its next row goes, which is at last where it ends
  for (size_t k = begin; k < end; ++k) count[k] = 0;
  for_ones([&](size_t, const uint32_t *index, size_t low, size_t high) {
    at += uint32_t(low);
    for (size_t i = low; i < high; ++i) ++count[index[i]];
  });
  for (size_t k = begin; k < end; ++k) {
    const uint32_t n = count[k];
    count[k] = at, at += n;
  }
  for_ones([&](size_t r, const uint32_t *index, size_t low, size_t high) {
    for (size_t i = low; i < high; ++i) rows_of[count[index[i]]++] = uint32_t(r);
  });
}

// Of all units.
inline chainrule_status sort_ones(const chainrule_ones &x, size_t start, size_t rows, size_t n_in, uint32_t *from, uint32_t *rows_of,
                                  int threads, const chainrule_exec *exec) {
  from[0] = 0;
  return for_each(exec, threads, n_in, larger((n_in + size_t(threads) - 1) / size_t(threads), 1),
                  [&](size_t begin, size_t end, int) { sort_ones(x, start, rows, begin, end, n_in, from, rows_of); });
}

// A chunk of rows of dy for N panels side by side, b [rows][N][32]; zeros beyond the last output.
template <int N> CHAINRULE_INLINE void copy_panels(const Real *dy, size_t lddy, size_t rows, size_t column, size_t n_out, Real *b) {
  for (size_t r = 0; r < rows; ++r)
    for (size_t j = 0; j < size_t(N) * kPanel; j += kWidth)
      store(b + r * size_t(N) * kPanel + j, load_part(dy + r * lddy + column + j, lanes_at(column + j, n_out)));
}
// part += the rows of b in which a unit is one, rows_of[from] .. rows_of[to - 1]. The panels' chains of additions overlap.
template <int N> CHAINRULE_INLINE void add_rows(Sums (&part)[N], const Real *b, const uint32_t *rows_of, uint32_t from, uint32_t to) {
  for (uint32_t i = from; i < to; ++i) {
    const Real *row = b + rows_of[i] * (size_t(N) * kPanel);
#pragma GCC unroll 2
    for (int p = 0; p < N; ++p) add(part[p], row + size_t(p) * kPanel);
  }
}
// The lanes of `to` that live: the sums of a chunk are added to what is there, or start it.
CHAINRULE_INLINE void put_sums(const Sums &part, uint32_t live, bool first, Real *to) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const size_t j = size_t(v) * kWidth;
    store_live(to + j, (first ? zero<Real>() : load_live(to + j, live >> j)) + part.v[v], live >> j);
  }
}
// db of N panels, from all rows of b.
template <int N> CHAINRULE_INLINE void bias_gradient_of(const Real *b, size_t rows, const Spans (&spans)[N], bool first, Real *db) {
#pragma GCC unroll 2
  for (int p = 0; p < N; ++p) {
    Sums part = no_sums();
    for (size_t r = 0; r < rows; ++r) add(part, b + (r * size_t(N) + size_t(p)) * kPanel);
    put_sums(part, spans[p].lanes, first, db + size_t(p) * kPanel);
  }
}

}  // namespace
}  // namespace chainrule
