// Causal convolutions, WaveNet's block and its generator, embeddings: activations in time, (rows, steps, channels).
#include <vector>

#include "sequences.hpp"

namespace {

// History and steps of a convolution: x has (width - 1) dilation steps before the first output.
size_t steps_after(const py::array &x, size_t width, size_t dilation, const char *name = "x") {
  three_axes(x, name);
  const auto steps = size_t(x.shape(1));
  if (width > 1 && (dilation > steps || (width - 1) * dilation > steps))
    throw py::value_error(name + std::string(" must have at least (width - 1) dilation = ") + std::to_string(width - 1) + " x " + std::to_string(dilation) +
                          " steps, not " + std::to_string(steps));
  return steps - (width - 1) * dilation;
}

size_t checked_width(size_t n_in, size_t channels, const char *name) {
  const size_t width = channels ? n_in / channels : 0;
  if (!channels || n_in % channels || width < 1 || width > CHAINRULE_MAX_TAPS)
    throw py::value_error(std::string(name) + " must have inputs for 1 to " + std::to_string(CHAINRULE_MAX_TAPS) + " taps of " + std::to_string(channels) +
                          " channels, not " + std::to_string(n_in));
  return width;
}
size_t checked_dilation(py::ssize_t dilation) {
  if (dilation < 1 || dilation > py::ssize_t(1) << 31) throw py::value_error("dilation must be 1 to 2^31, not " + std::to_string(dilation));
  return size_t(dilation);
}

template <class T>
typename Kernels<T>::Conv conv(const py::array &W, const char *name, size_t channels, py::ssize_t n_out, py::ssize_t dilation, bool writable = false) {
  if (W.ndim() != 3) refuse(name, "in panels (ceil(n_out / 32), width * channels, 32)", W);
  const auto n_in = size_t(W.shape(1));
  T *data = panels<T>(W, name, panels_of(size_t(n_out)), n_in, writable);
  return {{n_in, size_t(n_out), data, 32, n_in * 32, nullptr, nullptr, nullptr, 0, 0}, checked_width(n_in, channels, name), checked_dilation(dilation)};
}

void causal_conv(const py::array &x, const py::array &W, const py::object &b, py::ssize_t dilation, int activation, const py::array &y, int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    three_axes(x, "x"), three_axes(y, "out");
    auto c = conv<T>(W, "W", size_t(x.shape(2)), y.shape(2), dilation);
    const size_t steps = steps_after(x, c.width, c.dilation);
    auto in = sequences<T>(x, "x", -1, -1, -1);
    auto out = sequences<T>(y, "out", x.shape(0), py::ssize_t(steps), -1, true);
    const T *bias = optional_vector<T>(b, "b", y.shape(2));
    if (activation < 0 || activation > CHAINRULE_IDENTITY) throw py::value_error("activation must be 0 to 3, not " + std::to_string(activation));
    apart(y, x, "x");
    run(n_threads, [&](auto *exec) { return Kernels<T>::causal_conv()(&c, size_t(x.shape(0)), steps, &in, bias, activation, &out, exec); });
  });
}

void causal_conv_input_gradient(const py::array &dy, const py::array &W, py::ssize_t dilation, const py::array &dx, int n_threads) {
  with_precision(W, "W", [&]<class T>() {
    three_axes(dy, "dy"), three_axes(dx, "out");
    auto c = conv<T>(W, "W", size_t(dx.shape(2)), dy.shape(2), dilation);
    const size_t steps = steps_after(dx, c.width, c.dilation, "out");
    auto in = sequences<T>(dy, "dy", dx.shape(0), py::ssize_t(steps), -1);
    auto out = sequences<T>(dx, "out", -1, -1, -1, true);
    apart(dx, dy, "dy");
    run(n_threads, [&](auto *exec) { return Kernels<T>::causal_conv_input_gradient()(&c, size_t(dx.shape(0)), steps, &in, nullptr, &out, exec); });
  });
}

void causal_conv_weight_gradient(const py::array &x, const py::array &dy, py::ssize_t dilation, const py::array &dW, const py::object &db, int n_threads) {
  with_precision(dW, "dW", [&]<class T>() {
    three_axes(x, "x"), three_axes(dy, "dy");
    auto c = conv<T>(dW, "dW", size_t(x.shape(2)), dy.shape(2), dilation, true);
    const size_t steps = steps_after(x, c.width, c.dilation);
    auto in = sequences<T>(x, "x", -1, -1, -1), out = sequences<T>(dy, "dy", x.shape(0), py::ssize_t(steps), -1);
    T *bias = optional_vector<T>(db, "db", dy.shape(2), true);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::causal_conv_weight_gradient()(&c, size_t(x.shape(0)), steps, &in, &out, const_cast<T *>(c.linear.W), bias, exec);
    });
  });
}

// (W, b, residual, residual_bias, skip, skip_bias); the residual and its bias None in a last block.
template <class T> struct Block {
  typename Kernels<T>::GatedBlock view;
  size_t panels;
  T *part[6];
};
template <class T> Block<T> block_of(const py::tuple &parts, py::ssize_t dilation, bool writable = false) {
  if (parts.size() != 6) throw py::value_error("block must be (W, b, residual, residual_bias, skip, skip_bias), not " + std::to_string(parts.size()) + " arrays");
  auto at = [&](size_t i, const char *name) { return array_of(parts[i], name); };
  const py::array skip = at(4, "skip"), W = at(0, "W");
  if (skip.ndim() != 3) refuse("skip", "in panels", skip);
  if (W.ndim() != 3) refuse("W", "in panels", W);
  Block<T> block;
  const auto channels = size_t(skip.shape(1)), n_skip = size_t(at(5, "skip_bias").size());
  const size_t width = checked_width(size_t(W.shape(1)), channels, "W");
  block.panels = panels_of(channels, 16);
  if (!n_skip) throw py::value_error("skip_bias must not be empty");
  const bool last = parts[2].is_none();
  block.part[0] = panels<T>(W, "W", block.panels, width * channels, writable);
  block.part[1] = vector<T>(at(1, "b"), "b", py::ssize_t(block.panels * 32), writable).data;
  block.part[2] = last ? nullptr : panels<T>(at(2, "residual"), "residual", panels_of(channels), channels, writable);
  block.part[3] = last ? nullptr : vector<T>(at(3, "residual_bias"), "residual_bias", py::ssize_t(channels), writable).data;
  block.part[4] = panels<T>(skip, "skip", panels_of(n_skip), channels, writable);
  block.part[5] = vector<T>(at(5, "skip_bias"), "skip_bias", py::ssize_t(n_skip), writable).data;
  block.view = {channels, n_skip, width, checked_dilation(dilation), block.part[0], block.part[1], block.part[2], block.part[3], block.part[4], block.part[5]};
  return block;
}

// None, or (a, hop, phase): a (rows, frames, 32 P) with a frame for every step.
template <class T> struct Context {
  typename Kernels<T>::Frames view{};
  bool given = false;
  const typename Kernels<T>::Frames *get() const { return given ? &view : nullptr; }
};
template <class T> Context<T> context_of(const py::object &frames, const char *name, py::ssize_t rows, size_t steps, size_t panels, bool writable = false) {
  Context<T> context;
  if (frames.is_none()) return context;
  if (!py::isinstance<py::tuple>(frames) || py::len(frames) != 3) throw py::value_error(std::string(name) + " must be (array, hop, phase)");
  auto parts = py::reinterpret_borrow<py::tuple>(frames);
  const py::array a = array_of(parts[0], name);
  auto s = sequences<T>(a, name, rows, -1, py::ssize_t(panels * 32), writable);
  const auto hop = py::cast<py::ssize_t>(parts[1]), phase = py::cast<py::ssize_t>(parts[2]);
  if (hop < 1 || phase < 0 || phase >= hop) throw py::value_error("hop must be at least 1 and phase 0 to hop - 1, not " + std::to_string(hop) + " and " + std::to_string(phase));
  const size_t needed = steps ? (steps - 1 + size_t(phase)) / size_t(hop) + 1 : 0;
  if (writable ? size_t(a.shape(1)) != needed : size_t(a.shape(1)) < needed)
    throw py::value_error(std::string(name) + " must have " + std::to_string(needed) + " frames, not " + std::to_string(a.shape(1)));
  context.view = {s.data, s.row, s.ld, size_t(hop), size_t(phase)};
  context.given = true;
  return context;
}

template <class T> using MaybeSequences = std::pair<typename Kernels<T>::Sequences, bool>;
template <class T>
MaybeSequences<T> optional_sequences(const py::object &a, const char *name, py::ssize_t rows, py::ssize_t steps, py::ssize_t channels, bool writable) {
  if (a.is_none()) return {{nullptr, 0, 0}, false};
  return {sequences<T>(array_of(a, name), name, rows, steps, channels, writable), true};
}
template <class T> const typename Kernels<T>::Sequences *pointer(const MaybeSequences<T> &s) { return s.second ? &s.first : nullptr; }

void gated_block(const py::tuple &parts, py::ssize_t dilation, const py::array &x, const py::object &start, const py::object &frames, const py::object &y,
                 const py::object &skip, bool first, const py::object &gates, int n_threads) {
  with_precision(x, "x", [&]<class T>() {
    auto block = block_of<T>(parts, dilation);
    const size_t steps = steps_after(x, block.view.width, block.view.dilation);
    const auto rows = x.shape(0), n = py::ssize_t(steps), channels = py::ssize_t(block.view.n_channels);
    auto in = sequences<T>(x, "x", -1, -1, channels);
    auto context = context_of<T>(frames, "frames", rows, steps, block.panels);
    if (!y.is_none() && !block.view.residual) throw py::value_error("y must be None for a block without a residual");
    auto out = optional_sequences<T>(y, "y", rows, n, channels, true);
    auto skips = optional_sequences<T>(skip, "skip", rows, -1, py::ssize_t(block.view.n_skip), true);
    const size_t n_skip_steps = skip.is_none() ? 0 : size_t(array_of(skip, "skip").shape(1));
    if (n_skip_steps > steps) throw py::value_error("skip must have at most " + std::to_string(steps) + " steps, not " + std::to_string(n_skip_steps));
    auto saved = optional_sequences<T>(gates, "gates", rows, n, py::ssize_t(block.panels * 32), true);
    if (!y.is_none()) apart(array_of(y, "y"), x, "x", "y");
    if (!skip.is_none()) apart(array_of(skip, "skip"), x, "x", "skip");
    if (!gates.is_none()) apart(array_of(gates, "gates"), x, "x", "gates");
    const uint32_t *starts = optional_vector<uint32_t>(start, "start", rows);
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::gated_block()(&block.view, size_t(rows), steps, n_skip_steps, starts, &in, context.get(), pointer<T>(out), pointer<T>(skips), first,
                                       pointer<T>(saved), exec);
    });
  });
}

void gated_block_gradient(const py::tuple &parts, py::ssize_t dilation, const py::array &x, const py::object &start, const py::array &gates,
                          const py::object &dy, const py::array &dskip, const py::tuple &gradient, const py::object &dframes, const py::object &dx,
                          int n_threads) {
  with_precision(x, "x", [&]<class T>() {
    auto block = block_of<T>(parts, dilation), grad = block_of<T>(gradient, dilation, true);
    const auto &shape = block.view, &other = grad.view;
    if (shape.n_channels != other.n_channels || shape.n_skip != other.n_skip || shape.width != other.width || !shape.residual != !other.residual)
      throw py::value_error("gradient must have the shapes of the block");
    const size_t steps = steps_after(x, shape.width, shape.dilation);
    const auto rows = x.shape(0), n = py::ssize_t(steps), channels = py::ssize_t(shape.n_channels);
    auto in = sequences<T>(x, "x", -1, -1, channels), saved = sequences<T>(gates, "gates", rows, n, py::ssize_t(block.panels * 32), true);
    if (dy.is_none() != !shape.residual) throw py::value_error("dy must be given exactly when the block has a residual");
    auto out = optional_sequences<T>(dy, "dy", rows, n, channels, false), back = optional_sequences<T>(dx, "dx", rows, x.shape(1), channels, true);
    auto skips = sequences<T>(dskip, "dskip", rows, -1, py::ssize_t(shape.n_skip));
    const auto n_skip_steps = size_t(dskip.shape(1));
    if (n_skip_steps > steps) throw py::value_error("dskip must have at most " + std::to_string(steps) + " steps, not " + std::to_string(n_skip_steps));
    auto context = context_of<T>(dframes, "dframes", rows, steps, block.panels, true);
    const uint32_t *starts = optional_vector<uint32_t>(start, "start", rows);
    if (!dx.is_none()) {
      const py::array to = array_of(dx, "dx");
      apart(to, x, "x", "dx"), apart(to, gates, "gates", "dx"), apart(to, dskip, "dskip", "dx");
      if (!dy.is_none()) apart(to, array_of(dy, "dy"), "dy", "dx");
    }
    const typename Kernels<T>::GatedBlockGradient to = {grad.part[0], grad.part[1], grad.part[2], grad.part[3], grad.part[4], grad.part[5]};
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::gated_block_gradient()(&shape, size_t(rows), steps, n_skip_steps, starts, &in, &saved, pointer<T>(out), &skips, &to, context.get(),
                                                pointer<T>(back), exec);
    });
  });
}

// A table of n_values rows in panels of 32 columns, or, turned, in panels of 32 values.
void embedding(const py::array &index, const py::array &E, size_t n_values, bool turned, const py::array &y, int n_threads) {
  with_precision(E, "E", [&]<class T>() {
    auto out = matrix<T>(y, "out", index.size(), -1, true);
    const T *table = turned ? panels<T>(E, "E", panels_of(n_values), out.columns) : panels<T>(E, "E", panels_of(out.columns), n_values);
    const int32_t *codes = indices(index, "index", n_values);
    run(n_threads, [&](auto *exec) { return Kernels<T>::embedding()(n_values, out.columns, turned, table, out.rows, codes, out.data, out.ld, exec); });
  });
}

void embedding_gradient(const py::array &index, const py::array &dy, size_t n_values, bool turned, const py::array &dE, int n_threads) {
  with_precision(dE, "dE", [&]<class T>() {
    auto in = matrix<T>(dy, "dy", index.size(), -1);
    T *table = turned ? panels<T>(dE, "dE", panels_of(n_values), in.columns, true) : panels<T>(dE, "dE", panels_of(in.columns), n_values, true);
    const int32_t *codes = indices(index, "index", n_values);
    run(n_threads,
        [&](auto *exec) { return Kernels<T>::embedding_gradient()(n_values, in.columns, turned, in.rows, codes, in.data, in.ld, table, exec); });
  });
}

void wavenet_sample(const py::list &blocks, const py::list &dilations, const py::array &input, const py::object &input_bias, const py::tuple &head,
                    const py::tuple &output, size_t n_values, size_t n_components, double log_scale_min, double temperature, const py::array &u,
                    const py::array &previous, const py::array &state, uint64_t taken, const py::object &frames, const py::array &x, int n_threads) {
  with_precision(state, "state", [&]<class T>() {
    std::vector<typename Kernels<T>::GatedBlock> views;
    size_t history = 0;
    if (!blocks.size() || blocks.size() != dilations.size()) throw py::value_error("blocks must be some, with a dilation each");
    for (size_t l = 0; l < blocks.size(); ++l) {
      views.push_back(block_of<T>(py::cast<py::tuple>(blocks[l]), py::cast<py::ssize_t>(dilations[l])).view);
      const auto &block = views.back();
      if (block.n_channels != views[0].n_channels || block.n_skip != views[0].n_skip || (l + 1 < blocks.size() && !block.residual))
        throw py::value_error("blocks must have the same channels, and a residual but for the last");
      history += (block.width - 1) * block.dilation;
    }
    auto uniform = matrix<double>(u, "u", -1, -1);
    const auto rows = py::ssize_t(uniform.rows), steps = py::ssize_t(uniform.columns);
    const size_t channels = views[0].n_channels, n_skip = views[0].n_skip;
    if (head.size() != 2) throw py::value_error("head must be (weights in panels, bias)");
    if (output.size() != 2) throw py::value_error("output must be (weights in panels, bias)");
    if (n_values < 1 || (!n_components && n_values > 256)) throw py::value_error("n_values must be 1 to 256 for codes, not " + std::to_string(n_values));
    const size_t n_parameters = n_components ? 3 * n_components : n_values - 1;
    auto values = vector<int32_t>(previous, "previous", rows);
    indices(previous, "previous", n_values);
    auto out = matrix<int32_t>(x, "out", rows, steps, true);
    T *rings = vector<T>(state, "state", py::ssize_t(history * size_t(rows) * channels), true).data;
    std::vector<typename Kernels<T>::Frames> contexts;
    if (!frames.is_none())
      for (const auto &item : py::cast<py::list>(frames)) {
        auto context = context_of<T>(py::reinterpret_borrow<py::object>(item), "frames", rows, size_t(steps), panels_of(channels, 16));
        if (!context.given) throw py::value_error("frames must have one context for every block");
        contexts.push_back(context.view);
      }
    if (!frames.is_none() && contexts.size() != views.size()) throw py::value_error("frames must have one context for every block");
    if (!(temperature > 0)) throw py::value_error("temperature must be positive, not " + std::to_string(temperature));
    const typename Kernels<T>::Wavenet net = {
        views.size(), n_values, n_components, n_parameters, views.data(),
        panels<T>(input, "input", panels_of(channels), n_components ? 1 : n_values), optional_vector<T>(input_bias, "input_bias", py::ssize_t(channels)),
        panels<T>(array_of(head[0], "head"), "head", panels_of(n_skip), n_skip), vector<T>(array_of(head[1], "head_bias"), "head_bias", py::ssize_t(n_skip)).data,
        panels<T>(array_of(output[0], "output"), "output", panels_of(n_parameters), n_skip),
        vector<T>(array_of(output[1], "output_bias"), "output_bias", py::ssize_t(n_parameters)).data, log_scale_min, temperature};
    run(n_threads, [&](auto *exec) {
      return Kernels<T>::wavenet_sample()(&net, uniform.rows, uniform.columns, uniform.data, uniform.ld, values.data, rings, taken,
                                          contexts.empty() ? nullptr : contexts.data(), out.data, out.ld, exec);
    });
  });
}

}  // namespace

void bind_wavenet(py::module_ &m) {
  using py::arg;
  m.def("causal_conv", &causal_conv, arg("x"), arg("W"), arg("b"), arg("dilation"), arg("activation"), arg("out"), arg("n_threads"));
  m.def("causal_conv_input_gradient", &causal_conv_input_gradient, arg("dy"), arg("W"), arg("dilation"), arg("out"), arg("n_threads"));
  m.def("causal_conv_weight_gradient", &causal_conv_weight_gradient, arg("x"), arg("dy"), arg("dilation"), arg("dW"), arg("db"), arg("n_threads"));
  m.def("gated_block", &gated_block, arg("block"), arg("dilation"), arg("x"), arg("start"), arg("frames"), arg("y"), arg("skip"), arg("first"), arg("gates"),
        arg("n_threads"));
  m.def("gated_block_gradient", &gated_block_gradient, arg("block"), arg("dilation"), arg("x"), arg("start"), arg("gates"), arg("dy"), arg("dskip"),
        arg("gradient"), arg("dframes"), arg("dx"), arg("n_threads"));
  m.def("embedding", &embedding, arg("index"), arg("E"), arg("n_values"), arg("turned"), arg("out"), arg("n_threads"));
  m.def("embedding_gradient", &embedding_gradient, arg("index"), arg("dy"), arg("n_values"), arg("turned"), arg("dE"), arg("n_threads"));
  m.def("wavenet_sample", &wavenet_sample, arg("blocks"), arg("dilations"), arg("input"), arg("input_bias"), arg("head"), arg("output"), arg("n_values"),
        arg("n_components"), arg("log_scale_min"), arg("temperature"), arg("u"), arg("previous"), arg("state"), arg("taken"), arg("frames"), arg("out"),
        arg("n_threads"));
}
