"""NADE: score, logits, gradient and sample, of bits and of codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule import _kernels
from chainrule.kernels.views import Array, activation_number, optional, view


def nade_score(
    x: Any,
    W: Any,
    V: Any,
    b: Any,
    c: Any,
    *,
    activation: str = "sigmoid",
    order: Any = None,
    flip: Any = None,
    per_variable: bool = False,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """Log-likelihood of binary rows under NADE (Larochelle & Murray 2011).

    ``a_1 = c``, ``p(x_i = 1 | x_<i) = sigmoid(b_i + V_i . g(a_i))``, ``a_{i+1} = a_i + x_i W_i``.

    Parameters
    ----------
    x : uint8 (n_rows, n_features)
        Bits.
    W, V : (n_features, n_hidden)
        Row i belongs to the i-th variable of the order.
    b, c : (n_features,), (n_hidden,)
    activation : {"sigmoid", "relu", "tanh"}
        g.
    order : uint32 (n_features,), optional
        Column of x at each step; natural by default.
    flip : uint8 (n_features,), optional
        Columns (1) whose complement the parameters speak of: the hidden state moves where ``x XOR flip`` is 1.
    per_variable : bool
        Return ``log p(x_i | x_<i)``, (n_rows, n_features) by column, instead of their sum.

    Returns
    -------
    float64 (n_rows,) or (n_rows, n_features), in nats.

    Notes
    -----
    Cost per row: n_features * n_hidden multiply-adds, and n_hidden activations for every 1 of ``x XOR flip``.
    """
    x, W = view(x), view(W)
    if out is None:
        out = np.empty(x.shape if per_variable else x.shape[:1])
    log_prob, terms = (None, view(out)) if per_variable else (view(out), None)
    _kernels.nade_score(
        x, W, view(V), view(b), view(c), activation_number(activation), optional(order), optional(flip),
        log_prob, terms, None, n_threads or 0,
    )  # fmt: skip
    return out  # type: ignore[no-any-return]


def nade_logits(
    x: Any,
    W: Any,
    V: Any,
    b: Any,
    c: Any,
    *,
    activation: str = "sigmoid",
    order: Any = None,
    flip: Any = None,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """Logits of every conditional, ``log p(x_i = 1 | x_<i) - log p(x_i = 0 | x_<i)``, (n_rows, n_features) by column.

    Arguments and cost are those of `nade_score`; the dtype is that of the parameters.
    """
    x, W = view(x), view(W)
    if out is None:
        out = np.empty(x.shape, W.dtype)
    _kernels.nade_score(
        x, W, view(V), view(b), view(c), activation_number(activation), optional(order), optional(flip),
        None, None, view(out), n_threads or 0,
    )  # fmt: skip
    return out  # type: ignore[no-any-return]


def nade_gradient(
    x: Any,
    W: Any,
    V: Any,
    b: Any,
    c: Any,
    *,
    activation: str = "sigmoid",
    order: Any = None,
    flip: Any = None,
    weight: Any = None,
    log_prob: Any = None,
    out: tuple[Any, Any, Any, Any] | None = None,
    n_threads: int | None = None,
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    """Log-likelihoods and the gradient of ``-sum_r weight_r log p(x_r)``; `weight` is ``1 / n_rows`` by default.

    Returns ``log_prob, (dW, dV, db, dc)``. Passing the same array as W and V means tied weights: dW is the whole
    gradient, and dV the same array. O(n_features * n_hidden) time per row; hidden states are recomputed, not stored.
    """
    x, W, V, b, c = view(x), view(W), view(V), view(b), view(c)
    if log_prob is None:
        log_prob = np.empty(x.shape[:1])
    if out is None:
        out = _like(W, V, b, c)
    dW, dV, db, dc = (view(g) for g in out)
    _kernels.nade_gradient(
        x, W, V, b, c, activation_number(activation), optional(order), optional(flip), optional(weight),
        view(log_prob), dW, dV, db, dc, n_threads or 0,
    )  # fmt: skip
    return log_prob, out


def nade_sample(
    u: Any,
    W: Any,
    V: Any,
    b: Any,
    c: Any,
    *,
    activation: str = "sigmoid",
    order: Any = None,
    flip: Any = None,
    given: Any = None,
    observed: Any = None,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """Rows drawn from NADE by ancestral sampling: ``x_i = 1`` where ``u_i >= p(x_i = 0 | x_<i)``.

    `u` is float64 (n_rows, n_features) in (0, 1), column i for the i-th step of the order; the result is uint8 of the
    same shape, by column. Where `observed` (uint8, same shape) is 1, the value of `given` is taken instead of a draw.
    The cost is that of one `nade_score`: no conditional is computed twice.
    """
    u = view(u)
    if out is None:
        out = np.empty(u.shape, np.uint8)
    _known(out, given, observed)
    _kernels.nade_sample(
        u, view(W), view(V), view(b), view(c), activation_number(activation), optional(order), optional(flip),
        optional(observed), view(out), n_threads or 0,
    )  # fmt: skip
    return out  # type: ignore[no-any-return]


def nade_categorical_score(
    x: Any,
    W: Any,
    V: Any,
    b: Any,
    c: Any,
    first: Any,
    *,
    activation: str = "sigmoid",
    order: Any = None,
    reference: Any = None,
    per_variable: bool = False,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """Log-likelihood of rows of codes under NADE with categorical conditionals.

    ``a_1 = c``, ``z_{i,v} = b_k + V_k . g(a_i)`` for the codes v = 1..K_i - 1 with ``k = first[i] + v - 1``, and
    ``a_{i+1} = a_i + W_k`` for the code v > 0 of x_i. `categorical_log_prob` says what logits mean and what codes are.

    Parameters
    ----------
    x : uint8 (n_rows, n_features)
        Values below the K of their columns.
    W, V : (n_logits, n_hidden)
        Row k belongs to one code of one variable, variables in their order.
    b, c : (n_logits,), (n_hidden,)
    first : uint32 (n_features + 1,)
        Logits before each variable of the order: 0 first, n_logits last; ``K_i = first[i + 1] - first[i] + 1 <= 256``.
    activation : {"sigmoid", "relu", "tanh"}
        g.
    order : uint32 (n_features,), optional
        Column of x at each step; natural by default.
    reference : uint8 (n_features,), optional
        The value of code 0 of each column, which moves no hidden state; best the commonest. 0 by default.
    per_variable : bool
        Return ``log p(x_i | x_<i)``, (n_rows, n_features) by column, instead of their sum.

    Returns
    -------
    float64 (n_rows,) or (n_rows, n_features), in nats.

    Notes
    -----
    Cost per row: n_logits * n_hidden multiply-adds, and n_hidden activations for every value that is not its reference.
    """
    x, W = view(x), view(W)
    if out is None:
        out = np.empty(x.shape if per_variable else x.shape[:1])
    log_prob, terms = (None, view(out)) if per_variable else (view(out), None)
    _kernels.nade_categorical_score(
        x, W, view(V), view(b), view(c), activation_number(activation), optional(order), view(first),
        optional(reference), log_prob, terms, None, n_threads or 0,
    )  # fmt: skip
    return out  # type: ignore[no-any-return]


def nade_categorical_logits(
    x: Any,
    W: Any,
    V: Any,
    b: Any,
    c: Any,
    first: Any,
    *,
    activation: str = "sigmoid",
    order: Any = None,
    reference: Any = None,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """Logits of every conditional, (n_rows, n_logits), column after column, each by code: `categorical_log_prob` reads
    them, with a ``first`` by column.

    Arguments and cost are those of `nade_categorical_score`; the dtype is that of the parameters.
    """
    x, W = view(x), view(W)
    if out is None:
        out = np.empty((*x.shape[:1], *W.shape[:1]), W.dtype)
    _kernels.nade_categorical_score(
        x, W, view(V), view(b), view(c), activation_number(activation), optional(order), view(first),
        optional(reference), None, None, view(out), n_threads or 0,
    )  # fmt: skip
    return out  # type: ignore[no-any-return]


def nade_categorical_gradient(
    x: Any,
    W: Any,
    V: Any,
    b: Any,
    c: Any,
    first: Any,
    *,
    activation: str = "sigmoid",
    order: Any = None,
    reference: Any = None,
    weight: Any = None,
    log_prob: Any = None,
    out: tuple[Any, Any, Any, Any] | None = None,
    n_threads: int | None = None,
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    """Log-likelihoods and the gradient of ``-sum_r weight_r log p(x_r)``; `weight` is ``1 / n_rows`` by default.

    Returns what `nade_gradient` does, tied weights alike; the other arguments are those of `nade_categorical_score`.
    O(n_logits * n_hidden) time per row; hidden states are recomputed, not stored.
    """
    x, W, V, b, c = view(x), view(W), view(V), view(b), view(c)
    if log_prob is None:
        log_prob = np.empty(x.shape[:1])
    if out is None:
        out = _like(W, V, b, c)
    dW, dV, db, dc = (view(g) for g in out)
    _kernels.nade_categorical_gradient(
        x, W, V, b, c, activation_number(activation), optional(order), view(first), optional(reference),
        optional(weight), view(log_prob), dW, dV, db, dc, n_threads or 0,
    )  # fmt: skip
    return log_prob, out


def nade_categorical_sample(
    u: Any,
    W: Any,
    V: Any,
    b: Any,
    c: Any,
    first: Any,
    *,
    activation: str = "sigmoid",
    order: Any = None,
    reference: Any = None,
    given: Any = None,
    observed: Any = None,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """Rows drawn from NADE by ancestral sampling, ``x_i = F^-1(u_i)`` as `categorical_sample` draws.

    `u`, `given` and `observed` are those of `nade_sample`, the other arguments those of `nade_categorical_score`, whose
    cost this has too.
    """
    u = view(u)
    if out is None:
        out = np.empty(u.shape, np.uint8)
    _known(out, given, observed)
    _kernels.nade_categorical_sample(
        u, view(W), view(V), view(b), view(c), activation_number(activation), optional(order), view(first),
        optional(reference), optional(observed), view(out), n_threads or 0,
    )  # fmt: skip
    return out  # type: ignore[no-any-return]


def _like(W: Array, V: Array, b: Array, c: Array) -> tuple[Array, Array, Array, Array]:
    """Empty gradients; one for both of tied weights."""
    dW, dV, db, dc = (np.empty(p.shape, p.dtype) for p in (W, V, b, c))
    return dW, dW if V is W else dV, db, dc


def _known(out: Any, given: Any, observed: Any) -> None:
    """Observed values into `out`, where the kernel reads them."""
    if (observed is None) != (given is None):
        raise ValueError("given and observed go together: values, and the mask of those to keep")
    if observed is not None:
        np.copyto(view(out), view(given))
