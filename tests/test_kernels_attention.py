"""Attention, its gradient, its caches, packed products and a Transformer's step, against tests/reference/attention.py.

Sums are checked twice: near the equations in float64, and bit for bit against the rules of docs/reproducibility.md.
What is cached is checked against what is computed anew, bit for bit.
"""

import itertools
import re

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels import Cache, TransformerBlock, TransformerNetwork, Weights, pack, to_panels
from chainrule.kernels.masked import Mask
from reference import attention as reference

DTYPES = (np.float32, np.float64)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
# Errors stay below C eps sqrt(terms), relative to the largest value, at least 1: roundings are independent.
C = 4.0
V, T = ValueError, TypeError


def assert_close(got, want, dtype, terms=1, c=C):
    assert got.shape == want.shape
    if want.size:
        error = np.abs(got - want).max() / max(1.0, np.abs(want).max())
        assert error <= c * np.finfo(dtype).eps * np.sqrt(max(terms, 1)), error


def assert_same_bits(a, b):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def assert_same(a, b):
    for one, other in zip(a, b, strict=True):
        assert_same_bits(one, other)


def with_threads(call):
    """The results, a tuple of arrays, the same bits for 1 and 3 threads."""
    one = call(1)
    assert_same(one, call(3))
    return one


def strided(*arrays):
    """The same values as channels of one array, steps and rows apart, NaN between them."""
    rows, steps, _ = arrays[0].shape
    memory = np.full((rows, steps + 2, sum(a.shape[2] + 5 for a in arrays)), np.nan, arrays[0].dtype)
    views, at = [], 3
    for a in arrays:
        views.append(memory[:, 1 : steps + 1, at : at + a.shape[2]])
        views[-1][:] = a
        at += a.shape[2] + 5
    return views


def room_for(*shapes, dtype):
    """Arrays to write, channels of one array with steps and rows apart, and a check that nothing around was written."""
    rows, steps, _ = shapes[0]
    memory = np.full((rows, steps + 2, sum(c + 5 for *_, c in shapes)), 7, dtype)
    around, views, at = np.ones(memory.shape, bool), [], 3
    for *_, channels in shapes:
        place = np.s_[:, 1 : steps + 1, at : at + channels]
        views.append(memory[place])
        around[place] = False
        at += channels + 5

    def check():
        assert (memory[around] == 7).all(), "something beside the arrays was written"

    return views, check


# ---- Attention

# Heads, of keys, head size, queries, keys, rows, causal, ragged: around vectors, tiles of 6 and of 12 queries, panels
# of 32 keys, blocks of 128 queries, chunks of 256 keys; more queries than keys; none of either.
SHAPES = [
    (1, 1, 1, 1, 1, 1, True, False),
    (2, 2, 3, 11, 11, 2, True, True),
    (2, 1, 16, 12, 12, 3, False, True),
    (1, 1, 24, 13, 13, 1, True, False),
    (3, 1, 15, 31, 33, 2, True, True),
    (4, 2, 64, 32, 32, 2, True, False),
    (1, 1, 80, 33, 65, 2, False, True),
    (6, 3, 16, 100, 100, 1, True, False),
    (2, 2, 24, 128, 128, 1, True, False),
    (1, 1, 3, 129, 255, 2, True, True),
    (2, 1, 17, 130, 256, 1, True, False),
    (1, 1, 64, 257, 257, 1, True, False),
    (2, 2, 1, 40, 513, 2, False, True),
    (1, 1, 33, 1, 600, 3, True, True),
    (2, 1, 16, 300, 17, 3, True, True),
    (1, 1, 5, 290, 290, 2, True, True),
    (1, 1, 300, 14, 20, 1, True, False),
    (2, 2, 16, 0, 5, 2, True, False),
    (2, 2, 16, 5, 0, 2, True, False),
    (2, 2, 16, 5, 0, 2, False, False),
    (2, 2, 16, 5, 7, 0, True, True),
]
by_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


class Problem:
    """Queries, keys and values, some scores far above the others, and what the kernels make of them."""

    def __init__(self, shape, dtype):
        self.n_heads, self.n_kv, size, self.n, self.keys, self.rows, self.causal, ragged = shape
        rng = np.random.default_rng(shape)
        self.dtype, self.size = dtype, size
        self.q, self.y_gradient = (
            rng.normal(size=(self.rows, self.n, self.n_heads * size)).astype(dtype) for _ in "qy"
        )
        self.k, self.v = (rng.normal(size=(self.rows, self.keys, self.n_kv * size)).astype(dtype) for _ in "kv")
        self.q *= dtype(3)
        self.lengths = np.full(self.rows, self.keys, np.uint32)
        if ragged:
            self.lengths[:] = rng.integers(0, self.keys + 1, self.rows)
            self.lengths[:1] = 0
            self.lengths[-1:] = max(self.keys - 1, 1)
        self.ragged = ragged
        self.heads = {"n_heads": self.n_heads, "n_kv_heads": self.n_kv, "causal": self.causal}
        self.seen = np.stack(
            [reference.visible(self.n, self.keys, int(n), self.causal) for n in self.lengths]
            or [np.zeros((self.n, self.keys), bool)]
        )
        self.terms = size + self.keys

    def forward(self, q=None, k=None, v=None, **options):
        q, k, v = (mine if given is None else given for mine, given in ((self.q, q), (self.k, k), (self.v, v)))
        sums = np.full((len(q), self.n_heads, q.shape[1]), 7, self.dtype)
        if self.ragged:
            options = {"lengths": self.lengths} | options
        return kernels.attention(q, k, v, statistics=sums, **self.heads, **options), sums

    def backward(self, y, sums, q=None, k=None, v=None, dy=None, **options):
        q, k, v = (mine if given is None else given for mine, given in ((self.q, q), (self.k, k), (self.v, v)))
        dy = self.y_gradient if dy is None else dy
        lengths = self.lengths if self.ragged else None
        return kernels.attention_gradient(q, k, v, y, sums, dy, lengths=lengths, **self.heads, **options)


@by_dtype
@by_shape
def test_attention(shape, dtype):
    p = Problem(shape, dtype)
    y, sums = with_threads(lambda t: p.forward(n_threads=t))
    want, want_sums = reference.attention(p.q, p.k, p.v, p.n_heads, p.n_kv, None, p.causal, p.lengths)
    # Scores of size s carry an error of s eps sqrt(d), and so do the logarithms of what becomes of them.
    assert_close(y, want, dtype, p.terms, c=2 * C)
    assert_close(sums, want_sums, dtype, p.terms)
    none = ~p.seen.any(2)
    assert (y[none[: p.rows]] == 0).all()
    if p.n * p.keys * p.rows * p.n_heads < 100_000:
        exact = reference.attention_bits(
            p.q, p.k, p.v, p.n_heads, p.n_kv, p.causal, p.lengths, kernels.exp, kernels.log
        )
        assert_same((y, sums), exact)

    (q,) = strided(p.q)
    (out,), check = room_for(y.shape, dtype=dtype)
    assert_same_bits(p.forward(q, *strided(p.k, p.v), out=out)[0], y)
    assert_same_bits(out, y)
    check()
    plain = kernels.attention(p.q, p.k, p.v, lengths=p.lengths, scale=1 / np.sqrt(p.size), **p.heads)
    assert_same_bits(plain, y)


@by_dtype
def test_the_running_softmax(dtype):
    """Over 256 keys the order shows: maxima rise in every chunk, at its edges, or never again after the first key."""
    for highest in ([255, 256, 511, 512], [0], [700], list(range(0, 700, 7))):
        p = Problem((2, 1, 4, 701, 701, 1, True, False), dtype)
        p.k[0, highest] *= dtype(4)
        p.q = p.q[:, 640:].copy()  # the last 61
        p.n, p.lengths = 61, np.full(1, 701)
        got = p.forward()
        assert_same(got, reference.attention_bits(p.q, p.k, p.v, 2, 1, True, p.lengths, kernels.exp, kernels.log))


@by_dtype
@by_shape
def test_queries_are_on_their_own(shape, dtype):
    """Rows, queries and heads alone give the bits of all together."""
    p = Problem(shape, dtype)
    y, sums = p.forward()
    for row in range(p.rows):
        mine = slice(row, row + 1)
        assert_same(p.forward(p.q[mine], p.k[mine], p.v[mine], lengths=p.lengths[mine]), (y[mine], sums[mine]))
    for begin in {1, 7, 12, p.n // 2, p.n - 1} if p.n > 1 and p.causal else set():
        last = p.forward(p.q[:, begin:])  # of the last queries, which see as much as before
        assert_same(last, (y[:, begin:], sums[:, :, begin:]))
    group = p.n_heads // p.n_kv
    for h in range(p.n_heads):
        own, other = (slice(i * p.size, (i + 1) * p.size) for i in (h, h // group))
        sums_alone = np.empty((p.rows, 1, p.n), dtype)
        alone = kernels.attention(
            p.q[:, :, own],
            p.k[:, :, other],
            p.v[:, :, other],
            n_heads=1,
            causal=p.causal,
            lengths=p.lengths,
            statistics=sums_alone,
        )
        assert_same((alone, sums_alone), (y[:, :, own], sums[:, h : h + 1]))


def test_tiny_numbers():
    """Zeros keep their sign where no key is seen: a tile of many queries is the tile of one."""
    q, k = np.zeros((1, 270, 1), np.float32), np.zeros((1, 270, 1), np.float32)
    v = np.full((1, 270, 1), -1e-45, np.float32)
    q[:], k[0, 0], k[0, 1:] = 1, 0, -60
    v[0, 0] = -0.0
    y = kernels.attention(q, k, v, n_heads=1, scale=1)
    assert np.signbit(y[0, 1:]).all(), "the sum of values that underflow is -0"
    for t in (0, 1, 255, 256, 269):
        assert_same_bits(
            kernels.attention(q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1], n_heads=1, scale=1), y[:, t : t + 1]
        )


@by_dtype
@by_shape
def test_attention_gradient(shape, dtype):
    p = Problem(shape, dtype)
    y, sums = p.forward()
    got = with_threads(lambda t: p.backward(y, sums, n_threads=t))
    want = reference.attention_gradient(p.q, p.k, p.v, p.y_gradient, p.n_heads, p.n_kv, None, p.causal, p.lengths)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, dtype, p.terms + p.n, c=2 * C)
    padded = np.arange(p.keys)[None] >= p.lengths[:, None]
    assert (got[1][padded] == 0).all()
    assert (got[2][padded] == 0).all()
    if p.n * p.keys * p.rows * p.n_heads < 100_000:
        exact = reference.attention_gradient_bits(
            p.q, p.k, p.v, y, sums, p.y_gradient, p.n_heads, p.n_kv, p.causal, p.lengths, kernels.exp
        )
        assert_same(got, exact)

    (dq,), check_q = room_for(p.q.shape, dtype=dtype)
    (dk, dv), check = room_for(p.k.shape, p.v.shape, dtype=dtype)
    q, y_apart, dy = strided(p.q, y, p.y_gradient)
    made = p.backward(y_apart, sums, q, *strided(p.k, p.v), dy=dy, dq=dq, dk=dk, dv=dv)
    assert made[0] is dq
    assert_same((dq, dk, dv), got)
    check()
    check_q()
    for row in range(p.rows):
        mine = slice(row, row + 1)
        alone = kernels.attention_gradient(
            p.q[mine], p.k[mine], p.v[mine], y[mine], sums[mine], p.y_gradient[mine], lengths=p.lengths[mine], **p.heads
        )
        assert_same(alone, [d[mine] for d in got])


def test_gradients_over_blocks_and_chunks():
    """Three blocks of queries, two chunks of keys, two heads of a group: the order of every sum."""
    for dtype, causal in itertools.product(DTYPES, (True, False)):
        p = Problem((2, 1, 3, 270, 280, 1, causal, False), dtype)
        y, sums = p.forward()
        exact = reference.attention_gradient_bits(
            p.q, p.k, p.v, y, sums, p.y_gradient, 2, 1, causal, p.lengths, kernels.exp
        )
        assert_same(p.backward(y, sums), exact)


@pytest.mark.parametrize("shape", [SHAPES[i] for i in (1, 2, 4)], ids=str)
def test_gradients_are_slopes(shape):
    p = Problem(shape, np.float64)
    p.q /= 3
    y, sums = p.forward()
    gradient = p.backward(y, sums)
    rng = np.random.default_rng(5)
    for name, d in zip("qkv", gradient, strict=True):
        x = getattr(p, name)
        for _ in range(4):
            way, step = rng.normal(size=x.shape), 1e-5
            up, down = (p.forward(**{name: x + s * way})[0] for s in (step, -step))
            slope = ((up - down) * p.y_gradient).sum() / (2 * step)
            np.testing.assert_allclose((d * way).sum(), slope, rtol=1e-6, atol=1e-7)


@by_dtype
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [SHAPES[i] for i in (1, 2, 4, 6, 9, 14, 15)], ids=str)
def test_what_is_not_seen_is_not_touched(shape, bad, dtype):
    """Padding, and what comes after a query: NaN and infinities there change no bit of it, nor of its gradient."""
    p = Problem(shape, dtype)
    y, sums = p.forward()
    gradient = p.backward(y, sums)
    k, v = p.k.copy(), p.v.copy()
    for row, n in enumerate(p.lengths):
        k[row, n:] = v[row, n:] = bad
    assert_same(p.forward(k=k, v=v), (y, sums))
    assert_same(p.backward(y, sums, k=k, v=v), gradient)
    if not p.causal:
        return
    j = int(p.lengths[-1]) - 3 if p.lengths[-1] > 3 else 0  # a key that some queries see
    before = ~p.seen[-1, :, j]
    k, v, row = p.k.copy(), p.v.copy(), p.rows - 1
    k[row, j] = v[row, j] = bad
    got = p.forward(k=k, v=v)
    assert not np.isfinite(got[0][row, ~before]).any()
    assert_same_bits(got[0][row, before], y[row, before])
    assert_same_bits(got[1][row][:, before], sums[row][:, before])
    assert_same_bits(p.backward(*got, k=k, v=v)[0][row, before], gradient[0][row, before])
    # And back: a query has no part in the gradients of keys that it does not see.
    i = p.n // 2
    q, dy = p.q.copy(), p.y_gradient.copy()
    q[row, i] = dy[row, i] = bad
    after = ~p.seen[row, i]
    found = p.backward(*p.forward(q=q), q=q, dy=dy)
    assert_same([d[row, after] for d in found[1:]], [d[row, after] for d in gradient[1:]])
    others = np.arange(p.n) != i
    assert_same_bits(found[0][row, others], gradient[0][row, others])


@by_dtype
def test_nan_and_infinity_are_seen(dtype):
    q, k, v = (np.ones((1, 9, 4), dtype) for _ in "qkv")
    v[0, 5, 1] = np.nan
    y = kernels.attention(q, k, v, n_heads=1)
    assert np.argwhere(np.isnan(y[0])).tolist() == [[t, 1] for t in range(5, 9)]
    v[0, 5, 1] = np.inf
    y = kernels.attention(q, k, v, n_heads=1)
    assert np.argwhere(np.isinf(y[0])).tolist() == [[t, 1] for t in range(5, 9)]
    v[0, 5, 1], q[0, 7, 0] = 1, np.nan
    y = kernels.attention(q, k, v, n_heads=1)
    assert np.isnan(y[0]).all(1).tolist() == [t == 7 for t in range(9)]


# ---- Steps over a cache


def empty_cache(rows, n_kv, size, capacity, dtype):
    """Full of NaN: nothing is read before it is written."""
    cache = kernels.new_cache(rows, n_kv, size, capacity, dtype)
    for a in cache[:2]:
        a[:] = np.nan
    return cache


def in_steps(p, parts, cache=None, **options):
    """y of calls of so many steps each."""
    cache = cache or empty_cache(p.rows, p.n_kv, p.size, sum(parts) + 3, p.dtype)
    ys, at = [], 0
    for n in parts:
        new = (x[:, at : at + n] for x in (p.q, p.k, p.v))
        lengths = np.full(p.rows, at, np.uint32)
        ys.append(kernels.attention_step(*new, cache, lengths, **p.heads, **options))
        at += n
    return np.concatenate(ys, axis=1)


def compositions(n):
    """All ways to cut n steps into calls."""
    for cuts in range(2 ** (n - 1)):
        edges = [0, *(i + 1 for i in range(n - 1) if cuts >> i & 1), n]
        yield np.diff(edges).tolist()


@by_dtype
@pytest.mark.parametrize("heads", [(2, 2, 5), (4, 2, 16), (3, 1, 33)], ids=str)
def test_every_split_of_twelve_steps(heads, dtype):
    p = Problem((*heads, 12, 12, 2, True, False), dtype)
    y, _ = p.forward()
    for parts in compositions(12):
        assert_same_bits(in_steps(p, parts), y)


SPLITS = [[1] * 300, [300], [256, 44], [255, 1, 44], [100, 100, 100], [12, 13, 275], [31, 1, 1, 222, 2, 43], [257, 43]]


@by_dtype
@pytest.mark.parametrize("heads", [(2, 1, 3), (2, 2, 80)], ids=str)
def test_splits_of_long_sequences(heads, dtype):
    p = Problem((*heads, 300, 300, 2, True, False), dtype)
    y, _ = p.forward()
    for parts in SPLITS:
        assert_same_bits(with_threads(lambda t, parts=parts: (in_steps(p, parts, n_threads=t),))[0], y)


@by_dtype
@pytest.mark.parametrize("size", [1, 16, 24, 64, 80])
def test_ragged_steps(size, dtype):
    """Sequences of different lengths in one batch, some empty; what a cache holds beyond them is not read."""
    lengths = np.array([0, 1, 31, 32, 33, 255, 256, 270], np.uint32)
    p = Problem((2, 1, size, 290, 290, len(lengths), True, False), dtype)
    y, _ = p.forward()
    cache = empty_cache(p.rows, 1, size, 290, dtype)
    for row, n in enumerate(lengths):
        alone = Cache(cache.keys[row : row + 1], cache.values[row : row + 1], 290)
        new = (x[row : row + 1, :n] for x in (p.q, p.k, p.v))
        kernels.attention_step(*new, alone, np.zeros(1, np.uint32), **p.heads)
    for n in (1, 2, 13):
        new = [np.stack([x[r, a : a + n] for r, a in enumerate(lengths)]) for x in (p.q, p.k, p.v)]
        (out,), check = room_for(new[0].shape, dtype=dtype)
        kernels.attention_step(*strided(new[0]), *strided(*new[1:]), cache, lengths, out=out, **p.heads)
        check()
        assert_same_bits(out, np.stack([y[r, a : a + n] for r, a in enumerate(lengths)]))
        lengths = lengths + np.uint32(n)


@by_dtype
def test_steps_that_see_each_other(dtype):
    """Not causal: new steps see all that is kept and all that is new."""
    p = Problem((4, 2, 16, 20, 20, 2, False, False), dtype)
    whole, _ = p.forward()
    cache = empty_cache(2, 2, 16, 20, dtype)
    first = kernels.attention_step(p.q[:, :7], p.k[:, :7], p.v[:, :7], cache, np.zeros(2, np.uint32), **p.heads)
    assert_same_bits(first, kernels.attention(p.q[:, :7], p.k[:, :7], p.v[:, :7], **p.heads))
    rest = kernels.attention_step(p.q[:, 7:], p.k[:, 7:], p.v[:, 7:], cache, np.full(2, 7, np.uint32), **p.heads)
    assert_same_bits(rest, whole[:, 7:])


@by_dtype
@pytest.mark.parametrize("size", [3, 64])
def test_cross_attention_keeps_the_cache(size, dtype):
    lengths = np.array([0, 1, 40, 299, 300], np.uint32)
    p = Problem((2, 1, size, 9, 300, len(lengths), False, False), dtype)
    cache = empty_cache(p.rows, 1, size, 301, dtype)
    kernels.attention_step(
        np.ones((p.rows, 300, 2 * size), dtype), p.k, p.v, cache, np.zeros(p.rows, np.uint32), **p.heads
    )
    before = [a.copy() for a in cache[:2]]
    for causal in (True, False):  # there is no order to keep
        y = kernels.attention_step(p.q, None, None, cache, lengths, n_heads=2, n_kv_heads=1, causal=causal)
        assert_same_bits(y, kernels.attention(p.q, p.k, p.v, lengths=lengths, **p.heads))
    assert_same(cache[:2], before)


def test_no_steps():
    p = Problem((2, 2, 4, 5, 5, 2, True, False), np.float32)
    cache = empty_cache(2, 2, 4, 5, np.float32)
    assert kernels.attention_step(
        p.q[:, :0], p.k[:, :0], p.v[:, :0], cache, np.full(2, 5, np.uint32), **p.heads
    ).shape == (2, 0, 8)
    assert np.isnan(cache.keys).all()
    none = empty_cache(0, 2, 4, 5, np.float32)
    assert kernels.attention_step(p.q[:0], p.k[:0], p.v[:0], none, np.zeros(0, np.uint32), **p.heads).shape == (0, 5, 8)


# ---- Packed products

ROWS, INPUTS, OUTPUTS = (1, 2, 12, 13, 40), (1, 31, 256, 257, 600), (1, 31, 32, 33, 100, 330)
by_inputs = pytest.mark.parametrize("n_in", INPUTS)


def product(n_in, n_out, n_rows, dtype):
    rng = np.random.default_rng([n_in, n_out, n_rows])
    x, addend = rng.normal(size=(n_rows, n_in)).astype(dtype), rng.normal(size=(n_rows, n_out)).astype(dtype)
    return (
        x,
        (rng.normal(size=(n_in, n_out)) / np.sqrt(n_in)).astype(dtype),
        rng.normal(size=n_out).astype(dtype),
        addend,
    )


def as_bf16(W):
    """Rounded to 8 significant bits, to even where two are as near, by arithmetic on significands."""
    exponent = np.maximum(np.frexp(W.astype(float))[1], -125)  # denormals have fewer
    return np.ldexp(np.rint(np.ldexp(W.astype(float), 8 - exponent)), exponent - 8).astype(np.float32)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def dequantised(weights):
    """(n_in, n_out), float64: integers times the scale of their output and 256 inputs."""
    panels, n_in, lanes = weights.W.shape
    scale = np.repeat(weights.scale, 256, axis=1)[:, :n_in]
    return (weights.W * scale.astype(float)).transpose(1, 0, 2).reshape(n_in, panels * lanes)[:, : weights.n_out]


@by_dtype
@by_inputs
def test_plain_products_are_masked_linear(n_in, dtype):
    for n_rows, n_out in itertools.product(ROWS, OUTPUTS):
        x, W, b, addend = product(n_in, n_out, n_rows, dtype)
        panels, mask = to_panels(W), Mask.dense(n_in, n_out)
        for bias, more in itertools.product((None, b), (None, addend)):
            w = pack(panels, n_out, bias)
            assert w.W is panels
            (y,) = with_threads(lambda t, w=w, more=more, x=x: (kernels.packed_linear(x, w, addend=more, n_threads=t),))
            assert_same_bits(y, kernels.masked_linear(x, panels, bias, mask=mask, addend=more))
        wide = [np.full((n_rows, n + 5), np.nan, dtype) for n in (n_in, n_out)]
        wide[0][:, 2:-3], wide[1][:, 2:-3] = x, addend
        out = np.full((n_rows, n_out + 4), 7, dtype)
        kernels.packed_linear(wide[0][:, 2:-3], w, addend=wide[1][:, 2:-3], out=out[:, 1:-3])
        assert_same_bits(out[:, 1:-3], y)
        assert (out[:, [0, -3, -2, -1]] == 7).all()
        assert kernels.packed_linear(x[:0], w).shape == (0, n_out)


@by_dtype
@by_inputs
@pytest.mark.parametrize("format", ["bf16", "int8"])
def test_products_with_fewer_bits(n_in, format, dtype):
    for n_rows, n_out in itertools.product(ROWS, OUTPUTS):
        x, W, b, addend = product(n_in, n_out, n_rows, dtype)
        w = pack(to_panels(W), n_out, b, format=format)
        if format == "bf16":
            assert (w.W.dtype, w.scale) == (np.uint16, None)
            near = kernels.from_panels(from_bf16(w.W), n_out).astype(float)
            assert (near == as_bf16(W.astype(np.float32))).all()
            assert (np.abs(near - W) <= 2.0**-8 * np.abs(W)).all()
        else:
            assert (w.W.dtype, w.scale.dtype, w.scale.shape) == (
                np.int8,
                np.float32,
                (-(-n_out // 32), -(-n_in // 256), 32),
            )
            near = dequantised(w)
            for start in range(0, n_in, 256):
                chunk, of = np.s_[start : start + 256], np.abs(W[start : start + 256]).max(0)
                assert (np.abs(near[chunk] - W[chunk]) <= of / 127 * 0.5001).all()
                np.testing.assert_allclose(np.abs(near[chunk]).max(0), of, rtol=1e-6)
        (y,) = with_threads(
            lambda t, w=w, x=x, addend=addend: (kernels.packed_linear(x, w, addend=addend, n_threads=t),)
        )
        assert_close(y, x.astype(float) @ near + addend + b, dtype, n_in)
        if format == "bf16":  # the rule of plain weights, on widened ones
            plain = kernels.packed_linear(x, pack(to_panels(near.astype(dtype)), n_out, b), addend=addend)
            assert_same_bits(y, plain)


def test_rounding_to_bf16():
    """Ties to even, denormals, infinities by overflow, both signs of zero."""
    tie = 1 + 2.0**-8
    values = [
        0.0,
        -0.0,
        1.0,
        tie,
        1 + 3 * 2.0**-8,
        np.nextafter(np.float32(tie), 2),
        -tie,
        1e-40,
        2.0**-149,
        3.3e38,
        3.4e38,
        -3.4e38,
    ]
    values += np.random.default_rng(0).normal(size=2000).tolist()
    W = np.zeros((1, len(values), 32), np.float32)
    W[0, :, 0] = values
    got = from_bf16(pack(W, 1, format="bf16").W)[0, :, 0]
    with np.errstate(over="ignore"):
        want = as_bf16(W[0, :, 0])
    assert_same_bits(got[2:], want[2:])
    assert np.signbit(got[:2]).tolist() == [False, True]
    assert got[3:5].tolist() == [1, 1 + 4 * 2.0**-8]
    assert np.isinf(got[10:12]).all()


def test_a_chunk_of_zeros():
    """Outputs whose weights are all zero have a scale and stay zero."""
    W = np.zeros((1, 300, 32), np.float32)
    W[0, 299, 1] = 1e-44
    w = pack(W, 32, format="int8")
    assert (w.scale > 0).all()
    assert not kernels.packed_linear(np.ones((1, 300), np.float32), w).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_packed(bad):
    W = np.zeros((1, 5, 32), np.float32)
    W[0, 2, 3] = bad
    assert pack(W, 32).W is W
    for format in ("bf16", "int8"):
        with pytest.raises(V, match=f"W must be finite to be kept as {format}; 1 weights are not"):
            pack(W, 32, format=format)
    with pytest.raises(V, match="format must be one of"):
        pack(W, 32, format="int4")


# ---- A Transformer's step

# Blocks, heads, of keys, head size, width, hidden units, values, hidden units' activation; what is special.
NETS = {
    "GPT": (2, 4, 4, 8, 32, 64, 37, "gelu", "tied"),
    "the original": (2, 2, 2, 16, 32, 50, 33, "relu", "post"),
    "heads share keys": (1, 6, 2, 3, 17, 33, 5, "gelu_exact", ""),
    "levels": (1, 2, 2, 8, 16, 24, 37, "gelu", "levels"),
    "no biases": (2, 1, 1, 33, 9, 300, 40, "tanh", "bare"),
    "a decoder": (2, 4, 2, 5, 20, 31, 7, "gelu", "cross"),
    "the original decoder": (2, 2, 1, 64, 40, 64, 32, "sigmoid", "post cross"),
    "wide": (1, 3, 3, 100, 270, 33, 3, "gelu", ""),
}
by_net = pytest.mark.parametrize("name", NETS)


class Net:
    """A network: its parameters, `transformer_step`, and the same pass made of the kernels that training uses."""

    def __init__(self, name, dtype, n_positions=320, format="float32"):
        n_blocks, self.n_heads, self.n_kv, self.size, width, hidden, self.n_values, self.activation, kind = NETS[name]
        self.post, self.cross, self.dtype, self.width = "post" in kind, "cross" in kind, dtype, width
        rng = np.random.default_rng(len(name))
        heads, kept = self.n_heads * self.size, self.n_kv * self.size

        def matrix(n_in, n_out):
            b = None if kind == "bare" else rng.normal(0, 0.3, n_out).astype(dtype)
            return rng.normal(0, n_in**-0.5, (n_in, n_out)).astype(dtype), b

        def norm():
            return rng.normal(1, 0.3, width).astype(dtype), rng.normal(0, 0.3, width).astype(dtype)

        cross = {"cross_norm": norm(), "cross_query": matrix(width, heads), "cross_projection": matrix(heads, width)}
        self.p = {
            "token": rng.normal(size=(self.n_values, width)).astype(dtype),
            "position": rng.normal(size=(n_positions, width)).astype(dtype),
            "blocks": [
                {
                    "norm": norm(), "qkv": matrix(width, heads + 2 * kept), "projection": matrix(heads, width),
                    **(cross if self.cross else {}),
                    "mlp_norm": norm(), "up": matrix(width, hidden), "down": matrix(hidden, width),
                }
                for _ in range(n_blocks)
            ],
            "last_norm": None if self.post else norm(),
        }  # fmt: skip
        self.n_out = 15 if kind == "levels" else self.n_values  # of levels, the parameters of a mixture, with a bias
        output, self.bias = matrix(width, self.n_out)
        self.bias = self.bias if kind == "levels" else None
        self.p["output"] = self.p["token"] if kind == "tied" else output.T
        self.network, self.memories = self.made(format), {}

    def made(self, format="float32"):
        def weights(block, name):
            return pack(to_panels(block[name][0]), block[name][0].shape[1], block[name][1], format=format)

        blocks = [
            TransformerBlock(
                b["norm"], weights(b, "qkv"), weights(b, "projection"), b.get("cross_norm"),
                weights(b, "cross_query") if self.cross else None,
                weights(b, "cross_projection") if self.cross else None,
                b["mlp_norm"], weights(b, "up"), weights(b, "down"),
            )
            for b in self.p["blocks"]
        ]  # fmt: skip
        token = pack(to_panels(self.p["token"].T), self.n_values, format=format)
        output = pack(to_panels(self.p["output"].T), self.n_out, self.bias, format=format)
        return TransformerNetwork(
            blocks, token, output, self.p["position"], self.p["last_norm"], n_heads=self.n_heads,
            n_kv_heads=self.n_kv, activation=self.activation, post_norm=self.post,
        )  # fmt: skip

    def caches(self, rows, capacity=None):
        capacity = capacity or len(self.p["position"])
        return [empty_cache(rows, self.n_kv, self.size, capacity, self.dtype) for _ in self.p["blocks"]]

    def memory(self, rows, steps=45):
        """What cross-attention looks at: keys, values and lengths, and the options that give them to a step."""
        if not self.cross:
            return {}, {}
        if rows not in self.memories:
            self.memories[rows] = self._memory(rows, steps)
        return self.memories[rows]

    def _memory(self, rows, steps):
        rng = np.random.default_rng(rows)
        shape = (len(self.p["blocks"]), 2, rows, steps, self.n_kv * self.size)
        kept, lengths = rng.normal(size=shape).astype(self.dtype), rng.integers(0, steps + 1, rows).astype(np.uint32)
        caches = self.caches(rows, steps)
        for cache, (k, v) in zip(caches, kept, strict=True):
            q = np.zeros((rows, steps, self.n_heads * self.size), self.dtype)
            kernels.attention_step(
                q, k, v, cache, np.zeros(rows, np.uint32), n_heads=self.n_heads, n_kv_heads=self.n_kv
            )
        return {"memory": list(kept), "lengths": lengths}, {"cross": caches, "cross_lengths": lengths}

    def step(self, tokens, lengths=None, caches=None, **options):
        lengths = np.zeros(len(tokens), np.uint32) if lengths is None else lengths
        caches = self.caches(len(tokens)) if caches is None else caches
        options = self.memory(len(tokens))[1] | options
        return kernels.transformer_step(self.network, tokens, lengths, caches, **options)

    def in_steps(self, tokens, parts, **options):
        """Logits of calls of so many tokens each, and the caches."""
        caches, found, at = self.caches(len(tokens)), [], 0
        options = self.memory(len(tokens))[1] | options
        for n in parts:
            lengths = np.full(len(tokens), at, np.uint32)
            found.append(self.step(tokens[:, at : at + n], lengths, caches, **options))
            at += n
        return np.concatenate(found, axis=1), caches

    def linear(self, x, parameters, addend=None):
        W, b = parameters
        flat = x.reshape(-1, W.shape[0])
        addend = None if addend is None else addend.reshape(len(flat), -1)
        y = kernels.masked_linear(flat, to_panels(W), b, mask=Mask.dense(*W.shape), addend=addend)
        return y.reshape(*x.shape[:-1], W.shape[1])

    def activate(self, x):
        if "gelu" in self.activation:
            return kernels.gelu(x, form="erf" if "exact" in self.activation else "tanh")
        return (
            np.where(x < 0, 0, x).astype(x.dtype) if self.activation == "relu" else getattr(kernels, self.activation)(x)
        )

    def plain(self, tokens):
        """The pass that training makes, from kernels that keep nothing."""
        memory = self.memory(len(tokens))[0]
        heads, kept = self.n_heads * self.size, self.n_kv * self.size
        of_heads = {"n_heads": self.n_heads, "n_kv_heads": self.n_kv}
        table = to_panels(self.p["token"].T)
        x = kernels.embedding(tokens, table, self.width, n_values=self.n_values) + self.p["position"][: tokens.shape[1]]

        def normed(x, norm):
            return kernels.layer_norm(x.reshape(-1, self.width), *norm).reshape(x.shape)

        for l, block in enumerate(self.p["blocks"]):

            def attend(x, block=block):
                q, k, v = np.split(self.linear(x, block["qkv"]), [heads, heads + kept], axis=2)
                return kernels.attention(q, k, v, **of_heads)

            def look(x, block=block, l=l):
                q = self.linear(x, block["cross_query"])
                return kernels.attention(q, *memory["memory"][l], causal=False, lengths=memory["lengths"], **of_heads)

            def think(x, block=block):
                return self.activate(self.linear(x, block["up"]))

            sublayers = [
                ("norm", attend, "projection"),
                ("cross_norm", look, "cross_projection"),
                ("mlp_norm", think, "down"),
            ]
            for norm, f, out in sublayers:
                if f is look and not self.cross:
                    continue
                x = self.linear(f(x if self.post else normed(x, block[norm])), block[out], addend=x)
                x = normed(x, block[norm]) if self.post else x
        if self.p["last_norm"] is not None:
            x = normed(x, self.p["last_norm"])
        return self.linear(x, (self.p["output"].T, self.bias))

    def reference(self, tokens, **parameters):
        memory = self.memory(len(tokens))[0]
        p = {**self.p, **parameters}
        logits = reference.transformer_logits(
            p, tokens, self.n_heads, self.n_kv, self.activation, post_norm=self.post, **memory
        )
        return logits if self.bias is None else logits + self.bias

    def tokens(self, rows, steps):
        return np.random.default_rng([rows, steps]).integers(-1, self.n_values, (rows, steps)).astype(np.int32)


def assert_same_caches(some, others, steps):
    """The same keys and values of the first steps."""
    for a, b in zip(some, others, strict=True):
        keys = [c.keys.swapaxes(3, 4).reshape(*c.keys.shape[:2], -1, c.keys.shape[3])[:, :, :steps] for c in (a, b)]
        assert_same_bits(*keys)
        assert_same_bits(a.values[:, :, :steps], b.values[:, :, :steps])
        assert np.isfinite(keys[0]).all()


@by_dtype
@by_net
def test_transformer(name, dtype):
    net = Net(name, dtype)
    tokens = net.tokens(3, 12)
    tokens[:, 0] = -1
    (logits,) = with_threads(lambda t: (net.step(tokens, n_threads=t),))
    assert_same_bits(logits, net.plain(tokens))
    assert_close(logits, net.reference(tokens), dtype, 4 * net.width, c=4 * C)
    for row in range(3):
        mine = slice(row, row + 1)
        options = {
            "cross": [Cache(c.keys[mine], c.values[mine], c.capacity) for c in net.memory(3)[1]["cross"]],
            "cross_lengths": net.memory(3)[1]["cross_lengths"][mine],
        } if net.cross else {}  # fmt: skip
        assert_same_bits(net.step(tokens[mine], **options), logits[mine])
    wide = np.full((3, 17), 7, np.int32)
    wide[:, 2:14] = tokens
    out = np.full((36, net.n_out + 3), 7, dtype)
    inside = out.reshape(3, 12, -1)[:, :, 1:-2]
    assert net.step(wide[:, 2:14], out=inside) is inside
    assert_same_bits(inside, logits)
    assert (out[:, [0, -2, -1]] == 7).all()


@by_net
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
def test_every_split_of_twelve_tokens(name, dtype):
    net = Net(name, dtype, n_positions=12)
    tokens = net.tokens(1, 12)
    whole = net.plain(tokens)
    splits = list(compositions(12))
    every = name in ("GPT", "a decoder") and dtype is np.float32
    for parts in splits if every else splits[:: len(splits) // 40]:
        assert_same_bits(net.in_steps(tokens, parts, n_threads=1)[0], whole)


@by_dtype
@pytest.mark.parametrize("name", ["GPT", "the original decoder", "wide"])
def test_long_prompts(name, dtype):
    net = Net(name, dtype)
    tokens = net.tokens(2, 320)
    whole = net.plain(tokens)
    first = None
    for parts in ([320], [1] * 5 + [300, 15], [256, 1, 63], [255, 2, 40, 23], [31, 33, 256]):
        found, caches = net.in_steps(tokens, parts)
        assert_same_bits(found, whole)
        first = first or caches
        assert_same_caches(caches, first, 320)


@by_dtype
@by_net
def test_ragged_prompts(name, dtype):
    """Rows of different lengths in a batch, and the logits of one step of each."""
    net = Net(name, dtype)
    whole_lengths = np.array([0, 1, 5, 31, 40], np.uint32)
    tokens = net.tokens(5, 60)
    whole = net.plain(tokens)

    def step(lengths, n, caches, **options):
        new = np.stack([row[at : at + n] for row, at in zip(tokens, lengths, strict=True)])
        return net.step(new, lengths, caches, **options)

    def primed():
        """Each row's own prompt in the caches, garbage beyond it: prompts are padded on the right."""
        caches = net.caches(5)
        padded = np.where(np.arange(40) < whole_lengths[:, None], tokens[:, :40], 0).astype(np.int32)
        assert net.step(padded, None, caches, logits=False) is None
        return caches

    caches = primed()
    rows = np.arange(5)
    lengths = whole_lengths
    for n in (1, 1, 7):
        want = np.stack([whole[r, at : at + n] for r, at in enumerate(lengths)])
        assert_same_bits(step(lengths, n, caches), want)
        lengths = lengths + np.uint32(n)
    for last in ([0, 1, 2, 3, 4], [6, 0, 6, 5, 1]):
        again = primed()
        got = step(whole_lengths, 7, again, last=np.array(last, np.uint32))
        assert_same_bits(got, whole[rows, whole_lengths + np.array(last)])
        got = step(whole_lengths + np.uint32(7), 2, again, last=np.ones(5, np.uint32))
        assert_same_bits(got, whole[rows, whole_lengths + 8])
    silent, loud = primed(), primed()
    assert step(whole_lengths, 7, silent, logits=False) is None
    step(whole_lengths, 7, loud)
    for a, b in zip(silent, loud, strict=True):
        assert_same(a[:2], b[:2])


def test_nothing_new():
    net = Net("GPT", np.float32)
    caches = net.caches(2)
    assert net.step(np.zeros((2, 0), np.int32), np.full(2, 320, np.uint32), caches).shape == (2, 0, 37)
    assert net.step(np.zeros((0, 3), np.int32)).shape == (0, 3, 37)
    assert net.step(np.zeros((0, 3), np.int32), last=np.zeros(0, np.uint32)).shape == (0, 37)
    assert np.isnan(caches[0].keys).all()


@by_dtype
@by_net
def test_a_network_of_fewer_bits(name, dtype):
    """bf16: the bits of the network of rounded weights. int8: near the network of the integers' weights."""
    tokens = Net(name, dtype).tokens(3, 14)

    def packed(format):
        """A network, and its parameters as they are packed."""
        net = Net(name, dtype, format=format)

        def near(W):
            w = pack(to_panels(W), W.shape[1], format=format)
            return kernels.from_panels(from_bf16(w.W), w.n_out).astype(dtype) if format == "bf16" else dequantised(w)

        for block in net.p["blocks"]:
            for part, value in block.items():
                if "norm" not in part:
                    block[part] = near(value[0]), value[1]
        net.p["token"], net.p["output"] = near(net.p["token"].T).T, near(net.p["output"].T).T
        return net

    net = packed("bf16")
    logits, _ = net.in_steps(tokens, [12, 1, 1])
    assert_same_bits(logits, net.plain(tokens))
    net = packed("int8")
    logits, _ = net.in_steps(tokens, [12, 1, 1])
    assert_close(logits, net.reference(tokens), dtype, 4 * net.width, c=4 * C)
    assert_same_bits(net.step(tokens, n_threads=3), logits)


# ---- The border


def readonly(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def counts(*values):
    return np.array(values, np.uint32)


ATTENTION = {
    "q": zeros(2, 3, 8), "k": zeros(2, 5, 4), "v": zeros(2, 5, 4), "n_heads": 4, "n_kv_heads": 2,
    "lengths": counts(5, 0), "out": zeros(2, 3, 8), "statistics": zeros(2, 4, 3),
}  # fmt: skip
GRADIENT = {key: ATTENTION[key] for key in ("q", "k", "v", "n_heads", "n_kv_heads", "lengths", "statistics")} | {
    "y": zeros(2, 3, 8), "dy": zeros(2, 3, 8), "dq": zeros(2, 3, 8), "dk": zeros(2, 5, 4), "dv": zeros(2, 5, 4),
}  # fmt: skip
CACHE = kernels.new_cache(2, 2, 2, 40)
STEP = {
    "q": zeros(2, 3, 8), "k": zeros(2, 3, 4), "v": zeros(2, 3, 4), "cache": CACHE, "lengths": counts(37, 0),
    "n_heads": 4, "n_kv_heads": 2, "out": zeros(2, 3, 8),
}  # fmt: skip
PLAIN = Weights(zeros(2, 300, 32), 40, None, zeros(40))
INT8 = Weights(zeros(2, 300, 32, dtype=np.int8), 40, np.ones((2, 2, 32), np.float32), zeros(40))
PRODUCT = {"x": zeros(3, 300), "weights": PLAIN, "addend": zeros(3, 40), "out": zeros(3, 40)}
NORM = (np.ones(6, np.float32), zeros(6))
DECODER = TransformerBlock(
    NORM, Weights(zeros(1, 6, 32), 16), Weights(zeros(1, 8, 32), 6), NORM, Weights(zeros(1, 6, 32), 8),
    Weights(zeros(1, 8, 32), 6), NORM, Weights(zeros(1, 6, 32), 9), Weights(zeros(1, 9, 32), 6),
)  # fmt: skip
GPT = DECODER._replace(cross_norm=None, cross_query=None, cross_projection=None)
NETWORK = {
    "blocks": [GPT, GPT], "token": Weights(zeros(1, 6, 32), 7), "output": Weights(zeros(1, 6, 32), 7),
    "position": zeros(50, 6), "norm": NORM, "n_heads": 4, "n_kv_heads": 2,
}  # fmt: skip
TOKENS = {
    "network": TransformerNetwork(**NETWORK), "tokens": zeros(2, 3, dtype=np.int32), "lengths": counts(37, 0),
    "caches": [CACHE, kernels.new_cache(2, 2, 2, 40)], "last": counts(0, 2), "out": zeros(2, 7),
}  # fmt: skip
LOOKING = TOKENS | {
    "network": TransformerNetwork(**NETWORK | {"blocks": [DECODER, DECODER]}),
    "cross": [kernels.new_cache(2, 2, 2, 9) for _ in "12"], "cross_lengths": counts(9, 0),
}  # fmt: skip
# The call, its arguments, what it writes, and what decides the precision.
ENTRANCES = {
    "attention": (kernels.attention, ATTENTION, "out statistics", "q"),
    "gradient": (kernels.attention_gradient, GRADIENT, "dq dk dv", "q"),
    "step": (kernels.attention_step, STEP, "out", "q"),
    "product": (kernels.packed_linear, PRODUCT, "out", "x"),
    "network": (TransformerNetwork, NETWORK, "", "position"),
    "tokens": (kernels.transformer_step, TOKENS, "out", None),
    "looking": (kernels.transformer_step, LOOKING, "out", None),
}
ARRAYS = [(e, name) for e, (_, good, *_) in ENTRANCES.items() for name, a in good.items() if isinstance(a, np.ndarray)]
FREE = {  # axes that others follow, or that other arguments are blamed for
    ("attention", "q"): (0, 1, 2), ("attention", "k"): (1,), ("gradient", "q"): (0, 1, 2), ("gradient", "k"): (1,),
    ("step", "q"): (0, 1, 2), ("product", "x"): (0, 1), ("network", "position"): (0, 1), ("tokens", "tokens"): (0, 1),
    ("looking", "tokens"): (0, 1),
}  # fmt: skip


def fresh(good):
    return {key: a.copy() if isinstance(a, np.ndarray) else a for key, a in good.items()}


@pytest.mark.parametrize(("entrance", "name"), ARRAYS)
def test_bad_arrays(entrance, name):
    call, good, written, decides = ENTRANCES[entrance]
    good = fresh(good)
    call(**good)
    array = good[name]

    def refused(bad, error, message):
        with pytest.raises(error, match=f"^{name} " + message):
            call(**{**good, name: bad})

    if name == decides:
        refused(array.astype(int), T, "must be float32 or float64, not int64")
    else:
        refused(array.astype(np.complex64), T, f"must be {array.dtype}, not complex64")
    for axis in range(array.ndim):
        if axis not in FREE.get((entrance, name), ()):
            refused(np.delete(array, 0, axis), V, "must be")
            refused(np.concatenate([array, array], axis), V, "must be")
    refused(array[None], V, "must be")
    spread = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
    refused(spread, V, "must (be|have) (C-)?(contiguous|its rows)")
    if name in written.split():
        refused(readonly(array), V, "is written to, but is read-only")
    else:
        call(**{**good, name: readonly(array)})
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    refused(memory.view(array.dtype).reshape(array.shape), V, "is not aligned to its elements")


def replaced(key, **changes):
    return lambda good: good[key]._replace(**changes)


def blocks_with(**changes):
    return lambda good: [good["blocks"][0], good["blocks"][1]._replace(**changes)]


def cached(**changes):
    return lambda good: [CACHE, good["caches"][1]._replace(**changes)]


BAD = [
    ("step", {"n_heads": 3}, V, "q must be of channels that are a multiple of n_heads = 3"),
    ("gradient", {"n_heads": 3}, V, "q must be of channels that are a multiple of n_heads = 3"),
    ("attention", {"n_heads": 0}, V, "q must be of channels that are a multiple of n_heads = 0"),
    ("attention", {"n_kv_heads": 3}, V, "n_heads must be a multiple of n_kv_heads, not 4 and 3"),
    ("attention", {"n_kv_heads": 0}, V, "n_heads must be a multiple of n_kv_heads, not 4 and 0"),
    ("attention", {"n_kv_heads": -1}, T, "incompatible function arguments"),
    ("attention", {"q": zeros(2, 3, 0)}, V, "a head must have channels"),
    ("attention", {"q": zeros(2, 3, 12)}, V, "k must be 3-d of shape (2, any, 6)"),
    ("attention", {"q": zeros(1, 3, 8)}, V, "k must be 3-d of shape (1, any, 4)"),
    ("attention", {"k": zeros(2, 6, 4)}, V, "v must be 3-d of shape (2, 6, 4)"),
    ("attention", {"q": zeros(2, 4, 8)}, V, "out must be 3-d of shape (2, 4, 8)"),
    ("attention", {"lengths": counts(5, 6)}, V, "lengths must be at most 5; entry 1 is 6"),
    ("attention", {"statistics": zeros(2, 3, 4)}, V, "statistics must be C-contiguous of shape (2, 4, 3)"),
    ("attention", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("attention", {"k": 3}, T, "kernels take arrays"),
    ("gradient", {"q": zeros(2, 3, 12)}, V, "k must be 3-d of shape (2, any, 6)"),
    ("gradient", {"q": zeros(2, 4, 8)}, V, "statistics must be C-contiguous of shape (2, 4, 4)"),
    ("gradient", {"k": zeros(2, 6, 4), "v": zeros(2, 6, 4)}, V, "dk must be 3-d of shape (2, 6, 4)"),
    ("gradient", {"lengths": counts(6, 5)}, V, "lengths must be at most 5; entry 0 is 6"),
    ("gradient", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("step", {"k": None}, V, "k and v must be given both, or neither"),
    ("step", {"v": None}, V, "k and v must be given both, or neither"),
    ("step", {"q": zeros(2, 4, 8)}, V, "out must be 3-d of shape (2, 4, 8)"),
    ("step", {"q": zeros(2, 4, 8), "out": zeros(2, 4, 8)}, V, "k must be 3-d of shape (2, 4, 4)"),
    ("step", {"cache": CACHE[:2]}, V, "cache must be (keys, values, capacity)"),
    ("step", {"cache": CACHE.keys}, V, "cache must be (keys, values, capacity)"),
    ("step", {"cache": CACHE._replace(capacity="40")}, T, "cache's capacity must be an integer in range, not 40"),
    ("step", {"cache": CACHE._replace(capacity=-1)}, T, "cache's capacity must be an integer in range, not -1"),
    ("step", {"cache": CACHE._replace(capacity=64)}, V, "cache must be C-contiguous of shape (2, 2, 64, 32)"),
    ("step", {"cache": CACHE._replace(capacity=65)}, V, "cache must be C-contiguous of shape (2, 2, 3, 2, 32)"),
    ("step", {"cache": CACHE._replace(keys=None)}, T, "cache must be a NumPy array"),
    ("step", {"cache": CACHE._replace(keys=zeros(2, 2, 2, 2, 32, dtype=float))}, T, "cache must be float32, not float"),
    ("step", {"cache": CACHE._replace(keys=zeros(2, 2, 2, 3, 32))}, V, "cache must be C-contiguous of shape (2, 2, 2,"),
    ("step", {"cache": CACHE._replace(values=zeros(2, 2, 40, 2))}, V, "cache must be C-contiguous of shape (2, 2, 40,"),
    ("step", {"cache": CACHE._replace(values=readonly(CACHE.values))}, V, "cache is written to, but is read-only"),
    ("step", {"cache": CACHE._replace(values=zeros(4, 2, 40, 32)[::2])}, V, "cache must be C-contiguous"),
    ("step", {"lengths": counts(38, 0)}, V, "cache has room for 40 steps; sequence 0 has 38 and 3 new ones"),
    ("step", {"lengths": counts(0, 2**32 - 1)}, V, "cache has room for 40 steps; sequence 1 has 4294967295"),
    ("step", {"k": None, "v": None, "lengths": counts(0, 41)}, V, "cache has room for 40 steps; sequence 1 has 41 and"),
    ("step", {"n_kv_heads": 3}, V, "n_heads must be a multiple of n_kv_heads, not 4 and 3"),
    ("step", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("product", {"x": zeros(3, 299)}, V, "weights must be C-contiguous in panels (2, 299, 32)"),
    ("product", {"x": zeros(4, 300)}, V, "out must be 2-d of shape (4, 40)"),
    ("product", {"x": zeros(3, 300, dtype=float)}, T, "weights must be float64, uint16 (bf16) or int8, not float32"),
    ("product", {"weights": PLAIN[:3]}, V, "weights must be (W, n_out, scale, b)"),
    ("product", {"weights": PLAIN._replace(n_out=0)}, V, "weights must have outputs, not 0"),
    ("product", {"weights": PLAIN._replace(n_out=65)}, V, "weights must be C-contiguous in panels (3, 300, 32)"),
    ("product", {"weights": PLAIN._replace(n_out=32)}, V, "weights must be C-contiguous in panels (1, 300, 32)"),
    ("product", {"weights": PLAIN._replace(n_out=39)}, V, "b must be 1-d of length 39"),
    ("product", {"weights": PLAIN._replace(W=zeros(2, 600, 32)[:, ::2])}, V, "weights must be C-contiguous in panels"),
    ("product", {"weights": PLAIN._replace(W=zeros(2, 300, 32, dtype=int))}, T, "weights must be float32, uint16 (bf1"),
    ("product", {"weights": PLAIN._replace(b=zeros(40, dtype=float))}, T, "b must be float32, not float64"),
    ("product", {"weights": PLAIN._replace(b=zeros(80)[::2])}, V, "b must be contiguous"),
    ("product", {"weights": PLAIN._replace(W=zeros(2, 0, 32)), "x": zeros(3, 0)}, V, "weights must have inputs"),
    ("product", {"weights": INT8._replace(scale=None)}, V, "weights must have a scale, being int8"),
    ("product", {"weights": INT8._replace(scale=zeros(2, 1, 32))}, V, "scale must be C-contiguous of shape (2, 2, 32)"),
    ("product", {"weights": INT8._replace(scale=zeros(2, 2, 32, dtype=float))}, T, "scale must be float32, not float6"),
    ("product", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("network", {"blocks": []}, V, "blocks must be some"),
    ("network", {"blocks": [GPT, GPT[:8]]}, V, "a block must be a TransformerBlock, of 9 parts"),
    ("network", {"blocks": [GPT, DECODER]}, V, "blocks must all have cross-attention, or none"),
    ("network", {"blocks": [DECODER, GPT]}, V, "blocks must all have cross-attention, or none"),
    ("network", {"blocks": blocks_with(cross_norm=NORM)}, V, "cross_norm, cross_query and cross_projection must be gi"),
    ("network", {"blocks": blocks_with(cross_query=DECODER[4])}, V, "cross_norm, cross_query and cross_projection mus"),
    ("network", {"blocks": blocks_with(norm=None)}, V, "a block's norms must be given"),
    ("network", {"blocks": blocks_with(mlp_norm=None)}, V, "a block's norms must be given"),
    ("network", {"blocks": blocks_with(norm=NORM[:1])}, V, "norm must be (gain, bias)"),
    ("network", {"blocks": blocks_with(mlp_norm=(NORM[0], zeros(7)))}, V, "mlp_norm must be 1-d of length 6"),
    ("network", {"blocks": blocks_with(query_key_value=Weights(zeros(1, 6, 32), 15))}, V, "query_key_value must have"),
    ("network", {"blocks": blocks_with(query_key_value=GPT.projection)}, V, "query_key_value must be C-contiguous in"),
    ("network", {"blocks": blocks_with(projection=Weights(zeros(1, 8, 32), 7))}, V, "projection must have 6 outputs,"),
    ("network", {"blocks": blocks_with(projection=Weights(zeros(1, 9, 32), 6))}, V, "projection must be C-contiguous"),
    ("network", {"blocks": blocks_with(up=Weights(zeros(1, 7, 32), 9))}, V, "up must be C-contiguous in panels (1, 6,"),
    ("network", {"blocks": blocks_with(down=Weights(zeros(1, 8, 32), 6))}, V, "down must be C-contiguous in panels (1"),
    ("network", {"blocks": blocks_with(down=Weights(zeros(1, 9, 32), 5))}, V, "down must have 6 outputs, not 5"),
    ("network", {"blocks": blocks_with(down=Weights(zeros(1, 9, 32, dtype=float), 6))}, T, "down must be float32, uin"),
    ("network", {"token": Weights(zeros(1, 7, 32), 7)}, V, "token must be C-contiguous in panels (1, 6, 32)"),
    ("tokens", {"out": zeros(2, 8)}, V, "out must be of shape (2, 7), not (2, 8)"),
    ("network", {"output": Weights(zeros(2, 6, 32), 7)}, V, "output must be C-contiguous in panels (1, 6, 32)"),
    ("network", {"position": zeros(50, 7)}, V, "token must be C-contiguous in panels (1, 7, 32)"),
    ("network", {"position": zeros(50, 12)[:, :6]}, V, "position must be C-contiguous"),
    ("network", {"norm": NORM[:1]}, V, "norm must be (gain, bias)"),
    ("network", {"norm": (zeros(6, dtype=float), zeros(6))}, T, "norm must be float32, not float64"),
    ("network", {"n_heads": 3}, V, "n_heads must be a multiple of n_kv_heads, not 3 and 2"),
    ("network", {"n_heads": 0}, V, "n_heads must be a multiple of n_kv_heads, not 0 and 2"),
    ("network", {"n_heads": 16}, V, "a head must have channels"),
    ("network", {"activation": "swish"}, V, "activation must be one of"),
    ("network", {"epsilon": 0.0}, V, "epsilon must be positive, not 0.0"),
    ("network", {"epsilon": np.nan}, V, "epsilon must be positive, not nan"),
    ("tokens", {"tokens": np.array([[0, 1, 6], [2, 7, 0]], np.int32)}, V, "tokens must be below 7; that of row 1, ste"),
    ("tokens", {"tokens": zeros(3, 3, dtype=np.int32)}, V, "out must be of shape (3, 7), not (2, 7)"),
    ("tokens", {"tokens": zeros(3, 3, dtype=np.int32), "out": None}, V, "lengths must be 1-d of length 3"),
    ("tokens", {"lengths": counts(48, 0)}, V, "tokens must end within 50 positions; row 0 has 48 and 3 new ones"),
    ("tokens", {"lengths": counts(38, 0)}, V, "caches has room for 40 steps; sequence 0 has 38 and 3 new ones"),
    ("tokens", {"last": counts(2, 3)}, V, "last must be below the number of steps, 3; entry 1 is 3"),
    ("tokens", {"last": None}, V, "out must be of shape (2, 3, 7), not (2, 7)"),
    ("tokens", {"last": None, "out": zeros(2, 6, 7)[:, ::2]}, None, ""),
    ("tokens", {"last": None, "out": zeros(2, 4, 7)[:, :3]}, V, "out must have its rows at one distance from each oth"),
    ("tokens", {"caches": [CACHE]}, V, "caches must be a list of one cache for every block"),
    ("tokens", {"caches": (CACHE, CACHE)}, V, "caches must be a list of one cache for every block"),
    ("tokens", {"caches": [CACHE, CACHE.keys]}, V, "caches must be (keys, values, capacity)"),
    ("tokens", {"caches": cached(keys=zeros(2, 2, 2, 3, 32))}, V, "caches must be C-contiguous of shape (2, 2, 2, 2,"),
    ("tokens", {"caches": cached(keys=CACHE.keys)}, V, "caches must share no memory with one another"),
    ("tokens", {"caches": [CACHE, CACHE]}, V, "caches must share no memory with one another"),
    ("tokens", {"cross": LOOKING["cross"]}, V, "cross must be given for a network with cross-attention, and for no ot"),
    ("tokens", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("looking", {"cross": None}, V, "cross must be given for a network with cross-attention, and for no other"),
    ("looking", {"cross": LOOKING["cross"][:1]}, V, "cross must be a list of one cache for every block"),
    ("looking", {"cross_lengths": None}, V, "cross_lengths must be given with cross"),
    ("looking", {"cross_lengths": counts(9, 10)}, V, "cross has room for 9 steps; sequence 1 has 10"),
    ("looking", {"cross": LOOKING["caches"]}, V, "caches must share no memory with cross"),
    ("looking", {"cross": [LOOKING["cross"][0]] * 2}, None, ""),  # what is read alone may be shared
]  # fmt: skip


@pytest.mark.parametrize(("entrance", "changes", "error", "message"), BAD)
def test_bad_calls(entrance, changes, error, message):
    call, good, *_ = ENTRANCES[entrance]
    good = fresh(good)
    changes = {key: value(good) if callable(value) else value for key, value in changes.items()}
    if error is None:
        call(**{**good, **changes})
        return
    with pytest.raises(error, match=re.escape(message)):
        call(**{**good, **changes})


OVERLAPS = [
    (e, out, name) for e, (_, good, written, _) in ENTRANCES.items() for out in written.split() for name in good
]


@pytest.mark.parametrize(("entrance", "out", "name"), OVERLAPS)
def test_outputs_lie_apart(entrance, out, name):
    """What is written shares no memory with anything else of its dtype, not even the last element."""
    call, good, *_ = ENTRANCES[entrance]
    good = fresh(good)
    a, b = good[out], good[name]
    if name == out or not isinstance(b, np.ndarray) or b.dtype != a.dtype:
        return
    for shared in (0, 1):
        memory = np.zeros(a.size + b.size, a.dtype)
        good[out] = memory[: a.size].reshape(a.shape)
        good[name] = memory[a.size - shared : a.size - shared + b.size].reshape(b.shape)
        if not shared:
            call(**good)
            continue
        with pytest.raises(
            V, match=f"^({out} must share no memory with {name}|{name} must share no memory with {out})$"
        ):
            call(**good)


def test_a_cache_lies_apart():
    memory = zeros(2 * 2 * 2 * 2 * 32 + 2 * 2 * 40 * 32)
    keys = memory[:512].reshape(2, 2, 2, 2, 32)
    for at, fits in ((511, False), (512, True)):
        cache = Cache(keys, memory[at : at + 5120].reshape(2, 2, 40, 32), 40)
        if fits:
            kernels.attention_step(**{**STEP, "cache": cache})
            kernels.attention_step(**{**STEP, "cache": cache, "out": zeros(2, 3, 8)})
        else:
            with pytest.raises(V, match="cache must share no memory with one another"):
                kernels.attention_step(**{**STEP, "cache": cache})
    for name in ("q", "k", "v", "out"):
        array = memory[: STEP[name].size].reshape(STEP[name].shape)
        with pytest.raises(V, match="must share no memory with"):
            kernels.attention_step(**{**STEP, "cache": cache, name: array})
    kernels.attention_step(**{**STEP, "cache": cache, "k": None, "v": None, "q": memory[:48].reshape(2, 3, 8)})
    with pytest.raises(V, match="out must share no memory with cache"):
        kernels.attention_step(**{**STEP, "cache": cache, "k": None, "v": None, "out": memory[:48].reshape(2, 3, 8)})
    with pytest.raises(V, match="out must share no memory with caches"):
        kernels.transformer_step(**{**TOKENS, "caches": [TOKENS["caches"][1], cache], "out": memory[:14].reshape(2, 7)})


@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_side_by_side(steps):
    """dq, dk and dv may be channels of one array, one after the other, but not overlap."""
    good = {key: a for key, a in GRADIENT.items() if key not in ("dq", "dk", "dv")}
    for key in ("q", "y", "dy"):
        good[key] = zeros(2, steps, 8)
    good |= {"k": zeros(2, steps, 4), "v": zeros(2, steps, 4), "statistics": zeros(2, 4, steps), "lengths": None}
    for rows in (1, 2):
        few = {key: a[:rows] if isinstance(a, np.ndarray) else a for key, a in good.items()}
        memory = zeros(2, steps + 1, 20)[:rows, :steps]
        parts = {"dq": memory[..., :8], "dk": memory[..., 8:12], "dv": memory[..., 12:16]}
        kernels.attention_gradient(**few, **parts)
        for name, begin in {"dk": 7, "dv": 11}.items():
            bad = {**parts, name: memory[..., begin : begin + 4]}
            with pytest.raises(V, match="must share no memory with"):
                kernels.attention_gradient(**few, **bad)


def test_the_statistics_are_needed():
    good = fresh(GRADIENT)
    good["statistics"] = None
    with pytest.raises(T, match="kernels take arrays"):
        kernels.attention_gradient(**good)
