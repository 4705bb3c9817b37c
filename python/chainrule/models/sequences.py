"""What models of sequences share: recordings or texts of any lengths, crops to train on, chunks to score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chainrule import random, text
from chainrule.conditionals.steps import Steps
from chainrule.fit import Parameters
from chainrule.fit.loop import ordered_sum
from chainrule.fit.progress import Unit
from chainrule.models.base import _as_many
from chainrule.models.sequence_rows import Array, Crops, Sequences, as_codes32, as_sequences
from chainrule.models.trained import TrainedModel
from chainrule.ops import Pool, Tape, Variable
from chainrule.validation import check_int, not_empty

if TYPE_CHECKING:
    from typing_extensions import Self

Codes = npt.NDArray[np.int32]
STEPS_AT_ONCE = 8192  # scored in one chunk, over all its sequences


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


class SequenceModel(TrainedModel):
    """A trained model of sequences of any lengths.

    A model file implements `_encode` and `_decode` (between a user's values and int32 codes), `_steps` (the conditional
    of a step), `_window`, `_shapes` and `_initialise`, `_variables`, `_outputs` (the network), `_new_state` and
    `_generate`; `_reach` where windows look further back than one step, else `_pieces`, `_chunks` and `_prime`.
    """

    conditional: str
    hop: int | None = None
    memory_budget: int = 0
    parameters_: Parameters
    n_values_: int
    n_context_: int
    n_local_: int
    length_: int | None  # of every training sequence, when they are as long as each other
    text_: text.Text | None = None  # how the text of the training sequences became codes
    _pool: Pool
    _takes_context = True
    _learned: tuple[str, ...] = ("n_values_", "n_context_", "n_local_", "length_", "history_", "stopped_")

    # ---- what a model implements

    def _encode(self, arrays: list[Array], name: str, fitted: bool) -> list[Codes]:
        raise NotImplementedError

    def _decode(self, codes: Codes) -> Array:
        raise NotImplementedError

    def _values_in(self, values: list[Codes]) -> int:
        """`n_values_` of a model that is fitted to these."""
        raise NotImplementedError

    @property
    def _steps(self) -> Steps:
        raise NotImplementedError

    @property
    def _window(self) -> int:
        """Steps of a training window."""
        raise NotImplementedError

    @property
    def _most_values(self) -> int:
        """That codes may have."""
        raise NotImplementedError

    @property
    def _reach(self) -> int:
        """Steps before the one before x_t that its conditional depends on."""
        return 0

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the parameters, once what decides them is known."""
        raise NotImplementedError

    def _outputs(
        self,
        tape: Tape,
        p: dict[str, list[Variable]],
        codes: Codes,
        n_steps: int,
        *,
        before: npt.NDArray[np.int64] | None = None,
        frames: tuple[Array, int] | None = None,
        state: list[Array] | None = None,
        update: int | None = None,
    ) -> Variable:
        """Parameters of the conditionals of the last `n_steps` steps, (rows, n_steps, P).

        codes: the values before each step, -1 for none. Without a `state` they begin `_reach` steps earlier, and
        `before` says how many of those steps are before the start of each row. A state is what `_new_state` made, and
        is left as the next chunk needs it. frames: features (rows, frames, features), and the first step's place in
        frame 0. update: of the training, for what it draws; None for the gradient of the likelihood itself.
        """
        raise NotImplementedError

    def _new_state(self, n: int, length: int) -> Any:
        """What steps leave for the next ones, of `n` sequences of at most `length` steps that have not begun."""
        raise NotImplementedError

    def _variables(self, gradient: Parameters | None) -> dict[str, list[Variable]]:
        raise NotImplementedError

    def _generate(
        self,
        u_of: Any,
        previous: Codes,
        state: Any,
        features_of: Any,
        low: int,
        high: int,
        chunk: int,
        temperature: float,
    ) -> Iterator[Codes]:
        """Steps [low, high) in chunks, after `previous` and a state: ``u_of(step, n)``, ``features_of(step, n)``."""
        raise NotImplementedError

    # ---- intake

    def _input(self, X: Any, name: str = "X", n_features: int | None = None) -> Any:
        if isinstance(X, Sequences):
            return X
        arrays = as_sequences(text.encoded(X, self.text_, name) if text.is_text(X) else X, name)
        return Sequences(self._encode(arrays, name, n_features is not None))

    def _training_input(self, X: Any, X_val: Any) -> tuple[Any, Any]:
        goes_on = hasattr(self, "n_features_in_")
        if not goes_on:
            if self.text_ is None:
                self.text_ = text.text_of(X)
            if self.text_ is not None and self.conditional != "categorical":
                raise ValueError(f"text needs conditional='categorical', not {self.conditional!r}")
        rows = self._input(X, "X", 1 if goes_on else None)
        held_out = None if X_val is None else self._input(X_val, "X_val", 1)
        not_empty(rows)
        if self.text_ is not None:
            as_codes32(rows.values, self.text_.n_values, "X")
        if held_out is not None:
            not_empty(held_out, "X_val")
            as_codes32(held_out.values, self.n_values_ if goes_on else self._values_in(rows.values), "X_val")
        return rows, held_out

    @staticmethod
    def _with_context(rows: Any, context: Array | None) -> Any:
        return rows if context is None else Sequences(rows.values, context, rows.frames)

    def _remember(self, X: Any, rows: Any) -> None:
        self.n_features_in_ = 1
        lengths = rows.lengths
        self.length_ = int(lengths[0]) if (lengths == lengths[0]).all() else None

    def _known_input(self, X: Any, context: Any = None) -> Any:
        rows = super()._known_input(X, context)
        if getattr(self, "n_local_", 0) and rows.frames is None:
            raise ValueError(f"this {type(self).__name__} was fitted with a local context: local_context= is missing")
        return rows

    def _with_frames(self, X: Any, local_context: Any, name: str, fitted: bool = True) -> Any:
        """Sequences with frames of features, `hop` steps a frame."""
        known = getattr(self, "n_local_", 0) if fitted else None
        if local_context is not None and not self._takes_context:
            raise ValueError(f"{type(self).__name__} takes no context")
        if local_context is None:
            if known:
                raise ValueError(
                    f"this {type(self).__name__} was fitted with a local context: local_context= is missing"
                )
            return X
        if self.hop is None:
            raise ValueError("local_context needs hop, the steps of a frame")
        rows = self._input(X, name, 1 if fitted else None)
        given = [local_context] if isinstance(local_context, np.ndarray) and local_context.ndim == 2 else local_context
        frames = [np.ascontiguousarray(part, self.dtype) for part in given]
        if len(frames) != len(rows):
            raise ValueError(f"local_context must have frames for {len(rows)} sequences, not {len(frames)}")
        for i, (part, values) in enumerate(zip(frames, rows.values, strict=True)):
            needed = -(-len(values) // self.hop)
            if part.ndim != 2 or len(part) < needed:
                raise ValueError(
                    f"local_context must be (frames, features) with {needed} frames of {self.hop} steps for sequence "
                    f"{i} of {len(values)}, not of shape {part.shape}"
                )
            if part.shape[1] != (known or frames[0].shape[1]):
                raise ValueError(f"local_context must have {known or frames[0].shape[1]} features, not {part.shape[1]}")
            if not np.isfinite(part).all():
                raise ValueError(f"local_context must be finite; that of sequence {i} is not")
        return Sequences(rows.values, rows.context, frames)

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

    # ---- training

    def _crops(self, lengths: npt.NDArray[np.int64]) -> Crops:
        """Every sequence in windows, one after the other; the last one of each is shorter."""
        rows, starts, sizes, window = [], [], [], self._window
        for row, length in enumerate(lengths.tolist()):
            for start in range(0, length, window):
                rows.append(row)
                starts.append(start)
                sizes.append(min(window, length - start))
        return Crops(np.array(rows, np.int64), np.array(starts, np.int64), np.array(sizes, np.int64))

    def _moved(self, crops: Crops, lengths: npt.NDArray[np.int64], step: int) -> Crops:
        """The crops of one batch, each moved by up to half a window, drawn for this step, within its sequence."""
        u, window = random.uniform_rows(random.key_of(self._seed, random.PICK), step, 1, len(crops))[0], self._window
        room = np.maximum(lengths[crops.row] - window, 0)
        start = np.clip(crops.start + np.floor((u - 0.5) * window).astype(np.int64), 0, room)
        if self.hop is not None:
            start -= start % self.hop
        return Crops(crops.row, start, np.minimum(window, lengths[crops.row] - start))

    def _pieces(self, lengths: npt.NDArray[np.int64]) -> Crops:
        """What the gradient of whole sequences is a sum over: here they are not cut."""
        return Crops(np.arange(len(lengths)), np.zeros(len(lengths), np.int64), lengths)

    def _training(self, X: Any, weight: npt.NDArray[np.float64] | None) -> Any:
        lengths = X.lengths
        crops = self._crops(lengths)
        scale = np.ones(len(X)) if weight is None else weight * (len(X) / ordered_sum(weight))
        if isinstance(self.random_state, int | np.integer):
            self._seed = int(self.random_state)
        else:
            self._seed = random.key_of(self.random_state, random.PICK)[0]

        def objective(rows: npt.NDArray[np.intp], gradient: Parameters) -> npt.NDArray[np.float64]:
            batch = Crops(crops.row[rows], crops.start[rows], crops.length[rows])
            update = training.optimizer.updates
            batch = self._moved(batch, lengths, update)
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

    @property
    def _of_sound(self) -> bool:
        """Values are samples of sound, not codes."""
        return self.conditional == "mu-law"

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

    def _features(
        self, X: Sequences, rows: Any, first: npt.NDArray[np.int64], n_steps: int
    ) -> tuple[Array, int] | None:
        """Frames of the steps from `first` on of each row: local features beside the row's context."""
        if X.frames is None:
            return None if X.context is None else (X.context[rows].astype(self.dtype)[:, None], 0)
        assert self.hop is not None
        at = int(first[0]) % self.hop  # the same for all rows
        n_frames = (at + n_steps - 1) // self.hop + 1
        parts = np.zeros((len(rows), n_frames, self.n_local_ + self.n_context_), self.dtype)
        for i, row in enumerate(rows):
            known, begin = X.frames[row], int(first[i]) // self.hop
            low, high = max(begin, 0), min(begin + n_frames, len(known))
            if low < high:
                parts[i, low - begin : high - begin, : self.n_local_] = known[low:high]
        if X.context is not None:
            parts[:, :, self.n_local_ :] = X.context[rows][:, None]
        return parts, at

    # ---- densities

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

    # ---- samples

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

    def _given_back(self, codes: Codes) -> Any:
        """As the user's data are: text for a model of text."""
        known = self.text_
        return self._decode(codes) if known is None else [known.decode(row) for row in codes]

    # ---- files

    def _build(self) -> None:
        """An empty parameter buffer."""
        self.parameters_ = Parameters(self._shapes(), self.dtype)
        self._pool = Pool()

    def _state(self) -> dict[str, Any]:
        attributes = {name: getattr(self, name) for name in self._learned}
        if self.text_ is not None:
            attributes["text_"] = text.said(self.text_)
        return {
            "arrays": {name: np.ascontiguousarray(a) for name, a in self.parameters_.items()},
            "attributes": attributes,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._check_options()
        attributes, arrays = state["attributes"], state["arrays"]
        for name in ("n_values_", "n_context_", "n_local_"):
            setattr(self, name, check_int(name, attributes[name], 0))
        if not 1 <= self.n_values_ <= self._most_values:
            raise ValueError("n_values is not what the conditional can have")
        self.text_ = self._of_text(text.read(attributes.get("text_")))
        self.length_ = None if attributes["length_"] is None else check_int("length_", attributes["length_"], 1)
        self.history_, self.stopped_ = attributes["history_"], attributes["stopped_"]
        for name, shape in self._shapes().items():  # before memory for them is asked for
            if arrays[name].shape != shape or arrays[name].dtype != self.dtype:
                raise ValueError(f"{name} is {arrays[name].dtype} of shape {arrays[name].shape}")
        self._build()
        for name, array in self.parameters_.items():
            array[...] = arrays[name]
        self.n_features_in_ = 1

    def _of_text(self, known: text.Text | None) -> text.Text | None:
        """How text becomes codes, checked: every value is a symbol; of tokens there may be fewer."""
        if known is not None:
            fewer = known.n_values < self.n_values_ and not isinstance(known, text.Subwords)
            if fewer or known.n_values > self.n_values_:
                raise ValueError(f"text has {known.n_values} symbols, and the model {self.n_values_} values")
        return known

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pool = Pool()
