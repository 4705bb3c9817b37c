// Rows of codes in chain order, and the units that are one: integers only, so it needs no instruction set of its own.
// Cost: a byte read and written a variable, and 4 bytes for each that is not 0.
#include <string.h>

#include "runtime.hpp"
#include "integers.hpp"

namespace chainrule {

chainrule_status encode(size_t n_rows, size_t n_features, const uint8_t *x, size_t ldx, const uint32_t *order,
                        const uint8_t *reference, const uint32_t *first, uint8_t *y, size_t ldy, uint32_t *index,
                        size_t ldi, uint32_t *count, const chainrule_exec *exec) {
  constexpr size_t grain = 8;
  // Codes of a block of variables: gathered, then recoded, in a buffer that can alias nothing, so that it goes by vectors.
  constexpr size_t block = 512;
  const int threads = plan_threads(exec, (n_rows + grain - 1) / grain, double(n_rows) * double(n_features) * 4);
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
      uint32_t *unit = index + r * ldi, n = 0;
      for (size_t i = 0; i < n_features; i += 8) {  // eight at a time: most are 0
        uint64_t word = 0;
        memcpy(&word, code + i, n_features - i < 8 ? n_features - i : 8);
        for (; word; word &= ~(uint64_t(0xFF) << (__builtin_ctzll(word) & 56))) {
          const size_t at = i + size_t(__builtin_ctzll(word)) / 8;
          unit[n++] = (first ? first[at] : uint32_t(at)) + code[at] - 1;
        }
      }
      count[r] = n;
    }
  });
}

}  // namespace chainrule
