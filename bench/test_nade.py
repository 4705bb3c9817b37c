"""NADE's three kernels beside PyTorch and JAX: same rows, same weights, same threads, results asserted equal."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from bench import problems, threads
from bench.ours import Chainrule, ChainruleCategories, Model
from bench.peers import JaxScan, TorchCategories, TorchCumsum, TorchLoop
from bench.problems import Categories, Problem
from bench.settings import SMOKE
from bench.turns import Measure, interleaved

SIDES: dict[str, type] = {
    "chainrule": Chainrule,
    "chainrule-model": Model,
    "torch-loop": TorchLoop,
    "torch-cumsum": TorchCumsum,
    "jax-scan": JaxScan,
}
TOLERANCE = {"float32": (1e-5, 1e-4), "float64": (1e-10, 1e-9)}  # of log-likelihoods; of gradients, by their maximum


class Job(NamedTuple):
    data: str
    rows: int
    hidden: int
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.data}-{self.dtype}"

    @property
    def problem(self) -> Problem:
        return problems.problem(*self)

    def describe(self, side: str, name: str = "") -> dict[str, str]:
        rows, n, d = self.problem.shape
        size = f"{rows} x {n} x {d}" + (", float64" if self.dtype == "float64" else "")
        return {"job": name or self.data, "size": size, "side": side}


MNIST, HALF = Job("mnist", 100, 500), Job("half-ones", 100, 500)
MNIST64, CONNECT4, ONE_ROW = MNIST._replace(dtype="float64"), Job("connect4", 100, 100), Job("mnist-centre", 1, 100)
TORCH = ("torch-loop", "torch-cumsum")
ALL = ("chainrule", *TORCH, "jax-scan")


@lru_cache(maxsize=5)
def side_of(side: str, job: Job) -> Any:
    return SIDES[side](job.problem)


@cache
def exact(job: Job) -> Any:
    """Log-likelihoods and gradients in float64."""
    log_prob, gradients = Chainrule(job.problem.astype("float64")).gradient()
    return log_prob.copy(), [g.copy() for g in gradients]


def targets(job: Job, goals: dict[Job, tuple[float, float]]) -> dict[str, float] | None:
    """The speed-ups asked for, on two threads."""
    asked = threads.COUNT == 2 and job in goals and not SMOKE
    return dict(zip(("torch", "jax"), goals[job], strict=True)) if asked else None


def assert_log_prob(job: Job, log_prob: Any) -> None:
    np.testing.assert_allclose(np.asarray(log_prob), exact(job)[0], rtol=TOLERANCE[job.dtype][0])


@pytest.mark.benchmark(group="nade-score")
@interleaved({MNIST: ALL, HALF: ALL, MNIST64: ("chainrule", *TORCH)})
def test_score(measure: Measure, job: Job, side: str) -> None:
    log_prob = measure(
        side_of(side, job).score,
        **job.describe(side),
        floor=job.problem.floor(),
        targets=targets(job, {MNIST: (30, 15)}),
    )
    assert_log_prob(job, log_prob)


@pytest.mark.benchmark(group="nade-gradient")
@interleaved({MNIST: ALL, HALF: ALL, CONNECT4: ALL, MNIST64: ("chainrule", "torch-loop")})
def test_gradient(measure: Measure, job: Job, side: str) -> None:
    log_prob, gradients = measure(
        side_of(side, job).gradient,
        **job.describe(side),
        floor=job.problem.floor(gradient=True),
        targets=targets(job, {MNIST: (40, 30), CONNECT4: (15, 15)}),
    )
    assert_log_prob(job, log_prob)
    for gradient, true in zip(gradients, exact(job)[1], strict=True):
        atol = TOLERANCE[job.dtype][1] * np.abs(true).max()
        np.testing.assert_allclose(np.asarray(gradient), true, rtol=0, atol=atol)


@pytest.mark.benchmark(group="nade-sample")
@interleaved({MNIST: ("chainrule", "torch-loop", "jax-scan")})
def test_sample(measure: Measure, job: Job, side: str) -> None:
    problem, ours = job.problem, side_of("chainrule", job)
    moves = int((ours.sample() ^ problem.flip).sum())
    measure(
        side_of(side, job).sample,
        **job.describe(side),
        floor=problem.floor(moves=moves),
        targets=targets(job, {MNIST: (12, 12)}),
    )
    # The same uniforms give the same rows, but for one that a rounding error tips over.
    u = np.random.default_rng(2).random(problem.x.shape)
    expected = ours.draw(u) ^ problem.flip
    if side != "chainrule":
        encoded = np.where(problem.flip, 1 - u, u).T.astype(problem.dtype, order="C")
        drawn = np.asarray(side_of(side, job).draw(encoded)).T
        assert (drawn == expected).all(1).mean() >= 0.95


@pytest.mark.benchmark(group="one-row-score")
@pytest.mark.parametrize("ours", ["chainrule", "chainrule-model"])
@interleaved({ONE_ROW: ("ours", *TORCH, "jax-scan")})
def test_one_row(measure: Measure, job: Job, side: str, ours: str) -> None:
    name = {"chainrule": "kernels.nade_score", "chainrule-model": "NADE.score_samples"}[ours]
    key, label = (ours, "chainrule") if side == "ours" else (side, side)
    assert_log_prob(job, measure(side_of(key, job).score, **job.describe(label, name)))


class CategoricalJob(NamedTuple):
    data: str
    rows: int
    hidden: int

    def __str__(self) -> str:
        return self.data

    @property
    def problem(self) -> Categories:
        return problems.categories(*self)

    def describe(self, side: str) -> dict[str, str]:
        rows, n, d = self.problem.shape
        return {"job": self.data, "size": f"{rows} x {n} of {self.problem.n_values} values x {d}", "side": side}


DNA, TEXT = CategoricalJob("dna", 100, 500), CategoricalJob("text", 100, 500)
CATEGORICAL_SIDES: dict[str, type] = {"chainrule": ChainruleCategories, "torch-loop": TorchCategories}


@lru_cache(maxsize=4)
def categorical_side(side: str, job: CategoricalJob) -> Any:
    return CATEGORICAL_SIDES[side](job.problem)


@cache
def exact_categories(job: CategoricalJob) -> Any:
    """Log-likelihoods and gradients in float64."""
    log_prob, gradients = ChainruleCategories(job.problem.astype("float64")).gradient()
    return log_prob.copy(), [g.copy() for g in gradients]


@pytest.mark.benchmark(group="nade-categorical-score")
@interleaved({DNA: CATEGORICAL_SIDES, TEXT: CATEGORICAL_SIDES})
def test_categorical_score(measure: Measure, job: CategoricalJob, side: str) -> None:
    log_prob = measure(categorical_side(side, job).score, **job.describe(side), floor=job.problem.floor())
    np.testing.assert_allclose(np.asarray(log_prob), exact_categories(job)[0], rtol=TOLERANCE["float32"][0])


@pytest.mark.benchmark(group="nade-categorical-gradient")
@interleaved({DNA: CATEGORICAL_SIDES, TEXT: CATEGORICAL_SIDES})
def test_categorical_gradient(measure: Measure, job: CategoricalJob, side: str) -> None:
    log_prob, gradients = measure(
        categorical_side(side, job).gradient, **job.describe(side), floor=job.problem.floor(gradient=True)
    )
    np.testing.assert_allclose(np.asarray(log_prob), exact_categories(job)[0], rtol=TOLERANCE["float32"][0])
    for gradient, true in zip(gradients, exact_categories(job)[1], strict=True):
        atol = TOLERANCE["float32"][1] * np.abs(true).max()
        np.testing.assert_allclose(np.asarray(gradient), true, rtol=0, atol=atol)
