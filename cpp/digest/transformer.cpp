// Inference of a Transformer: products with packed weights and a whole step.
#include <string.h>

#include <array>

#include "digest.hpp"

namespace proof {
namespace {

// A matrix for inference, its numbers kept in one of the formats.
template <class T> struct Packed {
  typedef std::conditional_t<std::is_same_v<T, float>, chainrule_weights_f32, chainrule_weights_f64> View;
  size_t n_in, n_out;
  int32_t format;
  std::vector<T> plain, b;
  std::vector<uint16_t> halves;
  std::vector<int8_t> bytes;
  std::vector<float> scale;
  Packed(Words &words, size_t in, size_t out, T size, int32_t kept_as = CHAINRULE_PLAIN, bool bias = true)
      : n_in(in), n_out(out), format(kept_as), plain(panels<T>(words, in, out, size)), b(numbers<T>(words, bias ? out : 0, T(0.25))) {
    for (T w : plain) {
      const float value = float(w);
      uint32_t word;
      memcpy(&word, &value, sizeof word);
      halves.push_back(uint16_t(word >> 16)), bytes.push_back(int8_t(w / size * 127));
    }
    for (T s : numbers<T>(words, (out + 31) / 32 * ((in + 255) / 256) * 32, size / 256)) scale.push_back(float(s));
  }
  View view() const {
    const void *W = format == CHAINRULE_PLAIN ? static_cast<const void *>(plain.data()) : format == CHAINRULE_BF16 ? static_cast<const void *>(halves.data()) : bytes.data();
    return {n_in, n_out, format, W, scale.data(), b.empty() ? nullptr : b.data()};
  }
};

}  // namespace

template <class T> void packed_products() {
  const char *names[] = {"", "_bf16", "_int8"};
  for (int32_t format : {CHAINRULE_PLAIN, CHAINRULE_BF16, CHAINRULE_INT8}) {
    Words words{1985};
    Digest digest;
    for (const auto &[rows, n_in, n_out] : {std::array<size_t, 3>{1, 1, 1}, {1, 600, 100}, {13, 257, 33}, {40, 31, 65}, {7, 256, 32}}) {
      const size_t ldx = n_in + 1, lda = n_out + 2, ldy = n_out + 3;
      const Packed<T> w(words, n_in, n_out, T(0.25), format, n_out % 2);
      const std::vector<T> x = numbers<T>(words, rows * ldx, T(1)), addend = numbers<T>(words, rows * lda, T(1));
      const auto view = w.view();
      for (const T *more : {static_cast<const T *>(nullptr), addend.data()}) {
        std::vector<T> y(rows * ldy, 7);
        in_parts(rows, 1, [&](size_t begin, size_t end) {
          return KERNEL(packed_linear)(&view, end - begin, &x[begin * ldx], ldx, more ? more + begin * lda : nullptr, lda, &y[begin * ldy], ldy, &exec);
        });
        digest.add(y);
      }
    }
    line(std::string("packed_linear") + names[format] + suffix<T>(), digest);
  }
}
BOTH_PRECISIONS(packed_products)

namespace {

struct TransformerCase {
  size_t blocks, heads, kept, size, width, hidden, values, rows, steps, seen;  // seen 0: no cross-attention
  int32_t activation, format;
  bool post_norm;
};

}  // namespace

template <class T> void transformers() {
  constexpr bool single = std::is_same_v<T, float>;
  typedef std::conditional_t<single, chainrule_cache_f32, chainrule_cache_f64> Cache;
  typedef std::conditional_t<single, chainrule_transformer_block_f32, chainrule_transformer_block_f64> Block;
  typedef std::conditional_t<single, chainrule_transformer_f32, chainrule_transformer_f64> Transformer;
  const TransformerCase cases[] = {
      {2, 4, 4, 8, 32, 64, 65, 3, 40, 0, -1 - CHAINRULE_GELU_TANH, CHAINRULE_PLAIN, false}, {1, 3, 1, 5, 19, 300, 5, 1, 280, 0, -1 - CHAINRULE_GELU_ERF, CHAINRULE_PLAIN, false},
      {2, 2, 1, 33, 40, 31, 33, 2, 17, 9, CHAINRULE_RELU, CHAINRULE_PLAIN, true},           {2, 4, 2, 16, 270, 70, 7, 5, 9, 40, CHAINRULE_TANH, CHAINRULE_PLAIN, false},
      {1, 2, 2, 16, 32, 64, 40, 2, 9, 0, CHAINRULE_SIGMOID, CHAINRULE_BF16, false},         {1, 2, 2, 16, 32, 64, 40, 2, 9, 0, -1 - CHAINRULE_GELU_TANH, CHAINRULE_INT8, false},
  };
  Words words{2017 + 1};
  Digest digest;
  for (const TransformerCase &c : cases) {
    const size_t heads = c.heads * c.size, kept = c.kept * c.size, w = c.width, capacity = c.steps + 4;
    std::vector<Packed<T>> matrices;
    auto matrix = [&](size_t n_in, size_t n_out, bool bias = true) { matrices.emplace_back(words, n_in, n_out, T(0.25), c.format, bias); };
    for (size_t b = 0; b < c.blocks; ++b)
      matrix(w, heads + 2 * kept), matrix(heads, w), matrix(w, heads), matrix(heads, w), matrix(w, c.hidden), matrix(c.hidden, w);
    matrix(w, c.values, false), matrix(w, c.values, false);
    const std::vector<T> norms = numbers<T>(words, (6 * c.blocks + 2) * w, T(1)), position = numbers<T>(words, capacity * w, T(0.5));
    std::vector<Block> blocks;
    for (size_t b = 0; b < c.blocks; ++b) {
      const Packed<T> *m = &matrices[6 * b];
      const T *norm = &norms[6 * b * w];
      blocks.push_back({norm, norm + w, norm + 2 * w, norm + 3 * w, norm + 4 * w, norm + 5 * w, m[0].view(), m[1].view(), m[2].view(), m[3].view(), m[4].view(), m[5].view()});
      if (!c.seen) blocks[b].cross_query = {}, blocks[b].cross_projection = {};
    }
    const T *last_norm = &norms[6 * c.blocks * w];
    const Transformer net = {c.blocks, w, c.values, {c.heads, c.kept, c.size, 0.25, 1}, c.post_norm, c.activation, 1e-5, matrices[6 * c.blocks].view(),
                             matrices[6 * c.blocks + 1].view(), position.data(), blocks.data(), c.post_norm ? nullptr : last_norm, c.post_norm ? nullptr : last_norm + w};
    const size_t ldt = c.steps + 2, ldl = c.values + 1, panels_size = c.kept * ((capacity + 31) / 32) * c.size * 32, values_size = c.kept * capacity * ((c.size + 31) / 32 * 32),
                 seen_panels = c.kept * ((c.seen + 31) / 32) * c.size * 32, seen_values = c.kept * c.seen * ((c.size + 31) / 32 * 32);
    std::vector<int32_t> tokens(c.rows * ldt);
    for (int32_t &t : tokens) t = int32_t(words.below(c.values + 1)) - 1;
    std::vector<uint32_t> seen_lengths(c.rows), last(c.rows, 0);
    for (uint32_t &n : seen_lengths) n = uint32_t(words.below(c.seen + 1));
    std::vector<std::vector<T>> keys(c.blocks, std::vector<T>(c.rows * panels_size, 7)), values(c.blocks, std::vector<T>(c.rows * values_size, 7)), cross_keys, cross_values;
    for (size_t b = 0; b < c.blocks; ++b)
      cross_keys.push_back(numbers<T>(words, c.rows * seen_panels, T(1))), cross_values.push_back(numbers<T>(words, c.rows * seen_values, T(1)));
    std::vector<T> logits(c.rows * c.steps * ldl, 7), one(c.rows * ldl, 7);
    in_parts(c.rows, 1, [&](size_t begin, size_t end) {
      std::vector<Cache> caches, cross;
      for (size_t b = 0; b < c.blocks; ++b) {
        caches.push_back({&keys[b][begin * panels_size], &values[b][begin * values_size], capacity});
        cross.push_back({cross_keys[b].data() + begin * seen_panels, cross_values[b].data() + begin * seen_values, c.seen});
      }
      std::vector<uint32_t> at(end - begin, 0);
      std::vector<T> some(c.rows * c.steps * ldl, 7);
      auto step = [&](size_t t, size_t n, const uint32_t *wanted, T *to) {
        return KERNEL(transformer_step)(&net, end - begin, n, &tokens[begin * ldt + t], ldt, at.data(), wanted, caches.data(), c.seen ? cross.data() : nullptr,
                                        c.seen ? &seen_lengths[begin] : nullptr, to, ldl, &exec);
      };
      in_parts(c.steps, 1, [&](size_t t, size_t stop) {
        check(step(t, stop - t, nullptr, some.data()));
        for (size_t r = begin; r < end; ++r)
          for (size_t i = t; i < stop; ++i)
            for (size_t v = 0; v < ldl; ++v) logits[(r * c.steps + i) * ldl + v] = some[((r - begin) * (stop - t) + i - t) * ldl + v];
        for (uint32_t &n : at) n += uint32_t(stop - t);
        return CHAINRULE_OK;
      });
      for (uint32_t &n : at) n -= 2;  // once more the last two, and the logits of one of them
      return step(c.steps - 2, 2, &last[begin], &one[begin * ldl]);
    });
    digest.add(logits), digest.add(one);
    for (size_t b = 0; b < c.blocks; ++b) digest.add(keys[b]), digest.add(values[b]);
  }
  line(std::string("transformer_step") + suffix<T>(), digest);
}
BOTH_PRECISIONS(transformers)

}  // namespace proof
