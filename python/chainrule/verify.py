"""The laws of an autoregressive density, run on a user's own model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels, random
from chainrule.io import load
from chainrule.models.base import AutoregressiveModel
from chainrule.models.nade import NADE

ENUMERABLE = 12  # variables: 4096 states


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


def verify(model: NADE, *, n_rows: int = 17, random_state: int = 0) -> Report:
    """Check a fitted model of bits against the laws every density here must keep.

    The total probability is 1 (summed over all states up to 12 variables; every conditional sums to 1 in any case); no
    conditional depends on its own or a later variable, the sampler's conditionals are the scorer's, bit for
    bit; scores and samples are the same bits for any chunks and threads; a saved model reads back as itself.

    Parameters
    ----------
    model : fitted model with Bernoulli conditionals
    n_rows : int
        Sampled rows the laws are tried on.
    random_state : int

    Returns
    -------
    Report
        A list of laws; ``bool(report)`` is False when one is broken, ``print(report)`` shows them.
    """
    if not isinstance(model, AutoregressiveModel) or not hasattr(model, "order_"):
        raise TypeError(f"verify needs a fitted model with an order of variables, not {model!r}")
    n, order = model.n_features_in_, model.order_.astype(np.intp)
    rows = model._draw(random.uniform_rows(random.key_of(random_state), 0, n_rows, n))
    logits = model._conditionals(rows).logits
    return Report(
        [
            _normalised(model, rows),
            _autoregressive(model, rows, logits, order, random_state),
            _cached_equals_naive(model, rows, logits, order),
            _independent_of_splits(model, rows),
            _independent_of_threads(model, rows),
            _file_round_trip(model, rows),
        ]
    )


def _same(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _normalised(model: NADE, rows: npt.NDArray[np.uint8]) -> Law:
    n, tolerance = model.n_features_in_, 1e-10 if model.dtype == "float64" else 1e-4
    if n <= ENUMERABLE:
        states = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.uint8)
        total = float(np.exp(model._log_prob(states, False)).sum())
        return Law("probabilities sum to 1", abs(total - 1) < tolerance, f"{2**n} states sum to {total:.12f}")
    logits = model._conditionals(rows).logits
    zero, one = (kernels.bernoulli_log_prob(logits, np.full_like(rows, v), per_variable=True) for v in (0, 1))
    error = float(np.abs(np.exp(zero) + np.exp(one) - 1).max())
    return Law(
        "every conditional sums to 1", error < tolerance, f"largest error {error:.1e} over {rows.size} conditionals"
    )


def _autoregressive(
    model: NADE, rows: npt.NDArray[np.uint8], logits: npt.NDArray[Any], order: npt.NDArray[np.intp], seed: int
) -> Law:
    n = len(order)
    position = np.empty(n, np.intp)
    position[order] = np.arange(n)
    tried = random.permutation(random.key_of(seed), 1, n)[: min(n, 64)]
    changed = rows.copy()
    leaks = 0
    for column in tried:
        changed[:, column] ^= 1
        fixed = position <= position[column]
        leaks += not _same(model._conditionals(changed).logits[:, fixed], logits[:, fixed])
        changed[:, column] ^= 1
    seen = f"{len(tried)} of {n} variables flipped, {leaks} leaks"
    return Law("no conditional sees its own or a later variable", leaks == 0, seen)


def _cached_equals_naive(
    model: NADE, rows: npt.NDArray[np.uint8], logits: npt.NDArray[Any], order: npt.NDArray[np.intp]
) -> Law:
    # Uniforms at the very edge of each decision: u = p(x = 0) gives 1, the number below gives 0. The sampler follows a
    # forced path only if each of its conditionals is the scorer's to the last bit.
    edge = kernels.sigmoid(-np.asarray(logits, np.float64))
    u = np.ascontiguousarray(np.where(rows == 1, edge, np.nextafter(edge, 0))[:, order])
    wrong = int((model._draw(u) != rows).sum())
    return Law(
        "the sampler's conditionals are the scorer's", wrong == 0, f"{wrong} of {rows.size} edge decisions differ"
    )


def _independent_of_splits(model: NADE, rows: npt.NDArray[np.uint8]) -> Law:
    together = model._log_prob(rows, False)
    single = np.concatenate([model._log_prob(rows[k : k + 1], False) for k in range(len(rows))])
    whole = model.sample(len(rows), random_state=1)
    parts = np.concatenate([model.sample(1, random_state=1, start=k) for k in range(len(rows))])
    held = _same(together, single) and _same(whole, parts)
    return Law(
        "a row does not depend on its batch", held, f"{len(rows)} rows together and one by one: same bits = {held}"
    )


def _independent_of_threads(model: NADE, rows: npt.NDArray[np.uint8]) -> Law:
    saved = model.n_threads
    try:
        bits = []
        for threads in (1, 2, 3):
            model.n_threads = threads
            bits.append(
                model._log_prob(rows, True).tobytes() + b"".join(g.tobytes() for g in model.gradient(rows)[1].values())
            )
    finally:
        model.n_threads = saved
    held = bits[0] == bits[1] == bits[2]
    return Law("scores and gradients do not depend on threads", held, f"1, 2 and 3 threads: same bits = {held}")


def _file_round_trip(model: NADE, rows: npt.NDArray[np.uint8]) -> Law:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        try:
            model.save(path)
            held = _same(load(path)._log_prob(rows, True), model._log_prob(rows, True))
        except (OSError, ValueError) as error:
            return Law("a saved model reads back as itself", False, str(error))
    return Law("a saved model reads back as itself", held, f"scores of {len(rows)} rows: same bits = {held}")
