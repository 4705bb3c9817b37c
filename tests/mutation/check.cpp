// Runs float kernels of one instruction set (NADE's with the sigmoid) on fixed problems, compares each with the equations in double, and
// prints a digest of every bit they wrote. tests/test_mutation.py links it with broken kernels.
//
// Exit status: 0 the numbers are right, 3 they are wrong. Kernels that are not linked in are left out.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <utility>
#include <vector>

#include "chainrule/chainrule.h"

namespace chainrule::CHAINRULE_ISA {
__attribute__((weak)) chainrule_nade_score_f32_fn nade_score_f32;
__attribute__((weak)) chainrule_nade_gradient_f32_fn nade_gradient_f32;
__attribute__((weak)) chainrule_nade_sample_f32_fn nade_sample_f32;
__attribute__((weak)) chainrule_nade_categorical_score_f32_fn nade_categorical_score_f32;
__attribute__((weak)) chainrule_nade_categorical_gradient_f32_fn nade_categorical_gradient_f32;
__attribute__((weak)) chainrule_nade_categorical_sample_f32_fn nade_categorical_sample_f32;
__attribute__((weak)) chainrule_bernoulli_log_prob_f32_fn bernoulli_log_prob_f32;
__attribute__((weak)) chainrule_bernoulli_gradient_f32_fn bernoulli_gradient_f32;
__attribute__((weak)) chainrule_categorical_log_prob_f32_fn categorical_log_prob_f32;
__attribute__((weak)) chainrule_categorical_gradient_f32_fn categorical_gradient_f32;
__attribute__((weak)) chainrule_categorical_sample_f32_fn categorical_sample_f32;
__attribute__((weak)) chainrule_bernoulli_sample_f32_fn bernoulli_sample_f32;
__attribute__((weak)) chainrule_masked_linear_f32_fn masked_linear_f32;
__attribute__((weak)) chainrule_masked_linear_input_gradient_f32_fn masked_linear_input_gradient_f32;
__attribute__((weak)) chainrule_masked_linear_weight_gradient_f32_fn masked_linear_weight_gradient_f32;
__attribute__((weak)) chainrule_sparse_linear_f32_fn sparse_linear_f32;
__attribute__((weak)) chainrule_sparse_linear_weight_gradient_f32_fn sparse_linear_weight_gradient_f32;
__attribute__((weak)) chainrule_permute_columns_f32_fn permute_columns_f32;
__attribute__((weak)) chainrule_masked_sample_f32_fn masked_sample_f32;
__attribute__((weak)) chainrule_masked_score_f32_fn masked_score_f32;
__attribute__((weak)) chainrule_logistic_mixture_log_prob_f32_fn logistic_mixture_log_prob_f32;
__attribute__((weak)) chainrule_logistic_mixture_gradient_f32_fn logistic_mixture_gradient_f32;
__attribute__((weak)) chainrule_logistic_mixture_sample_f32_fn logistic_mixture_sample_f32;
__attribute__((weak)) chainrule_optimizer_step_f32_fn optimizer_step_f32;
__attribute__((weak)) chainrule_causal_conv_f32_fn causal_conv_f32;
__attribute__((weak)) chainrule_causal_conv_input_gradient_f32_fn causal_conv_input_gradient_f32;
__attribute__((weak)) chainrule_causal_conv_weight_gradient_f32_fn causal_conv_weight_gradient_f32;
__attribute__((weak)) chainrule_gated_block_f32_fn gated_block_f32;
__attribute__((weak)) chainrule_gated_block_gradient_f32_fn gated_block_gradient_f32;
__attribute__((weak)) chainrule_embedding_f32_fn embedding_f32;
__attribute__((weak)) chainrule_embedding_gradient_f32_fn embedding_gradient_f32;
__attribute__((weak)) chainrule_wavenet_sample_f32_fn wavenet_sample_f32;
__attribute__((weak)) chainrule_layer_norm_f32_fn layer_norm_f32;
__attribute__((weak)) chainrule_layer_norm_gradient_f32_fn layer_norm_gradient_f32;
__attribute__((weak)) chainrule_gelu_f32_fn gelu_f32;
__attribute__((weak)) chainrule_gelu_gradient_f32_fn gelu_gradient_f32;
__attribute__((weak)) chainrule_dropout_f32_fn dropout_f32;
__attribute__((weak)) chainrule_softmax_log_prob_f32_fn softmax_log_prob_f32;
__attribute__((weak)) chainrule_softmax_gradient_f32_fn softmax_gradient_f32;
__attribute__((weak)) chainrule_softmax_sample_f32_fn softmax_sample_f32;
__attribute__((weak)) chainrule_attention_f32_fn attention_f32;
__attribute__((weak)) chainrule_attention_gradient_f32_fn attention_gradient_f32;
__attribute__((weak)) chainrule_attention_step_f32_fn attention_step_f32;
__attribute__((weak)) chainrule_packed_linear_f32_fn packed_linear_f32;
__attribute__((weak)) chainrule_transformer_step_f32_fn transformer_step_f32;
}  // namespace chainrule::CHAINRULE_ISA
namespace chainrule {
__attribute__((weak)) chainrule_encode_fn encode;
}
using namespace chainrule::CHAINRULE_ISA;

namespace {

typedef std::vector<float> Floats;
typedef std::vector<double> Doubles;
typedef std::vector<uint8_t> Bytes;

uint64_t state = 1;
double uniform() {  // in (0, 1); SplitMix64
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return (double((z ^ (z >> 31)) >> 12) + 0.5) * 0x1p-52;
}

uint64_t digest = 0xCBF29CE484222325u;  // FNV-1a
template <class T> void add_bits(const std::vector<T> &values) {
  const auto *bytes = reinterpret_cast<const unsigned char *>(values.data());
  for (size_t k = 0; k < values.size() * sizeof(T); ++k) digest = (digest ^ bytes[k]) * 0x100000001B3u;
}

bool wrong = false;
template <class T> void compare(const char *what, const std::vector<T> &got, const Doubles &want) {
  double largest = 1, error = 0;
  for (size_t k = 0; k < want.size(); ++k) {
    largest = fmax(largest, fabs(want[k]));
    double e = fabs(double(got[k]) - want[k]);
    if (!(e <= error)) error = e;  // a NaN stays
  }
  if (error <= 2e-5 * largest) return;
  printf("%s: error %g, largest value %g\n", what, error, largest);
  wrong = true;
}

double sigmoid(double t) { return 1 / (1 + exp(-t)); }

struct Problem {
  size_t m, n, d, ld;
  Floats W, V, b, c, weight;
  std::vector<uint32_t> order;
  Bytes flip, x;
  Doubles u;

  Problem(size_t m_, size_t n_, size_t d_)
      : m(m_), n(n_), d(d_), ld(d_ + 3), W(n * ld), V(n * ld), b(n), c(d), weight(m), order(n),
        flip(n), x(m * n), u(m * n) {
    auto fill = [](Floats &to, double scale) { for (float &v : to) v = float((uniform() - 0.5) * scale); };
    fill(W, 1), fill(V, 1), fill(b, 1), fill(c, 2);
    for (float &v : weight) v = float(uniform() / double(m));
    for (size_t i = 0; i < n; ++i) {
      size_t j = size_t(uniform() * double(i + 1));
      order[i] = order[j], order[j] = uint32_t(i);
      flip[i] = uniform() < 0.5;
    }
    for (size_t k = 0; k < m * n; ++k) x[k] = (uniform() < 0.3) ^ flip[k % n], u[k] = uniform();
  }
  chainrule_nade_f32 model() const {
    return {n, d, W.data(), V.data(), b.data(), c.data(), ld, ld, CHAINRULE_SIGMOID, order.data(), flip.data()};
  }
  int bit(const Bytes &rows, size_t r, size_t i) const { return rows[r * n + order[i]] ^ flip[order[i]]; }

  // The equations: h [n][d] and the encoded logits z [n] of row r.
  void forward(const Bytes &rows, size_t r, Doubles &h, Doubles &z) const {
    Doubles a(c.begin(), c.end());
    for (size_t i = 0; i < n; ++i) {
      z[i] = b[i];
      for (size_t j = 0; j < d; ++j) {
        h[i * d + j] = sigmoid(a[j]);
        z[i] += V[i * ld + j] * h[i * d + j];
        if (bit(rows, r, i)) a[j] += W[i * ld + j];
      }
    }
  }
};

void score(const Problem &p) {
  Doubles log_prob(p.m), terms(p.m * p.n), want(p.m), want_terms(p.m * p.n), want_logits(p.m * p.n), h(p.n * p.d), z(p.n);
  Floats logits(p.m * p.n);
  auto model = p.model();
  nade_score_f32(&model, p.m, p.x.data(), p.n, log_prob.data(), terms.data(), logits.data(), nullptr);
  for (size_t r = 0; r < p.m; ++r) {
    p.forward(p.x, r, h, z);
    for (size_t i = 0; i < p.n; ++i) {
      const size_t k = r * p.n + p.order[i];
      want_logits[k] = p.flip[p.order[i]] ? -z[i] : z[i];
      want_terms[k] = -log1p(exp(p.x[k] ? -want_logits[k] : want_logits[k]));
      want[r] += want_terms[k];
    }
  }
  compare("log_prob", log_prob, want), compare("terms", terms, want_terms), compare("logits", logits, want_logits);
  add_bits(log_prob), add_bits(terms), add_bits(logits);
}

void gradient(const Problem &p) {
  Doubles log_prob(p.m), h(p.n * p.d), z(p.n), da(p.d), dW(p.n * p.ld), dV(p.n * p.ld), db(p.n), dc(p.d);
  Floats gW(p.n * p.ld), gV(p.n * p.ld), gb(p.n), gc(p.d);
  auto model = p.model();
  const chainrule_nade_gradient_f32 out = {gW.data(), gV.data(), gb.data(), gc.data(), p.ld, p.ld};
  nade_gradient_f32(&model, p.m, p.x.data(), p.n, p.weight.data(), log_prob.data(), &out, nullptr);
  for (size_t r = 0; r < p.m; ++r) {
    p.forward(p.x, r, h, z);
    da.assign(p.d, 0);
    for (size_t i = p.n; i-- > 0;) {
      const int y = p.bit(p.x, r, i);
      const double e = p.weight[r] * (sigmoid(z[i]) - y);
      db[i] += e;
      for (size_t j = 0; j < p.d; ++j) {
        const double hj = h[i * p.d + j];
        dW[i * p.ld + j] += y * da[j];
        dV[i * p.ld + j] += e * hj;
        da[j] += e * p.V[i * p.ld + j] * hj * (1 - hj);
      }
    }
    for (size_t j = 0; j < p.d; ++j) dc[j] += da[j];
  }
  compare("dW", gW, dW), compare("dV", gV, dV), compare("db", gb, db), compare("dc", gc, dc);
  add_bits(log_prob), add_bits(gW), add_bits(gV), add_bits(gb), add_bits(gc);
}

void sample(const Problem &p) {
  Bytes x(p.m * p.n);
  Doubles h(p.n * p.d), z(p.n);
  auto model = p.model();
  nade_sample_f32(&model, p.m, p.u.data(), p.n, nullptr, x.data(), p.n, nullptr);
  for (size_t r = 0; r < p.m; ++r) {
    p.forward(x, r, h, z);  // given what was drawn before
    for (size_t i = 0; i < p.n; ++i) {
      const size_t k = p.order[i];
      const double p_zero = sigmoid(p.flip[k] ? z[i] : -z[i]), u = p.u[r * p.n + i];
      if (fabs(u - p_zero) > 1e-4 && x[r * p.n + k] != (u > p_zero)) wrong = true;
    }
  }
  add_bits(x);
}

// NADE over columns of 1 to 19 values, in a random order.
struct Codes {
  size_t m, n, d, ld;
  std::vector<uint32_t> order, first;
  std::vector<size_t> K;
  Floats W, V, b, c, weight;
  Bytes reference, x;
  Doubles u;

  Codes(size_t m_, size_t n_, size_t d_)
      : m(m_), n(n_), d(d_), ld(d_ + 3), order(n), first(1), K(n), c(d), weight(m), reference(n), x(m * n), u(m * n) {
    for (size_t i = 0; i < n; ++i) {
      size_t j = size_t(uniform() * double(i + 1));
      order[i] = order[j], order[j] = uint32_t(i);
      K[i] = 1 + i % 19, reference[i] = uint8_t(uniform() * double(K[i]));
    }
    for (size_t i = 0; i < n; ++i) first.push_back(first.back() + uint32_t(K[order[i]] - 1));
    W.resize(first[n] * ld), V.resize(first[n] * ld), b.resize(first[n]);
    auto fill = [](Floats &to, double scale) { for (float &v : to) v = float((uniform() - 0.5) * scale); };
    fill(W, 1), fill(V, 1), fill(b, 1), fill(c, 2);
    for (float &v : weight) v = float(uniform() / double(m));
    for (size_t k = 0; k < m * n; ++k) x[k] = uint8_t(uniform() * double(K[k % n])), u[k] = uniform();
  }
  chainrule_nade_categorical_f32 model() const {
    return {n, d, W.data(), V.data(), b.data(), c.data(), ld, ld, CHAINRULE_SIGMOID, order.data(), first.data(), reference.data()};
  }
  size_t code_of(size_t column, size_t v) const { return v == reference[column] ? 0 : v == 0 ? reference[column] : v; }

  // Row r of `rows`: h [n][d], p [n][19] by code, and its codes, by step.
  void forward(const Bytes &rows, size_t r, Doubles &h, Doubles &p, std::vector<size_t> &y) const {
    Doubles a(c.begin(), c.end());
    for (size_t i = 0; i < n; ++i) {
      y[i] = code_of(order[i], rows[r * n + order[i]]);
      double s = p[i * 19] = 1;
      for (size_t j = 0; j < d; ++j) h[i * d + j] = sigmoid(a[j]);
      for (size_t k = first[i]; k < first[i + 1]; ++k) {
        double z = b[k];
        for (size_t j = 0; j < d; ++j) z += V[k * ld + j] * h[i * d + j];
        s += p[i * 19 + k - first[i] + 1] = exp(z);
      }
      for (size_t v = 0; v < 19; ++v) p[i * 19 + v] /= s;
      for (size_t j = 0; y[i] && j < d; ++j) a[j] += W[(first[i] + y[i] - 1) * ld + j];
    }
  }
};

void score(const Codes &q) {
  Doubles log_prob(q.m), terms(q.m * q.n), want(q.m), want_terms(q.m * q.n), h(q.n * q.d), p(q.n * 19);
  std::vector<size_t> y(q.n);
  auto model = q.model();
  nade_categorical_score_f32(&model, q.m, q.x.data(), q.n, log_prob.data(), terms.data(), nullptr, nullptr);
  for (size_t r = 0; r < q.m; ++r) {
    q.forward(q.x, r, h, p, y);
    for (size_t i = 0; i < q.n; ++i) want[r] += want_terms[r * q.n + q.order[i]] = log(p[i * 19 + y[i]]);
  }
  compare("log_prob", log_prob, want), compare("terms", terms, want_terms);
  add_bits(log_prob), add_bits(terms);
}

void gradient(const Codes &q) {
  const size_t all = q.first[q.n];
  Doubles log_prob(q.m), h(q.n * q.d), p(q.n * 19), dW(all * q.ld), dV(all * q.ld), db(all), dc(q.d), da(q.d), t(q.d);
  std::vector<size_t> y(q.n);
  Floats gW(all * q.ld), gV(all * q.ld), gb(all), gc(q.d);
  auto model = q.model();
  const chainrule_nade_gradient_f32 out = {gW.data(), gV.data(), gb.data(), gc.data(), q.ld, q.ld};
  nade_categorical_gradient_f32(&model, q.m, q.x.data(), q.n, q.weight.data(), log_prob.data(), &out, nullptr);
  for (size_t r = 0; r < q.m; ++r) {
    q.forward(q.x, r, h, p, y);
    da.assign(q.d, 0);
    for (size_t i = q.n; i-- > 0;) {
      for (size_t j = 0; y[i] && j < q.d; ++j) dW[(q.first[i] + y[i] - 1) * q.ld + j] += da[j];
      t.assign(q.d, 0);
      for (size_t k = q.first[i]; k < q.first[i + 1]; ++k) {
        const size_t v = k - q.first[i] + 1;
        const double e = q.weight[r] * (p[i * 19 + v] - (v == y[i]));
        db[k] += e;
        for (size_t j = 0; j < q.d; ++j) dV[k * q.ld + j] += e * h[i * q.d + j], t[j] += e * q.V[k * q.ld + j];
      }
      for (size_t j = 0; j < q.d; ++j) da[j] += t[j] * h[i * q.d + j] * (1 - h[i * q.d + j]);
    }
    for (size_t j = 0; j < q.d; ++j) dc[j] += da[j];
  }
  compare("dW", gW, dW), compare("dV", gV, dV), compare("db", gb, db), compare("dc", gc, dc);
  add_bits(log_prob), add_bits(gW), add_bits(gV), add_bits(gb), add_bits(gc);
}

void sample(const Codes &q) {
  Bytes x(q.m * q.n);
  Doubles h(q.n * q.d), p(q.n * 19);
  std::vector<size_t> y(q.n);
  auto model = q.model();
  nade_categorical_sample_f32(&model, q.m, q.u.data(), q.n, nullptr, x.data(), q.n, nullptr);
  for (size_t r = 0; r < q.m; ++r) {
    q.forward(x, r, h, p, y);  // given what was drawn before
    for (size_t i = 0; i < q.n; ++i) {
      const size_t column = q.order[i], drawn = x[r * q.n + column];
      double below = 0;
      for (size_t v = 0; v < drawn; ++v) below += p[i * 19 + q.code_of(column, v)];
      const double at = q.u[r * q.n + i];
      if (drawn >= q.K[column] || at < below - 1e-4 || at > below + p[i * 19 + y[i]] + 1e-4) wrong = true;
    }
  }
  add_bits(x);
}

Floats floats(size_t n, double scale) {
  Floats v(n);
  for (float &value : v) value = float((uniform() - 0.5) * scale);
  return v;
}

void bernoulli(size_t m, size_t n) {
  const Floats z = floats(m * n, 8), weight = floats(m, 2);
  Bytes x(m * n);
  for (uint8_t &bit : x) bit = uniform() < 0.5;
  Doubles log_prob(m), again(m), terms(m * n), want(m), want_terms(m * n), want_d(m * n);
  Floats d(m * n);
  bernoulli_log_prob_f32(m, n, z.data(), n, x.data(), n, log_prob.data(), terms.data(), nullptr);
  bernoulli_gradient_f32(m, n, z.data(), n, x.data(), n, weight.data(), again.data(), d.data(), n, nullptr);
  for (size_t k = 0; k < m * n; ++k) {
    want_terms[k] = -log1p(exp(x[k] ? -z[k] : z[k]));
    want[k / n] += want_terms[k];
    want_d[k] = weight[k / n] * (sigmoid(z[k]) - x[k]);
  }
  compare("log_prob", log_prob, want), compare("log_prob of the gradient", again, want);
  compare("terms", terms, want_terms), compare("dlogits", d, want_d);
  add_bits(log_prob), add_bits(again), add_bits(terms), add_bits(d);
}

// The last logit is 300: too large for an exponential.
void categorical(size_t m, size_t n, size_t largest_K) {
  std::vector<uint32_t> first = {0};
  Bytes reference(n), x(m * n), drawn(m * n);
  for (size_t i = 0; i < n; ++i) {
    const size_t K = i + 1 == n ? 3 : 1 + i % largest_K;
    first.push_back(first.back() + uint32_t(K - 1));
    reference[i] = uint8_t(uniform() * double(K));
    for (size_t r = 0; r < m; ++r) x[r * n + i] = uint8_t(uniform() * double(K));
  }
  const size_t ld = first.back();
  Floats z = floats(m * ld, 8), d(m * ld);
  const Floats weight = floats(m, 2);
  Doubles u(m * n), log_prob(m), again(m), terms(m * n), want(m), want_terms(m * n), want_d(m * ld);
  for (double &v : u) v = uniform();
  for (size_t r = 0; r < m; ++r) z[r * ld + ld - 1] = 300;
  z[0] = 0, u[1] = 0.5;  // two values as likely as each other: 1/2 gives the upper one
  categorical_log_prob_f32(m, n, first.data(), reference.data(), z.data(), ld, x.data(), n, log_prob.data(), terms.data(), nullptr);
  categorical_gradient_f32(m, n, first.data(), reference.data(), z.data(), ld, x.data(), n, weight.data(), again.data(), d.data(),
                           ld, nullptr);
  categorical_sample_f32(m, n, first.data(), reference.data(), z.data(), ld, u.data(), n, drawn.data(), n, nullptr);
  for (size_t r = 0; r < m; ++r)
    for (size_t i = 0; i < n; ++i) {
      const size_t K = first[i + 1] - first[i] + 1, at = r * ld + first[i], ref = reference[i];
      auto code = [&](size_t v) { return v == ref ? 0 : v == 0 ? ref : v; };
      auto logit = [&](size_t v) { return code(v) ? double(z[at + code(v) - 1]) : 0; };
      double m_ = 0, s = 0, upto = 0;
      for (size_t v = 0; v < K; ++v) m_ = fmax(m_, logit(v));
      for (size_t v = 0; v < K; ++v) s += exp(logit(v) - m_);
      want_terms[r * n + i] = logit(x[r * n + i]) - m_ - log(s);
      want[r] += want_terms[r * n + i];
      for (size_t v = 0; v < K; ++v) {
        const double p = exp(logit(v) - m_) / s, at_u = u[r * n + i];
        if (code(v)) want_d[at + code(v) - 1] = weight[r] * (p - (v == x[r * n + i]));
        if (drawn[r * n + i] == v && (at_u < upto - 1e-9 || at_u > upto + p + 1e-9)) wrong = true;
        upto += p;
      }
      if (drawn[r * n + i] >= K) wrong = true;
    }
  if (drawn[1] != 1) wrong = true;
  compare("log_prob", log_prob, want), compare("log_prob of the gradient", again, want);
  compare("terms", terms, want_terms), compare("dlogits", d, want_d);
  add_bits(log_prob), add_bits(again), add_bits(terms), add_bits(d), add_bits(drawn);
}

// Scales from a bin's width up, and some of no width or of any. Differences of sigmoids in double serve as masses.
void logistic_mixture(size_t m, size_t n, size_t K, int32_t N) {
  const size_t ld = 3 * K * n;
  const double floor = -5, M = (N - 1) / 2.0;
  Floats p = floats(m * ld, 4), d(m * ld);
  const Floats weight = floats(m, 0.05);
  std::vector<int32_t> x(m * n), drawn(m * n);
  Doubles u(m * n), log_prob(m), again(m), terms(m * n), want(m), want_terms(m * n), want_d(m * ld);
  for (size_t k = 0; k < m * n; ++k) {
    x[k] = k % 7 == 0 ? 0 : k % 7 == 1 ? N - 1 : int32_t(uniform() * N), u[k] = uniform();
    for (size_t c = 0; c < K; ++c) p[k * 3 * K + K + c] *= 0.5f, p[k * 3 * K + 2 * K + c] -= c ? 2 : 4.5f;
  }
  const chainrule_logistic_mixture mixture = {n, K, N, floor};
  logistic_mixture_log_prob_f32(&mixture, m, p.data(), ld, x.data(), n, log_prob.data(), terms.data(), nullptr);
  logistic_mixture_gradient_f32(&mixture, m, p.data(), ld, x.data(), n, weight.data(), again.data(), d.data(), ld, nullptr);
  logistic_mixture_sample_f32(&mixture, m, p.data(), ld, u.data(), n, drawn.data(), n, nullptr);
  for (size_t k = 0; k < m * n; ++k) {
    const float *logit = &p[k * 3 * K], *mean = logit + K, *scale = mean + K;
    auto b = [&](size_t c, int32_t v) { return (v - M + 0.5 - M * mean[c]) / (M * exp(fmax(scale[c], floor))); };
    auto upto = [&](size_t c, int32_t v) { return v < 0 ? 0 : v >= N - 1 ? 1 : sigmoid(b(c, v)); };
    double prior = 0, sum = 0, F[2] = {0, 0};
    for (size_t c = 0; c < K; ++c) prior += exp(double(logit[c]));
    auto mass = [&](size_t c) {  // from the tail that is nearer
      const double lower = upto(c, x[k] - 1), upper = upto(c, x[k]);
      if (lower < 0.5) return upper - lower;
      return sigmoid(-b(c, x[k] - 1)) - (x[k] == N - 1 ? 0 : sigmoid(-b(c, x[k])));
    };
    for (size_t c = 0; c < K; ++c) {
      const double share = exp(double(logit[c])) / prior;
      sum += share * mass(c);
      F[0] += share * upto(c, drawn[k] - 1), F[1] += share * upto(c, drawn[k]);
    }
    want_terms[k] = log(sum), want[k / n] += log(sum);
    if (u[k] < F[0] - 1e-9 || u[k] > F[1] + 1e-9) printf("a draw is not where its uniform is\n"), wrong = true;
    for (size_t c = 0; c < K; ++c) {
      const double share = exp(double(logit[c])) / prior, s = exp(fmax(scale[c], floor));
      auto density = [&](int32_t v) { return v < 0 || v >= N - 1 ? 0 : sigmoid(b(c, v)) * sigmoid(-b(c, v)); };
      auto moved = [&](int32_t v) { return density(v) == 0 ? 0 : density(v) * b(c, v); };
      const double w = -weight[k / n];
      want_d[k * 3 * K + c] = w * share * (mass(c) / sum - 1);
      want_d[k * 3 * K + K + c] = -w * share / sum * (density(x[k]) - density(x[k] - 1)) / s;
      want_d[k * 3 * K + 2 * K + c] = scale[c] < floor ? 0 : -w * share / sum * (moved(x[k]) - moved(x[k] - 1));
    }
  }
  compare("log_prob", log_prob, want), compare("log_prob of the gradient", again, want);
  compare("terms", terms, want_terms), compare("dparameters", d, want_d);
  add_bits(log_prob), add_bits(again), add_bits(terms), add_bits(d), add_bits(drawn);
}

// ---- Masked networks

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

void optimizer(size_t n) {
  const std::vector<uint64_t> live = {3, 40, 40, 41, 60, n - 50, n - 20, n - 5};
  const Floats before = floats(n, 2), g = floats(n, 2);
  Floats p = before, s(n), full = before, t(n);
  const chainrule_optimizer o = {CHAINRULE_MOMENTUM, 0.1, 0.9, 0, 1, 1, 0, 0.01, 0.01, 1, 0};
  optimizer_step_f32(&o, n, full.data(), g.data(), t.data(), nullptr, nullptr, 0, nullptr, nullptr);
  optimizer_step_f32(&o, n, p.data(), g.data(), s.data(), nullptr, nullptr, live.size() / 2, live.data(), nullptr);
  for (size_t k = 0; k < n; ++k) {
    bool moves = false;
    for (size_t i = 0; i < live.size(); i += 2) moves |= live[i] <= k && k < live[i + 1];
    if (p[k] != (moves ? full[k] : before[k]) || s[k] != (moves ? t[k] : 0)) wrong = true;
  }
  add_bits(p), add_bits(s);
}

// ---- Activations in time

// A matrix in panels, zeros beyond its columns; in panels of gates, column j < n is a filter and n + j its gate.
struct Panels {
  size_t in, out, gates;
  Floats W;
  Panels(size_t n_in, size_t n_out, double scale, size_t channels = 0)
      : in(n_in), out(n_out), gates(channels), W((channels ? (channels + 15) / 16 : (n_out + 31) / 32) * n_in * 32) {
    for (size_t k = 0; k < in; ++k)
      for (size_t o = 0; o < out; ++o) W[at(k, o)] = float((uniform() - 0.5) * scale);
  }
  size_t place(size_t o) const { return gates ? o % gates / 16 * 32 + o % gates % 16 + o / gates * 16 : o; }
  size_t at(size_t k, size_t o) const { return (place(o) / 32 * in + k) * 32 + place(o) % 32; }
  double operator()(size_t k, size_t o) const { return W[at(k, o)]; }
};

void conv(size_t width, size_t d, size_t in, size_t out, size_t steps, size_t rows) {
  const size_t history = (width - 1) * d, all = history + steps;
  const Panels W(width * in, out, 0.5);
  const Floats x = floats(rows * all * in, 2), dy = floats(rows * steps * out, 2), b = floats(out, 2), addend = floats(rows * steps * in, 2);
  Floats y(dy.size()), dx(x.size()), dW(W.W.size()), db(out);
  Doubles want(y.size()), want_dx(x.size()), want_dW(dW.size()), want_db(out);
  const chainrule_conv_f32 c = {{width * in, out, W.W.data(), 32, width * in * 32, nullptr, nullptr}, width, d};
  const chainrule_sequences_f32 from = {const_cast<float *>(x.data()), all * in, in}, to = {y.data(), steps * out, out},
                                back = {const_cast<float *>(dy.data()), steps * out, out}, to_x = {dx.data(), all * in, in},
                                added = {const_cast<float *>(addend.data()), steps * in, in};
  causal_conv_f32(&c, rows, steps, &from, b.data(), CHAINRULE_IDENTITY, &to, nullptr);
  causal_conv_input_gradient_f32(&c, rows, steps, &back, &added, &to_x, nullptr);
  causal_conv_weight_gradient_f32(&c, rows, steps, &from, &back, dW.data(), db.data(), nullptr);
  for (size_t r = 0; r < rows; ++r)
    for (size_t t = 0; t < steps; ++t) {
      for (size_t i = 0; i < in; ++i) want_dx[(r * all + history + t) * in + i] += addend[(r * steps + t) * in + i];
      for (size_t o = 0; o < out; ++o) {
        const size_t at = (r * steps + t) * out + o;
        want[at] = b[o], want_db[o] += dy[at];
        for (size_t k = 0; k < width * in; ++k) {
          const size_t of_x = (r * all + t + k / in * d) * in + k % in;
          want[at] += x[of_x] * W(k, o), want_dx[of_x] += dy[at] * W(k, o), want_dW[W.at(k, o)] += double(x[of_x]) * dy[at];
        }
      }
    }
  compare("y", y, want), compare("dx", dx, want_dx), compare("dW", dW, want_dW), compare("db", db, want_db);
  add_bits(y), add_bits(dx), add_bits(dW), add_bits(db);
}

// A gated block: its parameters, and its equations for one step of x (with what is before it, `ld` apart).
struct Gates {
  size_t n, skips, width, d;
  Panels W, b, R, S;
  Floats residual_bias, skip_bias;
  Gates(size_t channels, size_t n_skip, size_t taps, size_t dilation)
      : n(channels), skips(n_skip), width(taps), d(dilation), W(taps * n, 2 * n, 1, n), b(1, 2 * n, 1, n), R(n, n, 1), S(n, n_skip, 1),
        residual_bias(floats(n, 1)), skip_bias(floats(n_skip, 1)) {}
  chainrule_gated_block_f32 view() const {
    return {n, skips, width, d, W.W.data(), b.W.data(), R.W.data(), residual_bias.data(), S.W.data(), skip_bias.data()};
  }
  size_t gates() const { return b.W.size(); }
  // f and g [2 n]; u is their product.
  template <class F> Doubles halves(F &&x, const float *context) const {
    Doubles fg(2 * n);
    for (size_t o = 0; o < 2 * n; ++o) {
      double z = b(0, o) + (context ? context[b.at(0, o)] : 0);
      for (size_t k = 0; k < width * n; ++k) z += x(k / n, k % n) * W(k, o);
      fg[o] = o < n ? tanh(z) : sigmoid(z);
    }
    return fg;
  }
};

void gated_block(size_t n, size_t skips, size_t width, size_t d, size_t steps, size_t skip_steps, size_t rows, size_t hop) {
  const Gates q(n, skips, width, d);
  const auto view = q.view();
  const size_t history = (width - 1) * d, all = history + steps, gates = q.gates(), low = steps - skip_steps, phase = 2, frames = (steps - 1 + phase) / hop + 1;
  const Floats x = floats(rows * all * n, 2), a = floats(rows * frames * gates, 1), before = floats(rows * skip_steps * skips, 2),
               dy = floats(rows * steps * n, 2), dskip = floats(rows * skip_steps * skips, 2);
  Floats y(rows * steps * n), skip = before, saved(rows * steps * gates), dx(x.size()), dW(q.W.W.size()), db(gates), dR(q.R.W.size()), dr(n), dS(q.S.W.size()),
      ds(skips), da(a.size());
  Doubles want_y(y.size()), want_skip(skip.begin(), skip.end()), want_dx(x.size()), want_dW(dW.size()), want_db(gates), want_dR(dR.size()), want_dr(n),
      want_dS(dS.size()), want_ds(skips), want_da(da.size());
  Floats padded = a;  // zero where a panel has no gate
  for (size_t k = 0; k < a.size(); ++k)
    if (k % gates / 32 * 16 + k % 16 >= n) padded[k] = 0;
  std::vector<uint32_t> start(rows);
  for (size_t r = 0; r < rows; ++r) start[r] = uint32_t(r * 5);
  const chainrule_sequences_f32 from = {const_cast<float *>(x.data()), all * n, n}, to = {y.data(), steps * n, n}, to_skip = {skip.data(), skip_steps * skips, skips},
                                to_gates = {saved.data(), steps * gates, gates}, back = {const_cast<float *>(dy.data()), steps * n, n},
                                back_skip = {const_cast<float *>(dskip.data()), skip_steps * skips, skips}, to_x = {dx.data(), all * n, n};
  const chainrule_frames_f32 context = {padded.data(), frames * gates, gates, hop, phase}, to_context = {da.data(), frames * gates, gates, hop, phase};
  const chainrule_gated_block_gradient_f32 gradient = {dW.data(), db.data(), dR.data(), dr.data(), dS.data(), ds.data()};
  gated_block_f32(&view, rows, steps, skip_steps, start.data(), &from, &context, &to, &to_skip, 0, &to_gates, nullptr);
  add_bits(y), add_bits(skip), add_bits(saved);
  gated_block_gradient_f32(&view, rows, steps, skip_steps, start.data(), &from, &to_gates, &back, &back_skip, &gradient, &to_context, &to_x, nullptr);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t t = start[r]; t < steps; ++t) {
      auto value = [&](size_t k, size_t i) { return double(x[(r * all + t + k * d) * n + i]); };
      const size_t frame = (r * frames + (t + phase) / hop) * gates;
      const Doubles fg = q.halves(value, &padded[frame]);
      Doubles du(n);
      for (size_t o = 0; o < n; ++o) {
        const double dyo = dy[(r * steps + t) * n + o];
        double sum = value(width - 1, o) + q.residual_bias[o];
        for (size_t i = 0; i < n; ++i) {
          const double u = fg[i] * fg[n + i];
          sum += u * q.R(i, o), du[i] += dyo * q.R(i, o), want_dR[q.R.at(i, o)] += u * dyo;
        }
        want_y[(r * steps + t) * n + o] = sum, want_dr[o] += dyo, want_dx[(r * all + history + t) * n + o] += dyo;
      }
      for (size_t o = 0; t >= low && o < skips; ++o) {
        const size_t at = (r * skip_steps + t - low) * skips + o;
        want_skip[at] += q.skip_bias[o], want_ds[o] += dskip[at];
        for (size_t i = 0; i < n; ++i) {
          const double u = fg[i] * fg[n + i];
          want_skip[at] += u * q.S(i, o), du[i] += dskip[at] * q.S(i, o), want_dS[q.S.at(i, o)] += u * dskip[at];
        }
      }
      for (size_t o = 0; o < 2 * n; ++o) {
        const double f = fg[o % n], g = fg[n + o % n], dz = du[o % n] * (o < n ? g * (1 - f * f) : f * g * (1 - g));
        want_db[q.b.at(0, o)] += dz, want_da[frame + q.b.at(0, o)] += dz;
        for (size_t k = 0; k < width * n; ++k)
          want_dW[q.W.at(k, o)] += value(k / n, k % n) * dz, want_dx[(r * all + t + k / n * d) * n + k % n] += dz * q.W(k, o);
      }
    }
    if (start[r])  // what is as early as outputs that do not exist has no gradient
      for (size_t k = 0; k < (start[r] + history) * n; ++k) want_dx[r * all * n + k] = 0;
  }
  compare("y", y, want_y), compare("skip", skip, want_skip), compare("dx", dx, want_dx), compare("dW", dW, want_dW), compare("db", db, want_db);
  compare("dR", dR, want_dR), compare("dr", dr, want_dr), compare("dS", dS, want_dS), compare("ds", ds, want_ds), compare("dframes", da, want_da);
  for (const Floats *part : {&dx, &dW, &db, &dR, &dr, &dS, &ds, &da}) add_bits(*part);
}

void embedding(size_t n_values, size_t n_out, size_t rows, bool turned) {
  const Panels E(turned ? n_out : n_values, turned ? n_values : n_out, 2);
  const Floats dy = floats(rows * n_out, 2);
  std::vector<int32_t> index(rows);
  for (int32_t &i : index) i = int32_t(uniform() * double(n_values + 1)) - 1;
  Floats y(rows * n_out), dE(E.W.size());
  Doubles want(y.size()), want_dE(dE.size());
  embedding_f32(n_values, n_out, turned, E.W.data(), rows, index.data(), y.data(), n_out, nullptr);
  embedding_gradient_f32(n_values, n_out, turned, rows, index.data(), dy.data(), n_out, dE.data(), nullptr);
  for (size_t k = 0; k < y.size(); ++k)
    if (index[k / n_out] >= 0) {
      const size_t v = size_t(index[k / n_out]), j = k % n_out;
      want[k] = turned ? E(j, v) : E(v, j), want_dE[turned ? E.at(j, v) : E.at(v, j)] += dy[k];
    }
  compare("y", y, want), compare("dE", dE, want_dE);
  add_bits(y), add_bits(dE);
}

void layer_norm(size_t rows, size_t n, bool with_addend) {
  const Floats x = floats(rows * n, 4), gain = floats(n, 4), bias = floats(n, 2), dy = floats(rows * n, 2), addend = floats(rows * n, 2);
  const double epsilon = 0.25, N = double(n);
  Floats y(rows * n), statistics(rows * 2), dx(rows * n), dgain(n), dbias(n);
  Doubles want(rows * n), want_dx(rows * n), want_dgain(n), want_dbias(n);
  layer_norm_f32(rows, n, x.data(), n, gain.data(), bias.data(), epsilon, y.data(), n, statistics.data(), nullptr);
  layer_norm_gradient_f32(rows, n, x.data(), n, gain.data(), statistics.data(), dy.data(), n, with_addend ? addend.data() : nullptr, n, dx.data(), n,
                          dgain.data(), dbias.data(), nullptr);
  for (size_t r = 0; r < rows; ++r) {
    double mean = 0, variance = 0, sum = 0, product = 0;
    Doubles h(n), g(n);
    for (size_t j = 0; j < n; ++j) mean += x[r * n + j] / N;
    for (size_t j = 0; j < n; ++j) variance += (x[r * n + j] - mean) * (x[r * n + j] - mean) / N;
    for (size_t j = 0; j < n; ++j) {
      h[j] = (x[r * n + j] - mean) / sqrt(variance + epsilon), g[j] = double(dy[r * n + j]) * gain[j];
      want[r * n + j] = h[j] * gain[j] + bias[j];
      sum += g[j] / N, product += g[j] * h[j] / N;
      want_dgain[j] += dy[r * n + j] * h[j], want_dbias[j] += dy[r * n + j];
    }
    for (size_t j = 0; j < n; ++j)
      want_dx[r * n + j] = (g[j] - sum - h[j] * product) / sqrt(variance + epsilon) + (with_addend ? double(addend[r * n + j]) : 0);
  }
  compare("y", y, want), compare("dx", dx, want_dx), compare("dgain", dgain, want_dgain), compare("dbias", dbias, want_dbias);
  add_bits(y), add_bits(statistics), add_bits(dx), add_bits(dgain), add_bits(dbias);
}

void gelu(size_t n) {
  const Floats x = floats(n, 12), dy = floats(n, 2);
  for (int32_t form : {CHAINRULE_GELU_TANH, CHAINRULE_GELU_ERF}) {
    Floats y(n), dx(n);
    Doubles want(n), want_dx(n);
    gelu_f32(form, n, x.data(), y.data(), nullptr);
    gelu_gradient_f32(form, n, x.data(), dy.data(), dx.data(), nullptr);
    const double c = sqrt(2 / M_PI);
    for (size_t k = 0; k < n; ++k) {
      const double v = x[k], t = tanh(c * (v + 0.044715 * v * v * v)), below = erfc(-v / sqrt(2.0)) / 2;
      want[k] = v * (form == CHAINRULE_GELU_ERF ? below : (1 + t) / 2);
      want_dx[k] = dy[k] * (form == CHAINRULE_GELU_ERF ? below + v * exp(-v * v / 2) / sqrt(2 * M_PI)
                                                       : (1 + t) / 2 + v * (1 - t * t) / 2 * c * (1 + 3 * 0.044715 * v * v));
    }
    compare("y", y, want), compare("dx", dx, want_dx);
    add_bits(y), add_bits(dx);
  }
}

// Against the words of Philox4x64-10, one at a time.
void dropout(size_t n) {
  const uint64_t key[2] = {0x0123456789ABCDEF, 0xFEDCBA9876543210}, first = 5;
  const double rate = 0.3;
  const Floats x = floats(n, 2);
  Floats y(n);
  Doubles want(n);
  dropout_f32(key, first, rate, n, x.data(), y.data(), nullptr);
  for (size_t k = 0; k < n; ++k) {
    uint64_t c[4] = {first + k / 16 + 1, 0, 0, 0}, k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round, k0 += 0x9E3779B97F4A7C15, k1 += 0xBB67AE8584CAA73B) {
      const unsigned __int128 a = (unsigned __int128)0xD2E7470EE14C6C93 * c[0], b = (unsigned __int128)0xCA5A826395121157 * c[2];
      const uint64_t next[4] = {uint64_t(b >> 64) ^ c[1] ^ k0, uint64_t(b), uint64_t(a >> 64) ^ c[3] ^ k1, uint64_t(a)};
      for (int j = 0; j < 4; ++j) c[j] = next[j];
    }
    const uint64_t bits = c[k % 16 / 4] >> (k % 4 * 16) & 0xFFFF;
    want[k] = bits < uint64_t(llround(rate * 65536)) ? 0 : x[k] / (1 - rate);
  }
  compare("y", y, want);
  add_bits(y);
}

// Scores and gradients; draws of every choice, given which tokens stay.
void softmax(size_t rows, size_t n) {
  Floats z = floats(rows * n, 20), d(rows * n);
  const Floats weight = floats(rows, 2);
  for (size_t k = 0; k < rows * n; k += 3) z[k] = float(int(z[k]));  // equals
  for (size_t r = 0; r < rows; r += 3) z[r * n + r % n] += 90;
  std::vector<int32_t> target(rows), x(rows);
  for (int32_t &t : target) t = int32_t(uniform() * double(n));
  Doubles log_prob(rows), again(rows), want(rows), want_d(rows * n), u(rows);
  softmax_log_prob_f32(rows, n, z.data(), n, target.data(), log_prob.data(), nullptr);
  softmax_gradient_f32(rows, n, z.data(), n, target.data(), weight.data(), again.data(), d.data(), n, nullptr);
  for (size_t r = 0; r < rows; ++r) {
    double m = -INFINITY, s = 0;
    for (size_t v = 0; v < n; ++v) m = fmax(m, z[r * n + v]);
    for (size_t v = 0; v < n; ++v) s += exp(z[r * n + v] - m);
    want[r] = z[r * n + size_t(target[r])] - m - log(s);
    for (size_t v = 0; v < n; ++v) want_d[r * n + v] = weight[r] * (exp(z[r * n + v] - m) / s - (v == size_t(target[r])));
  }
  compare("log_prob", log_prob, want), compare("log_prob of the gradient", again, want), compare("dlogits", d, want_d);
  add_bits(log_prob), add_bits(again), add_bits(d);

  for (size_t r = 0; r < rows; r += 3) z[r * n + r % n] -= 90;
  for (double &v : u) v = uniform();
  for (size_t v = 0; n >= 8 && v < n; ++v) z[v] = v < 8 ? 0 : -INFINITY;  // an eighth each
  u[0] = 0.5;
  for (const chainrule_choice &choice : {chainrule_choice{1, 1, 0}, {4, 1, 0}, {0, 1, 0}, {4, 1, 7}, {4, 0.75, 0}, {4, 0.5, 20}}) {
    softmax_sample_f32(&choice, rows, n, z.data(), n, u.data(), x.data(), nullptr);
    for (size_t r = 0; r < rows; ++r) {
      const float *row = &z[r * n];
      std::vector<size_t> order;
      std::vector<bool> stays(n);
      for (size_t v = 0; v < n; ++v) {
        size_t at = 0;
        while (at < order.size() && row[order[at]] >= row[v]) ++at;
        order.insert(order.begin() + long(at), v);
      }
      const double T = choice.temperature ? choice.temperature : 1;
      auto e = [&](size_t v) { return exp((double(row[v]) - row[order[0]]) / T); };
      size_t left = choice.temperature == 0 ? 1 : choice.top_k && choice.top_k < n ? choice.top_k : n;
      double s = 0, reached = 0, below = 0;
      for (size_t k = 0; k < left; ++k) s += e(order[k]);
      for (size_t k = 0; k < left; ++k)
        if ((reached += e(order[k])) >= choice.top_p * s - 1e-10) left = k + 1, s = reached;
      for (size_t k = 0; k < left; ++k) stays[order[k]] = true;
      const size_t drawn = size_t(x[r]);
      for (size_t v = 0; v < drawn; ++v) below += stays[v] ? e(v) : 0;
      if (drawn >= n || !stays[drawn] || u[r] * s < below - 1e-9 || u[r] * s > below + e(drawn) + 1e-9) wrong = true;
    }
    if (n >= 8 && !choice.top_k && choice.top_p == 1 && choice.temperature && x[0] != 4) wrong = true;  // 1/2 gives the upper one
    add_bits(x);
  }
}

// The features of every layer stay in the rings; draws are compared given what was drawn before.
void wavenet_sample(size_t n, size_t skips, size_t width, size_t values, size_t rows, size_t steps, const std::vector<size_t> &dilations) {
  const size_t L = dilations.size(), P = values - 1;
  std::vector<Gates> blocks;
  std::vector<chainrule_gated_block_f32> views;
  size_t history = 0;
  for (size_t d : dilations) blocks.emplace_back(n, skips, width, d), history += (width - 1) * d;
  for (const Gates &block : blocks) views.push_back(block.view());
  views[L - 1].residual = views[L - 1].residual_bias = nullptr;
  const Panels E(values, n, 2), H(skips, skips, 1), O(skips, P, 2);
  const Floats head_bias = floats(skips, 1), output_bias = floats(P, 1);
  const chainrule_wavenet_f32 net = {L, values, 0, P, views.data(), E.W.data(), nullptr, H.W.data(), head_bias.data(), O.W.data(), output_bias.data(), 0, 1};
  Doubles u(rows * steps);
  for (double &v : u) v = uniform();
  std::vector<int32_t> previous(rows, -1), x(rows * steps);
  Floats state(history * rows * n);
  Doubles want(state.size());
  const size_t cut = 13;
  wavenet_sample_f32(&net, rows, cut, u.data(), steps, previous.data(), state.data(), 0, nullptr, x.data(), steps, nullptr);
  {  // another stream in between: nothing may be left over in the workspace
    Floats other(state.size());
    std::vector<int32_t> drawn(rows);
    wavenet_sample_f32(&net, rows, 1, u.data(), steps, previous.data(), other.data(), 0, nullptr, drawn.data(), 1, nullptr);
  }
  for (size_t r = 0; r < rows; ++r) previous[r] = x[r * steps + cut - 1];
  wavenet_sample_f32(&net, rows, steps - cut, u.data() + cut, steps, previous.data(), state.data(), cut, nullptr, x.data() + cut, steps, nullptr);
  for (size_t r = 0; r < rows; ++r) {
    std::vector<Doubles> h(L, Doubles(steps * n));
    for (size_t t = 0; t < steps; ++t) {
      for (size_t i = 0; t && i < n; ++i) h[0][t * n + i] = E(size_t(x[r * steps + t - 1]), i);
      Doubles skip(skips), hidden(head_bias.begin(), head_bias.end()), p(values, 1);
      for (size_t l = 0, ring = 0; l < L; ++l) {
        const Gates &q = blocks[l];
        auto value = [&](size_t k, size_t i) {
          const size_t back = (width - 1 - k) * q.d;
          return back <= t ? h[l][(t - back) * n + i] : 0.0;
        };
        const Doubles fg = q.halves(value, nullptr);
        for (size_t o = 0; o < skips; ++o) {
          skip[o] += q.skip_bias[o];
          for (size_t i = 0; i < n; ++i) skip[o] += fg[i] * fg[n + i] * q.S(i, o);
        }
        for (size_t o = 0; l + 1 < L && o < n; ++o) {
          h[l + 1][t * n + o] = h[l][t * n + o] + q.residual_bias[o];
          for (size_t i = 0; i < n; ++i) h[l + 1][t * n + o] += fg[i] * fg[n + i] * q.R(i, o);
        }
        const size_t size = (width - 1) * q.d;
        for (size_t i = 0; i < n; ++i) want[((ring + t % size) * rows + r) * n + i] = h[l][t * n + i];
        ring += size;
      }
      for (size_t o = 0; o < skips; ++o)
        for (size_t i = 0; i < skips; ++i) hidden[o] += fmax(skip[i], 0) * H(i, o);
      double total = 1, below = 0;
      for (size_t v = 1; v < values; ++v) {
        double z = output_bias[v - 1];
        for (size_t i = 0; i < skips; ++i) z += fmax(hidden[i], 0) * O(i, v - 1);
        total += p[v] = exp(z);
      }
      const size_t drawn = size_t(x[r * steps + t]);
      if (drawn >= values) {
        wrong = true;
        return;
      }
      for (size_t v = 0; v < drawn; ++v) below += p[v] / total;
      const double at = u[r * steps + t];
      if (at < below - 1e-4 || at > below + p[drawn] / total + 1e-4) wrong = true;
    }
  }
  compare("state", state, want);
  add_bits(x), add_bits(state);
}

// ---- Transformers

// Attention of one head over the first n keys, `at(j, c)` and `value(j, c)`; returns the log-sum.
template <class Q, class K, class V> double attend(size_t n, size_t d, double scale, Q &&q, K &&key, V &&value, Doubles &y, Doubles &p) {
  double m = -INFINITY, l = 0;
  p.assign(n, 0), y.assign(d, 0);
  for (size_t j = 0; j < n; ++j) {
    for (size_t c = 0; c < d; ++c) p[j] += scale * q(c) * key(j, c);
    m = fmax(m, p[j]);
  }
  for (size_t j = 0; j < n; ++j) l += exp(p[j] - m);
  for (size_t j = 0; j < n; ++j) {
    p[j] = exp(p[j] - m) / l;
    for (size_t c = 0; c < d; ++c) y[c] += p[j] * value(j, c);
  }
  return n ? m + log(l) : 0;
}

// Heads of queries and of keys, head size, queries, keys, rows; keys of row r: all but 3 r of them, where they are ragged.
struct Heads {
  size_t n, kept, d, queries, keys, rows;
  int32_t causal;
  bool ragged;
  Floats q, k, v, dy;
  std::vector<uint32_t> lengths;
  Doubles y, sums, dq, dk, dv;
  Heads(size_t heads, size_t n_kept, size_t size, size_t n_queries, size_t n_keys, size_t n_rows, bool is_causal, bool is_ragged)
      : n(heads), kept(n_kept), d(size), queries(n_queries), keys(n_keys), rows(n_rows), causal(is_causal), ragged(is_ragged), q(floats(rows * queries * n * d, 4)),
        k(floats(rows * keys * kept * d, 4)), v(floats(rows * keys * kept * d, 2)), dy(floats(q.size(), 2)), y(q.size()), sums(rows * n * queries), dq(q.size()),
        dk(k.size()), dv(k.size()) {
    for (size_t r = 0; r < rows; ++r) lengths.push_back(uint32_t(ragged ? keys - 3 * r : keys));
    Doubles part, p;
    for (size_t r = 0; r < rows; ++r)
      for (size_t h = 0; h < n; ++h)
        for (size_t t = 0; t < queries; ++t) {
          const size_t g = h / (n / kept), at = (r * queries + t) * n * d + h * d;
          auto of = [&](size_t j, size_t c) { return (r * keys + j) * kept * d + g * d + c; };
          const size_t seen = !causal ? lengths[r] : lengths[r] + t + 1 > queries ? lengths[r] + t + 1 - queries : 0;
          sums[(r * n + h) * queries + t] = attend(seen, d, scale(), [&](size_t c) { return double(q[at + c]); }, [&](size_t j, size_t c) { return k[of(j, c)]; },
                                                   [&](size_t j, size_t c) { return v[of(j, c)]; }, part, p);
          double D = 0;
          for (size_t c = 0; c < d; ++c) y[at + c] = part[c], D += part[c] * dy[at + c];
          for (size_t j = 0; j < seen; ++j) {
            double dp = 0;
            for (size_t c = 0; c < d; ++c) dp += double(dy[at + c]) * v[of(j, c)];
            const double ds = p[j] * (dp - D) * scale();
            for (size_t c = 0; c < d; ++c) dq[at + c] += ds * k[of(j, c)], dk[of(j, c)] += ds * q[at + c], dv[of(j, c)] += p[j] * dy[at + c];
          }
        }
  }
  double scale() const { return 0.5; }
  chainrule_attention shape() const { return {n, kept, d, scale(), causal}; }
  chainrule_sequences_f32 side(Floats &of, size_t heads, size_t t = 0) const { return {&of[t * heads * d], of.size() / rows, heads * d}; }
};

void attention(Heads h) {
  Floats y(h.q.size(), 7), sums(h.sums.size(), 7);
  const auto shape = h.shape();
  const auto q = h.side(h.q, h.n), k = h.side(h.k, h.kept), v = h.side(h.v, h.kept), to = h.side(y, h.n);
  attention_f32(&shape, h.rows, h.queries, h.keys, h.ragged ? h.lengths.data() : nullptr, &q, &k, &v, &to, sums.data(), nullptr);
  compare("y", y, h.y), compare("log-sums", sums, h.sums);
  add_bits(y), add_bits(sums);
  if (h.ragged) return;

  // The last queries as new steps: all at once, or in two calls where the first does not see the second.
  const size_t fresh = h.queries < h.keys ? h.queries : h.keys, before = h.keys - fresh, capacity = h.keys + 3;
  Floats keys(h.rows * h.kept * ((capacity + 31) / 32) * h.d * 32, NAN), values(h.rows * h.kept * capacity * ((h.d + 31) / 32 * 32), NAN), first(h.rows * before * h.n * h.d + 1),
      ones(first.size(), 1), stepped(y.size());
  const chainrule_cache_f32 cache = {keys.data(), values.data(), capacity};
  auto call = [&](Floats &from, size_t t, size_t at_key, size_t n, size_t already, Floats &result, size_t row) {
    const std::vector<uint32_t> lengths(h.rows, uint32_t(already));
    const chainrule_sequences_f32 query = {&from[t * h.n * h.d], row, h.n * h.d}, out = {&result[t * h.n * h.d], row, h.n * h.d};
    const auto new_k = h.side(h.k, h.kept, at_key), new_v = h.side(h.v, h.kept, at_key);
    attention_step_f32(&shape, h.rows, n, lengths.data(), &query, &new_k, &new_v, &cache, &out, nullptr);
  };
  if (before) call(ones, 0, 0, before, 0, first, before * h.n * h.d);
  const size_t cut = h.causal ? fresh / 3 : 0, late = h.queries - fresh, row = h.queries * h.n * h.d;
  if (cut) call(h.q, late, before, cut, before, stepped, row);
  call(h.q, late + cut, before + cut, fresh - cut, before + cut, stepped, row);
  Doubles want = h.y;  // queries before the first key are no steps
  for (size_t i = 0; i < want.size(); ++i)
    if (i % row < late * h.n * h.d) want[i] = 0;
  compare("steps", stepped, want);
  add_bits(stepped);
  if (h.causal) return;
  attention_step_f32(&shape, h.rows, h.queries, h.lengths.data(), &q, nullptr, nullptr, &cache, &to, nullptr);
  compare("cross-attention", y, h.y);
}

void attention_gradient(Heads h) {
  Floats dq(h.q.size(), 7), dk(h.k.size(), 7), dv(h.k.size(), 7), y(h.y.begin(), h.y.end()), sums(h.sums.begin(), h.sums.end());
  const auto shape = h.shape();
  const auto q = h.side(h.q, h.n), k = h.side(h.k, h.kept), v = h.side(h.v, h.kept), from = h.side(y, h.n), back = h.side(h.dy, h.n), to_q = h.side(dq, h.n),
             to_k = h.side(dk, h.kept), to_v = h.side(dv, h.kept);
  attention_gradient_f32(&shape, h.rows, h.queries, h.keys, h.ragged ? h.lengths.data() : nullptr, &q, &k, &v, &from, sums.data(), &back, &to_q, &to_k, &to_v, nullptr);
  compare("dq", dq, h.dq), compare("dk", dk, h.dk), compare("dv", dv, h.dv);
  add_bits(dq), add_bits(dk), add_bits(dv);
}

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
  for (size_t r = 0; r < rows; ++r) step(r, 1, 0, prompt[r], &zero, nullptr, &logits[r * T * values]);
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

int main() {
  // Sums over variables and over rows beyond a chunk of 256; whole vectors of units and a part of one; odd rows.
  for (const Problem &p : {Problem(37, 290, 83), Problem(269, 70, 19)}) {
    if (nade_score_f32) score(p);
    if (nade_gradient_f32) gradient(p);
    if (nade_sample_f32) sample(p);
  }
  for (const Codes &q : {Codes(37, 70, 35), Codes(269, 40, 19)}) {
    if (nade_categorical_score_f32) score(q);
    if (nade_categorical_gradient_f32) gradient(q);
    if (nade_categorical_sample_f32) sample(q);
  }
  if (bernoulli_gradient_f32) bernoulli(7, 100), bernoulli(40, 33);
  if (categorical_gradient_f32) categorical(7, 40, 19), categorical(40, 17, 4);
  if (logistic_mixture_gradient_f32) logistic_mixture(23, 7, 3, 256), logistic_mixture(40, 1, 5, 3);
  if (masked_linear_f32 && !masked_sample_f32 && !masked_score_f32) masked_linear(37, 290, 70), masked_linear(269, 70, 300), kept(269, 290, 83);
  if (sparse_linear_f32) sparse_linear(37, 290, 140), sparse_linear(269, 70, 83);
  if (permute_columns_f32) permute_columns(70, 83);
  if (masked_sample_f32) masked_sample(37, 40, 70), masked_sample(29, 300, 300);
  if (masked_score_f32) masked_score(37, 40, 70), masked_score(5, 300, 300), masked_score(401, 70, 35);
  if (chainrule::encode) encode(29, 83);
  if (optimizer_step_f32) optimizer(40003);
  if (causal_conv_f32) conv(3, 5, 100, 37, 60, 2), conv(2, 1, 9, 33, 300, 1);
  if (gated_block_f32) gated_block(17, 35, 3, 4, 60, 40, 2, 7), gated_block(16, 5, 2, 1, 1100, 1050, 1, 300);
  if (embedding_f32) embedding(19, 37, 600, false), embedding(37, 19, 600, true);
  if (layer_norm_f32) layer_norm(37, 83, false), layer_norm(601, 21, true);
  if (gelu_f32) gelu(10003);
  if (dropout_f32) dropout(300001);
  if (softmax_log_prob_f32) softmax(23, 37), softmax(41, 7), softmax(17, 1003);
  // One stream, whose products go ahead or not, and several; sums beyond a chunk.
  if (wavenet_sample_f32) {
    wavenet_sample(17, 35, 3, 19, 1, 60, {8, 4, 1}), wavenet_sample(16, 33, 2, 5, 7, 40, {1, 2, 5}), wavenet_sample(90, 9, 3, 3, 1, 20, {2, 3});
  }
  // Tiles of queries across a chunk of keys, blocks of queries, tails, and queries before the first key.
  if (attention_f32 || attention_gradient_f32)
    for (const Heads &h : {Heads(2, 1, 19, 300, 300, 1, true, false), Heads(2, 2, 5, 40, 290, 2, false, true), Heads(1, 1, 33, 160, 20, 2, true, true), Heads(3, 1, 4, 7, 280, 2, false, false)}) {
      if (attention_f32) attention(h);
      if (attention_gradient_f32) attention_gradient(h);
    }
  if (packed_linear_f32)
    for (int32_t format : {CHAINRULE_PLAIN, CHAINRULE_BF16, CHAINRULE_INT8}) packed_linear(13, 600, 70, format), packed_linear(1, 31, 33, format);
  if (transformer_step_f32) {
    transformer_step(20, 4, 2, 7, 300, 40, 9, -1 - CHAINRULE_GELU_TANH, false, CHAINRULE_PLAIN);
    transformer_step(270, 2, 2, 9, 33, 35, 0, CHAINRULE_SIGMOID, true, CHAINRULE_INT8);
  }
  printf("%016llx\n", (unsigned long long)digest);
  return wrong ? 3 : 0;
}
