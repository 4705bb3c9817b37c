"""The operations of Transformers, activations (rows, steps, channels).

An input that has a gradient already, from a later operation, gets the new one added by the kernel: a residual stream
costs no pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chainrule import kernels
from chainrule.ops.layers import _new
from chainrule.ops.tape import Array, Tape, Variable
from chainrule.random import Key

Gradients = Callable[[Array, Array, Array], None]


def tokens(
    tape: Tape, index: Array, table: Variable, n_values: int, positions: Variable, *, tied: bool = False
) -> Variable:
    """``E[index_t] + P[t]``, (rows, steps, channels); the table as an output matrix is kept, in panels of values.

    index: int32 (rows, steps), zeros for E where it is negative. positions: (at least steps, channels), or without a
    gradient where they are not learned. tied: the table has a gradient already, that of an output, and this one is
    added.
    """
    (rows, steps), width = index.shape, positions.array.shape[1]
    out = _new(tape, (rows, steps, width), table.array.dtype)
    kernels.embedding(index, table.array, width, n_values=n_values, out=out.array, n_threads=tape.n_threads)
    np.add(out.array, positions.array[:steps], out=out.array)

    def pull() -> None:
        assert out.gradient is not None
        assert table.gradient is not None
        if positions.gradient is not None:
            positions.gradient[steps:] = 0
            positions.gradient[:steps] = out.gradient[0]
            for row in out.gradient[1:]:
                np.add(positions.gradient[:steps], row, out=positions.gradient[:steps])
        to = tape.pool.take(table.array.shape, table.array.dtype) if tied else table.gradient
        kernels.embedding_gradient(index, out.gradient, n_values, turned=True, out=to, n_threads=tape.n_threads)
        if tied:
            np.add(table.gradient, to, out=table.gradient)
            tape.pool.give(to)
        tape.pool.give(out.gradient)
        tape.release(out)

    tape.record(pull)
    return out


def layer_norm(tape: Tape, x: Variable, gain: Variable, bias: Variable) -> Variable:
    """``(x - mean) / sqrt(variance + 1e-5) gain + bias``, mean and variance over the channels."""
    out, width = _new(tape, x.array.shape, x.array.dtype), x.array.shape[2]
    flat = x.array.reshape(-1, width)
    statistics = tape.pool.take((len(flat), 2), flat.dtype)
    kernels.layer_norm(
        flat, gain.array, bias.array, out=out.array.reshape(-1, width), statistics=statistics, n_threads=tape.n_threads
    )

    def pull() -> None:
        assert out.gradient is not None
        dy = out.gradient.reshape(-1, width)
        known = None if x.gradient is None else x.gradient.reshape(-1, width)
        kernels.layer_norm_gradient(
            flat, gain.array, statistics, dy, addend=known, dx=dy if known is None else known, dgain=gain.gradient,
            dbias=bias.gradient, n_threads=tape.n_threads,
        )  # fmt: skip
        if x.gradient is None:
            x.gradient = out.gradient
        else:
            tape.pool.give(out.gradient)
        tape.pool.give(statistics)
        tape.release(out)

    tape.record(pull)
    return out


def gelu(tape: Tape, x: Variable, form: str) -> Variable:
    """``x Phi(x)``, form "erf", or its approximation by tanh (`kernels.gelu`)."""
    out = _new(tape, x.array.shape, x.array.dtype)
    kernels.gelu(x.array, form=form, out=out.array, n_threads=tape.n_threads)

    def pull() -> None:
        assert out.gradient is not None
        kernels.gelu_gradient(x.array, out.gradient, form=form, out=out.gradient, n_threads=tape.n_threads)
        tape.hand_on(out.gradient, x)
        tape.release(out)

    tape.record(pull)
    return out


def attention(tape: Tape, x: Variable, n_heads: int, n_kv_heads: int, *, lengths: Array | None = None) -> Variable:
    """Causal attention of every step to the steps up to it, (rows, steps, n_heads head_size).

    x: queries, keys and values side by side, n_heads + 2 n_kv_heads heads of channels. With `lengths`, uint32 (rows,),
    not causal: every step sees the first lengths[r] steps.
    """
    size = x.array.shape[2] // (n_heads + 2 * n_kv_heads)
    first, second = n_heads * size, (n_heads + n_kv_heads) * size
    heads = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "causal": lengths is None, "lengths": lengths}

    def parts(array: Array) -> tuple[Array, Array, Array]:
        return array[:, :, :first], array[:, :, first:second], array[:, :, second:]

    def pull(gradients: Gradients) -> None:
        to = tape.pool.take(x.array.shape, x.array.dtype)
        gradients(*parts(to))
        tape.hand_on(to, x)

    return _attention(tape, parts(x.array), heads, pull)


def cross_attention(
    tape: Tape, q: Variable, kv: Variable, n_heads: int, n_kv_heads: int, *, lengths: Array | None = None
) -> Variable:
    """Attention of every step of q to the first lengths[r] steps, by default all, of kv: keys, then values."""
    heads = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "causal": False, "lengths": lengths}
    half = kv.array.shape[2] // 2

    def pull(gradients: Gradients) -> None:
        to_q, to_kv = (tape.pool.take(a.array.shape, a.array.dtype) for a in (q, kv))
        gradients(to_q, to_kv[:, :, :half], to_kv[:, :, half:])
        tape.hand_on(to_q, q)
        tape.hand_on(to_kv, kv)

    return _attention(tape, (q.array, kv.array[:, :, :half], kv.array[:, :, half:]), heads, pull)


def _attention(
    tape: Tape, qkv: tuple[Array, Array, Array], heads: dict[str, Any], pull_on: Callable[[Gradients], None]
) -> Variable:
    """`pull_on` is given what writes the gradients of q, k and v to three arrays."""
    rows, steps, width = qkv[0].shape
    out = _new(tape, (rows, steps, width), qkv[0].dtype)
    statistics = tape.pool.take((rows, heads["n_heads"], steps), qkv[0].dtype)
    kernels.attention(*qkv, **heads, out=out.array, statistics=statistics, n_threads=tape.n_threads)

    def gradients(dq: Array, dk: Array, dv: Array) -> None:
        kernels.attention_gradient(
            *qkv, out.array, statistics, out.gradient, **heads, dq=dq, dk=dk, dv=dv, n_threads=tape.n_threads
        )

    def pull() -> None:
        assert out.gradient is not None
        pull_on(gradients)
        tape.pool.give(out.gradient)
        tape.pool.give(statistics)
        tape.release(out)

    tape.record(pull)
    return out


def dropout(
    tape: Tape, x: Variable, rate: float, key: Key, first_block: int, addend: Variable | None = None
) -> Variable:
    """``x / (1 - rate)``, or 0 where a channel is dropped, in place, and the addend added; masks by (key, first_block).

    An element takes 16 bits: a block of 256 serves 16 (`kernels.dropout`).
    """
    kernels.dropout(x.array, key, first_block, rate, out=x.array, n_threads=tape.n_threads)
    if addend is not None:
        np.add(x.array, addend.array, out=x.array)
    out = Variable(x.array)

    def pull() -> None:
        assert out.gradient is not None
        to = out.gradient if addend is None else tape.pool.take(x.array.shape, x.array.dtype)
        kernels.dropout(out.gradient, key, first_block, rate, out=to, n_threads=tape.n_threads)
        tape.hand_on(to, x)
        if addend is not None:
            tape.hand_on(out.gradient, addend)

    tape.record(pull)
    return out
