"""From a graph to an order and parent sets: what each conditional of a structured model needs to see.

A Markov random field over the columns says which conditionals need which predecessors; a Bayesian network says it
itself. Koller and Friedman, Probabilistic Graphical Models, 2009, chapter 9, for elimination and min-fill.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from chainrule import random
from chainrule.random import Key
from chainrule.validation import check_int

Bools: TypeAlias = npt.NDArray[np.bool_]
Places: TypeAlias = npt.NDArray[np.intp]


def parents(
    structure: Any, n: int, order: Any = "auto", *, fill: bool = True, key: Key | None = None
) -> tuple[Places, list[Places]]:
    """An order of the variables, and for each position the sorted earlier positions its conditional needs.

    In an undirected graph (a Markov random field), x_i given all before it depends on the variables that it reaches
    through later ones: B_i = {j < i : a path j - u - .. - i has all inner nodes after i}. Variable elimination, last to
    first, finds them: B_i is what is left of i's neighbours, which then become neighbours of each other. Parent sets (a
    directed graph, a Bayesian network) are taken as they are.

    Parameters
    ----------
    structure : array (n, n), graph, or sets
        A symmetric 0/1 array; a networkx graph on the nodes 0..n-1; a networkx directed graph, or a dict or sequence
        with an iterable of parent columns for each column.
    n : int
        Columns.
    order : {"auto", "natural", "min-fill", "random"}, permutation or None
        ``order[p]`` is the column at position p. "auto" (or None) is "min-fill" for a graph; for parent sets it
        is the topological order that keeps columns as natural as it can.
    fill : bool
        False keeps only a graph's own edges, B_i = neighbours before i: smaller sets, an approximation of the field.
    key : Philox key
        For "random".

    Returns
    -------
    order : intp array (n,)
    parent_sets : n sorted intp arrays of positions

    Raises
    ------
    ValueError
        A structure that is no graph on n nodes, has a cycle of parents or contradicts the order.
    """
    n = check_int("n", n, 1)
    order = "auto" if order is None else order
    given = _parent_columns(structure, n)
    if given is None:
        graph = _adjacency(structure, n)
        chosen = min_fill_order(graph) if _is(order, "auto", "min-fill") else _order(order, n, key)
        return chosen, _eliminate(graph[np.ix_(chosen, chosen)], fill)
    if _is(order, "min-fill", "random"):
        raise ValueError(
            f'order={order!r} needs an undirected graph: parent sets take "auto", "natural" or a permutation'
        )
    chosen = _topological(given) if _is(order, "auto") else _order(order, n, key)
    position = np.argsort(chosen)
    sets = [np.sort(position[list(given[column])]) for column in chosen]
    for i, (column, found) in enumerate(zip(chosen, sets, strict=True)):
        if found.size and found[-1] > i:
            raise ValueError(
                f"order puts column {column} before column {chosen[found[-1]]}, one of its parents in structure"
            )
    return chosen, sets


def _eliminate(graph: Bools, fill: bool) -> list[Places]:
    """B_i of a graph (n, n) in chain positions; `graph` is overwritten. O(n |B|^2)."""
    sets: list[Places] = []
    for i in reversed(range(len(graph))):
        sets.append(np.flatnonzero(graph[i, :i]))
        if fill:
            graph[np.ix_(sets[-1], sets[-1])] = True
    return sets[::-1]


def min_fill_order(adjacency: Bools) -> Places:
    """The order whose elimination, last to first, adds the fewest edges at each step; of equals, the largest column.

    Keeps the sets B_i small, and adds nothing to trees and chordal graphs. `adjacency` is symmetric without self loops,
    as `parents` checks. Counts are kept edge by edge, O(n) for each edge added.
    """
    graph = adjacency.copy()
    n = len(graph)
    missing = np.array([_count_apart(graph, v) for v in range(n)])  # edges that eliminating v would add
    last_to_first = []
    for _ in range(n):
        v = n - 1 - int(np.argmin(missing[::-1]))
        last_to_first.append(v)
        for a, b in _pairs_apart(graph, v) if missing[v] else ():
            missing[graph[a] & graph[b]] -= 1
            missing[a] += np.count_nonzero(graph[a] & ~graph[b])
            missing[b] += np.count_nonzero(graph[b] & ~graph[a])
            graph[a, b] = graph[b, a] = True
        around = np.flatnonzero(graph[v])
        graph[v, v] = True
        missing[around] -= np.count_nonzero(graph[around] & ~graph[v], axis=1)
        graph[v] = graph[:, v] = False
        missing[v] = n * n
    return np.array(last_to_first[::-1], np.intp)


def _count_apart(graph: Bools, v: int) -> int:
    """How many pairs of v's neighbours are not neighbours of each other."""
    around = np.flatnonzero(graph[v])
    return int((around.size * (around.size - 1) - np.count_nonzero(graph[np.ix_(around, around)])) // 2)


def _pairs_apart(graph: Bools, v: int) -> list[list[int]]:
    """Those pairs."""
    around = np.flatnonzero(graph[v])
    pairs: list[list[int]] = around[np.argwhere(np.triu(~graph[np.ix_(around, around)], 1))].tolist()
    return pairs


def _topological(given: list[set[int]]) -> Places:
    """Parents first; of the columns that may come next, the smallest."""
    children: list[list[int]] = [[] for _ in given]
    for child, its_parents in enumerate(given):
        for parent in its_parents:
            children[parent].append(child)
    waiting = [len(its_parents) for its_parents in given]
    free = [column for column, count in enumerate(waiting) if count == 0]
    order = []
    while free:
        order.append(heapq.heappop(free))
        for child in children[order[-1]]:
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(free, child)
    if len(order) < len(given):
        cycle = _cycle(given, set(range(len(given))) - set(order))
        raise ValueError(f"structure has a cycle, each the parent of the next: {' -> '.join(map(str, cycle))}")
    return np.array(order, np.intp)


def _cycle(given: list[set[int]], left: set[int]) -> list[int]:
    """A cycle among columns that each have a parent among them: walk from parent to parent until one comes again."""
    walk = [min(left)]
    while walk[-1] not in walk[:-1]:
        walk.append(min(given[walk[-1]] & left))
    return walk[walk.index(walk[-1]) :][::-1]


def _is(order: Any, *names: str) -> bool:
    return isinstance(order, str) and order in names


def _order(order: Any, n: int, key: Key | None) -> Places:
    """The order by name, or as given."""
    if _is(order, "natural"):
        return np.arange(n)
    if _is(order, "random"):
        if key is None:
            raise ValueError('order="random" needs a key')
        return random.permutation(key, 0, n)
    array = np.asarray(order)
    if array.dtype.kind not in "iu" or not np.array_equal(np.sort(array, axis=None), np.arange(n)) or array.ndim != 1:
        raise ValueError(
            f'order must be "auto", "natural", "min-fill", "random" or a permutation of 0..{n - 1}, not {order!r}'
        )
    return array.astype(np.intp)


def _is_graph(structure: Any) -> bool:
    return hasattr(structure, "nodes") and hasattr(structure, "edges")


def _edges(graph: Any, n: int) -> list[tuple[int, int]]:
    """The edges of a networkx graph on exactly the nodes 0..n-1."""
    nodes = set(graph.nodes)
    if nodes != set(range(n)):
        unknown, lacking = nodes - set(range(n)), set(range(n)) - nodes
        what = f"has the node {next(iter(unknown))!r}" if unknown else f"lacks the node {min(lacking)}"
        raise ValueError(f"structure must have the nodes 0..{n - 1}, one for each column, but it {what}")
    return [(int(edge[0]), int(edge[1])) for edge in graph.edges]


def _adjacency(structure: Any, n: int) -> Bools:
    """An undirected graph as a new symmetric array (n, n) without self loops."""
    if _is_graph(structure):
        array = np.zeros((n, n), np.bool_)
        for a, b in _edges(structure, n):
            array[a, b] = array[b, a] = True
    else:
        array = np.asarray(structure.toarray() if hasattr(structure, "toarray") else structure)
    if array.shape != (n, n):
        raise ValueError(
            f"structure must have shape ({n}, {n}), a row and a column for each variable, not {array.shape}"
        )
    if array.dtype.kind not in "buif":
        raise ValueError(f"structure must hold numbers 0 and 1, not dtype {array.dtype}")
    for i, j in np.argwhere((array != 0) & (array != 1))[:1]:
        raise ValueError(f"structure must hold 0 and 1 only, not {array[i, j]} at row {i}, column {j}")
    for i, j in np.argwhere(array != array.T)[:1]:
        raise ValueError(
            f"structure must be symmetric, but it is {array[i, j]} at row {i}, column {j} and {array[j, i]} at "
            f"row {j}, column {i}; give a directed graph as parent sets"
        )
    for i in np.flatnonzero(np.diagonal(array))[:1]:
        raise ValueError(f"structure must have no self loops, but node {i} has one")
    return array.astype(np.bool_)


def _parent_columns(structure: Any, n: int) -> list[set[int]] | None:
    """The parents of each column, when `structure` is directed; None when it is an undirected graph."""
    if _is_graph(structure):
        if not getattr(structure, "is_directed", lambda: False)():
            return None
        given: list[Any] = [[] for _ in range(n)]
        for parent, child in _edges(structure, n):
            given[child].append(parent)
    elif hasattr(structure, "shape"):
        return None
    elif isinstance(structure, Mapping):
        for column in structure:
            _check_column(column, n, "structure has the key {!r}")
        given = [structure.get(column, ()) for column in range(n)]
    elif isinstance(structure, Sequence) and not isinstance(structure, str | bytes):
        if len(structure) != n:
            raise ValueError(f"structure must hold {n} parent sets, one for each column, not {len(structure)}")
        given = list(structure)
    else:
        raise ValueError(f"structure must be an adjacency array, a graph or parent sets, not {structure!r}")
    return [_one_set(column, members, n) for column, members in enumerate(given)]


def _one_set(column: int, members: Any, n: int) -> set[int]:
    """The parents of one column."""
    if not isinstance(members, Iterable):
        raise ValueError(f"structure[{column}] must be an iterable of columns, not {members!r}")
    found = set()
    for parent in members:
        _check_column(parent, n, f"structure[{column}] holds {{!r}}")
        if parent == column:
            raise ValueError(
                f"structure[{column}] holds {column}, but no variable is its own parent "
                "(an adjacency matrix must be an array, not a list)"
            )
        found.add(int(parent))
    return found


def _check_column(column: Any, n: int, message: str) -> None:
    if isinstance(column, bool) or not isinstance(column, int | np.integer) or not 0 <= column < n:
        raise ValueError(f"{message.format(column)}, which is not a column 0..{n - 1}")
