"""Attention, the caches of decoding, products with packed weights, and a Transformer's step, as functions on arrays.

Activations are (rows, steps, channels) with heads side by side: head h has the channels ``h d`` to ``(h + 1) d - 1``.
Views of one array serve as queries, keys and values. With fewer heads of keys and values than of queries, each serves a
group of neighbours (Ainslie et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chainrule import _kernels
from chainrule.kernels.masked import PANEL
from chainrule.kernels.views import ACTIVATIONS, Array, optional, view
from chainrule.validation import check_option

CHUNK = 256  # inputs that share a scale of int8 weights
GELU = {"gelu": -1, "gelu_exact": -2}  # -1 - chainrule_gelu_form
FORMATS = ("float32", "bf16", "int8")


class Cache(NamedTuple):
    """Keys and values that are kept, by `new_cache`."""

    keys: Array  # (rows, n_kv_heads, ceil(capacity / 32), head_size, 32)
    values: Array  # (rows, n_kv_heads, capacity, head_size rounded up to 32)
    capacity: int


class Weights(NamedTuple):
    """A matrix for inference, by `pack`."""

    W: Array  # panels (ceil(n_out / 32), n_in, 32): the network's dtype, uint16 (bf16) or int8
    n_out: int
    scale: Array | None = None  # of int8: float32 (ceil(n_out / 32), ceil(n_in / 256), 32)
    b: Array | None = None  # (n_out,)


class TransformerBlock(NamedTuple):
    """The arrays of a block; each norm is (gain, bias)."""

    norm: tuple[Array, Array]
    query_key_value: Weights
    projection: Weights
    cross_norm: tuple[Array, Array] | None
    cross_query: Weights | None
    cross_projection: Weights | None
    mlp_norm: tuple[Array, Array]
    up: Weights
    down: Weights


def new_cache(n_rows: int, n_kv_heads: int, head_size: int, capacity: int, dtype: Any = np.float32) -> Cache:
    """Room for keys and values of `capacity` steps: about ``2 capacity n_kv_heads head_size`` numbers a sequence."""
    width = -(-head_size // PANEL) * PANEL
    keys = np.zeros((n_rows, n_kv_heads, -(-capacity // PANEL), head_size, PANEL), dtype)
    return Cache(keys, np.zeros((n_rows, n_kv_heads, capacity, width), dtype), capacity)


def _kv_heads(n_heads: int, n_kv_heads: int | None) -> int:
    return n_heads if n_kv_heads is None else n_kv_heads


def _scale(q: Array, n_heads: int, scale: float | None) -> float:
    """1 / sqrt(head_size) by default."""
    if scale is not None:
        return scale
    return 1.0 / float(np.sqrt(max(q.shape[-1] // max(n_heads, 1), 1)))


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    scale: float | None = None,
    causal: bool = True,
    lengths: Any = None,
    out: Any = None,
    statistics: Any = None,
    n_threads: int | None = None,
) -> Array:
    """``y_i = sum_j softmax_j(scale q_i . k_j) v_j`` of every head (Vaswani et al. 2017).

    Parameters
    ----------
    q : (rows, n_queries, n_heads head_size)
    k, v : (rows, n_keys, n_kv_heads head_size)
    n_kv_heads : int, optional
        By default `n_heads`.
    scale : float, optional
        By default ``1 / sqrt(head_size)``.
    causal : bool
        The last query sees all keys, the one before it all but the last, and so on.
    lengths : uint32 (rows,), optional
        Keys of each sequence; those after them (padding, on the right) are never read into a result.
    statistics : (rows, n_heads, n_queries), optional
        Gets ``log sum_j exp(scale q_i . k_j)``, for the gradient.

    Returns
    -------
    As q. A query without keys gets zeros. Cost: ``2 n_queries n_keys head_size`` multiply-adds a head, half of that
    when causal; no matrix of scores is ever whole.
    """
    q, k, v = view(q), view(k), view(v)
    y = np.empty(q.shape, q.dtype) if out is None else view(out)
    _kernels.attention(
        q, k, v, n_heads, _kv_heads(n_heads, n_kv_heads), _scale(q, n_heads, scale), causal, optional(lengths), y,
        optional(statistics), n_threads or 0,
    )  # fmt: skip
    return y


def attention_gradient(
    q: Any,
    k: Any,
    v: Any,
    y: Any,
    statistics: Any,
    dy: Any,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    scale: float | None = None,
    causal: bool = True,
    lengths: Any = None,
    dq: Any = None,
    dk: Any = None,
    dv: Any = None,
    n_threads: int | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `attention` by q, k and v, from that by y; probabilities are computed again (Dao et al. 2022).

    `statistics` are those `attention` left. Cost: 2.5 times that of `attention`.
    """
    q, k, v = view(q), view(k), view(v)
    made = [np.empty(x.shape, x.dtype) if given is None else view(given) for x, given in ((q, dq), (k, dk), (v, dv))]
    _kernels.attention_gradient(
        q, k, v, view(y), view(statistics), view(dy), n_heads, _kv_heads(n_heads, n_kv_heads),
        _scale(q, n_heads, scale), causal, optional(lengths), made[0], made[1], made[2], n_threads or 0,
    )  # fmt: skip
    return made[0], made[1], made[2]


def attention_step(
    q: Any,
    k: Any,
    v: Any,
    cache: Cache,
    lengths: Any,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    scale: float | None = None,
    causal: bool = True,
    out: Any = None,
    n_threads: int | None = None,
) -> Array:
    """New steps of sequences of different lengths: keys and values are appended, then they attend to what is kept.

    Parameters
    ----------
    q : (rows, n_new, n_heads head_size)
    k, v : (rows, n_new, n_kv_heads head_size), or None
        Without them nothing is appended, and all that is kept is seen: cross-attention.
    cache : Cache
        Changed in place.
    lengths : uint32 (rows,)
        Steps of each that are kept before this call.

    Returns
    -------
    As q: the rows of `attention` on all steps, bit for bit. Cost: ``2 t head_size`` multiply-adds a head for a step
    after t - 1.
    """
    q = view(q)
    y = np.empty(q.shape, q.dtype) if out is None else view(out)
    _kernels.attention_step(
        q, optional(k), optional(v), cache, view(lengths), n_heads, _kv_heads(n_heads, n_kv_heads),
        _scale(q, n_heads, scale), causal, y, n_threads or 0,
    )  # fmt: skip
    return y


def pack(W: Any, n_out: int, b: Any = None, *, format: str = "float32") -> Weights:
    """A matrix in panels for inference, in fewer bits if asked for.

    Parameters
    ----------
    W : (ceil(n_out / 32), n_in, 32)
        As `to_panels` makes them.
    format : {"float32", "bf16", "int8"}
        "float32" keeps W as it is, whatever its dtype. "bf16": rounded to 8 significant bits, the nearest. "int8":
        integers from -127 to 127 times a scale for each output and 256 inputs, the largest weight's magnitude over
        127: errors up to half a scale. Numbers that are not finite have no such form: a ValueError.
    """
    W, b = view(W), optional(b)
    check_option("format", format, FORMATS)
    if format == "float32":
        return Weights(W, n_out, None, b)
    if not np.isfinite(W).all():
        raise ValueError(
            f"W must be finite to be kept as {format}; {np.count_nonzero(~np.isfinite(W))} weights are not"
        )
    if format == "bf16":
        bits = np.ascontiguousarray(W, np.float32).view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))  # to nearest even
        return Weights((rounded >> np.uint32(16)).astype(np.uint16), n_out, None, b)
    panels, n_in, _ = W.shape
    chunks = -(-n_in // CHUNK)
    scale = np.empty((panels, chunks, PANEL), np.float32)
    codes = np.empty(W.shape, np.int8)
    for chunk in range(chunks):
        part = W[:, chunk * CHUNK : (chunk + 1) * CHUNK]
        scale[:, chunk] = np.maximum(np.abs(part).max(axis=1) / 127, np.finfo(np.float32).tiny)
        codes[:, chunk * CHUNK : (chunk + 1) * CHUNK] = np.rint(part / scale[:, chunk, None])
    return Weights(codes, n_out, scale, b)


def packed_linear(
    x: Any, weights: Weights, *, addend: Any = None, out: Any = None, n_threads: int | None = None
) -> Array:
    """``(x W + addend) + b``, x (n_rows, n_in): one stream of the weights for all rows.

    With plain weights these are the bits of `masked_linear`.
    """
    x = view(x)
    y = np.empty((len(x), weights.n_out), x.dtype) if out is None else view(out)
    _kernels.packed_linear(x, tuple(weights), optional(addend), y, n_threads or 0)
    return y


class TransformerNetwork(_kernels.Transformer):
    """A Transformer's arrays in the kernels' form, made once for many steps; it sees what is later written to them.

    Parameters
    ----------
    blocks : sequence of TransformerBlock
    token, output : Weights (n_values and n_out outputs, from width inputs)
        The embedding's table as the transpose of an output matrix, and that of the logits, or of whatever parameters a
        conditional has; they may be the same.
    position : (n_positions, width)
    norm : (gain, bias) or None
        Before the logits.
    activation : {"gelu", "gelu_exact", "relu", "sigmoid", "tanh"}
        Of the hidden units: GELU by tanh as in GPT-2, or exactly.
    post_norm : bool
        ``norm(x + f(x))`` (Vaswani et al. 2017) instead of ``x + f(norm(x))`` (Radford et al. 2019).
    """

    def __init__(
        self,
        blocks: Sequence[TransformerBlock],
        token: Weights,
        output: Weights,
        position: Array,
        norm: tuple[Array, Array] | None,
        *,
        n_heads: int,
        n_kv_heads: int | None = None,
        scale: float | None = None,
        activation: str = "gelu",
        post_norm: bool = False,
        epsilon: float = 1e-5,
    ) -> None:
        check_option("activation", activation, (*GELU, *ACTIVATIONS))
        number = GELU[activation] if activation in GELU else ACTIVATIONS.index(activation)
        if not blocks:
            raise ValueError("blocks must be some")
        head_size = blocks[0].projection.W.shape[1] // max(n_heads, 1)
        self.n_kv_heads, self.head_size, self.n_out = _kv_heads(n_heads, n_kv_heads), head_size, output.n_out
        self.dtype = position.dtype
        super().__init__(
            [tuple(block) for block in blocks], tuple(token), tuple(output), position, norm, n_heads, self.n_kv_heads,
            head_size, 1.0 / float(np.sqrt(max(head_size, 1))) if scale is None else scale, post_norm, number, epsilon,
        )  # fmt: skip


def transformer_step(
    network: TransformerNetwork,
    tokens: Any,
    lengths: Any,
    caches: list[Cache],
    *,
    last: Any = None,
    cross: list[Cache] | None = None,
    cross_lengths: Any = None,
    logits: bool = True,
    out: Any = None,
    n_threads: int | None = None,
) -> npt.NDArray[Any] | None:
    """New tokens of sequences of different lengths through all blocks, over what the caches keep of those before.

    Parameters
    ----------
    tokens : int32 (rows, n_new)
        Below 0: none, zeros in the embedding's place.
    lengths : uint32 (rows,)
        Tokens of each sequence that are kept; the new ones stand at the positions from there on, and are kept too.
    caches : list of Cache
        One a block.
    last : uint32 (rows,), optional
        The logits of this step of each row alone are computed.
    cross, cross_lengths : one cache a block, uint32 (rows,)
        What cross-attention looks at.
    logits : bool
        False: tokens are kept, nothing more.

    Returns
    -------
    Logits (rows, n_out) with `last`, else (rows, n_new, n_out). A row's do not depend on the others, nor on how
    its tokens were cut into calls, bit for bit. Cost of one token of each row: one read of all weights and of the
    caches.
    """
    tokens = view(tokens)
    if tokens.ndim != 2:
        raise ValueError(f"tokens must be 2-d (rows, n_new), not of shape {tokens.shape}")
    flat = None
    if logits:
        shape = (*(tokens.shape[:1] if last is not None else tokens.shape), network.n_out)
        out = np.empty(shape, network.dtype) if out is None else out
        if view(out).shape != shape:
            raise ValueError(f"out must be of shape {shape}, not {view(out).shape}")
        flat = view(out).reshape(-1, network.n_out)
        if flat.size and not np.may_share_memory(flat, out):
            raise ValueError("out must have its rows at one distance from each other")
    _kernels.transformer_step(
        network, tokens, view(lengths), caches, optional(last), cross, optional(cross_lengths), flat, n_threads or 0
    )
    return out if logits else None
