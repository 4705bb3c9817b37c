"""Layers of Transformers: layer norm, GELU, dropout, and the softmax over a vocabulary.

Arrays of any number of axes are rows of their last one, as long as the rows stand at one distance from each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule import _kernels
from chainrule.kernels.views import Array, optional, view

FORMS = ("tanh", "erf")  # chainrule_gelu_form


def _rows(a: Array, name: str) -> Array:
    """The rows of `a` as a matrix, without a copy."""
    if a.ndim == 2:
        return a
    if a.ndim < 1:
        raise ValueError(f"{name} must have at least one axis")
    flat = a.reshape(-1, a.shape[-1]) if a.shape[-1] else a.reshape(0, 0)
    if flat.size and not np.may_share_memory(flat, a):
        raise ValueError(f"{name} must have its rows at one distance from each other")
    return flat


def _same_shape(out: Array, x: Array, name: str = "out", other: str = "x") -> None:
    if out.shape != x.shape:
        raise ValueError(f"{name} must have the shape of {other}, {x.shape}, not {out.shape}")


def _flat(a: Array, name: str) -> Array:
    """All elements of `a` in one piece."""
    if not a.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous")
    return a.reshape(-1)


def layer_norm(
    x: Any,
    gain: Any,
    bias: Any,
    *,
    epsilon: float = 1e-5,
    out: Any = None,
    statistics: Any = None,
    n_threads: int | None = None,
) -> Array:
    """``(x - mean) / sqrt(variance + epsilon) * gain + bias`` of every row (Ba, Kiros & Hinton 2016).

    Parameters
    ----------
    x : (..., n)
        float32 or float64.
    gain, bias : (n,)
    epsilon : float
        Positive.
    out : (..., n), optional
        May be `x`.
    statistics : (n_rows, 2), optional
        Gets each row's mean and ``1 / sqrt(variance + epsilon)``, which the gradient wants.

    Returns
    -------
    (..., n). Cost: one read and one write of memory.
    """
    x = view(x)
    if out is None:
        out = np.empty(x.shape, x.dtype)
    y = view(out)
    _same_shape(y, x)
    _kernels.layer_norm(
        _rows(x, "x"), view(gain), view(bias), epsilon, _rows(y, "out"), optional(statistics), n_threads or 0
    )
    return out  # type: ignore[no-any-return]


def layer_norm_gradient(
    x: Any,
    gain: Any,
    statistics: Any,
    dy: Any,
    *,
    addend: Any = None,
    dx: Any,
    dgain: Any,
    dbias: Any,
    n_threads: int | None = None,
) -> None:
    """Gradients of `layer_norm` into `dx`, `dgain` and `dbias`.

    Parameters
    ----------
    x, dy : (n_rows, n)
        What was normalised, and the gradient of the result.
    gain : (n,)
    statistics : (n_rows, 2)
        Of the forward pass.
    addend : (n_rows, n), optional
        Added to dx: the gradient that goes past the norm.
    dx : (n_rows, n)
        May be `dy` or `addend`.
    dgain, dbias : (n,)

    Notes
    -----
    Cost: two or three reads and one write of memory.
    """
    _kernels.layer_norm_gradient(
        view(x), view(gain), view(statistics), view(dy), optional(addend), view(dx), view(dgain), view(dbias),
        n_threads or 0,
    )  # fmt: skip


def _form_number(form: str) -> int:
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
    return FORMS.index(form)


def gelu(x: Any, *, form: str = "tanh", out: Any = None, n_threads: int | None = None) -> Array:
    """``x Phi(x)`` with the normal distribution function Phi, elementwise (Hendrycks & Gimpel 2016).

    ``form="erf"`` is exact, ``"tanh"`` the form of GPT-2, ``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``. Error:
    docs/math.md. `out` may be `x`.
    """
    x = view(x)
    if out is None:
        out = np.empty(x.shape, x.dtype)
    y = view(out)
    _same_shape(y, x)
    _kernels.gelu(_form_number(form), _flat(x, "x"), _flat(y, "out"), n_threads or 0)
    return out  # type: ignore[no-any-return]


def gelu_gradient(x: Any, dy: Any, *, form: str = "tanh", out: Any = None, n_threads: int | None = None) -> Array:
    """``dy`` times the slope of `gelu` at x; `out` may be `dy`."""
    x, dy = view(x), view(dy)
    if out is None:
        out = np.empty(x.shape, x.dtype)
    dx = view(out)
    _same_shape(dy, x, "dy")
    _same_shape(dx, x)
    _kernels.gelu_gradient(_form_number(form), _flat(x, "x"), _flat(dy, "dy"), _flat(dx, "out"), n_threads or 0)
    return out  # type: ignore[no-any-return]


def dropout(
    x: Any, key: tuple[int, int], first_block: int, rate: float, *, out: Any = None, n_threads: int | None = None
) -> Array:
    """``x / (1 - rate)``, or 0 with probability `rate`, elementwise (Srivastava et al. 2014).

    Which elements are dropped depends on their place, `key` and `first_block` alone, so the gradient is the same call
    on dy: element i is where the i-th 16 bits of NumPy's ``Philox(key=key)`` from block `first_block` on (4 words, 16
    elements each; low bits first) are below ``round(65536 rate)``. `out` may be `x`.

    Parameters
    ----------
    rate : float
        At least 0 and below 1.
    """
    x = view(x)
    if out is None:
        out = np.empty(x.shape, x.dtype)
    y = view(out)
    _same_shape(y, x)
    _kernels.dropout(_flat(x, "x"), key[0], key[1], first_block, rate, _flat(y, "out"), n_threads or 0)
    return out  # type: ignore[no-any-return]


def softmax_log_prob(logits: Any, target: Any, *, out: Any = None, n_threads: int | None = None) -> Array:
    """``log softmax(logits)[target]`` of every row, in nats.

    Parameters
    ----------
    logits : (..., n_values)
        A logit for every value, float32 or float64.
    target : int32 (...)
        From 0 to n_values - 1.

    Returns
    -------
    float64 (...). Cost: an exponential a logit, a logarithm a row.
    """
    logits, target = view(logits), view(target)
    if out is None:
        out = np.empty(target.shape)
    _same_shape(view(out), target, "out", "target")
    _kernels.softmax_log_prob(_rows(logits, "logits"), _flat(target, "target"), _flat(view(out), "out"), n_threads or 0)
    return out  # type: ignore[no-any-return]


def softmax_gradient(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    log_prob: Any = None,
    out: Any = None,
    n_threads: int | None = None,
) -> tuple[Array, Array]:
    """Log-likelihoods and ``weight_r (softmax - onehot)``, the gradient of ``-sum_r weight_r log p(target_r)``.

    `logits` and `target` are those of `softmax_log_prob`. Returns ``log_prob, dlogits``: float64 (...), and `out`,
    which may be `logits`, replaced by its gradient, without another array of their size. `weight` (...), in the
    precision of the logits, is ``1 / n_rows`` by default; a row of weight 0 gets zeros.
    """
    logits, target = view(logits), view(target)
    if log_prob is None:
        log_prob = np.empty(target.shape)
    if out is None:
        out = np.empty(logits.shape, logits.dtype)
    d = view(out)
    _same_shape(d, logits, "out", "logits")
    _same_shape(view(log_prob), target, "log_prob", "target")
    weights = None if weight is None else _flat(view(weight), "weight")
    _kernels.softmax_gradient(
        _rows(logits, "logits"), _flat(target, "target"), weights, _flat(view(log_prob), "log_prob"), _rows(d, "out"),
        n_threads or 0,
    )  # fmt: skip
    return log_prob, out


def softmax_sample(
    logits: Any,
    u: Any,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """A value of every row from a uniform: the smallest v with ``u < p(value <= v)`` among those that stay, int32.

    Values are in order of likelihood; of equal logits the lower value comes first.

    Parameters
    ----------
    logits : (..., n_values)
        Up to 2^22 values; -inf is a value that is never drawn.
    u : float64 (...)
        In (0, 1).
    temperature : float
        Divides the logits; 0 takes the most likely value.
    top_k : int
        So many of the most likely values stay; 0: all.
    top_p : float
        Of those, the fewest most likely ones whose probabilities, at this temperature, reach `top_p` together (Holtzman
        et al. 2020): the value that crosses it stays.

    Notes
    -----
    Cost: an exponential of double a value; limits some walks over the row.
    """
    logits, u = view(logits), view(u)
    if out is None:
        out = np.empty(u.shape, np.int32)
    _same_shape(view(out), u, "out", "u")
    _kernels.softmax_sample(
        _rows(logits, "logits"), _flat(u, "u"), temperature, top_k, top_p, _flat(view(out), "out"), n_threads or 0
    )
    return out  # type: ignore[no-any-return]
