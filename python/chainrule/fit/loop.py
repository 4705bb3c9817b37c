"""The training loop: minibatches in a seeded order, early stopping on held-out likelihood, the best parameters kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.fit.adam import Adam
from chainrule.fit.parameters import Parameters
from chainrule.fit.progress import Progress, logger
from chainrule.random import Key, permutation

Objective = Callable[[npt.NDArray[np.intp], Parameters], npt.NDArray[np.float64]]


def ordered_sum(x: npt.NDArray[np.float64]) -> float:
    """The sum of a vector from first to last: `np.sum` adds in an order that depends on the CPU."""
    return float(np.add.accumulate(x)[-1]) if x.size else 0.0


def train(
    objective: Objective,
    parameters: Parameters,
    optimizer: Adam,
    n_rows: int,
    *,
    validate: Callable[[], float] | None,
    batch_size: int,
    max_epochs: int,
    patience: int,
    max_seconds: float | None,
    shuffle: Key,
    verbose: bool,
) -> tuple[dict[str, list[Any]], str]:
    """Maximise the mean log-likelihood of `n_rows` rows.

    ``objective(rows, gradient)`` fills the gradient of minus the mean log-likelihood of those rows and returns their
    log-likelihoods; ``validate()`` is the held-out mean. With it, training stops after `patience` epochs without a new
    best, and the parameters of the best epoch are left in `parameters`; without it the last ones are. Ctrl-C and
    `max_seconds` end training in good order, with the best so far.

    Returns the history (per epoch: number, mean train log-likelihood while it ran, validation, seconds since the
    start; nats) and why training stopped: "max_epochs", "patience", "max_seconds" or "interrupted".
    """
    history: dict[str, list[Any]] = {"epoch": [], "train": [], "validation": [], "seconds": []}
    gradient, best, best_score, best_epoch = parameters.like(), parameters.copy(), -np.inf, 0
    progress, began, stopped = Progress(n_rows * max_epochs, verbose), time.monotonic(), "max_epochs"

    def out_of_time() -> bool:
        return max_seconds is not None and time.monotonic() - began > max_seconds

    try:
        for epoch in range(1, max_epochs + 1):
            order, total, seen = permutation(shuffle, epoch, n_rows), 0.0, 0
            for start in range(0, n_rows, batch_size):
                rows = order[start : start + batch_size]
                total += ordered_sum(objective(rows, gradient))
                seen += len(rows)
                optimizer.step(gradient)
                progress.rows(len(rows))
                if out_of_time():
                    break
            score = validate() if validate else None
            history["epoch"].append(epoch)
            history["train"].append(total / seen)
            history["validation"].append(score)
            history["seconds"].append(time.monotonic() - began)
            progress.epoch(epoch, total / seen, score)
            if not np.isfinite(total):
                raise FloatingPointError(f"the log-likelihood became {total} in epoch {epoch}: lower learning_rate")
            if score is None or score > best_score:
                best_score, best_epoch = -np.inf if score is None else score, epoch
                best.flat[:] = parameters.flat
            if out_of_time():
                stopped = "max_seconds"
                break
            if score is not None and epoch - best_epoch >= patience:
                stopped = "patience"
                break
    except KeyboardInterrupt:
        stopped = "interrupted"
        logger.warning(
            "interrupted in epoch %d: keeping the best model so far, of epoch %d", len(history["epoch"]) + 1, best_epoch
        )
    finally:
        progress.close()
    parameters.flat[:] = best.flat
    return history, stopped
