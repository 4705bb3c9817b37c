"""How models of sequences are trained: on crops drawn anew in every epoch, over the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chainrule import random, text
from chainrule.fit import Parameters
from chainrule.fit.loop import ordered_sum
from chainrule.fit.progress import Unit
from chainrule.models.crops import Crops, moved, side_by_side, whole
from chainrule.models.sequence_base import SequenceBase
from chainrule.models.sequence_rows import Sequences
from chainrule.ops import Tape

if TYPE_CHECKING:
    from typing_extensions import Self


class SequenceTraining(SequenceBase):
    """Fit to sequences, and the gradient of their likelihood."""

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        tokenizer: Any = None,
        local_context: Any = None,
        local_context_val: Any = None,
        **given: Any,
    ) -> Self:
        """Fit to sequences by maximum likelihood, on crops drawn anew in every epoch.

        Parameters
        ----------
        X : 1-d array, list of 1-d arrays of any lengths, 2-d array; str or bytes, or a list of either
            One sequence, several, or equally long ones. The characters of text, or its bytes, become codes.
        tokenizer : text.Characters, text.Bytes, or a Tokenizer of the tokenizers library, optional
            How text becomes codes, where it is not the characters of `X`; `X` may also be codes that it has made. It is
            kept with the model, and text goes in and comes out.
        y : ignored
        X_val : as X, optional
            Held-out sequences, scored after every epoch; the best epoch's parameters are kept.
        sample_weight : array-like (n_sequences,), optional
        context : array-like (n_sequences, n_context), optional
            What every step of a sequence may depend on: one-hot a speaker or a class.
        local_context : list of arrays (n_frames, n_local), optional
            Features of every `hop` steps of each sequence, such as those of a text that is spoken.
        context_val, local_context_val : optional
            Those of `X_val`.
        callbacks, checkpoint : as in the other models.

        ``history_`` is in nats a step.
        """
        self._check_options()
        warm, tokenizer = self.warm_start and hasattr(self, "n_features_in_"), text.as_tokenizer(tokenizer)
        packed = self._with_frames(X, local_context, "X", fitted=warm)
        if not warm:
            for name in ("n_features_in_", "n_values_"):  # of another fit
                self.__dict__.pop(name, None)
            self.text_ = tokenizer
            self.n_local_ = 0 if local_context is None else packed.frames[0].shape[1]
        elif tokenizer not in (None, self.text_):
            raise ValueError("tokenizer must be that of the fit which goes on")
        if given.get("X_val") is not None and local_context is not None:
            given["X_val"] = self._with_frames(self._input(given["X_val"], "X_val", 1), local_context_val, "X_val")
        return super().fit(packed, y, **given)

    def _crops(self, lengths: npt.NDArray[np.int64]) -> Crops:
        """Every sequence in training windows."""
        return side_by_side(lengths, self._window)

    def _pieces(self, lengths: npt.NDArray[np.int64]) -> Crops:
        """What the gradient of whole sequences is a sum over: here they are not cut."""
        return whole(lengths)

    def _training(self, X: Any, weight: npt.NDArray[np.float64] | None) -> Any:
        lengths = X.lengths
        crops = self._crops(lengths)
        scale = np.ones(len(X)) if weight is None else weight * (len(X) / ordered_sum(weight))
        self._take_seed(random.PICK)

        def objective(rows: npt.NDArray[np.intp], gradient: Parameters) -> npt.NDArray[np.float64]:
            update = training.optimizer.updates
            u = random.uniform_rows(random.key_of(self._seed, random.PICK), update, 1, len(rows))[0]
            batch = moved(crops[rows], lengths, self._window, self.hop, u)
            share = scale[batch.row]
            steps = float(batch.length.sum(dtype=np.int64))
            log_prob = self._crop_gradient(X, batch, share / steps, gradient, update)
            return share * log_prob * (len(rows) / steps)  # so that their mean is in nats a step

        training = self._trainer(objective, len(crops))
        training.unit = Unit(self._unit, float(crops.length.sum(dtype=np.int64)) / len(crops))
        return training

    @property
    def _unit(self) -> str:
        """A step, as the user calls it."""
        if self.text_ is not None:
            return self.text_.unit
        return "sample" if self._of_sound else "step"

    def _mean(self, X: Any) -> float:
        return ordered_sum(self._log_prob(X, False)) / float(X.lengths.sum(dtype=np.int64))

    def _gradient(self, X: Any, gradient: Parameters, weight: Any = None, step: int = 0) -> npt.NDArray[np.float64]:
        pieces, log_prob = self._pieces(X.lengths), np.zeros(len(X))
        each = np.full(len(X), 1.0 / len(X)) if weight is None else np.asarray(weight, np.float64)
        found = self._crop_gradient(X, pieces, each[pieces.row], gradient)
        for row, part in zip(pieces.row, found, strict=True):
            log_prob[row] += part
        return log_prob

    def _crop_gradient(
        self,
        X: Sequences,
        crops: Crops,
        weight: npt.NDArray[np.float64],
        gradient: Parameters,
        update: int | None = None,
    ) -> npt.NDArray[np.float64]:
        """Fills the gradient of ``-sum_r weight_r log p(crop_r | what is before it)``; returns the log-likelihoods."""
        reach, n, steps = self._reach, len(crops), int(crops.length.max())
        seen, target = np.full((n, reach + steps), -1, np.int32), np.zeros((n, steps), np.int32)
        share = np.zeros((n, steps), self.dtype)
        for i, (row, start, length) in enumerate(zip(crops.row, crops.start, crops.length, strict=True)):
            values, low = X.values[row], max(int(start) - reach - 1, 0)
            seen[i, reach - (start - 1 - low) : reach + length] = values[low : start + length - 1]
            target[i, :length] = values[start : start + length]
            share[i, :length] = weight[i]
        tape = Tape(self._pool, memory_budget=self.memory_budget, n_threads=self.n_threads)
        frames = self._features(X, crops.row, crops.start - reach, reach + steps)
        before = np.maximum(reach - crops.start, 0)
        out = self._outputs(tape, self._variables(gradient), seen, steps, before=before, frames=frames, update=update)
        conditional = self._steps
        out.gradient = out.array if conditional.in_place else self._pool.take(out.array.shape, out.array.dtype)
        log_prob = conditional.gradient(
            out.array.reshape(n * steps, -1),
            target.reshape(-1),
            share.reshape(-1),
            out.gradient.reshape(n * steps, -1),
            self.n_threads,
        )
        tape.backward()
        terms = np.where(np.arange(steps) < crops.length[:, None], log_prob.reshape(n, steps), 0.0)
        return np.add.accumulate(terms, axis=1)[:, -1]
