"""chainrule's side: the kernels, called as the models call them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chainrule import kernels, random
from chainrule.conditionals.categorical import starts
from chainrule.fit.parameters import Parameters

from bench import threads
from bench.problems import Array, Categories, Problem


class Chainrule:
    """The three kernels of NADE on a model's parameter buffer."""

    def __init__(self, problem: Problem) -> None:
        _, n, d = problem.shape
        self.x, self.flip = problem.x, problem.flip
        self.parameters = Parameters({"W": (n, d), "V": (n, d), "b": (n,), "c": (d,)}, problem.dtype)
        for name, value in zip("WVbc", problem.parameters, strict=True):
            self.parameters[name][...] = value
        self.gradients = self.parameters.like()
        self.log_prob = np.empty(len(problem.x))
        self.options: dict[str, Any] = {"flip": self.flip, "n_threads": threads.COUNT}

    def score(self) -> Array:
        return kernels.nade_score(self.x, *self.parameters.values(), out=self.log_prob, **self.options)

    def gradient(self) -> tuple[Array, tuple[Array, ...]]:
        """Log-likelihoods, and the gradient of minus their mean."""
        out = tuple(self.gradients.values())
        return kernels.nade_gradient(self.x, *self.parameters.values(), log_prob=self.log_prob, out=out, **self.options)

    def sample(self) -> Array:
        return self.draw(random.uniform_rows((1, 2), 0, *self.x.shape, n_threads=threads.COUNT))

    def draw(self, u: Array) -> Array:
        """Rows from uniforms: ``x = 1`` where ``u >= p(x = 0)``."""
        return kernels.nade_sample(u, *self.parameters.values(), **self.options)


class Model(Chainrule):
    """The same through `chainrule.NADE`, with its checks of the input."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        chainrule = pytest.importorskip("chainrule")
        if not hasattr(chainrule, "NADE"):
            pytest.skip("chainrule.NADE is not there yet")
        self.model = chainrule.NADE(n_hidden=problem.shape[2], max_epochs=1, n_threads=threads.COUNT).fit(problem.x)
        self.model.flip_ = self.flip
        for name, value in self.parameters.items():
            self.model.parameters_[name][...] = value

    def score(self) -> Array:
        return self.model.score_samples(self.x)


class ChainruleCategories:
    """The kernels of NADE over categories on a model's parameter buffer."""

    def __init__(self, problem: Categories) -> None:
        self.x = problem.x
        self.parameters = Parameters({name: getattr(problem, name).shape for name in "WVbc"}, problem.W.dtype.name)
        for name, value in zip("WVbc", problem.parameters, strict=True):
            self.parameters[name][...] = value
        self.gradients = self.parameters.like()
        self.log_prob = np.empty(len(problem.x))
        first = starts([problem.n_values] * problem.shape[1])
        self.options: dict[str, Any] = {"first": first, "n_threads": threads.COUNT}

    def score(self) -> Array:
        return kernels.nade_categorical_score(self.x, *self.parameters.values(), out=self.log_prob, **self.options)

    def gradient(self) -> tuple[Array, tuple[Array, ...]]:
        """Log-likelihoods, and the gradient of minus their mean."""
        return kernels.nade_categorical_gradient(
            self.x,
            *self.parameters.values(),
            log_prob=self.log_prob,
            out=tuple(self.gradients.values()),
            **self.options,
        )
