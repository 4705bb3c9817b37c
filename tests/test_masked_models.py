"""Models with masks beyond the common contract: equations, ensembles, codes, dead weights, odd shapes, files."""

import inspect
import itertools
import pickle

import chainrule
import numpy as np
import pytest
from chainrule import FVSBN, MADE, MASDE, MLPConditionals, io, masks
from chainrule.fit import Optimizer
from chainrule.kernels import from_panels
from chainrule.models import masked as masked_models
from reference import categorical
from reference import masked as reference
from reference.differences import central_differences
from safetensors.numpy import save_file
from sklearn.base import clone
from test_files import rewrite

N = 6
SMALL = {"max_epochs": 4, "batch_size": 32, "learning_rate": 0.02, "random_state": 3, "dtype": "float64"}
MADE_SMALL = {**SMALL, "hidden_sizes": (17,)}
VALUES = [2, 5, 1, 3, 2, 4]


def chain(n):
    return np.eye(n, k=1, dtype=int) + np.eye(n, k=-1, dtype=int)


def bits(n_rows=200, n=N, seed=0):
    """Noisy copies of the left neighbour, some columns mostly one."""
    rng = np.random.default_rng(seed)
    x = (rng.random((n_rows, n)) < np.where(np.arange(n) % 3, 0.5, 0.8)).astype(np.uint8)
    for i in range(1, n):
        x[:, i] ^= x[:, i - 1] & (rng.random(n_rows) < 0.7)
    return x


def codes(n_rows=300, values=VALUES, seed=0):
    """Sums of the columns before, with noise."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n_rows, len(values)), np.uint8)
    for i, k in enumerate(values):
        x[:, i] = (x[:, :i].sum(1) + (rng.random(n_rows) < 0.4) * rng.integers(0, k, n_rows)) % k
    return x


def states(values):
    return np.array(list(itertools.product(*map(range, values))), np.uint8)


def live_masks(model, index):
    """The index-th set of masks, made anew."""
    n = model.n_features_in_
    if isinstance(model, FVSBN):
        return masks.fvsbn(n)
    if isinstance(model, MLPConditionals):
        return masks.mlp_conditionals(n, model.n_hidden)
    if isinstance(model, MASDE):
        return masks.masde(model.parents_, model.hidden_sizes, direct=model.direct, key=model.key_, index=index)
    index = 0 if model.resample_masks == "order" else index
    return masks.made(n, model.hidden_sizes, direct=model.direct, residual=model.residual, key=model.key_, index=index)


def log_prob(model, X, index=0, context=None):
    """Terms log p by column under one set of masks, from the equations, in float64: parameters as they are kept."""
    live, p, n = live_masks(model, index), model.parameters_, model.n_features_in_
    several = getattr(model, "n_masks", 1) != 1
    order = model._order(index).astype(int)
    K, swap = model.n_values_, model.reference_.astype(int)
    first = np.concatenate([[0], np.cumsum(K[order] - 1)])  # by step
    ones = reference.encode(X, order, swap, first)[1].astype(float)
    of_column = np.concatenate([[0], np.cumsum(K - 1)])
    columns = np.concatenate([of_column[c] + np.arange(K[c] - 1) for c in order]).astype(
        int
    )  # unit by step -> by column
    # Several sets of masks share parameters, whose hidden units stand in the order of the first set.
    first_units = live_masks(model, 0).units
    units = [np.argsort(a)[np.asarray(u, int)] for a, u in zip(first_units, live.units, strict=True)]

    def weight(name, rows, outs, array=None):
        turned = several and name in ("V", "C")
        W = from_panels(p[name], len(rows if turned else outs)).astype(float)
        W = (W.T if turned else W)[rows][:, outs] if several else W
        return W if array is None else np.where(array, W, 0.0)

    def bias(name, outs):
        return (p[name][outs] if several else p[name]).astype(float)

    steps, every = K[order] - 1, np.arange(0 if context is None else context.shape[1])
    activation = reference.ACTIVATION[getattr(model, "activation", "relu")][0]
    h = ones
    for layer, array in enumerate(live.hidden, start=1):
        rows = columns if layer == 1 else units[layer - 2]
        array = np.repeat(array, steps, 0) if layer == 1 else array
        a = h @ weight(f"W{layer}", rows, units[layer - 1], array) + bias(f"b{layer}", units[layer - 1])
        if layer == 1 and context is not None:
            a = a + context @ weight("U", every, units[0])
        h = activation(a) + (h if layer > 1 and getattr(model, "residual", False) else 0.0)
    z = np.zeros((len(X), len(columns))) + bias("c", columns)
    if live.output is not None:
        z = z + h @ weight("V", units[-1], columns, np.repeat(live.output, steps, 1))
    if live.direct is not None:
        z = z + ones @ weight("A", columns, columns, np.repeat(np.repeat(live.direct, steps, 0), steps, 1))
    if context is not None:
        z = z + context @ weight("C", every, columns)
    by_column = np.empty_like(z)
    by_column[:, columns] = z
    assert n == len(order)
    return categorical.log_prob(by_column, X, of_column.astype(np.uint32), model.reference_)


SINGLE = {
    "fvsbn": (FVSBN, {"order": "random"}),
    "mlp": (MLPConditionals, {"n_hidden": 7, "order": "random"}),
    "made": (MADE, {"hidden_sizes": (17, 12), "order": "random"}),
    "made-direct-residual": (
        MADE,
        {"hidden_sizes": (15, 15, 15), "direct": True, "residual": True, "activation": "tanh"},
    ),
    "made-no-hidden": (MADE, {"hidden_sizes": (), "direct": True}),
    "made-narrow": (MADE, {"hidden_sizes": (2, 3), "direct": True, "activation": "sigmoid"}),
    "made-narrow-blind": (MADE, {"hidden_sizes": (2,)}),
    "made-wide": (MADE, {"hidden_sizes": (300, 290), "direct": True}),
    "masde": (MASDE, {"structure": chain(N), "hidden_sizes": (17,)}),
    "masde-direct": (MASDE, {"structure": chain(N), "hidden_sizes": (3,), "direct": True, "order": "random"}),
}
every_single = pytest.mark.parametrize("name", SINGLE)
every_data = pytest.mark.parametrize("conditional", ["bernoulli", "categorical"])


def data_for(conditional, **options):
    return bits(**options) if conditional == "bernoulli" else codes(**options)


def values_for(conditional):
    return [2] * N if conditional == "bernoulli" else VALUES


@pytest.fixture(scope="module")
def fitted():
    return {
        (name, conditional): cls(**SMALL, **options, conditional=conditional).fit(data_for(conditional))
        for name, (cls, options) in SINGLE.items()
        for conditional in ("bernoulli", "categorical")
    }


@every_single
@every_data
def test_scores_are_what_the_equations_say(fitted, name, conditional):
    model, X = fitted[name, conditional], data_for(conditional, n_rows=60, seed=1)
    want = log_prob(model, X)
    np.testing.assert_allclose(model.score_samples(X, per_variable=True), want, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(model.score_samples(X), want.sum(1), rtol=1e-10)
    assert abs(np.exp(model.score_samples(states(values_for(conditional)))).sum() - 1) < 1e-10


@every_single
@every_data
def test_verify_holds(fitted, name, conditional):
    report = chainrule.verify(fitted[name, conditional], n_rows=40)
    assert report, f"\n{report}"
    assert not [law for law in report if law.held is None]


def chi_square(model, values, n_samples=100_000):
    x = model.sample(n_samples, random_state=11)
    counts = np.bincount(np.ravel_multi_index(tuple(x.T.astype(int)), values), minlength=int(np.prod(values)))
    expected = n_samples * np.exp(model.score_samples(states(values)))
    rare = expected < 5
    observed, wanted = (
        np.append(counts[~rare], counts[rare].sum()),
        np.append(expected[~rare], max(expected[rare].sum(), 1e-9)),
    )
    chi2 = ((observed - wanted) ** 2 / wanted)[wanted > 1].sum()
    freedom = (wanted > 1).sum() - 1
    return (chi2 - freedom) / np.sqrt(2 * freedom)  # standard deviations


@every_single
def test_samples_of_codes_fit_the_density(fitted, name):
    assert abs(chi_square(fitted[name, "categorical"], VALUES)) < 4


@every_single
def test_gradients_of_codes_equal_central_differences(fitted, name):
    if name == "made-wide":
        pytest.skip("90 000 weights: their gradient is compared below")
    model, X = pickle.loads(pickle.dumps(fitted[name, "categorical"])), codes(25, seed=4)
    for key, parameter in model.parameters_.items():
        if key in ("b1", "b2", "b3"):  # off the kink of a ReLU
            parameter += np.random.default_rng(5).uniform(0.01, 0.1, parameter.shape)
    _, gradient = model.gradient(X)
    for key, parameter in model.parameters_.items():
        difference = central_differences(parameter, lambda: model.score(X))
        assert np.abs(gradient[key] - difference).max(initial=0) <= 1e-6 * max(
            np.abs(difference).max(initial=0), 1e-3
        ), key


@pytest.mark.parametrize("with_context", [False, True], ids=["", "context"])
@pytest.mark.parametrize("direct", [False, True], ids=["", "direct"])
@pytest.mark.parametrize("hidden_sizes", [(300,), (520, 300)], ids=len)
def test_more_units_than_a_chunk(hidden_sizes, direct, with_context):
    """Sums of chunks and addends do not meet in one buffer: scores, gradients, samples."""
    X, rng = bits(), np.random.default_rng(0)
    context = rng.normal(size=(len(X), 3)) if with_context else None
    model = MADE(hidden_sizes, **{**SMALL, "max_epochs": 2}, direct=direct, activation="tanh").fit(X, context=context)
    want = log_prob(model, X, context=context)
    np.testing.assert_allclose(model.score_samples(X, context=context), want.sum(1), rtol=1e-9)
    _, gradient = model.gradient(X, context=context)
    step = 1e-4
    for key, parameter in model.parameters_.items():
        along = rng.normal(size=parameter.shape)  # one direction of each array
        slope = []
        for sign in (1, -1):
            kept = parameter.copy()
            parameter += sign * step * along
            slope.append(sign * model.score(X, context=context))
            parameter[...] = kept
        assert (gradient[key] * along).sum() == pytest.approx(sum(slope) / (2 * step), rel=1e-5, abs=1e-8), key


# ---- Ensembles

SETS = {
    f"{n}-{resample}": {"n_masks": n, "resample_masks": resample, **({"n_ensemble": 4} if n is None else {})}
    for n in (3, None)
    for resample in ("connectivity", "order", "both")
}
every_set = pytest.mark.parametrize("sets", SETS)


@pytest.fixture(scope="module")
def ensembles():
    return {name: MADE(**MADE_SMALL, **options).fit(bits()) for name, options in SETS.items()}


@every_set
def test_an_ensemble_is_the_mean_of_its_members(ensembles, sets):
    model, X = ensembles[sets], bits(50, seed=1)
    members = 3 if model.n_masks else 4
    each = np.stack([log_prob(model, X, k) for k in range(members)])
    assert len({m.tobytes() for m in each}) == members
    want = np.logaddexp.reduce(each.sum(2), axis=0) - np.log(members)
    np.testing.assert_allclose(model.score_samples(X), want, rtol=1e-10)
    assert abs(np.exp(model.score_samples(states([2] * N))).sum() - 1) < 1e-10
    same_order = model.resample_masks == "connectivity"
    orders = {tuple(model._order(k).tolist()) for k in range(members)}
    assert len(orders) == (1 if same_order else members)
    if same_order:
        terms = model.score_samples(X, per_variable=True)
        np.testing.assert_allclose(terms.sum(1), want, rtol=1e-10)
        prefix = np.logaddexp.reduce(np.add.accumulate(each, axis=2), axis=0) - np.log(members)
        np.testing.assert_allclose(np.add.accumulate(terms, axis=1), prefix, rtol=1e-10)
    else:
        with pytest.raises(ValueError, match=rf"no meaning for an average over {members} orders"):
            model.score_samples(X, per_variable=True)
    with pytest.raises(
        ValueError, match=rf"the conditionals of an average over {members} sets of masks have no logits"
    ):
        model.conditionals(X)


@every_set
def test_samples_of_an_ensemble_fit_its_density(ensembles, sets):
    assert abs(chi_square(ensembles[sets], [2] * N)) < 4


@every_set
def test_an_ensemble_of_codes(sets):
    model = MADE(**MADE_SMALL, **SETS[sets], conditional="categorical", direct=True).fit(codes())
    assert abs(np.exp(model.score_samples(states(VALUES))).sum() - 1) < 1e-10
    X = codes(40, seed=2)
    members = 3 if model.n_masks else 4
    each = np.stack([log_prob(model, X, k).sum(1) for k in range(members)])
    np.testing.assert_allclose(model.score_samples(X), np.logaddexp.reduce(each) - np.log(members), rtol=1e-10)
    assert abs(chi_square(model, VALUES)) < 4


@every_set
def test_bits_of_an_ensemble(ensembles, sets, tmp_path):
    """Splits, threads, files and pickles."""
    model, X = ensembles[sets], bits(37, seed=5)
    whole, table = model.score_samples(X), model.sample(37, random_state=7)
    assert whole.tobytes() == np.concatenate([model.score_samples(X[k : k + 5]) for k in range(0, 37, 5)]).tobytes()
    assert (table[10:29] == model.sample(19, random_state=7, start=10)).all()
    for n_threads in (1, 3):
        other = MADE(**MADE_SMALL, **SETS[sets], n_threads=n_threads).fit(bits())
        assert other.score_samples(X).tobytes() == whole.tobytes()
        assert (other.sample(37, random_state=7) == table).all()
    path = tmp_path / "model.safetensors"
    model.save(path)
    for other in (chainrule.load(path), pickle.loads(pickle.dumps(model))):
        assert other.score_samples(X).tobytes() == whole.tobytes()
        assert (other.sample(37, random_state=7) == table).all()
        assert len(other._networks) <= 4


def test_gradient_of_a_set_of_masks(ensembles):
    """Parameters come back to their own places: the gradient of each update is that of its own masks."""
    X, step = bits(20, seed=4), 1e-5
    for sets in ("3-both", "None-both"):
        model = pickle.loads(pickle.dumps(ensembles[sets]))
        model.parameters_["b1"][...] += np.random.default_rng(0).uniform(0.01, 0.1, 17)
        for update in (0, 1, 2, 5):
            index = update % 3 if model.n_masks else update
            gradient = model.parameters_.like()
            log_p = model._gradient(X, gradient, step=update)
            np.testing.assert_allclose(log_p, log_prob(model, X, index).sum(1), rtol=1e-10)
            for key, parameter in model.parameters_.items():
                for place in np.random.default_rng(update).integers(0, parameter.size, 40):
                    at = np.unravel_index(place, parameter.shape)
                    kept = parameter[at]
                    parameter[at] = kept + step
                    up = log_prob(model, X, index).sum(1).mean()
                    parameter[at] = kept - step
                    slope = (up - log_prob(model, X, index).sum(1).mean()) / (2 * step)
                    parameter[at] = kept
                    assert -gradient[key][at] == pytest.approx(slope, rel=1e-5, abs=1e-9), (key, at)


def digest(model):
    return model.parameters_.flat.tobytes()


@every_set
def test_training_goes_on_with_the_next_masks(sets, tmp_path):
    """partial_fit, and a checkpoint, are a fit that was not interrupted."""
    X = bits()
    make = lambda **changes: MADE(**{**MADE_SMALL, **SETS[sets], **changes})  # noqa: E731
    whole = make().fit(X)
    assert digest(make().fit(X)) == digest(whole)
    parts = make()
    for _ in range(SMALL["max_epochs"]):
        parts.partial_fit(X)
    assert digest(parts) == digest(whole)
    assert parts.history_["train"] == whole.history_["train"]
    path = tmp_path / "fit.safetensors"
    make(max_epochs=2).fit(X, checkpoint=path)
    assert digest(make().fit(X, checkpoint=path)) == digest(whole)
    warm = make(warm_start=True).fit(X)
    assert digest(warm) == digest(whole)
    again, first = warm.fit(X).score(X), whole.score(X)
    assert again > first
    other = make(warm_start=True).fit(X)
    assert digest(other.fit(X)) == digest(warm)


def test_masks_differ_from_update_to_update(monkeypatch):
    seen = []
    make = masks.made_staircases
    monkeypatch.setattr(
        masks, "made_staircases", lambda *a, index, **k: seen.append(index) or make(*a, index=index, **k)
    )
    MADE(**MADE_SMALL, n_masks=None, n_ensemble=2).fit(bits())
    assert set(range(4 * 7)) <= set(seen)  # 4 epochs of 7 batches
    seen.clear()
    MADE(**MADE_SMALL, n_masks=3).fit(bits())
    assert set(seen) == {0, 1, 2}


# ---- Weights that are not live


def dead(model):
    """By name, the weights of a model with one set of masks that are not live, padding too."""
    live, steps = live_masks(model, 0), model.n_values_[model.order_] - 1
    arrays = {f"W{k}": array for k, array in enumerate(live.hidden, start=1)}
    if "W1" in arrays:
        arrays["W1"] = np.repeat(arrays["W1"], steps, 0)
    if live.output is not None:
        arrays["V"] = np.repeat(live.output, steps, 1)
    if live.direct is not None:
        arrays["A"] = np.repeat(np.repeat(live.direct, steps, 0), steps, 1)
    return {name: ~chainrule.kernels.to_panels(array).astype(bool) for name, array in arrays.items()}


@every_single
@every_data
def test_dead_weights_have_no_part_in_anything(fitted, name, conditional):
    model, X = pickle.loads(pickle.dumps(fitted[name, conditional])), data_for(conditional, n_rows=40, seed=6)
    for key, where in dead(model).items():
        assert not model.parameters_[key][where].any(), "dead weights are zero after training"
    before = model.score_samples(X), model.sample(30, random_state=0), model.gradient(X)[1]
    for value in (1e30, np.nan):
        for key, where in dead(model).items():
            model.parameters_[key][where] = value
        assert model.score_samples(X).tobytes() == before[0].tobytes()
        assert (model.sample(30, random_state=0) == before[1]).all()
        assert all(g.tobytes() == before[2][key].tobytes() for key, g in model.gradient(X)[1].items())
    for key, where in dead(model).items():
        assert not before[2][key][where].any()


@pytest.mark.parametrize(
    "options", [{"optimizer": "adam"}, {"optimizer": "momentum", "clip_norm": 1.0}, {"average_decay": 0.9}]
)
@pytest.mark.parametrize("name", ["fvsbn", "made", "masde"])
def test_training_leaves_dead_weights_alone(name, options):
    """100 updates on 1e30 in dead weights: they stay, and the model is that of zeros."""
    cls, more = SINGLE[name]
    options = {**SMALL, **more, **options, "max_epochs": 15, "warm_start": True}
    X = bits()
    plain, spoilt = (cls(**{**options, "max_epochs": 1}).fit(X) for _ in range(2))
    for key, where in dead(spoilt).items():
        spoilt.parameters_[key][where] = 1e30
    for model in (plain, spoilt):
        model.set_params(max_epochs=15).fit(X)
    assert plain.score_samples(X).tobytes() == spoilt.score_samples(X).tobytes()
    for key, where in dead(spoilt).items():
        assert (spoilt.parameters_[key][where] == 1e30).all()
        assert not plain.parameters_[key][where].any()


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "sgd", "average_decay": 0.9}, {"optimizer": "adamw", "weight_decay": 0.1}]
)
def test_products_left_to_the_optimizer_change_no_bit(name, options, monkeypatch):
    cls, more = SINGLE[name]
    X, left = bits(), []
    step = Optimizer.step

    def seen(self, gradient, rate):
        left.extend(getattr(gradient, "products", ()))
        return step(self, gradient, rate)

    monkeypatch.setattr(Optimizer, "step", seen)
    for least in ("LARGE", "LARGE_OF_ONES"):
        monkeypatch.setattr(masked_models, least, 0)
    one = cls(**{**SMALL, **more, **options}).fit(X)
    assert set(left) == {name for name, W in one.parameters_.items() if W.ndim > 1}
    monkeypatch.setattr(Optimizer, "gradient", lambda self: self.parameters.like())
    left.clear()
    other = cls(**{**SMALL, **more, **options}).fit(X)
    assert not left
    assert digest(one) == digest(other)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_weight_decay_moves_no_block_without_a_live_weight(optimizer):
    """Blocks of 32 outputs are the grain of training: in a live one, decay shrinks dead weights that are not zero."""
    X = bits(n=70)
    options = {**SMALL, "hidden_sizes": (90,), "optimizer": optimizer, "weight_decay": 0.1, "warm_start": True}
    plain, spoilt = (MADE(**{**options, "max_epochs": 1}).fit(X) for _ in range(2))
    asleep = {}
    for key, where in dead(spoilt).items():
        spoilt.parameters_[key][where] = 0.5
        asleep[key] = np.repeat(where.all(2)[:, :, None], 32, axis=2)
        assert asleep[key].any()
    for model in (plain, spoilt):
        model.set_params(max_epochs=15).fit(X)
    assert plain.score_samples(X).tobytes() == spoilt.score_samples(X).tobytes()
    for key, where in asleep.items():
        assert (spoilt.parameters_[key][where] == 0.5).all()
        assert not plain.parameters_[key][dead(plain)[key]].any()


# ---- Odd shapes


@every_data
@pytest.mark.parametrize("name", [name for name in SINGLE if not name.startswith("masde")])
def test_one_variable(name, conditional):
    cls, options = SINGLE[name]
    X = (
        np.array([[0], [1], [1], [0], [1], [1]])
        if conditional == "bernoulli"
        else np.array([[0], [2], [2], [1], [2], [2]])
    )
    model = cls(**{**SMALL, "max_epochs": 300}, **options, conditional=conditional).fit(X)
    every = np.arange(X.max() + 1)[:, None]
    p = np.exp(model.score_samples(every))
    assert p.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(p, np.bincount(X[:, 0]) / 6, atol=0.02)
    assert set(np.unique(model.sample(100, random_state=0))) == set(every[:, 0])
    assert chainrule.verify(model)


def test_one_variable_of_a_field():
    model = MASDE(np.zeros((1, 1)), (3,), **SMALL).fit([[0], [1]])
    assert [p.tolist() for p in model.parents_] == [[]]
    assert np.exp(model.score_samples([[0], [1]])).sum() == pytest.approx(1, abs=1e-12)


@every_single
def test_columns_without_a_choice(name):
    cls, options = SINGLE[name]
    for X in (np.zeros((10, N), int), codes(30, [1, 3, 1, 1, 2, 1])):
        model = cls(**SMALL, **options, conditional="categorical").fit(X)
        assert model.n_values_.tolist() == (X.max(0) + 1).tolist()
        terms = model.score_samples(X, per_variable=True)
        assert not terms[:, X.max(0) == 0].any()
        assert np.exp(model.score_samples(states(X.max(0) + 1))).sum() == pytest.approx(1, abs=1e-12)
        assert (model.sample(20, random_state=0) <= X.max(0)).all()
        assert chainrule.verify(model)


def test_codes_are_checked_against_what_was_seen():
    X = codes()
    model = FVSBN(**SMALL, conditional="categorical").fit(X)
    late = X[:3].copy()
    late[1, 3] = 3
    with pytest.raises(ValueError, match=r"X has 1 values outside .*\(first: 3 at row 1, column 3, where K = 3\)"):
        model.score_samples(late)
    with pytest.raises(ValueError, match="X has 1 values outside"):
        model.partial_fit(late)
    with pytest.raises(ValueError, match="X_val has 1 values outside"):
        FVSBN(**SMALL, conditional="categorical").fit(X, X_val=late)
    more = np.concatenate([X, late])
    model.fit(more, X_val=late)  # a new fit has new values
    assert model.n_values_[3] == 4
    with pytest.raises(ValueError, match="outside"):
        FVSBN(**SMALL).fit(X)
    warm = FVSBN(**SMALL, conditional="categorical", warm_start=True).fit(X)
    with pytest.raises(ValueError, match="X has 1 values outside"):
        warm.fit(more)


def test_weights_of_rows_decide_references():
    X = np.array([[0, 2], [1, 0], [1, 0]])
    model = FVSBN(**SMALL, conditional="categorical").fit(X)
    assert model.reference_.tolist() == [1, 0]
    model = FVSBN(**SMALL, conditional="categorical").fit(X, sample_weight=[5, 1, 1])
    assert model.reference_.tolist() == [0, 2]


def test_a_bit_is_a_category_of_two():
    """The same network on the same data: Bernoulli's logits are the categorical's."""
    X = bits()
    options = {**MADE_SMALL, "direct": True, "order": "random"}
    a, b = (MADE(**options, conditional=c).fit(X) for c in ("bernoulli", "categorical"))
    np.testing.assert_allclose(a.score_samples(X), b.score_samples(X), rtol=1e-9)
    assert (a.sample(500, random_state=0) == b.sample(500, random_state=0)).mean() > 0.999


# ---- Structures


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ([[1], [2], [0]], r"structure has a cycle, each the parent of the next: \d -> \d -> \d -> \d"),
        (
            np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]]),
            "structure must be symmetric, but it is 1 at row 0, column 1 and 0 at",
        ),
        (np.zeros((4, 4)), r"structure must have shape \(3, 3\), a row and a column for each variable, not \(4, 4\)"),
        (np.eye(3), "structure must have no self loops, but node 0 has one"),
        (np.full((3, 3), 0.5), "structure must hold 0 and 1 only, not 0.5 at row 0, column 0"),
        ([[], [0]], "structure must hold 3 parent sets, one for each column, not 2"),
        ([[], [1], []], r"structure\[1\] holds 1, but no variable is its own parent"),
        ([[], [7], []], r"structure\[1\] holds 7, which is not a column 0..2"),
        ("chain", "structure must be an adjacency array, a graph or parent sets, not 'chain'"),
        (None, "structure must be an adjacency array, a graph or parent sets, not None"),
    ],
)
def test_bad_structures(structure, message):
    with pytest.raises(ValueError, match=message):
        MASDE(structure, (8,), max_epochs=1).fit(np.eye(3))


def test_structures_of_networkx(tmp_path):
    nx = pytest.importorskip("networkx")
    X = bits(n=5)
    graph = nx.path_graph(5)
    model = MASDE(graph, (9,), **SMALL).fit(X)
    same = MASDE(chain(5), (9,), **SMALL).fit(X)
    assert model.score_samples(X).tobytes() == same.score_samples(X).tobytes()
    path = tmp_path / "fit.safetensors"
    MASDE(graph, (9,), **{**SMALL, "max_epochs": 2}).fit(X, checkpoint=path)
    resumed = MASDE(nx.path_graph(5), (9,), **SMALL).fit(X, checkpoint=path)
    assert resumed.score_samples(X).tobytes() == model.score_samples(X).tobytes()
    with pytest.raises(ValueError, match="another fit"):
        MASDE(nx.cycle_graph(5), (9,), **SMALL).fit(X, checkpoint=path)


def test_a_checkpoint_knows_every_entry_of_a_large_option(tmp_path):
    """repr leaves out the middle of a large array."""
    n, path = 50, tmp_path / "fit.safetensors"
    X, one, other = bits(40, n), chain(n), chain(n)
    other[20, 30] = other[30, 20] = 1
    assert repr(one) == repr(other)
    MASDE(one, (60,), **{**SMALL, "max_epochs": 1}, order="natural").fit(X, checkpoint=path)
    with pytest.raises(ValueError, match="another fit"):
        MASDE(other, (60,), **SMALL, order="natural").fit(X, checkpoint=path)


def test_parents_are_kept_in_the_file(tmp_path):
    model = MASDE([[2], [0], [], [1, 2]], (9,), **SMALL).fit(bits(n=4))
    assert model.order_.tolist() == [2, 0, 1, 3]
    assert [p.tolist() for p in model.parents_] == [[], [0], [1], [0, 2]]
    model.save(tmp_path / "m.safetensors")
    other = chainrule.load(tmp_path / "m.safetensors")
    assert [p.tolist() for p in other.parents_] == [p.tolist() for p in model.parents_]


def test_too_few_units_for_the_sets():
    with pytest.raises(
        ValueError, match=r"hidden_sizes\[0\] must be at least 5, one unit for each distinct parent set, not 3"
    ):
        MASDE(chain(N), (3,), max_epochs=1).fit(bits())


# ---- Files


@pytest.mark.parametrize("name", ["made", "mlp", "masde", "made-no-hidden"])
def test_a_file_cannot_ask_for_more_than_it_holds(fitted, name, tmp_path):
    """Masks of the sizes a file claims are made only when its arrays have them."""
    path = tmp_path / "model.safetensors"
    fitted[name, "bernoulli"].save(path)
    chainrule.load(path)
    for claim in (
        {"hidden_sizes": [10**12]},
        {"hidden_sizes": [17, 10**12]},
        {"hidden_sizes": [1] * 10**4},
        {"n_hidden": 10**12},
    ):
        if claim.keys() <= fitted[name, "bernoulli"].get_params().keys():
            rewrite(path, lambda meta, claim=claim: meta["parameters"].update(claim))
            with pytest.raises(ValueError, match=r"model\.safetensors' is damaged"):
                chainrule.load(path)
    fitted[name, "bernoulli"].save(path)
    arrays, metadata = io.read_safetensors(path)
    n = 10**6
    arrays |= {"order": np.arange(n, dtype=np.uint32), "reference": np.zeros(n, np.uint8), "n_values": np.full(n, 2)}
    save_file(arrays, path, metadata)
    if name == "masde":
        rewrite(path, lambda meta: meta["attributes"].update(parents=[[]] * n))
    with pytest.raises(ValueError, match=r"model\.safetensors' is damaged.*expected"):
        chainrule.load(path)


# ---- Constructors


@pytest.mark.parametrize("name", SINGLE)
def test_constructors_show_every_option(name):
    cls, options = SINGLE[name]
    model = cls(**options, max_epochs=7, weight_decay=0.5)
    names = list(inspect.signature(cls).parameters)
    shared = list(inspect.signature(chainrule.models.trained.TrainedModel.__init__).parameters)[1:]
    assert names[-len(shared) :] == shared
    assert "training" not in names
    assert list(model.get_params()) == names
    assert "max_epochs=7" in repr(model)
    assert "weight_decay=0.5" in repr(model)
    assert "batch_size" not in repr(model)
    assert repr(clone(model)) == repr(model)
    assert model.set_params(batch_size=9).batch_size == 9
    with pytest.raises(TypeError, match="colour"):
        cls(**options, colour="red")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_sizes": ()}, "hidden_sizes is empty: without hidden layers only direct=True connects"),
        ({"hidden_sizes": (0,)}, r"hidden_sizes\[0\] must be an integer >= 1, not 0"),
        ({"hidden_sizes": (8, 2.5)}, r"hidden_sizes\[1\] must be an integer >= 1, not 2.5"),
        ({"hidden_sizes": (8, 9), "residual": True}, "residual=True needs hidden layers of one size"),
        ({"activation": "gelu"}, "activation must be one of 'sigmoid', 'relu', 'tanh', not 'gelu'"),
        ({"order": "sorted"}, "order must be one of 'natural', 'random', not 'sorted'"),
        ({"order": [0, 0, 1]}, "order must be a permutation of 0..5"),
        ({"direct": 1}, "direct must be one of True, False, not 1"),
        ({"residual": "no"}, "residual must be one of True, False"),
        ({"n_masks": 0}, "n_masks must be an integer >= 1, not 0"),
        ({"n_ensemble": 0}, "n_ensemble must be an integer >= 1, not 0"),
        ({"resample_masks": "all"}, "resample_masks must be one of 'connectivity', 'order', 'both', not 'all'"),
        ({"conditional": "gaussian"}, "conditional must be one of 'bernoulli', 'categorical', not 'gaussian'"),
    ],
)
def test_options_are_checked_when_fitting(options, message):
    model = MADE(**{"hidden_sizes": (8,), "max_epochs": 1, **options})
    with pytest.raises(ValueError, match=message):
        model.fit(bits())


def test_hidden_units_of_mlp_conditionals():
    with pytest.raises(ValueError, match="n_hidden must be an integer >= 1, not 0"):
        MLPConditionals(0, max_epochs=1).fit(bits())
    model = MLPConditionals(3, **SMALL).fit(bits())
    assert model.parameters_["b1"].shape == (3 * (N - 1),)
