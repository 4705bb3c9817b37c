// Layers of Transformers: norms, GELU, dropout, and the softmax over a vocabulary.
#include <array>

#include "digest.hpp"

namespace proof {

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
BOTH_PRECISIONS(layers)

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
BOTH_PRECISIONS(vocabularies)

}  // namespace proof
