// Masked networks: their products, samples, scores, and codes of rows.
#include "check.hpp"

namespace chainrule::CHAINRULE_ISA {
KERNEL(bernoulli_log_prob);
KERNEL(bernoulli_sample);
KERNEL(masked_linear);
KERNEL(masked_linear_input_gradient);
KERNEL(masked_linear_weight_gradient);
KERNEL(masked_linear_step);
KERNEL(optimizer_step);
KERNEL(sparse_linear);
KERNEL(sparse_linear_weight_gradient);
KERNEL(sparse_linear_step);
KERNEL(permute_columns);
KERNEL(masked_sample);
KERNEL(masked_score);
}  // namespace chainrule::CHAINRULE_ISA
namespace chainrule {
__attribute__((weak)) chainrule_encode_fn encode;
}

namespace {

struct Mask {
  size_t n_in, n_out;
  std::vector<uint32_t> words, spans, span_of = {0}, back, back_spans, back_span_of = {0};
  template <class F> Mask(size_t in, size_t out, F &&live) : n_in(in), n_out(out) {
    side(in, out, live, words, spans, span_of);
    side(out, in, [&](size_t o, size_t k) { return live(k, o); }, back, back_spans, back_span_of);
  }
  template <class F>
  static void side(size_t in, size_t out, F &&live, std::vector<uint32_t> &w, std::vector<uint32_t> &s, std::vector<uint32_t> &of) {
    for (size_t p = 0; 32 * p < out; ++p) {
      uint32_t before = 0;
      for (size_t k = 0; k < in; ++k) {
        uint32_t word = 0;
        for (size_t j = 0; j < 32 && 32 * p + j < out; ++j) word |= uint32_t(live(k, 32 * p + j)) << j;
        w.push_back(word);
        if (word && !before) s.push_back(uint32_t(k)), s.push_back(0);
        if (word) s.back() = uint32_t(k + 1);
        before = word;
      }
      of.push_back(uint32_t(s.size() / 2));
    }
    s.push_back(0);
  }
  bool live(size_t k, size_t o) const { return words[o / 32 * n_in + k] >> o % 32 & 1; }
  chainrule_mask view() const { return {words.data(), spans.data(), span_of.data()}; }
  chainrule_mask transposed() const { return {back.data(), back_spans.data(), back_span_of.data()}; }
};

// A masked matrix in panels; dead weights are 1e3.
struct Masked {
  Mask mask;
  Floats W;
  chainrule_mask view, transposed;
  template <class F> Masked(size_t in, size_t out, double scale, F &&live)
      : mask(in, out, live), W((out + 31) / 32 * in * 32, 1e3f), view(mask.view()), transposed(mask.transposed()) {
    for (size_t k = 0; k < in; ++k)
      for (size_t o = 0; o < out; ++o)
        if (live(k, o)) W[at(k, o)] = float((uniform() - 0.5) * scale);
  }
  Masked(const Masked &) = delete;
  size_t at(size_t k, size_t o) const { return (o / 32 * mask.n_in + k) * 32 + o % 32; }
  double operator()(size_t k, size_t o) const { return mask.live(k, o) ? double(W[at(k, o)]) : 0; }
  chainrule_linear_f32 linear() const { return {mask.n_in, mask.n_out, W.data(), 32, 32 * mask.n_in, &view, &transposed, nullptr, 0, 0}; }
};

std::vector<uint32_t> shuffled(size_t n) {
  std::vector<uint32_t> order(n);
  for (size_t i = 0; i < n; ++i) {
    const size_t j = size_t(uniform() * double(i + 1));
    order[i] = order[j], order[j] = uint32_t(i);
  }
  return order;
}

// A staircase whose second panel sees nothing before input 40; and scattered weights.
template <class F> void for_masks(size_t n, size_t d, F &&f) {
  f(Masked(n, d, 0.5, [&](size_t k, size_t o) { return k < (o + 1) * n / d && (o / 32 != 1 || k >= 40); }));
  f(Masked(n, d, 0.5, [&](size_t k, size_t o) { return (k * 7 + o * 13 + k * o) % 5 == 0; }));
}

void masked_linear(size_t m, size_t n, size_t d) {
  for_masks(n, d, [&](const Masked &w) {
    const Floats x = floats(m * n, 2), dy = floats(m * d, 2), addend = floats(m * d, 8), b = floats(d, 8), h = floats(m * n, 2);
    Floats y(m * d), dx(m * n), dW(w.W.size(), 7), db(d);
    Doubles want(m * d), want_dx(m * n), want_dW(w.W.size(), 7), want_db(d);
    const auto linear = w.linear();
    masked_linear_f32(&linear, m, x.data(), n, addend.data(), d, b.data(), CHAINRULE_IDENTITY, y.data(), d, nullptr);
    masked_linear_input_gradient_f32(&linear, m, dy.data(), d, nullptr, 0, h.data(), n, CHAINRULE_SIGMOID, dx.data(), n, nullptr);
    masked_linear_weight_gradient_f32(&linear, m, x.data(), n, dy.data(), d, dW.data(), db.data(), nullptr);
    for (size_t k = 0; k < n; ++k)
      for (size_t o = 0; o < d; ++o)
        if (w.mask.live(k, o)) want_dW[w.at(k, o)] = 0;
    for (size_t r = 0; r < m; ++r) {
      for (size_t o = 0; o < d; ++o) want[r * d + o] = double(addend[r * d + o]) + b[o], want_db[o] += dy[r * d + o];
      for (size_t k = 0; k < n; ++k) {
        for (size_t o = 0; o < d; ++o) {
          want[r * d + o] += x[r * n + k] * w(k, o), want_dx[r * n + k] += dy[r * d + o] * w(k, o);
          if (w.mask.live(k, o)) want_dW[w.at(k, o)] += double(x[r * n + k]) * dy[r * d + o];
        }
        want_dx[r * n + k] *= double(h[r * n + k]) * (1 - double(h[r * n + k]));
      }
    }
    compare("y", y, want), compare("dx", dx, want_dx), compare("dW", dW, want_dW), compare("db", db, want_db);
    add_bits(y), add_bits(dx), add_bits(dW), add_bits(db);
  });
}

// A step by a product is that of an optimizer by its gradient; dead weights stay. product(linear, dW, db), step(optimizer, linear,
// p, s, t, average, db).
template <class Product, class Step> void step_by_product(const Masked &w, size_t n, size_t d, Product &&product, Step &&step) {
  Floats db(d), want_db(d), dW(w.W.size(), 0);
  const auto linear = w.linear();
  product(&linear, dW.data(), want_db.data());
  for (int32_t rule = CHAINRULE_SGD; rule <= CHAINRULE_ADAM; ++rule) {
    Floats p = w.W, s(p.size(), 0.25f), t(p.size(), 0.5f), average(p.size(), 1.f);
    Floats want = p, want_s = s, want_t = t, want_average = average;
    const chainrule_optimizer o = {rule, 0.1, 0.9, 0.99, 0.1, 0.01, 1e-8, 0.01, 0.01, 0.5, 0.9};
    step(&o, &linear, p.data(), s.data(), t.data(), average.data(), db.data());
    optimizer_step_f32(&o, p.size(), want.data(), dW.data(), want_s.data(), want_t.data(), want_average.data(), 0, nullptr, nullptr);
    for (size_t k = 0; k < n; ++k)
      for (size_t o = 0; o < (d + 31) / 32 * 32; ++o) {
        const size_t i = w.at(k, o);
        if (o < d && w.mask.live(k, o)) wrong |= p[i] != want[i] || s[i] != want_s[i] || t[i] != want_t[i] || average[i] != want_average[i];
        else wrong |= p[i] != 1e3f || s[i] != 0.25f || t[i] != 0.5f || average[i] != 1.f;
      }
    add_bits(p), add_bits(s), add_bits(t), add_bits(average);
  }
  wrong |= db != want_db;
}
void masked_step(size_t m, size_t n, size_t d) {
  for_masks(n, d, [&](const Masked &w) {
    const Floats x = floats(m * n, 2), dy = floats(m * d, 2);
    step_by_product(
        w, n, d, [&](auto *linear, float *dW, float *db) { masked_linear_weight_gradient_f32(linear, m, x.data(), n, dy.data(), d, dW, db, nullptr); },
        [&](auto *o, auto *linear, float *p, float *s, float *t, float *average, float *db) {
          masked_linear_step_f32(o, linear, m, x.data(), n, dy.data(), d, p, s, t, average, db, nullptr);
        });
  });
}
void sparse_step(size_t m, size_t n, size_t d) {
  for_masks(n, d, [&](const Masked &w) {
    std::vector<uint32_t> index(m * n), count(m);
    const Floats dy = floats(m * d, 2);
    for (size_t r = 0; r < m; ++r)
      for (size_t k = 0; k < n; ++k)
        if (uniform() < 0.3) index[r * n + count[r]++] = uint32_t(k);
    const chainrule_ones ones = {n, index.data(), count.data()};
    step_by_product(
        w, n, d, [&](auto *linear, float *dW, float *db) { sparse_linear_weight_gradient_f32(linear, m, &ones, dy.data(), d, dW, db, nullptr); },
        [&](auto *o, auto *linear, float *p, float *s, float *t, float *average, float *db) {
          sparse_linear_step_f32(o, linear, m, &ones, dy.data(), d, p, s, t, average, db, nullptr);
        });
  });
}

// Products of a matrix that is kept with its rows elsewhere, or as its transpose, are those of the matrix in place.
void kept(size_t m, size_t n, size_t d) {
  for_masks(n, d, [&](const Masked &w) {
    const Floats x = floats(m * n, 2), dy = floats(m * d, 2), b = floats(d, 8);
    Floats y(m * d), dx(m * n), dW(w.W.size(), 0), db(d);
    const auto linear = w.linear();
    masked_linear_f32(&linear, m, x.data(), n, nullptr, 0, b.data(), CHAINRULE_TANH, y.data(), d, nullptr);
    masked_linear_input_gradient_f32(&linear, m, dy.data(), d, nullptr, 0, nullptr, 0, CHAINRULE_IDENTITY, dx.data(), n, nullptr);
    masked_linear_weight_gradient_f32(&linear, m, x.data(), n, dy.data(), d, dW.data(), db.data(), nullptr);
    for (const bool turned : {false, true}) {
      const size_t inputs = turned ? d : n, outputs = turned ? n : d;
      const auto rows = shuffled(inputs);
      auto at = [&](size_t k, size_t o) {
        const size_t row = rows[turned ? o : k], column = turned ? k : o;
        return (column / 32 * inputs + row) * 32 + column % 32;
      };
      Floats W((outputs + 31) / 32 * 32 * inputs, 1e3f), gradient(W.size(), 7), again_y(m * d), again_dx(m * n), again_db(d);
      for (size_t k = 0; k < n; ++k)
        for (size_t o = 0; o < d; ++o) W[at(k, o)] = w.W[w.at(k, o)];
      chainrule_linear_f32 it = {n, d, W.data(), 32, 32 * inputs, &w.view, &w.transposed, rows.data(), turned, true};
      masked_linear_f32(&it, m, x.data(), n, nullptr, 0, b.data(), CHAINRULE_TANH, again_y.data(), d, nullptr);
      masked_linear_input_gradient_f32(&it, m, dy.data(), d, nullptr, 0, nullptr, 0, CHAINRULE_IDENTITY, again_dx.data(), n, nullptr);
      masked_linear_weight_gradient_f32(&it, m, x.data(), n, dy.data(), d, gradient.data(), again_db.data(), nullptr);
      wrong |= again_y != y || again_dx != dx || again_db != db;
      for (size_t k = 0; k < n; ++k)
        for (size_t o = 0; o < d; ++o) wrong |= gradient[at(k, o)] != (w.mask.live(k, o) ? dW[w.at(k, o)] : 0);
    }
  });
}

void sparse_linear(size_t m, size_t n, size_t d) {
  for_masks(n, d, [&](const Masked &w) {
    std::vector<uint32_t> index(m * n), count(m);
    const Floats dy = floats(m * d, 2);
    Floats y(m * d), dW(w.W.size(), 7), db(d);
    Doubles want(m * d), want_dW(w.W.size(), 7), want_db(d);
    for (size_t k = 0; k < n; ++k)
      for (size_t o = 0; o < d; ++o)
        if (w.mask.live(k, o)) want_dW[w.at(k, o)] = 0;
    for (size_t r = 0; r < m; ++r)
      for (size_t k = 0; k < n; ++k)
        if (uniform() < 0.3) {
          index[r * n + count[r]++] = uint32_t(k);
          for (size_t o = 0; o < d; ++o) {
            want[r * d + o] += w(k, o);
            if (w.mask.live(k, o)) want_dW[w.at(k, o)] += dy[r * d + o];
          }
        }
    for (size_t k = 0; k < m * d; ++k) want_db[k % d] += dy[k];
    const chainrule_ones ones = {n, index.data(), count.data()};
    const auto linear = w.linear();
    sparse_linear_f32(&linear, m, &ones, nullptr, 0, nullptr, CHAINRULE_IDENTITY, y.data(), d, nullptr);
    sparse_linear_weight_gradient_f32(&linear, m, &ones, dy.data(), d, dW.data(), db.data(), nullptr);
    compare("y", y, want), compare("dW", dW, want_dW), compare("db", db, want_db);
    add_bits(y), add_bits(dW), add_bits(db);
  });
}

void permute_columns(size_t n, size_t d) {
  for_masks(n, d, [&](const Masked &w) {
    const auto rows = shuffled(n), columns = shuffled(d);
    Floats there(w.W.size()), back(w.W.size());
    auto linear = w.linear();
    linear.rows = rows.data();
    permute_columns_f32(&linear, columns.data(), false, there.data(), nullptr);
    permute_columns_f32(&linear, columns.data(), true, back.data(), nullptr);
    for (size_t k = 0; k < n; ++k)
      for (size_t o = 0; o < d; ++o) {
        if (w.mask.live(k, o) && there[w.at(rows[k], o)] != w.W[w.at(rows[k], columns[o])]) wrong = true;
        if (back[w.at(rows[k], columns[o])] != (w.mask.live(k, o) ? w.W[w.at(rows[k], o)] : 0)) wrong = true;
      }
    add_bits(back);
  });
}

// f(net, x, z): bits under two hidden layers with direct weights, and the logits of the products one after the other.
template <class F> void with_network(size_t m, size_t n, size_t d, bool residual, F &&f) {
  std::vector<int32_t> ready(d);
  for (size_t u = 0; u < d; ++u) ready[u] = int32_t(u * n / d) - 1;
  const Masked W1(n, d, 0.5, [&](size_t k, size_t u) { return int32_t(k) <= ready[u]; }),
      W2(d, d, 0.5, [&](size_t u, size_t v) { return ready[u] <= ready[v]; }),
      V(d, n, 0.5, [&](size_t u, size_t i) { return ready[u] < int32_t(i); }), A(n, n, 0.5, [](size_t k, size_t i) { return k < i; });
  const Floats b = floats(d, 2), c = floats(n, 2), addend = floats(m * d, 2);
  const chainrule_layer_f32 hidden[] = {{W1.linear(), b.data(), addend.data(), d, CHAINRULE_SIGMOID, 0, ready.data()},
                                        {W2.linear(), b.data(), addend.data(), d, CHAINRULE_SIGMOID, residual, ready.data()}};
  chainrule_network_f32 net = {};
  net.n_features = n, net.n_layers = 2, net.hidden = hidden, net.direct = A.linear();
  net.output.linear = V.linear(), net.output.b = c.data(), net.output.activation = CHAINRULE_IDENTITY;

  Bytes x(m * n);
  Floats ones(m * n), h1(m * d), h2(m * d), direct(m * n), z(m * n);
  for (size_t k = 0; k < m * n; ++k) ones[k] = x[k] = uniform() < 0.5;
  auto layer = [&](const Masked &w, const Floats &from, const Floats *added, const Floats *bias, int32_t activation, Floats &to) {
    const auto linear = w.linear();
    masked_linear_f32(&linear, m, from.data(), linear.n_in, added ? added->data() : nullptr, linear.n_out, bias ? bias->data() : nullptr,
                      activation, to.data(), linear.n_out, nullptr);
  };
  layer(W1, ones, &addend, &b, CHAINRULE_SIGMOID, h1), layer(W2, h1, &addend, &b, CHAINRULE_SIGMOID, h2);
  for (size_t k = 0; residual && k < m * d; ++k) h2[k] = h1[k] + h2[k];
  layer(A, ones, nullptr, nullptr, CHAINRULE_IDENTITY, direct), layer(V, h2, &direct, &c, CHAINRULE_IDENTITY, z);
  f(net, x, z);
}

// Uniforms on either side of each decision of the scorer force any row.
void masked_sample(size_t m, size_t n, size_t d) {
  with_network(m, n, d, false, [&](const chainrule_network_f32 &net, const Bytes &want, const Floats &z) {
    Bytes drawn(m * n);
    Doubles low(m * n, 0), high(m * n, 1), middle(m * n);  // by halves: the last uniform of a 0, the first of a 1
    for (int half = 0; half < 64; ++half) {
      for (size_t k = 0; k < m * n; ++k) middle[k] = (low[k] + high[k]) / 2;
      bernoulli_sample_f32(m, n, z.data(), n, middle.data(), n, drawn.data(), n, nullptr);
      for (size_t k = 0; k < m * n; ++k)
        if (low[k] < middle[k] && middle[k] < high[k]) (drawn[k] ? high : low)[k] = middle[k];
    }
    for (size_t k = 0; k < m * n; ++k) middle[k] = want[k] ? high[k] : low[k];
    masked_sample_f32(&net, m, middle.data(), n, nullptr, drawn.data(), n, nullptr);
    if (drawn != want) printf("the sampler leaves the scorer's path\n"), wrong = true;
    add_bits(drawn), add_bits(z);
  });
}

// The whole network in one call gives what its logits give.
void masked_score(size_t m, size_t n, size_t d) {
  with_network(m, n, d, true, [&](const chainrule_network_f32 &net, const Bytes &x, const Floats &z) {
    Doubles log_prob(m), terms(m * n), want(m), want_terms(m * n);
    bernoulli_log_prob_f32(m, n, z.data(), n, x.data(), n, want.data(), want_terms.data(), nullptr);
    masked_score_f32(&net, m, x.data(), n, log_prob.data(), terms.data(), nullptr);
    if (log_prob != want || terms != want_terms) printf("a score is not that of the logits\n"), wrong = true;
    add_bits(log_prob), add_bits(terms);
  });
}

void encode(size_t m, size_t n) {
  std::vector<uint32_t> first = {0}, index(m * n), count(m);
  const auto order = shuffled(n);
  Bytes K(n), reference(n), x(m * n), y(m * n);
  for (size_t i = 0; i < n; ++i) K[i] = uint8_t(1 + i % 7), reference[i] = uint8_t(uniform() * K[i]);
  for (size_t i = 0; i < n; ++i) first.push_back(first.back() + K[order[i]] - 1);
  for (size_t k = 0; k < m * n; ++k) x[k] = uint8_t(uniform() * K[k % n]);
  chainrule::encode(m, n, x.data(), n, order.data(), reference.data(), first.data(), y.data(), n, index.data(), n, count.data(), nullptr);
  for (size_t r = 0; r < m; ++r) {
    uint32_t ones = 0;
    for (size_t i = 0; i < n; ++i) {
      const uint8_t v = x[r * n + order[i]], swap = reference[order[i]], code = v == swap ? 0 : v == 0 ? swap : v;
      if (y[r * n + i] != code) wrong = true;
      if (code && index[r * n + ones++] != first[i] + code - 1) wrong = true;
    }
    if (count[r] != ones) wrong = true;
  }
}

}  // namespace

void check_masked() {
  if (masked_linear_step_f32) masked_step(37, 290, 83), masked_step(269, 70, 40);
  else if (masked_linear_f32 && !masked_sample_f32 && !masked_score_f32) masked_linear(37, 290, 70), masked_linear(269, 70, 300), kept(269, 290, 83);
  if (sparse_linear_step_f32) sparse_step(37, 290, 140), sparse_step(269, 70, 83);
  else if (sparse_linear_f32) sparse_linear(5, 290, 140), sparse_linear(37, 290, 140), sparse_linear(269, 70, 83);
  if (permute_columns_f32) permute_columns(70, 83);
  if (masked_sample_f32) masked_sample(37, 40, 70), masked_sample(29, 300, 300);
  if (masked_score_f32) masked_score(37, 40, 70), masked_score(5, 300, 300), masked_score(401, 70, 35);
  if (chainrule::encode) encode(29, 83);
}
