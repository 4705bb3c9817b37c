"""An integer on a scale of N levels: a mixture of logistic distributions, each bin's share of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LogisticMixture:
    """Independent values 0 .. N - 1 given K logistic components each: what a network says of x_i given x_<i.

    ``p(v) = sum_k softmax(pi)_k (sigmoid((x_v + h - mu_k) / s_k) - sigmoid((x_v - h - mu_k) / s_k))``: value v lies at
    ``x_v = (2 v - (N - 1)) / (N - 1)`` on [-1, 1], its bin reaches ``h = 1 / (N - 1)`` to either side, and value 0 and
    N - 1 take the tails beyond them. Parameters of variable i are the columns from ``3 K i`` on: K logits pi, K means
    mu, K log-scales log s, floored at `log_scale_min`.

    Base measure: counting measure on 0 .. N - 1. Log-likelihoods are in nats.

    Salimans, Karpathy, Chen & Kingma (2017), PixelCNN++: a discretized logistic mixture likelihood.
    """

    parameters: npt.NDArray[Any]  # (n_rows, 3 K n_features)
    n_values: int  # N; 256 for pixels, 65536 for 16-bit audio
    n_components: int  # K
    log_scale_min: float | None = None  # kernels.default_log_scale_min(n_values) by default

    @property
    def mean(self) -> Doubles:
        """``sum_v v p(v)``, in levels: exact, which takes N K sigmoids a variable."""
        masses, centre, delta = self._components()
        total, share = np.zeros(masses.shape[:2]), masses / self._sum(masses)[..., None]
        step = max(1, (1 << 18) // max(1, total.size))
        for begin in range(0, self.n_values - 1, step):  # the sum of p(x > v)
            edges = np.arange(begin, min(begin + step, self.n_values - 1)) - (self.n_values - 1) / 2 + 0.5
            for k in range(self.n_components):
                above = kernels.sigmoid((centre[..., k, None] - edges) * delta[..., k, None])
                total += share[..., k] * np.add.accumulate(above, axis=-1)[..., -1]
        return total

    def log_prob(self, x: npt.NDArray[np.int32], *, per_variable: bool = False) -> Doubles:
        """``log p(x)``, exact in the tails and for any scale, summed over columns unless `per_variable`."""
        return kernels.logistic_mixture_log_prob(
            self.parameters,
            x,
            self.n_values,
            self.n_components,
            log_scale_min=self.log_scale_min,
            per_variable=per_variable,
        )

    def sample(self, u: Doubles) -> npt.NDArray[np.int32]:
        """The smallest v with ``u < p(x <= v)``, for uniforms in (0, 1)."""
        return kernels.logistic_mixture_sample(
            self.parameters, u, self.n_values, self.n_components, log_scale_min=self.log_scale_min
        )

    def interval(self, x: npt.NDArray[np.int32]) -> tuple[Doubles, Doubles]:
        """``F(x-)`` and ``p(x)``: `sample` gives x for the uniforms in [F(x-), F(x-) + p(x)), and for no others.

        F is exact: the smallest float64 at which the sampler passes on to the next value. Where values are so rare that
        float64 has no room for them, below 1e-15, p(x) may be 0 beside values that are drawn in their place.
        """
        components = self._components()
        low, high = (self._step(components, v) for v in (x.astype(np.int64) - 1, x.astype(np.int64)))
        return low, high - low

    def _components(self) -> tuple[Doubles, Doubles, Doubles]:
        """``exp(pi - max pi)``, means in levels from the middle, one level over the scale: (n_rows, n_features, K).

        The sampler's own, to the last bit.
        """
        K, N = self.n_components, self.n_values
        floor = kernels.default_log_scale_min(N) if self.log_scale_min is None else self.log_scale_min
        n_rows, n_columns = self.parameters.shape
        parts = self.parameters.reshape(n_rows, n_columns // (3 * K), 3, K)
        logit, mean, log_scale = (parts[:, :, part].astype(np.float64) for part in range(3))
        log_scale = np.maximum(log_scale, float(self.parameters.dtype.type(floor)))
        width = 2.0 / (N - 1) if N > 1 else 1.0
        masses = kernels.exp(np.ascontiguousarray(logit - logit.max(2, keepdims=True)))
        return masses, (N - 1) / 2 * np.clip(mean, -1e18, 1e18), width * kernels.exp(-log_scale)

    @staticmethod
    def _sum(terms: Doubles) -> Doubles:
        """Over components, from the first to the last."""
        return np.add.accumulate(terms, axis=-1)[..., -1]

    def _step(self, components: tuple[Doubles, Doubles, Doubles], v: npt.NDArray[np.int64]) -> Doubles:
        """The smallest uniform for which the sampler gives more than v: 0 for v = -1 and 1 for v = N - 1."""
        masses, centre, delta = components
        total = self._sum(masses)
        edge = (v - (self.n_values - 1) / 2 + 0.5)[..., None]
        upto = self._sum(masses * kernels.sigmoid(np.ascontiguousarray((edge - centre) * delta)))
        step = upto / total  # rounded: the smallest u with u * total >= upto is this one or its neighbour
        step = np.where(step * total < upto, np.nextafter(step, 2.0), step)
        below = np.nextafter(step, -1.0)
        step = np.where((step > 0) & (below * total >= upto), below, step)
        return np.where(v < 0, 0.0, np.where(v >= self.n_values - 1, 1.0, np.minimum(step, 1.0)))
