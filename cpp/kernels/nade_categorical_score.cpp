// NADE on columns of 0..K-1: log p(x) and its terms. nade_categorical.hpp has the equations.
//
// Shapes: x [n_rows][n_features] bytes; log_prob [n_rows], terms [n_rows][n_features] by column, logits [n_rows][n_logits]
// column after column. Cost a row, d units, m moves: n_logits d multiply-adds, m d activations, an exponential a logit.
// Threads: groups of tiles of rows.
#include "nade_categorical.hpp"

namespace chainrule {

CHAINRULE_KERNEL(nade_categorical_score)(const NadeCategorical *model, size_t n_rows, const uint8_t *x, size_t ldx,
                                         double *log_prob, double *terms, Real *logits, const chainrule_exec *exec) {
  const NadeCategorical nade = *model;
  const size_t n = nade.n_features, width = padded(n), all = n_logits(nade);
  const int threads = plan_threads(exec, (n_rows + kTile - 1) / kTile, march_work(nade, n_rows));
  const size_t rows = group_of(n_rows, threads) * kTile;
  const size_t reals = rows / kTile * tile_size(nade.n_hidden) + kLogitLanes + rows * width;
  const size_t share = (reals * sizeof(Real) + rows * width + 63) / 64 * 64, shared = (n * sizeof(uint32_t) + 63) / 64 * 64;
  char *memory = static_cast<char *>(arena(shared + size_t(threads) * share));
  if (!memory) return CHAINRULE_NO_MEMORY;
  uint32_t *place = reinterpret_cast<uint32_t *>(memory);  // of each column's logits
  for (size_t i = 0; i < n; ++i) place[column(nade, i)] = nade.first[i + 1] - nade.first[i];
  for (size_t k = 0, before = 0; k < n; ++k) {
    const size_t own = place[k];
    place[k] = uint32_t(before), before += own;
  }

  return with_activation(nade.activation, [&]<int A>() {
    return for_each(exec, threads, n_rows, rows, [&](size_t begin, size_t end, int worker) {
      Real *scratch = reinterpret_cast<Real *>(memory + shared + size_t(worker) * share);
      Tile tiles[kGroup];
      for (size_t t = 0; t < rows / kTile; ++t) tiles[t] = tile_at(scratch + t * tile_size(nade.n_hidden), nade.n_hidden);
      Real *z = scratch + rows / kTile * tile_size(nade.n_hidden), *term = z + kLogitLanes;
      uint8_t *y = reinterpret_cast<uint8_t *>(term + rows * width);
      for_groups(begin, end, [&]<int R>(size_t first, size_t n_tiles) {
        encode(nade, n_tiles * R, x + first * ldx, ldx, y, width);
        march<A, R>(nade, tiles, n_tiles, z, [&](size_t t, size_t i, Real *zi, uint8_t *code) {
          const size_t count = nade.first[i + 1] - nade.first[i];
          for (size_t r = 0; r < R; ++r) code[r] = y[(t * R + r) * width + i];
          if (logits)
            for (size_t r = 0; r < R; ++r) {
              Real *to = logits + (first + t * R + r) * all + place[column(nade, i)];
              for (size_t k = 0; k < count; ++k) to[k] = zi[k * kWidth + r];
            }
          const Vec<Real> chosen = logits_of(zi, code, R);
          Real lane[kWidth];
          store(lane, log_prob_of(chosen, exponentials(zi, count)));
          for (size_t r = 0; r < R; ++r) term[(t * R + r) * width + i] = lane[r];
        });
        for (size_t r = 0; r < n_tiles * R; ++r) {
          Real *row = term + r * width;
          fill(row, n, width, 0);
          if (log_prob) log_prob[first + r] = sum_terms(row, n);
          for (size_t i = 0; terms && i < n; ++i) terms[(first + r) * n + column(nade, i)] = double(row[i]);
        }
      });
    });
  });
}

}  // namespace chainrule
