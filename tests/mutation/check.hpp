// What the checks of all families share: random inputs, the comparison with the equations in double, the digest of results.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include <vector>

#include "chainrule/chainrule.h"

// A kernel of the instruction set that is checked; nullptr if it is not linked in.
#define KERNEL(name) __attribute__((weak)) chainrule_##name##_f32_fn name##_f32

namespace chainrule::CHAINRULE_ISA {}
using namespace chainrule::CHAINRULE_ISA;

typedef std::vector<float> Floats;
typedef std::vector<double> Doubles;
typedef std::vector<uint8_t> Bytes;

inline uint64_t state = 1;
inline double uniform() {  // in (0, 1); SplitMix64
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return (double((z ^ (z >> 31)) >> 12) + 0.5) * 0x1p-52;
}

inline uint64_t digest = 0xCBF29CE484222325u;  // FNV-1a
template <class T> void add_bits(const std::vector<T> &values) {
  const auto *bytes = reinterpret_cast<const unsigned char *>(values.data());
  for (size_t k = 0; k < values.size() * sizeof(T); ++k) digest = (digest ^ bytes[k]) * 0x100000001B3u;
}

inline bool wrong = false;
template <class T> void compare(const char *what, const std::vector<T> &got, const Doubles &want) {
  double largest = 1, error = 0;
  for (size_t k = 0; k < want.size(); ++k) {
    largest = fmax(largest, fabs(want[k]));
    double e = fabs(double(got[k]) - want[k]);
    if (!(e <= error)) error = e;  // a NaN stays
  }
  if (error <= 2e-5 * largest) return;
  printf("%s: error %g, largest value %g\n", what, error, largest);
  wrong = true;
}

inline double sigmoid(double t) { return 1 / (1 + exp(-t)); }

inline Floats floats(size_t n, double scale) {
  Floats v(n);
  for (float &value : v) value = float((uniform() - 0.5) * scale);
  return v;
}

// A matrix in panels, zeros beyond its columns; in panels of gates, column j < n is a filter and n + j its gate.
struct Panels {
  size_t in, out, gates;
  Floats W;
  Panels(size_t n_in, size_t n_out, double scale, size_t channels = 0)
      : in(n_in), out(n_out), gates(channels), W((channels ? (channels + 15) / 16 : (n_out + 31) / 32) * n_in * 32) {
    for (size_t k = 0; k < in; ++k)
      for (size_t o = 0; o < out; ++o) W[at(k, o)] = float((uniform() - 0.5) * scale);
  }
  size_t place(size_t o) const { return gates ? o % gates / 16 * 32 + o % gates % 16 + o / gates * 16 : o; }
  size_t at(size_t k, size_t o) const { return (place(o) / 32 * in + k) * 32 + place(o) % 32; }
  double operator()(size_t k, size_t o) const { return W[at(k, o)]; }
};

// Attention of one head over the first n keys, `at(j, c)` and `value(j, c)`; returns the log-sum.
template <class Q, class K, class V> double attend(size_t n, size_t d, double scale, Q &&q, K &&key, V &&value, Doubles &y, Doubles &p) {
  double m = -INFINITY, l = 0;
  p.assign(n, 0), y.assign(d, 0);
  for (size_t j = 0; j < n; ++j) {
    for (size_t c = 0; c < d; ++c) p[j] += scale * q(c) * key(j, c);
    m = fmax(m, p[j]);
  }
  for (size_t j = 0; j < n; ++j) l += exp(p[j] - m);
  for (size_t j = 0; j < n; ++j) {
    p[j] = exp(p[j] - m) / l;
    for (size_t c = 0; c < d; ++c) y[c] += p[j] * value(j, c);
  }
  return n ? m + log(l) : 0;
}

// ---- The families, a file each: each runs those of its kernels that are there.
void check_nade();
void check_conditionals();
void check_masked();
void check_elementwise();
void check_wavenet();
void check_layers();
void check_attention();
void check_transformer();
