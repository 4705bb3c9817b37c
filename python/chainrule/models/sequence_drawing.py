"""How models of sequences draw: from the start or after a prefix, whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import random
from chainrule.models.base import _as_many
from chainrule.models.sequence_rows import Array, Sequences
from chainrule.models.sequence_scoring import STEPS_AT_ONCE, SequenceScoring
from chainrule.validation import check_int

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Job:
    """Sequences to be drawn: their prefixes and contexts, and where their uniforms stand."""

    prefixes: Sequences  # all of one length, which may be 0
    key: random.Key
    start: int
    length: int
    temperature: float

    def rows(self, begin: int, end: int) -> _Job:
        """Some of them."""
        return replace(self, prefixes=self.prefixes[begin:end], start=self.start + begin)


class SequenceDrawing(SequenceScoring):
    """Samples of sequences, each with uniforms of its own; a prefix is read as scoring reads it."""

    def _draw(self, u: Any, given: Any = None, observed: Any = None, context: Any = None) -> Any:
        """Codes from uniforms (rows, steps), from the start."""
        n, length = u.shape
        start = np.full(n, -1, np.int32)

        def part(step: int, steps: int) -> Array:
            return np.ascontiguousarray(u[:, step : step + steps])

        def features(step: int, steps: int) -> tuple[Array, int] | None:
            return self._features(Sequences([], context), np.arange(n), np.full(n, step), steps)

        parts = list(self._generate(part, start, self._new_state(n, length), features, 0, length, length, 1.0))
        return self._steps.values(np.concatenate(parts, axis=1))

    def sample(
        self,
        n_samples: int | None = None,
        length: int | None = None,
        *,
        given: Any = None,
        context: Any = None,
        local_context: Any = None,
        temperature: float = 1.0,
        random_state: Any = None,
        start: int = 0,
    ) -> Any:
        """Sequences start, ..., start + n_samples - 1 of an endless table of samples: (n_samples, length).

        With an int `random_state` sequence k depends on (random_state, k) alone, and its first steps not on `length`.

        Parameters
        ----------
        n_samples : int
            1 by default; with `given` or `context`, its number of rows.
        length : int
            Steps of each, the prefix included; by default that of the training sequences, where they have one.
        given : sequences, or one for all, optional
            Prefixes, all of one length, which the samples continue.
        context, local_context : for a model that was fitted with them, a row each or one for all
        temperature : float
            Logits are divided by it (and scales multiplied): below 1 samples are more likely and less varied. Other
            than 1 they are no longer samples of the model's density.
        random_state, start : as in the other models
        """
        job = self._job(
            n_samples, length, given=given, context=context, local_context=local_context, temperature=temperature,
            random_state=random_state, start=start,
        )  # fmt: skip
        n, at_once = len(job.prefixes), self._drawn_at_once(job.length)
        parts = [
            np.concatenate(list(self._run(job.rows(k, k + at_once), 1 << 16)), axis=1)
            for k in range(0, max(n, 1), at_once)
        ]
        return self._given_back(np.concatenate(parts))

    def stream(
        self,
        n_samples: int | None = None,
        length: int | None = None,
        *,
        given: Any = None,
        context: Any = None,
        local_context: Any = None,
        temperature: float = 1.0,
        random_state: Any = None,
        start: int = 0,
        chunk: int = 1024,
    ) -> Iterator[Any]:
        """The same as `sample`, as it is made: arrays (n_samples, up to `chunk` steps), one after the other."""
        check_int("chunk", chunk, 1)
        job = self._job(
            n_samples, length, given=given, context=context, local_context=local_context, temperature=temperature,
            random_state=random_state, start=start,
        )  # fmt: skip
        for part in self._run(job, chunk):
            yield self._given_back(part)

    def _job(
        self,
        n_samples: int | None,
        length: int | None,
        *,
        given: Any,
        context: Any,
        local_context: Any,
        temperature: float,
        random_state: Any,
        start: int,
    ) -> _Job:
        """What is to be drawn, checked."""
        self._check_fitted()
        length = self.length_ if length is None else length
        if length is None:
            raise ValueError("length must be given: the training sequences were of different lengths")
        check_int("length", length, 1)
        check_int("start", start, 0)
        if not temperature > 0 or not np.isfinite(temperature):
            raise ValueError(f"temperature must be positive, not {temperature!r}")
        prefix = None if given is None else self._input(given, "given", 1).values
        if prefix is not None and not prefix:
            raise ValueError("given must hold at least one sequence")
        if n_samples is None:
            n_samples = max([1] + [len(part) for part in (prefix, context) if part is not None])
        check_int("n_samples", n_samples, 0)
        if prefix is not None:
            if len({len(part) for part in prefix}) > 1 or len(prefix[0]) > length:
                raise ValueError(f"given must be prefixes of one length, at most length = {length}")
            prefix = list(_as_many(np.stack(prefix), n_samples, "given"))
        seen = None if context is None else _as_many(np.asarray(context), n_samples, "context")
        frames = None
        if local_context is not None or bool(getattr(self, "n_local_", 0)):
            one = isinstance(local_context, np.ndarray) and local_context.ndim == 2
            given_frames = [local_context] * n_samples if one else local_context
            blank = Sequences([np.zeros(length, np.int32)] * n_samples)
            frames = self._with_frames(blank, given_frames, "local_context").frames
        if random_state is None and isinstance(self.random_state, int | np.integer):
            random_state = self.random_state
        empty = [np.zeros(0, np.int32)] * n_samples
        prefixes = Sequences(empty if prefix is None else prefix, self._context(seen, n_samples), frames)
        return _Job(prefixes, random.key_of(random_state), start, length, float(temperature))

    def _drawn_at_once(self, length: int) -> int:
        """Sequences that `sample` draws side by side."""
        return 1 << 31

    def _run(self, job: _Job, chunk: int) -> Iterator[Codes]:
        """Codes (rows, steps), part by part."""
        X = job.prefixes
        n, state, low = len(X), self._new_state(len(X), job.length), 0
        rows, codes = np.arange(n), np.full((n, 1), -1, np.int32)
        if n and len(X.values[0]):
            codes = np.concatenate([codes, np.stack(X.values)], axis=1)
            for low in range(0, codes.shape[1] - 1, STEPS_AT_ONCE):
                seen = codes[:, low : low + STEPS_AT_ONCE + 1]
                self._prime(seen[:, :-1], X, low, state)
                for at in range(1, seen.shape[1], chunk):
                    yield seen[:, at : at + chunk]
            low = codes.shape[1] - 1

        def uniforms(step: int, steps: int) -> npt.NDArray[np.float64]:
            return random.uniform_steps(job.key, job.start, n, step, steps)

        def features(step: int, steps: int) -> tuple[Array, int] | None:
            return self._features(X, rows, np.full(n, step), steps)

        last = np.ascontiguousarray(codes[:, -1])
        yield from self._generate(uniforms, last, state, features, low, job.length, chunk, job.temperature)
