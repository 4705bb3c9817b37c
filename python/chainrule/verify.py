"""The laws of an autoregressive density, run on a user's own model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import models, random
from chainrule.conditionals import Bernoulli, Categorical, LogisticMixture, Softmax
from chainrule.io import load
from chainrule.models.base import AutoregressiveModel
from chainrule.models.encoder_decoder import EncoderDecoder
from chainrule.models.sequence_rows import Sequences
from chainrule.models.sequences import SequenceModel

ENUMERABLE = 4096  # states of all variables: 12 bits
STEPS = 40  # of a model of sequences
TABLES = 1e-12  # a sampler that adds its own tables up may differ from their quotients by rounding

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Law:
    """One law, whether it held, and what was seen."""

    name: str
    held: bool | None  # None: does not apply to this model
    seen: str

    def __str__(self) -> str:
        mark = {True: "holds", False: "BROKEN", None: "skipped"}[self.held]
        return f"{mark:>7}  {self.name}: {self.seen}"


class Report(list[Law]):
    """The laws in order; true when none is broken."""

    def __bool__(self) -> bool:
        return all(law.held is not False for law in self)

    def __str__(self) -> str:
        return "\n".join(str(law) for law in self)


def verify(model: AutoregressiveModel, *, n_rows: int = 17, random_state: int = 0) -> Report:
    """Check a fitted model of bits or codes against the laws every density here must keep.

    The total probability is 1 (summed over all states up to 4096 of them; every conditional sums to 1 in any case); no
    conditional depends on its own or a later variable, the sampler's conditionals are the scorer's, bit for
    bit; scores and samples are the same bits for any chunks and threads; a saved model reads back as itself.

    A model of sequences is checked on its first steps: 40, or as many as every training sequence had where they were
    fewer. Of a longer receptive field the rest stays unseen. It must have no context.

    Parameters
    ----------
    model : fitted model with Bernoulli, categorical or logistic mixture conditionals, or tables
    n_rows : int
        Sampled rows the laws are tried on.
    random_state : int

    Returns
    -------
    Report
        A list of laws; ``bool(report)`` is False when one is broken, ``print(report)`` shows them.
    """
    if not isinstance(model, AutoregressiveModel) or not model.__sklearn_is_fitted__():
        raise TypeError(f"verify needs a fitted model of this package, not {model!r}")
    if isinstance(model, EncoderDecoder):
        raise TypeError("verify checks densities of rows and of sequences, not p(y | x)")
    model = _rows_of(model)
    n = model.n_features_in_
    order = np.asarray(getattr(model, "order_", np.arange(n))).astype(np.intp)
    rows = model._draw(random.uniform_rows(random.key_of(random_state), 0, n_rows, model._n_uniforms))
    given = _Given.of(model._conditionals(rows), n)
    return Report(
        [
            _normalised(model, rows, given),
            _autoregressive(model, rows, given, order, random_state),
            _cached_equals_naive(model, rows, given, order),
            _independent_of_splits(model, rows),
            _independent_of_threads(model, rows),
            _file_round_trip(model, rows),
        ]
    )


class _FirstSteps:
    """A model of sequences as one of rows of `n` variables."""

    _ordered = True

    def __init__(self, model: Any, n: int) -> None:
        self.model, self.n_features_in_, self._n_uniforms, self.dtype = model, n, n, model.dtype
        self.save, self._draw = model.save, model._draw

    @property
    def n_threads(self) -> Any:
        return self.model.n_threads

    @n_threads.setter
    def n_threads(self, n_threads: int | None) -> None:
        self.model.n_threads = n_threads

    @staticmethod
    def _sequences(rows: Array) -> Sequences:
        return Sequences(list(np.ascontiguousarray(rows, np.int32)))

    def _conditionals(self, rows: Array) -> Any:
        return self.model._conditionals(self._sequences(rows))

    def _log_prob(self, rows: Array, per_variable: bool) -> Any:
        return self.model._log_prob(self._sequences(rows), per_variable)

    def gradient(self, rows: Array) -> Any:
        return self.model.gradient(self._sequences(rows))

    def sample(self, n_samples: int, **options: Any) -> Array:
        return np.asarray(self.model.sample(n_samples, self.n_features_in_, **options))


def _rows_of(model: Any) -> Any:
    """The model itself, or the first steps of a model of sequences."""
    if not isinstance(model, SequenceModel):
        return model
    if getattr(model, "n_context_", 0) or getattr(model, "n_local_", 0):
        raise TypeError(f"verify needs a {type(model).__name__} without a context: it has none to condition on")
    return _FirstSteps(model, min(model.length_ or STEPS, STEPS))


@dataclass(frozen=True)
class _Given:
    """Conditionals of any kind, column by column: what the laws ask of them."""

    conditionals: Any
    n_values: list[int]

    @classmethod
    def of(cls, conditionals: Any, n_features: int) -> _Given:
        if isinstance(conditionals, Bernoulli):
            return cls(conditionals, [2] * n_features)
        if isinstance(conditionals, Categorical):
            return cls(conditionals, conditionals.n_values.tolist())
        if isinstance(conditionals, LogisticMixture | Softmax):
            return cls(conditionals, [conditionals.n_values] * n_features)
        if isinstance(conditionals, list):
            return cls(conditionals, [table.shape[1] for table in conditionals])
        raise TypeError(
            "verify knows Bernoulli, categorical, softmax, logistic mixture and table conditionals, "
            f"not {type(conditionals).__name__}"
        )

    def parameters(self, column: int) -> Array:
        """What the conditional of a column is made of, (n_rows, any)."""
        if isinstance(self.conditionals, list):
            return np.asarray(self.conditionals[column])
        begin, end = column, column + 1
        if isinstance(self.conditionals, Softmax):
            return np.asarray(self.conditionals.logits[:, column])
        if isinstance(self.conditionals, LogisticMixture):
            size = 3 * self.conditionals.n_components
            return np.asarray(self.conditionals.parameters[:, column * size : end * size])
        if isinstance(self.conditionals, Categorical):
            begin, end = (int(k) for k in self.conditionals.first[column : column + 2])
        return np.asarray(self.conditionals.logits[:, begin:end])

    def total(self) -> Array:
        """Sum of every conditional's probabilities, (n_rows, n_features)."""
        if isinstance(self.conditionals, list):
            return np.stack([table.sum(1) for table in self.conditionals], axis=1)
        if isinstance(self.conditionals, Softmax):  # one value of what may be a large vocabulary, and the odds of all
            z = self.conditionals.logits
            top = z.argmax(2).astype(np.int32)
            odds = np.exp(z.astype(np.float64) - z.max(2, keepdims=True)).sum(2)
            return np.asarray(np.exp(self.conditionals.log_prob(top, per_variable=True)) * odds)
        mixture = isinstance(self.conditionals, LogisticMixture)
        n_rows = len(self.conditionals.parameters if mixture else self.conditionals.logits)
        n_values, shape = np.array(self.n_values), (n_rows, len(self.n_values))
        total = np.zeros(shape)
        for value in range(max(self.n_values)):
            x = np.ascontiguousarray(
                np.broadcast_to(np.minimum(value, n_values - 1), shape), np.int32 if mixture else np.uint8
            )
            total += np.where(value < n_values, np.exp(self.conditionals.log_prob(x, per_variable=True)), 0)
        return total

    def edges(self, x: Array) -> tuple[Array, Array]:
        """The first and the last uniform with which each x is drawn."""
        last = np.array(self.n_values) - 1
        above = np.minimum(x + 1, last).astype(x.dtype)
        if isinstance(self.conditionals, list):
            low, end = self._in_table(x) * (1 + TABLES), self._in_table(above) * (1 - TABLES)
            end = np.where(x == last, 1 - TABLES, end)
        else:
            low, end = self.conditionals.interval(x)[0], self.conditionals.interval(above)[0]
            end = np.where(x == last, 1.0, end)
        return np.maximum(low, 2.0**-53), np.nextafter(end, 0)

    def _in_table(self, x: Array) -> Array:
        upto = [np.cumsum(np.column_stack([np.zeros(len(x)), table]), axis=1) for table in self.conditionals]
        return np.stack([table[np.arange(len(x)), x[:, i]] for i, table in enumerate(upto)], axis=1)


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _normalised(model: AutoregressiveModel, rows: Array, given: _Given) -> Law:
    tolerance = 1e-10 if getattr(model, "dtype", "float64") == "float64" else 1e-4
    n_states = 1
    for k in given.n_values:
        n_states *= k
    if n_states <= ENUMERABLE:
        states = np.stack(np.unravel_index(np.arange(n_states), given.n_values), axis=1).astype(rows.dtype)
        total = float(np.exp(model._log_prob(states, False)).sum())
        return Law("probabilities sum to 1", abs(total - 1) < tolerance, f"{n_states} states sum to {total:.12f}")
    error = float(np.abs(given.total() - 1).max())
    return Law(
        "every conditional sums to 1", error < tolerance, f"largest error {error:.1e} over {rows.size} conditionals"
    )


def _autoregressive(model: AutoregressiveModel, rows: Array, given: _Given, order: Array, seed: int) -> Law:
    n = len(order)
    position = np.empty(n, np.intp)
    position[order] = np.arange(n)
    may_see = position[:, None] > position if model._ordered else np.zeros((n, n), bool)
    changeable = [c for c in random.permutation(random.key_of(seed), 1, n).tolist() if given.n_values[c] > 1]
    tried = changeable[: min(n, 64)]
    leaks = 0
    for column in tried:
        k, changed = given.n_values[column], rows.copy()
        changed[:, column] = (rows[:, column].astype(np.int64) + 1 + np.arange(len(rows)) % (k - 1)) % k
        moved = _Given(model._conditionals(changed), given.n_values)
        blind = np.flatnonzero(~may_see[:, column]).tolist()
        leaks += not all(_same(moved.parameters(i), given.parameters(i)) for i in blind)
    seen = f"{len(tried)} of {n} variables changed, {leaks} leaks"
    return Law("no conditional sees its own or a later variable", leaks == 0, seen)


def _cached_equals_naive(model: AutoregressiveModel, rows: Array, given: _Given, order: Array) -> Law:
    # Uniforms at the very edges of each decision: the first that gives the row's value, and the last. The sampler
    # follows a forced path only if each of its conditionals is the scorer's to the last bit.
    differ = np.zeros(rows.shape, bool)
    for u in given.edges(rows):
        differ |= model._draw(np.ascontiguousarray(u[:, order])) != rows
    wrong = int(differ.sum())
    return Law(
        "the sampler's conditionals are the scorer's", wrong == 0, f"{wrong} of {rows.size} edge decisions differ"
    )


def _independent_of_splits(model: AutoregressiveModel, rows: Array) -> Law:
    together = model._log_prob(rows, False)
    single = np.concatenate([model._log_prob(rows[k : k + 1], False) for k in range(len(rows))])
    whole = np.asarray(model.sample(len(rows), random_state=1))
    parts = np.concatenate([model.sample(1, random_state=1, start=k) for k in range(len(rows))])
    held = _same(together, single) and _same(whole, parts)
    return Law(
        "a row does not depend on its batch", held, f"{len(rows)} rows together and one by one: same bits = {held}"
    )


def _independent_of_threads(model: Any, rows: Array) -> Law:
    trained = hasattr(model, "gradient")
    name = "scores and gradients do not depend on threads" if trained else "scores do not depend on threads"
    if not hasattr(model, "n_threads"):
        return Law(name, None, f"{type(model).__name__} does not take a number of threads")
    saved = model.n_threads
    try:
        bits = []
        for threads in (1, 2, 3):
            model.n_threads = threads
            gradient = model.gradient(rows)[1] if trained else {}
            bits.append(model._log_prob(rows, True).tobytes() + b"".join(g.tobytes() for g in gradient.values()))
    finally:
        model.n_threads = saved
    held = bits[0] == bits[1] == bits[2]
    return Law(name, held, f"1, 2 and 3 threads: same bits = {held}")


def _file_round_trip(model: AutoregressiveModel, rows: Array) -> Law:
    name, kind = "a saved model reads back as itself", type(getattr(model, "model", model)).__name__
    if kind not in models.__all__:
        return Law(name, None, f"chainrule.load knows no {kind}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        try:
            model.save(path)
            held = _same(_rows_of(load(path))._log_prob(rows, True), model._log_prob(rows, True))
        except (OSError, ValueError) as error:
            return Law(name, False, str(error))
    return Law(name, held, f"scores of {len(rows)} rows: same bits = {held}")
