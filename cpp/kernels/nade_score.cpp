// NADE: log p(x) and its terms. nade.hpp has the equations.
//
// Shapes: x [n_rows][n_features] bytes; log_prob [n_rows], terms and logits [n_rows][n_features], by column.
// Cost a row, n variables, d units, m moves: n d multiply-adds, m d activations, n softplus. Threads: tiles of rows.
#include "nade.hpp"

namespace chainrule {

CHAINRULE_KERNEL(nade_score)(const Nade *model, size_t n_rows, const uint8_t *x, size_t ldx, double *log_prob,
                             double *terms, Real *logits, const chainrule_exec *exec) {
  const Nade nade = *model;
  const size_t n = nade.n_features, width = padded(n);
  const int threads = plan_threads(exec, (n_rows + kTile - 1) / kTile, march_work(nade, n_rows));
  const size_t reals = tile_size(nade.n_hidden) + (kTile + 1) * width, bytes = (kTile + 1) * width;
  const size_t share = (reals * sizeof(Real) + bytes + 63) / 64 * 64;
  char *memory = static_cast<char *>(arena(size_t(threads) * share));
  if (!memory) return CHAINRULE_NO_MEMORY;

  return with_activation(nade.activation, [&]<int A>() {
    return for_each(exec, threads, n_rows, kTile, [&](size_t begin, size_t end, int worker) {
      Real *scratch = reinterpret_cast<Real *>(memory + size_t(worker) * share);
      Real *z = scratch + tile_size(nade.n_hidden), *term = z + kTile * width;
      uint8_t *y = reinterpret_cast<uint8_t *>(term + width), *moves = y + kTile * width;
      for_tiles(begin, end, [&]<int R>(size_t first) {
        encode<R>(nade, x + first * ldx, ldx, y, width, moves);
        march<A, R>(nade, tile_at(scratch, nade.n_hidden), [&](size_t i, const Real *step) -> unsigned {
          for (size_t r = 0; r < R; ++r) z[r * width + i] = step[r];
          return moves[i];
        });
        for (size_t r = 0; r < R; ++r) {
          const size_t row = first + r;
          bernoulli_terms(n, z + r * width, y + r * width, term);
          if (log_prob) log_prob[row] = sum_terms(term, n);
          for (size_t i = 0; (terms || logits) && i < n; ++i) {
            const size_t k = column(nade, i);
            if (terms) terms[row * n + k] = double(term[i]);
            if (logits) logits[row * n + k] = flip(nade, k) ? -z[r * width + i] : z[r * width + i];
          }
        }
      });
    });
  });
}

}  // namespace chainrule
