"""Masked products, dense and of sparse rows, forwards and backwards, against tests/reference/masked.py."""

import gc

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels import from_panels, to_panels
from chainrule.kernels.masked import Mask
from checking import assert_close, assert_same_bits, by_dtype, with_threads
from masked_problems import Problem, by_mask, by_rows, in_panels, sizes, storages_of
from reference import masked as reference
from reference.nade import padded, random_order

# ---- Forwards


def forwards(x, W, mask):
    return kernels.masked_linear(x, W, mask=mask)


def forwards_sparse(bits, W, mask):
    return kernels.masked_linear(kernels.encode(bits), W, mask=mask)


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


def backwards(dy, W, mask):
    return kernels.masked_linear_input_gradient(dy, W, mask=mask)


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


# ---- Threads and blocks of rows


@by_dtype
@pytest.mark.parametrize("kind", ["none", "staircase", "blocks", "hollow"])
@pytest.mark.parametrize("shape", [(600, 300, 300), (300, 700, 40), (2, 1500, 1300), (300, 40, 700), (3000, 65, 33)])
def test_threads(kind, shape, dtype):
    """Work large enough for three threads: over panels, and over blocks of rows where panels are few."""
    p = Problem(kind, *shape, dtype)
    (m, n_in, n_out), W = shape, in_panels(p.W)

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


# ---- Matrices that several masks share


KEPT_SIZES = [(1, 1, 1), (5, 0, 3), (5, 3, 0), (2, 31, 33), (0, 5, 7), (13, 33, 32), (300, 70, 100), (7, 300, 65)]
KEPT_SIZES += [(3, 65, 300), (37, 520, 40)]


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


@by_dtype
def test_a_turned_gradient_is_made_as_its_transpose(dtype):
    p = Problem("none", 5, 7, 9, dtype)
    turned = kernels.masked_linear_weight_gradient(p.x, p.dy, turned=True)
    assert_same_bits(turned.T, kernels.masked_linear_weight_gradient(p.x, p.dy))
    assert_same_bits(kernels.masked_linear(p.x, p.W.T.copy(), turned=True), kernels.masked_linear(p.x, p.W))


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
