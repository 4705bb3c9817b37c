// Activations in time: convolutions, gated blocks, embeddings (straight and turned) and WaveNet's generator.
#include <array>

#include "digest.hpp"

namespace proof {
namespace {

struct ConvCase {
  size_t width, dilation, in, out, steps, rows;
};
// Tails of tiles of 12 and of 96 steps, of panels and of chunks of 256 inputs and of 256 steps.
const ConvCase conv_cases[] = {
    {1, 1, 1, 1, 1, 1}, {2, 1, 33, 65, 97, 3}, {3, 7, 150, 31, 23, 2}, {5, 64, 16, 33, 300, 2}, {16, 2, 17, 5, 13, 1}, {2, 512, 64, 64, 530, 1},
};

}  // namespace

template <class T> void convolutions() {
  constexpr bool single = std::is_same_v<T, float>;
  typedef std::conditional_t<single, chainrule_conv_f32, chainrule_conv_f64> Conv;
  typedef std::conditional_t<single, chainrule_sequences_f32, chainrule_sequences_f64> Sequences;
  Words words{2016 * 3};
  Digest forward, input, weight;
  for (const ConvCase &c : conv_cases) {
    const size_t history = (c.width - 1) * c.dilation, ldx = c.in + 2, ldy = c.out + 1, all_x = (history + c.steps + 1) * ldx, all_y = (c.steps + 1) * ldy;
    std::vector<T> W = panels<T>(words, c.width * c.in, c.out, T(0.25)), x = numbers<T>(words, c.rows * all_x, T(1)),
                   dy = numbers<T>(words, c.rows * all_y, T(0.125)), b = numbers<T>(words, c.out, T(1)),
                   addend = numbers<T>(words, c.rows * all_y + (c.steps + 1) * ldx * c.rows, T(1));
    const Conv conv = {{c.width * c.in, c.out, W.data(), 32, c.width * c.in * 32, nullptr, nullptr, nullptr, 0, 0}, c.width, c.dilation};
    std::vector<T> y(c.rows * all_y, 7), plain(c.rows * all_y, 7), dx(c.rows * all_x, 7), sum(c.rows * all_x, 7), dW(W.size(), 7), db(c.out, 7);
    in_parts(c.rows, 1, [&](size_t begin, size_t end) {
      const Sequences from = {&x[begin * all_x], all_x, ldx}, to = {&y[begin * all_y], all_y, ldy}, other = {&plain[begin * all_y], all_y, ldy},
                      back = {&dy[begin * all_y], all_y, ldy}, to_x = {&dx[begin * all_x], all_x, ldx}, sum_x = {&sum[begin * all_x], all_x, ldx},
                      added = {&addend[begin * (c.steps + 1) * ldx], (c.steps + 1) * ldx, ldx};
      check(KERNEL(causal_conv)(&conv, end - begin, c.steps, &from, nullptr, CHAINRULE_IDENTITY, &other, &exec));
      check(KERNEL(causal_conv)(&conv, end - begin, c.steps, &from, b.data(), CHAINRULE_TANH, &to, &exec));
      check(KERNEL(causal_conv_input_gradient)(&conv, end - begin, c.steps, &back, &added, &sum_x, &exec));
      return KERNEL(causal_conv_input_gradient)(&conv, end - begin, c.steps, &back, nullptr, &to_x, &exec);
    });
    const Sequences from = {x.data(), all_x, ldx}, back = {dy.data(), all_y, ldy};  // sums over rows: never split
    check(KERNEL(causal_conv_weight_gradient)(&conv, c.rows, c.steps, &from, &back, dW.data(), db.data(), &exec));
    forward.add(plain), forward.add(y), input.add(dx), input.add(sum), weight.add(dW), weight.add(db);
  }
  line(std::string("causal_conv") + suffix<T>(), forward);
  line(std::string("causal_conv_input_gradient") + suffix<T>(), input);
  line(std::string("causal_conv_weight_gradient") + suffix<T>(), weight);
}
BOTH_PRECISIONS(convolutions)

namespace {

// A block's arrays, and their views.
template <class T> struct GateBlock {
  typedef std::conditional_t<std::is_same_v<T, float>, chainrule_gated_block_f32, chainrule_gated_block_f64> View;
  size_t channels, skips, width, dilation;
  bool last;
  std::vector<T> W, b, residual, residual_bias, skip, skip_bias;
  GateBlock(Words &words, size_t n, size_t n_skip, size_t taps, size_t d, bool is_last)
      : channels(n), skips(n_skip), width(taps), dilation(d), last(is_last),
        W(panels<T>(words, (n + 15) / 16, taps * n, T(0.25), [&](size_t j) { return j / 32 * 16 + j % 16 < n; })),
        b(panels<T>(words, (n + 15) / 16, 1, T(0.5), [&](size_t j) { return j / 32 * 16 + j % 16 < n; })), residual(panels<T>(words, n, n, T(0.25))),
        residual_bias(numbers<T>(words, n, T(0.25))), skip(panels<T>(words, n, n_skip, T(0.25))), skip_bias(numbers<T>(words, n_skip, T(0.25))) {}
  View view() const {
    return {channels, skips, width, dilation, W.data(), b.data(), last ? nullptr : residual.data(), last ? nullptr : residual_bias.data(), skip.data(),
            skip_bias.data()};
  }
  size_t gates() const { return b.size(); }
};

struct BlockCase {
  size_t channels, skips, width, dilation, steps, skip_steps, rows, hop;  // hop 0: no context
  bool last, first, start;
};
const BlockCase block_cases[] = {
    {1, 1, 2, 1, 1, 1, 1, 0, false, true, false},       {15, 31, 2, 3, 97, 97, 3, 0, false, false, false}, {33, 65, 3, 7, 60, 23, 2, 5, false, true, true},
    {64, 40, 2, 64, 300, 290, 2, 300, false, false, true}, {17, 9, 2, 1, 1100, 700, 2, 90, true, false, true}, {48, 32, 16, 1, 30, 30, 1, 3, false, false, false},
};

}  // namespace

template <class T> void gated_blocks() {
  constexpr bool single = std::is_same_v<T, float>;
  typedef std::conditional_t<single, chainrule_sequences_f32, chainrule_sequences_f64> Sequences;
  typedef std::conditional_t<single, chainrule_frames_f32, chainrule_frames_f64> Frames;
  typedef std::conditional_t<single, chainrule_gated_block_gradient_f32, chainrule_gated_block_gradient_f64> Gradient;
  Words words{1609};
  Digest forward, backward;
  for (const BlockCase &c : block_cases) {
    const GateBlock<T> block(words, c.channels, c.skips, c.width, c.dilation, c.last);
    const auto view = block.view();
    const size_t history = (c.width - 1) * c.dilation, gates = block.gates(), phase = c.hop ? c.hop / 3 : 0, n_frames = c.hop ? (c.steps - 1 + phase) / c.hop + 1 : 0;
    const size_t ldx = c.channels + 2, ldy = c.channels + 1, lds = c.skips + 3, ldg = gates + 1;
    const size_t all_x = (history + c.steps + 1) * ldx, all_y = (c.steps + 1) * ldy, all_s = (c.skip_steps + 1) * lds, all_g = (c.steps + 1) * ldg, all_f = n_frames * gates;
    std::vector<T> x = numbers<T>(words, c.rows * all_x, T(1)), dy = numbers<T>(words, c.rows * all_y, T(0.25)), dskip = numbers<T>(words, c.rows * all_s, T(0.25)),
                   skip = numbers<T>(words, c.rows * all_s, T(1)),
                   frames = panels<T>(words, c.rows * n_frames * (gates / 32), 1, T(0.5), [&](size_t j) { return j % gates / 32 * 16 + j % 16 < c.channels; });
    std::vector<T> y(c.rows * all_y, 7), saved(c.rows * all_g, 7), dx(c.rows * all_x, 7), dframes(c.rows * all_f, 7);
    std::vector<uint32_t> start(c.rows);
    for (uint32_t &s : start) s = uint32_t(words.below(c.steps + 1));
    start[0] = uint32_t(c.steps / 3);
    const uint32_t *starts = c.start ? start.data() : nullptr;
    in_parts(c.rows, 1, [&](size_t begin, size_t end) {
      const Sequences from = {&x[begin * all_x], all_x, ldx}, to = {&y[begin * all_y], all_y, ldy}, skips = {&skip[begin * all_s], all_s, lds},
                      to_gates = {&saved[begin * all_g], all_g, ldg};
      const Frames context = {frames.data() + begin * all_f, all_f, gates, c.hop, phase};
      return KERNEL(gated_block)(&view, end - begin, c.steps, c.skip_steps, starts ? starts + begin : nullptr, &from, c.hop ? &context : nullptr,
                                 c.last ? nullptr : &to, &skips, c.first, &to_gates, &exec);
    });
    forward.add(y), forward.add(skip), forward.add(saved);

    GateBlock<T> gradient = block;
    for (std::vector<T> *part : {&gradient.W, &gradient.b, &gradient.residual, &gradient.residual_bias, &gradient.skip, &gradient.skip_bias})
      std::fill(part->begin(), part->end(), 7);
    const Gradient to = {gradient.W.data(), gradient.b.data(), c.last ? nullptr : gradient.residual.data(), c.last ? nullptr : gradient.residual_bias.data(),
                         gradient.skip.data(), gradient.skip_bias.data()};
    const Sequences from = {x.data(), all_x, ldx}, with_gates = {saved.data(), all_g, ldg}, back = {dy.data(), all_y, ldy}, skips = {dskip.data(), all_s, lds},
                    to_x = {dx.data(), all_x, ldx};
    const Frames to_frames = {dframes.data(), all_f, gates, c.hop, phase};
    check(KERNEL(gated_block_gradient)(&view, c.rows, c.steps, c.skip_steps, starts, &from, &with_gates, c.last ? nullptr : &back, &skips, &to,
                                       c.hop ? &to_frames : nullptr, &to_x, &exec));
    for (const std::vector<T> *part : {&saved, &dx, &dframes, &gradient.W, &gradient.b, &gradient.residual, &gradient.residual_bias, &gradient.skip, &gradient.skip_bias})
      backward.add(*part);
  }
  line(std::string("gated_block") + suffix<T>(), forward);
  line(std::string("gated_block_gradient") + suffix<T>(), backward);
}
BOTH_PRECISIONS(gated_blocks)

template <class T> void embeddings() {
  Words words{2003};
  Digest forward, backward;
  for (const auto &[n_values, n_out, rows] : {std::array<size_t, 3>{1, 1, 1}, {5, 33, 23}, {256, 65, 601}, {17, 16, 300}}) {
    const size_t ld = n_out + 2;
    const std::vector<T> E = panels<T>(words, n_values, n_out, T(1)), dy = numbers<T>(words, rows * ld, T(1));
    std::vector<int32_t> index(rows);
    for (int32_t &i : index) i = int32_t(words.below(n_values + 1)) - 1;
    std::vector<T> y(rows * ld, 7), dE(E.size(), 7);
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(embedding)(n_values, n_out, 0, E.data(), end - begin, &index[begin], &y[begin * ld], ld, &exec);
    });
    check(KERNEL(embedding_gradient)(n_values, n_out, 0, rows, index.data(), dy.data(), ld, dE.data(), &exec));
    forward.add(y), backward.add(dE);
  }
  line(std::string("embedding") + suffix<T>(), forward), line(std::string("embedding_gradient") + suffix<T>(), backward);
}
BOTH_PRECISIONS(embeddings)

// Tables that stand as an output matrix: the same rows.
template <class T> void turned_embeddings() {
  Words words{2017};
  Digest forward, backward;
  for (const auto &[n_values, n_out, rows] : {std::array<size_t, 3>{1, 1, 1}, {33, 5, 23}, {65, 256, 601}, {16, 17, 300}}) {
    const size_t ld = n_out + 2;
    const std::vector<T> E = panels<T>(words, n_out, n_values, T(1)), dy = numbers<T>(words, rows * ld, T(1));
    std::vector<int32_t> index(rows);
    for (int32_t &i : index) i = int32_t(words.below(n_values + 1)) - 1;
    std::vector<T> y(rows * ld, 7), dE(E.size(), 7);
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(embedding)(n_values, n_out, 1, E.data(), end - begin, &index[begin], &y[begin * ld], ld, &exec);
    });
    check(KERNEL(embedding_gradient)(n_values, n_out, 1, rows, index.data(), dy.data(), ld, dE.data(), &exec));
    forward.add(y), backward.add(dE);
  }
  line(std::string("embedding_turned") + suffix<T>(), forward), line(std::string("embedding_gradient_turned") + suffix<T>(), backward);
}
BOTH_PRECISIONS(turned_embeddings)

namespace {

struct WavenetCase {
  size_t channels, skips, width, values, components, rows, steps, hop;
  std::vector<size_t> dilations;
  double temperature;
};

}  // namespace

template <class T> void generation() {
  constexpr bool single = std::is_same_v<T, float>;
  typedef std::conditional_t<single, chainrule_frames_f32, chainrule_frames_f64> Frames;
  typedef std::conditional_t<single, chainrule_wavenet_f32, chainrule_wavenet_f64> Wavenet;
  // Past taps met 1 to 8 steps ahead, or not; a stream for a team of threads; tiles of streams; codes and levels.
  const WavenetCase cases[] = {
      {16, 33, 2, 256, 0, 1, 80, 0, {1, 2, 4, 8, 16}, 1}, {33, 31, 3, 17, 0, 1, 50, 7, {3, 24, 6}, 0.75}, {150, 40, 2, 5, 0, 1, 40, 0, {8, 2}, 1},
      {120, 64, 2, 30, 0, 1, 40, 90, {1, 2, 8, 3, 1, 2, 4}, 1}, {17, 5, 2, 3, 0, 29, 40, 5, {2, 5}, 1}, {20, 9, 1, 2, 0, 3, 20, 0, {1}, 1},
      {16, 33, 2, 65536, 3, 5, 40, 0, {1, 2, 4}, 1},
  };
  Words words{2017};
  Digest digest;
  for (const WavenetCase &c : cases) {
    std::vector<GateBlock<T>> blocks;
    size_t history = 0;
    for (size_t l = 0; l < c.dilations.size(); ++l) {
      blocks.emplace_back(words, c.channels, c.skips, c.width, c.dilations[l], l + 1 == c.dilations.size());
      history += (c.width - 1) * c.dilations[l];
    }
    std::vector<typename GateBlock<T>::View> views;
    for (const GateBlock<T> &block : blocks) views.push_back(block.view());
    const size_t parameters = c.components ? 3 * c.components : c.values - 1, gates = blocks[0].gates(), ldu = c.steps + 2, cut = c.steps / 3;
    const std::vector<T> input = panels<T>(words, c.components ? 1 : c.values, c.channels, T(1)), input_bias = numbers<T>(words, c.channels, T(0.5)),
                         head = panels<T>(words, c.skips, c.skips, T(0.25)), head_bias = numbers<T>(words, c.skips, T(0.5)),
                         output = panels<T>(words, c.skips, parameters, T(2)), output_bias = numbers<T>(words, parameters, T(1));
    const std::vector<double> u = uniforms(words, c.rows * ldu);
    const size_t n_frames = c.hop ? (c.steps - 1) / c.hop + 1 : 0, all_f = n_frames * gates;
    std::vector<std::vector<T>> contexts;
    for (size_t l = 0; l < blocks.size(); ++l)
      contexts.push_back(panels<T>(words, c.rows * n_frames * (gates / 32), 1, T(0.5), [&](size_t j) { return j % gates / 32 * 16 + j % 16 < c.channels; }));
    const Wavenet net = {views.size(), c.values, c.components, parameters, views.data(), input.data(), c.components ? input_bias.data() : nullptr,
                         head.data(), head_bias.data(), output.data(), output_bias.data(), -7, c.temperature};
    std::vector<int32_t> x(c.rows * ldu, 7);
    std::vector<T> states(c.rows * history * c.channels, 7);
    in_parts(c.rows, 1, [&](size_t begin, size_t end) {
      const size_t n = end - begin;
      std::vector<T> state(history * n * c.channels, 0);
      std::vector<int32_t> previous(n, -1);
      for (size_t from : {size_t(0), cut}) {  // two calls, the second where the first one ended
        const size_t to = from ? c.steps : cut;
        std::vector<Frames> frames;
        for (const std::vector<T> &context : contexts)
          if (c.hop) frames.push_back({const_cast<T *>(context.data()) + begin * all_f + from / c.hop * gates, all_f, gates, c.hop, from % c.hop});
        check(KERNEL(wavenet_sample)(&net, n, to - from, &u[begin * ldu + from], ldu, previous.data(), state.data(), from, c.hop ? frames.data() : nullptr,
                                     &x[begin * ldu + from], ldu, &exec));
        for (size_t r = 0; r < n && to; ++r) previous[r] = x[(begin + r) * ldu + to - 1];
      }
      for (size_t h = 0; h < history; ++h)
        for (size_t r = 0; r < n * c.channels; ++r) states[h * c.rows * c.channels + begin * c.channels + r] = state[h * n * c.channels + r];
      return CHAINRULE_OK;
    });
    digest.add(x), digest.add(states);
  }
  line(std::string("wavenet_sample") + suffix<T>(), digest);
}
BOTH_PRECISIONS(generation)

}  // namespace proof
