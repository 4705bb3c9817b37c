"""Layer norm, GELU, dropout and the softmax over a vocabulary from their equations, in float64. Slow and obvious.

`lane_sum`, `layer_norm_bits` and `layer_norm_gradient_bits` are the contract's rules (docs/reproducibility.md, 4, 7),
step by step in the kernels' own precision: what they must give to the last bit.
"""

import math

import numpy as np

from reference.masked import CHUNK, fma

# ---- Layer norm


def layer_norm(x, gain, bias, epsilon=1e-5):
    x = np.asarray(x, float)
    mean, variance = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * np.asarray(gain, float) + np.asarray(bias, float)


def layer_norm_gradient(x, gain, dy, addend=None, epsilon=1e-5):
    """dx, dgain, dbias."""
    x, dy = np.asarray(x, float), np.asarray(dy, float)
    r = 1 / np.sqrt(x.var(1, keepdims=True) + epsilon)
    h, g = (x - x.mean(1, keepdims=True)) * r, dy * np.asarray(gain, float)
    dx = r * (g - g.mean(1, keepdims=True) - h * (g * h).mean(1, keepdims=True))
    return dx if addend is None else dx + addend, (dy * h).sum(0), dy.sum(0)


def lane_sum(x, y=None):
    """Sums of rows over lanes, by rule 4: of x, or of x y with fused multiply-adds."""
    width = 64 // x.dtype.itemsize
    lanes = np.zeros((len(x), width), x.dtype)
    for start in range(0, x.shape[1], width):
        part = x[:, start : start + width]
        here = lanes[:, : part.shape[1]]
        here[:] = here + part if y is None else fma(part, y[:, start : start + width], here)
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes


def layer_norm_bits(x, gain, bias, epsilon=1e-5):
    """y, and the statistics (mean, 1 / sqrt(variance + epsilon))."""
    n = x.dtype.type(x.shape[1])
    mean = lane_sum(x) / n
    d = x - mean
    r = x.dtype.type(1) / np.sqrt(lane_sum(d, d) / n + x.dtype.type(epsilon))
    return fma(d * r, gain[None], bias[None]), np.concatenate([mean, r], axis=1)


def layer_norm_gradient_bits(x, gain, statistics, dy, addend=None):
    n, mean, r = x.dtype.type(x.shape[1]), statistics[:, :1], statistics[:, 1:]
    h, g = (x - mean) * r, dy * gain
    d = fma(h, -(lane_sum(g, h) / n), g - lane_sum(g) / n)
    dgain, dbias = np.zeros_like(gain), np.zeros_like(gain)
    for start in range(0, len(x), CHUNK):
        to_gain, to_bias = np.zeros_like(gain), np.zeros_like(gain)
        for k in range(start, min(start + CHUNK, len(x))):
            to_gain, to_bias = fma(dy[k], h[k], to_gain), to_bias + dy[k]
        dgain, dbias = dgain + to_gain, dbias + to_bias
    return r * d if addend is None else fma(r, d, addend), dgain, dbias


# ---- GELU


def _normal_below(x):
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.ravel()]).reshape(x.shape)


def gelu(x, form):
    x = np.asarray(x, float)
    if form == "erf":
        return x * _normal_below(x)
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_slope(x, form):
    x = np.asarray(x, float)
    if form == "erf":
        return _normal_below(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    square = 1 / np.cosh(np.minimum(np.abs(u), 300)) ** 2  # 1 - tanh(u)^2, with its digits beside 1
    return 0.5 * (1 + np.tanh(u)) + 0.5 * x * square * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)


# ---- Dropout


def dropped(key, first_block, rate, n):
    """Which of n elements, by NumPy's own Philox."""
    generator = np.random.Philox(key=np.array(key, np.uint64))
    generator.advance(first_block)
    words = generator.random_raw(-(-n // 16) * 4).astype(np.uint64)
    bits = (words[:, None] >> np.array([0, 16, 32, 48], np.uint64)) & np.uint64(0xFFFF)
    return bits.reshape(-1)[:n] < round(rate * 65536)


# ---- The softmax over a vocabulary


def log_softmax(logits):
    z = np.asarray(logits, float)
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def stays(z, temperature=1.0, top_k=0, top_p=1.0):
    """The values of a row of logits that may be drawn, ascending."""
    order = sorted(range(len(z)), key=lambda v: (-z[v], v))
    if temperature == 0 or top_k == 1 or top_p == 0:
        return order[:1]
    order = order[: top_k or None]
    mass = [round(math.exp((float(z[v]) - float(z[order[0]])) / temperature) * 2**40) for v in order]
    if top_p < 1:
        reached, need = 0, top_p * sum(mass)
        for rank, m in enumerate(mass):
            reached += m
            if reached >= need:
                order = order[: rank + 1]
                break
    return sorted(order)


def distribution(z, temperature=1.0, top_k=0, top_p=1.0):
    """p(v) of a row of logits, 0 for what does not stay."""
    left, z = stays(z, temperature, top_k, top_p), np.asarray(z, float)
    p = np.zeros(len(z))
    p[left] = np.exp((z[left] - z.max()) / temperature) if temperature else 1
    return p / p.sum()
