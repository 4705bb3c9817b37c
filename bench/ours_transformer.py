"""chainrule's side of the Transformer benchmarks: models as training and decoding call them, and attention alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import chainrule
import numpy as np
from chainrule import kernels
from chainrule.fit import Optimizer
from chainrule.models.crops import Crops
from chainrule.models.gpt2 import BLOCK
from safetensors.numpy import save_file

from bench import threads
from bench.problems import Array
from bench.problems_transformer import DECAY, RATE, Problem


def model(problem: Problem) -> Any:
    """The model with the problem's parameters, read from a checkpoint of them."""
    with tempfile.TemporaryDirectory(prefix="chainrule-bench-") as folder:
        path = Path(folder) / "model.safetensors"
        save_file(problem.parameters, path)
        options = {"n_heads": problem.shape.n_heads, "n_threads": threads.COUNT}
        return chainrule.Transformer.from_gpt2(path, start=0, **options)


class Training:
    """Steps of training as `fit` takes them, the windows one batch."""

    def __init__(self, problem: Problem) -> None:
        self.model = m = model(problem)
        rows, steps = problem.targets.shape
        self.X = m._input(list(problem.tokens))
        self.windows = Crops(np.arange(rows), np.ones(rows, np.int64), np.full(rows, steps))
        self.weight = np.full(rows, 1 / (rows * steps))
        self.gradient = m.parameters_.like()
        self.optimizer = Optimizer(
            m.parameters_, "adamw", weight_decay=DECAY, live=m._live(), spared=m._spared(), n_threads=threads.COUNT
        )

    def step(self) -> float:
        """The loss before it, in nats a token."""
        log_prob = self.model._crop_gradient(self.X, self.windows, self.weight, self.gradient)
        self.optimizer.step(self.gradient, RATE)
        return -float((self.weight * log_prob).sum())

    def parameters(self) -> dict[str, Array]:
        """Under GPT-2's names and in its layout."""
        p = self.model.parameters_
        found = {"wpe.weight": p["position"], "ln_f.weight": p["last_norm_gain"], "ln_f.bias": p["last_norm_bias"]}
        found["wte.weight"] = kernels.from_panels(p["token"], self.model.n_values_).T
        for l in range(self.model.n_layers):
            for name, ours in BLOCK.items():
                array = p[ours][l]
                if array.ndim == 3:
                    array = kernels.from_panels(array, p[f"{ours}_bias"].shape[1])
                found[f"h.{l}.{name}"] = array
        return found


class Attention:
    """The kernels, into memory that outlives the call; heads side by side, as models keep them."""

    def __init__(self, arrays: tuple[Array, ...]) -> None:
        self.n_heads, steps, self.size = arrays[0].shape
        self.q, self.k, self.v, self.dy = (
            np.ascontiguousarray(a.transpose(1, 0, 2)).reshape(1, steps, -1) for a in arrays
        )
        self.y, self.dq, self.dk, self.dv = (np.empty_like(self.q) for _ in range(4))
        self.statistics = np.empty((1, self.n_heads, steps), np.float32)

    def run(self) -> tuple[Array, ...]:
        """The result, and the gradients by queries, keys and values: (1, heads, steps, head size) each."""
        options: dict[str, Any] = {"n_heads": self.n_heads, "n_threads": threads.COUNT}
        given = self.q, self.k, self.v
        kernels.attention(*given, out=self.y, statistics=self.statistics, **options)
        found = {"dq": self.dq, "dk": self.dk, "dv": self.dv}
        kernels.attention_gradient(*given, self.y, self.statistics, self.dy, **found, **options)
        results = self.y, self.dq, self.dk, self.dv
        return tuple(a.reshape(1, -1, self.n_heads, self.size).transpose(0, 2, 1, 3) for a in results)


class Decoder:
    """A model, its weights as they are or in fewer bits."""

    def __init__(self, problem: Problem, weights: str = "float32") -> None:
        self.model = model(problem) if weights == "float32" else model(problem).pack(weights)

    def decode(self, prompts: Array, n_tokens: int) -> Array:
        """The most likely tokens."""
        return np.stack(self.model.generate(list(prompts), n_tokens, temperature=0))

    def prefill(self, prompts: Array) -> Array:
        """Logits after the prompts; keys and values are kept."""
        return self.step(prompts, 0, self.model._new_state(*prompts.shape))

    def step(self, tokens: Array, kept: int, caches: Any) -> Array:
        """Logits after new tokens, with `kept` tokens in the caches."""
        last = np.full(len(tokens), tokens.shape[1] - 1, np.uint32)
        return np.asarray(self.model._step(self.model._network(), tokens, kept, caches, last=last))
