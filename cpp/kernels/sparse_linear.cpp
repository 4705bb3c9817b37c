// Masked products of an input of zeros and ones, given by the indices of its ones: sums of rows of W.
//
//   sparse_linear                  y_r = g((sum_{k in ones(r)} W_k + addend_r) + b)
//   sparse_linear_weight_gradient  dW_k = sum_{r: k in ones(r)} dy_r,  db = sum_r dy_r
//
// The same bits as masked_linear on the same input: a term of zero leaves a chain as it is, and 1 w + s is w + s. Cost: an
// addition for each one and live weight of its row; for binarized MNIST 13 % of the dense product. Threads: pairs of panels
// of 32 outputs.
#include "masked.hpp"

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

// Piece i of n in an order that deals them out, the heaviest first, to and fro among the threads, each of which has its range
// of the pieces: an odd number of pieces of a staircase is then equal work too.
size_t dealt(size_t i, size_t n, size_t threads) {
  size_t thread = 0, longer = 0;  // whose piece it is; how many before it have one more than the others
  auto count = [&] { return n * (thread + 1) / threads - n * thread / threads; };
  for (; n * (thread + 1) / threads <= i; ++thread) longer += count() > n / threads;
  const size_t turn = i - n * thread / threads;
  const size_t rank = turn == n / threads ? turn * threads + longer : turn * threads + (turn % 2 ? threads - 1 - thread : thread);
  return n - 1 - rank;
}

}  // namespace

CHAINRULE_KERNEL(sparse_linear)(const Linear *linear, size_t n_rows, const chainrule_ones *x, const Real *addend, size_t lda,
                                const Real *b, int32_t activation, Real *y, size_t ldy, const chainrule_exec *exec) {
  const Linear &w = *linear;
  const Finish f = {addend, lda, b, activation, nullptr, 0};
  const size_t panels = panels_in(w.n_out);
  double ones = 0;
  for (size_t r = 0; r < n_rows; ++r) ones += x->count[r];
  const double work = (ones + double(n_rows)) * (live_work(w.mask, w.n_in, w.n_out) / double(w.n_in + !w.n_in) + double(w.n_out));
  const size_t tiles = (n_rows + 63) / 64;
  const int most = plan_threads(exec, panels * tiles, work);
  const size_t together = panels_together(panels, most), groups = (panels + together - 1) / together;
  const size_t blocks = blocks_beside(groups, tiles, most);
  const int threads = int(smaller(size_t(most), groups * blocks));
  const size_t longest = (n_rows + blocks) / (blocks + !blocks) + 16;
  uint32_t *memory = static_cast<uint32_t *>(arena(size_t(threads) * longest * sizeof(uint32_t)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  if (n_rows == 0) return CHAINRULE_OK;
  return for_each(exec, threads, groups * blocks, 1, [&](size_t piece, size_t, int worker) {
    const size_t group = blocks == 1 ? dealt(piece, groups, size_t(threads)) : folded(piece / blocks, groups), block = piece % blocks;
    const auto [panel, count] = group_of(group, panels, together);
    const size_t begin = n_rows * block / blocks, end = n_rows * (block + 1) / blocks;
    uint32_t *place = memory + size_t(worker) * longest;
    if (count == 2) product_of_ones<2>(w, panel, begin, end, *x, f, y, ldy, place, nullptr);
    else product_of_ones<1>(w, panel, begin, end, *x, f, y, ldy, place, nullptr);
  });
}

namespace {

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

// One chunk of rows of N panels of dW, and of db where that is wanted. Unit k is one in the rows rows_of[from[k]] ..
// rows_of[from[k + 1] - 1]. Panels side by side share the walk through them, and their chains of additions overlap. b: room
// for a copy of the panels of dy, [256][N][32].
template <int N>
void weight_gradient_of_ones(const Linear &w, size_t panel, size_t rows, const uint32_t *from, const uint32_t *rows_of,
                             const Real *dy, size_t lddy, bool first, Real *dW, Real *db, Real *b) {
  const bool whole = first && w.whole;
  Spans spans[N];
  size_t low = w.n_in, high = 0;  // the units with a live weight; all, where dead ones become zero
#pragma GCC unroll 2
  for (int p = 0; p < N; ++p) {
    spans[p] = spans_of(w.mask, panel + size_t(p), w.n_in, lanes_of(panel + size_t(p), w.n_out));
    if (spans[p].count) low = smaller(low, spans[p].first()), high = larger(high, spans[p].last());
  }
  if (whole) low = 0, high = w.n_in;
  const size_t column = panel * kPanel;
  for (size_t r = 0; r < rows; ++r)
    for (size_t j = 0; j < size_t(N) * kPanel; j += kWidth)
      store(b + r * size_t(N) * kPanel + j, load_part(dy + r * lddy + column + j, lanes_at(column + j, w.n_out)));
  auto put = [&](Real *to, const Sums &part, uint32_t live) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const size_t j = size_t(v) * kWidth;
      store_live(to + j, (first ? zero<Real>() : load_live(to + j, live >> j)) + part.v[v], live >> j);
    }
  };
#pragma GCC unroll 2
  for (int p = 0; db && p < N; ++p) {
    Sums part = no_sums();
    for (size_t r = 0; r < rows; ++r) add(part, b + (r * size_t(N) + size_t(p)) * kPanel);
    put(db + column + size_t(p) * kPanel, part, spans[p].lanes);
  }
  for (size_t k = low; k < high; ++k) {
    uint32_t live[N], any = 0;
    Sums part[N];
#pragma GCC unroll 2
    for (int p = 0; p < N; ++p) {
      any |= live[p] = spans[p].word(k);
      part[p] = no_sums();
      if (w.rows && k + kAhead < high && (whole || spans[p].word(k + kAhead))) fetch(w, dW, panel + size_t(p), k + kAhead);
    }
    if (any)
      for (uint32_t i = from[k]; i < from[k + 1]; ++i)
#pragma GCC unroll 2
        for (int p = 0; p < N; ++p) add(part[p], b + (rows_of[i] * size_t(N) + size_t(p)) * kPanel);
#pragma GCC unroll 2
    for (int p = 0; p < N; ++p) {
      Real *row = dW + (panel + size_t(p)) * w.panel + row_of(w, k) * w.ldw;
      if (whole && live[p] != spans[p].lanes) clear_row(row, spans[p].lanes);
      if (live[p]) put(row, part[p], live[p]);
    }
  }
}

}  // namespace

// Rows in chunks of 256, one after the other: the chunk's ones by unit, then panels of dW, two by two where that leaves
// enough of them for the threads.
CHAINRULE_KERNEL(sparse_linear_weight_gradient)(const Linear *linear, size_t n_rows, const chainrule_ones *x, const Real *dy,
                                                size_t lddy, Real *dW, Real *db, const chainrule_exec *exec) {
  const Linear &w = *linear;
  const size_t panels = panels_in(w.n_out);
  size_t most_ones = 0;
  for (size_t start = 0; start < n_rows; start += kChunk) {
    size_t ones = 0;
    for (size_t r = start; r < smaller(start + kChunk, n_rows); ++r) ones += x->count[r];
    most_ones = larger(most_ones, ones);
  }
  const double work = double(most_ones) * (live_work(w.mask, w.n_in, w.n_out) / double(w.n_in + !w.n_in) + kPanel) +
                      live_work(w.mask, w.n_in, w.n_out);
  const int threads = plan_threads(exec, panels, work);
  const size_t together = panels_together(panels, threads), pieces = (panels + together - 1) / together;
  const size_t places = (w.n_in + 1 + most_ones + 15) / 16 * 16;  // uint32 each
  const size_t share = 2 * kChunk * kPanel * sizeof(Real);
  char *memory = static_cast<char *>(arena(size_t(threads) * share + places * sizeof(uint32_t)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  uint32_t *from = reinterpret_cast<uint32_t *>(memory + size_t(threads) * share), *rows_of = from + w.n_in + 1;
  size_t start = 0;
  do {  // at least once: no rows, gradient zero
    const size_t rows = smaller(n_rows - start, kChunk);
    from[0] = 0;
    chainrule_status status = for_each(exec, threads, w.n_in, larger((w.n_in + size_t(threads) - 1) / size_t(threads), 1),
                                       [&](size_t begin, size_t end, int) { sort_ones(*x, start, rows, begin, end, w.n_in, from, rows_of); });
    if (status != CHAINRULE_OK) return status;
    status = for_each(exec, threads, pieces, 1, [&](size_t piece, size_t, int worker) {
      const auto [panel, count] = group_of(dealt(piece, pieces, size_t(threads)), panels, together);
      Real *b = reinterpret_cast<Real *>(memory + size_t(worker) * share);
      if (count == 2)
        weight_gradient_of_ones<2>(w, panel, rows, from, rows_of, dy + start * lddy, lddy, start == 0, dW, db, b);
      else
        weight_gradient_of_ones<1>(w, panel, rows, from, rows_of, dy + start * lddy, lddy, start == 0, dW, db, b);
    });
    if (status != CHAINRULE_OK) return status;
    start += kChunk;
  } while (start < n_rows);
  return CHAINRULE_OK;
}

}  // namespace chainrule
