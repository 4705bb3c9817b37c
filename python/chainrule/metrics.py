"""What a fitted density is worth, with its uncertainty: likelihood, entropy, KL, and goodness of fit. All in nats.

Maximum likelihood is the minimum of a Kullback-Leibler divergence: for rows from p_data,

``E_data[log p_model(x)] = -H(p_data) - KL(p_data || p_model)``

The first term on the right does not depend on the model, so to raise `held_out` is to lower `kl`; the best possible
score is minus the `entropy` of the truth. Where the truth is a model too, all three are here, and where it is a
`Tabular` one they are exact.

Goodness of fit asks whether rows look like the model's own: `pit` turns them into numbers that are uniform if the model
is right, `pit_test` tests that, and `calibration` asks whether what is predicted with probability 0.3 happens in 30 %.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from chainrule import kernels
from chainrule.fit.loop import ordered_sum
from chainrule.models.tabular import Tabular
from chainrule.random import PIT, key_of, uniform_rows
from chainrule.validation import check_int, not_empty

__all__ = [
    "Calibration",
    "Estimate",
    "PitTest",
    "bits_per_dimension",
    "bits_per_sample",
    "calibration",
    "cross_entropy",
    "entropy",
    "estimate",
    "held_out",
    "kl",
    "kolmogorov_smirnov",
    "pit",
    "pit_test",
    "uniformity",
]

Array: TypeAlias = npt.NDArray[np.float64]
CELLS_AT_ONCE = 65536  # of a table, in an exact expectation
LAGS = 10  # of the chain, in the test of dependence


# ---- likelihood, entropy, divergence


class Estimate(NamedTuple):
    """A mean and its standard error; standard error 0 means exact."""

    mean: float
    standard_error: float

    def __str__(self) -> str:
        mean, error = self
        if error == 0:
            return f"{mean:.4f} (exact)"
        decimals = max(2, 1 - int(f"{error:.1e}"[-3:])) if error < np.inf else 2  # two digits of the error
        return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def estimate(values: Array) -> Estimate:
    """Mean of independent values, and its standard error ``sqrt(sum (v - mean)^2 / (n (n - 1)))``."""
    n = len(values)
    mean = ordered_sum(values) / n
    if n == 1 or not np.isfinite(mean):
        return Estimate(mean, float("nan"))
    return Estimate(mean, float(np.sqrt(ordered_sum((values - mean) * (values - mean)) / (n - 1) / n)))


def held_out(model: Any, X: Any) -> Estimate:
    """Mean log-likelihood of the rows of `X` in nats, with its standard error over rows.

    It estimates ``-H(p_data) - KL(p_data || p_model)``, so no model can have more than minus the entropy of the data.
    """
    values = model.score_samples(X)
    not_empty(values)
    return estimate(values)


def bits_per_dimension(nats: float, n_features: int) -> float:
    """``-nats / (n_features log 2)``: what an ideal coder spends on a variable."""
    return -nats / (n_features * float(kernels.log(np.array([2.0]))[0]))


def bits_per_sample(nats: Array, lengths: Any) -> Estimate:
    """Bits an ideal coder spends on a sample of recordings, all of them together, with the standard error over them.

    The ratio ``R = -sum nats / (sum lengths log 2)``; its error is that of a ratio of means,
    ``sqrt(sum (b - R n)^2 / (k (k - 1))) / mean(n)`` over the k recordings, each of n samples and b bits.

    Parameters
    ----------
    nats : array (n_recordings,)
        Log-likelihoods, as ``score_samples`` gives them.
    lengths : array-like (n_recordings,)
        Samples of each.

    Examples
    --------
    >>> bits_per_sample(kernels.log(np.array([0.25, 0.5])), [2, 1])  # a fair coin, thrown three times
    Estimate(mean=1.0, standard_error=0.0)
    """
    bits = -np.asarray(nats, np.float64) / kernels.log(np.array([2.0]))
    n, k = np.asarray(lengths, np.float64), len(lengths)
    not_empty(n, "lengths")
    total = ordered_sum(n)
    ratio = ordered_sum(bits) / total
    if k == 1 or not np.isfinite(ratio):
        return Estimate(ratio, float("nan"))
    residual = bits - ratio * n
    return Estimate(ratio, float(np.sqrt(ordered_sum(residual * residual) * k / (k - 1))) / total)


def entropy(model: Any, n_samples: int = 10_000, random_state: Any = None) -> Estimate:
    """Entropy of a model, ``H(p) = -E_p[log p(x)]`` in nats.

    Exact for a `Tabular` model (a sum over its cells, standard error 0); otherwise the mean over samples of the model,
    with its standard error. Cost: one `sample` and one `score_samples` of `n_samples` rows.

    Parameters
    ----------
    model : fitted model
    n_samples : int
    random_state : int, Generator, RandomState or None
        Of the samples.

    Examples
    --------
    >>> import numpy as np
    >>> from chainrule import IndependentBernoulli, Tabular
    >>> print(entropy(Tabular(smoothing=0).fit([[0, 0], [0, 1], [1, 0], [1, 1]])))  # two fair coins: 2 log 2
    1.3863 (exact)
    >>> print(entropy(IndependentBernoulli().fit(np.eye(4)), n_samples=1000, random_state=0))  # 4 x 0.6109
    2.458 ± 0.024
    """
    return _expectation(model, lambda x: -model.score_samples(x), n_samples, random_state)


def cross_entropy(p: Any, q: Any, n_samples: int = 10_000, random_state: Any = None) -> Estimate:
    """``-E_p[log q(x)] = H(p) + KL(p || q)`` in nats: what code q spends on rows of p; minus `held_out` in the limit.

    Arguments, exactness and cost are those of `kl`.
    """
    return _expectation(p, lambda x: -q.score_samples(x), n_samples, random_state)


def kl(p: Any, q: Any, n_samples: int = 10_000, random_state: Any = None) -> Estimate:
    """Kullback-Leibler divergence between two models, ``KL(p || q) = E_p[log p(x) - log q(x)]`` in nats.

    Exact for a `Tabular` p (a sum over its cells, standard error 0); otherwise the mean over samples of p, both logs
    at the same samples, so that most of their noise cancels. Infinite where q excludes what p allows.

    Parameters
    ----------
    p, q : fitted models
        Over the same states: q must accept every row that p can draw.
    n_samples : int
        Cost: one `sample` of p, one `score_samples` of p and one of q of this many rows; for a `Tabular` p, scores of
        all cells of positive probability instead.
    random_state : int, Generator, RandomState or None
        Of the samples.

    Examples
    --------
    >>> from chainrule import IndependentBernoulli, Tabular
    >>> truth = Tabular(smoothing=0).fit([[0, 0], [1, 1]])  # two equal bits: log 2 nats of dependence
    >>> print(kl(truth, IndependentBernoulli().fit([[0, 0], [1, 1]])))
    0.6931 (exact)
    """
    return _expectation(p, lambda x: p.score_samples(x) - q.score_samples(x), n_samples, random_state)


def _expectation(p: Any, value: Callable[[npt.NDArray[Any]], Array], n_samples: int, random_state: Any) -> Estimate:
    """``E_p[value(x)]``: over all cells of a table, over samples of any other model."""
    check_int("n_samples", n_samples, 1)
    if not isinstance(p, Tabular):
        return estimate(value(p.sample(n_samples, random_state=random_state)))
    p._check_fitted()
    weight = p.table_.reshape(-1)
    cells, total = np.flatnonzero(weight), 0.0
    for at in range(0, len(cells), CELLS_AT_ONCE):
        part = cells[at : at + CELLS_AT_ONCE]
        total += ordered_sum(weight[part] * value(np.stack(np.unravel_index(part, p.n_values_), axis=1)))
    return Estimate(total / ordered_sum(weight), 0.0)


# ---- goodness of fit


class PitTest(NamedTuple):
    """Tests of PIT values, which the right model makes uniform and independent: small p-values speak against it.

    `statistic` and `p_value` are float64 (n_features,): a Kolmogorov-Smirnov test of each variable. `overall` is the
    p-value of one such test of all values together. `dependence` is that of a test of what the others cannot see,
    correlation between variables: independent pixels may each be right, and the image wrong.
    """

    statistic: Array
    p_value: Array
    overall: float
    dependence: float
    n_rows: int

    def __str__(self) -> str:
        n, worst = len(self.p_value), int(np.argmin(self.p_value))
        smallest = self.p_value[worst]
        return (
            f"p-values of the PIT of {self.n_rows} rows:\n"
            f"  uniform, each      {_shown(smallest)} (smallest of {n}, column {worst}; "
            f"times {n}: {_shown(min(1.0, n * smallest))})\n"
            f"  uniform, together  {_shown(self.overall)}\n"
            f"  independent        {_shown(self.dependence)}"
        )


def _shown(p_value: float) -> str:
    return f"{p_value:.2g}" if p_value > 1e-15 else "< 1e-15"


class Calibration(NamedTuple):
    """Predicted probabilities of a one beside what happened.

    Per variable, float64 (n_features,): `observed` frequency, mean `predicted` probability, and
    ``z = sum_r (x_r - p_r) / sqrt(sum_r p_r (1 - p_r))``, standard normal for the right model where the sum under the
    root exceeds about 5; a variable the model holds for nearly constant gets a large z from its first exception.

    Per bin of predicted probability, all variables together, empty bins left out: `bin_predicted` (mean),
    `bin_observed` (frequency), `bin_error` (its standard error ``sqrt(sum p (1 - p)) / count`` if the model is right)
    and `bin_count`.
    """

    observed: Array
    predicted: Array
    z: Array
    bin_predicted: Array
    bin_observed: Array
    bin_error: Array
    bin_count: npt.NDArray[np.int64]

    def __str__(self) -> str:
        lines = ["predicted  observed ± error      count"]
        for p, x, error, count in zip(*self[3:], strict=True):
            lines.append(f"{p:9.3f}  {x:8.3f} ± {error:<5.3f} {count:>10}")
        worst = int(np.argmax(np.abs(self.z)))
        lines.append(
            f"largest |z| of {len(self.z)} variables: {abs(self.z[worst]):.1f} (column {worst}: "
            f"predicted {self.predicted[worst]:.2g}, observed {self.observed[worst]:.2g})"
        )
        return "\n".join(lines)


def pit(model: Any, X: Any, random_state: Any = None) -> Array:
    """Randomized probability integral transform: float64 (n_rows, n_features), by column, in (0, 1].

    ``u_i = F(x_i- | x_<i) + v_i p(x_i | x_<i)`` with v uniform in (0, 1): where sampling takes u to x, this takes x
    back to the uniforms it may have come from. If the rows come from the model, all entries are independent and
    uniform (Rosenblatt 1952; for discrete data Brockwell 2007); picture: `plots.pit`.

    Parameters
    ----------
    model : fitted model
        With Bernoulli or tabulated conditionals.
    X : array-like (n_rows, n_features)
        Cost: one pass for the conditionals.
    random_state : int, Generator, RandomState or None
        Of v; an int never shares numbers with samples drawn from the same int.

    Examples
    --------
    >>> from chainrule import Tabular
    >>> model = Tabular(smoothing=0).fit([[0, 0], [0, 1], [0, 1], [1, 1]])
    >>> pit(model, [[0, 1], [1, 1]], random_state=0) > [0.75, 1 / 3]  # p(x_1 = 0), p(x_2 = 0 | x_1 = 0)
    array([[False,  True],
           [ True, False]])
    """
    x, conditionals = model._known_input(X), _conditionals(model, X)
    below, mass = _tables_interval(conditionals, x) if isinstance(conditionals, list) else conditionals.interval(x)
    return below + uniform_rows(key_of(random_state, PIT), 0, *below.shape) * mass


def _conditionals(model: Any, X: Any) -> Any:
    """The conditionals of every row, which must exist: nothing follows an impossible beginning."""
    with np.errstate(invalid="ignore"):
        conditionals = model.conditionals(X)
    if isinstance(conditionals, list):
        undefined = np.isnan(np.stack([p[:, 0] for p in conditionals], axis=1)).any(axis=1)
        if undefined.any():
            raise ValueError(
                f"X row {int(undefined.argmax())} leaves the support of the model before its last variable"
            )
    return conditionals


def _tables_interval(tables: list[Array], x: npt.NDArray[Any]) -> tuple[Array, Array]:
    """F(x-) and p(x) of every variable of categories, from its table of probabilities (n_rows, n_values)."""
    rows, below, mass = np.arange(len(x)), np.zeros(x.shape), np.empty(x.shape)
    for i, p in enumerate(tables):
        upto, some = np.add.accumulate(p, axis=1), x[:, i] > 0
        below[some, i] = upto[rows[some], x[some, i] - 1]
        mass[:, i] = p[rows, x[:, i]]
    return below, mass


def kolmogorov_smirnov(u: Array) -> tuple[float, float]:
    """The distance ``D = sup_t |F_n(t) - t|`` of values from the uniform distribution, and its p-value.

    The p-value is Kolmogorov's series ``2 sum_k (-1)^(k-1) exp(-2 k^2 t^2)`` at
    ``t = D (sqrt(n) + 0.12 + 0.11 / sqrt(n))`` (Stephens 1970), close to the exact one from n = 5 on. O(n log n).

    Examples
    --------
    >>> [round(float(value), 4) for value in kolmogorov_smirnov(np.array([0.1, 0.2, 0.25, 0.3, 0.4]))]
    [0.6, 0.031]
    """
    n, k = len(u), np.arange(1.0, 101.0)
    step, u = np.arange(n + 1) / n, np.sort(u)
    distance = float(np.maximum(step[1:] - u, u - step[:-1]).max())
    root = np.sqrt(float(n))
    t = distance * float(root + 0.12 + 0.11 / root)
    if t < 0.2:  # the series converges slowly, and 1 - p < 1e-12
        return distance, 1.0
    sign = np.where(k % 2 == 1, 2.0, -2.0)
    return distance, min(1.0, max(0.0, ordered_sum(sign * kernels.exp(-2.0 * k * k * t * t))))


def pit_test(model: Any, X: Any, random_state: Any = None) -> PitTest:
    """Is every variable of `X` distributed as the model says, given the earlier ones? Arguments are those of `pit`.

    With n variables, a smallest p-value below ``0.05 / n`` is news (Bonferroni). Fitted and tested on the same rows,
    any model looks better than it is: use held-out rows. Cost: that of `pit`, a sort of every column, and 10 passes
    over the table.
    """
    return uniformity(pit(model, X, random_state), getattr(model, "order_", None))


def uniformity(u: Array, order: Any = None) -> PitTest:
    """`pit_test` on PIT values (n_rows, n_features), by column; `order` is the column at each step of the chain.

    The test of dependence adds up the squared correlations of values up to 10 steps of the chain apart. For
    independent values and many rows, ``sum_ij (12 sum_r (u_ri - 1/2) (u_rj - 1/2))^2 / n_rows`` is chi-square with as
    many degrees of freedom as pairs; its p-value is Wilson and Hilferty's (1931).
    """
    not_empty(u)
    statistic, p_value = np.array([kolmogorov_smirnov(column) for column in u.T]).T
    overall = kolmogorov_smirnov(u.reshape(-1))[1]
    return PitTest(statistic, p_value, overall, _dependence(u if order is None else u[:, order]), len(u))


def _dependence(u: Array) -> float:
    centred, pairs, chi2 = u - 0.5, 0, 0.0
    for lag in range(1, min(LAGS, u.shape[1] - 1) + 1):
        z = 12.0 * np.add.accumulate(centred[:, lag:] * centred[:, :-lag])[-1]
        chi2, pairs = chi2 + ordered_sum(z * z) / len(u), pairs + len(z)
    return _chi_square_tail(chi2, pairs) if pairs else 1.0


def _chi_square_tail(chi2: float, freedom: int) -> float:
    """``P(chi-square > chi2)``: its cube root is nearly normal (Wilson & Hilferty 1931)."""
    spread = 2.0 / (9.0 * freedom)
    root = kernels.exp(kernels.log(np.array([chi2 / freedom])) / 3.0)
    return float(0.5 - 0.5 * kernels.erf((root - (1.0 - spread)) / np.sqrt(2.0 * spread))[0])


def calibration(model: Any, X: Any, n_bins: int = 10) -> Calibration:
    """Do the ones of `X` come as often as predicted, per variable and per level of probability?

    Parameters
    ----------
    model : fitted model of bits
    X : array-like (n_rows, n_features)
        Held-out rows. Cost: one pass for the conditionals.
    n_bins : int
        Equal bins of predicted probability over [0, 1].

    Examples
    --------
    >>> from chainrule import IndependentBernoulli
    >>> model = IndependentBernoulli().fit([[0, 1], [1, 1], [0, 1], [0, 0]])  # predicts 0.3 and 0.7
    >>> print(calibration(model, [[0, 1], [1, 0], [1, 0], [0, 0]]))
    predicted  observed ± error      count
        0.300     0.500 ± 0.229          4
        0.700     0.250 ± 0.229          4
    largest |z| of 2 variables: 2.0 (column 1: predicted 0.7, observed 0.25)
    """
    check_int("n_bins", n_bins, 1)
    x = model._known_input(X)
    not_empty(x)
    p = _probability_of_one(_conditionals(model, X))
    n, variance = len(x), p * (1.0 - p)

    ones, expected, spread = x.sum(0, dtype=np.int64), *(np.add.accumulate(a)[-1] for a in (p, variance))
    with np.errstate(divide="ignore", invalid="ignore"):  # a certain prediction: right (0 / 0) or wrong (infinite)
        z = np.nan_to_num((ones - expected) / np.sqrt(spread), nan=0.0, posinf=np.inf, neginf=-np.inf)

    bins = np.minimum((p * n_bins).astype(np.intp), n_bins - 1).reshape(-1)
    count = np.bincount(bins, minlength=n_bins)
    some = count > 0
    hits, sums, spreads = (np.bincount(bins, a.reshape(-1), n_bins)[some] for a in (x, p, variance))
    count = count[some]
    return Calibration(ones / n, expected / n, z, sums / count, hits / count, np.sqrt(spreads) / count, count)


def _probability_of_one(conditionals: Any) -> Array:
    """``p(x_i = 1 | x_<i)``, float64 (n_rows, n_features)."""
    if not isinstance(conditionals, list):
        return kernels.sigmoid(np.ascontiguousarray(conditionals.logits, np.float64))
    if any(p.shape[1] != 2 for p in conditionals):
        raise ValueError("calibration needs variables of two values, 0 and 1")
    return np.stack([p[:, 1] for p in conditionals], axis=1)
