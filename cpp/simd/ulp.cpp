// Measures the error of every function of math.hpp in units in the last place of the correctly rounded result, against
// libm in double (for float) and long double (for double). Prints the table of docs/math.md.
//   chainrule_ulp [samples of a double function, 1e6] [stride through the floats, 61]
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "math.hpp"

using namespace chainrule;

namespace {

typedef long double Exact;

// |got - want| over the distance of neighbouring T's at want (denormals: the smallest T).
template <class T> double ulps(T got, Exact want) {
  if (isnan(want)) return isnan(got) ? 0 : INFINITY;
  T rounded = T(want);
  if (rounded == got) {
    if (isinf(rounded)) return 0;
  } else if (isinf(rounded) || isinf(got)) {
    // Beside overflow: as if the exponents went on.
    Exact top = sizeof(T) == 4 ? Exact(0x1p128) : 2 * Exact(0x1p1023);
    Exact g = isinf(got) ? copysignl(top, got) : Exact(got);
    return isnan(got) ? INFINITY : double(fabsl(g - want) / (top / (sizeof(T) == 4 ? 0x1p24 : 0x1p53)));
  }
  if (isnan(got)) return INFINITY;
  int e;
  frexpl(want, &e);
  const int lowest = sizeof(T) == 4 ? -149 : -1074, digits = sizeof(T) == 4 ? 24 : 53;
  e -= digits;
  if (want == 0 || e < lowest) e = lowest;
  return double(ldexpl(fabsl(Exact(got) - want), -e));
}

struct Worst {
  double ulp = 0, where = 0;
};

template <class T, class F, class G> void measure(Worst &worst, const T (&x)[Vec<T>::width], F f, G reference) {
  T y[Vec<T>::width];
  store(y, f(load(x)));
  for (int j = 0; j < Vec<T>::width; ++j) {
    double u = ulps(y[j], Exact(reference(x[j])));
    if (!(u <= worst.ulp)) worst = {u, double(x[j])};
  }
}

// All floats of [low, high] at the stride, in order of their bits; ends included.
template <class F, class G> Worst scan(F f, G reference, float low, float high, double, long stride) {
  auto key = [](float v) { int32_t i; memcpy(&i, &v, 4); return i < 0 ? int64_t(INT32_MIN) - i : int64_t(i); };
  auto value = [](int64_t k) { int32_t i = int32_t(k < 0 ? INT32_MIN - k : k); float v; memcpy(&v, &i, 4); return v; };
  Worst worst;
  int64_t first = key(low), last = key(high);
  for (int64_t k = first; k <= last;) {
    float x[16];
    for (float &v : x) v = value(k < last ? k : last), k += stride;
    measure(worst, x, f, reference);
  }
  return worst;
}
// Doubles of [low, high]: half of them uniform, half uniform in the logarithm of |x|; and the ends.
template <class F, class G> Worst scan(F f, G reference, double low, double high, double samples, long) {
  uint64_t state = 88172645463325252u;
  auto uniform = [&] { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return double(state >> 11) * 0x1p-53; };
  Worst worst;
  double x[8] = {low, high, high, high, high, high, high, high};
  measure(worst, x, f, reference);
  double largest = fmax(fabs(low), fabs(high)), top = log2(largest);
  for (double done = 0; done < samples; done += 8) {
    for (int j = 0; j < 8; ++j) {
      if (j % 2) {
        x[j] = low + (high - low) * uniform();
      } else {
        double bottom = low > 0 ? log2(low) : (uniform() < 0.25 ? -1074.0 : -60.0);
        x[j] = exp2(bottom + (top - bottom) * uniform());
        if (low < 0 && uniform() < 0.5) x[j] = -x[j];
      }
      x[j] = fmin(fmax(x[j], low), high);
    }
    measure(worst, x, f, reference);
  }
  return worst;
}

long double sigmoid_(long double x) { return 1 / (1 + expl(-x)); }
double sigmoid_(double x) { return 1 / (1 + ::exp(-x)); }
long double softplus_(long double x) { return fmaxl(x, 0) + log1pl(expl(-fabsl(x))); }
double softplus_(double x) { return fmax(x, 0) + ::log1p(::exp(-fabs(x))); }

}  // namespace

int main(int argc, char **argv) {
  const double samples = argc > 1 ? atof(argv[1]) : 1e6;
  const long stride = argc > 2 ? atol(argv[2]) : 61;
  puts("| function | type | range | largest error (ULP) | at |\n|---|---|---|---:|---:|");
#define ROW(name, libm, low32, high32, low64, high64)                                                                  \
  {                                                                                                                    \
    Worst w = scan([](auto x) __attribute__((always_inline)) { return name(x); }, [](float x) { return libm(double(x)); },     \
                   float(low32), float(high32), samples, stride);                                                      \
    printf("| " #name " | float | %.9g to %.9g | %.3f | %.9g |\n", float(low32), float(high32), w.ulp, w.where);       \
    w = scan([](auto x) __attribute__((always_inline)) { return name(x); },                                                    \
             [](double x) { return libm##_long((long double)x); }, double(low64), double(high64), samples, stride);    \
    printf("| " #name " | double | %.9g to %.9g | %.3f | %.17g |\n", double(low64), double(high64), w.ulp, w.where);   \
    fflush(stdout);                                                                                                    \
  }
#define exp_long expl
#define expm1_long expm1l
#define log_long logl
#define log1p_long log1pl
#define sigmoid__long sigmoid_
#define softplus__long softplus_
#define tanh_long tanhl
#define erf_long erfl
#define sin_long sinl
#define cos_long cosl
  ROW(exp, ::exp, -105, 89, -746, 710)
  ROW(expm1, ::expm1, -105, 89, -746, 710)
  ROW(log, ::log, 0, INFINITY, 0x1p-1074, 0x1.fffffffffffffp1023)
  ROW(log1p, ::log1p, -1, INFINITY, -1, 0x1.fffffffffffffp1023)
  ROW(sigmoid, sigmoid_, -87, 200, -708, 800)
  ROW(tanh, ::tanh, -20, 20, -30, 30)
  ROW(softplus, softplus_, -105, 200, -746, 800)
  ROW(erf, ::erf, -6, 6, -8, 8)
  ROW(sin, ::sin, -131072, 131072, -1e9, 1e9)
  ROW(cos, ::cos, -131072, 131072, -1e9, 1e9)
}
