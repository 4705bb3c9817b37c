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


def truth_linear(k: float = 1.0, c: float | None = None, floor: float = 0.0) -> Schedule:
    """``max(floor, k - c t)``; c by default such that it is `floor` at the last update."""
    _check("k", k, 0 < k <= 1, "above 0 and at most 1")
    _check("floor", floor, 0 <= floor <= k, "at least 0 and at most k")
    _check("c", c, c is None or 0 <= c < np.inf, "at least 0")
    return lambda t, total: max(floor, k - ((k - floor) / max(total - 1, 1) if c is None else c) * t)


def truth_exponential(k: float | None = None) -> Schedule:
    """``k^t``; k by default such that it is 0.05 in the end."""
    _check("k", k, k is None or 0 < k < 1, "between 0 and 1")

    def share(t: int, total: int) -> float:
        log = float(kernels.log(np.array([0.05 if k is None else k]))[0])
        return float(kernels.exp(np.array([log * (t / total if k is None else t)]))[0])

    return share


def truth_inverse_sigmoid(k: float | None = None) -> Schedule:
    """``k / (k + exp(t / k))``; k by default a tenth of all updates."""
    _check("k", k, k is None or 1 <= k < np.inf, "at least 1")

    def share(t: int, total: int) -> float:
        size = max(total / 10, 1.0) if k is None else k
        return float(size / (size + kernels.exp(np.array([t / size]))[0]))

    return share


def _check(name: str, value: float | None, right: bool, rule: str) -> None:
    if not right:
        raise ValueError(f"scheduled_sampling_options: {name} must be {rule}, not {value!r}")


# How often scheduled sampling shows the true token (Bengio et al. 2015), and the names of the schedule's constants.
TRUTH: dict[str, tuple[Callable[..., Schedule], tuple[str, ...]]] = {
    "linear": (truth_linear, ("k", "c", "floor")),
    "exponential": (truth_exponential, ("k",)),
    "inverse_sigmoid": (truth_inverse_sigmoid, ("k",)),
}


def warmed_up(schedule: Schedule, updates: int) -> Schedule:
    """`schedule`, its first `updates` factors ramped up from near 0 in a straight line."""
    return lambda t, total: schedule(t, total) * (min((t + 1) / updates, 1.0) if updates else 1.0)
