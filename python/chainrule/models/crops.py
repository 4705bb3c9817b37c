"""Crops: the windows of sequences that models are trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Crops:
    """Windows of sequences: the steps [start, start + length) of sequence `row`."""

    row: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, some: npt.NDArray[np.intp]) -> Crops:
        return Crops(self.row[some], self.start[some], self.length[some])


def whole(lengths: Lengths) -> Crops:
    """Every sequence as one window."""
    return Crops(np.arange(len(lengths)), np.zeros(len(lengths), np.int64), lengths)


def side_by_side(lengths: Lengths, window: int) -> Crops:
    """Every sequence in windows, one after the other; the last one of each is shorter."""
    rows, starts, sizes = [], [], []
    for row, length in enumerate(lengths.tolist()):
        for start in range(0, length, window):
            rows.append(row)
            starts.append(start)
            sizes.append(min(window, length - start))
    return Crops(np.array(rows, np.int64), np.array(starts, np.int64), np.array(sizes, np.int64))


def moved(crops: Crops, lengths: Lengths, window: int, hop: int | None, u: npt.NDArray[np.float64]) -> Crops:
    """Each moved by up to half a window, as its uniform `u` says, within its sequence and to a multiple of `hop`."""
    room = np.maximum(lengths[crops.row] - window, 0)
    start = np.clip(crops.start + np.floor((u - 0.5) * window).astype(np.int64), 0, room)
    if hop is not None:
        start -= start % hop
    return Crops(crops.row, start, np.minimum(window, lengths[crops.row] - start))
