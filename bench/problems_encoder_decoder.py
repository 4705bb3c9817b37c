"""Sequences given sequences: number words to digits, the task and the network of examples/number_words.py."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from bench import floors
from bench.problems import Array
from bench.settings import ROOT, SMOKE


class Shape(NamedTuple):
    """Blocks of the encoder and of the decoder each, heads, width (the hidden units are four times as many)."""

    n_layers: int
    n_heads: int
    width: int

    def __str__(self) -> str:
        return f"{self.n_layers} + {self.n_layers} layers, width {self.width}, {self.n_heads} heads"


SHAPE = Shape(1, 2, 16) if SMOKE else Shape(2, 4, 64)
ROWS = 8 if SMOKE else 64  # of a batch, and of what is decoded at once
LEARNT = 100 if SMOKE else 2000  # numbers that the decoded network was fitted to
EPOCHS = 1 if SMOKE else 6
RATE, DECAY, CLIP = 2e-3, 0.1, 1.0  # of AdamW; matrices and tables decay, biases and norms do not


@dataclass(frozen=True, eq=False)
class Problem:
    """Codes of each x and of each y, and how many there are; `longest`: of y, which is at its end then."""

    source: list[Array]
    target: list[Array]
    n_source: int
    n_target: int
    longest: int

    @property
    def sources(self) -> tuple[Array, Array]:
        """x side by side, 0 behind their ends, and where there is one: (rows, steps) each."""
        lengths = np.array([len(x) for x in self.source])
        real = np.arange(lengths.max()) < lengths[:, None]
        codes = np.zeros(real.shape, np.int64)
        codes[real] = np.concatenate(self.source)
        return codes, real

    def padded(self, target: list[Array]) -> Array:
        """Steps of y side by side, the end from its end on: (rows, `longest`)."""
        codes = np.full((len(target), self.longest), self.n_target, np.int64)
        for to, y in zip(codes, target, strict=True):
            to[: len(y)] = y
        return codes

    def steps(self, target: list[Array]) -> Array:
        """Of each y, its end included, which is no step of the longest."""
        return np.minimum([len(y) + 1 for y in target], self.longest)

    def _seconds(self, target: list[Array], passes: int) -> float:
        """Of the arithmetic of real steps: multiply-adds so often; a tanh for every hidden unit and an exponential for
        every head and step seen once.
        """
        (L, H, C), V = SHAPE, self.n_target + 1
        S, T = np.array([len(x) for x in self.source], float), self.steps(target).astype(float)
        seen = (S * S + T * (T + 1) / 2 + T * S).sum()
        products = (12 * C * C * S + 2 * C * C * S + (12 + 2) * C * C * T).sum() + 2 * C * seen
        fmas = L * products + T.sum() * C * V
        functions = L * (4 * C * (S + T).sum() + H * seen)
        return passes * fmas / floors.fma_rate("float32") + functions / floors.function_rate("tanh", "float32")

    def training_floor(self, count: int) -> float:
        """Seconds of a step on `count` parameters: three times the multiply-adds, an exponential a logit, and Adam."""
        exponentials = self.steps(self.target).sum() * (self.n_target + 1) / floors.function_rate("exp", "float32")
        return self._seconds(self.target, 3) + exponentials + floors.adam(count)

    def decoding_floor(self, target: list[Array]) -> float:
        """Seconds to write these."""
        return self._seconds(target, 1)


@cache
def texts() -> tuple[list[str], list[str]]:
    """Numbers in words and in digits."""
    example = runpy.run_path(str(ROOT / "examples" / "number_words.py"))
    found = example["numbers"](LEARNT + ROWS, seed=0)
    return [example["words"](n) for n in found], [str(n) for n in found]


def coded(side: list[str]) -> tuple[list[Array], int]:
    """Codes of characters, and their number."""
    known = sorted(set("".join(side)))
    code: dict[str, Any] = {character: i for i, character in enumerate(known)}
    return [np.array([code[character] for character in text], np.int32) for text in side], len(known)


@cache
def problem(part: str) -> Problem:
    """ "learnt": what is fitted; "batch": the first of it; "new": as many that are held out."""
    (source, n_source), (target, n_target) = map(coded, texts())
    rows = {"learnt": slice(LEARNT), "batch": slice(ROWS), "new": slice(LEARNT, None)}[part]
    return Problem(source[rows], target[rows], n_source, n_target, max(map(len, target)))
