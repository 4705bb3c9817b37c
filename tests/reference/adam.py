"""Adam (Kingma & Ba 2015), algorithm 1 as printed, in float64."""

import numpy as np


def adam(p, gradients, lr, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """p after one step for each of `gradients`, and the two moments."""
    p = np.asarray(p, float)
    m = v = np.zeros_like(p)
    for t, g in enumerate(gradients, start=1):
        g = np.asarray(g, float)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        p = p - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
    return p, m, v
