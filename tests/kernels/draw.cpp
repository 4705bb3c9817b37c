// categorical_draw, which samplers that go variable by variable call, gives the values of categorical_sample.
#include <stdio.h>

#include <vector>

#include "kernels/categorical.cpp"

using namespace chainrule;

int main() {
  uint64_t state = 1;
  auto uniform = [&state] {  // in (0, 1); SplitMix64
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double((z ^ (z >> 31)) >> 12) + 0.5) * 0x1p-52;
  };
  const size_t values[] = {1, 2, 3, 7, 8, 9, 10, 16, 17, 255, 256}, n = sizeof values / sizeof *values, rows = 500;
  std::vector<uint32_t> first = {0};
  for (size_t K : values) first.push_back(first.back() + uint32_t(K - 1));
  const size_t ld = first.back();
  int different = 0;
  for (int pass = 0; pass < 4; ++pass) {
    std::vector<Real> z(rows * ld);
    std::vector<double> u(rows * n);
    std::vector<uint8_t> reference(n), x(rows * n);
    for (Real &v : z) v = pass == 0 ? Real(0) : Real((uniform() - 0.5) * 20);  // all alike: the edges are exact
    for (double &v : u) v = pass == 0 ? double(int(uniform() * 16)) / 16 + 0x1p-53 : uniform();
    for (size_t i = 0; i < n; ++i) reference[i] = uint8_t(uniform() * double(values[i]));
    const uint8_t *swap = pass % 2 ? reference.data() : nullptr;
    CHAINRULE_ISA::CHAINRULE_TYPED(categorical_sample)(rows, n, first.data(), swap, z.data(), ld, u.data(), n, x.data(), n, nullptr);
    for (size_t r = 0; r < rows; ++r)
      for (size_t i = 0; i < n; ++i)
        different += x[r * n + i] != categorical_draw(&z[r * ld + first[i]], values[i], swap ? swap[i] : 0, u[r * n + i]);
  }
  printf("%d\n", different);
  return different != 0;
}
