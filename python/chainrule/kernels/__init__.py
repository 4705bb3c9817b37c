"""The kernels as functions on arrays, without models.

Every function takes NumPy arrays, anything with the buffer protocol, or a CPU tensor with ``__dlpack__`` (PyTorch, JAX,
CuPy on the host), reads it in place and writes into ``out=`` when given. Rows must be contiguous; nothing is converted
or copied, so a wrong dtype is an error. Parameters decide the precision: float32 or float64. ``n_threads=None`` means
`chainrule.set_num_threads`, else ``OMP_NUM_THREADS``, else the cores this process may use; results do not depend on it.

Log-likelihoods are in nats and float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule import _kernels
from chainrule.kernels.masked import (
    MAX_LAYERS as MAX_LAYERS,
)
from chainrule.kernels.masked import (
    Mask,
    Ones,
    encode,
    from_panels,
    masked_linear,
    masked_linear_input_gradient,
    masked_linear_weight_gradient,
    masked_sample,
    permute_panels,
    to_panels,
    unpermute_panels,
)
from chainrule.kernels.views import ACTIVATIONS as ACTIVATIONS
from chainrule.kernels.views import Array, activation_number, optional, view

__all__ = [
    "Mask",
    "Ones",
    "bernoulli_gradient",
    "bernoulli_log_prob",
    "bernoulli_sample",
    "categorical_gradient",
    "categorical_log_prob",
    "categorical_sample",
    "cos",
    "encode",
    "erf",
    "exp",
    "expm1",
    "from_panels",
    "log",
    "log1p",
    "logsumexp",
    "masked_linear",
    "masked_linear_input_gradient",
    "masked_linear_weight_gradient",
    "masked_sample",
    "nade_gradient",
    "nade_logits",
    "nade_sample",
    "nade_score",
    "optimizer_step",
    "permute_panels",
    "sigmoid",
    "sin",
    "softplus",
    "sum_squares",
    "tanh",
    "to_panels",
    "uniforms",
    "unpermute_panels",
]

STATES = {
    "sgd": 0,
    "momentum": 1,
    "nesterov": 1,
    "adagrad": 1,
    "rmsprop": 1,
    "adadelta": 2,
    "adam": 2,
}  # chainrule_rule
FUNCTIONS = ("exp", "expm1", "log", "log1p", "sigmoid", "tanh", "softplus", "erf", "sin", "cos")  # chainrule_function


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
        dW = np.empty(W.shape, W.dtype)
        out = (
            dW,
            dW if V is W else np.empty(W.shape, W.dtype),
            np.empty(b.shape, b.dtype),
            np.empty(c.shape, c.dtype),
        )
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
    if (observed is None) != (given is None):
        raise ValueError("given and observed go together: values, and the mask of those to keep")
    if observed is not None:
        np.copyto(view(out), view(given))
    _kernels.nade_sample(
        u, view(W), view(V), view(b), view(c), activation_number(activation), optional(order), optional(flip),
        optional(observed), view(out), n_threads or 0,
    )  # fmt: skip
    return out  # type: ignore[no-any-return]


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


def optimizer_step(
    rule: str,
    parameters: Any,
    gradient: Any,
    s: Any = None,
    t: Any = None,
    average: Any = None,
    *,
    learning_rate: float,
    beta1: float = 0.0,
    beta2: float = 0.0,
    correction1: float = 1.0,
    correction2: float = 1.0,
    epsilon: float = 0.0,
    weight_decay: float = 0.0,
    l2: float = 0.0,
    gradient_scale: float = 1.0,
    average_decay: float = 0.0,
    live: Any = None,
    n_threads: int | None = None,
) -> None:
    """One update in place on flat arrays, with ``g = gradient_scale * gradient + l2 * parameters``.

    ``parameters -= learning_rate * weight_decay * parameters`` comes first (decoupled decay), then by `rule`

    - "sgd": ``p -= lr g``
    - "momentum": ``s = beta1 s - lr g; p += s``; "nesterov": ``s' = beta1 s - lr g; p += (1 + beta1) s' - beta1 s``
    - "adagrad" (Duchi et al. 2011): ``s += g^2; p -= lr g / (sqrt(s) + epsilon)``
    - "rmsprop": ``s = beta2 s + (1 - beta2) g^2; p -= lr g / sqrt(s + epsilon)``
    - "adadelta" (Zeiler 2012): the same s; ``d = sqrt((t + epsilon) / (s + epsilon)) g``, t alike of d; ``p -= lr d``
    - "adam" (Kingma & Ba 2015): ``s += (1 - beta1)(g - s); t += (1 - beta2)(g^2 - t);
      p -= lr (s / correction1) / (sqrt(t / correction2) + epsilon)`` with ``correction = 1 - beta^step``

    and last ``average += (1 - average_decay)(p - average)`` when it is given. States start at zero (`STATES` says
    how many a rule has). `live`, uint64 (n, 2), holds ascending ranges [begin, end) of the elements that move; the
    others are not touched. Bound by memory: 12 bytes an element in float32 for "sgd", 28 for "adam".
    """
    if rule not in STATES:
        raise ValueError(f"rule must be one of {', '.join(STATES)}, not {rule!r}")
    _kernels.optimizer_step(
        tuple(STATES).index(rule), view(parameters), view(gradient), optional(s), optional(t), optional(average),
        optional(live),
        learning_rate, beta1, beta2, correction1, correction2, epsilon, weight_decay, l2, gradient_scale, average_decay,
        n_threads or 0,
    )  # fmt: skip


def sum_squares(x: Any, *, n_threads: int | None = None) -> float:
    """Sum of squares of a flat array, in double: the square of a gradient's norm."""
    return _kernels.sum_squares(view(x), n_threads or 0)


def logsumexp(x: Any, *, out: Any = None, n_threads: int | None = None) -> Array:
    """``log(sum(exp(x), axis=1))`` of a matrix, without overflow; -inf for rows of -inf."""
    x = view(x)
    if out is None:
        out = np.empty(x.shape[:1], x.dtype)
    _kernels.logsumexp(x, view(out), n_threads or 0)
    return out  # type: ignore[no-any-return]


def uniforms(key: tuple[int, int], first_block: int, n: int, *, out: Any = None, n_threads: int | None = None) -> Array:
    """`n` float64 uniforms in (0, 1) from blocks `first_block`, ... (4 words each) of NumPy's Philox4x64 with this key.

    Each is ``((w >> 12) + 0.5) * 2**-52`` of one raw 64-bit word w, so it depends on (key, position) alone.
    """
    if out is None:
        out = np.empty(n)
    elif len(out) != n:
        raise ValueError(f"out must have n = {n} elements, not {len(out)}")
    _kernels.uniforms(key[0], key[1], first_block, view(out), n_threads or 0)
    return out  # type: ignore[no-any-return]


def _elementwise(index: int, name: str) -> Callable[..., Array]:
    def function(x: Any, *, out: Any = None, n_threads: int | None = None) -> Array:
        x = view(x)
        if out is None:
            out = np.empty(x.shape, x.dtype)
        result = view(out)
        if not (x.flags.c_contiguous and result.flags.c_contiguous):
            raise ValueError("x and out must be C-contiguous")
        if x.shape != result.shape:
            raise ValueError(f"out must have the shape of x, {x.shape}, not {result.shape}")
        _kernels.map(index, x.reshape(-1), result.reshape(-1), n_threads or 0)
        return out  # type: ignore[no-any-return]

    function.__name__ = function.__qualname__ = name
    function.__doc__ = (
        f"``{name}(x)``, elementwise, float32 or float64; the same bits everywhere (error: docs/math.md)."
    )
    return function


exp, expm1, log, log1p, sigmoid, tanh, softplus, erf, sin, cos = (
    _elementwise(i, name) for i, name in enumerate(FUNCTIONS)
)
