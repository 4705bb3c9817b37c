"""The operations of Transformers on a tape: gradients against differences, added where a variable has several uses."""

import numpy as np
import pytest
from chainrule import kernels, ops
from chainrule.ops import Pool, Tape, Variable
from reference.differences import central_differences

ROWS, STEPS, C, V = 2, 5, 8, 7


class Leaves:
    """Arrays a network begins with: parameters, with room for their gradients, and inputs, without."""

    def __init__(self, seed=0):
        self.rng, self.parameters, self.inputs = np.random.default_rng(seed), {}, {}

    def parameter(self, name, *shape):
        self.parameters[name] = Variable(self.rng.normal(size=shape), np.full(shape, np.nan))

    def matrix(self, name, n_in, n_out):
        W = kernels.to_panels(self.rng.normal(size=(n_in, n_out)))
        self.parameters[name] = Variable(W, np.zeros(W.shape))

    def input(self, name, *shape):
        self.inputs[name] = self.rng.normal(size=shape)


def check(leaves, network):
    """Gradients of a weighted sum of what ``network(tape, parameters, inputs)`` gives, and all memory back."""
    pool = Pool()
    p = leaves.parameters
    held = []
    for _ in range(4):
        tape = Tape(pool)
        x = {name: Variable(array.copy()) for name, array in leaves.inputs.items()}
        out = network(tape, p, x)
        weight = np.random.default_rng(9).normal(size=out.array.shape)
        out.gradient = pool.take(out.array.shape, out.array.dtype)
        out.gradient[...] = weight
        tape.backward()
        found = {name: x[name].gradient.copy() for name in x}
        found |= {name: p[name].gradient.copy() for name in p if p[name].gradient is not None}
        for variable in x.values():
            pool.give(variable.gradient)
        assert not pool._lent
        held.append(sorted(len(flat) for free in pool._free.values() for flat in free))
    assert held[2] == held[3]  # nothing large is allocated in the long run

    def value():
        tape = Tape(Pool(), recording=False)
        y = network(tape, p, {name: Variable(array.copy()) for name, array in leaves.inputs.items()})
        return (weight * y.array).sum()

    for name, gradient in found.items():
        array = leaves.inputs[name] if name in leaves.inputs else p[name].array
        want = central_differences(array, value)
        assert np.abs(gradient - want).max() <= 1e-6 * max(np.abs(want).max(), 1e-3), name


def test_a_stream_with_several_uses():
    """An addend twice, the input of a product and of a norm: the gradient is the sum of four."""
    leaves = Leaves()
    leaves.input("x", ROWS, STEPS, C)
    leaves.input("r", ROWS, STEPS, 12)
    leaves.matrix("W", C, 12)
    for k in "STUV":
        leaves.matrix(k, 12, 12)
    for name in ("b", "gain", "bias"):
        leaves.parameter(name, 12)

    def network(t, p, x):
        r = x["r"]
        y = ops.linear(t, ops.layer_norm(t, r, p["gain"], p["bias"]), p["S"], p["b"], 12, addend=r)
        hidden = ops.linear(t, x["x"], p["W"], None, 12, "relu")
        y = ops.linear(t, hidden, p["T"], None, 12, addend=y, after="relu")
        return ops.linear(t, r, p["U"], None, 12, addend=ops.linear(t, y, p["V"], None, 12, addend=r))

    check(leaves, network)


@pytest.mark.parametrize("form", ["tanh", "erf"])
def test_gelu_of_a_stream(form):
    leaves = Leaves()
    leaves.input("x", ROWS, STEPS, C)
    leaves.matrix("W", C, C)
    check(leaves, lambda t, p, x: ops.linear(t, ops.gelu(t, x["x"], form), p["W"], None, C, addend=x["x"]))


def test_layer_norm():
    leaves = Leaves()
    leaves.input("x", ROWS, STEPS, C)
    leaves.parameter("gain", C)
    leaves.parameter("bias", C)
    check(leaves, lambda t, p, x: ops.layer_norm(t, x["x"], p["gain"], p["bias"]))


@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("lengths", [None, [5, 3]])
def test_attention(n_kv_heads, lengths):
    leaves = Leaves()
    leaves.input("x", ROWS, STEPS, (4 + 2 * n_kv_heads) * 3)
    lengths = None if lengths is None else np.array(lengths, np.uint32)
    check(leaves, lambda t, p, x: ops.attention(t, x["x"], 4, n_kv_heads, lengths=lengths))


def test_attention_twice():
    leaves = Leaves()
    leaves.input("x", ROWS, STEPS, 12)
    leaves.matrix("W", 4, 4)

    def network(t, p, x):
        y = ops.attention(t, x["x"], 2, 2)
        return ops.linear(t, y, p["W"], None, 4, addend=ops.attention(t, x["x"], 2, 2, lengths=np.uint32([2, 5])))

    check(leaves, network)


@pytest.mark.parametrize("lengths", [None, [4, 1]])
def test_cross_attention(lengths):
    leaves = Leaves()
    leaves.input("q", ROWS, 3, 12)
    leaves.input("kv", ROWS, 4, 12)
    lengths = None if lengths is None else np.array(lengths, np.uint32)
    check(leaves, lambda t, p, x: ops.cross_attention(t, x["q"], x["kv"], 4, 2, lengths=lengths))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_tokens(tied, learned):
    """With a table that is the output matrix too, its two gradients are added."""
    index = np.array([[-1, 3, 3, 0, 6], [2, 6, -1, 3, 1]], np.int32)
    leaves = Leaves()
    leaves.matrix("E", C, V)
    leaves.parameter("P", STEPS + 2, C)
    if not learned:
        leaves.parameters["P"].gradient = None

    def network(t, p, x):
        h = ops.tokens(t, index, p["E"], V, p["P"], tied=tied)
        return ops.linear(t, h, p["E"], None, V) if tied else h

    check(leaves, network)


@pytest.mark.parametrize("with_addend", [False, True])
def test_dropout(with_addend):
    leaves = Leaves()
    leaves.input("x", ROWS, STEPS, C)
    leaves.input("r", ROWS, STEPS, C)
    leaves.matrix("W", C, C)
    if not with_addend:
        del leaves.inputs["r"]
    rate, key = 0.4, (3, 4)

    def network(t, p, x):
        y = ops.linear(t, x["x"], p["W"], None, C)
        return ops.dropout(t, y, rate, key, 5, x.get("r"))

    check(leaves, network)
    x = np.ones((ROWS, STEPS, C))
    y = ops.dropout(Tape(Pool()), Variable(x.copy()), rate, key, 5).array
    assert set(np.unique(y)) == {0, 1 / (1 - rate)}
    assert (y == kernels.dropout(x, key, 5, rate)).all()
