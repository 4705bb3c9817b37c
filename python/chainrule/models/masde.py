"""MASDE: masks from the structure of a Markov random field (Khajenezhad, Madani & Beigy, IEEE TNNLS 2021)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import masks, random
from chainrule.models.masked import MaskedNetwork
from chainrule.validation import check_option


class MASDE(MaskedNetwork):
    """MADE whose output i depends on its parents B_i alone, the variables that a known graph leaves it to depend on.

    A Markov random field's exact conditional of variable i given those before it depends on B_i, the earlier variables
    that i reaches through later ones: elimination from the last variable to the first finds them. Every hidden unit
    carries a set of inputs and feeds the units and outputs whose sets contain it. Fewer weights than MADE, and none
    that must learn to be zero: for few rows (50 to 1000) of data with a structure. The density is over {0, 1}^n or
    columns of codes (counting measure), in nats.

    Parameters
    ----------
    structure : array (n, n), networkx graph, or n collections of columns
        The graph of the field: a symmetric 0/1 adjacency matrix or an undirected graph. Or the parents of each variable
        themselves: a directed graph, or per column the columns it depends on.
    hidden_sizes : tuple of int
        Units of each hidden layer: at least one for each distinct set of parents, unless `direct`.
    activation : {"relu", "sigmoid", "tanh"}
    order : {"auto", "natural", "min-fill", "random"} or array of int
        Order of the variables; "auto" keeps the sets small (min-fill), or follows the given parents.
    fill : bool
        Exact sets, by elimination. False: neighbours before i alone, an approximation for dense graphs.
    direct : bool
        Connect inputs to the outputs that depend on them.
    conditional : {"bernoulli", "categorical"}
    training : keyword options
        What every model trained by gradient takes: `TrainedModel` lists them.

    Attributes
    ----------
    parents_ : list of int arrays
        B_i by step of the chain, as steps.
    parameters_, order_, reference_, n_values_ : as of `MADE`

    Examples
    --------
    >>> import numpy as np, chainrule
    >>> chain = np.eye(3, k=1) + np.eye(3, k=-1)
    >>> X = np.repeat([[0, 0, 0], [1, 1, 1]], 100, axis=0)
    >>> model = chainrule.MASDE(chain, (16,), max_epochs=200, learning_rate=0.02, random_state=0).fit(X)
    >>> [b.tolist() for b in model.parents_]
    [[], [0], [1]]
    """

    def __init__(
        self,
        structure: Any,
        hidden_sizes: Iterable[int] = (500,),
        *,
        activation: str = "relu",
        order: Any = "auto",
        fill: bool = True,
        direct: bool = False,
        conditional: str = "bernoulli",
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.structure = structure
        self.hidden_sizes = hidden_sizes
        self.activation = activation
        self.order = order
        self.fill = fill
        self.direct = direct
        self.conditional = conditional

    def _check_model(self) -> None:
        super()._check_model()
        for name in ("direct", "fill"):
            check_option(name, getattr(self, name), (True, False))

    def _first_order(self, n: int) -> npt.NDArray[np.uint32]:
        key = random.key_of(self.random_state, random.ORDER)
        order, self.parents_ = masks.parents(self.structure, n, self.order, fill=self.fill, key=key)
        return order.astype(np.uint32)

    def _n_units(self) -> list[int]:
        return list(masks.layer_sizes(self.hidden_sizes, self.direct))

    def _masks(self, index: int) -> masks.Masks:
        return masks.masde(self.parents_, self.hidden_sizes, direct=self.direct, key=self.key_, index=index)

    def _state(self) -> dict[str, Any]:
        state = super()._state()
        state["attributes"]["parents"] = [parents.tolist() for parents in self.parents_]
        return state

    def _restore(self, state: dict[str, Any]) -> None:
        self.parents_ = [np.asarray(parents, np.intp).reshape(-1) for parents in state["attributes"]["parents"]]
        if len(self.parents_) != len(state["arrays"]["order"]):
            raise ValueError("parents is not a set for each variable")
        super()._restore(state)
