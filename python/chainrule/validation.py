"""Bad input gets a clear error: the argument, the rule, the value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def as_matrix(X: Any, name: str = "X") -> npt.NDArray[Any]:
    """`X` as a 2-d array of real numbers, not yet looked at value by value."""
    if hasattr(X, "tocsr"):
        raise TypeError(f"{name} is sparse, and sparse input is not supported: pass {name}.toarray()")
    array = np.asarray(X)
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {array.dtype}")
    if array.dtype.kind not in "buif":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} must hold numbers, not dtype {array.dtype}: {error}") from None
    if array.ndim != 2:
        hint = " Reshape your data: one row is X.reshape(1, -1)." if array.ndim == 1 else ""
        raise ValueError(f"{name} must be 2-d (n_rows, n_features), not {array.ndim}-d of shape {array.shape}.{hint}")
    return array


def as_bits(
    X: Any, *, binarize: float | None, n_features: int | None = None, name: str = "X", owner: str = "the model"
) -> npt.NDArray[np.uint8]:
    """`X` as uint8 zeros and ones, rows contiguous.

    ``binarize=None`` accepts the values 0 and 1 alone; a number t gives ``X > t``. NaN and infinities are errors.
    """
    array = X if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "buif" else as_matrix(X, name)
    has_features(array, name)
    if n_features is not None:
        check_width(array, n_features, name, owner)
    check_finite(array, name)
    if binarize is not None:
        return np.ascontiguousarray(array > binarize).view(np.uint8)
    if array.dtype == np.uint8:
        wrong: Any = None if not array.size or array.max() <= 1 else array > 1
    else:
        wrong = None if array.dtype == np.bool_ else (array != 0) & (array != 1)
        if wrong is not None and not wrong.any():
            wrong = None
    if wrong is not None:
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name} has {int(np.count_nonzero(wrong))} values outside {{0, 1}} "
            f"(first: {array[row, column]} at row {row}, column {column}); set binarize= to threshold them"
        )
    return np.ascontiguousarray(array, dtype=np.uint8)


def as_codes(
    X: Any,
    cardinalities: int | Sequence[int] | npt.NDArray[Any] | None = None,
    *,
    n_features: int | None = None,
    name: str = "X",
    owner: str = "the model",
) -> npt.NDArray[np.uint8]:
    """`X` as uint8 codes, rows contiguous: column k holds whole numbers 0 .. K_k - 1.

    `cardinalities` are the K_k, one number for all or one for each column, at most 256; None allows every byte. Floats
    that are whole numbers are taken. NaN and infinities are errors.
    """
    array = X if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "buif" else as_matrix(X, name)
    has_features(array, name)
    if n_features is None and isinstance(cardinalities, Sequence | np.ndarray):
        n_features = len(cardinalities)
    if n_features is not None:
        check_width(array, n_features, name, owner)
    check_finite(array, name)
    largest = np.broadcast_to(np.asarray(256 if cardinalities is None else cardinalities) - 1, array.shape[1:])
    with np.errstate(invalid="ignore"):
        codes = np.ascontiguousarray(array, dtype=np.uint8)
    wrong = codes > largest.astype(np.uint8)
    if array.dtype not in (np.uint8, np.bool_):
        wrong |= codes != array
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name} has {int(np.count_nonzero(wrong))} values outside the integers 0 .. K - 1 of their columns "
            f"(first: {array[row, column]} at row {row}, column {column}, where K = {largest[column] + 1})"
        )
    return codes


def check_finite(X: npt.NDArray[Any], name: str) -> None:
    """No NaN, no infinity."""
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise ValueError(
            f"{name} contains NaN or infinity (first: {X[row, column]} at row {row}, column {column}); "
            "chainrule scores complete rows only"
        )


def check_width(X: npt.NDArray[Any], n_features: int, name: str, owner: str) -> None:
    """As many columns as the model was fitted to."""
    if X.shape[1] != n_features:
        raise ValueError(f"{name} has {X.shape[1]} features, but {owner} is expecting {n_features} features as input")


def column_names(X: Any) -> npt.NDArray[Any] | None:
    """Names of a data frame's columns, when they are strings."""
    columns = getattr(X, "columns", None)
    if columns is None or not all(isinstance(name, str) for name in columns):
        return None
    return np.asarray(columns, dtype=object)


def has_features(X: npt.NDArray[Any], name: str) -> None:
    """A density needs a variable."""
    if X.shape[1] == 0:
        raise ValueError(f"{name} has 0 feature(s) (shape={X.shape}) while a minimum of 1 is required.")


def not_empty(X: npt.NDArray[Any], name: str = "X") -> None:
    """Fitting needs a row."""
    if X.shape[0] == 0:
        raise ValueError(f"{name} is empty: 0 sample(s) (shape={X.shape}) while a minimum of 1 is required.")


def check_option(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """`value` is one of `allowed`."""
    if not any(value is a or (isinstance(a, str) and value == a) for a in allowed):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def check_int(name: str, value: Any, minimum: int) -> int:
    """`value` as an int >= `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, not {value!r}")
    return int(value)


def check_positive(name: str, value: Any) -> float:
    """`value` as a finite float > 0."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float | np.integer | np.floating)
        or not 0 < value < np.inf
    ):
        raise ValueError(f"{name} must be a number > 0, not {value!r}")
    return float(value)


def check_weights(weight: Any, n_rows: int) -> npt.NDArray[np.float64]:
    """`weight` as finite float64 (n_rows,) >= 0, not all zero."""
    array = np.asarray(weight, dtype=np.float64)
    if array.shape != (n_rows,):
        raise ValueError(f"sample_weight must have shape ({n_rows},), not {array.shape}")
    if not (np.isfinite(array).all() and (array >= 0).all() and array.any()):
        raise ValueError("sample_weight must be finite and >= 0, and not all zero")
    return array
