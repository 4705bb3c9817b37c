// NADE: gradient of -sum_r weight_r log p(x_r) in O(n d) a row, without storing the hidden states.
//
// Forward, threads over tiles of rows: nade.hpp's march gives z; errors e = weight (sigmoid(z) - y) stay, [rows][n].
// Backward, threads over blocks of hidden units, each owning its columns of every gradient; rows in ascending order:
//
//   for i = n..1:  gW_i += y_i da;  gV_i += e_i h;  da += e_i V_i g'(a);      gc += da, gb_i += e_i
//
// h is constant on the run of variables between two moves, so t = sum e_i V_i is gathered over a run and multiplied by
// g'(a) once at its end. Runs are cut at multiples of 32, a word of y. Hidden states are recomputed from the sums at
// the start of each word, kept for a tile of rows: nothing is subtracted, so nothing drifts.
//
// Sums over rows are chains in chunks of 256 rows at absolute positions. Cost a row: forward as nade_score, backward
// 2 n d multiply-adds and m d activations. Memory: 256 rows of errors, and 4 n blocks of units a thread.
#include "nade.hpp"
#include "units.hpp"

namespace chainrule {
namespace {

constexpr size_t kWord = 32;                                                    // variables in a word of y
constexpr size_t kRows = 32;                                                    // rows between checkpoints and use

// One worker's memory for a block of B units.
struct Block {
  Real *W, *gW, *V, *gV;        // [n][B] each, a row of parameters beside its gradient: pairs of rows 2 B apart
  Real *c, *gc;                 // [B]
  Real *part, *whole;           // [kRows][words][B]: sums at the start of a word; [kRows][chunks][B]
  Real *da, *h;                 // [kRows][B]: d log p / d a, and g(a), at the start of the word last done
  Real *history;                // [2 rows][kWord + 1][B]: g(a) after each move of a word
};
CHAINRULE_INLINE size_t words_in(size_t n) { return (n + kWord - 1) / kWord; }
CHAINRULE_INLINE size_t chunks_in(size_t n) { return (n + kChunk - 1) / kChunk; }
CHAINRULE_INLINE size_t block_size(size_t n) {
  return kMaxBlock * kWidth * (4 * n + 2 + kRows * (words_in(n) + chunks_in(n) + 2) + 2 * (kWord + 1));
}
template <int N> CHAINRULE_INLINE Block block_at(Real *p, size_t n) {
  constexpr size_t B = N * kWidth;
  auto take = [&p](size_t rows) { Real *at = p; p += rows * B; return at; };
  Block block;
  block.W = take(2 * n), block.V = take(2 * n), block.c = take(1), block.gc = take(1);
  block.part = take(kRows * words_in(n)), block.whole = take(kRows * chunks_in(n));
  block.da = take(kRows), block.h = take(kRows), block.history = take(2 * (kWord + 1));
  block.gW = block.W + N * kWidth, block.gV = block.V + N * kWidth;
  return block;
}

// One row, forwards: the sums at the start of every word and chunk.
template <int N>
CHAINRULE_INLINE void checkpoints(const Block &block, const uint32_t *y, size_t n, Real *part_at, Real *whole_at) {
  constexpr size_t B = N * kWidth;
  Units<N> part = each<N>([](int) { return zero<Real>(); }), whole = part;
  for (size_t word = 0; word < words_in(n); ++word) {
    if (word * kWord % kChunk == 0) {
      whole = each<N>([&](int k) { return whole.v[k] + part.v[k]; });
      part = each<N>([](int) { return zero<Real>(); });
      store_units<N>(whole_at + word * kWord / kChunk * B, whole);
    }
    store_units<N>(part_at + word * B, part);
    for (uint32_t moves = y[word]; moves; moves &= moves - 1) {
      const Real *w = block.W + (word * kWord + size_t(__builtin_ctz(moves))) * 2 * B;
      part = each<N>([&](int k) { return part.v[k] + load(w + size_t(k) * kWidth); });
    }
  }
}

// R rows, one word, backwards: all its variables' contributions to this block's gradients. A row of gV is loaded and
// stored once for the R rows, on the stretches of variables where none of them moves.
template <int A, int N, int R>
CHAINRULE_INLINE void backward_word(const Block &block, const uint32_t *bits, size_t bits_ld, size_t first, size_t last,
                                    const Real *e, size_t width, const Real *part_at, size_t part_ld,
                                    const Real *whole_at, size_t whole_ld, Real *da_at, Real *h_at) {
  constexpr size_t B = N * kWidth;
  Units<N> h[R], t[R];
  uint32_t y[R];     // moves still to come, from the last variable to the first
  size_t start[R];   // first variable of the run with this h
  Real *history[R];  // one past the next h
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
    // g(a) after each move of the word; after the last one it is the state the next word began with.
    y[r] = bits[size_t(r) * bits_ld];
    history[r] = block.history + size_t(r) * (kWord + 1) * B;
    Units<N> part = load_units<N>(part_at + size_t(r) * part_ld);
    const Units<N> whole = load_units<N>(whole_at + size_t(r) * whole_ld);
    for (uint32_t left = y[r]; left; left &= left - 1) {
      store_units<N>(history[r], each<N>([&](int k) {
        return activate<A>((whole.v[k] + part.v[k]) + load(block.c + size_t(k) * kWidth));
      }));
      history[r] += B;
      const Real *w = block.W + (first + size_t(__builtin_ctz(left))) * 2 * B;
      part = each<N>([&](int k) { return part.v[k] + load(w + size_t(k) * kWidth); });
    }
    h[r] = load_units<N>(h_at + size_t(r) * B);
    t[r] = each<N>([](int) { return zero<Real>(); });
    start[r] = y[r] ? first + size_t(31 - __builtin_clz(y[r])) + 1 : first;
  }
  auto end_of_run = [&](int r) {
    Real *da = da_at + size_t(r) * B;
    store_units<N>(da, each<N>([&](int k) {
      return fma(t[r].v[k], activation_slope<A>(h[r].v[k]), load(da + size_t(k) * kWidth));
    }));
  };
  for (size_t i = last;;) {  // variables [i, last) are done
    size_t stop = start[0];
    if (R > 1 && start[R - 1] > stop) stop = start[R - 1];
    while (i > stop) {
      --i;
      const Real *v = block.V + i * 2 * B;
      Real *gv = block.gV + i * 2 * B;
      Vec<Real> error[R];
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) error[r] = set1(e[size_t(r) * width + i]);
#pragma GCC unroll 4
      for (int k = 0; k < N; ++k) {
        Vec<Real> g = load(gv + k * kWidth), vk = load(v + k * kWidth);
#pragma GCC unroll 2
        for (int r = 0; r < R; ++r) {
          g = fma(error[r], h[r].v[k], g);
          t[r].v[k] = fma(error[r], vk, t[r].v[k]);
        }
        store(gv + k * kWidth, g);
      }
    }
    bool more = false;
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      if (start[r] == stop && y[r]) {
        end_of_run(r);
        const Real *da = da_at + size_t(r) * B;
        Real *gw = block.gW + (stop - 1) * 2 * B;
        store_units<N>(gw, each<N>([&](int k) { return load(gw + k * kWidth) + load(da + k * kWidth); }));
        y[r] &= ~(uint32_t(1) << (stop - 1 - first));
        start[r] = y[r] ? first + size_t(31 - __builtin_clz(y[r])) + 1 : first;
        history[r] -= B;
        h[r] = load_units<N>(history[r]);
        t[r] = each<N>([](int) { return zero<Real>(); });
        more = true;
      }
    }
    if (!more && stop == first) break;
  }
#pragma GCC unroll 2
  for (int r = 0; r < R; ++r) {
    end_of_run(r);
    store_units<N>(h_at + size_t(r) * B, h[r]);
  }
}

// Units [unit, unit + live) of every gradient, over one chunk of rows; the first chunk overwrites, later ones add.
template <int A, int N>
void backward_block(const Nade &nade, const NadeGradient &gradient, size_t unit, size_t n_rows, const uint32_t *y,
                    const Real *errors, size_t width, bool add, Real *scratch) {
  constexpr size_t B = N * kWidth;
  const size_t n = nade.n_features, words = words_in(n), chunks = chunks_in(n);
  const Block block = block_at<N>(scratch, n);
  const Slice<N> slice{unit, nade.n_hidden, add};
  const Units<N> nothing = each<N>([](int) { return zero<Real>(); });
  for (size_t i = 0; i < n; ++i) {
    slice.gather(block.W + i * 2 * B, nade.W + i * nade.ldw);
    slice.gather(block.V + i * 2 * B, nade.V + i * nade.ldv);
    store_units<N>(block.gW + i * 2 * B, nothing);
    store_units<N>(block.gV + i * 2 * B, nothing);
  }
  slice.gather(block.c, nade.c);
  store_units<N>(block.gc, nothing);

  for (size_t row = 0; row < n_rows; row += kRows) {
    const size_t rows = n_rows - row < kRows ? n_rows - row : kRows;
    const uint32_t *yr = y + row * words;
    for (size_t r = 0; r < rows; ++r) {
      Real *part = block.part + r * words * B, *whole = block.whole + r * chunks * B;
      checkpoints<N>(block, yr + r * words, n, part, whole);
      store_units<N>(block.da + r * B, nothing);
    }
    for (size_t word = words; word-- > 0;) {
      const size_t first = word * kWord, last = first + kWord < n ? first + kWord : n;
      if (word + 1 == words)
        for (size_t r = 0; r < rows; ++r) {  // the state after the last move of all
          Units<N> sum = load_units<N>(block.part + (r * words + word) * B);
          for (uint32_t left = yr[r * words + word]; left; left &= left - 1) {
            const Real *w = block.W + (first + size_t(__builtin_ctz(left))) * 2 * B;
            sum = each<N>([&](int k) { return sum.v[k] + load(w + size_t(k) * kWidth); });
          }
          const Real *whole = block.whole + (r * chunks + first / kChunk) * B;
          store_units<N>(block.h + r * B, each<N>([&](int k) {
            return activate<A>((load(whole + size_t(k) * kWidth) + sum.v[k]) + load(block.c + size_t(k) * kWidth));
          }));
        }
      auto backward = [&]<int R>(size_t r) {
        backward_word<A, N, R>(block, yr + r * words + word, words, first, last, errors + (row + r) * width, width,
                               block.part + (r * words + word) * B, words * B,
                               block.whole + (r * chunks + first / kChunk) * B, chunks * B, block.da + r * B,
                               block.h + r * B);
      };
      size_t r = 0;
      for (; r + 2 <= rows; r += 2) backward.template operator()<2>(r);
      if (r < rows) backward.template operator()<1>(r);
    }
    for (size_t r = 0; r < rows; ++r)
      store_units<N>(block.gc, each<N>([&](int k) {
        return load(block.gc + size_t(k) * kWidth) + load(block.da + r * B + size_t(k) * kWidth);
      }));
  }

  const bool tied = nade.V == nade.W;
  for (size_t i = 0; i < n; ++i) {
    Real *gw = block.gW + i * 2 * B, *gv = block.gV + i * 2 * B;
    if (tied) store_units<N>(gw, each<N>([&](int k) { return load(gw + k * kWidth) + load(gv + k * kWidth); }));
    else slice.scatter(gradient.V + i * gradient.ldv, gv);
    slice.scatter(gradient.W + i * gradient.ldw, gw);
  }
  slice.scatter(gradient.c, block.gc);
}

}  // namespace

CHAINRULE_KERNEL(nade_gradient)(const Nade *model, size_t n_rows, const uint8_t *x, size_t ldx, const Real *weight,
                                double *log_prob, const NadeGradient *gradient, const chainrule_exec *exec) {
  const Nade nade = *model;
  const size_t n = nade.n_features, d = nade.n_hidden, width = padded(n), words = words_in(n);
  const size_t chunk_rows = n_rows < kChunk ? n_rows : kChunk;

  const double work = march_work(nade, chunk_rows) * 2;
  const UnitBlocks units = unit_blocks(exec, d, work);
  const size_t blocks = units.count;
  const size_t tiles = (chunk_rows + kTile - 1) / kTile;
  const int threads = plan_threads(exec, tiles > blocks ? tiles : blocks, work);

  const size_t forward = tile_size(d) * sizeof(Real) + width * sizeof(Real) + (kTile + 1) * width;
  const size_t backward = block_size(n) * sizeof(Real);
  const size_t share = ((forward > backward ? forward : backward) + 63) / 64 * 64;
  const size_t shared = chunk_rows * width * sizeof(Real) + (chunk_rows * words * 4 + 63) / 64 * 64;
  char *memory = static_cast<char *>(arena(shared + size_t(threads) * share));
  if (!memory) return CHAINRULE_NO_MEMORY;
  Real *errors = reinterpret_cast<Real *>(memory);                                             // [rows][width]
  uint32_t *y = reinterpret_cast<uint32_t *>(memory + chunk_rows * width * sizeof(Real));      // [rows][words]
  auto scratch = [&](int worker) { return reinterpret_cast<Real *>(memory + shared + size_t(worker) * share); };

  return with_activation(nade.activation, [&]<int A>() {
    size_t start = 0;
    do {  // at least once: no rows, gradient zero
      const size_t rows = n_rows - start < kChunk ? n_rows - start : kChunk;
      chainrule_status status = for_each(exec, threads, rows, kTile, [&](size_t begin, size_t end, int worker) {
        Tile tile = tile_at(scratch(worker), d);
        Real *term = scratch(worker) + tile_size(d);
        uint8_t *bytes = reinterpret_cast<uint8_t *>(term + width), *moves = bytes + kTile * width;
        for_tiles(begin, end, [&]<int R>(size_t first) {
          encode<R>(nade, x + (start + first) * ldx, ldx, bytes, width, moves);
          Real *z = errors + first * width;
          march<A, R>(nade, tile, [&](size_t i, const Real *step) -> unsigned {
            for (size_t r = 0; r < R; ++r) z[r * width + i] = step[r];
            return moves[i];
          });
          for (size_t r = 0; r < R; ++r) {
            const size_t row = start + first + r;
            const Vec<Real> w = set1(weight ? weight[row] : Real(1) / Real(n_rows));
            uint32_t *word = y + (first + r) * words;
            for (size_t k = 0; k < words; ++k) word[k] = 0;
            for (size_t i = 0; i < n; ++i) word[i / kWord] |= uint32_t(bytes[r * width + i]) << (i % kWord);
            if (log_prob) {
              bernoulli_terms(n, z + r * width, bytes + r * width, term);
              log_prob[row] = sum_terms(term, n);
            }
            for (size_t i = 0; i < n; i += kWidth)
              store(z + r * width + i, w * (sigmoid(load(z + r * width + i)) - load_bytes<Real>(bytes + r * width + i)));
          }
        });
      });
      if (status != CHAINRULE_OK) return status;

      const bool add = start > 0;
      status = for_each(exec, threads, blocks + 1, 1, [&](size_t piece, size_t, int worker) {
        if (piece == blocks) {
          bias_gradient(n, rows, errors, width, add, gradient->b);
          return;
        }
        units.visit(piece, [&]<int N>(size_t unit) {
          backward_block<A, N>(nade, *gradient, unit, rows, y, errors, width, add, scratch(worker));
        });
      });
      if (status != CHAINRULE_OK) return status;
      start += rows;
    } while (start < n_rows);
    return CHAINRULE_OK;
  });
}

}  // namespace chainrule
