"""How models of y given x score: the steps of y over what is kept of x, pairs side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels
from chainrule.conditionals import Softmax
from chainrule.fit.loop import ordered_sum
from chainrule.models.pair_base import PairBase
from chainrule.models.pairs import Pairs, together
from chainrule.models.sequence_rows import Array
from chainrule.validation import not_empty

Codes = npt.NDArray[np.int32]
LOGITS_AT_ONCE = 1 << 24


class PairScoring(PairBase):
    """Exact log-likelihoods of y given x, and the conditionals of the steps of y."""

    def _chunks(self, X: Pairs) -> Iterator[tuple[Array, int, Array, Codes]]:
        """Rows, a step, logits (rows, steps, V) from there on and what the steps are, of chunk after chunk."""
        network, V = self._network(), self._end + 1
        inputs, target, counts = self.target_.steps(X.target)
        sizes = counts + np.array([len(part) for part in X.source], np.int64)
        for rows in together(np.argsort(-sizes, kind="stable"), sizes):
            memory, T = self._memory([X.source[row] for row in rows]), int(counts[rows].max())
            state, n = self._new_state(len(rows)), len(rows)
            steps = max(LOGITS_AT_ONCE // (n * V), 1)
            for low in range(0, T, steps):
                part = np.ascontiguousarray(inputs[rows, low : min(low + steps, T)])
                logits = kernels.transformer_step(
                    network,
                    part,
                    np.full(n, low, np.uint32),
                    state,
                    cross=memory[0],
                    cross_lengths=memory[1],
                    n_threads=self.n_threads,
                )
                assert logits is not None
                yield rows, low, logits, np.ascontiguousarray(target[rows, low : low + part.shape[1]])

    def _log_prob(self, X: Any, per_variable: bool) -> Any:
        if not len(X):
            return [] if per_variable else np.zeros(0)
        counts = self.target_.steps(X.target)[2]
        terms = np.zeros((len(X), int(counts.max())))
        for rows, low, logits, target in self._chunks(X):
            found = kernels.softmax_log_prob(logits, target, n_threads=self.n_threads)
            terms[rows, low : low + found.shape[1]] = found
        if per_variable:
            return [row[:n].copy() for row, n in zip(terms, counts, strict=True)]
        real = np.arange(terms.shape[1]) < counts[:, None]
        return np.add.accumulate(np.where(real, terms, 0.0), axis=1)[:, -1]

    def score_samples(self, X: Any, y: Any, *, per_variable: bool = False) -> Any:  # type: ignore[override]
        """``log p(y | x)`` of each pair, exact, in nats, the end included: float64 (n_pairs,).

        A value does not depend on the pairs beside it, bit for bit.

        Parameters
        ----------
        X, y : as in `fit`
        per_variable : bool
            The chain rule's terms ``log p(y_t | y_<t, x)``, and that of the end where it is not certain: a list of
            arrays.
        """
        return self._log_prob(self._pairs(X, y), per_variable)

    def score(self, X: Any, y: Any) -> float:  # type: ignore[override]
        """Mean log-likelihood of the pairs, in nats a pair; higher is better."""
        log_prob = self.score_samples(X, y)
        not_empty(log_prob)
        return ordered_sum(log_prob) / len(log_prob)

    def conditionals(self, X: Any, y: Any) -> Softmax:  # type: ignore[override]
        """The distribution of every step of y, all y of one length; code ``target_.n_values`` is the end."""
        pairs = self._pairs(X, y)
        if len({len(part) for part in pairs.target}) != 1:
            raise ValueError("conditionals needs sequences y of one length")
        logits = np.empty((len(pairs), int(self.target_.steps(pairs.target)[2][0]), self._end + 1), self.dtype)
        for rows, low, part, _ in self._chunks(pairs):
            logits[rows, low : low + part.shape[1]] = part
        return Softmax(logits)
