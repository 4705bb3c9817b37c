"""Rows with a context: what a model is given beside the variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.validation import as_matrix, check_finite


@dataclass(frozen=True)
class Rows:
    """Codes (n_rows, n_features), uint8, and the context (n_rows, n_context) that every one of their variables sees."""

    codes: npt.NDArray[np.uint8]
    context: npt.NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the codes."""
        return self.codes.shape

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Rows:
        return Rows(self.codes[rows], self.context[rows])

    def tobytes(self) -> bytes:
        """For a hash of the data."""
        return self.codes.tobytes() + self.context.tobytes()


def as_context(context: Any, n_rows: int, dtype: str, name: str = "context") -> npt.NDArray[Any]:
    """`context` as a matrix of finite numbers with a row for each row of X."""
    array = as_matrix(context, name)
    check_finite(array, name)
    if len(array) != n_rows:
        raise ValueError(f"{name} must have a row for each of the {n_rows} rows, not {len(array)}")
    return np.ascontiguousarray(array, dtype)
