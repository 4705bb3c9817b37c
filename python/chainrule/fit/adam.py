"""Adam (Kingma & Ba 2015)."""

from __future__ import annotations

from chainrule import kernels
from chainrule.fit.parameters import Parameters


class Adam:
    """``p -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)``, one fused pass over the flat buffer.

    The powers beta^t are running products, so that training has the same bits wherever it runs.
    """

    def __init__(
        self,
        parameters: Parameters,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        n_threads: int | None = None,
    ) -> None:
        self.parameters, self.learning_rate, self.epsilon = parameters, learning_rate, epsilon
        self.beta1, self.beta2, self.n_threads = beta1, beta2, n_threads
        self.power1 = self.power2 = 1.0
        self.m, self.v = parameters.like(), parameters.like()

    def step(self, gradient: Parameters) -> None:
        """Move the parameters against `gradient`, in place."""
        self.power1 *= self.beta1
        self.power2 *= self.beta2
        kernels.adam(
            self.parameters.flat,
            gradient.flat,
            self.m.flat,
            self.v.flat,
            lr=self.learning_rate,
            beta1=self.beta1,
            beta2=self.beta2,
            correction1=1.0 - self.power1,
            correction2=1.0 - self.power2,
            epsilon=self.epsilon,
            n_threads=self.n_threads,
        )
