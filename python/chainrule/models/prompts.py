"""Prompts: what a user gives a model of tokens to go on with, codes or text of any lengths, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import random, text
from chainrule.kernels.transformer import TransformerNetwork
from chainrule.models.generation import continued
from chainrule.models.sequence_rows import as_codes32, as_sequences
from chainrule.models.sequences import SequenceModel
from chainrule.validation import check_int

Codes = npt.NDArray[np.int32]
NO_START = "this model has no start token: name one when it is read, from_gpt2(path, start=...)"


class Prompted(SequenceModel):
    """A model of sequences that steps over kept keys and values, and so can continue prompts."""

    context_length: int
    start_: int | None  # the token before the first one; -1: none

    def _network(self) -> TransformerNetwork:
        raise NotImplementedError

    def generate(
        self,
        prompts: Any,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        stop: Any = (),
        sliding: bool = False,
        random_state: Any = None,
        start: int = 0,
    ) -> list[Any]:
        """Continuations of prompts of any lengths, in one batch: a list of int32 arrays, or of text.

        A prompt's tokens stand at positions 0, 1, ... of the window, as in other language models; one that is empty is
        a sequence that has not begun. (`sample` draws from the density of `score_samples`, window by window.) Row k
        depends on (random_state, start + k) and its prompt alone, bit for bit, whatever stands beside it.

        Parameters
        ----------
        prompts : list of int arrays or of text, or a single one
            Empty ones need a model with a start: any that was fitted here, or a checkpoint with a start token.
        max_new_tokens : int
        temperature : float
            Logits are divided by it; 0: the most likely token.
        top_k : int
            Only the most likely `top_k` tokens are drawn; 0: all.
        top_p : float
            Of those, only the smallest set of most likely ones whose mass reaches `top_p` (Holtzman et al. 2020).
        stop : tokens, or text of the characters
            A row ends with the first of them.
        sliding : bool
            Go on beyond `context_length`: a full window loses its first half, and the rest is computed anew. Otherwise
            a prompt and `max_new_tokens` that do not fit are an error.
        random_state, start : as in `sample`

        Returns
        -------
        The new tokens of each row, without the prompt, the one that stopped it included.
        """
        choice = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        known = self._prompts(prompts)
        parts = list(self._continued(known, max_new_tokens, choice, stop, sliding, random_state, start))
        rows = [row[row >= 0] for row in np.stack(parts, axis=1)]
        if self.text_ is None:
            return [self._given_back(row[None])[0] for row in rows]
        return [one.add(row, True) for one, row in zip(self._spoken(known), rows, strict=True)]

    def generate_stream(
        self,
        prompts: Any,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        stop: Any = (),
        sliding: bool = False,
        random_state: Any = None,
        start: int = 0,
    ) -> Iterator[Any]:
        """The same as `generate`, token by token: int32 (n_rows,), -1 where a row has ended, or a list of characters.

        A row that has ended has none. The stream ends when all have.
        """
        choice = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        known = self._prompts(prompts)
        parts = self._continued(known, max_new_tokens, choice, stop, sliding, random_state, start)
        if self.text_ is None:
            yield from parts
            return
        spoken = self._spoken(known)
        for k, tokens in enumerate(parts):
            last = (k + 1 == max_new_tokens) | np.isin(tokens, as_stops(stop, self.text_, self.n_values_))
            new = [token[token >= 0] for token in tokens[:, None]]
            yield [one.add(token, bool(end)) for one, token, end in zip(spoken, new, last, strict=True)]

    def _continued(
        self,
        known: list[Codes],
        max_new: int,
        choice: dict[str, Any],
        stop: Any,
        sliding: bool,
        random_state: Any,
        start: int,
    ) -> Iterator[Codes]:
        check_int("max_new_tokens", max_new, 1)
        check_int("start", start, 0)
        if random_state is None and isinstance(self.random_state, int | np.integer):
            random_state = self.random_state
        stops = as_stops(stop, self.text_, self.n_values_)
        most = max(len(prompt) for prompt in known) + max_new
        if not sliding:
            check_room(known, max_new, self.context_length)
        yield from continued(
            self._network(), known, self._new_state(len(known), most), self.context_length, max_new, stops,
            random.key_of(random_state), start, choice, self.n_threads,
        )  # fmt: skip

    def _spoken(self, known: list[Codes]) -> list[text.Spoken]:
        """What reads on after each prompt; -1 stands for no token."""
        assert self.text_ is not None
        return [text.Spoken(self.text_, prompt[prompt >= 0]) for prompt in known]

    def _prompts(self, prompts: Any) -> list[Codes]:
        """Codes of every prompt, the start token for an empty one."""
        self._check_fitted()
        known = text.encoded(prompts, self.text_, "prompts") if text.is_text(prompts) else prompts
        codes = self._encode(as_sequences(known, "prompts", may_be_empty=True), "prompts", True)
        if not codes:
            raise ValueError("prompts must hold at least one prompt; one that is empty is [[]]")
        if any(not len(part) for part in codes) and self.start_ is None:
            raise ValueError(f"prompts holds an empty one, and {NO_START}")
        return [part if len(part) else np.array([self.start_], np.int32) for part in codes]


def as_stops(stop: Any, known: text.Text | None, n_values: int) -> Codes:
    """Codes of the tokens that end a row."""
    if isinstance(stop, str | bytes) or text.is_text(stop):
        parts = [stop] if isinstance(stop, str | bytes) else list(stop)
        return np.concatenate(text.encoded(parts, known, "stop"))
    array = np.atleast_1d(np.asarray(stop))
    return as_codes32([array], n_values, "stop")[0] if array.size else np.zeros(0, np.int32)


def check_room(prompts: list[Codes], max_new: int, context_length: int) -> None:
    """That every prompt and what follows it fit a window."""
    for i, prompt in enumerate(prompts):
        if len(prompt) + max_new - 1 > context_length:
            raise ValueError(
                f"prompts and max_new_tokens must fit context_length = {context_length}: prompt {i} of {len(prompt)} "
                f"tokens and {max_new - 1} that are drawn before the last one do not; sliding=True goes on beyond it"
            )
