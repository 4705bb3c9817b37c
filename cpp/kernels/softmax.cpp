#include "panels.hpp"

namespace chainrule {

CHAINRULE_KERNEL(softmax_log_prob)(size_t , size_t , const Real *, size_t , const int32_t *, double *, const chainrule_exec *) { return CHAINRULE_OK; }
CHAINRULE_KERNEL(softmax_gradient)(size_t , size_t , const Real *, size_t , const int32_t *, const Real *, double *, Real *, size_t , const chainrule_exec *) { return CHAINRULE_OK; }
CHAINRULE_KERNEL(softmax_sample)(const chainrule_choice *, size_t , size_t , const Real *, size_t , const double *, int32_t *, const chainrule_exec *) { return CHAINRULE_OK; }

}  // namespace chainrule
