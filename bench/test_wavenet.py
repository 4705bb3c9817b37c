"""WaveNet beside PyTorch and JAX: training, score and generation on the same codes, weights, threads and precision."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from bench import problems_wavenet, threads
from bench.ours_wavenet import Model, Training
from bench.peers_wavenet import (
    JaxQueues,
    JaxScore,
    JaxTraining,
    TorchChunks,
    TorchConv1d,
    TorchConv1dScore,
    TorchEagerQueues,
    TorchManual,
    TorchOverlapping,
    TorchQueues,
    TorchUsualQueues,
)
from bench.problems import Array
from bench.problems_wavenet import RATE, Problem
from bench.settings import SMOKE
from bench.turns import Measure, interleaved

SIDES: dict[str, dict[str, Any]] = {
    "step": {
        "chainrule": Training,
        "torch-conv1d, autograd": TorchConv1d,
        "torch-written out": TorchManual,
        "jax": JaxTraining,
    },
    "score": {
        "chainrule": Model,
        "torch-overlapping chunks": TorchOverlapping,
        "torch-chunks": TorchChunks,
        "jax": JaxScore,
    },
    "sample": {
        "chainrule": Model,
        "torch-TorchScript": TorchQueues,
        "torch-eager": TorchEagerQueues,
        "jax": JaxQueues,
    },
}
# The same against PyTorch as it is usually written, whatever is faster, with the ratio asked of two threads.
USUAL: dict[str, dict[str, Any]] = {
    "step": {"chainrule": Training, "torch-conv1d, autograd": TorchConv1d},
    "score": {"chainrule": Model, "torch-overlapping chunks, conv1d": TorchConv1dScore},
    "sample": {"chainrule": Model, "torch-queues": TorchUsualQueues},
}
TOLERANCE = 1e-5  # of log-likelihoods, relative


class Network(NamedTuple):
    times: int
    channels: int = 64

    def __str__(self) -> str:
        return f"{self.channels}-{self.times}"

    @property
    def problem(self) -> Problem:
        return problems_wavenet.problem(*self)


class Generation(NamedTuple):
    streams: int
    channels: int
    length: int

    def __str__(self) -> str:
        return f"{self.channels}-{self.streams}x{self.length}"

    @property
    def problem(self) -> Problem:
        return problems_wavenet.problem(1000, self.channels)

    @property
    def uniforms(self) -> Array:
        return np.random.default_rng(2).random((self.streams, self.length))

    @property
    def name(self) -> str:
        return "one stream" if self.streams == 1 else f"{self.streams} streams"

    @property
    def size(self) -> str:
        return f"{self.problem.size}, {self.streams} x {self.length} samples"


@lru_cache(maxsize=4)
def side_of(kind: str, side: str, job: Any) -> Any:
    return (SIDES[kind] | USUAL[kind])[side](job.problem)


def asked(ratio: float) -> dict[str, float] | None:
    return {"torch": ratio} if threads.COUNT > 1 and not SMOKE else None


def total(log_prob: Any) -> float:
    """Of the row, whether by times or whole."""
    return float(np.asarray(log_prob, float).sum())


# ---- training

STEP = Network(8000)


@lru_cache(maxsize=4)
def first_steps(side: str, job: Network, dtype: str = "float32") -> list[float]:
    """Log-likelihoods before each of the first steps, on a fresh copy; the truth is the written-out one in float64."""
    fresh = SIDES["step"][side](job.problem.astype(dtype))
    return [total(fresh.step()) for _ in range(3)]


def train(measure: Measure, job: Network, side: str, name: str, **goals: Any) -> None:
    problem = job.problem
    size = f"{problem.size}, {len(problem.x)} samples"
    measure(side_of("step", side, job).step, job=name, size=size, side=side, floor=problem.floor(step=True), **goals)
    found, true = first_steps(side, job), first_steps("torch-written out", job, "float64")
    np.testing.assert_allclose(found[0], true[0], rtol=TOLERANCE)
    np.testing.assert_allclose(found[1:], true[1:], rtol=1e-3)  # Adam divides gradients by their size: noise grows


@pytest.mark.benchmark(group="wavenet-train-step")
@interleaved({STEP: SIDES["step"]})
def test_wavenet_train_step(measure: Measure, job: Network, side: str) -> None:
    train(measure, job, side, "spoken digits")


@pytest.mark.benchmark(group="wavenet-train-step")
@interleaved({STEP: USUAL["step"]})
def test_wavenet_train_step_conv1d(measure: Measure, job: Network, side: str) -> None:
    train(measure, job, side, "spoken digits, against conv1d", targets=asked(2))


def test_wavenet_training_parity() -> None:
    """Trained as long on the same recording from the same weights, ours and PyTorch's network are as good."""
    problem = Network(4000, 32).problem
    ours, theirs = Training(problem), TorchConv1d(problem)
    for _ in range(5 if SMOKE else 40):
        found, true = total(ours.step()), total(theirs.step())
    np.testing.assert_allclose(found, true, rtol=1e-3)  # as far apart as two ways of PyTorch


# ---- density

SCORE = Network(80_000)


@lru_cache(maxsize=1)
def true_score(job: Network) -> float:
    return total(TorchChunks(job.problem.astype("float64")).score())


def score(measure: Measure, job: Network, side: str, name: str, **goals: Any) -> None:
    problem = job.problem
    size = f"{problem.size}, {len(problem.x)} samples"
    timed = side_of("score", side, job)
    log_prob = measure(timed.score, job=name, size=size, side=side, floor=problem.floor(), **goals)
    np.testing.assert_allclose(total(log_prob), true_score(job), rtol=TOLERANCE)


@pytest.mark.benchmark(group="wavenet-score")
@interleaved({SCORE: SIDES["score"]})
def test_wavenet_score(measure: Measure, job: Network, side: str) -> None:
    score(measure, job, side, "spoken digits")


@pytest.mark.benchmark(group="wavenet-score")
@interleaved({SCORE: USUAL["score"]})
def test_wavenet_score_conv1d(measure: Measure, job: Network, side: str) -> None:
    score(measure, job, side, "spoken digits, against conv1d", targets=asked(2))


# ---- generation

GENERATIONS = [
    Generation(streams, channels, 12 if SMOKE else length)
    for streams, length in ((1, 300), (16, 64))
    for channels in (64, 32)
]
SECOND = Generation(1, 32, 12 if SMOKE else RATE)


@lru_cache(maxsize=4)
def true_codes(job: Generation) -> Array:
    """In float64."""
    return TorchQueues(job.problem.astype("float64")).draw(job.uniforms)


def generate(measure: Measure, job: Generation, side: str, name: str, floor: float, **goals: Any) -> None:
    timed = side_of("sample", side, job)
    measure(lambda: timed.sample(job.streams, job.length), job=name, size=job.size, side=side, floor=floor, **goals)
    # The same uniforms give the same codes, but for a rounding error that tips one over, and those after it.
    assert (timed.draw(job.uniforms) == true_codes(job)).mean() >= 0.9


@pytest.mark.benchmark(group="wavenet-sample")
@interleaved(dict.fromkeys(GENERATIONS, SIDES["sample"]))
def test_wavenet_sample(measure: Measure, job: Generation, side: str) -> None:
    generate(measure, job, side, job.name, job.problem.generation_floor(job.streams, job.length))


@pytest.mark.benchmark(group="wavenet-sample")
@interleaved(dict.fromkeys((GENERATIONS[0], *GENERATIONS[2:]), USUAL["sample"]))
def test_wavenet_sample_queues(measure: Measure, job: Generation, side: str) -> None:
    floor, goals = job.problem.generation_floor(job.streams, job.length), asked(20 if job.streams == 1 else 8)
    generate(measure, job, side, f"{job.name}, against eager queues", floor, targets=goals)


@pytest.mark.skipif(threads.COUNT > 1 and not SMOKE, reason="on one thread")
@pytest.mark.benchmark(group="wavenet-real-time")
@interleaved({SECOND: ("chainrule", "torch-TorchScript", "jax")})
def test_wavenet_real_time(measure: Measure, job: Generation, side: str) -> None:
    goals = None if SMOKE else {"floor": 1}
    generate(measure, job, side, "one stream, one second", job.length / RATE, targets=goals)
