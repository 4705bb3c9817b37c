"""Conditionals as objects: intervals, probabilities and marginals agree with the kernels; codes are checked."""

import re

import numpy as np
import pytest
from chainrule.conditionals import Bernoulli, Categorical, LogisticMixture
from chainrule.conditionals.categorical import count_values, starts
from chainrule.validation import as_codes

K = [1, 2, 3, 17, 256, 2]


def categorical(dtype=np.float64, n_rows=40, scale=3.0, reference=True):
    rng = np.random.default_rng(0)
    first = starts(K)
    z = (rng.normal(size=(n_rows, first[-1])) * scale).astype(dtype)
    return Categorical(z, first, rng.integers(0, K).astype(np.uint8) if reference else None)


def values(n_rows=40, seed=1):
    return np.random.default_rng(seed).integers(0, K, (n_rows, len(K))).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reference", [False, True])
def test_probabilities(dtype, reference):
    p = categorical(dtype, reference=reference)
    assert p.n_values.tolist() == K
    x = values()
    terms = p.log_prob(x, per_variable=True)
    np.testing.assert_allclose(p.log_prob(x), terms.sum(1), rtol=1e-12)
    for i, k in enumerate(K):
        table = p.probabilities(i)
        assert table.shape == (40, k)
        np.testing.assert_allclose(table.sum(1), 1, rtol=1e-14)
        tolerance = 1e-5 if dtype == np.float32 else 1e-13
        np.testing.assert_allclose(np.log(table[np.arange(40), x[:, i]]), terms[:, i], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.0, 1.0, 8.0])
def test_interval_is_where_the_sampler_gives_x(dtype, scale):
    p = categorical(dtype, scale=scale)
    x = values()
    low, width = p.interval(x)
    np.testing.assert_allclose(width, np.exp(p.log_prob(x, per_variable=True)), rtol=1e-4, atol=1e-15)
    drawable = width > 1e-15
    drawn = p.sample(np.where(low > 0, low, 2.0**-53))
    assert np.array_equal(drawn[drawable], x[drawable])
    before = p.sample(np.where(low > 0, np.nextafter(low, 0), 2.0**-53))
    assert (before <= x).all()
    assert (before[(low > 0) & drawable] < x[(low > 0) & drawable]).all()
    above = np.minimum(x + 1, np.array(K) - 1).astype(np.uint8)
    end = np.where(x == above, 1.0, p.interval(above)[0])
    np.testing.assert_allclose(end, low + width, rtol=1e-15)
    assert np.array_equal(p.sample(np.nextafter(end, 0))[drawable], x[drawable])


def test_two_values_are_a_bernoulli():
    z = np.random.default_rng(0).normal(size=(30, 5)) * 3
    x = (np.random.default_rng(1).random(z.shape) < 0.5).astype(np.uint8)
    bits, codes = Bernoulli(z), Categorical(z, starts([2] * 5))
    np.testing.assert_allclose(codes.log_prob(x), bits.log_prob(x), rtol=1e-14)
    np.testing.assert_allclose(codes.probabilities(3)[:, 1], bits.mean[:, 3], rtol=1e-14)
    for a, b in zip(codes.interval(x), bits.interval(x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-15)


def test_marginal_logits_give_the_frequencies_back():
    X = values(500)
    reference = np.array([0, 1, 2, 5, 255, 0], np.uint8)
    for ref in (None, reference):
        logits = Categorical.marginal_logits(count_values(X, K), 0.5, ref)
        p = Categorical(logits[None], starts(K), ref)
        for i, k in enumerate(K):
            wanted = (np.bincount(X[:, i], minlength=k) + 0.5) / (500 + 0.5 * k)
            np.testing.assert_allclose(p.probabilities(i)[0], wanted, rtol=1e-12)
    weight = np.random.default_rng(0).integers(1, 4, 500).astype(float)
    repeated = np.repeat(X, weight.astype(int), axis=0)
    for a, b in zip(count_values(X, K, weight), count_values(repeated, K), strict=True):
        np.testing.assert_allclose(a / 500, b / len(repeated), rtol=1e-12)
    ones = X[:, 1:2].sum(0, dtype=np.int64)
    np.testing.assert_allclose(
        Categorical.marginal_logits(count_values(X[:, 1:2], [2])), Bernoulli.marginal_logits(ones, 500), rtol=1e-13
    )
    assert Categorical.marginal_logits([np.array([7])]).size == 0


# ---- Mixtures of logistics


def mixture(n_values, dtype=np.float64, n_rows=40, n_features=3, K=4):
    rng = np.random.default_rng(n_values)
    parts = rng.normal(size=(n_rows, n_features, 3, K))
    parts[:, :, 2] -= 3
    parts[:5, :, 2] -= 10  # narrower than a bin
    return LogisticMixture(parts.reshape(n_rows, -1).astype(dtype), n_values, K)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_values", [1, 2, 3, 256, 65536])
def test_interval_of_a_mixture_is_where_the_sampler_gives_x(n_values, dtype):
    p = mixture(n_values, dtype)
    u = np.random.default_rng(1).random((40, 3))
    x = p.sample(u)
    low, width = p.interval(x)
    assert ((low <= u) & (u < low + width)).all()
    tolerance = {"rtol": 2e-4, "atol": 1e-9} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-11}
    np.testing.assert_allclose(width, np.exp(p.log_prob(x, per_variable=True)), **tolerance)
    inner = low > 0
    assert np.array_equal(p.sample(np.where(inner, low, 2.0**-53)), x)
    assert (p.sample(np.where(inner, np.nextafter(low, 0), 0.5))[inner] < x[inner]).all()
    end = np.where(x == n_values - 1, 1.0, p.interval(np.minimum(x + 1, n_values - 1))[0])
    assert np.array_equal(p.sample(np.nextafter(end, 0)), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_intervals_of_a_mixture_fill_the_unit(dtype):
    p = mixture(256, dtype, n_rows=3)
    upto = np.zeros((3, 3))
    for v in range(256):
        low, width = p.interval(np.full((3, 3), v, np.int32))
        np.testing.assert_allclose(low, upto, atol=1e-15)
        upto = low + width
    assert (upto == 1).all()


@pytest.mark.parametrize("n_values", [1, 2, 256, 5000])
def test_mean_of_a_mixture(n_values):
    p = mixture(n_values, n_rows=4)
    want = np.zeros((4, 3))
    for v in range(n_values):
        want += v * np.exp(p.log_prob(np.full((4, 3), v, np.int32), per_variable=True))
    np.testing.assert_allclose(p.mean, want, rtol=1e-10)


def test_a_mixture_has_its_own_floor():
    parameters = np.array([[0.0, 0.0, -30.0]])
    half = np.full((1, 1), 0.3)
    assert LogisticMixture(parameters, 256, 1).interval(np.full((1, 1), 127, np.int32))[1] < 0.5
    narrow = LogisticMixture(parameters, 3, 1, log_scale_min=-30.0)
    x = np.full((1, 1), 1, np.int32)
    assert narrow.log_prob(x) == 0
    assert [a.item() for a in narrow.interval(x)] == [pytest.approx(0, abs=1e-300), 1.0]
    assert narrow.sample(half) == 1


# ---- Codes at the border


def test_codes_of_any_layout_and_dtype():
    X = values()
    for dtype in (np.uint8, np.int8, np.int64, np.uint16, np.float32, np.float64):
        small = np.minimum(X, 100)
        codes = as_codes(small.astype(dtype), [256] * len(K))
        assert codes.dtype == np.uint8
        assert codes.flags.c_contiguous
        assert np.array_equal(codes, small)
    assert np.array_equal(as_codes(X, K), X)
    assert np.array_equal(as_codes(np.asfortranarray(X), K), X)
    assert np.array_equal(as_codes(X.tolist(), K, n_features=6), X)
    assert np.array_equal(as_codes(X), X)
    assert np.array_equal(as_codes(X[:, :1] > 0, 2), np.zeros((40, 1)))
    assert as_codes(np.zeros((0, 6)), K).shape == (0, 6)


OUTSIDE = " values outside the integers 0 .. K - 1 of their columns (first: "


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([[0, 1, 2], [0, 2, 3]], "X has 1 … 3 at row 1, column 2, where K = 3)"),
        ([[0.0, 0.5, 1.0]], "X has 1 … 0.5 at row 0, column 1, where K = 3)"),
        ([[0, -1, 300]], "X has 2 … -1 at row 0, column 1, where K = 3)"),
        ([[0.0, -1.0, 256.0]], "X has 2 … -1.0 at row 0, column 1, where K = 3)"),
        ([[1, 256, 2**60 + 1]], "X has 3 … 1 at row 0, column 0, where K = 1)"),
        ([[0.0, np.nan, 1.0]], "X contains NaN or infinity (first: nan at row 0, column 1)"),
        ([[0.0, 1.0, np.inf]], "X contains NaN or infinity (first: inf at row 0, column 2)"),
        ([[0, 1]], "X has 2 features, but the model is expecting 3 features"),
        ([0, 1, 2], "X must be 2-d"),
    ],
)  # fmt: skip
def test_what_is_no_code_is_an_error(X, message):
    with pytest.raises(ValueError, match="^" + re.escape(message.replace(" … ", OUTSIDE))):
        as_codes(X, [1, 3, 3], n_features=3)


def test_a_number_of_values_for_each_column():
    with pytest.raises(ValueError, match="X has 2 features, but the model is expecting 3 features"):
        as_codes(np.zeros((4, 2)), [1, 3, 3])
    with pytest.raises(ValueError, match=r"given has 1 values outside .* where K = 2"):
        as_codes([[0, 1], [1, 2]], 2, name="given")
