"""A context reaches every variable, the first included, and nothing else changes."""

import chainrule
import numpy as np
import pytest
from chainrule import FVSBN, MADE, MASDE, NADE, MLPConditionals
from reference.differences import central_differences

N, M = 6, 3
SMALL = {"max_epochs": 30, "batch_size": 50, "learning_rate": 0.05, "random_state": 3, "dtype": "float64"}
CHAIN = np.eye(N, k=1) + np.eye(N, k=-1)
MODELS = {
    "fvsbn": (FVSBN, SMALL),
    "mlp": (MLPConditionals, {**SMALL, "n_hidden": 3}),
    "made": (MADE, {**SMALL, "hidden_sizes": (9, 8), "order": "random"}),
    "made-direct-residual": (MADE, {**SMALL, "hidden_sizes": (9, 9), "direct": True, "residual": True}),
    "made-masks": (MADE, {**SMALL, "hidden_sizes": (9,), "n_masks": 2, "resample_masks": "both"}),
    "masde": (MASDE, {**SMALL, "structure": CHAIN, "hidden_sizes": (9,)}),
    "categorical": (MADE, {**SMALL, "hidden_sizes": (9,), "conditional": "categorical"}),
}


def data(n_rows=200, seed=0):
    """Class k makes column k one, and the rest noisy copies of their left neighbour."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, M, n_rows)
    x = (rng.random((n_rows, N)) < 0.5).astype(np.uint8)
    x[:, 0] = rng.random(n_rows) < np.array([0.05, 0.5, 0.95])[label]
    x[:, 5] = label == 2
    return x, np.eye(M)[label]


@pytest.fixture(scope="module")
def fitted():
    X, C = data()
    return {name: cls(**options).fit(X, context=C) for name, (cls, options) in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
def test_the_first_variable_depends_on_the_context(fitted, name):
    model, X = fitted[name], data(50, seed=1)[0]
    zero, two = (np.tile(np.eye(M)[k], (50, 1)) for k in (0, 2))
    with_zero, with_two = (model.score_samples(X, context=c, per_variable=name != "made-masks") for c in (zero, two))
    assert not np.array_equal(with_zero, with_two)
    if name != "made-masks":
        ones = model.sample(2000, context=two[:1], random_state=1)[:, 0].mean()
        assert ones > 0.8 > 0.3 > model.sample(2000, context=zero[:1], random_state=1)[:, 0].mean()


@pytest.mark.parametrize("name", MODELS)
def test_each_context_has_a_density_and_samples_that_fit_it(fitted, name):
    model = fitted[name]
    states = ((np.arange(2**N)[:, None] >> np.arange(N)) & 1).astype(np.uint8)
    for k in range(M):
        context = np.tile(np.eye(M)[k], (len(states), 1))
        p = np.exp(model.score_samples(states, context=context))
        assert abs(p.sum() - 1) < 1e-10
        drawn = model.sample(20_000, context=context[:1], random_state=k)
        counts = np.bincount(drawn.astype(int) @ (1 << np.arange(N)), minlength=2**N)
        seen = p * 20_000 > 5
        chi2 = ((counts - p * 20_000)[seen] ** 2 / (p * 20_000)[seen]).sum()
        assert chi2 < seen.sum() + 5 * np.sqrt(2 * seen.sum())


@pytest.mark.parametrize("name", [name for name in MODELS if name != "made-masks"])
def test_gradient_equals_central_differences(fitted, name):
    model, (X, C) = fitted[name], data(20, seed=2)
    _, gradient = model.gradient(X, context=C)
    assert {"C"} <= gradient.keys()
    for key in ("C", "U"):
        if key not in gradient:
            continue
        parameter = model.parameters_[key]
        difference = central_differences(parameter, lambda: model.score(X, context=C))
        assert np.abs(gradient[key] - difference).max() <= 1e-6 * np.abs(difference).max(), key


@pytest.mark.parametrize("name", MODELS)
def test_files_and_splits(fitted, name, tmp_path):
    model, (X, C) = fitted[name], data(30, seed=3)
    model.save(tmp_path / "m.safetensors")
    other = chainrule.load(tmp_path / "m.safetensors")
    whole = model.score_samples(X, context=C)
    assert other.score_samples(X, context=C).tobytes() == whole.tobytes()
    parts = [model.score_samples(X[k : k + 7], context=C[k : k + 7]) for k in range(0, 30, 7)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    table = model.sample(30, context=C, random_state=4)
    assert (model.sample(10, context=C[5:15], random_state=4, start=5) == table[5:15]).all()


def test_a_context_helps(fitted):
    X, C = data(500, seed=5)
    plain = MADE(**MODELS["made"][1]).fit(data()[0])
    assert fitted["made"].score(X, context=C) > plain.score(X) + 0.3


def test_checkpoint_partial_fit_and_weights(tmp_path):
    X, C = data()
    whole = MADE((9,), **SMALL).fit(X, context=C, X_val=X, context_val=C)
    short = MADE((9,), **{**SMALL, "max_epochs": 30})
    path = tmp_path / "c.safetensors"

    def stop(record):
        return record["epoch"] == 4

    short.fit(X, context=C, X_val=X, context_val=C, checkpoint=path, callbacks=[stop])
    again = MADE((9,), **SMALL).fit(X, context=C, X_val=X, context_val=C, checkpoint=path)
    assert again.parameters_.flat.tobytes() == whole.parameters_.flat.tobytes()
    with pytest.raises(ValueError, match="another fit"):
        MADE((9,), **SMALL).fit(X, context=C[::-1].copy(), X_val=X, context_val=C, checkpoint=path)
    model = MADE((9,), **SMALL).partial_fit(X, context=C).partial_fit(X, context=C)
    assert len(model.history_["epoch"]) == 2
    MADE((9,), **SMALL).fit(X, context=C, sample_weight=np.ones(len(X)))


def test_missing_values_with_a_context(fitted):
    model, (X, C) = fitted["made"], data(5, seed=6)
    X = X.astype(float)
    X[:, model.order_[-1]] = np.nan
    full = [np.where(np.isnan(X), v, X) for v in (0, 1)]
    total = np.logaddexp(*(model.score_samples(x, context=C) for x in full))
    np.testing.assert_allclose(model.score_samples(X, context=C), total, rtol=1e-12)
    filled = model.impute(X, context=C, random_state=1)
    assert (filled[~np.isnan(X)] == X[~np.isnan(X)]).all()


def test_errors(fitted):
    model, (X, C) = fitted["made"], data(10)
    with pytest.raises(ValueError, match="context= is missing"):
        model.score_samples(X)
    with pytest.raises(ValueError, match="context has 2 columns, the model was fitted with 3"):
        model.score_samples(X, context=C[:, :2])
    with pytest.raises(ValueError, match="context must have a row for each of the 10 rows, not 9"):
        model.score_samples(X, context=C[:9])
    with pytest.raises(ValueError, match="NaN"):
        model.score_samples(X, context=np.full((10, 3), np.nan))
    with pytest.raises(ValueError, match="NADE takes no context"):
        NADE(4, max_epochs=1).fit(X, context=C)
    with pytest.raises(ValueError, match="context_val is missing"):
        MADE((4,), max_epochs=1).fit(X, context=C, X_val=X)
    with pytest.raises(ValueError, match="context must have n_samples"):
        model.sample(3, context=C)
    plain = MADE((4,), max_epochs=1).fit(X)
    with pytest.raises(ValueError, match="context has 3 columns, the model was fitted with 0"):
        plain.score_samples(X, context=C)
