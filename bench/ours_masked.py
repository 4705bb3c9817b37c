"""chainrule's side of the masked benchmarks: the kernels alone, and the models as training calls them."""

from __future__ import annotations

from typing import Any

import numpy as np
from chainrule import kernels, random
from chainrule.fit import Optimizer

from bench import threads
from bench.problems import Array
from bench.problems_masked import Problem, Product, batches

RATE = 1e-3


class Products:
    """One layer's three products, W a plain matrix (packing included) or in panels."""

    def __init__(self, product: Product, *, panels: bool = False) -> None:
        self.x, self.dy, self.W, self.b = product.arrays().values()
        self.product, self.panels = product, panels
        self.gradient = np.zeros_like(self.W)
        if panels:
            self.W, self.gradient = kernels.to_panels(self.W), kernels.to_panels(self.gradient)
        mask = kernels.Mask(product.live) if product.masked else kernels.Mask.dense(product.n_in, product.n_out)
        self.options: dict[str, Any] = {"mask": mask, "n_threads": threads.COUNT}
        self.y, self.dx = np.empty_like(self.dy), np.empty_like(self.x)

    def forward(self) -> Array:
        return kernels.masked_linear(self.x, self.W, self.b, out=self.y, **self.options)

    def to_input(self) -> Array:
        return kernels.masked_linear_input_gradient(self.dy, self.W, out=self.dx, **self.options)

    def to_weights(self) -> Array:
        return kernels.masked_linear_weight_gradient(self.x, self.dy, dW=self.gradient, **self.options)

    def matrix(self, result: Array) -> Array:
        """A result as a plain matrix."""
        return kernels.from_panels(result, self.product.n_out) if result.ndim == 3 else result


class Training:
    """Steps of training as `fit` takes them, without its shuffling."""

    def __init__(self, problem: Problem, dtype: str = "float32") -> None:
        self.model = problem.copy(dtype)
        self.optimizer = Optimizer(self.model.parameters_, "adam", live=self.model._live(), n_threads=threads.COUNT)
        self.gradient = self.optimizer.gradient()
        self.batches = batches(problem)

    def step(self) -> Array:
        """The batch's log-likelihoods before the step."""
        log_prob = self.model._gradient(next(self.batches), self.gradient, step=self.optimizer.updates)
        self.optimizer.step(self.gradient, RATE)
        return log_prob


class Model:
    """A fitted model, with its checks of the input."""

    def __init__(self, problem: Problem) -> None:
        self.model, self.X = problem.model, problem.batches[0]

    def score(self) -> Array:
        return self.model.score_samples(self.X)

    def sample(self) -> Array:
        return self.draw(random.uniform_rows((1, 2), 0, *self.X.shape, n_threads=threads.COUNT))

    def draw(self, u: Array) -> Array:
        """Rows from uniforms, natural order: ``x = 1`` where ``u >= p(x = 0)``."""
        return self.model._draw(u)


class Kernels(Model):
    """The score of a MADE by its kernel alone, into memory that outlives the call."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.network = self.model._scorer(self.model._network(0))
        self.log_prob = np.empty(len(self.X))

    def score(self) -> Array:
        return kernels.masked_score(self.X, self.network, out=self.log_prob, n_threads=threads.COUNT)
