"""One step of every optimizer on the parameters of a NADE, 784 x 500."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from chainrule import kernels
from chainrule.fit import OPTIMIZERS, Optimizer, Parameters

from bench import floors, threads
from bench.problems import Array
from bench.settings import SMOKE
from bench.turns import Measure, interleaved

N, D = (20, 10) if SMOKE else (784, 500)
SHAPES = {"W": (N, D), "V": (N, D), "b": (N,), "c": (D,)}
COUNT = 2 * N * D + N + D
RATE, DECAY, AVERAGE = 1e-3, 0.01, 0.999

JOBS: dict[str, tuple[str, dict[str, float]]] = {name: (name, {}) for name in OPTIMIZERS}
JOBS["rmsprop"] = "rmsprop", {"epsilon": 1e-16}  # we add it inside the root, PyTorch its 1e-8 outside
JOBS["adamw"] = "adamw", {"weight_decay": DECAY}
JOBS["adam, averaged"] = "adam", {"average_decay": AVERAGE}
DIVIDES = ("adagrad", "rmsprop", "adadelta", "adam")  # the rules of the kernel with a root and a division
PEERS: dict[str, tuple[str, dict[str, Any]]] = {  # of each job, PyTorch's class and its arguments
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "adagrad": ("Adagrad", {}),
    "rmsprop": ("RMSprop", {"alpha": 0.9}),
    "adadelta": ("Adadelta", {"rho": 0.95}),
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {"weight_decay": DECAY}),
    "adam, averaged": ("Adam", {}),
}
FUSED = ("SGD", "Adagrad", "Adam", "AdamW")
SIDES = {job: ("chainrule", *["torch-fused"] * (PEERS[job][0] in FUSED), "torch-foreach") for job in JOBS}
SIDES["nesterov"] = ("chainrule", "torch-fused")  # the foreach one overwrites the gradient


def arrays(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in SHAPES.items()}


def gradients() -> dict[str, Array]:
    """Nothing near zero, where the place of an epsilon is seen."""
    return {name: value + np.copysign(np.float32(0.01), value) for name, value in arrays(1).items()}


class Ours:
    def __init__(self, job: str, dtype: str = "float32") -> None:
        self.parameters, self.gradient = Parameters(SHAPES, dtype), Parameters(SHAPES, dtype)
        for buffer, values in ((self.parameters, arrays(0)), (self.gradient, gradients())):
            for name, value in values.items():
                buffer[name][...] = value
        name, options = JOBS[job]
        self.optimizer = Optimizer(self.parameters, name, n_threads=threads.COUNT, **options)

    def step(self) -> None:
        self.optimizer.step(self.gradient, RATE)

    def values(self) -> list[Array]:
        """The parameters, and their average where there is one."""
        average = self.optimizer.average
        return [*self.parameters.values(), *(average.values() if average is not None else ())]


class Torch:
    def __init__(self, job: str, way: str) -> None:
        torch = pytest.importorskip("torch")
        torch.set_num_threads(threads.COUNT)
        self.parameters = [torch.tensor(value).requires_grad_() for value in arrays(0).values()]
        for parameter, gradient in zip(self.parameters, gradients().values(), strict=True):
            parameter.grad = torch.tensor(gradient)
        name, options = PEERS[job]
        try:
            self.optimizer = getattr(torch.optim, name)(self.parameters, lr=RATE, **{way: True}, **options)
        except (RuntimeError, TypeError) as error:
            pytest.skip(f"this PyTorch has no {way} {name} for CPUs: {error}")
        self.averages: list[Any] = []
        self.updates = 0
        if "average_decay" in JOBS[job][1]:
            self.averages = [parameter.detach().clone() for parameter in self.parameters]

    def step(self) -> None:
        self.optimizer.step()
        if self.averages:  # torch.optim.swa_utils.get_ema_multi_avg_fn, by the decay of our step
            import torch

            decay = min(AVERAGE, (1 + self.updates) / (10 + self.updates))
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)
            self.updates += 1

    def values(self) -> list[Array]:
        return [tensor.detach().numpy() for tensor in (*self.parameters, *self.averages)]


def made(job: str, side: str) -> Ours | Torch:
    return Ours(job) if side == "chainrule" else Torch(job, side.removeprefix("torch-"))


timed = cache(made)


@cache
def truth(job: str) -> list[Array]:
    """After three steps, in float64."""
    ours = Ours(job, "float64")
    for _ in range(3):
        ours.step()
    return ours.values()


def floor(job: str) -> tuple[float, int]:
    """The least seconds of a step, and the bytes it moves."""
    rule = OPTIMIZERS[JOBS[job][0]][0]
    changed = 1 + kernels.STATES[rule] + ("average_decay" in JOBS[job][1])
    size = 4 * COUNT
    arithmetic = COUNT / floors.root_and_division_rate() if rule in DIVIDES else 0.0
    return max(floors.streaming((1 + changed) * size, (1 + changed) * size), arithmetic), (1 + 2 * changed) * size


@pytest.mark.benchmark(group="optimizers")
@interleaved(SIDES)
def test_optimizers(measure: Measure, job: str, side: str) -> None:
    seconds, moved = floor(job)
    step = timed(job, side).step
    measure(step, job=job, size=f"{COUNT} parameters", side=side, floor=seconds, bytes=moved)
    fresh = made(job, side)
    for _ in range(3):
        fresh.step()
    for value, true in zip(fresh.values(), truth(job), strict=True):
        np.testing.assert_allclose(value, true, rtol=1e-5, atol=1e-7)
