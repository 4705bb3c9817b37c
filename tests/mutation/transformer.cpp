// Inference of a Transformer: products with packed weights, and a whole step.
#include <string.h>

#include <utility>

#include "check.hpp"

namespace chainrule::CHAINRULE_ISA {
KERNEL(packed_linear);
KERNEL(transformer_step);
}  // namespace chainrule::CHAINRULE_ISA

namespace {

// A matrix for inference and what its numbers stand for.
struct Packed {
  Panels W;
  Floats b, scale;
  std::vector<uint16_t> halves;
  std::vector<int8_t> bytes;
  int32_t format;
  Packed(size_t n_in, size_t n_out, int32_t kept_as) : W(n_in, n_out, 3 / sqrt(double(n_in))), b(floats(n_out, 1)), scale((n_out + 31) / 32 * ((n_in + 255) / 256) * 32), format(kept_as) {
    for (float &s : scale) s = float(uniform() / 64 / sqrt(double(n_in)));
    for (size_t i = 0; i < W.W.size(); ++i) {
      float &w = W.W[i];
      const float s = scale[(i / (n_in * 32) * ((n_in + 255) / 256) + i / 32 % n_in / 256) * 32 + i % 32];
      bytes.push_back(int8_t(fmax(-127, fmin(127, w / s))));
      uint32_t word;
      memcpy(&word, &w, sizeof w);
      halves.push_back(uint16_t(word >> 16)), word &= 0xFFFF0000u;
      if (format == CHAINRULE_BF16) memcpy(&w, &word, sizeof w);
      if (format == CHAINRULE_INT8) w = bytes[i] * s;
    }
  }
  double operator()(size_t k, size_t o) const { return W(k, o); }
  chainrule_weights_f32 view() const {
    const void *data = format == CHAINRULE_PLAIN ? static_cast<const void *>(W.W.data()) : format == CHAINRULE_BF16 ? static_cast<const void *>(halves.data()) : bytes.data();
    return {W.in, W.out, format, data, scale.data(), b.data()};
  }
  Doubles operator*(const Doubles &x) const {
    Doubles y(b.begin(), b.end());
    for (size_t o = 0; o < W.out; ++o)
      for (size_t k = 0; k < W.in; ++k) y[o] += x[k] * W(k, o);
    return y;
  }
};

void packed_linear(size_t rows, size_t n_in, size_t n_out, int32_t format) {
  const Packed w(n_in, n_out, format);
  const Floats x = floats(rows * n_in, 2), addend = floats(rows * n_out, 2);
  Floats y(rows * n_out);
  Doubles want;
  const auto view = w.view();
  packed_linear_f32(&view, rows, x.data(), n_in, addend.data(), n_out, y.data(), n_out, nullptr);
  for (size_t r = 0; r < rows; ++r)
    for (double v : w * Doubles(&x[r * n_in], &x[r * n_in] + n_in)) want.push_back(v + addend[want.size()]);
  compare("y", y, want);
  add_bits(y);
}

// Two prompts of different lengths, some tokens more of both, and the logits of one token of each.
void transformer_step(size_t width, size_t heads, size_t kept, size_t d, size_t hidden, size_t values, size_t seen, int32_t activation, bool post, int32_t format) {
  const size_t blocks = 2, rows = 2, capacity = 20, prompt[] = {3, 6}, queries = heads * d, kept_channels = kept * d, T = 13;
  std::vector<Packed> w;
  for (size_t b = 0; b < blocks; ++b)
    for (const auto &[n_in, n_out] : {std::pair<size_t, size_t>{width, queries + 2 * kept_channels}, {queries, width}, {width, queries}, {queries, width}, {width, hidden}, {hidden, width}})
      w.emplace_back(n_in, n_out, format);
  const Packed token(width, values, format), output(width, values, format);
  const Floats norms = floats((6 * blocks + 2) * width, 4), position = floats(capacity * width, 2), memory = floats(blocks * 2 * rows * (seen + 1) * kept_channels, 2);
  std::vector<chainrule_transformer_block_f32> layers;
  for (size_t b = 0; b < blocks; ++b) {
    const float *n = &norms[6 * b * width];
    layers.push_back({n, n + width, n + 2 * width, n + 3 * width, n + 4 * width, n + 5 * width, w[6 * b].view(), w[6 * b + 1].view(), w[6 * b + 2].view(), w[6 * b + 3].view(),
                      w[6 * b + 4].view(), w[6 * b + 5].view()});
    if (!seen) layers[b].cross_query = {};
  }
  const float *last_norm = post ? nullptr : &norms[6 * blocks * width];
  const chainrule_transformer_f32 net = {blocks, width, values, {heads, kept, d, 0.5, 1}, post, activation, 1e-5, token.view(), output.view(), position.data(), layers.data(),
                                         last_norm, last_norm ? last_norm + width : nullptr};
  std::vector<int32_t> tokens(rows * T);
  for (int32_t &t : tokens) t = int32_t(uniform() * double(values + 1)) - 1;
  tokens[1] = tokens[T + 8] = -1;
  const uint32_t seen_lengths[] = {uint32_t(seen), uint32_t(seen / 2)};

  // Keys and values as they are kept.
  const size_t keys_size = kept * d * 32, values_size = kept * capacity * ((d + 31) / 32 * 32), seen_values = kept * seen * ((d + 31) / 32 * 32);
  std::vector<Floats> arrays;
  std::vector<chainrule_cache_f32> caches, cross;
  for (size_t b = 0; b < blocks; ++b)
    for (size_t size : {keys_size, values_size, keys_size, seen_values}) arrays.emplace_back(rows * size, NAN);
  auto recalled = [&](size_t b, size_t what, size_t r, size_t j, size_t c) { return memory[(((b * 2 + what) * rows + r) * seen + j) * kept_channels + c]; };
  for (size_t b = 0; b < blocks; ++b) {
    caches.push_back({arrays[4 * b].data(), arrays[4 * b + 1].data(), capacity}), cross.push_back({arrays[4 * b + 2].data(), arrays[4 * b + 3].data(), seen});
    for (size_t r = 0; r < rows; ++r)
      for (size_t j = 0; j < seen; ++j)
        for (size_t c = 0; c < kept_channels; ++c) {
          const size_t head = r * kept + c / d, lane = c % d;
          cross[b].keys[(head * d + lane) * 32 + j] = recalled(b, 0, r, j, c), cross[b].values[(head * seen + j) * ((d + 31) / 32 * 32) + lane] = recalled(b, 1, r, j, c);
        }
  }
  Floats logits(rows * T * values), some(rows * T * values), one(rows * values);
  auto step = [&](size_t row, size_t n, size_t t, size_t count, const uint32_t *lengths, const uint32_t *last, float *to) {
    std::vector<chainrule_cache_f32> own = caches, other = cross;
    for (size_t b = 0; b < blocks; ++b)
      own[b].keys += row * keys_size, own[b].values += row * values_size, other[b].keys += row * keys_size, other[b].values += row * seen_values;
    transformer_step_f32(&net, n, count, &tokens[row * T + t], T, lengths, last, own.data(), seen ? other.data() : nullptr, seen ? seen_lengths + row : nullptr, to, values, nullptr);
  };
  const uint32_t zero = 0, lengths[] = {3, 6}, later[] = {7, 10}, last[] = {2, 0};
  for (uint32_t t = 0; t < prompt[0]; ++t) step(0, 1, t, 1, &t, nullptr, &logits[t * values]);  // one by one
  step(1, 1, 0, prompt[1], &zero, nullptr, &logits[T * values]);
  std::vector<int32_t> all = tokens;
  auto pack_up = [&](const uint32_t *from, size_t count) {  // the next tokens of both rows, side by side
    for (size_t r = 0; r < rows; ++r)
      for (size_t t = 0; t < count; ++t) tokens[r * T + t] = all[r * T + from[r] + t];
  };
  pack_up(lengths, 4), step(0, rows, 0, 4, lengths, nullptr, some.data());
  for (size_t i = 0; i < rows * 4 * values; ++i) logits[(i / (4 * values) * T + lengths[i / (4 * values)]) * values + i % (4 * values)] = some[i];
  pack_up(later, 3), step(0, rows, 0, 3, later, last, one.data());

  Doubles want(logits.size()), want_one(one.size());
  for (size_t r = 0; r < rows; ++r) {
    std::vector<Doubles> x(later[r] + 3, Doubles(width));
    for (size_t t = 0; t < x.size(); ++t)
      for (size_t c = 0; c < width; ++c) x[t][c] = (all[r * T + t] < 0 ? 0 : token(c, size_t(all[r * T + t]))) + position[t * width + c];
    auto norm = [&](const Doubles &h, const float *gain) {
      double mean = 0, variance = 0;
      Doubles y(width);
      for (double v : h) mean += v / double(width);
      for (double v : h) variance += (v - mean) * (v - mean) / double(width);
      for (size_t c = 0; c < width; ++c) y[c] = (h[c] - mean) / sqrt(variance + 1e-5) * gain[c] + gain[width + c];
      return y;
    };
    auto sublayer = [&](const float *gain, auto &&f) {
      std::vector<Doubles> in;
      for (const Doubles &h : x) in.push_back(post ? h : norm(h, gain));
      for (size_t t = 0; t < x.size(); ++t) {
        const Doubles y = f(in, t);
        for (size_t c = 0; c < width; ++c) x[t][c] += y[c];
        if (post) x[t] = norm(x[t], gain);
      }
    };
    for (size_t b = 0; b < blocks; ++b) {
      const Packed *m = &w[6 * b];
      const float *gain = &norms[6 * b * width];
      auto heads_of = [&](const Doubles &q, size_t n, auto &&key, auto &&value) {
        Doubles y, part, p;
        for (size_t h = 0; h < heads; ++h) {
          const size_t g = h / (heads / kept) * d;
          attend(n, d, 0.5, [&](size_t c) { return q[h * d + c]; }, [&](size_t j, size_t c) { return key(j, g + c); }, [&](size_t j, size_t c) { return value(j, g + c); }, part, p);
          y.insert(y.end(), part.begin(), part.end());
        }
        return y;
      };
      std::vector<Doubles> qkv;
      sublayer(gain, [&](const std::vector<Doubles> &in, size_t t) {
        qkv.push_back(m[0] * in[t]);
        return m[1] * heads_of(qkv[t], t + 1, [&](size_t j, size_t c) { return qkv[j][queries + c]; }, [&](size_t j, size_t c) { return qkv[j][queries + kept_channels + c]; });
      });
      if (seen)
        sublayer(gain + 2 * width, [&](const std::vector<Doubles> &in, size_t t) {
          return m[3] * heads_of(m[2] * in[t], seen_lengths[r], [&](size_t j, size_t c) { return recalled(b, 0, r, j, c); },
                                 [&](size_t j, size_t c) { return recalled(b, 1, r, j, c); });
        });
      sublayer(gain + 4 * width, [&](const std::vector<Doubles> &in, size_t t) {
        Doubles h = m[4] * in[t];
        for (double &v : h) v = activation == CHAINRULE_SIGMOID ? sigmoid(v) : v / 2 * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
        return m[5] * h;
      });
    }
    for (size_t t = 0; t < later[r] + 3; ++t) {
      const Doubles z = output * (last_norm ? norm(x[t], last_norm) : x[t]);
      if (t < later[r])
        for (size_t v = 0; v < values; ++v) want[(r * T + t) * values + v] = z[v];
      if (t == later[r] + last[r])
        for (size_t v = 0; v < values; ++v) want_one[r * values + v] = z[v];
    }
  }
  compare("logits", logits, want), compare("logits of one token", one, want_one);
  add_bits(logits), add_bits(one);
}

}  // namespace

void check_transformer() {
  if (packed_linear_f32)
    for (int32_t format : {CHAINRULE_PLAIN, CHAINRULE_BF16, CHAINRULE_INT8})  // one row: panels side by side, and one that is left
      packed_linear(13, 600, 70, format), packed_linear(1, 31, 33, format), packed_linear(1, 600, 200, format);
  if (transformer_step_f32) {
    transformer_step(20, 4, 2, 7, 300, 40, 9, -1 - CHAINRULE_GELU_TANH, false, CHAINRULE_PLAIN);
    transformer_step(270, 2, 2, 9, 33, 35, 0, CHAINRULE_SIGMOID, true, CHAINRULE_INT8);
  }
}
