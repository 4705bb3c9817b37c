"""Independent bits from logits, and uniforms from NumPy's own Philox, in float64."""

import numpy as np


def log_prob(logits, x):
    """log p(x_i), elementwise."""
    return -np.logaddexp(0.0, (1.0 - 2.0 * x) * np.asarray(logits, float))


def p_zero(logits):
    """p(x = 0) = sigmoid(-z)."""
    return np.exp(-np.logaddexp(0.0, np.asarray(logits, float)))


def uniforms(key, first_block, n):
    """The words of numpy.random.Philox(key=key), block by block of four."""
    generator = np.random.Philox(key=np.array(key, np.uint64))
    generator.advance(first_block)
    words = generator.random_raw(n) if n else np.empty(0, np.uint64)
    return ((words >> np.uint64(12)).astype(float) + 0.5) * 2.0**-52
