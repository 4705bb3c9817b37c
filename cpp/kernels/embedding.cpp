// Rows of a table by index (the first layer of networks on codes), and the table's gradient.
//
//   embedding            y_n = E[index_n], zero where index_n < 0         E [n_values][n_out], in panels of 32 outputs
//   embedding_gradient   dE_v = sum of dy_n over n with index_n = v
//
// turned: E in panels of 32 values, as the output matrix of logits is kept, so that both may be one (Press & Wolf 2017).
//
// What a product with one-hot rows gives, without them. Cost: one read and one write of y; the gradient adds rows in chunks
// of 256, as every sum over rows does. Threads: blocks of rows; for the gradient, columns.
#include "panels.hpp"

namespace chainrule {
namespace {

// Columns [column, column + kWidth) of value v, and the same written.
CHAINRULE_INLINE Vec<Real> load_value(const Real *E, size_t n_values, size_t n_out, bool turned, size_t v, size_t column) {
  if (!turned) return load(E + (column / kPanel * n_values + v) * kPanel + column % kPanel);
  Real part[kWidth] = {};
  for (size_t j = 0; j < smaller(kWidth, n_out - column); ++j) part[j] = E[(v / kPanel * n_out + column + j) * kPanel + v % kPanel];
  return load(part);
}
CHAINRULE_INLINE void store_value(Real *E, size_t n_values, size_t n_out, bool turned, size_t v, size_t column, Vec<Real> value) {
  if (!turned) return store(E + (column / kPanel * n_values + v) * kPanel + column % kPanel, value);
  Real part[kWidth];
  store(part, value);
  for (size_t j = 0; j < smaller(kWidth, n_out - column); ++j) E[(v / kPanel * n_out + column + j) * kPanel + v % kPanel] = part[j];
}

}  // namespace

CHAINRULE_KERNEL(embedding)(size_t n_values, size_t n_out, int32_t turned, const Real *E, size_t n_rows, const int32_t *index, Real *y,
                            size_t ldy, const chainrule_exec *exec) {
  const int threads = plan_threads(exec, (n_rows + kChunk - 1) / kChunk, double(n_rows) * double(n_out));
  return for_each(exec, threads, n_rows, kChunk, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r)
      for (size_t column = 0; column < n_out; column += kWidth) {
        const Vec<Real> row = load_value(E, n_values, n_out, turned, size_t(index[r] < 0 ? 0 : index[r]), column);
        store_part(y + r * ldy + column, index[r] < 0 ? zero<Real>() : row, lanes_at(column, n_out));
      }
  });
}

CHAINRULE_KERNEL(embedding_gradient)(size_t n_values, size_t n_out, int32_t turned, size_t n_rows,
                                     const int32_t *index, const Real *dy, size_t lddy, Real *dE, const chainrule_exec *exec) {
  const size_t vectors = (n_out + kWidth - 1) / kWidth;
  const int threads = plan_threads(exec, vectors, double(n_rows) * double(n_out) * 4);
  Real *memory = static_cast<Real *>(arena(size_t(threads) * n_values * kWidth * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  const size_t size = turned ? panels_in(n_values) * n_out * kPanel : panels_in(n_out) * n_values * kPanel;
  for (size_t i = 0; i < size; ++i) dE[i] = Real(0);
  return for_each(exec, threads, vectors, 1, [&](size_t vector, size_t, int worker) {
    Real *part = memory + size_t(worker) * n_values * kWidth;  // of one chunk; zero between chunks
    const size_t column = vector * kWidth;
    for (size_t v = 0; v < n_values; ++v) store(part + v * kWidth, zero<Real>());
    for (size_t start = 0; start < n_rows; start += kChunk) {
      const size_t stop = smaller(start + kChunk, n_rows);
      for (size_t r = start; r < stop; ++r)
        if (index[r] >= 0) {
          Real *sum = part + size_t(index[r]) * kWidth;
          store(sum, load(sum) + load_part(dy + r * lddy + column, lanes_at(column, n_out)));
        }
      for (size_t r = start; r < stop; ++r)
        if (index[r] >= 0) {  // the first row of a value moves its sum; those after it add zeros
          const size_t v = size_t(index[r]);
          Real *sum = part + v * kWidth;
          store_value(dE, n_values, n_out, turned, v, column, load_value(dE, n_values, n_out, turned, v, column) + load(sum));
          store(sum, zero<Real>());
        }
    }
  });
}

}  // namespace chainrule
