"""Frames: the local context of sequences, features of every `hop` steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.models.sequence_rows import Array, Sequences


def as_frames(given: Any, values: list[npt.NDArray[np.int32]], hop: int, known: int | None, dtype: str) -> list[Array]:
    """`local_context` as (n_frames, features) for each of these sequences, checked; known: how many features."""
    given = [given] if isinstance(given, np.ndarray) and given.ndim == 2 else given
    frames = [np.ascontiguousarray(part, dtype) for part in given]
    if len(frames) != len(values):
        raise ValueError(f"local_context must have frames for {len(values)} sequences, not {len(frames)}")
    for i, (part, codes) in enumerate(zip(frames, values, strict=True)):
        needed = -(-len(codes) // hop)
        if part.ndim != 2 or len(part) < needed:
            raise ValueError(
                f"local_context must be (frames, features) with {needed} frames of {hop} steps for sequence {i} of "
                f"{len(codes)}, not of shape {part.shape}"
            )
        if part.shape[1] != (known or frames[0].shape[1]):
            raise ValueError(f"local_context must have {known or frames[0].shape[1]} features, not {part.shape[1]}")
        if not np.isfinite(part).all():
            raise ValueError(f"local_context must be finite; that of sequence {i} is not")
    return frames


def features_of_steps(
    X: Sequences, rows: Any, first: npt.NDArray[np.int64], n_steps: int, hop: int, n_local: int, dtype: str
) -> tuple[Array, int]:
    """Frames of the steps from `first` on of each row, local features beside the row's context, and `first` in them."""
    assert X.frames is not None
    at = int(first[0]) % hop  # the same for all rows
    n_frames = (at + n_steps - 1) // hop + 1
    parts = np.zeros((len(rows), n_frames, n_local + (0 if X.context is None else X.context.shape[1])), dtype)
    for i, row in enumerate(rows):
        known, begin = X.frames[row], int(first[i]) // hop
        low, high = max(begin, 0), min(begin + n_frames, len(known))
        if low < high:
            parts[i, low - begin : high - begin, :n_local] = known[low:high]
    if X.context is not None:
        parts[:, :, n_local:] = X.context[rows][:, None]
    return parts, at
