"""chainrule's side of the WaveNet benchmarks: the model as training, scoring and sampling call it."""

from __future__ import annotations

from typing import Any

import chainrule
import numpy as np
from chainrule import kernels
from chainrule.fit import Optimizer
from chainrule.kernels.wavenet import gate_order

from bench import threads
from bench.problems import Array
from bench.problems_wavenet import VALUES, Problem

RATE = 1e-3


def model(problem: Problem) -> Any:
    """The model with the problem's parameters."""
    wavenet = chainrule.WaveNet(
        channels=problem.channels,
        skip_channels=problem.skip_channels,
        dilations=problem.dilations,
        n_stacks=1,
        conditional="categorical",
        n_values=VALUES,
        dtype=problem.dtype,
        n_threads=threads.COUNT,
        random_state=0,
    )
    wavenet.fit(problem.x[:2], callbacks=[lambda _: True])  # shapes; an epoch of two steps
    load(wavenet.parameters_, problem)
    return wavenet


def load(ours: Any, problem: Problem) -> None:
    """The problem's dense arrays into panels; ours has no logit of value 0."""
    p, order = problem.parameters, gate_order(problem.channels)
    for l, W in enumerate(p["filter_gate"]):
        ours["filter_gate"][l] = kernels.gate_panels(W)
        ours["filter_gate_bias"][l] = np.where(order >= 0, p["filter_gate_bias"][l][order], 0)
        for name in ("residual", "skip"):
            if l < len(p[name]):
                ours[name][l] = kernels.to_panels(p[name][l])
                ours[f"{name}_bias"][l] = p[f"{name}_bias"][l]
    ours["input"][...] = kernels.to_panels(p["embedding"])
    ours["head"][...] = kernels.to_panels(p["head1"])
    ours["head_bias"][...] = p["head1_bias"]
    ours["output"][...] = kernels.to_panels(np.ascontiguousarray(p["head2"][:, 1:]))
    ours["output_bias"][...] = p["head2_bias"][1:]


class Training:
    """Steps of training as `fit` takes them, one row a batch."""

    def __init__(self, problem: Problem) -> None:
        self.model = model(problem)
        self.X = self.model._input(problem.x)
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
        state, start = self.model._new_state(len(u)), np.full(len(u), -1, np.int32)
        parts = self.model._generate(
            lambda step, n: np.ascontiguousarray(u[:, step : step + n]),
            start,
            state,
            lambda *_: None,
            0,
            u.shape[1],
            u.shape[1],
            1.0,
        )
        return np.concatenate(list(parts), axis=1)
