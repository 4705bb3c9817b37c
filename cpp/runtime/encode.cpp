// Rows of codes in chain order, and the units that are one: integers only, so it needs no instruction set of its own.
// Cost: a byte read and written a variable, and 4 bytes for each that is not 0. The places of the ones among eight come from a
// table, so that no branch waits for the data.
#include <string.h>

#include "runtime.hpp"
#include "integers.hpp"

namespace chainrule {
namespace {

// By the set of ones among eight variables: their places, ascending.
struct Places {
  uint32_t of[256][8] = {};
  constexpr Places() {
    for (uint32_t set = 0; set < 256; ++set)
      for (uint32_t k = 0, n = 0; k < 8; ++k)
        if (set >> k & 1) of[set][n++] = k;
  }
};
constexpr Places places;

// Which of n variables are not 0, ascending; eight at a time are written, so place[] has room for all n.
size_t ones(const uint8_t *code, size_t n, uint32_t *__restrict place) {
  constexpr uint64_t each = 0x0101010101010101u;
  size_t found = 0, i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t word;
    memcpy(&word, code + i, 8);
    word = ((((word & each * 0x7F) + each * 0x7F) | word) & each * 0x80) >> 7;  // each byte 1 where it is not 0
    const uint32_t *__restrict of = places.of[word * 0x0102040810204080u >> 56];
    for (size_t k = 0; k < 8; ++k) place[found + k] = uint32_t(i) + of[k];
    found += word * each >> 56;
  }
  for (; i < n; ++i)
    if (code[i]) place[found++] = uint32_t(i);
  return found;
}

}  // namespace

chainrule_status encode(size_t n_rows, size_t n_features, const uint8_t *x, size_t ldx, const uint32_t *order,
                        const uint8_t *reference, const uint32_t *first, uint8_t *y, size_t ldy, uint32_t *index,
                        size_t ldi, uint32_t *count, const chainrule_exec *exec) {
  constexpr size_t grain = 8;
  // Codes of a block of variables: gathered, then recoded, in a buffer that can alias nothing, so that it goes by vectors.
  constexpr size_t block = 512;
  // A value costs as much as some multiply-adds, and more where another order gathers it.
  const int threads = plan_threads(exec, (n_rows + grain - 1) / grain, double(n_rows) * double(n_features) * (order ? 24 : 12));
  return for_each(exec, threads, n_rows, grain, [&](size_t begin, size_t end, int) {
    for (size_t i = 0; reference && i < n_features; i += block) {
      const size_t n = n_features - i < block ? n_features - i : block;
      uint8_t zero[block], value[block];
      for (size_t k = 0; k < n; ++k) zero[k] = reference[order ? order[i + k] : i + k];
      for (size_t r = begin; r < end; ++r) {
        if (order)
          for (size_t k = 0; k < n; ++k) value[k] = x[r * ldx + order[i + k]];
        else
          memcpy(value, x + r * ldx + i, n);
        for (size_t k = 0; k < n; ++k) {  // 0 and zero change places: their XOR flips one into the other
          const uint8_t swapped = (value[k] == zero[k]) | (value[k] == 0) ? zero[k] : 0;
          value[k] = uint8_t(value[k] ^ swapped);
        }
        memcpy(y + r * ldy + i, value, n);
      }
    }
    for (size_t r = begin; r < end; ++r) {
      uint8_t *code = y + r * ldy;
      if (!reference) {
        if (order)
          for (size_t i = 0; i < n_features; ++i) code[i] = x[r * ldx + order[i]];
        else
          memcpy(code, x + r * ldx, n_features);
      }
      if (!index) continue;
      uint32_t *unit = index + r * ldi;
      const size_t n = ones(code, n_features, unit);
      for (size_t k = 0; first && k < n; ++k) unit[k] = first[unit[k]] + code[unit[k]] - 1;
      count[r] = uint32_t(n);
    }
  });
}

}  // namespace chainrule
