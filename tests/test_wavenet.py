"""WaveNet the model: causality, chunks, crops, gradients against differences, generation, training, files, bad input.

The equations are tests/reference/wavenet.py; the kernels have tests of their own.
"""

import copy
import pickle

import chainrule
import numpy as np
import pytest
from chainrule import WaveNet, kernels, mulaw
from chainrule.conditionals import Categorical
from chainrule.conditionals.categorical import starts
from chainrule.kernels import from_panels
from chainrule.kernels.wavenet import from_gate_panels, gate_order
from chainrule.models import sequence_drawing, sequence_scoring
from chainrule.models.crops import Crops
from reference import wavenet as reference
from reference.differences import central_differences

V = 5
SMALL = {
    "channels": 6, "skip_channels": 7, "dilations": (1, 2, 4), "n_stacks": 2, "conditional": "categorical", "crop": 20,
    "batch_size": 3, "max_epochs": 2, "learning_rate": 0.02, "random_state": 3, "dtype": "float64",
}  # fmt: skip
SHAPES = {
    "small": {},
    "three taps": {"kernel_size": 3, "dilations": (1, 3), "n_stacks": 1},
    "one tap": {"kernel_size": 1, "dilations": (1, 1)},
    "wide": {"channels": 33, "skip_channels": 40, "dilations": (5, 2), "n_stacks": 1},
    "float32": {"dtype": "float32", "channels": 20},
}
by_shape = pytest.mark.parametrize("name", SHAPES)


def make(**changes):
    return WaveNet(**{**SMALL, **changes})


def texts(lengths=(50, 31, 77, 9), n_values=V, seed=0):
    """Sequences with dependence: mostly the one before plus one."""
    rng = np.random.default_rng(seed)
    out = []
    for n in lengths:
        noise = rng.integers(0, n_values, n)
        x = np.cumsum(np.where(rng.random(n) < 0.7, 1, noise)) % n_values
        x[0] = n_values - 1  # every value occurs
        out.append(x)
    return out


def at_once(monkeypatch, steps):
    """Sequences are scored so many steps at a time."""
    for module in (sequence_scoring, sequence_drawing):
        monkeypatch.setattr(module, "STEPS_AT_ONCE", steps)


@pytest.fixture(scope="module")
def fitted():
    return {name: make(**changes).fit(texts()) for name, changes in SHAPES.items()}


@pytest.fixture(scope="module")
def small(fitted):
    return fitted["small"]


def dense(model):
    """The reference's parameters of a model without a context."""
    p, C, S = {k: np.asarray(a) for k, a in model.parameters_.items()}, model.channels, model.skip_channels
    L, order = len(p["filter_gate"]), gate_order(C)
    bias = np.zeros((L, 2 * C))
    bias[:, order[order >= 0]] = p["filter_gate_bias"][:, order >= 0]
    output = np.zeros((S, model.n_values_))  # logits are those over code 0
    output[:, 1:] = from_panels(p["output"], model.n_values_ - 1)
    return {
        "embedding": from_panels(p["input"], C),
        "filter_gate": [from_gate_panels(p["filter_gate"][l], C) for l in range(L)],
        "filter_gate_bias": list(bias),
        "residual": [from_panels(p["residual"][l], C) for l in range(L - 1)],
        "residual_bias": list(p["residual_bias"]),
        "skip": [from_panels(p["skip"][l], S) for l in range(L)],
        "skip_bias": list(p["skip_bias"]),
        "head1": from_panels(p["head"], S),
        "head1_bias": p["head_bias"],
        "head2": output,
        "head2_bias": np.append(0, p["output_bias"]),
    }


def dilations_of(model):
    return list(model.dilations) * model.n_stacks


# ---- Densities


@by_shape
def test_scores_are_the_references(fitted, name):
    model, X = fitted[name], texts((40, 40), seed=1)
    want = reference.terms(dense(model), dilations_of(model), np.stack(X))
    tolerance = 2e-6 if name == "float32" else 1e-13  # some tens of roundings of numbers near 1
    np.testing.assert_allclose(model.score_samples(X, per_variable=True), want, rtol=0, atol=40 * tolerance)
    np.testing.assert_allclose(model.score_samples(X), want.sum(1), rtol=0, atol=40 * 40 * tolerance)
    steps = model.bits_per_step(X)
    np.testing.assert_allclose(steps, -want.mean() / np.log(2), rtol=0, atol=40 * tolerance)


def test_probabilities_sum_to_one():
    model = make(n_values=3).fit(texts(n_values=3))
    every = np.stack(np.meshgrid(*[range(3)] * 6, indexing="ij"), -1).reshape(-1, 6)
    assert abs(np.exp(model.score_samples(every)).sum() - 1) < 1e-12


@by_shape
def test_what_a_conditional_sees(fitted, name):
    """Changing x_t leaves conditional t alone and moves those of the next `receptive_field_` steps, no other."""
    model = fitted[name]
    field = model.receptive_field_
    assert field == 1 + (model.kernel_size - 1) * sum(dilations_of(model))
    n = 2 * field + 5
    x = texts((n,), seed=2)[0]
    before = model.conditionals([x]).logits.reshape(n, V - 1)
    seen = np.zeros(n, bool)
    for t in range(field + 2):
        for shift in range(1, V):
            changed = x.copy()
            changed[t] = (changed[t] + shift) % V
            moved = (model.conditionals([changed]).logits.reshape(n, V - 1) != before).any(1)
            assert not moved[: t + 1].any(), "a conditional sees its own value"
            assert not moved[t + 1 + field :].any(), "a conditional sees beyond the receptive field"
            seen[: n - t - 1] |= moved[t + 1 :]
        assert moved[t + 1], "a conditional ignores the value before it"
    looks = {0}  # steps back through every block, by any of its taps
    for dilation in dilations_of(model):
        looks = {back + k * dilation for back in looks for k in range(model.kernel_size)}
    assert np.flatnonzero(seen).tolist() == sorted(looks)
    assert max(looks) == field - 1


@by_shape
def test_chunks_give_the_same_bits(fitted, name, monkeypatch):
    model, X = fitted[name], texts((50, 31, 77, 9, 3, 1), seed=3)
    whole = model.score_samples(X)
    terms = model.score_samples(X, per_variable=True)
    equal = np.stack([x[:30] for x in X[:3]])
    conditionals = model.conditionals(equal).logits
    alone = [model.score_samples(x, per_variable=True) for x in X]
    for steps in (1, 2, 7, 40, 81):
        at_once(monkeypatch, steps)
        assert model.score_samples(X).tobytes() == whole.tobytes()
        for a, b in zip(model.score_samples(X, per_variable=True), terms, strict=True):
            assert a.tobytes() == b.tobytes()
        assert model.conditionals(equal).logits.tobytes() == conditionals.tobytes()
    for a, b, x in zip(alone, terms, X, strict=True):
        assert a.shape == (1, len(x))
        assert a[0].tobytes() == b.tobytes()
    assert whole.tobytes() == np.concatenate([model.score_samples(x) for x in X]).tobytes()
    assert whole[::-1].tobytes() == model.score_samples(X[::-1]).tobytes()
    for n_threads in (1, 3):
        other = copy.deepcopy(model).set_params(n_threads=n_threads)
        assert other.score_samples(X).tobytes() == whole.tobytes()


def test_kinds_of_sequences(small):
    X = texts((20, 20), seed=4)
    want = small.score_samples(X)
    for other in (np.stack(X), np.stack(X).astype(float), [x.tolist() for x in X], tuple(X), np.stack(X).astype("u1")):
        kept = copy.deepcopy(other)
        assert small.score_samples(other).tobytes() == want.tobytes()
        np.testing.assert_array_equal(other, kept)
    assert small.score_samples(X[0]).tobytes() == want[:1].tobytes()
    assert small.score_samples(np.repeat(X[0], 2)[::2]).tobytes() == want[:1].tobytes()
    assert small.score(X) == pytest.approx(want.mean(), rel=1e-14)


# ---- Samples


@by_shape
def test_the_sampler_follows_the_scorer(fitted, name):
    """From the very uniforms: draws are those of the scorer's conditionals in every position."""
    model = fitted[name]
    x = model.sample(3, 60, random_state=5)
    assert (x.dtype, x.shape) == (np.uint8, (3, 60))
    logits = model.conditionals(x).logits.reshape(-1, V - 1)
    u = chainrule.random.uniform_rows(chainrule.random.key_of(5), 0, 3, 1024)[:, :60]
    drawn = kernels.categorical_sample(logits, np.ascontiguousarray(u).reshape(-1, 1), starts([V]))
    np.testing.assert_array_equal(x, drawn.reshape(x.shape))


@by_shape
def test_a_prefix_is_continued(fitted, name, monkeypatch):
    model = fitted[name]
    whole = model.sample(3, 70, random_state=6)
    for cut in (1, 2, 13, 40, 69, 70):
        assert (model.sample(3, 70, given=whole[:, :cut], random_state=6) == whole).all(), cut
    for steps in (1, 5, 11):  # a prefix is read in chunks, as sequences are scored
        at_once(monkeypatch, steps)
        assert (model.sample(3, 70, given=whole[:, :40], random_state=6) == whole).all()
    one = model.sample(3, 70, given=whole[1, :40], random_state=6)
    assert (one[1] == whole[1]).all()
    assert (one[:, :40] == whole[1, :40]).all()
    assert not (one[0] == whole[0]).all()
    assert (model.sample(1, 70, given=list(whole[2:, :40]), random_state=6, start=2) == whole[2:]).all()


def test_samples_depend_on_seed_and_row_alone(small):
    table = small.sample(7, 1100, random_state=7)  # beyond one stretch of uniforms
    assert table.shape == (7, 1100)
    for chunk in (1, 13, 1024, 4000):
        if chunk == 1:
            parts = list(small.stream(2, 50, random_state=7, chunk=1))
            assert [p.shape for p in parts] == [(2, 1)] * 50
            assert (np.concatenate(parts, 1) == table[:2, :50]).all()
        else:
            assert (np.concatenate(list(small.stream(7, 1100, random_state=7, chunk=chunk)), 1) == table).all()
    assert (small.sample(3, 1100, random_state=7, start=2) == table[2:5]).all()
    assert (small.sample(1, 1090, random_state=7, start=6) == table[6:, :1090]).all()
    assert not (small.sample(7, 1100, random_state=8) == table).all()
    assert small.sample(0, 20).shape == (0, 20)
    assert small.sample(length=4).shape == (1, 4)
    first = next(iter(small.stream(2, 10**9, random_state=7, chunk=64)))  # as it is made
    assert (first == table[:2, :64]).all()
    for n_threads in (1, 3):
        other = copy.deepcopy(small).set_params(n_threads=n_threads)
        assert (other.sample(7, 300, random_state=7) == table[:, :300]).all()


def test_temperature(small):
    one = small.sample(4, 200, random_state=1)
    assert (small.sample(4, 200, random_state=1, temperature=1.0) == one).all()
    frozen = small.sample(2, 60, random_state=1, temperature=1e-6)
    logits = small.conditionals(frozen).logits.reshape(2, 60, V - 1)
    np.testing.assert_array_equal(frozen, np.concatenate([np.zeros((2, 60, 1)), logits], 2).argmax(2))
    cold, hot = (small.sample(4, 200, random_state=1, temperature=t) for t in (0.5, 3.0))
    assert small.score(cold) > small.score(one) > small.score(hot)


def test_samples_fit_the_density():
    model = make(n_values=3, max_epochs=8).fit(texts(n_values=3))
    n = 10_000
    x = model.sample(n, 4, random_state=2)
    every = np.stack(np.meshgrid(*[range(3)] * 4, indexing="ij"), -1).reshape(-1, 4)
    expected = n * np.exp(model.score_samples(every))
    counts = np.bincount(x.astype(int) @ 3 ** np.arange(4)[::-1], minlength=81)
    chi2, freedom = ((counts - expected) ** 2 / expected)[expected > 5].sum(), (expected > 5).sum() - 1
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)  # 4 standard deviations


# ---- Gradients


def largest_differences(model, X, gradient, **context):
    """The largest difference to the gradient of the mean, relative to the largest entry of each array."""
    worst = {}
    rows = model._known_input(model._with_frames(X, context.pop("local_context", None), "X"), **context)

    def mean():
        return model._log_prob(rows, False).sum() / len(rows)

    for key, parameter in model.parameters_.items():
        difference = central_differences(parameter, mean)
        worst[key] = np.abs(gradient[key] - difference).max() / np.abs(difference).max()
    return worst


KINDS = {
    "none": {},
    "context": {"context": 2},
    "local context": {"local": 2},
    "both": {"context": 1, "local": 2, "kernel_size": 3},
    "several stacks": {"n_stacks": 2},
}


def with_context(kind, lengths=(13, 8), seed=5, **changes):
    """A fitted model, sequences and the keywords of their contexts."""
    options = dict(KINDS[kind])
    n_context, n_local = options.pop("context", 0), options.pop("local", 0)
    hop = 3 if n_local else None
    rng = np.random.default_rng(seed)

    def contexts(X):
        given = {}
        if n_context:
            given["context"] = rng.normal(size=(len(X), n_context))
        if n_local:
            given["local_context"] = [rng.normal(size=(-(-len(x) // hop), n_local)) for x in X]
        return given

    sizes = {"channels": 3, "skip_channels": 4, "dilations": (1, 2), "n_stacks": 1, "hop": hop}
    train = texts((30, 21, 18), n_values=3, seed=seed)
    model = make(**{**sizes, **options, **changes}).fit(train, **contexts(train))
    X = texts(lengths, n_values=3, seed=seed + 1)
    return model, X, contexts(X)


def known(model, X, given):
    """Checked sequences with their contexts."""
    rest = {k: v for k, v in given.items() if k == "context"}
    return model._known_input(model._with_frames(X, given.get("local_context"), "X"), **rest)


def gradient_of(model, X, given, weight=None):
    gradient = model.parameters_.like()
    rows = known(model, X, given)
    log_prob = model._gradient(rows, gradient, weight)
    return log_prob, {name: np.array(array) for name, array in gradient.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_equals_central_differences(kind):
    model, X, given = with_context(kind)
    rng = np.random.default_rng(3)
    for name, parameter in model.parameters_.items():
        if name.endswith("bias"):  # off the kinks of ReLUs without inputs
            parameter += rng.uniform(0.01, 0.1, parameter.shape)
    log_prob, gradient = gradient_of(model, X, given)
    np.testing.assert_allclose(log_prob, model.score_samples(X, **given), rtol=1e-13)
    worst = largest_differences(model, X, {k: -a for k, a in gradient.items()}, **given)
    assert max(worst.values()) < 1e-6, worst
    if kind in ("none", "context", "several stacks"):  # the public door
        mean, public = model.gradient(X, **given)
        assert mean == pytest.approx(log_prob.mean(), rel=1e-14)
        for name, array in public.items():
            assert array.tobytes() == (-gradient[name]).tobytes(), name


def test_gradient_equals_the_references(small):
    X = np.stack(texts((40, 40), seed=1))
    _, gradient = small.gradient(X)
    want = reference.gradient(dense(small), dilations_of(small), X)
    C, S = small.channels, small.skip_channels
    pairs = [(from_panels(gradient["input"], C), want["embedding"]), (gradient["head_bias"], want["head1_bias"])]
    pairs += [(from_panels(gradient["head"], S), want["head1"])]
    pairs += [(from_panels(gradient["output"], V - 1), want["head2"][:, 1:])]
    for l in range(6):
        pairs += [(from_gate_panels(gradient["filter_gate"][l], C), want["filter_gate"][l])]
        pairs += [(from_panels(gradient["skip"][l], S), want["skip"][l])]
        if l < 5:
            pairs += [(from_panels(gradient["residual"][l], C), want["residual"][l])]
    for got, array in pairs:
        np.testing.assert_allclose(-got, array, rtol=0, atol=1e-12 * max(1, np.abs(array).max()))


@pytest.mark.parametrize("kind", ["none", "both"])
def test_gates_computed_again_give_the_same_bits(kind):
    model, X, given = with_context(kind, (40, 25))
    _, plenty = gradient_of(model, X, given)
    for budget in (0, 5000):
        _, again = gradient_of(copy.deepcopy(model).set_params(memory_budget=budget), X, given)
        for name, array in plenty.items():
            assert again[name].tobytes() == array.tobytes(), (budget, name)


@pytest.mark.parametrize("kind", ["none", "both"])
def test_a_gradient_replaces_the_one_before(kind):
    model, X, given = with_context(kind, (40, 25))
    rows, gradient = known(model, X, given), model.parameters_.like()
    model._gradient(rows[1:], gradient)
    model._gradient(rows, gradient)
    _, want = gradient_of(model, X, given)
    for name, array in want.items():
        assert np.ascontiguousarray(gradient[name]).tobytes() == array.tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_crops_are_windows_of_the_sequence(kind):
    """The terms of a window are those of the whole sequence at its place, and its gradient theirs."""
    model, X, given = with_context(kind, (60, 44))
    rows = known(model, X, given)
    terms = model._log_prob(rows, True)
    places = [(0, 0, 12), (0, 9, 12), (1, 3, 12), (0, 48, 12), (1, 42, 2), (0, 30, 1)]
    crops = Crops(*(np.array(column) for column in zip(*places, strict=True)))
    weight = np.array([0.3, 1.0, 0.0, 2.0, 0.7, 0.1])
    gradient = model.parameters_.like()
    got = model._crop_gradient(rows, crops, weight, gradient)
    want = [terms[row][start : start + length].sum() for row, start, length in places]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    total = {name: np.zeros(array.shape) for name, array in gradient.items()}
    for k in range(len(places)):
        one, alone = Crops(crops.row[[k]], crops.start[[k]], crops.length[[k]]), model.parameters_.like()
        assert model._crop_gradient(rows, one, weight[[k]], alone) == pytest.approx(got[k], rel=1e-13)
        for name in total:
            total[name] += alone[name]
    for name, array in gradient.items():
        np.testing.assert_allclose(array, total[name], rtol=0, atol=1e-13 * max(1, np.abs(array).max()))
    whole = model.parameters_.like()  # windows side by side are the sequence
    model._gradient(rows, whole, np.array([0.0, 1.0]))
    starts_, size = np.arange(0, 44, 11), 11
    if model.hop:
        starts_, size = np.arange(0, 44, 12), 12
    lengths = np.minimum(size, 44 - starts_)
    model._crop_gradient(rows, Crops(np.ones_like(starts_), starts_, lengths), np.ones(len(starts_)), gradient)
    for name, array in gradient.items():
        np.testing.assert_allclose(array, whole[name], rtol=0, atol=1e-12 * max(1, np.abs(array).max()))


# ---- Training


ENTROPY_RATE_WITHIN = 0.03  # nats


def test_learns_a_markov_chain():
    """Of order 2 over 4 symbols: within 0.03 nats of the true entropy rate on held-out steps."""
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.full(4, 0.5), size=(4, 4))
    upto, u, x = P.cumsum(-1), rng.random(9000), np.zeros(9000, int)
    for t in range(2, len(x)):
        x[t] = min(np.searchsorted(upto[x[t - 2], x[t - 1]], u[t], side="right"), 3)
    train, test = x[:6000], x[6000:]
    model = WaveNet(
        16, 32, (1, 2), n_stacks=1, conditional="categorical", crop=500, batch_size=4, max_epochs=25,
        learning_rate=0.01, schedule="cosine", random_state=0,
    ).fit(train)  # fmt: skip
    truth = np.log(P[test[:-2], test[1:-1], test[2:]])
    assert -model.score_samples(test, per_variable=True)[0, 2:].mean() < -truth.mean() + ENTROPY_RATE_WITHIN
    history = model.history_["train"]  # in nats a step
    assert history[-1] == pytest.approx(truth.mean(), abs=0.1)
    assert history[0] < history[-1]
    y = model.sample(1, 30_000, random_state=1)[0].astype(int)
    pairs = np.bincount(y[:-1] * 4 + y[1:], minlength=16) / (len(y) - 1)
    want = np.bincount(x[:-1] * 4 + x[1:], minlength=16) / (len(x) - 1)
    assert np.abs(pairs - want).max() < 0.03


def test_training_does_not_depend_on_threads():
    X = texts((700, 300), seed=6)
    digests = set()
    for n_threads in (1, 3):
        model = make(channels=24, skip_channels=40, crop=300, n_threads=n_threads, dtype="float32").fit(X, X_val=X[1:])
        digests.add(model.parameters_.flat.tobytes() + model.score_samples(X).tobytes())
    assert len(digests) == 1


def test_fitting_twice_gives_the_same_model(small):
    again = make().fit(texts())
    assert again.parameters_.flat.tobytes() == small.parameters_.flat.tobytes()
    other = make(random_state=4).fit(texts())
    assert other.parameters_.flat.tobytes() != small.parameters_.flat.tobytes()
    less = make(memory_budget=0).fit(texts())
    assert less.parameters_.flat.tobytes() == small.parameters_.flat.tobytes()


@pytest.mark.parametrize("kind", ["none", "both"])
def test_interrupted_and_resumed_is_uninterrupted(kind, tmp_path):
    _, X, given = with_context(kind, (40, 22, 31))
    options = {"hop": 3 if "local_context" in given else None, "channels": 5, "max_epochs": 4}
    whole = make(**options).fit(X, **given)
    path = tmp_path / "checkpoint"
    make(**{**options, "max_epochs": 2}).fit(X, **given, checkpoint=path)
    resumed = make(**options).fit(X, **given, checkpoint=path)
    assert resumed.parameters_.flat.tobytes() == whole.parameters_.flat.tobytes()
    assert resumed.history_["train"] == whole.history_["train"]
    with pytest.raises(ValueError, match="checkpoint"):
        make(**options, crop=11).fit(X, **given, checkpoint=path)
    other = [x.copy() for x in X]
    other[1][3] ^= 1
    with pytest.raises(ValueError, match="checkpoint"):
        make(**options).fit(other, **given, checkpoint=path)


def test_weights_of_sequences():
    """Whole numbers count sequences; only ratios matter; a weight of 0 leaves a sequence out of the objective."""
    X = texts((20, 20, 20), seed=7)
    options = {"batch_size": 50, "max_epochs": 3}
    doubled = make(**options).fit(X, sample_weight=[2, 1, 1])
    scaled = make(**options).fit(X, sample_weight=[1, 0.5, 0.5])
    np.testing.assert_allclose(doubled.parameters_.flat, scaled.parameters_.flat, rtol=0, atol=1e-12)
    _, mean = doubled.gradient([X[0], *X])
    gradient = doubled.parameters_.like()
    doubled._gradient(doubled._input(X), gradient, np.array([2, 1, 1]) / 4)
    for name, array in mean.items():
        np.testing.assert_allclose(-gradient[name], array, rtol=0, atol=1e-13 * max(1, np.abs(array).max()))
    for bad in ([1, 1], [1, -1, 1], [0, 0, 0], [1, np.nan, 1]):
        with pytest.raises(ValueError, match=r"sample_weight|weight"):
            make().fit(X, sample_weight=bad)


def test_validation_keeps_the_best_epoch():
    X = texts(seed=8)
    model = make(max_epochs=4).fit(X, X_val=texts((60,), seed=9))
    scores = model.history_["validation"]
    held_out = model.score_samples(texts((60,), seed=9)).sum() / 60
    assert held_out == pytest.approx(max(scores), rel=1e-13)  # in nats a step


def test_partial_fit_and_warm_start(tmp_path):
    X = texts(seed=10)
    going = make()
    for _ in range(3):
        going.partial_fit(X)
    whole = make(max_epochs=3).fit(X)
    assert going.parameters_.flat.tobytes() == whole.parameters_.flat.tobytes()
    assert len(going.history_["train"]) == 3
    going.save(tmp_path / "model")
    assert chainrule.load(tmp_path / "model").score_samples(X).tobytes() == going.score_samples(X).tobytes()
    with pytest.raises(ValueError, match="X must hold codes 0 to 4; sequence 0 has 9 at step 2"):
        going.partial_fit([np.array([0, 1, 9])])
    warm = make(warm_start=True).fit(X)
    before = warm.score(X)
    assert warm.fit(X).score(X) > before
    warm.save(tmp_path / "warm")
    assert chainrule.load(tmp_path / "warm").score(X) == warm.score(X)


@pytest.mark.parametrize("kind", ["local context", "both"])
def test_warm_start_with_local_context(kind, tmp_path):
    model, X, given = with_context(kind, (30, 20), warm_start=True)
    assert model.n_local_ == 2
    before = model.score_samples(X, **given).sum()
    model.set_params(max_epochs=10).fit(X, **given)
    assert model.score_samples(X, **given).sum() > before
    model.save(tmp_path / "model")
    loaded = chainrule.load(tmp_path / "model")
    assert loaded.score_samples(X, **given).tobytes() == model.score_samples(X, **given).tobytes()
    with pytest.raises(ValueError, match="local_context= is missing"):
        model.partial_fit(X, **{k: v for k, v in given.items() if k == "context"})
    with pytest.raises(ValueError, match="local_context= is missing"):
        model.gradient(X, **{k: v for k, v in given.items() if k == "context"})


def test_fitting_again_starts_anew():
    model = make().fit(texts(n_values=3))
    assert model.n_values_ == 3
    model.fit(texts(), X_val=texts(seed=1))
    assert model.n_values_ == V
    assert model.parameters_.flat.tobytes() == make().fit(texts(), X_val=texts(seed=1)).parameters_.flat.tobytes()
    assert make(n_values=9).fit(texts()).n_values_ == 9


# ---- Context


@pytest.mark.parametrize("kind", ["context", "local context", "both"])
def test_context(kind, monkeypatch):
    model, X, given = with_context(kind, (40, 40, 17))
    whole = model.score_samples(X, **given)
    for steps in (1, 7, 41):
        at_once(monkeypatch, steps)
        assert model.score_samples(X, **given).tobytes() == whole.tobytes()
    monkeypatch.undo()
    each = [{k: v[i : i + 1] for k, v in given.items()} for i in range(3)]
    alone = np.concatenate([model.score_samples(x, **g) for x, g in zip(X, each, strict=True)])
    assert alone.tobytes() == whole.tobytes()
    # Samples: of every row's own context, in chunks, continued, and followed by the scorer.
    two = {k: v[:2] for k, v in given.items()}
    table = model.sample(2, 40, random_state=1, **two)
    assert (np.concatenate(list(model.stream(2, 40, random_state=1, chunk=7, **two)), 1) == table).all()
    for cut in (1, 4, 6, 11):
        assert (model.sample(2, 40, given=table[:, :cut], random_state=1, **two) == table).all(), cut
    assert (model.sample(1, 40, random_state=1, start=1, **each[1]) == table[1:]).all()
    terms = model.score_samples(table, per_variable=True, **two)
    rows = known(model, table, two)
    logits = model._conditionals(rows).logits.reshape(-1, 2)
    u = chainrule.random.uniform_rows(chainrule.random.key_of(1), 0, 2, 1024)[:, :40]
    drawn = Categorical(logits, starts([3])).sample(np.ascontiguousarray(u).reshape(-1, 1))
    np.testing.assert_array_equal(table, drawn.reshape(2, 40))
    if "local_context" in given:  # a step sees its own frame, and those in its receptive field
        changed = [a.copy() for a in two["local_context"]]
        changed[0][5] += 1  # steps 15, 16, 17
        moved = model.score_samples(table, per_variable=True, **{**two, "local_context": changed}) != terms
        assert not moved[1].any()
        behind = (model.kernel_size - 1) * sum(dilations_of(model)[1:])  # the first block's z, through the others
        assert moved[0, 15:18].all()
        assert np.flatnonzero(moved[0]).max() == 17 + behind
        assert not moved[0, :15].any()


def test_bad_contexts():
    model, X, given = with_context("both", (9, 7))
    context, frames = given["context"], given["local_context"]
    short = [frames[0][:-1], frames[1]]
    for changes, message in (
        ({"context": None}, "was fitted with a context: context= is missing"),
        ({"local_context": None}, "was fitted with a local context: local_context= is missing"),
        ({"context": context[:1]}, "context"),
        ({"context": np.ones((2, 2))}, "context has 2 columns, the model was fitted with 1"),
        ({"context": context * np.nan}, "context"),
        ({"local_context": frames[:1]}, "local_context must have frames for 2 sequences, not 1"),
        ({"local_context": short}, r"local_context must be .* with 3 frames of 3 steps for sequence 0 of 9"),
        ({"local_context": [a[:, :1] for a in frames]}, "local_context must have 2 features, not 1"),
        ({"local_context": [a * np.inf for a in frames]}, "local_context must be finite; that of sequence 0 is not"),
        ({"local_context": [a[:, 0] for a in frames]}, "local_context must be"),
    ):
        arguments = {**given, **changes}
        with pytest.raises(ValueError, match=message):
            model.score_samples(X, **{k: v for k, v in arguments.items() if v is not None})
    with pytest.raises(ValueError, match="local_context must be"):
        model.sample(2, 10, **given)  # a fourth frame is missing
    with pytest.raises(ValueError, match="local_context"):
        model.sample(2, 9, context=context)
    with pytest.raises(ValueError, match="context"):
        model.sample(3, 6, **given)
    with pytest.raises(ValueError, match="local_context needs hop"):
        make().fit(X, local_context=frames)
    with pytest.raises(ValueError, match="context"):
        make().fit(X).score_samples(X, context=context)
    with pytest.raises(ValueError, match="context_val is missing"):
        make(hop=3).fit(X, **given, X_val=X, local_context_val=frames)


# ---- Audio


def test_audio():
    rng = np.random.default_rng(0)
    waves = [np.sin(np.arange(n) / 5) * 0.7 + rng.normal(0, 0.02, n) for n in (120, 90)]
    model = make(conditional="mu-law", channels=8, max_epochs=3).fit(waves)
    assert model.n_values_ == 256
    codes = [mulaw.mu_law_encode(w) for w in waves]
    want = model.score_samples(waves)
    steps = sum(map(len, waves))
    assert want.sum() / steps > -np.log(256) + 0.5
    single = [w.astype(np.float32) for w in waves]
    assert (
        model.score_samples(single).tobytes()
        == model.score_samples([mulaw.mu_law_decode(mulaw.mu_law_encode(w)) for w in single]).tobytes()
    )
    heard = [mulaw.mu_law_decode(c) for c in codes]
    assert model.score_samples(heard).tobytes() == want.tobytes()
    integers = [np.rint(w * 32767).astype(np.int16) for w in waves]
    assert np.abs(model.score_samples(integers) - want).max() < 0.05 * steps
    x = model.sample(2, 50, random_state=0)
    assert x.dtype.kind == "f"
    assert np.abs(x).max() <= 1
    assert (model.sample(2, 50, given=x[:, :20], random_state=0) == x).all()
    for bad, message in (
        (np.array([0.0, 1.5]), "1.5"),
        (np.array([0.0, -1.01]), "-1.01"),
        (np.array([0.0, np.nan]), "finite; sequence 0 has nan at step 1"),
        (np.array([np.inf]), "finite"),
        (np.zeros((3, 4, 2)), "one channel"),
        ([np.zeros((4, 2))], r"one channel, 1-d; sequence 0 has shape \(4, 2\): stereo"),
        (np.array([]), "empty"),
        ([np.zeros(3), np.zeros(0)], "sequence 1 is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            model.score_samples(bad)
        with pytest.raises(ValueError, match=message):
            make(conditional="mu-law").fit(bad)


# ---- Bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels must be an integer >= 1, not 0"),
        ({"channels": 2.5}, "channels must be"),
        ({"skip_channels": 0}, "skip_channels must be"),
        ({"n_stacks": 0}, "n_stacks must be"),
        ({"kernel_size": 0}, "kernel_size must be"),
        ({"kernel_size": 17}, "kernel_size must be at most 16, not 17"),
        ({"dilations": ()}, "dilations must not be empty"),
        ({"dilations": (1, 0)}, "dilations must be"),
        ({"dilations": (1, -2)}, "dilations must be"),
        ({"dilations": (1, 1.5)}, "dilations must be"),
        ({"dilations": (2**31,)}, r"dilations must give a receptive field below 2\^31 steps"),
        ({"dilations": (2**62, 2**62)}, r"dilations must give a receptive field below 2\^31 steps"),
        ({"dilations": 4}, "dilations must be"),
        ({"conditional": "gaussian"}, "conditional must be"),
        ({"n_values": 0}, "n_values must be"),
        ({"n_values": 257}, "n_values must say at most 256 values in a WaveNet, not 257: a Transformer takes more"),
        ({"crop": 0}, "crop must be"),
        ({"hop": 0}, "hop must be"),
        ({"memory_budget": -1}, "memory_budget must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"n_values": 4}, "X must hold codes 0 to 3; sequence 0 has 4 at step 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options).fit(texts())


def test_levels(tmp_path):
    """Integers on a scale, of more values than codes may have; sampled, continued, saved as such."""
    rng = np.random.default_rng(0)
    X = [np.clip(rng.normal(0, 20, n).cumsum() + 500, 0, 999).astype(int) for n in (40, 40)]
    model = make(conditional="logistic-mixture", n_values=1000, n_components=3).fit(X)
    assert (model.n_values_, model._unit) == (1000, "step")
    x = model.sample(3, 20, random_state=1)
    assert (x.dtype, x.shape) == (np.int32, (3, 20))
    assert 0 <= x.min() <= x.max() <= 999
    assert (model.sample(3, 20, given=x[:, :7], random_state=1) == x).all()
    report = chainrule.verify(model)
    assert report, f"\n{report}"
    model.save(tmp_path / "model")
    assert chainrule.load(tmp_path / "model").score_samples(X).tobytes() == model.score_samples(X).tobytes()
    with pytest.raises(ValueError, match="X must hold codes 0 to 999; sequence 0 has 1000 at step 1"):
        model.score_samples([[3, 1000]])
    with pytest.raises(ValueError, match="n_values must be at most 65536, not 65537"):
        make(conditional="logistic-mixture", n_values=65537).fit(X)


@pytest.mark.parametrize("X", [np.array([0, 300, 2]), "".join(map(chr, range(32, 333)))], ids=["codes", "text"])
def test_alphabets_beyond_256_values(X):
    message = "X must have at most 256 values in a WaveNet, not 301: a Transformer takes more"
    with pytest.raises(ValueError, match=message):
        make().fit(X)


def test_tokenizers_beyond_256_values():
    """Of whose tokens the text may show but a few."""
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({f"w{k}": k for k in range(300)}, unk_token="w0")
    with pytest.raises(ValueError, match="X must have at most 256 values in a WaveNet, not 300"):
        make().fit("w5", tokenizer=tokenizers.Tokenizer(words))


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.array([0, 5]), ValueError, "X must hold codes 0 to 4; sequence 0 has 5 at step 1"),
        ([np.array([1, 2]), np.array([0, -1])], ValueError, "sequence 1 has -1 at step 1"),
        (np.array([0.5, 1.0]), ValueError, "X must hold integer codes; sequence 0 has fractions"),
        (np.array([0, np.nan]), ValueError, "X must be finite; sequence 0 has nan at step 1"),
        (np.zeros((2, 3, 2)), ValueError, "one channel"),
        ([[1, 2], []], ValueError, "sequence 1 is empty"),
        (np.array(3), ValueError, "1-d"),
        (np.array(["a", "b"]), (TypeError, ValueError), "X must hold numbers"),
        (np.array([1j]), (TypeError, ValueError), "X must hold numbers"),
        (np.array([2.0**40]), ValueError, "X must hold codes 0 to 4"),
    ],
)
def test_bad_sequences(small, X, error, message):
    for call in (small.score_samples, small.conditionals, small.bits_per_step, small.gradient):
        with pytest.raises(error, match=message):
            call(X)


def test_nothing_to_fit():
    for empty in ([], np.zeros((0, 4), int), np.zeros((4, 0), int), np.zeros(0)):
        with pytest.raises(ValueError, match=r"empty|at least one"):
            make().fit(empty)


def test_bad_calls(small):
    for arguments, message in (
        ({}, "length must be given: the training sequences were of different lengths"),
        ({"length": 0}, "length must be"),
        ({"n_samples": -1, "length": 3}, "n_samples must be an integer >= 0, not -1"),
        ({"length": 3, "start": -1}, "start must be"),
        ({"length": 3, "temperature": 0}, "temperature must be positive"),
        ({"length": 3, "temperature": np.inf}, "temperature must be positive"),
        ({"length": 3, "given": np.zeros(4, int)}, "given must be prefixes of one length, at most length = 3"),
        ({"length": 9, "given": [np.zeros(4, int), np.zeros(5, int)]}, "given must be prefixes of one length"),
        ({"length": 9, "given": np.full(3, 7)}, "given must hold codes 0 to 4; sequence 0 has 7 at step 0"),
        ({"length": 9, "given": []}, "given must"),
        ({"length": 9, "given": np.zeros((2, 3), int), "n_samples": 3}, "given must have n_samples = 3 rows or one"),
        ({"length": 3, "random_state": "seven"}, "random_state must be"),
    ):
        with pytest.raises(ValueError, match=message):
            small.sample(**arguments)
    with pytest.raises(ValueError, match="chunk must be"):
        next(iter(small.stream(1, 3, chunk=0)))
    with pytest.raises(ValueError, match="one length"):
        small.conditionals(texts((3, 4)))
    for call in (lambda m: m.score_samples(texts()), lambda m: m.sample(1, 3), lambda m: m.save("nowhere")):
        with pytest.raises(chainrule.NotFittedError, match="not fitted"):
            call(make())


def test_recordings_shorter_than_the_receptive_field():
    """What is before the start is zero in the features of every layer, whatever the biases."""
    model = make(dilations=(1, 8, 32)).fit(texts((3, 5, 1, 9)))
    assert model.receptive_field_ == 83
    for row in model.parameters_.values():
        row[...] = np.random.default_rng(1).normal(0, 0.3, row.shape)  # biases too
    for x in texts((3, 1, 7), seed=1):
        want = reference.terms(dense(model), dilations_of(model), x[None])[0]
        np.testing.assert_allclose(model.score_samples(x, per_variable=True)[0], want, atol=1e-12)
        gradient = model.parameters_.like()
        assert model._gradient(model._input(x), gradient)[0] == pytest.approx(want.sum(), rel=1e-12)
    assert model.sample(2, 4, random_state=0).shape == (2, 4)


# ---- Files


@pytest.mark.parametrize("kind", ["none", "both"])
def test_files_and_pickles_round_trip(kind, tmp_path):
    model, X, given = with_context(kind)
    path = tmp_path / "model.safetensors"
    model.save(path)
    one = {k: v[:1] for k, v in given.items()}
    for other in (chainrule.load(path), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert type(other) is WaveNet
        assert other.receptive_field_ == model.receptive_field_
        assert other.score_samples(X, **given).tobytes() == model.score_samples(X, **given).tobytes()
        assert (other.sample(1, 9, random_state=1, **one) == model.sample(1, 9, random_state=1, **one)).all()
    chainrule.load(path).save(tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    assert model.length_ is None
    equal = make(max_epochs=1).fit(np.stack(texts((9, 9))))
    assert equal.length_ == 9
    equal.save(path)
    assert chainrule.load(path).sample(2, random_state=1).shape == (2, 9)


def test_all_memory_goes_back_to_the_pool():
    X, C = texts(), np.eye(4)
    model = make(hop=8).fit(X, context=C)

    def held():
        assert not model._pool._lent
        return sorted(len(flat) for free in model._pool._free.values() for flat in free)

    calls = [
        lambda: model.gradient(X, context=C),
        lambda: model.score_samples(X, context=C),
        lambda: model.sample(4, 30, context=C),
    ]
    for call in calls:
        call()
    before = held()
    for call in calls:
        call()
    assert held() == before
