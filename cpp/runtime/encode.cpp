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
  const int threads = plan_threads(exec, (n_rows + grain - 1) / grain, double(n_rows) * double(n_features) * 8);
  return for_each(exec, threads, n_rows, grain, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r) {
      const uint8_t *row = x + r * ldx;
      uint8_t *code = y + r * ldy;
      if (order)
        for (size_t i = 0; i < n_features; ++i) code[i] = row[order[i]];
      else
        memcpy(code, row, n_features);
      if (reference)
        for (size_t i = 0; i < n_features; ++i) {
          const uint8_t zero = reference[order ? order[i] : i], value = code[i];
          code[i] = value == zero ? 0 : value == 0 ? zero : value;
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
