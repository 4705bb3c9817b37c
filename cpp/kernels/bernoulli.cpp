// Bernoulli conditionals from given logits: scorer, gradient and sampler of any network without a fused kernel.
//
//   log p(x_i) = -softplus((1 - 2 x_i) z_i);    d(-log p) / d z_i = sigmoid(z_i) - x_i;    x_i = 1 where u_i >= sigmoid(-z_i)
//
// logits, x, u: [n_rows][n_features]. Cost: one softplus (one sigmoid, one double sigmoid) an element. Where the gradient is
// asked for its softplus too, they share nothing: the sigmoid's exponential is to base 2, and no bit of it may change.
#include "bernoulli.hpp"

namespace chainrule {

CHAINRULE_KERNEL(bernoulli_log_prob)(size_t n_rows, size_t n_features, const Real *logits, size_t ldl, const uint8_t *x,
                                     size_t ldx, double *log_prob, double *terms, const chainrule_exec *exec) {
  const size_t width = padded(n_features);
  const int threads = plan_threads(exec, n_rows, double(n_rows) * double(n_features) * 20);
  Real *scratch = static_cast<Real *>(arena(size_t(threads) * width * sizeof(Real)));
  if (!scratch) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, n_rows, 16, [=](size_t begin, size_t end, int worker) {
    Real *t = scratch + size_t(worker) * width;
    for (size_t r = begin; r < end; ++r) {
      bernoulli_terms(n_features, logits + r * ldl, x + r * ldx, t);
      if (terms)
        for (size_t i = 0; i < n_features; ++i) terms[r * n_features + i] = double(t[i]);
      if (log_prob) log_prob[r] = sum_terms(t, n_features);
    }
  });
}

CHAINRULE_KERNEL(bernoulli_gradient)(size_t n_rows, size_t n_features, const Real *logits, size_t ldl, const uint8_t *x,
                                     size_t ldx, const Real *weight, double *log_prob, Real *dlogits, size_t ldd,
                                     const chainrule_exec *exec) {
  const size_t width = padded(n_features);
  const int threads = plan_threads(exec, n_rows, double(n_rows) * double(n_features) * (log_prob ? 36 : 16));
  Real *scratch = static_cast<Real *>(arena(size_t(threads) * width * sizeof(Real)));
  if (!scratch) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, n_rows, 16, [=](size_t begin, size_t end, int worker) {
    Real *t = scratch + size_t(worker) * width;
    for (size_t r = begin; r < end; ++r) {
      const Real w = weight ? weight[r] : Real(1) / Real(n_rows);
      const Real *z = logits + r * ldl;
      Real *d = dlogits + r * ldd;
      if (log_prob) bernoulli_terms(n_features, z, x + r * ldx, t);  // first: dlogits may be the logits' own place
      for_row(n_features, z, x + r * ldx, [d, w]<int N>(Vec<Real, N> z, Vec<Real, N> bit, size_t i, int n) __attribute__((always_inline)) {
        store_part(d + i, set1<Real, N>(w) * (sigmoid(z) - bit), n);
      });
      if (log_prob) log_prob[r] = sum_terms(t, n_features);
    }
  });
}

CHAINRULE_KERNEL(bernoulli_sample)(size_t n_rows, size_t n_features, const Real *logits, size_t ldl, const double *u,
                                   size_t ldu, uint8_t *x, size_t ldx, const chainrule_exec *exec) {
  const int threads = plan_threads(exec, n_rows, double(n_rows) * double(n_features) * 20);
  return for_each(exec, threads, n_rows, 16, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r)
      for (size_t i = 0; i < n_features; i += 8) {
        size_t n = n_features - i < 8 ? n_features - i : 8;
        Real z[8] = {};
        double v[8] = {};
        uint8_t drawn[8];
        for (size_t k = 0; k < n; ++k) z[k] = logits[r * ldl + i + k], v[k] = u[r * ldu + i + k];
        bernoulli_draw8(z, v, drawn);
        for (size_t k = 0; k < n; ++k) x[r * ldx + i + k] = drawn[k];
      }
  });
}

}  // namespace chainrule
