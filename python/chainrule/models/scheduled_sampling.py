"""Scheduled sampling (Bengio et al. 2015): in training, some of the tokens before a step are drawn from the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels
from chainrule.fit.schedules import Schedule, constant
from chainrule.kernels.transformer import Cache, TransformerNetwork
from chainrule.models.generation import Memory, draw, next_logits
from chainrule.validation import check_option

Codes = npt.NDArray[np.int32]


def partly_drawn(
    network: TransformerNetwork,
    memory: Memory,
    state: list[Cache],
    inputs: Codes,
    end: int,
    true: float,
    u: npt.NDArray[np.float64],
    n_threads: int | None,
) -> Codes:
    """Tokens before each step, (rows, steps), each that of `inputs` with probability `true`, else drawn from the model.

    A token is drawn given those before it, and is one of 0 .. end - 1. state: empty caches; u: a uniform for each draw
    and one for its coin, in turn, (rows, 2 steps) or more.
    """
    mixed = inputs.copy()
    for t in range(inputs.shape[1] - 1):
        logits = next_logits(network, mixed[:, t], t, state, memory, n_threads)
        tokens = draw(np.ascontiguousarray(logits[:, :end]), np.ascontiguousarray(u[:, 2 * t]))
        mixed[:, t + 1] = np.where(u[:, 2 * t + 1] < true, inputs[:, t + 1], tokens)
    return mixed


def truth_of(chosen: Any, options: dict[str, float] | None) -> Schedule:
    """The probability that the decoder sees a true token, by (update, total updates)."""
    if chosen is None or callable(chosen):
        if options:
            raise ValueError(f"scheduled_sampling_options are of a schedule by name, not of {chosen!r}")
        return constant if chosen is None else chosen
    check_option("scheduled_sampling", chosen, (None, *TRUTH))
    make, known = TRUTH[chosen]
    for name in options or {}:
        check_option(f"scheduled_sampling_options of {chosen!r}", name, known)
    return make(**(options or {}))


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
