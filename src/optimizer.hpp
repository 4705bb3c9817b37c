// An optimizer as Python gives it: (rule, learning_rate, beta1, ...), the members of chainrule_optimizer in their order.
#pragma once
#include <iterator>

#include "arrays.hpp"

namespace {

// Checked together with the states that its rule needs.
chainrule_optimizer optimizer_of(const py::tuple &values, const py::object &s, const py::object &t) {
  constexpr const char *names[] = {"rule", "learning_rate", "beta1", "beta2", "correction1", "correction2", "epsilon",
                                   "weight_decay", "l2", "gradient_scale", "average_decay"};
  if (values.size() != std::size(names)) throw py::value_error("optimizer must have 11 entries, not " + std::to_string(values.size()));
  auto at = [&](size_t i) {
    try {
      return values[i].cast<double>();
    } catch (const py::cast_error &) {
      throw py::type_error(std::string(names[i]) + " must be a number, not " + py::repr(values[i]).cast<std::string>());
    }
  };
  const int rule = int(at(0));
  if (rule < 0 || rule > CHAINRULE_ADAM) throw py::value_error("rule must be 0..6, not " + std::to_string(rule));
  if (rule != CHAINRULE_SGD && s.is_none()) throw py::value_error("s must be given for this rule");
  if ((rule == CHAINRULE_ADADELTA || rule == CHAINRULE_ADAM) && t.is_none()) throw py::value_error("t must be given for this rule");
  return {rule, at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9), at(10)};
}

}  // namespace
