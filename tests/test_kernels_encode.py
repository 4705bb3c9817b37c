"""Rows of codes as the indices of their ones, against tests/reference/masked.py."""

import chainrule
import numpy as np
import pytest
from chainrule import kernels
from chainrule.conditionals.categorical import starts
from checking import T, V, assert_same_bits, entry
from masked_problems import random_codes
from reference import masked as reference
from reference.nade import padded, random_order


@pytest.mark.parametrize("with_order", [False, True], ids=["", "order"])
@pytest.mark.parametrize("with_reference", [False, True], ids=["", "reference"])
@pytest.mark.parametrize(
    "values", [[2] * 21, [2, 256, 3, 1, 17, 4, 2, 1], [1], [1, 1], [], [2] * 64, [3] * 65], ids=len
)
def test_encode(values, with_order, with_reference):
    rng = np.random.default_rng(len(values))
    n, n_values = len(values), np.array(values, int)
    for m in (0, 1, 7, 8, 9, 33):
        x = random_codes(rng, n_values, m)
        order = random_order(rng, n) if with_order else None
        swap = rng.integers(0, n_values).astype(np.uint8) if with_reference else None
        first = starts(n_values[order] if with_order else n_values)
        variants = [first] if any(k != 2 for k in values) else [first, None]
        for units in variants:
            codes, dense = reference.encode(x, order, swap, units)
            for rows in (x, padded(x, n + 3, 255)):
                ones = kernels.encode(rows, order=order, reference=swap, first=units)
                assert_same_bits(np.asarray(ones.codes), codes)
                assert ones.n_units == first[-1]
                for r in range(m):
                    assert ones.index[r, : ones.count[r]].tolist() == np.flatnonzero(dense[r]).tolist()


def test_encode_threads():
    x = (np.random.default_rng(0).random((2000, 301)) < 0.4).astype(np.uint8)
    for n_threads in (1, 2, 3):
        ones = kernels.encode(x, n_threads=n_threads)
        assert (ones.codes == x).all()
        assert (ones.count == x.sum(1)).all()
        assert all((ones.index[r, : ones.count[r]] == np.flatnonzero(x[r])).all() for r in range(len(x)))


def test_ones_cannot_be_changed():
    """Kernels follow the indices without looking."""
    ones = kernels.encode(np.ones((2, 3), np.uint8))
    for array in (ones.index, ones.count):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 10**6
    with pytest.raises(AttributeError):
        ones.n_units = 7
    with pytest.raises(TypeError):
        chainrule._kernels.Ones()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": np.array([[0, 1, 2]], np.uint8)}, V, r"x has values outside 0 to 1 \(first: 2 at row 0, column 2\)"),
        ({"x": np.zeros((2, 3))}, T, "x must be uint8, not float64"),
        ({"x": np.zeros(3, np.uint8)}, V, "x must be 2-d of shape"),
        ({"x": np.zeros((3, 2), np.uint8).T}, V, "x must have contiguous rows"),
        ({"order": np.array([0, 1], np.uint32)}, V, "order must be 1-d of length 3"),
        ({"order": np.array([0, 1, 1], np.uint32)}, V, r"order must be a permutation of 0..2; entry 2 is 1"),
        ({"order": np.array([0, 3, 1], np.uint32)}, V, r"order must be a permutation of 0..2; entry 1 is 3"),
        ({"order": np.array([0, 1, 2])}, T, "order must be uint32, not int64"),
        ({"reference": np.array([0, 2, 1], np.uint8)}, V, "a value of its column; that of column 1 is 2"),
        ({"reference": np.zeros(2, np.uint8)}, V, "reference must be 1-d of length 3"),
        ({"first": np.array([0, 1, 2], np.uint32)}, V, "first must be 1-d of length 4"),
        ({"first": np.array([1, 1, 2, 3], np.uint32)}, V, "first must start at 0"),
        ({"first": np.array([0, 2, 1, 3], np.uint32)}, V, "first must start at 0 and grow .*; entry 2 is 1"),
        ({"first": np.array([0, 1, 2, 258], np.uint32)}, V, "grow by 0 to 255 a variable; entry 3 is 258"),
        ({"first": np.array([0, 1, 1, 3], np.uint32)}, V, r"outside 0 to 0 \(first: 1 at row 0, column 1\)"),
        ({"n_threads": -1}, V, "n_threads must be a positive number"),
    ],
)  # fmt: skip
def test_bad_encode(changes, error, message):
    arguments = {"x": np.ones((2, 3), np.uint8), **changes}
    with pytest.raises(error, match=message):
        kernels.encode(**arguments)


def test_limits_of_codes_follow_the_order():
    order, first = np.array([2, 0, 1], np.uint32), np.array([0, 4, 5, 7], np.uint32)  # K = 2, 3, 5 by column
    x = np.array([[1, 2, 4]], np.uint8)
    assert kernels.encode(x, order=order, first=first).index[0].tolist() == [3, 4, 6]
    for column, largest in enumerate((1, 2, 4)):
        with pytest.raises(ValueError, match=f"outside 0 to {largest} .first: {largest + 1} at row 0, column {column}"):
            kernels.encode(entry(x, column, largest + 1), order=order, first=first)
        reference_ = np.zeros(3, np.uint8)
        reference_[column] = largest + 1
        with pytest.raises(ValueError, match=f"that of column {column} is {largest + 1}"):
            kernels.encode(x, order=order, first=first, reference=reference_)
