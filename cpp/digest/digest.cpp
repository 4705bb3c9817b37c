// The proof of the contract (docs/reproducibility.md): a digest per kernel and precision of results on fixed inputs.
//
//   chainrule_digest [threads = 0] [rows = 0]      rows of one call; 0: all at once
//
// The lines must be the same for every instruction set (CHAINRULE_ISA), number of threads and number of rows, and those
// of tests/golden/digest.txt. Static, so that an emulator runs it. Inputs come from integer arithmetic and exact
// conversions alone; every output buffer is hashed whole, leading dimensions' padding included, NaN as one pattern.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "chainrule/chainrule.h"

namespace {

const chainrule_api *api;
chainrule_exec exec = {0, nullptr, nullptr};
size_t rows_at_once = 0;

// ---- Fixed inputs.

struct Words {  // SplitMix64 (Steele, Lea & Flood 2014)
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  size_t below(size_t n) { return size_t((next() >> 32) * n >> 32); }
};

// Multiples of 2^-23 in [-1, 1), times a power of two: exact in float.
template <class T> std::vector<T> numbers(Words &words, size_t n, T scale) {
  std::vector<T> v(n);
  for (T &value : v) value = T(int64_t(words.next() >> 40) - (int64_t(1) << 23)) * T(0x1p-23) * scale;
  return v;
}

// Puts a number that is hard on arithmetic in about one place of `every`.
template <class T> void sprinkle(Words &words, std::vector<T> &v, size_t every, bool finite) {
  typedef std::numeric_limits<T> limits;
  static constexpr T hard[] = {T(-0.0), limits::denorm_min(), -limits::min() / 2, limits::max(), limits::lowest(),
                               T(1000), T(-1000), limits::infinity(), -limits::infinity(), limits::quiet_NaN()};
  for (T &value : v)
    if (words.below(every) == 0) value = hard[words.below(finite ? 7 : 10)];
}

std::vector<uint8_t> bits(Words &words, size_t n, size_t ones_in_256) {
  std::vector<uint8_t> v(n);
  for (uint8_t &bit : v) bit = words.below(256) < ones_in_256;
  return v;
}

std::vector<double> uniforms(Words &words, size_t n) {
  std::vector<double> v(n);
  for (double &u : v) u = (double(words.next() >> 12) + 0.5) * 0x1p-52;
  return v;
}

// ---- Digests.

struct Digest {  // FNV-1a, 64 bits
  uint64_t hash = 0xCBF29CE484222325u;
  void bytes(const void *data, size_t n) {
    for (size_t i = 0; i < n; ++i) hash = (hash ^ static_cast<const uint8_t *>(data)[i]) * 0x100000001B3u;
  }
  template <class T> void add(const std::vector<T> &v) {
    for (T value : v) {
      if constexpr (std::is_floating_point_v<T>)
        if (value != value) value = std::numeric_limits<T>::quiet_NaN();  // sign and payload are exempt
      bytes(&value, sizeof value);
    }
  }
};

Digest all;

void line(const std::string &name, const Digest &digest) {
  printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(digest.hash));
  all.bytes(name.c_str(), name.size());
  all.bytes(&digest.hash, sizeof digest.hash);
}

void check(chainrule_status status) {
  if (status == CHAINRULE_OK) return;
  fprintf(stderr, "a kernel returned status %d\n", status);
  exit(1);
}

// f(begin, end) over [0, n) in calls of `unit` times rows_at_once.
template <class F> void in_parts(size_t n, size_t unit, F &&f) {
  const size_t part = rows_at_once ? rows_at_once * unit : n;
  for (size_t begin = 0; begin < n; begin += part) check(f(begin, std::min(begin + part, n)));
}

// The table's entry of a precision.
#define KERNEL(name) (pick<T>(api->name##_f32, api->name##_f64))
template <class T, class F, class G> auto pick(F *f32, G *f64) {
  if constexpr (std::is_same_v<T, float>) return f32;
  else return f64;
}
template <class T> const char *suffix() { return std::is_same_v<T, float> ? "_f32" : "_f64"; }

// ---- The kernels.

struct NadeCase {
  size_t features, hidden, rows, ones_in_256;
  bool order, flip, weight, tied, hard;
};

// Tails of every tile and vector, several chunks of 256 variables and of 256 rows, and parameters off the beaten track.
const NadeCase nade_cases[] = {
    {1, 1, 1, 128, false, false, false, false, false},  {17, 16, 7, 34, true, false, false, false, false},
    {33, 130, 23, 34, false, true, true, true, false},  {300, 37, 23, 34, true, true, true, false, false},
    {577, 50, 7, 100, false, true, false, true, false}, {20, 24, 601, 128, true, false, true, false, false},
    {64, 200, 23, 60, false, false, false, false, true},
};

template <class T> void nade(const char *activation_name, int32_t activation) {
  constexpr bool single = std::is_same_v<T, float>;
  typedef std::conditional_t<single, chainrule_nade_f32, chainrule_nade_f64> Nade;
  typedef std::conditional_t<single, chainrule_nade_gradient_f32, chainrule_nade_gradient_f64> Gradient;
  Words words{2011};
  Digest score, gradient, sample;
  for (const NadeCase &k : nade_cases) {
    const size_t n = k.features, d = k.hidden, rows = k.rows, ldw = d + 3, ldv = d + 1, ldx = n + 2;
    std::vector<T> W = numbers<T>(words, n * ldw, T(0.5)), V = numbers<T>(words, n * ldv, T(0.5)),
                   b = numbers<T>(words, n, T(1)), c = numbers<T>(words, d, T(1)),
                   weight = numbers<T>(words, rows, T(0x1p-4));
    if (k.hard) sprinkle(words, W, 1000, true), sprinkle(words, V, 1000, true), sprinkle(words, b, 20, true);
    std::vector<uint32_t> order(n);
    for (size_t i = 0; i < n; ++i) {
      const size_t j = words.below(i + 1);
      order[i] = order[j], order[j] = uint32_t(i);
    }
    const std::vector<uint8_t> flip = bits(words, n, 128), x = bits(words, rows * ldx, k.ones_in_256);
    const std::vector<double> u = uniforms(words, rows * ldx);
    const Nade model = {n, d, W.data(), k.tied ? W.data() : V.data(), b.data(), c.data(), ldw, k.tied ? ldw : ldv,
                        activation, k.order ? order.data() : nullptr, k.flip ? flip.data() : nullptr};

    std::vector<double> log_prob(rows, 7), terms(rows * n, 7);
    std::vector<T> logits(rows * n, 7);
    std::vector<uint8_t> drawn(rows * ldx, 7), completed = x;
    const std::vector<uint8_t> observed = bits(words, rows * ldx, 100);
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(nade_score)(&model, end - begin, &x[begin * ldx], ldx, &log_prob[begin], &terms[begin * n],
                                &logits[begin * n], &exec);
    });
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      check(KERNEL(nade_sample)(&model, end - begin, &u[begin * ldx], ldx, nullptr, &drawn[begin * ldx], ldx, &exec));
      return KERNEL(nade_sample)(&model, end - begin, &u[begin * ldx], ldx, &observed[begin * ldx],
                                 &completed[begin * ldx], ldx, &exec);
    });
    score.add(log_prob), score.add(terms), score.add(logits), sample.add(drawn), sample.add(completed);

    // Sums over rows belong to a batch: never split.
    std::vector<T> dW(n * ldw, 7), dV(n * ldv, 7), db(n, 7), dc(d, 7);
    const Gradient gradients = {dW.data(), dV.data(), db.data(), dc.data(), ldw, ldv};
    std::fill(log_prob.begin(), log_prob.end(), 7);
    check(KERNEL(nade_gradient)(&model, rows, x.data(), ldx, k.weight ? weight.data() : nullptr, log_prob.data(),
                                &gradients, &exec));
    gradient.add(log_prob), gradient.add(dW), gradient.add(dV), gradient.add(db), gradient.add(dc);
  }
  const std::string end = std::string("_") + activation_name + suffix<T>();
  line("nade_score" + end, score), line("nade_gradient" + end, gradient), line("nade_sample" + end, sample);
}

template <class T> void bernoulli() {
  Words words{1713}, more{1714};
  Digest score, sample, gradient;
  const size_t rows = 23, ld = 303;
  for (size_t n : {size_t(1), size_t(37), size_t(300)}) {
    std::vector<T> logits = numbers<T>(words, rows * ld, T(32));
    sprinkle(words, logits, 20, false);
    const std::vector<uint8_t> x = bits(words, rows * ld, 128);
    const std::vector<double> u = uniforms(words, rows * ld);
    std::vector<double> log_prob(rows, 7), terms(rows * n, 7);
    std::vector<uint8_t> drawn(rows * ld, 7);
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(bernoulli_log_prob)(end - begin, n, &logits[begin * ld], ld, &x[begin * ld], ld, &log_prob[begin],
                                        &terms[begin * n], &exec);
    });
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(bernoulli_sample)(end - begin, n, &logits[begin * ld], ld, &u[begin * ld], ld, &drawn[begin * ld],
                                      ld, &exec);
    });
    score.add(log_prob), score.add(terms), sample.add(drawn);

    // The default weight is one over the rows of the call: never split. Then in place.
    const std::vector<T> weight = numbers<T>(more, rows, T(1));
    std::vector<T> dlogits(rows * ld, 7);
    check(KERNEL(bernoulli_gradient)(rows, n, logits.data(), ld, x.data(), ld, nullptr, nullptr, dlogits.data(), ld, &exec));
    gradient.add(dlogits);
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(bernoulli_gradient)(end - begin, n, &logits[begin * ld], ld, &x[begin * ld], ld, &weight[begin],
                                        &log_prob[begin], &logits[begin * ld], ld, &exec);
    });
    gradient.add(log_prob), gradient.add(logits);
  }
  line(std::string("bernoulli_log_prob") + suffix<T>(), score);
  line(std::string("bernoulli_sample") + suffix<T>(), sample);
  line(std::string("bernoulli_gradient") + suffix<T>(), gradient);
}

template <class T> void categorical() {
  Words words{1812};
  Digest score, sample, gradient;
  const size_t rows = 23;
  const std::vector<size_t> cases[] = {{2}, {1, 2, 3, 17, 256, 2, 1, 5}, std::vector<size_t>(37, 3), std::vector<size_t>(19, 10)};
  for (const std::vector<size_t> &values : cases)
    for (bool with_reference : {false, true}) {
      const size_t n = values.size(), ldx = n + 2;
      std::vector<uint32_t> first = {0};
      std::vector<uint8_t> reference, x(rows * ldx, 7);
      for (size_t k : values) first.push_back(first.back() + uint32_t(k) - 1), reference.push_back(uint8_t(words.below(k)));
      for (size_t r = 0; r < rows; ++r)
        for (size_t i = 0; i < n; ++i) x[r * ldx + i] = uint8_t(words.below(values[i]));
      const uint8_t *swap = with_reference ? reference.data() : nullptr;
      const size_t ldl = first.back() + 3;
      std::vector<T> logits = numbers<T>(words, rows * ldl, T(16));
      sprinkle(words, logits, 40, false);
      const std::vector<T> weight = numbers<T>(words, rows, T(1));
      const std::vector<double> u = uniforms(words, rows * ldx);
      std::vector<double> log_prob(rows, 7), terms(rows * n, 7);
      std::vector<uint8_t> drawn(rows * ldx, 7);
      std::vector<T> dlogits(rows * ldl, 7);
      in_parts(rows, 1, [&](size_t begin, size_t end) {
        return KERNEL(categorical_log_prob)(end - begin, n, first.data(), swap, &logits[begin * ldl], ldl, &x[begin * ldx], ldx,
                                            &log_prob[begin], &terms[begin * n], &exec);
      });
      in_parts(rows, 1, [&](size_t begin, size_t end) {
        return KERNEL(categorical_sample)(end - begin, n, first.data(), swap, &logits[begin * ldl], ldl, &u[begin * ldx], ldx,
                                          &drawn[begin * ldx], ldx, &exec);
      });
      score.add(log_prob), score.add(terms), sample.add(drawn);
      check(KERNEL(categorical_gradient)(rows, n, first.data(), swap, logits.data(), ldl, x.data(), ldx, nullptr, nullptr,
                                         dlogits.data(), ldl, &exec));
      in_parts(rows, 1, [&](size_t begin, size_t end) {
        return KERNEL(categorical_gradient)(end - begin, n, first.data(), swap, &logits[begin * ldl], ldl, &x[begin * ldx], ldx,
                                            &weight[begin], &log_prob[begin], &logits[begin * ldl], ldl, &exec);
      });
      gradient.add(dlogits), gradient.add(log_prob), gradient.add(logits);
    }
  line(std::string("categorical_log_prob") + suffix<T>(), score);
  line(std::string("categorical_gradient") + suffix<T>(), gradient);
  line(std::string("categorical_sample") + suffix<T>(), sample);
}

// Parts of vectors and of blocks, values at both ends, scales below a bin and beyond exponentials, and hard numbers.
template <class T> void logistic_mixture() {
  struct Case {
    size_t features, components, rows;
    int32_t values;
    double floor;
    bool hard;
  };
  const Case cases[] = {{1, 1, 1, 256, -7, false},   {1, 10, 300, 65536, -12.5, false}, {37, 10, 23, 256, -7, false},
                        {19, 3, 23, 2, -7, false},   {5, 64, 7, 65536, -40, false},     {3, 2, 7, 1, -7, false},
                        {300, 5, 5, 3, -20, false},  {7, 4, 101, 256, -40, true}};
  Words words{2017};
  Digest score, gradient, sample;
  for (const Case &k : cases) {
    const size_t n = k.features, K = k.components, rows = k.rows, ldp = 3 * K * n + 3, ldx = n + 2;
    std::vector<T> parameters = numbers<T>(words, rows * ldp, T(2));
    for (size_t r = 0; r < rows; ++r)
      for (size_t i = 0; i < n; ++i)
        for (size_t c = 2 * K; c < 3 * K; ++c) parameters[r * ldp + 3 * K * i + c] = parameters[r * ldp + 3 * K * i + c] * T(4) - T(4);
    if (k.hard) sprinkle(words, parameters, 10, false);
    std::vector<int32_t> x(rows * ldx, 7);
    for (size_t r = 0; r < rows; ++r)
      for (size_t i = 0; i < n; ++i) {
        const int32_t v = int32_t(words.below(size_t(k.values)));
        x[r * ldx + i] = words.below(8) ? v : v % 2 ? 0 : k.values - 1;
      }
    const std::vector<T> weight = numbers<T>(words, rows, T(1));
    const std::vector<double> u = uniforms(words, rows * ldx);
    const chainrule_logistic_mixture mixture = {n, K, k.values, k.floor};
    std::vector<double> log_prob(rows, 7), terms(rows * n, 7);
    std::vector<int32_t> drawn(rows * ldx, 7);
    std::vector<T> d(rows * ldp, 7);
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(logistic_mixture_log_prob)(&mixture, end - begin, &parameters[begin * ldp], ldp, &x[begin * ldx], ldx,
                                               &log_prob[begin], &terms[begin * n], &exec);
    });
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(logistic_mixture_sample)(&mixture, end - begin, &parameters[begin * ldp], ldp, &u[begin * ldx], ldx,
                                             &drawn[begin * ldx], ldx, &exec);
    });
    score.add(log_prob), score.add(terms), sample.add(drawn);
    check(KERNEL(logistic_mixture_gradient)(&mixture, rows, parameters.data(), ldp, x.data(), ldx, nullptr, nullptr, d.data(), ldp,
                                            &exec));
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(logistic_mixture_gradient)(&mixture, end - begin, &parameters[begin * ldp], ldp, &x[begin * ldx], ldx,
                                               &weight[begin], &log_prob[begin], &parameters[begin * ldp], ldp, &exec);
    });
    gradient.add(d), gradient.add(log_prob), gradient.add(parameters);
  }
  line(std::string("logistic_mixture_log_prob") + suffix<T>(), score);
  line(std::string("logistic_mixture_gradient") + suffix<T>(), gradient);
  line(std::string("logistic_mixture_sample") + suffix<T>(), sample);
}

// Columns of one value to 256, chunks of units that end inside a variable, several chunks of rows, rows of every tile.
template <class T> void nade_categorical(const char *activation_name, int32_t activation) {
  constexpr bool single = std::is_same_v<T, float>;
  typedef std::conditional_t<single, chainrule_nade_categorical_f32, chainrule_nade_categorical_f64> Nade;
  typedef std::conditional_t<single, chainrule_nade_gradient_f32, chainrule_nade_gradient_f64> Gradient;
  struct Case {
    std::vector<size_t> values;
    size_t hidden, rows;
    bool order, reference, weight, tied, hard;
  };
  const Case cases[] = {
      {{2}, 1, 1, false, false, false, false, false},
      {{1, 2, 3, 17, 2, 1, 5, 4}, 35, 23, true, true, true, false, false},
      {{200, 3, 256, 1, 256, 2}, 37, 47, true, true, false, false, false},
      {std::vector<size_t>(33, 4), 130, 7, false, true, false, true, false},
      {std::vector<size_t>(40, 3), 24, 601, true, false, true, false, false},
      {std::vector<size_t>(20, 6), 70, 33, false, false, false, false, true},
  };
  Words words{2013};
  Digest score, gradient, sample;
  for (const Case &k : cases) {
    const size_t n = k.values.size(), d = k.hidden, rows = k.rows, ldw = d + 3, ldv = d + 1, ldx = n + 2;
    std::vector<uint32_t> order(n), first = {0};
    for (size_t i = 0; i < n; ++i) {
      const size_t j = words.below(i + 1);
      order[i] = order[j], order[j] = uint32_t(i);
    }
    std::vector<uint8_t> reference, x(rows * ldx, 7), observed = bits(words, rows * ldx, 100);
    for (size_t i = 0; i < n; ++i) first.push_back(first.back() + uint32_t(k.values[k.order ? order[i] : i]) - 1);
    for (size_t values : k.values) reference.push_back(uint8_t(words.below(values)));
    for (size_t r = 0; r < rows; ++r)
      for (size_t i = 0; i < n; ++i) x[r * ldx + i] = uint8_t(words.below(k.values[i]));
    const size_t logits_in_all = first.back();
    std::vector<T> W = numbers<T>(words, logits_in_all * ldw, T(0.5)), V = numbers<T>(words, logits_in_all * ldv, T(0.5)),
                   b = numbers<T>(words, logits_in_all, T(1)), c = numbers<T>(words, d, T(1)),
                   weight = numbers<T>(words, rows, T(0x1p-4));
    if (k.hard) sprinkle(words, W, 1000, true), sprinkle(words, V, 1000, true), sprinkle(words, b, 20, true);
    const std::vector<double> u = uniforms(words, rows * ldx);
    const Nade model = {n, d, W.data(), k.tied ? W.data() : V.data(), b.data(), c.data(), ldw, k.tied ? ldw : ldv, activation,
                        k.order ? order.data() : nullptr, first.data(), k.reference ? reference.data() : nullptr};

    std::vector<double> log_prob(rows, 7), terms(rows * n, 7);
    std::vector<T> logits(rows * logits_in_all, 7);
    std::vector<uint8_t> drawn(rows * ldx, 7), completed = x;
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(nade_categorical_score)(&model, end - begin, &x[begin * ldx], ldx, &log_prob[begin], &terms[begin * n],
                                            &logits[begin * logits_in_all], &exec);
    });
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      check(KERNEL(nade_categorical_sample)(&model, end - begin, &u[begin * ldx], ldx, nullptr, &drawn[begin * ldx], ldx, &exec));
      return KERNEL(nade_categorical_sample)(&model, end - begin, &u[begin * ldx], ldx, &observed[begin * ldx],
                                             &completed[begin * ldx], ldx, &exec);
    });
    score.add(log_prob), score.add(terms), score.add(logits), sample.add(drawn), sample.add(completed);

    std::vector<T> dW(logits_in_all * ldw, 7), dV(logits_in_all * ldv, 7), db(logits_in_all, 7), dc(d, 7);
    const Gradient gradients = {dW.data(), dV.data(), db.data(), dc.data(), ldw, ldv};
    std::fill(log_prob.begin(), log_prob.end(), 7);
    check(KERNEL(nade_categorical_gradient)(&model, rows, x.data(), ldx, k.weight ? weight.data() : nullptr, log_prob.data(),
                                            &gradients, &exec));
    gradient.add(log_prob), gradient.add(dW), gradient.add(dV), gradient.add(db), gradient.add(dc);
  }
  const std::string end = std::string("_") + activation_name + suffix<T>();
  line("nade_categorical_score" + end, score), line("nade_categorical_gradient" + end, gradient);
  line("nade_categorical_sample" + end, sample);
}

template <class T> void optimizers() {
  Words words{2015};
  Digest digest, squares;
  const size_t n = 70003;
  for (int32_t rule = CHAINRULE_SGD; rule <= CHAINRULE_ADAM; ++rule) {
    std::vector<T> p = numbers<T>(words, n, T(1)), s(n, T(0)), t(n, T(0)), average = p;
    double power1 = 1, power2 = 1;
    for (int step = 1; step <= 4; ++step) {
      std::vector<T> g = numbers<T>(words, n, T(0x1p-6));
      sprinkle(words, g, 100, step < 4);
      power1 *= 0.9, power2 *= 0.999;
      const chainrule_optimizer o = {rule, 0.001, 0.9, 0.999, 1 - power1, 1 - power2, 1e-8, 0.01, 0.003, 0.7, 0.9};
      in_parts(n, 4999, [&](size_t begin, size_t end) {
        return KERNEL(optimizer_step)(&o, end - begin, &p[begin], &g[begin], &s[begin], &t[begin],
                                      step % 2 ? &average[begin] : nullptr, 0, nullptr, &exec);
      });
      std::vector<double> sum(3);
      check(KERNEL(sum_squares)(n, p.data(), &sum[0], &exec));
      check(KERNEL(sum_squares)(5, p.data(), &sum[1], &exec));
      check(KERNEL(sum_squares)(0, p.data(), &sum[2], &exec));
      squares.add(sum);
    }
    digest.add(p), digest.add(s), digest.add(t), digest.add(average);
  }
  line(std::string("optimizer_step") + suffix<T>(), digest);
  line(std::string("sum_squares") + suffix<T>(), squares);
}

template <class T> void map() {
  typedef std::conditional_t<std::is_same_v<T, float>, uint32_t, uint64_t> Bits;
  const char *names[] = {"exp", "expm1", "log", "log1p", "sigmoid", "tanh", "softplus", "erf", "sin", "cos"};
  Words words{1614};
  // Every sign and exponent with a few significands (so: zeros, denormals, infinities, NaN), then the common range.
  const int digits = std::numeric_limits<T>::digits - 1, heads = sizeof(T) == 4 ? 1 << 9 : 1 << 12;
  std::vector<T> x;
  for (Bits head = 0; head < Bits(heads); ++head)
    for (int k = 0; k < 32; ++k) {
      const Bits significand = k == 0 ? 0 : k == 1 ? Bits(-1) : Bits(words.next());
      const Bits pattern = head << digits | (significand & ((Bits(1) << digits) - 1));
      T value;
      memcpy(&value, &pattern, sizeof value);
      x.push_back(value);
    }
  for (T scale : {T(1), T(8), T(128), T(1024)}) {
    const std::vector<T> more = numbers<T>(words, 8191, scale);
    x.insert(x.end(), more.begin(), more.end());
  }
  for (int32_t function = CHAINRULE_EXP; function <= CHAINRULE_COS; ++function) {
    Digest digest;
    std::vector<T> y(x.size(), 7);
    in_parts(x.size(), 997, [&](size_t begin, size_t end) {
      return KERNEL(map)(function, end - begin, &x[begin], &y[begin], &exec);
    });
    digest.add(y);
    line(std::string("map_") + names[function] + suffix<T>(), digest);
  }
}

template <class T> void logsumexp() {
  Words words{1805};
  Digest digest;
  const size_t rows = 157;
  for (size_t n : {0, 1, 7, 8, 9, 15, 16, 17, 63, 300}) {
    const size_t ld = n + 3;
    std::vector<T> x = numbers<T>(words, rows * ld, T(64)), y(rows, 7);
    for (size_t r = 0; r < 12; ++r) {  // hard rows: all of one kind, then mixed
      std::vector<T> row(ld, r < 3 ? -std::numeric_limits<T>::infinity() : T(r) * T(100));
      if (r > 5) sprinkle(words, row, 4, r < 9);
      std::copy(row.begin(), row.end(), x.begin() + ptrdiff_t(r * ld));
    }
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(logsumexp)(end - begin, n, &x[begin * ld], ld, &y[begin], &exec);
    });
    digest.add(y);
  }
  line(std::string("logsumexp") + suffix<T>(), digest);
}

// ---- Masked networks.

// One way round of a mask, from live(k, o).
struct Side {
  std::vector<uint32_t> words, spans, span_of = {0};
  template <class F> Side(size_t n_in, size_t n_out, F &&live) {
    for (size_t p = 0; 32 * p < n_out; ++p) {
      uint32_t before = 0;
      for (size_t k = 0; k < n_in; ++k) {
        uint32_t word = 0;
        for (size_t j = 0; j < 32 && 32 * p + j < n_out; ++j) word |= uint32_t(live(k, 32 * p + j)) << j;
        words.push_back(word);
        if (word && !before) spans.push_back(uint32_t(k)), spans.push_back(0);
        if (word) spans.back() = uint32_t(k + 1);
        before = word;
      }
      span_of.push_back(uint32_t(spans.size() / 2));
    }
    words.push_back(0), spans.push_back(0);  // never empty
  }
  chainrule_mask view() const { return {words.data(), spans.data(), span_of.data()}; }
};

// A masked matrix; dead weights, and those beyond the last output, are numbers that would be seen.
template <class T> struct Matrix {
  typedef std::conditional_t<std::is_same_v<T, float>, chainrule_linear_f32, chainrule_linear_f64> Linear;
  size_t n_in, n_out, ldw, panel;
  Side forward, backward;
  chainrule_mask mask, transposed;
  std::vector<T> W;
  template <class F>
  Matrix(Words &words, size_t n_in_, size_t n_out_, bool panels, T scale, F &&live)
      : n_in(n_in_), n_out(n_out_), ldw(panels ? 32 : n_out + 3), panel(panels ? 32 * n_in + 64 : 32), forward(n_in, n_out, live),
        backward(n_out, n_in, [&](size_t o, size_t k) { return live(k, o); }), mask(forward.view()), transposed(backward.view()),
        W(numbers<T>(words, panels ? (n_out + 31) / 32 * panel : n_in * ldw, scale)) {}
  Matrix(const Matrix &) = delete;
  Linear linear(bool dense = false) const {
    return {n_in, n_out, W.data(), ldw, panel, dense ? nullptr : &mask, dense ? nullptr : &transposed, nullptr, 0, 0};
  }
};

// The matrix that is kept as `matrix`, row k at rows[k], and is its transpose if `turned`.
template <class T> auto kept_as(const Matrix<T> &matrix, bool dense, const std::vector<uint32_t> &rows, bool turned) {
  auto w = matrix.linear(dense);
  if (turned) std::swap(w.n_in, w.n_out), std::swap(w.mask, w.transposed);
  w.rows = rows.data(), w.turned = turned, w.whole = true;
  return w;
}

// Rows of zeros and ones as indices.
struct Indices {
  size_t ld;
  std::vector<uint32_t> index, count;
  Indices(const std::vector<uint8_t> &x, size_t rows, size_t n, size_t ldx) : ld(n + 1), index(rows * ld, 7), count(rows) {
    for (size_t r = 0; r < rows; ++r)
      for (size_t k = 0; k < n; ++k)
        if (x[r * ldx + k]) index[r * ld + count[r]++] = uint32_t(k);
  }
  chainrule_ones from(size_t row) const { return {ld, &index[row * ld], &count[row]}; }
};

std::vector<uint32_t> permutation(Words &words, size_t n) {
  std::vector<uint32_t> order(n);
  for (size_t i = 0; i < n; ++i) {
    const size_t j = words.below(i + 1);
    order[i] = order[j], order[j] = uint32_t(i);
  }
  return order;
}

enum Shape { kDense, kStaircase, kRandom, kBlocks };
struct ProductCase {
  size_t rows, in, out;
  Shape shape;
  bool panels;
  int32_t activation;
};

// Tails of tiles, vectors and panels; more than one chunk of 256 inputs, outputs and rows; a row alone.
const ProductCase product_cases[] = {
    {1, 1, 1, kDense, false, CHAINRULE_IDENTITY},      {1, 600, 70, kRandom, false, CHAINRULE_TANH},
    {2, 300, 33, kStaircase, true, CHAINRULE_SIGMOID}, {23, 300, 300, kStaircase, true, CHAINRULE_RELU},
    {37, 65, 301, kRandom, false, CHAINRULE_IDENTITY}, {300, 290, 65, kStaircase, false, CHAINRULE_TANH},
    {515, 40, 33, kDense, true, CHAINRULE_SIGMOID},    {101, 577, 97, kBlocks, true, CHAINRULE_RELU},
    {90, 300, 300, kDense, false, CHAINRULE_RELU},
};

template <class T> void products() {
  Words words{2015 * 2}, more{2017 * 2};
  Digest forward, input, weight, sparse, sparse_weight, permuted, placed[2];
  for (const ProductCase &c : product_cases) {
    const size_t rows = c.rows, ldx = c.in + 2, ldy = c.out + 1;
    std::vector<uint32_t> degree(c.out), block((c.in / 19 + 1) * (c.out / 32 + 1));
    for (uint32_t &d : degree) d = uint32_t(words.below(c.in + 1));
    std::sort(degree.begin(), degree.end());
    for (uint32_t &b : block) b = words.below(2) > 0;
    const std::vector<uint8_t> tenth = bits(words, c.in * c.out, 25);
    const auto live = [&](size_t k, size_t o) {
      return c.shape == kStaircase ? k < degree[o] : c.shape == kRandom ? tenth[k * c.out + o] != 0
             : c.shape == kBlocks  ? block[k / 19 * (c.out / 32 + 1) + o / 32] != 0 : true;
    };
    const Matrix<T> w(words, c.in, c.out, c.panels, T(0.25), live);
    const auto linear = w.linear(c.shape == kDense);
    const std::vector<T> x = numbers<T>(words, rows * ldx, T(1)), dy = numbers<T>(words, rows * ldy, T(0.125)),
                         addend = numbers<T>(words, rows * ldy, T(1)), b = numbers<T>(words, c.out, T(1)),
                         h = numbers<T>(words, rows * ldx, T(1));
    const Indices ones(bits(words, rows * ldx, 70), rows, c.in, ldx);
    std::vector<T> y(rows * ldy, 7), dx(rows * ldx, 7), plain(rows * ldy, 7), ys(rows * ldy, 7);
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      const chainrule_ones part = ones.from(begin);
      check(KERNEL(sparse_linear)(&linear, end - begin, &part, &addend[begin * ldy], ldy, b.data(), c.activation, &ys[begin * ldy], ldy,
                                  &exec));
      check(KERNEL(masked_linear)(&linear, end - begin, &x[begin * ldx], ldx, nullptr, 0, nullptr, CHAINRULE_IDENTITY,
                                  &plain[begin * ldy], ldy, &exec));
      check(KERNEL(masked_linear)(&linear, end - begin, &x[begin * ldx], ldx, &addend[begin * ldy], ldy, b.data(), c.activation,
                                  &y[begin * ldy], ldy, &exec));
      return KERNEL(masked_linear_input_gradient)(&linear, end - begin, &dy[begin * ldy], ldy, &x[begin * ldx], ldx, &h[begin * ldx],
                                                  ldx, c.activation, &dx[begin * ldx], ldx, &exec);
    });
    forward.add(plain), forward.add(y), sparse.add(ys), input.add(dx);

    // Sums over rows belong to a batch: never split.
    std::vector<T> dW(w.W.size(), 7), db(c.out, 7);
    check(KERNEL(masked_linear_weight_gradient)(&linear, rows, x.data(), ldx, dy.data(), ldy, dW.data(), db.data(), &exec));
    weight.add(dW), weight.add(db);
    std::fill(dW.begin(), dW.end(), 7), std::fill(db.begin(), db.end(), 7);
    const chainrule_ones all_rows = ones.from(0);
    check(KERNEL(sparse_linear_weight_gradient)(&linear, rows, &all_rows, dy.data(), ldy, dW.data(), db.data(), &exec));
    sparse_weight.add(dW), sparse_weight.add(db);

    const Matrix<T> turned(more, c.out, c.in, c.panels, T(0.25), [&](size_t o, size_t k) { return live(k, o); });
    for (const bool turn : {false, true}) {
      const Matrix<T> &kept = turn ? turned : w;
      const std::vector<uint32_t> stands = permutation(more, kept.n_in);
      const auto at = kept_as(kept, c.shape == kDense, stands, turn);
      Digest &digest = placed[turn];
      check(KERNEL(masked_linear)(&at, rows, x.data(), ldx, &addend[0], ldy, b.data(), c.activation, y.data(), ldy, &exec));
      check(KERNEL(masked_linear_input_gradient)(&at, rows, dy.data(), ldy, nullptr, 0, h.data(), ldx, c.activation, dx.data(), ldx, &exec));
      dW.assign(kept.W.size(), 7);
      check(KERNEL(masked_linear_weight_gradient)(&at, rows, x.data(), ldx, dy.data(), ldy, dW.data(), db.data(), &exec));
      digest.add(y), digest.add(dx), digest.add(dW), digest.add(db);
      if (turn) continue;
      check(KERNEL(sparse_linear)(&at, rows, &all_rows, nullptr, 0, nullptr, CHAINRULE_IDENTITY, y.data(), ldy, &exec));
      check(KERNEL(sparse_linear_weight_gradient)(&at, rows, &all_rows, dy.data(), ldy, dW.data(), db.data(), &exec));
      digest.add(y), digest.add(dW), digest.add(db);
    }
    if (!c.panels) continue;
    permutation(words, c.in);  // words that the cases after this one have always come after
    const std::vector<uint32_t> columns = permutation(words, c.out);
    for (const bool back : {false, true}) {
      std::vector<T> there(w.W.size(), 7);
      check(KERNEL(permute_columns)(&linear, columns.data(), back, there.data(), &exec));
      permuted.add(there);
    }
  }
  line(std::string("masked_linear") + suffix<T>(), forward);
  line(std::string("masked_linear_input_gradient") + suffix<T>(), input);
  line(std::string("masked_linear_weight_gradient") + suffix<T>(), weight);
  line(std::string("sparse_linear") + suffix<T>(), sparse);
  line(std::string("sparse_linear_weight_gradient") + suffix<T>(), sparse_weight);
  line(std::string("linear_rows") + suffix<T>(), placed[0]);
  line(std::string("linear_turned") + suffix<T>(), placed[1]);
  line(std::string("permute_columns") + suffix<T>(), permuted);
}

struct NetworkCase {
  size_t features, largest, hidden, layers, rows;  // values of a variable: 1 to `largest`; 2: bits
  bool direct, residual, addend, order, reference, panels;
};
const NetworkCase network_cases[] = {
    {23, 2, 0, 0, 37, true, false, false, false, false, true},   {300, 2, 290, 1, 23, false, false, false, true, true, true},
    {40, 2, 70, 2, 37, true, false, true, true, true, false},    {37, 19, 300, 2, 29, true, true, false, true, true, true},
    {9, 256, 33, 3, 13, false, true, true, false, true, true},   {300, 3, 520, 1, 40, true, false, true, true, false, true},
};

template <class T> void networks() {
  constexpr bool single = std::is_same_v<T, float>;
  typedef std::conditional_t<single, chainrule_layer_f32, chainrule_layer_f64> Layer;
  typedef std::conditional_t<single, chainrule_network_f32, chainrule_network_f64> Network;
  Words words{2016};
  Digest digest, scores;
  for (const NetworkCase &c : network_cases) {
    const size_t n = c.features, rows = c.rows, ldx = n + 2;
    std::vector<uint32_t> values(n, 2), first = {0}, variable;  // by column; by step; of each unit
    if (c.largest > 2)
      for (uint32_t &k : values) k = uint32_t(1 + words.below(c.largest));
    const std::vector<uint32_t> order = permutation(words, n);
    std::vector<uint8_t> reference(n);
    for (size_t i = 0; i < n; ++i) reference[i] = uint8_t(words.below(values[i]));
    for (size_t i = 0; i < n; ++i) {
      const uint32_t k = values[c.order ? order[i] : i];
      first.push_back(first.back() + k - 1);
      variable.insert(variable.end(), k - 1, uint32_t(i));
    }
    const size_t units = first.back(), lda = std::max(units, c.hidden) + 1;
    std::vector<int32_t> ready(c.hidden);  // a unit of degree m sees the variables 0 to m; -1: none
    for (int32_t &m : ready) m = int32_t(words.below(n)) - 1;
    std::sort(ready.begin(), ready.end());
    auto input = [&](size_t k, size_t o) { return int32_t(variable[k]) <= ready[o]; };
    auto between = [&](size_t k, size_t o) { return ready[k] <= ready[o]; };
    auto output = [&](size_t k, size_t o) { return ready[k] < int32_t(variable[o]); };
    auto past = [&](size_t k, size_t o) { return variable[k] < variable[o]; };
    const Matrix<T> W1(words, units, c.hidden, c.panels, T(0.25), input), W2(words, c.hidden, c.hidden, c.panels, T(0.125), between),
        W3(words, c.hidden, c.hidden, c.panels, T(0.125), between), V(words, c.hidden, units, c.panels, T(0.25), output),
        A(words, units, units, c.panels, T(0.5), past);
    const std::vector<T> b = numbers<T>(words, lda, T(0.5)), addend = numbers<T>(words, rows * lda, T(0.5));
    const std::vector<double> u = uniforms(words, rows * ldx);
    const std::vector<uint8_t> observed = bits(words, rows * ldx, 100);
    std::vector<uint8_t> drawn(rows * ldx, 0), completed(rows * ldx);
    std::vector<double> log_prob(rows), terms(rows * n);
    for (size_t r = 0; r < rows; ++r)
      for (size_t i = 0; i < n; ++i) completed[r * ldx + i] = uint8_t(words.below(values[i]));
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      const T *added = c.addend ? &addend[begin * lda] : nullptr;
      const int32_t residual = c.residual;
      const Layer hidden[] = {{W1.linear(), b.data(), added, lda, CHAINRULE_RELU, 0, ready.data()},
                              {W2.linear(), b.data(), added, lda, CHAINRULE_TANH, residual, ready.data()},
                              {W3.linear(), nullptr, added, lda, CHAINRULE_SIGMOID, residual, ready.data()}};
      Network net = {};
      net.n_features = n, net.n_layers = c.layers, net.hidden = hidden;
      net.order = c.order ? order.data() : nullptr, net.reference = c.reference ? reference.data() : nullptr;
      net.first = c.largest > 2 ? first.data() : nullptr;
      net.output.b = b.data(), net.output.addend = added, net.output.lda = lda, net.output.activation = CHAINRULE_IDENTITY;
      if (c.layers) net.output.linear = V.linear();
      if (c.direct) net.direct = A.linear();
      check(KERNEL(masked_sample)(&net, end - begin, &u[begin * ldx], ldx, nullptr, &drawn[begin * ldx], ldx, &exec));
      check(KERNEL(masked_sample)(&net, end - begin, &u[begin * ldx], ldx, &observed[begin * ldx], &completed[begin * ldx], ldx, &exec));
      return KERNEL(masked_score)(&net, end - begin, &completed[begin * ldx], ldx, &log_prob[begin], &terms[begin * n], &exec);
    });
    digest.add(drawn), digest.add(completed), scores.add(log_prob), scores.add(terms);
  }
  line(std::string("masked_sample") + suffix<T>(), digest), line(std::string("masked_score") + suffix<T>(), scores);
}

// The elements of ascending ranges alone; work large enough for three threads.
template <class T> void live_ranges() {
  Words words{2014};
  Digest digest;
  const size_t n = 400003;
  std::vector<uint64_t> live;
  for (uint64_t at = 5; at < n;) {
    const uint64_t end = std::min<uint64_t>(n, at + words.below(40000));
    live.insert(live.end(), {at, end});
    at = end + words.below(5000);
  }
  for (int32_t rule : {CHAINRULE_MOMENTUM, CHAINRULE_ADAM}) {
    std::vector<T> p = numbers<T>(words, n, T(1)), s(n, T(0)), t(n, T(0)), average = p;
    for (int step = 1; step <= 2; ++step) {
      const std::vector<T> g = numbers<T>(words, n, T(0x1p-6));
      const chainrule_optimizer o = {rule, 0.001, 0.9, 0.999, 0.1 * step, 0.001 * step, 1e-8, 0.01, 0.003, 0.7, 0.9};
      check(KERNEL(optimizer_step)(&o, n, p.data(), g.data(), s.data(), t.data(), average.data(), live.size() / 2, live.data(), &exec));
    }
    digest.add(p), digest.add(s), digest.add(t), digest.add(average);
  }
  line(std::string("optimizer_step_live") + suffix<T>(), digest);
}

// ---- Activations in time.

// Weights in panels of 32 outputs, zeros beyond the last; `lane(j)`: whether a place of them is used.
template <class T, class F> std::vector<T> panels(Words &words, size_t count, size_t n_in, T scale, F &&lane) {
  std::vector<T> W = numbers<T>(words, count * n_in * 32, scale);
  for (size_t i = 0; i < W.size(); ++i)
    if (!lane(i / (n_in * 32) * 32 + i % 32)) W[i] = 0;
  return W;
}
template <class T> std::vector<T> panels(Words &words, size_t n_in, size_t n_out, T scale) {
  return panels<T>(words, (n_out + 31) / 32, n_in, scale, [&](size_t j) { return j < n_out; });
}

struct ConvCase {
  size_t width, dilation, in, out, steps, rows;
};
// Tails of tiles of 12 and of 96 steps, of panels and of chunks of 256 inputs and of 256 steps.
const ConvCase conv_cases[] = {
    {1, 1, 1, 1, 1, 1}, {2, 1, 33, 65, 97, 3}, {3, 7, 150, 31, 23, 2}, {5, 64, 16, 33, 300, 2}, {16, 2, 17, 5, 13, 1}, {2, 512, 64, 64, 530, 1},
};

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

// Rows of every tail, several chunks of 256 of them, and numbers that are hard on arithmetic.
template <class T> void layers() {
  Words words{2016};
  Digest norm, norm_gradient, curve, curve_gradient, dropped;
  for (const auto &[rows, n] : {std::array<size_t, 2>{1, 1}, {23, 17}, {7, 384}, {601, 33}, {257, 8}}) {
    const size_t ldx = n + 3, ldy = n + 1;
    std::vector<T> x = numbers<T>(words, rows * ldx, T(4)), gain = numbers<T>(words, n, T(2)), bias = numbers<T>(words, n, T(1)),
                   dy = numbers<T>(words, rows * ldy, T(1)), addend = numbers<T>(words, rows * ldx, T(1));
    if (n == 33) sprinkle(words, x, 2000, false);
    std::vector<T> y(rows * ldy, 7), statistics(rows * 2, 7), dx(rows * ldx, 7), dgain(n, 7), dbias(n, 7);
    in_parts(rows, 1, [&](size_t begin, size_t end) {
      return KERNEL(layer_norm)(end - begin, n, &x[begin * ldx], ldx, gain.data(), bias.data(), 1e-5, &y[begin * ldy], ldy,
                                &statistics[begin * 2], &exec);
    });
    norm.add(y), norm.add(statistics);
    for (const T *more : {static_cast<const T *>(nullptr), static_cast<const T *>(addend.data())}) {  // sums over rows: never split
      check(KERNEL(layer_norm_gradient)(rows, n, x.data(), ldx, gain.data(), statistics.data(), dy.data(), ldy, more, ldx, dx.data(), ldx,
                                        dgain.data(), dbias.data(), &exec));
      norm_gradient.add(dx), norm_gradient.add(dgain), norm_gradient.add(dbias);
    }
  }
  for (size_t n : {size_t(1), size_t(37), size_t(20003)}) {
    std::vector<T> x = numbers<T>(words, n, T(16)), dy = numbers<T>(words, n, T(1)), y(n, 7);
    sprinkle(words, x, 50, false);
    for (int32_t form : {CHAINRULE_GELU_TANH, CHAINRULE_GELU_ERF}) {
      in_parts(n, 7, [&](size_t begin, size_t end) { return KERNEL(gelu)(form, end - begin, &x[begin], &y[begin], &exec); });
      curve.add(y);
      in_parts(n, 7, [&](size_t begin, size_t end) { return KERNEL(gelu_gradient)(form, end - begin, &x[begin], &dy[begin], &y[begin], &exec); });
      curve_gradient.add(y);
    }
    const uint64_t key[2] = {words.next(), words.next()};
    for (double rate : {0.1, 0.75})
      for (uint64_t first : {uint64_t(0), uint64_t(1) << 40}) {
        in_parts(n, 16, [&](size_t begin, size_t end) {
          return KERNEL(dropout)(key, first + begin / 16, rate, end - begin, &x[begin], &y[begin], &exec);
        });
        dropped.add(y);
      }
  }
  line(std::string("layer_norm") + suffix<T>(), norm), line(std::string("layer_norm_gradient") + suffix<T>(), norm_gradient);
  line(std::string("gelu") + suffix<T>(), curve), line(std::string("gelu_gradient") + suffix<T>(), curve_gradient);
  line(std::string("dropout") + suffix<T>(), dropped);
}

// Vocabularies of a part of a vector to many blocks; draws with each limit and both, ties, equal and impossible values.
template <class T> void vocabularies() {
  Words words{2019};
  Digest score, gradient, sample;
  const chainrule_choice choices[] = {{1, 1, 0}, {0.75, 1, 0}, {0, 1, 0}, {1, 1, 5}, {1, 0.75, 0}, {1.5, 0.5, 40}, {1, 0.9999, 600}};
  for (const auto &[rows, n] : {std::array<size_t, 2>{3, 2}, {29, 17}, {23, 65}, {7, 300}, {3, 5003}})
    for (bool hard : {false, true}) {
      const size_t ld = n + 3;
      std::vector<T> z = numbers<T>(words, rows * ld, T(8));
      for (size_t k = 0; k < z.size(); k += 3) {  // equals, zeros of both signs
        const T whole = T(words.below(5));
        z[k] = words.below(2) ? whole : -whole;
      }
      std::vector<int32_t> target(rows), x(rows, 7);
      for (int32_t &t : target) t = int32_t(words.below(n));
      const std::vector<double> u = uniforms(words, rows);
      for (const chainrule_choice &choice : choices) {
        if (hard)
          for (size_t k = 0; k < z.size(); k += 7) z[k] = -std::numeric_limits<T>::infinity();
        in_parts(rows, 1, [&](size_t begin, size_t end) {
          return KERNEL(softmax_sample)(&choice, end - begin, n, &z[begin * ld], ld, &u[begin], &x[begin], &exec);
        });
        sample.add(x);
      }
      if (hard) sprinkle(words, z, 40, false);
      std::vector<T> weight = numbers<T>(words, rows, T(1)), d(rows * ld, 7);
      weight[0] = 0;
      std::vector<double> log_prob(rows, 7);
      in_parts(rows, 1, [&](size_t begin, size_t end) {
        return KERNEL(softmax_log_prob)(end - begin, n, &z[begin * ld], ld, &target[begin], &log_prob[begin], &exec);
      });
      score.add(log_prob);
      check(KERNEL(softmax_gradient)(rows, n, z.data(), ld, target.data(), nullptr, nullptr, d.data(), ld, &exec));
      in_parts(rows, 1, [&](size_t begin, size_t end) {
        return KERNEL(softmax_gradient)(end - begin, n, &z[begin * ld], ld, &target[begin], &weight[begin], &log_prob[begin], &z[begin * ld], ld, &exec);
      });
      gradient.add(d), gradient.add(log_prob), gradient.add(z);
    }
  line(std::string("softmax_log_prob") + suffix<T>(), score), line(std::string("softmax_gradient") + suffix<T>(), gradient);
  line(std::string("softmax_sample") + suffix<T>(), sample);
}

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

struct WavenetCase {
  size_t channels, skips, width, values, components, rows, steps, hop;
  std::vector<size_t> dilations;
  double temperature;
};

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

// ---- Transformers.

struct AttentionCase {
  size_t heads, kept, size, queries, keys, rows;
  bool causal, ragged, hard;
};
// Tails of vectors, panels, tiles of 6 and of 12 queries, blocks of 128 of them and chunks of 256 keys; more queries than keys.
const AttentionCase attention_cases[] = {
    {1, 1, 1, 1, 1, 1, true, false, false},     {3, 1, 15, 31, 33, 3, true, true, false},    {2, 2, 80, 13, 65, 2, false, true, false}, {4, 2, 24, 129, 257, 1, true, false, false},
    {2, 1, 33, 270, 530, 2, true, true, false}, {2, 2, 16, 140, 17, 2, true, true, false},   {1, 1, 64, 30, 300, 2, false, false, true}, {2, 1, 5, 290, 290, 2, true, false, true},
};

template <class T> void attentions() {
  constexpr bool single = std::is_same_v<T, float>;
  typedef std::conditional_t<single, chainrule_sequences_f32, chainrule_sequences_f64> Sequences;
  typedef std::conditional_t<single, chainrule_cache_f32, chainrule_cache_f64> Cache;
  Words words{1706};
  Digest forward, backward, steps;
  for (const AttentionCase &c : attention_cases) {
    const size_t ldq = c.heads * c.size + 3, ldk = c.kept * c.size + 1, all_q = (c.queries + 1) * ldq, all_k = (c.keys + 1) * ldk, all_s = c.heads * c.queries;
    std::vector<T> q = numbers<T>(words, c.rows * all_q, T(4)), k = numbers<T>(words, c.rows * all_k, T(1)), v = numbers<T>(words, c.rows * all_k, T(1)),
                   dy = numbers<T>(words, c.rows * all_q, T(1)), y(c.rows * all_q, 7), statistics(c.rows * all_s, 7), dq(c.rows * all_q, 7), dk(c.rows * all_k, 7),
                   dv(c.rows * all_k, 7);
    if (c.hard)
      for (std::vector<T> *part : {&q, &k, &v, &dy}) sprinkle(words, *part, 4000, false);
    std::vector<uint32_t> lengths(c.rows);
    for (uint32_t &n : lengths) n = uint32_t(words.below(c.keys + 1));
    const chainrule_attention attention = {c.heads, c.kept, c.size, 0.3, c.causal};
    auto part = [](std::vector<T> &of, size_t row, size_t all, size_t ld, size_t step = 0) { return Sequences{&of[row * all + step * ld], all, ld}; };
    in_parts(c.rows, 1, [&](size_t begin, size_t end) {
      const Sequences from = part(q, begin, all_q, ldq), keys = part(k, begin, all_k, ldk), values = part(v, begin, all_k, ldk), to = part(y, begin, all_q, ldq),
                      back = part(dy, begin, all_q, ldq), to_q = part(dq, begin, all_q, ldq), to_k = part(dk, begin, all_k, ldk), to_v = part(dv, begin, all_k, ldk);
      const uint32_t *n = c.ragged ? &lengths[begin] : nullptr;
      check(KERNEL(attention)(&attention, end - begin, c.queries, c.keys, n, &from, &keys, &values, &to, &statistics[begin * all_s], &exec));
      return KERNEL(attention_gradient)(&attention, end - begin, c.queries, c.keys, n, &from, &keys, &values, &to, &statistics[begin * all_s], &back, &to_q, &to_k,
                                        &to_v, &exec);
    });
    forward.add(y), forward.add(statistics), backward.add(dq), backward.add(dk), backward.add(dv);

    // The last queries as new steps after the keys before them, and then queries that look at all that is kept.
    const size_t fresh = std::min(c.queries, c.keys), before = c.keys - fresh, capacity = c.keys + 5, panels_size = c.kept * ((capacity + 31) / 32) * c.size * 32,
                 values_size = c.kept * capacity * ((c.size + 31) / 32 * 32);
    std::vector<T> kept_keys(c.rows * panels_size, 7), kept_values(c.rows * values_size, 7), first(c.rows * before * c.heads * c.size, 7),
                   ones(first.size(), 1);
    std::fill(y.begin(), y.end(), 7);
    std::vector<T> crossed = y;
    in_parts(c.rows, 1, [&](size_t begin, size_t end) {
      const Cache cache = {&kept_keys[begin * panels_size], &kept_values[begin * values_size], capacity};
      std::vector<uint32_t> at(end - begin, 0);
      const size_t ld = c.heads * c.size;
      const Sequences old_keys = part(k, begin, all_k, ldk), old_values = part(v, begin, all_k, ldk), query = {ones.data() + begin * before * ld, before * ld, ld},
                      to_first = {first.data() + begin * before * ld, before * ld, ld};
      check(KERNEL(attention_step)(&attention, end - begin, before, at.data(), &query, &old_keys, &old_values, &cache, &to_first, &exec));
      std::fill(at.begin(), at.end(), uint32_t(before));
      in_parts(fresh, 1, [&](size_t t, size_t stop) {
        const Sequences from = part(q, begin, all_q, ldq, c.queries - fresh + t), keys = part(k, begin, all_k, ldk, before + t),
                        values = part(v, begin, all_k, ldk, before + t), to = part(y, begin, all_q, ldq, c.queries - fresh + t);
        check(KERNEL(attention_step)(&attention, end - begin, c.causal ? stop - t : 0, at.data(), &from, &keys, &values, &cache, &to, &exec));
        for (uint32_t &n : at) n += uint32_t(stop - t);
        return CHAINRULE_OK;
      });
      const Sequences from = part(q, begin, all_q, ldq), to = part(crossed, begin, all_q, ldq);
      for (size_t r = begin; r < end; ++r) at[r - begin] = c.causal ? lengths[r] : uint32_t(std::min<size_t>(lengths[r], before));
      return KERNEL(attention_step)(&attention, end - begin, c.queries, at.data(), &from, nullptr, nullptr, &cache, &to, &exec);
    });
    for (const std::vector<T> *of : {&y, &crossed, &first, &kept_keys, &kept_values}) steps.add(*of);
  }
  line(std::string("attention") + suffix<T>(), forward), line(std::string("attention_gradient") + suffix<T>(), backward);
  line(std::string("attention_step") + suffix<T>(), steps);
}

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

struct TransformerCase {
  size_t blocks, heads, kept, size, width, hidden, values, rows, steps, seen;  // seen 0: no cross-attention
  int32_t activation, format;
  bool post_norm;
};

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

void encode() {
  Words words{1844};
  Digest digest;
  for (size_t n : {size_t(1), size_t(8), size_t(37), size_t(300)})
    for (size_t largest : {size_t(2), size_t(256)}) {
      const size_t rows = 601, ldx = n + 2, ldi = n + 1;
      const std::vector<uint32_t> order = permutation(words, n);
      std::vector<uint32_t> first = {0}, index(rows * ldi, 7), count(rows, 7);
      std::vector<uint8_t> values(n), reference(n), x(rows * ldx, 9), y(rows * ldx, 9);
      for (size_t i = 0; i < n; ++i) values[i] = uint8_t(largest == 2 ? 1 : words.below(largest)), reference[i] = uint8_t(words.below(values[i] + 1u));
      for (size_t i = 0; i < n; ++i) first.push_back(first.back() + values[order[i]]);
      for (size_t r = 0; r < rows; ++r)
        for (size_t i = 0; i < n; ++i) x[r * ldx + i] = uint8_t(words.below(values[i] + 1u));
      in_parts(rows, 1, [&](size_t begin, size_t end) {
        return api->encode(end - begin, n, &x[begin * ldx], ldx, order.data(), reference.data(), largest == 2 ? nullptr : first.data(),
                           &y[begin * ldx], ldx, &index[begin * ldi], ldi, &count[begin], &exec);
      });
      digest.add(y), digest.add(index), digest.add(count);
      in_parts(rows, 1, [&](size_t begin, size_t end) {
        return api->encode(end - begin, n, &x[begin * ldx], ldx, nullptr, nullptr, nullptr, &y[begin * ldx], ldx, nullptr, 0, nullptr, &exec);
      });
      digest.add(y);
    }
  line("encode", digest);
}

void uniforms() {
  Digest digest;
  const uint64_t key[2] = {0x0123456789ABCDEFu, 0xFEDCBA9876543210u};
  std::vector<double> u(20003, 7);
  for (uint64_t first : {uint64_t(0), uint64_t(1) << 40}) {
    in_parts(u.size(), 4, [&](size_t begin, size_t end) {
      return api->uniforms(key, first + begin / 4, end - begin, &u[begin], &exec);
    });
    digest.add(u);
  }
  line("uniforms", digest);
}

void flush_denormals() {
#if defined(__x86_64__)
  _mm_setcsr(0x1F80 | 0x8040);  // IEEE defaults, but flush to zero, denormals are zero
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(uint64_t(1) << 24));
#endif
}

template <class T> void kernels() {
  nade<T>("sigmoid", CHAINRULE_SIGMOID), nade<T>("relu", CHAINRULE_RELU), nade<T>("tanh", CHAINRULE_TANH);
  bernoulli<T>(), categorical<T>(), optimizers<T>(), map<T>(), logsumexp<T>();
  nade_categorical<T>("sigmoid", CHAINRULE_SIGMOID), nade_categorical<T>("relu", CHAINRULE_RELU);
  nade_categorical<T>("tanh", CHAINRULE_TANH);
  products<T>(), networks<T>(), live_ranges<T>(), logistic_mixture<T>();
  convolutions<T>(), gated_blocks<T>(), embeddings<T>(), generation<T>();
  layers<T>(), vocabularies<T>(), turned_embeddings<T>();
  attentions<T>(), packed_products<T>(), transformers<T>();
}

}  // namespace

int main(int argc, char **argv) {
  exec.n_threads = argc > 1 ? atoi(argv[1]) : 0;
  rows_at_once = argc > 2 ? size_t(atoi(argv[2])) : 0;
  api = chainrule_get_api(CHAINRULE_ABI_VERSION);
  if (!api) {
    fprintf(stderr, "%s\n", chainrule_load_error());
    return 2;
  }
  fprintf(stderr, "chainrule %s, %s\n", api->version, api->isa);
  flush_denormals();
  kernels<float>(), kernels<double>(), uniforms(), encode();
  line("all", all);
}
