"""Which weights are live: the masks that make a network autoregressive.

Everything here is in *chain positions*: input and output p belong to the p-th variable of the order. A mask has shape
(n_in, n_out) and `True` where the weight is live. A hidden unit carries a *label*, the set of inputs it may depend on,
and three rules make every network sound (by induction a unit depends on nothing outside its label):

    input j -> unit v    where j is in S_v
    unit u -> unit v     where S_u is a subset of S_v
    unit v -> output i   where S_v is a subset of B_i, the variables output i may depend on

MADE is the case B_i = {0..i-1}; its labels {0..m} are the paper's degrees m. A unit with an empty label is connected to
nothing.

Germain, Gregor, Murray and Larochelle, MADE, ICML 2015; Khajenezhad, Madani and Beigy, MASDE, IEEE TNNLS 2021.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from chainrule import random
from chainrule.random import Key
from chainrule.structures import min_fill_order as min_fill_order
from chainrule.structures import parents as parents
from chainrule.validation import check_int

Bools: TypeAlias = npt.NDArray[np.bool_]
Places: TypeAlias = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Masks:
    """The live weights of a network of L hidden layers over n variables.

    Hidden units stand sorted by `ready`, the largest position they depend on (-1: none): a sampler computes each unit
    once, when the variable at that position is drawn, and MADE's masks become staircases.

    Attributes
    ----------
    hidden : L arrays (n_in, n_units_l)
        Into each hidden layer, from the inputs or from the layer before.
    output : array (n_units_L, n) or None
        From the last hidden layer; None without hidden layers.
    direct : array (n, n) or None
        From inputs to outputs.
    ready : L int32 arrays (n_units_l,)
        Non-decreasing.
    units : L intp arrays (n_units_l,)
        The canonical (parameter) index of the unit at each sorted place: for parameters shared under several masks; one
        fixed mask does not need it.
    """

    hidden: tuple[Bools, ...]
    output: Bools | None
    direct: Bools | None
    ready: tuple[npt.NDArray[np.int32], ...]
    units: tuple[Places, ...]

    def reach(self) -> list[Bools]:
        """Per hidden layer, (n_units_l, n): the inputs each unit truly depends on."""
        reach: list[Bools] = []
        for live in self.hidden:
            reach.append(_through(live, reach[-1]) if reach else live.T)
        return reach

    def dependencies(self) -> Bools:
        """(n, n): output i (row) is reached by input j (column). Boolean product of all masks, nnz * n / 8 bytes."""
        if self.output is None:
            assert self.direct is not None
            return self.direct.T.copy()
        through_units = _through(self.output, self.reach()[-1])
        return through_units if self.direct is None else through_units | self.direct.T


class Staircase(NamedTuple):
    """A mask by labels that do not decrease, int32: input k feeds output o where ``first[k] <= last[o]``."""

    first: npt.NDArray[np.int32]
    last: npt.NDArray[np.int32]

    def live(self) -> Bools:
        """As an array (n_in, n_out)."""
        return self.first[:, None] <= self.last

    def expand(self, rows: Any, columns: Any) -> Staircase:
        """Of variables of several units: see `expand`."""
        return Staircase(np.repeat(self.first, rows), np.repeat(self.last, columns))


class Staircases(NamedTuple):
    """`Masks` that are staircases all: a thousandth of the memory, for masks that change from batch to batch."""

    hidden: tuple[Staircase, ...]
    output: Staircase | None
    direct: Staircase | None
    ready: tuple[npt.NDArray[np.int32], ...]
    units: tuple[Places, ...]

    def live(self) -> Masks:
        """As arrays."""
        hidden = tuple(stairs.live() for stairs in self.hidden)
        output, direct = (None if stairs is None else stairs.live() for stairs in (self.output, self.direct))
        return Masks(hidden, output, direct, self.ready, self.units)


def _through(live: Bools, reach: Bools) -> Bools:
    """What each unit reaches, (n_out, n), through `live` (n_in, n_out) from units that reach (n_in, n)."""
    packed = np.packbits(reach, axis=1)
    rows = np.zeros((live.shape[1], packed.shape[1]), np.uint8)
    for row, incoming in zip(rows, np.ascontiguousarray(live.T), strict=True):
        np.bitwise_or.reduce(packed[incoming], axis=0, out=row)
    return np.unpackbits(rows, axis=1, count=reach.shape[1]).view(np.bool_)


def _before(n: int) -> Bools:
    """(n, n), input to output: input j comes before output i."""
    return ~np.tri(n, dtype=np.bool_)


def fvsbn(n: int) -> Masks:
    """A logistic regression per variable on those before it: n (n - 1) / 2 live weights (Neal 1992; Frey 1998)."""
    return Masks((), None, _before(check_int("n", n, 1)), (), ())


def mlp_conditionals(n: int, n_hidden: int) -> Masks:
    """A network of `n_hidden` units per variable, nothing shared (Bengio and Bengio 2000).

    The units of variable i see inputs 0..i-1 and feed output i alone; variable 0 has no inputs, so no units:
    (n - 1) n_hidden units in all, n_hidden n (n - 1) / 2 live weights.
    """
    n, n_hidden = check_int("n", n, 1), check_int("n_hidden", n_hidden, 1)
    variable = np.repeat(np.arange(1, n), n_hidden)
    inputs = np.arange(n)[:, None] < variable
    output = variable[:, None] == np.arange(n)
    return Masks((inputs,), output, None, ((variable - 1).astype(np.int32),), (np.arange(variable.size),))


def made(
    n: int,
    hidden_sizes: int | Iterable[int],
    *,
    direct: bool = False,
    residual: bool = False,
    key: Key,
    index: int = 0,
) -> Masks:
    """The `index`-th MADE masks of a key (Germain et al. 2015), with degrees 0..n-2.

    A unit of degree m depends on the inputs at positions 0..m, all of them. Every layer holds the degrees of one grid:
    k = min(n - 1, narrowest layer) degrees spread evenly over 0..n-2, both ends included (k = 1: degree 0). A layer's
    further units take the other degrees that the layer below holds, each once at first, then uniformly at random. So

        output i depends on input j   where   j <= the largest degree of the grid below i      (or direct, and j < i):

    on every j < i when no layer has fewer than n - 1 units. Which canonical unit gets which degree is uniformly random.

    Parameters
    ----------
    n : int
        Variables. For n = 1 no unit has anything to depend on: every mask is empty.
    hidden_sizes : int or ints
        Units per hidden layer. No hidden layer needs ``direct=True`` (and is then an FVSBN).
    direct : bool
        Connect inputs to the outputs after them.
    residual : bool
        One degree vector for all layers, which must have one size, so that layers may be added (ResMADE).
    key, index
        Philox key and number of the masks, for cycles of masks.
    """
    return made_staircases(n, hidden_sizes, direct=direct, residual=residual, key=key, index=index).live()


def made_staircases(
    n: int,
    hidden_sizes: int | Iterable[int],
    *,
    direct: bool = False,
    residual: bool = False,
    key: Key,
    index: int = 0,
) -> Staircases:
    """The masks of `made`, by the degrees of their units."""
    n, sizes = check_int("n", n, 1), layer_sizes(hidden_sizes, direct)
    if residual and len(set(sizes)) > 1:
        raise ValueError(f"residual=True needs hidden layers of one size, not hidden_sizes={sizes}")
    degrees = np.arange(n - 1, dtype=np.int32) if n > 1 else np.array([-1], np.int32)
    layers = _deal(_grid(degrees.size, sizes), np.arange(degrees.size), sizes, key, index)
    if residual:
        layers = layers[:1] * len(sizes)
    ready = tuple(degrees[layer.labels] for layer in layers)
    positions = np.arange(n, dtype=np.int32)
    # A unit feeds those of its degree and above, and the outputs after its degree; of degree -1 (n = 1) nothing at all.
    feeds = [np.maximum(placed, 0) for placed in ready]
    hidden = [Staircase(lower, upper) for lower, upper in zip([positions, *feeds], ready, strict=False)]
    before = Staircase(positions, positions - 1)
    output = Staircase(feeds[-1], positions - 1) if feeds else None
    return Staircases(tuple(hidden), output, before if direct else None, ready, tuple(layer.units for layer in layers))


def masde(
    parent_sets: Sequence[npt.ArrayLike],
    hidden_sizes: int | Iterable[int],
    *,
    direct: bool = False,
    key: Key,
    index: int = 0,
) -> Masks:
    """The `index`-th MASDE masks of a key: output i depends on exactly the inputs in B_i (Khajenezhad et al. 2021).

    Every layer holds each distinct B_i as a label. Further units take what neighbours share, each once at first: the
    meet of sets that are next to each other, largest position first, and of B_i with B_j for j the last parent of i (a
    unit so labelled serves both outputs); then any label uniformly at random. A layer takes only labels that the layer
    below holds. MADE is the special case of full sets.

    Parameters
    ----------
    parent_sets : n sets of positions
        B_i, all before i: what `parents` returns. An output whose set is empty has only its bias.
    hidden_sizes : int or ints
        Units per hidden layer: at least as many as there are distinct non-empty sets, unless `direct`.
    direct : bool
        Connect input j to output i where j is in B_i. Then narrow layers will do: all hold the same selection of sets,
        spread evenly along the order, and the direct weights see to the rest.
    key, index
        Philox key and number of the masks, for cycles of masks.

    Notes
    -----
    With K labels, K^2 n / 8 byte operations: half a second for an image of 784 pixels and 2000 units.
    """
    n, sizes, bits = len(parent_sets), layer_sizes(hidden_sizes, direct), _bitsets(parent_sets)
    base = set(bits) - {0}
    labels = sorted(base)
    narrow = bool(sizes) and min(sizes) < len(base)
    if narrow and not direct:
        layer = min(range(len(sizes)), key=sizes.__getitem__)
        raise ValueError(
            f"hidden_sizes[{layer}] must be at least {len(base)}, one unit for each distinct parent set, "
            f"not {sizes[layer]}; or set direct=True"
        )
    if not narrow:
        labels = sorted(base | _shared(bits) - {0}) or [0]
    required = (
        _grid(len(labels), sizes) if narrow else np.array([k for k, s in enumerate(labels) if s in base], np.intp)
    )
    layers = _deal(required, np.arange(len(labels)), sizes, key, index)
    packed, allowed = _packed(labels, n), _packed(bits, n)
    inputs, before = (np.unpackbits(p, axis=1, count=n, bitorder="little").view(np.bool_) for p in (packed, allowed))
    return _network(
        inputs, _within(packed, packed), _within(packed, allowed), layers, before.T.copy() if direct else None
    )


def _bitsets(parent_sets: Sequence[npt.ArrayLike]) -> list[int]:
    """Each set as the integer with bit j for position j: sorted, they stand by largest position."""
    if not len(parent_sets):
        raise ValueError("parent_sets is empty: a density needs a variable")
    bits = []
    for i, given in enumerate(parent_sets):
        bits.append(0)
        for j in np.asarray(given).ravel().tolist():
            if type(j) is not int or not 0 <= j < i:
                raise ValueError(f"parent_sets[{i}] holds {j!r}, which is not a position before {i}")
            bits[i] |= 1 << j
    return bits


def _shared(bits: list[int]) -> set[int]:
    """What neighbouring sets have in common: next to each other when sorted, and each with its last parent's set."""
    return {a & b for a, b in itertools.pairwise(sorted(set(bits)))} | {b & bits[b.bit_length() - 1] for b in bits if b}


def _packed(bits: Sequence[int], n: int) -> npt.NDArray[np.uint8]:
    """(n_sets, ceil(n / 8)) bytes of the bitsets."""
    width = (n + 7) // 8
    return np.frombuffer(b"".join(s.to_bytes(width, "little") for s in bits), np.uint8).reshape(len(bits), width)


def _within(sets: npt.NDArray[np.uint8], others: npt.NDArray[np.uint8]) -> Bools:
    """(n_sets, n_others): set s is a subset of other t."""
    outside = np.zeros((len(sets), len(others)), np.uint8)
    for a, b in zip(sets.T, ~others.T, strict=True):
        outside |= a[:, None] & b
    return np.logical_not(outside)


def _network(labels: Bools, subset: Bools, feeds: Bools, layers: list[Dealt], direct: Bools | None) -> Masks:
    """Masks of layers whose v-th unit in order has the label ``labels[layer.labels[v]]``, by the three rules.

    `labels` (K, n) come sorted by their largest input; ``subset[s, t]``: s lies in t, ``feeds[s, i]``: s lies in B_i.
    A label that a layer holds must occur in the layer below, or its unit would reach less than the label.
    """
    filled: Bools = np.logical_or.reduce(labels, axis=1)
    subset, feeds = subset & filled[:, None], feeds & filled[:, None]
    last = np.where(filled, labels.shape[1] - 1 - np.argmax(labels[:, ::-1], axis=1), -1).astype(np.int32)
    placed = [layer.labels for layer in layers]
    hidden = [np.ascontiguousarray(labels[place].T) for place in placed[:1]]
    hidden += [subset[np.ix_(lower, upper)] for lower, upper in itertools.pairwise(placed)]
    output = feeds[placed[-1]] if placed else None
    return Masks(
        tuple(hidden), output, direct, tuple(last[place] for place in placed), tuple(layer.units for layer in layers)
    )


class Dealt(NamedTuple):
    """A layer's labels, which do not decrease, and its canonical units that have them: of one label, in their order."""

    labels: Places
    units: Places


@lru_cache(maxsize=16)  # of masks that change from batch to batch
def _grid(n_labels: int, sizes: tuple[int, ...]) -> Places:
    """As many labels as the narrowest layer has units, at most all, spread evenly from the first to the last."""
    k = min(n_labels, *sizes) if sizes else 0
    grid = np.arange(k) * (n_labels - 1) // max(k - 1, 1)
    grid.flags.writeable = False
    return grid


def _deal(grid: Places, pool: Places, sizes: tuple[int, ...], key: Key, index: int) -> list[Dealt]:
    """The labels of each layer: the grid, the rest of the pool, copies; among the canonical units in random order.

    A layer's pool is what the layer below holds. Each layer uses three rows of the index-th table of uniforms.
    """
    width = max(pool.size, *sizes, 1)
    layers = []
    for layer, size in enumerate(sizes):
        row = 3 * (index * len(sizes) + layer)
        (place_key,) = random.uniform_rows(key, row + 2, 1, width)
        place = random.ascending(place_key[:size])
        if grid.size == size:  # nothing else is dealt, and nothing twice
            units = np.empty(size, np.intp)
            units[place] = np.arange(size)
            layers.append(Dealt(grid, units))
            pool = grid
            continue
        rest_key, copy_key = random.uniform_rows(key, row, 2, width)
        spare = np.ones(pool[-1] + 1, np.bool_)
        spare[grid] = False
        rest = pool[spare[pool]]
        rest = rest[random.ascending(rest_key[: rest.size])]
        copies = pool[np.minimum((copy_key[:size] * pool.size).astype(np.intp), pool.size - 1)]
        labels = np.concatenate([grid, rest, copies])[:size][place]
        units = np.argsort(labels, kind="stable")
        layers.append(Dealt(labels[units], units))
        pool = np.flatnonzero(np.bincount(labels))  # each once, ascending
    return layers


def layer_sizes(hidden_sizes: int | Iterable[int], direct: bool) -> tuple[int, ...]:
    """`hidden_sizes` as a tuple of integers >= 1."""
    given = list(hidden_sizes) if isinstance(hidden_sizes, Iterable) else [hidden_sizes]
    sizes = tuple(check_int(f"hidden_sizes[{layer}]", size, 1) for layer, size in enumerate(given))
    if not sizes and not direct:
        raise ValueError("hidden_sizes is empty: without hidden layers only direct=True connects inputs to outputs")
    return sizes


def expand(mask: Bools, rows: int | Sequence[int] | Places, columns: int | Sequence[int] | Places) -> Bools:
    """`mask` with row i repeated `rows` (or ``rows[i]``) times, columns likewise: for variables of several units."""
    return np.repeat(np.repeat(mask, rows, axis=0), columns, axis=1)


def check(masks: Masks, allowed: npt.ArrayLike | None = None) -> None:
    """The laws of masks, or a ValueError with the first break.

    Output i depends on no j >= i; on exactly the j of ``allowed[i, j]`` where given; every `ready` is the largest input
    its unit reaches, and non-decreasing.
    """
    found = masks.dependencies()
    n = len(found)
    _refuse(found & ~_before(n).T, "the masks leak: output {} depends on input {}, which does not come before it")
    if allowed is not None:
        wanted = np.asarray(allowed, np.bool_)
        _refuse(found & ~wanted, "the masks leak: output {} depends on input {}, which is not allowed")
        _refuse(wanted & ~found, "the masks starve: output {} does not depend on input {}, which is allowed")
    for layer, (ready, reach) in enumerate(zip(masks.ready, masks.reach(), strict=True)):
        last = np.where(reach.any(axis=1), n - 1 - np.argmax(reach[:, ::-1], axis=1), -1)
        _refuse((ready != last)[:, None], f"ready[{layer}] of unit {{}} is not the largest input that the unit reaches")
        _refuse((np.diff(ready) < 0)[:, None], f"ready[{layer}] decreases after unit {{}}")


def _refuse(wrong: Bools, message: str) -> None:
    """A ValueError at the first True of `wrong`."""
    if wrong.any():
        raise ValueError(message.format(*np.argwhere(wrong)[0]))
