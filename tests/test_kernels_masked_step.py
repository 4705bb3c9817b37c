"""A step of an optimizer by a product: the bits of the product and the optimizer, one after the other."""

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels.masked import Mask
from checking import DTYPES, T, V, assert_same_bits, by_dtype, readonly, with_threads
from masked_problems import Problem, by_mask, in_panels, sizes, storages_of
from reference import masked as reference

NUMBERS = {
    "learning_rate": 0.03125, "beta1": 0.875, "beta2": 1 - 2.0**-10, "epsilon": 1e-8, "correction1": 0.25,
    "correction2": 2.0**-8, "weight_decay": 0.125, "l2": 0.25, "gradient_scale": 0.5, "average_decay": 0.75,
}  # fmt: skip
RULES = list(kernels.STATES)


def states_of(rule, W, average):
    """States and an average beside W, of its layout; NaN where nothing is to be read."""
    rng = np.random.default_rng(0)
    made = []
    for k in range(3):
        if average if k == 2 else kernels.STATES[rule] > k:
            whole = np.empty(W.base.shape if W.base is not None else W.shape, W.dtype)
            array = whole[tuple(slice(n) for n in W.shape)]
            array[...] = rng.uniform(0, 1, W.shape)
            made.append(array)
        else:
            made.append(None)
    return made


by_input = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "ones"])


def check(p, W, rule, average, sparse, **options):
    """Live weights, states and averages against the two kernels; everything else keeps its bits."""
    m, n_out = p.dy.shape
    live = np.ones(p.W.shape, bool) if p.live is None else p.live
    x = p.bits.astype(p.dy.dtype) if sparse else p.x
    gradient = in_panels(reference.chained(x.T, p.dy))
    alive = kernels.to_panels(live.astype(np.uint8)) == 1
    states = states_of(rule, W, average)
    before = [None if a is None else a.copy() for a in (W, *states)]
    want = [None if a is None else a[alive].copy() for a in before]
    kernels.optimizer_step(rule, want[0], gradient[alive], *want[1:], **NUMBERS)
    db = np.full(n_out + 2, 7, W.dtype)
    inputs = p.ones if sparse else p.x
    kernels.masked_linear_step(rule, W, inputs, p.dy, *states, mask=p.mask, db=db[1:-1], **options, **NUMBERS)
    for got, old, new in zip((W, *states), before, want, strict=True):
        if got is not None:
            assert_same_bits(got[alive], new)
            assert_same_bits(got[~alive], old[~alive])
    assert_same_bits(db[1:-1], reference.chained(np.ones((1, m), W.dtype), p.dy)[0])
    assert (db[[0, -1]] == 7).all()


@by_input
@by_dtype
@by_mask
def test_masked_linear_step(kind, dtype, sparse):
    for k, (m, n_in, n_out) in enumerate(sizes(dtype)):
        p = Problem(kind, m, n_in, n_out, dtype)
        for W in storages_of(p.W)[2:]:  # in panels
            check(p, W.copy() if W.base is None else W, RULES[k % len(RULES)], k % 2 == 0, sparse)


@by_input
@by_dtype
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, dtype, sparse):
    p = Problem("staircase", 300, 70, 75, dtype)
    for average in (False, True):
        check(p, in_panels(p.W), rule, average, sparse)
    W = in_panels(p.W)
    inputs = p.ones if sparse else p.x
    kernels.masked_linear_step(rule, W, inputs, p.dy, *states_of(rule, W, False), mask=p.mask, **NUMBERS)  # no db


@by_input
@by_dtype
@pytest.mark.parametrize("kind", ["staircase", "blocks"])
@pytest.mark.parametrize("shape", [(128, 300, 300), (300, 700, 40), (300, 40, 700)])
def test_threads(kind, shape, dtype, sparse):
    """Work large enough for three threads: over panels, and over blocks of inputs where panels are few."""
    p = Problem(kind, *shape, dtype)
    check(p, in_panels(p.W), "momentum", False, sparse, n_threads=3)

    def moved(n_threads):
        W, db = in_panels(p.W), np.zeros(shape[2], dtype)
        states = states_of("adam", W, True)
        inputs = p.ones if sparse else p.x
        kernels.masked_linear_step("adam", W, inputs, p.dy, *states, mask=p.mask, db=db, n_threads=n_threads, **NUMBERS)
        return np.concatenate([a.reshape(-1) for a in (W, *states, db)])

    with_threads(moved)


def test_it_reads_rows_apart_and_takes_no_rows_for_a_gradient_of_zeros():
    for dtype in DTYPES:
        p = Problem("staircase", 40, 50, 70, dtype)
        wide = np.full((40, 60), np.nan, dtype), np.full((40, 75), np.nan, dtype)
        wide[0][:, :50], wide[1][:, :70] = p.x, p.dy
        one, other = in_panels(p.W), in_panels(p.W)
        kernels.masked_linear_step("sgd", one, p.x, p.dy, mask=p.mask, **NUMBERS)
        kernels.masked_linear_step("sgd", other, wide[0][:, :50], wide[1][:, :70], mask=p.mask, **NUMBERS)
        assert_same_bits(one, other)
    for none in (np.ones((0, 3)), kernels.encode(np.ones((0, 3), np.uint8))):
        W = np.ones((1, 3, 32))
        kernels.masked_linear_step("sgd", W, none, np.ones((0, 32)), mask=Mask.dense(3, 32), learning_rate=0.5,
                                   weight_decay=0.5)  # fmt: skip
        assert (W == 0.75).all()


def good():
    return {
        "rule": "adam", "x": np.ones((3, 7)), "dy": np.ones((3, 5)), "W": np.ones((1, 7, 32)), "s": np.ones((1, 7, 32)),
        "t": np.ones((1, 7, 32)), "average": np.ones((1, 7, 32)), "db": np.ones(5), "mask": Mask.dense(7, 5),
        "learning_rate": 0.1,
    }  # fmt: skip


PANELS = "must be of shape (7, 5) or in panels (1, 7, 32), not"
BAD = [
    ({"rule": "Adam"}, V, "rule must be one of sgd, "),
    ({"x": np.ones((3, 6))}, V, "x must be 2-d of shape (any, 7)"),
    ({"x": np.ones((3, 7), np.float32)}, T, "x must be float64, not float32"),
    ({"dy": np.ones((2, 5))}, V, "dy must be 2-d of shape (3, 5)"),
    ({"dy": np.ones((3, 5), int)}, T, "dy must be float64, not int64"),
    ({"W": np.ones((7, 5))}, V, "W must be in panels"),
    ({"W": np.ones((1, 8, 32))}, V, "W " + PANELS),
    ({"W": np.ones((1, 7, 32), np.float16)}, T, "W must be float32 or float64, not float16"),
    ({"W": readonly(np.ones((1, 7, 32)))}, V, "W is written to, but is read-only"),
    ({"s": None}, V, "s must be given for this rule"),
    ({"t": None}, V, "t must be given for this rule"),
    ({"db": np.ones(4)}, V, "db must be 1-d of length 5"),
    ({"mask": Mask.dense(7, 33)}, V, "W must be of shape (7, 33) or in panels (2, 7, 32)"),
    ({"learning_rate": "fast"}, T, "learning_rate must be a number, not 'fast'"),
]
ONES = {rows: kernels.encode(np.ones((rows, 8 - rows // 4), np.uint8)) for rows in (3, 4)}
BAD += [
    ({"x": ONES[3]}, V, "the rows have 8 units, W has 7 inputs"),
    ({"x": ONES[4]}, V, "dy must be 2-d of shape (4, 5)"),
]
BAD += [({name: np.ones((1, 6, 32))}, V, f"{name} {PANELS}") for name in ("s", "t", "average")]
BAD += [({name: np.ones((7, 5))}, V, f"{name} must be laid out as W") for name in ("s", "t", "average")]
BAD += [({name: readonly(np.ones((1, 7, 32)))}, V, f"{name} is written to") for name in ("s", "t", "average")]
BAD += [({name: np.ones((1, 7, 32), np.float32)}, T, f"{name} must be float64") for name in ("s", "t", "average")]


@pytest.mark.parametrize(("changes", "error", "message"), BAD)
def test_bad_input(changes, error, message):
    kernels.masked_linear_step(**good())
    with pytest.raises(error) as raised:
        kernels.masked_linear_step(**{**good(), **changes})
    assert message in str(raised.value)
