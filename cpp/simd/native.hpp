// One native register of the instruction set this file is compiled for: the only place with intrinsics, but for narrow.hpp.
//
// Arithmetic, comparison and selection use the compiler's vector extensions at the register's own width; what they
// cannot say (fused multiply-add, square root, ordered maximum, partial loads) is written per instruction set here.
// Everything has internal linkage, so that no AVX copy of a function can be merged into baseline code by a linker.
#pragma once
#include <stddef.h>
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define CHAINRULE_REGISTER_BYTES 64
#elif defined(__AVX2__)
#define CHAINRULE_REGISTER_BYTES 32
#elif defined(__aarch64__)
#define CHAINRULE_REGISTER_BYTES 16
#else
#error "kernels are compiled for x86-64-v3, x86-64-v4 or aarch64"
#endif
#define CHAINRULE_INLINE [[gnu::always_inline]] inline

namespace chainrule {
namespace {

typedef float f32r __attribute__((vector_size(CHAINRULE_REGISTER_BYTES)));
typedef double f64r __attribute__((vector_size(CHAINRULE_REGISTER_BYTES)));
typedef int32_t i32r __attribute__((vector_size(CHAINRULE_REGISTER_BYTES)));
typedef int64_t i64r __attribute__((vector_size(CHAINRULE_REGISTER_BYTES)));
typedef f32r f32r_unaligned __attribute__((aligned(4), may_alias));
typedef f64r f64r_unaligned __attribute__((aligned(8), may_alias));
typedef i32r i32r_unaligned __attribute__((aligned(4), may_alias));
typedef i64r i64r_unaligned __attribute__((aligned(8), may_alias));

// A moment's rest for a thread that waits for another.
CHAINRULE_INLINE void pause_() {
#if defined(__x86_64__)
  _mm_pause();
#else
  __asm__ volatile("yield");
#endif
}

// Register and integer register of an element type, and the type for unaligned access.
template <class T> struct Native;
template <> struct Native<float> { typedef f32r reg; typedef f32r_unaligned unaligned; typedef int32_t integer; typedef i32r ireg; typedef i32r_unaligned iunaligned; };
template <> struct Native<double> { typedef f64r reg; typedef f64r_unaligned unaligned; typedef int64_t integer; typedef i64r ireg; typedef i64r_unaligned iunaligned; };

// fma_(a, b, c) = a * b + c with one rounding. max_(a, b) = a > b ? a : b and min_(a, b) = a < b ? a : b: the second
// operand comes back when either is NaN or both are zeros, on every machine.
// load_part and store_part touch the first n lanes alone, load_live and store_live those whose bit is 1; the other lanes
// are read as +0. load_bytes_(p, T) is a register of bytes as numbers: GCC 12 would convert them one at a time.
#if defined(__AVX512F__)
// maskz_ with all lanes is the plain instruction; the plain intrinsics make GCC 12 warn of uninitialized values.
CHAINRULE_INLINE f32r set1_(float x) { return (f32r)_mm512_set1_ps(x); }
CHAINRULE_INLINE f64r set1_(double x) { return (f64r)_mm512_set1_pd(x); }
CHAINRULE_INLINE f32r fma_(f32r a, f32r b, f32r c) { return (f32r)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
CHAINRULE_INLINE f64r fma_(f64r a, f64r b, f64r c) { return (f64r)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
CHAINRULE_INLINE f32r sqrt_(f32r a) { return (f32r)_mm512_maskz_sqrt_ps((__mmask16)-1, (__m512)a); }
CHAINRULE_INLINE f64r sqrt_(f64r a) { return (f64r)_mm512_maskz_sqrt_pd((__mmask8)-1, (__m512d)a); }
CHAINRULE_INLINE f32r max_(f32r a, f32r b) { return (f32r)_mm512_maskz_max_ps((__mmask16)-1, (__m512)a, (__m512)b); }
CHAINRULE_INLINE f64r max_(f64r a, f64r b) { return (f64r)_mm512_maskz_max_pd((__mmask8)-1, (__m512d)a, (__m512d)b); }
CHAINRULE_INLINE f32r min_(f32r a, f32r b) { return (f32r)_mm512_maskz_min_ps((__mmask16)-1, (__m512)a, (__m512)b); }
CHAINRULE_INLINE f64r min_(f64r a, f64r b) { return (f64r)_mm512_maskz_min_pd((__mmask8)-1, (__m512d)a, (__m512d)b); }
CHAINRULE_INLINE f32r load_part_(const float *p, int n) { return (f32r)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
CHAINRULE_INLINE f64r load_part_(const double *p, int n) { return (f64r)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p); }
CHAINRULE_INLINE void store_part_(float *p, f32r a, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)a); }
CHAINRULE_INLINE void store_part_(double *p, f64r a, int n) { _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)a); }
CHAINRULE_INLINE f32r load_live_(const float *p, uint32_t live) { return (f32r)_mm512_maskz_loadu_ps((__mmask16)live, p); }
CHAINRULE_INLINE f64r load_live_(const double *p, uint32_t live) { return (f64r)_mm512_maskz_loadu_pd((__mmask8)live, p); }
CHAINRULE_INLINE void store_live_(float *p, f32r a, uint32_t live) { _mm512_mask_storeu_ps(p, (__mmask16)live, (__m512)a); }
CHAINRULE_INLINE void store_live_(double *p, f64r a, uint32_t live) { _mm512_mask_storeu_pd(p, (__mmask8)live, (__m512d)a); }
CHAINRULE_INLINE f32r load_bytes_(const uint8_t *p, float) {
  return __builtin_convertvector((i32r)_mm512_maskz_cvtepu8_epi32((__mmask16)-1, _mm_loadu_si128((const __m128i *)p)), f32r);
}
CHAINRULE_INLINE f64r load_bytes_(const uint8_t *p, double) {
  return (f64r)_mm512_maskz_cvtepi32_pd((__mmask8)-1, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
#elif defined(__AVX2__)
CHAINRULE_INLINE f32r set1_(float x) { return (f32r)_mm256_set1_ps(x); }
CHAINRULE_INLINE f64r set1_(double x) { return (f64r)_mm256_set1_pd(x); }
CHAINRULE_INLINE f32r fma_(f32r a, f32r b, f32r c) { return (f32r)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
CHAINRULE_INLINE f64r fma_(f64r a, f64r b, f64r c) { return (f64r)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
CHAINRULE_INLINE f32r sqrt_(f32r a) { return (f32r)_mm256_sqrt_ps((__m256)a); }
CHAINRULE_INLINE f64r sqrt_(f64r a) { return (f64r)_mm256_sqrt_pd((__m256d)a); }
CHAINRULE_INLINE f32r max_(f32r a, f32r b) { return (f32r)_mm256_max_ps((__m256)a, (__m256)b); }
CHAINRULE_INLINE f64r max_(f64r a, f64r b) { return (f64r)_mm256_max_pd((__m256d)a, (__m256d)b); }
CHAINRULE_INLINE f32r min_(f32r a, f32r b) { return (f32r)_mm256_min_ps((__m256)a, (__m256)b); }
CHAINRULE_INLINE f64r min_(f64r a, f64r b) { return (f64r)_mm256_min_pd((__m256d)a, (__m256d)b); }
CHAINRULE_INLINE i32r first_(float, int n) { return (i32r{} + n) > i32r{0, 1, 2, 3, 4, 5, 6, 7}; }
CHAINRULE_INLINE i64r first_(double, int n) { return (i64r{} + n) > i64r{0, 1, 2, 3}; }
CHAINRULE_INLINE f32r load_part_(const float *p, int n) { return (f32r)_mm256_maskload_ps(p, (__m256i)first_(0.0f, n)); }
CHAINRULE_INLINE f64r load_part_(const double *p, int n) { return (f64r)_mm256_maskload_pd(p, (__m256i)first_(0.0, n)); }
CHAINRULE_INLINE void store_part_(float *p, f32r a, int n) { _mm256_maskstore_ps(p, (__m256i)first_(0.0f, n), (__m256)a); }
CHAINRULE_INLINE void store_part_(double *p, f64r a, int n) { _mm256_maskstore_pd(p, (__m256i)first_(0.0, n), (__m256d)a); }
CHAINRULE_INLINE i32r lanes_(float, uint32_t live) { return ((i32r{} + int32_t(live)) & i32r{1, 2, 4, 8, 16, 32, 64, 128}) != 0; }
CHAINRULE_INLINE i64r lanes_(double, uint32_t live) { return ((i64r{} + int64_t(live)) & i64r{1, 2, 4, 8}) != 0; }
CHAINRULE_INLINE f32r load_live_(const float *p, uint32_t live) { return (f32r)_mm256_maskload_ps(p, (__m256i)lanes_(0.0f, live)); }
CHAINRULE_INLINE f64r load_live_(const double *p, uint32_t live) { return (f64r)_mm256_maskload_pd(p, (__m256i)lanes_(0.0, live)); }
CHAINRULE_INLINE void store_live_(float *p, f32r a, uint32_t live) { _mm256_maskstore_ps(p, (__m256i)lanes_(0.0f, live), (__m256)a); }
CHAINRULE_INLINE void store_live_(double *p, f64r a, uint32_t live) { _mm256_maskstore_pd(p, (__m256i)lanes_(0.0, live), (__m256d)a); }
CHAINRULE_INLINE f32r load_bytes_(const uint8_t *p, float) {
  return (f32r)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
CHAINRULE_INLINE f64r load_bytes_(const uint8_t *p, double) {
  int four;
  __builtin_memcpy(&four, p, 4);
  return (f64r)_mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(four)));
}
#else
CHAINRULE_INLINE f32r set1_(float x) { return (f32r)vdupq_n_f32(x); }
CHAINRULE_INLINE f64r set1_(double x) { return (f64r)vdupq_n_f64(x); }
CHAINRULE_INLINE f32r fma_(f32r a, f32r b, f32r c) { return (f32r)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
CHAINRULE_INLINE f64r fma_(f64r a, f64r b, f64r c) { return (f64r)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
CHAINRULE_INLINE f32r sqrt_(f32r a) { return (f32r)vsqrtq_f32((float32x4_t)a); }
CHAINRULE_INLINE f64r sqrt_(f64r a) { return (f64r)vsqrtq_f64((float64x2_t)a); }
CHAINRULE_INLINE f32r max_(f32r a, f32r b) { return a > b ? a : b; }
CHAINRULE_INLINE f64r max_(f64r a, f64r b) { return a > b ? a : b; }
CHAINRULE_INLINE f32r min_(f32r a, f32r b) { return a < b ? a : b; }
CHAINRULE_INLINE f64r min_(f64r a, f64r b) { return a < b ? a : b; }
template <class T> CHAINRULE_INLINE typename Native<T>::reg load_part_(const T *p, int n) {
  typename Native<T>::reg a = {};
  for (int k = 0; k < n; ++k) a[k] = p[k];
  return a;
}
template <class R, class T> CHAINRULE_INLINE void store_part_(T *p, R a, int n) {
  for (int k = 0; k < n; ++k) p[k] = a[k];
}
template <class T> CHAINRULE_INLINE typename Native<T>::reg load_live_(const T *p, uint32_t live) {
  typename Native<T>::reg a = {};
  for (int k = 0; k < int(16 / sizeof(T)); ++k)
    if (live >> k & 1) a[k] = p[k];
  return a;
}
template <class R, class T> CHAINRULE_INLINE void store_live_(T *p, R a, uint32_t live) {
  for (int k = 0; k < int(16 / sizeof(T)); ++k)
    if (live >> k & 1) p[k] = a[k];
}
CHAINRULE_INLINE f32r load_bytes_(const uint8_t *p, float) {
  uint32_t four;
  __builtin_memcpy(&four, p, 4);
  return (f32r)vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))));
}
CHAINRULE_INLINE f64r load_bytes_(const uint8_t *p, double) { return f64r{double(p[0]), double(p[1])}; }
#endif

}  // namespace
}  // namespace chainrule
