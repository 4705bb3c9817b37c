"""Elementwise functions, logsumexp and uniforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule import _kernels
from chainrule.kernels.views import Array, view

FUNCTIONS = ("exp", "expm1", "log", "log1p", "sigmoid", "tanh", "softplus", "erf", "sin", "cos")  # chainrule_function


def logsumexp(x: Any, *, out: Any = None, n_threads: int | None = None) -> Array:
    """``log(sum(exp(x), axis=1))`` of a matrix, without overflow; -inf for rows of -inf."""
    x = view(x)
    if out is None:
        out = np.empty(x.shape[:1], x.dtype)
    _kernels.logsumexp(x, view(out), n_threads or 0)
    return out  # type: ignore[no-any-return]


def uniforms(key: tuple[int, int], first_block: int, n: int, *, out: Any = None, n_threads: int | None = None) -> Array:
    """`n` float64 uniforms in (0, 1) from blocks `first_block`, ... (4 words each) of NumPy's Philox4x64 with this key.

    Each is ``((w >> 12) + 0.5) * 2**-52`` of one raw 64-bit word w, so it depends on (key, position) alone.
    """
    if out is None:
        out = np.empty(n)
    elif len(out) != n:
        raise ValueError(f"out must have n = {n} elements, not {len(out)}")
    _kernels.uniforms(key[0], key[1], first_block, view(out), n_threads or 0)
    return out  # type: ignore[no-any-return]


def _elementwise(index: int, name: str) -> Callable[..., Array]:
    def function(x: Any, *, out: Any = None, n_threads: int | None = None) -> Array:
        x = view(x)
        if out is None:
            out = np.empty(x.shape, x.dtype)
        result = view(out)
        if not (x.flags.c_contiguous and result.flags.c_contiguous):
            raise ValueError("x and out must be C-contiguous")
        if x.shape != result.shape:
            raise ValueError(f"out must have the shape of x, {x.shape}, not {result.shape}")
        _kernels.map(index, x.reshape(-1), result.reshape(-1), n_threads or 0)
        return out  # type: ignore[no-any-return]

    function.__name__ = function.__qualname__ = name
    function.__doc__ = (
        f"``{name}(x)``, elementwise, float32 or float64; the same bits everywhere (error: docs/math.md)."
    )
    return function


exp, expm1, log, log1p, sigmoid, tanh, softplus, erf, sin, cos = (
    _elementwise(i, name) for i, name in enumerate(FUNCTIONS)
)
