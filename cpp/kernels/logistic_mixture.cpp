// Discretized mixtures of logistics from given parameters: scorer, gradient and sampler of any network over values
// 0..N-1 that are steps of a scale, as pixels (N = 256) and audio (N = 65536) are.
//
//   log p(x_i) = log sum_k softmax(pi)_k mass_k(x_i);    x_i = F^-1(u_i), in double
//   d(log p) / d pi_k = share_k - softmax(pi)_k,   share_k = softmax(pi)_k mass_k / p;
//   d(log p) / d mu_k, d log s_k = share_k times the slope of log mass_k (logistic_mixture.hpp)
//
// PixelCNN++ (Salimans, Karpathy, Chen & Kingma 2017), whose code approximates masses below 1e-5 by densities; these are
// exact. x, u: [n_rows][n_features]; parameters: [n_rows][3 K n_features], variable i's at 3 K i: K logits, K means, K
// log-scales.
//
// Lanes are values: a lane for each of K = 10 components would leave 6 of 16 idle. The 3 K parameters of a vector of
// values are transposed in cache, and every step is a whole vector. Cost a value: 6 K exponentials, K divisions (2 K for
// a gradient) and a logarithm: at least 1.3 K ns of float on AVX-512 (docs/math.md), measured 2 K + 4 (a gradient 3 K + 5).
// A draw: log2(N) K sigmoids in double.
#include "logistic_mixture.hpp"

namespace chainrule {
namespace {
using namespace mixture;

typedef chainrule_logistic_mixture Mixture;

// Rows that a thread takes at a time: at least 256 values, so that few lanes of a last vector are idle.
CHAINRULE_INLINE size_t rows_at_once(size_t n_features) { return n_features ? 1 + 255 / n_features : 4096; }

// f(rows, columns, lanes, first value, number) for every vector of values of rows [begin, end), their parameters in the
// tile's columns. A short one is filled up with its last value.
template <class F>
CHAINRULE_INLINE void for_values(const Mixture &mixture, const Real *parameters, size_t ldp, size_t begin, size_t end, const Tile &tile, F &&f) {
  const size_t n_features = mixture.n_features, n = (end - begin) * n_features, size = 3 * mixture.n_components;
  size_t row[kLanes] = {}, column[kLanes] = {}, r = begin, i = 0;
  for (size_t done = 0; done < n; done += kLanes) {
    const size_t lanes = n - done < kLanes ? n - done : kLanes;
    for (size_t j = 0; j < lanes; ++j) {
      row[j] = r, column[j] = i;
      if (++i == n_features) i = 0, ++r;
    }
    for (size_t j = lanes; j < kLanes; ++j) row[j] = row[lanes - 1], column[j] = column[lanes - 1];
    for (size_t j = 0; j < kLanes; ++j) copy(parameters + row[j] * ldp + column[j] * size, tile.rows + j * tile.ld, size);
    to_columns(tile);
    f(row, column, lanes);
  }
}

// Scores, and with Slopes the gradient of -sum_r weight_r log p(x_r). One value is certain: a term of 0 without slopes.
template <bool Slopes>
CHAINRULE_INLINE chainrule_status score(const Mixture &mixture, size_t n_rows, const Real *parameters, size_t ldp, const int32_t *x,
                                        size_t ldx, const Real *weight, double *log_prob, double *terms, Real *dparameters,
                                        size_t ldd, const chainrule_exec *exec) {
  const size_t n = mixture.n_features, K = mixture.n_components, width = padded(n), rows = rows_at_once(n);
  const size_t size = tile_size(K) + rows * width;
  const double work = double(n_rows) * double(n) * double(K) * (Slopes ? 150 : 120);
  const int threads = plan_threads(exec, (n_rows + rows - 1) / rows, work);
  Real *scratch = static_cast<Real *>(arena(size_t(threads) * size * sizeof(Real)));
  if (!scratch) return CHAINRULE_NO_MEMORY;
  const Levels levels = levels_of(mixture);
  return for_each(exec, threads, n_rows, rows, [&](size_t begin, size_t end, int worker) {
    const Tile tile = tile_at(scratch + size_t(worker) * size, K);
    Real *const all = tile.rows + tile_size(K);  // [rows][width] terms, zeros beyond n_features
    for (size_t k = 0; k < (end - begin) * width; ++k) all[k] = 0;
    if (mixture.n_values > 1) {
      for_values(mixture, parameters, ldp, begin, end, tile, [&](const size_t *row, const size_t *column, size_t lanes) __attribute__((always_inline)) {
        Real value[kLanes], term[kLanes];
        for (size_t j = 0; j < kLanes; ++j) value[j] = Real(x[row[j] * ldx + column[j]]);
        store(term, mixture_log_prob<Slopes>(levels, tile, load<Real, kSide>(value)));
        for (size_t j = 0; j < lanes; ++j) all[(row[j] - begin) * width + column[j]] = term[j];
        if constexpr (Slopes) {
          for (size_t j = 0; j < kLanes; ++j) value[j] = -(weight ? weight[row[j]] : Real(1) / Real(n_rows));
          const Values scale = load<Real, kSide>(value);
          for (size_t k = 0; k < 3 * K; ++k) store(tile.columns + k * kLanes, scale * load<Real, kSide>(tile.columns + k * kLanes));
          to_rows(tile);
          for (size_t j = 0; j < lanes; ++j) copy(tile.rows + j * tile.ld, dparameters + row[j] * ldd + column[j] * 3 * K, 3 * K);
        }
      });
    } else if constexpr (Slopes) {
      for (size_t r = begin; r < end; ++r)
        for (size_t k = 0; k < 3 * K * n; ++k) dparameters[r * ldd + k] = 0;
    }
    for (size_t r = begin; r < end; ++r) {
      const Real *t = all + (r - begin) * width;
      if (terms)
        for (size_t i = 0; i < n; ++i) terms[r * n + i] = double(t[i]);
      if (log_prob) log_prob[r] = sum_terms(t, n);
    }
  });
}

}  // namespace

CHAINRULE_KERNEL(logistic_mixture_log_prob)(const Mixture *mixture, size_t n_rows, const Real *parameters, size_t ldp,
                                            const int32_t *x, size_t ldx, double *log_prob, double *terms,
                                            const chainrule_exec *exec) {
  return score<false>(*mixture, n_rows, parameters, ldp, x, ldx, nullptr, log_prob, terms, nullptr, 0, exec);
}

CHAINRULE_KERNEL(logistic_mixture_gradient)(const Mixture *mixture, size_t n_rows, const Real *parameters, size_t ldp,
                                            const int32_t *x, size_t ldx, const Real *weight, double *log_prob,
                                            Real *dparameters, size_t ldd, const chainrule_exec *exec) {
  return score<true>(*mixture, n_rows, parameters, ldp, x, ldx, weight, log_prob, nullptr, dparameters, ldd, exec);
}

CHAINRULE_KERNEL(logistic_mixture_sample)(const Mixture *mixture, size_t n_rows, const Real *parameters, size_t ldp,
                                          const double *u, size_t ldu, int32_t *x, size_t ldx, const chainrule_exec *exec) {
  const size_t n = mixture->n_features, K = mixture->n_components, rows = rows_at_once(n);
  const size_t size = tile_size(K) * sizeof(Real), of_draw = 3 * kDrawn * K * sizeof(double);
  const double work = double(n_rows) * double(n) * double(K) * 600;
  const int threads = plan_threads(exec, (n_rows + rows - 1) / rows, work);
  char *scratch = static_cast<char *>(arena(size_t(threads) * (size + of_draw)));
  if (!scratch) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, n_rows, rows, [&](size_t begin, size_t end, int worker) {
    char *const mine = scratch + size_t(worker) * (size + of_draw);
    double *const draw = reinterpret_cast<double *>(mine);
    const Tile tile = tile_at(reinterpret_cast<Real *>(mine + of_draw), K);
    if (mixture->n_values == 1) {
      for (size_t r = begin; r < end; ++r)
        for (size_t i = 0; i < n; ++i) x[r * ldx + i] = 0;
      return;
    }
    for_values(*mixture, parameters, ldp, begin, end, tile, [&](const size_t *row, const size_t *column, size_t lanes) __attribute__((always_inline)) {
      for (size_t lane = 0; lane < lanes; lane += kDrawn) {
        double uniform[kDrawn];
        int32_t drawn[kDrawn];
        for (size_t j = 0; j < kDrawn; ++j) uniform[j] = u[row[lane + j] * ldu + column[lane + j]];
        mixture_draw(tile, *mixture, lane, uniform, draw, drawn);
        for (size_t j = 0; j < kDrawn && lane + j < lanes; ++j) x[row[lane + j] * ldx + column[lane + j]] = drawn[j];
      }
    });
  });
}

}  // namespace chainrule
