// The categorical conditional, one definition for every kernel that scores or draws values 0..K-1: one row at a time.
//
//   code = v with 0 and the column's reference value swapped;   z of code 0 is 0, the other K - 1 codes have a logit
//   m = max(0, z_1, ...),  e_w = exp(z_w - m),  s = e_0 + e_1 + ...,  log p(v) = (z_v - m) - log s
//
// Logits, sums of a gradient and the columns they belong to speak of codes; x, and the order in which a draw adds
// probabilities up, of values. K = 2 is Bernoulli's logit, K = 1 a constant without one.
#pragma once
#include "bernoulli.hpp"

namespace chainrule {
namespace {

constexpr size_t kMaxValues = 256;

// What a row of logits means: those of column i stand at [first[i], first[i + 1]).
struct Columns {
  size_t n_features;
  const uint32_t *first;
  const uint8_t *reference;  // NULL: 0 everywhere

  CHAINRULE_INLINE size_t n_logits() const { return first[n_features]; }
  CHAINRULE_INLINE size_t reference_of(size_t i) const { return reference ? reference[i] : 0; }
};
// Both choices by masks: a branch on data is guessed wrong every other time.
CHAINRULE_INLINE size_t code_of(size_t value, size_t reference) {
  return value ^ (reference & (size_t(0) - size_t((value == 0) | (value == reference))));
}

// Workspace of a row; each part has whole pairs of vectors.
struct CategoricalRow {
  Real *e;             // [n_logits] z - m, then exp(z - m); a gradient's softmax
  Real *of;            // [n_logits] s of the column, for a gradient
  Real *zero, *s;      // [n_features] exp(0 - m); the sum
  Real *chosen;        // [n_features] z_v - m, then log p(v)
};
CHAINRULE_INLINE size_t in_pairs(size_t n) { return (n + 2 * kWidth - 1) / (2 * kWidth) * (2 * kWidth); }
CHAINRULE_INLINE size_t categorical_row_size(const Columns &columns) {
  return 2 * in_pairs(columns.n_logits()) + 3 * in_pairs(columns.n_features);
}
CHAINRULE_INLINE CategoricalRow categorical_row_at(Real *p, const Columns &columns) {
  const size_t logits = in_pairs(columns.n_logits()), features = in_pairs(columns.n_features);
  return {p, p + logits, p + 2 * logits, p + 2 * logits + features, p + 2 * logits + 2 * features};
}

// f on whole pairs of vectors that cover n elements.
template <class F> CHAINRULE_INLINE void for_pairs(size_t n, Real *p, F &&f) {
  for (size_t k = 0; k < n; k += 2 * kWidth) store(p + k, f(load<Real, 2>(p + k)));
}
CHAINRULE_INLINE void fill(Real *p, size_t begin, size_t end, Real value) {
  for (size_t k = begin; k < end; ++k) p[k] = value;
}

// The place of a column's value: in e, or in zero for code 0.
CHAINRULE_INLINE Real *place_of(const Columns &columns, size_t i, uint8_t value, const CategoricalRow &row) {
  const size_t code = code_of(value, columns.reference_of(i)), logit = size_t(0) - size_t(code != 0);
  return row.e + ((logit & (columns.first[i] + code - 1)) | (~logit & (size_t(row.zero - row.e) + i)));
}

// The largest of n logits and 0.
CHAINRULE_INLINE Real largest(const Real *z, size_t n) {
  Real m = 0, part[kWidth] = {};
  if (n >= 2 * kWidth) {  // in any order: there is one largest
    Vec<Real> top = zero<Real>();
    for (size_t k = 0; k < n; k += kWidth) top = max(top, load_part(z + k, n - k < kWidth ? int(n - k) : int(kWidth)));
    store(part, top);
    z = part, n = kWidth;
  }
  for (size_t k = 0; k < n; ++k) m = m > z[k] ? m : z[k];
  return m;
}
// Exponentials e and zero of a row, and z_v - m of its values.
CHAINRULE_INLINE void shifted_exponentials(const Columns &columns, const Real *z, const uint8_t *x, const CategoricalRow &row) {
  const size_t n = columns.n_features, logits = columns.n_logits();
  for (size_t i = 0; i < n; ++i) {
    const size_t begin = columns.first[i], end = columns.first[i + 1];
    const Real m = largest(z + begin, end - begin);
    for (size_t k = begin; k < end; ++k) row.e[k] = z[k] - m;
    row.zero[i] = Real(0) - m;
    row.chosen[i] = *place_of(columns, i, x[i], row);
  }
  fill(row.e, logits, in_pairs(logits), 0), fill(row.zero, n, in_pairs(n), 0);
  for_pairs(logits, row.e, [](auto v) __attribute__((always_inline)) { return exp(v); });
  for_pairs(n, row.zero, [](auto v) __attribute__((always_inline)) { return exp(v); });
}
// The same, and the sums s.
CHAINRULE_INLINE void exponentials(const Columns &columns, const Real *z, const uint8_t *x, const CategoricalRow &row) {
  shifted_exponentials(columns, z, x, row);
  for (size_t i = 0; i < columns.n_features; ++i) {
    Real s = row.zero[i];
    for (size_t k = columns.first[i]; k < columns.first[i + 1]; ++k) s += row.e[k];
    row.s[i] = s;
  }
}
// log p of every column from `exponentials`, in `chosen`; zeros after them, as sum_terms wants.
CHAINRULE_INLINE void log_terms(const Columns &columns, const CategoricalRow &row) {
  const size_t n = columns.n_features;
  fill(row.s, n, in_pairs(n), 1);
  for (size_t i = 0; i < n; i += 2 * kWidth)
    store(row.chosen + i, load<Real, 2>(row.chosen + i) - log(load<Real, 2>(row.s + i)));
  fill(row.chosen, n, in_pairs(n), 0);
}
// A row's terms log p(x_i), readable to padded(n_features), zeros there.
CHAINRULE_INLINE const Real *categorical_terms(const Columns &columns, const Real *z, const uint8_t *x,
                                               const CategoricalRow &row) {
  exponentials(columns, z, x, row);
  log_terms(columns, row);
  return row.chosen;
}

// z_v - m of one variable's K values in double, by value.
CHAINRULE_INLINE void draw_shifted(const Real *z, size_t K, size_t reference, double *e) {
  const Real m = largest(z, K - 1);
  e[0] = 0.0 - double(m);
  for (size_t k = 1; k < K; ++k) e[k] = double(z[k - 1]) - double(m);
  const double swapped = e[0];
  e[0] = e[reference], e[reference] = swapped;
}
// The smallest v with u s < e_0 + ... + e_v, else K - 1. e are the exponentials, and then their sums.
CHAINRULE_INLINE uint8_t draw_value(double *e, size_t K, double u) {
  double s = e[0];
  for (size_t v = 1; v < K; ++v) s += e[v], e[v] = s;
  const double target = u * s;
  unsigned value = 0;
  for (size_t v = 0; v + 1 < K; ++v) value += !(target < e[v]);
  return uint8_t(value);
}
// One variable of one row from its K - 1 logits and a uniform: x = F^-1(u), in double as for bits. The bits of
// categorical_sample.
CHAINRULE_INLINE uint8_t categorical_draw(const Real *z, size_t K, uint8_t reference, double u) {
  if (K < 2) return 0;
  double e[kMaxValues];
  draw_shifted(z, K, reference, e);
  for (size_t v = K; v % 8; ++v) e[v] = 0;
  for (size_t v = 0; v < K; v += 8) store(e + v, exp(load(e + v)));
  return draw_value(e, K, u);
}

// One variable of kWidth rows side by side, a row in each lane: z[(v - 1) kWidth + row]. The operations of a row on its own,
// so its bits.
struct CategoricalLanes {
  Vec<Real> m, s;
};
// z becomes exp(z - m).
CHAINRULE_INLINE CategoricalLanes exponentials(Real *z, size_t n_logits) {
  Vec<Real> m = zero<Real>();
  for (size_t k = 0; k < n_logits; ++k) m = max(m, load(z + k * kWidth));
  Vec<Real> s = exp(zero<Real>() - m);
  for (size_t k = 0; k < n_logits; ++k) {
    const Vec<Real> e = exp(load(z + k * kWidth) - m);
    store(z + k * kWidth, e);
    s = s + e;
  }
  return {m, s};
}
// Logits of the codes of n rows, 0 for code 0 and in the other lanes.
CHAINRULE_INLINE Vec<Real> logits_of(const Real *z, const uint8_t *code, int n) {
  Real chosen[kWidth] = {};
  for (int r = 0; r < n; ++r) chosen[r] = code[r] ? z[(size_t(code[r]) - 1) * kWidth + size_t(r)] : Real(0);
  return load(chosen);
}
// log p of the codes whose logits are `chosen`.
CHAINRULE_INLINE Vec<Real> log_prob_of(Vec<Real> chosen, CategoricalLanes lanes) { return (chosen - lanes.m) - log(lanes.s); }

// Eight rows at once, their logits in lanes as above: categorical_draw of each, bit for bit.
CHAINRULE_INLINE void categorical_draw8(const Real *z, size_t K, size_t reference, const double *u, uint8_t *value) {
  for (int r = 0; r < 8; ++r) value[r] = 0;
  if (K < 2) return;
  Vec<Real> top = zero<Real>();
  for (size_t k = 0; k + 1 < K; ++k) top = max(top, load(z + k * kWidth));
  Real buffer[kWidth];
  store(buffer, top);
  const Vec<double> m = load_double(buffer);
  double e[(kMaxValues + 1) * 8];
  auto at = [&](size_t v) { return e + 8 * v; };
  store(at(0), zero<double>() - m);
  for (size_t v = 1; v < K; ++v) store(at(v), load_double(z + (v - 1) * kWidth) - m);
  const Vec<double> swapped = load(at(0));
  store(at(0), load(at(reference))), store(at(reference), swapped);
  store(at(K), zero<double>());
  for (size_t v = 0; v < K; v += 2) store(at(v), exp(load<double, 2>(at(v))));
  Vec<double> s = load(at(0));
  for (size_t v = 1; v < K; ++v) {
    s = s + load(at(v));
    store(at(v), s);
  }
  const Vec<double> target = load(u) * s;
  IVec<double> count = iset1<double>(0);
  for (size_t v = 0; v + 1 < K; ++v) count = count + iset1<double>(1) + (target < load(at(v)));  // a mask is -1
  for (int r = 0; r < 8; ++r) value[r] = uint8_t(count.r[r / Vec<double>::reg_width][r % Vec<double>::reg_width]);
}

}  // namespace
}  // namespace chainrule
