// Layer normalisation of rows (layer_norm.hpp) and its gradient.
//
//   g = dy gain,  h = (x - mean) r
//   dx = addend + r (g - sum_j g_j / n - h sum_j g_j h_j / n),   dgain = sum over rows of dy h,   dbias = sum over rows of dy
//
// x, y, dy, dx: [n_rows][n] with leading dimensions; statistics [n_rows][2] from the forward pass. Sums along a row are sums over
// lanes; those over rows are chains in chunks of 256 rows, which are the pieces of work, added in order at the end.
// Cost: one read and one write of memory; the gradient two or three reads and a write.
#include "layer_norm.hpp"

#include "panels.hpp"

namespace chainrule {
namespace {

constexpr size_t kPiece = 4096;  // elements a thread takes at a time

// dx of R rows; dgain and dbias [n] move on by what they add. dx may be dy or addend.
template <int R>
CHAINRULE_INLINE void gradient_rows(size_t n, const Real *x, size_t ldx, const Real *gain, const Real *statistics, const Real *dy,
                                    size_t lddy, const Real *addend, size_t lda, Real *dx, size_t lddx, Real *dgain, Real *dbias) {
  Vec<Real> sum[R], product[R];
  auto normal = [&](int i, size_t k, int lanes) __attribute__((always_inline)) {
    return first_lanes((load_lanes(x + size_t(i) * ldx + k, lanes) - set1(statistics[2 * i])) * set1(statistics[2 * i + 1]), lanes);
  };
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) sum[i] = product[i] = zero<Real>();
  for_vectors(n, [&](size_t k, int lanes) __attribute__((always_inline)) {
    const Vec<Real> scale = load_lanes(gain + k, lanes);
    Vec<Real> to_gain = load(dgain + k), to_bias = load(dbias + k);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const Vec<Real> d = load_lanes(dy + size_t(i) * lddy + k, lanes), h = normal(i, k, lanes), g = d * scale;
      sum[i] = sum[i] + g;
      product[i] = fma(g, h, product[i]);
      to_gain = fma(d, h, to_gain);
      to_bias = to_bias + d;
    }
    store(dgain + k, to_gain), store(dbias + k, to_bias);
  });
  Vec<Real> mean[R], slope[R];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) mean[i] = set1(hsum(sum[i]) / Real(n)), slope[i] = set1(-(hsum(product[i]) / Real(n)));
  for_vectors(n, [&](size_t k, int lanes) __attribute__((always_inline)) {
    const Vec<Real> scale = load_lanes(gain + k, lanes);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      const Vec<Real> g = load_lanes(dy + size_t(i) * lddy + k, lanes) * scale, h = normal(i, k, lanes), r = set1(statistics[2 * i + 1]);
      const Vec<Real> d = fma(h, slope[i], g - mean[i]);
      const Vec<Real> moved = addend ? fma(r, d, load_lanes(addend + size_t(i) * lda + k, lanes)) : r * d;
      store_lanes(dx + size_t(i) * lddx + k, moved, lanes);
    }
  });
}

}  // namespace

CHAINRULE_KERNEL(layer_norm)(size_t n_rows, size_t n, const Real *x, size_t ldx, const Real *gain, const Real *bias, double epsilon,
                             Real *y, size_t ldy, Real *statistics, const chainrule_exec *exec) {
  const size_t grain = kPiece / n + 1;
  const int threads = plan_threads(exec, (n_rows + grain - 1) / grain, double(n_rows) * double(n + kWidth) * 4);
  return for_each(exec, threads, n_rows, grain, [&](size_t begin, size_t end, int) {
    for (size_t r = begin; r < end; ++r)
      layer_norm_row(x + r * ldx, n, gain, bias, Real(epsilon), y + r * ldy, statistics ? statistics + 2 * r : nullptr);
  });
}

CHAINRULE_KERNEL(layer_norm_gradient)(size_t n_rows, size_t n, const Real *x, size_t ldx, const Real *gain, const Real *statistics,
                                      const Real *dy, size_t lddy, const Real *addend, size_t lda, Real *dx, size_t lddx, Real *dgain,
                                      Real *dbias, const chainrule_exec *exec) {
  const size_t chunks = (n_rows + kChunk - 1) / kChunk, ld = padded(n);
  const int threads = plan_threads(exec, chunks, double(n_rows) * double(n + kWidth) * 8);
  Real *sums = static_cast<Real *>(arena(chunks * 2 * ld * sizeof(Real)));
  if (!sums) return CHAINRULE_NO_MEMORY;
  const chainrule_status status = for_each(exec, threads, n_rows, kChunk, [&](size_t begin, size_t end, int) {
    Real *of_chunk = sums + begin / kChunk * 2 * ld;
    for (size_t k = 0; k < 2 * ld; k += kWidth) store(of_chunk + k, zero<Real>());
    auto rows = [&]<int R>(size_t r) __attribute__((always_inline)) {
      gradient_rows<R>(n, x + r * ldx, ldx, gain, statistics + 2 * r, dy + r * lddy, lddy, addend ? addend + r * lda : nullptr, lda,
                       dx + r * lddx, lddx, of_chunk, of_chunk + ld);
    };
    size_t r = begin;
    for (; r + 2 <= end; r += 2) rows.template operator()<2>(r);
    if (r < end) rows.template operator()<1>(r);
  });
  if (status != CHAINRULE_OK) return status;
  return for_each(exec, 1, n, kPiece, [&](size_t begin, size_t end, int) {
    for (size_t k = begin; k < end; k += kWidth) {
      Vec<Real> to_gain = zero<Real>(), to_bias = zero<Real>();
      for (size_t chunk = 0; chunk < chunks; ++chunk) {
        to_gain = to_gain + load(sums + chunk * 2 * ld + k);
        to_bias = to_bias + load(sums + chunk * 2 * ld + ld + k);
      }
      store_part(dgain + k, to_gain, lanes_at(k, n)), store_part(dbias + k, to_bias, lanes_at(k, n));
    }
  });
}

}  // namespace chainrule
