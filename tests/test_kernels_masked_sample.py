"""The sampler of networks with masks, against tests/reference/masked.py and the scorer."""

import chainrule
import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels.masked import Layer, Mask
from checking import T, V, assert_same_bits, by_dtype, readonly, with_threads
from masked_problems import BITS, NETWORKS, Network, by_data, by_network, by_rows, hidden_with, network, random_codes
from reference.nade import padded


@by_dtype
@by_network
@by_data
@pytest.mark.parametrize("extra", [{}, {"with_order": True, "with_reference": True}], ids=["", "order, reference"])
def test_the_sampler_follows_the_scorer(name, data, extra, dtype):
    """Uniforms at the edges of a row's decisions draw that row only if every conditional is the scorer's to the bit."""
    for m in (1, 5, 12, 13, 100):
        net = network(name, data, dtype, m, **extra)
        x = random_codes(np.random.default_rng(m), net.n_values, m)
        low, high, possible = net.edges(x)
        assert possible.all()
        for u in (low, high):
            assert_same_bits(net.sample(u), x)
            assert_same_bits(net.sample(padded(u, u.shape[1] + 3)), x)


@by_dtype
@by_network
@by_data
@pytest.mark.parametrize("panels", [True, False], ids=["panels", "plain"])
def test_masked_sample(name, data, panels, dtype):
    """Against the equations, the network anew for every variable; some values observed."""
    m = 17
    net = network(name, data, dtype, m, with_order=True, with_reference=True, panels=panels)
    rng = np.random.default_rng(1)
    u, given = rng.random((m, len(net.n_values))), random_codes(rng, net.n_values, m)
    observed = (rng.random(u.shape) < 0.3).astype(np.uint8)
    for options in ({}, {"given": given, "observed": observed}):
        drawn = net.sample(u, **options)
        assert (drawn.dtype, drawn.shape) == (np.uint8, u.shape)
        want, distance = net.expected(u, **options)
        sure = np.logical_and.accumulate(distance[:, net.order] > 1e-4, axis=1)
        assert sure.mean() > 0.9
        assert (drawn[:, net.order] == want[:, net.order])[sure].all()
        if options:
            assert (drawn[observed == 1] == given[observed == 1]).all()
        out = np.full((m, u.shape[1] + 4), 99, np.uint8)
        inside = out[:, 2:-2]
        apart = dict(options)
        if options:  # observed is laid out as out
            apart["observed"] = padded(observed, u.shape[1] + 4, 1)
        assert net.sample(u, out=inside, **apart) is inside
        assert_same_bits(inside, drawn)
        assert (np.delete(out, np.s_[2:-2], axis=1) == 99).all()
    everything = net.sample(u, given=given, observed=np.ones_like(observed))
    assert_same_bits(everything, given)
    if not NETWORKS[name].get("addend"):
        for r in (0, 11, 16):
            assert_same_bits(net.sample(u[r : r + 1]), net.sample(u)[r : r + 1])
        assert net.sample(u[:0]).shape == (0, u.shape[1])


@by_dtype
@pytest.mark.parametrize("hidden", [(), (300,), (520, 300), (290, 290, 290)], ids=len)
@pytest.mark.parametrize("values", [[2] * 300, [2, 40, 3, 1, 60, 100, 2, 90, 5]], ids=["300 bits", "many units"])
def test_sampling_across_chunks(values, hidden, dtype):
    """More than 256 inputs and units, three threads' worth of rows."""
    m, residual = 100, len(hidden) == 3
    net = Network(values, hidden, dtype, m=m, direct=True, residual=residual, with_order=True, with_reference=True,
                  bits=max(values) == 2)  # fmt: skip
    rng = np.random.default_rng(0)
    x = random_codes(rng, net.n_values, m)
    low, high, _ = net.edges(x)
    for u in (low, high):
        for n_threads in (1, 2, 3):
            assert_same_bits(net.sample(u, n_threads=n_threads), x)
    u = rng.random(x.shape)
    drawn = with_threads(lambda t: net.sample(u, n_threads=t))
    for step in (1, 30):
        assert_same_bits(by_rows(net.sample, u, step), drawn)


@by_dtype
def test_weights_that_are_not_live_have_no_part_in_a_sample(dtype):
    net = Network(BITS, (40, 33), dtype, direct=True)
    u = np.random.default_rng(0).random((30, len(BITS)))
    drawn = net.sample(u)
    for layer in (*net.hidden, net.output, net.direct):
        W = layer[1]
        assert np.isnan(W).any()
        W[np.isnan(W)] = 1e30
        W.reshape(-1)[W.reshape(-1) == 0] = np.nan  # the lanes that fill a panel up
    assert_same_bits(net.sample(u), drawn)


def test_values_not_observed_may_be_anything():
    """`given` is read where `observed` alone."""
    given = np.full((3, 4), 255, np.uint8)
    assert (sampling(given=given, observed=np.zeros((3, 4), np.uint8)) == sampling()).all()


# ---- Bad input


def sampling(**changes):
    """A network of 4 bits, two layers of 5 units and direct weights; its arguments, changed."""
    net = Network([2] * 4, (5, 5), np.float64, direct=True, residual=True, bits=True, m=3, addend=True)
    good = {"u": np.full((3, 4), 0.5), "hidden": net.hidden, "output": net.output, "direct": net.direct}
    good |= {key: value(good) if callable(value) else value for key, value in changes.items()}
    return kernels.masked_sample(good.pop("u"), **good)


def output_with(**changes):
    return lambda good: good["output"]._replace(**changes)


ZEROS, B = np.zeros((3, 4), np.uint8), np.uint8


def square(n):
    return Mask(np.zeros((n, n), bool)), np.zeros((n, n))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"u": np.full((3, 4), 0.5, np.float32)}, T, "u must be float64, not float32"),
        ({"u": np.full((3, 5), 0.5)}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"u": np.full((2, 4), 0.5)}, V, r"addend must be 2-d of shape \(2, 5\)"),
        ({"u": np.full(4, 0.5)}, V, "u must be 2-d"),
        ({"out": np.zeros((3, 3), np.uint8)}, V, r"out must be 2-d of shape \(3, 4\)"),
        ({"out": readonly(np.zeros((3, 4), np.uint8))}, V, "out is written to, but is read-only"),
        ({"out": np.zeros((3, 4))}, T, "out must be uint8"),
        ({"order": np.array([0, 1, 2, 2], np.uint32)}, V, "order must be a permutation"),
        ({"reference": np.array([0, 1, 2, 0], np.uint8)}, V, "reference must be a value of its column"),
        ({"reference": np.zeros(3, np.uint8)}, V, "reference must be 1-d of length 4"),
        ({"first": np.array([0, 1, 2, 3, 5], np.uint32)}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"first": np.array([0, 1, 2, 1, 4], np.uint32)}, V, "first must start at 0"),
        ({"hidden": hidden_with(0, mask=square(4)[0], b=None, addend=None)}, V, "ready must be 1-d of length 4"),
        ({"hidden": hidden_with(0, mask=Mask(np.zeros((4, 70), bool)))}, V, r"W must be .* or in panels \(3, 4, 32\)"),
        ({"hidden": hidden_with(0, W=np.zeros((4, 5), np.float32))}, T, "W must be float64, not float32"),
        ({"hidden": hidden_with(0, b=np.zeros(4))}, V, "b must be 1-d of length 5"),
        ({"hidden": hidden_with(0, residual=True)}, V, "a residual layer must be as wide as the one before"),
        ({"hidden": hidden_with(1, addend=np.zeros((3, 4)))}, V, r"addend must be 2-d of shape \(3, 5\)"),
        ({"hidden": hidden_with(1, addend=np.zeros((2, 5)))}, V, r"addend must be 2-d of shape \(3, 5\)"),
        ({"hidden": hidden_with(0, ready=np.array([0, 1, 0, 1, 2], "i4"))}, V, "ready must not decrease; entry 2 does"),
        ({"hidden": hidden_with(0, ready=np.zeros(4, np.int32))}, V, "ready must be 1-d of length 5"),
        ({"hidden": hidden_with(0, ready=np.zeros(5, np.int64))}, T, "ready must be int32, not int64"),
        ({"hidden": hidden_with(0, ready=None)}, T, "ready must be a NumPy array"),
        ({"hidden": hidden_with(0, activation="gelu")}, V, "activation must be one of"),
        ({"hidden": lambda good: [good["hidden"][0]] * 2}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"hidden": lambda good: [*good["hidden"], *good["hidden"] * 16]}, V, "at most 32 hidden layers, not 34"),
        ({"output": None}, V, "output must be given with hidden layers"),
        ({"output": lambda good: Layer(*square(5))}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"output": output_with(addend=np.zeros((3, 5)))}, V, r"addend must be 2-d of shape \(3, 4\)"),
        ({"output": output_with(b=np.zeros(4, np.float32))}, T, "b must be float64, not float32"),
        ({"direct": square(5)}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"hidden": (), "output": None, "direct": None}, V, "a network without hidden layers needs direct weights"),
        ({"hidden": (), "output": None, "b": np.zeros(5)}, V, "b must be 1-d of length 4"),
        ({"hidden": (), "output": None, "addend": np.zeros((3, 5))}, V, r"addend must be 2-d of shape \(3, 4\)"),
        ({"given": np.zeros((3, 4), np.uint8)}, V, "given and observed go together"),
        ({"observed": np.zeros((3, 4), np.uint8)}, V, "given and observed go together"),
        ({"given": ZEROS + B(2), "observed": ZEROS + B(1)}, V, r"given has values outside .*\(first: 2 at row 0"),
        ({"given": ZEROS, "observed": ZEROS + B(2)}, V, r"observed has values outside \{0, 1\}"),
        ({"given": ZEROS, "observed": np.zeros((3, 5), B)[:, :4]}, V, "observed must be laid out as out"),
        ({"given": ZEROS, "observed": np.zeros((3, 3), B)}, V, "observed must be 2-d of shape"),
        ({"n_threads": -1}, V, "n_threads must be a positive number"),
    ],
)  # fmt: skip
def test_bad_samples(changes, error, message):
    sampling()
    with pytest.raises(error, match=message):
        sampling(**changes)


@pytest.mark.parametrize("changes", [{"rows": np.arange(5, dtype=np.uint32)}, {"turned": True}], ids=str)
def test_the_sampler_takes_matrices_as_they_are_multiplied(changes):
    with pytest.raises(ValueError, match="the sampler takes matrices as they are multiplied"):
        sampling(hidden=hidden_with(1, **changes))


def test_raw_layers_are_checked():
    net = Network([2] * 4, (5,), np.float64, bits=True)
    u, out = np.full((3, 4), 0.5), np.zeros((3, 4), np.uint8)

    def call(hidden, output):
        chainrule._kernels.masked_sample(hidden, output, None, None, None, None, None, None, u, None, out, 0)

    hidden, output = net.hidden[0].packed(), net.output.packed()
    call([hidden], output)
    for bad_hidden, bad_output, error, message in (
        (hidden[:8], output, V, "hidden must be"),
        (hidden, output[:8], V, "output must be"),
        ((*hidden[:3], 4, *hidden[4:]), output, V, "activation must be 0 to 3, not 4"),
        ((hidden[0], None, *hidden[2:]), output, T, "W must be a NumPy array"),
    ):
        with pytest.raises(error, match=message):
            call([bad_hidden], bad_output)
