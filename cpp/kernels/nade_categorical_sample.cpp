// NADE on columns of 0..K-1: ancestral sampling, x_i = F^-1(u_i | x_<i), in one march: the work of scoring a row.
//
// Shapes: u [n_rows][ldu] in (0, 1), column i for the i-th step of the order; x [n_rows][ldx] bytes, by column.
// observed: laid out as x; where it is 1, x is read, not drawn.
// The logits are those of nade_categorical_score bit for bit, the draw that of categorical_sample.
#include "nade_categorical.hpp"

namespace chainrule {

CHAINRULE_KERNEL(nade_categorical_sample)(const NadeCategorical *model, size_t n_rows, const double *u, size_t ldu,
                                          const uint8_t *observed, uint8_t *x, size_t ldx, const chainrule_exec *exec) {
  const NadeCategorical nade = *model;
  const int threads = plan_threads(exec, (n_rows + kTile - 1) / kTile, march_work(nade, n_rows));
  const size_t group = group_of(n_rows, threads), share = group * tile_size(nade.n_hidden) + kLogitLanes;
  Real *memory = static_cast<Real *>(arena(size_t(threads) * share * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;

  return with_activation(nade.activation, [&]<int A>() {
    return for_each(exec, threads, n_rows, group * kTile, [&](size_t begin, size_t end, int worker) {
      Real *scratch = memory + size_t(worker) * share;
      Tile tiles[kGroup];
      for (size_t t = 0; t < group; ++t) tiles[t] = tile_at(scratch + t * tile_size(nade.n_hidden), nade.n_hidden);
      for_groups(begin, end, [&]<int R>(size_t first, size_t n_tiles) {
        march<A, R>(nade, tiles, n_tiles, scratch + group * tile_size(nade.n_hidden), [&](size_t t, size_t i, Real *z, uint8_t *code) {
          const size_t k = column(nade, i), zero = reference(nade, k), row = first + t * R;
          double uniform[8] = {};
          uint8_t drawn[8];
          for (size_t r = 0; r < R; ++r) uniform[r] = u[(row + r) * ldu + i];
          categorical_draw8(z, nade.first[i + 1] - nade.first[i] + 1, zero, uniform, drawn);
          for (size_t r = 0; r < R; ++r) {
            uint8_t &value = x[(row + r) * ldx + k];
            if (!observed || !observed[(row + r) * ldx + k]) value = drawn[r];
            code[r] = uint8_t(code_of(value, zero));
          }
        });
      });
    });
  });
}

}  // namespace chainrule
