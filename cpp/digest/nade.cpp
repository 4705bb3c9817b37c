// NADE over bits, and over categories: scores, gradients and samples.
#include "digest.hpp"

namespace proof {
namespace {

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

template <class T> void activated_nade(const char *activation_name, int32_t activation) {
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

}  // namespace

template <class T> void nade() {
  activated_nade<T>("sigmoid", CHAINRULE_SIGMOID), activated_nade<T>("relu", CHAINRULE_RELU), activated_nade<T>("tanh", CHAINRULE_TANH);
}
BOTH_PRECISIONS(nade)

namespace {

// Columns of one value to 256, chunks of units that end inside a variable, several chunks of rows, rows of every tile.
template <class T> void activated_nade_categorical(const char *activation_name, int32_t activation) {
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

}  // namespace

template <class T> void nade_categorical() {
  activated_nade_categorical<T>("sigmoid", CHAINRULE_SIGMOID), activated_nade_categorical<T>("relu", CHAINRULE_RELU), activated_nade_categorical<T>("tanh", CHAINRULE_TANH);
}
BOTH_PRECISIONS(nade_categorical)

}  // namespace proof
