"""The one data set that is shipped: small enough for a demonstration, real enough to look at."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Split(NamedTuple):
    """Rows for fitting, for early stopping, and for the one final score."""

    train: npt.NDArray[Any]
    validation: npt.NDArray[Any]
    test: npt.NDArray[Any]


def split(rows: npt.NDArray[Any]) -> Split:
    """Row k goes to test where k % 6 == 5, to validation where k % 6 == 4, and is for training otherwise."""
    k = np.arange(len(rows)) % 6
    return Split(rows[k < 4], rows[k == 4], rows[k == 5])


def _digits(name: str) -> npt.NDArray[Any]:
    with (
        files("chainrule").joinpath("data", "digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as data,
    ):
        array: npt.NDArray[Any] = data[name]
    return array


def digit_labels() -> Split:
    """Which digit each image of `digits` shows, 0 to 9, in the same order."""
    return split(_digits("labels"))


def digits(*, binarize: bool = True) -> Split:
    """8x8 images of handwritten digits, (n, 64): 1199 for training, 299 for validation, 299 for test.

    UCI Optical Recognition of Handwritten Digits (Alpaydin & Kaynak 1998, CC BY 4.0), 1797 images with values 0 to 16.

    Parameters
    ----------
    binarize : bool
        Pixels above 7 are 1, the others 0, as uint8.
    """
    images = _digits("images").reshape(-1, 64)
    return split((images > 7).astype(np.uint8) if binarize else images)
