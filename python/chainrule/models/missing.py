"""Rows with missing values: exact where the missing ones can come last in the order, a labelled estimate elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels, random
from chainrule.fit.loop import ordered_sum
from chainrule.validation import as_matrix, check_int, check_width

if TYPE_CHECKING:
    from chainrule.models.base import AutoregressiveModel

Bits = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


def split(model: AutoregressiveModel, X: Any, name: str) -> tuple[Bits, Bits]:
    """Values, with a valid one where they are missing (NaN), and the mask of those observed."""
    array = as_matrix(X, name).astype(np.float64)
    check_width(array, model.n_features_in_, name, type(model).__name__)
    missing = np.isnan(array)
    return model._input(np.where(missing, 0.0, array), name, model.n_features_in_), (~missing).astype(np.uint8)


def late(model: AutoregressiveModel, observed: Bits) -> npt.NDArray[np.bool_]:
    """Rows that miss a variable before one they know, so that nothing exact can be said of them; (n_rows,)."""
    if model._any_order or not model._ordered:
        return np.zeros(len(observed), np.bool_)
    found = np.zeros(len(observed), np.bool_)
    for chain in model._chains():
        found |= (observed[:, chain[1:]] > observed[:, chain[:-1]]).any(axis=1)
    return found


def refuse_late(model: AutoregressiveModel, observed: Bits, name: str, remedy: str) -> None:
    """The error for rows of which only an estimate can be had; it says which order would do."""
    rows = np.flatnonzero(late(model, observed))
    if not rows.size:
        return
    seen = observed[rows[0]]
    chain, step = next(
        (chain, int(steps[0]))
        for chain in model._chains()
        if (steps := np.flatnonzero(seen[chain][1:] > seen[chain][:-1])).size
    )
    fitting = [*np.flatnonzero(seen).tolist(), *np.flatnonzero(seen == 0).tolist()]
    raise ValueError(
        f"{name} row {rows[0]} misses column {chain[step]} and knows column {chain[step + 1]}, which comes later in "
        f"the order: {remedy}. A model fitted with the observed columns first is exact, here order={fitting}"
    )


def marginals(model: AutoregressiveModel, values: Bits, observed: Bits, context: Any = None) -> Floats:
    """Exact ``log p`` of what each row knows, where its missing values come last: the terms up to them."""
    terms = model._log_prob(model._with_context(values, context), True)
    return np.add.accumulate(np.where(observed == 1, terms, 0.0)[:, model._chain()], axis=1)[:, -1]


def scores(model: AutoregressiveModel, X: Any, context: Any, n_draws: int | None, seed: int) -> tuple[Floats, Floats]:
    """``log p`` of what each row knows, and the standard error of those that are estimates (0: exact).

    An estimate is progressive sampling along the order: draw the missing values, weigh each draw by the likelihood of
    the observed ones it leads to, and take the log of the mean weight. All rows share the uniforms, so that a row's
    estimate does not depend on the rows beside it.
    """
    values, observed = split(model, X, "X")
    if n_draws is None:
        refuse_late(model, observed, "X", "its likelihood can only be estimated, with n_draws=")
        return model._known_log_prob(values, observed, context), np.zeros(len(values))
    check_int("n_draws", n_draws, 2)
    hard = np.flatnonzero(late(model, observed))
    easy = np.setdiff1d(np.arange(len(values)), hard)
    log_prob, error = np.zeros(len(values)), np.zeros(len(values))
    if easy.size:
        log_prob[easy] = model._known_log_prob(values[easy], observed[easy], None if context is None else context[easy])
    for row in hard:
        of_row = None if context is None else context[[row]]
        weights = particles(model, values[row], observed[row], of_row, n_draws, seed, 0)[1]
        largest = weights.max()
        share = kernels.exp(weights - largest)
        mean = ordered_sum(share) / n_draws
        log_prob[row] = largest + float(kernels.log(np.array([mean]))[0])
        spread = ordered_sum((share - mean) * (share - mean)) / (n_draws - 1)
        error[row] = np.sqrt(spread / n_draws) / mean  # of log(mean), by the delta method
    return log_prob, error


def particles(
    model: AutoregressiveModel, values: Bits, observed: Bits, context: Any, n_draws: int, seed: int, start: int
) -> tuple[Bits, Floats]:
    """Completions of one row drawn along the order, and the log-likelihood of its observed values in each.

    Their uniforms are the rows of the seed's table from `start` on.
    """
    if model._n_uniforms != model.n_features_in_:
        raise ValueError("an average over several sets of masks gives no estimate for missing values")
    u = random.uniform_rows(random.key_of(seed, random.MISSING), start, n_draws, model.n_features_in_)
    given, known = (np.repeat(part[None], n_draws, axis=0) for part in (values, observed))
    repeated = None if context is None else np.repeat(context, n_draws, axis=0)
    draws = model._draw(u, given, known, repeated)
    return draws, marginals(model, draws, known, repeated)


def impute(model: AutoregressiveModel, X: Any, context: Any, n_draws: int, n_particles: int | None, seed: int) -> Bits:
    """Completed rows, (n_draws, n_rows, n_features): `AutoregressiveModel.impute` says how."""
    values, observed = split(model, X, "X")
    if n_particles is None:
        refuse_late(model, observed, "X", "its missing values can only be drawn approximately, with n_particles=")
    hard = np.flatnonzero(late(model, observed))
    out = np.empty((n_draws, *values.shape), np.uint8)
    for k in range(n_draws):
        u = random.uniform_rows(random.key_of(seed, random.MISSING), k * len(values), len(values), model._n_uniforms)
        out[k] = model._draw(u, values, observed, context)
    for row in hard:
        assert n_particles is not None
        of_row = None if context is None else context[[row]]
        start = n_draws * len(values) + int(row) * n_particles  # beyond what the completions above took
        draws, weights = particles(model, values[row], observed[row], of_row, n_particles, seed, start)
        upto = np.add.accumulate(kernels.exp(weights - weights.max()))
        u = random.uniform_rows(random.key_of(seed, random.PICK), int(row), 1, n_draws)[0]
        out[:, row] = draws[np.searchsorted(upto, u * upto[-1], side="right").clip(max=n_particles - 1)]
    return out
