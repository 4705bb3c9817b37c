#include "panels.hpp"

namespace chainrule {

CHAINRULE_KERNEL(layer_norm)(size_t , size_t , const Real *, size_t , const Real *, const Real *, double , Real *, size_t , Real *, const chainrule_exec *) { return CHAINRULE_OK; }
CHAINRULE_KERNEL(layer_norm_gradient)(size_t , size_t , const Real *, size_t , const Real *, const Real *, const Real *, size_t , const Real *, size_t , Real *, size_t , Real *, Real *, const chainrule_exec *) { return CHAINRULE_OK; }

}  // namespace chainrule
