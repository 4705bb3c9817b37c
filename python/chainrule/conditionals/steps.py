"""The conditional of a step, for networks over sequences: from parameters to a distribution and its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chainrule import kernels
from chainrule.conditionals.categorical import Categorical, count_values, starts
from chainrule.conditionals.logistic_mixture import LogisticMixture
from chainrule.conditionals.softmax import Softmax

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.int32]


class Steps(Protocol):
    """What a model of sequences asks of a conditional."""

    @property
    def n_values(self) -> int:
        """K, or N."""
        ...

    @property
    def n_parameters(self) -> int:
        """Numbers a step."""
        ...

    @property
    def in_place(self) -> bool:
        """Whether the gradient may take the place of the parameters."""
        ...

    def at(self, parameters: Array) -> Any:
        """The conditionals of (rows, steps, n_parameters), a column a step."""
        ...

    def values(self, codes: Codes) -> Array:
        """Codes as the conditional's kernels take them."""
        ...

    def gradient(
        self, parameters: Array, codes: Codes, weight: Array, out: Array, n_threads: int | None
    ) -> npt.NDArray[np.float64]:
        """Log-likelihoods of n steps; `out` gets the gradient of ``-sum_n weight_n log p_n``."""
        ...


class DrawnSteps(Steps, Protocol):
    """What a Transformer asks beside that."""

    def draw(self, parameters: Array, u: npt.NDArray[np.float64], temperature: float) -> Codes:
        """A value of each row of parameters."""
        ...


class WaveSteps(Steps, Protocol):
    """What WaveNet asks beside that."""

    @property
    def n_components(self) -> int:
        """Of a mixture; 0 for codes, whose input is an embedding."""
        ...

    def initial(self, codes: Codes) -> npt.NDArray[np.float64]:
        """Parameters that fit the values without looking at what is before them."""
        ...

    def inputs(self, codes: Codes) -> Array:
        """What the network sees of values, -1 for none: table rows, or levels on [-1, 1] and NaN."""
        ...


@dataclass(frozen=True)
class CategoricalSteps:
    """Codes 0 .. n_values - 1, each by a logit; that of code 0 is 0."""

    n_values: int
    n_components: int = 0
    in_place: bool = False

    @property
    def n_parameters(self) -> int:
        """One logit fewer than values."""
        return self.n_values - 1

    def initial(self, codes: Codes) -> npt.NDArray[np.float64]:
        """The logits of their frequencies."""
        return Categorical.marginal_logits(count_values(codes.astype(np.uint8)[:, None], [self.n_values]))

    def inputs(self, codes: Codes) -> Array:
        """Rows of an embedding."""
        return codes

    def values(self, codes: Codes) -> Array:
        """As bytes."""
        return codes.astype(np.uint8)

    def at(self, parameters: Array) -> Categorical:
        """A column of each step."""
        rows, steps, _ = parameters.shape
        return Categorical(parameters.reshape(rows, -1), starts(np.full(steps, self.n_values)))

    def gradient(
        self, parameters: Array, codes: Codes, weight: Array, out: Array, n_threads: int | None
    ) -> npt.NDArray[np.float64]:
        """As `Steps.gradient`."""
        log_prob, _ = kernels.categorical_gradient(
            parameters,
            self.values(codes)[:, None],
            starts([self.n_values]),
            weight=weight,
            out=out,
            n_threads=n_threads,
        )
        return log_prob


@dataclass(frozen=True)
class MixtureSteps:
    """Levels 0 .. n_values - 1 of a scale, by a discretized mixture of logistics."""

    n_values: int
    n_components: int
    in_place: bool = False

    @property
    def n_parameters(self) -> int:
        """A logit, a mean and a log-scale for each component."""
        return 3 * self.n_components

    def initial(self, codes: Codes) -> npt.NDArray[np.float64]:
        """Means spread over two deviations of the levels to either side of their mean, as wide as they are apart."""
        K, x = self.n_components, self.inputs(codes)
        mean = np.add.accumulate(x)[-1] / len(x)
        deviation = np.sqrt(np.add.accumulate((x - mean) * (x - mean))[-1] / len(x)) + 1.0 / self.n_values
        places = mean + deviation * (np.arange(K) + 0.5 - K / 2) * (4.0 / K)
        width = kernels.log(np.full(1, deviation / K))
        return np.concatenate([np.zeros(K), places, np.repeat(width, K)])

    def inputs(self, codes: Codes) -> Array:
        """Places on [-1, 1], NaN for none."""
        last = float(max(self.n_values - 1, 1))
        return np.where(codes < 0, np.nan, (2.0 * codes - (self.n_values - 1)) / last)

    def values(self, codes: Codes) -> Array:
        """As they are."""
        return codes

    def at(self, parameters: Array) -> LogisticMixture:
        """A column of each step."""
        return LogisticMixture(parameters.reshape(len(parameters), -1), self.n_values, self.n_components)

    def draw(self, parameters: Array, u: npt.NDArray[np.float64], temperature: float) -> Codes:
        """With logits divided by the temperature and scales multiplied."""
        if temperature != 1:
            K, kind = self.n_components, parameters.dtype.type
            parameters = parameters.copy()
            parameters[:, :K] /= kind(temperature)
            parameters[:, 2 * K :] += kind(kernels.log(np.full(1, temperature))[0])
        return kernels.logistic_mixture_sample(parameters, u[:, None], self.n_values, self.n_components)[:, 0]

    def gradient(
        self, parameters: Array, codes: Codes, weight: Array, out: Array, n_threads: int | None
    ) -> npt.NDArray[np.float64]:
        """As `Steps.gradient`."""
        log_prob, _ = kernels.logistic_mixture_gradient(
            parameters, codes[:, None], self.n_values, self.n_components, weight=weight, out=out, n_threads=n_threads
        )
        return log_prob


@dataclass(frozen=True)
class SoftmaxSteps:
    """Codes 0 .. n_values - 1 of any vocabulary, each by a logit."""

    n_values: int
    in_place: bool = True  # logits may be what most of the memory goes to

    @property
    def n_parameters(self) -> int:
        """A logit for each value."""
        return self.n_values

    def values(self, codes: Codes) -> Array:
        """As they are."""
        return codes

    def at(self, parameters: Array) -> Softmax:
        """A column of each step."""
        return Softmax(parameters)

    def draw(self, parameters: Array, u: npt.NDArray[np.float64], temperature: float) -> Codes:
        """With logits divided by the temperature."""
        return kernels.softmax_sample(parameters, u, temperature=temperature)

    def gradient(
        self, parameters: Array, codes: Codes, weight: Array, out: Array, n_threads: int | None
    ) -> npt.NDArray[np.float64]:
        """As `Steps.gradient`."""
        log_prob, _ = kernels.softmax_gradient(parameters, codes, weight=weight, out=out, n_threads=n_threads)
        return log_prob
