"""Cost of NADE's score and gradient against variables, hidden units and rows: linear in each, says the paper. Cost of a
sample that WaveNet generates: linear in the layers, the same however many were generated before. Cost of a token that a
Transformer decodes: a straight line over the tokens before it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from bench import problems, problems_transformer, problems_wavenet
from bench.ours import Chainrule
from bench.ours_transformer import Decoder
from bench.ours_wavenet import Model
from bench.problems_transformer import Shape
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


DECODED = {
    "gpt2": (problems_transformer.GPT2, (16, 128, 256, 384, 512, 640, 768, 896, 1016)),
    "long": (Shape(4, 2, 128, 8192, 256), (64, 1024, 2048, 3072, 4096, 5120, 6144, 7168, 8184)),
}


@pytest.mark.benchmark(group="transformer-cost")
@pytest.mark.parametrize(
    ("axis", "value"), [(a, v) for a, (_, vs) in DECODED.items() for v in (vs[:2] if SMOKE else vs)]
)
def test_decoding_cost(measure: Measure, axis: str, value: int) -> None:
    shape = DECODED[axis][0]
    problem = problems_transformer.decoding(1, value, shape)
    model = decoder(shape)
    caches = model.model._new_state(1, shape.context_length)
    token = model.step(problem.tokens, 0, caches).argmax(1).astype(np.int32)[:, None]

    def tokens() -> None:  # the last places of the cache, again and again
        for place in range(value, value + 8):
            model.step(token, place, caches)

    measure(
        tokens,
        job="a decoded token",
        size=f"{shape}, after {value} tokens",
        side="chainrule",
        floor=8 * problem.decoding_floor(1, value),
        axis=axis,
        value=value,
        per=8,
    )


@cache
def decoder(shape: Shape) -> Decoder:
    return Decoder(problems_transformer.decoding(shape=shape))
