// Rows of a table by index (the first layer of networks on codes), and the table's gradient.
//
//   embedding            y_n = E[index_n], zero where index_n < 0         E [n_values][n_out], in panels of 32 outputs
//   embedding_gradient   dE_v = sum of dy_n over n with index_n = v
//
// What a product with one-hot rows gives, without them. Cost: one read and one write of y; the gradient adds rows in chunks
// of 256, as every sum over rows does. Threads: blocks of rows; for the gradient, columns.
#include "panels.hpp"

namespace chainrule {

CHAINRULE_KERNEL(embedding)(size_t n_values, size_t n_out, const Real *E, size_t n_rows, const int32_t *index, Real *y,
                            size_t ldy, const chainrule_exec *exec) {
  const int threads = plan_threads(exec, (n_rows + kChunk - 1) / kChunk, double(n_rows) * double(n_out));
  return for_each(exec, threads, n_rows, kChunk, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r)
      for (size_t column = 0; column < n_out; column += kWidth) {
        const Real *from = E + (column / kPanel * n_values + size_t(index[r] < 0 ? 0 : index[r])) * kPanel + column % kPanel;
        store_part(y + r * ldy + column, index[r] < 0 ? zero<Real>() : load(from), lanes_at(column, n_out));
      }
  });
}

CHAINRULE_KERNEL(embedding_gradient)(size_t n_values, size_t n_out, size_t n_rows, const int32_t *index, const Real *dy,
                                     size_t lddy, Real *dE, const chainrule_exec *exec) {
  const size_t vectors = (n_out + kWidth - 1) / kWidth;
  const int threads = plan_threads(exec, vectors, double(n_rows) * double(n_out) * 4);
  Real *memory = static_cast<Real *>(arena(size_t(threads) * n_values * kWidth * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  for (size_t i = 0; i < panels_in(n_out) * n_values * kPanel; ++i) dE[i] = Real(0);
  return for_each(exec, threads, vectors, 1, [&](size_t vector, size_t, int worker) {
    Real *part = memory + size_t(worker) * n_values * kWidth;  // of one chunk; zero between chunks
    const size_t column = vector * kWidth;
    Real *whole = dE + column / kPanel * n_values * kPanel + column % kPanel;
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
          Real *sum = part + size_t(index[r]) * kWidth, *to = whole + size_t(index[r]) * kPanel;
          store(to, load(to) + load(sum));
          store(sum, zero<Real>());
        }
    }
  });
}

}  // namespace chainrule
