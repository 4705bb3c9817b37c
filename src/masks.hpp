// A mask in the kernels' form, both ways round; checked and built once, used for many calls.
#pragma once
#include <vector>

#include "arrays.hpp"

struct Mask {
  size_t n_in, n_out;
  Mask(size_t n_in, size_t n_out, const py::object &live);  // live: 0/1 bytes (n_in, n_out), or None: all
  Mask(const Mask &) = delete;
  const chainrule_mask *live() const { return dense ? nullptr : &forward.view; }
  const chainrule_mask *transposed() const { return dense ? nullptr : &backward.view; }
  py::array ranges() const;  // [begin, end) of live blocks in panels' storage, in elements

 private:
  struct Side {
    std::vector<uint32_t> words, spans, span_of;
    chainrule_mask view;
  };
  Side forward, backward;
  bool dense = true;
};
