"""One of K values: ``p(x = v) = exp(z_v) / sum_w exp(z_w)``, where one value's logit is 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels


def starts(cardinalities: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """``first`` of columns with these numbers of values: the logits before each column, and all of them."""
    first = np.zeros(len(cardinalities) + 1, np.int64)
    np.add.accumulate(np.asarray(cardinalities, np.int64) - 1, out=first[1:])
    return first.astype(np.uint32)


def edges(masses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """0, the uniform where each value but the last ends, and 1, (n_rows, K + 1), for masses (n_rows, K)."""
    upto = np.add.accumulate(masses, axis=1)
    total = upto[:, -1:]
    steps = upto / total  # rounded: the smallest u with u * total >= upto is this one or its neighbour
    steps = np.where(steps * total < upto, np.nextafter(steps, 2.0), steps)
    below = np.nextafter(steps, -1.0)
    steps = np.where((steps > 0) & (below * total >= upto), below, steps)
    steps[:, -1] = 1.0
    return np.concatenate([np.zeros_like(total), steps], axis=1)


@dataclass(frozen=True)
class Categorical:
    """Independent columns of values 0 .. K - 1 given their logits: what a network says of x_i given x_<i.

    Column i has ``K = first[i + 1] - first[i] + 1 <= 256`` values and one logit less: its `reference` value has logit
    0. Logits belong to codes 1 .. K - 1; the reference and 0 change places, all other values are their own codes. So
    K = 2 is a Bernoulli, and K = 1 a constant.

    Base measure: counting measure on the values. Log-likelihoods are in nats.
    """

    logits: npt.NDArray[Any]  # (n_rows, first[-1])
    first: npt.NDArray[np.uint32]  # (n_features + 1,)
    reference: npt.NDArray[np.uint8] | None = None  # (n_features,); 0 by default

    @property
    def n_values(self) -> npt.NDArray[np.int64]:
        """K of every column."""
        first = self.first.astype(np.int64)
        return first[1:] - first[:-1] + 1

    def log_prob(self, x: npt.NDArray[np.uint8], *, per_variable: bool = False) -> npt.NDArray[np.float64]:
        """``z_x - log sum_w exp(z_w)``, summed over columns unless `per_variable`."""
        return kernels.categorical_log_prob(
            self.logits, x, self.first, reference=self.reference, per_variable=per_variable
        )

    def sample(self, u: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
        """The smallest v with ``u < p(x <= v)``, for uniforms in (0, 1)."""
        return kernels.categorical_sample(self.logits, u, self.first, reference=self.reference)

    def probabilities(self, column: int) -> npt.NDArray[np.float64]:
        """``p(x = v)`` of one column by value, (n_rows, K)."""
        return normalised(self._masses(column))

    def interval(self, x: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """``F(x-)`` and ``p(x)``: `sample` gives x for the uniforms in [F(x-), F(x-) + p(x)), and for no others.

        F is exact: the smallest float64 at which the sampler passes on to the next value.
        """
        return intervals(self._masses, x)

    def _masses(self, column: int) -> npt.NDArray[np.float64]:
        """``exp(z - m)`` by value in double, (n_rows, K): the sampler's own, to the last bit."""
        begin, end = int(self.first[column]), int(self.first[column + 1])
        z = np.zeros((len(self.logits), end - begin + 1))
        z[:, 1:] = self.logits[:, begin:end]
        z -= z.max(1, keepdims=True)
        if self.reference is not None:
            swapped = int(self.reference[column])
            z[:, [0, swapped]] = z[:, [swapped, 0]]
        return kernels.exp(z)

    @staticmethod
    def marginal_logits(
        counts: Sequence[npt.NDArray[Any]],
        smoothing: float = 0.5,
        reference: npt.NDArray[np.uint8] | None = None,
    ) -> npt.NDArray[np.float64]:
        """Logits of columns whose values were seen `counts` times, (n_logits,): log ratios to the reference's count.

        `smoothing` is added to every count, which keeps values that were never seen finite.
        """
        logits = []
        for i, seen in enumerate(counts):
            log = kernels.log(np.asarray(seen, np.float64) + smoothing)
            if reference is not None:
                swapped = int(reference[i])
                log[[0, swapped]] = log[[swapped, 0]]
            logits.append(log[1:] - log[0])
        return np.concatenate(logits) if logits else np.empty(0)


def normalised(masses: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Probabilities of values by their masses, (n_rows, K)."""
    return masses / np.add.accumulate(masses, axis=1)[:, -1:]


def intervals(
    masses: Callable[[int], npt.NDArray[np.float64]], x: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """``F(x-)`` and ``p(x)`` of columns whose values have `masses` (column) -> (n_rows, K)."""
    low, high = np.empty(x.shape), np.empty(x.shape)
    for column in range(x.shape[1]):
        steps = edges(masses(column))
        v = x[:, column : column + 1].astype(np.intp)
        low[:, column] = np.take_along_axis(steps, v, axis=1)[:, 0]
        high[:, column] = np.take_along_axis(steps, v + 1, axis=1)[:, 0]
    return low, high - low


def count_values(
    X: npt.NDArray[np.uint8], n_values: Sequence[int], weight: npt.NDArray[np.float64] | None = None
) -> list[npt.NDArray[Any]]:
    """How often each column has each value; with weights (scaled to mean 1), weighted sums in row order."""
    if weight is not None:
        weight = weight * (len(X) / np.add.accumulate(weight)[-1])
    return [np.bincount(column, weight, minlength=int(k)) for column, k in zip(X.T, n_values, strict=True)]
