"""Discretized mixtures of logistics straight from the equations, in extended precision where the machine has it.

Values lie on [-1, 1] and distances are differences of numbers near 1, so double alone would lose what a narrow scale
multiplies.
"""

import numpy as np

WIDE = np.longdouble


def softplus(t):
    return np.maximum(t, 0) + np.log1p(np.exp(-np.abs(t)))


def sigmoid(t):
    return np.exp(-softplus(-t))


def split(parameters, K, log_scale_min):
    """Logits, means, log-scales (floored), and which log-scales are above the floor: (n_rows, n_features, K)."""
    rows, columns = np.shape(parameters)
    floor = np.asarray(parameters).dtype.type(log_scale_min)
    logit, mean, raw = np.asarray(parameters, WIDE).reshape(rows, columns // (3 * K), 3, K).transpose(2, 0, 1, 3)
    return logit, mean, np.where(raw < floor, WIDE(floor), raw), ~(raw < floor)


def edges(x, N, mean, log_scale):
    """b, a and delta: (n_rows, n_features, K)."""
    high = mean.astype(np.float32).astype(WIDE)  # N - 1 times either part of the mean is exact
    apart = ((2 * np.asarray(x, WIDE) - (N - 1))[..., None] - (N - 1) * high) - (N - 1) * (mean - high)
    inverse = np.exp(-log_scale) / (N - 1)
    return (apart + 1) * inverse, (apart - 1) * inverse, 2 * inverse


def log_masses(x, N, mean, log_scale):
    b, a, delta = edges(x, N, mean, log_scale)
    # log(1 - exp(-delta)) where exp(-log s) underflows: delta is its own 1 - exp
    narrow = np.where(delta > 1e-25, np.log(-np.expm1(-np.maximum(delta, 1e-25))), np.log(2 / WIDE(N - 1)) - log_scale)
    x = np.asarray(x)[..., None]
    inner = -softplus(-b) - softplus(a) + narrow
    return np.where(x == 0, -softplus(-b), np.where(x == N - 1, -softplus(a), inner))


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def logsumexp(z):
    top = z.max(-1, keepdims=True)
    return (top + np.log(np.exp(z - top).sum(-1, keepdims=True)))[..., 0]


def log_prob(parameters, x, N, K, log_scale_min):
    """log p(x_i), (n_rows, n_features)."""
    logit, mean, log_scale, _ = split(parameters, K, log_scale_min)
    if N == 1:
        return np.zeros(np.shape(x))
    return logsumexp(log_softmax(logit) + log_masses(x, N, mean, log_scale)).astype(float)


def gradient(parameters, x, N, K, log_scale_min, weight=None):
    """Of -sum_r weight_r log p(x_r), in the shape of the parameters."""
    rows = len(x)
    weight = np.full(rows, 1.0 / max(rows, 1)) if weight is None else np.asarray(weight, float)
    logit, mean, log_scale, free = split(parameters, K, log_scale_min)
    if N == 1:
        return np.zeros(np.shape(parameters))
    b, a, delta = edges(x, N, mean, log_scale)
    joint = log_softmax(logit) + log_masses(x, N, mean, log_scale)
    share = np.exp(joint - logsumexp(joint)[..., None])
    first, last = ((np.asarray(x) == v)[..., None] for v in (0, N - 1))
    by_b, by_a = np.where(last, 0, sigmoid(-b)), np.where(first, 0, -sigmoid(a))
    of_delta = np.where(delta > 0, delta / np.expm1(np.clip(delta, 1e-4000, 1e4)), 1)  # d log(1 - exp(-t)) / d log t
    of_delta = np.where(first | last, 0, of_delta)
    by_mean = -(by_b + by_a) * np.exp(-log_scale)
    by_scale = np.where(free, -(by_b * b + by_a * a) - of_delta, 0)
    d = np.stack([share - np.exp(log_softmax(logit)), share * by_mean, share * by_scale], axis=2)
    return (-weight[:, None] * d.reshape(rows, -1)).astype(float)


def distribution(parameters, N, K, log_scale_min):
    """F(v) for v = 0..N-1, (n_rows, n_features, N)."""
    logit, mean, log_scale, _ = split(parameters, K, log_scale_min)
    v = np.arange(N)
    edge = ((2 * v - (N - 1) + 1) / WIDE(max(N - 1, 1)))[:, None]
    at = sigmoid((edge - mean[:, :, None]) * np.exp(-log_scale[:, :, None]))
    F = (np.exp(log_softmax(logit))[:, :, None] * at).sum(-1)
    F[..., -1] = 1
    return F
