// Conditionals from their parameters: bits, categories, mixtures of logistics.
#include "check.hpp"

namespace chainrule::CHAINRULE_ISA {
KERNEL(bernoulli_log_prob);
KERNEL(bernoulli_gradient);
KERNEL(categorical_log_prob);
KERNEL(categorical_gradient);
KERNEL(categorical_sample);
KERNEL(logistic_mixture_log_prob);
KERNEL(logistic_mixture_gradient);
KERNEL(logistic_mixture_sample);
}  // namespace chainrule::CHAINRULE_ISA

namespace {

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

}  // namespace

void check_conditionals() {
  if (bernoulli_gradient_f32) bernoulli(7, 100), bernoulli(40, 33);
  if (categorical_gradient_f32) categorical(7, 40, 19), categorical(40, 17, 4);
  if (logistic_mixture_gradient_f32) logistic_mixture(23, 7, 3, 256), logistic_mixture(40, 1, 5, 3);
}
