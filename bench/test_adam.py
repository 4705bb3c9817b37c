"""One step of Adam on the parameters of a NADE, 784 x 500."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from chainrule.fit import Optimizer, Parameters

from bench import floors, threads
from bench.problems import Array
from bench.settings import SMOKE
from bench.turns import Measure, interleaved

N, D = (20, 10) if SMOKE else (784, 500)
SHAPES = {"W": (N, D), "V": (N, D), "b": (N,), "c": (D,)}
COUNT = 2 * N * D + N + D


def arrays(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in SHAPES.items()}


class Ours:
    def __init__(self) -> None:
        self.parameters, self.gradient = Parameters(SHAPES, "float32"), Parameters(SHAPES, "float32")
        for buffer, values in ((self.parameters, arrays(0)), (self.gradient, arrays(1))):
            for name, value in values.items():
                buffer[name][...] = value
        self.adam = Optimizer(self.parameters, "adam", n_threads=threads.COUNT)

    def step(self) -> None:
        self.adam.step(self.gradient, 1e-3)

    def values(self) -> list[Array]:
        return list(self.parameters.values())


class Torch:
    """The fused implementation where this PyTorch has one for CPUs, else the one over lists of tensors."""

    def __init__(self) -> None:
        torch = pytest.importorskip("torch")
        torch.set_num_threads(threads.COUNT)
        self.parameters = [torch.tensor(value).requires_grad_() for value in arrays(0).values()]
        for parameter, gradient in zip(self.parameters, arrays(1).values(), strict=True):
            parameter.grad = torch.tensor(gradient)
        try:
            self.step = torch.optim.Adam(self.parameters, fused=True).step
            self.step()
        except RuntimeError:
            self.step = torch.optim.Adam(self.parameters, foreach=True).step
        else:  # undo the trial
            with torch.no_grad():
                for parameter, value in zip(self.parameters, arrays(0).values(), strict=True):
                    parameter.copy_(torch.tensor(value))
            self.step = torch.optim.Adam(self.parameters, fused=True).step

    def values(self) -> list[Array]:
        return [parameter.detach().numpy() for parameter in self.parameters]


def after(steps: int) -> list[Array]:
    """Adam by the paper, in float64."""
    p, g = ([value.astype(float) for value in arrays(seed).values()] for seed in (0, 1))
    for t in range(1, steps + 1):
        for pi, gi in zip(p, g, strict=True):
            m, v = (1 - 0.9**t) * gi, (1 - 0.999**t) * gi**2  # the moments of a constant gradient
            pi -= 1e-3 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p


@cache
def timed(side: str) -> Any:
    return {"chainrule": Ours, "torch": Torch}[side]()


@pytest.mark.benchmark(group="adam")
@interleaved({"step": ("chainrule", "torch")})
def test_adam(measure: Measure, job: str, side: str) -> None:
    measure(
        timed(side).step,
        job=job,
        size=f"{COUNT} parameters",
        side=side,
        floor=floors.streaming(7 * 4 * COUNT, working_set=4 * 4 * COUNT),  # reads p, g, m, v; writes p, m, v
    )
    fresh = type(timed(side))()
    for _ in range(3):
        fresh.step()
    for value, true in zip(fresh.values(), after(3), strict=True):
        np.testing.assert_allclose(value, true, rtol=1e-5, atol=1e-7)
