"""Cost of NADE's score and gradient against variables, hidden units and rows: linear in each, says the paper. Cost of a
sample that WaveNet generates: linear in the layers, the same however many were generated before.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench import problems, problems_wavenet
from bench.ours import Chainrule
from bench.ours_wavenet import Model
from bench.settings import SMOKE
from bench.turns import Measure

BASE = {"rows": 100, "n": 784, "d": 500}
SIZES = {"n": (49, 98, 196, 392, 784, 1568), "d": (32, 64, 125, 250, 500, 1000), "rows": (1, 8, 32, 100, 316, 1000)}


@pytest.mark.benchmark(group="nade-cost")
@pytest.mark.parametrize("job", ["score", "gradient"])
@pytest.mark.parametrize(("axis", "value"), [(a, v) for a, vs in SIZES.items() for v in (vs[:3] if SMOKE else vs)])
def test_cost(measure: Measure, axis: str, value: int, job: str) -> None:
    sizes = ({"rows": 2, "n": 20, "d": 10} if SMOKE else BASE) | {axis: value}
    problem = problems.random_problem(sizes["rows"], sizes["n"], sizes["d"])
    side = Chainrule(problem)
    measure(
        getattr(side, job),
        job=job,
        size=" x ".join(map(str, problem.shape)),
        side="chainrule",
        floor=problem.floor(gradient=job == "gradient"),
        axis=axis,
        value=value,
    )
    assert np.isfinite(side.log_prob).all()


GENERATED = {"layers": (5, 10, 20, 30, 40), "length": (64, 256, 1024, 4096, 16384)}


@pytest.mark.benchmark(group="wavenet-cost")
@pytest.mark.parametrize(("axis", "value"), [(a, v) for a, vs in GENERATED.items() for v in (vs[:3] if SMOKE else vs)])
def test_generation_cost(measure: Measure, axis: str, value: int) -> None:
    sizes = {"layers": 20, "length": 256} | {axis: value}
    length = min(sizes["length"], 8 + sizes["length"] // 64) if SMOKE else sizes["length"]
    problem = problems_wavenet.problem(1000, depth=sizes["layers"])
    model = Model(problem)
    x = measure(
        lambda: model.sample(1, length),
        job="a generated sample",
        size=f"{problem.size}, {length} samples",
        side="chainrule",
        floor=problem.generation_floor(1, length),
        axis=axis,
        value=value,
        per=length,
    )
    assert x.shape == (1, length)
