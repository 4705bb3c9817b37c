"""Elementwise functions of a million numbers: chainrule beside PyTorch and NumPy, all into memory given to them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from chainrule import kernels

from bench import floors, threads
from bench.problems import Array
from bench.settings import SMOKE
from bench.turns import Measure, interleaved

N = 1000 if SMOKE else 1_000_000


def numpy_sigmoid(x: Array, out: Array) -> Array:
    np.negative(x, out=out)
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    return np.reciprocal(out, out=out)


def prepared(side: str, job: str, x: Array) -> Callable[[], Any]:
    out = np.zeros_like(x)
    if side == "chainrule":
        return partial(getattr(kernels, job), x, out=out, n_threads=threads.COUNT)
    if side == "numpy":
        return partial(numpy_sigmoid if job == "sigmoid" else getattr(np, job), x, out=out)
    torch = pytest.importorskip("torch")
    torch.set_num_threads(threads.COUNT)
    return partial(getattr(torch, job), torch.from_numpy(x), out=torch.from_numpy(out))


@pytest.mark.benchmark(group="math")
@interleaved(dict.fromkeys(("sigmoid", "exp", "log"), ("chainrule", "torch", "numpy")))
def test_math(measure: Measure, job: str, side: str) -> None:
    x = np.random.default_rng(0).normal(0, 4, N).astype(np.float32)
    x = np.abs(x) + np.float32(1e-3) if job == "log" else x
    arithmetic, traffic = N / floors.function_rate(job, "float32"), floors.streaming(8 * N, working_set=8 * N)
    result = measure(prepared(side, job, x), job=job, size=f"{N} float32", side=side, floor=max(arithmetic, traffic))
    true = x.astype(float)
    true = 1 / (1 + np.exp(-true)) if job == "sigmoid" else getattr(np, job)(true)
    np.testing.assert_allclose(np.asarray(result), true, rtol=1e-6, atol=1e-7)
