"""Transformers to train and to decode with: characters of Shakespeare, GPT-2's shape, random weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from bench import floors
from bench.problems import Array
from bench.settings import DATA, SMOKE


class Shape(NamedTuple):
    """Of a decoder: blocks, heads, width (the hidden units are four times as many), context length, values."""

    n_layers: int
    n_heads: int
    width: int
    context_length: int
    n_values: int

    def __str__(self) -> str:
        return f"{self.n_layers} layers, width {self.width}, {self.n_heads} heads"


RATE, DECAY = 1e-3, 0.1  # of AdamW; matrices and tables decay, biases and norms do not
CHARACTERS = Shape(2, 2, 32, 16, 65) if SMOKE else Shape(6, 6, 384, 256, 65)
GPT2 = Shape(2, 2, 64, 256, 500) if SMOKE else Shape(12, 12, 768, 1024, 50257)


@dataclass(frozen=True, eq=False)
class Problem:
    """Tokens (rows, steps), and parameters as GPT-2's checkpoint names them: matrices (inputs, outputs), queries, keys
    and values side by side in `attn.c_attn`; `wte.weight` is the output matrix as well.
    """

    shape: Shape
    tokens: Array
    parameters: dict[str, Array]

    @property
    def dtype(self) -> str:
        return str(self.parameters["wte.weight"].dtype)

    @property
    def inputs(self) -> Array:
        return np.ascontiguousarray(self.tokens[:, :-1])

    @property
    def targets(self) -> Array:
        return np.ascontiguousarray(self.tokens[:, 1:])

    def astype(self, dtype: str) -> Problem:
        return replace(self, parameters={name: a.astype(dtype) for name, a in self.parameters.items()})

    def multiply_adds(self, steps: int, seen: float, outputs: int) -> float:
        """Of `steps` new steps that see `seen` steps on average, and logits of `outputs` of them."""
        s = self.shape
        return s.n_layers * steps * (12 * s.width**2 + 2 * seen * s.width) + outputs * s.width * s.n_values

    def functions(self, steps: int, seen: float) -> float:
        """A tanh for every hidden unit, an exponential for every head and step seen."""
        s = self.shape
        return s.n_layers * steps * (4 * s.width + seen * s.n_heads)

    def weight_bytes(self, bytes_a_weight: float = 4) -> float:
        """Of the matrices that a decoded token reads; the table is read as the output matrix."""
        s = self.shape
        return bytes_a_weight * (s.n_layers * 12 * s.width**2 + s.width * s.n_values)

    def cache_bytes(self, length: int) -> float:
        """Of the keys and values of `length` steps, in float32."""
        return 8.0 * self.shape.n_layers * self.shape.width * length

    def _arithmetic(self, rows: int, steps: int, seen: float, outputs: int, passes: int = 1) -> float:
        fmas = passes * rows * self.multiply_adds(steps, seen, outputs) / floors.fma_rate(self.dtype)
        return fmas + rows * self.functions(steps, seen) / floors.function_rate("tanh", self.dtype)

    def training_floor(self) -> float:
        """Seconds of a step: three times the multiply-adds, functions and an exponential a logit once, and Adam."""
        rows, steps = self.targets.shape
        exponentials = rows * steps * self.shape.n_values / floors.function_rate("exp", self.dtype)
        count = sum(a.size for a in self.parameters.values())
        return self._arithmetic(rows, steps, (steps + 1) / 2, steps, 3) + exponentials + floors.adam(count)

    def prefill_floor(self, rows: int, steps: int) -> float:
        """Seconds to take in the prompts, logits of the last token only."""
        return self._arithmetic(rows, steps, (steps + 1) / 2, 1)

    def decoding_floor(self, rows: int, length: int, bytes_a_weight: float = 4) -> float:
        """Seconds for a token of each row after `length` steps: the longer of its arithmetic and of reading."""
        n_bytes = self.weight_bytes(bytes_a_weight) + rows * self.cache_bytes(length)
        return max(self._arithmetic(rows, 1, length + 1, 1), n_bytes / floors.memory_bandwidth())

    def generation_floor(self, rows: int, prompt: int, n_tokens: int, bytes_a_weight: float = 4) -> float:
        """Seconds for `n_tokens` of each row after a prompt; its last step gives the first of them."""
        first = max(self.prefill_floor(rows, prompt), self.decoding_floor(rows, 0, bytes_a_weight))
        steps = range(prompt, prompt + n_tokens - 1)
        return first + sum(self.decoding_floor(rows, length, bytes_a_weight) for length in steps)


def parameters(shape: Shape, scale: float, rng: np.random.Generator) -> dict[str, Array]:
    """Normal with standard deviation `scale`, gains and biases too, around 1 and 0."""
    C = shape.width

    def normal(*sizes: int) -> Array:
        return rng.standard_normal(sizes, np.float32) * np.float32(scale)

    found = {"wte.weight": normal(shape.n_values, C), "wpe.weight": normal(shape.context_length, C)}

    def norm(name: str) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = 1 + normal(C), normal(C)

    for l in range(shape.n_layers):
        for name, n_in, n_out in (
            ("attn.c_attn", 1, 3),
            ("attn.c_proj", 1, 1),
            ("mlp.c_fc", 1, 4),
            ("mlp.c_proj", 4, 1),
        ):
            if name.endswith(("c_attn", "c_fc")):
                norm(f"h.{l}.ln_1" if name == "attn.c_attn" else f"h.{l}.ln_2")
            found[f"h.{l}.{name}.weight"], found[f"h.{l}.{name}.bias"] = normal(n_in * C, n_out * C), normal(n_out * C)
    norm("ln_f")
    return found


@cache
def shakespeare() -> Array:
    """The text as numbers of its sorted characters."""
    path = DATA / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip(f"no {path}: set CHAINRULE_DATA to the folder of data sets")
    return np.unique(np.frombuffer(path.read_bytes(), np.uint8), return_inverse=True)[1].astype(np.int32)


@cache
def training(rows: int = 12) -> Problem:
    """Windows of the text, drawn at random, at the start of training."""
    rng, text, steps = np.random.default_rng(1), shakespeare(), CHARACTERS.context_length + 1
    starts = rng.integers(0, len(text) - steps, rows)
    tokens = np.stack([text[a : a + steps] for a in starts])
    return Problem(CHARACTERS, tokens, parameters(CHARACTERS, 0.02, rng))


@cache
def decoding(rows: int = 1, steps: int = 16, shape: Shape = GPT2) -> Problem:
    """Prompts of random tokens. Weights are large enough for the most likely token to change from step to step."""
    rng = np.random.default_rng(2)
    weights = decoding(shape=shape).parameters if (rows, steps) != (1, 16) else parameters(shape, 0.02, rng)
    return Problem(shape, rng.integers(0, shape.n_values, (rows, steps), np.int32), weights)


@cache
def attention_arrays(heads: int = 12, steps: int = 1024, head_size: int = 64) -> tuple[Array, ...]:
    """Queries, keys, values and the gradient by the result, (heads, steps, head_size) each."""
    if SMOKE:
        heads, steps, head_size = 2, 40, 16
    return tuple(np.random.default_rng(3).standard_normal((4, heads, steps, head_size), np.float32))


def attention_floor(arrays: tuple[Any, ...]) -> float:
    """Seconds: two products forwards, four backwards over the causal half, and an exponential a pair of steps."""
    heads, steps, head_size = arrays[0].shape
    pairs = heads * steps * (steps + 1) / 2
    return pairs * (6 * head_size / floors.fma_rate("float32") + 1 / floors.function_rate("exp", "float32"))
