"""How models of y given x are trained: on the steps of y, the true tokens before each, or some that are drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels, random
from chainrule.fit import Parameters, Training
from chainrule.fit.loop import Callback, ordered_sum
from chainrule.models.blocks import Dropout
from chainrule.models.pair_base import PairBase, Seen
from chainrule.models.pairs import Pairs, Side
from chainrule.models.scheduled_sampling import partly_drawn, truth_of
from chainrule.ops import Tape

if TYPE_CHECKING:
    from typing_extensions import Self

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


class PairTraining(PairBase):
    """Fit to pairs, and the gradient of their likelihood."""

    dropout: float
    max_source: int | None
    max_target: int | None
    scheduled_sampling: Any
    scheduled_sampling_options: dict[str, float] | None

    def fit(  # type: ignore[override]  # of y given X, no context
        self,
        X: Any,
        y: Any,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight: Any = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit to pairs by maximum likelihood, but for `scheduled_sampling`.

        Parameters
        ----------
        X, y : lists of sequences of integers, or of text
            As many of one as of the other. The characters of text, or its bytes, become codes, on each side by
            themselves. Sequences of y may be empty.
        X_val, y_val : optional
            Held-out pairs, scored after every epoch; the best epoch's parameters are kept.
        sample_weight : array-like (n_pairs,), optional
        callbacks, checkpoint : as in the other models
        """
        pairs = self._training_pairs(X, y, self.warm_start and hasattr(self, "n_features_in_"))
        held_out = None if X_val is None else self._pairs(X_val, y_val, "_val", pairs.sides)
        super().fit(pairs, X_val=held_out, sample_weight=sample_weight, callbacks=callbacks, checkpoint=checkpoint)
        return self

    def partial_fit(self, X: Any, y: Any, *, sample_weight: Any = None) -> Self:  # type: ignore[override]
        """One epoch over pairs, going on from the present parameters and optimizer state."""
        pairs = self._training_pairs(X, y, hasattr(self, "n_features_in_"))
        super().partial_fit(pairs, sample_weight=sample_weight)
        return self

    def _training_pairs(self, X: Any, y: Any, goes_on: bool) -> Pairs:
        self._check_options()
        if goes_on or y is None:
            return self._pairs(X, y)
        source = Side.of(X, "X", self.max_source, may_be_empty=False)
        return self._pairs(X, y, sides=(source, Side.of(y, "y", self.max_target, may_be_empty=True)))

    def _training(self, X: Any, weight: Floats | None) -> Training:
        scale = np.ones(len(X)) if weight is None else weight * (len(X) / ordered_sum(weight))
        self._take_seed(random.DROPOUT)
        truth = truth_of(self.scheduled_sampling, self.scheduled_sampling_options)
        total = self.max_epochs * -(-len(X) // self.batch_size)

        def objective(rows: npt.NDArray[np.intp], gradient: Parameters) -> Floats:
            batch, share, update = X[rows], scale[rows], training.optimizer.updates
            steps = ordered_sum(share * self.target_.steps(batch.target)[2]) or 1.0
            true = truth(update, total)
            log_prob = self._weighed_gradient(batch, gradient, share / steps, update=update, true=true)
            return share * log_prob * (len(rows) / steps)  # so that their mean is in nats a step

        training = self._trainer(objective, len(X))
        return training

    def _mean(self, X: Any) -> float:
        return ordered_sum(self._log_prob(X, False)) / float(self.target_.steps(X.target)[2].sum(dtype=np.int64))

    def _gradient(self, X: Any, gradient: Parameters, weight: Any = None, step: int = 0) -> Floats:
        return self._weighed_gradient(X, gradient, np.full(len(X), 1.0 / len(X)))

    def _weighed_gradient(
        self,
        X: Pairs,
        gradient: Parameters,
        weight: Floats | Callable[[Floats], Floats],
        *,
        update: int | None = None,
        true: float = 1.0,
    ) -> Floats:
        """Fills the gradient of ``-sum_r weight_r log p(y_r | x_r)``; returns the log-likelihoods.

        weight: (n,), or what gives them from the log-likelihoods. update: of the training, for what it draws; None for
        the likelihood itself. true: the probability of a true token.
        """
        tape = Tape(self._pool, n_threads=self.n_threads)
        p = self._variables(gradient)
        drop = Dropout(tape) if update is None else Dropout(tape, self.dropout, self._seed, update)
        seen = self._looked_at(tape, p, X.source, drop)
        inputs, target, counts = self.target_.steps(X.target)
        real = np.arange(target.shape[1]) < counts[:, None]
        if update is not None and true < 1:
            inputs = np.where(real, self._partly_drawn(inputs, seen, true, update), np.int32(-1))
        out = self._logits(tape, p, inputs, seen, drop)
        out.gradient = out.array
        if callable(weight):
            terms = kernels.softmax_log_prob(out.array, target, n_threads=self.n_threads)
            weight = weight(np.add.accumulate(np.where(real, terms, 0.0), axis=1)[:, -1])
        shares = np.where(real, weight[:, None], 0.0).astype(self.dtype)
        terms, _ = kernels.softmax_gradient(
            out.array, target, weight=shares, out=out.gradient, n_threads=self.n_threads
        )
        tape.backward()
        return np.add.accumulate(np.where(real, terms, 0.0), axis=1)[:, -1]

    def _partly_drawn(self, inputs: Codes, seen: Seen, true: float, update: int) -> Codes:
        """The tokens the decoder sees, each true with this probability, else drawn given those before it.

        The encoder's pass is that of the training step, dropout included; the decoder draws without.
        """
        n, key = len(inputs), random.key_of(self._seed, random.TRUTH)
        u = random.uniform_rows(key, update << 32, n, 2 * self.target_.longest)
        memory, state = self._caches_of(seen), self._new_state(n)
        return partly_drawn(self._network(), memory, state, inputs, self._end, true, u, self.n_threads)

    def gradient(self, X: Any, y: Any) -> tuple[float, dict[str, npt.NDArray[Any]]]:  # type: ignore[override]
        """Mean log-likelihood of the pairs, and its gradient by each array of `parameters_`."""
        return super().gradient(self._pairs(X, y))
