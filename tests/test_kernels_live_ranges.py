"""Optimizer steps within the live ranges of a buffer."""

import re

import numpy as np
import pytest
from chainrule import kernels
from checking import T, V, assert_same_bits, by_dtype, with_threads

STATES = {"sgd": 0, "momentum": 1, "nesterov": 1, "adagrad": 1, "rmsprop": 1, "adadelta": 2, "adam": 2}


@by_dtype
@pytest.mark.parametrize("rule", STATES)
@pytest.mark.parametrize(
    "ranges",
    [[], [[0, 0]], [[0, 70_000]], [[3, 4]], [[5, 5], [5, 9], [9, 40], [41, 69_999], [70_000, 70_000]],
     [[100, 17_000], [17_003, 33_333], [40_000, 69_990]]],
    ids=["none", "nothing", "all", "one", "touching", "large"],
)  # fmt: skip
def test_live_ranges(rule, ranges, dtype):
    """The full step within the ranges, nothing outside of them, whatever the threads."""
    n, rng = 70_000, np.random.default_rng(0)
    live = np.zeros(n, bool)
    for begin, end in ranges:
        live[begin:end] = True
    pairs = np.array(ranges, np.uint64).reshape(-1, 2)
    constants = {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6, "correction1": 0.1,
                 "correction2": 0.01, "weight_decay": 0.1, "l2": 0.01, "gradient_scale": 0.5,
                 "average_decay": 0.9}  # fmt: skip
    start = [rng.normal(size=n).astype(dtype) for _ in range(4)]
    start[2], start[3] = np.abs(start[2]), np.abs(start[3])
    gradient = rng.normal(size=n).astype(dtype)

    def step(live_ranges, n_threads):
        p, average, s, t = (array.copy() for array in start)
        states = [s, t][: STATES[rule]]
        kernels.optimizer_step(rule, p, gradient, *states, *[None] * (2 - len(states)), average, live=live_ranges,
                               n_threads=n_threads, **constants)  # fmt: skip
        return np.stack([p, average, *states])

    full = step(None, 1)
    got = with_threads(lambda t: step(pairs, t))
    assert_same_bits(got[:, live], full[:, live])
    assert_same_bits(got[:, ~live], np.stack(start[: len(got)])[:, ~live])


@pytest.mark.parametrize(
    ("live", "error", "message"),
    [
        (np.array([[0, 11]], np.uint64), V, "live must hold ascending ranges within the parameters; range 0 is not"),
        (np.array([[3, 2]], np.uint64), V, "range 0 is not"),
        (np.array([[0, 5], [4, 6]], np.uint64), V, "range 1 is not"),
        (np.array([[5, 6], [0, 2]], np.uint64), V, "range 1 is not"),
        (np.array([[0, 5]]), T, "live must be uint64, not int64"),
        (np.array([0, 5], np.uint64), V, "live must be 2-d"),
        (np.array([[0, 5, 6]], np.uint64), V, "live must be 2-d"),
        (np.zeros((2, 4), np.uint64)[:, ::2], V, "live must have contiguous rows"),
        (np.zeros((2, 4), np.uint64)[:, :2], V, "live must be C-contiguous"),
    ],
)  # fmt: skip
def test_bad_live_ranges(live, error, message):
    p, g = np.ones(10), np.ones(10)
    with pytest.raises(error, match=re.escape(message)):
        kernels.optimizer_step("sgd", p, g, learning_rate=1.0, live=live)
    assert (p == 1).all()
