"""NADE: the neural autoregressive distribution estimator (Larochelle & Murray, AISTATS 2011)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels, random
from chainrule.conditionals import Bernoulli, Categorical
from chainrule.conditionals.categorical import starts
from chainrule.fit import Parameters
from chainrule.models.base import Bits
from chainrule.models.codes import CodedModel, check_codes
from chainrule.validation import check_int, check_option


class NADE(CodedModel):
    """Vectors of bits or of categories, one hidden layer shared by all conditionals.

    ``a_1 = c``,  ``p(x_i = 1 | x_<i) = sigmoid(b_i + V_i . g(a_i))``,  ``a_{i+1} = a_i + x_i W_i``

    Scoring, its gradient and sampling each cost O(n_features * n_hidden) a row. The density is over {0, 1}^n
    (counting measure), in nats. Columns that are mostly ones are modelled by their complement (`flip_`, fixed by the
    first fit): the same family of densities, and the hidden state moves as seldom as it can.

    With ``conditional="categorical"`` column i holds codes 0 .. K_i - 1, K_i <= 256, and ``p(x_i | x_<i)`` is a softmax
    over K_i - 1 logits ``b_k + V_k . g(a_i)`` beside the 0 of its commonest value (`reference_`); any other value adds
    its own row W_k to the state. A row costs O(sum_i (K_i - 1) * n_hidden). K_i is one more than the largest code of
    the first fit.

    Parameters
    ----------
    n_hidden : int
        Hidden units d; any width.
    conditional : {"bernoulli", "categorical"}
        Bits, or codes in columns of any cardinalities.
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
        "W" and, unless tied, "V" (n_features, n_hidden), "b" (n_features,), "c" (n_hidden,); rows in chain order. Of
        categories: n_logits rows, each variable's K - 1 in the place of one.
    order_ : uint32 (n_features,)
    flip_ : uint8 (n_features,)
        Of bits.
    n_values_, reference_ : int64, uint8 (n_features,)
        Of categories: K and the value whose logit is 0, by column.

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
        conditional: str = "bernoulli",
        activation: str = "sigmoid",
        order: Any = "natural",
        tied: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.n_hidden = n_hidden
        self.conditional = conditional
        self.activation = activation
        self.order = order
        self.tied = tied

    def _check_model(self) -> None:
        check_int("n_hidden", self.n_hidden, 1)
        self._check_conditional()
        check_option("activation", self.activation, kernels.ACTIVATIONS)
        check_option("tied", self.tied, (True, False))

    def _initialise(self, X: Bits, weight: npt.NDArray[np.float64] | None) -> None:
        """Order, references and initial parameters: output biases at the marginals, weights small and uniform."""
        n, d = X.shape[1], self.n_hidden
        self.order_ = self._first_order(n)
        n_values, reference, marginals = self._marginals(X, weight)
        if self._bits:
            self.flip_ = reference
        else:
            self.n_values_, self.reference_ = n_values, reference
        logits, begin = len(marginals), starts(n_values)
        self.parameters_ = Parameters(self._shapes(logits, d), self.dtype)
        key, bound = random.key_of(self.random_state, random.WEIGHTS), np.sqrt(6.0 / (logits + d))
        for row, name in enumerate(("W",) if self.tied else ("W", "V")):
            u = random.uniform_rows(key, row, 1, logits * d).reshape(logits, d)
            self.parameters_[name][...] = (2.0 * u - 1.0) * bound
        chain = [marginals[begin[column] : begin[column + 1]] for column in self.order_.tolist()]
        self.parameters_["b"][...] = np.concatenate(chain)

    def _shapes(self, logits: int, d: int) -> dict[str, tuple[int, ...]]:
        return {"W": (logits, d)} | ({} if self.tied else {"V": (logits, d)}) | {"b": (logits,), "c": (d,)}

    # ---- the kernels, on this model's arrays

    def _model(self) -> tuple[npt.NDArray[Any], ...]:
        p = self.parameters_
        return p["W"], p["W" if self.tied else "V"], p["b"], p["c"]

    def _options(self) -> dict[str, Any]:
        options = {"activation": self.activation, "order": self.order_, "n_threads": self.n_threads}
        if self._bits:
            return {**options, "flip": self.flip_}
        return {**options, "first": starts(self.n_values_[self.order_]), "reference": self.reference_}

    def _log_prob(self, X: Bits, per_variable: bool) -> npt.NDArray[np.float64]:
        score = kernels.nade_score if self._bits else kernels.nade_categorical_score
        return score(X, *self._model(), per_variable=per_variable, **self._options())

    def _conditionals(self, X: Bits) -> Bernoulli | Categorical:
        if self._bits:
            return Bernoulli(kernels.nade_logits(X, *self._model(), **self._options()))
        logits = kernels.nade_categorical_logits(X, *self._model(), **self._options())
        return Categorical(logits, starts(self.n_values_), self.reference_)

    def _draw(
        self,
        u: npt.NDArray[np.float64],
        given: Bits | None = None,
        observed: Bits | None = None,
        context: npt.NDArray[Any] | None = None,
    ) -> Bits:
        sample = kernels.nade_sample if self._bits else kernels.nade_categorical_sample
        return sample(u, *self._model(), given=given, observed=observed, **self._options())

    def _gradient(
        self, X: Bits, gradient: Parameters, weight: npt.NDArray[Any] | None = None, step: int = 0
    ) -> npt.NDArray[np.float64]:
        out = (gradient["W"], gradient["W" if self.tied else "V"], gradient["b"], gradient["c"])
        kernel = kernels.nade_gradient if self._bits else kernels.nade_categorical_gradient
        return kernel(X, *self._model(), weight=weight, out=out, **self._options())[0]

    # ---- files

    def _state(self) -> dict[str, Any]:
        columns = {"flip": self.flip_} if self._bits else {"n_values": self.n_values_, "reference": self.reference_}
        arrays = {**self.parameters_, "order": self.order_, **columns}
        return {"arrays": arrays, "attributes": {"history": self.history_, "stopped": self.stopped_}}

    def _restore(self, state: dict[str, Any]) -> None:
        self._check_options()
        arrays, attributes = state["arrays"], state["attributes"]
        parameters = Parameters(self._shapes(len(arrays["W"]), self.n_hidden), self.dtype)
        columns = {"flip"} if self._bits else {"n_values", "reference"}
        if arrays.keys() != {*parameters, "order", *columns}:
            raise ValueError(f"its arrays are {', '.join(sorted(arrays))}")
        for name, array in parameters.items():
            if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                raise ValueError(
                    f"{name} is {arrays[name].dtype} {arrays[name].shape}, expected {array.dtype} {array.shape}"
                )
            array[...] = arrays[name]
        order = arrays["order"]
        n = len(parameters["W"]) if self._bits else len(order)
        if order.dtype != np.uint32 or not np.array_equal(np.sort(order), np.arange(n)):
            raise ValueError("order is not a permutation")
        if self._bits:
            flip = arrays["flip"]
            if flip.dtype != np.uint8 or flip.shape != (n,) or flip.max(initial=0) > 1:
                raise ValueError("flip is not 0 and 1")
            self.flip_ = flip
        else:
            check_codes(arrays["n_values"], arrays["reference"], n)
            if starts(arrays["n_values"])[-1] != len(parameters["W"]):
                raise ValueError("n_values does not fit the rows of W")
            self.n_values_, self.reference_ = arrays["n_values"], arrays["reference"]
        self.parameters_, self.order_, self.n_features_in_ = parameters, order, n
        self.history_, self.stopped_ = attributes["history"], attributes["stopped"]
