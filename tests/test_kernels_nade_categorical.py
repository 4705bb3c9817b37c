"""NADE on columns of 0..K-1: against the equations, against the kernels it is made of, and the contract."""

import itertools
import re

import numpy as np
import pytest
from chainrule import kernels
from checking import by_dtype, entry
from reference import nade_categorical as reference
from reference.nade import padded, random_bits, random_order
from reference.nade_categorical import starts
from test_kernels_nade import ACTIVATIONS, NAMES, assert_close, assert_gradient, assert_same_bits

by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
MIXED = [1, 2, 3, 17, 2, 1, 5, 4]
# Logits around pairs, vectors and chunks of 256; steps around the segments of 16; chunks that end inside a variable.
COLUMNS = {
    "none": [],
    "constants": [1, 1, 1],
    "a bit": [2],
    "a byte": [256],
    "mixed": MIXED,
    "nucleotides": [4] * 33,
    "many": [2 + k % 9 for k in range(150)],
    "large": [256, 3, 200, 1, 256, 2],
    "segments": [3, 2] * 8 + [1, 2] * 9,
}
SIZES = [
    ("none", 3, 5), ("constants", 4, 3), ("a bit", 1, 1), ("a byte", 9, 17), ("mixed", 0, 16), ("mixed", 1, 15),
    ("mixed", 33, 35), ("nucleotides", 7, 64), ("nucleotides", 300, 16), ("many", 23, 130), ("large", 67, 37),
    ("segments", 40, 33), ("mixed", 9, 0),
]  # fmt: skip
VARIANTS = {
    "plain": (),
    "everything": ("order", "reference", "weight", "padded"),
    "tied everything": ("order", "reference", "weight", "tied", "padded"),
}


def problem(columns, m, d, dtype=np.float64, variant=(), seed=0):
    """Codes, a model (rows padded with NaN where asked; first last), K by column, options and weights."""
    K = np.array(COLUMNS[columns] if isinstance(columns, str) else columns, int)
    rng = np.random.default_rng([seed, m, len(K), d])
    order = random_order(rng, len(K)) if "order" in variant else None
    ref = rng.integers(0, K).astype(np.uint8) if "reference" in variant else None
    first = starts(K if order is None else K[order])
    logits = int(first[-1])
    W, V = (rng.normal(size=(logits, d)).astype(dtype) for _ in range(2))
    W *= dtype(0.5)
    V *= dtype(2 / np.sqrt(d + 1))
    b, c = rng.normal(size=logits).astype(dtype), rng.normal(size=d).astype(dtype)
    x = rng.integers(0, K, (m, len(K))).astype(np.uint8)
    if "padded" in variant:
        x, W, V = padded(x, x.shape[1] + 5, 255), padded(W, d + 3), padded(V, d + 19)
    if "tied" in variant:
        W = V
    weight = rng.random(m).astype(dtype) if "weight" in variant else None
    return x, (W, V, b, c, first), K, {"order": order, "reference": ref}, weight


@by_dtype
@by_activation
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
def test_against_the_equations(size, activation, dtype):
    columns, m, d = size
    for name, variant in VARIANTS.items():
        if activation != "sigmoid" and name != "everything":
            continue
        x, model, K, options, weight = problem(columns, m, d, dtype, variant)
        options["activation"] = activation
        length = d + len(K) + 1
        want = reference.logits(x, *model, **options)
        logits = kernels.nade_categorical_logits(x, *model, **options)
        assert_close(logits, want, dtype, length, f"{name}: logits")
        terms = kernels.nade_categorical_score(x, *model, per_variable=True, **options)
        assert_close(terms, reference.terms(x, *model, **options), dtype, length, f"{name}: terms")
        log_prob = kernels.nade_categorical_score(x, *model, **options)
        assert_close(log_prob, terms.sum(1), dtype, length, f"{name}: score")
        # The conditional is the stand-alone kernel's, bit for bit.
        first, ref = starts(K), options["reference"]
        again = kernels.categorical_log_prob(logits, np.ascontiguousarray(x), first, reference=ref, per_variable=True)
        assert_same_bits(again, terms, f"{name}: terms from the logits")

        again, gradient = kernels.nade_categorical_gradient(x, *model, weight=weight, **options)
        assert_same_bits(again, log_prob, f"{name}: the gradient's log p")
        expected = reference.gradient(x, *model, weight=weight, **options)
        assert_gradient(gradient, expected, "tied" in variant, dtype, m + length, name)

        order = np.arange(len(K)) if options["order"] is None else options["order"]
        u = np.random.default_rng(1).random((m, len(K)))
        drawn = kernels.nade_categorical_sample(u, *model, **options)
        own = np.empty_like(u)
        own[:, order] = u
        logits = kernels.nade_categorical_logits(drawn, *model, **options)
        assert np.array_equal(kernels.categorical_sample(logits, own, first, reference=ref), drawn), f"{name}: sample"


def test_draws_follow_the_equations():
    """F of the equations is on the right side of u, but where u lies within rounding of it."""
    x, model, _, options, _ = problem("mixed", 200, 20, np.float64, ("order", "reference"))
    u = np.random.default_rng(1).random(x.shape)
    drawn = kernels.nade_categorical_sample(u, *model, **options)
    for k, upto in enumerate(reference.distribution(drawn, *model, **options)):
        at = u[:, list(options["order"]).index(k)]
        rows = np.arange(len(drawn))
        below = np.where(drawn[:, k] > 0, upto[rows, drawn[:, k].astype(int) - 1], 0.0)
        assert (at >= below - 1e-12).all()
        assert (at <= upto[rows, drawn[:, k]] + 1e-12).all()


@by_dtype
@by_activation
def test_errors_of_one_row_are_those_of_the_conditional(activation, dtype):
    """db of a single row is the categorical gradient of its logits, bit for bit."""
    x, model, _, _, _ = problem("mixed", 5, 20, dtype)
    for r in range(5):
        row, weight = x[r : r + 1], np.array([0.3], dtype)
        logits = kernels.nade_categorical_logits(row, *model, activation=activation)
        want = kernels.categorical_gradient(logits, row, model[-1], weight=weight)[1][0]
        got = kernels.nade_categorical_gradient(row, *model, activation=activation, weight=weight)[1][2]
        assert np.array_equal(got, want)


@by_dtype
@by_activation
def test_two_values_are_bits(activation, dtype):
    """K = 2 everywhere is nade_*, with the reference for the flip; hidden states and logits to the last bit."""
    for m, n, d in ((23, 35, 33), (9, 300, 50)):
        x, (W, V, b, c, first), _, options, weight = problem([2] * n, m, d, dtype, ("order", "reference", "weight"))
        bits = {"activation": activation, "order": options["order"], "flip": options["reference"]}
        codes = {"activation": activation, **options}
        flip = options["reference"] == 1
        logits = kernels.nade_logits(x, W, V, b, c, **bits)
        encoded = np.where(flip, -logits, logits)
        assert_same_bits(kernels.nade_categorical_logits(x, W, V, b, c, first, **codes), encoded)
        score = kernels.nade_score(x, W, V, b, c, **bits)
        assert_close(kernels.nade_categorical_score(x, W, V, b, c, first, **codes), score, dtype, n)
        got = kernels.nade_categorical_gradient(x, W, V, b, c, first, weight=weight, **codes)[1]
        want = kernels.nade_gradient(x, W, V, b, c, weight=weight, **bits)[1]
        for name, g, w in zip(NAMES, got, want, strict=True):
            assert_close(g, w, dtype, m + n + d, name)
        u = np.random.default_rng(1).random((m, n))
        same = kernels.nade_categorical_sample(u, W, V, b, c, first, **codes) == kernels.nade_sample(
            u, W, V, b, c, **bits
        )
        assert same.all(1).mean() > 0.9  # but where u lies within rounding of p


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@by_activation
def test_gradient_equals_central_differences(activation, tied):
    """Of the mean log-likelihood, for every single parameter, relative to the largest of its array: 1e-6."""
    variant = ("order", "reference", *(["tied"] if tied else []))
    x, (*model, first), _, options, _ = problem([3, 1, 4, 2, 5, 2], 11, 5, np.float64, variant)
    options["activation"] = activation
    weight = np.random.default_rng(5).random(11)
    gradient = kernels.nade_categorical_gradient(x, *model, first, weight=weight, **options)[1]

    def loss(parameters):
        return -(weight * kernels.nade_categorical_score(x, *parameters, first, **options)).sum()

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


def states(K):
    return np.array(list(itertools.product(*map(range, K))), np.uint8)


@by_activation
def test_density_sums_to_one_and_samples_fit_it(activation):
    K = [3, 1, 4, 2, 5]
    _, (W, V, b, c, first), _, options, _ = problem(K, 0, 13, np.float64, ("order", "reference"))
    model, options = (W, 2 * V, b, c, first), {**options, "activation": activation}
    every = states(K)
    log_prob = kernels.nade_categorical_score(every, *model, **options)
    assert np.ptp(log_prob) > 3
    assert abs(np.exp(log_prob).sum() - 1) <= 1e-12
    m = 100_000
    u = kernels.uniforms((7, 11), 0, m * len(K)).reshape(m, len(K))
    rows = kernels.nade_categorical_sample(u, *model, **options)
    place = np.ravel_multi_index(rows.T.astype(int), K)
    counts, expected = np.bincount(place, minlength=len(every)), m * np.exp(log_prob)
    few = expected < 10
    counts, expected = (np.append(v[~few], v[few].sum()) for v in (counts, expected))
    if expected[-1] < 10:
        counts, expected = counts[:-1], expected[:-1]
    freedom = len(expected) - 1
    assert abs(((counts - expected) ** 2 / expected).sum() - freedom) < 4 * np.sqrt(2 * freedom)


@by_dtype
def test_each_conditional_sees_exactly_the_variables_before_it(dtype):
    """Bit for bit: changing x_j changes the logits after it in the order, and no other."""
    x, model, K, options, _ = problem("mixed", 1, 20, dtype, ("order", "reference"))
    order, first = options["order"].astype(int), starts(K)
    before = kernels.nade_categorical_logits(x, *model, **options)[0]
    for step, k in enumerate(order):
        if K[k] == 1:
            continue
        changed = x.copy()
        changed[0, k] = (changed[0, k] + 1) % K[k]
        moved = kernels.nade_categorical_logits(changed, *model, **options)[0] != before
        for later, column in enumerate(order):
            assert (moved[first[column] : first[column + 1]] == (later > step)).all()


@by_dtype
@by_activation
def test_observed_values_are_kept_and_the_rest_is_drawn_given_them(activation, dtype):
    given, model, K, options, _ = problem("many", 23, 20, dtype, ("order", "reference"))
    options["activation"] = activation
    rng = np.random.default_rng(1)
    u, observed = rng.random(given.shape), random_bits(rng, *given.shape, p=0.5)
    observed[0], observed[1] = 1, 0
    drawn = kernels.nade_categorical_sample(u, *model, given=given, observed=observed, **options)
    assert np.array_equal(drawn[observed == 1], given[observed == 1])
    own = np.empty_like(u)
    own[:, options["order"]] = u
    logits = kernels.nade_categorical_logits(drawn, *model, **options)
    free = kernels.categorical_sample(logits, own, starts(K), reference=options["reference"])
    assert np.array_equal(drawn[observed == 0], free[observed == 0])
    assert np.array_equal(drawn[1], kernels.nade_categorical_sample(u[1:2], *model, **options)[0])


# ---- The contract


@by_dtype
@pytest.mark.parametrize("columns", ["many", "large"])
def test_same_bits_for_threads_and_splits(columns, dtype):
    m = 61
    x, model, _, options, weight = problem(columns, m, 100, dtype, ("order", "reference", "weight"))
    u = np.random.default_rng(1).random(x.shape)

    def everything(x, u, **more):
        return (
            kernels.nade_categorical_score(x, *model, **options, **more),
            kernels.nade_categorical_score(x, *model, per_variable=True, **options, **more),
            kernels.nade_categorical_logits(x, *model, **options, **more),
            kernels.nade_categorical_sample(u, *model, **options, **more),
        )

    whole = everything(x, u, n_threads=1)
    for n_threads in (2, 3, 5):
        for a, b in zip(everything(x, u, n_threads=n_threads), whole, strict=True):
            assert_same_bits(a, b, f"{n_threads} threads")
    for size in (1, 3, 8, 37):
        parts = [everything(x[k : k + size], u[k : k + size]) for k in range(0, m, size)]
        for k, a in enumerate(whole):
            assert_same_bits(np.concatenate([part[k] for part in parts]), a, f"{size} rows at a time")

    log_prob, gradient = kernels.nade_categorical_gradient(x, *model, weight=weight, n_threads=1, **options)
    for n_threads in (2, 3, 5, 16):
        again, other = kernels.nade_categorical_gradient(x, *model, weight=weight, n_threads=n_threads, **options)
        assert_same_bits(again, log_prob)
        for name, a, b in zip(NAMES, gradient, other, strict=True):
            assert_same_bits(a, b, f"{name}, {n_threads} threads")


@by_dtype
def test_padding_is_left_alone(dtype):
    x, (W, V, b, c, first), _, options, weight = problem("mixed", 23, 37, dtype, ("order", "reference", "weight"))
    logits, d = W.shape
    wide = (padded(W, d + 3), padded(V, d + 40), b, c, first)
    codes = np.full((23, x.shape[1] + 6), 99, np.uint8)
    u = np.random.default_rng(1).random(x.shape)
    kernels.nade_categorical_sample(padded(u, u.shape[1] + 2), *wide, out=codes[:, 2:-4], **options)
    assert np.array_equal(codes[:, 2:-4], kernels.nade_categorical_sample(u, W, V, b, c, first, **options))
    assert (np.delete(codes, np.s_[2:-4], axis=1) == 99).all()
    memory = [np.full(shape, -77, dtype) for shape in ((logits + 2, d + 5), (logits + 2, d + 31), logits + 2, d + 2)]
    out = (memory[0][1:-1, 2 : d + 2], memory[1][1:-1, 3 : d + 3], memory[2][1:-1], memory[3][1:-1])
    _, returned = kernels.nade_categorical_gradient(x, *wide, weight=weight, out=out, **options)
    assert all(a is b for a, b in zip(returned, out, strict=True))
    plain = kernels.nade_categorical_gradient(x, W, V, b, c, first, weight=weight, **options)[1]
    for name, got, want, whole in zip(NAMES, out, plain, memory, strict=True):
        assert_same_bits(got, want, name)
        got[...] = -77
        assert (whole == -77).all(), f"padding of the gradient of {name} was written"


def test_rows_of_weight_zero_and_no_rows():
    x, model, _, options, _ = problem("mixed", 40, 40, np.float32, ("order",))
    weight = np.zeros(40, np.float32)
    weight[35] = 0.3
    together = kernels.nade_categorical_gradient(x, *model, weight=weight, **options)[1]
    alone = kernels.nade_categorical_gradient(x[35:36], *model, weight=weight[35:36], **options)[1]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    log_prob, gradient = kernels.nade_categorical_gradient(x[:0], *model, **options)
    assert log_prob.shape == (0,)
    assert all((g == 0).all() for g in gradient)
    for a, b in zip(
        kernels.nade_categorical_gradient(x, *model, **options)[1],
        kernels.nade_categorical_gradient(x, *model, weight=np.full(40, 1 / 40, np.float32), **options)[1],
        strict=True,
    ):
        assert_same_bits(a, b)


@by_activation
def test_float32_gradient_does_not_drift(activation):
    """300 steps of 4 values: within 1e-5 of float64; hidden states undone by subtraction would drift."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, (40, 300)).astype(np.uint8)
    W, _, _, c = model = [(rng.normal(size=s) * 0.05).astype(np.float32) for s in ((900, 64), (900, 64), 900, 64)]
    if activation == "relu":  # on this grid states are exact, and never 0, in both precisions
        W[...] = np.round(W * 1024) / 1024
        c[...] = np.round(c * 1024) / 1024 + 1 / 2048
    first = starts([4] * 300)
    single = kernels.nade_categorical_gradient(x, *model, first, activation=activation)[1]
    double = kernels.nade_categorical_gradient(x, *(p.astype(np.float64) for p in model), first, activation=activation)[
        1
    ]
    for name, s, t in zip(NAMES, single, double, strict=True):
        assert np.linalg.norm(s - t) <= 1e-5 * np.linalg.norm(t), name


# ---- The border


BAD = {
    "x": (lambda a: entry(a, 4, 3), ValueError, "x has values outside those of their columns (first: 3 at row 1,"),
    "V": (lambda a: a[1:], ValueError, "V must be 2-d of shape (5, 7), not float64 of shape (4, 7)"),
    "b": (lambda a: a[1:], ValueError, "b must be 1-d of length 5"),
    "c": (lambda a: a.astype(np.float32), TypeError, "c must be float64, not float32"),
    "first": (lambda a: entry(a, 3, 6), ValueError, "first must end at the number of rows of W, 5, not 6"),
    "order": (lambda a: entry(a, 0, 1), ValueError, "order must be a permutation of 0..2"),
    "reference": (lambda a: entry(a, 0, 4), ValueError, "reference must be a value of each column: entry 0 is 4"),
    "weight": (lambda a: a[1:], ValueError, "weight must be 1-d of length 5"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_argument(name):
    x, (W, V, b, c, first), _, options, weight = problem([2, 3, 3], 5, 7, np.float64, ("order", "reference", "weight"))
    change, error, message = BAD[name]
    given = {"x": x, "W": W, "V": V, "b": b, "c": c, "first": first, **options, "weight": weight}
    kernels.nade_categorical_gradient(**given)
    given[name] = change(given[name])
    with pytest.raises(error, match="^" + re.escape(message)):
        kernels.nade_categorical_gradient(**given)
    del given["weight"]
    if name != "weight":
        with pytest.raises(error, match="^" + re.escape(message)):
            kernels.nade_categorical_score(**given)
    if name not in ("weight", "x"):
        del given["x"]
        with pytest.raises(error, match="^" + re.escape(message)):
            kernels.nade_categorical_sample(u=np.full((5, 3), 0.5), **given)


def test_largest_values_are_those_of_the_column_not_of_the_step():
    """A column of 3 values that comes first in the order and last in x."""
    x = np.array([[0, 2], [1, 0]], np.uint8)
    order, first = np.array([1, 0], np.uint32), np.array([0, 2, 3], np.uint32)
    model = (np.ones((3, 2)), np.ones((3, 2)), np.zeros(3), np.zeros(2), first)
    kernels.nade_categorical_score(x, *model, order=order)
    with pytest.raises(ValueError, match=r"x has values outside .*first: 2 at row 0, column 1, which has 0\.\.1"):
        kernels.nade_categorical_score(x, *model)
    with pytest.raises(ValueError, match="given has values outside"):
        kernels.nade_categorical_sample(np.full((2, 2), 0.5), *model, given=x, observed=np.ones_like(x))
    with pytest.raises(ValueError, match="given and observed go together"):
        kernels.nade_categorical_sample(np.full((2, 2), 0.5), *model, given=x)
