// Uniforms in (0, 1) from the words of Philox: integers, and a conversion that is exact, so it needs no instruction set of
// its own.
#include "integers.hpp"

#include "philox.hpp"
#include "runtime.hpp"

namespace chainrule {
namespace {

// 52 bits and a half: never 0, never 1, exact in double.
double uniform(uint64_t word) { return (double(word >> 12) + 0.5) * 0x1p-52; }

}  // namespace

chainrule_status uniforms(const uint64_t key[2], uint64_t first_block, size_t n, double *u, const chainrule_exec *exec) {
  const size_t blocks = (n + 3) / 4;
  const uint64_t key0 = key[0], key1 = key[1];
  int threads = plan_threads(exec, (blocks + 255) / 256, double(blocks) * 100);
  return for_each(exec, threads, blocks, 256, [&](size_t begin, size_t end, int) {
    for (size_t k = begin; k < end; ++k) {
      PhiloxBlock block = philox(first_block + k + 1, key0, key1);
      for (size_t j = 0; j < 4 && 4 * k + j < n; ++j) u[4 * k + j] = uniform(block.word[j]);
    }
  });
}

}  // namespace chainrule
