"""What convolutions, blocks, embeddings and the generator of WaveNet refuse, and where a NaN goes."""

import re

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels.wavenet import Block, Frames
from checking import T, V, arrays_of, fresh, readonly, unaligned, zeros

CONV = {"x": zeros(2, 7, 5), "W": zeros(2, 15, 32), "n_out": 40, "b": zeros(40), "dilation": 2, "out": zeros(2, 3, 40)}
CONV_INPUT = {"dy": zeros(2, 3, 40), "W": zeros(2, 15, 32), "n_in": 5, "dilation": 2, "out": zeros(2, 7, 5)}
CONV_WEIGHT = {
    "x": zeros(2, 7, 5),
    "dy": zeros(2, 3, 40),
    "width": 3,
    "dilation": 2,
    "out": zeros(2, 15, 32),
    "db": zeros(40),
}
BLOCK = Block(zeros(2, 40, 32), zeros(64), zeros(1, 20, 32), zeros(20), zeros(2, 20, 32), zeros(33))
GATED = {
    "block": BLOCK, "x": zeros(2, 8, 20), "dilation": 3, "start": zeros(2, dtype=np.uint32),
    "frames": Frames(zeros(2, 3, 64), 2), "y": zeros(2, 5, 20), "skip": zeros(2, 4, 33), "gates": zeros(2, 5, 64),
}  # fmt: skip
GATED_GRADIENT = {
    "block": BLOCK, "x": zeros(2, 8, 20), "gates": zeros(2, 5, 64), "dy": zeros(2, 5, 20), "dskip": zeros(2, 4, 33),
    "gradient": Block(*map(np.zeros_like, BLOCK)), "dilation": 3, "start": zeros(2, dtype=np.uint32),
    "dframes": Frames(zeros(2, 3, 64), 2), "dx": zeros(2, 8, 20),
}  # fmt: skip
INDEX = np.array([0, -1, 4], np.int32)
EMBEDDING = {"index": INDEX, "E": zeros(2, 5, 32), "n_out": 40, "out": zeros(3, 40)}
EMBEDDING_GRADIENT = {"index": INDEX, "dy": zeros(3, 40), "n_values": 5, "out": zeros(2, 5, 32)}
LAST = BLOCK._replace(residual=None, residual_bias=None)
SAMPLE = {
    "blocks": [BLOCK, LAST], "dilations": [1, 3], "input": zeros(1, 6, 32), "head": (zeros(2, 33, 32), zeros(33)),
    "output": (zeros(1, 33, 32), zeros(5)), "u": np.full((2, 4), 0.5), "state": zeros(4 * 2 * 20), "n_values": 6,
    "previous": np.full(2, -1, np.int32), "frames": [Frames(zeros(2, 2, 64), 3, 1)] * 2,
    "out": zeros(2, 4, dtype=np.int32),
}  # fmt: skip
ENTRANCES = {
    "conv": (kernels.causal_conv, CONV, "out", "W"),
    "conv input": (kernels.causal_conv_input_gradient, CONV_INPUT, "out", "W"),
    "conv weight": (kernels.causal_conv_weight_gradient, CONV_WEIGHT, "out db", "out"),
    "block": (kernels.gated_block, GATED, "y skip gates", "x"),
    "block gradient": (kernels.gated_block_gradient, GATED_GRADIENT, "gates dx", "x"),
    "embedding": (kernels.embedding, EMBEDDING, "out", "E"),
    "embedding gradient": (kernels.embedding_gradient, EMBEDDING_GRADIENT, "out", "out"),
    "sample": (kernels.wavenet_sample, SAMPLE, "state out", "state"),
}
CALLED = {  # what the module calls an argument whose name says more to a reader of Python
    ("conv weight", "out"): "dW", ("embedding gradient", "out"): "dE",
}  # fmt: skip
FREE = {  # axes that others follow, or that other arguments are blamed for
    ("conv", "x"): (0, 1, 2), ("conv", "W"): (1,), ("conv", "out"): (2,), ("conv input", "dy"): (2,),
    ("conv input", "W"): (1,), ("conv input", "out"): (0, 1, 2), ("conv weight", "x"): (0, 1, 2),
    ("conv weight", "dy"): (2,), ("conv weight", "out"): (1,), ("block", "x"): (0, 1, 2), ("block", "skip"): (1,),
    ("block gradient", "x"): (0, 1, 2), ("block gradient", "dskip"): (1,), ("sample", "u"): (0, 1),
    ("embedding", "index"): (0,), ("embedding", "E"): (1,), ("embedding gradient", "index"): (0,),
    ("embedding gradient", "dy"): (1,), ("embedding gradient", "out"): (1,),
}  # fmt: skip


@pytest.mark.parametrize(("entrance", "name"), arrays_of(ENTRANCES))
def test_bad_arrays(entrance, name):
    call, good, written, decides = ENTRANCES[entrance]
    good = fresh(good)
    call(**good)
    array, called = good[name], CALLED.get((entrance, name), name)

    def refused(bad, error, message):
        with pytest.raises(error, match=f"^{called} " + message):
            call(**{**good, name: bad})

    if name == decides:
        refused(array.astype(int), T, "must be float32 or float64, not int64")
    else:
        refused(array.astype(np.complex64), T, f"must be {array.dtype}, not complex64")
    for axis in range(array.ndim):
        if axis not in FREE.get((entrance, name), ()):
            refused(np.delete(array, 0, axis), V, "must (be|have)")
            refused(np.concatenate([array, array], axis), V, "must (be|have)")
    if "index" not in name and not (entrance == "embedding gradient" and name == "dy"):
        refused(array[None], V, "must be")
    spread = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
    if name in written.split():
        refused(spread, V, "must (be|have) (C-)?contiguous")
        refused(readonly(array), V, "is written to, but is read-only")
    else:
        call(**{**good, name: readonly(array)})
    if name != "index":
        refused(unaligned(array), V, "is not aligned to its elements")


def block_with(**changes):
    return lambda good: good["block"]._replace(**changes)


HUGE = 2**31 + 1
BAD = [
    ("conv", {"dilation": 0}, V, "dilation must be 1 to 2^31, not 0"),
    ("conv", {"dilation": -3}, V, "dilation must be 1 to 2^31, not -3"),
    ("conv", {"dilation": HUGE}, V, "dilation must be 1 to 2^31"),
    ("conv", {"dilation": 2**31}, V, "x must have at least (width - 1) dilation = 2 x 2147483648 steps, not 7"),
    ("conv", {"dilation": 4}, V, "x must have at least (width - 1) dilation = 2 x 4 steps, not 7"),
    ("conv", {"x": zeros(2, 7, 4)}, V, "W must have inputs for 1 to 16 taps of 4 channels, not 15"),
    ("conv", {"x": zeros(2, 7, 0)}, V, "W must have inputs for 1 to 16 taps of 0 channels, not 15"),
    ("conv", {"x": zeros(2, 7, 1), "W": zeros(2, 17, 32)}, V, "W must have inputs for 1 to 16 taps of 1 chan"),
    ("conv", {"W": zeros(2, 0, 32)}, V, "W must have inputs for 1 to 16 taps of 5 channels, not 0"),
    ("conv", {"activation": "gelu"}, V, "activation must be one of sigmoid, relu, tanh, not 'gelu'"),
    ("conv", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("conv", {"b": 3}, T, "kernels take arrays"),
    ("conv input", {"dilation": 0}, V, "dilation must be 1 to 2^31, not 0"),
    ("conv input", {"out": zeros(2, 3, 5)}, V, "out must have at least (width - 1) dilation = 2 x 2 steps, not 3"),
    ("conv input", {"out": zeros(2, 8, 5)}, V, "dy must be 3-d of shape (2, 4, any)"),
    ("conv weight", {"dilation": 0}, V, "dilation must be 1 to 2^31, not 0"),
    ("conv weight", {"dilation": 4}, V, "x must have at least"),
    ("conv weight", {"out": zeros(2, 16, 32)}, V, "dW must have inputs for 1 to 16 taps of 5 channels, not 16"),
    ("conv weight", {"x": zeros(2, 8, 5)}, V, "dy must be 3-d of shape (2, 4, any)"),
    ("block", {"dilation": 0}, V, "dilation must be 1 to 2^31, not 0"),
    ("block", {"dilation": 9}, V, "x must have at least (width - 1) dilation = 1 x 9 steps, not 8"),
    ("block", {"x": zeros(2, 8, 19)}, V, "x must be 3-d of shape (any, any, 20)"),
    ("block", {"block": BLOCK[:5]}, V, "block must be (W, b, residual, residual_bias, skip, skip_bias), not 5 arrays"),
    ("block", {"block": block_with(W=None)}, T, "W must be a NumPy array"),
    ("block", {"block": block_with(W=zeros(2, 40))}, V, "W must be in panels"),
    ("block", {"block": block_with(W=zeros(2, 41, 32))}, V, "W must have inputs for 1 to 16 taps of 20 chan"),
    ("block", {"block": block_with(W=zeros(1, 40, 32))}, V, "W must be in panels of shape (2, 40, 32)"),
    ("block", {"block": block_with(W=zeros(2, 40, 32, dtype=float))}, T, "W must be float32, not float64"),
    ("block", {"block": block_with(W=zeros(2, 80, 32)[:, ::2])}, V, "W must be C-contiguous"),
    ("block", {"block": block_with(b=zeros(63))}, V, "b must be 1-d of length 64"),
    ("block", {"block": block_with(residual=zeros(1, 19, 32))}, V, "residual must be in panels of shape (1, 20, 32)"),
    ("block", {"block": block_with(residual_bias=zeros(19))}, V, "residual_bias must be 1-d of length 20"),
    ("block", {"block": block_with(residual_bias=None)}, T, "residual_bias must be a NumPy array"),
    ("block", {"block": block_with(skip=zeros(20, 32))}, V, "skip must be in panels"),
    ("block", {"block": block_with(skip=zeros(1, 20, 32))}, V, "skip must be in panels of shape (2, 20, 32)"),
    ("block", {"block": block_with(skip=zeros(2, 0, 32))}, V, "W must have inputs for 1 to 16 taps of 0 channels"),
    ("block", {"block": block_with(skip_bias=zeros(0))}, V, "skip_bias must not be empty"),
    ("block", {"block": LAST}, V, "y must be None for a block without a residual"),
    ("block", {"skip": zeros(2, 6, 33)}, V, "skip must have at most 5 steps, not 6"),
    ("block", {"frames": Frames(zeros(2, 2, 64), 2)}, V, "frames must have 3 frames, not 2"),
    ("block", {"frames": Frames(zeros(2, 3, 64), 0)}, V, "hop must be at least 1 and phase 0 to hop - 1, not 0 and 0"),
    ("block", {"frames": Frames(zeros(2, 3, 64), 2, 2)}, V, "hop must be at least 1 and phase 0 to hop - 1, not 2"),
    ("block", {"frames": Frames(zeros(2, 3, 64), 2, -1)}, V, "hop must be at least 1 and phase 0 to hop - 1"),
    ("block", {"frames": Frames(zeros(1, 3, 64), 2)}, V, "frames must be 3-d of shape (2, any, 64)"),
    ("block", {"frames": Frames(zeros(2, 3, 63), 2)}, V, "frames must be 3-d of shape (2, any, 64)"),
    ("block", {"frames": (zeros(2, 3, 64), 2)}, V, "frames must be (array, hop, phase)"),
    ("block", {"frames": zeros(2, 3, 64)}, V, "frames must be (array, hop, phase)"),
    ("block", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("block gradient", {"dilation": 0}, V, "dilation must be 1 to 2^31, not 0"),
    ("block gradient", {"dy": None}, V, "dy must be given exactly when the block has a residual"),
    ("block gradient", {"gradient": LAST}, V, "gradient must have the shapes of the block"),
    ("block gradient", {"gradient": BLOCK._replace(W=zeros(2, 60, 32))}, V, "gradient must have the shapes of"),
    ("block gradient", {"gradient": BLOCK._replace(b=readonly(BLOCK.b))}, V, "b is written to, but is read-only"),
    ("block gradient", {"dskip": zeros(2, 6, 33)}, V, "dskip must have at most 5 steps, not 6"),
    ("block gradient", {"dframes": Frames(zeros(2, 4, 64), 2)}, V, "dframes must have 3 frames, not 4"),
    ("embedding", {"index": np.array([0, 5, 1], np.int32)}, V, "index must be below 5; entry 1 is 5"),
    ("embedding", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("embedding", {"n_values": 4, "E": zeros(1, 40, 32)}, V, "index must be below 4; entry 2 is 4"),
    ("embedding", {"n_values": 40}, V, "E must be in panels of shape (2, 40, 32)"),
    ("embedding gradient", {"turned": True}, V, "dE must be in panels of shape"),
    ("embedding", {"out": zeros(2, 4, 40)[:, :3], "index": np.zeros((2, 3), np.int32)}, V, "out must have its rows at"),
    ("embedding", {"out": zeros(3, 41)}, V, "out must be of shape (3, 40), not (3, 41)"),
    ("embedding gradient", {"index": np.array([0, 1, 7], np.int32)}, V, "index must be below 5; entry 2 is 7"),
    ("sample", {"blocks": []}, V, "blocks must be some, with a dilation each"),
    ("sample", {"dilations": [1]}, V, "blocks must be some, with a dilation each"),
    ("sample", {"dilations": [1, 0]}, V, "dilation must be 1 to 2^31, not 0"),
    ("sample", {"dilations": [1, HUGE]}, V, "dilation must be 1 to 2^31"),
    ("sample", {"dilations": [1, 4]}, V, "state must be 1-d of length 200"),
    ("sample", {"blocks": [LAST, LAST]}, V, "blocks must have the same channels, and a residual but for the last"),
    ("sample", {"blocks": [BLOCK._replace(skip=zeros(1, 20, 32), skip_bias=zeros(32)), LAST]}, V, "blocks must have"),
    ("sample", {"n_values": 0}, V, "n_values must be 1 to 256 for codes, not 0"),
    ("sample", {"n_values": 257}, V, "n_values must be 1 to 256 for codes, not 257"),
    ("sample", {"n_values": 5}, V, "input must be in panels of shape (1, 5, 32)"),
    ("sample", {"previous": np.array([0, 6], np.int32)}, V, "previous must be below 6; entry 1 is 6"),
    ("sample", {"head": (zeros(2, 33, 32),)}, V, "head must be (weights in panels, bias)"),
    ("sample", {"output": (zeros(1, 33, 32),)}, V, "output must be (weights in panels, bias)"),
    ("sample", {"head": (zeros(2, 32, 32), zeros(33))}, V, "head must be in panels of shape (2, 33, 32)"),
    ("sample", {"head": (zeros(2, 33, 32), zeros(32))}, V, "head_bias must be 1-d of length 33"),
    ("sample", {"output": (zeros(2, 33, 32), zeros(5))}, V, "output must be in panels of shape (1, 33, 32)"),
    ("sample", {"output": (zeros(1, 33, 32), zeros(6))}, V, "output_bias must be 1-d of length 5"),
    ("sample", {"frames": [Frames(zeros(2, 2, 64), 3, 1)]}, V, "frames must have one context for every block"),
    ("sample", {"frames": [Frames(zeros(2, 2, 64), 3, 1), None]}, V, "frames must have one context for every block"),
    ("sample", {"frames": [Frames(zeros(2, n, 64), 3, 1) for n in (2, 1)]}, V, "frames must have 2 frames, not 1"),
    ("sample", {"temperature": 0.0}, V, "temperature must be positive"),
    ("sample", {"temperature": np.nan}, V, "temperature must be positive"),
    ("sample", {"taken": -1}, T, "incompatible function arguments"),
    ("sample", {"n_threads": -1}, V, "n_threads must be a positive number"),
]  # fmt: skip


@pytest.mark.parametrize(("entrance", "changes", "error", "message"), BAD)
def test_bad_calls(entrance, changes, error, message):
    call, good, *_ = ENTRANCES[entrance]
    good = fresh(good)
    changes = {key: value(good) if callable(value) else value for key, value in changes.items()}
    with pytest.raises(error, match=re.escape(message)):
        call(**{**good, **changes})


def test_out_lies_apart():
    memory = zeros(3000)
    steps = memory[:70].reshape(2, 7, 5)
    with pytest.raises(V, match="out must share no memory with x"):
        kernels.causal_conv(steps, zeros(1, 5, 32), 5, out=steps)
    with pytest.raises(V, match="out must share no memory with x"):
        kernels.causal_conv(steps, zeros(2, 15, 32), 40, dilation=2, out=memory[69 : 69 + 240].reshape(2, 3, 40))
    kernels.causal_conv(steps, zeros(2, 15, 32), 40, dilation=2, out=memory[70:310].reshape(2, 3, 40))
    with pytest.raises(V, match="out must share no memory with dy"):
        kernels.causal_conv_input_gradient(steps, zeros(1, 5, 32), 5, out=steps)
    for name in ("y", "skip", "gates"):
        x = memory[:320].reshape(2, 8, 20)
        shape = GATED[name].shape
        with pytest.raises(V, match=f"{name} must share no memory with x"):
            kernels.gated_block(**{**GATED, "x": x, name: memory[300 : 300 + np.prod(shape)].reshape(shape)})
    for name in ("x", "gates", "dy", "dskip"):
        dx, shape = memory[:320].reshape(2, 8, 20), GATED_GRADIENT[name].shape
        with pytest.raises(V, match=f"dx must share no memory with {name}"):
            kernels.gated_block_gradient(
                **{**fresh(GATED_GRADIENT), "dx": dx, name: memory[310 : 310 + np.prod(shape)].reshape(shape)}
            )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": zeros(7, 5)}, "x and W must be 3-d"),
        ({"W": zeros(15, 40)}, "x and W must be 3-d"),
        ({"dilation": 0}, "dilation must be an integer >= 1, not 0"),
        ({"dilation": -1}, "dilation must be an integer >= 1, not -1"),
        ({"W": zeros(0, 5, 40)}, "W must have 1 to 16 taps, not 0"),
        ({"W": zeros(17, 5, 40)}, "W must have 1 to 16 taps, not 17"),
        ({"W": zeros(3, 4, 40)}, "W must have 5 inputs, as x has channels, not 4"),
    ],
)
def test_bad_conv1d(changes, message):
    good = {"x": zeros(2, 7, 5), "W": zeros(3, 5, 40), "dilation": 2}
    assert kernels.causal_conv1d(**good).shape == (2, 7, 40)
    with pytest.raises(V, match=re.escape(message)):
        kernels.causal_conv1d(**{**good, **changes})
