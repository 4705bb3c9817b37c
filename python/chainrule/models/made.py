"""MADE: the masked autoencoder for distribution estimation (Germain, Gregor, Murray & Larochelle, ICML 2015)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import masks, random
from chainrule.models.masked import MaskedNetwork
from chainrule.validation import check_int, check_option


class MADE(MaskedNetwork):
    """A feed-forward network whose masks let output i depend on the variables before i alone.

    ``h_l = g((W_l * M_l)' h_{l-1} + b_l)``,  ``logits = (V * M_V)' h_L [+ (A * M_A)' x] + c``

    A hidden unit of degree m sees variables 0..m of the order; output i sees units of smaller degree. Scoring costs one
    pass over the live weights, about half of them; so does sampling, for every unit is computed once. The density is
    over {0, 1}^n or columns of codes (counting measure), in nats.

    With several sets of masks the model is the average of their likelihoods, trained on one set a batch in turn
    (Germain et al., section 4): each set deals degrees anew, orders the variables anew, or both.

    Parameters
    ----------
    hidden_sizes : tuple of int
        Units of each hidden layer.
    activation : {"relu", "sigmoid", "tanh"}
    order : {"natural", "random"} or array of int
        Order of the variables, of the first set of masks.
    direct : bool
        Connect inputs to the outputs after them.
    residual : bool
        ``h_l = h_{l-1} + g(...)``: hidden layers of one size and the same degrees.
    dropout : float
        Share of hidden units set to zero, anew for every row of a batch.
    n_masks : int or None
        Sets of masks, used in turn. None: a new one for every batch; the first `n_ensemble` of them make the density.
    resample_masks : {"connectivity", "order", "both"}
        What differs between sets.
    n_ensemble : int
        With ``n_masks=None``: the sets averaged in scores and samples.
    conditional : {"bernoulli", "categorical"}
        Bits, or columns of codes 0 .. K - 1 (K by column, at most 256), as one-hot inputs.
    training : keyword options
        What every model trained by gradient takes: `TrainedModel` lists them.

    Attributes
    ----------
    parameters_ : mapping of str to array
        "W1", ..., "V", "A" in panels of 32 outputs (`kernels.from_panels`), "b1", ..., "c"; sorted by degree for one
        set of masks; for several by column and by the degrees of the first set, "V" as its transpose.
    order_, reference_, n_values_ : arrays (n_features,)
        By step, the column; by column, the value without a unit (the commonest), and the number of values.

    Examples
    --------
    >>> import numpy as np, chainrule
    >>> X = np.repeat([[0, 0, 0], [1, 1, 1]], 100, axis=0)
    >>> model = chainrule.MADE((16,), max_epochs=200, learning_rate=0.02, random_state=0).fit(X)
    >>> bool(model.score(X) > -0.75)  # the truth is -log 2 = -0.69
    True
    >>> model.sample(2, random_state=0).shape
    (2, 3)
    """

    def __init__(
        self,
        hidden_sizes: Iterable[int] = (500,),
        *,
        activation: str = "relu",
        order: Any = "natural",
        direct: bool = False,
        residual: bool = False,
        dropout: float = 0.0,
        n_masks: int | None = 1,
        resample_masks: str = "connectivity",
        n_ensemble: int = 1,
        conditional: str = "bernoulli",
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.order = order
        self.direct = direct
        self.residual = residual
        self.dropout = dropout
        self.n_masks = n_masks
        self.resample_masks = resample_masks
        self.n_ensemble = n_ensemble
        self.conditional = conditional

    def _check_model(self) -> None:
        super()._check_model()
        for name in ("direct", "residual"):
            check_option(name, getattr(self, name), (True, False))
        if self.n_masks is not None:
            check_int("n_masks", self.n_masks, 1)
        check_option("resample_masks", self.resample_masks, ("connectivity", "order", "both"))
        check_int("n_ensemble", self.n_ensemble, 1)

    @property
    def _any_order(self) -> bool:
        return self.n_masks is None and self.resample_masks != "connectivity"

    def _members(self) -> int:
        return self.n_ensemble if self.n_masks is None else self.n_masks

    def _n_units(self) -> list[int]:
        return list(masks.layer_sizes(self.hidden_sizes, self.direct))

    def _masks(self, index: int) -> masks.Staircases:
        return masks.made_staircases(
            len(self.order_),
            self.hidden_sizes,
            direct=self.direct,
            residual=self.residual,
            key=self.key_,
            index=index,
        )

    def _connectivity(self, index: int) -> int:
        return 0 if self.resample_masks == "order" else index

    def _order(self, index: int) -> npt.NDArray[np.uint32]:
        if index == 0 or self.resample_masks == "connectivity":
            return self.order_
        # Rows of the key's table that masks, which count up from its beginning, never reach.
        return self.order_[random.permutation(self.key_, -index % 2**40, len(self.order_))]
