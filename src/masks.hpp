// A mask in the kernels' form, both ways round; checked and built once, used for many calls.
#pragma once
#include <vector>

#include "arrays.hpp"

struct Mask {
  size_t n_in, n_out;
  // live: 0/1 bytes (n_in, n_out); or two vectors of int32 that do not decrease, weight (k, o) live where first[k] <= last[o];
  // or None: all.
  Mask(size_t n_in, size_t n_out, const py::object &live);
  Mask(const Mask &) = delete;
  const chainrule_mask *live() const { return dense ? nullptr : &forward.view; }
  const chainrule_mask *transposed() const { return dense ? nullptr : &backward.view; }
  py::array ranges() const;  // [begin, end) of live blocks in panels' storage, in elements

 private:
  struct Side {
    std::vector<uint32_t> words, spans, span_of;
    chainrule_mask view;
  };
  void staircase(const int32_t *first, const int32_t *last);
  template <class F> static void build(Side &side, size_t inputs, size_t outputs, F &&fill);  // fill(words of panel p, p, spans) and its spans
  Side forward, backward;
  bool dense = true;
};
