"""One thread count a process, and the measurement that every benchmark uses."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from bench import settings, threads
from bench.turns import Measure

if "numpy" in sys.modules and len(threads.allowed()) > threads.COUNT:
    raise RuntimeError("numpy was imported before bench/conftest.py could set its threads")
threads.limit()  # before anything imports a numerical library

BUDGET = 0.25  # seconds for a side, each time it is its turn


@pytest.fixture
def measure(benchmark: Any) -> Measure:
    """``measure(call, job=, size=, side=, floor=seconds, targets={peer: ratio})``: times the call, returns its result.

    `per`: how many of what the report counts a call makes, such as tokens. What the report needs stands in
    `extra_info`: the floor and the fraction of it that was reached, and `cores`, CPU
    time over wall time, which shows how many cores the call really used.
    """

    def run(
        call: Callable[[], Any],
        *,
        job: str,
        size: str,
        side: str,
        floor: float | None = None,
        targets: dict[str, float] | None = None,
        per: int = 1,
        **more: Any,
    ) -> Any:
        call()  # compiles, starts threads, touches memory
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
        rounds = 1 if settings.SMOKE else min(max(int(BUDGET / once), 3 if once < 1 else 1), 2000)
        wall, cpu = time.perf_counter(), time.process_time()
        result = benchmark.pedantic(call, rounds=rounds)
        cores = (time.process_time() - cpu) / (time.perf_counter() - wall)
        benchmark.extra_info.update(job=job, size=size, side=side, threads=threads.COUNT, cores=cores, per=per, **more)
        if targets:
            benchmark.extra_info["targets"] = targets
        if floor is not None:
            benchmark.extra_info["floor_ms"] = floor * 1e3 / per
            if benchmark.stats:
                benchmark.extra_info["fraction"] = floor / benchmark.stats.stats.median
        return result

    return run


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """The rates behind the floors, into the JSON."""
    from bench import floors

    machine_info["rates"] = dict(floors.rates())
