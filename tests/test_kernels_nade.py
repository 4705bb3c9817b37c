"""NADE's kernels against the equations (tests/reference/nade.py) and against the laws of docs/reproducibility.md."""

import itertools

import numpy as np
import pytest
from chainrule import kernels
from checking import DTYPES, C, assert_close, assert_same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import nade as reference
from reference.nade import padded, random_bits, random_model, random_order, states

ACTIVATIONS = ("sigmoid", "relu", "tanh")
NAMES = ["W", "V", "b", "c"]


def assert_gradient(got, want, tied, dtype, length, what=""):
    want = list(want)
    if tied:
        want[0], want[1] = want[0] + want[1], None  # all in dW; dV is not written
    for name, g, w in zip(NAMES, got, want, strict=True):
        if w is not None:
            assert_close(g, w, dtype, length, f"{what}: gradient of {name}")


# n_rows around the tiles of 4 and 8 and the chunks of 256, n_features around vectors, words of 32 and chunks of 256,
# n_hidden around vectors and blocks of vectors; together, not in every combination.
SIZES = [
    (0, 15, 16), (1, 16, 17), (3, 0, 5), (7, 1, 1), (8, 1, 0), (9, 17, 15), (23, 35, 35), (8, 257, 16), (300, 35, 17),
    (257, 17, 1), (9, 257, 100), (7, 600, 35), (1, 600, 1), (7, 257, 0), (0, 257, 100), (23, 64, 130),
]  # fmt: skip
VARIANTS = {
    "plain": (),
    "order": ("order",),
    "flip": ("flip",),
    "weights": ("weight",),
    "tied": ("tied",),
    "everything": ("order", "flip", "weight", "padded"),
    "tied everything": ("order", "flip", "weight", "tied", "padded"),
}


def problem(m, n, d, dtype, variant=(), seed=0):
    """Bits, a model (rows padded with NaN where asked), and the options that say how to read them."""
    rng = np.random.default_rng([seed, m, n, d])
    tied = "tied" in variant
    model = random_model(rng, n, d, dtype, tied=tied)
    options = {"order": random_order(rng, n) if "order" in variant else None}
    options["flip"] = random_bits(rng, n, p=0.5) if "flip" in variant else None
    x = random_bits(rng, m, n)
    if options["flip"] is not None:
        x ^= options["flip"]
    weight = rng.random(m).astype(dtype) if "weight" in variant else None
    if "padded" in variant:
        x = padded(x, n + 5, 7)
        W = padded(model[0], d + 3)
        model = (W, W if tied else padded(model[1], d + 19), *model[2:])
    return x, model, options, weight


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
def test_against_the_equations(size, activation, dtype):
    """Score, terms, logits, gradient and sample; every variant with the sigmoid, the fullest with the others."""
    m, n, d = size
    for name, variant in VARIANTS.items():
        if activation != "sigmoid" and "everything" not in name:
            continue
        x, model, options, weight = problem(m, n, d, dtype, variant)
        options["activation"] = activation
        logits = reference.logits(x, *model, **options)
        terms = -np.logaddexp(0.0, (1.0 - 2.0 * x) * logits)

        assert_close(kernels.nade_logits(x, *model, **options), logits, dtype, n + d + 1, f"{name}: logits")
        got = kernels.nade_score(x, *model, per_variable=True, **options)
        assert_close(got, terms, dtype, n + d + 1, f"{name}: terms")
        log_prob = kernels.nade_score(x, *model, **options)
        assert log_prob.dtype == np.float64
        assert_close(log_prob, terms.sum(1), dtype, n + d + 1, f"{name}: score")

        again, gradient = kernels.nade_gradient(x, *model, weight=weight, **options)
        assert_same_bits(again, log_prob, f"{name}: the gradient's log p")
        want = reference.gradient(x, *model, weight=weight, **options)
        assert_gradient(gradient, want, "tied" in variant, dtype, m + n + d + 1, name)

        u = np.random.default_rng(1).random((m, n))
        drawn = kernels.nade_sample(u, *model, **options)
        # Given what the kernel drew before, the equations draw the same, but where u lies within rounding of p.
        p_zero = reference.sigmoid(-reference.logits(drawn, *model, **options))
        order = np.arange(n) if options["order"] is None else options["order"]
        margin = u - p_zero[:, order]
        sure = np.abs(margin) > C * np.finfo(dtype).eps * np.sqrt(n + d + 1) * max(1, np.abs(logits).max(initial=0))
        assert np.array_equal(drawn[:, order][sure], (margin > 0)[sure]), f"{name}: sample"
        assert sure.mean() > 0.99 if sure.size else True


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    m=st.integers(0, 20), n=st.integers(0, 70), d=st.integers(0, 70), activation=st.sampled_from(ACTIVATIONS),
    dtype=st.sampled_from(DTYPES), variant=st.sets(st.sampled_from(["order", "flip", "weight", "tied", "padded"])),
    density=st.sampled_from([0.0, 0.02, 0.5, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_against_the_equations_at_any_shape(m, n, d, activation, dtype, variant, density, seed):
    _, model, options, weight = problem(m, n, d, dtype, variant, seed)
    x = random_bits(np.random.default_rng(seed), m, n, p=density)
    options["activation"] = activation
    assert_close(kernels.nade_logits(x, *model, **options), reference.logits(x, *model, **options), dtype, n + d + 1)
    log_prob, gradient = kernels.nade_gradient(x, *model, weight=weight, **options)
    assert_close(log_prob, reference.terms(x, *model, **options).sum(1), dtype, n + d + 1)
    want = reference.gradient(x, *model, weight=weight, **options)
    assert_gradient(gradient, want, "tied" in variant, dtype, m + n + d + 1)


# ---- Gradients


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradient_equals_central_differences(activation, tied):
    """Of the mean log-likelihood, for every single parameter, relative to the largest of its array: 1e-6."""
    rng = np.random.default_rng(5)
    m, n, d = 11, 7, 5
    model = random_model(rng, n, d, tied=tied)
    weight = rng.random(m)
    options = {"activation": activation, "order": random_order(rng, n), "flip": random_bits(rng, n, p=0.5)}
    x = random_bits(rng, m, n, p=0.5)
    _, gradient = kernels.nade_gradient(x, *model, weight=weight, **options)

    def loss(parameters):
        return -(weight * kernels.nade_score(x, *parameters, **options)).sum()

    step = 1e-5
    for k, name in enumerate(NAMES):
        if tied and name == "V":
            continue
        numeric = np.empty_like(model[k])
        for index in np.ndindex(model[k].shape):
            values = []
            for sign in (1, -1):
                moved = model[k].copy()
                moved[index] += sign * step
                values.append(loss([moved if p is model[k] else p for p in model]))
            numeric[index] = (values[0] - values[1]) / (2 * step)
        assert np.abs(gradient[k]).max() > 1e-3  # there is something to compare
        assert np.abs(gradient[k] - numeric).max() <= 1e-6 * np.abs(numeric).max(), name


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rows", ["digits", "half ones"])
def test_float32_gradient_does_not_drift(rows, activation, data):
    """At 784 x 500 within 1e-5 of float64: hidden states undone by subtraction drift here (systems.md, 2e)."""
    rng = np.random.default_rng(0)
    x = data("mnist_binary")["train"][:64] if rows == "digits" else random_bits(rng, 64, 784, p=0.5)
    n, d = 784, 500
    W, _, _, c = model = [(rng.normal(size=s) * 0.05).astype(np.float32) for s in ((n, d), (n, d), n, d)]
    if activation == "relu":  # a gate is open or shut: on this grid states are exact, and never 0, in both precisions
        W[...] = np.round(W * 1024) / 1024
        c[...] = np.round(c * 1024) / 1024 + 1 / 2048
    _, single = kernels.nade_gradient(x, *model, activation=activation)
    _, double = kernels.nade_gradient(x, *(p.astype(np.float64) for p in model), activation=activation)
    for name, s, t in zip(NAMES, single, double, strict=True):
        assert np.linalg.norm(s - t) <= 1e-5 * np.linalg.norm(t), name


def test_gradient_of_no_rows_is_zero():
    _, model, _, _ = problem(0, 40, 20, np.float32)
    out = tuple(np.full_like(p, np.nan) for p in model)
    log_prob, gradient = kernels.nade_gradient(np.empty((0, 40), np.uint8), *model, out=out)
    assert log_prob.shape == (0,)
    assert all((g == 0).all() for g in gradient)


def test_default_weight_is_the_mean():
    x, model, _, _ = problem(23, 40, 20, np.float64)
    for a, b in zip(
        kernels.nade_gradient(x, *model)[1],
        kernels.nade_gradient(x, *model, weight=np.full(23, 1 / 23))[1],
        strict=True,
    ):
        assert_same_bits(a, b)


# ---- The density


@pytest.mark.parametrize("flipped", [False, True], ids=["", "flip"])
@pytest.mark.parametrize("ordered", [False, True], ids=["", "order"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_density_sums_to_one(activation, ordered, flipped):
    rng = np.random.default_rng(3)
    n = 10
    W, V, b, c = random_model(rng, n, 13)
    options = {
        "order": random_order(rng, n) if ordered else None,
        "flip": random_bits(rng, n, p=0.5) if flipped else None,
    }
    log_prob = kernels.nade_score(states(n), W, 3 * V, b, c, activation=activation, **options)
    assert np.ptp(log_prob) > 5  # far from uniform
    assert abs(np.exp(log_prob).sum() - 1) <= 1e-10


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_conditional_sees_exactly_the_variables_before_it(activation, dtype):
    """Bit for bit: changing x_j changes the conditionals after it in the order, all of them, and no other."""
    n, d = 35, 33
    x, model, options, _ = problem(1, n, d, dtype, ("order", "flip"))
    rows = np.repeat(x, n + 1, axis=0)
    rows[np.arange(n), options["order"]] ^= 1  # row j: the j-th variable of the order is another
    logits = kernels.nade_logits(rows, *model, activation=activation, **options)[:, options["order"]]
    changed = logits[:n] != logits[n]
    assert np.array_equal(changed, np.triu(np.ones((n, n), bool), 1))


def test_bits_of_a_column_flipped_and_back():
    """flip says of which value the parameters speak: the density of x under flip f is that of x ^ f without."""
    x, model, options, _ = problem(23, 40, 20, np.float32, ("order", "flip"))
    plain = kernels.nade_logits(x ^ options["flip"], *model, order=options["order"])
    flipped = kernels.nade_logits(x, *model, **options)
    assert_same_bits(flipped, np.where(options["flip"] == 1, -plain, plain))
    assert_same_bits(
        kernels.nade_score(x, *model, **options),
        kernels.nade_score(x ^ options["flip"], *model, order=options["order"]),
    )


def test_order_names_the_column_of_each_step():
    """Columns moved by a permutation and named by it: the same density. A cycle of three, which is not its inverse."""
    rng = np.random.default_rng(0)
    model = random_model(rng, 3, 4)
    x = states(3)
    order = np.array([1, 2, 0], np.uint32)
    assert_same_bits(kernels.nade_score(x, *model, order=order), kernels.nade_score(x[:, [1, 2, 0]].copy(), *model))
    terms = kernels.nade_score(x, *model, order=order, per_variable=True)
    assert_same_bits(terms[:, [1, 2, 0]], kernels.nade_score(x[:, [1, 2, 0]].copy(), *model, per_variable=True))
    u = rng.random((50, 3))
    drawn = kernels.nade_sample(u, *model, order=order)
    assert np.array_equal(drawn[:, [1, 2, 0]], kernels.nade_sample(u, *model))


# ---- The sampler


def thresholds(x, model, options):
    """u at which the sampler must decide as x: p(x_i = 0) itself gives 1, the double below it gives 0; by step."""
    logits = kernels.nade_logits(x, *model, **options)
    p_zero = kernels.sigmoid(-logits.astype(np.float64))
    u = np.where(x == 1, p_zero, np.nextafter(p_zero, 0))
    order = options.get("order")
    return u if order is None else np.ascontiguousarray(u[:, order])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("variant", ["plain", "everything"])
def test_sampler_computes_the_scorers_logits_bit_for_bit(variant, activation, dtype):
    """A row is forced by uniforms at its own thresholds; logits off by their last bit would flip some of them."""
    for m, n, d in ((23, 300, 35), (9, 600, 17), (300, 40, 20)):
        x, model, options, _ = problem(m, n, d, dtype, VARIANTS[variant])
        x = random_bits(np.random.default_rng(9), m, n, p=0.4)
        options["activation"] = activation
        assert np.array_equal(kernels.nade_sample(thresholds(x, model, options), *model, **options), x)
        # and the stand-alone sampler agrees with the fused one on its own rows
        u = np.random.default_rng(2).random((m, n))
        drawn = kernels.nade_sample(u, *model, **options)
        by_column = np.empty_like(u)
        by_column[:, np.arange(n) if options["order"] is None else options["order"]] = u
        assert np.array_equal(kernels.bernoulli_sample(kernels.nade_logits(drawn, *model, **options), by_column), drawn)


def test_sampler_equals_the_obvious_one():
    x, model, options, _ = problem(40, 30, 20, np.float64, ("order", "flip"))
    u = np.random.default_rng(1).random(x.shape)
    for activation in ACTIVATIONS:
        got = kernels.nade_sample(u, *model, activation=activation, **options)
        assert np.array_equal(got, reference.sample(u, *model, activation=activation, **options))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_observed_values_are_kept_and_the_rest_is_drawn_given_them(activation, dtype):
    m, n, d = 23, 70, 20
    given, model, options, _ = problem(m, n, d, dtype, ("order", "flip"))
    options["activation"] = activation
    rng = np.random.default_rng(1)
    u, observed = rng.random((m, n)), random_bits(rng, m, n, p=0.5)
    observed[0], observed[1] = 1, 0
    drawn = kernels.nade_sample(u, *model, given=given, observed=observed, **options)
    assert np.array_equal(drawn[observed == 1], given[observed == 1])
    by_column = np.empty_like(u)
    by_column[:, options["order"]] = u
    free = kernels.bernoulli_sample(kernels.nade_logits(drawn, *model, **options), by_column)
    assert np.array_equal(drawn[observed == 0], free[observed == 0])
    assert np.array_equal(drawn[1], kernels.nade_sample(u[1:2], *model, **options)[0])
    assert not np.array_equal(drawn, kernels.nade_sample(u, *model, **options))
    for n_threads in (1, 3):
        again = kernels.nade_sample(u, *model, given=given, observed=observed, n_threads=n_threads, **options)
        assert_same_bits(again, drawn)


def chi_square(rows, log_prob_of_states, n):
    """Standardised chi-square of the counts of n-bit rows, about N(0, 1); cells expected below 10 are pooled."""
    counts = np.bincount(rows @ (1 << np.arange(n)), minlength=2**n)
    expected = np.exp(log_prob_of_states) * len(rows)
    few = expected < 10
    counts, expected = (np.append(v[~few], v[few].sum()) for v in (counts, expected))
    if expected[-1] < 10:
        counts, expected = counts[:-1], expected[:-1]
    k = len(expected) - 1
    return (((counts - expected) ** 2 / expected).sum() - k) / np.sqrt(2 * k)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_samples_fit_the_density(activation, dtype):
    n, m = 8, 100_000
    _, (W, V, b, c), options, _ = problem(0, n, 12, dtype, ("order", "flip"), seed=4)
    model = (2 * W, 2 * V, b, c)
    u = kernels.uniforms((7, 11), 0, m * n).reshape(m, n)
    rows = kernels.nade_sample(u, *model, activation=activation, **options)
    log_prob = kernels.nade_score(states(n), *model, activation=activation, **options)
    assert np.ptp(log_prob) > 3
    assert abs(chi_square(rows.astype(int), log_prob, n)) < 4
    assert abs(chi_square(rows[:, ::-1].astype(int), log_prob, n)) > 50  # the test can fail


def test_copy_and_xor_toy():
    """x0, x1 fair coins, x2 = x0 XOR x1, x3 = x0: four equally likely rows, nothing else; in any order of columns."""
    W = np.array([[1, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]], float)
    c = np.array([0, -1, 0], float)  # relu: x0 + x1, (x0 + x1 - 1)+, x0
    V = np.array([[0, 0, 0], [0, 0, 0], [1, -2, 0], [0, 0, 1]], float) * 60
    b = np.array([0, 0, -30, -30], float)
    u = kernels.uniforms((1, 2), 0, 4 * 4000).reshape(4000, 4)
    for order in itertools.permutations(range(4)):
        model, options = (W, V, b, c), {"activation": "relu", "order": np.array(order, np.uint32)}
        rows = kernels.nade_sample(u, *model, **options)
        x0, x1, x2, x3 = rows[:, order].T
        assert (x2 == x0 ^ x1).all()
        assert (x3 == x0).all()
        all_rows = states(4)
        y = all_rows[:, order]
        possible = (y[:, 2] == y[:, 0] ^ y[:, 1]) & (y[:, 3] == y[:, 0])
        log_prob = kernels.nade_score(all_rows, *model, **options)
        assert np.allclose(log_prob[possible], -2 * np.log(2), atol=1e-12)
        assert (log_prob[~possible] < -25).all()
        assert abs(chi_square(rows.astype(int), log_prob, 4)) < 4


# ---- The contract: threads, splits, memory


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_same_bits_for_threads_and_splits(activation, dtype):
    m, n, d = 61, 290, 100
    x, model, options, _ = problem(m, n, d, dtype, ("order", "flip"))
    options["activation"] = activation
    u = np.random.default_rng(1).random((m, n))

    def everything(x, u, **more):
        return (
            kernels.nade_score(x, *model, **options, **more),
            kernels.nade_score(x, *model, per_variable=True, **options, **more),
            kernels.nade_logits(x, *model, **options, **more),
            kernels.nade_sample(u, *model, **options, **more),
        )

    whole = everything(x, u, n_threads=1)
    for n_threads in (2, 3, 5):
        for a, b in zip(everything(x, u, n_threads=n_threads), whole, strict=True):
            assert_same_bits(a, b, f"{n_threads} threads")
    for size in (1, 3, 8, 60):
        parts = [everything(x[k : k + size], u[k : k + size]) for k in range(0, m, size)]
        for k, a in enumerate(whole):
            assert_same_bits(np.concatenate([part[k] for part in parts]), a, f"{size} rows at a time")
    shuffled = np.random.default_rng(2).permutation(m)
    for a, b in zip(everything(x[shuffled], u[shuffled]), whole, strict=True):
        assert_same_bits(a, b[shuffled], "rows in another order")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("d", [17, 130, 200])
def test_same_gradient_bits_for_threads(d, tied, dtype):
    x, model, options, weight = problem(270, 67, d, dtype, ("order", "flip", "weight", *(["tied"] if tied else [])))
    log_prob, gradient = kernels.nade_gradient(x, *model, weight=weight, n_threads=1, **options)
    for n_threads in (2, 3, 5, 16):
        again, other = kernels.nade_gradient(x, *model, weight=weight, n_threads=n_threads, **options)
        assert_same_bits(again, log_prob)
        for k, name in enumerate(NAMES):
            if not (tied and name == "V"):
                assert_same_bits(gradient[k], other[k], f"{name}, {n_threads} threads")


def test_gradient_of_a_row_does_not_depend_on_rows_of_weight_zero():
    """Rows are summed in ascending order: rows of weight 0 add +0 and change nothing."""
    x, model, options, _ = problem(20, 67, 40, np.float32, ("order",))
    weight = np.zeros(20, np.float32)
    weight[7] = 0.3
    _, together = kernels.nade_gradient(x, *model, weight=weight, **options)
    _, alone = kernels.nade_gradient(x[7:8], *model, weight=weight[7:8], **options)
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
def test_leading_dimensions_give_the_same_bits_and_padding_is_left_alone(dtype):
    m, n, d = 23, 70, 37
    x, model, options, weight = problem(m, n, d, dtype, ("order", "flip", "weight"))
    wide = (padded(model[0], d + 3), padded(model[1], d + 40), *model[2:])
    wide_x = padded(x, n + 9, 255)
    u = np.random.default_rng(1).random((m, n))
    wide_u = padded(u, n + 2)
    assert_same_bits(kernels.nade_score(wide_x, *wide, **options), kernels.nade_score(x, *model, **options))

    bits = np.full((m, n + 6), 9, np.uint8)
    kernels.nade_sample(wide_u, *wide, out=bits[:, 2 : n + 2], **options)
    assert np.array_equal(bits[:, 2 : n + 2], kernels.nade_sample(u, *model, **options))
    assert (np.delete(bits, np.s_[2 : n + 2], axis=1) == 9).all()

    memory = [
        np.full((n + 2, d + 5), -77, dtype),
        np.full((n + 2, d + 31), -77, dtype),
        np.full(n + 2, -77, dtype),
        np.full(d + 2, -77, dtype),
    ]
    out = (memory[0][1:-1, 2 : d + 2], memory[1][1:-1, 3 : d + 3], memory[2][1:-1], memory[3][1:-1])
    log_prob = np.full(m + 2, -77.0)
    _, returned = kernels.nade_gradient(wide_x, *wide, weight=weight, out=out, log_prob=log_prob[1:-1], **options)
    assert all(a is b for a, b in zip(returned, out, strict=True))
    plain_log_prob, plain = kernels.nade_gradient(x, *model, weight=weight, **options)
    assert_same_bits(log_prob[1:-1], plain_log_prob)
    assert log_prob[0] == log_prob[-1] == -77
    for name, got, want, whole in zip(NAMES, out, plain, memory, strict=True):
        assert_same_bits(got, want, name)
        got[...] = -77
        assert (whole == -77).all(), f"padding of the gradient of {name} was written"


def test_out_is_written_and_returned():
    x, model, _, _ = problem(23, 35, 17, np.float32)
    m, n = x.shape
    for function, out, source in (
        (kernels.nade_score, np.full(m, np.nan), x),
        (kernels.nade_logits, np.full((m, n), np.nan, np.float32), x),
        (kernels.nade_sample, np.full((m, n), 9, np.uint8), np.random.default_rng(0).random((m, n))),
    ):
        assert function(source, *model, out=out) is out
        assert_same_bits(out, function(source, *model))
    terms = np.full((m, n), np.nan)
    assert kernels.nade_score(x, *model, per_variable=True, out=terms) is terms
    assert_same_bits(terms, kernels.nade_score(x, *model, per_variable=True))


def test_tied_weights_are_the_same_array():
    """W given twice: dW is the whole gradient and dV is not touched; equal but distinct arrays are untied."""
    x, (W, _, b, c), _, _ = problem(23, 67, 40, np.float64, ("tied",))
    out = tuple(np.full_like(p, -5) for p in (W, W, b, c))
    _, tied = kernels.nade_gradient(x, W, W, b, c, out=out)
    assert (tied[1] == -5).all()
    _, untied = kernels.nade_gradient(x, W, W.copy(), b, c)
    assert_close(tied[0], untied[0] + untied[1], np.float64, x.size)
    assert_same_bits(tied[2], untied[2])
    assert_same_bits(tied[3], untied[3])


def test_inputs_are_never_modified():
    x, model, options, weight = problem(23, 67, 40, np.float32, ("order", "flip", "weight"))
    u = np.random.default_rng(0).random(x.shape)
    inputs = [x, u, weight, *model, *options.values()]
    before = [a.tobytes() for a in inputs]
    for a in inputs:
        a.flags.writeable = False  # and read-only arrays are accepted
    kernels.nade_score(x, *model, **options)
    kernels.nade_logits(x, *model, **options)
    kernels.nade_gradient(x, *model, weight=weight, **options)
    kernels.nade_sample(u, *model, **options)
    assert [a.tobytes() for a in inputs] == before


OUTSIDE = """
import ctypes, mmap, sys
import numpy as np
from chainrule import kernels

page, libc, kept = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True), []

def guarded(shape, dtype, at_end, value=None):
    # an array that ends (or starts) where readable memory does
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    inner = -(-size // page) * page
    memory = mmap.mmap(-1, inner + 2 * page)
    kept.append(memory)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for start in (base, base + page + inner):
        if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno())
    array = np.frombuffer(memory, dtype, int(np.prod(shape)), page + (inner - size if at_end else 0)).reshape(shape)
    if value is not None:
        array[...] = value
    return array

rng = np.random.default_rng(0)
for at_end in (True, False):
    g = lambda a: guarded(a.shape, a.dtype, at_end, a)
    for dtype in (np.float32, np.float64):
        for m, n, d in ((7, 37, 19), (1, 1, 1), (13, 33, 70), (3, 290, 5)):
            W, V, b, c = (g(rng.normal(size=s).astype(dtype)) for s in ((n, d), (n, d), n, d))
            x, u = g((rng.random((m, n)) < 0.5).astype(np.uint8)), g(rng.random((m, n)))
            o = dict(order=g(rng.permutation(n).astype(np.uint32)), flip=g((rng.random(n) < 0.5).astype(np.uint8)))
            new = lambda shape, dtype=np.float64: guarded(shape, dtype, at_end)
            for activation in ("sigmoid", "relu", "tanh"):
                kernels.nade_score(x, W, V, b, c, activation=activation, out=new((m,)), **o)
                kernels.nade_score(x, W, V, b, c, activation=activation, out=new((m, n)), per_variable=True, **o)
                z = kernels.nade_logits(x, W, V, b, c, activation=activation, out=new((m, n), dtype), **o)
                out = tuple(new(p.shape, dtype) for p in (W, V, b, c))
                kernels.nade_gradient(x, W, V, b, c, activation=activation, weight=g(np.ones(m, dtype)),
                                      log_prob=new((m,)), out=out, **o)
                kernels.nade_sample(u, W, V, b, c, activation=activation, out=new((m, n), np.uint8), **o)
            kernels.bernoulli_log_prob(z, x, out=new((m,)))
            kernels.bernoulli_log_prob(z, x, per_variable=True, out=new((m, n)))
            kernels.bernoulli_sample(z, u, out=new((m, n), np.uint8))
            kernels.logsumexp(z, out=new((m,), dtype))
            kernels.exp(z, out=new((m, n), dtype))
            p = [g(rng.random(n * d).astype(dtype)) for _ in range(4)]
            for rule in kernels.STATES:
                kernels.optimizer_step(rule, *p, g(p[0]), learning_rate=1e-3, epsilon=1e-8, beta1=0.9, beta2=0.999)
            kernels.sum_squares(p[0])
            kernels.uniforms((1, 2), 0, n, out=new((n,)))
print("nothing outside")
"""


def test_no_kernel_reads_or_writes_outside_its_arrays(run_python):
    """Arrays that end, or start, at a page without access: one byte too far is a crash."""
    pytest.importorskip("fcntl", reason="mprotect is POSIX")
    assert "nothing outside" in run_python(OUTSIDE)


# ---- Extremes


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
def test_huge_logits_give_finite_log_likelihoods(dtype):
    """-log(1 + e^100) is -100, not -inf; 0 on the other side, to the last denormal."""
    n, d = 20, 4
    for size in (100.0, 1e4):
        b = np.where(np.arange(n) % 2, size, -size).astype(dtype)
        model = (np.zeros((n, d), dtype), np.zeros((n, d), dtype), b, np.zeros(d, dtype))
        likely = (b > 0).astype(np.uint8)[None]
        terms = kernels.nade_score(np.concatenate([likely, 1 - likely]), *model, per_variable=True)
        assert np.array_equal(terms[1], np.full(n, -size))
        assert (terms[0] <= 0).all()
        assert (terms[0] >= -np.exp(-size) * (1 + 1e-6) - 1e-44).all()
        log_prob, gradient = kernels.nade_gradient(np.concatenate([likely, 1 - likely]), *model)
        assert log_prob[1] == -size * n
        assert all(np.isfinite(g).all() for g in gradient)
    weights = (np.full((n, d), 1e3, dtype), np.full((n, d), -1e3, dtype), np.zeros(n, dtype), np.zeros(d, dtype))
    for activation in ACTIVATIONS:  # states far outside every range
        x = np.ones((3, n), np.uint8)
        assert np.isfinite(kernels.nade_score(x, *weights, activation=activation)).all()
        assert np.isfinite(kernels.nade_sample(np.full((3, n), 0.5), *weights, activation=activation)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("where", NAMES)
def test_nan_weights_give_nan_likelihood(where, activation, dtype):
    """Never a number: a NaN scored as probability 1 hides a broken model. Rows that do not touch the NaN are well."""
    n, d = 40, 19
    x, model, _, _ = problem(9, n, d, dtype)
    model = [p.copy() for p in model]
    x[:, 5] = 1
    x[3, 5] = 0
    model[NAMES.index(where)][(5, 7)[: model[NAMES.index(where)].ndim]] = np.nan
    log_prob = kernels.nade_score(x, *model, activation=activation)
    again, gradient = kernels.nade_gradient(x, *model, activation=activation)
    assert_same_bits(np.isnan(again), np.isnan(log_prob))
    expected = np.ones(9, bool)
    expected[3] = where != "W"  # W_5 moves the state where x_5 = 1 alone
    assert np.array_equal(np.isnan(log_prob), expected)
    assert any(np.isnan(g).any() for g in gradient)
    terms = kernels.nade_score(x, *model, activation=activation, per_variable=True)
    assert not np.isnan(terms[:, :5]).any() or where == "c"


def test_infinite_weights_do_not_crash():
    n, d = 40, 19
    x, model, _, _ = problem(9, n, d, np.float32)
    for k in range(4):
        broken = [p.copy() for p in model]
        broken[k].flat[7] = np.inf
        log_prob = kernels.nade_score(x, *broken)
        assert not (log_prob > 0).any()
