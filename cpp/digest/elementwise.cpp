// Functions of every number, sums along rows, optimizers' steps and random words.
#include <string.h>

#include "digest.hpp"

namespace proof {

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
BOTH_PRECISIONS(optimizers)

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
BOTH_PRECISIONS(live_ranges)

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
BOTH_PRECISIONS(map)

template <class T> void logsumexp() {
  Words words{1805};
  Digest digest;
  const size_t rows = 157;
  for (size_t n : {0, 1, 7, 8, 9, 15, 16, 17, 63, 300}) {
    const size_t ld = n + 3;
    std::vector<T> x = numbers<T>(words, rows * ld, T(64)), y(rows, 7), row;
    for (size_t r = 0; r < 12; ++r) {  // hard rows: all of one kind, then mixed
      row.assign(ld, r < 3 ? -std::numeric_limits<T>::infinity() : T(r) * T(100));
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
BOTH_PRECISIONS(logsumexp)

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

}  // namespace proof
