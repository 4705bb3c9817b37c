"""The update rules of cpp/kernels/optimizer.hpp as printed in their papers, in float64."""

import numpy as np


def optimize(
    rule, p, gradients, *, learning_rate, beta1=0.0, beta2=0.0, epsilon=0.0, weight_decay=0.0, l2=0.0,
    gradient_scale=1.0, average_decay=0.0,
):  # fmt: skip
    """p, both states and the average after one step for each of `gradients`."""
    p, lr = np.asarray(p, float), learning_rate
    s = t = np.zeros_like(p)
    average = p
    for step, g in enumerate(gradients, start=1):
        g = gradient_scale * np.asarray(g, float) + l2 * p
        p = p - lr * weight_decay * p
        if rule == "sgd":
            p = p - lr * g
        elif rule == "momentum":
            s = beta1 * s - lr * g
            p = p + s
        elif rule == "nesterov":
            before, s = s, beta1 * s - lr * g
            p = p + (1 + beta1) * s - beta1 * before
        elif rule == "adagrad":
            s = s + g**2
            p = p - lr * g / (np.sqrt(s) + epsilon)
        elif rule == "rmsprop":
            s = beta2 * s + (1 - beta2) * g**2
            p = p - lr * g / np.sqrt(s + epsilon)
        elif rule == "adadelta":
            s = beta2 * s + (1 - beta2) * g**2
            move = np.sqrt(t + epsilon) / np.sqrt(s + epsilon) * g
            t = beta2 * t + (1 - beta2) * move**2
            p = p - lr * move
        elif rule == "adam":
            s = beta1 * s + (1 - beta1) * g
            t = beta2 * t + (1 - beta2) * g**2
            p = p - lr * (s / (1 - beta1**step)) / (np.sqrt(t / (1 - beta2**step)) + epsilon)
        average = average_decay * average + (1 - average_decay) * p
    return p, s, t, average
