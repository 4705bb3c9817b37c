"""FVSBN: the fully visible sigmoid belief network (Neal 1992; Frey 1998)."""

from __future__ import annotations

from typing import Any

from chainrule import masks
from chainrule.models.masked import MaskedNetwork


class FVSBN(MaskedNetwork):
    """A logistic regression of every variable on those before it.

    ``p(x_i = 1 | x_<i) = sigmoid(c_i + sum_{j<i} A_ji x_j)``

    No hidden units: n (n - 1) / 2 weights, and a convex likelihood. Scoring costs an addition for each weight of a one;
    sampling costs the same. The density is over {0, 1}^n (counting measure), in nats; variables of several values get a
    softmax over them.

    Parameters
    ----------
    order : {"natural", "random"} or array of int
        Order of the variables.
    conditional : {"bernoulli", "categorical"}
        Bits, or columns of codes 0 .. K - 1 (K by column, at most 256).
    training : keyword options
        What every model trained by gradient takes: `TrainedModel` lists them.

    Attributes
    ----------
    parameters_ : mapping of str to array
        "A", the weights in panels of 32 outputs (`kernels.from_panels`), and "c", by step of the chain.
    order_, reference_, n_values_ : arrays (n_features,)
        By step, the column; by column, the value without a unit (the commonest), and the number of values.

    Examples
    --------
    >>> import numpy as np, chainrule
    >>> X = np.repeat([[0, 0, 0], [1, 1, 1]], 100, axis=0)
    >>> model = chainrule.FVSBN(max_epochs=200, learning_rate=0.1, random_state=0).fit(X)
    >>> bool(model.score(X) > -0.75)  # the truth is -log 2 = -0.69
    True
    """

    def __init__(self, *, order: Any = "natural", conditional: str = "bernoulli", **training: Any) -> None:
        super().__init__(**training)
        self.order = order
        self.conditional = conditional

    def _masks(self, index: int) -> masks.Masks:
        return masks.fvsbn(len(self.order_))
