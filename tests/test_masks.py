"""The law of masks: the product of all masks connects output i to exactly the inputs it may depend on."""

import numpy as np
import pytest
from chainrule import masks, random
from hypothesis import given, settings
from hypothesis import strategies as st

KEY = (3, 5)
keys = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
counts = st.integers(1, 12)
layers = st.lists(st.integers(1, 20), min_size=1, max_size=3)
laws = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def lower(n):
    return np.tri(n, k=-1, dtype=bool)


def product(net):
    """Output by input: the number of paths, straight from the definition."""
    paths = np.zeros((0, 0), int)
    for l, live in enumerate(net.hidden):
        paths = live.astype(int) if l == 0 else paths @ live.astype(int)
    total = 0 if net.output is None else paths @ net.output.astype(int)
    return (total + (0 if net.direct is None else net.direct.astype(int))).T


def reached(net):
    """Per layer, the set of inputs of each unit, one edge at a time."""
    found = []
    for live in net.hidden:
        below = found[-1] if found else [{j} for j in range(live.shape[0])]
        found.append([set().union(*(below[u] for u in np.flatnonzero(column))) for column in live.T])
    return found


def check(net, n):
    """What holds of every network here."""
    assert np.array_equal(net.dependencies(), product(net) > 0)
    assert not (net.dependencies() & ~lower(n)).any()
    for ready, units, sets in zip(net.ready, net.units, reached(net), strict=True):
        assert ready.dtype == np.int32
        assert units.dtype == np.intp
        assert [max(s, default=-1) for s in sets] == ready.tolist()
        assert (np.diff(ready) >= 0).all()
        assert np.array_equal(np.sort(units), np.arange(len(ready)))
    masks.check(net)


def grid_law(n, sizes):
    """made's promise: output i sees j up to the largest degree of the narrowest layer's grid below i."""
    k = min(n - 1, *sizes)
    grid = [c * (n - 2) // max(k - 1, 1) for c in range(k)]
    return np.array([[j <= max((c for c in grid if c < i), default=-1) for j in range(n)] for i in range(n)])


# ---- FVSBN, one network per variable


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_fvsbn(n):
    net = masks.fvsbn(n)
    assert (net.hidden, net.output, net.ready, net.units) == ((), None, (), ())
    assert np.array_equal(net.dependencies(), lower(n))
    check(net, n)


@laws
@given(counts, st.integers(1, 5))
def test_mlp_conditionals_share_nothing(n, n_hidden):
    net = masks.mlp_conditionals(n, n_hidden)
    check(net, n)
    assert np.array_equal(net.dependencies(), lower(n))
    assert net.hidden[0].shape == (n, (n - 1) * n_hidden)
    assert (net.output.sum(axis=1) == 1).all()
    assert net.output.sum(axis=0).tolist() == [0] + [n_hidden] * (n - 1)


# ---- MADE


@laws
@given(counts, layers, st.booleans(), keys, st.integers(0, 100))
def test_made_depends_on_what_it_promises(n, sizes, direct, key, index):
    net = masks.made(n, sizes, direct=direct, key=key, index=index)
    check(net, n)
    law = grid_law(n, sizes) if n > 1 else np.zeros((1, 1), bool)
    assert np.array_equal(net.dependencies(), law | lower(n) if direct else law)
    assert (net.direct is not None) == direct
    if min(sizes) >= n - 1:
        assert np.array_equal(law, lower(n))
    if n > 2 and min(sizes) >= 2:
        assert law[1, 0], "output 1 is reached"
        assert law[-1, :-1].all(), "the last output sees everything"


@laws
@given(st.integers(2, 12), layers, keys)
def test_made_masks_are_those_of_the_paper(n, sizes, key):
    """m' >= m between hidden layers, i > m into the outputs; a unit of degree m depends on all of 0..m."""
    net = masks.made(n, sizes, key=key)
    below = np.arange(n)
    for live, degrees, sets in zip(net.hidden, net.ready, reached(net), strict=True):
        assert np.array_equal(live, degrees >= below[:, None])
        assert sets == [set(range(m + 1)) for m in degrees]
        below = degrees
    assert np.array_equal(net.output, np.arange(n) > below[:, None])


@laws
@given(counts, st.integers(1, 20), st.integers(1, 3), keys)
def test_residual_layers_share_their_degrees(n, size, depth, key):
    net = masks.made(n, [size] * depth, residual=True, key=key)
    check(net, n)
    for l in range(depth):
        assert np.array_equal(net.ready[l], net.ready[0])
        assert np.array_equal(net.units[l], net.units[0])
    with pytest.raises(ValueError, match=r"residual=True needs hidden layers of one size, not hidden_sizes=\(3, 4\)"):
        masks.made(n, (3, 4), residual=True, key=key)


@laws
@given(st.integers(2, 30), st.integers(1, 40), keys)
def test_a_layer_holds_as_many_degrees_as_it_can(n, size, key):
    degrees = masks.made(n, size, key=key).ready[0]
    assert len(set(degrees.tolist())) == min(size, n - 1)
    assert degrees.min() == 0
    gaps = np.diff(np.unique(degrees))
    if size > 1:
        assert degrees.max() == n - 2
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1, "spread evenly"


def test_a_layer_holds_only_degrees_of_the_layer_below():
    net = masks.made(50, (6, 100, 300), key=KEY)
    assert (
        set(net.ready[2].tolist()) == set(net.ready[1].tolist()) == set(net.ready[0].tolist()) == {0, 9, 19, 28, 38, 48}
    )
    wide = masks.made(50, (300, 20, 300), key=KEY)
    assert len(set(wide.ready[0].tolist())) == 49
    assert set(wide.ready[2].tolist()) == set(wide.ready[1].tolist())
    assert len(set(wide.ready[1].tolist())) == 20


def test_one_variable_has_only_biases():
    net = masks.made(1, (3, 2), direct=True, key=KEY)
    assert [m.shape for m in net.hidden] == [(1, 3), (3, 2)]
    assert not any(m.any() for m in (*net.hidden, net.output, net.direct))
    assert [r.tolist() for r in net.ready] == [[-1] * 3, [-1] * 2]


def test_no_hidden_layer_is_an_fvsbn():
    net = masks.made(5, (), direct=True, key=KEY)
    assert np.array_equal(net.direct, masks.fvsbn(5).direct)
    assert net.hidden == ()
    assert net.output is None
    with pytest.raises(ValueError, match="hidden_sizes is empty: without hidden layers only direct=True"):
        masks.made(5, (), key=KEY)


def same(a, b):
    arrays = lambda net: (*net.hidden, net.output, *net.ready, *net.units)  # noqa: E731
    return all(np.array_equal(x, y) for x, y in zip(arrays(a), arrays(b), strict=True))


def test_made_is_a_function_of_key_and_index():
    net = masks.made(30, (40, 50), key=KEY, index=2)
    assert same(net, masks.made(30, (40, 50), key=KEY, index=2))
    assert not same(net, masks.made(30, (40, 50), key=KEY))
    assert not same(net, masks.made(30, (40, 50), key=(3, 6), index=2))


def canonical(net, layer=0):
    """Degree of each canonical unit: `units` undone."""
    degrees = np.empty_like(net.ready[layer])
    degrees[net.units[layer]] = net.ready[layer]
    return degrees


def test_degrees_are_uniform_over_degrees_and_over_units():
    draws = np.array([canonical(masks.made(11, 25, key=KEY, index=k)) for k in range(400)])
    per_degree = np.bincount(draws.ravel(), minlength=10)
    assert (abs(per_degree - 1000) < 120).all(), per_degree
    for unit in (0, 12, 24):
        seen = np.bincount(draws[:, unit], minlength=10)
        assert ((seen - 40) ** 2 / 40).sum() < 27.9, "chi-square, 9 degrees of freedom, 0.1 %"


def test_units_lead_back_to_the_canonical_masks():
    """Shared parameters: the mask of canonical units is the sorted one with rows and columns put back."""
    net = masks.made(9, (12, 15), key=KEY)
    first, second = canonical(net, 0), canonical(net, 1)
    back = np.empty_like(net.hidden[1])
    back[np.ix_(net.units[0], net.units[1])] = net.hidden[1]
    assert np.array_equal(back, second >= first[:, None])


def test_published_size_is_quick_and_half_dense():
    net = masks.made(784, (2000,), key=random.key_of(0))
    assert 0.48 < net.hidden[0].mean() < 0.52
    masks.check(net, lower(784))


# ---- helpers


def test_expand_repeats_per_variable():
    mask = masks.fvsbn(3).direct
    assert np.array_equal(masks.expand(mask, 2, 3), np.kron(mask, np.ones((2, 3), bool)))
    uneven = masks.expand(mask, [1, 0, 2], [2, 1, 1])
    assert np.array_equal(uneven, mask[[0, 2, 2]][:, [0, 0, 1, 2]])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda net: net.output.__setitem__((slice(None), 0), True),
            r"leak: output 0 depends on input 0, which does not",
        ),
        (lambda net: net.hidden[0].__setitem__((4, 0), True), r"leak: output 1 depends on input 4"),
        (lambda net: net.output.__setitem__((slice(None), 3), False), r"starve: output 3 does not depend on input 0"),
        (lambda net: net.ready[0].__setitem__(-1, 2), r"ready\[0\] of unit 19 is not the largest input"),
        (lambda net: net.hidden[1].__setitem__((slice(None), 5), False), r"ready\[1\] of unit 5"),
    ],
)
def test_check_finds_one_wrong_entry(spoil, message):
    net = masks.made(5, (20, 20), key=KEY)
    masks.check(net, lower(5))
    spoil(net)
    with pytest.raises(ValueError, match=message):
        masks.check(net, lower(5))


def test_check_finds_what_is_not_allowed():
    with pytest.raises(ValueError, match="leak: output 2 depends on input 0, which is not allowed"):
        masks.check(masks.fvsbn(3), [[0, 0, 0], [1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: masks.fvsbn(0), "n must be an integer >= 1, not 0"),
        (lambda: masks.mlp_conditionals(3, 0), "n_hidden must be an integer >= 1, not 0"),
        (lambda: masks.made(0, 3, key=KEY), "n must be an integer >= 1, not 0"),
        (lambda: masks.made(3, (4, 0), key=KEY), r"hidden_sizes\[1\] must be an integer >= 1, not 0"),
        (lambda: masks.made(3, 2.5, key=KEY), r"hidden_sizes\[0\] must be an integer >= 1, not 2.5"),
        (lambda: masks.made(3, "ab", key=KEY), r"hidden_sizes\[0\] must be an integer >= 1, not 'a'"),
    ],
)
def test_bad_sizes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
