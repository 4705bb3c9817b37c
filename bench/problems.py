"""NADE and rows to score, sample and differentiate: real data, random weights of a fitted model's size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench import floors
from bench.settings import DATA, SMOKE

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows `x` as the data have them, parameters in the encoded coordinates ``y = x XOR flip`` (rarer value = 1)."""

    x: Array
    flip: Array
    W: Array
    V: Array
    b: Array
    c: Array

    @cached_property
    def y(self) -> Array:
        return self.x ^ self.flip

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, variables, hidden units."""
        return *self.x.shape, self.W.shape[1]

    @property
    def dtype(self) -> str:
        return self.W.dtype.name

    @property
    def parameters(self) -> tuple[Array, Array, Array, Array]:
        return self.W, self.V, self.b, self.c

    def astype(self, dtype: str) -> Problem:
        return replace(self, **{name: getattr(self, name).astype(dtype) for name in "WVbc"})

    def floor(self, *, gradient: bool = False, moves: int | None = None) -> float:
        """Seconds; `moves` of the hidden state are the ones of y unless given."""
        return floors.nade(*self.shape, int(self.y.sum()) if moves is None else moves, self.dtype, gradient=gradient)


@cache
def load(name: str) -> tuple[Array, Array]:
    """Training and test rows."""
    path = DATA / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no {path}: set CHAINRULE_DATA to the folder of data sets")
    with np.load(path, allow_pickle=False) as file:
        return file["train"], file["test"]


def rows_of(data: str, n_rows: int) -> tuple[Array, Array]:
    """Rows spread over the test set, and how often each column is 1."""
    if data == "half-ones":
        return np.random.default_rng(0).integers(0, 2, (n_rows, 784), np.uint8), np.full(784, 0.5)
    train, test = load({"mnist": "mnist_binary", "mnist-centre": "mnist_binary", "connect4": "uci_connect4"}[data])
    if data == "mnist-centre":  # 8 x 8
        train, test = (a.reshape(-1, 28, 28)[:, 10:18, 10:18].reshape(-1, 64) for a in (train, test))
    return test[:: len(test) // n_rows][:n_rows], (train.sum(0) + 0.5) / (len(train) + 1)


@cache
def problem(data: str, n_rows: int, d: int, dtype: str = "float32") -> Problem:
    """W, V, c ~ N(0, 0.05), b the log-odds of the columns' means."""
    x, mean = rows_of(data, n_rows)
    if SMOKE:
        x, mean, d = x[:4, -40:], mean[-40:], 24
    return _problem(np.ascontiguousarray(x), mean, d).astype(dtype)


def random_problem(n_rows: int, n: int, d: int, ones: float = 0.13) -> Problem:
    """Any size: independent bits, as rare as in binarized MNIST."""
    x = (np.random.default_rng(0).random((n_rows, n)) < ones).astype(np.uint8)
    return _problem(x, np.full(n, ones), d).astype("float32")


def _problem(x: Array, mean: Array, d: int) -> Problem:
    rng, n = np.random.default_rng(1), x.shape[1]
    W, V, c = (rng.normal(0, 0.05, shape) for shape in ((n, d), (n, d), d))
    flip = (mean > 0.5).astype(np.uint8)
    rarer = np.where(flip, 1 - mean, mean)
    return Problem(x, flip, W, V, np.log(rarer / (1 - rarer)), c)


@dataclass(frozen=True, eq=False)
class Categories:
    """Rows of codes (a column's commonest value is 0), K values in each column, parameters [n (K - 1), d]."""

    x: Array
    n_values: int
    W: Array
    V: Array
    b: Array
    c: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, variables, hidden units."""
        return *self.x.shape, self.W.shape[1]

    @property
    def parameters(self) -> tuple[Array, Array, Array, Array]:
        return self.W, self.V, self.b, self.c

    def astype(self, dtype: str) -> Categories:
        return replace(self, **{name: getattr(self, name).astype(dtype) for name in "WVbc"})

    def floor(self, *, gradient: bool = False) -> float:
        """Seconds; the state after the last variable is nobody's."""
        rows, _, d = self.shape
        moves = int(np.count_nonzero(self.x[:, :-1]))
        return floors.nade_categorical(rows, len(self.b), d, moves, self.W.dtype.name, gradient=gradient)


def codes_of(data: str) -> tuple[Array, int]:
    """ "dna": 60 nucleotides around a splice junction. "text": windows of 64 characters of Tiny Shakespeare."""
    if data == "dna":
        x = (load("uci_dna")[1].reshape(-1, 60, 3) * np.arange(1, 4, dtype=np.uint8)).sum(-1).astype(np.uint8)
        return x, 4
    path = DATA / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip(f"no {path}: set CHAINRULE_DATA to the folder of data sets")
    symbols, text = np.unique(np.frombuffer(path.read_bytes(), np.uint8), return_inverse=True)
    held_out = text[len(text) * 9 // 10 :]
    return held_out[: len(held_out) // 64 * 64].reshape(-1, 64).astype(np.uint8), len(symbols)


@cache
def categories(data: str, n_rows: int, d: int) -> Categories:
    """W, V, b, c ~ N(0, 0.05)."""
    x, K = codes_of(data)
    if SMOKE:
        x, n_rows, d = x[:, :7], 4, 24
    commonest = np.array([np.argmax(np.bincount(column)) for column in x.T], np.uint8)
    x = np.where(x == commonest, 0, np.where(x == 0, commonest, x)).astype(np.uint8)
    x = np.ascontiguousarray(x[:: len(x) // n_rows][:n_rows])
    rng, logits = np.random.default_rng(1), x.shape[1] * (K - 1)
    W, V, b, c = (rng.normal(0, 0.05, shape).astype("float32") for shape in ((logits, d), (logits, d), logits, d))
    return Categories(x, K, W, V, b, c)
