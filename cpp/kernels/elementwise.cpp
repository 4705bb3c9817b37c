// placeholder until the helper's file arrives
#include "real.hpp"
namespace chainrule {
CHAINRULE_KERNEL(map)(int32_t, size_t, const Real *, Real *, const chainrule_exec *) { return CHAINRULE_OK; }
CHAINRULE_KERNEL(logsumexp)(size_t, size_t, const Real *, size_t, Real *, const chainrule_exec *) { return CHAINRULE_OK; }
}
