"""What FVSBN, one network per variable, MADE and MASDE share: a network whose masks keep the order of the variables.

    h_1 = g(x W_1 + s U + b_1),   h_l = g(h_{l-1} W_l + b_l),   logits = h_L V + x A + s C + c

x are the input units of a row: a bit is its own unit; a variable of K values has K - 1, one for each value but its
commonest (`reference_`), which is none of them. Logits alike: a value's logit is relative to the reference's. Masks
decide which weights are live. Units stand sorted by the last variable they depend on, so that masks are staircases of
blocks, and a sample costs one forward pass: each unit is computed once, when that variable is drawn. A context s, where
there is one, reaches the hidden units and every logit, the first variable's included.

Several sets of masks share parameters, which stand by column and by the first set's order of hidden units; V and C are
then kept as their transposes. So an order of the variables is an order of rows, which products follow for nothing, and
only another order of the hidden units costs a pass over the columns, before a step and after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from chainrule import kernels, masks, random
from chainrule.conditionals import Bernoulli, Categorical
from chainrule.conditionals.categorical import starts
from chainrule.fit import Parameters
from chainrule.fit.parameters import aligned
from chainrule.kernels.masked import Layer, panels_shape
from chainrule.models.base import Bits
from chainrule.models.codes import CodedModel, check_codes
from chainrule.models.rows import Rows
from chainrule.validation import check_int, check_option

Array = npt.NDArray[Any]
ROWS_AT_ONCE = 512  # scored together: activations stay in cache
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


Dropped: TypeAlias = Callable[[int, tuple[int, ...]], Array]


class Pass(NamedTuple):
    """A forward pass: the input, g(a) of every layer, its state h, dropout's factors, and the logits."""

    x: kernels.Ones
    g: list[Array]
    h: list[Array]
    dropped: list[Array]
    z: Array


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


class MaskedNetwork(CodedModel):
    """A model file implements `_masks(index)`, the index-th set of masks, and `_order(index)`, and says how many."""

    activation: str = "relu"
    residual: bool = False
    dropout: float = 0.0
    n_masks: int | None = 1  # None: without end
    order: Any = "natural"
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

    # ---- data

    def _check_model(self) -> None:
        self._check_conditional()
        check_option("activation", self.activation, kernels.ACTIVATIONS)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout!r}")

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
                    panel[:, :lanes] *= block
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

    def _weights(self, network: Network, kept: dict[str, Kept], work: Workspace) -> dict[str, Array]:
        """The parameters with the columns and biases of `network`; rows stand where `kept` says."""
        p = self.parameters_.views
        if not self._permuted:
            return p
        w = {name: p[name][units] for name, units in self._biases(network)}
        for name, mask in self._matrices(network):
            w[name], how = p[name], kept[name]
            if how.columns is not None:
                w[name] = self._permute(p[name], mask, how, work(name, p[name].shape, self.dtype))
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

    # ---- forwards and backwards

    def _encode(self, X: Bits | Rows, network: Network, work: Workspace) -> kernels.Ones:
        work.ones = kernels.encode(
            X.codes if isinstance(X, Rows) else X,
            order=None if network.natural else network.order,
            reference=self.reference_,
            first=None if self._bits else network.first,
            out=work.ones,
            n_threads=self.n_threads,
        )
        return work.ones

    def _forward(
        self,
        X: Bits | Rows,
        network: Network,
        kept: dict[str, Kept],
        w: dict[str, Array],
        work: Workspace,
        dropped: Dropped | None = None,
    ) -> Pass:
        """Hidden states and logits, by step; `dropped(layer, shape)` are dropout's factors."""
        x, n = self._encode(X, network, work), len(X)
        g: list[Array] = []
        h: list[Array] = []
        factors: list[Array] = []

        def product(inputs: Any, name: str, bias: str | None, mask: kernels.Mask, out: str, **options: Any) -> Array:
            return kernels.masked_linear(
                inputs,
                w[name],
                None if bias is None else w[bias],
                mask=mask,
                **kept[name].options(),
                out=work(out, (n, mask.n_out), self.dtype),
                n_threads=self.n_threads,
                **options,
            )

        context = X.context if isinstance(X, Rows) else None
        addend = None
        for layer, mask in enumerate(network.hidden, start=1):
            if layer == 1 and context is not None:
                addend = product(context, "U", None, network.context["U"], "context")
            inputs = h[-1] if h else x
            a = product(inputs, f"W{layer}", f"b{layer}", mask, f"g{layer}", activation=self.activation, addend=addend)
            addend = None
            g.append(a)
            if dropped is not None:
                factors.append(dropped(layer, a.shape))
                a = a * factors[-1]
            h.append(h[-1] + a if self.residual and h else a)
        if context is not None:
            addend = product(context, "C", None, network.context["C"], "from context")
        if network.direct is not None:
            addend = product(x, "A", None if h else "c", network.direct, "direct", addend=addend)
        if network.output is None:
            assert addend is not None
            return Pass(x, g, h, factors, addend)
        return Pass(x, g, h, factors, product(h[-1], "V", "c", network.output, "z", addend=addend))

    def _backward(
        self,
        X: Bits | Rows,
        network: Network,
        kept: dict[str, Kept],
        w: dict[str, Array],
        at: Pass,
        out: dict[str, Array],
        work: Workspace,
    ) -> None:
        """Fills `out` from ``at.z``, which holds the gradient by the logits."""
        g, h, dz, n = at.g, at.h, at.z, len(at.z)
        context = X.context if isinstance(X, Rows) else None

        def weights(inputs: Any, dy: Array, name: str, bias: str | None, mask: kernels.Mask) -> None:
            db = None if bias is None else out[bias]
            how = kept[name]
            whole = self._permuted and how.columns is None  # else its way back sees to the zeros
            options = {**how.options(), "whole": whole, "n_threads": self.n_threads}
            kernels.masked_linear_weight_gradient(inputs, dy, mask=mask, dW=out[name], db=db, **options)

        def back(dy: Array, name: str, mask: kernels.Mask, into: str, **finish: Any) -> Array:
            to = work(into, (n, mask.n_in), self.dtype)
            return kernels.masked_linear_input_gradient(
                dy, w[name], mask=mask, out=to, n_threads=self.n_threads, **kept[name].options(), **finish
            )

        if network.direct is not None:
            weights(at.x, dz, "A", None if h else "c", network.direct)
        if context is not None:
            weights(context, dz, "C", None, network.context["C"])
        if network.output is None:
            return
        weights(h[-1], dz, "V", "c", network.output)
        above, name, mask = dz, "V", network.output
        skip = None  # the gradient that goes around a residual layer
        for layer in range(len(h), 0, -1):
            if self.residual:
                skip = back(above, name, mask, f"dh{layer % 2}", addend=skip)
                da = skip * _slope(g[layer - 1], self.activation)
            else:
                da = back(above, name, mask, f"da{layer}", h=g[layer - 1], activation=self.activation)
            if at.dropped:
                da *= at.dropped[layer - 1]
            above, name, mask = da, f"W{layer}", network.hidden[layer - 1]
            weights(h[layer - 2] if layer > 1 else at.x, da, name, f"b{layer}", mask)
        if context is not None:
            weights(context, above, "U", None, network.context["U"])

    def _gradient(
        self, X: Bits | Rows, gradient: Parameters, weight: Array | None = None, step: int = 0
    ) -> npt.NDArray[np.float64]:
        network = self._network(step if self.n_masks is None else step % self.n_masks)
        work = self._work
        kept = {name: self._kept(network, name) for name, _ in self._matrices(network)}
        w, out = self._weights(network, kept, work), gradient.views
        if self._permuted:
            out = {**out, **{name: np.empty_like(out[name]) for name, _ in self._biases(network)}}
        at = self._forward(X, network, kept, w, work, self._dropped(step) if self.dropout else None)
        log_prob = np.empty(len(X))
        options: dict[str, Any] = {"weight": weight, "log_prob": log_prob, "out": at.z, "n_threads": self.n_threads}
        if self._bits:
            kernels.bernoulli_gradient(at.z, at.x.codes, **options)
        else:
            kernels.categorical_gradient(at.z, at.x.codes, network.first, **options)
        self._backward(X, network, kept, w, at, out, work)
        if self._permuted:
            for name, units in self._biases(network):
                gradient[name][units] = out[name]
            for name, mask in self._matrices(network):
                if kept[name].columns is not None:
                    self._permute(gradient[name], mask, kept[name], gradient[name], back=True)
        return log_prob

    def _dropped(self, step: int) -> Dropped:
        """Dropout's factors of an update: 0, or 1 / (1 - dropout), from counters."""
        key = self.key_[0] ^ random.DROPOUT, self.key_[1]
        kept = np.dtype(self.dtype).type(1.0 / (1.0 - self.dropout))

        def factors(layer: int, shape: tuple[int, ...]) -> Array:
            u = random.uniform_rows(key, (step * kernels.MAX_LAYERS + layer) << 20, shape[0], shape[1], self.n_threads)
            return np.where(u < self.dropout, 0, kept).astype(self.dtype)

        return factors

    # ---- densities

    def _members(self) -> int:
        """Sets of masks whose densities are averaged."""
        return 1 if self.n_masks is None else self.n_masks

    def _logits(self, X: Bits | Rows, network: Network) -> Iterator[Pass]:
        """Logits by step, some rows at a time; each is overwritten by the next."""
        work = Workspace()
        kept = {name: self._kept(network, name) for name, _ in self._matrices(network)}
        w = self._weights(network, kept, work)
        for start in range(0, max(len(X), 1), ROWS_AT_ONCE):
            yield self._forward(X[start : start + ROWS_AT_ONCE], network, kept, w, work)

    def _terms(self, X: Bits | Rows, index: int, per_variable: bool) -> npt.NDArray[np.float64]:
        """Log-likelihoods under one set of masks; terms by step."""
        return self._terms_of(X, self._network(index), per_variable)

    def _terms_of(self, X: Bits | Rows, network: Network, per_variable: bool) -> npt.NDArray[np.float64]:
        options: dict[str, Any] = {"per_variable": per_variable, "n_threads": self.n_threads}
        if not isinstance(X, Rows):
            return kernels.masked_score(X, self._scorer(network), **options)
        some = (X[start : start + ROWS_AT_ONCE] for start in range(0, max(len(X), 1), ROWS_AT_ONCE))
        return np.concatenate(
            [kernels.masked_score(part.codes, self._scorer(network, part.context), **options) for part in some]
        )

    def _scorer(self, network: Network, context: Array | None = None) -> kernels.Network:
        """One set of masks and its weights, ready to score; kept where it reads the parameters themselves."""
        known = self._ready
        if context is None and known is not None and known[0] is network and known[1] is self.parameters_:
            return known[2]
        kept = {name: self._kept(network, name) for name, _ in self._matrices(network)}
        arguments = self._arguments(network, self._weights(network, kept, Workspace()), kept, context)
        n_rows = None if context is None else len(context)
        scorer = kernels.Network(len(network.order), **arguments, n_rows=n_rows)
        if context is None and not self._permuted:
            self._ready = network, self.parameters_, scorer
        return scorer

    def _log_prob(self, X: Bits | Rows, per_variable: bool) -> npt.NDArray[np.float64]:
        members = self._members()
        if members == 1:
            terms = self._terms(X, 0, per_variable)
            return _by_column(terms, self._order(0)) if per_variable else terms
        if not per_variable:
            return mixture([self._terms(X, k, False) for k in range(members)])
        self._same_order("per_variable=True")
        # log p(x_1..x_i) of the mixture at every i; its steps are the terms of the chain rule.
        prefixes = [np.add.accumulate(self._terms(X, k, True), axis=1) for k in range(members)]
        mixed = mixture([prefix.reshape(-1) for prefix in prefixes]).reshape(X.shape)
        terms = mixed.copy()
        terms[:, 1:] -= mixed[:, :-1]
        return _by_column(terms, self.order_)

    def _same_order(self, what: str) -> None:
        if any(not np.array_equal(self._order(k), self.order_) for k in range(self._members())):
            raise ValueError(f"{what} has no meaning for an average over {self._members()} orders of the variables")

    def _conditionals(self, X: Bits | Rows) -> Bernoulli | Categorical:
        if self._members() > 1:
            raise ValueError(
                f"the conditionals of an average over {self._members()} sets of masks have no logits: "
                "score_samples(X, per_variable=True) gives their log-likelihoods"
            )
        parts = [at.z.copy() for at in self._logits(X, self._network(0))]
        z = _by_column(parts[0] if len(parts) == 1 else np.concatenate(parts), self._network(0).columns)
        if not self._bits:
            return Categorical(z, starts(self.n_values_), self.reference_)
        return Bernoulli(np.where(self.reference_, -z, z))

    @property
    def _n_uniforms(self) -> int:
        return self.n_features_in_ + (self._members() > 1)  # the last one picks the member

    def _draw(
        self,
        u: npt.NDArray[np.float64],
        given: Bits | None = None,
        observed: Bits | None = None,
        context: Array | None = None,
    ) -> Bits:
        n = self.n_features_in_
        x = np.empty((len(u), n), np.uint8)
        for network, rows in self._drawn_from(u, given, observed, context):
            parts = [None if part is None else part[rows] for part in (given, observed, context)]
            x[rows] = self._draw_from(network, u[rows, :n], *parts)
        return x

    def _drawn_from(
        self, u: npt.NDArray[np.float64], given: Bits | None, observed: Bits | None, context: Array | None
    ) -> list[tuple[Network, Any]]:
        """Networks, and the rows to draw from each: by member of an ensemble, or by what is observed."""
        members = self._members()
        if observed is not None and self._any_order:
            return self._by_pattern(observed)
        if members == 1:
            return [(self._network(0), slice(None))]
        # The member of a row: uniform, or by the likelihood of what was observed under each.
        share = np.ones((len(u), members))
        if given is not None and observed is not None:
            rows = self._with_context(given, context)
            known = np.stack([self._known_part(rows, observed, k) for k in range(members)], axis=1)
            share = kernels.exp(known - known.max(1, keepdims=True))
        upto = np.add.accumulate(share, axis=1)
        member = (u[:, -1:] * upto[:, -1:] >= upto[:, :-1]).sum(1, dtype=np.intp)
        return [(self._network(int(k)), np.flatnonzero(member == k)) for k in np.unique(member)]

    def _known_part(self, X: Bits | Rows, observed: Bits, index: int) -> npt.NDArray[np.float64]:
        """Log-likelihood of the observed variables, which come first in the order, under one set of masks."""
        terms = self._terms(X, index, True)
        return np.add.accumulate(np.where(observed[:, self._order(index)] == 1, terms, 0.0), axis=1)[:, -1]

    def _chains(self) -> list[npt.NDArray[np.intp]]:
        return [self._order(k).astype(np.intp) for k in range(self._members())]

    def _by_pattern(self, observed: Bits) -> list[tuple[Network, Any]]:
        """Per pattern of observed variables, a network whose order has them first, and the rows with that pattern."""
        patterns, of_row = np.unique(observed, axis=0, return_inverse=True)
        self._network(0)  # whose masks every order uses
        networks = []
        for k, pattern in enumerate(patterns):
            order = self.order_[np.argsort(pattern[self.order_] == 0, kind="stable")]
            networks.append((self._prepare(0, order), np.flatnonzero(of_row.reshape(-1) == k)))
        return networks

    def _known_log_prob(self, values: Bits, observed: Bits, context: Any = None) -> npt.NDArray[np.float64]:
        log_prob, rows = np.empty(len(values)), self._with_context(values, context)
        if not self._any_order:
            members = self._members()
            known = [self._known_part(rows, observed, k) for k in range(members)]
            return known[0] if members == 1 else mixture(known)
        for network, part in self._by_pattern(observed):
            terms = self._terms_of(rows[part], network, True)
            seen = np.where(observed[part][:, network.order] == 1, terms, 0.0)
            log_prob[part] = np.add.accumulate(seen, axis=1)[:, -1]
        return log_prob

    def _draw_from(
        self,
        network: Network,
        u: npt.NDArray[np.float64],
        given: Bits | None,
        observed: Bits | None,
        context: Array | None,
    ) -> Bits:
        return kernels.masked_sample(
            np.ascontiguousarray(u),
            **self._arguments(network, self._sorted(network), {}, context),
            given=given,
            observed=observed,
            n_threads=self.n_threads,
        )

    def _arguments(
        self, network: Network, w: dict[str, Array], kept: dict[str, Kept], context: Array | None
    ) -> dict[str, Any]:
        """The whole network as kernels take it; matrices stand as `kept` says, else as they are multiplied."""

        def how(name: str) -> dict[str, Any]:
            return kept.get(name, Kept()).options()

        def addend(name: str) -> Array | None:
            if context is None:
                return None
            mask = network.context[name]
            return kernels.masked_linear(context, w[name], mask=mask, **how(name), n_threads=self.n_threads)

        hidden = [
            Layer(
                mask,
                w[f"W{layer}"],
                w[f"b{layer}"],
                self.activation,
                self.residual and layer > 1,
                network.ready[layer - 1],
                addend("U") if layer == 1 else None,
                **how(f"W{layer}"),
            )
            for layer, mask in enumerate(network.hidden, start=1)
        ]
        output, direct, to_output = None, None, addend("C")
        if network.output is not None:
            output = Layer(network.output, w["V"], w["c"], addend=to_output, **how("V"))
        if network.direct is not None:
            direct = network.direct, w["A"], how("A")["rows"]
        return {
            "hidden": hidden,
            "output": output,
            "direct": direct,
            "addend": None if hidden else to_output,
            "b": None if hidden else w["c"],
            "order": None if network.natural else network.order,
            "reference": self.reference_,
            "first": None if self._bits else network.first,
        }

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


def _slope(g: Array, activation: str) -> Array:
    """The slope g' in terms of g(a)."""
    one = g.dtype.type(1)
    if activation == "relu":
        return np.asarray(g > 0, g.dtype)
    return np.asarray(g * (one - g) if activation == "sigmoid" else one - g * g)


def mixture(log_probs: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Log of the mean likelihood over equally likely members: never the mean of logits."""
    stacked = np.ascontiguousarray(np.stack(log_probs, axis=1))
    return kernels.logsumexp(stacked) - kernels.log(np.array([float(len(log_probs))]))


def _by_column(by_step: Array, place: npt.NDArray[np.uint32]) -> Array:
    """Columns of `by_step`, k of which belongs at place[k]."""
    out = np.empty_like(by_step)
    out[:, place] = by_step
    return out
