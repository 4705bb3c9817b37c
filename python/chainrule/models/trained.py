"""What models trained by gradient share: options, fit, partial_fit, gradients."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chainrule import io, random
from chainrule.fit import OPTIMIZERS, SCHEDULES, Optimizer, Parameters, Training
from chainrule.fit.loop import Callback, ordered_sum
from chainrule.fit.schedules import warmed_up
from chainrule.models.base import AutoregressiveModel, Bits
from chainrule.validation import check_int, check_option, check_positive, check_weights, not_empty

if TYPE_CHECKING:
    from typing_extensions import Self

BUDGET = (
    "max_epochs",
    "patience",
    "max_seconds",
    "n_threads",
    "verbose",
)  # may change between a checkpoint and its resumption


class TrainedModel(AutoregressiveModel):
    """A model with `parameters_`, trained by minibatch gradients of the mean log-likelihood.

    A model file implements `_check_model`, `_initialise(X, weight)` and `_gradient(X, gradient, weight)`, and its
    constructor takes the options that are checked here.
    """

    parameters_: Parameters
    history_: dict[str, list[Any]]
    stopped_: str
    max_epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str
    optimizer_options: dict[str, float] | None
    schedule: Any
    warmup: int
    weight_decay: float
    clip_norm: float | None
    average_decay: float | None
    patience: int
    max_seconds: float | None
    warm_start: bool
    n_threads: int | None
    dtype: str
    verbose: bool

    def _check_model(self) -> None:
        raise NotImplementedError

    def _initialise(self, X: Bits, weight: npt.NDArray[np.float64] | None) -> None:
        raise NotImplementedError

    def _gradient(
        self, X: Bits, gradient: Parameters, weight: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[np.float64]:
        """Fills the gradient of ``-sum_r weight_r log p(x_r)``, by default of the mean; returns the log-likelihoods."""
        raise NotImplementedError

    def _check_options(self) -> None:
        self._check_model()
        check_int("max_epochs", self.max_epochs, 1)
        check_int("batch_size", self.batch_size, 1)
        check_positive("learning_rate", self.learning_rate)
        check_option("optimizer", self.optimizer, tuple(OPTIMIZERS))
        if not callable(self.schedule):
            check_option("schedule", self.schedule, tuple(SCHEDULES))
        check_int("warmup", self.warmup, 0)
        check_int("patience", self.patience, 1)
        check_option("dtype", self.dtype, ("float32", "float64"))
        check_option("warm_start", self.warm_start, (True, False))
        if self.weight_decay != 0:
            check_positive("weight_decay", self.weight_decay)
        for name in ("max_seconds", "clip_norm"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise ValueError(f"average_decay must be between 0 and 1, not {self.average_decay!r}")

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        X_val: Any = None,
        sample_weight: Any = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit to the rows of `X` by maximum likelihood.

        Parameters
        ----------
        X : array-like (n_rows, n_features)
        y : ignored
        X_val : array-like (n_rows, n_features), optional
            Held-out rows: training stops after `patience` epochs without a better mean log-likelihood on them, and the
            best epoch's parameters are kept. Without them the last epoch's are.
        sample_weight : array-like (n_rows,), optional
            Weights >= 0 of the rows in the log-likelihood; only their ratios matter.
        callbacks : sequence of callables
            Each is called after every epoch with a dict: "epoch", "train", "validation" (mean nats), "seconds",
            "skipped". A true result ends training.
        checkpoint : path, optional
            Written after every epoch. When the file exists, training goes on from it, and ends in the same bits as if
            it had never stopped; needs an int `random_state`. Options of budget may be changed in between.

        Returns
        -------
        self
        """
        rows, held_out = self._training_input(X, X_val)
        weight = None if sample_weight is None else check_weights(sample_weight, len(rows))
        self._check_options()
        if not (self.warm_start and getattr(self, "n_features_in_", None) == rows.shape[1]):
            self._initialise(rows, weight)
        training = self._training(rows, weight)

        def validate() -> float:
            assert held_out is not None
            return ordered_sum(self._log_prob(held_out, False)) / len(held_out)

        try:
            self.stopped_ = training.run(
                validate=None if held_out is None else validate,
                patience=self.patience,
                max_seconds=self.max_seconds,
                verbose=self.verbose,
                callbacks=callbacks,
                checkpoint=checkpoint,
                identity="" if checkpoint is None else self._identity(rows, weight, held_out),
            )
        finally:
            self.history_ = training.history
        self._remember(X, rows)
        self.__dict__.pop("_ongoing", None)
        return self

    def partial_fit(self, X: Any, y: Any = None, *, sample_weight: Any = None) -> Self:
        """One epoch over the rows of `X`, going on from the present parameters and optimizer state.

        The first call fixes what depends on data (order, flipped columns, output biases) from its rows.
        """
        rows, _ = self._training_input(X, None)
        weight = None if sample_weight is None else check_weights(sample_weight, len(rows))
        ongoing: Training | None = self.__dict__.get("_ongoing")
        if hasattr(self, "n_features_in_"):
            self._known_input(X)
        else:
            self._check_options()
            self._initialise(rows, weight)
        training = self._training(rows, weight)
        if ongoing is not None:
            training.optimizer, training.history = ongoing.optimizer, ongoing.history
            training.gradient = ongoing.gradient
        train, skipped = training.epoch()
        record = (len(training.history["epoch"]) + 1, train, None, 0.0, skipped)
        for column, value in zip(training.history, record, strict=True):
            training.history[column].append(value)
        self._ongoing, self.history_, self.stopped_ = training, training.history, "partial_fit"
        if not hasattr(self, "n_features_in_"):
            self._remember(X, rows)
        return self

    def gradient(self, X: Any) -> tuple[float, dict[str, npt.NDArray[Any]]]:
        """Mean log-likelihood of the rows of `X`, and its gradient by each array of `parameters_`."""
        rows = self._known_input(X)
        not_empty(rows)
        gradient = self.parameters_.like()
        mean = ordered_sum(self._gradient(rows, gradient)) / len(rows)
        return mean, {name: -np.ascontiguousarray(array) for name, array in gradient.items()}

    def _training(self, X: Bits, weight: npt.NDArray[np.float64] | None) -> Training:
        scale = None if weight is None else weight * (len(X) / ordered_sum(weight))

        def objective(rows: npt.NDArray[np.intp], gradient: Parameters) -> npt.NDArray[np.float64]:
            if scale is None:
                return self._gradient(X[rows], gradient)
            share = scale[rows]
            return share * self._gradient(X[rows], gradient, (share / len(rows)).astype(self.dtype))

        optimizer = Optimizer(
            self.parameters_,
            self.optimizer,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            average_decay=self.average_decay,
            n_threads=self.n_threads,
            **(self.optimizer_options or {}),
        )
        return Training(
            objective,
            optimizer,
            len(X),
            learning_rate=self.learning_rate,
            schedule=warmed_up(self.schedule if callable(self.schedule) else SCHEDULES[self.schedule], self.warmup),
            batch_size=self.batch_size,
            max_epochs=self.max_epochs,
            shuffle=random.key_of(self.random_state, random.SHUFFLE),
        )

    def _identity(self, X: Bits, weight: npt.NDArray[np.float64] | None, X_val: Bits | None) -> str:
        """A hash of everything that decides the bits of a fit, budget aside."""
        if not isinstance(self.random_state, int | np.integer):
            raise ValueError(
                f"checkpoint needs an int random_state, not {self.random_state!r}: a resumed fit must draw the same"
            )
        options = {name: repr(value) for name, value in self.get_params().items() if name not in BUDGET}
        digest = hashlib.sha256(json.dumps([type(self).__name__, io.FORMAT_VERSION, options], sort_keys=True).encode())
        for array in (X, weight, X_val):
            digest.update(b"-" if array is None else str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds the model, not an optimizer in the middle of its work."""
        return {name: value for name, value in self.__dict__.items() if name != "_ongoing"}
