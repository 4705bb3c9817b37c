"""The chain rule of calculus: a tape of pullbacks, and the memory that steps use again."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.fit.parameters import aligned

Array = npt.NDArray[Any]


class Pool:
    """Large arrays lent out and given back, so that a training step allocates nothing after the first.

    Steps of different lengths share them: one that is up to four times too large serves, and one that is too small for
    what it was kept for makes way, so that no more is kept than the largest step needed.
    """

    def __init__(self) -> None:
        self._free: dict[str, list[Array]] = {}  # by precision, small before large
        self._lent: dict[int, Array] = {}

    def take(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array, not initialised, aligned to cache lines."""
        dtype, size = np.dtype(dtype), 1
        for length in shape:
            size *= length
        free = self._free.setdefault(dtype.str, [])
        at = bisect.bisect_left(free, size, key=len)
        if at < len(free) and len(free[at]) <= 4 * size:
            flat = free.pop(at)
        else:
            if at and 4 * len(free[at - 1]) >= size:
                free.pop(at - 1)
            flat = aligned((size,), dtype)
        array = flat[:size].reshape(shape)
        self._lent[id(array)] = flat
        return array

    def give(self, array: Array) -> None:
        """Back for other uses; arrays that are not the pool's are left alone."""
        flat = self._lent.pop(id(array), None)
        if flat is not None:
            bisect.insort(self._free[flat.dtype.str], flat, key=len)


class Variable:
    """An array on a tape, and the gradient of the objective by it once that is known.

    A parameter brings the array its gradient is written to.
    """

    __slots__ = ("array", "gradient", "whole")

    def __init__(self, array: Array, gradient: Array | None = None, whole: Array | None = None) -> None:
        self.array, self.gradient = array, gradient
        self.whole = array if whole is None else whole  # with history in front, and as the pool knows it


class Tape:
    """Operations as they are computed; `backward` runs their pullbacks from the last to the first.

    A tape that does not record computes values alone, for scoring.
    """

    def __init__(self, pool: Pool, *, recording: bool = True, memory_budget: int = 0, n_threads: int | None = None):
        self.pool, self.recording, self.n_threads = pool, recording, n_threads
        self.memory_left = memory_budget  # for intermediates that could be computed again
        self._pullbacks: list[Callable[[], None]] = []

    def record(self, pullback: Callable[[], None]) -> None:
        """`pullback()` reads the gradient of an operation's outputs and adds to that of its inputs, or sets it."""
        if self.recording:
            self._pullbacks.append(pullback)

    def keeps(self, size: int) -> bool:
        """Whether `size` bytes may be kept for the way back; they then count."""
        kept = self.recording and size <= self.memory_left
        if kept:
            self.memory_left -= size
        return kept

    def hand_on(self, gradient: Array, variable: Variable) -> None:
        """Adds a gradient that the pool lent to that of `variable`; it is the variable's where that has none."""
        if variable.gradient is None:
            variable.gradient = gradient
        else:
            np.add(variable.gradient, gradient, out=variable.gradient)
            self.pool.give(gradient)

    def release(self, variable: Variable) -> None:
        """The variable's array is not needed any more."""
        self.pool.give(variable.whole)

    def backward(self) -> None:
        """From the gradient of the last outputs to that of every parameter."""
        while self._pullbacks:
            self._pullbacks.pop()()
