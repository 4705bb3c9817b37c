"""Rows with missing values: exact marginals and draws by enumeration, and estimates that say so."""

import itertools

import chainrule
import numpy as np
import pytest
from chainrule import MADE, NADE, IndependentBernoulli, Tabular

N = 6
SMALL = {"max_epochs": 4, "batch_size": 32, "learning_rate": 0.05, "random_state": 3, "dtype": "float64"}
MODELS = {
    "nade": (NADE, {**SMALL, "n_hidden": 7, "order": "random"}),
    "made": (MADE, {**SMALL, "hidden_sizes": (9,), "order": "random"}),
    "made-connectivity": (MADE, {**SMALL, "hidden_sizes": (9,), "n_masks": 3}),
    "made-any-order": (MADE, {**SMALL, "hidden_sizes": (9,), "n_masks": None, "resample_masks": "both"}),
    "independent": (IndependentBernoulli, {}),
    "tabular": (Tabular, {}),
}


def rows(n_rows=150, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.random((n_rows, N)) < 0.5).astype(np.uint8)
    x[:, 1] = x[:, 0] ^ (rng.random(n_rows) < 0.1)
    x[:, 4] = x[:, 2] | x[:, 3]
    return x


STATES = np.array(list(itertools.product((0, 1), repeat=N)), np.uint8)


@pytest.fixture(scope="module")
def fitted():
    return {name: cls(**options).fit(rows()) for name, (cls, options) in MODELS.items()}


def prefix(model, known):
    """A row that knows the first variables of the order, and the mask of the states that agree with it."""
    x = np.full(N, np.nan)
    for column in getattr(model, "order_", np.arange(N))[:known].astype(int):
        x[column] = column % 2
    return x, np.array([all(np.isnan(v) or s == v for s, v in zip(state, x, strict=True)) for state in STATES])


def density(model):
    if getattr(model, "_any_order", False):
        return None  # one density for each order
    return np.exp(model.score_samples(STATES))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "made-any-order"])
@pytest.mark.parametrize("known", range(N + 1))
def test_marginals_that_come_first_are_exact(fitted, name, known):
    model = fitted[name]
    x, agree = prefix(model, known)
    score, error = model.score_samples(np.stack([x, x]), return_std=True)
    np.testing.assert_allclose(np.exp(score), density(model)[agree].sum(), rtol=1e-12)
    assert (error == 0).all()


@pytest.mark.parametrize("name", [name for name in MODELS if name != "made-any-order"])
def test_draws_given_a_prefix_follow_the_conditional_distribution(fitted, name):
    model, n_draws = fitted[name], 20_000
    x, agree = prefix(model, 3)
    drawn = model.sample(n_draws, given=x[None], random_state=5)
    assert (drawn[:, ~np.isnan(x)] == x[~np.isnan(x)]).all()
    expected = np.where(agree, density(model), 0)
    expected *= n_draws / expected.sum()
    counts = np.bincount(drawn.astype(int) @ (1 << np.arange(N)[::-1]), minlength=2**N)
    seen = expected > 5
    chi2 = ((counts - expected)[seen] ** 2 / expected[seen]).sum()
    assert chi2 < seen.sum() + 5 * np.sqrt(2 * seen.sum())
    np.testing.assert_array_equal(
        model.impute(np.stack([x] * 3), random_state=1)[:, ~np.isnan(x)], [x[~np.isnan(x)]] * 3
    )


def test_a_model_of_every_order_takes_any_pattern(fitted):
    model, rng = fitted["made-any-order"], np.random.default_rng(0)
    X = rows(40, seed=1).astype(float)
    X[rng.random(X.shape) < 0.4] = np.nan
    score, error = model.score_samples(X, return_std=True)
    assert (error == 0).all()
    # Each row's marginal is that of the order with its observed variables first.
    for x, s in zip(X[:8], score[:8], strict=True):
        pattern = ~np.isnan(x)
        ((network, _),) = model._by_pattern(pattern[None].astype(np.uint8))
        assert pattern[network.order.astype(int)][: pattern.sum()].all()
        agree = (STATES[:, pattern] == x[pattern]).all(1)
        total = np.exp(model._terms_of(STATES, network, False))
        np.testing.assert_allclose(total.sum(), 1, rtol=1e-12)
        np.testing.assert_allclose(np.exp(s), total[agree].sum(), rtol=1e-12)
    filled = model.impute(X, random_state=2)
    assert (filled[~np.isnan(X)] == X[~np.isnan(X)]).all()
    assert (model.sample(given=X, random_state=2)[~np.isnan(X)] == X[~np.isnan(X)]).all()


@pytest.mark.parametrize("name", ["nade", "made"])
def test_estimates_are_near_the_truth_and_say_how_near(fitted, name):
    model = fitted[name]
    x, _ = prefix(model, N)
    x[model.order_[[0, 2]].astype(int)] = np.nan
    agree = np.array([all(np.isnan(v) or s == v for s, v in zip(state, x, strict=True)) for state in STATES])
    truth = np.log(density(model)[agree].sum())
    with pytest.raises(ValueError, match=r"X row 0 misses column \d and knows column \d.*n_draws="):
        model.score_samples(x[None])
    score, error = model.score_samples(x[None], n_draws=4000, return_std=True)
    assert 0 < error[0] < 0.1
    assert abs(score[0] - truth) < 4 * error[0]
    assert model.score_samples(x[None], n_draws=4000)[0] == score[0]
    with pytest.raises(ValueError, match="n_particles="):
        model.impute(x[None])
    draws = model.impute(np.stack([x] * 2), 3000, n_particles=500, random_state=1)
    assert draws.shape == (3000, 2, N)
    expected = (STATES[agree].T * density(model)[agree]).sum(1) / density(model)[agree].sum()
    assert np.abs(draws[:, 0].mean(0) - expected).max() < 0.08  # 500 particles, 3000 draws


def test_exact_and_estimated_rows_stand_side_by_side(fitted):
    model = fitted["made"]
    easy, _ = prefix(model, 3)
    hard = np.where(np.isnan(easy), 1.0, np.nan)
    full = rows(1, seed=9)[0].astype(float)
    score, error = model.score_samples(np.stack([easy, hard, full]), n_draws=200, return_std=True)
    assert error[0] == error[2] == 0 < error[1]
    assert score[2] == model.score_samples(full[None])[0]


def test_an_estimate_does_not_depend_on_the_rows_beside_it(fitted):
    model = fitted["made"]
    easy, _ = prefix(model, 3)
    hard, other = np.where(np.isnan(easy), 1.0, np.nan), np.where(np.isnan(easy), 0.0, np.nan)
    together = model.score_samples(np.stack([other, easy, hard]), n_draws=50)
    alone = [model.score_samples(x[None], n_draws=50)[0] for x in (other, easy, hard)]
    assert together.tobytes() == np.array(alone).tobytes()


def test_an_average_over_orders_refuses_what_no_member_can(fitted):
    model = MADE((9,), n_masks=3, resample_masks="order", **SMALL).fit(rows())
    x, _ = prefix(model, 3)
    with pytest.raises(ValueError, match="comes later in the order"):
        model.score_samples(x[None])
    with pytest.raises(ValueError, match="comes later in the order"):
        model.sample(given=x[None])
    everything = np.full((2, N), np.nan)
    assert (model.score_samples(everything) == 0).all()


def test_errors(fitted):
    model = fitted["nade"]
    with pytest.raises(ValueError, match="n_draws must be an integer >= 2"):
        model.score_samples(np.full((1, N), np.nan), n_draws=1)
    with pytest.raises(ValueError, match="features"):
        model.score_samples(np.full((1, N + 1), np.nan))
    with pytest.raises(ValueError, match="outside"):
        model.score_samples(np.array([[0.5, np.nan, 0, 0, 0, 0]]))
    with pytest.raises(ValueError, match="NaN"):
        model.score_samples(np.full((1, N), np.nan), per_variable=True)
    assert chainrule.verify(fitted["made"])
