"""NADE on columns of 0..K-1 straight from the equations, in float64, one variable at a time. Slow and obvious.

`first` counts logits by step of the order, as the kernels take it; by column it is `starts(K)`.
"""

import numpy as np

from reference import categorical
from reference.categorical import code
from reference.nade import ACTIVATION


def starts(K):
    """Logits before each column, and all of them."""
    return np.concatenate([[0], np.cumsum(np.asarray(K, int) - 1)]).astype(np.uint32)


def encode(x, order, reference):
    """Codes in chain order."""
    n = x.shape[1]
    order = np.arange(n) if order is None else order.astype(int)
    reference = np.zeros(n, int) if reference is None else reference
    return np.stack([code(x[:, k], reference[k]) for k in order], axis=1).astype(int) if n else x.astype(int), order


def logits_in_order(y, W, V, b, c, first, activation):
    """Logits by step and code, and the hidden states at every step."""
    g, _ = ACTIVATION[activation]
    W, V, b, c = (np.asarray(p, float) for p in (W, V, b, c))
    a, h = np.tile(c, (len(y), 1)), []
    z = np.empty((len(y), len(b)))
    for i in range(y.shape[1]):
        h.append(g(a))
        z[:, first[i] : first[i + 1]] = b[first[i] : first[i + 1]] + h[i] @ V[first[i] : first[i + 1]].T
        moves = y[:, i] > 0
        a = a.copy()
        a[moves] += W[first[i] + y[moves, i] - 1]
    return z, h


def by_column(z, first, order):
    """Logits column after column."""
    blocks = {k: z[:, first[i] : first[i + 1]] for i, k in enumerate(order)}
    return np.concatenate([z[:, :0], *(blocks[k] for k in range(len(order)))], axis=1)


def logits(x, W, V, b, c, first, activation="sigmoid", order=None, reference=None):
    """Logits by column and code."""
    y, order = encode(x, order, reference)
    return by_column(logits_in_order(y, W, V, b, c, first, activation)[0], first, order)


def terms(x, W, V, b, c, first, activation="sigmoid", order=None, reference=None):
    """log p(x_i | x_<i), by column."""
    y, order = encode(x, order, reference)
    out = np.empty(x.shape)
    z, _ = logits_in_order(y, W, V, b, c, first, activation)
    out[:, order] = categorical.log_prob(z, y, first)
    return out


def gradient(x, W, V, b, c, first, activation="sigmoid", order=None, reference=None, weight=None):
    """Gradient of -sum_r weight_r log p(x_r) by the backward recursion (tied: add dV to dW)."""
    _, slope = ACTIVATION[activation]
    y, order = encode(x, order, reference)
    z, h = logits_in_order(y, W, V, b, c, first, activation)
    e = categorical.gradient(z, y, first, weight=weight)
    V = np.asarray(V, float)
    dW, dV, db = np.zeros(V.shape), np.zeros(V.shape), e.sum(0)
    da = np.zeros((len(x), V.shape[1]))
    for i in reversed(range(x.shape[1])):
        own = slice(first[i], first[i + 1])
        for r in np.flatnonzero(y[:, i]):
            dW[first[i] + y[r, i] - 1] += da[r]
        dV[own] = e[:, own].T @ h[i]
        da = da + e[:, own] @ V[own] * slope(h[i])
    return dW, dV, db, da.sum(0)


def distribution(x, *model, order=None, reference=None, **options):
    """F(v) of every conditional, by column: a list of (n_rows, K)."""
    y, order = encode(x, order, reference)
    z, _ = logits_in_order(y, *model, options.get("activation", "sigmoid"))
    first = model[-1]
    K = first[1:].astype(int) - first[:-1] + 1
    columns = np.empty(len(order), int)
    columns[order] = K
    return categorical.distribution(by_column(z, first, order), starts(columns), reference)
