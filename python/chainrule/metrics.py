"""What a fitted density is worth, with its uncertainty."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chainrule import kernels
from chainrule.fit.loop import ordered_sum


class Estimate(NamedTuple):
    """A mean over rows and its standard error."""

    mean: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.standard_error:.2f}"


def estimate(values: npt.NDArray[np.float64]) -> Estimate:
    """Mean and standard error of independent values."""
    n = len(values)
    mean = ordered_sum(values) / n
    variance = ordered_sum((values - mean) * (values - mean)) / (n - 1) if n > 1 else float("nan")
    return Estimate(mean, float(np.sqrt(variance / n)))


def held_out(model: Any, X: Any) -> Estimate:
    """Mean log-likelihood of the rows of `X` in nats, with its standard error over rows."""
    return estimate(model.score_samples(X))


def bits_per_dimension(nats: float, n_features: int) -> float:
    """``-nats / (n_features log 2)``: what an ideal coder spends on a variable."""
    return -nats / (n_features * float(kernels.log(np.array([2.0]))[0]))
