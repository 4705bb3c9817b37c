// Runs float kernels of one instruction set (NADE's with the sigmoid) on fixed problems, compares each with the equations in double, and
// prints a digest of every bit they wrote. tests/test_mutation.py links it with broken kernels.
//
// Exit status: 0 the numbers are right, 3 they are wrong. Kernels that are not linked in are left out.
#include "check.hpp"

int main() {
  check_nade(), check_conditionals(), check_masked(), check_elementwise(), check_wavenet(), check_layers(), check_attention(), check_transformer();
  printf("%016llx\n", (unsigned long long)digest);
  return wrong ? 3 : 0;
}
