"""What every model is: an estimator with scikit-learn's habits, and a density by the chain rule.

A model file implements `_fit`, `_log_prob`, `_conditionals`, `_draw`, `_state`, `_restore` and, when it is trained by
gradient, `_gradient`; checks, chunks, files and randomness are here, once.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chainrule import io
from chainrule.fit.loop import ordered_sum
from chainrule.random import key_of, uniform_rows
from chainrule.validation import as_bits, check_int, not_empty

if TYPE_CHECKING:
    from typing_extensions import Self

    from chainrule.fit.parameters import Parameters

Bits = npt.NDArray[np.uint8]
ROWS_AT_ONCE = 4096  # sampling draws this many rows of uniforms at a time: 26 MB at 784 variables


class NotFittedError(ValueError, AttributeError):
    """The model has no parameters yet: call `fit` or load one."""


class Estimator:
    """scikit-learn's contract by duck typing: the constructor stores its arguments, and nothing else."""

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **params: Any) -> Self:
        """Change constructor arguments; unknown names are errors."""
        names = self._parameter_names()
        for name, value in params.items():
            if name not in names:
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(names)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = (
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if repr(value) != repr(defaults[name].default)
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(estimator_type="density_estimator", target_tags=TargetTags(required=False), input_tags=InputTags())

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")


class AutoregressiveModel(Estimator):
    """``log p(x) = sum_i log p(x_i | x_<i)``: scored exactly, sampled one variable after the other."""

    binarize: float | None = None
    random_state: Any = None
    n_features_in_: int
    parameters_: Parameters

    # ---- what a model implements

    def _fit(self, X: Bits, X_val: Bits | None) -> None:
        raise NotImplementedError

    def _log_prob(self, X: Bits, per_variable: bool) -> npt.NDArray[np.float64]:
        raise NotImplementedError

    def _conditionals(self, X: Bits) -> Any:
        raise NotImplementedError

    def _draw(self, u: npt.NDArray[np.float64]) -> Bits:
        raise NotImplementedError

    def _gradient(self, X: Bits, gradient: Parameters) -> npt.NDArray[np.float64]:
        raise NotImplementedError

    def _state(self) -> dict[str, Any]:
        """{"arrays": learned arrays by name, "attributes": everything else learned, as JSON}."""
        raise NotImplementedError

    def _restore(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def _input(self, X: Any, name: str = "X", n_features: int | None = None) -> Bits:
        """`X` as the model's kernels take it; models on other data override this."""
        return as_bits(X, binarize=self.binarize, n_features=n_features, name=name)

    # ---- what a user calls

    def fit(self, X: Any, y: Any = None, *, X_val: Any = None) -> Self:
        """Fit to the rows of `X` by maximum likelihood.

        Parameters
        ----------
        X : array-like (n_rows, n_features)
        y : ignored
        X_val : array-like (n_rows, n_features), optional
            Held-out rows for early stopping.

        Returns
        -------
        self
        """
        rows = self._input(X)
        not_empty(rows)
        held_out = None if X_val is None else self._input(X_val, "X_val", rows.shape[1])
        if held_out is not None:
            not_empty(held_out, "X_val")
        self._fit(rows, held_out)
        self.n_features_in_ = rows.shape[1]
        return self

    def score_samples(self, X: Any, *, per_variable: bool = False) -> npt.NDArray[np.float64]:
        """Log-likelihood of each row, exact, in nats: float64 (n_rows,).

        With `per_variable`, the chain rule's terms ``log p(x_i | x_<i)`` by column, (n_rows, n_features); they sum to
        the row's log-likelihood. A row's value does not depend on the rows beside it, bit for bit.
        """
        self._check_fitted()
        return self._log_prob(self._input(X, n_features=self.n_features_in_), per_variable)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-likelihood of the rows of `X`, in nats per row; higher is better."""
        log_prob = self.score_samples(X)
        not_empty(log_prob)
        return ordered_sum(log_prob) / len(log_prob)

    def conditionals(self, X: Any) -> Any:
        """The distribution of every ``x_i`` given the ``x_<i`` of each row: an object of `chainrule.conditionals`."""
        self._check_fitted()
        return self._conditionals(self._input(X, n_features=self.n_features_in_))

    def gradient(self, X: Any) -> tuple[float, dict[str, npt.NDArray[Any]]]:
        """Mean log-likelihood of the rows of `X`, and its gradient by each array of `parameters_`."""
        self._check_fitted()
        rows = self._input(X, n_features=self.n_features_in_)
        not_empty(rows)
        gradient = self.parameters_.like()
        mean = ordered_sum(self._gradient(rows, gradient)) / len(rows)
        return mean, {name: -np.ascontiguousarray(array) for name, array in gradient.items()}

    def sample(self, n_samples: int = 1, *, random_state: Any = None, start: int = 0) -> Bits:
        """Rows start, ..., start + n_samples - 1 of an endless table of samples, exact: (n_samples, n_features).

        With an int `random_state`, row k depends on (random_state, k) alone, whatever the chunks, threads and machine.
        Every variable costs one step of the recursion, so a row costs what scoring one costs.

        Parameters
        ----------
        n_samples : int
        random_state : int, Generator, RandomState or None
            None: `self.random_state` when that is an int, else fresh randomness.
        start : int
            First row; needs an int seed to have a meaning across calls.
        """
        self._check_fitted()
        check_int("n_samples", n_samples, 0)
        check_int("start", start, 0)
        if random_state is None and isinstance(self.random_state, int | np.integer):
            random_state = self.random_state
        key = key_of(random_state)
        chunks = [
            self._draw(uniform_rows(key, start + at, min(ROWS_AT_ONCE, n_samples - at), self.n_features_in_))
            for at in range(0, max(n_samples, 1), ROWS_AT_ONCE)
        ]
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .safetensors file, atomically; `chainrule.load` reads it."""
        self._check_fitted()
        io.save(self, path)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"this {type(self).__name__} is not fitted yet: call fit, or chainrule.load a saved one"
            )
