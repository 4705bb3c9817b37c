"""The order of measurements: the sides of a job take turns, so that a slow minute of the machine strikes all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from bench.settings import TURNS

Measure = Callable[..., Any]  # the fixture `measure` of conftest.py


def interleaved(cases: dict[Any, Iterable[str]]) -> pytest.MarkDecorator:
    """Parameters `job` and `side` of a benchmark: job by job, its sides in rotation."""
    return pytest.mark.parametrize(
        ("job", "side"),
        [
            pytest.param(job, side, id=f"{job}-{side}-{turn}")
            for job, sides in cases.items()
            for turn in range(TURNS)
            for side in sides
        ],
    )
