"""How models of sequences score: chunk after chunk, so that memory does not grow with a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.fit.loop import ordered_sum
from chainrule.models.sequence_base import SequenceBase
from chainrule.models.sequence_rows import Array, Sequences
from chainrule.ops import Tape
from chainrule.validation import not_empty

Codes = npt.NDArray[np.int32]
STEPS_AT_ONCE = 8192  # scored in one chunk, over all its sequences


class SequenceScoring(SequenceBase):
    """Exact log-likelihoods of sequences, and the conditionals of their steps."""

    def _chunks(self, X: Sequences) -> Iterator[tuple[Array, Array, Array, Codes]]:
        """Rows, their first steps, parameters (rows, steps, P) and codes (rows, steps) of chunk after chunk.

        Rows that are shorter than the chunk end early. Parameters are valid until the next chunk is asked for.
        """
        lengths = X.lengths
        by_length, p, at = np.argsort(-lengths, kind="stable"), self._variables(None), 0
        while at < len(by_length):
            longest = int(lengths[by_length[at]])
            rows = by_length[at : at + max(STEPS_AT_ONCE // longest, 1)]
            at += len(rows)
            state = self._new_state(len(rows), longest)
            for low in range(0, longest, STEPS_AT_ONCE):
                steps = min(STEPS_AT_ONCE, longest - low)
                codes = np.zeros((len(rows), 1 + steps), np.int32)  # and the one before the chunk
                for i, row in enumerate(rows):
                    part = X.values[row][max(low - 1, 0) : low + steps]
                    codes[i, int(low == 0) :][: len(part)] = part
                codes[:, 0] = codes[:, 0] if low else -1
                first = np.full(len(rows), low)
                yield rows, first, self._chunk(codes[:, :-1], X, rows, low, state, p), codes[:, 1:]

    def _prime(self, seen: Codes, X: Sequences, low: int, state: Any) -> None:
        """Moves a state on over the steps after those `seen`, from step `low` on."""
        self._chunk(seen, X, np.arange(len(X)), low, state, self._variables(None))

    def _chunk(self, seen: Codes, X: Sequences, rows: Any, low: int, state: list[Array], p: Any) -> Array:
        """Parameters of the steps after those `seen`, (rows, steps, P), the state moved on."""
        tape = Tape(self._pool, recording=False, n_threads=self.n_threads)
        frames = self._features(X, rows, np.full(len(rows), low), seen.shape[1])
        out = self._outputs(tape, p, np.ascontiguousarray(seen), seen.shape[1], frames=frames, state=state)
        tape.release(out)
        return out.array

    def _log_prob(self, X: Any, per_variable: bool) -> Any:
        terms = [np.empty(n) for n in X.lengths]
        for rows, low, parameters, codes in self._chunks(X):
            each = self._steps.at(parameters.reshape(-1, 1, parameters.shape[2]))  # a row a step: threads share them
            found = each.log_prob(self._steps.values(codes.reshape(-1, 1))).reshape(codes.shape)
            for row, at, part in zip(rows, low, found, strict=True):
                n = max(min(len(part), len(terms[row]) - at), 0)
                terms[row][at : at + n] = part[:n]
        if not per_variable:
            return np.array([ordered_sum(part) for part in terms])
        return np.stack(terms) if self._equal(X) else terms

    def _conditionals(self, X: Any) -> Any:
        if not self._equal(X):
            raise ValueError("conditionals needs sequences of one length")
        parts = np.empty((len(X), int(X.lengths[0]), self._steps.n_parameters), self.dtype)
        for rows, low, parameters, _ in self._chunks(X):
            for row, at, part in zip(rows, low, parameters, strict=True):
                n = max(min(len(part), parts.shape[1] - at), 0)
                parts[row, at : at + n] = part[:n]
        return self._steps.at(parts)

    @staticmethod
    def _equal(X: Any) -> bool:
        lengths = X.lengths
        return bool(len(X) and (lengths == lengths[0]).all())

    def score_samples(  # type: ignore[override]  # no value of a sequence may be missing
        self, X: Any, *, per_variable: bool = False, context: Any = None, local_context: Any = None
    ) -> Any:
        """Log-likelihood of each sequence, exact, in nats: float64 (n_sequences,).

        Sequences pass in chunks, so that memory does not grow with their length; a value depends neither on the
        chunks nor on the sequences beside it, bit for bit.

        Parameters
        ----------
        X : 1-d array, list of 1-d arrays, 2-d array, or text, for a model of text
        per_variable : bool
            The chain rule's terms ``log p(x_t | x_<t)``: (n_sequences, n_steps) for equal lengths, else a list.
        context, local_context : for a model that was fitted with them
        """
        self._check_fitted()
        return self._log_prob(self._known_input(self._with_frames(X, local_context, "X"), context), per_variable)

    def bits_per_step(self, X: Any, *, context: Any = None, local_context: Any = None) -> float:
        """Minus the mean log-likelihood of a step (sample, character), in bits: what an ideal coder would write."""
        rows = self._known_input(self._with_frames(X, local_context, "X"), context)
        not_empty(rows)
        return -ordered_sum(self._log_prob(rows, False)) / float(rows.lengths.sum(dtype=np.int64)) / 0.6931471805599453
