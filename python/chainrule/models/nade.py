"""NADE: the neural autoregressive distribution estimator (Larochelle & Murray, AISTATS 2011)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels, random
from chainrule.conditionals.bernoulli import Bernoulli, count_ones
from chainrule.fit import Parameters
from chainrule.models.base import Bits
from chainrule.models.trained import TrainedModel
from chainrule.validation import check_int, check_option


class NADE(TrainedModel):
    """Binary vectors, one hidden layer shared by all conditionals.

    ``a_1 = c``,  ``p(x_i = 1 | x_<i) = sigmoid(b_i + V_i . g(a_i))``,  ``a_{i+1} = a_i + x_i W_i``

    Scoring, its gradient and sampling each cost O(n_features * n_hidden) a row. The density is over {0, 1}^n
    (counting measure), in nats. Columns that are mostly ones are modelled by their complement (`flip_`, fixed by the
    first fit): the same family of densities, and the hidden state moves as seldom as it can.

    Parameters
    ----------
    n_hidden : int
        Hidden units d; any width.
    activation : {"sigmoid", "relu", "tanh"}
        Activation g of the hidden units.
    order : {"natural", "random"} or array of int
        Order of the variables: column i first, ...; "random" is drawn from `random_state`.
    tied : bool
        V = W, as in the restricted Boltzmann machine NADE comes from.
    training : keyword options
        What every model trained by gradient takes: `TrainedModel` lists them.

    Attributes
    ----------
    parameters_ : mapping of str to array
        "W" and, unless tied, "V" (n_features, n_hidden), "b" (n_features,), "c" (n_hidden,); rows in chain order.
    order_, flip_ : uint32, uint8 (n_features,)

    Examples
    --------
    >>> import numpy as np, chainrule
    >>> X = np.repeat([[0, 0, 0], [1, 1, 1]], 100, axis=0)
    >>> model = chainrule.NADE(n_hidden=8, max_epochs=200, learning_rate=0.01, random_state=0).fit(X)
    >>> bool(model.score(X) > -0.75)  # the truth is -log 2 = -0.69
    True
    >>> model.sample(2, random_state=0).shape
    (2, 3)
    """

    parameters_: Parameters
    order_: npt.NDArray[np.uint32]
    flip_: npt.NDArray[np.uint8]

    def __init__(
        self,
        n_hidden: int = 500,
        *,
        activation: str = "sigmoid",
        order: Any = "natural",
        tied: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.n_hidden = n_hidden
        self.activation = activation
        self.order = order
        self.tied = tied

    def _check_model(self) -> None:
        check_int("n_hidden", self.n_hidden, 1)
        check_option("activation", self.activation, kernels.ACTIVATIONS)
        check_option("tied", self.tied, (True, False))

    def _initialise(self, X: Bits, weight: npt.NDArray[np.float64] | None) -> None:
        """Order, flips and initial parameters: output biases at the marginals, weights small and uniform."""
        n, d, (ones, total) = X.shape[1], self.n_hidden, count_ones(X, weight)
        if isinstance(self.order, str):
            check_option("order", self.order, ("natural", "random"))
            key = random.key_of(self.random_state, random.ORDER)
            order = np.arange(n) if self.order == "natural" else random.permutation(key, 0, n)
        else:
            order = np.asarray(self.order)
            if order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
                raise ValueError(f"order must be a permutation of 0..{n - 1}, not {self.order!r}")
        self.order_ = order.astype(np.uint32)
        self.flip_ = (2 * ones > total).astype(np.uint8)
        self.parameters_ = Parameters(self._shapes(n, d), self.dtype)
        key, bound = random.key_of(self.random_state, random.WEIGHTS), np.sqrt(6.0 / (n + d))
        for row, name in enumerate(("W",) if self.tied else ("W", "V")):
            u = random.uniform_rows(key, row, 1, n * d).reshape(n, d)
            self.parameters_[name][...] = (2.0 * u - 1.0) * bound
        encoded = np.where(self.flip_, total - ones, ones)[self.order_]
        self.parameters_["b"][...] = Bernoulli.marginal_logits(encoded, total)

    def _shapes(self, n: int, d: int) -> dict[str, tuple[int, ...]]:
        return {"W": (n, d)} | ({} if self.tied else {"V": (n, d)}) | {"b": (n,), "c": (d,)}

    # ---- the three kernels, on this model's arrays

    def _model(self) -> tuple[npt.NDArray[Any], ...]:
        p = self.parameters_
        return p["W"], p["W" if self.tied else "V"], p["b"], p["c"]

    def _options(self) -> dict[str, Any]:
        return {
            "activation": self.activation,
            "order": self.order_,
            "flip": self.flip_,
            "n_threads": self.n_threads,
        }

    def _log_prob(self, X: Bits, per_variable: bool) -> npt.NDArray[np.float64]:
        return kernels.nade_score(X, *self._model(), per_variable=per_variable, **self._options())

    def _conditionals(self, X: Bits) -> Bernoulli:
        return Bernoulli(kernels.nade_logits(X, *self._model(), **self._options()))

    def _draw(
        self,
        u: npt.NDArray[np.float64],
        given: Bits | None = None,
        observed: Bits | None = None,
        context: npt.NDArray[Any] | None = None,
    ) -> Bits:
        return kernels.nade_sample(u, *self._model(), given=given, observed=observed, **self._options())

    def _gradient(
        self, X: Bits, gradient: Parameters, weight: npt.NDArray[Any] | None = None, step: int = 0
    ) -> npt.NDArray[np.float64]:
        out = (gradient["W"], gradient["W" if self.tied else "V"], gradient["b"], gradient["c"])
        return kernels.nade_gradient(X, *self._model(), weight=weight, out=out, **self._options())[0]

    # ---- files

    def _state(self) -> dict[str, Any]:
        arrays = {**self.parameters_, "order": self.order_, "flip": self.flip_}
        return {"arrays": arrays, "attributes": {"history": self.history_, "stopped": self.stopped_}}

    def _restore(self, state: dict[str, Any]) -> None:
        self._check_options()
        arrays, attributes = state["arrays"], state["attributes"]
        parameters = Parameters(self._shapes(len(arrays["W"]), self.n_hidden), self.dtype)
        if arrays.keys() != {*parameters, "order", "flip"}:
            raise ValueError(f"its arrays are {', '.join(sorted(arrays))}")
        for name, array in parameters.items():
            if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                raise ValueError(
                    f"{name} is {arrays[name].dtype} {arrays[name].shape}, expected {array.dtype} {array.shape}"
                )
            array[...] = arrays[name]
        n, order, flip = len(arrays["W"]), arrays["order"], arrays["flip"]
        if order.dtype != np.uint32 or not np.array_equal(np.sort(order), np.arange(n)):
            raise ValueError("order is not a permutation")
        if flip.dtype != np.uint8 or flip.shape != (n,) or flip.max(initial=0) > 1:
            raise ValueError("flip is not 0 and 1")
        self.parameters_, self.order_, self.flip_, self.n_features_in_ = parameters, order, flip, n
        self.history_, self.stopped_ = attributes["history"], attributes["stopped"]
