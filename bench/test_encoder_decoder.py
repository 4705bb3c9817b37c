"""Encoders and decoders beside PyTorch: training, greedy decoding, beams; on the same pairs, weights and threads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from bench.ours_encoder_decoder import Decoder, Training, fitted, parameters
from bench.peers_encoder_decoder import PackedDecoder, PackedTraining, PaddedDecoder, PaddedTraining
from bench.problems_encoder_decoder import ROWS, SHAPE, problem
from bench.turns import Measure, interleaved

# ---- training

STEPS: dict[str, Any] = {"chainrule": Training, "torch-padded": PaddedTraining, "torch-packed": PackedTraining}


def training_side(side: str, dtype: str = "float32") -> Any:
    """At the start of training."""
    ours, batch = Training(problem("batch")), problem("batch")
    if side == "chainrule":
        return ours
    return STEPS[side](batch, {name: a.astype(dtype) for name, a in parameters(ours.model).items()})


trained_side = lru_cache(maxsize=3)(training_side)


@pytest.mark.benchmark(group="encoder-decoder-train-step")
@interleaved({"number words": STEPS})
def test_encoder_decoder_train_step(measure: Measure, job: str, side: str) -> None:
    count = sum(a.size for a in parameters(trained_side("chainrule").model).values())
    measure(
        trained_side(side).step,
        job=job,
        size=f"{SHAPE}, {ROWS} pairs",
        side=side,
        floor=problem("batch").training_floor(count),
    )


def test_encoder_decoder_first_steps() -> None:
    """Losses before each, all sides next to float64."""
    true = training_side("torch-padded", "float64")
    losses = [true.step() for _ in range(3)]
    for side in map(training_side, STEPS):
        np.testing.assert_allclose([side.step() for _ in range(3)], losses, rtol=1e-5)


# ---- decoding


@lru_cache(maxsize=1)
def decoder() -> Decoder:
    return Decoder(fitted())


DECODERS: dict[str, Any] = {"torch-padded": PaddedDecoder, "torch-packed": PackedDecoder}


@lru_cache(maxsize=2)
def peer(side: str) -> Any:
    return DECODERS[side](problem("new"), parameters(decoder().model))


@pytest.mark.benchmark(group="encoder-decoder-decode")
@interleaved({"greedy": ["chainrule", *DECODERS]})
def test_encoder_decoder_decode(measure: Measure, job: str, side: str) -> None:
    new = problem("new")
    ours = decoder().greedy(new.source)
    found = measure(
        peer(side).greedy if side in DECODERS else lambda: decoder().greedy(new.source),
        job=job,
        size=f"{SHAPE}, {ROWS} sources",
        side=side,
        floor=new.decoding_floor(ours),
    )
    tokens = found if side in DECODERS else new.padded(found)
    assert (tokens == new.padded(ours)).mean() >= 0.9  # but for a rounding error that tips one over, and those after it


@pytest.mark.benchmark(group="encoder-decoder-decode")
@interleaved({"beams of 4": ["chainrule", "greedy"]})
def test_encoder_decoder_beams(measure: Measure, job: str, side: str) -> None:
    """Beside our own greedy decoding, of which four beams may cost four."""
    decode, source = decoder().greedy if side == "greedy" else decoder().beams, problem("new").source
    measure(
        lambda: decode(source),
        job=job,
        size=f"{SHAPE}, {ROWS} sources",
        side=side,
        targets={"greedy": 0.25},
    )
    best = decoder().model.beam_search(source, 4)[1]
    greedy = decoder().model.score_samples(source, decoder().greedy(source))
    assert (best >= greedy).mean() >= 0.9  # a beam may lose what is greedy's
