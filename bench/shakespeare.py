"""The small character model, trained by chainrule and by PyTorch: ``python -m bench.shakespeare``.

nanoGPT's recipe for a laptop: 4 blocks of width 128 with 4 heads, windows of 64 characters, 12 a batch, AdamW under a
warm-up and a cosine; it publishes 1.88 nats a character on the last tenth of the text after 2000 updates, here 2500.
Both sides start from the same weights, get the same windows and the same learning rates, and are measured alike: mean
nats over the whole validation text in windows that start anew. They take turns, some updates each, so that a busy
minute of the machine strikes both; measuring is not in the seconds. The curves go to bench/records/, from where
``python -m bench.published`` takes them for its page.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any, Protocol

from bench import threads

if __name__ == "__main__":
    threads.limit()  # before anything imports a numerical library

import numpy as np
from chainrule.fit.optimizer import Optimizer
from chainrule.fit.schedules import cosine
from chainrule.models.crops import Crops

from bench.ours_transformer import model
from bench.peers_transformer import TorchTraining
from bench.problems import Array
from bench.problems_transformer import DECAY, RATE, Problem, Shape, shakespeare
from bench.settings import ROOT

MARK = 1.88
SHAPE = Shape(4, 4, 128, 64, 65)
ROWS, WARMUP, LAST, BETA2 = 12, 100, 0.1, 0.99
TURN = 50  # updates
RECORD = ROOT / "bench" / "records" / "shakespeare.json"


class Side(Protocol):
    """A library with the model in training."""

    def update(self, starts: Array, rate: float) -> float:
        """Trains on the windows from `starts` on; the loss before, in nats a character."""
        ...

    def validated(self) -> float:
        """Mean nats a character over the validation text, each window of which sees the character before it."""
        ...


class Ours:
    def __init__(self, problem: Problem, train: Array, validation: Array) -> None:
        self.model = m = model(problem)
        self.X, self.validation = m._input([train]), m._input([validation[1:]])
        m.start_ = int(validation[0])  # what stands before
        self.gradient, self.optimizer = (
            m.parameters_.like(),
            Optimizer(
                m.parameters_, "adamw", beta2=BETA2, weight_decay=DECAY, clip_norm=1.0, live=m._live(),
                spared=m._spared(), n_threads=threads.COUNT,
            ),
        )  # fmt: skip

    def update(self, starts: Array, rate: float) -> float:
        n, T = len(starts), SHAPE.context_length
        windows, weight = Crops(np.zeros(n, np.int64), starts, np.full(n, T)), np.full(n, 1 / (n * T))
        log_prob = self.model._crop_gradient(self.X, windows, weight, self.gradient)
        self.optimizer.step(self.gradient, rate)
        return -float((weight * log_prob).sum())

    def validated(self) -> float:
        return -float(self.model._mean(self.validation))


class PyTorch(TorchTraining):
    def __init__(self, problem: Problem, train: Array, validation: Array) -> None:
        super().__init__(problem)
        self.train, self.validation = train, validation
        for group in self.optimizer.param_groups:
            group["betas"] = (0.9, BETA2)

    def take(self, tokens: Array) -> None:
        whole = self.torch.from_numpy(tokens.astype(np.int64))
        self.x, self.t = whole[:, :-1], whole[:, 1:].contiguous()

    def loss(self, **how: Any) -> Any:
        return self.torch.nn.functional.cross_entropy(self.logits(), self.t.view(-1), **how)

    def update(self, starts: Array, rate: float) -> float:
        self.take(self.train[starts[:, None] + np.arange(-1, SHAPE.context_length)])
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.p.values(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def validated(self) -> float:
        T, total = SHAPE.context_length, 0.0
        whole = (len(self.validation) - 1) // T
        rows = self.validation[np.arange(whole)[:, None] * T + np.arange(T + 1)]
        with self.torch.inference_mode():
            for low in range(0, whole, 64):
                self.take(rows[low : low + 64])
                total += float(self.loss(reduction="sum"))
            position, rest = self.p["wpe.weight"], self.validation[whole * T :]
            if len(rest) > 1:
                self.p["wpe.weight"] = position[: len(rest) - 1]
                self.take(rest[None])
                total += float(self.loss(reduction="sum"))
                self.p["wpe.weight"] = position
        return total / (len(self.validation) - 1)


def start() -> dict[str, Array]:
    """Initial weights under GPT-2's names: normal, those that end a sublayer smaller."""
    rng, C = np.random.default_rng(0), SHAPE.width

    def normal(*sizes: int, scale: float = 0.02) -> Array:
        return rng.standard_normal(sizes, np.float32) * np.float32(scale)

    found = {"wte.weight": normal(SHAPE.n_values, C), "wpe.weight": normal(SHAPE.context_length, C)}
    norms = ["ln_f"]
    for l in range(SHAPE.n_layers):
        norms += [f"h.{l}.ln_1", f"h.{l}.ln_2"]
        for name, n_in, n_out in (
            ("attn.c_attn", 1, 3),
            ("attn.c_proj", 1, 1),
            ("mlp.c_fc", 1, 4),
            ("mlp.c_proj", 4, 1),
        ):
            scale = 0.02 / np.sqrt(2 * SHAPE.n_layers) if name.endswith("c_proj") else 0.02
            found[f"h.{l}.{name}.weight"] = normal(n_in * C, n_out * C, scale=scale)
            found[f"h.{l}.{name}.bias"] = np.zeros(n_out * C, np.float32)
    for name in norms:
        found |= {f"{name}.weight": np.ones(C, np.float32), f"{name}.bias": np.zeros(C, np.float32)}
    return found


def rate_of(update: int, n_updates: int) -> float:
    """A straight line up, then half a cosine down to a tenth."""
    down = LAST + (1 - LAST) * cosine(max(update - WARMUP, 0), max(n_updates - WARMUP, 1))
    return RATE * min((update + 1) / WARMUP, 1.0) * down


def reached(curve: list[dict[str, float]], nats: float) -> float | None:
    """Seconds after which a curve was down to `nats`, in a straight line between two measurements."""
    for before, after in itertools.pairwise(curve):
        if after["nats"] <= nats < before["nats"]:
            share = (before["nats"] - nats) / (before["nats"] - after["nats"])
            return before["seconds"] + share * (after["seconds"] - before["seconds"])
    return None


def race(n_updates: int, every: int) -> tuple[dict[str, list[dict[str, float]]], dict[str, float]]:
    """Nats after seconds of training, by side; nats of our model at the end with weights of fewer bits."""
    text = shakespeare()
    train, validation = text[: len(text) * 9 // 10], text[len(text) * 9 // 10 - 1 :]
    problem = Problem(SHAPE, text[None, : SHAPE.context_length + 1], start())
    ours = Ours(problem, train, validation)
    sides: dict[str, Side] = {"Ours": ours, "PyTorch": PyTorch(problem, train, validation)}
    curves: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    wall, cpu = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0.0)
    rng = np.random.default_rng(1)

    def measured(update: int) -> None:
        for name, side in sides.items():
            point = {"update": update, "seconds": wall[name], "cpu_seconds": cpu[name], "nats": side.validated()}
            curves[name].append(point)
        said = "".join(f"{c[-1]['nats']:9.4f} {c[-1]['seconds']:8.1f} s" for c in curves.values())
        print(f"{update:8}{said}", flush=True)

    print(f"{'update':>8}" + "".join(f"{name:>20}" for name in sides))
    measured(0)
    for low in range(0, n_updates, TURN):
        starts = rng.integers(1, len(train) - SHAPE.context_length, (TURN, ROWS))
        rates = [rate_of(low + k, n_updates) for k in range(TURN)]
        losses = []
        for name, side in sides.items():
            began, spent = time.perf_counter(), time.process_time()
            losses.append([side.update(*batch) for batch in zip(starts, rates, strict=True)])
            wall[name] += time.perf_counter() - began
            cpu[name] += time.process_time() - spent
        if not low:
            np.testing.assert_allclose(*losses, rtol=1e-3)  # the same function, until rounding has grown
        if (low + TURN) % every == 0:
            measured(low + TURN)
    return curves, {name: -float(ours.model.pack(name)._mean(ours.validation)) for name in ("bf16", "int8")}


def main() -> None:
    """Train both, print, keep the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=2500)
    parser.add_argument("--every", type=int, default=250, help="updates from one measurement to the next (%(default)s)")
    options = parser.parse_args()
    curves, packed = race(options.updates, options.every)
    seconds = {name: reached(curve, MARK) for name, curve in curves.items()}
    for name, curve in curves.items():
        when = "not reached" if seconds[name] is None else f"after {seconds[name]:.1f} s"
        last = curve[-1]
        print(
            f"{name}: {MARK} nats {when}; {last['nats']:.4f} after {last['update']} updates, {last['seconds']:.1f} s "
            f"({last['cpu_seconds']:.1f} s of CPU time)"
        )
    print("Ours with weights in " + ", ".join(f"{name}: {nats:.4f}" for name, nats in packed.items()))
    RECORD.write_text(
        json.dumps({"threads": threads.COUNT, "seconds": seconds, "curves": curves, "packed": packed}, indent=1)
    )


if __name__ == "__main__":
    main()
