"""Layer norm, GELU, dropout and the softmax over a vocabulary against tests/reference/layers.py.

What the contract says about sums is checked to the last bit: docs/reproducibility.md, 4 and 7.
"""

import re

import numpy as np
import pytest
from chainrule import kernels
from checking import T, V, assert_close, assert_same_bits, by_dtype
from reference import layers as reference
from reference.nade import padded

SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65, 384, 1000]  # around the width of a vector and of a pair of them
by_size = pytest.mark.parametrize("n", SIZES)


def beside(shape, dtype, columns=3):
    """A matrix to write, its rows apart, and a check that nothing beside it was written."""
    memory = np.full((shape[0], shape[1] + columns + 1), 7, dtype)
    inside = memory[:, 1 : shape[1] + 1]

    def check():
        assert (np.delete(memory, np.s_[1 : shape[1] + 1], axis=1) == 7).all(), "something beside the array was written"

    return inside, check


# ---- Layer norm


def norm_problem(rows, n, dtype=np.float64, seed=0):
    """x, gain, bias, dy, addend."""
    rng = np.random.default_rng([seed, rows, n])
    x = rng.normal(size=(rows, n)) * rng.uniform(0.1, 10, (rows, 1)) + rng.normal(size=(rows, 1)) * 3
    gain, bias = rng.normal(size=n) + 1, rng.normal(size=n)
    return tuple(a.astype(dtype) for a in (x, gain, bias, rng.normal(size=(rows, n)), rng.normal(size=(rows, n))))


@by_dtype
@by_size
def test_layer_norm(n, dtype):
    for rows in (0, 1, 3, 40, 300):
        x, gain, bias, _, _ = norm_problem(rows, n, dtype)
        statistics = np.empty((rows, 2), dtype)
        y = kernels.layer_norm(x, gain, bias, statistics=statistics)
        assert (y.dtype, y.shape) == (dtype, x.shape)
        if n > 2:  # a row of two has no third number to tell its scale by
            assert_close(y, reference.layer_norm(x, gain, bias), dtype, 9 * n)  # a small variance loses digits
        exact, kept = reference.layer_norm_bits(x, gain, bias)
        assert_same_bits(y, exact)
        assert_same_bits(statistics, kept)
        for n_threads in (1, 3):
            assert_same_bits(kernels.layer_norm(x, gain, bias, n_threads=n_threads), y)
        out, check = beside(x.shape, dtype)
        assert kernels.layer_norm(padded(x, n + 3), gain, bias, out=out) is out
        assert_same_bits(out, y)
        check()
        in_place = x.copy()
        kernels.layer_norm(in_place, gain, bias, out=in_place)
        assert_same_bits(in_place, y)
        assert_same_bits(kernels.layer_norm(x[1:2], gain, bias), y[1:2])
        if rows == 300:
            in_steps = x.reshape(3, 100, n)
            assert_same_bits(kernels.layer_norm(in_steps, gain, bias), y.reshape(3, 100, n))


@by_dtype
def test_layer_norm_far_from_zero_keeps_its_digits(dtype):
    """The variance is of differences: as a difference of sums it would have none left."""
    x, gain, bias, _, _ = norm_problem(20, 384, dtype)
    far = x / 10 + dtype(2**10)
    exact = reference.layer_norm(far, gain, bias)
    assert np.abs(kernels.layer_norm(far, gain, bias) - exact).max() < 2**10 * 40 * np.finfo(dtype).eps


@by_dtype
def test_layer_norm_of_constant_rows_and_other_epsilons(dtype):
    x, gain, bias, _, _ = norm_problem(3, 40, dtype)
    assert_same_bits(kernels.layer_norm(np.full((3, 40), dtype(1e30)), gain, bias), np.tile(bias, (3, 1)))
    for epsilon in (1e-12, 0.5):
        want = reference.layer_norm(x, gain, bias, epsilon)
        assert_close(kernels.layer_norm(x, gain, bias, epsilon=epsilon), want, dtype, 40)
    x[1, 3], x[2, 0] = np.nan, np.inf
    y = kernels.layer_norm(x, gain, bias)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1:]).all()


@by_dtype
@by_size
def test_layer_norm_gradient(n, dtype):
    for rows in (0, 1, 2, 3, 255, 257, 700):
        x, gain, bias, dy, more = norm_problem(rows, n, dtype)
        statistics = np.empty((rows, 2), dtype)
        kernels.layer_norm(x, gain, bias, statistics=statistics)
        for addend in (None, more):
            want = reference.layer_norm_gradient_bits(x, gain, statistics, dy, addend)
            if n > 2:
                near = reference.layer_norm_gradient(x, gain, dy, addend)
                for a, b in zip(want, near, strict=True):
                    assert_close(a, b, dtype, max(rows, n))
            for n_threads in (1, 3):
                dx, to = np.full_like(x, 7), np.full((2, n), 7, dtype)
                options = {"addend": addend, "dgain": to[0], "dbias": to[1], "n_threads": n_threads}
                kernels.layer_norm_gradient(x, gain, statistics, dy, dx=dx, **options)
                for a, b in zip((dx, *to), want, strict=True):
                    assert_same_bits(a, b)
            out, check = beside(x.shape, dtype)
            wide = None if addend is None else padded(addend, n + 2)
            kernels.layer_norm_gradient(
                padded(x, n + 3), gain, statistics, padded(dy, n + 1), addend=wide, dx=out, dgain=to[0], dbias=to[1]
            )
            assert_same_bits(out, want[0])
            check()
            for taken in ("dy", "addend"):
                given = {"dy": dy.copy(), "addend": None if addend is None else addend.copy()}
                if given[taken] is not None:
                    kernels.layer_norm_gradient(x, gain, statistics, **given, dx=given[taken], dgain=to[0], dbias=to[1])
                    assert_same_bits(given[taken], want[0])
                    assert_same_bits(to[0], want[1])


def test_layer_norm_gradient_equals_central_differences():
    x, gain, bias, dy, _ = norm_problem(3, 11)
    statistics, dx, to = np.empty((3, 2)), np.empty((3, 11)), np.empty((2, 11))
    kernels.layer_norm(x, gain, bias, statistics=statistics)
    kernels.layer_norm_gradient(x, gain, statistics, dy, dx=dx, dgain=to[0], dbias=to[1])
    for array, gradient in ((x, dx), (gain, to[0]), (bias, to[1])):
        for k in range(array.size):
            rise = 0.0
            for sign in (1, -1):
                kept = array.flat[k]
                array.flat[k] = kept + sign * 1e-6
                rise += sign * (kernels.layer_norm(x, gain, bias) * dy).sum()
                array.flat[k] = kept
            np.testing.assert_allclose(gradient.flat[k], rise / 2e-6, rtol=1e-6, atol=1e-8)


# ---- GELU


@by_dtype
@pytest.mark.parametrize("form", ["tanh", "erf"])
@pytest.mark.parametrize("n", [0, *SIZES, 4097, 9000])
def test_gelu(n, form, dtype):
    rng = np.random.default_rng(n)
    x, dy = (rng.normal(size=n) * 3).astype(dtype), rng.normal(size=n).astype(dtype)
    y, dx = kernels.gelu(x, form=form), kernels.gelu_gradient(x, dy, form=form)
    eps = np.finfo(dtype).eps
    assert (np.abs(y - reference.gelu(x, form)) <= 3 * eps * np.abs(x)).all()
    assert (np.abs(dx - dy * reference.gelu_slope(x, form)) <= 4 * eps * np.abs(dy)).all()
    for n_threads in (1, 3):
        assert_same_bits(kernels.gelu(x, form=form, n_threads=n_threads), y)
        assert_same_bits(kernels.gelu_gradient(x, dy, form=form, n_threads=n_threads), dx)
    in_place, back = x.copy(), dy.copy()
    kernels.gelu(in_place, form=form, out=in_place)
    kernels.gelu_gradient(x, back, form=form, out=back)
    assert_same_bits(in_place, y)
    assert_same_bits(back, dx)
    around = np.full(n + 2, 7, dtype)
    kernels.gelu(x, form=form, out=around[1:-1])
    assert_same_bits(around[1:-1], y)
    kernels.gelu_gradient(x, dy, form=form, out=around[1:-1])
    assert_same_bits(around[1:-1], dx)
    assert (around[[0, -1]] == 7).all()
    if n == 9000:
        shaped = x.reshape(3, 100, 30)
        assert_same_bits(kernels.gelu(shaped, form=form), y.reshape(3, 100, 30))
        assert_same_bits(kernels.gelu_gradient(shaped, dy.reshape(3, 100, 30), form=form), dx.reshape(3, 100, 30))


@by_dtype
@pytest.mark.parametrize("form", ["tanh", "erf"])
def test_gelu_error(form, dtype):
    """What docs/math.md says, from one tail to the other."""
    small = np.logspace(-30, 1, 5000)
    x = np.concatenate([np.linspace(-12, 12, 200_000), small, -small]).astype(dtype)
    eps = np.finfo(dtype).eps
    assert (np.abs(kernels.gelu(x, form=form) - reference.gelu(x, form)) / (eps * np.abs(x))).max() < 2.5
    slope = kernels.gelu_gradient(x, np.ones_like(x), form=form)
    assert (np.abs(slope - reference.gelu_slope(x, form)) / eps).max() < 2.5


@by_dtype
@pytest.mark.parametrize("form", ["tanh", "erf"])
def test_gelu_at_the_ends(form, dtype):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, 1e30, -1e30], dtype)
    y, slope = kernels.gelu(x, form=form), kernels.gelu_gradient(x, np.ones_like(x), form=form)
    np.testing.assert_allclose(y, [np.inf, 0, np.nan, 0, dtype(1e30), 0], atol=1e-36)
    np.testing.assert_allclose(slope, [1, 0, np.nan, 0.5, 1, 0], atol=1e-20)


@pytest.mark.parametrize("form", ["tanh", "erf"])
def test_gelu_gradient_equals_central_differences(form):
    x = np.linspace(-6, 6, 97)
    rise = kernels.gelu(x + 1e-6, form=form) - kernels.gelu(x - 1e-6, form=form)
    got = kernels.gelu_gradient(x, np.full(97, 3.0), form=form)
    np.testing.assert_allclose(got, 3 * rise / 2e-6, rtol=1e-6, atol=1e-8)


# ---- Dropout


@by_dtype
@pytest.mark.parametrize("n", [0, 1, 7, 15, 16, 17, 100, 1023, 1024, 1025, 5000, 40_000])
def test_dropout(n, dtype):
    x = np.random.default_rng(n).normal(size=n).astype(dtype)
    for key, block, rate in (((1, 2), 0, 0.1), ((2**64 - 1, 2**63), 2**40, 0.5), ((3, 0), 7, 0.999), ((3, 0), 7, 0.0)):
        y = kernels.dropout(x, key, block, rate)
        gone = reference.dropped(key, block, rate, n)
        assert_same_bits(y, np.where(gone, dtype(0), x * dtype(1 / (1 - rate))))
        for n_threads in (1, 3):
            assert_same_bits(kernels.dropout(x, key, block, rate, n_threads=n_threads), y)
        if n > 32:  # element i has the place i: the same from any block on
            assert_same_bits(kernels.dropout(x[32:], key, block + 2, rate), y[32:])
        in_place = x.copy()
        kernels.dropout(in_place, key, block, rate, out=in_place)
        assert_same_bits(in_place, y)
        around = np.full(n + 2, 7, dtype)
        kernels.dropout(x, key, block, rate, out=around[1:-1])
        assert_same_bits(around[1:-1], y)
        assert (around[[0, -1]] == 7).all()


def test_dropout_keeps_the_mean():
    n = 200_000
    for rate in (0.1, 0.5):
        y = kernels.dropout(np.ones(n), (5, 6), 0, rate)
        assert abs((y == 0).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / n)
        assert abs(y.mean() - 1) < 4 * np.sqrt(rate / (1 - rate) / n)


@by_dtype
def test_dropout_gives_plain_zeros(dtype):
    y = kernels.dropout(np.array([-1, np.inf, np.nan, -0.0] * 100, dtype), (1, 2), 0, 0.5)
    gone = reference.dropped((1, 2), 0, 0.5, 400)
    assert not np.signbit(y[gone]).any()
    assert (y[gone] == 0).all()


# ---- The softmax over a vocabulary


def vocabulary_problem(rows, n, dtype=np.float64, scale=3.0):
    """logits, target, weight."""
    rng = np.random.default_rng([rows, n])
    z = (rng.normal(size=(rows, n)) * scale).astype(dtype)
    return z, rng.integers(0, n, rows).astype(np.int32), rng.uniform(0, 1, rows).astype(dtype)


def log_prob_bits(z, target):
    """By rule 4, in the precision of the logits."""
    m = z.max(1, keepdims=True)
    s = reference.lane_sum(kernels.exp(z - m))
    return ((z[np.arange(len(z)), target] - m[:, 0]) - kernels.log(s[:, 0])).astype(float)


@by_dtype
@pytest.mark.parametrize("n", [*SIZES, 4096, 50_257])
def test_softmax_log_prob_and_gradient(n, dtype):
    for rows in (0, 1, 3, 17, 40) if n < 4000 else (3,):
        z, target, weight = vocabulary_problem(rows, n, dtype)
        p = np.exp(reference.log_softmax(z))
        hot = np.zeros((rows, n))
        hot[np.arange(rows), target] = 1
        log_prob = kernels.softmax_log_prob(z, target)
        assert (log_prob.dtype, log_prob.shape) == (np.float64, (rows,))
        assert_close(log_prob, reference.log_softmax(z)[np.arange(rows), target], dtype, np.sqrt(n))
        assert_same_bits(log_prob, log_prob_bits(z, target))
        for given in (None, weight):
            again, d = kernels.softmax_gradient(z, target, weight=given)
            assert_same_bits(again, log_prob)
            scale = np.full(rows, 1 / max(rows, 1)) if given is None else weight
            assert_close(d, scale[:, None] * (p - hot), dtype)
            for n_threads in (1, 3):
                assert_same_bits(kernels.softmax_log_prob(z, target, n_threads=n_threads), log_prob)
                for a, b in zip(
                    kernels.softmax_gradient(z, target, weight=given, n_threads=n_threads), (log_prob, d), strict=True
                ):
                    assert_same_bits(a, b)
            in_place = z.copy()
            assert kernels.softmax_gradient(in_place, target, weight=given, out=in_place)[1] is in_place
            assert_same_bits(in_place, d)
            out, check = beside(z.shape, dtype)
            wide = padded(z, n + 3, np.nan)
            kernels.softmax_gradient(wide, target, weight=given, out=out)
            assert_same_bits(out, d)
            check()
            assert_same_bits(kernels.softmax_log_prob(wide, target), log_prob)
        for r in range(min(rows, 3)):
            row = slice(r, r + 1)
            alone = kernels.softmax_gradient(z[row], target[row], weight=weight[row])
            assert_same_bits(alone[0], log_prob[row])
            assert_same_bits(alone[1], d[row])
        if rows == 40:
            shaped = kernels.softmax_gradient(z.reshape(4, 10, n), target.reshape(4, 10), weight=weight.reshape(4, 10))
            assert_same_bits(shaped[0], log_prob.reshape(4, 10))
            assert_same_bits(shaped[1], d.reshape(4, 10, n))
            assert_same_bits(kernels.softmax_log_prob(z.reshape(4, 10, n), target.reshape(4, 10)), shaped[0])


def test_softmax_gradient_equals_central_differences():
    z, target, weight = vocabulary_problem(4, 9)
    _, d = kernels.softmax_gradient(z, target, weight=weight)
    for k in range(9):
        step = 1e-6 * (np.arange(9) == k)
        rise = kernels.softmax_log_prob(z + step, target) - kernels.softmax_log_prob(z - step, target)
        np.testing.assert_allclose(d[:, k], -weight * rise / 2e-6, rtol=1e-6, atol=1e-8)


@by_dtype
def test_softmax_at_the_ends(dtype):
    """Logits that overflow an exponential, impossible values, rows of weight 0, NaN."""
    z = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [-np.inf, 0, 0], [np.nan, 0, 0]], dtype)
    by_value = np.stack([kernels.softmax_log_prob(z, np.full(4, v, np.int32)) for v in range(3)], axis=1)
    third, half = -np.log(3), -np.log(2)
    np.testing.assert_allclose(by_value[:3], [[0, -2e4, -1e4], [third] * 3, [-np.inf, half, half]], rtol=1e-6)
    assert np.isnan(by_value[3]).all()
    weight = np.array([1, 0, 2, 0], dtype)
    log_prob, d = kernels.softmax_gradient(z, np.full(4, 1, np.int32), weight=weight)
    np.testing.assert_allclose(d, [[1, -1, 0], [0, 0, 0], [0, -1, 1], [0, 0, 0]], atol=1e-6)
    assert not d[[1, 3]].any()
    assert_same_bits(log_prob[:3], by_value[:3, 1].copy())
    total = np.exp(reference.log_softmax(np.float64(z[:3]))).sum(1)
    np.testing.assert_allclose(total, 1)


# ---- Draws

CHOICES = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 3},
    {"top_k": 12, "temperature": 0.7},
    {"top_p": 0.5},
    {"top_p": 0.9, "temperature": 1.5},
    {"top_p": 0.999999},
    {"top_k": 10, "top_p": 0.8},
    {"top_k": 2, "top_p": 1e-9},
    {"temperature": 0.0},
    {"top_k": 1},
    {"top_p": 0.0},
]
by_choice = pytest.mark.parametrize(
    "choice", CHOICES, ids=lambda c: ", ".join(f"{k}={v}" for k, v in c.items()) or "plain"
)


def with_ties(rows, n, dtype, seed=0):
    """Few different logits, both zeros among them."""
    rng = np.random.default_rng([seed, rows, n])
    z = rng.integers(-4, 5, (rows, n)) / 2
    return np.where((z == 0) & (rng.random((rows, n)) < 0.5), -0.0, z).astype(dtype)


@by_dtype
@by_choice
@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
def test_softmax_sample(choice, ties, dtype):
    for n in (1, 2, 7, 8, 9, 15, 16, 17, 33, 65, 255, 257, 300):
        for rows in (0, 1, 7):
            z = with_ties(rows, n, dtype) if ties else vocabulary_problem(rows, n, dtype)[0]
            u = kernels.uniforms((n, rows), 0, rows)
            drawn = kernels.softmax_sample(z, u, **choice)
            assert (drawn.dtype, drawn.shape) == (np.int32, (rows,))
            for r in range(rows):
                p = reference.distribution(z[r], **choice)
                F = np.cumsum(p)
                v = drawn[r]
                assert p[v] > 0
                assert F[v] - p[v] - 1e-13 < u[r] < F[v] + 1e-13
            for n_threads in (1, 3):
                assert_same_bits(kernels.softmax_sample(z, u, **choice, n_threads=n_threads), drawn)
            assert_same_bits(kernels.softmax_sample(padded(z, n + 3, np.inf), u, **choice), drawn)
            if rows:
                assert_same_bits(kernels.softmax_sample(z[5:6], u[5:6], **choice), drawn[5:6])


@by_dtype
@by_choice
def test_which_values_stay(choice, dtype):
    """Every value that can be drawn is, by uniforms in the middle of each: the slow set, ties and the crossing one."""
    for z in (*with_ties(6, 40, dtype), *vocabulary_problem(3, 33, dtype, 1.0)[0]):
        p = reference.distribution(z, **choice)
        likely = np.flatnonzero(p > 1e-12)
        u = (np.cumsum(p) - p / 2)[likely]
        drawn = kernels.softmax_sample(np.tile(z, (len(u), 1)), u, **choice)
        assert (drawn == likely).all()
        ends = kernels.softmax_sample(np.tile(z, (2, 1)), np.array([2.0**-53, 1 - 2.0**-53]), **choice)
        left = reference.stays(z, **choice)
        assert (ends == [left[0], left[-1]]).all()


def test_the_value_that_crosses_stays():
    """p is 1/2, 1/4, 1/8, 1/8: 0.75 is reached by two, anything above needs a third, the lower one of equals."""
    z = np.log([[0.125, 0.5, 0.125, 0.25]])
    for top_p, want in (
        (0.5, [1]),
        (0.5 + 1e-6, [1, 3]),
        (0.75, [1, 3]),
        (0.75 + 1e-6, [0, 1, 3]),
        (0.875 + 1e-6, [0, 1, 2, 3]),
    ):
        u = (np.arange(1000) + 0.5) / 1000
        drawn = kernels.softmax_sample(np.repeat(z, 1000, axis=0), u, top_p=top_p)
        assert sorted(set(drawn)) == want, top_p
        assert reference.stays(z[0], top_p=top_p) == want


@by_dtype
def test_large_vocabularies(dtype):
    """Many blocks; logits on both sides of 0, of tiny size, of one sign, masked, in few values, with an outlier."""
    rng = np.random.default_rng(3)
    n = 50_257
    normal = rng.normal(size=n)
    rows = {
        "logits": normal * 2 + 1,
        "negative": normal * 4 - 60,
        "tiny": normal * 1e-30,
        "masked": np.where(rng.random(n) < 0.9, -np.inf, normal),
        "few": np.round(normal),
        "outlier": np.where(np.arange(n) == 777, 1e30, normal),
        "one": np.zeros(n),
    }
    u = np.array([1e-9, 0.1, 0.5, 0.77, 0.99, 1 - 1e-9])
    for name, row in rows.items():
        z = np.tile(row.astype(dtype), (len(u), 1))
        for choice in (
            {},
            {"top_k": 40},
            {"top_k": 30_000},
            {"top_p": 0.9},
            {"top_k": 500, "top_p": 0.5},
            {"temperature": 0},
        ):
            p = reference.distribution(z[0], **choice)
            F = np.cumsum(p)
            drawn = kernels.softmax_sample(z, u, **choice)
            assert (p[drawn] > 0).all(), (name, choice)
            assert (F[drawn] - p[drawn] < u + 1e-10).all(), (name, choice)
            assert (u < F[drawn] + 1e-10).all(), (name, choice)


@by_choice
def test_draws_are_as_frequent_as_they_are_probable(choice):
    n = 60_000
    z = np.random.default_rng(1).normal(size=17)
    p = reference.distribution(z, **choice)
    drawn = kernels.softmax_sample(np.tile(z, (n, 1)), kernels.uniforms((8, 9), 0, n), **choice)
    count, expected = np.bincount(drawn, minlength=17), n * p
    assert not count[p == 0].any()
    seen = p > 0
    chi2 = ((count - expected)[seen] ** 2 / expected[seen]).sum()
    assert chi2 < seen.sum() - 1 + 4 * np.sqrt(2 * seen.sum())


@by_dtype
def test_draws_at_the_ends(dtype):
    """Impossible values are never drawn; the most likely one is the first of equals; NaN gives some value."""
    z = np.array([[-np.inf, 0, -np.inf, 0, -np.inf]], dtype)
    for u, v in ((2.0**-53, 1), (0.49, 1), (0.51, 3), (1 - 2.0**-53, 3)):
        for choice in ({}, {"top_k": 4}, {"top_p": 0.99}):
            assert kernels.softmax_sample(z, np.array([u]), **choice)[0] == v
    for choice in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0}, {"temperature": 5e-324}, {"temperature": 1e-200}):
        assert kernels.softmax_sample(z, np.array([0.25]), **choice)[0] == 1
    assert kernels.softmax_sample(z, np.array([0.9]), temperature=1e200, top_k=2)[0] == 3
    for bad in (np.full((1, 300), np.nan), np.where(np.arange(300) % 7 == 0, np.nan, 0.0)[None]):
        for choice in CHOICES:
            drawn = kernels.softmax_sample(bad.astype(dtype), np.array([0.5]), **choice)[0]
            assert 0 <= drawn < 300


def test_a_large_vocabulary_row_by_row_and_all_at_once():
    z, _, _ = vocabulary_problem(8, 5000, np.float32)
    u = kernels.uniforms((1, 1), 0, 8)
    for choice in CHOICES:
        together = kernels.softmax_sample(z.reshape(2, 4, 5000), u.reshape(2, 4), **choice)
        alone = [kernels.softmax_sample(z[r : r + 1], u[r : r + 1], **choice)[0] for r in range(8)]
        assert together.reshape(-1).tolist() == alone


# ---- The border


def good(name):
    """Arguments that are taken."""
    x, gain, bias, dy, _ = norm_problem(5, 6)
    z, target, _ = vocabulary_problem(5, 6)
    return {
        "layer_norm": {"x": x, "gain": gain, "bias": bias, "out": np.empty((5, 6)), "statistics": np.empty((5, 2))},
        "layer_norm_gradient": {
            "x": x, "gain": gain, "statistics": np.ones((5, 2)), "dy": dy, "addend": None, "dx": np.empty((5, 6)),
            "dgain": np.empty(6), "dbias": np.empty(6),
        },
        "gelu": {"x": x, "form": "tanh", "out": np.empty((5, 6))},
        "gelu_gradient": {"x": x, "dy": dy, "form": "erf", "out": np.empty((5, 6))},
        "dropout": {"x": x, "key": (1, 2), "first_block": 0, "rate": 0.5, "out": np.empty((5, 6))},
        "softmax_log_prob": {"logits": z, "target": target, "out": np.empty(5)},
        "softmax_gradient": {"logits": z, "target": target, "weight": None, "log_prob": None, "out": np.empty((5, 6))},
        "softmax_sample": {"logits": z, "u": np.full(5, 0.5), "out": np.empty(5, np.int32)},
    }[name]  # fmt: skip


MEMORY = np.zeros(100)
ONE, OTHER = MEMORY[:30].reshape(5, 6), MEMORY[3:33].reshape(5, 6)
READ_ONLY = np.zeros((5, 6))
READ_ONLY.flags.writeable = False
EMPTY = np.zeros(0)
ONE_COLUMN, TOO_MANY = "{} must have at least one column", "logits must have at most 4194304 columns, not 4194305"


def codes(*values):
    return np.array(values, np.int32)


BAD = [
    ("layer_norm", {"x": np.zeros((5, 6), int)}, T, "x must be float32 or float64, not int64"),
    ("layer_norm", {"x": np.zeros((5, 6), np.float32)}, T, "gain must be float32, not float64"),
    ("layer_norm", {"gain": np.zeros(5)}, V, "gain must be 1-d of length 6"),
    ("layer_norm", {"bias": np.zeros(7)}, V, "bias must be 1-d of length 6"),
    ("layer_norm", {"epsilon": 0.0}, V, "epsilon must be positive, not 0.0"),
    ("layer_norm", {"epsilon": np.nan}, V, "epsilon must be positive, not nan"),
    ("layer_norm", {"out": np.zeros((5, 7))}, V, "out must have the shape of x, (5, 6), not (5, 7)"),
    ("layer_norm", {"out": READ_ONLY}, V, "out is written to, but is read-only"),
    ("layer_norm", {"x": ONE, "out": OTHER}, V, "out must be x itself, or share no memory with it"),
    ("layer_norm", {"statistics": np.zeros((5, 3))}, V, "statistics must be 2-d of shape (5, 2)"),
    ("layer_norm", {"statistics": np.zeros((5, 4))[:, :2]}, V, "statistics must be C-contiguous"),
    ("layer_norm", {"x": np.zeros((5, 0)), "out": None, "gain": EMPTY, "bias": EMPTY}, V, ONE_COLUMN.format("x")),
    ("layer_norm", {"x": np.zeros((2, 5, 6))[:, ::2], "out": None}, V, "x must have its rows at one distance"),
    ("layer_norm", {"x": np.zeros(()), "out": None}, V, "x must have at least one axis"),
    ("layer_norm", {"x": np.zeros((6, 5)).T}, V, "x must have contiguous rows"),
    ("layer_norm", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("layer_norm_gradient", {"statistics": np.zeros((4, 2))}, V, "statistics must be 2-d of shape (5, 2)"),
    ("layer_norm_gradient", {"dy": np.zeros((5, 5))}, V, "dy must be 2-d of shape (5, 6)"),
    ("layer_norm_gradient", {"addend": np.zeros((4, 6))}, V, "addend must be 2-d of shape (5, 6)"),
    ("layer_norm_gradient", {"dgain": np.zeros(5)}, V, "dgain must be 1-d of length 6"),
    ("layer_norm_gradient", {"dbias": np.zeros(6, np.float32)}, T, "dbias must be float64, not float32"),
    ("layer_norm_gradient", {"x": ONE, "dx": ONE}, V, "dx must share no memory with x"),
    ("layer_norm_gradient", {"dy": ONE, "dx": OTHER}, V, "dx must be dy itself, or share no memory with it"),
    ("layer_norm_gradient", {"addend": ONE, "dx": OTHER}, V, "dx must be addend itself, or share no memory with it"),
    ("layer_norm_gradient", {"x": np.zeros((5, 0))}, V, ONE_COLUMN.format("x")),
    ("gelu", {"form": "relu"}, V, "form must be one of tanh, erf, not 'relu'"),
    ("gelu", {"x": np.zeros((5, 12))[:, ::2]}, V, "x must be C-contiguous"),
    ("gelu", {"out": np.zeros((6, 5))}, V, "out must have the shape of x, (5, 6), not (6, 5)"),
    ("gelu", {"x": ONE, "out": OTHER}, V, "out must be x itself, or share no memory with it"),
    ("gelu", {"x": np.zeros((5, 6), int)}, T, "x must be float32 or float64, not int64"),
    ("gelu_gradient", {"dy": np.zeros((5, 5))}, V, "dy must have the shape of x, (5, 6), not (5, 5)"),
    ("gelu_gradient", {"dy": np.zeros((5, 6), np.float32)}, T, "dy must be float64, not float32"),
    ("gelu_gradient", {"x": ONE, "out": ONE}, V, "out must share no memory with x"),
    ("gelu_gradient", {"dy": ONE, "out": OTHER}, V, "out must be dy itself, or share no memory with it"),
    ("dropout", {"rate": 1.0}, V, "rate must be at least 0 and below 1, not 1.0"),
    ("dropout", {"rate": -0.1}, V, "rate must be at least 0 and below 1, not -0.1"),
    ("dropout", {"rate": np.nan}, V, "rate must be at least 0 and below 1, not nan"),
    ("dropout", {"x": ONE, "out": OTHER}, V, "out must be x itself, or share no memory with it"),
    ("softmax_log_prob", {"target": codes(0, 1, 6, 0, 0)}, V, "target must be from 0 to 5; entry 2 is 6"),
    ("softmax_log_prob", {"target": codes(0, -1, 0, 0, 0)}, V, "target must be from 0 to 5; entry 1 is -1"),
    ("softmax_log_prob", {"target": np.zeros(5, np.int64)}, T, "target must be int32, not int64"),
    ("softmax_log_prob", {"target": codes(0, 0, 0, 0), "out": None}, V, "target must be 1-d of length 5"),
    ("softmax_log_prob", {"out": np.zeros(4)}, V, "out must have the shape of target, (5,), not (4,)"),
    ("softmax_log_prob", {"logits": np.zeros((5, 0)), "target": codes(0, 0, 0, 0, 0)}, V, ONE_COLUMN.format("logits")),
    ("softmax_gradient", {"target": codes(0, 1, 6, 0, 0)}, V, "target must be from 0 to 5; entry 2 is 6"),
    ("softmax_gradient", {"weight": np.zeros(4)}, V, "weight must be 1-d of length 5"),
    ("softmax_gradient", {"weight": np.zeros(5, np.float32)}, T, "weight must be float64, not float32"),
    ("softmax_gradient", {"logits": ONE, "out": OTHER}, V, "dlogits must be logits itself, or share no memory with it"),
    ("softmax_gradient", {"out": np.zeros((5, 7))}, V, "out must have the shape of logits, (5, 6), not (5, 7)"),
    ("softmax_gradient", {"log_prob": np.zeros(4)}, V, "log_prob must have the shape of target, (5,), not (4,)"),
    ("softmax_sample", {"temperature": -1.0}, V, "temperature must be 0 or positive, not -1.0"),
    ("softmax_sample", {"temperature": np.inf}, V, "temperature must be 0 or positive, not inf"),
    ("softmax_sample", {"temperature": np.nan}, V, "temperature must be 0 or positive, not nan"),
    ("softmax_sample", {"top_p": 1.1}, V, "top_p must be from 0 to 1, not 1.1"),
    ("softmax_sample", {"top_p": np.nan}, V, "top_p must be from 0 to 1, not nan"),
    ("softmax_sample", {"top_k": -1}, V, "top_k must be 0 or positive, not -1"),
    ("softmax_sample", {"u": np.zeros(4), "out": None}, V, "u must be 1-d of length 5"),
    ("softmax_sample", {"u": np.zeros(5, np.float32)}, T, "u must be float64, not float32"),
    ("softmax_sample", {"out": np.zeros(5, np.int64)}, T, "out must be int32, not int64"),
    ("softmax_sample", {"logits": np.zeros((1, 2**22 + 1)), "u": np.zeros(1), "out": None}, V, TOO_MANY),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "error", "message"), BAD, ids=lambda v: v if isinstance(v, str) else "")
def test_bad_argument(name, change, error, message):
    arguments = good(name)
    getattr(kernels, name)(**arguments)
    with pytest.raises(error, match="^" + re.escape(message)):
        getattr(kernels, name)(**{**arguments, **change})
