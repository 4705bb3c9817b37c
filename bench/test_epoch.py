"""What training costs beside its kernel: an epoch of `partial_fit` against the gradient kernel alone on its batches."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from chainrule import NADE, kernels

from bench import problems, threads
from bench.floors import best_time
from bench.settings import SMOKE
from bench.turns import Measure, interleaved

ROWS, D, BATCH = (60, 10, 20) if SMOKE else (5000, 500, 100)


@cache
def model() -> tuple[NADE, Any]:
    X = problems.load("mnist_binary")[0][:ROWS]
    nade = NADE(n_hidden=D, batch_size=BATCH, random_state=0, n_threads=threads.COUNT)
    return nade.partial_fit(X), X


def kernel_seconds() -> float:
    """The gradient of every batch, and nothing else."""
    nade, X = model()
    gradient, arrays, options = nade.parameters_.like(), nade._model(), nade._options()
    out = gradient["W"], gradient["V"], gradient["b"], gradient["c"]

    def epoch() -> None:
        for start in range(0, ROWS, BATCH):
            kernels.nade_gradient(X[start : start + BATCH], *arrays, out=out, **options)

    return best_time(epoch, 0.1 if SMOKE else 1.0)


@pytest.mark.benchmark(group="nade-epoch")
@interleaved({"epoch with Adam": ("chainrule",)})
def test_epoch(measure: Measure, job: str, side: str) -> None:
    nade, X = model()
    size = f"{ROWS} MNIST rows, 784 x {D}, batch {BATCH}"
    measure(lambda: nade.partial_fit(X), job=job, size=size, side=side, floor=kernel_seconds())
    assert nade.history_["train"][-1] > nade.history_["train"][0]
