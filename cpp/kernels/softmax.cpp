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
// stay, in double. a is more likely than b where z_a > z_b, or z_a = z_b and a < b. Either limit is the largest logit t for which
// enough tokens, or enough mass, have z >= t. Masses are integers, exponentials in units of 2^-40, so that their sums are exact
// in any order; n_values <= 2^22. Fan, Lewis & Dauphin 2018 (top-k), Holtzman et al. 2020 (top-p).
// Cost: an exponential of double and an addition a token that stays; a limit some walks over the row.
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
// Workspace of a row, in whole blocks.
struct Room {
  double *sums;      // before each block
  double *mass;      // the bits of integers
  Real *z, *window;  // of what is left; of the search for a limit
  uint32_t *index;
};
CHAINRULE_INLINE size_t in_blocks(size_t n) { return (n / kBlock + 2) * kBlock; }
CHAINRULE_INLINE size_t room_size(size_t n) { return in_blocks(n) * (2 * sizeof(double) + 2 * sizeof(Real) + sizeof(uint32_t)); }
CHAINRULE_INLINE Room room_at(char *p, size_t n) {
  const size_t whole = in_blocks(n);
  double *numbers = reinterpret_cast<double *>(p);
  Real *z = reinterpret_cast<Real *>(numbers + 2 * whole);
  return {numbers, numbers + whole, z, z + whole, reinterpret_cast<uint32_t *>(z + 2 * whole)};
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
template <class T> CHAINRULE_INLINE size_t lanes_sum(IVec<T> v) {
  size_t sum = 0;
  for (int q = 0; q < IVec<T>::regs; ++q)
    for (int j = 0; j < Vec<T>::reg_width; ++j) sum += size_t(v.r[q][j]);
  return sum;
}
CHAINRULE_INLINE size_t mass_of(double bits) {
  size_t mass;
  __builtin_memcpy(&mass, &bits, sizeof bits);
  return mass;
}
// How many have z >= t; a NaN never does.
CHAINRULE_INLINE size_t count_from(size_t n, const Real *z, Real t) {
  constexpr size_t step = 4 * kWidth;
  IVec<Real> count[4];
  for (int j = 0; j < 4; ++j) count[j] = iset1<Real>(0);
  size_t k = 0;
  for (; k + step <= n; k += step)
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) count[j] = count[j] - (load(z + k + j * kWidth) >= set1(t));  // a mask is -1
  for (; k < n; k += kWidth) count[0] = count[0] - (load_filled(z + k, smaller(n - k, kWidth), not_a_number<Real>) >= set1(t));
  return lanes_sum((count[0] + count[1]) + (count[2] + count[3]));
}
// Their mass.
CHAINRULE_INLINE size_t mass_from(size_t n, const Real *z, const double *mass, Real t) {
  IVec<double> sum[2] = {iset1<double>(0), iset1<double>(0)};
  const Vec<double> from = set1(double(t));
  size_t k = 0, rest = 0;
  for (; k + 16 <= n; k += 16)
#pragma GCC unroll 2
    for (size_t j = 0; j < 2; ++j) sum[j] = sum[j] + ((load_double(z + k + 8 * j) >= from) & bits(load(mass + k + 8 * j)));
  for (; k < n; ++k) rest += z[k] >= t ? mass_of(mass[k]) : 0;
  return lanes_sum(sum[0] + sum[1]) + rest;
}

// f(v, holds(z_v)) for all v, ascending, but for those among 64 of which none holds.
template <class H, class F> CHAINRULE_INLINE void for_some(size_t n, const Real *z, H &&holds, F &&f) {
  for (size_t start = 0; start < n; start += 64) {
    const size_t count = smaller(n - start, 64);
    uint8_t held[64] = {};
    if (count == 64)
      for (size_t j = 0; j < 64; ++j) held[j] = holds(z[start + j]);
    else
      for (size_t j = 0; j < count; ++j) held[j] = holds(z[start + j]);
    uint64_t eight[8], any = 0;
    __builtin_memcpy(eight, held, sizeof held);
    for (uint64_t word : eight) any |= word;
    for (size_t j = 0; any && j < count; ++j) f(start + j, size_t(held[j]));
  }
}

// The largest logit t that enough of a row reaches: `need` tokens with z >= t, or of them that mass; above: those of z > t. mass
// NULL: tokens count. Their z in between are halved, by value and by place in turn: the first suits logits, the second bounds the
// number of walks. What is outside the bracket leaves the window, which mass stands for and becomes.
struct Limit {
  Real t;
  size_t above, left;  // left: of the window, which has all tokens with z = t
};
Limit find_limit(size_t n, const Real *z, double *mass, size_t need, Real *window) {
  Vec<Real> least = set1(infinity<Real>);
  for (size_t k = 0; k < n; k += kWidth) least = min(least, load_filled(z + k, smaller(n - k, kWidth), infinity<Real>));
  Place low = place_of(infinity<Real>), high = low + 1;
  for (int q = 0; q < Vec<Real>::regs; ++q)
    for (int j = 0; j < Vec<Real>::reg_width; ++j)
      if (const Place place = place_of(least.r[q][j]); place < low) low = place;
  size_t above = 0, gone = 0;  // what has z >= high; what of it has left the window
  for (bool by_value = true;; by_value = !by_value) {
    Place middle = (low & high) + ((low ^ high) >> 1);
    if (middle == low) return {number_at(low), above, n};
    if (by_value)
      if (const Place place = place_of(Real(0.5) * number_at(low) + Real(0.5) * number_at(high)); low < place && place < high) middle = place;
    const Real t = number_at(middle);
    const size_t count = count_from(n, z, t), reached = gone + (mass ? mass_from(n, z, mass, t) : count);
    const bool enough = reached >= need;
    if (enough) low = middle;
    else high = middle, above = reached;
    if (2 * (enough ? count : n - count) > n) continue;
    size_t left = 0;
    for_some(n, z, [=](Real x) { return (x >= t) == enough; }, [&](size_t v, size_t stays) {
      window[left] = z[v];
      if (mass) mass[left] = mass[v];
      left += stays;
    });
    z = window, n = left, gone = enough ? gone : above;
  }
}

// The tokens with z > t, and the first `ties` of those with z = t.
Tokens keep(const Tokens &tokens, Real t, size_t ties, const Room &room) {
  size_t reached = 0, n = 0;
  for_some(tokens.n, tokens.z, [=](Real z) { return z >= t; }, [&](size_t v, size_t stays) {
    room.z[reached] = tokens.z[v], room.index[reached] = tokens.index ? tokens.index[v] : uint32_t(v);
    reached += stays;
  });
  for (size_t v = 0; v < reached; ++v) {
    const bool tie = room.z[v] == t;
    if (tie && !ties) continue;
    ties -= tie;
    room.z[n] = room.z[v], room.index[n] = room.index[v], ++n;
  }
  return {n, room.z, room.index};
}

Tokens keep_top_k(const Tokens &tokens, size_t k, const Room &room) {
  const Limit limit = find_limit(tokens.n, tokens.z, nullptr, k, room.window);
  return keep(tokens, limit.t, k - limit.above, room);
}

Tokens keep_top_p(const Tokens &tokens, Scale scale, double top_p, const Room &room) {
  size_t total = 0;
  for (size_t start = 0; start < tokens.n; start += kBlock) {
    double *mass = room.mass + start;
    add_block(tokens, scale, start, 0, mass);
    IVec<double> sum = iset1<double>(0);
    for (size_t k = 0; k < smaller(tokens.n - start, kBlock); k += 8) {
      const Vec<double> units = fma(load(mass + k), set1(0x1p40), set1(shifter<double>));
      const IVec<double> whole = bits(units) - bits(set1(shifter<double>));
      store(mass + k, from_bits(whole));
      sum = sum + whole;
    }
    total += lanes_sum(sum);
  }
  const double share = top_p * double(total);
  size_t need = size_t(share);
  need = smaller(need + (double(need) < share), total);
  const Limit limit = find_limit(tokens.n, tokens.z, room.mass, need, room.window);
  const Real *z = limit.left < tokens.n ? room.window : tokens.z;
  size_t v = 0;
  while (v + 1 < limit.left && !(z[v] == limit.t)) ++v;
  const size_t each = mass_of(room.mass[v]);  // of every token with z = t
  return keep(tokens, limit.t, each ? (need - limit.above + each - 1) / each : 0, room);
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
