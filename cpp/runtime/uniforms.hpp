// Counter-based random numbers (uniforms.cpp).
#pragma once
#include "chainrule/chainrule.h"

namespace chainrule {
chainrule_uniforms_fn uniforms;
}
