"""The Transformer: its equations, windows, caches, gradients against differences, training, packing, files, bad input.

The equations are tests/reference/transformer.py; the kernels have tests of their own, and prompts too
(test_generation.py).
"""

import copy
import itertools
import json
import pickle

import chainrule
import numpy as np
import pytest
from chainrule import Transformer, _kernels, kernels, mulaw, random
from chainrule.fit import Optimizer
from chainrule.io import read_safetensors
from chainrule.kernels import from_panels
from chainrule.models import blocks, transformer
from chainrule.models.crops import Crops
from reference import logistic_mixture
from reference import transformer as reference
from reference.differences import central_differences
from safetensors.numpy import save_file

V, T = 5, 8
SMALL = {
    "n_layers": 2, "n_heads": 2, "width": 8, "context_length": T, "batch_size": 3, "max_epochs": 2,
    "learning_rate": 0.02, "random_state": 3, "dtype": "float64",
}  # fmt: skip
SHAPES = {
    "small": {},
    "post": {"norm": "post"},
    "sines": {"positions": "sinusoidal"},
    "untied": {"tied": False},
    "grouped heads": {"n_heads": 4, "n_kv_heads": 2, "width": 12},
    "one head of keys": {"n_heads": 4, "n_kv_heads": 1},
    "exact gelu": {"activation": "gelu_exact", "n_hidden": 19},
    "relu": {"activation": "relu"},
    "post relu sines untied": {"norm": "post", "activation": "relu", "positions": "sinusoidal", "tied": False},
    "wide": {"width": 66, "n_heads": 2, "n_layers": 1, "context_length": 40},
    "float32": {"dtype": "float32", "width": 20},
}
by_shape = pytest.mark.parametrize("name", SHAPES)


def make(**changes):
    return Transformer(**{**SMALL, **changes})


def texts(lengths=(30, 17, 8, 9, 3), n_values=V, seed=0):
    """Sequences with dependence: mostly the one before plus one."""
    rng = np.random.default_rng(seed)
    out = []
    for n in lengths:
        noise = rng.integers(0, n_values, n)
        x = np.cumsum(np.where(rng.random(n) < 0.7, 1, noise)) % n_values
        x[0] = n_values - 1  # every value occurs
        out.append(x)
    return out


def shaken(model, seed=0):
    """The model with parameters that are all far from 0 and 1, and off the kinks of ReLUs."""
    rng = np.random.default_rng(seed)
    for array in model.parameters_.values():
        deviation = 0.8 * array.shape[-2] ** -0.5 if array.ndim > 2 else 0.3  # matrices, by their inputs
        array += rng.normal(0, deviation, array.shape).astype(array.dtype)
    return model


@pytest.fixture(scope="module")
def fitted():
    return {name: shaken(make(**changes).fit(texts())) for name, changes in SHAPES.items()}


@pytest.fixture(scope="module")
def small(fitted):
    return fitted["small"]


def dense(model):
    """The reference's parameters, and the options of its network."""
    p = {name: np.asarray(array, float) for name, array in model.parameters_.items()}
    C, blocks = model.width, range(model.n_layers)

    def linear(name):
        return [(from_panels(p[name][l], p[name + "_bias"].shape[1]), p[name + "_bias"][l]) for l in blocks]

    def norm(name):
        return [(p[name + "_gain"][l], p[name + "_bias"][l]) for l in blocks]

    token = from_panels(p["token"], model.n_values_).T
    learned = model.positions == "learned"
    out = {
        "token": token,
        "output": from_panels(p["output"], model._steps.n_parameters).T if "output" in p else token,
        "position": p["position"] if learned else sines(model.context_length, C),
        "norm": norm("norm"),
        "mlp_norm": norm("mlp_norm"),
        **{short: linear(name) for short, name in (("qkv", "query_key_value"), ("up", "up"), ("down", "down"))},
        "projection": linear("projection"),
    }
    if model.norm == "pre":
        out["last_norm"] = p["last_norm_gain"], p["last_norm_bias"]
    options = {name: getattr(model, name) for name in ("n_heads", "n_kv_heads", "norm", "activation")}
    return out, options


def sines(n_steps, width):
    t, k = np.arange(n_steps)[:, None], np.arange(0, width, 2)
    angles = t / 10000.0 ** (k / width)
    return 0.02 * np.stack([np.sin(angles), np.cos(angles)], -1).reshape(n_steps, -1)[:, :width]


# ---- Densities


@by_shape
def test_scores_are_the_references(fitted, name):
    model, X = fitted[name], texts((29, 29), seed=1)
    p, options = dense(model)
    want = reference.terms(p, np.stack(X), **options)
    tolerance = 3e-5 if name == "float32" else 1e-12
    np.testing.assert_allclose(model.score_samples(X, per_variable=True), want, rtol=0, atol=tolerance)
    np.testing.assert_allclose(model.score_samples(X), want.sum(1), rtol=0, atol=29 * tolerance)
    np.testing.assert_allclose(model.bits_per_step(X), -want.mean() / np.log(2), rtol=0, atol=tolerance)
    z = model.conditionals(X).logits
    np.testing.assert_allclose(z, reference.logits(p, np.stack(X), **options), rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("context_length", [1, 2, 4, 6])
def test_probabilities_sum_to_one(context_length):
    model = shaken(make(n_values=3, context_length=context_length).fit(texts(n_values=3)))
    every = np.array(list(itertools.product(range(3), repeat=6)))
    assert abs(np.exp(model.score_samples(every)).sum() - 1) < 1e-12


@by_shape
def test_what_a_conditional_sees(fitted, name):
    """Changing x_t moves the conditionals from t + 1 to the end of the window that t + 1 is in, and no other."""
    model = fitted[name]
    window = model.context_length
    n = 2 * window + 3
    x = texts((n,), seed=2)[0]
    before = model.conditionals([x]).logits[0]
    for t in range(n - 1):
        moved = np.zeros(n, bool)
        for shift in range(1, V):
            changed = x.copy()
            changed[t] = (changed[t] + shift) % V
            moved |= (model.conditionals([changed]).logits[0] != before).any(1)
        end = ((t + 1) // window + 1) * window
        assert np.flatnonzero(moved).tolist() == list(range(t + 1, min(end, n)))
    assert model.receptive_field_ == window


@by_shape
def test_cached_equals_full_for_every_split(fitted, name):
    """A prompt of 12 tokens in one call, in two, one by one, or beside others: the same bits."""
    model = copy.deepcopy(fitted[name])
    network, L = make(**{**SHAPES[name], "context_length": 12}).fit(texts())._network(), model.n_layers
    size = model.width // model.n_heads
    tokens = np.random.default_rng(4).integers(-1, V, (3, 12)).astype(np.int32)

    def caches(rows):
        return [kernels.new_cache(rows, model._n_kv_heads, size, 12, model.dtype) for _ in range(L)]

    def step(part, kept, state):
        lengths = np.full(len(part), kept, np.uint32)
        return kernels.transformer_step(network, np.ascontiguousarray(part), lengths, state)

    full = step(tokens, 0, caches(3))
    for cut in range(1, 12):
        state = caches(3)
        first, second = step(tokens[:, :cut], 0, state), step(tokens[:, cut:], cut, state)
        assert np.concatenate([first, second], axis=1).tobytes() == full.tobytes(), cut
    state = caches(1)
    single = [step(tokens[1:2, t : t + 1], t, state) for t in range(12)]
    assert np.concatenate(single, axis=1)[0].tobytes() == full[1].tobytes()


@by_shape
def test_bits_depend_on_nothing_beside_a_row(fitted, name, monkeypatch):
    """On padding, on other rows and their lengths, on chunks, threads, or the training pass."""
    model, X = fitted[name], texts((30, 17, 9, 3, 1, 8, 16), seed=3)
    whole = model.score_samples(X)
    terms = model.score_samples(X, per_variable=True)
    assert [t.shape for t in terms] == [x.shape for x in X]
    alone = [model.score_samples(x, per_variable=True)[0] for x in X]
    assert b"".join(t.tobytes() for t in terms) == b"".join(t.tobytes() for t in alone)
    for steps, logits in ((1, 1), (7, 1 << 24), (40, 3 * V), (81, 10 * V)):
        monkeypatch.setattr(transformer, "STEPS_AT_ONCE", steps)
        monkeypatch.setattr(transformer, "LOGITS_AT_ONCE", logits)
        assert model.score_samples(X).tobytes() == whole.tobytes()
        assert model.score_samples(X[::-1]).tobytes() == whole[::-1].tobytes()
    other = copy.deepcopy(model)
    for n_threads in (1, 3):
        assert other.set_params(n_threads=n_threads).score_samples(X).tobytes() == whole.tobytes()
    trained = model._gradient(model._input(X), model.parameters_.like())
    rtol = 1e-13 if model.dtype == "float64" else 1e-6
    np.testing.assert_allclose(trained, whole, rtol=rtol)  # windows are added in another order
    short = [x[: model.context_length] for x in X]
    trained = model._gradient(model._input(short), model.parameters_.like())
    assert trained.tobytes() == model.score_samples(short).tobytes()


SCORES = """
import sys, hashlib
import numpy as np
from chainrule import Transformer
X = [np.arange(n) * 7 % 11 % 5 for n in (300, 77)]
m = Transformer(2, 3, 48, 64, n_kv_heads=1, batch_size=2, max_epochs=2, dropout=0.1, random_state=0).fit(X)
print(hashlib.sha256(m.parameters_.flat.tobytes() + m.score_samples(X).tobytes()).hexdigest())
print(m.sample(3, 100, random_state=1).tolist(), [x.tolist() for x in m.generate([[1], [2, 3]], 70, sliding=True)])
"""


def test_bits_do_not_depend_on_the_instruction_set(run_python):
    levels = ["avx2", "avx512"] if _kernels.isa == "avx512" else [_kernels.isa]
    assert len({run_python(SCORES, CHAINRULE_ISA=level, OMP_NUM_THREADS=n) for level in levels for n in "12"}) == 1


@pytest.mark.parametrize("name", ["token", "position", "down", "norm_gain", "last_norm_bias"])
def test_weights_that_are_no_numbers(small, name):
    """A score of NaN, or an error: never a likely number."""
    model = copy.deepcopy(small)
    model.parameters_[name][...] = np.nan
    X = texts((20,))
    assert np.isnan(model.score_samples(X)).all()
    for call in (lambda: model.sample(2, 5), lambda: model.generate([[1]], 3)):
        with pytest.raises(FloatingPointError, match="logits are not finite: its weights are not"):
            call()
    with pytest.raises(FloatingPointError, match="no batch had a finite log-likelihood"):
        model.partial_fit(X)


# ---- Samples


@by_shape
def test_the_sampler_follows_the_scorer(fitted, name):
    """Also in later windows: the uniforms at the edges of a path's decisions draw it."""
    model = fitted[name]
    x = np.stack(texts((2 * model.context_length + 3,) * 2, seed=5)).astype(np.int32)
    z = model.conditionals(x)
    low, mass = z.interval(x)
    assert (model._draw(np.maximum(low, 2.0**-53)) == x).all()
    end = np.where(x == V - 1, 1.0, z.interval(np.minimum(x + 1, V - 1).astype(np.int32))[0])
    assert (model._draw(np.nextafter(end, 0)) == x).all()
    total = sum(z.probabilities(3)[:, v] for v in range(V))
    np.testing.assert_allclose(total, 1, rtol=1e-15)
    np.testing.assert_allclose(np.log(mass), z.log_prob(x, per_variable=True), rtol=1e-4 if name == "float32" else 1e-9)
    u = np.random.default_rng(0).random(x.shape)
    assert (z.sample(u)[:, 0] == model._draw(u)[:, 0]).all()


def test_samples_fit_the_density():
    model = shaken(make(n_values=3, context_length=3).fit(texts(n_values=3)))
    n = 20_000
    x = model.sample(n, 4, random_state=2)
    every = np.array(list(itertools.product(range(3), repeat=4)))
    expected = n * np.exp(model.score_samples(every))
    counts = np.bincount(x @ 3 ** np.arange(4)[::-1], minlength=81)
    chi2, freedom = ((counts - expected) ** 2 / expected)[expected > 5].sum(), (expected > 5).sum() - 1
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)  # 4 standard deviations


def test_samples_are_one_table(small, monkeypatch):
    """In chunks, continued from any prefix, from any row on, by any number of threads, few at a time."""
    table = small.sample(7, 1100, random_state=7)
    assert table.shape == (7, 1100)
    assert table.dtype == np.int32
    for chunk in (1, 3, 1000):
        stream = np.concatenate(list(small.stream(2, 30, random_state=7, chunk=chunk)), 1)
        assert (stream == table[:2, :30]).all()
    assert (small.sample(3, 1100, random_state=7, start=2) == table[2:5]).all()
    for cut in (1, T - 1, T, T + 1, 3 * T, 20, 30):
        assert (small.sample(7, 30, given=table[:, :cut], random_state=7) == table[:, :30]).all(), cut
    for n_threads in (1, 3):
        other = copy.deepcopy(small).set_params(n_threads=n_threads)
        assert (other.sample(7, 50, random_state=7) == table[:, :50]).all()
    monkeypatch.setattr(transformer, "CACHE_AT_ONCE", 3 * small._bytes_kept(50))
    assert (small.sample(7, 50, random_state=7) == table[:, :50]).all()
    assert (small.sample(7, 50, given=table[:, :9], random_state=7) == table[:, :50]).all()
    assert small.sample(0, 20).shape == (0, 20)
    assert not (small.sample(7, 20, random_state=8) == table[:, :20]).all()


def test_primed_in_parts(small, monkeypatch):
    """A prefix that is longer than what is primed at once, cut within windows."""
    table = small.sample(2, 40, random_state=7)
    monkeypatch.setattr("chainrule.models.sequence_drawing.STEPS_AT_ONCE", 5)
    for cut in (4, 8, 12, 26, 33):
        assert (small.sample(2, 40, given=table[:, :cut], random_state=7) == table).all(), cut


def test_temperature(small):
    one = small.sample(4, 100, random_state=1)
    assert (small.sample(4, 100, random_state=1, temperature=1.0) == one).all()
    frozen = small.sample(2, 30, random_state=1, temperature=1e-6)
    np.testing.assert_array_equal(frozen, small.conditionals(frozen).logits.argmax(2))
    cold, hot = (small.sample(4, 100, random_state=1, temperature=t) for t in (0.5, 3.0))
    assert small.score(cold) > small.score(one) > small.score(hot)


# ---- Gradients


@by_shape
def test_gradient_equals_central_differences(fitted, name):
    if name == "float32":
        pytest.skip("differences need double precision")
    if name == "wide":
        pytest.skip("its parameters are many; kernels have tests of their own")
    model, X = copy.deepcopy(fitted[name]), texts((T + 3, 4), seed=6)
    mean, gradient = model.gradient(X)
    assert mean == pytest.approx(model.score(X), rel=1e-13)
    for key, parameter in model.parameters_.items():
        difference = central_differences(parameter, lambda: model.score(X))
        assert np.abs(gradient[key] - difference).max() <= 1e-6 * np.abs(difference).max(), key


def test_a_gradient_replaces_the_one_before(small):
    X = texts(seed=7)
    rows, gradient, again = small._input(X), small.parameters_.like(), small.parameters_.like()
    small._gradient(rows[1:], gradient)
    small._gradient(rows, gradient)
    small._gradient(rows, again)
    assert gradient.flat.tobytes() == again.flat.tobytes()


def test_crops_stand_anywhere(small):
    """A training window begins at any place and sees the one symbol before it; its gradient is the sum of its rows'."""
    X = small._input(texts((30, 21)))
    places = [(0, 0, 8), (0, 5, 8), (1, 13, 8), (1, 3, 2), (0, 29, 1)]
    crops = Crops(*(np.array(column) for column in zip(*places, strict=True)))
    weight = np.array([0.3, 1.0, 0.0, 2.0, 0.7])
    gradient, total = small.parameters_.like(), small.parameters_.like()
    found = small._crop_gradient(X, crops, weight, gradient)
    p, options = dense(small)
    for k, (row, start, length) in enumerate(places):
        x = X.values[row].astype(int)
        seen = np.array([[x[t - 1] if t else -1 for t in range(start, start + length)]])
        terms = reference.log_softmax(reference.network(p, seen, **options))[0]
        assert found[k] == pytest.approx(terms[np.arange(length), x[start : start + length]].sum(), rel=1e-12)
        one = Crops(crops.row[[k]], crops.start[[k]], crops.length[[k]])
        alone = small.parameters_.like()
        small._crop_gradient(X, one, weight[[k]], alone)
        total.flat[:] += alone.flat
    np.testing.assert_allclose(gradient.flat, total.flat, rtol=0, atol=1e-13 * np.abs(total.flat).max())


def test_all_memory_goes_back_to_the_pool():
    for options in ({}, {"dropout": 0.2}, {"norm": "post", "dropout": 0.2}, {"activation": "relu", "tied": False}):
        model = make(**options).fit(texts())

        def held(model=model):
            assert not model._pool._lent
            return sorted(len(flat) for free in model._pool._free.values() for flat in free)

        rows, gradient = model._input(texts((T, T, T))), model.parameters_.like()
        crops = model._crops(rows.lengths)
        step = [model._crop_gradient(rows, crops, np.ones(3), gradient, update) is not None for update in (0, 1)]
        before = held()
        step.append(model._crop_gradient(rows, crops, np.ones(3), gradient, 2) is not None)
        assert all(step)
        assert held() == before


# ---- Training

ENTROPY_RATE_WITHIN = 0.03  # nats


def test_learns_a_markov_chain():
    """Of order 2 over 4 symbols: within 0.03 nats of the true entropy rate on held-out steps that see two before."""
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.full(4, 0.5), size=(4, 4))
    upto, u, x = P.cumsum(-1), rng.random(20_000), np.zeros(20_000, int)
    for t in range(2, len(x)):
        x[t] = min(np.searchsorted(upto[x[t - 2], x[t - 1]], u[t], side="right"), 3)
    train, test = x[:17_000], x[17_000:]
    model = Transformer(
        1, 2, 16, 16, batch_size=16, max_epochs=15, learning_rate=0.01, schedule="cosine", random_state=0
    ).fit(train)  # fmt: skip
    truth = np.log(P[test[:-2], test[1:-1], test[2:]])
    sees_two = np.arange(len(test)) % 16 >= 1
    sees_two[:2] = False
    found = model.score_samples(test, per_variable=True)[0]
    assert -found[sees_two].mean() < -truth[sees_two[2:]].mean() + ENTROPY_RATE_WITHIN
    history = model.history_["train"]  # in nats a step
    assert history[-1] == pytest.approx(truth.mean(), abs=0.1)
    assert history[0] < history[-1]
    y = model.sample(1, 20_000, random_state=1)[0]
    pairs = np.bincount(y[:-1] * 4 + y[1:], minlength=16) / (len(y) - 1)
    want = np.bincount(x[:-1] * 4 + x[1:], minlength=16) / (len(x) - 1)
    assert np.abs(pairs - want).max() < 0.03


def test_initial_weights():
    """Of deviation 0.02, those that end a sublayer smaller by the root of their number; a new model is near uniform."""
    model = Transformer(8, 4, 64, 50, n_values=100, random_state=0, learning_rate=1e-9, max_epochs=1).fit(texts((60,)))
    p = model.parameters_
    for name, deviation in (("token", 0.02), ("position", 0.02), ("up", 0.02), ("down", 0.02 / 4)):
        weights = p[name][p[name] != 0]
        assert weights.std() == pytest.approx(deviation, rel=0.05), name
        assert np.abs(weights).max() < deviation * 1.74
    assert (p["norm_gain"] == 1).all()
    assert (p["up_bias"] == 0).all() or np.abs(p["up_bias"]).max() < 1e-8
    assert model.score(texts((60,))) / 60 == pytest.approx(-np.log(100), abs=0.2)


def test_decay_is_that_of_matrices():
    model = shaken(make(weight_decay=0.5).fit(texts()))
    optimizer = Optimizer(model.parameters_, "adamw", weight_decay=0.5, live=model._live(), spared=model._spared())
    before = {name: array.copy() for name, array in model.parameters_.items()}
    optimizer.step(model.parameters_.like(), 0.1)  # a gradient of 0: nothing but decay
    for name, array in model.parameters_.items():
        decays = not name.endswith(("_bias", "_gain"))
        np.testing.assert_allclose(array, before[name] * (0.95 if decays else 1), rtol=1e-15, err_msg=name)
    spans = np.concatenate([model._live(), model._spared()])
    assert sorted(map(tuple, spans.tolist()))[0][0] == 0
    assert (spans[:, 1] - spans[:, 0]).sum() == len(model.parameters_.flat)


def test_training_does_not_depend_on_threads():
    X = texts((700, 300), seed=6)
    digests = set()
    for n_threads in (1, 3):
        model = make(width=48, context_length=100, n_threads=n_threads, dtype="float32", dropout=0.2).fit(
            X, X_val=X[1:]
        )
        digests.add(model.parameters_.flat.tobytes() + model.score_samples(X).tobytes())
    assert len(digests) == 1


def test_fitting_twice_gives_the_same_model():
    for options in ({}, {"dropout": 0.3}):
        one, again, other = (make(**{**options, "random_state": seed}).fit(texts()) for seed in (3, 3, 4))
        assert one.parameters_.flat.tobytes() == again.parameters_.flat.tobytes()
        assert one.parameters_.flat.tobytes() != other.parameters_.flat.tobytes()


def test_dropout():
    """Masks depend on (seed, update, place); the likelihood has none; what is kept grows by 1 / (1 - rate)."""
    model = make(dropout=0.5, width=32, context_length=40).fit(texts())
    rows = model._input(texts((40, 40), seed=2))
    crops, gradients = model._crops(rows.lengths), []
    for update in (0, 0, 1, None):
        gradients.append(model.parameters_.like())
        found = model._crop_gradient(rows, crops, np.ones(2), gradients[-1], update)
        assert (found == model.score_samples([*rows.values])).all() == (update is None)
    flat = [gradient.flat.tobytes() for gradient in gradients]
    assert flat[0] == flat[1]
    assert len(set(flat)) == 3
    _, want = copy.deepcopy(model).set_params(dropout=0.0).gradient([*rows.values])
    np.testing.assert_allclose(-gradients[3]["up"] / 2, want["up"], rtol=0, atol=1e-15)
    mean = np.zeros(len(model.parameters_.flat))
    for update in range(300):  # on the average the last bias gets what it gets without
        model._crop_gradient(rows, crops, np.ones(2), gradients[0], update)
        mean += gradients[0].flat / 300
    gradients[0].flat[:] = mean
    a, b = gradients[0]["last_norm_bias"], gradients[3]["last_norm_bias"]
    assert np.corrcoef(a, b)[0, 1] > 0.9


def test_gradient_with_dropout_equals_differences():
    """Of what a training step computes: the masks of one update are one function of the parameters."""
    for norm in ("pre", "post"):
        model = shaken(make(dropout=0.4, norm=norm, n_layers=1).fit(texts()))
        rows = model._input(texts((T, T - 3), seed=2))
        crops, gradient, scratch = model._crops(rows.lengths), model.parameters_.like(), model.parameters_.like()
        model._crop_gradient(rows, crops, np.ones(2), gradient, 5)
        for key in ("token", "position", "query_key_value", "down_bias", "norm_gain"):
            parameter, step = model.parameters_[key], 1e-5
            for index in list(np.ndindex(*parameter.shape))[::7]:
                kept, sums = parameter[index], []
                for moved in (kept + step, kept - step):
                    parameter[index] = moved
                    sums.append(model._crop_gradient(rows, crops, np.ones(2), scratch, 5).sum())
                parameter[index] = kept
                assert -gradient[key][index] == pytest.approx((sums[0] - sums[1]) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.2, "average_decay": 0.9}])
def test_interrupted_and_resumed_is_uninterrupted(options, tmp_path):
    X, path = texts((40, 22, 31)), tmp_path / "checkpoint"
    whole = make(**{**options, "max_epochs": 4}).fit(X)
    make(**options).fit(X, checkpoint=path)
    resumed = make(**{**options, "max_epochs": 4}).fit(X, checkpoint=path)
    assert resumed.parameters_.flat.tobytes() == whole.parameters_.flat.tobytes()
    assert resumed.history_["train"] == whole.history_["train"]
    with pytest.raises(ValueError, match="checkpoint"):
        make(**options, context_length=9).fit(X, checkpoint=path)


def test_weights_of_sequences():
    """Whole numbers count sequences; only ratios matter."""
    X = texts((8, 8, 8), seed=7)
    options = {"batch_size": 50, "max_epochs": 3, "clip_norm": None, "optimizer": "sgd"}
    doubled = make(**options).fit(X, sample_weight=[2, 1, 1])
    scaled = make(**options).fit(X, sample_weight=[1, 0.5, 0.5])
    np.testing.assert_allclose(doubled.parameters_.flat, scaled.parameters_.flat, rtol=0, atol=1e-12)
    _, mean = doubled.gradient([X[0], *X])
    gradient = doubled.parameters_.like()
    doubled._gradient(doubled._input(X), gradient, np.array([2, 1, 1]) / 4)
    for name, array in mean.items():
        np.testing.assert_allclose(-gradient[name], array, rtol=0, atol=1e-13 * max(1, np.abs(array).max()))


def test_partial_fit_and_warm_start(tmp_path):
    X = texts(seed=10)
    going = make()
    for _ in range(3):
        going.partial_fit(X)
    whole = make(max_epochs=3).fit(X)
    assert going.parameters_.flat.tobytes() == whole.parameters_.flat.tobytes()
    going.save(tmp_path / "model")
    assert chainrule.load(tmp_path / "model").score_samples(X).tobytes() == going.score_samples(X).tobytes()
    warm = make(warm_start=True).fit(X)
    before = warm.score(X)
    assert warm.fit(X).score(X) > before
    for call in (going.partial_fit, warm.fit):
        with pytest.raises(ValueError, match="X must hold codes 0 to 4; sequence 0 has 9 at step 2"):
            call([np.array([0, 1, 9])])


def test_validation_keeps_the_best_epoch():
    X, held_out = texts(seed=8), texts((60,), seed=9)
    model = make(max_epochs=4).fit(X, X_val=held_out)
    assert model.score(held_out) / 60 == pytest.approx(max(model.history_["validation"]), rel=1e-13)
    with pytest.raises(ValueError, match="X_val must hold codes 0 to 4; sequence 0 has 5 at step 1"):
        make().fit(X, X_val=np.array([0, 5]))


def test_fitting_again_starts_anew():
    model = make().fit(texts(n_values=3))
    assert model.n_values_ == 3
    model.fit(texts())
    assert model.n_values_ == V
    assert model.parameters_.flat.tobytes() == make().fit(texts()).parameters_.flat.tobytes()
    assert make(n_values=9).fit(texts()).n_values_ == 9
    assert model.fit("abcabc").text_.symbols == "abc"
    assert model.fit(texts()).text_ is None


# ---- Rows, text, sound


def test_images_and_tables():
    """Equally long rows, in raster order, in one window or several."""
    rng = np.random.default_rng(0)
    X = (rng.random((40, 10)) < 0.3).astype(np.uint8)
    model = make(max_epochs=5).fit(X)
    assert model.length_ == 10
    assert model.sample(3, random_state=0).shape == (3, 10)
    assert model.score_samples(X, per_variable=True).shape == (40, 10)
    assert model.score(X) > -7
    assert chainrule.verify(model)


def test_large_vocabularies():
    x = np.arange(3000) * 77 % 1000
    model = make(n_values=1000, dtype="float32", max_epochs=1).fit(x)
    assert model.conditionals(x[:20]).logits.shape == (1, 20, 1000)
    assert chainrule.verify(model, n_rows=3)
    assert model.sample(2, 9).max() < 1000


def test_text(tmp_path):
    text = "to be or not to be, that is the question. " * 5
    model = make(max_epochs=3).fit(text, X_val=[text[:40], "tot"])
    assert model.text_.symbols == " ,.abehinoqrstu"
    codes = model.text_.encode(text)
    assert model.text_.decode(codes) == text
    assert model.score_samples(text).tobytes() == model.score_samples(codes).tobytes()
    drawn = model.sample(2, 30, random_state=0)
    assert [type(row) for row in drawn] == [str, str]
    assert [len(row) for row in drawn] == [30, 30]
    assert model.sample(2, 30, given="to be", random_state=0)[0].startswith("to be")
    assert ["".join(part) for part in zip(*model.stream(2, 30, random_state=0, chunk=7), strict=True)] == drawn
    model.save(tmp_path / "model")
    for other in (chainrule.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert other.sample(2, 30, random_state=0) == drawn
    for X, message in (
        ("zebra", r"X has characters the model does not know: \['z'\]"),
        (["to", ""], "sequence 1 is empty"),
        (b"to", "X holds bytes, and the model was fitted to str"),
        (["to", b"be"], "X must hold str alone; sequence 1 is bytes"),
    ):
        with pytest.raises(ValueError, match=message):
            model.score_samples(X)
    with pytest.raises(ValueError, match="X holds str, and the model was fitted to integers"):
        make().fit(texts()).score_samples("to")
    with pytest.raises(ValueError, match="text needs conditional='categorical', not 'mu-law'"):
        make(conditional="mu-law").fit("to be")
    wave = chainrule.WaveNet(4, 4, (1, 2), 1, conditional="categorical", max_epochs=1, random_state=0).fit(text)
    assert len(wave.sample(1, 12)[0]) == 12
    assert make().fit("\ud800é").text_.n_values == 2


def test_bytes(tmp_path):
    model = make(max_epochs=1).fit([b"abc", bytes(range(256))])
    assert model.n_values_ == 256
    drawn = model.sample(2, 9, random_state=0)
    assert [type(row) for row in drawn] == [bytes, bytes]
    model.save(tmp_path / "model")
    assert chainrule.load(tmp_path / "model").sample(2, 9, random_state=0) == drawn
    assert model.score_samples(drawn[0]).shape == (1,)


def test_sound():
    wave = np.sin(np.arange(200) / 5) * 0.7
    model = make(conditional="mu-law", max_epochs=2).fit(wave)
    assert model.n_values_ == 256
    assert np.isfinite(model.score(wave))
    assert np.abs(model.sample(1, 20, random_state=0)).max() <= 1
    codes = mulaw.mu_law_encode(wave)
    assert model.score_samples(mulaw.mu_law_decode(codes)).tobytes() == model.score_samples(wave).tobytes()
    assert model.generate(wave[:5], 3, random_state=0)[0].dtype.kind == "f"


# ---- Levels: the parameters of a mixture in the place of logits

K, FLOOR = 3, -7.0
LEVELS = {
    "pixels": {"n_values": 17},
    "float32": {"n_values": 256, "dtype": "float32", "width": 20, "n_components": 1},
    "many levels": {"n_values": 65536, "norm": "post", "n_components": 2},
}
by_levels = pytest.mark.parametrize("name", LEVELS)


def make_levels(**changes):
    return make(**{"conditional": "logistic-mixture", "n_components": K, **changes})


def walks(n_values, lengths=(30, 17, 8, 9, 3), seed=0):
    """Sequences of levels that move a little at a time."""
    rng = np.random.default_rng(seed)
    steps = [rng.normal(0, n_values / 12, n).cumsum() + rng.uniform(0, n_values) for n in lengths]
    return [np.clip(np.rint(x), 0, n_values - 1).astype(int) for x in steps]


@pytest.fixture(scope="module")
def levels():
    return {name: shaken(make_levels(**changes).fit(walks(changes["n_values"]))) for name, changes in LEVELS.items()}


@by_levels
def test_levels_are_scored_as_the_references(levels, name):
    model, N = levels[name], LEVELS[name]["n_values"]
    X = np.stack(walks(N, (19, 19), seed=1))
    p, options = dense(model)
    parameters = reference.logits(p, X, **options) + np.asarray(model.parameters_["output_bias"], float)
    conditionals, tolerance = model.conditionals(X), 1e-4 if name == "float32" else 1e-9
    np.testing.assert_allclose(conditionals.parameters, parameters.reshape(2, -1), rtol=0, atol=tolerance)
    floor = kernels.default_log_scale_min(N)
    want = logistic_mixture.log_prob(conditionals.parameters.astype(float), X, N, model.n_components, floor)
    np.testing.assert_allclose(model.score_samples(X, per_variable=True), want, rtol=tolerance, atol=tolerance)


def test_probabilities_of_levels_sum_to_one():
    model = shaken(make_levels(n_values=3, context_length=4).fit(walks(3)))
    every = np.array(list(itertools.product(range(3), repeat=6)))
    assert abs(np.exp(model.score_samples(every)).sum() - 1) < 1e-12


@by_levels
def test_the_sampler_of_levels_follows_the_scorer(levels, name):
    """In later windows too: the uniforms at the edges of a path's decisions draw it."""
    model, N = levels[name], LEVELS[name]["n_values"]
    x = model.sample(3, 2 * T + 3, random_state=5)
    assert x.dtype == np.int32
    given = model.conditionals(x)
    assert (model._draw(np.maximum(given.interval(x)[0], 2.0**-53)) == x).all()
    end = np.where(x == N - 1, 1.0, given.interval(np.minimum(x + 1, N - 1))[0])
    assert (model._draw(np.nextafter(end, 0)) == x).all()
    assert (
        model.sample(2, 30, random_state=5, start=1, given=x[1:, :9]) == model.sample(3, 30, random_state=5)[1:]
    ).all()
    report = chainrule.verify(model)
    assert report, f"\n{report}"


def test_gradient_by_levels_equals_differences(levels):
    model, X = copy.deepcopy(levels["pixels"]), walks(17, (T + 3, 4), seed=6)
    _, gradient = model.gradient(X)
    for key, parameter in model.parameters_.items():
        difference = central_differences(parameter, lambda: model.score(X))
        assert np.abs(gradient[key] - difference).max() <= 1e-6 * np.abs(difference).max(), key


def test_levels_start_at_their_frequencies():
    """Of the values by themselves, which beats 8 bits at once; and no weight is tied to the embedding."""
    X = walks(256, (200,) * 8)
    model = make_levels(n_values=256, learning_rate=1e-9, max_epochs=1).fit(X)
    assert model.bits_per_step(X) < 7
    assert model.parameters_["output"].shape == (1, 8, 32)


def test_few_sequences_of_levels():
    """Neighbouring levels are alike to a mixture, and each is a symbol of its own to a categorical."""
    X, held_out = walks(100, (60,) * 12), walks(100, (60,) * 20, seed=9)
    options = {"n_values": 100, "max_epochs": 30, "dtype": "float32", "width": 16}
    mixture = make_levels(**options).fit(X)
    categorical = make(**options).fit(X)
    assert mixture.score(held_out) > categorical.score(held_out) + 0.1 * 60


def test_temperature_of_levels(levels):
    model = levels["pixels"]
    x = model.sample(4, 40, random_state=1, temperature=0.5)
    given, uniforms = model.conditionals(x), random.uniform_steps(random.key_of(1), 0, 4, 0, 40)
    parameters = given.parameters.reshape(4, 40, 3, K).copy()
    parameters[:, :, 0] /= 0.5
    parameters[:, :, 2] += kernels.log(np.full(1, 0.5))
    tempered = kernels.logistic_mixture_sample(parameters.reshape(4, -1), np.ascontiguousarray(uniforms), 17, K)
    assert (tempered == x).all()


def test_levels_in_files_and_fewer_bits(levels, tmp_path):
    X = walks(17)
    for name, model in levels.items():
        X, path = walks(LEVELS[name]["n_values"]), tmp_path / "model"
        model.save(path)
        for other in (chainrule.load(path), pickle.loads(pickle.dumps(model))):
            assert other.score_samples(X).tobytes() == model.score_samples(X).tobytes(), name
            assert (other.sample(1, 9, random_state=1) == model.sample(1, 9, random_state=1)).all()
    arrays, metadata = read_safetensors(path)
    header = json.loads(metadata["chainrule"])
    header["parameters"] |= {"n_components": 4}
    save_file(arrays, path, {"chainrule": json.dumps(header)})
    with pytest.raises(ValueError, match=r"output_bias is float64 of shape \(6,\)"):
        chainrule.load(path)
    model = levels["float32"]
    packed = model.pack("bf16")
    X = walks(256)
    assert 0 < np.abs(packed.score_samples(X) / model.score_samples(X) - 1).max() < 0.05


# ---- Weights of fewer bits


def test_packed_weights():
    """Near the model's own scores, a density of their own, and for inference alone."""
    X = texts((300, 200), seed=1)
    model = make(dtype="float32", width=64, n_layers=2, context_length=32, max_epochs=20).fit(X)
    exact = model.score_samples(X, per_variable=True)
    kept = model.parameters_.flat.copy()
    for format, error in (("bf16", 0.01), ("int8", 0.02)):
        packed = model.pack(format)
        terms = packed.score_samples(X, per_variable=True)
        for a, b in zip(terms, exact, strict=True):
            assert 0 < np.abs(a - b).mean() < error
        every = np.array(list(itertools.product(range(V), repeat=3)))
        assert np.exp(packed.score_samples(every)).sum() == pytest.approx(1, abs=1e-5)
        low, _ = packed.conditionals(X[0][None]).interval(X[0][None])
        assert (packed._draw(np.maximum(low, 2.0**-53)) == X[0]).all()
        assert pickle.loads(pickle.dumps(packed)).score_samples(X).tobytes() == packed.score_samples(X).tobytes()
        for call, what in (
            (lambda p: p.save("nowhere"), "saved"),
            (lambda p: p.partial_fit(X), "trained"),
            (lambda p: p.gradient(X), "trained"),
        ):
            with pytest.raises(ValueError, match=f"a model packed as {format} cannot be {what}"):
                call(packed)
    assert (model.parameters_.flat == kept).all()
    with pytest.raises(ValueError, match="format must be"):
        model.pack("fp4")


# ---- Files


def test_files_and_pickles_round_trip(fitted, tmp_path):
    X = texts()
    for name, model in fitted.items():
        path = tmp_path / "model.safetensors"
        model.save(path)
        for other in (chainrule.load(path), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert other.score_samples(X).tobytes() == model.score_samples(X).tobytes(), name
            assert (other.sample(1, 9, random_state=1) == model.sample(1, 9, random_state=1)).all()
        chainrule.load(path).save(tmp_path / "again.safetensors")
        assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


HOSTILE = {
    "values": ({"attributes": {"n_values_": 1 << 40}}, "n_values is not what the conditional can have"),
    "no values": ({"attributes": {"n_values_": 0}}, "n_values is not"),
    "more values": ({"attributes": {"n_values_": 40}}, "token is float64 of shape"),
    "start": ({"attributes": {"start_": 5}}, "start_ must be a token below 5, not 5"),
    "far start": ({"attributes": {"start_": -2}}, "start_ must be an integer >= -1"),
    "text": ({"attributes": {"text_": {"characters": "ba"}}}, "characters are not a string in the order of Unicode"),
    "few characters": ({"attributes": {"text_": {"characters": "ab"}}}, "text has 2 symbols, and the model 5 values"),
    "strange text": ({"attributes": {"text_": 7}}, "damaged"),
    "length": ({"attributes": {"length_": 0}}, "length_ must be"),
    "layers": ({"parameters": {"n_layers": 10**9}}, "damaged"),
    "width": ({"parameters": {"width": 10**9}}, "damaged"),
    "heads": ({"parameters": {"n_heads": 3}}, "width must be a multiple of n_heads = 3"),
    "positions": ({"parameters": {"context_length": 10**12}}, "position is float64 of shape"),
    "tied": ({"parameters": {"tied": False}}, "damaged"),
    "dtype": ({"parameters": {"dtype": "float32"}}, "token is float64 of shape"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(small, case, tmp_path):
    path, (changes, message) = tmp_path / "model", HOSTILE[case]
    small.save(path)
    arrays, metadata = read_safetensors(path)
    header = json.loads(metadata["chainrule"])
    for part, values in changes.items():
        header[part] |= values
    save_file(arrays, path, {"chainrule": json.dumps(header)})
    with pytest.raises(ValueError, match=message):
        chainrule.load(path)


def test_files_without_an_array(small, tmp_path):
    path = tmp_path / "model"
    small.save(path)
    arrays, metadata = read_safetensors(path)
    for name in arrays:
        save_file({key: array for key, array in arrays.items() if key != name}, path, metadata)
        with pytest.raises(ValueError, match="damaged"):
            chainrule.load(path)


# ---- Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layers": 0}, "n_layers must be an integer >= 1, not 0"),
        ({"n_heads": 0}, "n_heads must be"),
        ({"n_heads": 3}, "width must be a multiple of n_heads = 3, not 8"),
        ({"n_kv_heads": 0}, "n_kv_heads must be"),
        ({"n_heads": 4, "n_kv_heads": 3}, "n_kv_heads must divide n_heads = 4, not be 3"),
        ({"width": 2.5}, "width must be"),
        ({"context_length": 0}, "context_length must be"),
        ({"n_hidden": 0}, "n_hidden must be"),
        ({"norm": "middle"}, "norm must be"),
        ({"conditional": "gaussian"}, "conditional must be"),
        ({"positions": "rotary"}, "positions must be"),
        ({"activation": "swish"}, "activation must be"),
        ({"tied": "yes"}, "tied must be"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"dropout": -0.1}, "dropout must be"),
        ({"dropout": np.nan}, "dropout must be"),
        ({"n_values": 0}, "n_values must be"),
        ({"n_values": 1 << 21}, "n_values must be at most 1048576, not 2097152"),
        ({"n_values": 4}, "X must hold codes 0 to 3; sequence 0 has 4 at step 0"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"n_components": 0}, "n_components must be an integer >= 1, not 0"),
        ({"conditional": "logistic-mixture", "n_values": 65537}, "n_values must be at most 65536, not 65537"),
        ({"conditional": "logistic-mixture", "n_values": 4}, "X must hold codes 0 to 3; sequence 0 has 4 at step 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).fit(texts())


def test_bad_calls(small, levels):
    X = texts((9, 9))
    for call, message in (
        (lambda: small.score_samples(X, context=np.eye(2)), "Transformer takes no context"),
        (lambda: small.score_samples(X, local_context=X), "Transformer takes no context"),
        (lambda: make().fit(X, context=np.eye(2)), "Transformer takes no context"),
        (lambda: make().fit(X, local_context=[np.ones((9, 1))] * 2), "Transformer takes no context"),
        (lambda: small.sample(1, 5, context=np.eye(1)), "Transformer takes no context"),
        (lambda: small.sample(2), "length must be given"),
        (lambda: small.conditionals(texts((3, 4))), "one length"),
        (lambda: levels["pixels"].generate([[3]], 2), "tokens by their logits, which levels lack"),
        (lambda: list(levels["pixels"].generate_stream([[3]], 2)), "which levels lack"),
        (
            lambda: make_levels().fit("to be or not to be"),
            "text needs conditional='categorical', not 'logistic-mixture'",
        ),
        (lambda: levels["pixels"].score_samples([[3, 17]]), "X must hold codes 0 to 16; sequence 0 has 17 at step 1"),
        (lambda: small.sample(1, 5, given=np.full(3, 7)), "given must hold codes 0 to 4; sequence 0 has 7 at step 0"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_sinusoids():
    np.testing.assert_allclose(blocks.sinusoids(50, 7, "float64"), sines(50, 7), rtol=0, atol=1e-15)
    assert not blocks.sinusoids(50, 7, "float64").flags.writeable
    assert random.uniform_steps((1, 2), 5, 3, 1000, 60).shape == (3, 60)
