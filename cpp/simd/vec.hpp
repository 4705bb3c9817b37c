// The logical vector: 64 bytes (16 floats or 8 doubles) on every instruction set, as an array of native registers.
//
// Kernels are written against it alone, so that a sum over lanes has one order everywhere (docs/reproducibility.md):
// lane sums in ascending order, then the halving tree of hsum.
#pragma once
#include "native.hpp"

namespace chainrule {
namespace {

// N > 1 stands for N logical vectors side by side: elementwise work on them overlaps (a sigmoid on AVX-512 costs 0.17 ns
// an element two at a time, 0.23 ns one at a time).
template <class T, int N = 1> struct Vec {
  typedef typename Native<T>::reg reg;
  static constexpr int width = N * 64 / sizeof(T);
  static constexpr int regs = N * 64 / CHAINRULE_REGISTER_BYTES;
  static constexpr int reg_width = width / regs;
  reg r[regs];
};

// The same lanes as signed integers of the element's size: exponents, and masks (all ones = true).
template <class T, int N = 1> struct IVec {
  typedef typename Native<T>::ireg reg;
  static constexpr int regs = N * 64 / CHAINRULE_REGISTER_BYTES;
  reg r[regs];
};

#define CHAINRULE_EACH(...)                                                \
  _Pragma("GCC unroll 8") for (int q = 0; q < Vec<T, N>::regs; ++q) { __VA_ARGS__; }

template <class T, int N = 1> CHAINRULE_INLINE Vec<T, N> set1(T x) { Vec<T, N> v; CHAINRULE_EACH(v.r[q] = set1_(x)) return v; }
template <class T, int N = 1> CHAINRULE_INLINE Vec<T, N> zero() { return set1<T, N>(T(0)); }

template <class T, int N = 1> CHAINRULE_INLINE Vec<T, N> load(const T *p) {
  Vec<T, N> v;
  CHAINRULE_EACH(v.r[q] = *(const typename Native<T>::unaligned *)(p + q * Vec<T, N>::reg_width))
  return v;
}
template <class T, int N> CHAINRULE_INLINE void store(T *p, Vec<T, N> v) {
  CHAINRULE_EACH(*(typename Native<T>::unaligned *)(p + q * Vec<T, N>::reg_width) = v.r[q])
}
// The first n lanes alone (0 <= n <= width); lanes beyond are read as +0 and never written.
template <class T> CHAINRULE_INLINE int lanes_in_(int q, int n) {
  int k = n - q * Vec<T>::reg_width;
  return k < 0 ? 0 : (k > Vec<T>::reg_width ? Vec<T>::reg_width : k);
}
template <class T, int N = 1> CHAINRULE_INLINE Vec<T, N> load_part(const T *p, int n) {
  Vec<T, N> v;
  CHAINRULE_EACH(v.r[q] = load_part_(p + q * Vec<T, N>::reg_width, lanes_in_<T>(q, n)))
  return v;
}
template <class T, int N> CHAINRULE_INLINE void store_part(T *p, Vec<T, N> v, int n) {
  CHAINRULE_EACH(store_part_(p + q * Vec<T, N>::reg_width, v.r[q], lanes_in_<T>(q, n)))
}
// The lanes whose bit in `live` is 1, lane 0 the lowest; the others are read as +0 and never written.
template <class T, int N = 1> CHAINRULE_INLINE Vec<T, N> load_live(const T *p, uint32_t live) {
  Vec<T, N> v;
  CHAINRULE_EACH(v.r[q] = load_live_(p + q * Vec<T, N>::reg_width, live >> (q * Vec<T, N>::reg_width)))
  return v;
}
template <class T, int N> CHAINRULE_INLINE void store_live(T *p, Vec<T, N> v, uint32_t live) {
  CHAINRULE_EACH(store_live_(p + q * Vec<T, N>::reg_width, v.r[q], live >> (q * Vec<T, N>::reg_width)))
}

// Bytes (0 and 1, say) as T, and either precision as double: one logical vector of memory.
template <class T, int N = 1> CHAINRULE_INLINE Vec<T, N> load_bytes(const uint8_t *p) {
  Vec<T, N> v;
  CHAINRULE_EACH(v.r[q] = load_bytes_(p + q * Vec<T, N>::reg_width, T()))
  return v;
}
CHAINRULE_INLINE Vec<double> load_double(const double *p) { return load(p); }
CHAINRULE_INLINE Vec<double> load_double(const float *p) {
  typedef double T;
  constexpr int N = 1;
  typedef float half __attribute__((vector_size(CHAINRULE_REGISTER_BYTES / 2), aligned(4), may_alias));
  Vec<double> v;
  CHAINRULE_EACH(v.r[q] = __builtin_convertvector(*(const half *)(p + q * Vec<T, N>::reg_width), f64r))
  return v;
}

template <class T, int N> CHAINRULE_INLINE Vec<T, N> operator+(Vec<T, N> a, Vec<T, N> b) { CHAINRULE_EACH(a.r[q] = a.r[q] + b.r[q]) return a; }
template <class T, int N> CHAINRULE_INLINE Vec<T, N> operator-(Vec<T, N> a, Vec<T, N> b) { CHAINRULE_EACH(a.r[q] = a.r[q] - b.r[q]) return a; }
template <class T, int N> CHAINRULE_INLINE Vec<T, N> operator*(Vec<T, N> a, Vec<T, N> b) { CHAINRULE_EACH(a.r[q] = a.r[q] * b.r[q]) return a; }
template <class T, int N> CHAINRULE_INLINE Vec<T, N> operator/(Vec<T, N> a, Vec<T, N> b) { CHAINRULE_EACH(a.r[q] = a.r[q] / b.r[q]) return a; }
template <class T, int N> CHAINRULE_INLINE Vec<T, N> operator-(Vec<T, N> a) { CHAINRULE_EACH(a.r[q] = -a.r[q]) return a; }
template <class T, int N> CHAINRULE_INLINE Vec<T, N> fma(Vec<T, N> a, Vec<T, N> b, Vec<T, N> c) { CHAINRULE_EACH(c.r[q] = fma_(a.r[q], b.r[q], c.r[q])) return c; }
template <class T, int N> CHAINRULE_INLINE Vec<T, N> sqrt(Vec<T, N> a) { CHAINRULE_EACH(a.r[q] = sqrt_(a.r[q])) return a; }
// a > b ? a : b, so max(limit, x) and min(limit, x) hand a NaN x through.
template <class T, int N> CHAINRULE_INLINE Vec<T, N> max(Vec<T, N> a, Vec<T, N> b) { CHAINRULE_EACH(a.r[q] = max_(a.r[q], b.r[q])) return a; }
template <class T, int N> CHAINRULE_INLINE Vec<T, N> min(Vec<T, N> a, Vec<T, N> b) { CHAINRULE_EACH(a.r[q] = min_(a.r[q], b.r[q])) return a; }

template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator<(Vec<T, N> a, Vec<T, N> b) { IVec<T, N> m; CHAINRULE_EACH(m.r[q] = a.r[q] < b.r[q]) return m; }
template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator>(Vec<T, N> a, Vec<T, N> b) { return b < a; }
template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator<=(Vec<T, N> a, Vec<T, N> b) { IVec<T, N> m; CHAINRULE_EACH(m.r[q] = a.r[q] <= b.r[q]) return m; }
template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator>=(Vec<T, N> a, Vec<T, N> b) { return b <= a; }
template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator==(Vec<T, N> a, Vec<T, N> b) { IVec<T, N> m; CHAINRULE_EACH(m.r[q] = a.r[q] == b.r[q]) return m; }
template <class T, int N> CHAINRULE_INLINE Vec<T, N> select(IVec<T, N> m, Vec<T, N> a, Vec<T, N> b) { CHAINRULE_EACH(b.r[q] = m.r[q] ? a.r[q] : b.r[q]) return b; }

// Bits: reinterpretation, and integer arithmetic on exponents.
template <class T, int N> CHAINRULE_INLINE IVec<T, N> bits(Vec<T, N> a) { IVec<T, N> i; CHAINRULE_EACH(i.r[q] = (typename IVec<T, N>::reg)a.r[q]) return i; }
template <class T, int N> CHAINRULE_INLINE Vec<T, N> from_bits(IVec<T, N> i) { Vec<T, N> a; CHAINRULE_EACH(a.r[q] = (typename Vec<T, N>::reg)i.r[q]) return a; }
template <class T, int N = 1> CHAINRULE_INLINE IVec<T, N> iset1(typename Native<T>::integer x) { IVec<T, N> i; CHAINRULE_EACH(i.r[q] = typename IVec<T, N>::reg{} + x) return i; }
template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator+(IVec<T, N> a, IVec<T, N> b) { CHAINRULE_EACH(a.r[q] = a.r[q] + b.r[q]) return a; }
template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator-(IVec<T, N> a, IVec<T, N> b) { CHAINRULE_EACH(a.r[q] = a.r[q] - b.r[q]) return a; }
template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator&(IVec<T, N> a, IVec<T, N> b) { CHAINRULE_EACH(a.r[q] = a.r[q] & b.r[q]) return a; }
template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator|(IVec<T, N> a, IVec<T, N> b) { CHAINRULE_EACH(a.r[q] = a.r[q] | b.r[q]) return a; }
template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator^(IVec<T, N> a, IVec<T, N> b) { CHAINRULE_EACH(a.r[q] = a.r[q] ^ b.r[q]) return a; }
template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator<<(IVec<T, N> a, int k) { CHAINRULE_EACH(a.r[q] = a.r[q] << k) return a; }
template <class T, int N> CHAINRULE_INLINE IVec<T, N> operator>>(IVec<T, N> a, int k) { CHAINRULE_EACH(a.r[q] = a.r[q] >> k) return a; }

// Sum over lanes by halving: 16 -> 8 (lane j and j+8) -> 4 -> 2 -> 1.
#if defined(__x86_64__)
typedef float f32x4 __attribute__((vector_size(16)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef double f64x2 __attribute__((vector_size(16)));
typedef double f64x4 __attribute__((vector_size(32)));
#if CHAINRULE_REGISTER_BYTES == 64
CHAINRULE_INLINE f32x8 halves_sum(Vec<float> v) {
  return __builtin_shufflevector(v.r[0], v.r[0], 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v.r[0], v.r[0], 8, 9, 10, 11, 12, 13, 14, 15);
}
CHAINRULE_INLINE f64x4 halves_sum(Vec<double> v) {
  return __builtin_shufflevector(v.r[0], v.r[0], 0, 1, 2, 3) + __builtin_shufflevector(v.r[0], v.r[0], 4, 5, 6, 7);
}
#else
CHAINRULE_INLINE f32x8 halves_sum(Vec<float> v) { return v.r[0] + v.r[1]; }
CHAINRULE_INLINE f64x4 halves_sum(Vec<double> v) { return v.r[0] + v.r[1]; }
#endif
CHAINRULE_INLINE float hsum(Vec<float> v) {
  f32x8 a = halves_sum(v);
  f32x4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  return (b[0] + b[2]) + (b[1] + b[3]);
}
CHAINRULE_INLINE double hsum(Vec<double> v) {
  f64x4 a = halves_sum(v);
  f64x2 b = __builtin_shufflevector(a, a, 0, 1) + __builtin_shufflevector(a, a, 2, 3);
  return b[0] + b[1];
}
// Eight sums at once: the same tree, with the rows transposed while they are folded.
CHAINRULE_INLINE void hsum8(const Vec<float> *v, float *out) {
  f32x8 pair[4];
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    f32x8 a = halves_sum(v[k]), b = halves_sum(v[k + 4]);
    pair[k] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
  f32x8 p = __builtin_shufflevector(pair[0], pair[1], 0, 1, 8, 9, 4, 5, 12, 13) + __builtin_shufflevector(pair[0], pair[1], 2, 3, 10, 11, 6, 7, 14, 15);
  f32x8 s = __builtin_shufflevector(pair[2], pair[3], 0, 1, 8, 9, 4, 5, 12, 13) + __builtin_shufflevector(pair[2], pair[3], 2, 3, 10, 11, 6, 7, 14, 15);
  f32x8 sum = __builtin_shufflevector(p, s, 0, 2, 8, 10, 4, 6, 12, 14) + __builtin_shufflevector(p, s, 1, 3, 9, 11, 5, 7, 13, 15);
  __builtin_memcpy(out, &sum, sizeof sum);
}
CHAINRULE_INLINE void hsum8(const Vec<double> *v, double *out) {
#pragma GCC unroll 2
  for (int k = 0; k < 8; k += 4) {
    f64x4 a = halves_sum(v[k]), b = halves_sum(v[k + 1]), c = halves_sum(v[k + 2]), d = halves_sum(v[k + 3]);
    f64x4 p = __builtin_shufflevector(a, c, 0, 1, 4, 5) + __builtin_shufflevector(a, c, 2, 3, 6, 7);
    f64x4 s = __builtin_shufflevector(b, d, 0, 1, 4, 5) + __builtin_shufflevector(b, d, 2, 3, 6, 7);
    f64x4 sum = __builtin_shufflevector(p, s, 0, 4, 2, 6) + __builtin_shufflevector(p, s, 1, 5, 3, 7);
    __builtin_memcpy(out + k, &sum, sizeof sum);
  }
}
#else
CHAINRULE_INLINE float hsum(Vec<float> v) {
  f32r a = (v.r[0] + v.r[2]) + (v.r[1] + v.r[3]);
  return (a[0] + a[2]) + (a[1] + a[3]);
}
CHAINRULE_INLINE double hsum(Vec<double> v) {
  f64r a = (v.r[0] + v.r[2]) + (v.r[1] + v.r[3]);
  return a[0] + a[1];
}
template <class T> CHAINRULE_INLINE void hsum8(const Vec<T> *v, T *out) {
  for (int k = 0; k < 8; ++k) out[k] = hsum(v[k]);
}
#endif
// The sums of N vectors.
template <int N, class T> CHAINRULE_INLINE void hsum_each(const Vec<T> (&v)[N], T *out) {
  if constexpr (N == 8) {
    hsum8(v, out);
  } else {
    for (int k = 0; k < N; ++k) out[k] = hsum(v[k]);
  }
}

// The transpose of a square block, 32 bytes a side: to[j][i] = rows[i][at + j], 8 floats or 4 doubles.
template <class T> constexpr int block_width = 32 / sizeof(T);
CHAINRULE_INLINE void transpose_block(const float *const *rows, size_t at, float *to, size_t ldt) {
  typedef float f32x8 __attribute__((vector_size(32)));
  f32x8 a[8], b[8];
#pragma GCC unroll 8
  for (size_t i = 0; i < 8; ++i) __builtin_memcpy(&a[i], rows[i] + at, 32);
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {  // pairs of rows, element by element
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {  // fours
    a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    a[i + 1] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    a[i + 2] = __builtin_shufflevector(b[i + 1], b[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    a[i + 3] = __builtin_shufflevector(b[i + 1], b[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) {
    b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    b[i + 4] = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
#pragma GCC unroll 8
  for (size_t i = 0; i < 8; ++i) __builtin_memcpy(to + i * ldt, &b[i], 32);
}
CHAINRULE_INLINE void transpose_block(const double *const *rows, size_t at, double *to, size_t ldt) {
  typedef double f64x4 __attribute__((vector_size(32)));
  f64x4 a[4], b[4];
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) __builtin_memcpy(&a[i], rows[i] + at, 32);
#pragma GCC unroll 2
  for (int i = 0; i < 4; i += 2) {
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 4, 2, 6);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 5, 3, 7);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 4, 5);
    a[i + 2] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 6, 7);
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) __builtin_memcpy(to + i * ldt, &a[i], 32);
}
// The same of rows that stand ldf apart.
template <class T> CHAINRULE_INLINE void transpose_block(const T *from, size_t ldf, T *to, size_t ldt) {
  const T *rows[block_width<T>];
  for (size_t i = 0; i < size_t(block_width<T>); ++i) rows[i] = from + i * ldf;
  transpose_block(rows, 0, to, ldt);
}

#undef CHAINRULE_EACH
}  // namespace
}  // namespace chainrule
