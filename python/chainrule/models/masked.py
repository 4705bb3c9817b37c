"""What FVSBN, one network per variable, MADE and MASDE share: a network whose masks keep the order of the variables.

    h_1 = g(x W_1 + s U + b_1),   h_l = g(h_{l-1} W_l + b_l),   logits = h_L V + x A + s C + c

x are the input units of a row: a bit is its own unit; a variable of K values has K - 1, one for each value but its
commonest (`reference_`), which is none of them. Logits alike: a value's logit is relative to the reference's. Masks
decide which weights are live. Units stand sorted by the last variable they depend on, so that masks are staircases of
blocks, and a sample costs one forward pass: each unit is computed once, when that variable is drawn. A context s, where
there is one, reaches the hidden units and every logit, the first variable's included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from chainrule import kernels, random
from chainrule.conditionals import Bernoulli, Categorical
from chainrule.conditionals.categorical import starts
from chainrule.fit import Gradient, Parameters, Product
from chainrule.kernels.masked import Layer
from chainrule.models.base import Bits
from chainrule.models.mask_sets import Array, Kept, MaskSets, Network, Workspace
from chainrule.models.rows import Rows
from chainrule.validation import check_option

ROWS_AT_ONCE = 512  # scored together: activations stay in cache
# A gradient of so many weights, by at most so many rows, is left to the optimizer as a product: a smaller one stays in
# cache, and costs nothing to write; that of many rows takes so long that writing it is no matter. Ones take less time.
LARGE, LARGE_OF_ONES, FEW = 1 << 20, 1 << 16, 256

Dropped: TypeAlias = Callable[[int, tuple[int, ...]], Array]


class Pass(NamedTuple):
    """A forward pass: the input, g(a) of every layer, its state h, dropout's factors, and the logits."""

    x: kernels.Ones
    g: list[Array]
    h: list[Array]
    dropped: list[Array]
    z: Array


class MaskedNetwork(MaskSets):
    """Forwards, backwards, and the densities: of one set of masks, and of the average over several."""

    activation: str = "relu"
    residual: bool = False
    dropout: float = 0.0

    # ---- data

    def _check_model(self) -> None:
        self._check_conditional()
        check_option("activation", self.activation, kernels.ACTIVATIONS)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout!r}")

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
        products: dict[str, Product] | None = None,
    ) -> None:
        """Fills `out` from ``at.z``, which holds the gradient by the logits.

        A matrix of `w` may stand in its own place in `out`: its gradient comes after its last use. Large products
        are left to the optimizer, in `products`.
        """
        g, h, dz, n = at.g, at.h, at.z, len(at.z)
        context = X.context if isinstance(X, Rows) else None

        def weights(inputs: Any, dy: Array, name: str, bias: str | None, mask: kernels.Mask) -> None:
            db = None if bias is None else out[bias]
            large = LARGE_OF_ONES if isinstance(inputs, kernels.Ones) else LARGE
            if products is not None and mask.n_in * mask.n_out >= large and n <= FEW:
                products[name] = Product(inputs, dy, mask, db)
                return
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
        above, name, bias, mask = dz, "V", "c", network.output
        skip = None  # the gradient that goes around a residual layer
        for layer in range(len(h), 0, -1):
            if self.residual:
                skip = back(above, name, mask, f"dh{layer % 2}", addend=skip)
                da = skip * _slope(g[layer - 1], self.activation)
            else:
                da = back(above, name, mask, f"da{layer}", h=g[layer - 1], activation=self.activation)
            if at.dropped:
                da *= at.dropped[layer - 1]
            weights(h[layer - 1], above, name, bias, mask)
            above, name, bias, mask = da, f"W{layer}", f"b{layer}", network.hidden[layer - 1]
        weights(at.x, above, name, bias, mask)
        if context is not None:
            weights(context, above, "U", None, network.context["U"])

    def _gradient(
        self, X: Bits | Rows, gradient: Parameters, weight: Array | None = None, step: int = 0
    ) -> npt.NDArray[np.float64]:
        network = self._network(step if self.n_masks is None else step % self.n_masks)
        work = self._work
        kept = {name: self._kept(network, name) for name, _ in self._matrices(network)}
        out = gradient.views
        w = self._weights(network, kept, out)
        if self._permuted:
            out = {**out, **{name: np.empty_like(out[name]) for name, _ in self._biases(network)}}
        at = self._forward(X, network, kept, w, work, self._dropped(step) if self.dropout else None)
        log_prob = np.empty(len(X))
        options: dict[str, Any] = {"weight": weight, "log_prob": log_prob, "out": at.z, "n_threads": self.n_threads}
        if self._bits:
            kernels.bernoulli_gradient(at.z, at.x.codes, **options)
        else:
            kernels.categorical_gradient(at.z, at.x.codes, network.first, **options)
        products = gradient.products if isinstance(gradient, Gradient) and not self._permuted else None
        self._backward(X, network, kept, w, at, out, work, products)
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
        w = self._weights(network, kept)
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
        arguments = self._arguments(network, self._weights(network, kept), kept, context)
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
