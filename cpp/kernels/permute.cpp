// The columns of a matrix in panels under a permutation, for hidden units that stand in another order from batch to batch.
//
//   permute_columns   out[r][j] = W[r][columns[j]] where its panel's row has a live weight
//             back:   out[r][columns[j]] = W[r][j] where live, 0 elsewhere
//
// Rows need no copy: the products read them where they stand (chainrule_linear's `rows`). Here eight come at a time (four of
// double) in the order of the products, where neighbours are live in the same panels. Their transpose has a column in one
// load, and the columns that are wanted are transposed back. Cost: a read and a write of the matrix, and six shuffles for
// eight elements. Threads: blocks of rows.
#include <cstring>

#include "panels.hpp"

namespace chainrule {
namespace {

constexpr size_t kTurned = size_t(block_width<Real>);  // rows that are turned together

// Some rows of the matrix: where they stand in a panel of it, and the words of their live weights.
struct Some {
  const Linear &w;
  size_t begin, count;
  size_t at(size_t i) const { return row_of(w, begin + i) * kPanel; }
  uint32_t word(size_t panel, size_t i) const { return w.mask ? w.mask->words[panel * w.n_in + begin + i] : kAll; }
  bool live(size_t panel) const {
    uint32_t any = 0;
    for (size_t i = 0; i < count; ++i) any |= word(panel, i);
    return any;
  }
};

// Asks for memory some time before its use: each row of a panel stands elsewhere, where the machine could not guess. Into the
// second cache; the first is full of what is turned.
CHAINRULE_INLINE void fetch(const Real *row) {
#pragma GCC unroll 4
  for (size_t j = 0; j < kPanel; j += 64 / sizeof(Real)) __builtin_prefetch(row + j, 0, 2);
}

// The rows' elements in a panel by column, [32][kTurned]; zero for weights that are not `live`, where that is asked.
CHAINRULE_INLINE void turn(const Some &some, size_t panel, bool live, Real *columns) {
  const Real *rows[kTurned];
  Real masked[kTurned * kPanel];
  for (size_t i = 0; i < kTurned; ++i) {
    const size_t k = smaller(i, some.count - 1);  // there is a row to read
    rows[i] = some.w.W + panel * some.w.panel + some.at(k);
    const uint32_t word = live ? some.word(panel, k) : kAll;
    if (word == kAll) continue;
    Real *to = masked + i * kPanel;
#pragma GCC unroll 4
    for (size_t j = 0; j < kPanel; j += kWidth) store(to + j, word ? load_live(rows[i] + j, word >> j) : zero<Real>());
    rows[i] = to;
  }
#pragma GCC unroll 8
  for (size_t j = 0; j < kPanel; j += kTurned) transpose_block(rows, j, columns + j * kTurned, kTurned);
}

// A panel of kTurned rows from columns that stand at place[0 .. 31] of `columns`.
CHAINRULE_INLINE void turn_back(const Real *columns, const uint32_t *place, Real *const *rows) {
#pragma GCC unroll 8
  for (size_t j = 0; j < kPanel; j += kTurned) {
    const Real *picked[kTurned];
#pragma GCC unroll 8
    for (size_t i = 0; i < kTurned; ++i) picked[i] = columns + size_t(place[j + i]) * kTurned;
    Real block[kTurned * kTurned];
    transpose_block(picked, 0, block, kTurned);
#pragma GCC unroll 8
    for (size_t i = 0; i < kTurned; ++i) std::memcpy(rows[i] + j, block + i * kTurned, kTurned * sizeof(Real));
  }
}

}  // namespace

CHAINRULE_KERNEL(permute_columns)(const Linear *linear, const uint32_t *columns, int32_t back, Real *out, const chainrule_exec *exec) {
  const Linear w = linear->turned ? as_kept(*linear) : *linear;
  const size_t panels = panels_in(w.n_out), size = panels * kPanel;
  const int threads = plan_threads(exec, (w.n_in + kTurned - 1) / kTurned, double(w.n_in) * double(w.n_out) * 4);
  const size_t shared = (size + 15) / 16 * 16 * sizeof(uint32_t);
  char *memory = static_cast<char *>(arena(shared + size_t(threads) * size * kTurned * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  uint32_t *place = reinterpret_cast<uint32_t *>(memory);  // of each column of out
  for (size_t j = 0; j < w.n_out; ++j) place[back ? columns[j] : j] = back ? uint32_t(j) : columns[j];
  for (size_t j = w.n_out; j < size; ++j) place[j] = uint32_t(j);
  return for_each(exec, threads, w.n_in, kTurned, [&](size_t begin, size_t end, int worker) {
    Real *turned = reinterpret_cast<Real *>(memory + shared) + size_t(worker) * size * kTurned;
    const Some some = {w, begin, end - begin}, next = {w, end, smaller(kTurned, w.n_in - end)};
    for (size_t p = 0; p < panels; ++p) {
      Real *to = turned + p * kPanel * kTurned;
      if (!back || some.live(p)) turn(some, p, back, to);
      else
        for (size_t j = 0; j < kPanel * kTurned; j += kWidth) store(to + j, zero<Real>());
    }
    for (size_t p = 0; p < panels; ++p) {
      for (size_t i = 0; i < next.count; ++i)
        if (!back || next.word(p, i)) fetch(w.W + p * w.panel + next.at(i));
      if (!back && !some.live(p)) continue;
      const size_t lanes = smaller(w.n_out - p * kPanel, kPanel);
      Real spare[kTurned * kPanel], *rows[kTurned];
      for (size_t i = 0; i < kTurned; ++i) {
        const bool written = i < some.count && (back || some.word(p, i));
        rows[i] = written && lanes == kPanel ? out + p * w.panel + some.at(i) : spare + i * kPanel;
      }
      turn_back(turned, place + p * kPanel, rows);
      for (size_t i = 0; lanes < kPanel && i < some.count; ++i)
        if (back || some.word(p, i)) std::memcpy(out + p * w.panel + some.at(i), spare + i * kPanel, lanes * sizeof(Real));
    }
  });
}

}  // namespace chainrule
