"""What the masked products refuse: shapes, types, layouts, arrays that overlap, rows of other matrices."""

import chainrule
import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels import to_panels
from chainrule.kernels.masked import Mask
from checking import T, V, arrays_of, entry, fresh, readonly, unaligned

MASK = Mask(np.tri(5, 40, dtype=bool).T[:7].repeat(6, axis=0)[:7, :5])  # 7 inputs, 5 outputs
FORWARD = {
    "x": np.ones((3, 7), np.float32),
    "W": np.ones((7, 5), np.float32),
    "b": np.ones(5, np.float32),
    "addend": np.ones((3, 5), np.float32),
    "out": np.ones((3, 5), np.float32),
}
BACKWARD = {
    "dy": np.ones((3, 5), np.float32),
    "W": np.ones((7, 5), np.float32),
    "addend": np.ones((3, 7), np.float32),
    "h": np.ones((3, 7), np.float32),
    "out": np.ones((3, 7), np.float32),
}
WEIGHTS = {
    "x": np.ones((3, 7), np.float32),
    "dy": np.ones((3, 5), np.float32),
    "dW": np.ones((7, 5), np.float32),
    "db": np.ones(5, np.float32),
}
ONES = kernels.encode(np.ones((3, 7), np.uint8))


def forward(x, W, b, addend, out, **options):
    kernels.masked_linear(x, W, b, mask=MASK, addend=addend, out=out, **options)


def backward(**arguments):
    kernels.masked_linear_input_gradient(mask=MASK, **arguments)


def weight_gradient(**arguments):
    kernels.masked_linear_weight_gradient(mask=MASK, **arguments)


ENTRANCES = {
    "masked_linear": (forward, FORWARD, "out", "W"),
    "sparse_linear": (forward, {**FORWARD, "x": ONES}, "out", "W"),
    "input gradient": (backward, BACKWARD, "out", "W"),
    "weight gradient": (weight_gradient, WEIGHTS, "dW db", "dW"),
    "sparse weight gradient": (weight_gradient, {**WEIGHTS, "x": ONES}, "dW db", "dW"),
}


@pytest.mark.parametrize(("entrance", "name"), arrays_of(ENTRANCES))
def test_bad_arrays(entrance, name):
    call, good, written, decides = ENTRANCES[entrance]
    good = fresh(good)
    call(**good)
    array = good[name]

    def refused(bad, error, message):
        with pytest.raises(error, match=f"^{name} " + message):
            call(**{**good, name: bad})

    if name == decides:
        refused(array.astype(int), TypeError, "must be float32 or float64, not int64")
        refused(array.astype(np.float16), TypeError, "must be float32 or float64, not float16")
        for shape in ((1, 7, 31), (2, 7, 32), (1, 8, 32)):
            refused(np.ones(shape, np.float32), ValueError, r"must be of shape \(7, 5\) or in panels \(1, 7, 32\), not")
        refused(np.ones((1, 32, 7), np.float32).swapaxes(1, 2), ValueError, "must have contiguous panels")
    else:
        refused(array.astype(np.float64), TypeError, "must be float32, not float64")
        refused(array.astype(np.int32), TypeError, "must be float32, not int32")
    for axis in range(array.ndim):
        if name not in ("x", "dy", "out") or axis or (name == "dy" and "x" in good):
            refused(np.delete(array, 0, axis), ValueError, "must be")
            refused(np.concatenate([array, array], axis), ValueError, "must be")
    refused(array[None, None], ValueError, "must be")
    refused(np.repeat(array, 2, axis=-1)[..., ::2], ValueError, "must (be|have) contiguous")
    refused(unaligned(array), ValueError, "is not aligned to its elements")
    if array.ndim == 2:
        refused(array[::-1], ValueError, "must have contiguous rows")
    if name in written.split():
        refused(readonly(array), ValueError, "is written to, but is read-only")
    else:
        call(**{**good, name: readonly(array)})


def test_out_lies_apart():
    """Sums of chunks wait in out: what is read later must not lie there. Columns of one buffer side by side may."""
    m, n = 3, 5
    mask, W = Mask(np.ones((n, n), bool)), np.ones((n, n))
    memory = np.ones((m, 2 * n + 1))
    left, right, across = memory[:, :n], memory[:, n : 2 * n], memory[:, 2 : n + 2]
    bits = kernels.encode(np.ones((m, n), np.uint8))
    calls = {
        "x": lambda a, out: kernels.masked_linear(a, W, mask=mask, out=out),
        "addend": lambda a, out: kernels.masked_linear(np.ones((m, n)), W, mask=mask, addend=a, out=out),
        "addend ": lambda a, out: kernels.masked_linear(bits, W, mask=mask, addend=a, out=out),
        "dy": lambda a, out: kernels.masked_linear_input_gradient(a, W, mask=mask, out=out),
        "addend  ": lambda a, out: kernels.masked_linear_input_gradient(
            np.ones((m, n)), W, mask=mask, addend=a, out=out
        ),
        "h": lambda a, out: kernels.masked_linear_input_gradient(np.ones((m, n)), W, mask=mask, h=a, out=out),
    }
    for name, call in calls.items():
        for a, out in (
            (left, left),
            (left, across),
            (across, left),
            (across, right),
            (right, across),
            (left, left[1:][:0]),
        ):
            message = f"out must share no memory with {name.strip()}" if len(out) else "out must be"
            with pytest.raises(ValueError, match=message):
                call(a, out)
        call(left, right)
        call(right, left)
        kernels.masked_linear(memory[:1, :n], W, mask=mask, out=memory[1:2, :n])
        with pytest.raises(ValueError, match="out must share"):
            call(memory[:, :n], memory.reshape(-1)[: m * n].reshape(m, n))


def test_bad_ones_and_masks():
    other = kernels.encode(np.ones((3, 8), np.uint8))
    with pytest.raises(ValueError, match="the rows have 8 units, W has 7 inputs"):
        forward(**{**FORWARD, "x": other})
    with pytest.raises(ValueError, match="the rows have 8 units, dW has 7 inputs"):
        weight_gradient(**{**WEIGHTS, "x": other})
    fewer = kernels.encode(np.ones((2, 7), np.uint8))
    with pytest.raises(ValueError, match="addend must be"):
        forward(**{**FORWARD, "x": fewer})
    with pytest.raises(ValueError, match="dy must be"):
        weight_gradient(**{**WEIGHTS, "x": fewer})
    with pytest.raises(ValueError, match="activation must be one of sigmoid, relu, tanh, not 'gelu'"):
        forward(**FORWARD, activation="gelu")
    with pytest.raises(ValueError, match="n_threads must be a positive number, not -2"):
        forward(**FORWARD, n_threads=-2)
    with pytest.raises(ValueError, match=r"without a mask W must be 2-d \(n_in, n_out\), not of shape \(1, 7, 32\)"):
        kernels.masked_linear(FORWARD["x"], to_panels(FORWARD["W"]))
    raw = chainrule._kernels
    for call in (
        lambda a: raw.masked_linear(
            MASK, FORWARD["x"], FORWARD["W"], None, False, None, None, a, FORWARD["out"].copy(), 0
        ),
        lambda a: raw.sparse_linear(MASK, ONES, FORWARD["W"], None, None, None, a, FORWARD["out"].copy(), 0),
        lambda a: raw.masked_linear_input_gradient(
            MASK, BACKWARD["dy"], BACKWARD["W"], None, False, None, None, a, BACKWARD["out"].copy(), 0
        ),
    ):
        for number in (-1, 4):
            with pytest.raises(ValueError, match=f"activation must be 0 to 3, not {number}"):
                call(number)
    with pytest.raises(ValueError, match=r"live has values outside \{0, 1\} \(first: 2 at row 0, column 1\)"):
        raw.Mask(1, 2, np.array([[0, 2]], np.uint8))
    with pytest.raises(ValueError, match=r"live must be 2-d of shape \(2, 2\)"):
        raw.Mask(2, 2, np.array([[0, 1]], np.uint8))
    with pytest.raises(TypeError, match="live must be uint8, not bool"):
        raw.Mask(1, 2, np.array([[False, True]]))
    labels = np.array([0, 2, 1], np.int32)
    for first, last in ((labels, labels[:2]), (labels[:2], labels)):
        with pytest.raises(ValueError, match="the labels of a staircase must not decrease"):
            Mask.staircase(first, last)
    with pytest.raises(TypeError, match="last must be int32, not int64"):
        Mask.staircase(labels[:2], labels[:2].astype(int))
    with pytest.raises(ValueError, match="first must be 1-d of length 4"):
        raw.Mask(4, 2, (labels[:2], labels[:2]))
    with pytest.raises(ValueError, match=r"live must be an array or the labels \(first, last\)"):
        raw.Mask(2, 2, (labels[:2],))
    with pytest.raises(ValueError, match=r"a mask may have up to 2\^32 - 2 units a side"):
        raw.Mask(2**32 - 1, 1, None)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_bad_rows(entrance):
    call, good, _, decides = ENTRANCES[entrance]
    good = fresh(good)
    rows = np.arange(7, dtype=np.uint32)[::-1].copy()
    call(**good, rows=rows)
    for bad, error, message in (
        (rows[:6], V, "rows must be 1-d of length 7"),
        (entry(rows, 2, 7), V, "rows must be a permutation of 0..6; entry 2 is 7"),
        (entry(rows, 6, rows[0]), V, "rows must be a permutation of 0..6; entry 6 is 6"),
        (rows.astype(int), T, "rows must be uint32, not int64"),
    ):
        with pytest.raises(error, match=message):
            call(**good, rows=bad)
    turned = {**good, decides: np.ones((5, 7), np.float32)}
    if "sparse" in entrance:
        with pytest.raises(V, match="the product of Ones takes no turned W"):
            call(**turned, turned=True)
        return
    call(**turned, turned=True, rows=rows[2:] * 0 + np.arange(5, dtype=np.uint32))
    with pytest.raises(V, match="rows must be 1-d of length 5"):
        call(**turned, turned=True, rows=rows)
    with pytest.raises(V, match=rf"{decides} must be 2-d of shape \(5, 7\)"):
        call(**good, turned=True)
