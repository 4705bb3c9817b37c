// Attention: all at once, its gradient, and step by step over kept keys and values.
#include "check.hpp"

namespace chainrule::CHAINRULE_ISA {
KERNEL(attention);
KERNEL(attention_gradient);
KERNEL(attention_step);
}  // namespace chainrule::CHAINRULE_ISA

namespace {

// Heads of queries and of keys, head size, queries, keys, rows; keys of row r: all but 3 r of them, where they are ragged.
struct Heads {
  size_t n, kept, d, queries, keys, rows;
  int32_t causal;
  bool ragged;
  Floats q, k, v, dy;
  std::vector<uint32_t> lengths;
  Doubles y, sums, dq, dk, dv;
  Heads(size_t heads, size_t n_kept, size_t size, size_t n_queries, size_t n_keys, size_t n_rows, bool is_causal, bool is_ragged)
      : n(heads), kept(n_kept), d(size), queries(n_queries), keys(n_keys), rows(n_rows), causal(is_causal), ragged(is_ragged), q(floats(rows * queries * n * d, 4)),
        k(floats(rows * keys * kept * d, 4)), v(floats(rows * keys * kept * d, 2)), dy(floats(q.size(), 2)), y(q.size()), sums(rows * n * queries), dq(q.size()),
        dk(k.size()), dv(k.size()) {
    for (size_t r = 0; r < rows; ++r) lengths.push_back(uint32_t(ragged ? keys - 3 * r : keys));
    Doubles part, p;
    for (size_t r = 0; r < rows; ++r)
      for (size_t h = 0; h < n; ++h)
        for (size_t t = 0; t < queries; ++t) {
          const size_t g = h / (n / kept), at = (r * queries + t) * n * d + h * d;
          auto of = [&](size_t j, size_t c) { return (r * keys + j) * kept * d + g * d + c; };
          const size_t seen = !causal ? lengths[r] : lengths[r] + t + 1 > queries ? lengths[r] + t + 1 - queries : 0;
          sums[(r * n + h) * queries + t] = attend(seen, d, scale(), [&](size_t c) { return double(q[at + c]); }, [&](size_t j, size_t c) { return k[of(j, c)]; },
                                                   [&](size_t j, size_t c) { return v[of(j, c)]; }, part, p);
          double D = 0;
          for (size_t c = 0; c < d; ++c) y[at + c] = part[c], D += part[c] * dy[at + c];
          for (size_t j = 0; j < seen; ++j) {
            double dp = 0;
            for (size_t c = 0; c < d; ++c) dp += double(dy[at + c]) * v[of(j, c)];
            const double ds = p[j] * (dp - D) * scale();
            for (size_t c = 0; c < d; ++c) dq[at + c] += ds * k[of(j, c)], dk[of(j, c)] += ds * q[at + c], dv[of(j, c)] += p[j] * dy[at + c];
          }
        }
  }
  double scale() const { return 0.5; }
  chainrule_attention shape() const { return {n, kept, d, scale(), causal}; }
  chainrule_sequences_f32 side(Floats &of, size_t heads, size_t t = 0) const { return {&of[t * heads * d], of.size() / rows, heads * d}; }
};

void attention(Heads h) {
  Floats y(h.q.size(), 7), sums(h.sums.size(), 7);
  const auto shape = h.shape();
  const auto q = h.side(h.q, h.n), k = h.side(h.k, h.kept), v = h.side(h.v, h.kept), to = h.side(y, h.n);
  attention_f32(&shape, h.rows, h.queries, h.keys, h.ragged ? h.lengths.data() : nullptr, &q, &k, &v, &to, sums.data(), nullptr);
  compare("y", y, h.y), compare("log-sums", sums, h.sums);
  add_bits(y), add_bits(sums);
  if (h.ragged) return;

  // The last queries as new steps: all at once, or in two calls where the first does not see the second.
  const size_t fresh = h.queries < h.keys ? h.queries : h.keys, before = h.keys - fresh, capacity = h.keys + 3;
  Floats keys(h.rows * h.kept * ((capacity + 31) / 32) * h.d * 32, NAN), values(h.rows * h.kept * capacity * ((h.d + 31) / 32 * 32), NAN), first(h.rows * before * h.n * h.d + 1),
      ones(first.size(), 1), stepped(y.size());
  const chainrule_cache_f32 cache = {keys.data(), values.data(), capacity};
  auto call = [&](Floats &from, size_t t, size_t at_key, size_t n, size_t already, Floats &result, size_t row) {
    const std::vector<uint32_t> lengths(h.rows, uint32_t(already));
    const chainrule_sequences_f32 query = {&from[t * h.n * h.d], row, h.n * h.d}, out = {&result[t * h.n * h.d], row, h.n * h.d};
    const auto new_k = h.side(h.k, h.kept, at_key), new_v = h.side(h.v, h.kept, at_key);
    attention_step_f32(&shape, h.rows, n, lengths.data(), &query, &new_k, &new_v, &cache, &out, nullptr);
  };
  if (before) call(ones, 0, 0, before, 0, first, before * h.n * h.d);
  const size_t cut = h.causal ? fresh / 3 : 0, late = h.queries - fresh, row = h.queries * h.n * h.d;
  if (cut) call(h.q, late, before, cut, before, stepped, row);
  call(h.q, late + cut, before + cut, fresh - cut, before + cut, stepped, row);
  Doubles want = h.y;  // queries before the first key are no steps
  for (size_t i = 0; i < want.size(); ++i)
    if (i % row < late * h.n * h.d) want[i] = 0;
  compare("steps", stepped, want);
  add_bits(stepped);
  if (h.causal) return;
  attention_step_f32(&shape, h.rows, h.queries, h.lengths.data(), &q, nullptr, nullptr, &cache, &to, nullptr);
  compare("cross-attention", y, h.y);
}

void attention_gradient(Heads h) {
  Floats dq(h.q.size(), 7), dk(h.k.size(), 7), dv(h.k.size(), 7), y(h.y.begin(), h.y.end()), sums(h.sums.begin(), h.sums.end());
  const auto shape = h.shape();
  const auto q = h.side(h.q, h.n), k = h.side(h.k, h.kept), v = h.side(h.v, h.kept), from = h.side(y, h.n), back = h.side(h.dy, h.n), to_q = h.side(dq, h.n),
             to_k = h.side(dk, h.kept), to_v = h.side(dv, h.kept);
  attention_gradient_f32(&shape, h.rows, h.queries, h.keys, h.ragged ? h.lengths.data() : nullptr, &q, &k, &v, &from, sums.data(), &back, &to_q, &to_k, &to_v, nullptr);
  compare("dq", dq, h.dq), compare("dk", dk, h.dk), compare("dv", dv, h.dv);
  add_bits(dq), add_bits(dk), add_bits(dv);
}

}  // namespace

void check_attention() {
  // Tiles of queries across a chunk of keys, blocks of queries, tails, and queries before the first key.
  if (attention_f32 || attention_gradient_f32)
    for (const Heads &h : {Heads(2, 1, 19, 300, 300, 1, true, false), Heads(2, 2, 5, 40, 290, 2, false, true), Heads(1, 1, 33, 160, 20, 2, true, true), Heads(3, 1, 4, 7, 280, 2, false, false)}) {
      if (attention_f32) attention(h);
      if (attention_gradient_f32) attention_gradient(h);
    }
}
