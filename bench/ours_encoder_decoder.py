"""chainrule's side of the encoder-decoder benchmarks: a model as training and decoding call it, and its weights."""

from __future__ import annotations

from typing import Any

import chainrule
import numpy as np
from chainrule import kernels

from bench import threads
from bench.problems import Array
from bench.problems_encoder_decoder import CLIP, DECAY, EPOCHS, RATE, ROWS, SHAPE, Problem, problem


def model() -> Any:
    """With options alone."""
    longest = max(len(x) for part in ("learnt", "new") for x in problem(part).source)
    return chainrule.EncoderDecoder(
        *SHAPE,
        max_source=longest,
        max_target=problem("learnt").longest,
        max_epochs=EPOCHS,
        batch_size=ROWS,
        learning_rate=RATE,
        schedule="cosine",
        warmup=20,
        weight_decay=DECAY,
        clip_norm=CLIP,
        random_state=0,
        n_threads=threads.COUNT,
    )


def fitted() -> Any:
    """To the numbers that are learnt; the same weights on any machine."""
    learnt = problem("learnt")
    return model().fit(learnt.source, learnt.target)


def parameters(model: Any) -> dict[str, Array]:
    """By the names of `parameters_`, those of blocks with the block behind it; matrices (outputs, inputs), tables
    (values, channels).
    """
    p, found = model.parameters_, {}
    values = {"source_token": model.source_.n_values, "token": model.target_.n_values + 1}
    for name, array in p.items():
        if name in values:
            found[name] = kernels.from_panels(array, values[name]).T
        elif array.ndim == 1 or name.endswith("position"):
            found[name] = array
        elif array.ndim == 2:
            found |= {f"{name}.{l}": row for l, row in enumerate(array)}
        else:
            n_out = p[f"{name}_bias"].shape[1]
            found |= {f"{name}.{l}": kernels.from_panels(panels, n_out).T for l, panels in enumerate(array)}
    return {name: np.array(array, order="C") for name, array in found.items()}


class Training:
    """Steps of training as `fit` takes them, on one batch, from the weights it begins with."""

    def __init__(self, batch: Problem) -> None:
        self.model = m = model()
        pairs = m._training_pairs(batch.source, batch.target, False)
        m._initialise(pairs, None)
        self.training, self.rows = m._training(pairs, None), np.arange(len(pairs))

    def step(self) -> float:
        """The loss before it, in nats a step of y."""
        gradient = self.training.gradient
        log_prob = self.training.objective(self.rows, gradient)
        self.training.optimizer.step(gradient, RATE)
        return -float(log_prob.mean())


class Decoder:
    """A fitted model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def greedy(self, source: list[Array]) -> list[Array]:
        """The most likely token at each step."""
        found: list[Array] = self.model.predict(source)
        return found

    def beams(self, source: list[Array]) -> list[Array]:
        """By beams of 4."""
        found: list[Array] = self.model.beam_search(source, 4)[0]
        return found
