"""The joint table: every probability of a small discrete domain, by counting. The yardstick of the laws."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels
from chainrule.models.base import AutoregressiveModel
from chainrule.validation import as_matrix, check_int, check_width, has_features

MAX_CELLS = 1 << 24


class Tabular(AutoregressiveModel):
    """``p(x) = (count(x) + smoothing) / (n_rows + smoothing * cells)``, for up to 20 bits or a few small categories.

    The chain rule's factors are ratios of marginal tables, ``p(x_i | x_<i) = T_i[x_<=i] / T_{i-1}[x_<i]``, so a sample
    costs one look-up a variable instead of a walk over all cells. The table has prod(n_values) cells, at most 2^24.

    Parameters
    ----------
    smoothing : float
        Pseudo-count of every cell; 0 leaves unseen cells at probability 0 (log-likelihood -inf).
    n_values : int or sequence of int, optional
        Values of each column, 0 .. n_values - 1; by default the largest value of `fit`'s X plus one, at least 2.

    Attributes
    ----------
    table_ : float64, shape n_values
        Smoothed counts.
    n_values_ : tuple of int

    Examples
    --------
    >>> import numpy as np, chainrule
    >>> model = chainrule.Tabular(smoothing=0).fit(np.array([[0, 0], [1, 1], [1, 1]]))
    >>> np.exp(model.score_samples([[1, 1], [0, 1]])).round(4)
    array([0.6667, 0.    ])
    """

    def __init__(self, smoothing: float = 1.0, *, n_values: Any = None) -> None:
        self.smoothing = smoothing
        self.n_values = n_values

    def _input(self, X: Any, name: str = "X", n_features: int | None = None) -> npt.NDArray[Any]:
        array = as_matrix(X, name)
        has_features(array, name)
        if n_features is not None:
            check_width(array, n_features, name, "Tabular")
        limit = np.array(getattr(self, "n_values_", ()) if n_features else (), dtype=float)
        wrong = ~np.isfinite(array) | (array != np.floor(array)) | (array < 0)
        if limit.size:
            wrong |= array >= limit
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            allowed = f"0..{int(limit[column]) - 1}" if limit.size else "integers >= 0"
            raise ValueError(
                f"{name} has {np.count_nonzero(wrong)} values outside {allowed} "
                f"(first: {array[row, column]} at row {row}, column {column})"
            )
        return array.astype(np.int64)

    def _fit(self, X: npt.NDArray[Any]) -> None:
        if not (np.isfinite(self.smoothing) and self.smoothing >= 0):
            raise ValueError(f"smoothing must be a number >= 0, not {self.smoothing!r}")
        n = X.shape[1]
        if self.n_values is None:
            values = tuple(max(int(k) + 1, 2) for k in X.max(0))
        elif np.ndim(self.n_values) == 0:
            values = (check_int("n_values", self.n_values, 1),) * n
        else:
            values = tuple(check_int("n_values", k, 1) for k in self.n_values)
        cells = 1
        for k in values:
            cells *= k
        if len(values) != n or any(int(m) >= k for m, k in zip(X.max(0), values, strict=False)):
            raise ValueError(
                f"n_values must name each of the {n} columns and exceed its largest value, not {self.n_values!r}"
            )
        if cells > MAX_CELLS:
            raise ValueError(
                f"X would need a table of {cells} cells; Tabular stops at {MAX_CELLS} (24 bits): use a model"
            )
        counts = np.bincount(np.ravel_multi_index(tuple(X.T), values), minlength=cells)
        self._set_table(np.asarray(counts.reshape(values) + float(self.smoothing), np.float64))

    def _set_table(self, table: npt.NDArray[np.float64]) -> None:
        """T_n, and its marginals T_{n-1}, ..., T_0 over the last variables; sums from first value to last."""
        self.table_, self.n_values_ = table, table.shape
        self._marginals = [table]
        while self._marginals[0].ndim:
            self._marginals.insert(0, np.add.accumulate(self._marginals[0], axis=-1)[..., -1])

    def _log_prob(self, X: npt.NDArray[Any], per_variable: bool) -> npt.NDArray[np.float64]:
        columns = tuple(X.T)
        logs = [
            kernels.log(np.ascontiguousarray(t[columns[:i]], dtype=float) + np.zeros(len(X)))
            for i, t in enumerate(self._marginals)
        ]
        if not per_variable:
            return logs[-1] - logs[0]
        with np.errstate(invalid="ignore"):  # -inf - -inf: the row left the support at an earlier variable
            terms = np.stack([b - a for a, b in itertools.pairwise(logs)], axis=1)
        return np.where(np.isnan(terms), 0.0, terms)

    def _conditionals(self, X: npt.NDArray[Any]) -> list[npt.NDArray[np.float64]]:
        """For every variable, p(. | x_<i): (n_rows, n_values[i])."""
        columns = tuple(X.T)
        return [
            np.broadcast_to(t[columns[:i]], (len(X), t.shape[-1]))
            / np.reshape(self._marginals[i][columns[:i]], (-1, 1))
            for i, t in enumerate(self._marginals[1:])
        ]

    def _draw(
        self,
        u: npt.NDArray[np.float64],
        given: npt.NDArray[Any] | None = None,
        observed: npt.NDArray[np.uint8] | None = None,
        context: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        x = np.empty(u.shape, np.uint8 if max(self.n_values_) <= 256 else np.int64)
        drawn: tuple[npt.NDArray[np.int64], ...] = ()
        for i, table in enumerate(self._marginals[1:]):
            upto = np.broadcast_to(np.add.accumulate(table[drawn], axis=-1), (len(u), table.shape[-1]))
            choice = np.count_nonzero(u[:, i : i + 1] * upto[:, -1:] >= upto, axis=1)
            if given is not None and observed is not None:
                choice = np.where(observed[:, i], given[:, i], choice)
            drawn = (*drawn, choice)
            x[:, i] = choice
        return x

    def _state(self) -> dict[str, Any]:
        return {"arrays": {"table": self.table_}, "attributes": {}}

    def _restore(self, state: dict[str, Any]) -> None:
        table = np.asarray(state["arrays"]["table"], np.float64)
        if table.ndim == 0:
            raise ValueError("the table has no variables")
        self._set_table(table)
        self.n_features_in_ = table.ndim
