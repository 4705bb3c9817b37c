// The categorical conditional with a logit for every value: cross-entropy and its gradient over vocabularies of any size, and
// the sampler of language models.
//
//   log p(v) = (z_v - m) - log s,  s = sum_w exp(z_w - m),  m = max_w z_w
//   d(-weight log p(t)) / d z_v = exp(z_v - m) (weight / s) - weight [v = t]
//
// logits: [n_rows][n_values], a target each. Exponentials wait in dlogits, so that the gradient needs no copy of the logits.
// Cost: an exponential a logit; a read of memory and a write, as a row stays in cache between its walks.
//
// softmax_sample divides logits by a temperature, keeps the top_k most likely tokens, then of those the smallest set whose mass
// reaches top_p, and draws x = the smallest v that stays with u s < the sum of exp((z_w - m) / temperature) over w <= v that
// stay, in double. a is more likely than b where z_a > z_b, or z_a = z_b and a < b. Both limits are bisections over the bits
// of a logit t: of how many tokens have z >= t, and of their mass. Masses are integers, exponentials in units of 2^-40, so
// that their sums are exact in any order. n_values < 2^22. Holtzman et al. 2020 (top-p), Fan et al. 2018 (top-k).
// Cost: an exponential of double and an addition a token; 32 walks (double: 64) for a limit.
#include "softmax.hpp"

#include "panels.hpp"

namespace chainrule {
namespace {

constexpr size_t kPiece = 4096;  // elements a thread takes at a time
constexpr double kWork = 20;     // multiply-adds that cost as much as one exponential
CHAINRULE_INLINE size_t rows_of_piece(size_t n_values) { return kPiece / n_values + 1; }

// log p of rows that share a logarithm, from z_t - m and s.
struct Terms {
  Real chosen[kWidth] = {}, sum[kWidth] = {};
  CHAINRULE_INLINE void put(double *log_prob, size_t rows) const {
    Real log_p[kWidth];
    store(log_p, load(chosen) - log(load(sum)));
    for (size_t k = 0; k < rows; ++k) log_prob[k] = double(log_p[k]);
  }
};

// ---- The sampler

constexpr size_t kBlock = 256;  // tokens whose exponentials are in cache together

// What is left of a row: z_v of token index[v] (NULL: v), tokens in ascending order.
struct Tokens {
  size_t n;
  const Real *z;
  const uint32_t *index;
};
struct Scale {
  Real m;
  double inverse;  // of the temperature
};
// Room for what is left, whole vectors of it.
struct Room {
  double *sums;     // before each block
  double *mass;     // the bits of integers
  Real *z;
  uint32_t *index;
};
CHAINRULE_INLINE size_t padded_tokens(size_t n) { return (n + 2 * kBlock - 1) / kBlock * kBlock; }
CHAINRULE_INLINE size_t room_size(size_t n) {
  return (n / kBlock + 2) * 8 + padded_tokens(n) * (sizeof(double) + sizeof(Real) + sizeof(uint32_t)) + 256;
}
CHAINRULE_INLINE Room room_at(char *p, size_t n) {
  const size_t whole = padded_tokens(n);
  Room room;
  room.mass = reinterpret_cast<double *>(p);
  room.z = reinterpret_cast<Real *>(p + whole * sizeof(double));
  room.index = reinterpret_cast<uint32_t *>(room.z + whole);
  room.sums = reinterpret_cast<double *>(room.index + whole);
  return room;
}

// The most likely token: the first of the largest logits.
CHAINRULE_INLINE size_t most_likely(size_t n, const Real *z) {
  Real top = -infinity<Real>;
  size_t v = 0;
  for (size_t start = 0; start < n; start += kPiece)
    if (const Real m = row_max(smaller(n - start, kPiece), z + start); m > top) top = m, v = start;
  while (v + 1 < n && !(z[v] == top)) ++v;
  return v;
}

// Exponentials of the block from `start` on, zeros after the last token; returns s and all of them, added one by one.
CHAINRULE_INLINE double add_block(const Tokens &tokens, Scale scale, size_t start, double s, double *e) {
  const size_t count = smaller(tokens.n - start, kBlock);
  const Vec<double> m = set1(double(scale.m)), inverse = set1(scale.inverse);
  size_t k = 0;
  for (; k + 8 <= count; k += 8) store(e + k, (load_double(tokens.z + start + k) - m) * inverse);
  for (; k < count; ++k) e[k] = (double(tokens.z[start + k]) - double(scale.m)) * scale.inverse;
  for (; k % 16; ++k) e[k] = -infinity<double>;
  for (k = 0; k < count; k += 16) {
    store(e + k, exp(load<double, 2>(e + k)));
#pragma GCC unroll 16
    for (size_t j = 0; j < 16; ++j) s += e[k + j];
  }
  return s;
}
// The smallest v with u s < e_0 + ... + e_v, else the last one.
CHAINRULE_INLINE size_t draw(const Tokens &tokens, Scale scale, double u, double *sums) {
  double e[kBlock], s = 0;
  size_t blocks = 0;
  for (size_t start = 0; start < tokens.n; start += kBlock) {
    sums[blocks++] = s;
    s = add_block(tokens, scale, start, s, e);
  }
  const double target = u * s;
  size_t block = 0;
  while (block + 1 < blocks && !(target < sums[block + 1])) ++block;
  add_block(tokens, scale, block * kBlock, 0, e);
  double sum = sums[block];
  for (size_t v = block * kBlock; v + 1 < tokens.n && v < (block + 1) * kBlock; ++v)
    if (sum += e[v - block * kBlock]; target < sum) return v;
  return tokens.n - 1;
}

// A number's place in the order of all numbers, and the number at a place.
typedef Native<Real>::integer Place;
CHAINRULE_INLINE Place flipped(Place i) { return i ^ (i >> (8 * sizeof(Real) - 1) & ~Format<Real>::sign); }
CHAINRULE_INLINE Place place_of(Real x) {
  Place i;
  __builtin_memcpy(&i, &x, sizeof x);
  return flipped(i);
}
CHAINRULE_INLINE Real number_at(Place place) {
  const Place i = flipped(place);
  Real x;
  __builtin_memcpy(&x, &i, sizeof x);
  return x;
}
// The largest number that holds, for a condition that -infinity meets and no number above the first one that fails.
template <class F> CHAINRULE_INLINE Place largest_place(F &&holds) {
  Place low = place_of(-infinity<Real>), high = place_of(infinity<Real>) + 1;
  for (;;) {
    const Place middle = (low & high) + ((low ^ high) >> 1);
    if (middle == low) return low;
    (holds(number_at(middle)) ? low : high) = middle;
  }
}

template <class T> CHAINRULE_INLINE size_t lanes_sum(IVec<T> v) {
  size_t sum = 0;
  for (int q = 0; q < IVec<T>::regs; ++q)
    for (int j = 0; j < Vec<T>::reg_width; ++j) sum += size_t(v.r[q][j]);
  return sum;
}
// How many have z >= t; a NaN never does.
CHAINRULE_INLINE size_t count_from(const Tokens &tokens, Real t) {
  constexpr size_t step = 4 * kWidth;
  IVec<Real> count[4];
  for (int j = 0; j < 4; ++j) count[j] = iset1<Real>(0);
  size_t k = 0;
  for (; k + step <= tokens.n; k += step)
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) count[j] = count[j] - (load(tokens.z + k + j * kWidth) >= set1(t));  // a mask is -1
  for (; k < tokens.n; k += kWidth)
    count[0] = count[0] - (load_filled(tokens.z + k, smaller(tokens.n - k, kWidth), not_a_number<Real>) >= set1(t));
  return lanes_sum((count[0] + count[1]) + (count[2] + count[3]));
}
// Their mass. z and mass are readable to whole vectors, NaN and 0 there.
CHAINRULE_INLINE size_t mass_from(const Tokens &tokens, const double *mass, Real t) {
  IVec<double> sum[2] = {iset1<double>(0), iset1<double>(0)};
  const Vec<double> from = set1(double(t));
  for (size_t k = 0; k < tokens.n; k += 16)
#pragma GCC unroll 2
    for (size_t j = 0; j < 2; ++j) {
      const IVec<double> reached = load_double(tokens.z + k + 8 * j) >= from;
      sum[j] = sum[j] + (reached & bits(load(mass + k + 8 * j)));
    }
  return lanes_sum(sum[0] + sum[1]);
}

// The tokens with z > t, and the first `ties` of those with z = t.
CHAINRULE_INLINE Tokens keep(const Tokens &tokens, Real t, size_t ties, const Room &room) {
  size_t n = 0;
  for (size_t v = 0; v < tokens.n; ++v) {
    const Real z = tokens.z[v];
    const size_t tie = size_t(z == t) & size_t(ties > 0);
    room.z[n] = z, room.index[n] = tokens.index ? tokens.index[v] : uint32_t(v);
    ties -= tie, n += size_t(z > t) | tie;
  }
  return {n, room.z, room.index};
}

CHAINRULE_INLINE Tokens keep_top_k(const Tokens &tokens, size_t k, const Room &room) {
  const Place place = largest_place([&](Real t) __attribute__((always_inline)) { return count_from(tokens, t) >= k; });
  return keep(tokens, number_at(place), k - count_from(tokens, number_at(place + 1)), room);
}

CHAINRULE_INLINE Tokens keep_top_p(const Tokens &tokens, Scale scale, double top_p, const Room &room) {
  constexpr double unit = 0x1p40, shift = shifter<double>;
  size_t total = 0;
  for (size_t start = 0; start < tokens.n; start += kBlock) {
    double *mass = room.mass + start;
    add_block(tokens, scale, start, 0, mass);
    IVec<double> sum = iset1<double>(0);
    for (size_t k = 0; k < smaller(tokens.n - start, kBlock); k += 8) {
      const IVec<double> whole = bits(fma(load(mass + k), set1(unit), set1(shift))) - bits(set1(shift));
      store(mass + k, from_bits(whole));
      sum = sum + whole;
    }
    total += lanes_sum(sum);
  }
  const double share = top_p * double(total);
  size_t need = size_t(share);
  need = smaller(need + (double(need) < share), total);

  // Tokens of so little mass that all of them have less than is left out: half of that, as exponentials of neighbours may be
  // out of order by their rounding.
  const size_t nothing = (total - need) / (2 * tokens.n);
  Tokens likely = {0, room.z, room.index};
  for (size_t v = 0; v < tokens.n; ++v) {
    const double mass = room.mass[v];
    size_t number;
    __builtin_memcpy(&number, &mass, sizeof mass);
    room.mass[likely.n] = mass, room.z[likely.n] = tokens.z[v], room.index[likely.n] = tokens.index ? tokens.index[v] : uint32_t(v);
    likely.n += number > nothing || !nothing;
  }
  for (size_t k = 0; k < 16; ++k) room.z[likely.n + k] = not_a_number<Real>, room.mass[likely.n + k] = 0;

  const Place place = largest_place([&](Real t) __attribute__((always_inline)) { return mass_from(likely, room.mass, t) >= need; });
  const Real t = number_at(place);
  const size_t above = mass_from(likely, room.mass, number_at(place + 1)), with = mass_from(likely, room.mass, t);
  size_t equal = 0;
  for (size_t v = 0; v < likely.n; ++v) equal += likely.z[v] == t;
  const size_t each = equal ? (with - above) / equal : 0;  // they have one mass
  return keep(likely, t, each ? (need - above + each - 1) / each : 0, room);
}

}  // namespace

CHAINRULE_KERNEL(softmax_log_prob)(size_t n_rows, size_t n_values, const Real *logits, size_t ldl, const int32_t *target,
                                   double *log_prob, const chainrule_exec *exec) {
  const size_t grain = rows_of_piece(n_values);
  const int threads = plan_threads(exec, (n_rows + grain - 1) / grain, double(n_rows) * double(n_values + kWidth) * kWork);
  return for_each(exec, threads, n_rows, grain, [=](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; r += kWidth) {
      const size_t rows = smaller(end - r, kWidth);
      Terms terms;
      for (size_t k = 0; k < rows; ++k) {
        const Real *z = logits + (r + k) * ldl;
        const RowSum row = max_and_sum(n_values, z);
        terms.chosen[k] = z[target[r + k]] - row.m, terms.sum[k] = row.s;
      }
      terms.put(log_prob + r, rows);
    }
  });
}

CHAINRULE_KERNEL(softmax_gradient)(size_t n_rows, size_t n_values, const Real *logits, size_t ldl, const int32_t *target,
                                   const Real *weight, double *log_prob, Real *dlogits, size_t ldd, const chainrule_exec *exec) {
  const size_t grain = rows_of_piece(n_values);
  const int threads = plan_threads(exec, (n_rows + grain - 1) / grain, double(n_rows) * double(n_values + kWidth) * kWork);
  return for_each(exec, threads, n_rows, grain, [=](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; r += kWidth) {
      const size_t rows = smaller(end - r, kWidth);
      Terms terms;
      for (size_t k = 0; k < rows; ++k) {
        const Real *z = logits + (r + k) * ldl;
        Real *d = dlogits + (r + k) * ldd;
        const size_t t = size_t(target[r + k]);
        const Real chosen = z[t];
        const RowSum row = max_and_sum(n_values, z, [=](size_t v, int lanes, Vec<Real> e) __attribute__((always_inline)) {
          if (lanes == int(kWidth)) store(d + v, e);
          else store_part(d + v, e, lanes);
        });
        terms.chosen[k] = chosen - row.m, terms.sum[k] = row.s;
        const Real w = weight ? weight[r + k] : Real(1) / Real(n_rows);
        const Vec<Real> scale = set1(w / row.s);
        for (size_t v = 0; v < n_values; v += kWidth) {
          const int lanes = lanes_at(v, n_values);
          store_part(d + v, w == 0 ? zero<Real>() : load_part(d + v, lanes) * scale, lanes);
        }
        d[t] -= w;
      }
      if (log_prob) terms.put(log_prob + r, rows);
    }
  });
}

CHAINRULE_KERNEL(softmax_sample)(const chainrule_choice *choice, size_t n_rows, size_t n_values, const Real *logits, size_t ldl,
                                 const double *u, int32_t *x, const chainrule_exec *exec) {
  const double temperature = choice->temperature, top_p = choice->top_p;
  const size_t top_k = choice->top_k, grain = rows_of_piece(n_values), size = room_size(n_values);
  const int threads = plan_threads(exec, (n_rows + grain - 1) / grain, double(n_rows) * double(n_values + kWidth) * 2 * kWork);
  char *memory = static_cast<char *>(arena(size_t(threads) * size));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, n_rows, grain, [=](size_t begin, size_t end, int worker) {
    const Room room = room_at(memory + size_t(worker) * size, n_values);
    const double inverse = 1 / temperature;
    const bool certain = !(inverse < infinity<double>) || top_k == 1 || top_p == 0;
    for (size_t r = begin; r < end; ++r) {
      Tokens tokens = {n_values, logits + r * ldl, nullptr};
      size_t v = most_likely(tokens.n, tokens.z);
      if (!certain) {
        const Scale scale = {tokens.z[v], inverse};
        if (top_k && top_k < tokens.n) tokens = keep_top_k(tokens, top_k, room);
        if (top_p < 1 && tokens.n) tokens = keep_top_p(tokens, scale, top_p, room);
        if (tokens.n) v = draw(tokens, scale, u[r], room.sums);
        if (tokens.n && tokens.index) v = tokens.index[v];
      }
      x[r] = int32_t(v);
    }
  });
}

}  // namespace chainrule
