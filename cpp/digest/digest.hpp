// What the digests of all families share: fixed inputs, the hash of a result, and calls of a kernel in parts.
//
// Inputs come from integer arithmetic and exact conversions alone; every output buffer is hashed whole, leading dimensions'
// padding included, NaN as one pattern.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "chainrule/chainrule.h"

namespace proof {

inline const chainrule_api *api;
inline chainrule_exec exec = {0, nullptr, nullptr};
inline size_t rows_at_once = 0;

// ---- Fixed inputs.

struct Words {  // SplitMix64 (Steele, Lea & Flood 2014)
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  size_t below(size_t n) { return size_t((next() >> 32) * n >> 32); }
};

// Multiples of 2^-23 in [-1, 1), times a power of two: exact in float.
template <class T> std::vector<T> numbers(Words &words, size_t n, T scale) {
  std::vector<T> v(n);
  for (T &value : v) value = T(int64_t(words.next() >> 40) - (int64_t(1) << 23)) * T(0x1p-23) * scale;
  return v;
}

// Puts a number that is hard on arithmetic in about one place of `every`.
template <class T> void sprinkle(Words &words, std::vector<T> &v, size_t every, bool finite) {
  typedef std::numeric_limits<T> limits;
  static constexpr T hard[] = {T(-0.0), limits::denorm_min(), -limits::min() / 2, limits::max(), limits::lowest(),
                               T(1000), T(-1000), limits::infinity(), -limits::infinity(), limits::quiet_NaN()};
  for (T &value : v)
    if (words.below(every) == 0) value = hard[words.below(finite ? 7 : 10)];
}

inline std::vector<uint8_t> bits(Words &words, size_t n, size_t ones_in_256) {
  std::vector<uint8_t> v(n);
  for (uint8_t &bit : v) bit = words.below(256) < ones_in_256;
  return v;
}

inline std::vector<double> uniforms(Words &words, size_t n) {
  std::vector<double> v(n);
  for (double &u : v) u = (double(words.next() >> 12) + 0.5) * 0x1p-52;
  return v;
}

// Weights in panels of 32 outputs, zeros beyond the last; `lane(j)`: whether a place of them is used.
template <class T, class F> std::vector<T> panels(Words &words, size_t count, size_t n_in, T scale, F &&lane) {
  std::vector<T> W = numbers<T>(words, count * n_in * 32, scale);
  for (size_t i = 0; i < W.size(); ++i)
    if (!lane(i / (n_in * 32) * 32 + i % 32)) W[i] = 0;
  return W;
}
template <class T> std::vector<T> panels(Words &words, size_t n_in, size_t n_out, T scale) {
  return panels<T>(words, (n_out + 31) / 32, n_in, scale, [&](size_t j) { return j < n_out; });
}

inline std::vector<uint32_t> permutation(Words &words, size_t n) {
  std::vector<uint32_t> order(n);
  for (size_t i = 0; i < n; ++i) {
    const size_t j = words.below(i + 1);
    order[i] = order[j], order[j] = uint32_t(i);
  }
  return order;
}

// ---- Digests.

struct Digest {  // FNV-1a, 64 bits
  uint64_t hash = 0xCBF29CE484222325u;
  void bytes(const void *data, size_t n) {
    for (size_t i = 0; i < n; ++i) hash = (hash ^ static_cast<const uint8_t *>(data)[i]) * 0x100000001B3u;
  }
  template <class T> void add(const std::vector<T> &v) {
    for (T value : v) {
      if constexpr (std::is_floating_point_v<T>)
        if (value != value) value = std::numeric_limits<T>::quiet_NaN();  // sign and payload are exempt
      bytes(&value, sizeof value);
    }
  }
};

inline Digest all;  // of the lines

inline void line(const std::string &name, const Digest &digest) {
  printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(digest.hash));
  all.bytes(name.c_str(), name.size());
  all.bytes(&digest.hash, sizeof digest.hash);
}

inline void check(chainrule_status status) {
  if (status == CHAINRULE_OK) return;
  fprintf(stderr, "a kernel returned status %d\n", status);
  exit(1);
}

// f(begin, end) over [0, n) in calls of `unit` times rows_at_once.
template <class F> void in_parts(size_t n, size_t unit, F &&f) {
  const size_t part = rows_at_once ? rows_at_once * unit : n;
  for (size_t begin = 0; begin < n; begin += part) check(f(begin, std::min(begin + part, n)));
}

// The table's entry of a precision.
#define KERNEL(name) (pick<T>(api->name##_f32, api->name##_f64))
template <class T, class F, class G> auto pick(F *f32, G *f64) {
  if constexpr (std::is_same_v<T, float>) return f32;
  else return f64;
}
template <class T> const char *suffix() { return std::is_same_v<T, float> ? "_f32" : "_f64"; }

// ---- The families, a file each. A family's functions print its lines for one precision, but for kernels that have none.
#define BOTH_PRECISIONS(function)    \
  template void function<float>();  \
  template void function<double>();

template <class T> void nade();  // nade.cpp
template <class T> void nade_categorical();
template <class T> void bernoulli();  // conditionals.cpp
template <class T> void categorical();
template <class T> void logistic_mixture();
template <class T> void optimizers();  // elementwise.cpp
template <class T> void live_ranges();
template <class T> void map();
template <class T> void logsumexp();
void uniforms();
template <class T> void products();  // masked.cpp
template <class T> void networks();
void encode();
template <class T> void convolutions();  // wavenet.cpp
template <class T> void gated_blocks();
template <class T> void embeddings();
template <class T> void turned_embeddings();
template <class T> void generation();
template <class T> void layers();  // layers.cpp
template <class T> void vocabularies();
template <class T> void attentions();  // attention.cpp
template <class T> void packed_products();  // transformer.cpp
template <class T> void transformers();

}  // namespace proof
