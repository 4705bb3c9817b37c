// Philox4x64-10 (Salmon, Moraes, Dror & Shaw 2011): block k of four words is a keyed bijection of the counter k + 1,
// word for word what numpy.random.Philox(key=key) gives. Integers only. Cost: 20 wide multiplications for 4 words.
#pragma once
#include <stdint.h>

namespace chainrule {
namespace {

struct PhiloxBlock {
  uint64_t word[4];
};

inline PhiloxBlock philox(uint64_t counter, uint64_t key0, uint64_t key1) {
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

}  // namespace
}  // namespace chainrule
