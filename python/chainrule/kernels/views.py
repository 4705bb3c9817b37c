"""Arrays of any library as NumPy views, and names as the kernels' numbers."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
ACTIVATIONS = ("sigmoid", "relu", "tanh")  # chainrule_activation
IDENTITY = 3


def view(x: Any) -> Array:
    """The memory of `x` as an array, without a copy."""
    if isinstance(x, np.ndarray):
        return x
    if hasattr(x, "__dlpack__"):
        return np.from_dlpack(x)
    try:
        return np.asarray(memoryview(x))
    except TypeError:
        raise TypeError(f"kernels take arrays, buffers and CPU tensors, not {type(x).__name__}") from None


def optional(x: Any) -> Array | None:
    """None stays None."""
    return None if x is None else view(x)


def activation_number(name: str | None, *, identity: bool = False) -> int:
    """Of chainrule_activation; None is the identity, for the kernels that have one."""
    if name is None and identity:
        return IDENTITY
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, not {name!r}")
    return ACTIVATIONS.index(name)
