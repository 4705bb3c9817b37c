"""Masked products, shared matrices and the sampler of masked networks against tests/reference/masked.py."""

import gc
import re

import chainrule
import numpy as np
import pytest
from chainrule import kernels, masks
from chainrule.conditionals import Bernoulli, Categorical
from chainrule.conditionals.categorical import starts
from chainrule.kernels import from_panels, to_panels
from chainrule.kernels.masked import Layer, Mask, panels_shape
from reference import masked as reference
from reference.nade import padded, random_order

DTYPES = (np.float32, np.float64)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
WIDTH = {np.float32: 16, np.float64: 8}
C = 4.0  # errors stay below C * eps * sqrt(terms), relative to the largest value, at least 1; measured: 1.2


def assert_close(got, want, dtype, length=1):
    assert got.shape == want.shape
    if want.size:
        error = np.abs(got - want).max() / max(1.0, np.abs(want).max())
        assert error <= C * np.finfo(dtype).eps * np.sqrt(max(length, 1)), error


def assert_same_bits(a, b):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


# ---- Problems


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

    def storages(self, panels_too=True):
        """The same matrix plain, with rows apart, in panels, and in panels apart; garbage between."""
        n_in, n_out = self.W.shape
        yield self.W
        yield padded(self.W, n_out + 5, np.nan)
        in_panels = self.panels(self.W)
        yield in_panels
        apart = np.full((len(in_panels), n_in + 3, 32), np.nan, self.W.dtype)
        apart[:, :n_in] = in_panels
        yield apart[:, :n_in]

    def panels(self, W, fill=np.nan):
        panels = to_panels(W)
        lanes = np.arange(panels.shape[0] * 32).reshape(-1, 1, 32) >= W.shape[1]
        panels[np.broadcast_to(lanes, panels.shape)] = fill
        return panels


def with_threads(call):
    """The result, the same bits for 1, 2 and 3 threads."""
    results = [call(n_threads) for n_threads in (1, 2, 3)]
    for other in results[1:]:
        assert_same_bits(results[0], other)
    return results[0]


def by_rows(call, rows, step, *more):
    """What calls on `step` rows give, one after the other."""
    return np.concatenate([call(rows[k : k + step], *more) for k in range(0, len(rows), step)])


def forwards(x, W, mask):
    return kernels.masked_linear(x, W, mask=mask)


def forwards_sparse(bits, W, mask):
    return kernels.masked_linear(kernels.encode(bits), W, mask=mask)


def backwards(dy, W, mask):
    return kernels.masked_linear_input_gradient(dy, W, mask=mask)


# ---- Forwards


@by_dtype
@by_mask
def test_masked_linear(kind, dtype):
    for m, n_in, n_out in sizes(dtype):
        p = Problem(kind, m, n_in, n_out, dtype)
        want, exact = reference.linear(p.x, p.W, p.live), reference.chained(p.x, p.W, p.live)
        for W in p.storages():
            got = kernels.masked_linear(p.x, W, mask=p.mask, n_threads=1)
            assert_close(got, want, dtype, n_in)
            assert_same_bits(got, exact)
        out = np.full((m, n_out + 4), 7, dtype)
        inside = out[:, 2 : n_out + 2]
        assert kernels.masked_linear(padded(p.x, n_in + 3), W, mask=p.mask, out=inside) is inside
        assert_same_bits(inside, exact)
        assert (np.delete(out, np.s_[2 : n_out + 2], axis=1) == 7).all()
        for step in (1, 2, 7):
            if m in (13, 33):
                assert_same_bits(by_rows(forwards, p.x, step, W, p.mask), exact)


@by_dtype
@by_mask
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh", None])
def test_addend_bias_and_activation_come_in_their_order(kind, dtype, activation):
    functions = {"sigmoid": kernels.sigmoid, "tanh": kernels.tanh, None: np.array}
    functions["relu"] = lambda a: np.where(a < 0, dtype(0), a)
    for m, n_in, n_out in [(13, 300, 70), (1, 40, 33), (2, 600, 5), (3, 0, 4)]:
        p = Problem(kind, m, n_in, n_out, dtype)
        for addend in (None, p.addend):
            for b in (None, p.b):
                want = reference.linear(p.x, p.W, p.live, b, addend, activation)
                exact = reference.chained(p.x, p.W, p.live)
                exact = exact if addend is None else exact + addend
                exact = functions[activation](exact if b is None else exact + b)
                wide = None if addend is None else padded(addend, n_out + 3)
                for W in p.storages():
                    options = {"mask": p.mask, "activation": activation}
                    got = kernels.masked_linear(p.x, W, b, addend=wide, **options)
                    assert_close(got, want, dtype, n_in)
                    assert_same_bits(got, exact)
                    bits = p.bits.astype(dtype)
                    dense = kernels.masked_linear(bits, W, b, addend=addend, **options)
                    assert_same_bits(kernels.masked_linear(p.ones, W, b, addend=addend, **options), dense)


@by_dtype
@by_mask
def test_sparse_linear_equals_dense(kind, dtype):
    for m, n_in, n_out in sizes(dtype):
        p = Problem(kind, m, n_in, n_out, dtype)
        exact = reference.chained(p.bits.astype(dtype), p.W, p.live)
        for W in p.storages():
            assert_same_bits(kernels.masked_linear(p.ones, W, mask=p.mask), exact)
        out = np.full((m, n_out + 4), 7, dtype)
        kernels.masked_linear(p.ones, W, mask=p.mask, out=out[:, 2 : n_out + 2])
        assert_same_bits(out[:, 2 : n_out + 2], exact)
        assert (np.delete(out, np.s_[2 : n_out + 2], axis=1) == 7).all()
        if m in (13, 33):
            for step in (1, 7):
                assert_same_bits(by_rows(forwards_sparse, p.bits, step, W, p.mask), exact)


@by_dtype
def test_the_emulated_rule_is_the_real_one(dtype):
    """fma of tests/reference/ rounds once: against integers, where every sum and product is exact in Python."""
    rng = np.random.default_rng(0)
    bits = {np.float32: 24, np.float64: 53}[dtype]
    a, b = (rng.integers(2 ** (bits - 1), 2**bits, 500).astype(dtype) for _ in range(2))
    c = (rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 500) * 2.0 ** rng.integers(0, bits, 500)).astype(dtype)
    c[::7] = -(a * b)[::7]
    got = reference.fma(a, b, c)
    for k in range(500):
        exact = int(a[k]) * int(b[k]) + int(c[k])
        below = abs(int(got[k]) - exact)
        for direction in (-np.inf, np.inf):
            assert below <= abs(int(np.nextafter(got[k], dtype(direction))) - exact)


# ---- Backwards


@by_dtype
@by_mask
def test_input_gradient(kind, dtype):
    for m, n_in, n_out in sizes(dtype):
        p = Problem(kind, m, n_in, n_out, dtype)
        transposed = None if p.live is None else p.live.T
        want, exact = reference.input_gradient(p.dy, p.W, p.live), reference.chained(p.dy, p.W.T, transposed)
        for W in p.storages():
            got = kernels.masked_linear_input_gradient(p.dy, W, mask=p.mask)
            assert_close(got, want, dtype, n_out)
            assert_same_bits(got, exact)
        out = np.full((m, n_in + 4), 7, dtype)
        kernels.masked_linear_input_gradient(padded(p.dy, n_out + 3), W, mask=p.mask, out=out[:, 2 : n_in + 2])
        assert_same_bits(out[:, 2 : n_in + 2], exact)
        assert (np.delete(out, np.s_[2 : n_in + 2], axis=1) == 7).all()
        if m in (13, 33):
            for step in (1, 2, 7):
                assert_same_bits(by_rows(backwards, p.dy, step, W, p.mask), exact)


@by_dtype
@by_mask
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh", None])
def test_input_gradient_with_addend_and_slope(kind, dtype, activation):
    one = dtype(1)
    slopes = {
        "sigmoid": lambda h: reference.fma(-h, h, h),
        "tanh": lambda h: reference.fma(-h, h, one),
        "relu": lambda h: (h > 0).astype(dtype),
        None: lambda h: np.ones_like(h),
    }
    for m, n_in, n_out in [(13, 70, 300), (1, 33, 40), (3, 4, 0)]:
        p = Problem(kind, m, n_in, n_out, dtype)
        product = reference.chained(p.dy, p.W.T, None if p.live is None else p.live.T)
        for addend in (None, p.addend_in):
            for h in (None, p.h):
                options = {"h": h, "activation": activation}
                want = reference.input_gradient(p.dy, p.W, p.live, addend, **options)
                exact = product if addend is None else product + addend
                exact = exact if h is None else exact * slopes[activation](h)
                for W in p.storages():
                    got = kernels.masked_linear_input_gradient(p.dy, W, mask=p.mask, addend=addend, **options)
                    assert_close(got, want, dtype, n_out)
                    assert_same_bits(got, exact)


@by_dtype
@by_mask
def test_weight_gradient(kind, dtype):
    """Live entries are the chains over rows; all others, and what lies around them, keep what they held."""
    for m, n_in, n_out in sizes(dtype):
        p = Problem(kind, m, n_in, n_out, dtype)
        live = np.ones(p.W.shape, bool) if p.live is None else p.live
        bits = p.bits.astype(dtype)
        for rows, dense in ((p.x, p.x), (p.ones, bits), (bits, bits)):
            want, want_b = reference.weight_gradient(dense, p.dy, live)
            exact = reference.chained(dense.T, p.dy)
            exact_b = reference.chained(np.ones((1, m), dtype), p.dy)[0]
            for storage in p.storages():
                before = np.full(storage.base.shape if storage.base is not None else storage.shape, 7, dtype)
                dW = before if storage.base is None else before[tuple(slice(k) for k in storage.shape)]
                before = dW if dW.base is None else dW.base
                db = np.full(n_out + 2, 7, dtype)
                out = kernels.masked_linear_weight_gradient(rows, p.dy, mask=p.mask, dW=dW, db=db[1:-1])
                assert out is dW
                got = from_panels(dW, n_out).copy() if dW.ndim == 3 else dW.copy()
                assert_close(np.where(live, got, 0), want, dtype, m)
                assert_same_bits(got, np.where(live, exact, dtype(7)))
                assert_close(db[1:-1], want_b, dtype, m)
                assert_same_bits(db[1:-1], exact_b)
                assert (db[[0, -1]] == 7).all()
                if dW.ndim == 3:
                    lanes = np.arange(len(dW) * 32).reshape(-1, 1, 32) >= n_out
                    assert (dW[np.broadcast_to(lanes, dW.shape)] == 7).all()
                dW[...] = 7
                assert (before == 7).all(), "something beyond the matrix was written"
        made_here = kernels.masked_linear_weight_gradient(p.x, padded(p.dy, n_out + 3), mask=p.mask)
        assert_same_bits(made_here, np.where(live, reference.chained(p.x.T, p.dy), dtype(0)))


# ---- Threads


@by_dtype
@pytest.mark.parametrize("kind", ["none", "staircase", "blocks", "hollow"])
@pytest.mark.parametrize("shape", [(600, 300, 300), (300, 700, 40), (2, 1500, 1300), (300, 40, 700), (3000, 65, 33)])
def test_threads(kind, shape, dtype):
    """Work large enough for three threads: over panels, and over blocks of rows where panels are few."""
    p = Problem(kind, *shape, dtype)
    (m, n_in, n_out), W = shape, p.panels(p.W)

    def gradient(rows, n_threads):
        dW, db = np.zeros_like(p.W), np.zeros(n_out, dtype)
        kernels.masked_linear_weight_gradient(rows, p.dy, mask=p.mask, dW=dW, db=db, n_threads=n_threads)
        return np.append(dW, db)

    options = {"mask": p.mask, "activation": "tanh"}
    y = with_threads(lambda t: kernels.masked_linear(p.x, W, p.b, **options, n_threads=t))
    assert_close(y, reference.linear(p.x, p.W, p.live, p.b, activation="tanh"), dtype, n_in)
    sparse = with_threads(lambda t: kernels.masked_linear(p.ones, W, p.b, **options, n_threads=t))
    assert_same_bits(sparse, kernels.masked_linear(p.bits.astype(dtype), W, p.b, **options))
    dx = with_threads(lambda t: kernels.masked_linear_input_gradient(p.dy, W, h=p.h, **options, n_threads=t))
    assert_close(dx, reference.input_gradient(p.dy, p.W, p.live, h=p.h, activation="tanh"), dtype, n_out)
    with_threads(lambda t: gradient(p.x, t))
    assert_same_bits(with_threads(lambda t: gradient(p.ones, t)), gradient(p.bits.astype(dtype), 1))
    if m > 100:
        parts = by_rows(lambda x: kernels.masked_linear(x, W, p.b, **options), p.x, 97)
        assert_same_bits(parts, y)


# ---- Masks


@by_dtype
def test_many_rows_go_in_blocks(dtype):
    """A dense matrix in panels takes blocks of rows; rows do not know which block they are in."""
    n_rows, n_in, n_out = 700, 1100, 70
    rng = np.random.default_rng(5)
    x, W = rng.normal(size=(n_rows, n_in)).astype(dtype), to_panels(rng.normal(size=(n_in, n_out)).astype(dtype))
    dy, b = rng.normal(size=(n_rows, n_out)).astype(dtype), rng.normal(size=n_out).astype(dtype)
    x2, mask = rng.normal(size=(n_rows * 4, n_out)).astype(dtype), Mask.dense(n_in, n_out)
    back = to_panels(rng.normal(size=(n_out, n_in)).astype(dtype))

    def call(t, rows=slice(None), more=slice(None)):
        return (
            kernels.masked_linear(x[rows], W, mask=mask, b=b, activation="relu", n_threads=t),
            kernels.masked_linear_input_gradient(dy[rows], W, mask=mask, n_threads=t),
            kernels.masked_linear_input_gradient(x[rows], back, mask=Mask.dense(n_out, n_in), n_threads=t),
            kernels.masked_linear(x2[more], back, mask=Mask.dense(n_out, n_in), n_threads=t),
        )

    whole = call(1)
    for got, three in zip(whole, call(3), strict=True):
        assert_same_bits(got, three)
    parts = [call(1, slice(at, at + 20), slice(at, at + 20)) for at in range(0, 700, 20)]
    for got, *split in zip(whole, *parts, strict=True):
        assert_same_bits(got[:700], np.concatenate(split))
    expected = np.maximum(x.astype(np.float64) @ from_panels(W, n_out) + b, 0)
    assert np.abs(whole[0] - expected).max() < 4 * np.finfo(dtype).eps * np.sqrt(n_in) * np.abs(expected).max()


def test_masks_are_what_they_say():
    rng = np.random.default_rng(0)
    for kind, make in MASKS.items():
        live = np.ones((70, 90), bool) if make is None else make(rng, 70, 90)
        mask = Mask.dense(70, 90) if make is None else Mask(live)
        assert (mask.n_in, mask.n_out) == (70, 90)
        of_panels = to_panels(live.astype(np.uint8)).reshape(-1, 32).any(1) if make is not None else np.ones(210, bool)
        expected = np.flatnonzero(np.diff(np.concatenate([[0], of_panels.astype(int), [0]])))
        ranges = mask.ranges()
        assert (np.diff(ranges.ravel()) >= 0).all()
        assert all(begin < end for begin, end in ranges)
        covered = np.zeros(210 * 32, int)
        for begin, end in ranges:
            covered[begin:end] += 1
        assert (covered.reshape(-1, 32) == of_panels[:, None]).all(), kind
        assert len(expected) // 2 <= len(ranges) <= len(expected) // 2 + 2  # cut between panels at most
    for shape in ((0, 0), (0, 5), (5, 0)):
        assert Mask(np.zeros(shape, bool)).ranges().shape == (0, 2)
    kept = live.copy()
    mask = Mask(kept)
    W, x = np.ones((70, 90)), np.ones((1, 70))
    before = kernels.masked_linear(x, W, mask=mask)
    kept[...] = True
    assert_same_bits(before, kernels.masked_linear(x, W, mask=mask))
    with pytest.raises(ValueError, match=r"live must be 2-d \(n_in, n_out\), not of shape \(3,\)"):
        Mask([True, False, True])


def test_panels_round_trip():
    rng = np.random.default_rng(0)
    for shape in ((0, 0), (3, 0), (0, 3), (5, 1), (5, 32), (5, 33), (7, 100)):
        W = rng.normal(size=shape)
        panels = to_panels(W)
        assert panels.shape == panels_shape(*shape)
        for p, k, j in np.ndindex(*panels.shape):
            assert panels[p, k, j] == (W[k, 32 * p + j] if 32 * p + j < shape[1] else 0)
        assert_same_bits(from_panels(panels, shape[1]), W)


# ---- Rows of codes


def random_codes(rng, n_values, m):
    return rng.integers(0, n_values, (m, len(n_values))).astype(np.uint8)


@pytest.mark.parametrize("with_order", [False, True], ids=["", "order"])
@pytest.mark.parametrize("with_reference", [False, True], ids=["", "reference"])
@pytest.mark.parametrize(
    "values", [[2] * 21, [2, 256, 3, 1, 17, 4, 2, 1], [1], [1, 1], [], [2] * 64, [3] * 65], ids=len
)
def test_encode(values, with_order, with_reference):
    rng = np.random.default_rng(len(values))
    n, n_values = len(values), np.array(values, int)
    for m in (0, 1, 7, 8, 9, 33):
        x = random_codes(rng, n_values, m)
        order = random_order(rng, n) if with_order else None
        swap = rng.integers(0, n_values).astype(np.uint8) if with_reference else None
        first = starts(n_values[order] if with_order else n_values)
        variants = [first] if any(k != 2 for k in values) else [first, None]
        for units in variants:
            codes, dense = reference.encode(x, order, swap, units)
            for rows in (x, padded(x, n + 3, 255)):
                ones = kernels.encode(rows, order=order, reference=swap, first=units)
                assert_same_bits(np.asarray(ones.codes), codes)
                assert ones.n_units == first[-1]
                for r in range(m):
                    assert ones.index[r, : ones.count[r]].tolist() == np.flatnonzero(dense[r]).tolist()


def test_encode_threads():
    x = (np.random.default_rng(0).random((2000, 301)) < 0.4).astype(np.uint8)
    for n_threads in (1, 2, 3):
        ones = kernels.encode(x, n_threads=n_threads)
        assert (ones.codes == x).all()
        assert (ones.count == x.sum(1)).all()
        assert all((ones.index[r, : ones.count[r]] == np.flatnonzero(x[r])).all() for r in range(len(x)))


def test_ones_cannot_be_changed():
    """Kernels follow the indices without looking."""
    ones = kernels.encode(np.ones((2, 3), np.uint8))
    for array in (ones.index, ones.count):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 10**6
    with pytest.raises(AttributeError):
        ones.n_units = 7
    with pytest.raises(TypeError):
        chainrule._kernels.Ones()


# ---- Matrices that several masks share


KEPT_SIZES = [(1, 1, 1), (5, 0, 3), (5, 3, 0), (2, 31, 33), (0, 5, 7), (13, 33, 32), (300, 70, 100), (7, 300, 65)]
KEPT_SIZES += [(3, 65, 300), (37, 520, 40)]


def storages_of(W):
    """A matrix plain, with rows apart, in panels, and in panels apart; what pads it is NaN."""
    plain = padded(W, W.shape[1] + 5, np.nan)
    panels = to_panels(W)
    panels.swapaxes(1, 2)[np.arange(len(panels) * 32).reshape(-1, 32) >= W.shape[1]] = np.nan
    apart = np.full((len(panels), W.shape[0] + 3, 32), np.nan, W.dtype)
    apart[:, : W.shape[0]] = panels
    return W, plain, panels, apart[:, : W.shape[0]]


@by_dtype
@by_mask
@pytest.mark.parametrize("turned", [False, True])
def test_rows_that_stand_elsewhere_give_the_same_bits(kind, dtype, turned):
    for m, n_in, n_out in KEPT_SIZES:
        p = Problem(kind, m, n_in, n_out, dtype)
        rows = random_order(np.random.default_rng(n_in), n_out if turned else n_in)
        plain = {"mask": p.mask}
        y = kernels.masked_linear(p.x, p.W, p.b, addend=p.addend, activation="tanh", **plain)
        dx = kernels.masked_linear_input_gradient(p.dy, p.W, addend=p.addend_in, h=p.h, activation="tanh", **plain)
        db = np.empty(n_out, dtype)
        dW = kernels.masked_linear_weight_gradient(p.x, p.dy, db=db, **plain)
        from_ones = kernels.masked_linear(p.ones, p.W, p.b, **plain)
        dW_of_ones = kernels.masked_linear_weight_gradient(p.ones, p.dy, **plain)
        for W in storages_of(reference.keep(p.W, rows, turned)):
            options = {"mask": p.mask, "rows": rows, "turned": turned}

            def all_of(n_threads, p=p, W=W, options=options, rows=rows, n_out=n_out):
                options = {**options, "n_threads": n_threads}
                back = {"addend": p.addend_in, "h": p.h, "activation": "tanh"}
                kept, bias = np.full(W.shape, 7, dtype), np.full(n_out, 7, dtype)
                kernels.masked_linear_weight_gradient(p.x, p.dy, dW=kept, db=bias, whole=True, **options)
                return [
                    kernels.masked_linear(p.x, W, p.b, addend=p.addend, activation="tanh", **options),
                    kernels.masked_linear_input_gradient(p.dy, W, **back, **options),
                    kept,
                    bias,
                ]

            def sparse(n_threads, p=p, W=W, options=options):
                options = {**options, "n_threads": n_threads}
                kept = np.full(W.shape, 7, dtype)
                kernels.masked_linear_weight_gradient(p.ones, p.dy, dW=kept, whole=True, **options)
                return [kernels.masked_linear(p.ones, W, p.b, **options), kept]

            def assert_kept(gradient, want, W=W, rows=rows):
                """All of it is written, dead weights as zeros, and nothing beside it."""
                wanted = reference.keep(want, rows, turned)
                got = from_panels(gradient, wanted.shape[1]) if gradient.ndim == 3 else gradient
                assert_same_bits(got, wanted)
                if gradient.ndim == 3:
                    assert (from_panels(gradient, 32 * len(gradient))[:, wanted.shape[1] :] == 7).all()

            for n_threads in (1, 2, 3):
                got = all_of(n_threads)
                for a, b in zip((*got[:2], got[3]), (y, dx, db), strict=True):
                    assert_same_bits(a, b)
                assert_kept(got[2], dW)
                if not turned:
                    got = sparse(n_threads)
                    assert_same_bits(got[0], from_ones)
                    assert_kept(got[1], dW_of_ones)


def test_a_staircase_is_its_mask():
    rng = np.random.default_rng(0)
    for n_in, n_out in [(0, 0), (0, 5), (5, 0), (1, 1), (31, 33), (32, 64), (70, 40), (300, 290)]:
        for spread in (1, 3, 1000):
            first, last = (np.sort(rng.integers(0, spread, n)).astype(np.int32) for n in (n_in, n_out))
            stairs, mask = Mask.staircase(first, last), Mask(first[:, None] <= last)
            assert (stairs.n_in, stairs.n_out) == (n_in, n_out)
            assert (stairs.live_array() == mask.live_array()).all()
            assert (stairs.ranges() == mask.ranges()).all()
            p = Problem("none", 3, n_in, n_out, np.float32)
            for product in (
                lambda mask, p=p: kernels.masked_linear(p.x, p.W, mask=mask),
                lambda mask, p=p: kernels.masked_linear_input_gradient(p.dy, p.W, mask=mask),
                lambda mask, p=p: kernels.masked_linear_weight_gradient(p.x, p.dy, mask=mask),
            ):
                assert_same_bits(product(stairs), product(mask))


@by_dtype
def test_a_turned_gradient_is_made_as_its_transpose(dtype):
    p = Problem("none", 5, 7, 9, dtype)
    turned = kernels.masked_linear_weight_gradient(p.x, p.dy, turned=True)
    assert_same_bits(turned.T, kernels.masked_linear_weight_gradient(p.x, p.dy))
    assert_same_bits(kernels.masked_linear(p.x, p.W.T.copy(), turned=True), kernels.masked_linear(p.x, p.W))


@by_dtype
@by_mask
@pytest.mark.parametrize("turned", [False, True])
def test_permute_columns(kind, dtype, turned):
    for n_in, n_out in [(0, 0), (1, 1), (5, 31), (33, 32), (17, 33), (70, 100), (1, 300), (300, 1), (400, 400)]:
        p = Problem(kind, 1, n_in, n_out, dtype)
        rng = np.random.default_rng(n_in)
        live = np.ones(p.W.shape, bool) if p.live is None else p.live
        rows = random_order(rng, n_out if turned else n_in)
        live = reference.keep(live, rows, turned)
        W, columns = rng.normal(size=live.shape).astype(dtype), random_order(rng, live.shape[1])
        for gap, panels in zip((0, 3), storages_of(W)[2:], strict=True):

            def permuted(n_threads, back=False, panels=panels, columns=columns, gap=gap, p=p, rows=rows):
                out = np.full((len(panels), panels.shape[1] + gap, 32), 7, dtype)[:, : panels.shape[1]]
                options = {"mask": p.mask, "rows": rows, "turned": turned, "back": back, "n_threads": n_threads}
                return kernels.permute_columns(panels, columns, out=out, **options)

            def plain(panels, width=live.shape[1]):
                assert (from_panels(panels, 32 * len(panels))[:, width:] == 7).all()
                return from_panels(panels, width)

            got, want = plain(with_threads(permuted)), reference.permute(W, columns)
            assert_same_bits(got[live], want[live])
            assert ((got == want) | (got == 7)).all()  # the row of a panel comes whole
            want = reference.permute_back(W, live, columns)
            assert_same_bits(plain(with_threads(lambda n_threads: permuted(n_threads, back=True))), want)
            options = {"mask": p.mask, "rows": rows, "turned": turned}
            assert kernels.permute_columns(panels, columns, back=True, out=panels, **options) is panels
            assert_same_bits(from_panels(panels, live.shape[1]), want)


# ---- Sampling


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


@by_dtype
@by_network
@by_data
@pytest.mark.parametrize("extra", [{}, {"with_order": True, "with_reference": True}], ids=["", "order, reference"])
def test_the_sampler_follows_the_scorer(name, data, extra, dtype):
    """Uniforms at the edges of a row's decisions draw that row only if every conditional is the scorer's to the bit."""
    for m in (1, 5, 12, 13, 100):
        net = network(name, data, dtype, m, **extra)
        x = random_codes(np.random.default_rng(m), net.n_values, m)
        low, high, possible = net.edges(x)
        assert possible.all()
        for u in (low, high):
            assert_same_bits(net.sample(u), x)
            assert_same_bits(net.sample(padded(u, u.shape[1] + 3)), x)


# Rows of a tile are few or many, tiles one or several; below and above what threads share.
SCORED = (0, 1, 2, 5, 13, 100, 401)


@by_dtype
@by_network
@by_data
@pytest.mark.parametrize("extra", [{}, {"with_order": True, "with_reference": True}], ids=["", "order, reference"])
def test_masked_score(name, data, extra, dtype):
    """The bits of the products one after the other, and of the conditional on their logits."""
    for m in SCORED:
        net = network(name, data, dtype, m, **extra)
        x = random_codes(np.random.default_rng(m), net.n_values, m)
        codes = kernels.encode(x, order=net.order, reference=net.reference, first=net.first).codes
        for per_variable in (False, True):
            if data == "bits":
                want = kernels.bernoulli_log_prob(net.logits(x), codes, per_variable=per_variable)
            else:
                want = kernels.categorical_log_prob(net.logits(x), codes, net.first, per_variable=per_variable)
            got = with_threads(lambda t, x=x, net=net, p=per_variable: net.score(x, per_variable=p, n_threads=t))
            assert_same_bits(got, want)
            assert_same_bits(net.score(padded(x, x.shape[1] + 3, 255), per_variable=per_variable), want)
        if not NETWORKS[name].get("addend"):
            for step in (3, 50):
                if m in (13, 100):
                    assert_same_bits(by_rows(net.score, x, step), net.score(x))


@by_dtype
@pytest.mark.parametrize("hidden", [(600,), (300, 400)], ids=len)
def test_masked_score_threads(hidden, dtype):
    """Work large enough for three threads: panels of few rows, tiles of many; sums beyond a chunk."""
    for m in (20, 500):
        net = Network([2] * 600, hidden, dtype, m=m, direct=True, bits=True)
        x = random_codes(np.random.default_rng(0), net.n_values, m)
        want = kernels.bernoulli_log_prob(net.logits(x), x)
        assert_same_bits(with_threads(lambda t, net=net, x=x: net.score(x, n_threads=t)), want)


@by_dtype
def test_masked_score_of_matrices_kept_otherwise(dtype):
    """Rows that stand elsewhere and turned matrices, whose weights are read when they are used."""
    rng = np.random.default_rng(0)
    for m in (2, 40, 500):
        net = Network([2] * 70, (90, 83), dtype, direct=True, bits=True)
        x = random_codes(rng, net.n_values, m)
        want = net.score(x)

        def kept(part, turned):
            rows = random_order(rng, part.mask.n_out if turned else part.mask.n_in)
            W = reference.keep(from_panels(part.W, part.mask.n_out), rows, turned)
            return part._replace(W=to_panels(W), rows=rows, turned=turned)

        direct = kept(Layer(*net.direct), False)
        moved = kernels.Network(
            70,
            hidden=[kept(net.hidden[0], False), kept(net.hidden[1], m > 2)],
            output=kept(net.output, True),
            direct=(direct.mask, direct.W, direct.rows),
        )
        assert_same_bits(with_threads(lambda t, moved=moved, x=x: kernels.masked_score(x, moved, n_threads=t)), want)
        scorer = net.prepared()
        net.output.b[...] += 1
        assert (kernels.masked_score(x, scorer) != want).all()
        assert_same_bits(kernels.masked_score(x, scorer), net.score(x))


@by_dtype
@by_network
@by_data
@pytest.mark.parametrize("panels", [True, False], ids=["panels", "plain"])
def test_masked_sample(name, data, panels, dtype):
    """Against the equations, the network anew for every variable; some values observed."""
    m = 17
    net = network(name, data, dtype, m, with_order=True, with_reference=True, panels=panels)
    rng = np.random.default_rng(1)
    u, given = rng.random((m, len(net.n_values))), random_codes(rng, net.n_values, m)
    observed = (rng.random(u.shape) < 0.3).astype(np.uint8)
    for options in ({}, {"given": given, "observed": observed}):
        drawn = net.sample(u, **options)
        assert (drawn.dtype, drawn.shape) == (np.uint8, u.shape)
        want, distance = net.expected(u, **options)
        sure = np.logical_and.accumulate(distance[:, net.order] > 1e-4, axis=1)
        assert sure.mean() > 0.9
        assert (drawn[:, net.order] == want[:, net.order])[sure].all()
        if options:
            assert (drawn[observed == 1] == given[observed == 1]).all()
        out = np.full((m, u.shape[1] + 4), 99, np.uint8)
        inside = out[:, 2:-2]
        apart = dict(options)
        if options:  # observed is laid out as out
            apart["observed"] = padded(observed, u.shape[1] + 4, 1)
        assert net.sample(u, out=inside, **apart) is inside
        assert_same_bits(inside, drawn)
        assert (np.delete(out, np.s_[2:-2], axis=1) == 99).all()
    everything = net.sample(u, given=given, observed=np.ones_like(observed))
    assert_same_bits(everything, given)
    if not NETWORKS[name].get("addend"):
        for r in (0, 11, 16):
            assert_same_bits(net.sample(u[r : r + 1]), net.sample(u)[r : r + 1])
        assert net.sample(u[:0]).shape == (0, u.shape[1])


@by_dtype
@pytest.mark.parametrize("hidden", [(), (300,), (520, 300), (290, 290, 290)], ids=len)
@pytest.mark.parametrize("values", [[2] * 300, [2, 40, 3, 1, 60, 100, 2, 90, 5]], ids=["300 bits", "many units"])
def test_sampling_across_chunks(values, hidden, dtype):
    """More than 256 inputs and units, three threads' worth of rows."""
    m, residual = 100, len(hidden) == 3
    net = Network(values, hidden, dtype, m=m, direct=True, residual=residual, with_order=True, with_reference=True,
                  bits=max(values) == 2)  # fmt: skip
    rng = np.random.default_rng(0)
    x = random_codes(rng, net.n_values, m)
    low, high, _ = net.edges(x)
    for u in (low, high):
        for n_threads in (1, 2, 3):
            assert_same_bits(net.sample(u, n_threads=n_threads), x)
    u = rng.random(x.shape)
    drawn = with_threads(lambda t: net.sample(u, n_threads=t))
    for step in (1, 30):
        assert_same_bits(by_rows(net.sample, u, step), drawn)


@by_dtype
def test_weights_that_are_not_live_have_no_part_in_a_sample(dtype):
    net = Network(BITS, (40, 33), dtype, direct=True)
    u = np.random.default_rng(0).random((30, len(BITS)))
    drawn = net.sample(u)
    for layer in (*net.hidden, net.output, net.direct):
        W = layer[1]
        assert np.isnan(W).any()
        W[np.isnan(W)] = 1e30
        W.reshape(-1)[W.reshape(-1) == 0] = np.nan  # the lanes that fill a panel up
    assert_same_bits(net.sample(u), drawn)


# ---- The optimizer's live ranges


STATES = {"sgd": 0, "momentum": 1, "nesterov": 1, "adagrad": 1, "rmsprop": 1, "adadelta": 2, "adam": 2}


@by_dtype
@pytest.mark.parametrize("rule", STATES)
@pytest.mark.parametrize(
    "ranges",
    [[], [[0, 0]], [[0, 70_000]], [[3, 4]], [[5, 5], [5, 9], [9, 40], [41, 69_999], [70_000, 70_000]],
     [[100, 17_000], [17_003, 33_333], [40_000, 69_990]]],
    ids=["none", "nothing", "all", "one", "touching", "large"],
)  # fmt: skip
def test_live_ranges(rule, ranges, dtype):
    """The full step within the ranges, nothing outside of them, whatever the threads."""
    n, rng = 70_000, np.random.default_rng(0)
    live = np.zeros(n, bool)
    for begin, end in ranges:
        live[begin:end] = True
    pairs = np.array(ranges, np.uint64).reshape(-1, 2)
    constants = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6, "correction1": 0.1,
                 "correction2": 0.01, "weight_decay": 0.1, "l2": 0.01, "gradient_scale": 0.5,
                 "average_decay": 0.9}  # fmt: skip
    start = [rng.normal(size=n).astype(dtype) for _ in range(4)]
    start[2], start[3] = np.abs(start[2]), np.abs(start[3])
    gradient = rng.normal(size=n).astype(dtype)

    def step(live_ranges, n_threads):
        p, average, s, t = (array.copy() for array in start)
        states = [s, t][: STATES[rule]]
        kernels.optimizer_step(rule, p, gradient, *states, *[None] * (2 - len(states)), average, live=live_ranges,
                               n_threads=n_threads, **constants)  # fmt: skip
        return np.stack([p, average, *states])

    full = step(None, 1)
    got = with_threads(lambda t: step(pairs, t))
    assert_same_bits(got[:, live], full[:, live])
    assert_same_bits(got[:, ~live], np.stack(start[: len(got)])[:, ~live])


# ---- The border


V, T = ValueError, TypeError


def entry(array, k, value):
    array = array.copy()
    array.flat[k] = value
    return array


def readonly(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    shifted = memory.view(array.dtype).reshape(array.shape)
    shifted[...] = array
    return shifted


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
ARRAYS = [(e, name) for e, (_, good, *_) in ENTRANCES.items() for name, a in good.items() if isinstance(a, np.ndarray)]


@pytest.mark.parametrize(("entrance", "name"), ARRAYS)
def test_bad_arrays(entrance, name):
    call, good, written, decides = ENTRANCES[entrance]
    good = {key: a.copy() if isinstance(a, np.ndarray) else a for key, a in good.items()}
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


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": np.array([[0, 1, 2]], np.uint8)}, V, r"x has values outside 0 to 1 \(first: 2 at row 0, column 2\)"),
        ({"x": np.zeros((2, 3))}, T, "x must be uint8, not float64"),
        ({"x": np.zeros(3, np.uint8)}, V, "x must be 2-d of shape"),
        ({"x": np.zeros((3, 2), np.uint8).T}, V, "x must have contiguous rows"),
        ({"order": np.array([0, 1], np.uint32)}, V, "order must be 1-d of length 3"),
        ({"order": np.array([0, 1, 1], np.uint32)}, V, r"order must be a permutation of 0..2; entry 2 is 1"),
        ({"order": np.array([0, 3, 1], np.uint32)}, V, r"order must be a permutation of 0..2; entry 1 is 3"),
        ({"order": np.array([0, 1, 2])}, T, "order must be uint32, not int64"),
        ({"reference": np.array([0, 2, 1], np.uint8)}, V, "a value of its column; that of column 1 is 2"),
        ({"reference": np.zeros(2, np.uint8)}, V, "reference must be 1-d of length 3"),
        ({"first": np.array([0, 1, 2], np.uint32)}, V, "first must be 1-d of length 4"),
        ({"first": np.array([1, 1, 2, 3], np.uint32)}, V, "first must start at 0"),
        ({"first": np.array([0, 2, 1, 3], np.uint32)}, V, "first must start at 0 and grow .*; entry 2 is 1"),
        ({"first": np.array([0, 1, 2, 258], np.uint32)}, V, "grow by 0 to 255 a variable; entry 3 is 258"),
        ({"first": np.array([0, 1, 1, 3], np.uint32)}, V, r"outside 0 to 0 \(first: 1 at row 0, column 1\)"),
        ({"n_threads": -1}, V, "n_threads must be a positive number"),
    ],
)  # fmt: skip
def test_bad_encode(changes, error, message):
    arguments = {"x": np.ones((2, 3), np.uint8), **changes}
    with pytest.raises(error, match=message):
        kernels.encode(**arguments)


def test_limits_of_codes_follow_the_order():
    order, first = np.array([2, 0, 1], np.uint32), np.array([0, 4, 5, 7], np.uint32)  # K = 2, 3, 5 by column
    x = np.array([[1, 2, 4]], np.uint8)
    assert kernels.encode(x, order=order, first=first).index[0].tolist() == [3, 4, 6]
    for column, largest in enumerate((1, 2, 4)):
        with pytest.raises(ValueError, match=f"outside 0 to {largest} .first: {largest + 1} at row 0, column {column}"):
            kernels.encode(entry(x, column, largest + 1), order=order, first=first)
        reference_ = np.zeros(3, np.uint8)
        reference_[column] = largest + 1
        with pytest.raises(ValueError, match=f"that of column {column} is {largest + 1}"):
            kernels.encode(x, order=order, first=first, reference=reference_)


@pytest.mark.parametrize("entrance", ENTRANCES)
def test_bad_rows(entrance):
    call, good, _, decides = ENTRANCES[entrance]
    good = {key: a.copy() if isinstance(a, np.ndarray) else a for key, a in good.items()}
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


def test_bad_columns():
    rng = np.random.default_rng(0)
    W, columns = to_panels(rng.normal(size=(4, 40))), random_order(rng, 40)
    good = {"W": W, "columns": columns, "mask": Mask(np.ones((4, 40), bool)), "out": np.zeros_like(W)}
    kernels.permute_columns(**good)
    kernels.permute_columns(**{**good, "mask": Mask(np.ones((40, 4), bool)), "turned": True})
    apart, memory = np.zeros((2, 6, 32))[:, :4], np.zeros(2 * 4 * 32 + 32)
    for changes, error, message in (
        ({"W": np.zeros((4, 40))}, V, "W and out must stand in panels"),
        ({"out": np.zeros((4, 40))}, V, "W and out must stand in panels"),
        ({"out": np.zeros((2, 4, 32), np.float32)}, T, "out must be float64, not float32"),
        ({"out": apart}, V, "out must be laid out as W"),
        ({"out": readonly(W)}, V, "out is written to, but is read-only"),
        ({"out": np.zeros((1, 4, 32))}, V, "out must be of shape"),
        ({"W": np.zeros((2, 5, 32))}, V, "W must be of shape"),
        ({"turned": True}, V, "W must be of shape"),
        ({"W": memory[:-32].reshape(2, 4, 32), "out": memory[32:].reshape(2, 4, 32)}, V, "out must be W or share no"),
        ({"W": W.astype(int)}, T, "W must be float32 or float64"),
        ({"rows": columns[:3]}, V, "rows must be 1-d of length 4"),
        ({"columns": entry(columns, 0, 40)}, V, "columns must be a permutation"),
        ({"columns": columns[:4]}, V, "columns must be 1-d of length 40"),
        ({"columns": columns.astype(int)}, T, "columns must be uint32, not int64"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            kernels.permute_columns(**{**good, **changes})


def sampling(**changes):
    """A network of 4 bits, two layers of 5 units and direct weights; its arguments, changed."""
    net = Network([2] * 4, (5, 5), np.float64, direct=True, residual=True, bits=True, m=3, addend=True)
    good = {"u": np.full((3, 4), 0.5), "hidden": net.hidden, "output": net.output, "direct": net.direct}
    good |= {key: value(good) if callable(value) else value for key, value in changes.items()}
    return kernels.masked_sample(good.pop("u"), **good)


def hidden_with(layer, **changes):
    def change(good):
        layers = list(good["hidden"])
        layers[layer] = layers[layer]._replace(**changes)
        return layers

    return change


def output_with(**changes):
    return lambda good: good["output"]._replace(**changes)


ZEROS, B = np.zeros((3, 4), np.uint8), np.uint8


def square(n):
    return Mask(np.zeros((n, n), bool)), np.zeros((n, n))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"u": np.full((3, 4), 0.5, np.float32)}, T, "u must be float64, not float32"),
        ({"u": np.full((3, 5), 0.5)}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"u": np.full((2, 4), 0.5)}, V, r"addend must be 2-d of shape \(2, 5\)"),
        ({"u": np.full(4, 0.5)}, V, "u must be 2-d"),
        ({"out": np.zeros((3, 3), np.uint8)}, V, r"out must be 2-d of shape \(3, 4\)"),
        ({"out": readonly(np.zeros((3, 4), np.uint8))}, V, "out is written to, but is read-only"),
        ({"out": np.zeros((3, 4))}, T, "out must be uint8"),
        ({"order": np.array([0, 1, 2, 2], np.uint32)}, V, "order must be a permutation"),
        ({"reference": np.array([0, 1, 2, 0], np.uint8)}, V, "reference must be a value of its column"),
        ({"reference": np.zeros(3, np.uint8)}, V, "reference must be 1-d of length 4"),
        ({"first": np.array([0, 1, 2, 3, 5], np.uint32)}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"first": np.array([0, 1, 2, 1, 4], np.uint32)}, V, "first must start at 0"),
        ({"hidden": hidden_with(0, mask=square(4)[0], b=None, addend=None)}, V, "ready must be 1-d of length 4"),
        ({"hidden": hidden_with(0, mask=Mask(np.zeros((4, 70), bool)))}, V, r"W must be .* or in panels \(3, 4, 32\)"),
        ({"hidden": hidden_with(0, W=np.zeros((4, 5), np.float32))}, T, "W must be float64, not float32"),
        ({"hidden": hidden_with(0, b=np.zeros(4))}, V, "b must be 1-d of length 5"),
        ({"hidden": hidden_with(0, residual=True)}, V, "a residual layer must be as wide as the one before"),
        ({"hidden": hidden_with(1, addend=np.zeros((3, 4)))}, V, r"addend must be 2-d of shape \(3, 5\)"),
        ({"hidden": hidden_with(1, addend=np.zeros((2, 5)))}, V, r"addend must be 2-d of shape \(3, 5\)"),
        ({"hidden": hidden_with(0, ready=np.array([0, 1, 0, 1, 2], "i4"))}, V, "ready must not decrease; entry 2 does"),
        ({"hidden": hidden_with(0, ready=np.zeros(4, np.int32))}, V, "ready must be 1-d of length 5"),
        ({"hidden": hidden_with(0, ready=np.zeros(5, np.int64))}, T, "ready must be int32, not int64"),
        ({"hidden": hidden_with(0, ready=None)}, T, "ready must be a NumPy array"),
        ({"hidden": hidden_with(0, activation="gelu")}, V, "activation must be one of"),
        ({"hidden": lambda good: [good["hidden"][0]] * 2}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"hidden": lambda good: [*good["hidden"], *good["hidden"] * 16]}, V, "at most 32 hidden layers, not 34"),
        ({"output": None}, V, "output must be given with hidden layers"),
        ({"output": lambda good: Layer(*square(5))}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"output": output_with(addend=np.zeros((3, 5)))}, V, r"addend must be 2-d of shape \(3, 4\)"),
        ({"output": output_with(b=np.zeros(4, np.float32))}, T, "b must be float64, not float32"),
        ({"direct": square(5)}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"hidden": (), "output": None, "direct": None}, V, "a network without hidden layers needs direct weights"),
        ({"hidden": (), "output": None, "b": np.zeros(5)}, V, "b must be 1-d of length 4"),
        ({"hidden": (), "output": None, "addend": np.zeros((3, 5))}, V, r"addend must be 2-d of shape \(3, 4\)"),
        ({"given": np.zeros((3, 4), np.uint8)}, V, "given and observed go together"),
        ({"observed": np.zeros((3, 4), np.uint8)}, V, "given and observed go together"),
        ({"given": ZEROS + B(2), "observed": ZEROS + B(1)}, V, r"given has values outside .*\(first: 2 at row 0"),
        ({"given": ZEROS, "observed": ZEROS + B(2)}, V, r"observed has values outside \{0, 1\}"),
        ({"given": ZEROS, "observed": np.zeros((3, 5), B)[:, :4]}, V, "observed must be laid out as out"),
        ({"given": ZEROS, "observed": np.zeros((3, 3), B)}, V, "observed must be 2-d of shape"),
        ({"n_threads": -1}, V, "n_threads must be a positive number"),
    ],
)  # fmt: skip
def test_bad_samples(changes, error, message):
    sampling()
    with pytest.raises(error, match=message):
        sampling(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": np.zeros((3, 5), np.uint8)}, V, r"x must be 2-d of shape \(any, 4\), not uint8 of shape \(3, 5\)"),
        ({"x": np.zeros(4, np.uint8)}, V, "x must be 2-d"),
        ({"x": np.zeros((3, 4))}, T, "x must be uint8, not float64"),
        ({"x": np.full((3, 4), 2, np.uint8)}, V, r"x has values outside \{0, 1\} \(first: 2 at row 0, column 0\)"),
        ({"x": np.zeros((2, 4), np.uint8)}, V, "x must have a row for each of the addends' 3, not 2"),
        ({"out": np.zeros(4)}, V, "log_prob must be 1-d of length 3"),
        ({"out": np.zeros(3, np.float32)}, T, "log_prob must be float64, not float32"),
        ({"out": readonly(np.zeros(3))}, V, "log_prob is written to, but is read-only"),
        ({"out": np.zeros((3, 5)), "per_variable": True}, V, r"terms must be 2-d of shape \(3, 4\)"),
        ({"n_threads": -1}, V, "n_threads must be a positive number"),
        ({"n_rows": 2}, V, r"addend must be 2-d of shape \(2, 5\)"),
        ({"n_features": 5}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"hidden": hidden_with(0, turned=True, W=np.zeros((5, 4)))}, V, "the first layer takes no turned W"),
        ({"hidden": hidden_with(1, rows=np.zeros(5, np.uint32))}, V, "rows must be a permutation of 0..4"),
        ({"output": None}, V, "output must be given with hidden layers"),
        ({"hidden": (), "output": None, "direct": None}, V, "a network without hidden layers needs direct weights"),
    ],
)  # fmt: skip
def test_bad_scores(changes, error, message):
    def scoring(**changes):
        net = Network([2] * 4, (5, 5), np.float64, direct=True, residual=True, bits=True, m=3, addend=True)
        good = {"n_features": 4, "hidden": net.hidden, "output": net.output, "direct": net.direct, "n_rows": 3}
        good |= {"x": np.zeros((3, 4), np.uint8)}
        good |= {key: value(good) if callable(value) else value for key, value in changes.items()}
        options = {key: good.pop(key) for key in ("out", "per_variable", "n_threads") if key in good}
        x = good.pop("x")
        return kernels.masked_score(x, kernels.Network(**good), **options)

    scoring()
    with pytest.raises(error, match=message):
        scoring(**changes)


def test_scored_codes_are_those_of_their_columns():
    net = Network([2, 3, 1], (5,), np.float64)
    with pytest.raises(ValueError, match=r"x has values outside 0 to 2 \(first: 3 at row 1, column 1\)"):
        net.score(np.array([[1, 2, 0], [1, 3, 0]], np.uint8))


def test_a_network_keeps_what_it_was_made_of():
    """Indices are copied when they are checked; arrays live as long as the network."""
    net = Network([2] * 30, (40,), np.float32, with_order=True, with_reference=True, bits=True)
    x = random_codes(np.random.default_rng(0), net.n_values, 50)
    want, prepared = net.score(x), net.prepared()
    net.order[...] = 2**31
    net.reference[...] = 255
    del net
    gc.collect()
    assert_same_bits(kernels.masked_score(x, prepared), want)


@pytest.mark.parametrize("changes", [{"rows": np.arange(5, dtype=np.uint32)}, {"turned": True}], ids=str)
def test_the_sampler_takes_matrices_as_they_are_multiplied(changes):
    with pytest.raises(ValueError, match="the sampler takes matrices as they are multiplied"):
        sampling(hidden=hidden_with(1, **changes))


def test_values_not_observed_may_be_anything():
    """`given` is read where `observed` alone."""
    given = np.full((3, 4), 255, np.uint8)
    assert (sampling(given=given, observed=np.zeros((3, 4), np.uint8)) == sampling()).all()


def test_raw_layers_are_checked():
    net = Network([2] * 4, (5,), np.float64, bits=True)
    u, out = np.full((3, 4), 0.5), np.zeros((3, 4), np.uint8)

    def call(hidden, output):
        chainrule._kernels.masked_sample(hidden, output, None, None, None, None, None, None, u, None, out, 0)

    hidden, output = net.hidden[0].packed(), net.output.packed()
    call([hidden], output)
    for bad_hidden, bad_output, error, message in (
        (hidden[:8], output, V, "hidden must be"),
        (hidden, output[:8], V, "output must be"),
        ((*hidden[:3], 4, *hidden[4:]), output, V, "activation must be 0 to 3, not 4"),
        ((hidden[0], None, *hidden[2:]), output, T, "W must be a NumPy array"),
    ):
        with pytest.raises(error, match=message):
            call([bad_hidden], bad_output)


@pytest.mark.parametrize(
    ("live", "error", "message"),
    [
        (np.array([[0, 11]], np.uint64), V, "live must hold ascending ranges within the parameters; range 0 is not"),
        (np.array([[3, 2]], np.uint64), V, "range 0 is not"),
        (np.array([[0, 5], [4, 6]], np.uint64), V, "range 1 is not"),
        (np.array([[5, 6], [0, 2]], np.uint64), V, "range 1 is not"),
        (np.array([[0, 5]]), T, "live must be uint64, not int64"),
        (np.array([0, 5], np.uint64), V, "live must be 2-d"),
        (np.array([[0, 5, 6]], np.uint64), V, "live must be 2-d"),
        (np.zeros((2, 4), np.uint64)[:, ::2], V, "live must have contiguous rows"),
        (np.zeros((2, 4), np.uint64)[:, :2], V, "live must be C-contiguous"),
    ],
)  # fmt: skip
def test_bad_live_ranges(live, error, message):
    p, g = np.ones(10), np.ones(10)
    with pytest.raises(error, match=re.escape(message)):
        kernels.optimizer_step("sgd", p, g, learning_rate=1.0, live=live)
    assert (p == 1).all()


def test_nothing_is_kept_alive_or_lost():
    """Masks and ones outlive what they were made of."""
    live = np.tri(40, dtype=bool)
    mask, ones = Mask(live.copy()), kernels.encode(np.ones((3, 40), np.uint8))
    W = np.ones((40, 40))
    want = kernels.masked_linear(ones, W, mask=mask)
    gc.collect()
    np.full((40, 40), 77), np.full((3, 40), 77)
    assert_same_bits(kernels.masked_linear(ones, W, mask=mask), want)
    assert (want == live.sum(0)).all()
