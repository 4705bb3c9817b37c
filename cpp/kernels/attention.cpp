// Attention of whole sequences, and of new steps over keys and values that are kept: attention.hpp's tiles.
//
//   attention        q [rows][queries], k, v [rows][keys], heads side by side: as a Transformer trains, 2 T^2 d multiply-adds a head,
//                    half of that when causal
//   attention_step   appends new keys and values to a cache and attends to it: 2 t d multiply-adds and one read of 2 t d numbers a
//                    head for a new step after t
//
// Threads: sequences and heads of keys; blocks of queries where those are few.
#include "attention.hpp"

namespace chainrule {

CHAINRULE_KERNEL(attention)(const chainrule_attention *attention, size_t n_rows, size_t n_queries, size_t n_keys,
                            const uint32_t *lengths, const Sequences *q, const Sequences *k, const Sequences *v,
                            const Sequences *y, Real *statistics, const chainrule_exec *exec) {
  const size_t d = attention->head_size, ldv = whole_panels(d), heads = attention->n_heads, kept_heads = attention->n_kv_heads;
  const size_t group = heads / kept_heads, pieces = n_rows * kept_heads, tiles = (n_queries + 4 * kR - 1) / (4 * kR);
  const int most = plan_threads(exec, pieces * tiles, 2.0 * double(n_rows * heads * d) * double(n_queries) * double(n_keys));
  const size_t blocks = n_queries ? blocks_beside(pieces, tiles, most) : 0;
  const int threads = int(larger(smaller(size_t(most), pieces * blocks), 1));
  const size_t steps = whole_panels(n_keys), keys_size = steps * d, each = keys_size + steps * ldv + attend_size(ldv);
  Real *memory = static_cast<Real *>(arena(size_t(threads) * each * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, pieces * blocks, 1, [&](size_t piece, size_t, int worker) {
    const size_t row = piece / blocks / kept_heads, kept_head = piece / blocks % kept_heads, block = piece % blocks;
    const size_t begin = n_queries * block / blocks, end = n_queries * (block + 1) / blocks;
    const size_t n = lengths ? lengths[row] : n_keys;
    const size_t none = attention->causal && n < n_queries ? n_queries - n : 0;  // queries before the first key
    auto sees = [&](size_t t) { return !attention->causal ? n : t < none ? 0 : n + t + 1 - n_queries; };
    Real *keys = memory + size_t(worker) * each, *values = keys + keys_size, *workspace = values + steps * ldv;
    const size_t needed = sees(end - 1);
    to_key_panels(k->data + row * k->row + kept_head * d, k->ld, d, needed, keys);
    to_padded(v->data + row * v->row + kept_head * d, v->ld, d, needed, values);
    const Kept kept = {keys, values, d, ldv, Real(attention->scale)};
    for (size_t head = kept_head * group; head < (kept_head + 1) * group; ++head) {
      auto tile = [&]<int R>(size_t t) __attribute__((always_inline)) {
        attend<R>(kept, q->data + row * q->row + t * q->ld + head * d, q->ld, {sees(t), size_t(attention->causal && t >= none)},
                  y->data + row * y->row + t * y->ld + head * d, y->ld,
                  statistics ? statistics + (row * heads + head) * n_queries + t : nullptr, workspace);
      };
      for (size_t t = begin; t < smaller(end, none); ++t) tile.template operator()<1>(t);
      const size_t first = larger(begin, none);
      if (first < end) for_row_tiles(end - first, [&]<int R>(size_t at) { tile.template operator()<R>(first + at); });
    }
  });
}

CHAINRULE_KERNEL(attention_step)(const chainrule_attention *attention, size_t n_rows, size_t n_steps, const uint32_t *lengths,
                                 const Sequences *q, const Sequences *k, const Sequences *v, const Cache *cache,
                                 const Sequences *y, const chainrule_exec *exec) {
  const size_t ldv = whole_panels(attention->head_size), pieces = n_rows * attention->n_kv_heads;
  const int threads = plan_threads(exec, pieces, attention_step_work(*attention, n_rows, n_steps, lengths));
  Real *memory = static_cast<Real *>(arena(size_t(threads) * attend_size(ldv) * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, pieces, 1, [&](size_t piece, size_t, int worker) {
    attend_new(*attention, piece, n_steps, lengths, *q, k, v, *cache, *y, memory + size_t(worker) * attend_size(ldv));
  });
}

}  // namespace chainrule
