"""One of V values by a logit for each: ``p(x = v) = exp(z_v) / sum_w exp(z_w)``, of any vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels
from chainrule.conditionals.categorical import intervals, normalised


@dataclass(frozen=True)
class Softmax:
    """Independent columns of values 0 .. V - 1 given their logits: what a Transformer says of x_t given x_<t.

    Base measure: counting measure on the values. Log-likelihoods are in nats.
    """

    logits: npt.NDArray[Any]  # (n_rows, n_features, V)

    @property
    def n_values(self) -> int:
        """V."""
        return int(self.logits.shape[2])

    def log_prob(self, x: npt.NDArray[np.int32], *, per_variable: bool = False) -> npt.NDArray[np.float64]:
        """``z_x - log sum_w exp(z_w)``, summed over columns, from first to last, unless `per_variable`."""
        terms = kernels.softmax_log_prob(self._rows, np.ascontiguousarray(x, np.int32).reshape(-1)).reshape(x.shape)
        return terms if per_variable else np.add.accumulate(terms, axis=1)[:, -1]

    def sample(self, u: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
        """The smallest v with ``u < p(x <= v)``, for uniforms in (0, 1)."""
        return kernels.softmax_sample(self._rows, np.ascontiguousarray(u).reshape(-1)).reshape(u.shape)

    @property
    def _rows(self) -> npt.NDArray[Any]:
        return np.ascontiguousarray(self.logits).reshape(-1, self.n_values)

    def probabilities(self, column: int) -> npt.NDArray[np.float64]:
        """``p(x = v)`` of one column by value, (n_rows, V)."""
        return normalised(self._masses(column))

    def interval(self, x: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """``F(x-)`` and ``p(x)``: `sample` gives x for the uniforms in [F(x-), F(x-) + p(x)), and for no others.

        F is exact: the smallest float64 at which the sampler passes on to the next value.
        """
        return intervals(self._masses, x)

    def _masses(self, column: int) -> npt.NDArray[np.float64]:
        """``exp(z - m)`` by value in double, (n_rows, V): the sampler's own, to the last bit."""
        z = self.logits[:, column].astype(np.float64)
        return kernels.exp(z - z.max(1, keepdims=True))
