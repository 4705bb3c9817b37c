// A step of an optimizer, of live ranges alone.
#include "check.hpp"

namespace chainrule::CHAINRULE_ISA {
KERNEL(optimizer_step);
}  // namespace chainrule::CHAINRULE_ISA

namespace {

void optimizer(size_t n) {
  const std::vector<uint64_t> live = {3, 40, 40, 41, 60, n - 50, n - 20, n - 5};
  const Floats before = floats(n, 2), g = floats(n, 2);
  Floats p = before, s(n), full = before, t(n);
  const chainrule_optimizer o = {CHAINRULE_MOMENTUM, 0.1, 0.9, 0, 1, 1, 0, 0.01, 0.01, 1, 0};
  optimizer_step_f32(&o, n, full.data(), g.data(), t.data(), nullptr, nullptr, 0, nullptr, nullptr);
  optimizer_step_f32(&o, n, p.data(), g.data(), s.data(), nullptr, nullptr, live.size() / 2, live.data(), nullptr);
  for (size_t k = 0; k < n; ++k) {
    bool moves = false;
    for (size_t i = 0; i < live.size(); i += 2) moves |= live[i] <= k && k < live[i + 1];
    if (p[k] != (moves ? full[k] : before[k]) || s[k] != (moves ? t[k] : 0)) wrong = true;
  }
  add_bits(p), add_bits(s);
}

}  // namespace

void check_elementwise() {
  if (optimizer_step_f32) optimizer(40003);
}
