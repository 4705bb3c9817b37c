// Bits, categories and mixtures of logistics from their parameters: scores, gradients and draws.
#include "digest.hpp"

namespace proof {

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
BOTH_PRECISIONS(bernoulli)

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
BOTH_PRECISIONS(categorical)

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
BOTH_PRECISIONS(logistic_mixture)

}  // namespace proof
