#include "panels.hpp"

namespace chainrule {

CHAINRULE_KERNEL(dropout)(const uint64_t *, uint64_t , double , size_t , const Real *, Real *, const chainrule_exec *) { return CHAINRULE_OK; }

}  // namespace chainrule
