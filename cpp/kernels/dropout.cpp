// Dropout (Srivastava et al. 2014): y_i = x_i / (1 - rate), or +0 with probability rate.
//
// The choices are 16 bits each of Philox's words (runtime/philox.hpp), below round(rate 2^16) or not: integers alone, so the
// masks depend on (key, block) and nothing else, and the gradient is the same call on dy. x, y: [n] in one piece.
// Cost: 20 wide multiplications for 16 elements, one read and one write of memory.
#include "../runtime/philox.hpp"
#include "panels.hpp"

namespace chainrule {
namespace {

constexpr size_t kBits = 16, kOfBlock = 256 / kBits;  // elements that a block of four words serves
constexpr size_t kBlocks = 64;                        // whose choices are made at once, in cache

}  // namespace

CHAINRULE_KERNEL(dropout)(const uint64_t key[2], uint64_t first_block, double rate, size_t n, const Real *x, Real *y,
                          const chainrule_exec *exec) {
  const size_t blocks = (n + kOfBlock - 1) / kOfBlock;
  const uint64_t key0 = key[0], key1 = key[1];
  const int threads = plan_threads(exec, (blocks + kBlocks - 1) / kBlocks, double(blocks) * 150);
  return for_each(exec, threads, blocks, kBlocks, [=](size_t begin, size_t end, int) {
    const Vec<Real> scale = set1(Real(1 / (1 - rate))), limit = set1(Real(int32_t(rate * 65536 + 0.5)));
    uint16_t bits[kBlocks * kOfBlock];
    Real choice[kBlocks * kOfBlock];
    for (size_t k = begin; k < end; ++k) {
      const PhiloxBlock block = philox(first_block + k + 1, key0, key1);
      for (size_t j = 0; j < 4; ++j)  // the low bits of a word first; a word at a time, as they are made
        __builtin_memcpy(bits + (k - begin) * kOfBlock + 4 * j, &block.word[j], sizeof block.word[j]);
    }
    for (size_t i = 0; i < kBlocks * kOfBlock; ++i) choice[i] = Real(bits[i]);
    const size_t first = begin * kOfBlock, count = smaller(end * kOfBlock, n) - first;
    for (size_t i = 0; i < count; i += kWidth) {
      const int lanes = lanes_at(i, count);
      const Vec<Real> kept = load_part(x + first + i, lanes) * scale;
      store_part(y + first + i, select(load(choice + i) < limit, zero<Real>(), kept), lanes);
    }
  });
}

}  // namespace chainrule
