"""Activations in time: causal convolutions, WaveNet's block and generator, embeddings, as functions on arrays.

Activations are (rows, steps, channels). What a convolution looks back on stands in front: of x with H + n steps, H =
(width - 1) dilation, the last n have an output. Zeros there are the start of a sequence; the last H steps of the chunk
before make a long sequence of chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chainrule import _kernels
from chainrule.kernels.conditionals import default_log_scale_min
from chainrule.kernels.masked import PANEL, panels_shape, to_panels
from chainrule.kernels.views import Array, activation_number, optional, view
from chainrule.validation import check_int

HALF = PANEL // 2  # filters of a panel of gates
MAX_TAPS = 16  # CHAINRULE_MAX_TAPS


class Block(NamedTuple):
    """The arrays of a gated block, or their gradients; the residual is None in a last block."""

    W: Array  # (ceil(channels / 16), width * channels, 32), `gate_panels`
    b: Array  # (32 ceil(channels / 16),), `gate_order`
    residual: Array | None  # panels of (channels, channels)
    residual_bias: Array | None  # (channels,)
    skip: Array  # panels of (channels, skip_channels)
    skip_bias: Array  # (skip_channels,)


class Frames(NamedTuple):
    """Context of a block by frames: step t has frame ``(t + phase) // hop`` of `a`, (rows, frames, 32 P)."""

    a: Array
    hop: int
    phase: int = 0


def gate_order(n_channels: int) -> npt.NDArray[np.intp]:
    """Column of (filter, gate), 2 n_channels of them, at each place of the panels of gates; -1 where there is none."""
    place = np.arange(-(-n_channels // HALF) * PANEL)
    unit, gate = place // PANEL * HALF + place % HALF, place % PANEL >= HALF
    return np.where(unit < n_channels, unit + gate * n_channels, -1)


def gate_panels(W: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Weights (width, channels, 2 channels), filters before gates, in panels of 16 filters beside their 16 gates."""
    width, n_channels, _ = W.shape
    order = gate_order(n_channels)
    columns = np.where(order >= 0, W.reshape(width * n_channels, -1)[:, order], W.dtype.type(0))
    return to_panels(columns)


def from_gate_panels(W: npt.NDArray[Any], n_channels: int) -> npt.NDArray[Any]:
    """The weights (width, channels, 2 channels) that stand in panels of gates."""
    order = gate_order(n_channels)
    columns = W.swapaxes(0, 1).reshape(W.shape[1], -1)
    dense = np.zeros((W.shape[1], 2 * n_channels), W.dtype)
    dense[:, order[order >= 0]] = columns[:, order >= 0]
    return dense.reshape(-1, n_channels, 2 * n_channels)


def causal_conv1d(
    x: Any, W: Any, b: Any = None, *, dilation: int = 1, activation: str | None = None, n_threads: int | None = None
) -> Array:
    """``y_t = g(sum_k x_{t - (width - 1 - k) dilation} W_k + b)``, with zeros before the first step.

    Parameters
    ----------
    x : (n_rows, n_steps, n_in)
        float32 or float64.
    W : (width, n_in, n_out)
        The newest tap last; width up to 16.
    b : (n_out,), optional
    dilation : int
        Steps between taps.
    activation : {"sigmoid", "relu", "tanh"}, optional

    Returns
    -------
    (n_rows, n_steps, n_out). Cost: width n_in n_out multiply-adds a step; shifted inputs are never copied, but for the
    zeros in front.
    """
    x, W = view(x), view(W)
    if W.ndim != 3 or x.ndim != 3:
        raise ValueError(f"x and W must be 3-d (rows, steps, n_in) and (width, n_in, n_out), not {x.shape}, {W.shape}")
    check_int("dilation", dilation, 1)
    if not 1 <= len(W) <= MAX_TAPS:
        raise ValueError(f"W must have 1 to {MAX_TAPS} taps, not {len(W)}")
    if W.shape[1] != x.shape[2]:
        raise ValueError(f"W must have {x.shape[2]} inputs, as x has channels, not {W.shape[1]}")
    history = (len(W) - 1) * dilation
    padded = np.zeros((len(x), history + x.shape[1], x.shape[2]), x.dtype)
    padded[:, history:] = x
    panels = to_panels(W.reshape(-1, W.shape[2]))
    return causal_conv(padded, panels, W.shape[2], b, dilation=dilation, activation=activation, n_threads=n_threads)


def causal_conv(
    x: Any,
    W: Any,
    n_out: int,
    b: Any = None,
    *,
    dilation: int = 1,
    activation: str | None = None,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """The convolution of `causal_conv1d` on x with its history in front, (rows, H + n, channels), W in panels.

    W: ``to_panels(weights.reshape(width * n_in, n_out))``. Returns (rows, n, n_out).
    """
    x, W = view(x), view(W)
    if out is None:
        width = W.shape[1] // max(x.shape[2], 1)
        out = np.empty((len(x), max(x.shape[1] - (width - 1) * dilation, 0), n_out), W.dtype)
    number = activation_number(activation, identity=True)
    _kernels.causal_conv(x, W, optional(b), dilation, number, view(out), n_threads or 0)
    return out  # type: ignore[no-any-return]


def causal_conv_input_gradient(
    dy: Any, W: Any, n_in: int, *, dilation: int = 1, out: Any = None, n_threads: int | None = None
) -> Array:
    """The gradient to all steps of x, history included, (rows, H + n, n_in), from dy (rows, n, n_out)."""
    dy, W = view(dy), view(W)
    if out is None:
        out = np.empty((len(dy), (W.shape[1] // n_in - 1) * dilation + dy.shape[1], n_in), W.dtype)
    _kernels.causal_conv_input_gradient(dy, W, dilation, view(out), n_threads or 0)
    return out  # type: ignore[no-any-return]


def causal_conv_weight_gradient(
    x: Any,
    dy: Any,
    width: int,
    *,
    dilation: int = 1,
    out: Any = None,
    db: Any = None,
    n_threads: int | None = None,
) -> tuple[Array, Array]:
    """``dW, db``: the gradients to the weights, in panels, and to the bias."""
    x, dy = view(x), view(dy)
    if out is None:
        out = np.zeros(panels_shape(width * x.shape[2], dy.shape[2]), x.dtype)  # what pads it is not written
    if db is None:
        db = np.empty(dy.shape[2], x.dtype)
    _kernels.causal_conv_weight_gradient(x, dy, dilation, view(out), view(db), n_threads or 0)
    return out, db


def gated_block(
    block: Block,
    x: Any,
    *,
    dilation: int,
    start: Any = None,
    frames: Frames | None = None,
    y: Any = None,
    skip: Any = None,
    first: bool = False,
    gates: Any = None,
    n_threads: int | None = None,
) -> None:
    """A block of WaveNet, into the arrays that are given.

    ``z = conv(x) + frames + b; u = tanh(z's filters) sigmoid(z's gates); y = u residual + x; skip += u skip``, with the
    biases of each (van den Oord et al. 2016, section 2.3).

    Parameters
    ----------
    x : (rows, H + n, channels)
    start : uint32 (rows,), optional
        Steps of the output before which a sequence does not exist: y is zero there.
    y : (rows, n, channels), optional
    skip : (rows, m, skip_channels), optional
        Of the last m <= n steps; added to, unless this block is the `first`.
    gates : (rows, n, 32 P), optional
        Gets tanh and sigmoid, for `gated_block_gradient`.

    Cost: ``channels ((2 width + 1) channels + skip_channels)`` multiply-adds and 2 channels transcendentals a step.
    """
    _kernels.gated_block(
        tuple(map(optional, block)), dilation, view(x), optional(start), frames, optional(y), optional(skip), first,
        optional(gates), n_threads or 0,
    )  # fmt: skip


def gated_block_gradient(
    block: Block,
    x: Any,
    gates: Any,
    dy: Any,
    dskip: Any,
    gradient: Block,
    *,
    dilation: int,
    start: Any = None,
    dframes: Frames | None = None,
    dx: Any = None,
    n_threads: int | None = None,
) -> None:
    """Gradients of a block, overwriting the arrays of `gradient`, `dframes` and `dx`, which may be None.

    dy (rows, n, channels) is None for a last block; dskip (rows, m, skip_channels) is that of the sum of skips. gates
    become the gradient of z. Cost: twice the block's.
    """
    _kernels.gated_block_gradient(
        tuple(map(optional, block)), dilation, view(x), optional(start), view(gates), optional(dy), view(dskip),
        tuple(map(optional, gradient)), dframes, optional(dx), n_threads or 0,
    )  # fmt: skip


def embedding(
    index: Any, E: Any, n_out: int, *, n_values: int | None = None, out: Any = None, n_threads: int | None = None
) -> Array:
    """Rows ``E[index]`` of a table in panels, (ceil(n_out / 32), n_values, 32); zeros for an int32 index below 0.

    With `n_values` the table is turned, as the output matrix of logits is kept: (ceil(n_values / 32), n_out, 32).
    """
    index, E = view(index), view(E)
    if out is None:
        out = np.empty((*index.shape, n_out), E.dtype)
    if view(out).shape != (*index.shape, n_out):
        raise ValueError(f"out must be of shape {(*index.shape, n_out)}, not {view(out).shape}")
    flat = view(out).reshape(-1, n_out)
    if flat.size and not np.may_share_memory(flat, out):
        raise ValueError("out must have its rows at one distance from each other")
    if E.ndim != 3:
        raise ValueError(f"E must be in panels, not of shape {E.shape}")
    values = E.shape[1] if n_values is None else n_values
    _kernels.embedding(index.reshape(-1), E, values, n_values is not None, flat, n_threads or 0)
    return out  # type: ignore[no-any-return]


def embedding_gradient(
    index: Any, dy: Any, n_values: int, *, turned: bool = False, out: Any = None, n_threads: int | None = None
) -> Array:
    """The table's gradient: row v is the sum of dy where ``index == v``; turned as the table."""
    index, dy = view(index), view(dy)
    if out is None:
        out = np.empty(panels_shape(*((dy.shape[-1], n_values) if turned else (n_values, dy.shape[-1]))), dy.dtype)
    flat = dy.reshape(-1, dy.shape[-1])
    _kernels.embedding_gradient(index.reshape(-1), flat, n_values, turned, view(out), n_threads or 0)
    return out  # type: ignore[no-any-return]


def wavenet_sample(
    blocks: Sequence[Block],
    dilations: Sequence[int],
    input: Any,
    head: tuple[Any, Any],
    output: tuple[Any, Any],
    u: Any,
    state: Any,
    *,
    n_values: int,
    input_bias: Any = None,
    n_components: int = 0,
    log_scale_min: float | None = None,
    temperature: float = 1.0,
    previous: Any = None,
    taken: int = 0,
    frames: Sequence[Frames] | None = None,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """Values drawn one after the other, int32 (rows, steps), from uniforms u (rows, steps).

    Each step costs every weight once: layers keep the inputs they will meet again in `state`, 1-d, for every block its
    last ``H = (width - 1) dilation`` inputs (H, rows, channels) as a ring, input t at ``t % H``; zeros at the start. It
    is moved on, so that the next call, with `taken` steps more and the last values as `previous`, goes on in the same
    bits.

    Parameters
    ----------
    input : table of the values' embedding (n_components = 0), or the weights (1, channels) of a level in [-1, 1]
    head, output : (weights in panels, bias)
        ``parameters = relu(relu(skip) head + bias) output + bias``.
    n_values, n_components : int
        Categorical of n_values <= 256 codes, or a mixture of n_components logistics over n_values levels.
    temperature : float
        Other than 1 the draws are no longer the model's.
    """
    u = view(u)
    if previous is None:
        previous = np.full(len(u), -1, np.int32)
    if out is None:
        out = np.empty(u.shape, np.int32)
    _kernels.wavenet_sample(
        [tuple(map(optional, block)) for block in blocks], list(dilations), view(input), optional(input_bias),
        tuple(map(view, head)), tuple(map(view, output)), n_values, n_components,
        default_log_scale_min(n_values) if log_scale_min is None else log_scale_min, temperature, u,
        view(previous), view(state), taken, None if frames is None else list(frames), view(out), n_threads or 0,
    )  # fmt: skip
    return out  # type: ignore[no-any-return]
