// Dilated causal convolution over activations in time (WaveNet, van den Oord et al. 2016), forwards and backwards.
//
//   causal_conv                  y_t = g(sum_k x_{t + k d} W_k + b)        k = 0 .. width - 1, the newest tap last
//   causal_conv_input_gradient   dx_t = sum_k dy_{t - k d} W_k' (+ addend)
//   causal_conv_weight_gradient  dW_k = sum_t x_{t + k d}' dy_t, db = sum_t dy_t
//
// x: [n_rows][(width - 1) d + n_steps][channels], whose first (width - 1) d steps are history: zeros before the start of a
// sequence, or the end of the chunk before. y: [n_rows][n_steps][n_out]. W in panels of 32 outputs, its inputs tap by tap.
// Cost: n_rows x n_steps x width x channels x n_out multiply-adds each; every tap is read where it stands. Threads: tiles
// of 96 steps; for the weights, panels and taps.
#include "conv.hpp"

namespace chainrule {

CHAINRULE_KERNEL(causal_conv)(const Conv *conv, size_t n_rows, size_t n_steps, const Sequences *x, const Real *b,
                              int32_t activation, const Sequences *y, const chainrule_exec *exec) {
  const Linear &w = conv->linear;
  const size_t channels = w.n_in / conv->width;
  const Finish f = {nullptr, 0, b, activation, nullptr, 0};
  const int threads = plan_threads(exec, n_rows * tiles_in(n_steps), conv_work(*conv, n_rows, n_steps));
  return for_tiles(exec, threads, n_rows, n_steps, [&](size_t row, size_t from, size_t steps, int) {
    for (size_t column = 0; column < w.n_out; column += kPanel)
      for_row_tiles(steps, [&]<int R>(size_t at) {
        Segment taps[kMaxWidth];
        const Real *W = w.W + column / kPanel * w.panel;
        for (size_t k = 0; k < conv->width; ++k)
          taps[k] = {x->data + row * x->row + (from + at + k * conv->dilation) * x->ld, x->ld, channels, W + k * channels * kPanel};
        multiply_to<R>(taps, conv->width, f, column, w.n_out, y->data + row * y->row + (from + at) * y->ld, y->ld);
      });
  });
}

CHAINRULE_KERNEL(causal_conv_input_gradient)(const Conv *conv, size_t n_rows, size_t n_steps, const Sequences *dy,
                                             const Sequences *addend, const Sequences *dx, const chainrule_exec *exec) {
  Real *transposed = static_cast<Real *>(arena(transposed_size(*conv) * sizeof(Real)));
  if (!transposed) return CHAINRULE_NO_MEMORY;
  transpose_taps(*conv, transposed);
  const InputGradient gradient = {conv, transposed, n_steps, nullptr, dy, addend, dx};
  const size_t in_steps = (conv->width - 1) * conv->dilation + n_steps;
  const int threads = plan_threads(exec, n_rows * tiles_in(in_steps), conv_work(*conv, n_rows, n_steps));
  return for_tiles(exec, threads, n_rows, in_steps, [&](size_t row, size_t from, size_t steps, int) {
    input_gradient_of(gradient, row, from, from + steps);
  });
}

// Chunks of 256 steps of each row, one after the other; the gradient starts at zero.
CHAINRULE_KERNEL(causal_conv_weight_gradient)(const Conv *conv, size_t n_rows, size_t n_steps, const Sequences *x,
                                              const Sequences *dy, Real *dW, Real *db, const chainrule_exec *exec) {
  const size_t channels = conv->linear.n_in / conv->width, panels = panels_in(conv->linear.n_out);
  Linear w = conv->linear;
  w.n_in = channels;
  const int threads = plan_threads(exec, panels * conv->width, conv_work(*conv, n_rows, n_steps));
  Real *memory = static_cast<Real *>(arena(size_t(threads) * kChunk * kPanel * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, panels * conv->width, 1, [&](size_t piece, size_t, int worker) {
    const size_t panel = piece / conv->width, tap = piece % conv->width;
    Real *to = dW + tap * channels * kPanel, *bias = tap == 0 ? db : nullptr;
    bool first = true;
    for (size_t row = 0; row < n_rows; ++row)
      for (size_t t = 0; t < n_steps; t += kChunk, first = false)
        weight_gradient(w, panel, 0, channels, smaller(n_steps - t, kChunk), x->data + row * x->row + (t + tap * conv->dilation) * x->ld,
                        x->ld, dy->data + row * dy->row + t * dy->ld, dy->ld, first, to, bias, memory + size_t(worker) * kChunk * kPanel);
    if (first) weight_gradient(w, panel, 0, channels, 0, nullptr, 0, nullptr, 0, true, to, bias, memory);
  });
}

}  // namespace chainrule
