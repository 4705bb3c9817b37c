"""One bit: ``p(x = 1) = sigmoid(z)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels


@dataclass(frozen=True)
class Bernoulli:
    """Independent bits given their logits, (n_rows, n_features): what a network says of x_i given x_<i.

    Base measure: counting measure on {0, 1}. Log-likelihoods are in nats.
    """

    logits: npt.NDArray[Any]

    @property
    def mean(self) -> npt.NDArray[Any]:
        """``p(x = 1)``."""
        return kernels.sigmoid(np.ascontiguousarray(self.logits))

    def log_prob(self, x: npt.NDArray[np.uint8], *, per_variable: bool = False) -> npt.NDArray[np.float64]:
        """``-softplus((1 - 2x) z)``, summed over columns unless `per_variable`."""
        return kernels.bernoulli_log_prob(self.logits, x, per_variable=per_variable)

    def sample(self, u: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        """``x = 1`` where ``u >= p(x = 0)``, for uniforms in (0, 1)."""
        return kernels.bernoulli_sample(self.logits, u)

    def interval(self, x: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """``F(x-)`` and ``p(x)``: `sample` gives x for the uniforms in [F(x-), F(x-) + p(x)), and for no others."""
        zero = kernels.sigmoid(-np.ascontiguousarray(self.logits, np.float64))
        return np.where(x == 1, zero, 0.0), np.where(x == 1, 1.0 - zero, zero)

    @staticmethod
    def marginal_logits(ones: npt.NDArray[Any], n_rows: float, smoothing: float = 0.5) -> npt.NDArray[np.float64]:
        """Log-odds of columns with `ones` ones in `n_rows` rows.

        `smoothing` is added to both counts, which keeps constant columns finite.
        """
        return kernels.log(ones + smoothing) - kernels.log((n_rows - ones) + smoothing)


def count_ones(
    X: npt.NDArray[np.uint8], weight: npt.NDArray[np.float64] | None = None
) -> tuple[npt.NDArray[Any], float]:
    """Ones per column, and rows; with weights (scaled to mean 1), weighted sums in row order."""
    if weight is None:
        return X.sum(0, dtype=np.int64), len(X)
    weight = weight * (len(X) / np.add.accumulate(weight)[-1])
    ones = np.zeros(X.shape[1])
    for row, w in zip(X, weight, strict=True):
        ones += w * row
    return ones, float(len(X))
