// The discretized mixture of logistics, one definition for every kernel that scores or draws values 0..N-1.
//
//   M = (N - 1) / 2,   b = (v - M + 1/2 - M mu) delta,   a = (v - M - 1/2 - M mu) delta,   delta = exp(-log s) / M
//   mass = sigmoid(b) - sigmoid(a), but sigmoid(b) for v = 0 and sigmoid(-a) for v = N - 1: the tails belong to the ends
//   p(v) = sum_k softmax(pi)_k mass_k,   log s = max(raw, log_scale_min)
//
// Means and scales are those of levels on [-1, 1] (x = (v - M) / M, half a bin 1 / (N - 1)); the distances are taken in
// levels, where v - M +- 1/2 is exact and one fused multiply-add gives the rest: the upper edge of a value is the lower
// edge of the next to the last bit, and the masses of all values add up to 1 however near the edges lie to the mean.
//
// A mass is never a difference of sigmoids, which cancels, nor a density times a width, which is wrong for narrow
// components. It is exact in both tails and for any width as a product without cancellation:
//
//   sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(-delta))
//     = exp(min(b, 0) + min(-a, 0)) (1 - exp(-delta)) / ((1 + exp(-|b|)) (1 + exp(-|a|))),
//
// an exponential that the mixture takes off its largest and a factor near 1: six exponentials and a division a
// component, one logarithm a value, and none of it underflows.
#pragma once
#include "bernoulli.hpp"

namespace chainrule {
namespace {
namespace mixture {  // beside panels.hpp, which has tiles of its own

constexpr int kSide = 2;                    // vectors of values side by side, whose chains overlap
constexpr size_t kLanes = kSide * kWidth;   // values at once, one in each lane
typedef Vec<Real, kSide> Values;
typedef IVec<Real, kSide> Mask;
// Means beyond count as this far, and an edge that is not there lies here: with log_scale_min >= -40 nothing overflows.
constexpr Real kFar = Real(1e18);
// A bin this narrow has 1 - exp(-delta) = delta, whose logarithm is known even where delta is 0.
constexpr Real kNarrow = Real(0x1p-40);

CHAINRULE_INLINE Values value(Real x) { return set1<Real, kSide>(x); }

// What all values share.
struct Levels {
  size_t K;
  Real last, middle, width, log_width, floor;  // N - 1, M, 1 / M, its logarithm, log_scale_min
};
CHAINRULE_INLINE Levels levels_of(const chainrule_logistic_mixture &mixture) {
  const double last = double(mixture.n_values - 1), width = 2 / last;
  double log_width[8];
  store(log_width, log(set1<double>(width)));
  return {mixture.n_components, Real(last), Real(last / 2), Real(width), Real(log_width[0]), Real(mixture.log_scale_min)};
}

// exp(-t) and 1 - exp(-t) for t >= 0, from one polynomial. Beyond 80 the first is 1.8e-35.
struct Decay {
  Values left, gone;
};
CHAINRULE_INLINE Decay decay(Values t) {
  const auto [shifted, n, r] = reduce(max(value(-80), -t));
  const Values scale = pow2(shifted), part = expm1_reduced(r);
  return {fma(scale, part, scale), -fma(scale, part, scale - value(1))};
}

// exp(t) for t <= 0, and 0 where it would be denormal: it joins numbers near 1, and needs one step less than exp.
CHAINRULE_INLINE Values exp_down(Values t) {
  constexpr Real least = pick<Real>(-87.0f, -700.0);
  const auto [shifted, n, r] = reduce(max(value(least), t));
  const Values scale = pow2(shifted);
  return select(t < value(least), value(0), fma(scale, expm1_reduced(r), scale));
}

// One component at one value: its mass is exp(exponent) factor; and the slopes of the mass's logarithm:
//   by the mean        (sigmoid(a) - sigmoid(-b)) / s
//   by the log-scale   a sigmoid(a) - b sigmoid(-b) - delta / (exp(delta) - 1), 0 below the floor
// delta does not depend on the mean. At an end the missing edge's sigmoid is 0 and there is no delta.
struct Component {
  Values exponent, factor, by_mean, by_scale;
};
template <bool Slopes>
CHAINRULE_INLINE Component component(const Levels &levels, Values v, Values mean, Values raw) {
  const Values one = value(1), none = value(0), centre = v - value(levels.middle), half = value(Real(0.5));
  const Values log_scale = max(value(levels.floor), raw), inverse = exp(-log_scale), delta = value(levels.width) * inverse;
  mean = clamp(mean, -kFar, kFar);
  const Mask first = v == none, last = v == value(levels.last), end = first | last, narrow = delta < value(kNarrow);
  const Values b = select(last, value(kFar), fma(value(-levels.middle), mean, centre + half) * delta);
  const Values a = select(first, value(-kFar), fma(value(-levels.middle), mean, centre - half) * delta);
  const Values eb = exp_down(-magnitude(b)), ea = exp_down(-magnitude(a)), inside = one / ((one + eb) * (one + ea));
  const Decay bin = decay(delta);
  const Values gone = select(end | narrow, one, bin.gone);

  Component c;
  c.exponent = min(none, b) + min(none, -a) + select(end, none, select(narrow, value(levels.log_width) - log_scale, none));
  c.factor = gone * inside;
  if constexpr (Slopes) {
    const Values below_b = select(b > none, eb, one) * (one + ea) * inside;  // sigmoid(-b)
    const Values above_a = select(a > none, one, ea) * (one + eb) * inside;  // sigmoid(a)
    const Values of_width = select(end, none, select(narrow, one, delta * bin.left / gone));
    c.by_mean = (above_a - below_b) * inverse;
    c.by_scale = select(raw < value(levels.floor), none, above_a * a - below_b * b - of_width);
  }
  return c;
}

// Parameters of kLanes values, each value's 3 K in a row of `rows`, and, transposed, a column of `columns`: logits, means,
// log-scales, then K more for exponents and K for factors.
struct Tile {
  size_t K, ld;  // ld: 3 K in whole blocks of the transpose
  Real *rows, *columns;

  CHAINRULE_INLINE Real *column(size_t part, size_t k) const { return columns + ((part < 3 ? part * K : ld + (part - 3) * K) + k) * kLanes; }
};
enum { kLogit, kMean, kScale, kExponent, kFactor };
CHAINRULE_INLINE size_t tile_ld(size_t K) { return (3 * K + block_width<Real> - 1) / block_width<Real> * block_width<Real>; }
CHAINRULE_INLINE size_t tile_size(size_t K) { return (2 * tile_ld(K) + 2 * K) * kLanes; }
CHAINRULE_INLINE Tile tile_at(Real *p, size_t K) { return {K, tile_ld(K), p, p + tile_ld(K) * kLanes}; }

CHAINRULE_INLINE void copy(const Real *from, Real *to, size_t n) {
  size_t k = 0;
  for (; k + kWidth <= n; k += kWidth) store(to + k, load(from + k));
  if (k < n) store_part(to + k, load_part(from + k, int(n - k)), int(n - k));
}
CHAINRULE_INLINE void to_columns(const Tile &tile) {
  for (size_t c = 0; c < tile.ld; c += block_width<Real>)
    for (size_t j = 0; j < kLanes; j += block_width<Real>)
      transpose_block(tile.rows + j * tile.ld + c, tile.ld, tile.columns + c * kLanes + j, kLanes);
}
CHAINRULE_INLINE void to_rows(const Tile &tile) {
  for (size_t c = 0; c < tile.ld; c += block_width<Real>)
    for (size_t j = 0; j < kLanes; j += block_width<Real>)
      transpose_block(tile.columns + c * kLanes + j, kLanes, tile.rows + j * tile.ld + c, tile.ld);
}

// log p of the values v, whose parameters stand in the tile's columns. Sums over components run from the first to the
// last. With Slopes, the columns of parameters become d(log p) / d(parameter).
template <bool Slopes> CHAINRULE_INLINE Values mixture_log_prob(const Levels &levels, const Tile &tile, Values v) {
  const auto at = [&](int part, size_t k) __attribute__((always_inline)) { return load<Real, kSide>(tile.column(size_t(part), k)); };
  const size_t K = levels.K;
  Values top = at(kLogit, 0);
  for (size_t k = 1; k < K; ++k) top = max(top, at(kLogit, k));
  Values prior = value(0), largest = value(0);
  for (size_t k = 0; k < K; ++k) {
    const Values logit = at(kLogit, k) - top, weight = exp_down(logit);
    const Component c = component<Slopes>(levels, v, at(kMean, k), at(kScale, k));
    const Values exponent = logit + c.exponent;
    prior = prior + weight;
    largest = k ? max(largest, exponent) : exponent;
    store(tile.column(kExponent, k), exponent), store(tile.column(kFactor, k), c.factor);
    if constexpr (Slopes)
      store(tile.column(kLogit, k), weight), store(tile.column(kMean, k), c.by_mean), store(tile.column(kScale, k), c.by_scale);
  }
  Values sum = value(0);
  for (size_t k = 0; k < K; ++k) {
    const Values joint = exp_down(at(kExponent, k) - largest) * at(kFactor, k);
    sum = sum + joint;
    if constexpr (Slopes) store(tile.column(kExponent, k), joint);
  }
  if constexpr (Slopes) {
    const Values per_sum = value(1) / sum, per_prior = value(1) / prior;
    for (size_t k = 0; k < K; ++k) {
      const Values share = at(kExponent, k) * per_sum;  // the component's, given the value
      store(tile.column(kLogit, k), share - at(kLogit, k) * per_prior);
      store(tile.column(kMean, k), share * at(kMean, k)), store(tile.column(kScale, k), share * at(kScale, k));
    }
  }
  return min(value(0), largest + log(sum / prior));  // rounding alone could make it positive
}

// kDrawn values from their columns (of kLanes) and uniforms, in double, by bisection: the smallest v with
// u sum_k e_k < sum_k e_k sigmoid((v - M + 1/2 - M mu_k) delta_k), e_k = exp(pi_k - max pi); N - 1 if there is none before.
// Plain products and differences, so that NumPy finds the same edges. scratch: e, M mu and delta, [K][kDrawn] each.
constexpr size_t kDrawn = 16;
typedef Vec<double, 2> Doubles;
CHAINRULE_INLINE void mixture_draw(const Tile &tile, const chainrule_logistic_mixture &mixture, size_t lane, const double *u,
                                   double *scratch, int32_t *value) {
  const auto all = [](double x) __attribute__((always_inline)) { return set1<double, 2>(x); };
  const size_t K = tile.K, part = kDrawn * K;
  const double last = double(mixture.n_values - 1);
  for (size_t k = 0; k < K; ++k)
    for (size_t j = 0; j < kDrawn; j += 8)
      for (size_t p = 0; p < 3; ++p) store(scratch + p * part + k * kDrawn + j, load_double(tile.column(p, k) + lane + j));
  double *const e = scratch, *const centre = e + part, *const delta = centre + part;
  const Doubles middle = all(last / 2), half = all(0.5), floor = all(double(Real(mixture.log_scale_min)));
  const auto at = [](const double *p, size_t k) __attribute__((always_inline)) { return load<double, 2>(p + k * kDrawn); };
  Doubles top = at(e, 0), sum = all(0);
  for (size_t k = 1; k < K; ++k) top = max(top, at(e, k));
  for (size_t k = 0; k < K; ++k) {
    const Doubles weight = exp(at(e, k) - top);
    sum = sum + weight;
    store(e + k * kDrawn, weight);
    store(centre + k * kDrawn, middle * clamp(at(centre, k), -double(kFar), double(kFar)));
    store(delta + k * kDrawn, all(2 / last) * exp(-max(floor, at(delta, k))));
  }
  const Doubles target = load<double, 2>(u) * sum;
  Doubles low = all(0), high = all(last);  // the value is one of low..high
  for (uint32_t left = uint32_t(mixture.n_values) - 1; left; left >>= 1) {
    const Doubles rounder = all(shifter<double>);
    const Doubles v = ((low + high) * half - all(0.25) + rounder) - rounder;  // the middle, rounded down
    const Doubles edge = v - middle + half;
    Doubles upto = all(0);
    for (size_t k = 0; k < K; ++k) upto = upto + at(e, k) * sigmoid((edge - at(centre, k)) * at(delta, k));
    const IVec<double, 2> open = low < high, below = target < upto;
    high = select(open & below, v, high);
    low = select(open & (below ^ iset1<double, 2>(-1)), v + all(1), low);
  }
  double drawn[kDrawn];
  store(drawn, low);
  for (size_t k = 0; k < kDrawn; ++k) value[k] = int32_t(drawn[k]);
}

}  // namespace mixture
}  // namespace
}  // namespace chainrule
