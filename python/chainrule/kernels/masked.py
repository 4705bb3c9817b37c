"""Masked products: the kernels of MADE and its kin as functions on arrays.

Weights have shape (n_in, n_out), or stand in *panels* of 32 outputs, (ceil(n_out / 32), n_in, 32), padded with zeros:
``W[p, k, j]`` is the weight from input k to output 32 p + j. Panels need no packing; models keep theirs so.

A matrix that several masks share, each with its units in another order, is kept once: with `rows`, row k stands at
``W[rows[k]]``; `turned`, W is the transpose, (n_out, n_in). Either costs a product nothing, so an order of the inputs
is `rows`, and one of the outputs `rows` of a turned matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chainrule import _kernels
from chainrule.kernels.views import Array, activation_number, optional, view

PANEL = 32
MAX_LAYERS = 32  # CHAINRULE_MAX_LAYERS
Ones = _kernels.Ones


class Mask(_kernels.Mask):
    """Which weights of a matrix are live, in the kernels' form; made once, used for many products.

    Parameters
    ----------
    live : bool (n_in, n_out)
        Weights that are not live are never read, written or multiplied: the work of a product is that of blocks of 32
        outputs that have a live weight.
    """

    _live: npt.NDArray[np.uint8] | None = None  # eight weights a byte: models keep many masks
    _staircase: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None = None

    def __init__(self, live: Any, shape: tuple[int, int] = (0, 0)) -> None:
        if live is None:
            super().__init__(*shape, None)
            return
        array = np.ascontiguousarray(live, dtype=np.bool_)
        if array.ndim != 2:
            raise ValueError(f"live must be 2-d (n_in, n_out), not of shape {array.shape}")
        super().__init__(array.shape[0], array.shape[1], array.view(np.uint8))
        self._live = np.packbits(array, axis=1)

    @classmethod
    def staircase(cls, first: npt.NDArray[np.int32], last: npt.NDArray[np.int32]) -> Mask:
        """Live where ``first[k] <= last[o]``, labels that do not decrease: made without an array of the weights."""
        mask = cls.__new__(cls)
        _kernels.Mask.__init__(mask, len(first), len(last), (first, last))
        mask._staircase = first, last
        return mask

    @classmethod
    def dense(cls, n_in: int, n_out: int) -> Mask:
        """All weights live."""
        return cls(None, (n_in, n_out))

    def live_array(self) -> npt.NDArray[np.bool_]:
        """The live weights, bool (n_in, n_out)."""
        if self._staircase is not None:
            first, last = self._staircase
            return first[:, None] <= last
        if self._live is None:
            return np.ones((self.n_in, self.n_out), np.bool_)
        return np.unpackbits(self._live, axis=1, count=self.n_out).view(np.bool_)


def _mask_of(mask: Mask | None, W: Array, turned: bool = False) -> Mask:
    if mask is not None:
        return mask
    if W.ndim != 2:
        raise ValueError(f"without a mask W must be 2-d (n_in, n_out), not of shape {W.shape}")
    n_in, n_out = W.shape[::-1] if turned else W.shape
    return Mask.dense(n_in, n_out)


def _kept(rows: Any, turned: bool, sparse: bool) -> tuple[Any, ...]:
    """How a matrix is kept, for a kernel."""
    if not sparse:
        return optional(rows), turned
    if turned:
        raise ValueError("the product of Ones takes no turned W")
    return (optional(rows),)


def panels_shape(n_in: int, n_out: int) -> tuple[int, int, int]:
    """The shape of a matrix in panels."""
    return -(-n_out // PANEL), n_in, PANEL


def to_panels(W: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A matrix (n_in, n_out) in panels of 32 outputs."""
    n_in, n_out = W.shape
    panels = np.zeros(panels_shape(n_in, n_out), W.dtype)
    for p, panel in enumerate(panels):
        block = W[:, PANEL * p : PANEL * (p + 1)]
        panel[:, : block.shape[1]] = block
    return panels


def from_panels(W: npt.NDArray[Any], n_out: int) -> npt.NDArray[Any]:
    """The matrix (n_in, n_out) that stands in panels."""
    return W.swapaxes(0, 1).reshape(W.shape[1], PANEL * len(W))[:, :n_out]


def encode(
    x: Any,
    *,
    order: Any = None,
    reference: Any = None,
    first: Any = None,
    out: _kernels.Ones | None = None,
    n_threads: int | None = None,
) -> _kernels.Ones:
    """Rows of codes in chain order, and the input units that are one.

    Parameters
    ----------
    x : uint8 (n_rows, n_features)
        Values 0, 1, ... of each column.
    order : uint32 (n_features,), optional
        Column at each step of the chain; natural by default.
    reference : uint8 (n_features,), optional
        By column, the value that is exchanged with 0: 0 makes no unit one, so let it be the commonest.
    first : uint32 (n_features + 1,), optional
        By step, the number of units before it; step i has one for each value but 0. By default x holds bits.

    out : Ones, optional
        Rows of an earlier call that are no longer needed: their memory is used again.

    Returns
    -------
    Ones
        ``codes``, uint8 (n_rows, n_features), by step; and the ascending indices of the units that are one, which
        `masked_linear` takes for the dense rows of zeros and ones.
    """
    return _kernels.encode(view(x), optional(order), optional(reference), optional(first), out, n_threads or 0)


def masked_linear(
    x: Any,
    W: Any,
    b: Any = None,
    *,
    mask: Mask | None = None,
    rows: Any = None,
    turned: bool = False,
    addend: Any = None,
    activation: str | None = None,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """``g((x (W * mask) + addend) + b)``, (n_rows, n_out): MADE's layer (Germain et al. 2015).

    x is (n_rows, n_in) of W's dtype, or `Ones`, whose product is a sum of rows of W (never turned) and gives the same
    bits as dense zeros and ones. `activation` is "sigmoid", "relu", "tanh" or None; `out` shares no memory with x and
    `addend`. Cost: n_rows multiply-adds for each live weight.
    """
    W = view(W)
    mask = _mask_of(mask, W, turned)
    kernel: Any = _kernels.masked_linear
    sparse = isinstance(x, _kernels.Ones)
    if sparse:
        kernel, n_rows = _kernels.sparse_linear, len(x.codes)
    else:
        x = view(x)
        n_rows = len(x)
    if out is None:
        out = np.empty((n_rows, mask.n_out), W.dtype)
    kernel(
        mask,
        x,
        W,
        *_kept(rows, turned, sparse),
        optional(addend),
        optional(b),
        activation_number(activation, identity=True),
        view(out),
        n_threads or 0,
    )
    return out  # type: ignore[no-any-return]


def masked_linear_input_gradient(
    dy: Any,
    W: Any,
    *,
    mask: Mask | None = None,
    rows: Any = None,
    turned: bool = False,
    addend: Any = None,
    h: Any = None,
    activation: str | None = None,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """``(dy (W * mask)' + addend) * g'``, (n_rows, n_in), with g' in terms of ``h = g(a)``, the product's input.

    Without h, g' is 1.
    """
    dy, W = view(dy), view(W)
    mask = _mask_of(mask, W, turned)
    if out is None:
        out = np.empty((len(dy), mask.n_in), W.dtype)
    _kernels.masked_linear_input_gradient(
        mask,
        dy,
        W,
        optional(rows),
        turned,
        optional(addend),
        optional(h),
        activation_number(activation, identity=True),
        view(out),
        n_threads or 0,
    )
    return out  # type: ignore[no-any-return]


def masked_linear_weight_gradient(
    x: Any,
    dy: Any,
    *,
    mask: Mask | None = None,
    rows: Any = None,
    turned: bool = False,
    whole: bool = False,
    dW: Any = None,
    db: Any = None,
    n_threads: int | None = None,
) -> Array:
    """``x' dy`` for live weights, and ``db = sum_r dy_r`` where given.

    x as in `masked_linear`. dW may stand in panels; weights that are not live are left as they are (zero, when dW is
    made here, as a matrix), or become zero when dW is to be written `whole`.
    """
    dy = view(dy)
    kernel: Any = _kernels.masked_linear_weight_gradient
    sparse = isinstance(x, _kernels.Ones)
    if sparse:
        kernel, n_in = _kernels.sparse_linear_weight_gradient, x.n_units
    else:
        x = view(x)
        n_in = x.shape[1]
    if dW is None:
        dW = np.zeros((dy.shape[1], n_in) if turned else (n_in, dy.shape[1]), dy.dtype)
    gradient = view(dW)
    kept = _kept(rows, turned, sparse)
    kernel(_mask_of(mask, gradient, turned), x, dy, gradient, *kept, whole, optional(db), n_threads or 0)
    return dW  # type: ignore[no-any-return]


def permute_columns(
    W: Array,
    columns: Array,
    *,
    mask: Mask,
    rows: Any = None,
    turned: bool = False,
    back: bool = False,
    out: Array,
    n_threads: int | None = None,
) -> Array:
    """``out[:, j] = W[:, columns[j]]``, columns as W is kept, in panels: for hidden units in another order.

    `mask`, `rows` and `turned` are those of the products with `out`. Where a row of a panel has no live weight, out is
    left as it is. `back`, a gradient returns: ``out[:, columns[j]] = W[:, j]`` where live, 0 elsewhere. out may be W.
    """
    _kernels.permute_columns(mask, W, optional(rows), turned, columns, back, out, n_threads or 0)
    return out


class Layer(NamedTuple):
    """A hidden or output layer of `masked_sample` or a `Network`, as in `masked_linear`.

    `ready` (int32, non-decreasing) is the last step of the chain that each hidden unit depends on, -1 for none. The
    sampler takes no `rows` and no turned W.
    """

    mask: Mask
    W: Array
    b: Array | None = None
    activation: str | None = None
    residual: bool = False
    ready: Array | None = None
    addend: Array | None = None
    rows: Array | None = None
    turned: bool = False

    def packed(self) -> tuple[Any, ...]:
        """For the kernel."""
        number = activation_number(self.activation, identity=True)
        return (
            self.mask, self.W, self.b, number, self.residual, self.ready, self.addend, self.rows, self.turned
        )  # fmt: skip


class Network(_kernels.Network):
    """A network as `masked_sample` takes it, checked once and scored many times by `masked_score`.

    `direct` may name the rows of its matrix, (mask, A, rows). `n_features` is the number of variables; `n_rows` that
    of the rows to be scored, where addends have as many. Weights are read where they stand, whenever rows are scored;
    order, reference, first and what else indices come from are copied.
    """

    def __init__(
        self,
        n_features: int,
        *,
        hidden: Sequence[Layer] = (),
        output: Layer | None = None,
        direct: tuple[Mask, Array] | tuple[Mask, Array, Array | None] | None = None,
        addend: Any = None,
        b: Any = None,
        order: Any = None,
        reference: Any = None,
        first: Any = None,
        n_rows: int | None = None,
    ) -> None:
        super().__init__(
            [layer.packed() for layer in hidden], None if output is None else output.packed(), direct, optional(addend),
            optional(b), optional(order), optional(reference), optional(first), n_features,
            -1 if n_rows is None else n_rows,
        )  # fmt: skip


def masked_score(
    x: Any, network: Network, *, per_variable: bool = False, out: Any = None, n_threads: int | None = None
) -> Array:
    """Log-likelihoods of rows under an autoregressive network, in nats: float64 (n_rows,).

    The bits of `encode`, `masked_linear` through the layers and `bernoulli_log_prob` (`categorical_log_prob`), a tile
    of rows at a time, so that what lies between them never leaves the cache.

    Parameters
    ----------
    x : uint8 (n_rows, n_features)
        Values 0, 1, ... of each column.
    per_variable : bool
        Return ``log p(x_i | x_<i)`` by step of the chain, (n_rows, n_features), instead of their sum.

    Notes
    -----
    Cost: n_rows multiply-adds for each live weight, but an addition for each one and live weight of the input, and what
    the conditional costs.
    """
    x = view(x)
    if out is None:
        out = np.empty(x.shape if per_variable else x.shape[:1])
    log_prob, terms = (None, view(out)) if per_variable else (view(out), None)
    network.score(x, log_prob, terms, n_threads or 0)
    return out  # type: ignore[no-any-return]


def masked_sample(
    u: Any,
    *,
    hidden: Sequence[Layer] = (),
    output: Layer | None = None,
    direct: tuple[Mask, Array] | None = None,
    addend: Any = None,
    b: Any = None,
    order: Any = None,
    reference: Any = None,
    first: Any = None,
    given: Any = None,
    observed: Any = None,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """Rows drawn from an autoregressive network, every unit computed once: the work of one forward pass.

    Logits are ``(h_L V + (x A + addend)) + b`` for the last hidden layer's V (`output`) and the weights A between
    inputs and outputs (`direct`); without hidden layers `addend` and `b` are given here. `u` is float64 (n_rows,
    n_features), column i for the i-th step; `order`, `reference` and `first` as in `encode`. Bits are drawn as in
    `nade_sample`, other values as in `categorical_sample`; where `observed` is 1, the value of `given` is taken.
    """
    u = view(u)
    if out is None:
        out = np.empty(u.shape, np.uint8)
    if (observed is None) != (given is None):
        raise ValueError("given and observed go together: values, and the mask of those to keep")
    if observed is not None:
        np.copyto(view(out), view(given))
    _kernels.masked_sample(
        [layer.packed() for layer in hidden], None if output is None else output.packed(), direct, optional(addend),
        optional(b), optional(order), optional(reference), optional(first), u, optional(observed), view(out),
        n_threads or 0,
    )  # fmt: skip
    return out  # type: ignore[no-any-return]
