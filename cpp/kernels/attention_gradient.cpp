// The gradients of attention (Dao et al. 2022): probabilities are computed again, tile by tile, from the log-sums of the way there.
//
//   P_ij = exp(s_ij - L_i),  dP_ij = dy_i . v_j,  D_i = dy_i . y_i,  dS_ij = P_ij (dP_ij - D_i) scale
//   dq_i = sum_j dS_ij k_j,  dk_j = sum_i dS_ij q_i,  dv_j = sum_i P_ij dy_i
//
// Blocks of 128 queries meet chunks of 256 keys: both P and dS of a pair are 128 KB, in a core's cache. dq_i is a sum over chunks of
// keys; dk_j and dv_j are sums over blocks of 128 queries at absolute steps, head after head of a group. Cost: 5 T^2 d
// multiply-adds a head, half of that when causal. Threads: sequences and heads of keys, which share nothing.
#include "attention.hpp"

namespace chainrule {
namespace {

constexpr size_t kBlock = 128;  // queries

// One block of queries of one head, padded, and what is known of them.
struct Queries {
  Real *q, *dy, *dq;      // [kBlock][ldv]
  Real *D;                // [kBlock]
  const Real *log_sum;    // [n]
  Real *P, *dS;           // [kBlock][kChunk]
  size_t n;
  Sees sees;
};
// One head of keys: as panels and by step, and the sums so far [steps][ldv].
struct Keys {
  Real *key_panels, *value_panels, *keys, *dk, *dv;
  size_t d, ldv;
  Real scale;
};

// P and dS of R queries from `row` on for the chunk of keys from `start` on.
template <int R> void probabilities(const Queries &block, const Keys &head, size_t row, size_t start) {
  const size_t columns = whole_panels(block.sees.in_chunk(row + R - 1, start)), ldv = head.ldv;
  Real *P = block.P + row * kChunk, *dS = block.dS + row * kChunk;
  product_with_panels<R>(block.q + row * ldv, ldv, head.key_panels + start * head.d, head.d, columns / kPanel,
                         [&](int r, size_t j, Vec<Real> sum) __attribute__((always_inline)) {
                           store(P + size_t(r) * kChunk + j, fma(sum, set1(head.scale), set1(-block.log_sum[row + size_t(r)])));
                         });
  product_with_panels<R>(block.dy + row * ldv, ldv, head.value_panels + start * head.d, head.d, columns / kPanel,
                         [&](int r, size_t j, Vec<Real> sum) __attribute__((always_inline)) {
                           store(dS + size_t(r) * kChunk + j, (sum - set1(block.D[row + size_t(r)])) * set1(head.scale));
                         });
  for (int r = 0; r < R; ++r) {
    Real *p = P + size_t(r) * kChunk, *ds = dS + size_t(r) * kChunk;
    for (size_t j = 0; j < columns; j += 2 * kWidth) {
      const Vec<Real, 2> e = exp(load<Real, 2>(p + j));
      store(p + j, e);
      store(ds + j, e * load<Real, 2>(ds + j));
    }
  }
}

// dq of R queries += dS k over the chunk.
template <int R> void query_gradient(const Queries &block, const Keys &head, size_t row, size_t start) {
  const size_t ldv = head.ldv;
  for (size_t lane = 0; lane < ldv; lane += kLanes) {
    Tile<R> tile;
    clear(tile);
    multiply_seen<R>(tile, block.dS + row * kChunk, head.keys + start * ldv + lane, ldv, block.sees, row, start);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) {
        Real *to = block.dq + (row + size_t(r)) * ldv + lane + size_t(v) * kWidth;
        store(to, load(to) + tile.v[r][v]);
      }
  }
}

// sum [R keys][ldv] += a' b over the queries of the block that see them; a [kBlock][kChunk]. Key j of the chunk is seen from query `from`
// on, all R of them from query `all` on.
template <int R>
void key_gradient(const Queries &block, const Real *a, const Real *b, size_t start, size_t j, size_t from, size_t all, size_t ldv, Real *sum) {
  for (size_t lane = 0; lane < ldv; lane += kLanes) {
    Tile<R> tile;
    clear(tile);
    for (size_t i = from; i < all; ++i) {
      const size_t seen = block.sees.in_chunk(i, start) - j;
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r)
        if (size_t(r) < seen)
#pragma GCC unroll 2
          for (int v = 0; v < kV; ++v)
            tile.v[r][v] = fma(set1(a[i * kChunk + j + size_t(r)]), load(b + i * ldv + lane + size_t(v) * kWidth), tile.v[r][v]);
    }
    multiply<R, true>(tile, a + all * kChunk + j, kChunk, b + all * ldv + lane, ldv, block.n - all);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) {
        Real *to = sum + size_t(r) * ldv + lane + size_t(v) * kWidth;
        store(to, load(to) + tile.v[r][v]);
      }
  }
}

void block_gradient(const Queries &block, const Keys &head) {
  for (size_t start = 0; start < block.sees.of(block.n - 1); start += kChunk) {
    size_t first = 0;  // the first query that sees a key of the chunk
    while (block.sees.in_chunk(first, start) == 0) ++first;
    for_row_tiles(block.n - first, [&]<int R>(size_t at) {
      probabilities<R>(block, head, first + at, start);
      query_gradient<R>(block, head, first + at, start);
    });
    for_row_tiles(block.sees.in_chunk(block.n - 1, start), [&]<int R>(size_t j) {
      size_t from = first;
      while (block.sees.in_chunk(from, start) <= j) ++from;
      size_t all = from;
      while (block.sees.in_chunk(all, start) < j + R) ++all;
      const size_t at = (start + j) * head.ldv;
      key_gradient<R>(block, block.dS, block.q, start, j, from, all, head.ldv, head.dk + at);
      key_gradient<R>(block, block.P, block.dy, start, j, from, all, head.ldv, head.dv + at);
    });
  }
}

}  // namespace

CHAINRULE_KERNEL(attention_gradient)(const chainrule_attention *attention, size_t n_rows, size_t n_queries, size_t n_keys,
                                     const uint32_t *lengths, const Sequences *q, const Sequences *k, const Sequences *v,
                                     const Sequences *y, const Real *statistics, const Sequences *dy, const Sequences *dq,
                                     const Sequences *dk, const Sequences *dv, const chainrule_exec *exec) {
  const size_t d = attention->head_size, ldv = whole_panels(d), heads = attention->n_heads, kept_heads = attention->n_kv_heads;
  const size_t group = heads / kept_heads, pieces = n_rows * kept_heads, steps = whole_panels(n_keys);
  const size_t each = steps * (2 * d + 3 * ldv) + kBlock * (3 * ldv + 1 + 2 * kChunk);
  const int threads = plan_threads(exec, pieces, 5.0 * double(n_rows * heads * d) * double(n_queries) * double(n_keys));
  Real *memory = static_cast<Real *>(arena(size_t(threads) * each * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  return for_each(exec, threads, pieces, 1, [&](size_t piece, size_t, int worker) {
    const size_t row = piece / kept_heads, kept_head = piece % kept_heads, n = lengths ? lengths[row] : n_keys;
    Real *at = memory + size_t(worker) * each;
    auto take = [&at](size_t size) { return at += size, at - size; };
    Keys keys = {take(steps * d), take(steps * d), take(steps * ldv), take(steps * ldv), take(steps * ldv), d, ldv, Real(attention->scale)};
    Queries block = {take(kBlock * ldv), take(kBlock * ldv), take(kBlock * ldv), take(kBlock), nullptr, take(kBlock * kChunk),
                     take(kBlock * kChunk), 0, {0, size_t(attention->causal != 0)}};
    const Real *key = k->data + row * k->row + kept_head * d, *value = v->data + row * v->row + kept_head * d;
    to_key_panels(key, k->ld, d, n, keys.key_panels), to_key_panels(value, v->ld, d, n, keys.value_panels);
    to_padded(key, k->ld, d, n, keys.keys);
    for (size_t i = 0; i < n * ldv; ++i) keys.dk[i] = 0, keys.dv[i] = 0;
    const size_t none = attention->causal && n < n_queries ? n_queries - n : n == 0 ? n_queries : 0;
    for (size_t head = kept_head * group; head < (kept_head + 1) * group; ++head) {
      const Real *from = q->data + row * q->row + head * d, *result = y->data + row * y->row + head * d;
      const Real *slope = dy->data + row * dy->row + head * d;
      Real *to = dq->data + row * dq->row + head * d;
      for (size_t begin = 0; begin < n_queries; begin += kBlock) {
        const size_t end = smaller(begin + kBlock, n_queries), first = smaller(larger(begin, none), end);
        for (size_t t = begin; t < first; ++t)
          for (size_t c = 0; c < d; c += kWidth) store_part(to + t * dq->ld + c, zero<Real>(), lanes_at(c, d));
        if (first == end) continue;
        block.n = end - first;
        block.sees.first = attention->causal ? n + first + 1 - n_queries : n;
        block.log_sum = statistics + (row * heads + head) * n_queries + first;
        to_padded(from + first * q->ld, q->ld, d, block.n, block.q), to_padded(slope + first * dy->ld, dy->ld, d, block.n, block.dy);
        for (size_t i = 0; i < block.n; ++i) {
          Vec<Real> sum = zero<Real>();
          for (size_t c = 0; c < d; c += kWidth)
            sum = fma(load(block.dy + i * ldv + c), load_part(result + (first + i) * y->ld + c, lanes_at(c, d)), sum);
          block.D[i] = hsum(sum);
          for (size_t c = 0; c < ldv; c += kWidth) store(block.dq + i * ldv + c, zero<Real>());
        }
        block_gradient(block, keys);
        for (size_t i = 0; i < block.n; ++i)
          for (size_t c = 0; c < d; c += kWidth) store_part(to + (first + i) * dq->ld + c, load(block.dq + i * ldv + c), lanes_at(c, d));
      }
    }
    for (size_t t = 0; t < n_keys; ++t)
      for (size_t c = 0; c < d; c += kWidth) {
        const int lanes = lanes_at(c, d);
        store_part(dk->data + row * dk->row + t * dk->ld + kept_head * d + c, t < n ? load(keys.dk + t * ldv + c) : zero<Real>(), lanes);
        store_part(dv->data + row * dv->row + t * dv->ld + kept_head * d + c, t < n ? load(keys.dv + t * ldv + c) : zero<Real>(), lanes);
      }
  });
}

}  // namespace chainrule
