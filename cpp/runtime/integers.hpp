// Kernels on integers alone: counter-based random numbers (uniforms.cpp), codes of rows (encode.cpp).
#pragma once
#include "chainrule/chainrule.h"

namespace chainrule {
chainrule_uniforms_fn uniforms;
chainrule_encode_fn encode;
}
