"""NADE straight from the equations, in float64, one variable at a time. Slow and obvious."""

import numpy as np


def sigmoid(t):
    return np.exp(-np.logaddexp(0.0, -t))


ACTIVATION = {
    "sigmoid": (sigmoid, lambda h: h * (1 - h)),
    "relu": (lambda a: np.maximum(a, 0), lambda h: (h > 0) * 1.0),
    "tanh": (np.tanh, lambda h: 1 - h * h),
}


def encode(x, order, flip):
    n = x.shape[1]
    order = np.arange(n) if order is None else order
    flip = np.zeros(n, np.uint8) if flip is None else flip
    return (x ^ flip)[:, order].astype(float), order, flip


def logits_in_order(y, W, V, b, c, activation):
    """z [n_rows, n] of the encoded bits y, in the order of the chain."""
    g, _ = ACTIVATION[activation]
    W, V, b, c = (np.asarray(p, float) for p in (W, V, b, c))
    a = np.tile(c, (len(y), 1))
    z = np.empty(y.shape)
    for i in range(y.shape[1]):
        z[:, i] = b[i] + g(a) @ V[i]
        a = a + y[:, i : i + 1] * W[i]
    return z


def logits(x, W, V, b, c, activation="sigmoid", order=None, flip=None):
    """Logits of x_i = 1, by column."""
    y, order, flip = encode(x, order, flip)
    z = np.empty(y.shape)
    z[:, order] = logits_in_order(y, W, V, b, c, activation)
    return np.where(flip == 1, -z, z)


def terms(x, *model, **options):
    """log p(x_i | x_<i), by column."""
    return -np.logaddexp(0.0, (1.0 - 2.0 * x) * logits(x, *model, **options))


def gradient(x, W, V, b, c, activation="sigmoid", order=None, flip=None, weight=None):
    """Gradient of -sum_r weight_r log p(x_r) by the backward recursion (tied: add dV to dW)."""
    g, slope = ACTIVATION[activation]
    W, V, b, c = (np.asarray(p, float) for p in (W, V, b, c))
    y, order, flip = encode(x, order, flip)
    m, n = y.shape
    weight = np.full(m, 1.0 / max(m, 1)) if weight is None else np.asarray(weight, float)
    z = logits_in_order(y, W, V, b, c, activation)
    e = weight[:, None] * (sigmoid(z) - y)
    dW, dV, db, dc = np.zeros_like(W), np.zeros_like(V), e.sum(0), np.zeros_like(c)
    da = np.zeros((m, len(c)))
    for i in reversed(range(n)):
        dW[i] = y[:, i] @ da
        h = g(c + y[:, :i] @ W[:i])
        dV[i] = e[:, i] @ h
        da = da + e[:, i : i + 1] * V[i] * slope(h)
    dc = da.sum(0)
    return dW, dV, db, dc


def random_model(rng, n, d, dtype=np.float64, *, tied=False, scale=None):
    """W, V, b, c whose logits are of order one."""
    scale = 2.0 / np.sqrt(d + 1) if scale is None else scale
    W, V, b, c = (rng.normal(size=shape).astype(dtype) for shape in ((n, d), (n, d), n, d))
    V *= dtype(scale)
    W *= dtype(0.5)
    return (V, V, b, c) if tied else (W, V, b, c)


def random_order(rng, n):
    return rng.permutation(n).astype(np.uint32)


def random_bits(rng, *shape, p=0.3):
    return (rng.random(shape) < p).astype(np.uint8)


def padded(array, ld, fill=np.nan):
    """The same matrix with rows `ld` elements apart and `fill` between them."""
    memory = np.full((len(array), ld), fill, array.dtype)
    memory[:, : array.shape[1]] = array
    return memory[:, : array.shape[1]]


def states(n):
    """All 2^n rows of n bits."""
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(np.uint8)


def sample(u, W, V, b, c, activation="sigmoid", order=None, flip=None):
    """Rows by ancestral sampling, x_i = 1 where u_i >= p(x_i = 0 | x_<i)."""
    x = np.zeros(u.shape, np.uint8)
    _, order, _ = encode(x, order, flip)
    for i, k in enumerate(order):
        z = logits(x, W, V, b, c, activation, order, flip)[:, k]  # later columns do not matter
        x[:, k] = u[:, i] >= sigmoid(-z)
    return x
