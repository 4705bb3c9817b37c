"""The demonstration: NADE on real handwritten digits, every number measured while it runs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import chainrule
from chainrule import datasets, metrics, plots


def rows_per_second(call: Callable[[], Any], n_rows: int, seconds: float = 0.3) -> float:
    """Rows per second of `call`, the median of runs within about `seconds`."""
    call()
    until = time.monotonic() + seconds
    times: list[float] = []
    while time.monotonic() < until or len(times) < 3:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return n_rows / float(np.median(times))


def demo(options: argparse.Namespace) -> int:
    """Fit, score, sample, verify and save a NADE of the 8x8 digits; every number printed is measured here."""
    data = datasets.digits()
    n = data.train.shape[1]
    print(
        f"8x8 handwritten digits, binarized: {len(data.train)} training, {len(data.validation)} validation, "
        f"{len(data.test)} test rows"
    )

    model = chainrule.NADE(
        n_hidden=200, learning_rate=2e-3, batch_size=50, max_epochs=400, patience=15, max_seconds=options.max_seconds,
        random_state=0, verbose=True,
    )  # fmt: skip
    began = time.perf_counter()
    model.fit(data.train, X_val=data.validation)
    seconds = time.perf_counter() - began
    epochs = len(model.history_["epoch"])

    baseline = chainrule.IndependentBernoulli().fit(data.train)
    print(f"\n{model!r}\nfitted in {seconds:.1f} s, {epochs} epochs, stopped by {model.stopped_}\n")
    print(f"{'test log-likelihood':<24}{'nats per image':>18}{'bits per pixel':>18}")
    for name, fitted in (("NADE", model), ("independent pixels", baseline)):
        nats = metrics.held_out(fitted, data.test)
        print(f"{name:<24}{nats!s:>18}{metrics.bits_per_dimension(nats.mean, n):>18.3f}")

    many = np.tile(data.test, (10, 1))
    print(f"\nrows per second on {chainrule.get_num_threads()} thread(s), instruction set {chainrule._kernels.isa}:")
    print(f"  training  {epochs * len(data.train) / seconds:>12,.0f}   (validation and all overhead included)")
    print(f"  scoring   {rows_per_second(lambda: model.score_samples(many), len(many)):>12,.0f}")
    print(f"  sampling  {rows_per_second(lambda: model.sample(3000, random_state=1), 3000):>12,.0f}")

    report = chainrule.verify(model)
    print(f"\nthe laws, on this model:\n{report}\n")
    if not report:
        raise ValueError("a law is broken: please report this with the output of `chainrule versions`")

    options.output.mkdir(parents=True, exist_ok=True)
    model.save(options.output / "digits.safetensors")
    _pictures(model, data, options.output)
    print(f"wrote {options.output}/: digits.safetensors, samples.png, learning_curve.png")
    return 0


def _pictures(model: chainrule.NADE, data: datasets.Split, folder: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    plots.image_grid(model.sample(100, random_state=7), (8, 8), left).set_title("drawn from the model")
    plots.image_grid(data.test[:100], (8, 8), right).set_title("real (test set)")
    figure.savefig(folder / "samples.png", dpi=120)
    plots.learning_curve(model).figure.savefig(folder / "learning_curve.png", dpi=120)
