"""Attention and packed products straight from their equations, in NumPy."""

import numpy as np


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
