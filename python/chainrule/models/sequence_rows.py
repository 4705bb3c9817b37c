"""Sequences as models take them: checked, as int32 codes, with what each is conditioned on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Sequences:
    """Checked sequences: values as int32 codes, and what each is conditioned on."""

    values: list[npt.NDArray[np.int32]]
    context: Array | None = None  # (n, n_context)
    frames: list[Array] | None = None  # of each, (n_frames, n_local)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Sequences:
        places = np.arange(len(self))[rows]
        return Sequences(
            [self.values[i] for i in places],
            None if self.context is None else self.context[places],
            None if self.frames is None else [self.frames[i] for i in places],
        )

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Steps of each."""
        return np.array([len(values) for values in self.values], np.int64)

    @property
    def shape(self) -> tuple[int, int]:
        """Their number, and 1: the variables of a step."""
        return len(self), 1

    def tobytes(self) -> bytes:
        """Everything in them, for a hash."""
        parts = [self.lengths, *self.values, *([] if self.context is None else [self.context]), *(self.frames or [])]
        return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def as_sequences(X: Any, name: str, *, may_be_empty: bool = False) -> list[Array]:
    """One sequence, a list of them (or none) or the rows of a matrix, as 1-d arrays."""
    if isinstance(X, np.ndarray) and X.ndim == 2:
        arrays = list(X)
    elif isinstance(X, list | tuple) and not (X and np.ndim(X[0]) == 0):
        arrays = [np.asarray(row) for row in X]
    else:
        arrays = [np.asarray(X)]
    for i, array in enumerate(arrays):
        if array.ndim != 1:
            raise ValueError(
                f"{name} must hold sequences of one channel, 1-d; sequence {i} has shape {array.shape}: "
                "stereo is mixed down, or given as two sequences"
            )
        if not len(array) and not may_be_empty:
            raise ValueError(f"{name} must hold no empty sequence; sequence {i} is empty")
        if array.dtype.kind not in "iufb":
            raise ValueError(f"{name} must hold numbers, not {array.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            at = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(f"{name} must be finite; sequence {i} has {array[at]} at step {at}")
    return arrays


def as_codes32(arrays: list[Array], n_values: int, name: str) -> list[npt.NDArray[np.int32]]:
    """Integers 0 .. n_values - 1, checked."""
    codes = []
    for i, array in enumerate(arrays):
        if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
            raise ValueError(f"{name} must hold integer codes; sequence {i} has fractions")
        bad = np.flatnonzero((array < 0) | (array >= n_values))
        if len(bad):
            raise ValueError(
                f"{name} must hold codes 0 to {n_values - 1}; sequence {i} has {array[bad[0]]} at step {int(bad[0])}"
            )
        codes.append(np.ascontiguousarray(array, np.int32))
    return codes
