"""What models trained by gradient share: options, fit, partial_fit, gradients."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chainrule import io, random
from chainrule.fit import OPTIMIZERS, SCHEDULES, Optimizer, Parameters, Training
from chainrule.fit.loop import Callback, Objective, ordered_sum
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

    A model file implements `_check_model`, `_initialise(X, weight)` and `_gradient(X, gradient, weight, step)`; its
    constructor takes its own options, hands the rest on as ``**training``, and then has these in its signature too.

    Parameters
    ----------
    binarize : float, optional
        Inputs are thresholded, ``X > binarize``. None: only 0 and 1 are accepted.
    max_epochs : int
        Passes over the training rows.
    batch_size : int
        Rows per gradient.
    learning_rate : float
        Step size, before `schedule` and `warmup`.
    optimizer : {"adam", "adamw", "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta"}
    optimizer_options : dict, optional
        The rule's constants: "beta1" (momentum), "beta2" (decay of squares), "epsilon".
    schedule : {"constant", "linear", "cosine", "inverse"} or callable
        Factor on the learning rate, ``schedule(update, total_updates)``; "inverse" is ``1 / (1 + 0.001 t)``, another
        gamma is `chainrule.fit.schedules.inverse(gamma)`.
    warmup : int
        Updates over which the learning rate grows from near 0.
    weight_decay : float
        Decoupled for "adamw", L2 for the others.
    clip_norm : float, optional
        Longest gradient allowed, by its norm over all parameters.
    average_decay : float, optional
        Decay of an exponential average of the parameters, which is validated and kept in their place.
    patience : int
        Epochs without a better validation likelihood before training stops (with `X_val`).
    max_seconds : float, optional
        Wall-clock budget of `fit`.
    warm_start : bool
        `fit` goes on from the parameters of the last one.
    random_state : int, Generator, RandomState or None
        Of initial weights, data order, masks, and "random" order.
    n_threads : int, optional
        Threads of every kernel; by default `chainrule.get_num_threads()`.
    dtype : {"float32", "float64"}
        Precision of parameters and arithmetic.
    verbose : bool
        Show a progress bar.

    Attributes
    ----------
    parameters_ : mapping of str to array
    history_ : dict of lists
        Per epoch: "epoch", "train", "validation" (mean nats), "seconds", "skipped".
    stopped_ : str
        "max_epochs", "patience", "max_seconds", "callback", "interrupted" or "partial_fit".
    """

    parameters_: Parameters
    history_: dict[str, list[Any]]
    stopped_: str

    def __init__(
        self,
        *,
        binarize: float | None = None,
        max_epochs: int = 100,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        optimizer: str = "adam",
        optimizer_options: dict[str, float] | None = None,
        schedule: Any = "constant",
        warmup: int = 0,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        average_decay: float | None = None,
        patience: int = 10,
        max_seconds: float | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        n_threads: int | None = None,
        dtype: str = "float32",
        verbose: bool = False,
    ) -> None:
        self.binarize = binarize
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.optimizer_options = optimizer_options
        self.schedule = schedule
        self.warmup = warmup
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.average_decay = average_decay
        self.patience = patience
        self.max_seconds = max_seconds
        self.warm_start = warm_start
        self.random_state = random_state
        self.n_threads = n_threads
        self.dtype = dtype
        self.verbose = verbose

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Shows the options behind ``**training`` in the constructor's signature."""
        super().__init_subclass__(**kwargs)
        own = inspect.signature(cls.__init__)
        if "__init__" in vars(cls) and "training" in own.parameters:
            options = [p for p in own.parameters.values() if p.name != "training"]
            shared = inspect.signature(TrainedModel.__init__).parameters.values()
            options += [p for p in shared if p.kind is p.KEYWORD_ONLY and p.name not in own.parameters]
            vars(cls)["__init__"].__signature__ = own.replace(parameters=options)

    def _check_model(self) -> None:
        raise NotImplementedError

    def _initialise(self, X: Bits, weight: npt.NDArray[np.float64] | None) -> None:
        raise NotImplementedError

    def _gradient(
        self, X: Bits, gradient: Parameters, weight: npt.NDArray[Any] | None = None, step: int = 0
    ) -> npt.NDArray[np.float64]:
        """Fills the gradient of ``-sum_r weight_r log p(x_r)``, by default of the mean; returns the log-likelihoods.

        `step` counts the updates before this one, for models whose objective changes with them.
        """
        raise NotImplementedError

    def _live(self) -> npt.NDArray[np.uint64] | None:
        """Ranges of the parameter buffer that are trained, when not all of it is."""
        return None

    def _spared(self) -> npt.NDArray[np.uint64] | None:
        """Further ranges, which are trained without weight decay."""
        return None

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
        context: Any = None,
        context_val: Any = None,
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
        context : array-like (n_rows, n_context), optional
            What every variable of a row may depend on beside those before it: the model is then of p(x | context). For
            models with masks; one-hot a class.
        context_val : array-like, optional
            The context of `X_val`.
        callbacks : sequence of callables
            Each is called after every epoch with a dict: "epoch", "train", "validation" (mean nats), "seconds",
            "skipped". A true result ends training. The model can score and draw meanwhile.
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
        warm = self.warm_start and getattr(self, "n_features_in_", None) == rows.shape[1]
        if not warm:
            self.__dict__.pop("n_context_", None)  # a new model may take another context
        rows = self._with_context(rows, self._context(context, len(rows)))
        if held_out is not None:
            seen = self._context(context_val, len(held_out)) if context is not None else None
            if context is not None and seen is None:
                raise ValueError("context_val is missing: the context of X_val")
            held_out = self._with_context(held_out, seen)
        if not warm:
            self._initialise(rows, weight)
        training = self._training(rows, weight)
        fitted = hasattr(self, "n_features_in_")
        self._remember(X, rows)  # callbacks may score and draw

        try:
            self.stopped_ = training.run(
                validate=None if held_out is None else lambda: self._mean(held_out),
                patience=self.patience,
                max_seconds=self.max_seconds,
                verbose=self.verbose,
                callbacks=callbacks,
                checkpoint=checkpoint,
                identity="" if checkpoint is None else self._identity(rows, weight, held_out),
            )
        except BaseException:
            if not fitted:
                del self.n_features_in_
            raise
        finally:
            self.history_ = training.history
        self.__dict__.pop("_ongoing", None)
        return self

    def partial_fit(self, X: Any, y: Any = None, *, sample_weight: Any = None, context: Any = None) -> Self:
        """One epoch over the rows of `X`, going on from the present parameters and optimizer state.

        The first call fixes what depends on data (order, flipped columns, output biases) from its rows.
        """
        rows, _ = self._training_input(X, None)
        weight = None if sample_weight is None else check_weights(sample_weight, len(rows))
        if not hasattr(self, "n_features_in_"):
            self.__dict__.pop("n_context_", None)
        rows = self._with_context(rows, self._context(context, len(rows)))
        ongoing: Training | None = self.__dict__.get("_ongoing")
        if hasattr(self, "n_features_in_"):
            self._known_input(X, context)
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

    def gradient(self, X: Any, *, context: Any = None) -> tuple[float, dict[str, npt.NDArray[Any]]]:
        """Mean log-likelihood of the rows of `X`, and its gradient by each array of `parameters_`."""
        rows = self._known_input(X, context)
        not_empty(rows)
        gradient = self.parameters_.like()
        mean = ordered_sum(self._gradient(rows, gradient)) / len(rows)
        return mean, {name: -np.ascontiguousarray(array) for name, array in gradient.items()}

    def _training(self, X: Bits, weight: npt.NDArray[np.float64] | None) -> Training:
        scale = None if weight is None else weight * (len(X) / ordered_sum(weight))

        def objective(rows: npt.NDArray[np.intp], gradient: Parameters) -> npt.NDArray[np.float64]:
            if scale is None:
                return self._gradient(X[rows], gradient, step=training.optimizer.updates)
            share = scale[rows]
            weights = (share / len(rows)).astype(self.dtype)
            return share * self._gradient(X[rows], gradient, weights, step=training.optimizer.updates)

        training = self._trainer(objective, len(X))
        return training

    def _mean(self, X: Any) -> float:
        """Mean log-likelihood of held-out rows."""
        return ordered_sum(self._log_prob(X, False)) / len(X)

    def _trainer(self, objective: Objective, n_rows: int) -> Training:
        """The training loop of the options, for an objective over `n_rows` rows."""
        optimizer = Optimizer(
            self.parameters_,
            self.optimizer,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            average_decay=self.average_decay,
            live=self._live(),
            spared=self._spared(),
            n_threads=self.n_threads,
            **(self.optimizer_options or {}),
        )
        return Training(
            objective,
            optimizer,
            n_rows,
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
        options = {name: _said(value) for name, value in self.get_params().items() if name not in BUDGET}
        digest = hashlib.sha256(json.dumps([type(self).__name__, io.FORMAT_VERSION, options], sort_keys=True).encode())
        for array in (X, weight, X_val):
            digest.update(b"-" if array is None else str(array.shape).encode() + array.tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """A pickle holds the model, not an optimizer in the middle of its work."""
        return {name: value for name, value in self.__dict__.items() if name != "_ongoing"}


def _said(value: Any) -> str:
    """An option in full: a large array's repr leaves out its middle, a graph's its edges."""
    if isinstance(value, np.ndarray):
        return repr((value.dtype.str, value.tolist()))
    if hasattr(value, "nodes") and hasattr(value, "edges"):
        return repr((type(value).__name__, sorted(map(repr, value.nodes)), sorted(map(repr, value.edges))))
    return repr(value)
