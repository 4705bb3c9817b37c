"""Attention, its gradient, its caches, packed products and a Transformer's step, against tests/reference/attention.py.

Sums are checked twice: near the equations in float64, and bit for bit against the rules of docs/reproducibility.md.
What is cached is checked against what is computed anew, bit for bit.
"""

import itertools

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels import Cache
from checking import DTYPES, C, assert_close, assert_same, assert_same_bits, by_dtype, room_for, strided, with_threads
from reference import attention as reference

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
