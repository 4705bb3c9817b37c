// Numbers of fewer bits, widened in registers: 8-bit integers and the upper halves of floats (bf16). Exact.
#pragma once
#include "vec.hpp"

namespace chainrule {
namespace {

// One native register of floats from memory.
typedef Native<float>::reg float_reg;
#if CHAINRULE_REGISTER_BYTES == 64  // maskz_: native.hpp says why
CHAINRULE_INLINE float_reg floats_of(const int8_t *p) {
  return __builtin_convertvector((i32r)_mm512_maskz_cvtepi8_epi32((__mmask16)-1, _mm_loadu_si128(reinterpret_cast<const __m128i *>(p))), float_reg);
}
CHAINRULE_INLINE float_reg floats_of(const uint16_t *p) {
  return (float_reg)((i32r)_mm512_maskz_cvtepu16_epi32((__mmask16)-1, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))) << 16);
}
#elif CHAINRULE_REGISTER_BYTES == 32
CHAINRULE_INLINE float_reg floats_of(const int8_t *p) {
  return (float_reg)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
}
CHAINRULE_INLINE float_reg floats_of(const uint16_t *p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
  return (float_reg)_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
#else
CHAINRULE_INLINE float_reg floats_of(const int8_t *p) {
  int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  return (float_reg)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(bytes))))));
}
CHAINRULE_INLINE float_reg floats_of(const uint16_t *p) { return (float_reg)vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
#endif

// A logical vector from memory.
template <class T, class Narrow> CHAINRULE_INLINE Vec<T> widen(const Narrow *p) {
  Vec<T> v;
  constexpr int step = Vec<float>::reg_width;
  if constexpr (sizeof(T) == 4) {
#pragma GCC unroll 4
    for (int q = 0; q < Vec<T>::regs; ++q) v.r[q] = floats_of(p + q * step);
  } else {
    for (int j = 0; j < Vec<T>::width; ++j) {
      float one[step];
      Narrow lanes[step] = {p[j]};
      const float_reg wide = floats_of(lanes);
      __builtin_memcpy(one, &wide, sizeof one);
      v.r[j / Vec<T>::reg_width][j % Vec<T>::reg_width] = T(one[0]);
    }
  }
  return v;
}

}  // namespace
}  // namespace chainrule
