// Attention: all at once, its gradient, and step by step over kept keys and values.
#include "digest.hpp"

namespace proof {
namespace {

struct AttentionCase {
  size_t heads, kept, size, queries, keys, rows;
  bool causal, ragged, hard;
};
// Tails of vectors, panels, tiles of 6 and of 12 queries, blocks of 128 of them and chunks of 256 keys; more queries than keys.
const AttentionCase attention_cases[] = {
    {1, 1, 1, 1, 1, 1, true, false, false},     {3, 1, 15, 31, 33, 3, true, true, false},    {2, 2, 80, 13, 65, 2, false, true, false}, {4, 2, 24, 129, 257, 1, true, false, false},
    {2, 1, 33, 270, 530, 2, true, true, false}, {2, 2, 16, 140, 17, 2, true, true, false},   {1, 1, 64, 30, 300, 2, false, false, true}, {2, 1, 5, 290, 290, 2, true, false, true},
};

}  // namespace

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
BOTH_PRECISIONS(attentions)

}  // namespace proof
