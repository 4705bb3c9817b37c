"""The blocks of Transformers: their options, parameters by name, operations for training and arrays for decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from chainrule import kernels, ops, random
from chainrule.fit import Parameters
from chainrule.kernels.masked import PANEL, panels_shape
from chainrule.models.sequence_rows import Array
from chainrule.ops import Tape, Variable
from chainrule.validation import check_int, check_option

Named = dict[str, Variable]
Inside = tuple[Variable, str, str | None]  # what a sublayer's last matrix takes, its name, an activation before it
GELU_FORMS = {"gelu": "tanh", "gelu_exact": "erf"}
DEVIATION = 0.02  # of initial weights, and the size of sinusoidal positions


def check_blocks(model: Any) -> None:
    """The options that models of blocks share."""
    for name in ("n_layers", "n_heads", "width"):
        check_int(name, getattr(model, name), 1)
    if model.n_hidden is not None:
        check_int("n_hidden", model.n_hidden, 1)
    if model.width % model.n_heads:
        raise ValueError(f"width must be a multiple of n_heads = {model.n_heads}, not {model.width}")
    check_option("norm", model.norm, ("pre", "post"))
    check_option("positions", model.positions, ("learned", "sinusoidal"))
    check_option("activation", model.activation, (*GELU_FORMS, "relu"))
    if not 0 <= model.dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, not {model.dropout!r}")


@dataclass(frozen=True)
class Stack:
    """Blocks one after the other, and the norm after the last where norms come first.

    A block has two sublayers, attention and a perceptron, each with its norm; with `cross` a third between them, which
    attends to another sequence.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    width: int
    n_hidden: int
    activation: str
    norm: str
    cross: bool = False
    prefix: str = ""  # of the parameters' names

    @property
    def _matrices(self) -> dict[str, tuple[int, int]]:
        C, kept = self.width, 2 * self.n_kv_heads * (self.width // self.n_heads)
        own = {
            "query_key_value": (C, C + kept),
            "projection": (C, C),
            "up": (C, self.n_hidden),
            "down": (self.n_hidden, C),
        }
        other = {"cross_query": (C, C), "cross_key_value": (C, kept), "cross_projection": (C, C)}
        return own | other if self.cross else own

    @property
    def _norms(self) -> tuple[str, ...]:
        return ("norm", "mlp_norm", "cross_norm") if self.cross else ("norm", "mlp_norm")

    # ---- parameters

    @property
    def matrices(self) -> list[str]:
        """Names of what decays."""
        return [self.prefix + name for name in self._matrices]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every parameter; matrices in panels of 32 outputs, those of all blocks side by side."""
        L, C, named = self.n_layers, self.width, self._matrices
        shapes: dict[str, tuple[int, ...]] = {name: (L, *panels_shape(*sizes)) for name, sizes in named.items()}
        shapes |= {name + "_bias": (L, n_out) for name, (_, n_out) in named.items()}
        for name in self._norms:
            shapes |= {name + "_gain": (L, C), name + "_bias": (L, C)}
        if self.norm == "pre":
            shapes |= {"last_norm_gain": (C,), "last_norm_bias": (C,)}
        return {self.prefix + name: shape for name, shape in shapes.items()}

    def fill(self, parameters: Parameters, drawn: Drawn) -> None:
        """Initial weights; those of the residual connections smaller by the root of their number, as in GPT-2."""
        residual = 1.0 / float(np.sqrt(float(len(self._norms) * self.n_layers)))
        for l in range(self.n_layers):
            for name, sizes in self._matrices.items():
                scale = residual if name in ("projection", "cross_projection", "down") else 1.0
                parameters[self.prefix + name][l] = kernels.to_panels(drawn(*sizes, scale))
        for name in self.shapes():
            if name.endswith("_gain"):
                parameters[name][...] = 1

    def _block(self, p: Mapping[str, list[Variable]], l: int) -> Named:
        names = [*self._matrices, *(name + "_bias" for name in self._matrices)]
        names += [norm + part for norm in self._norms for part in ("_gain", "_bias")]
        return {name: p[self.prefix + name][l] for name in names}

    # ---- for training

    def run(
        self,
        tape: Tape,
        p: Mapping[str, list[Variable]],
        h: Variable,
        drop: Dropout,
        *,
        lengths: Array | None = None,
        seen: tuple[list[Variable], Array] | None = None,
    ) -> Variable:
        """The result of all blocks on h, (rows, steps, width).

        p: `variables`. Attention is causal, or with `lengths`, uint32 (rows,), to the first steps of each row. seen:
        what `looked_at` gave, and how many of its steps each row has.
        """
        for l in range(self.n_layers):
            q = self._block(p, l)
            h = self._sublayer(tape, q, "norm", drop, partial(self._attended, tape, q, lengths), h)
            if seen is not None:
                h = self._sublayer(tape, q, "cross_norm", drop, partial(self._crossed, tape, q, seen[0][l], seen[1]), h)
            h = self._sublayer(tape, q, "mlp_norm", drop, partial(self._perceived, tape, q), h)
        if self.norm == "pre":
            gain, bias = (p[self.prefix + "last_norm" + part][0] for part in ("_gain", "_bias"))
            h = ops.layer_norm(tape, h, gain, bias)
        return h

    def looked_at(self, tape: Tape, p: Mapping[str, list[Variable]], memory: Variable) -> list[Variable]:
        """Keys and values, side by side, that each block's cross-attention has of `memory` (rows, steps, width)."""
        names = self.prefix + "cross_key_value", self.prefix + "cross_key_value_bias"
        each = zip(*(p[name] for name in names), strict=True)
        return [ops.linear(tape, memory, W, b, len(b.array)) for W, b in each]

    def _sublayer(
        self, tape: Tape, q: Named, norm: str, drop: Dropout, f: Callable[[Variable], Inside], x: Variable
    ) -> Variable:
        """With its norm and its residual; `f` gives all but the product with its last matrix."""
        gain, bias, before = q[norm + "_gain"], q[norm + "_bias"], self.norm == "pre"
        hidden, matrix, after = f(ops.layer_norm(tape, x, gain, bias) if before else x)
        W, b = q[matrix], q[matrix + "_bias"]
        if drop.rate:
            y = drop(ops.linear(tape, hidden, W, b, self.width, after=after), x)
        else:
            y = ops.linear(tape, hidden, W, b, self.width, addend=x, after=after)
        return y if before else ops.layer_norm(tape, y, gain, bias)

    def _attended(self, tape: Tape, q: Named, lengths: Array | None, x: Variable) -> Inside:
        b = q["query_key_value_bias"]
        qkv = ops.linear(tape, x, q["query_key_value"], b, len(b.array))
        return ops.attention(tape, qkv, self.n_heads, self.n_kv_heads, lengths=lengths), "projection", None

    def _crossed(self, tape: Tape, q: Named, kv: Variable, lengths: Array, x: Variable) -> Inside:
        query = ops.linear(tape, x, q["cross_query"], q["cross_query_bias"], self.width)
        y = ops.cross_attention(tape, query, kv, self.n_heads, self.n_kv_heads, lengths=lengths)
        return y, "cross_projection", None

    def _perceived(self, tape: Tape, q: Named, x: Variable) -> Inside:
        b, relu = q["up_bias"], "relu" if self.activation == "relu" else None
        hidden = ops.linear(tape, x, q["up"], b, len(b.array), relu)
        return hidden if relu else ops.gelu(tape, hidden, GELU_FORMS[self.activation]), "down", relu

    # ---- for scoring and drawing

    def network(
        self,
        parameters: Parameters,
        token: kernels.Weights,
        output: kernels.Weights,
        position: Array,
        *,
        format: str = "float32",
    ) -> kernels.TransformerNetwork:
        """What `kernels.transformer_step` takes."""

        def pair(name: str, l: int) -> tuple[Array, Array]:
            return parameters[f"{self.prefix}{name}_gain"][l], parameters[f"{self.prefix}{name}_bias"][l]

        def matrix(name: str, l: int) -> kernels.Weights:
            b = parameters[f"{self.prefix}{name}_bias"][l]
            return kernels.pack(parameters[self.prefix + name][l], len(b), b, format=format)

        def block(l: int) -> kernels.TransformerBlock:
            attended = matrix("query_key_value", l), matrix("projection", l)
            cross: tuple[Any, Any, Any] = None, None, None
            if self.cross:
                cross = pair("cross_norm", l), matrix("cross_query", l), matrix("cross_projection", l)
            return kernels.TransformerBlock(
                pair("norm", l), *attended, *cross, pair("mlp_norm", l), matrix("up", l), matrix("down", l)
            )

        last = (
            (parameters[self.prefix + "last_norm_gain"], parameters[self.prefix + "last_norm_bias"])
            if self.norm == "pre"
            else None
        )
        return kernels.TransformerNetwork(
            [block(l) for l in range(self.n_layers)],
            token,
            output,
            position,
            last,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            activation=self.activation,
            post_norm=self.norm == "post",
        )

    def new_state(self, n_rows: int, capacity: int, dtype: Any) -> list[kernels.Cache]:
        """Empty caches, one a block."""
        size = self.width // self.n_heads
        return [kernels.new_cache(n_rows, self.n_kv_heads, size, capacity, dtype) for _ in range(self.n_layers)]

    def caches_of(self, seen: list[Variable]) -> list[kernels.Cache]:
        """What `looked_at` gave, as cross-attention over kept steps takes it."""
        H, d = self.n_kv_heads, self.width // self.n_heads
        made = []
        for kv in seen:
            rows, steps, _ = kv.array.shape
            cache = kernels.new_cache(rows, H, d, steps, kv.array.dtype)
            both, panels = kv.array.reshape(rows, steps, 2, H, d), cache.keys.shape[2]
            whole = np.zeros((rows, panels * PANEL, H, d), kv.array.dtype)
            whole[:, :steps] = both[:, :, 0]
            cache.keys[...] = whole.reshape(rows, panels, PANEL, H, d).transpose(0, 3, 1, 4, 2)
            cache.values[..., :d] = both[:, :, 1].transpose(0, 2, 1, 3)
            made.append(cache)
        return made


def variables(
    parameters: Parameters, gradient: Parameters | None, stacks: Iterable[Stack]
) -> dict[str, list[Variable]]:
    """Every parameter with its gradient; those of blocks block by block."""
    of_blocks = {name for stack in stacks for name, shape in stack.shapes().items() if len(shape) > 1}
    made = {}
    for name, array in parameters.items():
        to = None if gradient is None else gradient[name]
        if name in of_blocks:
            made[name] = [Variable(array[l], None if to is None else to[l]) for l in range(len(array))]
        else:
            made[name] = [Variable(array, to)]
    return made


class Drawn:
    """Initial matrices, one after the other, of deviation 0.02 and uniform: as GPT-2's, but for their distribution."""

    def __init__(self, random_state: Any) -> None:
        self.key, self.row = random.key_of(random_state, random.WEIGHTS), 0

    def __call__(self, n_in: int, n_out: int, scale: float = 1.0) -> Array:
        """The next one, (n_in, n_out)."""
        u = random.uniform_rows(self.key, self.row, n_in, n_out)
        self.row += n_in
        return (2 * u - 1) * (scale * DEVIATION * float(np.sqrt(3.0)))


class Dropout:
    """Drops channels of one array after the other; masks depend on (seed, update, place) alone."""

    def __init__(self, tape: Tape, rate: float = 0.0, seed: int = 0, update: int = 0) -> None:
        self.tape, self.rate = tape, rate
        if rate:
            self.key, self.block = random.key_of(seed, random.DROPOUT), update << 40

    def __call__(self, x: Variable, addend: Variable | None = None) -> Variable:
        """The next array, in place, and the addend added; as it is without a rate."""
        if not self.rate:
            return x
        block = self.block
        self.block += -(-x.array.size // 16)
        return ops.dropout(self.tape, x, self.rate, self.key, block, addend)


@lru_cache(maxsize=4)
def sinusoids(n_steps: int, width: int, dtype: str) -> Array:
    """``P[t, 2i] = 0.02 sin(t / 10000^(2i / width))`` and cosines beside them: as large as the initial tokens."""
    log = float(kernels.log(np.array([10000.0]))[0])
    rates = kernels.exp(np.arange(0, width, 2) * (-log / width))
    angles = np.arange(n_steps)[:, None] * rates
    both = np.stack([kernels.sin(angles), kernels.cos(angles)], axis=2).reshape(n_steps, -1)[:, :width]
    table = np.ascontiguousarray(DEVIATION * both, dtype)
    table.setflags(write=False)
    return table
