"""An update of parameters by their gradient, or by the product that it is."""

from __future__ import annotations

from typing import Any

from chainrule import _kernels
from chainrule.kernels.masked import Mask
from chainrule.kernels.views import optional, view

STATES = {
    "sgd": 0,
    "momentum": 1,
    "nesterov": 1,
    "adagrad": 1,
    "rmsprop": 1,
    "adadelta": 2,
    "adam": 2,
}  # chainrule_rule
RULES = {rule: number for number, rule in enumerate(STATES)}


def _optimizer(
    rule: str,
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
) -> tuple[float, ...]:
    """A rule and its numbers for a kernel, chainrule_optimizer."""
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
    return (
        RULES[rule], learning_rate, beta1, beta2, correction1, correction2, epsilon, weight_decay, l2, gradient_scale,
        average_decay,
    )  # fmt: skip


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
    how many a rule has). `live`, uint64 (n, 2), holds ascending ranges [begin, end) of the elements that move; others
    are not touched. Bound by memory: 12 bytes an element in float32 for "sgd", 28 for "adam".
    """
    optimizer = _optimizer(
        rule, learning_rate, beta1, beta2, correction1, correction2, epsilon, weight_decay, l2, gradient_scale,
        average_decay,
    )  # fmt: skip
    _kernels.optimizer_step(
        optimizer, view(parameters), view(gradient), optional(s), optional(t), optional(average), optional(live),
        n_threads or 0,
    )  # fmt: skip


def masked_linear_step(
    rule: str,
    W: Any,
    x: Any,
    dy: Any,
    s: Any = None,
    t: Any = None,
    average: Any = None,
    *,
    mask: Mask,
    db: Any = None,
    n_threads: int | None = None,
    **numbers: float,
) -> None:
    """`optimizer_step` of the live weights W by their gradient ``x' dy``, which is never written.

    x is (n_rows, n_in) or `Ones`, dy (n_rows, n_out); W, its states and its average stand in panels (`to_panels`),
    alike. ``db`` gets ``sum_r dy_r``. The bits are those of `masked_linear_weight_gradient` and `optimizer_step`, whose
    `numbers` it takes. Cost: n_rows multiply-adds (of `Ones`, additions for the ones alone) for each live weight,
    beside which its bytes come from memory: 24 for "adam" in float32, where a gradient that is written first makes 36.
    """
    optimizer = _optimizer(rule, **numbers)
    sparse = isinstance(x, _kernels.Ones)
    kernel: Any = _kernels.sparse_linear_step if sparse else _kernels.masked_linear_step
    kernel(
        optimizer, mask, x if sparse else view(x), view(dy), view(W), optional(s), optional(t), optional(average),
        optional(db), n_threads or 0,
    )  # fmt: skip


def sum_squares(x: Any, *, n_threads: int | None = None) -> float:
    """Sum of squares of a flat array, in double: the square of a gradient's norm."""
    return _kernels.sum_squares(view(x), n_threads or 0)
