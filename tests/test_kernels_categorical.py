"""Categorical conditionals and Bernoulli's gradient against tests/reference/."""

import re
import subprocess

import numpy as np
import pytest
from chainrule import kernels
from checking import C, assert_each_close, assert_same_bits, by_dtype, entry
from reference import bernoulli as reference_bernoulli
from reference import categorical as reference
from reference.nade import padded, random_bits
from test_mutation import COMPILER, FLAGS, ISA, SOURCE, TESTS

MIXED = [1, 2, 3, 17, 256, 2, 1, 5, 4, 1]
# Logits around the width of a vector (8, 16) and of a pair of them, and columns around it.
CARDINALITIES = {
    "none": [],
    "constants": [1, 1, 1],
    "a bit": [2],
    **{f"{n} logits": [n + 1] for n in (7, 8, 9, 15, 16, 17, 31, 32, 33, 255)},
    **{f"{n} bits": [2] * n for n in (7, 8, 9, 15, 16, 17, 33)},
    "threes": [3] * 17,
    "mixed": MIXED,
    "many": [2 + k % 9 for k in range(150)],
}
by_case = pytest.mark.parametrize("case", CARDINALITIES)


def problem(cardinalities, m, dtype=np.float64, scale=3.0, seed=0):
    """logits, x, first, reference."""
    rng = np.random.default_rng([seed, m, len(cardinalities)])
    K = np.array(cardinalities, int)
    first = np.concatenate([[0], np.cumsum(K - 1)]).astype(np.uint32)
    z = (rng.normal(size=(m, first[-1])) * scale).astype(dtype)
    x, reference = (rng.integers(0, K, size).astype(np.uint8) for size in ((m, len(K)), len(K)))
    return z, x, first, reference


@by_dtype
@by_case
@pytest.mark.parametrize("with_reference", [False, True], ids=["", "reference"])
def test_log_prob(case, dtype, with_reference):
    for m in (0, 1, 3, 40):
        z, x, first, ref = problem(CARDINALITIES[case], m, dtype)
        ref = ref if with_reference else None
        want = reference.log_prob(z, x, first, ref)
        terms = kernels.categorical_log_prob(z, x, first, reference=ref, per_variable=True)
        assert_each_close(terms, want, dtype)
        assert (terms <= 0).all()
        total = kernels.categorical_log_prob(z, x, first, reference=ref)
        assert (total.dtype, total.shape) == (np.float64, (m,))
        assert_each_close(total, want.sum(1), dtype, x.shape[1])
        for n_threads in (1, 3):
            assert_same_bits(total, kernels.categorical_log_prob(z, x, first, reference=ref, n_threads=n_threads))
        wide = (padded(z, z.shape[1] + 3, np.nan), padded(x, x.shape[1] + 5, 255))
        assert_same_bits(total, kernels.categorical_log_prob(*wide, first, reference=ref))
        for r in range(min(m, 3)):
            row = slice(r, r + 1)
            assert_same_bits(total[row], kernels.categorical_log_prob(z[row], x[row], first, reference=ref))
    assert case != "constants" or not terms.any()


@by_dtype
@by_case
@pytest.mark.parametrize("options", [set(), {"reference", "weight"}], ids=["", "reference, weight"])
def test_gradient(case, dtype, options):
    for m in (0, 1, 3, 40):
        z, x, first, ref = problem(CARDINALITIES[case], m, dtype)
        weight = np.random.default_rng(m).normal(size=m).astype(dtype)
        extra = {k: v for k, v in (("reference", ref), ("weight", weight)) if k in options}
        total, d = kernels.categorical_gradient(z, x, first, **extra)
        assert (d.dtype, d.shape) == (dtype, z.shape)
        scale = 1 if "weight" in options else max(m, 1)  # values are at least 1, or errors absolute
        assert_each_close(d * scale, reference.gradient(z, x, first, **extra) * scale, dtype)
        of_rows = {"reference": extra.get("reference")}
        assert_same_bits(total, kernels.categorical_log_prob(z, x, first, **of_rows))
        for n_threads in (1, 3):
            assert_same_bits(d, kernels.categorical_gradient(z, x, first, **extra, n_threads=n_threads)[1])
        in_place = z.copy()
        assert kernels.categorical_gradient(in_place, x, first, **extra, out=in_place)[1] is in_place
        assert_same_bits(d, in_place)
        out = np.full((m, z.shape[1] + 4), 7, dtype)
        inside = np.s_[2 : z.shape[1] + 2]
        kernels.categorical_gradient(padded(z, z.shape[1] + 1, np.nan), x, first, **extra, out=out[:, inside])
        assert_same_bits(d, out[:, inside])
        assert (np.delete(out, inside, axis=1) == 7).all()
        if "weight" in options:
            for r in range(min(m, 3)):
                row = slice(r, r + 1)
                alone = kernels.categorical_gradient(z[row], x[row], first, reference=ref, weight=weight[row])
                assert_same_bits(d[row], alone[1])


def test_gradient_equals_central_differences():
    z, x, first, ref = problem(MIXED, 4, scale=1.0)
    weight, step = np.array([0.5, -1.0, 2.0, 0.25]), 1e-6
    _, d = kernels.categorical_gradient(z, x, first, reference=ref, weight=weight)
    for k in range(z.shape[1]):
        up, down = (z + s * step * (np.arange(z.shape[1]) == k) for s in (1, -1))
        rise = kernels.categorical_log_prob(up, x, first, reference=ref) - kernels.categorical_log_prob(
            down, x, first, reference=ref
        )
        np.testing.assert_allclose(d[:, k], -weight * rise / (2 * step), rtol=1e-6, atol=1e-7)


@by_dtype
@by_case
@pytest.mark.parametrize("with_reference", [False, True], ids=["", "reference"])
def test_sample(case, dtype, with_reference):
    for m in (0, 1, 3, 40):
        z, x, first, ref = problem(CARDINALITIES[case], m, dtype)
        ref = ref if with_reference else None
        u = np.random.default_rng(m).random(x.shape)
        drawn = kernels.categorical_sample(z, u, first, reference=ref)
        assert (drawn.dtype, drawn.shape) == (np.uint8, x.shape)
        for i, F in enumerate(reference.distribution(z, first, ref)):
            below = np.concatenate([np.full((m, 1), -1.0), F[:, :-1]], axis=1)
            rows, v = np.arange(m), drawn[:, i]
            assert (v < F.shape[1]).all()
            assert (u[:, i] < F[rows, v] + 1e-13).all()
            assert (u[:, i] > below[rows, v] - 1e-13).all()
        out = np.full((m, x.shape[1] + 4), 99, np.uint8)
        view = out[:, 2 : x.shape[1] + 2]
        wide = (padded(z, z.shape[1] + 3, np.nan), padded(u, x.shape[1] + 1, np.nan))
        assert kernels.categorical_sample(*wide, first, reference=ref, out=view, n_threads=3) is view
        assert np.array_equal(view, drawn)
        assert (np.delete(out, np.s_[2 : x.shape[1] + 2], axis=1) == 99).all()
        for r in range(min(m, 3)):
            row = slice(r, r + 1)
            assert_same_bits(drawn[row], kernels.categorical_sample(z[row], u[row], first, reference=ref))


def test_sample_at_the_edges():
    """F of the values 0, 1, 2, 3 is 2/8, 3/8, 4/8, 8/8: either side of each step, then the ends of (0, 1)."""
    first, ref = np.array([0, 3], np.uint32), np.array([3], np.uint8)
    z = np.log([[0.25, 0.25, 0.5]])  # codes 1, 2, 3 are the values 1, 2, 0, beside value 3 of logit 0
    for v, edge in enumerate([0.25, 0.375, 0.5]):
        for u, want in ((edge * (1 - 1e-14), v), (edge * (1 + 1e-14), v + 1)):
            assert kernels.categorical_sample(z, np.array([[u]]), first, reference=ref)[0, 0] == want
    half = np.zeros((1, 1))
    bit = np.array([0, 1], np.uint32)
    assert kernels.categorical_sample(half, np.array([[0.5]]), bit)[0, 0] == 1
    assert kernels.categorical_sample(half, np.array([[np.nextafter(0.5, 0)]]), bit)[0, 0] == 0
    smallest, largest = 2.0**-53, 1 - 2.0**-53
    z, x, first, ref = problem(MIXED, 50, scale=10.0)
    low = kernels.categorical_sample(z, np.full(x.shape, smallest), first, reference=ref)
    high = kernels.categorical_sample(z, np.full(x.shape, largest), first, reference=ref)
    for i, F in enumerate(reference.distribution(z, first, ref)):
        assert (np.take_along_axis(F, low[:, i : i + 1].astype(int), 1) > smallest / 2).all()
        assert (1 - np.take_along_axis(F, high[:, i : i + 1].astype(int), 1) < 1e-12).all()


def test_rare_values_keep_their_frequency_in_float32():
    first = np.array([0, 2], np.uint32)
    z = np.array([[0.0, -30.0]], np.float32)
    rare = float(np.exp(-30.0)) / 2
    assert kernels.categorical_sample(z, np.array([[1 - 2 * rare]]), first)[0, 0] == 1
    assert kernels.categorical_sample(z, np.array([[1 - rare / 2]]), first)[0, 0] == 2


def test_samples_are_as_frequent_as_they_are_probable():
    z, _, first, ref = problem([2, 3, 17], 1)
    n = 100_000
    u = kernels.uniforms((1, 2), 0, 3 * n).reshape(n, 3)
    drawn = kernels.categorical_sample(np.repeat(z, n, axis=0), u, first, reference=ref)
    for i, log_p in enumerate(reference.columns(z, first, ref)):
        expected = n * np.exp(log_p[0])
        count = np.bincount(drawn[:, i], minlength=len(expected))
        chi2 = ((count - expected) ** 2 / expected).sum()
        assert chi2 < len(expected) - 1 + 4 * np.sqrt(2 * (len(expected) - 1))


@pytest.mark.skipif(ISA is None or COMPILER is None or not SOURCE.is_dir(), reason="needs the sources and a compiler")
@pytest.mark.parametrize("precision", [32, 64])
def test_one_variable_at_a_time_draws_the_same(precision, tmp_path):
    """The function in the header that no kernel of its own shows: fused samplers call it."""
    program = tmp_path / "draw"
    sources = [TESTS / "kernels/draw.cpp", SOURCE / "runtime/parallel.cpp"]
    defines = [f"-DCHAINRULE_ISA={ISA}", f"-DCHAINRULE_PRECISION={precision}"]
    arithmetic = ["-std=gnu++20", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fwrapv"]
    includes = [f"-I{SOURCE}", f"-I{SOURCE}/include"]
    subprocess.run(
        [COMPILER, *arithmetic, *FLAGS, *defines, *includes, *sources, "-pthread", "-o", program], check=True
    )
    assert subprocess.run([program], check=True, capture_output=True, text=True).stdout == "0\n"


@by_dtype
def test_two_values_are_a_bit(dtype):
    z, x, first, _ = problem([2] * 37, 50, dtype, scale=10.0)
    terms = kernels.categorical_log_prob(z, x, first, per_variable=True)
    assert_each_close(terms, kernels.bernoulli_log_prob(z, x, per_variable=True), dtype)
    (_, d), (_, e) = kernels.categorical_gradient(z, x, first), kernels.bernoulli_gradient(z, x)
    assert np.abs(d - e).max() * 50 <= C * np.finfo(dtype).eps
    flipped = kernels.categorical_log_prob(-z, x, first, reference=np.ones(37, np.uint8), per_variable=True)
    assert_each_close(flipped, terms, dtype)
    u = np.random.default_rng(0).random(x.shape)
    assert np.array_equal(kernels.categorical_sample(z, u, first), kernels.bernoulli_sample(z, u))


@by_dtype
def test_the_extremes(dtype):
    """Logits that overflow an exponential give finite answers; NaN stays in its column."""
    first = np.array([0, 2, 3], np.uint32)
    big = 1e4
    z = np.array(
        [[big, -big, 0], [-big, -big, 0], [big, big, 0], [-np.inf, 0, 0], [np.nan, 0, 0], [0, np.nan, 0]], dtype
    )
    terms = [
        kernels.categorical_log_prob(z, np.full((6, 2), [v, 0], np.uint8), first, per_variable=True) for v in range(3)
    ]
    by_value = np.stack([t[:, 0] for t in terms], axis=1)
    log2 = -np.log(2)
    want = [[-big, 0, -2 * big], [0, -big, -big], [-big + log2, log2, log2], [log2, -np.inf, log2]]
    np.testing.assert_allclose(by_value[:4], want, rtol=1e-6)
    assert np.isnan(by_value[4:]).all()
    assert_each_close(terms[0][:, 1], np.full(6, log2), dtype)
    _, d = kernels.categorical_gradient(z, np.zeros((6, 2), np.uint8), first, weight=np.ones(6, dtype))
    np.testing.assert_allclose(d[:4, :2], [[1, 0], [0, 0], [0.5, 0.5], [0, 0.5]], atol=1e-6)
    assert np.isnan(d[4:, :2]).all()
    assert (d[:, 2] == 0.5).all()
    assert (
        kernels.categorical_sample(z[4:], np.full((2, 2), 0.25), first) == [[2, 0], [2, 0]]
    ).all()  # no value is less wrong


# ---- Bernoulli's gradient


@by_dtype
@pytest.mark.parametrize("n", [0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 67, 1000])
def test_bernoulli_gradient(n, dtype):
    for m in (0, 1, 5, 33):
        rng = np.random.default_rng([m, n])
        z = (rng.normal(size=(m, n)) * 5).astype(dtype)
        x = random_bits(rng, m, n, p=0.5)
        weight = rng.normal(size=m).astype(dtype)
        p = 1 - reference_bernoulli.p_zero(z)
        total, d = kernels.bernoulli_gradient(z, x)
        assert_each_close(d * max(m, 1), p - x, dtype)
        assert_same_bits(total, kernels.bernoulli_log_prob(z, x))
        total, d = kernels.bernoulli_gradient(z, x, weight=weight)
        assert_each_close(d, weight[:, None] * (p - x), dtype)
        assert_same_bits(d, weight[:, None] * (kernels.sigmoid(z) - x.astype(dtype)))
        for n_threads in (1, 3):
            assert_same_bits(d, kernels.bernoulli_gradient(z, x, weight=weight, n_threads=n_threads)[1])
        in_place = padded(z, n + 3, 7)
        kernels.bernoulli_gradient(in_place, padded(x, n + 5, 7), weight=weight, out=in_place)
        assert_same_bits(d, in_place)
        assert in_place.base is None or (in_place.base[:, n:] == 7).all()
        for r in range(min(m, 3)):
            row = slice(r, r + 1)
            assert_same_bits(d[row], kernels.bernoulli_gradient(z[row], x[row], weight=weight[row])[1])


def test_bernoulli_gradient_equals_central_differences():
    rng = np.random.default_rng(0)
    z, x, weight, step = rng.normal(size=(3, 21)), random_bits(rng, 3, 21, p=0.5), rng.normal(size=3), 1e-6
    _, d = kernels.bernoulli_gradient(z, x, weight=weight)
    up, down = (kernels.bernoulli_log_prob(z + s * step, x, per_variable=True) for s in (1, -1))
    np.testing.assert_allclose(d, -weight[:, None] * (up - down) / (2 * step), rtol=1e-6, atol=1e-8)


# ---- The border


OUTSIDE = "x has values outside those of their columns (first: 3 at row 4, column 1, which has 0..2)"
TOO_MANY = "first must give a column at most 256 values, which are 255 logits: entry 3 is 259 after 3"
NO_VALUE = "reference must be a value of each column: entry 1 is 3, column 1 has values 0..2"
BAD = {
    "x": [
        (lambda a: entry(a, 13, 3), ValueError, OUTSIDE),
        (lambda a: a[:, :2], ValueError, "x must be 2-d of shape (5, 3), not uint8 of shape (5, 2)"),
        (lambda a: a.astype(int), TypeError, "x must be uint8, not int64"),
    ],
    "logits": [
        (lambda a: a[:, :4], ValueError, "first must end at the number of logits, 4, not 5"),
        (lambda a: a.astype(int), TypeError, "logits must be float32 or float64, not int64"),
        (lambda a: a[::-1], ValueError, "logits must have contiguous rows"),
    ],
    "first": [
        (lambda a: a.astype(np.int32), TypeError, "first must be uint32, not int32"),
        (lambda a: a[:0], ValueError, "first must have an entry for each column and one more, not none"),
        (lambda a: a + np.uint32(1), ValueError, "first must start at 0, not 1"),
        (lambda a: entry(a, 1, 4), ValueError, "first must not decrease: entry 2 is 3 after 4"),
        (lambda a: entry(a, 3, 259), ValueError, TOO_MANY),
        (lambda a: entry(a, 3, 6), ValueError, "first must end at the number of logits, 5, not 6"),
    ],
    "reference": [
        (lambda a: entry(a, 1, 3), ValueError, NO_VALUE),
        (lambda a: a[:2], ValueError, "reference must be 1-d of length 3, not uint8 of shape (2,)"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "case"), [(name, k) for name, cases in BAD.items() for k in range(len(cases))])
def test_bad_argument(name, case):
    z, x, first, ref = problem([2, 3, 3], 5)
    change, error, message = BAD[name][case]
    given = {"logits": z, "x": x, "first": first, "reference": ref}
    kernels.categorical_log_prob(**given)
    given[name] = change(given[name])
    with pytest.raises(error, match="^" + re.escape(message)):
        kernels.categorical_log_prob(**given)
    with pytest.raises(error, match="^" + re.escape(message)):
        kernels.categorical_gradient(**given)
    if name != "x":
        del given["x"]
        with pytest.raises((error, ValueError), match="^(" + re.escape(message) + "|u must be 2-d)"):
            kernels.categorical_sample(u=np.full((5, 3), 0.5), **given)


def test_bad_outputs():
    z, x, first, ref = problem([2, 3, 3], 5)
    for out, error, message in (
        (np.empty((5, 4)), ValueError, "dlogits must be 2-d of shape (5, 5), not float64 of shape (5, 4)"),
        (np.empty((5, 5), np.float32), TypeError, "dlogits must be float64, not float32"),
        (np.empty((10, 5))[::2][::-1], ValueError, "dlogits must have contiguous rows"),
    ):
        with pytest.raises(error, match="^" + re.escape(message)):
            kernels.categorical_gradient(z, x, first, reference=ref, out=out)
    memory = np.zeros(100)
    one, other = memory[:25].reshape(5, 5), memory[3:28].reshape(5, 5)
    bits = np.zeros((5, 5), np.uint8)
    for call in (
        lambda: kernels.categorical_gradient(one, x, first, out=other),
        lambda: kernels.bernoulli_gradient(one, bits, out=other),
    ):
        with pytest.raises(ValueError, match=r"^dlogits must be the logits themselves, or share no memory with them"):
            call()
    with pytest.raises(ValueError, match=re.escape("x has values outside {0, 1} (first: 2 at row 1, column 0)")):
        kernels.bernoulli_gradient(one, entry(bits, 5, 2))
    with pytest.raises(TypeError, match=r"^weight must be float64, not float32"):
        kernels.bernoulli_gradient(one, bits, weight=np.ones(5, np.float32))
    with pytest.raises(ValueError, match=re.escape("weight must be 1-d of length 5")):
        kernels.categorical_gradient(z, x, first, weight=np.ones(4))
    with pytest.raises(ValueError, match=re.escape("u must be 2-d of shape (5, 3)")):
        kernels.categorical_sample(z, np.zeros((5, 4)), first)
