"""What this machine could do at best: rates measured here and now, and the time below which no job can go.

Rates are those of all COUNT threads together. The floor of a NADE job adds its multiply-adds over their rate to its
sigmoids over theirs, since both keep the same arithmetic units busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np
from chainrule import kernels

from bench import threads
from bench.settings import SMOKE


def best_time(call: Callable[[], Any], seconds: float = 0.1) -> float:
    """The shortest of many calls."""
    call()
    best, end = np.inf, time.perf_counter() + (0 if SMOKE else seconds)
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


@cache
def fma_rate(dtype: str) -> float:
    """Multiply-adds a second: the best dense matrix product, of NumPy's BLAS, PyTorch's or ours, over a few sizes."""
    best = 0.0
    for n in (256,) if SMOKE else (512, 1024, 1536):
        a, b, out = (np.ones((n, n), dtype) for _ in range(3))
        panels = {"W": kernels.to_panels(b), "mask": kernels.Mask.dense(n, n), "out": np.empty_like(out)}
        calls: list[Callable[[], Any]] = [
            lambda a=a, b=b, out=out: np.matmul(a, b, out=out),
            partial(kernels.masked_linear, a, **panels, n_threads=threads.COUNT),
        ]
        try:
            import torch

            ta, tb, tout = map(torch.from_numpy, (a, b, out))
            calls.append(lambda a=ta, b=tb, out=tout: torch.mm(a, b, out=out))
        except ImportError:
            pass
        best = max(best, *(n**3 / best_time(call) for call in calls))
    return best


@cache
def function_rate(name: str, dtype: str) -> float:
    """Values of a math function a second, by `chainrule.kernels`: the slope between two sizes that fit the L2 cache, so
    that the cost of a call does not count, on one thread, times COUNT: a thread has its own cache and arithmetic units.
    """
    function = getattr(kernels, name)
    times = []
    for kib in (128, 384):
        x = np.linspace(0.1, 5, kib * 512 // np.dtype(dtype).itemsize).astype(dtype)
        out = np.zeros_like(x)
        times.append((x.size, best_time(partial(function, x, out=out, n_threads=1), 0.3)))
        if not np.allclose(out, 1 / (1 + np.exp(-x)) if name == "sigmoid" else getattr(np, name)(x)):
            raise AssertionError(f"kernels.{name} is wrong")
    (small, t0), (large, t1) = times
    return threads.COUNT * (large - small) / max(t1 - t0, 1e-9)


@cache
def root_and_division_rate() -> float:
    """Elements a second, in float32, of an update with a root and a division (`kernels.optimizer_step`, "rmsprop"):
    measured as in `function_rate`, within the L2 cache.
    """
    times = []
    for kib in (96, 384):
        p, g, s = np.ones((3, kib * 1024 // 12), np.float32)
        step = partial(kernels.optimizer_step, "rmsprop", p, g, s, learning_rate=1e-9, beta2=0.9, n_threads=1)
        times.append((p.size, best_time(step, 0.3)))
    (small, t0), (large, t1) = times
    return threads.COUNT * (large - small) / max(t1 - t0, 1e-9)


@cache
def bandwidth(n_bytes: int) -> float:
    """Bytes a second through a working set of this size (cache or memory, wherever it lives): the best of reading
    (a BLAS dot product) and of copying, each thread its own part.
    """
    a, b = np.ones((2, n_bytes // 8), np.float32)
    parts = list(zip(np.array_split(a, threads.COUNT), np.array_split(b, threads.COUNT), strict=True))
    read = best_time(lambda: np.dot(a, b))
    if threads.COUNT == 1:
        copy = best_time(lambda: np.copyto(a, b))
    else:
        with ThreadPoolExecutor(threads.COUNT) as pool:

            def copies(part: Any) -> None:  # several, so that handing out the work does not count
                for _ in range(20):
                    np.copyto(*part)

            copy = best_time(lambda: list(pool.map(copies, parts))) / 20
    return (a.nbytes + b.nbytes) / min(copy, read)


@cache
def read_bandwidth(n_bytes: int) -> float:
    """Bytes a second read from a buffer of this size again and again (cache or memory, wherever it lives): the best of
    a matrix times a vector, by all threads together and in a part each, and of a BLAS dot product with itself.
    """
    W = np.ones((max(n_bytes // 2048, threads.COUNT), 512), np.float32)
    v, out, flat = np.ones(512, np.float32), np.ones(len(W), np.float32), W.reshape(-1)
    calls: list[Callable[[], Any]] = [lambda: np.matmul(W, v, out=out), lambda: np.dot(flat, flat)]
    try:
        import torch

        tW, tv, tout = map(torch.from_numpy, (W, v, out))
        calls.append(lambda: torch.mv(tW, tv, out=tout))
    except ImportError:
        pass
    times = list(map(best_time, calls))
    if threads.COUNT > 1:
        parts = list(zip(np.array_split(W, threads.COUNT), np.array_split(out, threads.COUNT), strict=True))
        with ThreadPoolExecutor(threads.COUNT) as pool:

            def reads(part: Any) -> None:  # several, so that handing out the work does not count
                for _ in range(50):
                    np.matmul(part[0], v, out=part[1])

            times.append(best_time(lambda: list(pool.map(reads, parts))) / 50)
    return W.nbytes / min(times)


def memory_bandwidth() -> float:
    """Bytes a second read from memory, beyond all caches."""
    return read_bandwidth((5 if SMOKE else 500) * 1000**2)


def nade(rows: int, n: int, d: int, moves: int, dtype: str, *, gradient: bool = False) -> float:
    """Seconds for `rows` rows of n variables and d hidden units, in which the hidden state moves `moves` times.

    Score and sample: rows n d multiply-adds and moves d sigmoids. Gradient: three times the one (V.h, then e h into dV
    and e V into dh) and twice the other (recomputed, not stored).
    """
    fmas, sigmoids = (3, 2) if gradient else (1, 1)
    return fmas * rows * n * d / fma_rate(dtype) + sigmoids * moves * d / function_rate("sigmoid", dtype)


def nade_categorical(rows: int, n_logits: int, d: int, moves: int, dtype: str, *, gradient: bool = False) -> float:
    """The same for n_logits logits a row, and an exponential of each."""
    exponentials = rows * n_logits / function_rate("exp", dtype)
    return nade(rows, n_logits, d, moves, dtype, gradient=gradient) + exponentials


def streaming(n_bytes: int, working_set: int) -> float:
    """Seconds to move `n_bytes` within a working set. Within caches, what is written back where it was read moves for
    nothing: its line leaves the inner cache in any case.
    """
    return n_bytes / bandwidth(working_set)


def adam(count: int) -> float:
    """Seconds for a step on `count` parameters: a root and a division for each, or bringing four arrays, if longer."""
    return max(count / root_and_division_rate(), streaming(16 * count, 16 * count))


def rates() -> Iterator[tuple[str, str]]:
    """The measured rates, for the report."""
    for dtype in ("float32", "float64"):
        yield f"multiply-adds, {dtype}", f"{fma_rate(dtype) / 1e9:.1f} G/s"
        yield f"sigmoids, {dtype}", f"{function_rate('sigmoid', dtype) / 1e9:.2f} G/s"
    yield "updates with root and division, float32", f"{root_and_division_rate() / 1e9:.2f} G/s"
    for kib in (900, 2500):  # the weights of a WaveNet of 32 and of 64 channels
        yield f"reading {kib / 1000:g} MB again and again", f"{read_bandwidth(kib * 1000) / 1e9:.1f} GB/s"
    yield "reading memory", f"{memory_bandwidth() / 1e9:.1f} GB/s"
    yield "bandwidth in 12 MB", f"{bandwidth(12 << 20) / 1e9:.1f} GB/s"
