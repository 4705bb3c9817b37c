"""Schedules: numbers that change with the update t = 0, 1, ... of `total`; factors on `learning_rate`, unless said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from chainrule import kernels

Schedule = Callable[[int, int], float]


def constant(t: int, total: int) -> float:
    """1."""
    return 1.0


def linear(t: int, total: int) -> float:
    """From 1 to 0 in a straight line."""
    return max(1.0 - t / total, 0.0)


def cosine(t: int, total: int) -> float:
    """From 1 to 0 along half a cosine (Loshchilov & Hutter 2017, one cycle)."""
    return 0.5 * (1.0 + float(kernels.cos(np.array([np.pi * min(t / total, 1.0)]))[0]))


def inverse(gamma: float) -> Schedule:
    """``1 / (1 + gamma t)``, the decay of the NADE papers."""

    def factor(t: int, total: int) -> float:
        return 1.0 / (1.0 + gamma * t)

    return factor


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "inverse": inverse(1e-3),
}


def warmed_up(schedule: Schedule, updates: int) -> Schedule:
    """`schedule`, its first `updates` factors ramped up from near 0 in a straight line."""
    return lambda t, total: schedule(t, total) * (min((t + 1) / updates, 1.0) if updates else 1.0)
