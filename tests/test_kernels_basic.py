"""The small kernels against tests/reference/, and the border: what arrays are taken, and what is said of the others."""

import array
import copy
import math
import os
import pickle
import re

import numpy as np
import pytest
from chainrule import kernels
from chainrule.fit.optimizer import OPTIMIZERS, Optimizer
from chainrule.fit.parameters import Parameters
from checking import DTYPES, C, assert_each_close, assert_same_bits, by_dtype
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import bernoulli as reference
from reference.nade import padded, random_bits
from reference.optimizer import optimize as reference_optimize

# ---- Optimizers

# Decay rates that both precisions hold exactly: 1 - 0.999 in float32 is off by 1.3e-5.
CONSTANTS = {"beta1": 0.875, "beta2": 1 - 2.0**-10, "epsilon": 1e-8}
EXTRAS = {"weight_decay": 0.125, "l2": 0.25, "gradient_scale": 0.5, "average_decay": 0.75}
every_rule = pytest.mark.parametrize("rule", kernels.STATES)


def optimize(rule, p, gradients, *, n_threads=None, average=False, **constants):
    """Parameters, states and average after a step for each gradient, by the kernel."""
    p = p.copy()
    s, t = (np.zeros_like(p) if kernels.STATES[rule] > k else None for k in range(2))
    a = p.copy() if average else None
    power1 = power2 = 1.0
    for g in gradients:
        power1 *= constants.get("beta1", 0.0)
        power2 *= constants.get("beta2", 0.0)
        correction = {"correction1": 1 - power1, "correction2": 1 - power2}
        kernels.optimizer_step(rule, p, g, s, t, a, n_threads=n_threads, **correction, **constants)
    return [p, s, t, a]


@by_dtype
@every_rule
@pytest.mark.parametrize("extras", [{}, EXTRAS], ids=["", "extras"])
def test_optimizer_step(extras, rule, dtype):
    for n in (0, 1, 7, 8, 15, 16, 17, 35, 1000):
        rng = np.random.default_rng(n)
        p = rng.normal(size=n).astype(dtype)
        gradients = [(rng.normal(size=n) * scale).astype(dtype) for scale in np.geomspace(1e-3, 1e1, 10)]
        constants = {"learning_rate": 0.03125, **CONSTANTS, **extras}
        got = optimize(rule, p, gradients, average=True, **constants)
        for a, b in zip(got, reference_optimize(rule, p, gradients, **constants), strict=True):
            if a is not None:
                assert np.abs(a - b).max(initial=0) <= C * np.finfo(dtype).eps * np.sqrt(10) * np.abs(b).max(initial=1)
        assert n == 0 or np.abs(got[0] - p).max() > 1e-3


@by_dtype
@every_rule
def test_optimizer_step_splits_anywhere_and_touches_no_other_element(rule, dtype):
    n = 400_001  # for three threads
    rng = np.random.default_rng(0)
    p, g = rng.normal(size=n).astype(dtype), rng.normal(size=n).astype(dtype)
    constants = {"learning_rate": 0.03125, **CONSTANTS, **EXTRAS, "average": True}
    whole = optimize(rule, p, [g] * 3, n_threads=1, **constants)
    for part in (slice(0, n), slice(13, 44), slice(100_001, 350_000)):
        for n_threads in (2, 3):
            for a, b in zip(
                whole, optimize(rule, p[part], [g[part]] * 3, n_threads=n_threads, **constants), strict=True
            ):
                if a is not None:
                    assert_same_bits(a[part], b)
    memory = [np.full(40, 7, dtype) for _ in range(5)]
    used = [a[5:36] for a in memory]
    used[2:4] = [a if kernels.STATES[rule] > k else None for k, a in enumerate(used[2:4])]
    kernels.optimizer_step(rule, *used, learning_rate=0.25, correction1=0.5, correction2=0.5, **CONSTANTS, **EXTRAS)
    for k, a in enumerate(memory):
        assert (a[:5] == 7).all()
        assert (a[36:] == 7).all()
        read_alone = k == 1 or (k in (2, 3) and used[k] is None)  # the gradient
        assert (a[5:36] == 7).all() == read_alone


@every_rule
def test_optimizer_step_passes_nan_on(rule):
    p, g, s, t = (np.ones(20, np.float32) for _ in range(4))
    g[3] = np.nan
    kernels.optimizer_step(rule, p, g, s, t, learning_rate=0.1, **CONSTANTS)
    assert np.array_equal(np.isnan(p), np.arange(20) == 3)


def test_adam_with_the_usual_decay_in_float32():
    """1 - 0.999 comes from a rounded 0.999, 1.3e-5 off, and so may be the second moment; a step by half of that."""
    rng = np.random.default_rng(0)
    p, g = (rng.normal(size=100).astype(np.float32) for _ in range(2))
    q, _, _, _ = optimize("adam", p, [g], learning_rate=1.0, beta1=0.9, beta2=0.999, epsilon=0.0)
    assert np.abs((p - q) / np.sign(g) - 1).max() < 1e-5  # the first step is learning_rate in size


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_padding_of_parameters_stays_zero(name):
    rng = np.random.default_rng(0)
    parameters = Parameters({"W": (5, 7), "b": (5,)}, np.float32)
    inside, gradient = parameters.like(), parameters.like()
    for k in parameters:
        parameters[k][...] = rng.normal(size=parameters[k].shape)
        inside[k][...] = 1
    padding = inside.flat == 0
    assert padding.any()
    optimizer = Optimizer(parameters, name, weight_decay=0.01, clip_norm=1.0, average_decay=0.9)
    for _ in range(3):
        for k in parameters:
            gradient[k][...] = rng.normal(size=parameters[k].shape)
        before = parameters.copy()
        assert optimizer.step(gradient, 0.01)
        assert (before.flat[~padding] != parameters.flat[~padding]).all()
        assert (parameters.flat[padding] == 0).all()
        assert (optimizer.average.flat[padding] == 0).all()


@by_dtype
@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 17, 1000, 16384, 16385, 100_001])
def test_sum_squares(n, dtype):
    x = np.random.default_rng(n).normal(size=n).astype(dtype)
    want = math.fsum(float(v) ** 2 for v in x)
    got = kernels.sum_squares(x)
    assert type(got) is float
    assert abs(got - want) <= C * np.finfo(np.float64).eps * np.sqrt(n) * want
    for bad in (np.nan, np.inf):
        for place in (0, n // 2, n - 1) if n else ():
            y = x.copy()
            y[place] = bad
            assert str(kernels.sum_squares(y)) == str(bad)
    assert kernels.sum_squares(np.full(3, 1e30, np.float32)) > 2.9e60  # beyond float32


def test_sum_squares_on_any_threads():
    x = np.random.default_rng(0).random(2_000_001, np.float32)
    want = kernels.sum_squares(x, n_threads=1)
    assert kernels.sum_squares(x, n_threads=2) == kernels.sum_squares(x, n_threads=3) == want


def test_parameters_are_views_into_one_aligned_buffer():
    shapes = {"W": (3, 256), "V": (3, 5), "b": (3,), "c": (256,), "none": (2, 0)}
    for dtype in DTYPES:
        parameters = Parameters(shapes, dtype)
        assert list(parameters) == list(shapes)
        assert len(parameters) == 5
        for k, name in enumerate(shapes):
            parameters[name][...] = k + 1
        assert sorted(np.unique(parameters.flat)) == [0, 1, 2, 3, 4]
        for name, view in parameters.items():
            assert view.shape == shapes[name]
            assert view.dtype == dtype
            assert view.size == 0 or np.shares_memory(view, parameters.flat)
            assert view.size == 0 or view.ctypes.data % 64 == 0
        assert parameters["W"].strides[0] % 64 == 0
        assert parameters["W"].strides[0] % 1024 != 0
        for other in (parameters.copy(), copy.deepcopy(parameters), pickle.loads(pickle.dumps(parameters))):
            assert_same_bits(other.flat, parameters.flat)
            assert not np.shares_memory(other.flat, parameters.flat)
            assert other.shapes == shapes
        assert (parameters.like().flat == 0).all()


# ---- Bernoulli conditionals


@by_dtype
@pytest.mark.parametrize(("m", "n"), [(0, 5), (3, 0), (1, 1), (7, 15), (8, 16), (17, 17), (400, 200), (5, 1000)])
def test_bernoulli_log_prob(m, n, dtype):
    rng = np.random.default_rng([m, n])
    z = (rng.normal(size=(m, n)) * 10).astype(dtype)
    x = random_bits(rng, m, n, p=0.5)
    terms = reference.log_prob(z, x)
    got = kernels.bernoulli_log_prob(z, x, per_variable=True)
    assert_each_close(got, terms, dtype)
    total = kernels.bernoulli_log_prob(z, x)
    assert total.dtype == np.float64
    assert total.shape == (m,)
    assert_each_close(total, terms.sum(1), dtype, n)
    for n_threads in (2, 3):
        assert_same_bits(total, kernels.bernoulli_log_prob(z, x, n_threads=n_threads))
    assert_same_bits(total, kernels.bernoulli_log_prob(padded(z, n + 3), padded(x, n + 5, 7)))
    for r in range(min(m, 3)):
        assert_same_bits(total[r : r + 1], kernels.bernoulli_log_prob(z[r : r + 1], x[r : r + 1]))


@by_dtype
def test_bernoulli_log_prob_at_the_extremes(dtype):
    z = np.array([[100, -100, 1e4, -1e4, np.inf, -np.inf, 0, np.nan]], dtype)
    ones, zeros = np.ones(z.shape, np.uint8), np.zeros(z.shape, np.uint8)
    for_one = kernels.bernoulli_log_prob(z, ones, per_variable=True)[0]
    for_zero = kernels.bernoulli_log_prob(z, zeros, per_variable=True)[0]
    assert for_one[[1, 3, 5]].tolist() == [-100, -1e4, -np.inf]
    assert for_zero[[0, 2, 4]].tolist() == [-100, -1e4, -np.inf]
    assert -4e-44 <= for_one[0] < 0
    assert for_one[2] == for_one[4] == 0
    assert_each_close(for_one[6:7], np.array([-np.log(2)]), dtype)
    assert np.isnan(for_one[7])
    assert np.isnan(for_zero[7])
    assert np.isnan(kernels.bernoulli_log_prob(z, ones)[0])


@by_dtype
@pytest.mark.parametrize(("m", "n"), [(0, 5), (3, 0), (1, 1), (7, 15), (17, 17), (400, 200)])
def test_bernoulli_sample(m, n, dtype):
    rng = np.random.default_rng([m, n])
    z = (rng.normal(size=(m, n)) * 3).astype(dtype)
    u = rng.random((m, n))
    x = kernels.bernoulli_sample(z, u)
    p_zero = reference.p_zero(z)
    sure = np.abs(u - p_zero) > 1e-14
    assert x.dtype == np.uint8
    assert np.array_equal(x[sure], (u > p_zero)[sure])
    threshold = kernels.sigmoid(-z.astype(np.float64))
    assert (kernels.bernoulli_sample(z, threshold) == 1).all()
    assert (kernels.bernoulli_sample(z, np.nextafter(threshold, 0)) == 0).all()
    out = np.full((m, n + 4), 9, np.uint8)
    view = out[:, 2 : n + 2]
    assert kernels.bernoulli_sample(padded(z, n + 3), padded(u, n + 1), out=view, n_threads=3) is view
    assert np.array_equal(view, x)
    assert (np.delete(out, np.s_[2 : n + 2], axis=1) == 9).all()


def test_rare_values_keep_their_frequency():
    """p(x = 1) = e^-30: in float32, 1 - p rounds to 1 and the value would never be drawn."""
    z = np.full((1, 1), -30, np.float32)
    p_one = float(np.exp(-30.0))
    assert kernels.bernoulli_sample(z, np.array([[1 - 2 * p_one]]))[0, 0] == 0
    assert kernels.bernoulli_sample(z, np.array([[1 - p_one / 2]]))[0, 0] == 1
    assert kernels.bernoulli_sample(-z, np.array([[p_one / 2]]))[0, 0] == 0
    assert kernels.bernoulli_sample(-z, np.array([[2 * p_one]]))[0, 0] == 1


# ---- Uniforms


@pytest.mark.parametrize("key", [(0, 0), (1, 2), (2**64 - 1, 2**63 + 5), (0x243F6A8885A308D3, 0x13198A2E03707344)])
@pytest.mark.parametrize("first_block", [0, 1, 255, 2**40, 2**63])
def test_uniforms_are_numpys_philox_words(key, first_block):
    for n in (0, 1, 3, 4, 5, 1023, 50_001):
        want = reference.uniforms(key, first_block, n)
        got = kernels.uniforms(key, first_block, n)
        assert_same_bits(got, want)
        out = np.full(n + 2, -1.0)
        kernels.uniforms(key, first_block, n, out=out[1:-1], n_threads=3)
        assert_same_bits(out[1:-1], want)
        assert out[0] == out[-1] == -1


def test_uniforms_lie_inside_the_interval_and_are_uniform():
    u = kernels.uniforms((3, 4), 0, 400_000)
    assert u.min() > 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4 / np.sqrt(12 * u.size)
    counts = np.bincount((u * 100).astype(int), minlength=100)
    assert ((counts - 4000.0) ** 2 / 4000).sum() < 99 + 4 * np.sqrt(198)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), st.integers(0, 2**60), st.integers(0, 2000),
    st.integers(0, 500), st.sampled_from([1, 2, 3]),
)  # fmt: skip
def test_uniforms_depend_on_key_and_position_alone(key, first_block, n, skipped, n_threads):
    whole = kernels.uniforms(key, first_block, n)
    rest = kernels.uniforms(key, first_block + skipped, max(n - 4 * skipped, 0), n_threads=n_threads)
    assert_same_bits(whole[4 * skipped :], rest)


# ---- What arrays are taken


class Dlpack:
    """Nothing but the two methods of the protocol."""

    def __init__(self, source):
        self.source = source

    def __dlpack__(self, **options):
        return self.source.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.source.__dlpack_device__()


def nade_arguments(dtype=np.float32, m=5, n=7, d=3):
    rng = np.random.default_rng(0)
    return [random_bits(rng, m, n), *(rng.normal(size=s).astype(dtype) for s in ((n, d), (n, d), n, d))]


@by_dtype
@pytest.mark.parametrize("wrap", [Dlpack, memoryview], ids=["dlpack", "memoryview"])
def test_protocols(wrap, dtype):
    arguments = nade_arguments(dtype)
    m, n = arguments[0].shape
    want = kernels.nade_score(*arguments)
    assert_same_bits(kernels.nade_score(*map(wrap, arguments)), want)
    order, flip = np.arange(n, dtype=np.uint32)[::-1].copy(), np.ones(n, np.uint8)
    assert_same_bits(
        kernels.nade_logits(*map(wrap, arguments), order=wrap(order), flip=wrap(flip)),
        kernels.nade_logits(*arguments, order=order, flip=flip),
    )
    gradient = kernels.nade_gradient(*map(wrap, arguments), weight=wrap(np.ones(m, dtype)))[1]
    for a, b in zip(gradient, kernels.nade_gradient(*arguments, weight=np.ones(m, dtype))[1], strict=True):
        assert_same_bits(a, b)
    out = np.full(m, np.nan)
    if wrap is memoryview:
        kernels.nade_score(*arguments, out=wrap(out))
        assert_same_bits(out, want)


def test_array_array():
    """The buffer protocol of the standard library, in and out."""
    u, m, v = array.array("d", [0.1, 0.2, 0.3]), array.array("d", [0.0] * 3), array.array("d", [0.0] * 3)
    kernels.optimizer_step("adam", u, array.array("d", [1.0, -1.0, 0.0]), m, v, learning_rate=0.01, **CONSTANTS)
    assert u[0] < 0.1
    assert u[1] > 0.2
    assert u[2] == 0.3
    out = array.array("d", [0.0] * 9)
    kernels.uniforms((1, 2), 0, 9, out=out)
    assert_same_bits(np.array(out), kernels.uniforms((1, 2), 0, 9))


def test_torch_tensors_in_place():
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("PyTorch is not made for a preloaded sanitizer")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    arguments = nade_arguments()
    tensors = [torch.from_numpy(a) for a in arguments]
    assert_same_bits(kernels.nade_score(*tensors), kernels.nade_score(*arguments))
    assert_same_bits(kernels.nade_score(tensors[0], torch.from_numpy(padded(arguments[1], 8))[:, :3], *tensors[2:]),
                     kernels.nade_score(*arguments))  # fmt: skip
    p, g, m, v = (torch.zeros(10) for _ in range(4))
    g[4] = 1.0
    if np.from_dlpack(p).flags.writeable:  # NumPy before 2.1 makes read-only views
        kernels.optimizer_step("adam", p, g, m, v, learning_rate=0.01, **CONSTANTS)
        assert p[4] < 0
        assert p[3] == 0
    with pytest.raises(TypeError, match=r"^V must be float32, not float64"):
        kernels.nade_score(tensors[0], tensors[1], tensors[2].double(), *tensors[3:])


def test_arrays_of_one_element_or_none_have_any_strides():
    """NumPy gives them whatever strides it likes."""
    x, W, V, b, c = nade_arguments(m=1, n=1, d=1)
    strided = [np.lib.stride_tricks.as_strided(a, strides=(56,) * a.ndim) for a in (x, W, V, b, c)]
    assert_same_bits(kernels.nade_score(*strided), kernels.nade_score(x, W, V, b, c))
    for m, n, d in ((0, 7, 3), (5, 0, 3), (5, 7, 0), (0, 0, 0)):
        arguments = nade_arguments(m=m, n=n, d=d)
        for fresh in (arguments, [np.zeros(a.shape, a.dtype) for a in arguments]):
            assert kernels.nade_score(*fresh).shape == (m,)
            assert kernels.nade_sample(np.zeros((m, n)), *fresh[1:]).shape == (m, n)
            assert kernels.nade_gradient(*fresh)[1][0].shape == (n, d)


# ---- What is said of the others: argument, rule, value


class Case:
    """A call with one argument replaced, and the error it must raise."""

    def __init__(self, name, change, error, message):
        self.name, self.change, self.error, self.message = name, change, error, message


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def misaligned(a):
    memory = np.empty(a.nbytes + 1, np.uint8)
    view = memory[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def with_value(value, *index):
    def change(a):
        a = a.copy()
        a[index] = value
        return a

    return change


ROWS = "must have contiguous rows"
SCORE = [  # x uint8 (5, 7); W, V float32 (7, 3); b (7,); c (3,); order uint32 (7,); flip uint8 (7,); out float64 (5,)
    Case("x", lambda a: a.astype(np.int64), TypeError, "x must be uint8, not int64"),
    Case("x", lambda a: a.astype(bool), TypeError, "x must be uint8, not bool"),
    Case("x", lambda a: a.astype(np.float32), TypeError, "x must be uint8, not float32"),
    Case("x", lambda a: a[0], ValueError, "x must be 2-d of shape (any, 7), not uint8 of shape (7,)"),
    Case("x", lambda a: a[:, :6].copy(), ValueError, "x must be 2-d of shape (any, 7), not uint8 of shape (5, 6)"),
    Case("x", lambda a: a[None], ValueError, "x must be 2-d of shape (any, 7), not uint8 of shape (1, 5, 7)"),
    Case("x", np.asfortranarray, ValueError, f"x {ROWS}"),
    Case("x", lambda a: np.repeat(a, 2, axis=1)[:, ::2], ValueError, f"x {ROWS}"),
    Case("x", lambda a: a[::-1], ValueError, f"x {ROWS}"),
    Case("x", lambda a: np.broadcast_to(a[0], (5, 7)), ValueError, f"x {ROWS}"),
    Case("x", with_value(2, 3, 4), ValueError, "x has values outside {0, 1} (first: 2 at row 3, column 4)"),
    Case("x", with_value(255, 4, 6), ValueError, "x has values outside {0, 1} (first: 255 at row 4, column 6)"),
    Case("W", lambda a: a.astype(np.float16), TypeError, "W must be float32 or float64, not float16"),
    Case("W", lambda a: a.astype(">f4"), TypeError, "W must be float32 or float64, not >f4"),
    Case("W", lambda a: a.astype(np.int32), TypeError, "W must be float32 or float64, not int32"),
    Case("W", lambda a: a.astype(np.complex64), TypeError, "W must be float32 or float64, not complex64"),
    Case("W", lambda a: a.astype(np.float64), TypeError, "V must be float64, not float32"),
    Case("W", np.asfortranarray, ValueError, f"W {ROWS}"),
    Case("W", lambda a: a.T, ValueError, "W must"),
    Case("W", lambda a: a.ravel(), ValueError, "W must be 2-d of shape (any, any), not float32 of shape (21,)"),
    Case("W", misaligned, ValueError, "W is not aligned to its elements"),
    Case("V", lambda a: a.astype(np.float64), TypeError, "V must be float32, not float64"),
    Case("V", lambda a: a[:6], ValueError, "V must be 2-d of shape (7, 3), not float32 of shape (6, 3)"),
    Case("V", lambda a: a[:, :2], ValueError, "V must be 2-d of shape (7, 3), not float32 of shape (7, 2)"),
    Case("V", lambda a: np.repeat(a, 2, axis=1)[:, ::2], ValueError, f"V {ROWS}"),
    Case("b", lambda a: a.astype(np.float64), TypeError, "b must be float32, not float64"),
    Case("b", lambda a: a[:6], ValueError, "b must be 1-d of length 7, not float32 of shape (6,)"),
    Case("b", lambda a: a[None], ValueError, "b must be 1-d of length 7, not float32 of shape (1, 7)"),
    Case("b", lambda a: np.repeat(a, 2)[::2], ValueError, "b must be contiguous"),
    Case("b", lambda a: a[::-1], ValueError, "b must be contiguous"),
    Case("b", misaligned, ValueError, "b is not aligned to its elements"),
    Case("c", lambda a: np.append(a, a), ValueError, "c must be 1-d of length 3, not float32 of shape (6,)"),
    Case("order", lambda a: a.astype(np.int64), TypeError, "order must be uint32, not int64"),
    Case("order", lambda a: a[:6], ValueError, "order must be 1-d of length 7, not uint32 of shape (6,)"),
    Case("order", with_value(7, 2), ValueError, "order must be a permutation of 0..6; entry 2 is 7"),
    Case("order", with_value(2**32 - 1, 2), ValueError, "order must be a permutation of 0..6; entry 2 is 4294967295"),
    Case("order", with_value(1, 4), ValueError, "order must be a permutation of 0..6; entry 4 is 1"),
    Case("flip", lambda a: a.astype(bool), TypeError, "flip must be uint8, not bool"),
    Case("flip", lambda a: a[:6], ValueError, "flip must be 1-d of length 7, not uint8 of shape (6,)"),
    Case("flip", with_value(3, 5), ValueError, "flip has values outside {0, 1} (entry 5 is 3)"),
    Case("activation", lambda a: "Sigmoid", ValueError, "activation must be one of sigmoid, relu, tanh, not 'Sigmoid'"),
    Case("activation", lambda a: None, ValueError, "activation must be one of sigmoid, relu, tanh, not None"),
    Case("out", lambda a: a.astype(np.float32), TypeError, "log_prob must be float64, not float32"),
    Case("out", lambda a: a[:4], ValueError, "log_prob must be 1-d of length 5, not float64 of shape (4,)"),
    Case("out", read_only, ValueError, "log_prob is written to, but is read-only"),
    Case("out", lambda a: np.repeat(a, 2)[::2], ValueError, "log_prob must be contiguous"),
]  # fmt: skip


def score_arguments():
    x, W, V, b, c = nade_arguments()
    order, flip = np.arange(7, dtype=np.uint32), np.zeros(7, np.uint8)
    return {
        "x": x,
        "W": W,
        "V": V,
        "b": b,
        "c": c,
        "order": order,
        "flip": flip,
        "activation": "relu",
        "out": np.zeros(5),
    }


@pytest.mark.parametrize("case", SCORE, ids=lambda c: f"{c.name}: {c.message}")
def test_bad_argument_of_score(case):
    arguments = score_arguments()
    kernels.nade_score(**arguments)  # good before
    arguments[case.name] = case.change(arguments[case.name])
    with pytest.raises(case.error, match="^" + re.escape(case.message)):
        kernels.nade_score(**arguments)


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        (
            "terms",
            lambda a: a[:, :6].copy(),
            ValueError,
            "terms must be 2-d of shape (5, 7), not float64 of shape (5, 6)",
        ),
        ("terms", lambda a: padded(a, 9), ValueError, "terms must be C-contiguous"),
        ("terms", read_only, ValueError, "terms is written to, but is read-only"),
        ("logits", lambda a: a.astype(np.float64), TypeError, "logits must be float32, not float64"),
        ("logits", lambda a: padded(a, 9), ValueError, "logits must be C-contiguous"),
        ("logits", read_only, ValueError, "logits is written to, but is read-only"),
    ],
)
def test_bad_out_of_score(name, change, error, message):
    x, *model = nade_arguments()
    terms = name == "terms"
    out = change(np.zeros((5, 7), np.float64 if terms else np.float32))
    with pytest.raises(error, match="^" + re.escape(message)):
        kernels.nade_score(x, *model, per_variable=True, out=out) if terms else kernels.nade_logits(x, *model, out=out)


@pytest.mark.parametrize(
    ("place", "change", "error", "message"),
    [
        ("weight", lambda a: a[:4], ValueError, "weight must be 1-d of length 5, not float32 of shape (4,)"),
        ("weight", lambda a: a.astype(np.float64), TypeError, "weight must be float32, not float64"),
        ("log_prob", read_only, ValueError, "log_prob is written to, but is read-only"),
        ("log_prob", lambda a: a[:3], ValueError, "log_prob must be 1-d of length 5, not float64 of shape (3,)"),
        (0, read_only, ValueError, "dW is written to, but is read-only"),
        (0, lambda a: np.asfortranarray(a), ValueError, f"dW {ROWS}"),
        (1, lambda a: a[:6], ValueError, "dV must be 2-d of shape (7, 3), not float32 of shape (6, 3)"),
        (2, lambda a: a.astype(np.float64), TypeError, "db must be float32, not float64"),
        (3, lambda a: a[:2], ValueError, "dc must be 1-d of length 3, not float32 of shape (2,)"),
    ],
)
def test_bad_argument_of_gradient(place, change, error, message):
    x, *model = nade_arguments()
    more = {"weight": np.ones(5, np.float32), "log_prob": np.zeros(5), "out": [np.zeros_like(p) for p in model]}
    kernels.nade_gradient(x, *model, **more)
    if isinstance(place, str):
        more[place] = change(more[place])
    else:
        more["out"][place] = change(more["out"][place])
    with pytest.raises(error, match="^" + re.escape(message)):
        kernels.nade_gradient(x, *model, **more)


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("u", lambda a: a.astype(np.float32), TypeError, "u must be float64, not float32"),
        ("u", lambda a: a[:, :6], ValueError, "u must be 2-d of shape (any, 7), not float64 of shape (5, 6)"),
        ("u", np.asfortranarray, ValueError, f"u {ROWS}"),
        ("out", lambda a: a.astype(bool), TypeError, "out must be uint8, not bool"),
        ("out", lambda a: a[:4], ValueError, "out must be 2-d of shape (5, 7), not uint8 of shape (4, 7)"),
        ("out", read_only, ValueError, "out is written to, but is read-only"),
        ("out", lambda a: np.broadcast_to(a[0], (5, 7)), ValueError, "out is written to, but is read-only"),
    ],
)
def test_bad_argument_of_sample(name, change, error, message):
    _, *model = nade_arguments()
    arguments = {"u": np.full((5, 7), 0.5), "out": np.zeros((5, 7), np.uint8)}
    kernels.nade_sample(arguments["u"], *model, out=arguments["out"])
    arguments[name] = change(arguments[name])
    with pytest.raises(error, match="^" + re.escape(message)):
        kernels.nade_sample(arguments["u"], *model, out=arguments["out"])


def test_bad_argument_of_the_others():
    z, x, u = np.zeros((3, 4)), np.zeros((3, 4), np.uint8), np.full((3, 4), 0.5)
    p = [np.zeros(5) for _ in range(4)]

    def step(*arrays):
        kernels.optimizer_step("adam", *arrays, learning_rate=0.01, **CONSTANTS)

    for message, error, call in (
        (
            "x must be 2-d of shape (3, 4), not uint8 of shape (2, 4)",
            ValueError,
            lambda: kernels.bernoulli_log_prob(z, x[:2]),
        ),
        (
            "x has values outside {0, 1} (first: 10 at row 0, column 0)",
            ValueError,
            lambda: kernels.bernoulli_log_prob(z, x + np.uint8(10)),
        ),
        (
            "logits must be float32 or float64, not int64",
            TypeError,
            lambda: kernels.bernoulli_log_prob(z.astype(int), x),
        ),
        ("u must be float64, not float32", TypeError, lambda: kernels.bernoulli_sample(z, u.astype(np.float32))),
        ("u must be 2-d of shape (3, 4)", ValueError, lambda: kernels.bernoulli_sample(z, u[:2])),
        ("parameters is written to, but is read-only", ValueError, lambda: step(read_only(p[0]), *p[1:])),
        ("parameters must be 1-d, not float64 of shape (1, 5)", ValueError, lambda: step(p[0][None], *p[1:])),
        ("gradient must be 1-d of length 5", ValueError, lambda: step(p[0], p[1][:4], *p[2:])),
        ("s is written to, but is read-only", ValueError, lambda: step(*p[:2], read_only(p[2]), p[3])),
        ("t must be float64, not float32", TypeError, lambda: step(*p[:3], p[3].astype(np.float32))),
        ("average must be 1-d of length 5", ValueError, lambda: step(*p, p[0][:4].copy())),
        ("s must be given", ValueError, lambda: step(*p[:2])),
        ("t must be given", ValueError, lambda: step(*p[:3])),
        ("rule must be one of sgd, ", ValueError, lambda: kernels.optimizer_step("Adam", *p, learning_rate=0.1)),
        ("x must be 1-d", ValueError, lambda: kernels.sum_squares(z)),
        ("x must be float32 or float64, not int64", TypeError, lambda: kernels.sum_squares(np.arange(3))),
        ("out must have n = 5 elements, not 4", ValueError, lambda: kernels.uniforms((1, 2), 0, 5, out=np.empty(4))),
        (
            "out must be float64, not float32",
            TypeError,
            lambda: kernels.uniforms((1, 2), 0, 5, out=np.empty(5, np.float32)),
        ),
        (
            "out is written to, but is read-only",
            ValueError,
            lambda: kernels.uniforms((1, 2), 0, 5, out=read_only(np.empty(5))),
        ),
    ):
        with pytest.raises(error, match="^" + re.escape(message)):
            call()


@pytest.mark.parametrize("value", [[[0, 1]], 3, "bits", None, object()], ids=repr)
def test_what_is_no_array_is_a_type_error(value):
    _, *model = nade_arguments()
    with pytest.raises((TypeError, ValueError)):
        kernels.nade_score(value, *model)
    with pytest.raises((TypeError, ValueError)):
        kernels.nade_score(np.zeros((1, 7), np.uint8), model[0], value, *model[2:])


def test_n_threads_is_a_number():
    x, *model = nade_arguments()
    with pytest.raises(TypeError, match="n_threads"):
        kernels.nade_score(x, *model, n_threads="two")


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_any_disagreement_of_shapes_is_an_error(data):
    """One dimension of one argument is off by any amount: never a crash, always an error that names an argument."""
    m, n, d = (data.draw(st.integers(0, 6)) for _ in range(3))
    shapes = {"x": [m, n], "W": [n, d], "V": [n, d], "b": [n], "c": [d], "order": [n], "flip": [n], "out": [m]}
    name = data.draw(st.sampled_from(sorted(shapes)))
    axis = data.draw(st.integers(0, len(shapes[name]) - 1))
    other = data.draw(st.integers(0, 8).filter(lambda v: v != shapes[name][axis]))
    shapes[name][axis] = other
    dtypes = {"x": np.uint8, "order": np.uint32, "flip": np.uint8, "out": np.float64}
    arrays = {key: np.zeros(shape, dtypes.get(key, np.float32)) for key, shape in shapes.items()}
    arrays["order"][...] = np.arange(len(arrays["order"]))
    with pytest.raises(ValueError, match=r"^(x|W|V|b|c|order|flip|log_prob) must be"):
        kernels.nade_score(**arrays)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_any_strides_are_taken_or_refused(data):
    """Slices with any start and step: refused, or the result of the contiguous copy."""
    rng = np.random.default_rng(0)
    _, *model = nade_arguments()
    base = random_bits(rng, 12, 30)
    step = st.sampled_from([-2, -1, 1, 2, 3])
    rows = slice(None, None, data.draw(step))
    columns = data.draw(
        st.sampled_from(
            [slice(k, k + 7) for k in range(10)]
            + [slice(k, k + 14, 2) for k in range(4)]
            + [slice(6, None, -1), slice(0, 7)]
        )
    )
    x = base[rows, columns]
    if data.draw(st.booleans()):
        x = x[: data.draw(st.integers(0, 3))]
    if x.size and ((x.strides[1] != 1) or (len(x) > 1 and x.strides[0] < 7)):
        with pytest.raises(ValueError, match=r"^x must have contiguous rows$"):
            kernels.nade_score(x, *model)
    else:
        assert_same_bits(kernels.nade_score(x, *model), kernels.nade_score(x.copy(), *model))
