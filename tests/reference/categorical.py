"""Independent columns of values 0..K-1 from logits with a reference level, column by column in float64."""

import numpy as np


def code(values, reference):
    """The involution that swaps 0 and the reference value."""
    return np.where(values == reference, 0, np.where(values == 0, reference, values))


def columns(logits, first, reference=None):
    """Column by column: log p of each value 0..K-1, (n_rows, K)."""
    z = np.asarray(logits, float)
    for i in range(len(first) - 1):
        K = int(first[i + 1]) - int(first[i]) + 1
        by_code = np.concatenate([np.zeros((len(z), 1)), z[:, int(first[i]) : int(first[i + 1])]], axis=1)
        by_value = by_code[:, code(np.arange(K), 0 if reference is None else int(reference[i]))]
        top = by_value.max(1, keepdims=True)
        yield by_value - top - np.log(np.exp(by_value - top).sum(1, keepdims=True))


def log_prob(logits, x, first, reference=None):
    """log p(x_i), (n_rows, n_features)."""
    terms = np.empty(x.shape)
    for i, p in enumerate(columns(logits, first, reference)):
        terms[:, i] = p[np.arange(len(x)), x[:, i]]
    return terms


def gradient(logits, x, first, reference=None, weight=None):
    """weight (softmax - onehot), in codes."""
    d = np.empty(np.shape(logits))
    weight = np.full(len(x), 1.0 / max(len(x), 1)) if weight is None else np.asarray(weight, float)
    for i, p in enumerate(columns(logits, first, reference)):
        swapped = code(np.arange(p.shape[1]), 0 if reference is None else int(reference[i]))
        error = np.exp(p)
        error[np.arange(len(x)), x[:, i]] -= 1
        d[:, int(first[i]) : int(first[i + 1])] = weight[:, None] * error[:, swapped][:, 1:]
    return d


def distribution(logits, first, reference=None):
    """F(v) for v = 0..K-1, column by column: (n_rows, K)."""
    return [np.cumsum(np.exp(p), axis=1) for p in columns(logits, first, reference)]
