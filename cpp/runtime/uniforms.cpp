// Philox4x64-10 (Salmon, Moraes, Dror & Shaw 2011): block k of four words is a keyed bijection of the counter k + 1,
// word for word what numpy.random.Philox(key=key) gives. Integers only, so it needs no instruction set of its own.
// Cost: 20 wide multiplications for 4 words.
#include "integers.hpp"

#include "runtime.hpp"

namespace chainrule {
namespace {

struct Block {
  uint64_t word[4];
};

Block philox(uint64_t counter, uint64_t key0, uint64_t key1) {
  uint64_t c0 = counter, c1 = 0, c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    unsigned __int128 a = (unsigned __int128)0xD2E7470EE14C6C93u * c0, b = (unsigned __int128)0xCA5A826395121157u * c2;
    c0 = uint64_t(b >> 64) ^ c1 ^ key0;
    c2 = uint64_t(a >> 64) ^ c3 ^ key1;
    c1 = uint64_t(b);
    c3 = uint64_t(a);
    key0 += 0x9E3779B97F4A7C15u;  // golden ratio
    key1 += 0xBB67AE8584CAA73Bu;  // sqrt(3) - 1
  }
  return {{c0, c1, c2, c3}};
}

// 52 bits and a half: never 0, never 1, exact in double.
double uniform(uint64_t word) { return (double(word >> 12) + 0.5) * 0x1p-52; }

}  // namespace

chainrule_status uniforms(const uint64_t key[2], uint64_t first_block, size_t n, double *u, const chainrule_exec *exec) {
  const size_t blocks = (n + 3) / 4;
  const uint64_t key0 = key[0], key1 = key[1];
  int threads = plan_threads(exec, (blocks + 255) / 256, double(blocks) * 100);
  return for_each(exec, threads, blocks, 256, [&](size_t begin, size_t end, int) {
    for (size_t k = begin; k < end; ++k) {
      Block block = philox(first_block + k + 1, key0, key1);
      for (size_t j = 0; j < 4 && 4 * k + j < n; ++j) u[4 * k + j] = uniform(block.word[j]);
    }
  });
}

}  // namespace chainrule
