"""Optimizers: a rule, its state, and what every rule may be given beside (decay, clipping, averaging)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels
from chainrule.fit.parameters import Gradient, Parameters, Product

# Rule of the kernel and its customary constants, by name.
OPTIMIZERS: dict[str, tuple[str, dict[str, float]]] = {
    "sgd": ("sgd", {}),
    "momentum": ("momentum", {"beta1": 0.9}),
    "nesterov": ("nesterov", {"beta1": 0.9}),
    "adagrad": ("adagrad", {"epsilon": 1e-10}),
    "rmsprop": ("rmsprop", {"beta2": 0.9, "epsilon": 1e-8}),
    "adadelta": ("adadelta", {"beta2": 0.95, "epsilon": 1e-6}),
    "adam": ("adam", {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}),
    "adamw": ("adam", {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}),
}


class Optimizer:
    """Moves a flat parameter buffer against a gradient, in one fused pass (`kernels.optimizer_step` has the formulas).

    A gradient that `gradient` made may leave matrices as products: their weights move tile by tile while the product
    is made (`kernels.masked_linear_step`), to the same bits.

    Parameters
    ----------
    parameters : Parameters
    name : {"sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw"}
    weight_decay : float
        Decoupled (``p -= rate * weight_decay * p``) for "adamw"; added to the gradient, as L2, for the others.
    clip_norm : float, optional
        The gradient is scaled down to this Euclidean norm over all parameters when it is longer.
    average_decay : float, optional
        d of an exponential average of the parameters: ``a = d_t a + (1 - d_t) p``,
        ``d_t = min(d, (1 + t) / (10 + t))``.
    live : uint64 (n, 2), optional
        Ranges of the flat buffer that have gradients (`Parameters.ranges`); the rest is left alone.
    spared : uint64 (n, 2), optional
        Further ranges, which are moved without weight decay; no product is among them.
    constants : floats
        "beta1" (momentum), "beta2" (decay of squares), "epsilon": the rule's own, by default the customary ones.
    """

    def __init__(
        self,
        parameters: Parameters,
        name: str,
        *,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        average_decay: float | None = None,
        live: npt.NDArray[np.uint64] | None = None,
        spared: npt.NDArray[np.uint64] | None = None,
        n_threads: int | None = None,
        **constants: float,
    ) -> None:
        self.rule, known = OPTIMIZERS[name]
        for constant in constants:
            if constant not in known:
                raise ValueError(
                    f"optimizer {name!r} has no constant {constant!r}; it has {', '.join(known) or 'none'}"
                )
        self.constants = {"beta1": 0.0, "beta2": 0.0, "epsilon": 0.0, **known, **constants}
        self.parameters, self.n_threads = parameters, n_threads
        self.passes = [(live, 1.0)] + ([] if spared is None else [(spared, 0.0)])
        self.decoupled, self.l2 = (weight_decay, 0.0) if name == "adamw" else (0.0, weight_decay)
        self.clip_norm, self.average_decay = clip_norm, average_decay
        self.updates, self.power1, self.power2 = 0, 1.0, 1.0
        n_states = kernels.STATES[self.rule]
        self.s = parameters.like() if n_states > 0 else None
        self.t = parameters.like() if n_states > 1 else None
        self.average = parameters.copy() if average_decay is not None else None
        self.moved = [parameters, self.s, self.t, self.average]
        self.flat = [None if buffer is None else buffer.flat for buffer in self.moved]
        self._rest: dict[tuple[str, ...], list[tuple[npt.NDArray[np.uint64] | None, float]]] = {}

    def gradient(self) -> Parameters:
        """Zeros for a gradient; it takes products, unless the norm of the whole is to be known first."""
        return (
            Gradient(self.parameters.shapes, self.parameters.dtype)
            if self.clip_norm is None
            else self.parameters.like()
        )

    def step(self, gradient: Parameters, learning_rate: float) -> bool:
        """One update; False, and nothing done, when a clipped gradient's norm is not finite."""
        scale = 1.0
        if self.clip_norm is not None:
            norm = float(np.sqrt(kernels.sum_squares(gradient.flat, n_threads=self.n_threads)))
            if not np.isfinite(norm):
                return False
            scale = min(1.0, self.clip_norm / norm) if norm > 0 else 1.0
        self.power1 *= self.constants["beta1"]
        self.power2 *= self.constants["beta2"]
        decay = 0.0
        if self.average_decay is not None:
            decay = min(self.average_decay, (1.0 + self.updates) / (10.0 + self.updates))
        numbers: dict[str, Any] = {
            **self.constants,
            "learning_rate": learning_rate,
            "correction1": 1.0 - self.power1,
            "correction2": 1.0 - self.power2,
            "gradient_scale": scale,
            "average_decay": decay,
            "n_threads": self.n_threads,
        }
        passes = self.passes
        if isinstance(gradient, Gradient) and gradient.products:
            passes = self._step_by_products(gradient.products, numbers)
        p, *states = self.flat
        for live, decayed in passes:
            kernels.optimizer_step(
                self.rule, p, gradient.flat, *states, live=live, weight_decay=self.decoupled * decayed,
                l2=self.l2 * decayed, **numbers,
            )  # fmt: skip
        self.updates += 1
        return True

    def _step_by_products(
        self, products: dict[str, Product], numbers: dict[str, Any]
    ) -> list[tuple[npt.NDArray[np.uint64] | None, float]]:
        """Matrices that are left as products move, and are forgotten; the passes that the others need."""
        for name, (x, dy, mask, db) in products.items():
            W, *states = (None if buffer is None else buffer[name] for buffer in self.moved)
            kernels.masked_linear_step(
                self.rule, W, x, dy, *states, mask=mask, db=db, weight_decay=self.decoupled, l2=self.l2, **numbers
            )
        names = tuple(products)
        products.clear()
        if names not in self._rest:
            (live, decayed), *more = self.passes
            live = self.parameters.ranges({}) if live is None else live
            self._rest[names] = [(self.parameters.outside(live, names), decayed), *more]
        return self._rest[names]

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and numbers that, restored, make the next step the same to the bit."""
        arrays = {name: buffer.flat for name in ("s", "t", "average") if (buffer := getattr(self, name)) is not None}
        return arrays, {"updates": self.updates, "power1": self.power1, "power2": self.power2}

    def restore(self, arrays: dict[str, npt.NDArray[Any]], numbers: dict[str, Any]) -> None:
        """The state that `state` gave."""
        for name in ("s", "t", "average"):
            if (buffer := getattr(self, name)) is not None:
                buffer.flat[:] = arrays[name]
        self.updates, self.power1, self.power2 = numbers["updates"], numbers["power1"], numbers["power2"]
