"""Independent Bernoulli variables: the baseline that any model of dependence must beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.conditionals import Bernoulli
from chainrule.models.base import AutoregressiveModel, Bits


class IndependentBernoulli(AutoregressiveModel):
    """``p(x) = prod_i p(x_i)`` on {0, 1}^n, fitted in closed form.

    Parameters
    ----------
    smoothing : float
        Added to the counts of zeros and of ones of every column.
    binarize : float, optional
        Threshold for inputs that are not 0 and 1.

    Attributes
    ----------
    logits_ : float64 (n_features,)
        Log-odds of a one.

    Examples
    --------
    >>> import numpy as np, chainrule
    >>> model = chainrule.IndependentBernoulli().fit(np.array([[0, 1], [1, 1]]))
    >>> model.score_samples([[0, 1]]).round(4)
    array([-0.8755])
    """

    def __init__(self, smoothing: float = 0.5, *, binarize: float | None = None) -> None:
        self.smoothing = smoothing
        self.binarize = binarize

    _ordered = False

    def _fit(self, X: Bits) -> None:
        if not self.smoothing > 0:
            raise ValueError(f"smoothing must be > 0, not {self.smoothing!r}")
        self.logits_ = Bernoulli.marginal_logits(X.sum(0, dtype=np.int64), len(X), self.smoothing)

    def _conditionals(self, X: Bits) -> Bernoulli:
        return Bernoulli(np.tile(self.logits_, (len(X), 1)))

    def _log_prob(self, X: Bits, per_variable: bool) -> npt.NDArray[np.float64]:
        return self._conditionals(X).log_prob(X, per_variable=per_variable)

    def _draw(
        self,
        u: npt.NDArray[np.float64],
        given: Bits | None = None,
        observed: Bits | None = None,
        context: npt.NDArray[Any] | None = None,
    ) -> Bits:
        x = Bernoulli(np.tile(self.logits_, (len(u), 1))).sample(u)
        return x if given is None or observed is None else np.where(observed, given, x)

    def _state(self) -> dict[str, Any]:
        return {"arrays": {"logits": self.logits_}, "attributes": {}}

    def _restore(self, state: dict[str, Any]) -> None:
        self.logits_ = np.asarray(state["arrays"]["logits"], np.float64)
        (self.n_features_in_,) = self.logits_.shape
