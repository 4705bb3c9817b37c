// NADE: ancestral sampling, x_i = F^-1(u_i | x_<i), in one march: n d multiply-adds a row, not n^2 d.
//
// Shapes: u [n_rows][ldu] in (0, 1), column i for the i-th step of the order; x [n_rows][ldx] bytes, by column.
// observed: laid out as x; where it is 1, x is read, not drawn.
// The logits are those of nade_score bit for bit: the march is the same function.
#include "nade.hpp"

namespace chainrule {

CHAINRULE_KERNEL(nade_sample)(const Nade *model, size_t n_rows, const double *u, size_t ldu, const uint8_t *observed,
                              uint8_t *x, size_t ldx, const chainrule_exec *exec) {
  const Nade nade = *model;
  const int threads = plan_threads(exec, (n_rows + kTile - 1) / kTile, march_work(nade, n_rows));
  const size_t share = tile_size(nade.n_hidden);
  Real *memory = static_cast<Real *>(arena(size_t(threads) * share * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;

  return with_activation(nade.activation, [&]<int A>() {
    return for_each(exec, threads, n_rows, kTile, [&](size_t begin, size_t end, int worker) {
      Tile tile = tile_at(memory + size_t(worker) * share, nade.n_hidden);
      for_tiles(begin, end, [&]<int R>(size_t first) {
        march<A, R>(nade, tile, [&](size_t i, Real *z) -> unsigned {
          const size_t k = column(nade, i);
          const uint8_t f = flip(nade, k);
          double uniform[8] = {};
          uint8_t drawn[8];
          for (size_t r = 0; r < R; ++r) {
            uniform[r] = u[(first + r) * ldu + i];
            z[r] = f ? -z[r] : z[r];
          }
          bernoulli_draw8(z, uniform, drawn);
          unsigned moves = 0;
          for (size_t r = 0; r < R; ++r) {
            uint8_t &bit = x[(first + r) * ldx + k];
            if (!observed || !observed[(first + r) * ldx + k]) bit = drawn[r];
            moves |= unsigned(bit ^ f) << r;
          }
          return moves;
        });
      });
    });
  });
}

}  // namespace chainrule
