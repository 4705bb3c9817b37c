#include "panels.hpp"

namespace chainrule {

CHAINRULE_KERNEL(attention_gradient)(const chainrule_attention *, size_t , size_t , size_t , const uint32_t *, const Sequences *, const Sequences *, const Sequences *, const Sequences *, const Real *, const Sequences *, const Sequences *, const Sequences *, const Sequences *, const chainrule_exec *) { return CHAINRULE_OK; }

}  // namespace chainrule
