"""The operations of networks over time, activations (rows, steps, channels)."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule import kernels
from chainrule.kernels.masked import Mask
from chainrule.kernels.wavenet import Block, Frames
from chainrule.ops.tape import Array, Tape, Variable


def _new(tape: Tape, shape: tuple[int, int, int], dtype: Any, room: int = 0) -> Variable:
    """Activations to be written, with `room` steps of history in front of them."""
    rows, steps, channels = shape
    whole = tape.pool.take((rows, room + steps, channels), dtype)
    return Variable(whole[:, room:], whole=whole)


def embedding(tape: Tape, index: Array, table: Variable, n_channels: int, *, room: int = 0) -> Variable:
    """Rows of a table by index, int32 (rows, steps); zeros where it is negative."""
    out = _new(tape, (*index.shape, n_channels), table.array.dtype, room)
    for row, to in zip(index, out.array, strict=True):
        kernels.embedding(row, table.array, n_channels, out=to, n_threads=tape.n_threads)

    def pull() -> None:
        assert out.gradient is not None
        kernels.embedding_gradient(
            index, out.gradient, table.array.shape[1], out=table.gradient, n_threads=tape.n_threads
        )
        tape.pool.give(out.gradient)
        tape.release(out)

    tape.record(pull)
    return out


def linear(
    tape: Tape,
    x: Variable,
    W: Variable,
    b: Variable | None,
    n_out: int,
    activation: str | None = None,
    *,
    addend: Variable | None = None,
    after: str | None = None,
    back: bool = True,
) -> Variable:
    """``g((x W + addend) + b)`` at every step, W in panels. The addend gets the gradient of the result: no activation.

    With `back` the gradient goes on, to what is inside x = after(...).
    """
    rows, steps, n_in = x.array.shape
    out = _new(tape, (rows, steps, n_out), x.array.dtype)
    mask, flat, flat_out = Mask.dense(n_in, n_out), x.array.reshape(-1, n_in), out.array.reshape(-1, n_out)
    kernels.masked_linear(
        flat,
        W.array,
        mask=mask,
        b=None if b is None else b.array,
        addend=None if addend is None else addend.array.reshape(-1, n_out),
        activation=activation,
        out=flat_out,
        n_threads=tape.n_threads,
    )

    def pull() -> None:
        assert out.gradient is not None
        dz = out.gradient.reshape(-1, n_out)
        kernels.masked_linear_weight_gradient(
            flat, dz, mask=mask, dW=W.gradient, db=None if b is None else b.gradient, n_threads=tape.n_threads
        )
        if back:
            known, x.gradient = x.gradient, tape.pool.take(x.array.shape, x.array.dtype)
            kernels.masked_linear_input_gradient(
                dz,
                W.array,
                mask=mask,
                addend=None if known is None else known.reshape(-1, n_in),
                h=None if after is None else flat,
                activation=after or "relu",
                out=x.gradient.reshape(-1, n_in),
                n_threads=tape.n_threads,
            )
            if known is not None:
                tape.pool.give(known)
        if addend is None:
            tape.pool.give(out.gradient)
        else:
            tape.hand_on(out.gradient, addend)
        tape.release(out)

    tape.record(pull)
    return out


def relu(tape: Tape, x: Variable) -> Variable:
    """``max(x, 0)``, in place; its slope is applied by the `linear` that follows."""
    np.maximum(x.array, 0, out=x.array)
    return x


def levels(tape: Tape, values: Array, W: Variable, b: Variable, n_channels: int, *, room: int = 0) -> Variable:
    """``v W + b`` of one real number a step, (rows, steps), W (1, n_channels) in panels; zeros where v is NaN."""
    out = _new(tape, (*values.shape, n_channels), W.array.dtype, room)
    mask, absent = Mask.dense(1, n_channels), np.isnan(values)
    given = np.where(absent, 0, values).astype(W.array.dtype)[..., None]
    for row, missing, to in zip(given, absent, out.array, strict=True):
        kernels.masked_linear(row, W.array, mask=mask, b=b.array, out=to, n_threads=tape.n_threads)
        to[missing] = 0

    def pull() -> None:
        assert out.gradient is not None
        out.gradient[absent] = 0
        kernels.masked_linear_weight_gradient(
            given.reshape(-1, 1), out.gradient.reshape(-1, n_channels), mask=mask, dW=W.gradient, db=b.gradient,
            n_threads=tape.n_threads,
        )  # fmt: skip
        tape.pool.give(out.gradient)
        tape.release(out)

    tape.record(pull)
    return out


def arrays_of(block: tuple[Variable | None, ...]) -> Block:
    """A block's arrays."""
    return Block(*(None if p is None else p.array for p in block))  # type: ignore[arg-type]


def gated_block(
    tape: Tape,
    x: Variable,
    skip: Variable | None,
    parameters: tuple[Variable | None, ...],
    *,
    dilation: int,
    n_skip_steps: int,
    start: Array | None = None,
    frames: tuple[Variable, int, int] | None = None,
    room: int = 0,
) -> tuple[Variable, Variable]:
    """A block of WaveNet on x with its history in front: the next block's x, and the sum of skips so far.

    The sum is kept in one array, of the last `n_skip_steps` steps; a block without a residual returns x itself. `room`
    steps of history are left in front of the result.
    """
    arrays = arrays_of(parameters)
    (rows, steps, channels), dtype = x.array.shape, x.array.dtype
    width = arrays.W.shape[1] // channels
    n_steps, gate_shape = steps - (width - 1) * dilation, arrays.b.shape[0]
    last, first = arrays.residual is None, skip is None
    y = x if last else _new(tape, (rows, n_steps, channels), dtype, room)
    if skip is None:
        skip = Variable(tape.pool.take((rows, n_skip_steps, len(arrays.skip_bias)), dtype))
    total, shape = skip, (rows, n_steps, gate_shape)
    gates = tape.pool.take(shape, dtype) if tape.keeps(rows * n_steps * gate_shape * dtype.itemsize) else None
    context = None if frames is None else Frames(frames[0].array, *frames[1:])
    options: dict[str, Any] = {"dilation": dilation, "start": start, "n_threads": tape.n_threads}
    kernels.gated_block(
        arrays,
        x.array,
        frames=context,
        y=None if last else y.array,
        skip=total.array,
        first=first,
        gates=gates,
        **options,
    )

    def pull() -> None:
        assert total.gradient is not None
        saved = gates
        if saved is None:
            saved = tape.pool.take(shape, dtype)
            kernels.gated_block(arrays, x.array, frames=context, gates=saved, **options)
        dy = None if last else y.gradient
        dx = tape.pool.take(x.array.shape, dtype)
        dframes = None
        if frames is not None and context is not None:
            needed = (n_steps - 1 + context.phase) // context.hop + 1
            frames[0].gradient = np.zeros(context.a.shape, dtype)
            dframes = Frames(frames[0].gradient[:, :needed], *frames[1:])
        gradient = Block(*(None if p is None else p.gradient for p in parameters))  # type: ignore[arg-type]
        kernels.gated_block_gradient(
            arrays, x.array, saved, dy, total.gradient, gradient, dframes=dframes, dx=dx, **options
        )
        if dy is not None:
            tape.pool.give(dy)
            tape.release(y)
        tape.pool.give(saved)
        if first:
            tape.pool.give(total.gradient)
            tape.release(total)
        x.gradient = dx

    tape.record(pull)
    return y, total
