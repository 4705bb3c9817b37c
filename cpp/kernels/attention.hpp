// Attention of a few queries at a time over keys and values that are kept (Vaswani et al. 2017), with a running softmax (Milakov &
// Gimelshein 2018): no matrix of scores is ever whole.
//
//   s_ij = scale (q_i . k_j),   y_i = sum_j exp(s_ij - m_i) v_j / l_i,   l_i = sum_j exp(s_ij - m_i),   m_i = max_j s_ij
//
// over the keys j that query i sees: the first n_i. One head's keys stand in panels of 32 steps, [T / 32][d][32], so that scores are
// a tile's product with lanes for keys; values by step, [T][d rounded up to 32], so that outputs are one with lanes for channels.
// Keys are taken in chunks of 256 at absolute steps: with m the maximum so far, a chunk's sums join as l = l exp(m_old - m) +
// sum, y = y exp(m_old - m) + part. A query's result depends on its own keys alone, so a tile of 12 queries, one query after
// a thousand kept steps, and any split between them give the same bits (docs/reproducibility.md).
#pragma once
#include "panels.hpp"

namespace chainrule {
namespace {

CHAINRULE_INLINE size_t whole_panels(size_t n) { return panels_in(n) * kPanel; }

// One head.
struct Kept {
  const Real *keys, *values;
  size_t d, ldv;
  Real scale;
};
// How many keys a query sees: the first of a tile, and how many more each one after it.
struct Sees {
  size_t first, more;
  CHAINRULE_INLINE size_t of(size_t query) const { return first + query * more; }
  CHAINRULE_INLINE size_t in_chunk(size_t query, size_t start) const {
    const size_t n = of(query);
    return n <= start ? 0 : smaller(n - start, kChunk);
  }
};

CHAINRULE_INLINE Real largest(Vec<Real> v) {
  Real lanes[kWidth];
  store(lanes, v);
  for (size_t half = kWidth / 2; half; half /= 2)
    for (size_t j = 0; j < half; ++j) lanes[j] = lanes[j] > lanes[j + half] ? lanes[j] : lanes[j + half];
  return lanes[0];
}

// Panels of keys from `from`, [panel][d][32], times R rows: scores[r][32 p + lane], p below `panels`.
template <int R, class F>
CHAINRULE_INLINE void product_with_panels(const Real *q, size_t ldq, const Real *from, size_t d, size_t panels, F &&put) {
  for (size_t p = 0; p < panels; ++p)
    for (size_t lane = 0; lane < kPanel; lane += kLanes) {
      Tile<R> tile;
      clear(tile);
      multiply<R, false>(tile, q, ldq, from + p * d * kPanel + lane, kPanel, d);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) put(r, p * kPanel + lane + size_t(v) * kWidth, tile.v[r][v]);
    }
}

// tile += weights [R][256] of queries from `row` on, times b [keys][ldb], over the chunk of keys from `start` on: those that all of
// them see, then what the later ones see alone. A key that is not seen is left out, not multiplied by zero: it may be NaN.
template <int R>
CHAINRULE_INLINE void multiply_seen(Tile<R> &tile, const Real *weights, const Real *b, size_t ldb, const Sees &sees, size_t row, size_t start) {
  const size_t common = sees.in_chunk(row, start);
  multiply<R, false>(tile, weights, kChunk, b, ldb, common);
#pragma GCC unroll 12
  for (int r = 1; r < R; ++r)
    for (size_t j = common, n = sees.in_chunk(row + size_t(r), start); j < n; ++j)
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v)
        tile.v[r][v] = fma(set1(weights[size_t(r) * kChunk + j]), load(b + j * ldb + size_t(v) * kWidth), tile.v[r][v]);
}

// R rows of `columns` scores (whole panels), of which a query sees its first ones: what joins m and l; scores become exp(s - m), and
// change what the sums so far are multiplied with. Row after row in each pass, so that rows, which are short, overlap.
template <int R>
CHAINRULE_INLINE void running_softmax(Real *scores, size_t columns, const Sees &sees, size_t start, Real *m, Real *l, Real *change) {
  for (int r = 0; r < R; ++r) {
    Real *s = scores + size_t(r) * kChunk;
    for (size_t j = sees.in_chunk(size_t(r), start); j < columns; ++j) s[j] = -infinity<Real>;
    Vec<Real> top = set1(m[r]);
    for (size_t j = 0; j < columns; j += kWidth) top = max(top, load(s + j));
    const Real before = m[r];
    m[r] = largest(top);
    change[r] = before - m[r];
  }
  for (size_t r = 0; r < size_t(R); r += kWidth) store(change + r, exp(load(change + r)));
  for (int r = 0; r < R; ++r) {
    Real *s = scores + size_t(r) * kChunk;
    Vec<Real> sum = zero<Real>();
    for (size_t j = 0; j < columns; j += 2 * kWidth) {
      const Vec<Real, 2> e = exp(load<Real, 2>(s + j) - set1<Real, 2>(m[r]));
      store(s + j, e);
      sum = sum + load(s + j);
      sum = sum + load(s + j + kWidth);
    }
    l[r] = fma(set1(l[r]), set1(change[r]), set1(hsum(sum))).r[0][0];
  }
}

// Workspace of R queries: scores [kR][256] and sums [kR][ldv].
CHAINRULE_INLINE size_t attend_size(size_t ldv) { return size_t(kR) * (kChunk + ldv); }

// R queries q to y; log_sum [R] may be NULL.
template <int R>
CHAINRULE_INLINE void attend(const Kept &kept, const Real *q, size_t ldq, const Sees &sees, Real *y, size_t ldy, Real *log_sum,
                             Real *workspace) {
  Real *scores = workspace, *sums = workspace + size_t(kR) * kChunk, m[R], l[R], change[size_t(R) + kWidth] = {};
  for (int r = 0; r < R; ++r) m[r] = -infinity<Real>, l[r] = 0;
  const size_t last = sees.of(R - 1);
  for (size_t start = 0; start < last || start == 0; start += kChunk) {
    const size_t columns = whole_panels(sees.in_chunk(R - 1, start));
    product_with_panels<R>(q, ldq, kept.keys + start * kept.d, kept.d, columns / kPanel,
                           [&](int r, size_t j, Vec<Real> sum) __attribute__((always_inline)) {
                             store(scores + size_t(r) * kChunk + j, sum * set1(kept.scale));
                           });
    running_softmax<R>(scores, columns, sees, start, m, l, change);
    for (size_t lane = 0; lane < kept.ldv; lane += kLanes) {
      Tile<R> tile;
      clear(tile);
      multiply_seen<R>(tile, scores, kept.values + start * kept.ldv + lane, kept.ldv, sees, 0, start);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        if (start && sees.in_chunk(size_t(r), start) == 0) continue;  // as one query alone: a sum of -0 stays so
#pragma GCC unroll 2
        for (int v = 0; v < kV; ++v) {
          Real *to = sums + size_t(r) * kept.ldv + lane + size_t(v) * kWidth;
          store(to, start == 0 ? tile.v[r][v] : fma(load(to), set1(change[r]), tile.v[r][v]));
        }
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    const bool none = sees.of(size_t(r)) == 0;
    for (size_t j = 0; j < kept.d; j += kWidth) {
      const Vec<Real> mean = load(sums + size_t(r) * kept.ldv + j) / set1(l[r]);
      store_part(y + size_t(r) * ldy + j, none ? zero<Real>() : mean, lanes_at(j, kept.d));
    }
    if (log_sum) {
      Real lanes[kWidth] = {l[r]};
      store(lanes, log(load(lanes)));
      log_sum[r] = none ? Real(0) : m[r] + lanes[0];
    }
  }
}

// Steps [begin, end) of one head of k [..][ld], in panels of 32 steps; what is left of the last panel is zeros.
CHAINRULE_INLINE void to_key_panels(const Real *k, size_t ld, size_t d, size_t n, Real *panels) {
  constexpr size_t B = size_t(block_width<Real>);
  for (size_t t = 0; t < whole_panels(n); t += B) {
    Real *to = panels + t / kPanel * d * kPanel + t % kPanel;
    size_t c = 0;
    if (t + B <= n)
      for (; c + B <= d; c += B) transpose_block(k + t * ld + c, ld, to + c * kPanel, kPanel);
    for (; c < d; ++c)
      for (size_t j = 0; j < B; ++j) to[c * kPanel + j] = t + j < n ? k[(t + j) * ld + c] : Real(0);
  }
}
// One head of n steps, each in whole panels of channels, zeros in what is left.
CHAINRULE_INLINE void to_padded(const Real *x, size_t ld, size_t d, size_t n, Real *padded_rows) {
  const size_t width = whole_panels(d);
  for (size_t t = 0; t < n; ++t)
    for (size_t c = 0; c < width; c += kWidth) store(padded_rows + t * width + c, load_part(x + t * ld + c, lanes_at(c, d)));
}

// Multiply-adds of n_steps new steps after the lengths that are kept.
CHAINRULE_INLINE double attention_step_work(const chainrule_attention &attention, size_t n_rows, size_t n_steps,
                                            const uint32_t *lengths) {
  double work = 0;
  for (size_t r = 0; r < n_rows; ++r) work += double(lengths[r] + n_steps);
  return 2 * work * double(n_steps * attention.n_heads * attention.head_size);
}

// One sequence and head of keys of attention_step: appends the new keys and values, then attends to what is kept.
CHAINRULE_INLINE void attend_new(const chainrule_attention &attention, size_t piece, size_t n_steps, const uint32_t *lengths,
                                 const Sequences &q, const Sequences *k, const Sequences *v, const Cache &cache, const Sequences &y,
                                 Real *workspace) {
  const size_t row = piece / attention.n_kv_heads, kept_head = piece % attention.n_kv_heads, d = attention.head_size;
  const size_t ldv = whole_panels(d), group = attention.n_heads / attention.n_kv_heads, before = lengths[row];
  Real *keys = cache.keys + piece * whole_panels(cache.capacity) * d, *values = cache.values + piece * cache.capacity * ldv;
  if (k)
    for (size_t t = 0; t < n_steps; ++t) {
      const size_t at = before + t;
      const Real *key = k->data + row * k->row + t * k->ld + kept_head * d;
      const Real *value = v->data + row * v->row + t * v->ld + kept_head * d;
      for (size_t c = 0; c < d; ++c) keys[(at / kPanel * d + c) * kPanel + at % kPanel] = key[c];
      for (size_t c = 0; c < ldv; c += kWidth) store(values + at * ldv + c, load_part(value + c, lanes_at(c, d)));
    }
  const Kept kept = {keys, values, d, ldv, Real(attention.scale)};
  const size_t first = before + (!k ? 0 : attention.causal ? 1 : n_steps);
  for (size_t head = kept_head * group; head < (kept_head + 1) * group; ++head)
    for_row_tiles(n_steps, [&]<int R>(size_t t) {
      const size_t more = k && attention.causal;
      attend<R>(kept, q.data + row * q.row + t * q.ld + head * d, q.ld, {first + t * more, more},
                y.data + row * y.row + t * y.ld + head * d, y.ld, nullptr, workspace);
    });
}

}  // namespace
}  // namespace chainrule
