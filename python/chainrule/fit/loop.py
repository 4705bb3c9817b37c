"""The training loop: minibatches in a seeded order, early stopping on held-out likelihood, the best parameters kept."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.fit.optimizer import Optimizer
from chainrule.fit.parameters import Parameters
from chainrule.fit.progress import Progress, Unit, logger
from chainrule.fit.schedules import Schedule
from chainrule.io import read_safetensors, write_atomically
from chainrule.random import Key, permutation

Objective = Callable[[npt.NDArray[np.intp], Parameters], npt.NDArray[np.float64]]
Callback = Callable[[dict[str, Any]], Any]
COLUMNS = ("epoch", "train", "validation", "seconds", "skipped")


def ordered_sum(x: npt.NDArray[np.float64]) -> float:
    """The sum of a vector from first to last: `np.sum` adds in an order that depends on the CPU."""
    return float(np.add.accumulate(x)[-1]) if x.size else 0.0


class Training:
    """Maximises the mean log-likelihood of `n_rows` rows, epoch by epoch.

    ``objective(rows, gradient)`` fills the gradient of minus the mean log-likelihood of those rows and returns their
    log-likelihoods. ``history`` has a list per column of `COLUMNS`: epoch number, mean log-likelihood of the training
    rows while they were trained on, of the validation rows after the epoch (None without any), seconds since the start,
    and batches skipped because their likelihood or gradient was not finite. `unit` is what the means are over.

    Everything that decides the next update is in `save`'s file, so a run that is killed and resumed ends in the same
    bits as one that was not.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        n_rows: int,
        *,
        learning_rate: float,
        schedule: Schedule,
        batch_size: int,
        max_epochs: int,
        shuffle: Key,
    ) -> None:
        self.objective, self.optimizer, self.n_rows = objective, optimizer, n_rows
        self.learning_rate, self.schedule = learning_rate, schedule
        self.batch_size, self.max_epochs, self.shuffle = batch_size, max_epochs, shuffle
        self.unit = Unit()
        self.parameters = optimizer.parameters
        self.gradient, self.best = optimizer.gradient(), self.parameters.copy()
        self.best_score, self.best_epoch = -np.inf, 0
        self.history: dict[str, list[Any]] = {column: [] for column in COLUMNS}

    def epoch(
        self, progress: Progress | None = None, out_of_time: Callable[[], bool] = lambda: False
    ) -> tuple[float, int]:
        """One pass over the rows in their order of this epoch; the mean log-likelihood met, and the batches skipped."""
        order = permutation(self.shuffle, len(self.history["epoch"]) + 1, self.n_rows)
        total_updates = self.max_epochs * -(-self.n_rows // self.batch_size)
        total, seen, skipped = 0.0, 0, 0
        for start in range(0, self.n_rows, self.batch_size):
            rows = order[start : start + self.batch_size]
            likelihood = ordered_sum(self.objective(rows, self.gradient))
            rate = self.learning_rate * self.schedule(self.optimizer.updates, total_updates)
            if np.isfinite(likelihood) and self.optimizer.step(self.gradient, rate):
                total += likelihood
                seen += len(rows)
            else:
                skipped += 1
            if progress:
                progress.rows(len(rows), likelihood)
            if out_of_time():
                break
        if not seen:
            raise FloatingPointError(
                "no batch had a finite log-likelihood and gradient: lower learning_rate, or set clip_norm"
            )
        if skipped:
            logger.warning("skipped %d batches without a finite log-likelihood and gradient", skipped)
        return total / seen, skipped

    def run(
        self,
        *,
        validate: Callable[[], float] | None,
        patience: int,
        max_seconds: float | None,
        verbose: bool,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        identity: str = "",
    ) -> str:
        """Train to the end and leave the best parameters (with `validate`; else the last) in place.

        Returns why it ended: "max_epochs", "patience", "max_seconds", "callback" or "interrupted" (Ctrl-C).
        """
        if checkpoint is not None and Path(checkpoint).exists():
            self.restore(checkpoint, identity)
        done = len(self.history["epoch"])
        before = self.history["seconds"][-1] if done else 0.0
        progress = Progress(self.n_rows * (self.max_epochs - done), verbose, self.unit, max_seconds)
        began = time.monotonic()

        def out_of_time() -> bool:
            return max_seconds is not None and time.monotonic() - began > max_seconds

        stopped = "max_epochs"
        try:
            for epoch in range(done + 1, self.max_epochs + 1):
                if validate and done and self.history["epoch"][-1] - self.best_epoch >= patience:
                    stopped = "patience"  # a resumed run that had ended
                    break
                train, skipped = self.epoch(progress, out_of_time)
                evaluated = self.optimizer.average or self.parameters
                score = self._validated(validate, evaluated)
                record = (epoch, train, score, before + time.monotonic() - began, skipped)
                for column, value in zip(COLUMNS, record, strict=True):
                    self.history[column].append(value)
                progress.epoch(epoch, train, score)
                if score is None or score > self.best_score:
                    self.best_score, self.best_epoch = -np.inf if score is None else score, epoch
                    self.best.flat[:] = evaluated.flat
                if checkpoint is not None:
                    self.save(checkpoint, identity)
                answers = [callback(dict(zip(COLUMNS, record, strict=True))) for callback in callbacks]
                if any(answers):
                    stopped = "callback"
                elif out_of_time():
                    stopped = "max_seconds"
                elif score is not None and epoch - self.best_epoch >= patience:
                    stopped = "patience"
                if stopped != "max_epochs":
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
            logger.warning("interrupted: keeping the best model so far, of epoch %d", self.best_epoch)
        finally:
            progress.close()
            self.parameters.flat[:] = self.best.flat
        return stopped

    def _validated(self, validate: Callable[[], float] | None, evaluated: Parameters) -> float | None:
        """Held-out likelihood, of the averaged parameters where there is an average."""
        if validate is None:
            return None
        if evaluated is self.parameters:
            return validate()
        raw = self.parameters.flat.copy()
        try:
            self.parameters.flat[:] = evaluated.flat
            return validate()
        finally:
            self.parameters.flat[:] = raw

    # ---- checkpoints

    def save(self, path: str | os.PathLike[str], identity: str) -> None:
        """Everything that decides what comes next, atomically; `identity` names the model, its options and its data."""
        from safetensors.numpy import save as serialize

        arrays, numbers = self.optimizer.state()
        arrays = {**arrays, "parameters": self.parameters.flat, "best": self.best.flat}
        state = {
            "identity": identity,
            "optimizer": numbers,
            "best": [self.best_score if np.isfinite(self.best_score) else None, self.best_epoch],
            "history": self.history,
        }
        write_atomically(path, serialize(arrays, {"chainrule-checkpoint": json.dumps(state, sort_keys=True)}))

    def restore(self, path: str | os.PathLike[str], identity: str) -> None:
        """Go on from `path`; a checkpoint of another model, other options or other data is an error."""
        arrays, metadata = read_safetensors(path)
        try:
            state = json.loads(metadata["chainrule-checkpoint"])
            score, self.best_epoch = state["best"]
            known = state["identity"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{os.fspath(path)!r} is not a checkpoint of chainrule") from None
        if known != identity:
            raise ValueError(
                f"checkpoint {os.fspath(path)!r} is of another fit (other options or data): remove it to start anew"
            )
        self.best_score = -np.inf if score is None else score
        self.parameters.flat[:] = arrays["parameters"]
        self.best.flat[:] = arrays["best"]
        self.history = state["history"]
        self.optimizer.restore(arrays, state["optimizer"])
