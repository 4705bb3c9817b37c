// The precision and the instruction set a kernel file is compiled for (CMakeLists.txt compiles each for every pair).
//   CHAINRULE_ISA        avx2, avx512 or neon: the namespace of the entries
//   CHAINRULE_PRECISION  32 or 64
// Kernel files hold free functions over pointers and sizes: no containers, exceptions, statics or std:: templates.
#pragma once
#include "../runtime/runtime.hpp"
#include "../simd/math.hpp"

#if CHAINRULE_PRECISION == 32
#define CHAINRULE_TYPED(name) name##_f32
namespace chainrule { namespace { typedef float Real; typedef chainrule_nade_f32 Nade; typedef chainrule_nade_categorical_f32 NadeCategorical; typedef chainrule_nade_gradient_f32 NadeGradient; typedef chainrule_linear_f32 Linear; typedef chainrule_layer_f32 Layer; typedef chainrule_network_f32 Network; typedef chainrule_conv_f32 Conv; typedef chainrule_sequences_f32 Sequences; typedef chainrule_gated_block_f32 GatedBlock; typedef chainrule_gated_block_gradient_f32 GatedBlockGradient; typedef chainrule_frames_f32 Frames; typedef chainrule_wavenet_f32 Wavenet; typedef chainrule_cache_f32 Cache; typedef chainrule_weights_f32 Weights; typedef chainrule_transformer_block_f32 TransformerBlock; typedef chainrule_transformer_f32 Transformer; } }
#else
#define CHAINRULE_TYPED(name) name##_f64
namespace chainrule { namespace { typedef double Real; typedef chainrule_nade_f64 Nade; typedef chainrule_nade_categorical_f64 NadeCategorical; typedef chainrule_nade_gradient_f64 NadeGradient; typedef chainrule_linear_f64 Linear; typedef chainrule_layer_f64 Layer; typedef chainrule_network_f64 Network; typedef chainrule_conv_f64 Conv; typedef chainrule_sequences_f64 Sequences; typedef chainrule_gated_block_f64 GatedBlock; typedef chainrule_gated_block_gradient_f64 GatedBlockGradient; typedef chainrule_frames_f64 Frames; typedef chainrule_wavenet_f64 Wavenet; typedef chainrule_cache_f64 Cache; typedef chainrule_weights_f64 Weights; typedef chainrule_transformer_block_f64 TransformerBlock; typedef chainrule_transformer_f64 Transformer; } }
#endif
// The entry of a kernel in the table of its instruction set.
#define CHAINRULE_KERNEL(name) chainrule_status CHAINRULE_ISA::CHAINRULE_TYPED(name)
#define CHAINRULE_DECLARE_KERNEL(name, S) chainrule_##name##_##S##_fn name##_##S;
namespace chainrule { namespace CHAINRULE_ISA { CHAINRULE_KERNELS(CHAINRULE_DECLARE_KERNEL) } }

namespace chainrule {
namespace {

constexpr size_t kWidth = Vec<Real>::width;
constexpr size_t kChunk = 256;  // of a sum, by the contract (docs/reproducibility.md, 5 and 7)

// n rounded up to whole logical vectors.
CHAINRULE_INLINE size_t padded(size_t n) { return (n + kWidth - 1) / kWidth * kWidth; }

}  // namespace
}  // namespace chainrule
