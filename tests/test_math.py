"""The elementary functions: error, special values, symmetry, and the same bits however the work is split."""

import math

import numpy as np
import pytest
from chainrule import kernels
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = [0, 1, 15, 16, 17, 35, 1000]
DTYPES = [np.float32, np.float64]
WIDE = np.finfo(np.longdouble).nmant >= 63  # else the references of float64 err too: one ULP more


def _sigmoid(x):
    lowest = -87 if x.dtype == np.float64 else -708  # the reference of a float32 argument is float64: docs/math.md
    return 1 / (1 + np.exp(-np.maximum(x, lowest)))


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _erf(x):
    return np.array([math.erf(v) for v in x.ravel()], x.dtype).reshape(x.shape)


# name: reference; arguments in float32, in float64; largest error in ULP in float32, in float64 (docs/math.md).
FUNCTIONS = {
    "exp": (np.exp, (-103, 88.7), (-745, 709.7), 1.1, 1.1),
    "expm1": (np.expm1, (-103, 88.7), (-745, 709.7), 1.6, 2.2),
    "log": (np.log, (1e-45, 3e38), (5e-324, 1e308), 0.9, 0.9),
    "log1p": (np.log1p, (-1 + 1e-7, 3e38), (-1 + 1e-15, 1e308), 1.5, 1.5),
    "sigmoid": (_sigmoid, (-100, 100), (-800, 800), 2.1, 2.0),
    "tanh": (np.tanh, (-12, 12), (-25, 25), 2.7, 3.0),
    "softplus": (_softplus, (-103, 200), (-745, 900), 1.9, 1.9),
    "erf": (_erf, (-5, 5), (-7, 7), 2.6, 3.6),  # float64: math.erf errs too
    "sin": (np.sin, (-1e5, 1e5), (-1e9, 1e9), 1.7, 1.7),
    "cos": (np.cos, (-1e5, 1e5), (-1e9, 1e9), 1.7, 1.7),
}

every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def call(name, x, **options):
    return getattr(kernels, name)(x, **options)


def bits(x):
    return x.view(np.uint32 if x.dtype == np.float32 else np.uint64)


def same_bits(a, b):
    return a.dtype == b.dtype and np.array_equal(bits(a), bits(b))


def exact(name, x):
    wider = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    with np.errstate(all="ignore"):
        return FUNCTIONS[name][0](wider)


def ulps(got, want):
    """Distance in units of the spacing of got's type at want; 0 where both are the same infinity or both NaN."""
    with np.errstate(all="ignore"):
        rounded = want.astype(got.dtype)
        distance = np.abs(got.astype(want.dtype) - want) / np.spacing(np.abs(rounded)).astype(want.dtype)
        return np.where((got == rounded) & np.isinf(got) | np.isnan(got) & np.isnan(want), 0, distance)


def limit(name, dtype):
    single = dtype == np.float32
    return FUNCTIONS[name][3 if single else 4] + (0 if single or WIDE else 1)


def arguments(name, dtype, n, seed=0):
    """n arguments in the function's range: half uniform, half with uniform logarithm and both signs."""
    low, high = FUNCTIONS[name][1 if dtype == np.float32 else 2]
    rng = np.random.default_rng([seed, n])
    uniform = rng.uniform(low, high, n) if np.isfinite(high - low) else rng.uniform(0, 1, n) * high
    small = np.exp2(rng.uniform(-40, math.log2(high), n)) * (rng.choice([-1, 1], n) if low < 0 else 1)
    x = np.clip(np.where(rng.random(n) < 0.5, uniform, small), low, high).astype(dtype)
    return np.ascontiguousarray(x)


@every_dtype
@every_function
@pytest.mark.parametrize("n", [*SIZES, 100_000])
def test_error(name, dtype, n):
    x = arguments(name, dtype, n)
    before = x.copy()
    y = call(name, x)
    assert y.dtype == dtype
    assert y.shape == x.shape
    assert same_bits(x, before)
    error = ulps(y, exact(name, x))
    assert np.all(error <= limit(name, dtype)), f"{error.max()} ULP at {x[error.argmax()]!r}"


@every_dtype
@every_function
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_error_anywhere(name, dtype, data):
    largest = None if name not in ("sin", "cos") else (2**17 if dtype == np.float32 else 2**30)
    smallest = None if largest is None else -largest
    width = 32 if dtype == np.float32 else 64
    number = st.floats(smallest, largest, width=width)
    x = np.array(data.draw(st.lists(number, max_size=40)), dtype)
    y, want = call(name, x), exact(name, x)
    assert np.all(ulps(y, want) <= limit(name, dtype)), list(zip(x, y, want, strict=True))


INF, NAN = math.inf, math.nan
SPECIAL = {
    "exp": [(-INF, 0.0), (INF, INF), (0.0, 1.0), (-0.0, 1.0), (-1e4, 0.0), (1e4, INF)],
    "expm1": [(-INF, -1.0), (INF, INF), (0.0, 0.0), (-0.0, -0.0), (-1e4, -1.0), (1e4, INF)],
    "log": [(-INF, NAN), (INF, INF), (0.0, -INF), (-0.0, -INF), (1.0, 0.0), (-1.0, NAN), (-1e-40, NAN)],
    "log1p": [(-INF, NAN), (INF, INF), (0.0, 0.0), (-0.0, -0.0), (-1.0, -INF), (-1.5, NAN)],
    "sigmoid": [(INF, 1.0), (1e4, 1.0), (0.0, 0.5), (-0.0, 0.5)],
    "tanh": [(-INF, -1.0), (INF, 1.0), (0.0, 0.0), (-0.0, -0.0), (1e4, 1.0)],
    "softplus": [(-INF, 0.0), (INF, INF), (-1e4, 0.0), (1e4, 1e4)],
    "erf": [(-INF, -1.0), (INF, 1.0), (0.0, 0.0), (-0.0, -0.0), (1e4, 1.0)],
    "sin": [(-INF, NAN), (INF, NAN), (0.0, 0.0), (-0.0, -0.0), (2e9, NAN)],
    "cos": [(-INF, NAN), (INF, NAN), (0.0, 1.0), (-0.0, 1.0), (2e9, NAN)],
}


@every_dtype
@every_function
def test_special_values(name, dtype):
    for argument, value in [*SPECIAL[name], (NAN, NAN), (-NAN, NAN)]:
        for position in (0, 15, 16):  # whole vectors and the rest of one
            x = np.full(17, 0.25, dtype)
            x[position] = argument
            y = call(name, x)
            same = np.isnan(y[position]) if math.isnan(value) else same_bits(y[position], dtype(value))
            assert same, (argument, y[position])
            assert np.isnan(np.delete(y, position)).sum() == 0


@every_dtype
def test_sigmoid_is_bounded_below_by_a_normal_number(dtype):
    lowest = -87 if dtype == np.float32 else -708
    y = kernels.sigmoid(np.array([-INF, -1e5, lowest], dtype))
    assert same_bits(y, np.repeat(y[2:], 3))
    assert y[0] >= np.finfo(dtype).tiny


@every_dtype
@pytest.mark.parametrize("name", ["expm1", "log1p", "tanh", "sin"])
def test_denormals_map_to_themselves(name, dtype):
    tiny = np.finfo(dtype).smallest_subnormal * np.array([1, 2, 3, 1000, 12345], dtype)
    x = np.concatenate([tiny, -tiny])
    assert same_bits(call(name, x), x)


@every_dtype
def test_denormal_results_of_exp_and_arguments_of_log(dtype):
    x = np.linspace(-103.9, -87.4, 1001) if dtype == np.float32 else np.linspace(-745.1, -708.4, 1001)
    x = x.astype(dtype)
    y = kernels.exp(x)
    assert 0 < y[0] < y[-1] < np.finfo(dtype).tiny
    assert np.all(ulps(y, exact("exp", x)) <= 1)
    assert np.all(ulps(kernels.log(y), exact("log", y)) <= 1)


@every_dtype
def test_symmetry(dtype):
    for name in ("tanh", "erf", "sin"):
        x = arguments(name, dtype, 1000)
        assert same_bits(call(name, -x), -call(name, x))
    x = arguments("cos", dtype, 1000)
    assert same_bits(kernels.cos(-x), kernels.cos(x))


@every_dtype
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "exp", "softplus", "erf"])
def test_monotone_on_a_dense_grid(name, dtype):
    y = call(name, np.linspace(-20, 20, 200_001).astype(dtype))
    assert np.all(np.diff(y) >= -2 * np.spacing(np.abs(y[1:])))  # flat parts may differ in their last places
    steep = call(name, np.linspace(*{"tanh": (-2, 2), "erf": (-1, 1)}.get(name, (-80, 4)), 20_001).astype(dtype))
    assert np.all(np.diff(steep) > 0)


@every_dtype
def test_bounded(dtype):
    x = np.concatenate([arguments("sin", dtype, 10_000), arguments("erf", dtype, 10_000)])
    for name in ("sin", "cos", "tanh", "erf", "sigmoid"):
        assert np.all(np.abs(call(name, x)) <= 1)


@every_dtype
@every_function
@pytest.mark.parametrize("n", [1, 17, 20_000])
def test_in_place(name, dtype, n):
    x = arguments(name, dtype, n)
    y = call(name, x)
    assert call(name, x, out=x) is x
    assert same_bits(x, y)


@every_dtype
@every_function
def test_threads_and_splits_do_not_matter(name, dtype):
    x = arguments(name, dtype, 100_003)
    y = call(name, x, n_threads=1)
    assert same_bits(y, call(name, x, n_threads=3))
    for piece in (slice(0, 1), slice(1, 18), slice(4097, 9001)):
        assert same_bits(y[piece], call(name, x[piece].copy()))


def reference_logsumexp(x):
    with np.errstate(all="ignore"):
        wide = x.astype(np.longdouble)
        m = wide.max(axis=1, keepdims=True, initial=-INF)
        m[~np.isfinite(m)] = 0
        return np.log(np.exp(wide - m).sum(axis=1)) + m[:, 0]


@every_dtype
@pytest.mark.parametrize("columns", SIZES)
@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("scale", [1e-3, 3, 300])
def test_logsumexp(dtype, rows, columns, scale):
    x = (np.random.default_rng([rows, columns]).normal(size=(rows, columns)) * scale).astype(dtype)
    y = kernels.logsumexp(x)
    assert y.shape == (rows,)
    assert y.dtype == dtype
    want = reference_logsumexp(x)
    if columns == 0:
        assert np.all(y == -INF)
    else:
        # log: 1 ULP of y; sum: eps/2 for each of the columns/lanes + tree additions, 1 for exp, some for x - m.
        tolerance = np.finfo(dtype).eps * (np.abs(want) + 8 + columns / 16)
        assert np.all(np.abs(y - want) <= tolerance)


@every_dtype
def test_logsumexp_special_rows(dtype):
    for columns in (1, 15, 16, 40):
        x = np.full((6, columns), -INF, dtype)
        x[1, -1] = 2.5
        x[2, 0] = INF
        x[3, 0] = NAN
        x[4, :] = INF
        x[5, :] = NAN
        y = kernels.logsumexp(x)
        assert np.array_equal(y, np.array([-INF, 2.5, INF, NAN, INF, NAN], dtype), equal_nan=True)
        x[2, -1] = NAN
        assert np.isnan(kernels.logsumexp(x)[2])
    largest = np.finfo(dtype).max
    assert kernels.logsumexp(np.array([[largest, -largest]], dtype))[0] == largest


@every_dtype
@pytest.mark.parametrize("columns", [3, 100, 5000])
def test_logsumexp_threads_and_rows_do_not_matter(dtype, columns):
    x = np.random.default_rng(columns).normal(size=(301, columns)).astype(dtype)
    y = kernels.logsumexp(x, n_threads=1)
    assert same_bits(y, kernels.logsumexp(x, n_threads=3))
    out = np.empty(301, dtype)
    assert kernels.logsumexp(x, out=out) is out
    assert same_bits(y, out)
    assert same_bits(y, np.concatenate([kernels.logsumexp(x[r : r + 1]) for r in range(301)]))
