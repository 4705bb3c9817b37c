// Layers of Transformers: norms, GELU, dropout, and the softmax over a vocabulary.
#include "check.hpp"

namespace chainrule::CHAINRULE_ISA {
KERNEL(layer_norm);
KERNEL(layer_norm_gradient);
KERNEL(gelu);
KERNEL(gelu_gradient);
KERNEL(dropout);
KERNEL(softmax_log_prob);
KERNEL(softmax_gradient);
KERNEL(softmax_sample);
}  // namespace chainrule::CHAINRULE_ISA

namespace {

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

}  // namespace

void check_layers() {
  if (layer_norm_f32) layer_norm(37, 83, false), layer_norm(601, 21, true);
  if (gelu_f32) gelu(10003);
  if (dropout_f32) dropout(300001);
  if (softmax_log_prob_f32) softmax(23, 37), softmax(41, 7), softmax(17, 1003);
}
