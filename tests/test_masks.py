"""The law of masks: the product of all masks connects output i to exactly the inputs it may depend on."""

import itertools

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
    assert len(set(masks.made(50, (30, 20), key=KEY).ready[0].tolist())) == 30, "beyond the grid, new degrees first"


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


# ---- Parent sets of a graph


def graph_of(n, edges):
    array = np.zeros((n, n), int)
    for a, b in edges:
        array[a, b] = array[b, a] = 1
    return array


def chain(n):
    return graph_of(n, zip(range(n - 1), range(1, n), strict=True))


def raster(height, width):
    """The 4-neighbour grid, row by row."""
    n = height * width
    across = [(i, i + 1) for i in range(n) if (i + 1) % width]
    return graph_of(n, across + [(i, i + width) for i in range(n - width)])


graphs = st.integers(1, 9).flatmap(
    lambda n: st.lists(st.booleans(), min_size=n * (n - 1) // 2, max_size=n * (n - 1) // 2).map(
        lambda bits: graph_of(n, [p for p, bit in zip(itertools.combinations(range(n), 2), bits, strict=True) if bit])
    )
)


def by_paths(graph, order):
    """B_i from the definition: search from each variable through later ones."""
    place = {column: i for i, column in enumerate(order)}
    sets = []
    for i, start in enumerate(order):
        found, todo, seen = set(), [start], {start}
        while todo:
            for u in np.flatnonzero(graph[todo.pop()]):
                if u not in seen:
                    seen.add(u)
                    if place[u] < i:
                        found.add(place[u])
                    else:
                        todo.append(u)
        sets.append(sorted(found))
    return sets


def lists(sets):
    return [s.tolist() for s in sets]


@laws
@given(graphs, st.sampled_from(["natural", "min-fill", "random", "auto"]), keys)
def test_elimination_finds_what_paths_find(graph, order, key):
    chosen, sets = masks.parents(graph, len(graph), order, key=key)
    assert np.array_equal(np.sort(chosen), np.arange(len(graph)))
    assert lists(sets) == by_paths(graph, chosen.tolist())
    again, _ = masks.parents(graph, len(graph), chosen)
    assert np.array_equal(again, chosen)


@laws
@given(graphs, keys)
def test_without_fill_only_edges_count(graph, key):
    order, sets = masks.parents(graph, len(graph), "random", fill=False, key=key)
    assert lists(sets) == [[j for j in range(i) if graph[order[i], order[j]]] for i in range(len(graph))]


def test_a_chain_needs_the_one_before():
    order, sets = masks.parents(chain(7), 7, "natural")
    assert order.tolist() == list(range(7))
    assert lists(sets) == [[]] + [[i - 1] for i in range(1, 7)]
    assert masks.parents(chain(7), 7)[0].tolist() == list(range(7)), "min-fill leaves it natural"


def test_a_raster_needs_the_last_row_of_pixels():
    height, width = 4, 5
    _, sets = masks.parents(raster(height, width), 20, "natural")
    for i in range(15):
        assert sets[i].tolist() == list(range(max(i - width, 0), i))
    for i in range(15, 20):
        above = list(range(i - width, 15))
        assert sets[i].tolist() == above + [i - 1] * (i > 15), "last row: above, above and to the right, and left"


@laws
@given(st.lists(st.integers(0, 2**20), max_size=12), keys)
def test_min_fill_adds_nothing_to_a_tree(attach, key):
    n = len(attach) + 1
    names = random.permutation(key, 0, n)
    tree = graph_of(n, [(names[k + 1], names[a % (k + 1)]) for k, a in enumerate(attach)])
    _, sets = masks.parents(tree, n, "min-fill")
    assert max(map(len, sets)) <= 1
    assert sum(map(len, sets)) == n - 1


def slow_min_fill(graph):
    """Count the missing edges afresh at each step."""
    graph, left, order = graph.astype(bool), list(range(len(graph))), []
    while left:

        def added(v):
            return [(a, b) for a, b in itertools.combinations([u for u in left if graph[v, u]], 2) if not graph[a, b]]

        v = min(left, key=lambda v: (len(added(v)), -v))
        for a, b in added(v):
            graph[a, b] = graph[b, a] = True
        graph[v] = graph[:, v] = False
        left.remove(v)
        order.append(v)
    return order[::-1]


@laws
@given(graphs)
def test_min_fill_counts_right(graph):
    assert masks.min_fill_order(graph.astype(bool)).tolist() == slow_min_fill(graph)


def test_min_fill_on_a_grid_is_no_wider_than_the_raster():
    for height, width in [(3, 3), (4, 6), (7, 7)]:
        grid = raster(height, width)
        assert masks.min_fill_order(grid.astype(bool)).tolist() == slow_min_fill(grid)
        _, sets = masks.parents(grid, height * width)
        _, natural = masks.parents(grid, height * width, "natural")
        assert max(map(len, sets)) <= min(height, width) + 1
        assert sum(map(len, sets)) < sum(map(len, natural))


# ---- Structures as users have them


def test_equal_structures_in_every_form():
    networkx = pytest.importorskip("networkx")
    array = raster(2, 3)
    want = lists(masks.parents(array, 6, "natural")[1])
    graph = networkx.from_numpy_array(array)
    for form in (array.astype(bool), array.astype(float), np.asfortranarray(array), graph, networkx.MultiGraph(graph)):
        assert lists(masks.parents(form, 6, "natural")[1]) == want
    directed = networkx.DiGraph([(2, 0), (0, 1), (2, 1)])
    order, sets = masks.parents(directed, 3)
    assert order.tolist() == [2, 0, 1]
    assert lists(sets) == [[], [0], [0, 1]]


def test_a_sparse_adjacency():
    sparse = pytest.importorskip("scipy.sparse")
    assert lists(masks.parents(sparse.csr_matrix(chain(3)), 3)[1]) == [[], [0], [1]]


@pytest.mark.parametrize(
    "form", [dict(enumerate([[2], (0, 2), ()])), {0: {2}, 1: [2, 0, 0]}, [[2], np.array([0, 2]), {}]]
)
def test_parent_sets_in_columns(form):
    order, sets = masks.parents(form, 3)
    assert order.tolist() == [2, 0, 1]
    assert lists(sets) == [[], [0], [0, 1]]
    assert all(s.dtype == np.intp for s in sets)
    assert lists(masks.parents(form, 3, (2, 0, 1))[1]) == [[], [0], [0, 1]]
    assert lists(masks.parents(form, 3, None, fill=False)[1]) == [[], [0], [0, 1]]


def test_parent_sets_stay_natural_where_they_can():
    assert masks.parents([[], [], [0, 1], [0]], 4)[0].tolist() == [0, 1, 2, 3]
    assert masks.parents([[3], [], [], []], 4)[0].tolist() == [1, 2, 3, 0]


def test_inputs_are_not_modified():
    graph = raster(3, 3).astype(bool)
    kept = graph.copy()
    graph.flags.writeable = False
    for order in ("natural", "min-fill"):
        masks.parents(graph, 9, order)
    assert np.array_equal(graph, kept)


class Nodes:
    """A graph by duck typing."""

    def __init__(self, nodes, edges):
        self.nodes, self.edges = nodes, edges


@pytest.mark.parametrize(
    ("structure", "order", "message"),
    [
        (np.zeros((3, 2)), "auto", r"structure must have shape \(3, 3\), .* not \(3, 2\)"),
        (np.zeros((4, 4)), "auto", r"structure must have shape \(3, 3\), .* not \(4, 4\)"),
        (np.zeros(3), "auto", r"structure must have shape \(3, 3\), .* not \(3,\)"),
        (np.full((3, 3), "a"), "auto", "structure must hold numbers 0 and 1, not dtype <U1"),
        (np.full((3, 3), np.nan), "auto", "structure must hold 0 and 1 only, not nan at row 0, column 0"),
        (0.5 * chain(3), "auto", "structure must hold 0 and 1 only, not 0.5 at row 0, column 1"),
        (-chain(3), "auto", "structure must hold 0 and 1 only, not -1 at row 0, column 1"),
        (
            np.tri(3, k=-1, dtype=int),
            "auto",
            "symmetric, but it is 0 at row 0, column 1 and 1 at row 1, column 0; give a dir",
        ),
        (np.eye(3), "auto", "structure must have no self loops, but node 0 has one"),
        (Nodes([0, 1], []), "auto", r"structure must have the nodes 0\.\.2, .* but it lacks the node 2"),
        (Nodes([0, 1, 2, "x"], []), "auto", r"structure must have the nodes 0\.\.2, .* but it has the node 'x'"),
        (Nodes([0, 1, 2], [(1, 1)]), "auto", "structure must have no self loops, but node 1 has one"),
        ([[], [0]], "auto", "structure must hold 3 parent sets, one for each column, not 2"),
        ([[], [0], [3]], "auto", r"structure\[2\] holds 3, which is not a column 0\.\.2"),
        ([[], [0], [-1]], "auto", r"structure\[2\] holds -1, which is not a column 0\.\.2"),
        ([[], [0], [1.0]], "auto", r"structure\[2\] holds 1.0, which is not a column 0\.\.2"),
        ([[], [True], []], "auto", r"structure\[1\] holds True, which is not a column"),
        ([[], "0", []], "auto", r"structure\[1\] holds '0', which is not a column"),
        ([0, 1, 2], "auto", r"structure\[0\] must be an iterable of columns, not 0"),
        ([[], [1], []], "auto", r"structure\[1\] holds 1, but no variable is its own parent"),
        (chain(3).tolist(), "auto", r"structure\[0\] holds 0, .*an adjacency matrix must be an array, not a list"),
        ({3: []}, "auto", r"structure has the key 3, which is not a column 0\.\.2"),
        ({"a": []}, "auto", r"structure has the key 'a', which is not a column"),
        ("chain", "auto", "structure must be an adjacency array, a graph or parent sets, not 'chain'"),
        (None, "auto", "structure must be an adjacency array, a graph or parent sets, not None"),
        ([[1], [2], [0]], "auto", "structure has a cycle, each the parent of the next: 0 -> 2 -> 1 -> 0"),
        ([[1, 2], [2], [1]], "auto", "structure has a cycle, each the parent of the next: 1 -> 2 -> 1"),
        ([[1], [], []], "natural", "order puts column 0 before column 1, one of its parents in structure"),
        ([[1], [], []], [2, 0, 1], "order puts column 0 before column 1, one of its parents in structure"),
        ([[], [0], []], "min-fill", "order='min-fill' needs an undirected graph: parent sets take \"auto\""),
        ([[], [0], []], "random", "order='random' needs an undirected graph"),
        (chain(3), "random", 'order="random" needs a key'),
        (chain(3), "raster", r"order must be \"auto\", .* or a permutation of 0\.\.2, not 'raster'"),
        (chain(3), [0, 1, 1], r"or a permutation of 0\.\.2, not \[0, 1, 1\]"),
        (chain(3), [0.0, 1.0, 2.0], r"or a permutation of 0\.\.2, not \[0\.0"),
        (chain(3), [[0, 1, 2]], r"or a permutation of 0\.\.2, not \[\[0"),
        (chain(3), 7, r"or a permutation of 0\.\.2, not 7"),
    ],
)
def test_bad_structures(structure, order, message):
    with pytest.raises(ValueError, match=message):
        masks.parents(structure, 3, order)


# ---- MASDE


def matrix(sets):
    """(n, n): j is in B_i."""
    return np.array([np.isin(np.arange(len(sets)), s) for s in sets])


def distinct(sets):
    return {tuple(s) for s in lists(sets) if s}


dags = st.integers(1, 9).flatmap(
    lambda n: st.tuples(*(st.sets(st.integers(0, max(i - 1, 0)), max_size=i).map(sorted) for i in range(n))).map(
        lambda sets: [np.array([j for j in s if j < i], np.intp) for i, s in enumerate(sets)]
    )
)


@laws
@given(dags, st.lists(st.integers(0, 12), min_size=1, max_size=3), st.booleans(), keys, st.integers(0, 9))
def test_masde_depends_on_the_parents_alone_and_on_all(sets, spare, direct, key, index):
    need = len(distinct(sets))
    sizes = [max(need, 1) + s for s in spare]
    net = masks.masde(sets, sizes, direct=direct, key=key, index=index)
    check(net, len(sets))
    masks.check(net, matrix(sets))
    assert np.array_equal(masks.masde(sets, sizes, key=key, index=index).dependencies(), matrix(sets))
    if need > 1:
        with pytest.raises(
            ValueError, match=rf"hidden_sizes\[1\] must be at least {need}, .* not {need - 1}; or set dir"
        ):
            masks.masde(sets, (need, need - 1), key=key)


@laws
@given(dags, layers, keys)
def test_narrow_masde_with_direct_weights_is_complete(sets, sizes, key):
    net = masks.masde(sets, sizes, direct=True, key=key)
    check(net, len(sets))
    masks.check(net, matrix(sets))
    if distinct(sets):
        assert all((ready >= 0).all() for ready in net.ready), "no unit is wasted"


@laws
@given(graphs, keys)
def test_masde_of_a_random_field(graph, key):
    _, sets = masks.parents(graph, len(graph))
    net = masks.masde(sets, (20, 20), key=key)
    check(net, len(graph))
    masks.check(net, matrix(sets))


@pytest.mark.parametrize(
    ("graph", "order"), [(chain(8), "natural"), (raster(4, 5), "natural"), (raster(5, 5), "min-fill")]
)
def test_masde_labels(graph, order):
    """Every layer: each B_i; then what neighbours share; units of a layer by (ready, label)."""
    _, sets = masks.parents(graph, len(graph), order)
    base = distinct(sets)
    neighbours = list(itertools.pairwise(sorted(base, key=lambda s: s[::-1])))
    neighbours += [(s, sets[s[-1]].tolist()) for s in base]
    shared = {tuple(sorted(set(a) & set(b))) for a, b in neighbours} - {()}
    net = masks.masde(sets, (60, 60), key=KEY)
    for labels in reached(net):
        labels = [tuple(sorted(s)) for s in labels]
        assert base <= set(labels) <= base | shared
        assert labels == sorted(labels, key=lambda s: s[::-1]), "equal labels stand together"
    assert set(labels) == base | shared
    assert {tuple(sorted(s)) for s in reached(masks.masde(sets, len(base), key=KEY))[0]} == base
    fed = net.output.sum(axis=1)
    assert fed.min() >= 1
    if shared - base:
        assert (fed > 1).any(), "some units serve several outputs"


@laws
@given(st.integers(1, 10), st.lists(st.integers(10, 20), max_size=3), st.booleans(), keys)
def test_made_is_masde_with_full_sets(n, sizes, direct, key):
    direct = direct or not sizes
    full = [np.arange(i) for i in range(n)]
    assert same(masks.masde(full, sizes, direct=direct, key=key), masks.made(n, sizes, direct=direct, key=key))


def test_masde_without_edges_has_only_biases():
    order, sets = masks.parents(np.zeros((4, 4)), 4)
    assert order.tolist() == [0, 1, 2, 3]
    net = masks.masde(sets, (3, 2), direct=True, key=KEY)
    assert not any(m.any() for m in (*net.hidden, net.output, net.direct))
    assert [r.tolist() for r in net.ready] == [[-1] * 3, [-1] * 2]


def test_masde_is_a_function_of_key_and_index():
    sets = masks.parents(raster(3, 4), 12, "natural")[1]
    net = masks.masde(sets, (30, 30), key=KEY)
    assert same(net, masks.masde(sets, (30, 30), key=KEY))
    assert not same(net, masks.masde(sets, (30, 30), key=KEY, index=1))


def test_masde_of_an_image():
    sets = masks.parents(raster(28, 28), 784, "natural")[1]
    net = masks.masde(sets, (2000,), key=KEY)
    masks.check(net, matrix(sets))


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([[], [1]], r"parent_sets\[1\] holds 1, which is not a position before 1"),
        ([[0], []], r"parent_sets\[0\] holds 0, which is not a position before 0"),
        ([[], [-1]], r"parent_sets\[1\] holds -1, which is not a position before 1"),
        ([[], [0.0]], r"parent_sets\[1\] holds 0.0, which is not a position before 1"),
        ([[], [True, False]], r"parent_sets\[1\] holds True, which is not a position before 1"),
        ([], "parent_sets is empty"),
    ],
)
def test_bad_parent_sets(sets, message):
    with pytest.raises(ValueError, match=message):
        masks.masde(sets, 4, key=KEY)
