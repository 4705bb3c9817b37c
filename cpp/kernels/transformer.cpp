// A Transformer's step (Vaswani et al. 2017; Radford et al. 2019): new tokens of some sequences through all blocks, over the keys
// and values that are kept of what was before; and the dense product it is made of, by itself.
//
//   x = token + position;   x += attention(norm(x));   [x += cross-attention(norm(x));]   x += g(norm(x) U + u) D + e
//   logits = norm(x) W                                                           (post_norm: x = norm(x + f(x)))
//
// One token of one sequence is a stream of all weights: 4 bytes each over the bandwidth of memory; t kept steps add 2 t numbers a
// channel. Many tokens are matrix products. Where the logits of one step of each sequence are wanted, the last block goes on with
// that step alone after its keys and values are kept. Rows' results do not depend on what is beside them: the bits of training's
// pass (attention.hpp, packed_linear.hpp).
#include "attention.hpp"
#include "layer_norm.hpp"
#include "packed_linear.hpp"

namespace chainrule {
namespace {

// The activations of M tokens.
struct Activations {
  Real *x, *other, *h;  // [M][width]
  Real *wide;           // [M][the widest of a block]
  Real *workspace;      // attend_size of every thread
  int threads;          // that have one: more may be allowed meanwhile
};
struct Call {
  const Transformer &network;
  size_t n_rows, n_steps;
  const uint32_t *lengths;
  const chainrule_exec *exec;
};
// Ends a function that returns a status when a step of it failed.
#define CHAINRULE_TRY(call) \
  if (const chainrule_status status = (call); status != CHAINRULE_OK) return status;

size_t widest(const TransformerBlock &block) { return larger(block.query_key_value.n_out, block.up.n_out); }

chainrule_status norm(const Call &call, size_t tokens, const Real *x, const Real *gain, const Real *bias, Real *y) {
  const size_t n = call.network.width;
  constexpr size_t grain = 16;
  const int threads = plan_threads(call.exec, (tokens + grain - 1) / grain, 8.0 * double(tokens) * double(n));
  return for_each(call.exec, threads, tokens, grain, [&](size_t begin, size_t end, int) {
    for (size_t i = begin; i < end; ++i) layer_norm_row(x + i * n, n, gain, bias, Real(call.network.epsilon), y + i * n, nullptr);
  });
}
chainrule_status product(const Call &call, const Weights &w, size_t tokens, const Real *x, size_t ldx, const Real *addend,
                         int32_t activation, Real *y, size_t ldy) {
  return packed_product(w, tokens, x, ldx, addend, call.network.width, activation, y, ldy, call.exec);
}

// Queries, of `queries` each ld apart, to y [M][width].
chainrule_status attend_all(const Call &call, const chainrule_attention &attention, size_t n_steps, const uint32_t *lengths,
                            Real *queries, size_t ld, bool append, const Cache &cache, const Activations &a, Real *y) {
  const size_t heads = attention.n_heads * attention.head_size, kept = attention.n_kv_heads * attention.head_size;
  const size_t pieces = call.n_rows * attention.n_kv_heads, size = attend_size(whole_panels(attention.head_size));
  const Sequences q = {queries, n_steps * ld, ld}, k = {queries + heads, n_steps * ld, ld}, v = {queries + heads + kept, n_steps * ld, ld};
  const Sequences to = {y, n_steps * heads, heads};
  const int planned = plan_threads(call.exec, pieces, attention_step_work(attention, call.n_rows, n_steps, lengths));
  const int threads = planned < a.threads ? planned : a.threads;
  return for_each(call.exec, threads, pieces, 1, [&](size_t piece, size_t, int worker) {
    attend_new(attention, piece, n_steps, lengths, q, append ? &k : nullptr, append ? &v : nullptr, cache, to,
               a.workspace + size_t(worker) * size);
  });
}

// A sublayer's end: x = x + f W, normed when norms come after; f [M][ld].
chainrule_status residual(const Call &call, const Weights &w, size_t tokens, const Real *f, size_t ld, const Real *gain, const Real *bias,
                          Activations &a) {
  CHAINRULE_TRY(product(call, w, tokens, f, ld, a.x, CHAINRULE_IDENTITY, a.other, call.network.width))
  Real *x = a.other;
  a.other = a.x, a.x = x;
  return call.network.post_norm ? norm(call, tokens, a.x, gain, bias, a.x) : CHAINRULE_OK;
}
// And its beginning: what f sees.
chainrule_status normed(const Call &call, size_t tokens, const Real *gain, const Real *bias, Activations &a, const Real *&seen) {
  seen = call.network.post_norm ? a.x : a.h;
  return call.network.post_norm ? CHAINRULE_OK : norm(call, tokens, a.x, gain, bias, a.h);
}

// A block; tokens become those of step last[r] alone, where that is given. only_kept: no further than its keys and values.
chainrule_status transform(const Call &call, const TransformerBlock &block, const Cache &cache, const Cache *cross,
                           const uint32_t *cross_lengths, const uint32_t *last, bool only_kept, size_t &tokens, Activations &a) {
  const Transformer &network = call.network;
  const size_t width = network.width, heads = network.attention.n_heads * network.attention.head_size;
  const Real *seen;
  CHAINRULE_TRY(normed(call, tokens, block.norm_gain, block.norm_bias, a, seen))
  const Weights &qkv = block.query_key_value;
  CHAINRULE_TRY(product(call, qkv, tokens, seen, width, nullptr, CHAINRULE_IDENTITY, a.wide, qkv.n_out))
  CHAINRULE_TRY(attend_all(call, network.attention, call.n_steps, call.lengths, a.wide, qkv.n_out, true, cache, a, a.h))
  if (only_kept) return CHAINRULE_OK;
  if (last) {
    for (size_t r = 0; r < call.n_rows; ++r) {
      const size_t from = r * call.n_steps + last[r];
      for (size_t c = 0; c < heads; ++c) a.h[r * heads + c] = a.h[from * heads + c];
      for (size_t c = 0; c < width; ++c) a.x[r * width + c] = a.x[from * width + c];
    }
    tokens = call.n_rows;
  }
  CHAINRULE_TRY(residual(call, block.projection, tokens, a.h, heads, block.norm_gain, block.norm_bias, a))
  if (cross) {
    chainrule_attention attention = network.attention;
    attention.causal = 0;
    CHAINRULE_TRY(normed(call, tokens, block.cross_norm_gain, block.cross_norm_bias, a, seen))
    CHAINRULE_TRY(product(call, block.cross_query, tokens, seen, width, nullptr, CHAINRULE_IDENTITY, a.wide, heads))
    CHAINRULE_TRY(attend_all(call, attention, tokens / call.n_rows, cross_lengths, a.wide, heads, false, *cross, a, a.h))
    CHAINRULE_TRY(residual(call, block.cross_projection, tokens, a.h, heads, block.cross_norm_gain, block.cross_norm_bias, a))
  }
  CHAINRULE_TRY(normed(call, tokens, block.mlp_norm_gain, block.mlp_norm_bias, a, seen))
  CHAINRULE_TRY(product(call, block.up, tokens, seen, width, nullptr, network.activation, a.wide, block.up.n_out))
  return residual(call, block.down, tokens, a.wide, block.up.n_out, block.mlp_norm_gain, block.mlp_norm_bias, a);
}

// One number of a table in panels of 32 values.
Real token_at(const Weights &w, size_t value, size_t c) {
  const size_t at = (value / kPanel * w.n_in + c) * kPanel + value % kPanel;
  if (w.format == CHAINRULE_PLAIN) return static_cast<const Real *>(w.W)[at];
  if (w.format == CHAINRULE_INT8) {
    const size_t chunks = (w.n_in + kChunk - 1) / kChunk;
    return Real(static_cast<const int8_t *>(w.W)[at]) * Real(w.scale[(value / kPanel * chunks + c / kChunk) * kPanel + value % kPanel]);
  }
  const uint32_t bits = uint32_t(static_cast<const uint16_t *>(w.W)[at]) << 16;
  float number;
  __builtin_memcpy(&number, &bits, sizeof number);
  return Real(number);
}

}  // namespace

CHAINRULE_KERNEL(packed_linear)(const Weights *weights, size_t n_rows, const Real *x, size_t ldx, const Real *addend, size_t lda,
                                Real *y, size_t ldy, const chainrule_exec *exec) {
  return packed_product(*weights, n_rows, x, ldx, addend, lda, CHAINRULE_IDENTITY, y, ldy, exec);
}

CHAINRULE_KERNEL(transformer_step)(const Transformer *network, size_t n_rows, size_t n_steps, const int32_t *token, size_t ldt,
                                   const uint32_t *lengths, const uint32_t *last, const Cache *caches, const Cache *cross,
                                   const uint32_t *cross_lengths, Real *logits, size_t ldl, const chainrule_exec *exec) {
  const size_t width = network->width, heads = network->attention.n_heads * network->attention.head_size, most = larger(width, heads);
  size_t tokens = n_rows * n_steps, wide = 0;
  for (size_t b = 0; b < network->n_blocks; ++b) wide = larger(wide, widest(network->blocks[b]));
  const size_t each = attend_size(whole_panels(network->attention.head_size));
  const int threads = plan_threads(exec, n_rows * network->attention.n_kv_heads, 1e30);
  Real *memory = static_cast<Real *>(arena((tokens * (3 * most + wide) + size_t(threads) * each) * sizeof(Real)));
  if (!memory) return CHAINRULE_NO_MEMORY;
  if (tokens == 0) return CHAINRULE_OK;
  Activations a = {memory, memory + tokens * most, memory + 2 * tokens * most, memory + 3 * tokens * most,
                   memory + tokens * (3 * most + wide), threads};
  const Call call = {*network, n_rows, n_steps, lengths, exec};
  for (size_t r = 0; r < n_rows; ++r)
    for (size_t t = 0; t < n_steps; ++t) {
      const int32_t value = token[r * ldt + t];
      const Real *position = network->position + (lengths[r] + t) * width;
      Real *to = a.x + (r * n_steps + t) * width;
      for (size_t c = 0; c < width; ++c) to[c] = (value < 0 ? Real(0) : token_at(network->token, size_t(value), c)) + position[c];
    }
  for (size_t b = 0; b < network->n_blocks; ++b)
    CHAINRULE_TRY(transform(call, network->blocks[b], caches[b], cross ? cross + b : nullptr, cross_lengths,
                            b + 1 == network->n_blocks ? last : nullptr, !logits && b + 1 == network->n_blocks, tokens, a))
  if (!logits) return CHAINRULE_OK;
  if (network->norm_gain) CHAINRULE_TRY(norm(call, tokens, a.x, network->norm_gain, network->norm_bias, a.x))
  return product(call, network->output, tokens, a.x, width, nullptr, CHAINRULE_IDENTITY, logits, ldl);
}

#undef CHAINRULE_TRY
}  // namespace chainrule
