"""The scorer of networks with masks: the bits of its products one after the other."""

import gc

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels import from_panels, to_panels
from chainrule.kernels.masked import Layer
from checking import T, V, assert_same_bits, by_dtype, readonly, with_threads
from masked_problems import NETWORKS, Network, by_data, by_network, by_rows, hidden_with, network, random_codes
from reference import masked as reference
from reference.nade import padded, random_order

# Rows of a tile are few or many, tiles one or several; below and above what threads share.
SCORED = (0, 1, 2, 5, 13, 100, 401)


@by_dtype
@by_network
@by_data
@pytest.mark.parametrize("extra", [{}, {"with_order": True, "with_reference": True}], ids=["", "order, reference"])
def test_masked_score(name, data, extra, dtype):
    """The bits of the products one after the other, and of the conditional on their logits."""
    for m in SCORED:
        net = network(name, data, dtype, m, **extra)
        x = random_codes(np.random.default_rng(m), net.n_values, m)
        codes = kernels.encode(x, order=net.order, reference=net.reference, first=net.first).codes
        for per_variable in (False, True):
            if data == "bits":
                want = kernels.bernoulli_log_prob(net.logits(x), codes, per_variable=per_variable)
            else:
                want = kernels.categorical_log_prob(net.logits(x), codes, net.first, per_variable=per_variable)
            got = with_threads(lambda t, x=x, net=net, p=per_variable: net.score(x, per_variable=p, n_threads=t))
            assert_same_bits(got, want)
            assert_same_bits(net.score(padded(x, x.shape[1] + 3, 255), per_variable=per_variable), want)
        if not NETWORKS[name].get("addend"):
            for step in (3, 50):
                if m in (13, 100):
                    assert_same_bits(by_rows(net.score, x, step), net.score(x))


@by_dtype
@pytest.mark.parametrize("hidden", [(600,), (300, 400)], ids=len)
def test_masked_score_threads(hidden, dtype):
    """Work large enough for three threads: panels of few rows, tiles of many; sums beyond a chunk."""
    for m in (20, 500):
        net = Network([2] * 600, hidden, dtype, m=m, direct=True, bits=True)
        x = random_codes(np.random.default_rng(0), net.n_values, m)
        want = kernels.bernoulli_log_prob(net.logits(x), x)
        assert_same_bits(with_threads(lambda t, net=net, x=x: net.score(x, n_threads=t)), want)


@by_dtype
def test_masked_score_of_matrices_kept_otherwise(dtype):
    """Rows that stand elsewhere and turned matrices, whose weights are read when they are used."""
    rng = np.random.default_rng(0)
    for m in (2, 40, 500):
        net = Network([2] * 70, (90, 83), dtype, direct=True, bits=True)
        x = random_codes(rng, net.n_values, m)
        want = net.score(x)

        def kept(part, turned):
            rows = random_order(rng, part.mask.n_out if turned else part.mask.n_in)
            W = reference.keep(from_panels(part.W, part.mask.n_out), rows, turned)
            return part._replace(W=to_panels(W), rows=rows, turned=turned)

        direct = kept(Layer(*net.direct), False)
        moved = kernels.Network(
            70,
            hidden=[kept(net.hidden[0], False), kept(net.hidden[1], m > 2)],
            output=kept(net.output, True),
            direct=(direct.mask, direct.W, direct.rows),
        )
        assert_same_bits(with_threads(lambda t, moved=moved, x=x: kernels.masked_score(x, moved, n_threads=t)), want)
        scorer = net.prepared()
        net.output.b[...] += 1
        assert (kernels.masked_score(x, scorer) != want).all()
        assert_same_bits(kernels.masked_score(x, scorer), net.score(x))


def test_a_network_keeps_what_it_was_made_of():
    """Indices are copied when they are checked; arrays live as long as the network."""
    net = Network([2] * 30, (40,), np.float32, with_order=True, with_reference=True, bits=True)
    x = random_codes(np.random.default_rng(0), net.n_values, 50)
    want, prepared = net.score(x), net.prepared()
    net.order[...] = 2**31
    net.reference[...] = 255
    del net
    gc.collect()
    assert_same_bits(kernels.masked_score(x, prepared), want)


# ---- Bad input


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": np.zeros((3, 5), np.uint8)}, V, r"x must be 2-d of shape \(any, 4\), not uint8 of shape \(3, 5\)"),
        ({"x": np.zeros(4, np.uint8)}, V, "x must be 2-d"),
        ({"x": np.zeros((3, 4))}, T, "x must be uint8, not float64"),
        ({"x": np.full((3, 4), 2, np.uint8)}, V, r"x has values outside \{0, 1\} \(first: 2 at row 0, column 0\)"),
        ({"x": np.zeros((2, 4), np.uint8)}, V, "x must have a row for each of the addends' 3, not 2"),
        ({"out": np.zeros(4)}, V, "log_prob must be 1-d of length 3"),
        ({"out": np.zeros(3, np.float32)}, T, "log_prob must be float64, not float32"),
        ({"out": readonly(np.zeros(3))}, V, "log_prob is written to, but is read-only"),
        ({"out": np.zeros((3, 5)), "per_variable": True}, V, r"terms must be 2-d of shape \(3, 4\)"),
        ({"n_threads": -1}, V, "n_threads must be a positive number"),
        ({"n_rows": 2}, V, r"addend must be 2-d of shape \(2, 5\)"),
        ({"n_features": 5}, V, "a layer of 5 units does not fit one of 4 inputs"),
        ({"hidden": hidden_with(0, turned=True, W=np.zeros((5, 4)))}, V, "the first layer takes no turned W"),
        ({"hidden": hidden_with(1, rows=np.zeros(5, np.uint32))}, V, "rows must be a permutation of 0..4"),
        ({"output": None}, V, "output must be given with hidden layers"),
        ({"hidden": (), "output": None, "direct": None}, V, "a network without hidden layers needs direct weights"),
    ],
)  # fmt: skip
def test_bad_scores(changes, error, message):
    def scoring(**changes):
        net = Network([2] * 4, (5, 5), np.float64, direct=True, residual=True, bits=True, m=3, addend=True)
        good = {"n_features": 4, "hidden": net.hidden, "output": net.output, "direct": net.direct, "n_rows": 3}
        good |= {"x": np.zeros((3, 4), np.uint8)}
        good |= {key: value(good) if callable(value) else value for key, value in changes.items()}
        options = {key: good.pop(key) for key in ("out", "per_variable", "n_threads") if key in good}
        x = good.pop("x")
        return kernels.masked_score(x, kernels.Network(**good), **options)

    scoring()
    with pytest.raises(error, match=message):
        scoring(**changes)


def test_scored_codes_are_those_of_their_columns():
    net = Network([2, 3, 1], (5,), np.float64)
    with pytest.raises(ValueError, match=r"x has values outside 0 to 2 \(first: 3 at row 1, column 1\)"):
        net.score(np.array([[1, 2, 0], [1, 3, 0]], np.uint8))
