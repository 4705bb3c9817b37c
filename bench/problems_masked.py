"""Masked products and masked networks to time: staircase masks, real rows, weights as training begins with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from chainrule import FVSBN, MADE, kernels
from chainrule.fit import Parameters
from chainrule.models.masked import MaskedNetwork

from bench import floors, problems, threads
from bench.problems import Array
from bench.settings import SMOKE


class Product(NamedTuple):
    """``x W``, x (rows, n_in), W (n_in, n_out); masked: output o has the inputs up to its degree, degrees sorted."""

    rows: int
    n_in: int
    n_out: int
    masked: bool = True

    @property
    def size(self) -> str:
        return f"{self.rows} x {self.n_in} x {self.n_out}"

    @property
    def live(self) -> Array:
        degree = np.arange(self.n_out) * self.n_in // self.n_out if self.masked else np.full(self.n_out, self.n_in)
        return np.arange(self.n_in)[:, None] <= degree

    def floor(self) -> float:
        """Seconds for the multiply-adds of the live weights; each of the three products has as many."""
        return self.rows * int(self.live.sum()) / floors.fma_rate("float32")

    def arrays(self) -> dict[str, Array]:
        """x, dy, W (zero where it is not live) and b."""
        return _arrays(self)

    def truth(self, name: str) -> Array:
        """In float64, of a product by name; not live: zero."""
        x, dy, W, b = (a.astype(float) for a in self.arrays().values())
        return {"forward": lambda: x @ W + b, "to input": lambda: dy @ W.T, "to weights": lambda: x.T @ dy * self.live}[
            name
        ]()


@cache
def _arrays(p: Product) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    shapes = {"x": (p.rows, p.n_in), "dy": (p.rows, p.n_out), "W": (p.n_in, p.n_out), "b": (p.n_out,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["W"] *= p.live
    return arrays


@dataclass(frozen=True, eq=False)
class Problem:
    """A model as `fit` begins with it, and the rows to train on or to score, in batches."""

    model: MaskedNetwork
    batches: list[Array]

    @cached_property
    def encoded(self) -> list[Array]:
        """The batches as the network sees them, ``x XOR reference_`` (rarer value = 1), by step of the chain."""
        order = self.model.order_
        return [(X ^ self.model.reference_)[:, order] for X in self.batches]

    @cached_property
    def layers(self) -> list[tuple[Array, Array, Array]]:
        """Of every layer, in turn: the dense matrix (n_in, n_out), its live weights and the bias."""
        p, network = self.model.parameters_, self.model._network(0)
        return [
            (
                kernels.from_panels(p[name], mask.n_out),
                mask.live_array(),
                p["b" + name[1:] if name.startswith("W") else "c"],
            )
            for name, mask in self.model._matrices(network)
        ]

    @property
    def size(self) -> str:
        """Units of every layer."""
        return "-".join(map(str, [self.layers[0][0].shape[0], *(W.shape[1] for W, _, _ in self.layers)]))

    def copy(self, dtype: str = "float32") -> MaskedNetwork:
        """The model with parameters of its own."""
        model = deepcopy(self.model)
        model.dtype, model.parameters_ = dtype, Parameters(self.model.parameters_.shapes, dtype)
        for name, value in self.model.parameters_.items():
            model.parameters_[name][...] = value
        return model

    def floor(self, *, step: bool = False, encoded: Array | None = None) -> float:
        """Seconds to score a batch (the first, or `encoded`), or for a step of training: gradient and Adam.

        Multiply-adds of live weights, a sigmoid a logit; inputs are zeros and ones, so a first layer costs what its
        ones do. The gradient takes each layer's multiply-adds again for its weights, and again for its input unless
        that is the data; Adam a root and a division a live weight. Or bringing the weights and their two moments, if
        that takes longer than all this.
        """
        y = self.encoded[0] if encoded is None else encoded
        fmas, weights = 0.0, 0
        for number, (_, live, b) in enumerate(self.layers):
            forward = float(y.sum(0) @ live.sum(1)) if number == 0 else float(len(y)) * live.sum()
            fmas += forward * (1 if not step else 2 if number == 0 else 3)
            weights += int(live.sum()) + b.size
        seconds = fmas / floors.fma_rate("float32") + y.size / floors.function_rate("sigmoid", "float32")
        if not step:
            return seconds
        arrays = 12 * weights
        return max(seconds + weights / floors.root_and_division_rate(), floors.streaming(arrays, arrays))


def untrained(model: MaskedNetwork, X: Array) -> MaskedNetwork:
    """`model` as `fit` to `X` begins with it; direct weights, which begin at zero, drawn."""
    model._check_options()
    model._initialise(X, None)
    model._remember(X, X)
    for name, mask in model._matrices(model._network(0)):
        if name == "A":
            live = mask.live_array()
            A = np.random.default_rng(1).normal(0, 0.05, live.shape) * live
            model.parameters_[name][...] = kernels.to_panels(A)
    return model


@cache
def problem(hidden: tuple[int, ...], batch: int, n: int = 784, n_batches: int = 1, **options: Any) -> Problem:
    """MADE on binarized MNIST, FVSBN without hidden layers; fewer variables: from the middle of the image."""
    n_batches = 2 if SMOKE and n_batches > 1 else n_batches
    if SMOKE:
        hidden, batch, n = (24,) * len(hidden), min(batch, 4), min(n, 40)
    X = problems.load("mnist_binary")[0][: batch * n_batches]
    middle = (X.shape[1] - n) // 2
    X = np.ascontiguousarray(X[:, middle : middle + n])
    options = {"n_threads": threads.COUNT, "batch_size": batch, "random_state": 0, **options}
    model = untrained(MADE(hidden, **options) if hidden else FVSBN(**options), X)
    return Problem(model, np.split(X, n_batches))


def batches(problem: Problem, convert: Callable[[Array], Any] | None = None) -> Iterator[Any]:
    """The batches without end; for the peers encoded, as float32, each converted once."""
    given = problem.batches
    if convert is not None:
        given = [convert(y.astype(np.float32)) for y in problem.encoded]
    while True:
        yield from given
