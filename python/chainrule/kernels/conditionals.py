"""Conditional distributions from given parameters: Bernoulli, categorical, mixtures of logistics."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule import _kernels
from chainrule.kernels import elementwise
from chainrule.kernels.views import Array, optional, view


def bernoulli_log_prob(
    logits: Any, x: Any, *, per_variable: bool = False, out: Any = None, n_threads: int | None = None
) -> Array:
    """``log p(x)`` of bits under independent Bernoulli logits, summed over columns unless `per_variable`.

    A term is ``-softplus((1 - 2x) z)``.
    """
    logits, x = view(logits), view(x)
    if out is None:
        out = np.empty(x.shape if per_variable else x.shape[:1])
    log_prob, terms = (None, view(out)) if per_variable else (view(out), None)
    _kernels.bernoulli_log_prob(logits, x, log_prob, terms, n_threads or 0)
    return out  # type: ignore[no-any-return]


def bernoulli_sample(logits: Any, u: Any, *, out: Any = None, n_threads: int | None = None) -> Array:
    """Bits ``x = 1`` where ``u >= sigmoid(-z)``, the rule of every Bernoulli sampler here; uint8."""
    u = view(u)
    if out is None:
        out = np.empty(u.shape, np.uint8)
    _kernels.bernoulli_sample(view(logits), u, view(out), n_threads or 0)
    return out  # type: ignore[no-any-return]


def bernoulli_gradient(
    logits: Any, x: Any, *, weight: Any = None, log_prob: Any = None, out: Any = None, n_threads: int | None = None
) -> tuple[Array, Array]:
    """Log-likelihoods and ``weight_r (sigmoid(z) - x)``, the gradient of ``-sum_r weight_r log p(x_r)`` by the logits.

    Returns ``log_prob, dlogits``: float64 (n_rows,), and `out`, which may be `logits`, replaced by its gradient.
    `weight`, in the precision of the logits, is ``1 / n_rows`` by default.
    """
    logits, x = view(logits), view(x)
    if log_prob is None:
        log_prob = np.empty(x.shape[:1])
    if out is None:
        out = np.empty(logits.shape, logits.dtype)
    _kernels.bernoulli_gradient(logits, x, optional(weight), view(log_prob), view(out), n_threads or 0)
    return log_prob, out


def categorical_log_prob(
    logits: Any,
    x: Any,
    first: Any,
    *,
    reference: Any = None,
    per_variable: bool = False,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """``log p(x)`` of independent columns of values 0..K-1 from their logits, summed unless `per_variable`.

    One value of each column, its `reference`, has logit 0; the others have a logit each, so K = 2 is Bernoulli's and
    K = 1 a constant: ``log p(x = v) = z_v - log(1 + sum_w exp(z_w))``.

    Parameters
    ----------
    logits : (n_rows, n_logits)
        Column i's stand at ``first[i]`` to ``first[i + 1] - 1`` and belong to its codes 1..K-1.
    x : uint8 (n_rows, n_features)
        Values below the K of their columns.
    first : uint32 (n_features + 1,)
        Logits before each column: 0 first, n_logits last; ``K = first[i + 1] - first[i] + 1``, at most 256.
    reference : uint8 (n_features,), optional
        The value of code 0; it and 0 change places, all others are their own codes. 0 by default.
    per_variable : bool
        Return ``log p(x_i)``, (n_rows, n_features), instead of their sum.

    Returns
    -------
    float64 (n_rows,) or (n_rows, n_features), in nats.

    Notes
    -----
    Cost: an exponential a logit, an exponential and a logarithm a column.
    """
    x = view(x)
    if out is None:
        out = np.empty(x.shape if per_variable else x.shape[:1])
    log_prob, terms = (None, view(out)) if per_variable else (view(out), None)
    _kernels.categorical_log_prob(
        view(logits), x, view(first), optional(reference), log_prob, terms, n_threads or 0
    )  # fmt: skip
    return out  # type: ignore[no-any-return]


def categorical_gradient(
    logits: Any,
    x: Any,
    first: Any,
    *,
    reference: Any = None,
    weight: Any = None,
    log_prob: Any = None,
    out: Any = None,
    n_threads: int | None = None,
) -> tuple[Array, Array]:
    """Log-likelihoods and ``weight_r (softmax(z) - onehot(x))``, the gradient of ``-sum_r weight_r log p(x_r)``.

    `logits`, `x`, `first` and `reference` are those of `categorical_log_prob`; `weight`, `out` and what is returned
    those of `bernoulli_gradient`.
    """
    logits, x = view(logits), view(x)
    if log_prob is None:
        log_prob = np.empty(x.shape[:1])
    if out is None:
        out = np.empty(logits.shape, logits.dtype)
    _kernels.categorical_gradient(
        logits, x, view(first), optional(reference), optional(weight), view(log_prob), view(out), n_threads or 0
    )
    return log_prob, out


def categorical_sample(
    logits: Any, u: Any, first: Any, *, reference: Any = None, out: Any = None, n_threads: int | None = None
) -> Array:
    """Values ``x = F^-1(u)``, the smallest v with ``u < p(x <= v)``, uint8; computed in double.

    `u` is float64 (n_rows, n_features) in (0, 1); the other arguments are those of `categorical_log_prob`. F goes up
    the values 0..K-1 whatever their codes.
    """
    u = view(u)
    if out is None:
        out = np.empty(u.shape, np.uint8)
    _kernels.categorical_sample(view(logits), u, view(first), optional(reference), view(out), n_threads or 0)
    return out  # type: ignore[no-any-return]


def default_log_scale_min(n_values: int) -> float:
    """-7 for up to 256 values, as in PixelCNN++, and the same fraction of a bin beyond: ``-7 - log((N - 1) / 255)``.

    A component as narrow as that, 0.23 half bins of 256 values, gives 97 % to the value it sits on.
    """
    return -7.0 - float(elementwise.log(np.array([max(n_values - 1, 255) / 255]))[0])


def logistic_mixture_log_prob(
    parameters: Any,
    x: Any,
    n_values: int,
    n_components: int,
    *,
    log_scale_min: float | None = None,
    per_variable: bool = False,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """``log p(x)`` of independent discretized mixtures of logistics, summed over columns unless `per_variable`.

    ``p(v) = sum_k softmax(pi)_k (sigmoid((x_v + h - mu_k) / s_k) - sigmoid((x_v - h - mu_k) / s_k))`` with value v at
    ``x_v = (2 v - (N - 1)) / (N - 1)`` on [-1, 1] and half a bin ``h = 1 / (N - 1)``; the first value takes the whole
    left tail, the last the whole right one, so the N probabilities sum to 1. Exact for components of any width and
    values however far out: nothing is approximated, clamped or underflows.

    Parameters
    ----------
    parameters : (n_rows, 3 * n_components * n_features)
        Of each variable, one after the other: its K logits, K means, K log-scales.
    x : int32 (n_rows, n_features)
        Values 0..N-1.
    n_values : int
        N, at most 65536. One value is certain, whatever its parameters.
    n_components : int
        K.
    log_scale_min : float, optional
        Log-scales below it, at least -40, count as it; `default_log_scale_min` of N by default.
    per_variable : bool
        Return ``log p(x_i)``, (n_rows, n_features), instead of their sum.

    Returns
    -------
    float64 (n_rows,) or (n_rows, n_features), in nats.

    Notes
    -----
    Cost: six exponentials a component, a logarithm a variable. NaN parameters give NaN. Salimans, Karpathy, Chen &
    Kingma (2017), PixelCNN++.
    """
    x = view(x)
    if out is None:
        out = np.empty(x.shape if per_variable else x.shape[:1])
    log_prob, terms = (None, view(out)) if per_variable else (view(out), None)
    floor = default_log_scale_min(n_values) if log_scale_min is None else log_scale_min
    _kernels.logistic_mixture_log_prob(
        view(parameters), x, n_values, n_components, floor, log_prob, terms, n_threads or 0
    )  # fmt: skip
    return out  # type: ignore[no-any-return]


def logistic_mixture_gradient(
    parameters: Any,
    x: Any,
    n_values: int,
    n_components: int,
    *,
    log_scale_min: float | None = None,
    weight: Any = None,
    log_prob: Any = None,
    out: Any = None,
    n_threads: int | None = None,
) -> tuple[Array, Array]:
    """Log-likelihoods, and the gradient of ``-sum_r weight_r log p(x_r)`` by the parameters.

    Arguments are those of `logistic_mixture_log_prob`; `weight`, `out` (which may be `parameters`) and what is returned
    those of `bernoulli_gradient`. A log-scale below `log_scale_min` has gradient 0.
    """
    parameters, x = view(parameters), view(x)
    if log_prob is None:
        log_prob = np.empty(x.shape[:1])
    if out is None:
        out = np.empty(parameters.shape, parameters.dtype)
    floor = default_log_scale_min(n_values) if log_scale_min is None else log_scale_min
    _kernels.logistic_mixture_gradient(
        parameters, x, n_values, n_components, floor, optional(weight), view(log_prob), view(out), n_threads or 0
    )
    return log_prob, out


def logistic_mixture_sample(
    parameters: Any,
    u: Any,
    n_values: int,
    n_components: int,
    *,
    log_scale_min: float | None = None,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """Values ``x = F^-1(u)``, the smallest v with ``u < p(x <= v)``, int32; computed in double, by bisection.

    `u` is float64 (n_rows, n_features) in (0, 1); the other arguments are those of `logistic_mixture_log_prob`.
    """
    u = view(u)
    if out is None:
        out = np.empty(u.shape, np.int32)
    floor = default_log_scale_min(n_values) if log_scale_min is None else log_scale_min
    _kernels.logistic_mixture_sample(view(parameters), u, n_values, n_components, floor, view(out), n_threads or 0)
    return out  # type: ignore[no-any-return]
