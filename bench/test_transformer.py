"""Transformers beside PyTorch, JAX, the transformers library and llama.cpp: training, attention, decoding; on the same
tokens, weights and threads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from bench import problems_transformer
from bench.ours_transformer import Attention, Decoder, Training
from bench.peers_transformer import (
    JaxTraining,
    Library,
    LibraryLoop,
    LlamaCpp,
    TorchAttention,
    TorchBlocks,
    TorchTraining,
)
from bench.problems import Array
from bench.settings import SMOKE
from bench.turns import Measure, interleaved

BYTES = {"float32": 4.0, "bf16": 2.0, "int8": 1 + 4 / 256}  # of a weight, with its share of a scale
LLAMA = {"float32": "F32", "bf16": "BF16", "int8": "Q8_0"}
# Of logits, relative to the largest: llama.cpp's GELU is a table of halves; its q8_0 also rounds activations to 8 bits.
ROUNDING = {"float32": 2e-3, "bf16": 0.02, "int8": 0.05}

# ---- training

STEPS: dict[str, Any] = {"chainrule": Training, "torch": TorchTraining, "jax": JaxTraining}


def after_steps(side: Any) -> tuple[list[float], dict[str, Array]]:
    """Losses before each of the first steps, and the parameters after them."""
    return [side.step() for _ in range(3)], side.parameters()


@lru_cache(maxsize=1)
def true_steps() -> tuple[list[float], dict[str, Array]]:
    """In float64."""
    return after_steps(TorchTraining(problems_transformer.training().astype("float64")))


@lru_cache(maxsize=3)
def training_side(side: str) -> Any:
    return STEPS[side](problems_transformer.training())


@pytest.mark.benchmark(group="transformer-train-step")
@interleaved({"characters": STEPS})
def test_transformer_train_step(measure: Measure, job: str, side: str) -> None:
    problem = problems_transformer.training()
    rows, steps = problem.targets.shape
    measure(
        training_side(side).step,
        job=job,
        size=f"{problem.shape}, {rows} x {steps} tokens",
        side=side,
        floor=problem.training_floor(),
        targets={"torch": 1.25, "jax": 1.25},
    )


@pytest.mark.parametrize("side", STEPS)
def test_transformer_first_steps(side: str) -> None:
    """Losses, and parameters on average over all of them: where a gradient is nothing but rounding, as that of the
    biases of keys, AdamW moves as far as anywhere.
    """
    start = problems_transformer.training().parameters
    (found, parameters), (losses, true) = after_steps(STEPS[side](problems_transformer.training())), true_steps()
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    apart = sum(np.abs(parameters[name] - true[name]).sum(dtype=float) for name in true)
    assert apart < 1e-2 * sum(np.abs(true[name] - start[name]).sum(dtype=float) for name in true)


# ---- attention

ATTENTION: dict[str, dict[str, Any]] = {
    "one row": {"chainrule": Attention, "torch": TorchAttention},
    "one row, against blocks": {"chainrule": Attention, "torch": TorchBlocks},
}


@lru_cache(maxsize=4)
def attention_side(job: str, side: str) -> Any:
    return ATTENTION[job][side](problems_transformer.attention_arrays())


@lru_cache(maxsize=1)
def true_attention() -> list[Array]:
    """By whole matrices, in float64."""
    q, k, v, dy = (a.astype(float) for a in problems_transformer.attention_arrays())
    steps, scale = q.shape[1], q.shape[2] ** -0.5
    p = np.exp(np.where(np.tri(steps, dtype=bool), scale * q @ k.swapaxes(1, 2), -np.inf))
    p /= p.sum(2, keepdims=True)
    dp = dy @ v.swapaxes(1, 2)
    ds = scale * p * (dp - (p * dp).sum(2, keepdims=True))
    return [p @ v, ds @ k, ds.swapaxes(1, 2) @ q, p.swapaxes(1, 2) @ dy]


@pytest.mark.benchmark(group="attention")
@interleaved(ATTENTION)
def test_attention(measure: Measure, job: str, side: str) -> None:
    arrays = problems_transformer.attention_arrays()
    heads, steps, size = arrays[0].shape
    found = measure(
        attention_side(job, side).run,
        job=job,
        size=f"{heads} heads of {size}, T = {steps}",
        side=side,
        floor=problems_transformer.attention_floor(arrays),
        targets={"torch": 1.5} if job == "one row" else None,
    )
    for ours, true in zip(found, true_attention(), strict=True):
        np.testing.assert_allclose(np.asarray(ours)[0], true, rtol=0, atol=1e-5 * np.abs(true).max())


# ---- decoding

PROMPT, NEW, LONG = (4, 6, 32) if SMOKE else (16, 64, 512)
OWN = ("float32", "one")  # ours as it is otherwise: the weights in float32, one row


class Decoding(NamedTuple):
    weights: str
    rows: int = 1

    def __str__(self) -> str:
        return self.weights if self.rows == 1 else f"{self.weights}, {self.rows} rows"

    @property
    def prompts(self) -> Array:
        return problems_transformer.decoding(self.rows, PROMPT).tokens

    @property
    def sides(self) -> list[str]:
        """Those of fewer bits also beside our float32, several rows also beside one."""
        own = ["float32"] * (self.weights != "float32") + ["one"] * (self.rows > 1)
        library = ["transformers-generate", "transformers-own loop"] * (self.weights == "float32")
        return ["chainrule", *own, *library, "llama_cpp_python"]


DECODINGS: dict[Decoding, dict[str, float]] = {  # and their targets
    Decoding("float32"): {"transformers": 1.15, "llama_cpp_python": 1.15},
    Decoding("bf16"): {"float32": 1.7},
    Decoding("int8"): {"float32": 3, "llama_cpp_python": 1},
    Decoding("float32", 16): {"one": 9},
}


@lru_cache(maxsize=6)
def decoder(side: str, weights: str, rows: int = 1) -> Any:
    """`rows` of llama.cpp, which keeps keys and values of as many."""
    problem = problems_transformer.decoding()
    if side == "llama_cpp_python":
        return LlamaCpp(problem, LLAMA[weights], rows)
    if side == "chainrule":
        return Decoder(problem, weights)
    return (Library if side == "transformers-generate" else LibraryLoop)(problem)


def decoder_of(side: str, job: Decoding) -> Any:
    if side in OWN:
        return decoder("chainrule", "float32")
    return decoder(side, job.weights, job.rows) if side == "llama_cpp_python" else decoder(side, job.weights)


@pytest.mark.benchmark(group="transformer-decode")
@interleaved({job: job.sides for job in DECODINGS})
def test_transformer_decode(measure: Measure, job: Decoding, side: str) -> None:
    prompts, timed = job.prompts[: 1 if side == "one" else None], decoder_of(side, job)
    tokens = measure(
        lambda: timed.decode(prompts, NEW),
        job=str(job),
        size=f"{problems_transformer.GPT2}, {PROMPT} + {NEW} tokens",
        side=side,
        floor=problems_transformer.decoding().generation_floor(len(prompts), PROMPT, NEW, BYTES[job.weights]),
        targets=DECODINGS[job],
        per=len(prompts) * NEW,
    )
    if job.weights == "float32":  # equal, but for a rounding error that tips one over, and those after it
        assert (tokens == decoder("chainrule", "float32").decode(prompts, NEW)).mean() >= 0.9


@pytest.mark.parametrize(("job", "side"), [(job, side) for job in DECODINGS for side in job.sides if side not in OWN])
def test_transformer_logits(job: Decoding, side: str) -> None:
    """Of all sides after the prompts, next to ours in float32."""
    found, true = (timed.prefill(job.prompts) for timed in (decoder_of(side, job), decoder("chainrule", "float32")))
    tolerance = 1e-5 if side.startswith("transformers") else ROUNDING[job.weights]
    np.testing.assert_allclose(found, true, rtol=0, atol=tolerance * np.abs(true).max())


@pytest.mark.benchmark(group="transformer-prefill")
@interleaved({f"{LONG} tokens": ["chainrule", "transformers", "llama_cpp_python"]})
def test_transformer_prefill(measure: Measure, job: str, side: str) -> None:
    prompts, timed = problems_transformer.decoding(1, LONG).tokens, decoder(side, "float32")
    logits = measure(
        lambda: timed.prefill(prompts),
        job=job,
        size=str(problems_transformer.GPT2),
        side=side,
        floor=problems_transformer.decoding().prefill_floor(1, LONG),
        targets={"transformers": 1.2},
    )
    true = decoder("chainrule", "float32").prefill(prompts)
    np.testing.assert_allclose(logits, true, rtol=0, atol=ROUNDING["float32"] * np.abs(true).max())
