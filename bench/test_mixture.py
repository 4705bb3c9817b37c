"""The discretized mixture of logistics on 16-bit sound, beside PyTorch written out as in PixelCNN++."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from chainrule import kernels

from bench import floors, problems, threads
from bench.peers_masked import pytorch
from bench.problems import Array
from bench.settings import SMOKE
from bench.turns import Measure, interleaved

N, K = 65536, 10  # levels, components
SAMPLES = 50 if SMOKE else 8000
FLOOR = kernels.default_log_scale_min(N)
# Relative: of the log-likelihood of all samples, and of a gradient, of its largest number. PixelCNN++'s form has a mass
# as a difference of sigmoids down to 1e-5, of which float32 keeps two digits, and the density times the width below.
TOLERANCES = {"chainrule": (1e-5, 1e-3), "torch": (1e-3, 3e-2)}


@cache
def problem() -> tuple[Array, Array]:
    """Parameters (SAMPLES, 3 K), float32, and levels of spoken digits: means about them, scales of 2 to 1000 levels."""
    x = problems.load("spoken_digits_8k")[0][:SAMPLES].astype(np.int32) + 32768
    rng = np.random.default_rng(5)
    log_scale = rng.uniform(-9.7, -3.5, (len(x), K))
    mean = (2.0 * x - (N - 1))[:, None] / (N - 1) + rng.logistic(size=(len(x), K)) * np.exp(log_scale)
    return np.concatenate([rng.normal(size=(len(x), K)), mean, log_scale], 1).astype(np.float32), x[:, None]


class Chainrule:
    def __init__(self, parameters: Array, x: Array) -> None:
        self.parameters, self.x = parameters, x
        self.log_prob, self.gradients = np.empty(len(x)), np.empty_like(parameters)

    def score(self) -> Array:
        return kernels.logistic_mixture_log_prob(
            self.parameters, self.x, N, K, out=self.log_prob, n_threads=threads.COUNT
        )

    def gradient(self) -> tuple[Array, Array]:
        return kernels.logistic_mixture_gradient(
            self.parameters, self.x, N, K, log_prob=self.log_prob, out=self.gradients, n_threads=threads.COUNT
        )


class Torch:
    def __init__(self, parameters: Array, x: Array) -> None:
        self.torch = pytorch()
        self.parameters = self.torch.tensor(parameters, requires_grad=True)
        self.x = self.torch.tensor((2.0 * x - (N - 1)) / (N - 1), dtype=self.parameters.dtype)

    def _log_prob(self) -> Any:
        torch, F = self.torch, self.torch.nn.functional
        logit, mean, log_scale = self.parameters.split(K, 1)
        log_scale = log_scale.clamp(min=FLOOR)
        centred, inverse = self.x - mean, torch.exp(-log_scale)
        above, below, middle = inverse * (centred + 1 / (N - 1)), inverse * (centred - 1 / (N - 1)), inverse * centred
        mass = torch.sigmoid(above) - torch.sigmoid(below)
        density = middle - log_scale - 2 * F.softplus(middle)
        inside = torch.where(mass > 1e-5, torch.log(mass.clamp(min=1e-12)), density - np.log((N - 1) / 2))
        each = torch.where(self.x > 1 - 1 / N, -F.softplus(below), inside)
        each = torch.where(self.x < -1 + 1 / N, above - F.softplus(above), each)
        return torch.logsumexp(each + F.log_softmax(logit, 1), 1)

    def score(self) -> Array:
        with self.torch.no_grad():
            return np.asarray(self._log_prob())

    def gradient(self) -> tuple[Array, Array]:
        self.parameters.grad = None
        log_prob = self._log_prob()
        (-log_prob.mean()).backward()
        return log_prob.detach().numpy(), self.parameters.grad.numpy()


SIDES: dict[str, Any] = {"chainrule": Chainrule, "torch": Torch}


@cache
def side_of(side: str) -> Any:
    return SIDES[side](*problem())


@cache
def truth() -> tuple[Array, Array]:
    """In float64."""
    parameters, x = problem()
    found: tuple[Array, Array] = Torch(parameters.astype(float), x).gradient()
    return found


@pytest.mark.benchmark(group="logistic-mixture")
@interleaved(dict.fromkeys(("score", "gradient"), SIDES))
def test_logistic_mixture(measure: Measure, job: str, side: str) -> None:
    floor = SAMPLES * (6 * K / floors.function_rate("exp", "float32") + 1 / floors.function_rate("log", "float32"))
    size = f"{SAMPLES} samples, {K} components, {N} levels"
    found = measure(getattr(side_of(side), job), job=job, size=size, side=side, floor=floor)
    log_prob, gradient = (found, None) if job == "score" else found
    (true, slope), (near, error) = truth(), TOLERANCES[side]
    np.testing.assert_allclose(np.sum(log_prob, dtype=float), true.sum(), rtol=near)
    if gradient is not None:
        assert np.abs(gradient - slope).max() <= error * np.abs(slope).max()
