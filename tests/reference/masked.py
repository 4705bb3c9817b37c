"""Masked networks straight from the equations, in float64, weights outside the mask as zeros. Slow and obvious.

`chained` is the contract's rule for sums (docs/reproducibility.md, 5), step by step in the kernels' own precision: what
a product must give to the last bit.
"""

import numpy as np

CHUNK = 256


def sigmoid(t):
    return np.exp(-np.logaddexp(0.0, -t))


ACTIVATION = {
    "sigmoid": (sigmoid, lambda h: h * (1 - h)),
    "relu": (lambda a: np.maximum(a, 0), lambda h: (h > 0) * 1.0),
    "tanh": (np.tanh, lambda h: 1 - h * h),
    None: (lambda a: a, np.ones_like),
}


def masked(W, live):
    """The weights as float64, zero where they are not live (whatever stands there)."""
    return np.asarray(W, float) if live is None else np.where(live, W, 0).astype(float)


def linear(x, W, live=None, b=None, addend=None, activation=None):
    """g((x W + addend) + b)."""
    a = np.asarray(x, float) @ masked(W, live)
    a = a if addend is None else a + addend
    a = a if b is None else a + b
    return ACTIVATION[activation][0](a)


def input_gradient(dy, W, live=None, addend=None, h=None, activation=None):
    """(dy W' + addend) g'(h)."""
    d = np.asarray(dy, float) @ masked(W, live).T
    d = d if addend is None else d + addend
    return d if h is None else d * ACTIVATION[activation][1](np.asarray(h, float))


def weight_gradient(x, dy, live=None):
    """x' dy where live, zero elsewhere; sum_r dy_r."""
    x, dy = np.asarray(x, float), np.asarray(dy, float)
    return masked(x.T @ dy, live), dy.sum(0)


# ---- The rule for sums, exactly


def two_sum(a, b):
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_product(a, b):
    """a b as a sum of two doubles (Dekker 1971); no over- or underflow."""

    def split(v):
        c = v * (2.0**27 + 1)
        high = c - (c - v)
        return high, v - high

    p, (ah, al), (bh, bl) = a * b, split(a), split(b)
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def odd_sum(a, b):
    """a + b rounded to odd: the exact sum, or the neighbour of it whose last bit is 1."""
    s, e = two_sum(a, b)
    even = (s.view(np.int64) & 1) == 0
    return np.where((e != 0) & even, np.nextafter(s, np.where(e > 0, np.inf, -np.inf)), s)


def fma(a, b, c):
    """a b + c with one rounding, for float32 and float64 (Boldo & Melquiond 2008)."""
    dtype = np.result_type(a, b, c)
    a, b, c = (np.asarray(v, float) for v in np.broadcast_arrays(a, b, c))
    if dtype == np.float32:  # the product is exact in double, and a sum rounded to odd may be rounded again
        return odd_sum(a * b, c).astype(np.float32)
    u, ul = two_product(a, b)
    t, tl = two_sum(c, ul)
    v, vl = two_sum(u, t)
    return v + odd_sum(tl, vl)


def chained(x, W, live=None):
    """x W: chains of fused multiply-adds over k ascending, in chunks of 256 from +0, the chunks added in order."""
    x, W = np.asarray(x), np.asarray(W)
    whole = np.zeros((len(x), W.shape[1]), W.dtype)
    for start in range(0, W.shape[0], CHUNK):
        part = np.zeros_like(whole)
        for k in range(start, min(start + CHUNK, W.shape[0])):
            weights = W[k] if live is None else np.where(live[k], W[k], 0).astype(W.dtype)
            term = fma(x[:, k : k + 1], weights[None], part)
            part = term if live is None else np.where(live[k], term, part)
        whole = whole + part
    return whole


# ---- Rows of codes


def encode(x, order=None, reference=None, first=None):
    """Codes by step of the chain, and the dense rows of zeros and ones."""
    x = np.asarray(x)
    n = x.shape[1]
    order = np.arange(n) if order is None else np.asarray(order)
    reference = np.zeros(n, int) if reference is None else np.asarray(reference, int)
    first = np.arange(n + 1) if first is None else np.asarray(first, int)
    codes, ones = np.zeros(x.shape, np.uint8), np.zeros((len(x), first[-1]), np.uint8)
    for i, column in enumerate(order):
        for r, value in enumerate(x[:, column]):
            code = int(value)
            if code in (0, reference[column]):
                code = int(reference[column]) - code
            codes[r, i] = code
            if code:
                ones[r, first[i] + code - 1] = 1
    return codes, ones


# ---- Matrices that several masks share


def keep(W, rows, turned):
    """How W, or its transpose, is kept when its row k stands at rows[k]."""
    W = W.T if turned else W
    kept = np.empty_like(W, order="C")
    kept[np.asarray(rows, int)] = W
    return kept


def permute(W, columns):
    """out[k, o] = W[k, columns[o]]."""
    return W[:, np.asarray(columns, int)]


def permute_back(W, live, columns):
    """out[k, columns[o]] = W[k, o] where live, else 0."""
    out = np.zeros_like(W)
    out[:, np.asarray(columns, int)] = np.where(live, W, 0)
    return out


# ---- Sampling


def logits(ones, network, rows=slice(None)):
    """z by step: (h_L V + (x A + addend)) + b. `network`: arguments of `kernels.masked_sample`, W plain."""
    h = ones
    for layer in network["hidden"]:
        addend = None if layer.addend is None else layer.addend[rows]
        g = linear(h, layer.W, layer.mask.live_array(), layer.b, addend, layer.activation)
        h = h + g if layer.residual else g
    output, direct = network.get("output"), network.get("direct")
    z = np.zeros((len(ones), ones.shape[1]))
    if direct is not None:
        z = z + linear(ones, direct[1], direct[0].live_array())
    addend, b = network.get("addend"), network.get("b")
    if output is not None:
        z = z + linear(h, output.W, output.mask.live_array())
        addend, b = output.addend, output.b
    z = z if addend is None else z + addend[rows]
    return z if b is None else z + b


def sample(u, network, order=None, reference=None, first=None, given=None, observed=None):
    """Rows by ancestral sampling, x_i the smallest v with u_i < p(x_i <= v): the whole network anew for every variable.

    Returns x, and the distance of each u from the nearest edge between two values (0 to 1).
    """
    m, n = u.shape
    order = np.arange(n) if order is None else np.asarray(order, int)
    swap = np.zeros(n, int) if reference is None else np.asarray(reference, int)
    steps = np.arange(n + 1) if first is None else np.asarray(first, int)
    x, distance = np.zeros((m, n), np.uint8), np.ones((m, n))
    x[:, :] = swap  # code 0: no unit, as long as a column is not known
    for i, column in enumerate(order):
        z = logits(encode(x, order, reference, first)[1], network)
        by_code = np.concatenate([np.zeros((m, 1)), z[:, steps[i] : steps[i + 1]]], axis=1)
        K = by_code.shape[1]
        code = np.arange(K)
        code[[0, swap[column]]] = code[[swap[column], 0]]
        p = np.exp(by_code - np.logaddexp.reduce(by_code, axis=1, keepdims=True))[:, code]
        upto = np.cumsum(p, axis=1)[:, :-1]
        x[:, column] = (u[:, i : i + 1] >= upto).sum(1)
        if K > 1:
            distance[:, column] = np.abs(u[:, i : i + 1] - upto).min(1)
        if observed is not None:
            seen = observed[:, column] == 1
            x[seen, column], distance[seen, column] = given[seen, column], 1
    return x, distance
