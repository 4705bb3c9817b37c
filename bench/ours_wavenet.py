"""chainrule's side of the WaveNet benchmarks: the model as training, scoring and sampling call it."""

from __future__ import annotations

from typing import Any

import chainrule
import numpy as np
import pytest
from chainrule.fit import Optimizer

from bench import threads
from bench.problems import Array
from bench.problems_wavenet import Problem

RATE = 1e-3


def model(problem: Problem) -> Any:
    """The model with the problem's parameters."""
    if not hasattr(chainrule, "WaveNet"):
        pytest.skip("chainrule has no WaveNet yet")
    wavenet = chainrule.WaveNet(
        channels=problem.channels,
        skip_channels=problem.skip_channels,
        dilations=problem.dilations,
        n_stacks=1,
        kernel_size=2,
        conditional="mu-law",
        dtype=problem.dtype,
        n_threads=threads.COUNT,
        random_state=0,
    )
    load(wavenet, problem)
    return wavenet


def load(wavenet: Any, problem: Problem) -> None:
    """The problem's dense arrays into `parameters_`; ours has no logit of value 0."""
    X = problem.x[None]
    wavenet._check_options()
    wavenet._initialise(X, None)
    wavenet._remember(X, X)
    for name, value in problem.items():
        for layer, array in enumerate(value if isinstance(value, list) else [value]):
            key = f"{name}_{layer}" if isinstance(value, list) else name
            wavenet.parameters_[key][...] = array[..., 1:] if name.startswith("head2") else array


class Training:
    """Steps of training as `fit` takes them, one row a batch."""

    def __init__(self, problem: Problem) -> None:
        self.model, self.X = model(problem), problem.x[None]
        self.gradient = self.model.parameters_.like()
        self.optimizer = Optimizer(self.model.parameters_, "adam", n_threads=threads.COUNT)

    def step(self) -> Array:
        """The row's log-likelihood before the step."""
        log_prob = self.model._gradient(self.X, self.gradient, step=self.optimizer.updates)
        self.optimizer.step(self.gradient, RATE)
        return np.asarray(log_prob)


class Model:
    """A fitted model, with its checks of the input."""

    def __init__(self, problem: Problem) -> None:
        self.model, self.X = model(problem), problem.x[None]

    def score(self) -> Array:
        return np.asarray(self.model.score_samples(self.X))

    def sample(self, streams: int, length: int) -> Array:
        return np.asarray(self.model.sample(streams, length=length))

    def draw(self, u: Array) -> Array:
        """Codes (streams, length) from uniforms: the smallest v with u < p(x_t <= v)."""
        return np.asarray(self.model._draw(u))
