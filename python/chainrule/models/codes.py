"""What models of bits and of codes share: a column's number of values, and the value that is code 0."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chainrule import random
from chainrule.conditionals import Bernoulli, Categorical
from chainrule.conditionals.bernoulli import count_ones
from chainrule.conditionals.categorical import count_values
from chainrule.models.base import Bits
from chainrule.models.trained import TrainedModel
from chainrule.validation import as_codes, check_option, not_empty


class Marginals(NamedTuple):
    """Of each column: how many values, its commonest one, and by column the logits that give its frequencies."""

    n_values: npt.NDArray[np.int64]
    reference: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float64]


class CodedModel(TrainedModel):
    """A trained model of bits (`conditional` = "bernoulli") or of columns of codes 0 .. K - 1 ("categorical").

    A model file sets `n_values_` and `reference_` from `_marginals`.
    """

    conditional: str = "bernoulli"
    order: Any = "natural"
    n_values_: npt.NDArray[np.int64]
    reference_: npt.NDArray[np.uint8]

    @property
    def _bits(self) -> bool:
        return self.conditional == "bernoulli"

    def _check_conditional(self) -> None:
        check_option("conditional", self.conditional, ("bernoulli", "categorical"))

    def _input(self, X: Any, name: str = "X", n_features: int | None = None) -> Bits:
        if self.conditional != "categorical":
            return super()._input(X, name, n_features)
        known = getattr(self, "n_values_", None) if n_features is not None else None
        return as_codes(X, known, n_features=n_features, name=name, owner=type(self).__name__)

    def _training_input(self, X: Any, X_val: Any) -> tuple[Bits, Bits | None]:
        """Rows to fit to say how many values a column has, unless training goes on; held-out rows keep to them."""
        if self.conditional != "categorical":
            return super()._training_input(X, X_val)
        rows = self._input(X)
        not_empty(rows)
        width, owner = rows.shape[1], type(self).__name__
        if self.warm_start and getattr(self, "n_features_in_", None) == width:
            n_values = self.n_values_
            as_codes(rows, n_values, owner=owner)
        else:
            n_values = rows.max(0).astype(np.int64) + 1
        if X_val is None:
            return rows, None
        held_out = as_codes(X_val, n_values, n_features=width, name="X_val", owner=owner)
        not_empty(held_out, "X_val")
        return rows, held_out

    def _first_order(self, n: int) -> npt.NDArray[np.uint32]:
        """Column at each step, from the option `order`."""
        if isinstance(self.order, str):
            check_option("order", self.order, ("natural", "random"))
            key = random.key_of(self.random_state, random.ORDER)
            return (np.arange(n) if self.order == "natural" else random.permutation(key, 0, n)).astype(np.uint32)
        order = np.asarray(self.order)
        if order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
            raise ValueError(f"order must be a permutation of 0..{n - 1}, not {self.order!r}")
        return order.astype(np.uint32)

    def _marginals(self, X: Bits, weight: npt.NDArray[np.float64] | None) -> Marginals:
        """What the rows of a first fit say of each column by itself."""
        if self._bits:
            ones, total = count_ones(X, weight)
            reference = (2 * ones > total).astype(np.uint8)
            logits = Bernoulli.marginal_logits(np.where(reference, total - ones, ones), total)
            return Marginals(np.full(X.shape[1], 2), reference, logits)
        n_values = X.max(0).astype(np.int64) + 1
        counts = count_values(X, n_values.tolist(), weight)
        reference = np.array([np.argmax(seen) for seen in counts], np.uint8)
        return Marginals(n_values, reference, Categorical.marginal_logits(counts, reference=reference))


def check_codes(n_values: npt.NDArray[Any], reference: npt.NDArray[Any], n_features: int) -> None:
    """What a file says of the columns of a model."""
    if n_values.dtype != np.int64 or n_values.shape != (n_features,) or not ((n_values >= 1) & (n_values <= 256)).all():
        raise ValueError("n_values is not between 1 and 256")
    if reference.dtype != np.uint8 or reference.shape != (n_features,) or (reference >= n_values).any():
        raise ValueError("reference is not a value of each column")
