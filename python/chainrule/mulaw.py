"""Mu-law companding (ITU-T G.711's curve with 256 levels): a sample of audio as one of 256 codes, finer near silence.

``f(x) = sign(x) log(1 + 255 |x|) / log 256`` and ``code = floor((f + 1) / 2 * 255 + 1/2)``; back,
``|x| = (256^|y| - 1) / 255`` at ``y = 2 code / 255 - 1``. Codes are what a model of audio scores, so this is a promised
path: the same codes and the same samples on every machine (docs/reproducibility.md).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels

LEVELS = 256
MU = 255.0
FULL_SCALE = 32768.0  # of int16: samples are x / 32768, from -1 to just below 1


def as_signal(x: Any, name: str = "x") -> npt.NDArray[Any]:
    """`x` as int16 or floats in [-1, 1], of any shape; anything else is an error that says which value, and where."""
    array = np.asarray(x)
    if array.dtype.kind == "i" and array.dtype.itemsize == 2:
        return array.astype(np.int16, copy=False)
    if array.dtype.kind != "f":
        raise ValueError(f"{name} must be int16, or floats in [-1, 1], not {array.dtype}")
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(array) <= 1)  # NaN compares as false
    if wrong.any():
        rule = "lie in [-1, 1]" if np.isfinite(array[_first(wrong)]) else "be finite"
        count = int(np.count_nonzero(wrong))
        raise ValueError(f"{name} must {rule}: {_place(array, wrong, name)} ({count} such values of {array.size})")
    return array


def as_int16(x: Any, name: str = "x") -> npt.NDArray[np.int16]:
    """`x` as 16-bit samples: floats in [-1, 1] to the nearest of 65536 levels, where 1 is the highest."""
    signal = as_signal(x, name)
    if signal.dtype == np.int16:
        return signal
    return np.minimum(np.rint(signal.astype(np.float64) * FULL_SCALE), FULL_SCALE - 1).astype(np.int16)


def _first(wrong: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(map(int, np.argwhere(wrong)[0]))


def _place(array: npt.NDArray[Any], wrong: npt.NDArray[np.bool_], name: str) -> str:
    """The first wrong value and where it stands: "x[7] is nan"."""
    at = _first(wrong)
    return f"{name}{list(at) if at else ''} is {array[at]}"


def mu_law_encode(x: Any) -> npt.NDArray[np.uint8]:
    """Codes of samples, uint8 of the shape of `x`; silence is code 128.

    Parameters
    ----------
    x : array-like
        int16, read as ``x / 32768``, or floats in [-1, 1].

    Examples
    --------
    >>> mu_law_encode([-1.0, -0.01, 0.0, 0.01, 1.0])
    array([  0,  98, 128, 157, 255], dtype=uint8)
    """
    signal = as_signal(x)
    value = signal.astype(np.float64, order="C")
    if signal.dtype == np.int16:
        value /= FULL_SCALE
    size = kernels.log1p(MU * np.abs(value)) / _log_levels()
    return np.floor((np.copysign(size, value) + 1.0) / 2.0 * MU + 0.5).astype(np.uint8)


def mu_law_decode(codes: Any) -> npt.NDArray[np.float32]:
    """Samples of codes, float32 in [-1, 1]: ``mu_law_encode(mu_law_decode(c)) == c`` for all 256.

    Parameters
    ----------
    codes : array-like
        Integers 0 to 255.

    Examples
    --------
    >>> mu_law_decode([0, 128, 255])
    array([-1.000000e+00,  8.621159e-05,  1.000000e+00], dtype=float32)
    """
    array = np.asarray(codes)
    if array.dtype.kind not in "iu":
        raise ValueError(f"codes must be integers 0 to 255, not {array.dtype}")
    if array.size and not (array.min() >= 0 and array.max() < LEVELS):
        raise ValueError(f"codes must be integers 0 to 255: {_place(array, (array < 0) | (array >= LEVELS), 'codes')}")
    return np.asarray(_decoded()[array])


def edges() -> npt.NDArray[np.float64]:
    """The 255 samples at which one code ends and the next begins, ascending."""
    return _expanded(2.0 * (np.arange(1.0, LEVELS) - 0.5) / MU - 1.0)


@cache
def _decoded() -> npt.NDArray[np.float32]:
    return _expanded(2.0 * np.arange(float(LEVELS)) / MU - 1.0).astype(np.float32)


def _expanded(y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.copysign(np.minimum(kernels.expm1(np.abs(y) * _log_levels()) / MU, 1.0), y)


@cache
def _log_levels() -> float:
    return float(kernels.log1p(np.array([MU]))[0])
