"""Discretized mixtures of logistics against tests/reference/logistic_mixture.py, and against what they must satisfy."""

import re

import numpy as np
import pytest
from chainrule import kernels
from checking import assert_same_bits, by_dtype, entry
from reference import logistic_mixture as reference
from reference.nade import padded

C = 8.0  # errors stay below C * eps times the size of what was added up; measured: 6
# Components, variables and rows around the width of a vector (8, 16), of a block of the transpose (4, 8), of a piece.
SHAPES = {
    "one": (1, 1, 1),
    "audio": (10, 1, 300),
    "pixels": (10, 37, 9),
    "wide": (5, 300, 3),
    "K = 2": (2, 7, 5),
    "K = 3": (3, 8, 3),
    "K = 16": (16, 17, 2),
    "K = 64": (64, 3, 7),
    "no rows": (3, 4, 0),
    "no variables": (3, 0, 5),
}
by_shape = pytest.mark.parametrize("shape", SHAPES)
by_levels = pytest.mark.parametrize("N", [1, 2, 3, 256, 65536])


def problem(K, n, m, N, dtype=np.float64, seed=0, spread=1.0):
    """parameters, x: means on the scale, scales from well below a bin to wider than the scale, x near some mean."""
    rng = np.random.default_rng([seed, K, n, m, N])
    parts = np.empty((m, n, 3, K))
    parts[:, :, 0] = rng.normal(size=(m, n, K)) * 2
    parts[:, :, 1] = rng.normal(size=(m, n, K)) * 0.7 * spread
    parts[:, :, 2] = rng.uniform(-np.log(max(N, 2)) - 3, 1.5, size=(m, n, K)) * spread
    near = (parts[:, :, 1, 0] + 1) / 2 * (N - 1) + rng.normal(size=(m, n)) * rng.choice([1, 30], size=(m, n))
    x = np.where(rng.random((m, n)) < 0.7, np.rint(near), rng.integers(0, N, (m, n)))
    x = np.where(rng.random((m, n)) < 0.2, rng.choice([0, N - 1], size=(m, n)), x)
    return parts.reshape(m, 3 * K * n).astype(dtype), np.clip(x, 0, N - 1).astype(np.int32)


def magnitude(parameters, x, N, K, floor):
    """Of the numbers that a gradient by means and by log-scales adds up: 1, 1 / s and 1 + |b|, as parameters."""
    _, mean, log_scale, _ = reference.split(parameters, K, floor)
    size = np.ones((*x.shape, 3, K))
    if N > 1:
        b, a, _ = reference.edges(x, N, mean, log_scale)
        size[:, :, 1], size[:, :, 2] = np.maximum(np.exp(-log_scale), 1e-30), 1 + np.minimum(np.abs(b), np.abs(a))
    terms = np.maximum(1, -reference.log_prob(parameters, x, N, K, floor))  # a share's exponent has that many units
    return (size * terms[:, :, None, None]).reshape(parameters.shape)


@by_dtype
@by_shape
@by_levels
def test_log_prob(shape, N, dtype):
    K, n, m = SHAPES[shape]
    p, x = problem(K, n, m, N, dtype)
    floor = kernels.default_log_scale_min(N)
    want = reference.log_prob(p, x, N, K, floor)
    terms = kernels.logistic_mixture_log_prob(p, x, N, K, per_variable=True)
    assert (terms.dtype, terms.shape) == (np.float64, (m, n))
    assert (terms <= 0).all()
    if want.size:
        assert (np.abs(terms - want) / np.maximum(1, -want)).max() <= C * np.finfo(dtype).eps
    total = kernels.logistic_mixture_log_prob(p, x, N, K)
    np.testing.assert_allclose(total, terms.sum(1), rtol=1e-12, atol=1e-12)
    for n_threads in (1, 3):
        assert_same_bits(total, kernels.logistic_mixture_log_prob(p, x, N, K, n_threads=n_threads))
    wide = (padded(p, p.shape[1] + 3, np.nan), padded(x, n + 5, 70000))
    assert_same_bits(total, kernels.logistic_mixture_log_prob(*wide, N, K))
    for r in range(min(m, 3)):
        row = slice(r, r + 1)
        assert_same_bits(total[row], kernels.logistic_mixture_log_prob(p[row], x[row], N, K))


@by_dtype
@by_shape
@by_levels
def test_gradient(shape, N, dtype):
    K, n, m = SHAPES[shape]
    p, x = problem(K, n, m, N, dtype)
    floor = kernels.default_log_scale_min(N)
    weight = np.random.default_rng(m).normal(size=m).astype(dtype)
    total, d = kernels.logistic_mixture_gradient(p, x, N, K, weight=weight)
    assert (d.dtype, d.shape) == (dtype, p.shape)
    if d.size:
        size = magnitude(p, x, N, K, floor) * np.maximum(np.abs(weight), 1e-3)[:, None]
        error = np.abs(d - reference.gradient(p, x, N, K, floor, weight)) / size
        assert error.max() <= C * np.finfo(dtype).eps
    assert_same_bits(total, kernels.logistic_mixture_log_prob(p, x, N, K))
    for n_threads in (1, 3):
        assert_same_bits(d, kernels.logistic_mixture_gradient(p, x, N, K, weight=weight, n_threads=n_threads)[1])
    in_place = p.copy()
    assert kernels.logistic_mixture_gradient(in_place, x, N, K, weight=weight, out=in_place)[1] is in_place
    assert_same_bits(d, in_place)
    out = np.full((m, p.shape[1] + 4), 7, dtype)
    inside = np.s_[2 : p.shape[1] + 2]
    kernels.logistic_mixture_gradient(padded(p, p.shape[1] + 1, np.nan), x, N, K, weight=weight, out=out[:, inside])
    assert_same_bits(d, out[:, inside])
    assert (np.delete(out, inside, axis=1) == 7).all()
    for r in range(min(m, 3)):
        row = slice(r, r + 1)
        alone = kernels.logistic_mixture_gradient(p[row], x[row], N, K, weight=weight[row])
        assert_same_bits(d[row], alone[1])
    each = np.full(m, 1 / max(m, 1)).astype(dtype)
    by_default = kernels.logistic_mixture_gradient(p, x, N, K)[1]
    assert_same_bits(by_default, kernels.logistic_mixture_gradient(p, x, N, K, weight=each)[1])


@pytest.mark.parametrize("N", [2, 3, 256, 65536])
def test_gradient_equals_central_differences(N):
    K, n, m = 4, 3, 6
    p, x = problem(K, n, m, N, spread=0.7)
    x[0], x[1] = 0, N - 1
    weight = np.linspace(0.5, 2, m)
    _, d = kernels.logistic_mixture_gradient(p, x, N, K, weight=weight, log_scale_min=-20)
    part = np.tile(np.repeat(np.arange(3), K), n)
    scales = np.exp(p.reshape(m, n, 3, K)[:, :, 2])
    for k in range(p.shape[1]):
        step = np.full(m, 1e-5) if part[k] != 1 else 1e-5 * np.minimum(1, scales[:, k // (3 * K), k % K])
        up, down = (
            kernels.logistic_mixture_log_prob(
                p + s * step[:, None] * (np.arange(p.shape[1]) == k), x, N, K, log_scale_min=-20
            )
            for s in (1, -1)
        )
        moved = (p[:, k] + step) - (p[:, k] - step)
        slope = -weight * (up - down) / moved
        unit = np.maximum(1, np.abs(slope)) if part[k] != 1 else 1 / np.minimum(1, scales[:, k // (3 * K), k % K])
        assert (np.abs(d[:, k] - slope) / unit).max() < 1e-6 * max(1, N / 256), k


@pytest.mark.parametrize("N", [1, 2, 3, 256])
@pytest.mark.parametrize("mean", [0.0, 0.3, -1.0, 1.0, -1.4, 30.0, -1e4, 1e15])
@pytest.mark.parametrize("log_scale", [-30.0, -12.0, -7.0, -5.5, -3.0, 0.0, 3.0, 30.0, 300.0])
def test_probabilities_sum_to_one(N, mean, log_scale):
    """In double, to 1e-10: narrow and wide components, on the scale, at its ends and far off, and mixed."""
    x = np.arange(N, dtype=np.int32)[:, None]
    one = np.tile([1.5, mean, log_scale], (N, 1))
    p = np.exp(kernels.logistic_mixture_log_prob(one, x, N, 1, log_scale_min=-40))
    assert abs(p.sum() - 1) < 1e-10
    three = np.tile([1.5, 0, -2, mean, 0.1, -0.9, log_scale, -4.4, -2], (N, 1))
    p = np.exp(kernels.logistic_mixture_log_prob(three, x, N, 3, log_scale_min=-40))
    assert abs(p.sum() - 1) < 1e-10
    single = np.exp(kernels.logistic_mixture_log_prob(three.astype(np.float32), x, N, 3, log_scale_min=-40))
    assert abs(single.sum() - 1) < 1e-5


@by_dtype
def test_probabilities_of_audio_sum_to_one(dtype):
    N, K = 65536, 10
    x = np.arange(N, dtype=np.int32)[:, None]
    for seed in range(3):
        p, _ = problem(K, 1, 1, N, dtype, seed)
        total = np.exp(kernels.logistic_mixture_log_prob(np.repeat(p, N, axis=0), x, N, K)).sum()
        assert abs(total - 1) < (1e-10 if dtype == np.float64 else 1e-5)


@by_dtype
@pytest.mark.parametrize("N", [2, 256, 65536])
def test_extremes_stay_exact_and_finite(N, dtype):
    """Means far off the scale, scales whose exponential under- or overflows: exact logs, finite gradients."""
    means = [0, 1, -1, 1e3, -1e8, 1e15]
    scales = [-40, -12, -3, 0, 5, 50, 88, 100, 700, 1e4]
    values = sorted({0, 1, N // 2, N - 2, N - 1})
    grid = np.array([(1, u, s, v) for u in means for s in scales for v in values])
    p, x = np.ascontiguousarray(grid[:, :3], dtype), grid[:, 3:].astype(np.int32)
    total, d = kernels.logistic_mixture_gradient(p, x, N, 1, weight=np.ones(len(p), dtype), log_scale_min=-40)
    want = reference.log_prob(p, x, N, 1, -40)[:, 0]
    assert np.isfinite(total).all()
    assert np.isfinite(d).all()
    assert (np.abs(total - want) / np.maximum(1, -want)).max() <= C * np.finfo(dtype).eps
    size = magnitude(p, x, N, 1, -40)
    error = np.abs(d - reference.gradient(p, x, N, 1, -40, np.ones(len(p)))) / size
    assert error.max() <= C * np.finfo(dtype).eps
    # Pairs of them: the far one neither disturbs nor dies.
    pair = np.stack([p, np.roll(p, 7, axis=0)], axis=2).reshape(len(p), 6)
    total, d = kernels.logistic_mixture_gradient(pair, x, N, 2, log_scale_min=-40)
    want = reference.log_prob(pair, x, N, 2, -40)[:, 0]
    assert (np.abs(total - want) / np.maximum(1, -want)).max() <= C * np.finfo(dtype).eps
    assert np.isfinite(d).all()


@by_dtype
def test_a_mean_at_infinity_is_far(dtype):
    big = np.finfo(dtype).max
    for mean, scale in [(big, 500), (-big, -40), (np.inf, 500), (-np.inf, 0)]:
        p = np.array([[0, mean, scale]], dtype)
        for v in (0, 100, 255):
            total, d = kernels.logistic_mixture_gradient(p, np.full((1, 1), v, np.int32), 256, 1, log_scale_min=-40)
            assert np.isfinite(total).all()
            assert np.isfinite(d).all()


@by_dtype
def test_components_that_are_off(dtype):
    """A logit of -inf takes its component out, to the last bit of the others' gradient."""
    p, x = problem(3, 1, 40, 256, dtype)
    p[:, 1] = -np.inf
    rest = np.delete(p, [1, 4, 7], axis=1)
    total, d = kernels.logistic_mixture_gradient(p, x, 256, 3)
    want, of_rest = kernels.logistic_mixture_gradient(np.ascontiguousarray(rest), x, 256, 2)
    assert_same_bits(total, want)
    assert_same_bits(np.delete(d, [1, 4, 7], axis=1), of_rest)
    assert not d[:, [1, 4, 7]].any()


@by_dtype
def test_the_floor(dtype):
    p = np.array([[0.3, 0.1, -9.0], [0.3, 0.1, -7.0], [0.3, 0.1, -6.9]], dtype)
    x = np.full((3, 1), 140, np.int32)
    total, d = kernels.logistic_mixture_gradient(p, x, 256, 1)
    assert total[0] == total[1] != total[2]
    assert d[0, 2] == 0
    assert (d[1:, 2] != 0).all()
    assert kernels.default_log_scale_min(2) == kernels.default_log_scale_min(256) == -7.0
    assert kernels.default_log_scale_min(65536) == pytest.approx(-7 - np.log(65535 / 255), abs=1e-14)
    assert kernels.logistic_mixture_log_prob(p[:1], x[:1], 256, 1, log_scale_min=-9) == pytest.approx(
        reference.log_prob(p[:1], x[:1], 256, 1, -9)[0, 0], abs=1e-6
    )


@by_dtype
@pytest.mark.parametrize("N", [2, 256])
def test_nan_stays_in_its_variable(N, dtype):
    K, n = 3, 5
    p, x = problem(K, n, 3 * K, N, dtype)
    x[:3], x[3:6] = 0, N - 1
    at = 3 * K * 2 + np.arange(3 * K)
    p[np.arange(3 * K), at] = np.nan
    terms = kernels.logistic_mixture_log_prob(p, x, N, K, per_variable=True)
    assert np.isnan(terms[:, 2]).all()
    assert not np.isnan(np.delete(terms, 2, axis=1)).any()
    total, d = kernels.logistic_mixture_gradient(p, x, N, K)
    assert np.isnan(total).all()
    assert np.isnan(d[np.arange(3 * K), at]).all()
    assert not np.isnan(np.delete(d, at, axis=1)).any()
    drawn = kernels.logistic_mixture_sample(p, np.full((3 * K, n), 0.5), N, K)
    assert ((drawn >= 0) & (drawn < N)).all()


# ---- The sampler


@by_dtype
@by_shape
@pytest.mark.parametrize("N", [1, 2, 3, 5, 256])
def test_sample_is_the_inverse_of_the_enumerated_distribution(shape, N, dtype):
    K, n, m = SHAPES[shape]
    p, _ = problem(K, n, m, N, dtype)
    u = np.random.default_rng(m).random((m, n))
    drawn = kernels.logistic_mixture_sample(p, u, N, K)
    assert (drawn.dtype, drawn.shape) == (np.int32, (m, n))
    if drawn.size:
        F = reference.distribution(p, N, K, kernels.default_log_scale_min(N))
        F = np.concatenate([np.full((m, n, 1), -1.0), F], 2)
        at = drawn[..., None].astype(int)
        assert (u < np.take_along_axis(F, at + 1, 2)[..., 0] + 1e-12).all()
        assert (u >= np.take_along_axis(F, at, 2)[..., 0] - 1e-12).all()
    out = np.full((m, n + 4), 99, np.int32)
    view = out[:, 2 : n + 2]
    wide = (padded(p, p.shape[1] + 3, np.nan), padded(u, n + 1, np.nan))
    assert kernels.logistic_mixture_sample(*wide, N, K, out=view, n_threads=3) is view
    assert np.array_equal(view, drawn)
    assert (np.delete(out, np.s_[2 : n + 2], axis=1) == 99).all()
    for r in range(min(m, 3)):
        row = slice(r, r + 1)
        assert_same_bits(drawn[row], kernels.logistic_mixture_sample(p[row], u[row], N, K))


def test_sample_is_the_inverse_of_the_scorer():
    """The scorer's masses, added up, are the sampler's steps: 65536 of them too."""
    for N, tolerance in ((256, 1e-13), (65536, 1e-10)):
        p, _ = problem(10, 1, 1, N, seed=3)
        x = np.arange(N, dtype=np.int32)[:, None]
        F = np.cumsum(np.exp(kernels.logistic_mixture_log_prob(np.repeat(p, N, axis=0), x, N, 10)))
        u = kernels.uniforms((3, 4), 0, 4000)[:, None]
        drawn = kernels.logistic_mixture_sample(np.repeat(p, len(u), axis=0), u, N, 10)[:, 0]
        assert (u[:, 0] < F[drawn] + tolerance).all()
        assert (u[:, 0] >= np.where(drawn, F[drawn - 1], 0) - tolerance).all()


def test_sample_at_the_ends():
    p = np.array([[0.0, 0.0, -2.0]])
    for u, want in ((2.0**-53, 0), (1 - 2.0**-53, 255), (np.nextafter(0.5, 0), 127), (0.5, 128)):
        assert kernels.logistic_mixture_sample(p, np.array([[u]]), 256, 1)[0, 0] == want
    for mean, want in ((-5.0, 0), (5.0, 255)):
        far = np.array([[0.0, mean, -5.0]])
        assert kernels.logistic_mixture_sample(far, np.array([[0.5]]), 256, 1)[0, 0] == want


def test_samples_are_as_frequent_as_they_are_probable():
    N, K, n = 16, 3, 100_000
    p, _ = problem(K, 2, 1, N, seed=1)
    p.reshape(2, 3, K)[:, 2] = [-1.5, -2.5, -0.7]
    u = kernels.uniforms((1, 2), 0, 2 * n).reshape(n, 2)
    drawn = kernels.logistic_mixture_sample(np.repeat(p, n, axis=0), u, N, K)
    values = np.repeat(np.arange(N, dtype=np.int32)[:, None], 2, axis=1)
    expected = n * np.exp(kernels.logistic_mixture_log_prob(np.repeat(p, N, axis=0), values, N, K, per_variable=True))
    for i in range(2):
        count = np.bincount(drawn[:, i], minlength=N)
        chi2 = ((count - expected[:, i]) ** 2 / expected[:, i]).sum()
        assert chi2 < N - 1 + 4 * np.sqrt(2 * (N - 1))


# ---- The border


TWELVE = "parameters must have 3 * n_components = 12 columns for each variable, not "
BAD = {
    "x": [
        (lambda a: entry(a, 13, 256), ValueError, "x has values outside 0..255 (first: 256 at row 4, column 1)"),
        (lambda a: entry(a, 2, -1), ValueError, "x has values outside 0..255 (first: -1 at row 0, column 2)"),
        (lambda a: a[:, :2], ValueError, "x must be 2-d of shape (5, 3), not int32 of shape (5, 2)"),
        (lambda a: a.astype(np.uint8), TypeError, "x must be int32, not uint8"),
    ],
    "parameters": [
        (lambda a: a[:, :35], ValueError, TWELVE + "35 in all"),
        (lambda a: a[:, :3], ValueError, TWELVE + "3 in all"),
        (lambda a: a.astype(int), TypeError, "parameters must be float32 or float64, not int64"),
        (lambda a: a[::-1], ValueError, "parameters must have contiguous rows"),
        (lambda a: a[0], ValueError, "parameters must be 2-d of shape (any, any), not float64 of shape (36,)"),
    ],
    "n_values": [
        (lambda _: 0, ValueError, "n_values must be from 1 to 65536, not 0"),
        (lambda _: 65537, ValueError, "n_values must be from 1 to 65536, not 65537"),
    ],
    "n_components": [
        (lambda _: 0, ValueError, "n_components must be from 1 to 1024, not 0"),
        (lambda _: 5, ValueError, TWELVE.replace("12", "15") + "36 in all"),
    ],
    "log_scale_min": [
        (lambda _: -41.0, ValueError, "log_scale_min must be from -40 to 40, not -41.0"),
        (lambda _: np.nan, ValueError, "log_scale_min must be from -40 to 40, not nan"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "case"), [(name, k) for name, cases in BAD.items() for k in range(len(cases))])
def test_bad_argument(name, case):
    p, x = problem(4, 3, 5, 256)
    change, error, message = BAD[name][case]
    given = {"parameters": p, "x": x, "n_values": 256, "n_components": 4, "log_scale_min": -7.0}
    kernels.logistic_mixture_log_prob(**given)
    given[name] = change(given[name])
    with pytest.raises(error, match="^" + re.escape(message)):
        kernels.logistic_mixture_log_prob(**given)
    with pytest.raises(error, match="^" + re.escape(message)):
        kernels.logistic_mixture_gradient(**given)
    if name != "x":
        del given["x"]
        with pytest.raises(error, match="^" + re.escape(message)):
            kernels.logistic_mixture_sample(u=np.full((5, 3), 0.5), **given)


def test_bad_outputs():
    p, x = problem(4, 3, 5, 256)
    for out, error, message in (
        (np.empty((5, 35)), ValueError, "dparameters must be 2-d of shape (5, 36), not float64 of shape (5, 35)"),
        (np.empty((5, 36), np.float32), TypeError, "dparameters must be float64, not float32"),
    ):
        with pytest.raises(error, match="^" + re.escape(message)):
            kernels.logistic_mixture_gradient(p, x, 256, 4, out=out)
    memory = np.zeros(200)
    one, other = memory[:180].reshape(5, 36), memory[3:183].reshape(5, 36)
    with pytest.raises(ValueError, match=r"^dparameters must be the parameters themselves, or share no"):
        kernels.logistic_mixture_gradient(one, x, 256, 4, out=other)
    with pytest.raises(TypeError, match=r"^weight must be float64, not float32"):
        kernels.logistic_mixture_gradient(p, x, 256, 4, weight=np.ones(5, np.float32))
    with pytest.raises(ValueError, match=re.escape("u must be 2-d of shape (5, 3)")):
        kernels.logistic_mixture_sample(p, np.zeros((5, 4)), 256, 4)
    with pytest.raises(TypeError, match=r"^out must be int32, not uint8"):
        kernels.logistic_mixture_sample(p, np.full((5, 3), 0.5), 256, 4, out=np.empty((5, 3), np.uint8))
