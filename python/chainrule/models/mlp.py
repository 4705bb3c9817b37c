"""One network per variable, nothing shared (Bengio & Bengio 2000): the textbook's baseline for NADE."""

from __future__ import annotations

from typing import Any

from chainrule import masks
from chainrule.models.masked import MaskedNetwork
from chainrule.validation import check_int


class MLPConditionals(MaskedNetwork):
    """Every variable has a hidden layer of its own.

    ``h_i = g(A_i x_<i + b_i)``,  ``p(x_i = 1 | x_<i) = sigmoid(c_i + alpha_i . h_i)``

    O(n_features^2 n_hidden) parameters and time a row, where NADE's shared weights need O(n_features n_hidden). The
    density is over {0, 1}^n or columns of codes (counting measure), in nats.

    Parameters
    ----------
    n_hidden : int
        Hidden units of each variable but the first, which has nothing to look back on.
    activation : {"relu", "sigmoid", "tanh"}
    order : {"natural", "random"} or array of int
    conditional : {"bernoulli", "categorical"}
        Bits, or columns of codes 0 .. K - 1 (K by column, at most 256).
    training : keyword options
        What every model trained by gradient takes: `TrainedModel` lists them.

    Attributes
    ----------
    parameters_ : mapping of str to array
        "W1" and "V" in panels of 32 outputs, the units of all variables side by side; "b1", "c".
    order_, reference_, n_values_ : arrays (n_features,)

    Examples
    --------
    >>> import numpy as np, chainrule
    >>> X = np.repeat([[0, 0, 0], [1, 1, 1]], 100, axis=0)
    >>> model = chainrule.MLPConditionals(4, activation="tanh", max_epochs=200, learning_rate=0.05, random_state=0).fit(X)
    >>> bool(model.score(X) > -0.75)  # the truth is -log 2 = -0.69
    True
    """

    def __init__(
        self,
        n_hidden: int = 16,
        *,
        activation: str = "relu",
        order: Any = "natural",
        conditional: str = "bernoulli",
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.n_hidden = n_hidden
        self.activation = activation
        self.order = order
        self.conditional = conditional

    def _check_model(self) -> None:
        super()._check_model()
        check_int("n_hidden", self.n_hidden, 1)

    def _n_units(self) -> list[int]:
        return [self.n_hidden * (self.n_features_in_ - 1)]

    def _masks(self, index: int) -> masks.Masks:
        return masks.mlp_conditionals(len(self.order_), self.n_hidden)
