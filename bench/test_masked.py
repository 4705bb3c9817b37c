"""Masked layers, and MADE and FVSBN made of them, beside PyTorch and JAX: same rows, weights, threads and precision."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest

from bench import problems_masked, threads
from bench.floors import best_time
from bench.ours_masked import Kernels, Model, Products, Training
from bench.peers_masked import (
    JaxNetwork,
    TorchAutograd,
    TorchLinear,
    TorchManual,
    TorchNetwork,
    TorchPasses,
    TorchProducts,
    TorchRunning,
    TorchTiles,
)
from bench.problems import Array
from bench.problems_masked import Problem, Product
from bench.settings import SMOKE
from bench.turns import Measure, interleaved

SIDES: dict[str, Any] = {
    "chainrule": Products,
    "chainrule-panels": partial(Products, panels=True),
    "torch-addmm": TorchProducts,
    "torch-linear": TorchLinear,
    "chainrule-step": Training,
    "chainrule-model": Model,
    "chainrule-kernels": Kernels,
    "torch": TorchNetwork,
    "torch-tiles": TorchTiles,
    "torch-autograd": TorchAutograd,
    "torch-manual": TorchManual,
    "torch-passes": TorchPasses,
    "torch-running": TorchRunning,
    "jax": JaxNetwork,
}
TOLERANCE = 1e-5  # of log-likelihoods, relative; of products, by their largest value


class Network(NamedTuple):
    hidden: tuple[int, ...]
    rows: int
    n: int = 784
    n_batches: int = 1

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.hidden)) or 'fvsbn'}-{self.n}-{self.rows}"

    @property
    def problem(self) -> Problem:
        return problems_masked.problem(*self)

    def describe(self, side: str, name: str) -> dict[str, str]:
        """Of a run, for the report; `side` without its way when it is ours."""
        problem = self.problem
        rows = len(problem.batches[0])
        size = f"{problem.size}, {rows} row{'s' * (rows > 1)}"
        return {"job": name, "size": size, "side": "chainrule" if side.startswith("chainrule") else side}


@lru_cache(maxsize=4)
def side_of(side: str, job: Any) -> Any:
    return SIDES[side](job.problem if isinstance(job, Network) else job)


def targets(**goals: float) -> dict[str, float] | None:
    """The speed-ups asked for, on two threads; "floor": how many floors it may take."""
    return goals if threads.COUNT == 2 and not SMOKE else None


# ---- one layer

SIZES = [(4, 40, 70)] if SMOKE else [(128, 784, 512), (1024, 784, 512), (128, 2016, 2016)]


class Multiply(NamedTuple):
    name: str
    product: Product
    panels: bool = False

    def __str__(self) -> str:
        return f"{self.name}-{self.product.size}{'-panels' * self.panels}".replace(" ", "")


def multiplies(masked: bool) -> dict[Multiply, tuple[str, ...]]:
    return {
        Multiply(name, Product(*size, masked), panels): (
            "chainrule-panels" if panels else "chainrule",
            "torch-addmm",
            *["torch-linear"] * (name == "forward"),
        )
        for name in ("forward", "to input", "to weights")
        for size in SIZES
        for panels in (False, True)
    }


def multiply(measure: Measure, job: Multiply, side: str, goals: dict[str, float] | None) -> None:
    timed = side_of(side, job.product)
    result = measure(
        getattr(timed, job.name.replace(" ", "_")),
        job=job.name + ", in panels" * job.panels,
        size=job.product.size,
        side="chainrule" if side.startswith("chainrule") else side,
        floor=job.product.floor(),
        targets=goals,
    )
    true, result = job.product.truth(job.name), timed.matrix(result)
    if job.name == "to weights":
        result = result * job.product.live  # the peer has them all
    np.testing.assert_allclose(result, true, rtol=0, atol=TOLERANCE * np.abs(true).max())


@pytest.mark.benchmark(group="masked-linear")
@interleaved(multiplies(masked=True))
def test_masked_linear(measure: Measure, job: Multiply, side: str) -> None:
    multiply(measure, job, side, targets(torch=1.7))


@pytest.mark.benchmark(group="dense-linear")
@interleaved(multiplies(masked=False))
def test_dense_linear(measure: Measure, job: Multiply, side: str) -> None:
    multiply(measure, job, side, targets(torch=0.9))


# ---- training

STEP_SIDES = ("chainrule-step", "torch-autograd", "torch-manual", "jax")


@lru_cache(maxsize=4)
def first_steps(side: str, job: Network) -> list[Array]:
    """Log-likelihoods before each of the first steps, on a fresh copy."""
    fresh = SIDES[side](job.problem)
    return [np.asarray(fresh.step()).copy() for _ in range(3)]


@lru_cache(maxsize=4)
def true_steps(job: Network) -> list[Array]:
    ours = Training(job.problem, "float64")
    return [ours.step() for _ in range(3)]


def train(measure: Measure, job: Network, side: str, name: str, goals: dict[str, float] | None) -> None:
    measure(side_of(side, job).step, **job.describe(side, name), floor=job.problem.floor(step=True), targets=goals)
    found, true = first_steps(side, job), true_steps(job)
    np.testing.assert_allclose(found[0], true[0], rtol=TOLERANCE)
    for later, right in zip(found[1:], true[1:], strict=True):  # Adam divides gradients by their size: noise grows
        np.testing.assert_allclose(later, right, rtol=1e-3)


def training(*jobs: Network) -> pytest.MarkDecorator:
    return interleaved(dict.fromkeys(jobs, STEP_SIDES))


@pytest.mark.benchmark(group="made-train-step")
@training(Network((500,), 100, n_batches=50), Network((2000, 2000), 128, n_batches=20))
def test_made_train_step(measure: Measure, job: Network, side: str) -> None:
    train(measure, job, side, "mnist", targets(torch=3, jax=3))


@pytest.mark.benchmark(group="fvsbn-train-step")
@training(Network((), 100, n_batches=50))
def test_fvsbn_train_step(measure: Measure, job: Network, side: str) -> None:
    train(measure, job, side, "mnist", targets(torch=5, jax=5))


MASKS: dict[str, tuple[dict[str, Any], float | None]] = {
    "fixed": ({}, None),
    "new order": ({"n_masks": None, "resample_masks": "order"}, 1.3),
    "new order and connectivity": ({"n_masks": None, "resample_masks": "both"}, 1.8),
}


@lru_cache(maxsize=3)
def masked_training(masks: str) -> Training:
    options = MASKS[masks][0]
    return Training(problems_masked.problem((500,), 100, n_batches=50, **options))


@pytest.mark.benchmark(group="made-step-masks")
@interleaved(dict.fromkeys(MASKS, ("chainrule",)))
def test_made_step_masks(measure: Measure, job: str, side: str) -> None:
    goal = MASKS[job][1]
    fixed = best_time(masked_training("fixed").step)
    goals = None if goal is None else targets(floor=goal)
    size = Network((500,), 100, n_batches=50).describe(side, job)["size"]
    log_prob = measure(masked_training(job).step, job=job, size=size, side=side, floor=fixed, targets=goals)
    assert np.isfinite(log_prob).all()


# ---- densities


def assert_log_prob(job: Network, log_prob: Any) -> None:
    model, X = job.problem.copy("float64"), job.problem.batches[0]
    np.testing.assert_allclose(np.asarray(log_prob), model.score_samples(X), rtol=TOLERANCE)


MNIST, ONE_ROW = Network((500,), 10_000), Network((100,), 1, 64)


@pytest.mark.benchmark(group="made-score")
@interleaved({MNIST: ("chainrule-model", "torch", "torch-tiles", "jax")})
def test_made_score(measure: Measure, job: Network, side: str) -> None:
    timed, goals = side_of(side, job), targets(torch=3, jax=3)
    assert_log_prob(job, measure(timed.score, **job.describe(side, "mnist"), floor=job.problem.floor(), targets=goals))


@pytest.mark.benchmark(group="made-score")
@pytest.mark.parametrize("ours", ["chainrule-kernels", "chainrule-model"])
@interleaved({ONE_ROW: ("ours", "torch", "jax")})
def test_made_one_row(measure: Measure, job: Network, side: str, ours: str) -> None:
    name = {"chainrule-kernels": "one row, kernels.masked_score", "chainrule-model": "one row, MADE.score_samples"}[
        ours
    ]
    key = ours if side == "ours" else side
    assert_log_prob(job, measure(side_of(key, job).score, **job.describe(key, name)))


# ---- samples

HUNDRED = Network((500,), 100)


@pytest.mark.benchmark(group="made-sample")
@pytest.mark.parametrize("peer", ["torch-passes", "torch-running"])
@interleaved({HUNDRED: ("chainrule-model", "peer")})
def test_made_sample(measure: Measure, job: Network, side: str, peer: str) -> None:
    name = {"torch-passes": "mnist, against a pass a variable", "torch-running": "mnist, against running sums"}[peer]
    goals = targets(torch=300) if peer == "torch-passes" else None
    key = peer if side == "peer" else side
    ours, reference = side_of("chainrule-model", job), job.problem.model.reference_
    floor = job.problem.floor(encoded=ours.sample() ^ reference)
    timed = side_of(key, job)
    measure(timed.sample, **job.describe(key, name), floor=floor, targets=goals)
    # The same uniforms give the same rows, but for one that a rounding error tips over.
    if side == "peer":
        u = np.random.default_rng(2).random(job.problem.batches[0].shape)
        drawn = np.asarray(timed.draw(np.where(reference, 1 - u, u).astype(np.float32)))
        assert (drawn == (ours.draw(u) ^ reference)).all(1).mean() >= 0.95


WIDE = Network((8000, 8000), 1)


@pytest.mark.benchmark(group="made-sample")
@interleaved({WIDE: ("chainrule-model",)})
def test_wide_sample(measure: Measure, job: Network, side: str) -> None:
    ours = side_of(side, job)
    forward = best_time(ours.score)
    row = measure(ours.sample, **job.describe(side, "one row"), floor=forward, targets=targets(floor=2))
    assert set(np.unique(row)) <= {0, 1}


# ---- small problems

SMALL = [Network((100,), batch, n, 2) for n, batch in ((16, 1), (16, 100), (64, 10), (128, 1), (128, 100))]


@pytest.mark.benchmark(group="made-small")
@training(*SMALL)
def test_small_train_step(measure: Measure, job: Network, side: str) -> None:
    train(measure, job, side, "train step", None)


@pytest.mark.benchmark(group="made-small")
@interleaved(dict.fromkeys(SMALL, ("chainrule-model", "torch", "jax")))
def test_small_score(measure: Measure, job: Network, side: str) -> None:
    log_prob = measure(side_of(side, job).score, **job.describe(side, "score"), floor=job.problem.floor())
    assert_log_prob(job, log_prob)
