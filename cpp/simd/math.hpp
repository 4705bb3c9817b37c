// Elementary functions of Vec<float> and Vec<double>, from + - * / sqrt, fma, compare-and-select and bits alone.
//
// No libm, no tables, nothing a machine may round its own way: the same bits on every instruction set. Each function is
// a range reduction and a polynomial. Polynomials are minimax fits (Remez exchange at 160 bits; coefficients rounded
// lowest first, the later ones refitted), and the error quoted with one is its own, before rounding. What whole
// functions err by, in units in the last place over all of their range, is measured by ulp.cpp: docs/math.md.
//
// NaN gives NaN; infinities, zeros and denormals give what the limit says, where a function does not state otherwise.
#pragma once
#include "vec.hpp"

namespace chainrule {
namespace {

// ---------------------------------------------------------------------------------------------------------------------
// Tools

// c0 + c1 x + c2 x^2 + ..., by Horner.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> polynomial(Vec<T, N>, double c0) { return set1<T, N>(T(c0)); }
template <class T, int N, class... C> CHAINRULE_INLINE Vec<T, N> polynomial(Vec<T, N> x, double c0, C... c) {
  return fma(polynomial(x, c...), x, set1<T, N>(T(c0)));
}

// The constant of this precision.
template <class T> CHAINRULE_INLINE constexpr T pick(float in_float, double in_double) {
  return sizeof(T) == 4 ? T(in_float) : T(in_double);
}

// IEEE 754 layout: 1 sign bit, exponent + bias, `fraction` bits.
template <class T> struct Format;
template <> struct Format<float> {
  static constexpr int fraction = 23, bias = 127;
  static constexpr int32_t sign = INT32_MIN, one = 0x3F800000, sqrt_half = 0x3F3504F3;
};
template <> struct Format<double> {
  static constexpr int fraction = 52, bias = 1023;
  static constexpr int64_t sign = INT64_MIN, one = 0x3FF0000000000000, sqrt_half = 0x3FE6A09E667F3BCD;
};
// Adding 1.5 * 2^fraction rounds to the nearest integer n and leaves n in the low bits: `shifter`. With the bias on top,
// those bits shifted into place are the number 2^n: `pow2_shifter`.
template <class T> constexpr T shifter = pick<T>(0x1.8p23f, 0x1.8p52);
template <class T> constexpr T pow2_shifter = shifter<T> + Format<T>::bias;
// 2^n from n + pow2_shifter. A NaN gives some number: multiply a NaN by it.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> pow2(Vec<T, N> n_shifted) {
  return from_bits(bits(n_shifted) << Format<T>::fraction);
}

template <class T, int N> CHAINRULE_INLINE IVec<T, N> sign(Vec<T, N> x) { return bits(x) & iset1<T, N>(Format<T>::sign); }
template <class T, int N> CHAINRULE_INLINE Vec<T, N> magnitude(Vec<T, N> x) {
  return from_bits(bits(x) & iset1<T, N>(~Format<T>::sign));
}
template <class T, int N> CHAINRULE_INLINE Vec<T, N> clamp(Vec<T, N> x, T low, T high) {
  return max(set1<T, N>(low), min(set1<T, N>(high), x));
}

// Each constant is high + low to twice the precision: fma(n, -ln2_high, x) is exact when n is x / ln 2 rounded.
template <class T> constexpr T log2_e = T(1.4426950408889634);
template <class T> constexpr T log2_e_low = pick<T>(1.925963e-08f, 2.0355273740931033e-17);
template <class T> constexpr T ln2_high = pick<T>(0.6931472f, 0.6931471805599453);
template <class T> constexpr T ln2_low = pick<T>(-1.9046542e-09f, 2.3190468138462996e-17);
template <class T> constexpr T infinity = T(__builtin_inf());
template <class T> constexpr T not_a_number = T(__builtin_nan(""));

// ---------------------------------------------------------------------------------------------------------------------
// Exponentials: e^x = 2^n e^r, n = round(x / ln 2), r = x - n ln 2, |r| <= ln 2 / 2.

template <class T, int N> struct Reduced {
  Vec<T, N> n_shifted, n, r;
};
template <class T, int N> CHAINRULE_INLINE Reduced<T, N> reduce(Vec<T, N> x) {
  Vec<T, N> t = fma(x, set1<T, N>(log2_e<T>), set1<T, N>(pow2_shifter<T>));
  Vec<T, N> n = t - set1<T, N>(pow2_shifter<T>);
  return {t, n, fma(n, set1<T, N>(-ln2_low<T>), fma(n, set1<T, N>(-ln2_high<T>), x))};
}

// e^r - 1 = r + r^2 q(r). Degree 4: relative error 1.4e-8; degree 9: 2.4e-17.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> expm1_reduced(Vec<T, N> r) {
  Vec<T, N> q;
  if constexpr (sizeof(T) == 4)
    q = polynomial(r, 0.5, 0.1666655, 0.041666858, 0.008365971, 0.0013897863);
  else
    q = polynomial(r, 0.5, 0.16666666666666602, 0.041666666666619986, 0.008333333333388359, 0.0013888888920504804,
                   0.0001984126970941778, 2.4801516355200705e-05, 2.7557424997844387e-06, 2.7622223466730725e-07,
                   2.50459275343516e-08);
  return fma(r * r, q, r);
}

// e^x. 2^n is applied in two steps: 2^128 and denormal results need them.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> exp(Vec<T, N> x) {
  auto [t, n, r] = reduce(clamp(x, pick<T>(-105.0f, -746.0), pick<T>(89.0f, 710.0)));
  Vec<T, N> half_shifted = fma(n, set1<T, N>(0.5), set1<T, N>(pow2_shifter<T>));
  Vec<T, N> rest_shifted = n - (half_shifted - set1<T, N>(pow2_shifter<T>)) + set1<T, N>(pow2_shifter<T>);
  return (expm1_reduced(r) + set1<T, N>(1)) * pow2(half_shifted) * pow2(rest_shifted);
}

// e^x - 1 = 2^n (e^r - 1) + (2^n - 1), for x within +-80.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> expm1_moderate(Vec<T, N> x) {
  auto [t, n, r] = reduce(x);
  Vec<T, N> scale = pow2(t);
  return fma(scale, expm1_reduced(r), scale - set1<T, N>(1));
}
// The same for every x: above 40 half of it, doubled, since 2^n may overflow.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> expm1(Vec<T, N> x) {
  auto [t, n, r] = reduce(clamp(x, T(-50), pick<T>(89.0f, 710.0)));
  IVec<T, N> large = x > set1<T, N>(40);
  Vec<T, N> scale = pow2(t - select(large, set1<T, N>(1), zero<T, N>()));
  Vec<T, N> y = fma(scale, expm1_reduced(r), scale - set1<T, N>(1)) * select(large, set1<T, N>(2), set1<T, N>(1));
  return from_bits(bits(y) | sign(x));  // expm1(-0) = -0
}

// a(r) = r coth(r/2), an even function of r: e^r = (a + r) / (a - r), to few terms and without cancellation.
// Two terms: relative error of e^r 2.7e-9; five: 8.5e-19.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> r_coth_half(Vec<T, N> r) {
  if constexpr (sizeof(T) == 4)
    return polynomial(r * r, 2.0, 0.1666662, -0.002765941);
  else
    return polynomial(r * r, 2.0, 0.16666666666666602, -0.0027777777777013672, 6.613756320948822e-05, -1.6533901686594846e-06,
                      4.138117479216239e-08);
}

// 1 / (1 + e^-x) = (a + f) / ((a + f) + 2^n (a - f)), in base 2: -x log2(e) = n - f, |f| <= 1/2, a(f) = f coth(f ln2 / 2),
// whose sums lie near the middle of [2, 4), where a rounding costs least. Error of 2^f: 1.4e-9 (double: 5.1e-19).
// x is taken within +-87 (double: +-708): sigmoid(-inf) = sigmoid(-87) = 1.6e-38 (double: 3.3e-308), never denormal.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> sigmoid(Vec<T, N> x) {
  x = clamp(x, pick<T>(-87.0f, -708.0), pick<T>(87.0f, 708.0));
  Vec<T, N> t = fma(x, set1<T, N>(-log2_e<T>), set1<T, N>(pow2_shifter<T>)), n = t - set1<T, N>(pow2_shifter<T>), a;
  Vec<T, N> f = fma(x, set1<T, N>(log2_e_low<T>), fma(x, set1<T, N>(log2_e<T>), n));
  if constexpr (sizeof(T) == 4)
    a = polynomial(f * f, 2.88539, 0.11552466, -0.0009222972);
  else
    a = polynomial(f * f, 2.8853900817779268, 0.11552453009332662, -0.0009250684777800858, 1.0582189037431045e-05,
                   -1.2710425240468758e-07, 1.5310373706182127e-09);
  Vec<T, N> plus = a + f, minus = plus - (f + f);  // not a - f: so the rounding of a + f cancels in the quotient
  return plus / fma(pow2(t), minus, plus);
}

// (e^y - 1) / (e^y + 1), y = 2|x|: ((2^n - 1) a + (2^n + 1) r) / (2^n (a + r) + (a - r)); odd; 1 from |x| = 9 (20) on.
// For n = 0 it is r / a, accurate however small x is.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> tanh(Vec<T, N> x) {
  Vec<T, N> y = magnitude(x);
  y = min(set1<T, N>(pick<T>(20.0f, 40.0)), y + y);
  Vec<T, N> t = fma(y, set1<T, N>(log2_e<T>), set1<T, N>(pow2_shifter<T>));
  Vec<T, N> r = fma(t - set1<T, N>(pow2_shifter<T>), set1<T, N>(-ln2_high<T>), y);  // ln2_low is lost beside n ln2 here
  Vec<T, N> a = r_coth_half(r), scale = pow2(t);
  Vec<T, N> top = fma(scale - set1<T, N>(1), a, (scale + set1<T, N>(1)) * r);
  return from_bits(bits(top / fma(scale, a + r, a - r)) | sign(x));
}

// ---------------------------------------------------------------------------------------------------------------------
// Logarithms: log x = k ln2 + log(1 + f), x = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt 2.

// log(1 + f) = 2 artanh(s) = 2s + s R(s^2), s = f / (2 + f); as 2s = f - s f, and again s f = f^2/2 - s f^2/2, it is f less
// something small, and s need not be exact. R of three terms: error 8e-10; of seven: 1.2e-18.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> log_sum(Vec<T, N> k, Vec<T, N> f) {
  Vec<T, N> s = f / (set1<T, N>(2) + f), z = s * s, R, half_square = set1<T, N>(0.5) * f * f;
  if constexpr (sizeof(T) == 4)
    R = z * polynomial(z, 0.66666776, 0.3997758, 0.2987093);
  else
    R = z * polynomial(z, 0.6666666666666734, 0.39999999999416536, 0.28571428742067667, 0.22222198599706083,
                       0.18183563185820537, 0.15314075021930834, 0.1479574286656503);
  Vec<T, N> tail = half_square - fma(s, half_square + R, k * set1<T, N>(ln2_low<T>));
  return fma(k, set1<T, N>(ln2_high<T>), f - tail);
}

// x = 2^k m for normal x > 0; k also as biased bits.
template <class T, int N> struct Split {
  IVec<T, N> biased;
  Vec<T, N> k, m;
};
template <class T, int N> CHAINRULE_INLINE Split<T, N> split(Vec<T, N> x) {
  using F = Format<T>;
  IVec<T, N> i = bits(x) + iset1<T, N>(F::one - F::sqrt_half), biased = i >> F::fraction;
  IVec<T, N> fraction = i & iset1<T, N>((typename Native<T>::integer(1) << F::fraction) - 1);
  Vec<T, N> k = from_bits(biased + bits(set1<T, N>(shifter<T>))) - set1<T, N>(pow2_shifter<T>);
  return {biased, k, from_bits(fraction + iset1<T, N>(F::sqrt_half))};
}

// log x; log(0) = -inf, NaN below. Denormals are scaled up first.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> log(Vec<T, N> x) {
  IVec<T, N> denormal = x < set1<T, N>(pick<T>(0x1p-126f, 0x1p-1022));
  auto [biased, k, m] = split(select(denormal, x * set1<T, N>(pick<T>(0x1p24f, 0x1p54)), x));
  Vec<T, N> y = log_sum(k - select(denormal, set1<T, N>(pick<T>(24.0f, 54.0)), zero<T, N>()), m - set1<T, N>(1));
  y = select(x == set1<T, N>(infinity<T>), x, y);
  y = select(x == zero<T, N>(), set1<T, N>(-infinity<T>), y);
  return select(x >= zero<T, N>(), y, set1<T, N>(not_a_number<T>));
}

// log(1 + x) for finite x > -1: u = 1 + x rounds, and c = 1 + x - u goes into f.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> log1p_finite(Vec<T, N> x) {
  Vec<T, N> u = set1<T, N>(1) + x, back = u - set1<T, N>(1);
  Vec<T, N> c = (set1<T, N>(1) - (u - back)) + (x - back);
  auto [biased, k, m] = split(u);
  Vec<T, N> scale = from_bits((iset1<T, N>(2 * Format<T>::bias) - biased) << Format<T>::fraction);  // 2^-k
  c = select(u < set1<T, N>(pick<T>(0x1p30f, 0x1p60)), c * scale, zero<T, N>());  // beyond, c is nothing, 2^-k may not exist
  return log_sum(k, (m - set1<T, N>(1)) + c);
}
// log(1 + x); log1p(-1) = -inf, NaN below.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> log1p(Vec<T, N> x) {
  Vec<T, N> y = from_bits(bits(log1p_finite(x)) | sign(x));  // log1p(-0) = -0
  y = select(x == set1<T, N>(infinity<T>), x, y);
  y = select(x == set1<T, N>(-1), set1<T, N>(-infinity<T>), y);
  return select(x >= set1<T, N>(-1), y, set1<T, N>(not_a_number<T>));
}

// log(1 + e^x) = max(x, 0) + log1p(e), e = e^-|x|.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> softplus(Vec<T, N> x, Vec<T, N> e) {
  return max(zero<T, N>(), x) + log1p_finite(e);
}
template <class T, int N> CHAINRULE_INLINE Vec<T, N> softplus(Vec<T, N> x) { return softplus(x, exp(-magnitude(x))); }

// ---------------------------------------------------------------------------------------------------------------------
// The error function: erf t = 1 - e^-g, g = -log(erfc t) = t P(t), for t >= 0; odd; 1 from t = 3.95 (5.95) on.
// P of degree 8: relative error of erf 4e-9; of degree 23: 2.2e-17.

template <class T, int N> CHAINRULE_INLINE Vec<T, N> erf(Vec<T, N> x) {
  Vec<T, N> t = min(set1<T, N>(pick<T>(3.95f, 5.95)), magnitude(x)), P;
  if constexpr (sizeof(T) == 4)
    P = set1<T, N>(1.1283792f) + polynomial(t, -5.8635383e-08, 0.6366194, 0.10277783, -0.019153064, -0.0001603949,
                                            0.0016670261, -0.000632836, 0.000117641015, -9.256235e-06);  // c0 in two parts
  else
    P = polynomial(t, 1.1283791670955126, 0.6366197723675909, 0.10277260330131553, -0.019128446993096335,
                   -0.00020919485390506198, 0.001696207669737061, -0.0005901324294886127, 2.590449725605609e-05,
                   6.442047906687449e-05, -2.9575682308919438e-05, 3.169694520778486e-06, 3.1329357104337527e-06,
                   -2.037164740806935e-06, 5.706157394330851e-07, -1.1698799172132811e-08, -6.573779658095623e-08,
                   3.458638402605193e-08, -1.0773787135957924e-08, 2.360611259527016e-09, -3.760872956267848e-10,
                   4.3019833501866476e-11, -3.3645160335619987e-12, 1.6149569918748365e-13, -3.59240100539594e-15);
  return from_bits(bits(magnitude(expm1_moderate(-(t * P)))) | sign(x));
}

// ---------------------------------------------------------------------------------------------------------------------
// Sine and cosine: |x| = n pi/2 + r, |r| <= pi/4; quadrant n mod 4 picks sin r or cos r and the sign.
// pi/2 in three parts holds for |x| <= 2^17 (double: 2^30); NaN beyond, infinities included.
// sin r: relative error 4e-9 (double: 3.8e-18); cos r: 1.5e-10 (7.5e-20).

template <class T, int N> struct SineCosine {
  IVec<T, N> quadrant;
  Vec<T, N> sine, cosine;
};
template <class T, int N> CHAINRULE_INLINE SineCosine<T, N> sine_cosine(Vec<T, N> a) {
  Vec<T, N> t = fma(a, set1<T, N>(0.6366197723675814), set1<T, N>(shifter<T>)), n = t - set1<T, N>(shifter<T>);  // 2/pi
  Vec<T, N> r = fma(n, set1<T, N>(pick<T>(-1.5707964f, -1.5707963267948966)), a);
  r = fma(n, set1<T, N>(pick<T>(4.371139e-08f, -6.123233995736766e-17)), r);
  r = fma(n, set1<T, N>(pick<T>(1.7151245e-15f, 1.4973849048591698e-33)), r);
  Vec<T, N> z = r * r, S, C;
  if constexpr (sizeof(T) == 4) {
    S = polynomial(z, -0.16666654, 0.008332102, -0.00019506847);
    C = polynomial(z, 0.041666653, -0.001388761, 2.4461577e-05);
  } else {
    S = polynomial(z, -0.1666666666666664, 0.00833333333332399, -0.00019841269830812503, 2.7557313984423544e-06,
                   -2.5050797866168036e-08, 1.5898842610289028e-10);
    C = polynomial(z, 0.04166666666666665, -0.0013888888888881708, 2.4801587293669217e-05, -2.7557315443266864e-07,
                   2.087585897106265e-09, -1.136614826865082e-11);
  }
  return {bits(t), fma(r * z, S, r), fma(z * z, C, fma(z, set1<T, N>(-0.5), set1<T, N>(1)))};
}
template <class T, int N>
CHAINRULE_INLINE Vec<T, N> in_quadrant(IVec<T, N> quadrant, Vec<T, N> even, Vec<T, N> odd, IVec<T, N> sign, Vec<T, N> a) {
  Vec<T, N> y = select(quadrant & iset1<T, N>(1), odd, even);
  y = from_bits(bits(y) ^ ((quadrant & iset1<T, N>(2)) << (8 * sizeof(T) - 2)) ^ sign);
  return select(a <= set1<T, N>(pick<T>(0x1p17f, 0x1p30)), y, set1<T, N>(not_a_number<T>));
}
template <class T, int N> CHAINRULE_INLINE Vec<T, N> sin(Vec<T, N> x) {
  Vec<T, N> a = magnitude(x);
  auto [quadrant, sine, cosine] = sine_cosine(a);
  return in_quadrant(quadrant, sine, cosine, sign(x), a);
}
template <class T, int N> CHAINRULE_INLINE Vec<T, N> cos(Vec<T, N> x) {
  Vec<T, N> a = magnitude(x);
  auto [quadrant, sine, cosine] = sine_cosine(a);
  return in_quadrant(quadrant + iset1<T, N>(1), sine, cosine, iset1<T, N>(0), a);
}

}  // namespace
}  // namespace chainrule
