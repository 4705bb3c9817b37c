"""Randomness by counters: a key and a position decide, nothing else."""

import numpy as np
import pytest
from chainrule import random
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import bernoulli as reference

keys = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    keys, st.integers(0, 2**50), st.integers(0, 40), st.integers(0, 40), st.integers(0, 20), st.sampled_from([1, 2, 3])
)
def test_row_k_depends_on_key_and_k_alone(key, start, n_rows, n_columns, cut, n_threads):
    """Any chunks of the endless table, from any start, on any number of threads."""
    table = random.uniform_rows(key, start, n_rows, n_columns)
    assert table.shape == (n_rows, n_columns)
    cut = min(cut, n_rows)
    parts = [
        random.uniform_rows(key, start, cut, n_columns, n_threads),
        random.uniform_rows(key, start + cut, n_rows - cut, n_columns, n_threads),
    ]
    assert np.array_equal(np.concatenate(parts), table)
    for k in range(n_rows):
        assert np.array_equal(random.uniform_rows(key, start + k, 1, n_columns)[0], table[k])


def test_rows_are_numpys_words_with_the_stride_rounded_up_to_four():
    for n_columns in (1, 3, 4, 5, 784):
        stride = -(-n_columns // 4)
        table = random.uniform_rows((5, 6), 10, 3, n_columns)
        for k in range(3):
            assert np.array_equal(table[k], reference.uniforms((5, 6), (10 + k) * stride, n_columns))


def test_rows_of_a_table_all_differ():
    table = random.uniform_rows(random.key_of(0), 0, 1000, 5)
    assert len(np.unique(table)) == table.size
    assert table.min() > 0
    assert table.max() < 1


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31, 2**32, 2**64 + 3, 10**30])
def test_key_of_an_int_is_that_of_numpys_philox(seed):
    key = np.random.Philox(seed).state["state"]["key"]
    assert random.key_of(seed) == tuple(int(word) for word in key)
    assert random.key_of(seed) == random.key_of(seed, random.SAMPLE)
    assert all(type(word) is int for word in random.key_of(seed))


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8, np.uint64])
def test_numpys_integers_are_ints(integer):
    assert random.key_of(integer(7)) == random.key_of(7)
    assert random.key_of(integer(0)) == random.key_of(0)


def test_streams_of_a_seed_differ():
    streams = (random.SAMPLE, random.WEIGHTS, random.ORDER, random.SHUFFLE)
    assert len(set(streams)) == 4
    keys = {random.key_of(seed, stream) for seed in (0, 1, 7) for stream in streams}
    assert len(keys) == 12
    assert random.key_of(7, random.WEIGHTS) == random.key_of(7, random.WEIGHTS)


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.Philox, np.random.MT19937, np.random.SFC64])
def test_a_generator_is_advanced_once(bits):
    """Two raw words a key, so that calls in a row give different keys and equal generators equal ones."""
    a, b, c = (np.random.Generator(bits(3)) for _ in range(3))
    first, second = random.key_of(a), random.key_of(a)
    assert first != second
    assert (random.key_of(b), random.key_of(b)) == (first, second)
    c.bit_generator.random_raw(2)
    assert random.key_of(c) == second  # exactly two words further
    assert all(0 <= word < 2**64 for word in first + second)


def test_a_random_state_is_advanced_once():
    a, b = np.random.RandomState(3), np.random.RandomState(3)
    first, second = random.key_of(a), random.key_of(a)
    assert first != second
    assert (random.key_of(b), random.key_of(b)) == (first, second)
    assert all(0 <= word < 2**64 for word in first + second)


def test_none_is_fresh_and_leaves_the_global_state_alone():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert len({random.key_of(None) for _ in range(20)}) == 20
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(
    "value", [-1, 1.0, 1.5, "7", True, False, np.nan, [1], (1, 2), np.array([1]), np.int64(-3), object], ids=repr
)
def test_other_values_are_refused(value):
    with pytest.raises(
        ValueError, match=r"^random_state must be a non-negative int, a numpy Generator or RandomState, or None, not "
    ):
        random.key_of(value)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(keys, st.integers(0, 1000), st.integers(0, 200))
def test_permutations(key, index, n):
    p = random.permutation(key, index, n)
    assert np.array_equal(np.sort(p), np.arange(n))
    assert np.array_equal(p, random.permutation(key, index, n))


def test_equal_uniforms_keep_their_order():
    u = np.random.default_rng(0).integers(0, 40, 300) / 40.0
    assert np.array_equal(random.ascending(u), np.argsort(u, kind="stable"))
    assert np.array_equal(random.ascending(np.unique(u)[::-1]), np.arange(np.unique(u).size)[::-1])


def test_permutations_of_an_index_differ_and_are_uniform():
    assert len({tuple(random.permutation((1, 2), k, 20)) for k in range(100)}) == 100
    counts = {}
    for k in range(6000):
        p = tuple(random.permutation((1, 2), k, 3))
        counts[p] = counts.get(p, 0) + 1
    assert len(counts) == 6
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 5 + 4 * np.sqrt(10)
