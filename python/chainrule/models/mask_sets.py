"""Sets of masks over one buffer of parameters: what a masked network keeps, and how its kernels find it.

One set of masks keeps its weights sorted, as they are multiplied. Several sets share parameters, which stand by column
and by the first set's order of hidden units; V and C are then kept as their transposes. So an order of the variables is
an order of rows, which products follow for nothing, and only another order of the hidden units costs a pass over the
columns, before a step and after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chainrule import kernels, masks, random
from chainrule.conditionals.categorical import starts
from chainrule.fit import Parameters
from chainrule.fit.parameters import aligned
from chainrule.kernels.masked import panels_shape
from chainrule.models.base import Bits
from chainrule.models.codes import CodedModel, check_codes
from chainrule.models.rows import Rows
from chainrule.validation import check_int

Array = npt.NDArray[Any]
KEPT = 64  # sets of masks that a model remembers


@dataclass(frozen=True)
class Network:
    """One set of masks, ready for the kernels.

    order : column at each step; natural : that is its number. first : units before each step. columns : by step, the
    user's unit of each unit (rows of W_1 and A, columns of V and A). context : masks of the weights from a context to
    the first hidden layer, U, and to the logits, C. ready : of each hidden layer, by `masks.Masks`. units : of each
    hidden layer, the parameters' unit at each place; own : that is its number, in every one. ranks : of the first set,
    the place of each unit of `masks.Masks`.
    """

    order: npt.NDArray[np.uint32]
    natural: bool
    first: npt.NDArray[np.uint32]
    columns: npt.NDArray[np.uint32]
    hidden: tuple[kernels.Mask, ...]
    output: kernels.Mask | None
    direct: kernels.Mask | None
    context: dict[str, kernels.Mask]
    ready: tuple[npt.NDArray[np.int32], ...]
    units: tuple[npt.NDArray[np.uint32], ...]
    own: bool
    ranks: tuple[npt.NDArray[np.uint32], ...]


class Kept(NamedTuple):
    """How the parameters keep a matrix: `rows` and `turned` of the products; order of the columns (None: as kept)."""

    rows: npt.NDArray[np.uint32] | None = None
    turned: bool = False
    columns: npt.NDArray[np.uint32] | None = None

    def options(self) -> dict[str, Any]:
        """For the products."""
        return {"rows": self.rows, "turned": self.turned}


class Workspace:
    """Arrays by name that are used again, so that a training step allocates nothing large after the first."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self.ones: kernels.Ones | None = None

    def __call__(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        """An array of this shape; what it held is lost."""
        kept = self.arrays.get(name)
        if kept is None or kept.shape != shape or kept.dtype != dtype:
            few = shape[0] * shape[-1] < 4096  # a row or so: its time is that of the call
            kept = self.arrays[name] = np.empty(shape, dtype) if few else aligned(shape, dtype)
        return kept


class MaskSets(CodedModel):
    """A model file implements `_masks(index)`, the index-th set of masks, and `_order(index)`, and says how many."""

    n_masks: int | None = 1  # None: without end
    order_: npt.NDArray[np.uint32]
    key_: random.Key
    n_context_: int
    _takes_context = True

    def _masks(self, index: int) -> masks.Masks | masks.Staircases:
        raise NotImplementedError

    def _order(self, index: int) -> npt.NDArray[np.uint32]:
        """Column at each step under the index-th set of masks."""
        return self.order_

    def _n_units(self) -> list[int]:
        """Units of each hidden layer."""
        return []

    def _connectivity(self, index: int) -> int:
        """The number of the masks that the index-th set uses."""
        return index

    @property
    def _permuted(self) -> bool:
        """Sets of masks share the parameters, and each has their units in an order of its own."""
        return self.n_masks != 1

    def _turned(self, name: str) -> bool:
        """The parameters keep this matrix as its transpose, so that the order of the variables is one of rows."""
        return self._permuted and name in ("V", "C")

    # ---- parameters

    def _initialise(self, X: Bits | Rows, weight: npt.NDArray[np.float64] | None) -> None:
        """Order, references and initial parameters: uniform weights by the live fan, biases at the marginals."""
        self.n_context_ = X.context.shape[1] if isinstance(X, Rows) else 0
        X = X.codes if isinstance(X, Rows) else X
        n = X.shape[1]
        self.n_values_, self.reference_, marginals = self._marginals(X, weight)
        self.key_ = random.key_of(self.random_state, random.MASKS)
        self.order_ = self._first_order(n)
        self._build()
        network, key, row = self._network(0), random.key_of(self.random_state, random.WEIGHTS), 0
        width = max([32 * array.shape[1] for array in self.parameters_.values() if array.ndim == 3], default=0)
        for name, mask in self._matrices(network):
            live, W = mask.live_array(), self.parameters_[name]
            if name in ("A", "C") or not live.size:
                continue  # start at zero
            bound = np.sqrt(6.0 / max(live.sum(dtype=np.int64) * (1.0 / live.shape[0] + 1.0 / live.shape[1]), 1.0))
            live = live.T if self._turned(name) else live
            for p, panel in enumerate(W):
                u = random.uniform_rows(key, row + p, 1, width)[0, : panel.size].reshape(panel.shape)
                block = live[:, 32 * p : 32 * (p + 1)]
                lanes = block.shape[1]
                panel[:, :lanes] = (2.0 * u[:, :lanes] - 1.0) * bound
                if not self._permuted:
                    panel[:, :lanes][~block] = 0
            row += len(W)
        self.parameters_["c"][...] = marginals if self._permuted else marginals[network.columns]

    def _build(self) -> None:
        """An empty parameter buffer for the masks."""
        self._forget()
        network = self._network(0)
        shapes: dict[str, tuple[int, ...]] = {}
        for name, mask in self._matrices(network):
            shape = mask.n_in, mask.n_out
            shapes[name] = panels_shape(*(shape[::-1] if self._turned(name) else shape))
            if name.startswith("W"):
                shapes["b" + name[1:]] = (mask.n_out,)
        self.parameters_ = Parameters({**shapes, "c": (int(network.first[-1]),)}, self.dtype)

    def _forget(self) -> None:
        """What is made anew when it is needed."""
        self._networks: dict[int, Network] = {}
        self._work = Workspace()
        self._ready: tuple[Network, Parameters, kernels.Network] | None = None

    def _matrices(self, network: Network) -> list[tuple[str, kernels.Mask]]:
        """Name and mask of every matrix."""
        named = [(f"W{layer + 1}", mask) for layer, mask in enumerate(network.hidden)]
        named += [("V", network.output)] if network.output is not None else []
        named += [("A", network.direct)] if network.direct is not None else []
        return [*named, *network.context.items()]

    def _live(self) -> npt.NDArray[np.uint64] | None:
        if self._permuted:
            return None
        network = self._network(0)
        return self.parameters_.ranges({name: mask.ranges() for name, mask in self._matrices(network)})

    # ---- the network of one set of masks

    def _network(self, index: int) -> Network:
        if index in self._networks:
            return self._networks[index]
        if index:
            self._network(0)  # whose masks another order may use, and whose order of units the parameters have
        network = self._prepare(index, self._order(index))
        if len(self._networks) < KEPT:
            self._networks[index] = network
        return network

    def _prepare(self, index: int, order: npt.NDArray[np.uint32]) -> Network:
        """The index-th set of masks under an order."""
        index = self._connectivity(index)
        natural = bool(order[0] == 0 and (order == np.arange(len(order))).all())
        steps: Any = 1  # units of each step
        columns = order
        if not self._bits:
            steps, start = self.n_values_[order] - 1, starts(self.n_values_)
            columns = np.repeat(start[order] - starts(self.n_values_[order])[:-1], steps)
            columns += np.arange(columns.size, dtype=np.uint32)
        if index == 0 and 0 in self._networks and (self._bits or (steps == steps[0]).all()):
            return replace(self._networks[0], order=order, natural=natural, columns=columns)  # the same masks
        live = self._masks(index)

        def mask(live: npt.NDArray[np.bool_] | masks.Staircase, rows: Any = 1, columns: Any = 1) -> kernels.Mask:
            if isinstance(live, masks.Staircase):
                return kernels.Mask.staircase(*(live if self._bits else live.expand(rows, columns)))
            return kernels.Mask(live if self._bits else masks.expand(live, rows, columns))

        into: list[npt.NDArray[np.bool_] | masks.Staircase] = [*live.hidden]
        hidden = tuple(mask(array, 1 if layer else steps) for layer, array in enumerate(into))
        units = tuple(u.astype(np.uint32) for u in live.units)
        ranks = tuple(np.argsort(u).astype(np.uint32) for u in units) if index == 0 else self._networks[0].ranks
        first = np.arange(len(order) + 1, dtype=np.uint32) if self._bits else starts(self.n_values_[order])
        context = {"U": hidden[0].n_out} if hidden else {}
        context["C"] = int(first[-1])
        return Network(
            order=order,
            natural=natural,
            first=first,
            columns=columns,
            hidden=hidden,
            output=None if live.output is None else mask(live.output, 1, steps),
            direct=None if live.direct is None else mask(live.direct, steps, steps),
            context={k: kernels.Mask.dense(self.n_context_, v) for k, v in context.items()} if self.n_context_ else {},
            ready=live.ready,
            units=tuple(rank[u] for rank, u in zip(ranks, units, strict=True)),
            own=index == 0,
            ranks=ranks,
        )

    def _kept(self, network: Network, name: str) -> Kept:
        """How the parameters keep a matrix of `network`."""
        if not self._permuted:
            return Kept()
        layers, variables = network.units, network.columns
        if name == "A":
            return Kept(variables, False, None if network.natural else variables)
        if name == "C":
            return Kept(variables, True)
        layer = len(layers) if name == "V" else 1 if name == "U" else int(name[1:])
        columns = None if network.own else layers[layer - 1]
        if name == "V":
            return Kept(variables, True, columns)
        if name == "U":
            return Kept(np.arange(self.n_context_, dtype=np.uint32), False, columns)
        return Kept(layers[layer - 2] if layer > 1 else variables, False, columns)

    def _biases(self, network: Network) -> Iterator[tuple[str, npt.NDArray[np.uint32]]]:
        """Name of every bias, and the parameters' unit at each place."""
        yield from ((f"b{layer}", units) for layer, units in enumerate(network.units, start=1))
        yield "c", network.columns

    def _weights(
        self, network: Network, kept: dict[str, Kept], into: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """The parameters with the columns and biases of `network`; rows stand where `kept` says.

        Matrices whose columns move are written to `into`, laid out as the parameters, or to new arrays.
        """
        p = self.parameters_.views
        if not self._permuted:
            return p
        w = {name: p[name][units] for name, units in self._biases(network)}
        for name, mask in self._matrices(network):
            w[name], how = p[name], kept[name]
            if how.columns is not None:
                out = aligned(p[name].shape, self.dtype) if into is None else into[name]
                w[name] = self._permute(p[name], mask, how, out)
        return w

    def _permute(self, W: Array, mask: kernels.Mask, how: Kept, out: Array, back: bool = False) -> Array:
        """W with its columns in the order of one set of masks, or a gradient back."""
        assert how.columns is not None
        options: dict[str, Any] = {**how.options(), "back": back, "n_threads": self.n_threads}
        return kernels.permute_columns(W, how.columns, mask=mask, out=out, **options)

    def _sorted(self, network: Network) -> dict[str, Array]:
        """The parameters in the order of `network`, rows and all, as the sampler takes them."""
        p = self.parameters_.views
        if not self._permuted:
            return p
        w = {name: p[name][units] for name, units in self._biases(network)}
        for name, mask in self._matrices(network):
            how = self._kept(network, name)
            W = kernels.from_panels(p[name][:, how.rows], mask.n_in if how.turned else mask.n_out)
            W = W if how.columns is None else W[:, how.columns]
            w[name] = kernels.to_panels(W.T if how.turned else W)
        return w

    # ---- files

    def _state(self) -> dict[str, Any]:
        arrays = {**self.parameters_, "order": self.order_, "reference": self.reference_, "n_values": self.n_values_}
        attributes = {
            "history": self.history_,
            "stopped": self.stopped_,
            "key": list(self.key_),
            "n_context": self.n_context_,
        }
        return {"arrays": arrays, "attributes": attributes}

    def _restore(self, state: dict[str, Any]) -> None:
        self._check_options()
        arrays, attributes = state["arrays"], state["attributes"]
        order, reference, n_values = arrays["order"], arrays["reference"], arrays["n_values"]
        n = len(order)
        if order.dtype != np.uint32 or not np.array_equal(np.sort(order), np.arange(n)):
            raise ValueError("order is not a permutation")
        check_codes(n_values, reference, n)
        if self._bits and (n_values != 2).any():
            raise ValueError("n_values is not 2 for bits")
        key = attributes["key"]
        if len(key) != 2 or not all(type(word) is int and 0 <= word < 2**64 for word in key):
            raise ValueError("key is not two words")
        self.order_, self.reference_, self.n_values_, self.key_ = order, reference, n_values, (key[0], key[1])
        self.n_features_in_, self.n_context_ = n, check_int("n_context", attributes["n_context"], 0)
        layers, units = self._n_units(), int((n_values - 1).sum(dtype=np.int64))
        claimed: dict[str, tuple[int, ...]] = {
            "W1" if layers else "A": panels_shape(units, layers[0] if layers else units)
        }
        claimed |= {f"b{layer}": (size,) for layer, size in enumerate(layers, start=1)}
        for name, shape in claimed.items():  # before masks of these sizes are made
            if arrays[name].shape != shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}, expected {shape}")
        self._build()
        if arrays.keys() != {*self.parameters_, "order", "reference", "n_values"}:
            raise ValueError(f"its arrays are {', '.join(sorted(arrays))}")
        for name, array in self.parameters_.items():
            if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                raise ValueError(
                    f"{name} is {arrays[name].dtype} {arrays[name].shape}, expected {array.dtype} {array.shape}"
                )
            array[...] = arrays[name]
        self.history_, self.stopped_ = attributes["history"], attributes["stopped"]

    def __getstate__(self) -> dict[str, Any]:
        return {k: value for k, value in super().__getstate__().items() if k not in ("_networks", "_work", "_ready")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()
