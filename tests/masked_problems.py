"""Masks, matrices and networks with masks that the tests of several kernels are made of."""

import numpy as np
import pytest
from chainrule import kernels, masks
from chainrule.conditionals import Bernoulli, Categorical
from chainrule.conditionals.categorical import starts
from chainrule.kernels import to_panels
from chainrule.kernels.masked import Layer, Mask
from reference import masked as reference
from reference.nade import padded, random_order

WIDTH = {np.float32: 16, np.float64: 8}


# ---- Matrices and masks


def staircase(rng, n_in, n_out):
    """Sorted degrees: output o sees the inputs below its degree, some outputs none and some all."""
    return np.arange(n_in)[:, None] < np.sort(rng.integers(0, n_in + 1, n_out))


def blocks(rng, n_in, n_out):
    """Blocks of 32 outputs by stretches of inputs, whole or not at all: spans with gaps, and panels without any."""
    on = rng.random((-(-n_in // 19), -(-n_out // 32))) < 0.4
    return np.repeat(np.repeat(on, 19, 0), 32, 1)[:n_in, :n_out]


def hollow(rng, n_in, n_out):
    """A staircase whose every other panel is empty."""
    return staircase(rng, n_in, n_out) & (np.arange(n_out) // 32 % 2 == 1)


def late(rng, n_in, n_out):
    """Nothing live before the last third of the inputs."""
    return (np.arange(n_in)[:, None] >= 2 * n_in // 3) & (rng.random((n_in, n_out)) < 0.9)


MASKS = {
    "none": None,
    "staircase": staircase,
    "a tenth": lambda rng, n_in, n_out: rng.random((n_in, n_out)) < 0.1,
    "blocks": blocks,
    "hollow": hollow,
    "late": late,
    "empty": lambda rng, n_in, n_out: np.zeros((n_in, n_out), bool),
}
by_mask = pytest.mark.parametrize("kind", MASKS)
# Rows, inputs, outputs: around a vector (w), a panel of 32, two, a chunk of 256; each axis alone, then together.
EDGES = {w: (0, 1, w - 1, w, w + 1, 2 * w + 3, 33, 65, 300) for w in (8, 16)}


def sizes(dtype):
    edges = EDGES[WIDTH[dtype]]
    yield from ((n, 40, 37) for n in edges)
    yield from ((5, n, 70) for n in edges)
    yield from ((13, 50, n) for n in edges)
    yield from zip(edges, np.roll(edges, 2).tolist(), np.roll(edges, 5).tolist(), strict=True)
    yield from [(0, 0, 0), (1, 300, 300), (2, 65, 300), (2, 300, 7), (300, 300, 33), (300, 300, 65), (3, 600, 40)]


class Problem:
    """x, W, dy and the rest; dead weights are NaN and 1e30, in W and in what pads it."""

    def __init__(self, kind, m, n_in, n_out, dtype, seed=0):
        rng = np.random.default_rng([seed, m, n_in, n_out])
        make = MASKS[kind]
        self.live = None if make is None else make(rng, n_in, n_out)
        self.mask = Mask.dense(n_in, n_out) if make is None else Mask(self.live)

        def normal(*shape):
            return rng.normal(size=shape).astype(dtype)

        self.x, self.dy, self.addend, self.addend_in = (normal(m, k) for k in (n_in, n_out, n_out, n_in))
        self.h, self.b = np.maximum(normal(m, n_in), -0.5), normal(n_out)
        self.W = normal(n_in, n_out)
        self.W /= np.sqrt(max(n_in, 1)).astype(dtype)
        if self.live is not None:
            self.W[~self.live] = np.where(rng.random(self.W.shape) < 0.5, np.nan, 1e30).astype(dtype)[~self.live]
        self.bits = (rng.random((m, n_in)) < 0.3).astype(np.uint8)
        self.ones = kernels.encode(self.bits)

    def storages(self):
        return storages_of(self.W)


def in_panels(W):
    """What pads it is NaN."""
    panels = to_panels(W)
    panels.swapaxes(1, 2)[np.arange(len(panels) * 32).reshape(-1, 32) >= W.shape[1]] = np.nan
    return panels


def storages_of(W):
    """A matrix plain, with rows apart, in panels, and in panels apart; what pads it is NaN."""
    panels = in_panels(W)
    apart = np.full((len(panels), W.shape[0] + 3, 32), np.nan, W.dtype)
    apart[:, : W.shape[0]] = panels
    return W, padded(W, W.shape[1] + 5, np.nan), panels, apart[:, : W.shape[0]]


# ---- Networks


def random_codes(rng, n_values, m):
    return rng.integers(0, n_values, (m, len(n_values))).astype(np.uint8)


class Network:
    """MADE's masks with random weights, for `masked_sample` and `masked_score`, and the products of the same."""

    def __init__(self, n_values, hidden_sizes, dtype, *, m=0, direct=False, residual=False, addend=False,
                 with_order=False, with_reference=False, activation="relu", panels=True, bits=False):  # fmt: skip
        rng = np.random.default_rng([len(n_values), len(hidden_sizes)])
        n, n_values = len(n_values), np.array(n_values)
        live = masks.made(n, hidden_sizes, direct=direct or not hidden_sizes, residual=residual, key=(0, 1))
        self.order = random_order(rng, n) if with_order else None
        by_step = n_values if self.order is None else n_values[self.order]
        self.reference = rng.integers(0, n_values).astype(np.uint8) if with_reference else None
        self.first = None if bits else starts(by_step)
        self.n_values, self.dtype, units = n_values, dtype, by_step - 1

        def weights(array, rows=1, columns=1):
            array = masks.expand(array, rows, columns)
            fan = np.sqrt(np.maximum(array.sum(0), 1))
            W = np.where(array, rng.normal(size=array.shape) / fan, np.nan).astype(dtype)
            return Mask(array), to_panels(W) if panels else W, W

        def normal(*shape):
            return rng.normal(size=shape).astype(dtype)

        self.hidden, self.plain = [], []
        for layer, array in enumerate(live.hidden):
            mask, W, plain = weights(array, *([units] if layer == 0 else []))
            added = padded(normal(m, mask.n_out), mask.n_out + 3) if addend else None
            part = Layer(mask, W, normal(mask.n_out), activation, residual and layer > 0, live.ready[layer], added)
            self.hidden.append(part)
            self.plain.append(part._replace(W=plain))
        self.output = self.plain_output = self.direct = self.plain_direct = None
        added = normal(m, units.sum()) if addend else None
        self.addend, self.b = (None, None) if hidden_sizes else (added, normal(units.sum()))
        if hidden_sizes:
            mask, W, plain = weights(live.output, 1, units)
            self.output = Layer(mask, W, normal(mask.n_out), addend=added)
            self.plain_output = self.output._replace(W=plain)
        if live.direct is not None:
            mask, W, plain = weights(live.direct, units, units)
            self.direct, self.plain_direct = (mask, W), (mask, plain)

    def sample(self, u, **options):
        return kernels.masked_sample(
            u, hidden=self.hidden, output=self.output, direct=self.direct, addend=self.addend, b=self.b,
            order=self.order, reference=self.reference, first=self.first, **options,
        )  # fmt: skip

    def prepared(self):
        rows = self.addend if self.addend is not None else self.output.addend if self.output is not None else None
        return kernels.Network(
            len(self.n_values), hidden=self.hidden, output=self.output, direct=self.direct, addend=self.addend,
            b=self.b, order=self.order, reference=self.reference, first=self.first,
            n_rows=None if rows is None else len(rows),
        )  # fmt: skip

    def score(self, x, **options):
        return kernels.masked_score(x, self.prepared(), **options)

    def expected(self, u, **options):
        network = {"hidden": self.plain, "output": self.plain_output, "direct": self.plain_direct,
                   "addend": self.addend, "b": self.b}  # fmt: skip
        return reference.sample(u, network, self.order, self.reference, self.first, **options)

    def logits(self, x):
        """By step: the products of the scorer."""
        x = kernels.encode(x, order=self.order, reference=self.reference, first=self.first)
        h = None
        for layer in self.hidden:
            g = kernels.masked_linear(
                x if h is None else h,
                layer.W,
                layer.b,
                mask=layer.mask,
                addend=layer.addend,
                activation=layer.activation,
            )
            h = h + g if layer.residual else g
        z = self.addend if self.output is None else self.output.addend
        if self.direct is not None:
            b = self.b if self.output is None else None
            z = kernels.masked_linear(x, self.direct[1], b, mask=self.direct[0], addend=z)
        if self.output is not None:
            z = kernels.masked_linear(h, self.output.W, self.output.b, mask=self.output.mask, addend=z)
        return z

    def edges(self, x):
        """By step, the first and the last uniform that draws each x, from the scorer's conditionals."""
        n = x.shape[1]
        order = np.arange(n) if self.order is None else self.order.astype(int)
        z, by_step = self.logits(x), np.ascontiguousarray(x[:, order])
        swap = None if self.reference is None else self.reference[order]
        if self.first is None:
            z = z if swap is None else np.where(swap, -z, z)
            low, p = Bernoulli(z).interval(by_step)
            end = np.where(by_step == 1, 1.0, low + p)
        else:
            given, last = Categorical(z, self.first, swap), self.n_values[order] - 1
            low = given.interval(by_step)[0]
            end = given.interval(np.minimum(by_step + 1, last).astype(np.uint8))[0]
            end = np.where(by_step == last, 1.0, end)
        return np.maximum(low, 2.0**-53), np.nextafter(end, 0), end > low


BITS, MIXED = [2] * 23, [2, 5, 3, 1, 17, 4, 2, 1, 9, 2]
NETWORKS = {
    "no layer": {"hidden_sizes": ()},
    "one layer": {"hidden_sizes": (40,)},
    "two layers, direct": {"hidden_sizes": (40, 33), "direct": True, "activation": "tanh"},
    "three layers": {"hidden_sizes": (40, 70, 35), "activation": "sigmoid"},
    "residual": {"hidden_sizes": (45, 45, 45), "residual": True, "direct": True},
    "narrow": {"hidden_sizes": (3, 2), "direct": True},
    "no layer, addend": {"hidden_sizes": (), "addend": True},
    "addends": {"hidden_sizes": (33, 40), "addend": True},
    "addends, direct, residual": {"hidden_sizes": (40, 40), "addend": True, "direct": True, "residual": True},
}
by_network = pytest.mark.parametrize("name", NETWORKS)
by_data = pytest.mark.parametrize("data", ["bits", "bits as codes", "mixed"])


def network(name, data, dtype, m, **options):
    values = MIXED if data == "mixed" else BITS
    return Network(values, dtype=dtype, m=m, bits=data == "bits", **NETWORKS[name], **options)


# ---- Threads and rows


def by_rows(call, rows, step, *more):
    """What calls on `step` rows give, one after the other."""
    return np.concatenate([call(rows[k : k + step], *more) for k in range(0, len(rows), step)])


# ---- Bad input


def hidden_with(layer, **changes):
    def change(good):
        layers = list(good["hidden"])
        layers[layer] = layers[layer]._replace(**changes)
        return layers

    return change
