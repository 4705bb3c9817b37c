"""Attention and a Transformer's step straight from their equations, in float64. Slow and obvious.

`attention_bits` and `attention_gradient_bits` are the contract's rules (docs/reproducibility.md), step by step in the
kernels' own precision: what they must give to the last bit.
"""

import numpy as np

from reference import transformer
from reference.layers import lane_sum
from reference.masked import ACTIVATION, CHUNK, fma

BLOCK = 128  # queries


def heads(x, n):
    """(rows, steps, n d) -> (rows, n, steps, d)."""
    rows, steps, channels = x.shape
    return x.reshape(rows, steps, n, channels // n).transpose(0, 2, 1, 3)


def visible(n_queries, n_keys, length, causal):
    """Which keys each query sees."""
    bound = length - 1 + (np.arange(n_queries)[:, None] + 1 - n_queries) * causal
    return (np.arange(n_keys) <= bound) & (np.arange(n_keys) < length)


def attention(q, k, v, n_heads, n_kv_heads=None, scale=None, causal=True, lengths=None):
    """y and log-sums; a query without keys gets zeros."""
    n_kv_heads = n_kv_heads or n_heads
    Q, K, V = heads(q, n_heads), heads(k, n_kv_heads), heads(v, n_kv_heads)
    scale = Q.shape[-1] ** -0.5 if scale is None else scale
    y, sums = np.zeros(Q.shape), np.zeros(Q.shape[:3])
    for r in range(len(q)):
        mask = visible(q.shape[1], k.shape[1], k.shape[1] if lengths is None else int(lengths[r]), causal)
        for h in range(n_heads):
            g = h // (n_heads // n_kv_heads)
            for i in range(q.shape[1]):
                see = np.flatnonzero(mask[i])
                if not len(see):
                    continue
                s = scale * K[r, g, see] @ Q[r, h, i]
                sums[r, h, i] = s.max() + np.log(np.exp(s - s.max()).sum())
                y[r, h, i] = np.exp(s - sums[r, h, i]) @ V[r, g, see]
    return y.transpose(0, 2, 1, 3).reshape(q.shape), sums


def attention_gradient(q, k, v, dy, n_heads, n_kv_heads=None, scale=None, causal=True, lengths=None):
    """dq, dk, dv by the chain rule on whole matrices of probabilities."""
    n_kv_heads = n_kv_heads or n_heads
    Q, K, V, dY = heads(q, n_heads), heads(k, n_kv_heads), heads(v, n_kv_heads), heads(dy, n_heads)
    scale = Q.shape[-1] ** -0.5 if scale is None else scale
    dQ, dK, dV = np.zeros(Q.shape), np.zeros(K.shape), np.zeros(V.shape)
    for r in range(len(q)):
        mask = visible(q.shape[1], k.shape[1], k.shape[1] if lengths is None else int(lengths[r]), causal)
        for h in range(n_heads):
            g = h // (n_heads // n_kv_heads)
            s = np.where(mask, scale * Q[r, h] @ K[r, g].T, -np.inf)
            top = np.where(mask.any(1), s.max(1, initial=-np.inf), 0.0)[:, None]
            e = np.where(mask, np.exp(s - top), 0.0)
            P = e / np.where(mask.any(1), e.sum(1), 1.0)[:, None]
            dP = dY[r, h] @ V[r, g].T
            dS = P * (dP - (P * dP).sum(1, keepdims=True)) * scale
            dQ[r, h] = dS @ K[r, g]
            dK[r, g] += dS.T @ Q[r, h]
            dV[r, g] += P.T @ dY[r, h]
    return tuple(x.transpose(0, 2, 1, 3).reshape(like.shape) for x, like in ((dQ, q), (dK, k), (dV, v)))


# ---- The rules for sums, exactly


def dots(a, b):
    """a_i . b_j, each one chain over the channels."""
    s = np.zeros((len(a), len(b)), a.dtype)
    for c in range(a.shape[1]):
        s = fma(a[:, c : c + 1], b[None, :, c], s)
    return s


def chain(weights, see, b):
    """sum_j weights_ij b_j, each one chain over the j that i sees."""
    part = np.zeros((len(weights), b.shape[1]), b.dtype)
    for j in np.flatnonzero(see.any(0)):
        part = np.where(see[:, j : j + 1], fma(weights[:, j : j + 1], b[None, j], part), part)
    return part


def attention_bits(q, k, v, n_heads, n_kv_heads, causal, lengths, exp, log):
    """y and log-sums: keys in chunks of 256 steps, the maximum and both sums running from chunk to chunk."""
    Q, K, V = heads(q, n_heads), heads(k, n_kv_heads), heads(v, n_kv_heads)
    scale = q.dtype.type(1 / np.sqrt(float(Q.shape[-1])))
    y, sums = np.zeros(Q.shape, q.dtype), np.zeros(Q.shape[:3], q.dtype)
    for r in range(len(q)):
        mask = visible(q.shape[1], k.shape[1], int(lengths[r]), causal)
        for h in range(n_heads):
            g = h // (n_heads // n_kv_heads)
            scores = np.where(mask, dots(Q[r, h], K[r, g]) * scale, q.dtype.type(-np.inf))
            some = mask.any(1)
            m, l, total = np.full(len(scores), -np.inf, q.dtype), np.zeros(len(scores), q.dtype), y[r, h]
            for start in range(0, k.shape[1], CHUNK):
                chunk = slice(start, start + CHUNK)
                seen, top = mask[:, chunk].any(1), np.maximum(m, scores[:, chunk].max(1))
                base = np.where(some, top, 0).astype(q.dtype)[:, None]
                e, change = exp(scores[:, chunk] - base), exp(m[:, None] - base)
                part = chain(e, mask[:, chunk], V[r, g, chunk])
                l = np.where(seen, fma(l[:, None], change, lane_sum(e))[:, 0], l)
                total = np.where(seen[:, None], fma(total, change, part) if start else part, total)
                m = top
            l = np.where(some, l, 1).astype(q.dtype)
            y[r, h], sums[r, h] = total / l[:, None], np.where(some, m + log(l), 0)
    return y.transpose(0, 2, 1, 3).reshape(q.shape), sums


def attention_gradient_bits(q, k, v, y, sums, dy, n_heads, n_kv_heads, causal, lengths, exp):
    """dq is summed over chunks of 256 keys; dk and dv over blocks of 128 queries, head after head of a group."""
    Q, K, V, Y, dY = (
        heads(x, n) for x, n in ((q, n_heads), (k, n_kv_heads), (v, n_kv_heads), (y, n_heads), (dy, n_heads))
    )
    scale = q.dtype.type(1 / np.sqrt(float(Q.shape[-1])))
    dQ, dK, dV = np.zeros(Q.shape, q.dtype), np.zeros(K.shape, q.dtype), np.zeros(V.shape, q.dtype)
    for r in range(len(q)):
        mask = visible(q.shape[1], k.shape[1], int(lengths[r]), causal)
        for h in range(n_heads):
            g = h // (n_heads // n_kv_heads)
            D = lane_sum(dY[r, h], Y[r, h])
            P = exp(fma(dots(Q[r, h], K[r, g]), scale, -sums[r, h][:, None]))
            dS = P * ((dots(dY[r, h], V[r, g]) - D) * scale)
            for start in range(0, k.shape[1], CHUNK):
                chunk = slice(start, start + CHUNK)
                dQ[r, h] = dQ[r, h] + chain(dS[:, chunk], mask[:, chunk], K[r, g, chunk])
            for start in range(0, q.shape[1], BLOCK):
                block = slice(start, start + BLOCK)
                dK[r, g] = dK[r, g] + chain(dS[block].T, mask[block].T, Q[r, h, block])
                dV[r, g] = dV[r, g] + chain(P[block].T, mask[block].T, dY[r, h, block])
    return tuple(x.transpose(0, 2, 1, 3).reshape(like.shape) for x, like in ((dQ, q), (dK, k), (dV, v)))


# ---- A Transformer with everything `kernels.transformer_step` has

ACTIVATIONS = transformer.ACTIVATIONS | {name: ACTIVATION[name][0] for name in ("sigmoid", "relu", "tanh")}


def sublayers(block, n_heads, n_kv_heads, activation, memory, lengths):
    """(norm, f) of a block; memory: keys and values that cross-attention looks at, of which a row has lengths[r]."""
    width = block["projection"][0].shape[0]

    def linear(x, name):
        W, b = block[name]
        return x @ W if b is None else x @ W + b

    def attend(x):
        q, k, v = np.split(linear(x, "qkv"), [width, width + width // n_heads * n_kv_heads], axis=2)
        return linear(attention(q, k, v, n_heads, n_kv_heads)[0], "projection")

    def look(x):
        y = attention(linear(x, "cross_query"), *memory, n_heads, n_kv_heads, causal=False, lengths=lengths)[0]
        return linear(y, "cross_projection")

    def think(x):
        return linear(ACTIVATIONS[activation](linear(x, "up")), "down")

    cross = [] if memory is None else [(block["cross_norm"], look)]
    return [(block["norm"], attend), *cross, (block["mlp_norm"], think)]


def transformer_logits(p, tokens, n_heads, n_kv_heads, activation, *, post_norm=False, memory=None, lengths=None):
    """(rows, steps, V). memory: (keys, values) of every block.

    `p`: "token", "output" (V, C), "position" (T, C), "last_norm" or None, and "blocks", dicts of "norm" (gain, bias),
    "qkv" (W, b), "projection", "cross_norm", "cross_query", "cross_projection", "mlp_norm", "up", "down".
    """
    table = np.concatenate([p["token"], np.zeros((1, p["token"].shape[1]))])  # none is the last row
    h = table[np.maximum(tokens, -1)] + p["position"][: tokens.shape[1]]
    for block, seen in zip(p["blocks"], memory or [None] * len(p["blocks"]), strict=True):
        for norm, f in sublayers(block, n_heads, n_kv_heads, activation, seen, lengths):
            h = transformer.layer_norm(h + f(h), *norm) if post_norm else h + f(transformer.layer_norm(h, *norm))
    if p["last_norm"] is not None:
        h = transformer.layer_norm(h, *p["last_norm"])
    return h @ p["output"].T
