"""What every model is: an estimator with scikit-learn's habits, and a density by the chain rule.

A model file implements `_fit`, `_log_prob`, `_conditionals`, `_draw`, `_state` and `_restore`; checks, chunks, files
and randomness are here, once. `trained.py` has what models trained by gradient share.
"""

from __future__ import annotations

import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chainrule import io
from chainrule.fit.loop import ordered_sum
from chainrule.models import missing
from chainrule.models.rows import Rows, as_context
from chainrule.random import key_of, uniform_rows
from chainrule.validation import as_bits, check_int, column_names, not_empty

if TYPE_CHECKING:
    from typing_extensions import Self

Bits = npt.NDArray[np.uint8]
ROWS_AT_ONCE = 4096  # sampling draws this many rows of uniforms at a time: 26 MB at 784 variables


class NotFittedError(ValueError, AttributeError):
    """The model has no parameters yet: call `fit` or load one."""


def not_fitted(message: str) -> NotFittedError:
    """The error to raise; also scikit-learn's own where that is loaded, for code that catches it."""
    theirs = sys.modules.get("sklearn.exceptions")
    if theirs is None:
        return NotFittedError(message)
    both: type[NotFittedError] = type("NotFittedError", (NotFittedError, theirs.NotFittedError), {})
    return both(message)


def _misses(X: Any) -> bool:
    """Some value is NaN."""
    array = np.asarray(X)
    return array.dtype.kind == "f" and array.ndim == 2 and bool(np.isnan(array).any())


def _as_many(rows: npt.NDArray[Any], n_rows: int, name: str) -> npt.NDArray[Any]:
    """`n_rows` rows, of as many or of one."""
    if len(rows) == n_rows:
        return rows
    if len(rows) != 1:
        raise ValueError(f"{name} must have n_samples = {n_rows} rows or one, not {len(rows)}")
    return np.repeat(rows, n_rows, axis=0)


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
    dtype: str = "float64"
    n_features_in_: int
    feature_names_in_: npt.NDArray[Any]
    _ordered = True  # conditionals look back along `order_`; False for independent variables
    _takes_context = False

    # ---- what a model implements

    def _fit(self, X: Bits) -> None:
        raise NotImplementedError

    def _log_prob(self, X: Bits, per_variable: bool) -> npt.NDArray[np.float64]:
        raise NotImplementedError

    def _conditionals(self, X: Bits) -> Any:
        raise NotImplementedError

    def _draw(
        self,
        u: npt.NDArray[np.float64],
        given: Bits | None = None,
        observed: Bits | None = None,
        context: npt.NDArray[Any] | None = None,
    ) -> Bits:
        raise NotImplementedError

    def _state(self) -> dict[str, Any]:
        """{"arrays": learned arrays by name, "attributes": everything else learned, as JSON}."""
        raise NotImplementedError

    def _restore(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    @property
    def _n_uniforms(self) -> int:
        """Uniforms that a sampled row takes: one a variable, in the order of the chain."""
        return self.n_features_in_

    def _input(self, X: Any, name: str = "X", n_features: int | None = None) -> Bits:
        """`X` as the model's kernels take it; models on other data override this."""
        return as_bits(X, binarize=self.binarize, n_features=n_features, name=name, owner=type(self).__name__)

    # ---- what a user calls

    def fit(self, X: Any, y: Any = None, *, X_val: Any = None) -> Self:
        """Fit to the rows of `X` by maximum likelihood, in closed form.

        Parameters
        ----------
        X : array-like (n_rows, n_features)
        y : ignored
        X_val : array-like (n_rows, n_features), optional
            Checked, and otherwise unused by models without training.

        Returns
        -------
        self
        """
        rows, _ = self._training_input(X, X_val)
        self._fit(rows)
        self._remember(X, rows)
        return self

    def _training_input(self, X: Any, X_val: Any) -> tuple[Bits, Bits | None]:
        """Rows to fit to and held-out rows, checked."""
        rows = self._input(X)
        not_empty(rows)
        if X_val is None:
            return rows, None
        held_out = self._input(X_val, "X_val", rows.shape[1])
        not_empty(held_out, "X_val")
        return rows, held_out

    def _remember(self, X: Any, rows: Bits) -> None:
        """Number of columns, and their names when `X` is a data frame."""
        self.n_features_in_ = rows.shape[1]
        names = column_names(X)
        if names is not None:
            self.feature_names_in_ = names
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _known_input(self, X: Any, context: Any = None) -> Any:
        """Rows for a fitted model: its width, and its column names in its order."""
        self._check_fitted()
        self._check_names(X)
        rows = self._input(X, n_features=self.n_features_in_)
        return self._with_context(rows, self._context(context, len(rows)))

    def _check_names(self, X: Any) -> None:
        names, known = column_names(X), getattr(self, "feature_names_in_", None)
        if names is not None and known is not None and not np.array_equal(names, known):
            raise ValueError(
                f"The feature names should match those that were passed during fit: X has {', '.join(names)}, "
                f"the model was fitted to {', '.join(known)}"
            )

    def _context(self, context: Any, n_rows: int) -> npt.NDArray[Any] | None:
        """The context of `n_rows` rows, checked: there when the model was fitted with one, and only then."""
        width = getattr(self, "n_context_", 0)
        if context is None:
            if width:
                raise ValueError(f"this {type(self).__name__} was fitted with a context: context= is missing")
            return None
        if not self._takes_context:
            raise ValueError(f"{type(self).__name__} takes no context")
        array = as_context(context, n_rows, self.dtype)
        if hasattr(self, "n_context_") and array.shape[1] != width:
            raise ValueError(f"context has {array.shape[1]} columns, the model was fitted with {width}")
        return array

    @staticmethod
    def _with_context(rows: Bits, context: npt.NDArray[Any] | None) -> Any:
        return rows if context is None else Rows(rows, context)

    def _chain(self) -> npt.NDArray[np.intp]:
        """Column at each step of the chain."""
        return getattr(self, "order_", np.arange(self.n_features_in_)).astype(np.intp)

    @property
    def _any_order(self) -> bool:
        """Trained for every order, so that any variables may come first."""
        return False

    def _chains(self) -> list[npt.NDArray[np.intp]]:
        """The chain of every member of an average."""
        return [self._chain()]

    def _known_log_prob(self, values: Bits, observed: Bits, context: Any = None) -> npt.NDArray[np.float64]:
        """Exact log-likelihood of what each row knows; rows whose missing values can come last."""
        return missing.marginals(self, values, observed, context)

    def score_samples(
        self,
        X: Any,
        *,
        per_variable: bool = False,
        context: Any = None,
        n_draws: int | None = None,
        return_std: bool = False,
    ) -> Any:
        """Log-likelihood of each row, exact, in nats: float64 (n_rows,).

        A row's value does not depend on the rows beside it, bit for bit.

        Parameters
        ----------
        X : array-like (n_rows, n_features)
            NaN where a value is missing: the likelihood is that of the values that are there. It is exact where the
            missing ones come last in the model's order, or the model was trained for every order.
        per_variable : bool
            The chain rule's terms ``log p(x_i | x_<i)`` by column, (n_rows, n_features), which sum to the row's
            log-likelihood; for complete rows.
        context : array-like (n_rows, n_context), optional
            For a model that was fitted with one.
        n_draws : int, optional
            Rows with values missing before observed ones get an estimate from this many draws along the order (without
            it they are an error).
        return_std : bool
            Also return the standard error of each value, (n_rows,): 0 where it is exact.
        """
        self._check_fitted()
        if per_variable or not _misses(X):
            log_prob = self._log_prob(self._known_input(X, context), per_variable)
            return (log_prob, np.zeros(len(log_prob))) if return_std else log_prob
        self._check_names(X)
        seed = self.random_state if isinstance(self.random_state, int | np.integer) else 0
        log_prob, error = missing.scores(self, X, self._context(context, len(X)), n_draws, int(seed))
        return (log_prob, error) if return_std else log_prob

    def score(self, X: Any, y: Any = None, *, context: Any = None) -> float:
        """Mean log-likelihood of the rows of `X`, in nats per row; higher is better."""
        log_prob = self.score_samples(X, context=context)
        not_empty(log_prob)
        return ordered_sum(log_prob) / len(log_prob)

    def conditionals(self, X: Any, *, context: Any = None) -> Any:
        """The distribution of every ``x_i`` given the ``x_<i`` of each row: an object of `chainrule.conditionals`."""
        return self._conditionals(self._known_input(X, context))

    def impute(
        self,
        X: Any,
        n_draws: int | None = None,
        *,
        context: Any = None,
        n_particles: int | None = None,
        random_state: Any = None,
    ) -> Any:
        """`X` with its missing values (NaN) drawn given the observed ones.

        Parameters
        ----------
        X : array-like (n_rows, n_features)
        n_draws : int, optional
            Completions of every row: the result is (n_draws, n_rows, n_features), else (n_rows, n_features).
        context : array-like (n_rows, n_context), optional
        n_particles : int, optional
            Where values are missing before observed ones in the order, a draw is made by sampling importance
            resampling: picked from this many along the order, by the likelihood of the observed values. Approximate,
            exact for n_particles to infinity; without it such rows are an error.
        random_state : int, Generator, RandomState or None
            None: `self.random_state` when that is an int, else fresh randomness.
        """
        self._check_fitted()
        self._check_names(X)
        if random_state is None and isinstance(self.random_state, int | np.integer):
            random_state = self.random_state
        seed = random_state if isinstance(random_state, int | np.integer) else key_of(random_state)[0]
        check_int("n_draws", 1 if n_draws is None else n_draws, 1)
        if n_particles is not None:
            check_int("n_particles", n_particles, 1)
        drawn = missing.impute(self, X, self._context(context, len(X)), n_draws or 1, n_particles, int(seed))
        return drawn if n_draws is not None else self._framed(drawn[0])

    def sample(
        self,
        n_samples: int | None = None,
        *,
        given: Any = None,
        context: Any = None,
        random_state: Any = None,
        start: int = 0,
    ) -> Any:
        """Rows start, ..., start + n_samples - 1 of an endless table of samples, exact: (n_samples, n_features).

        With an int `random_state`, row k depends on (random_state, k) alone, whatever the chunks, threads and machine.
        Every variable costs one step of the recursion, so a row costs what scoring one costs. A model fitted to a data
        frame gives one with the same columns.

        Parameters
        ----------
        n_samples : int
            1 by default; with `given` or `context`, its number of rows.
        given : array-like (n_samples, n_features) or (1, n_features), optional
            Observed values, NaN where a value is missing: these are drawn from their exact conditional distribution.
            Missing values must come after the observed ones in the model's order, unless it was trained for every
            order; anything else is an error (`impute` can draw approximately).
        context : array-like (n_samples, n_context) or (1, n_context), optional
            For a model that was fitted with one.
        random_state : int, Generator, RandomState or None
            None: `self.random_state` when that is an int, else fresh randomness.
        start : int
            First row; needs an int seed to have a meaning across calls.
        """
        self._check_fitted()
        fixed = None if given is None else self._given(given)
        if n_samples is None:
            n_samples = max([1] + [len(part) for part in (given, context) if part is not None])
        check_int("n_samples", n_samples, 0)
        check_int("start", start, 0)
        if fixed is not None:
            fixed = _as_many(fixed[0], n_samples, "given"), _as_many(fixed[1], n_samples, "given")
        seen = None if context is None else _as_many(np.asarray(context), n_samples, "context")
        seen = self._context(seen, n_samples)
        if random_state is None and isinstance(self.random_state, int | np.integer):
            random_state = self.random_state
        key = key_of(random_state)
        chunks = []
        for at in range(0, max(n_samples, 1), ROWS_AT_ONCE):
            rows = slice(at, min(at + ROWS_AT_ONCE, n_samples))
            u = uniform_rows(key, start + at, rows.stop - at, self._n_uniforms)
            parts: dict[str, Any] = {} if seen is None else {"context": seen[rows]}
            if fixed is not None:
                parts |= {"given": fixed[0][rows], "observed": fixed[1][rows]}
            chunks.append(self._draw(u, **parts))
        return self._framed(chunks[0] if len(chunks) == 1 else np.concatenate(chunks))

    def _framed(self, rows: Bits) -> Any:
        """A data frame for a model that was fitted to one."""
        if not hasattr(self, "feature_names_in_"):
            return rows
        import pandas as pd

        return pd.DataFrame(rows, columns=self.feature_names_in_)

    def _given(self, given: Any) -> tuple[Bits, npt.NDArray[np.uint8]]:
        """Values, zero where missing, and the mask of those observed, which must come first in the order."""
        known, observed = missing.split(self, given, "given")
        missing.refuse_late(self, observed, "given", "only an estimate could be drawn")
        return known, observed

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .safetensors file, atomically; `chainrule.load` reads it."""
        self._check_fitted()
        io.save(self, path)

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise not_fitted(f"this {type(self).__name__} is not fitted yet: call fit, or chainrule.load a saved one")
