"""How models of y given x predict: greedy, by drawing, by beam search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import random
from chainrule.models.beams import best_of_beams
from chainrule.models.generation import continued
from chainrule.models.pair_base import PairBase
from chainrule.models.pairs import together
from chainrule.validation import check_int, check_positive

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


class PairDrawing(PairBase):
    """A y for each x."""

    def predict(self, X: Any) -> list[Any]:
        """The most likely token at each step, y by y (greedy): a list of int32 arrays, or of text."""
        source = self._known_sources(X)
        return self.target_.given_back(self._decoded(source, temperature=0.0))

    def sample(  # type: ignore[override]  # one y for each x
        self,
        X: Any,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        random_state: Any = None,
        start: int = 0,
    ) -> list[Any]:
        """A draw of y for each x, exact: a list of int32 arrays, or of text.

        With an int `random_state`, row k depends on (random_state, start + k) and its x alone.

        Parameters
        ----------
        X : as in `fit`
        temperature, top_k, top_p : as in `Transformer.generate`; by default draws are of the model's density
        random_state, start : as in the other models
        """
        source = self._known_sources(X)
        check_int("start", start, 0)
        if random_state is None and isinstance(self.random_state, int | np.integer):
            random_state = self.random_state
        key = random.key_of(random_state)
        drawn = self._decoded(source, key, start, temperature=temperature, top_k=top_k, top_p=top_p)
        return self.target_.given_back(drawn)

    def beam_search(self, X: Any, n_beams: int = 4, *, length_penalty: float = 0.0) -> tuple[list[Any], Floats]:
        """The best y found for each x by beam search, and its log-likelihood, that of `score_samples` bit for bit.

        At every step each of the `n_beams` unfinished y is weighed as if it ended there, and the `n_beams` likeliest of
        its continuations stay; it ends when no continuation can be better than the best y so far.

        Parameters
        ----------
        X : as in `fit`
        n_beams : int
            The cost is that of so many draws.
        length_penalty : float
            a >= 0 in the ranking of y of n tokens, ``log p(y | x) / ((5 + n) / 6)^a`` (Wu et al. 2016); 0 ranks by
            likelihood, which favours short y.

        Returns
        -------
        y : list of int32 arrays, or of text
        log_prob : float64 (n,)
        """
        source = self._known_sources(X)
        check_int("n_beams", n_beams, 1)
        if length_penalty != 0:
            check_positive("length_penalty", length_penalty)
        network, most = self._network(), self.target_.longest
        found: list[Codes] = []
        scores = [np.zeros(0)]
        for rows in self._in_order(source, n_beams):
            best, log_prob = best_of_beams(
                network,
                self._memory([source[row] for row in rows]),
                self._new_state(len(rows)),
                self._end,
                most,
                n_beams,
                length_penalty,
                self.n_threads,
            )
            found += best
            scores.append(log_prob)
        return self.target_.given_back(found), np.concatenate(scores)

    def _known_sources(self, X: Any) -> list[Codes]:
        self._check_fitted()
        return self.source_.codes(X, "X")

    def _in_order(self, source: list[Codes], each: int = 1) -> Iterator[npt.NDArray[np.intp]]:
        """Rows that are decoded together."""
        sizes = np.array([(len(part) + self.target_.longest) * each for part in source], np.int64)
        return together(np.arange(len(source)), sizes)

    def _decoded(self, source: list[Codes], key: random.Key = (0, 0), start: int = 0, **choice: Any) -> list[Codes]:
        """A y for each x, without its end."""
        network, most, found = self._network(), self.target_.longest, []
        for rows in self._in_order(source):
            parts = continued(
                network,
                [np.full(1, -1, np.int32)] * len(rows),
                self._new_state(len(rows)),
                most,
                most,
                np.full(1, self._end, np.int32),
                key,
                start + int(rows[0]),
                choice,
                self.n_threads,
                memory=self._memory([source[row] for row in rows]),
            )
            tokens = np.stack(list(parts), axis=1)
            found += [row[(row >= 0) & (row != self._end)] for row in tokens]
        return found
