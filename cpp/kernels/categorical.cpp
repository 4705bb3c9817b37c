// Categorical conditionals from given logits: scorer, gradient and sampler of any network over columns of 0..K-1.
//
//   log p(x_i = v) = (z_v - m) - log s,  s = exp(0 - m) + sum_w exp(z_w - m),  m = max(0, z_1, ...)
//   d(-log p) / d z_w = exp(z_w - m) / s - [w = v]
//   x_i = smallest v with u_i s < exp(z_0 - m) + ... + exp(z_v - m), in double
//
// The softmax with a reference level, so that K values have K - 1 logits and a column of bits has Bernoulli's one
// (Agresti, Categorical Data Analysis, 2013, 8.1). x, u: [n_rows][n_features]; logits: [n_rows][first[n_features]].
// Cost: an exponential and four scalar steps a logit, an exponential and a logarithm a column.
#include "categorical.hpp"

namespace chainrule {
namespace {

constexpr size_t kRowsAtOnce = 16;
CHAINRULE_INLINE double work(const Columns &columns, size_t n_rows) {
  return double(n_rows) * double(columns.n_logits() + 2 * columns.n_features) * 20;
}

// Rows that go together: those of a single column, whose sums are long chains of additions, side by side.
constexpr size_t kTogether = 8;
CHAINRULE_INLINE size_t rows_together(const Columns &columns) { return columns.n_features == 1 ? kTogether : 1; }
struct Rows {
  const Real *logits;
  size_t ldl;
  const uint8_t *x;
  size_t ldx;
};
// `exponentials` of up to `rows_together` rows from r on, each with a workspace of its own.
CHAINRULE_INLINE void exponentials(const Columns &columns, const Rows &given, size_t r, size_t n, const CategoricalRow *rows) {
  if (rows_together(columns) == 1) return exponentials(columns, given.logits + r * given.ldl, given.x + r * given.ldx, rows[0]);
  const Real *e[kTogether];
  Real s[kTogether];
  for (size_t j = 0; j < kTogether; ++j) {
    if (j < n) shifted_exponentials(columns, given.logits + (r + j) * given.ldl, given.x + (r + j) * given.ldx, rows[j]);
    e[j] = rows[j < n ? j : 0].e, s[j] = rows[j < n ? j : 0].zero[0];
  }
  for (size_t k = 0; k < columns.n_logits(); ++k)
#pragma GCC unroll 8
    for (size_t j = 0; j < kTogether; ++j) s[j] += e[j][k];
  for (size_t j = 0; j < n; ++j) rows[j].s[0] = s[j];
}
// f(row, its workspace with exponentials and sums) for rows [begin, end).
template <class F>
CHAINRULE_INLINE void for_rows(const Columns &columns, const Rows &given, size_t begin, size_t end, Real *scratch, F &&f) {
  CategoricalRow rows[kTogether];
  const size_t together = rows_together(columns), size = categorical_row_size(columns);
  for (size_t j = 0; j < together; ++j) rows[j] = categorical_row_at(scratch + j * size, columns);
  for (size_t r = begin; r < end; r += together) {
    const size_t n = end - r < together ? end - r : together;
    exponentials(columns, given, r, n, rows);
    for (size_t j = 0; j < n; ++j) f(r + j, rows[j]);
  }
}

}  // namespace

CHAINRULE_KERNEL(categorical_log_prob)(size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference,
                                       const Real *logits, size_t ldl, const uint8_t *x, size_t ldx, double *log_prob,
                                       double *terms, const chainrule_exec *exec) {
  const Columns columns = {n_features, first, reference};
  const size_t size = rows_together(columns) * categorical_row_size(columns);
  const int threads = plan_threads(exec, n_rows, work(columns, n_rows));
  Real *scratch = static_cast<Real *>(arena(size_t(threads) * size * sizeof(Real)));
  if (!scratch) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, n_rows, kRowsAtOnce, [&](size_t begin, size_t end, int worker) {
    for_rows(columns, {logits, ldl, x, ldx}, begin, end, scratch + size_t(worker) * size, [&](size_t r, const CategoricalRow &row) {
      log_terms(columns, row);
      if (terms)
        for (size_t i = 0; i < n_features; ++i) terms[r * n_features + i] = double(row.chosen[i]);
      if (log_prob) log_prob[r] = sum_terms(row.chosen, n_features);
    });
  });
}

CHAINRULE_KERNEL(categorical_gradient)(size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference,
                                       const Real *logits, size_t ldl, const uint8_t *x, size_t ldx, const Real *weight,
                                       double *log_prob, Real *dlogits, size_t ldd, const chainrule_exec *exec) {
  const Columns columns = {n_features, first, reference};
  const size_t size = rows_together(columns) * categorical_row_size(columns), n_logits = columns.n_logits();
  const int threads = plan_threads(exec, n_rows, work(columns, n_rows));
  Real *scratch = static_cast<Real *>(arena(size_t(threads) * size * sizeof(Real)));
  if (!scratch) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, n_rows, kRowsAtOnce, [&](size_t begin, size_t end, int worker) {
    for_rows(columns, {logits, ldl, x, ldx}, begin, end, scratch + size_t(worker) * size, [&](size_t r, const CategoricalRow &row) {
      fill(row.of, n_logits, in_pairs(n_logits), 1);
      for (size_t i = 0; i < n_features; ++i) fill(row.of, first[i], first[i + 1], row.s[i]);
      for (size_t k = 0; k < n_logits; k += 2 * kWidth)
        store(row.e + k, load<Real, 2>(row.e + k) / load<Real, 2>(row.of + k));
      for (size_t i = 0; i < n_features; ++i) *place_of(columns, i, x[r * ldx + i], row) -= 1;
      const Vec<Real> w = set1(weight ? weight[r] : Real(1) / Real(n_rows));
      Real *d = dlogits + r * ldd;
      for (size_t k = 0; k < n_logits; k += kWidth)
        store_part(d + k, w * load(row.e + k), n_logits - k < kWidth ? int(n_logits - k) : int(kWidth));
      if (log_prob) {
        log_terms(columns, row);
        log_prob[r] = sum_terms(row.chosen, n_features);
      }
    });
  });
}

CHAINRULE_KERNEL(categorical_sample)(size_t n_rows, size_t n_features, const uint32_t *first, const uint8_t *reference,
                                     const Real *logits, size_t ldl, const double *u, size_t ldu, uint8_t *x, size_t ldx,
                                     const chainrule_exec *exec) {
  const Columns columns = {n_features, first, reference};
  const size_t values = columns.n_logits() + n_features, size = (values + 15) / 16 * 16;
  const int threads = plan_threads(exec, n_rows, work(columns, n_rows) * 2);
  double *scratch = static_cast<double *>(arena(size_t(threads) * size * sizeof(double)));
  if (!scratch) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, n_rows, kRowsAtOnce, [&](size_t begin, size_t end, int worker) {
    double *e = scratch + size_t(worker) * size;  // every column's values, one after the other
    for (size_t r = begin; r < end; ++r) {
      for (size_t i = 0; i < n_features; ++i)
        draw_shifted(logits + r * ldl + first[i], first[i + 1] - first[i] + 1, columns.reference_of(i), e + first[i] + i);
      for (size_t k = values; k < size; ++k) e[k] = 0;
      for (size_t k = 0; k < size; k += 16) store(e + k, exp(load<double, 2>(e + k)));
      for (size_t i = 0; i < n_features; ++i)
        x[r * ldx + i] = draw_value(e + first[i] + i, first[i + 1] - first[i] + 1, u[r * ldu + i]);
    }
  });
}

}  // namespace chainrule
