"""Pairs of sequences as models of one given the other take them, and what the sequences of a side may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import text
from chainrule.models.sequence_rows import as_codes32, as_sequences
from chainrule.validation import check_int

Codes = npt.NDArray[np.int32]
MOST_VALUES = 1 << 20
STEPS_AT_ONCE = 8192  # of sources and targets, side by side


@dataclass(frozen=True)
class Side:
    """Sequences of tokens 0 .. n_values - 1, at most `longest` of them, or the text that they stand for."""

    text: text.Text | None
    n_values: int
    longest: int
    may_be_empty: bool

    @classmethod
    def of(cls, X: Any, name: str, longest: int | None, *, may_be_empty: bool) -> Side:
        """What the training sequences are."""
        known = text.text_of(X)
        codes = cls(known, MOST_VALUES if known is None else known.n_values, 1 << 62, may_be_empty).codes(X, name)
        most = max([1, *(len(part) for part in codes)]) if longest is None else longest
        values = known.n_values if known else 1 + max([-1, *(int(part.max()) for part in codes if len(part))])
        return cls(known, values, most, may_be_empty)

    def codes(self, X: Any, name: str) -> list[Codes]:
        """The codes of each sequence of `X`, checked."""
        if text.is_text(X):
            X = text.encoded(X, self.text, name)
        elif self.text is not None and len(X):
            raise ValueError(f"{name} must hold text, as in fit")
        codes = as_codes32(as_sequences(X, name, may_be_empty=self.may_be_empty), self.n_values, name)
        for i, part in enumerate(codes):
            if len(part) > self.longest:
                raise ValueError(
                    f"{name} must have sequences of at most {self.longest} tokens; sequence {i} has {len(part)}: the "
                    "longest in training, or max_source and max_target, say how long they may be"
                )
        return codes

    def steps(self, sequences: list[Codes]) -> tuple[Codes, Codes, npt.NDArray[np.int64]]:
        """What a decoder sees before each step, what the step is, (rows, steps), and how many steps each row has.

        The step after the last token is the end, code `n_values`, but after `longest` tokens, where it is certain.
        """
        counts = np.array([min(len(part) + 1, self.longest) for part in sequences], np.int64)
        codes = np.full((len(sequences), 1 + int(counts.max())), -1, np.int32)
        for to, part, n in zip(codes, sequences, counts, strict=True):
            to[n] = self.n_values
            to[1 : 1 + len(part)] = part
        inputs = np.where(np.arange(codes.shape[1] - 1) < counts[:, None], codes[:, :-1], np.int32(-1))
        return inputs, np.maximum(codes[:, 1:], 0), counts

    def given_back(self, codes: list[Codes]) -> list[Any]:
        """As the user's data are: arrays, or text."""
        return list(codes) if self.text is None else [self.text.decode(part) for part in codes]

    def said(self) -> dict[str, Any]:
        """As JSON."""
        return {"text": text.said(self.text), "n_values": self.n_values, "longest": self.longest}

    @classmethod
    def read(cls, saved: Any, *, may_be_empty: bool) -> Side:
        """What `said` gave."""
        known, n_values = text.read(saved["text"]), check_int("n_values", saved["n_values"], 0)
        if n_values > MOST_VALUES or (known is not None and n_values != known.n_values):
            raise ValueError(f"n_values is {n_values}")
        return cls(known, n_values, check_int("longest", saved["longest"], 1), may_be_empty)


@dataclass(frozen=True)
class Pairs:
    """Sequences x with the y that belong to them."""

    source: list[Codes]
    target: list[Codes]
    sides: tuple[Side, Side]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, rows: Any) -> Pairs:
        places = np.arange(len(self))[rows]
        return Pairs([self.source[i] for i in places], [self.target[i] for i in places], self.sides)

    @property
    def shape(self) -> tuple[int, int]:
        """Their number, and 1: the variables of a step."""
        return len(self), 1

    def tobytes(self) -> bytes:
        """Everything in them, for a hash."""
        codes = [*self.source, *self.target]
        return b"".join([np.array([len(part) for part in codes], np.int64).tobytes(), *(c.tobytes() for c in codes)])


def together(order: npt.NDArray[np.intp], sizes: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.intp]]:
    """Rows in this order, as many at once as are `STEPS_AT_ONCE` steps, each as long as the longest; or one."""
    at = 0
    while at < len(order):
        longest = np.maximum.accumulate(sizes[order[at : at + STEPS_AT_ONCE]])
        fit = int(np.count_nonzero(longest * np.arange(1, len(longest) + 1) <= STEPS_AT_ONCE))
        yield order[at : at + max(fit, 1)]
        at += max(fit, 1)
