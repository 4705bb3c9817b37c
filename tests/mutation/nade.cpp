// NADE over bits and over categories, with the sigmoid.
#include "check.hpp"

namespace chainrule::CHAINRULE_ISA {
KERNEL(nade_score);
KERNEL(nade_gradient);
KERNEL(nade_sample);
KERNEL(nade_categorical_score);
KERNEL(nade_categorical_gradient);
KERNEL(nade_categorical_sample);
}  // namespace chainrule::CHAINRULE_ISA

namespace {

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

}  // namespace

void check_nade() {
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
}
