"""What the tests of kernels measure with, and the bad arguments they try."""

import numpy as np
import pytest

DTYPES = (np.float32, np.float64)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
# Errors stay below C eps sqrt(terms), relative to the largest value, at least 1: roundings are independent.
C = 4.0
V, T = ValueError, TypeError


def assert_close(got, want, dtype, terms=1, what="", c=C):
    """Relative to the largest value."""
    assert got.shape == want.shape, what
    if want.size:
        error = np.abs(got - want).max() / max(1.0, np.abs(want).max())
        assert error <= c * np.finfo(dtype).eps * np.sqrt(max(terms, 1)), (what, error)


def assert_each_close(got, want, dtype, terms=1):
    """Relative to each value."""
    assert got.shape == want.shape
    if want.size:
        error = (np.abs(got - want) / np.maximum(1.0, np.abs(want))).max()
        assert error <= C * np.finfo(dtype).eps * np.sqrt(terms), error


def assert_same_bits(a, b, what=""):
    assert (a.dtype, a.shape) == (b.dtype, b.shape), what
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), what


def assert_same(a, b):
    """All arrays of both."""
    for one, other in zip(a, b, strict=True):
        assert_same_bits(one, other)


def with_threads(call):
    """The result, an array or a tuple of arrays: the same bits for 1, 2 and 3 threads."""
    one, *others = [call(n_threads) for n_threads in (1, 2, 3)]
    for other in others:
        assert_same(*(result if isinstance(result, tuple) else (result,) for result in (one, other)))
    return one


# ---- Arrays with others around them


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


# ---- Bad arguments


def entry(array, k, value):
    """The array with another value in one place."""
    array = array.copy()
    array.flat[k] = value
    return array


def readonly(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    shifted = memory.view(array.dtype).reshape(array.shape)
    shifted[...] = array
    return shifted


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def arrays_of(entrances):
    """The arrays that calls take: of {entrance: (call, arguments, ...)}, each entrance with an argument's name."""
    return [
        (e, name) for e, (_, good, *_) in entrances.items() for name, a in good.items() if isinstance(a, np.ndarray)
    ]


def fresh(good):
    """Arguments whose arrays may be written to."""
    return {key: a.copy() if isinstance(a, np.ndarray) else a for key, a in good.items()}
