// Dense products for inference: weights in panels of 32 outputs, each in one piece, read once for all rows of a tile.
//
//   y = g((x W + addend) + b)      x [rows][in], W [ceil(out / 32)][in][32]
//
// With one row this is a stream of the weights, which costs their bytes over the memory's bandwidth; so they may be kept in
// fewer bits: the upper half of a float (bf16), or 8-bit integers with a scale for each output and 256 inputs. They become
// floats in registers. Plain weights give the bits of masked_linear.
#pragma once
#include "../simd/narrow.hpp"
#include "gelu.hpp"
#include "panels.hpp"

namespace chainrule {
namespace {

// An activation by number: a chainrule_activation, or -1 - form of a gelu.
CHAINRULE_INLINE Vec<Real> activate_hidden(int32_t activation, Vec<Real> a) {
  if (activation == -1 - CHAINRULE_GELU_TANH) return gelu<CHAINRULE_GELU_TANH>(a);
  if (activation == -1 - CHAINRULE_GELU_ERF) return gelu<CHAINRULE_GELU_ERF>(a);
  return activate(activation, a);
}

// A vector of weights from the place `at`.
template <int Format> CHAINRULE_INLINE Vec<Real> load_weights(const void *W, size_t at) {
  if constexpr (Format == CHAINRULE_PLAIN) return load(static_cast<const Real *>(W) + at);
  if constexpr (Format == CHAINRULE_BF16) return widen<Real>(static_cast<const uint16_t *>(W) + at);
  if constexpr (Format == CHAINRULE_INT8) return widen<Real>(static_cast<const int8_t *>(W) + at);
}

// f(p, v) for each of V vectors of P panels, unrolled.
template <int P, int V, class F> CHAINRULE_INLINE void for_vectors(F &&f) {
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) f(p, v);
}

template <int Format> constexpr size_t kWeightBytes = Format == CHAINRULE_PLAIN ? sizeof(Real) : Format == CHAINRULE_BF16 ? 2 : 1;

// Asks for `bytes` of weights of the next chunk, to the L2 cache: they would not leave the inner one room for this chunk's.
CHAINRULE_INLINE void fetch_weights(const char *next, size_t bytes) {
#pragma GCC unroll 1
  for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(next + line, 0, 2);
}

// tile += a W over n inputs of a panel, from the place `at`. The chunk after this one, which follows it in memory, is asked for
// meanwhile, so that its way from memory and the work of several rows overlap: part `part` of `parts` of it.
template <int R, int Format>
CHAINRULE_INLINE void multiply_weights(Tile<R> &tile, const Real *a, size_t lda, const void *W, size_t at, size_t n, const char *next,
                                       size_t part, size_t parts) {
  const size_t step = kPanel * kWeightBytes<Format> / parts;
  next += part * n * step;
  for (size_t k = 0; k < n; ++k) {
    fetch_weights(next, step);
    next += step;
    Vec<Real> w[kV];
#pragma GCC unroll 2
    for (int v = 0; v < kV; ++v) w[v] = load_weights<Format>(W, at + k * kPanel + size_t(v) * kWidth);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const Vec<Real> ar = set1(a[size_t(r) * lda + k]);
#pragma GCC unroll 2
      for (int v = 0; v < kV; ++v) tile.v[r][v] = fma(ar, w[v], tile.v[r][v]);
    }
  }
}

CHAINRULE_INLINE Vec<Real> load_scale(const float *scale, size_t at) {
  Real lanes[kWidth];
  for (size_t j = 0; j < kWidth; ++j) lanes[j] = Real(scale[at + j]);
  return load(lanes);
}

// Rows [begin, end) of a panel of y, chunk by chunk of its inputs, so that a chunk stays in cache for all rows.
template <int Format>
void packed_panel(const Weights &w, size_t panel, size_t begin, size_t end, const Real *x, size_t ldx, const Real *addend, size_t lda,
                  int32_t activation, Real *y, size_t ldy) {
  const size_t column = panel * kPanel, chunks = (w.n_in + kChunk - 1) / kChunk;
  const Finish f = {addend, lda, w.b, CHAINRULE_IDENTITY, nullptr, 0};
  const size_t parts = kPanel / kLanes * (end - begin > kR ? 2 : 1);  // of the next chunk: the first tiles of rows ask for them
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    const size_t start = chunk * kChunk, n = smaller(kChunk, w.n_in - start);
    for_row_tiles(end - begin, [&]<int R>(size_t tile_at) {
      const size_t row = begin + tile_at;
      for (size_t lane = 0; lane < kPanel && column + lane < w.n_out; lane += kLanes) {
        Tile<R> tile;
        clear(tile);
        const size_t at = (panel * w.n_in + start) * kPanel, part = (lane / kLanes + (tile_at > 0 ? kPanel / kLanes : 0)) % parts;
        multiply_weights<R, Format>(tile, x + row * ldx + start, ldx, w.W, at + lane, n,
                                    static_cast<const char *>(w.W) + (at + n * kPanel) * kWeightBytes<Format>, part, parts);
        if constexpr (Format == CHAINRULE_INT8) {
          const float *scale = w.scale + (panel * chunks + chunk) * kPanel + lane;
          for_tile(tile, [&](Vec<Real> &sum, size_t, size_t j) { sum = sum * load_scale(scale, j); });
        }
        put(tile, chunk == 0, chunk + 1 == chunks ? &f : nullptr, row, column + lane, w.n_out, y, ldy);
        if (chunk + 1 < chunks || activation == CHAINRULE_IDENTITY) continue;
        for (size_t r = row; r < row + size_t(R); ++r)
          for (size_t j = column + lane; j < smaller(column + lane + kLanes, w.n_out); j += kWidth) {
            const int lanes = lanes_at(j, w.n_out);
            store_part(y + r * ldy + j, activate_hidden(activation, load_part(y + r * ldy + j, lanes)), lanes);
          }
      }
    });
  }
}

// P panels of one row, side by side: one panel's few chains of sums would wait for their own results, not for memory. The chunk that
// each panel reads next, which may be the first of P panels further on, is asked for meanwhile.
template <int P, int Format>
void packed_row(const Weights &w, size_t panel, const Real *x, const Real *addend, int32_t activation, Real *y) {
  constexpr int vectors = int(kPanel / kWidth);
  constexpr size_t step = kPanel * kWeightBytes<Format>;
  const size_t chunks = (w.n_in + kChunk - 1) / kChunk, apart = w.n_in * step;
  Vec<Real> sum[P][vectors];
  for_vectors<P, vectors>([&](int p, int v) { sum[p][v] = zero<Real>(); });
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    const size_t start = chunk * kChunk, n = smaller(kChunk, w.n_in - start), at = (panel * w.n_in + start) * kPanel;
    const char *next = static_cast<const char *>(w.W) + at * kWeightBytes<Format> + n * step + (chunk + 1 < chunks ? 0 : (P - 1) * apart);
    Vec<Real> part[P][vectors];
    for_vectors<P, vectors>([&](int p, int v) { part[p][v] = zero<Real>(); });
    for (size_t k = 0; k < n; ++k, next += step) {
      const Vec<Real> xk = set1(x[start + k]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) fetch_weights(next + size_t(p) * apart, step);
      for_vectors<P, vectors>([&](int p, int v) {
        part[p][v] = fma(xk, load_weights<Format>(w.W, at + (size_t(p) * w.n_in + k) * kPanel + size_t(v) * kWidth), part[p][v]);
      });
    }
    for_vectors<P, vectors>([&](int p, int v) {
      if constexpr (Format == CHAINRULE_INT8)
        part[p][v] = part[p][v] * load_scale(w.scale, ((panel + size_t(p)) * chunks + chunk) * kPanel + size_t(v) * kWidth);
      sum[p][v] = sum[p][v] + part[p][v];
    });
  }
  for_vectors<P, vectors>([&](int p, int v) {
    const size_t column = (panel + size_t(p)) * kPanel + size_t(v) * kWidth;
    const int lanes = lanes_at(column, w.n_out);
    if (addend) sum[p][v] = sum[p][v] + load_part(addend + column, lanes);
    if (w.b) sum[p][v] = sum[p][v] + load_part(w.b + column, lanes);
    store_part(y + column, activate_hidden(activation, sum[p][v]), lanes);
  });
}
constexpr size_t kRowPanels = Vec<Real>::regs == 1 ? 4 : 2;  // whose sums registers hold
template <int Format>
void packed_row_panels(const Weights &w, size_t begin, size_t end, const Real *x, const Real *addend, int32_t activation, Real *y) {
  if constexpr (kRowPanels == 4)
    for (; begin + 4 <= end; begin += 4) packed_row<4, Format>(w, begin, x, addend, activation, y);
  for (; begin + 2 <= end; begin += 2) packed_row<2, Format>(w, begin, x, addend, activation, y);
  if (begin < end) packed_row<1, Format>(w, begin, x, addend, activation, y);
}

// f with one of the three formats.
template <class F> CHAINRULE_INLINE void with_format(int32_t format, F &&f) {
  if (format == CHAINRULE_BF16) f.template operator()<CHAINRULE_BF16>();
  else if (format == CHAINRULE_INT8) f.template operator()<CHAINRULE_INT8>();
  else f.template operator()<CHAINRULE_PLAIN>();
}

// Threads: panels, and blocks of rows where there are few. A weight takes as long to come from memory as some 8 multiply-adds.
// No inputs at all are no case of a network's.
inline chainrule_status packed_product(const Weights &w, size_t n_rows, const Real *x, size_t ldx, const Real *addend, size_t lda,
                                       int32_t activation, Real *y, size_t ldy, const chainrule_exec *exec) {
  const size_t panels = panels_in(w.n_out), tiles = (n_rows + 4 * kR - 1) / (4 * kR);
  const int most = plan_threads(exec, panels * tiles, double(larger(n_rows, 8)) * double(w.n_in) * double(w.n_out));
  if (n_rows == 0) return CHAINRULE_OK;
  if (n_rows == 1) {
    const size_t grain = larger(smaller(kRowPanels, panels / (2 * size_t(most))), 1);
    return for_each(exec, most, panels, grain, [&](size_t begin, size_t end, int) {
      with_format(w.format, [&]<int Format>() { packed_row_panels<Format>(w, begin, end, x, addend, activation, y); });
    });
  }
  const size_t blocks = blocks_beside(panels, tiles, most);
  return for_each(exec, int(smaller(size_t(most), panels * blocks)), panels * blocks, 1, [&](size_t piece, size_t, int) {
    const size_t panel = piece / blocks, begin = n_rows * (piece % blocks) / blocks, end = n_rows * (piece % blocks + 1) / blocks;
    with_format(w.format, [&]<int Format>() { packed_panel<Format>(w, panel, begin, end, x, ldx, addend, lda, activation, y, ldy); });
  });
}

}  // namespace
}  // namespace chainrule
