"""Metrics against exact enumeration; tests of fit against models that are right and models that are wrong."""

import itertools

import chainrule
import numpy as np
import pytest
from chainrule import NADE, IndependentBernoulli, Tabular, metrics
from chainrule.conditionals import Bernoulli

N = 6
STATES = np.array(list(itertools.product((0, 1), repeat=N)), np.uint8)
TINY = {"n_hidden": 8, "learning_rate": 0.03, "batch_size": 50, "random_state": 1, "dtype": "float64", "n_threads": 1}


def rows(n_rows=400, seed=0):
    """Bits that copy their left neighbour with probability 0.8, a column mostly 1 among them."""
    rng = np.random.default_rng(seed)
    x = np.empty((n_rows, N), np.uint8)
    x[:, 0] = rng.random(n_rows) < 0.5
    for i in range(1, N):
        x[:, i] = rng.random(n_rows) < 0.85 if i == 3 else x[:, i - 1] ^ (rng.random(n_rows) < 0.2)
    return x


@pytest.fixture(scope="module")
def models():
    X = rows()
    return {
        "tabular": Tabular().fit(X),
        "independent": IndependentBernoulli().fit(X),
        "nade": NADE(max_epochs=40, **TINY).fit(X),
        "other nade": NADE(max_epochs=3, order="random", **TINY | {"dtype": "float32"}).fit(X),
    }


def log_probs(model):
    return model.score_samples(STATES)


def exact_entropy(p):
    return -np.sum(np.exp(log_probs(p)) * log_probs(p))


def exact_kl(p, q):
    return np.sum(np.exp(log_probs(p)) * (log_probs(p) - log_probs(q)))


# ---- entropy and divergence


def test_a_tabular_truth_is_summed_exactly(models):
    p = models["tabular"]
    for name, q in models.items():
        for found, wanted in (
            (metrics.kl(p, q), exact_kl(p, q)),
            (metrics.cross_entropy(p, q), exact_entropy(p) + exact_kl(p, q)),
            (metrics.entropy(p), exact_entropy(p)),
        ):
            assert found.standard_error == 0
            assert found.mean == pytest.approx(wanted, abs=1e-12), name
    assert metrics.kl(p, p) == (0, 0)
    assert metrics.kl(p, models["independent"]).mean > 0.2


def test_tables_of_categories_and_of_impossible_states():
    X = np.random.default_rng(0).integers(0, (2, 3, 4), (500, 3))
    p, q = Tabular(smoothing=0.5).fit(X), Tabular(smoothing=5, n_values=(2, 4, 4)).fit(X[:100])
    P, Q = p.table_ / p.table_.sum(), (q.table_ / q.table_.sum())[:, :3]
    assert metrics.kl(p, q).mean == pytest.approx(np.sum(P * np.log(P / Q)), abs=1e-12)
    two = Tabular(smoothing=0).fit([[0, 0, 1], [1, 2, 0]])  # the other cells count for nothing, not for NaN
    assert metrics.entropy(two).mean == pytest.approx(np.log(2), abs=1e-14)
    assert metrics.kl(two, two) == (0, 0)


def test_exact_sums_in_parts_of_the_table(models, monkeypatch):
    p, q = models["tabular"], models["nade"]
    whole = metrics.kl(p, q).mean
    monkeypatch.setattr(metrics, "CELLS_AT_ONCE", 7)
    assert metrics.kl(p, q).mean == pytest.approx(whole, abs=1e-13)


def test_monte_carlo_agrees_with_enumeration(models):
    p = models["nade"]
    for name, q in models.items():
        for found, wanted in (
            (metrics.kl(p, q, 20_000, random_state=3), exact_kl(p, q)),
            (metrics.cross_entropy(p, q, 20_000, random_state=3), exact_entropy(p) + exact_kl(p, q)),
            (metrics.entropy(p, 20_000, random_state=3), exact_entropy(p)),
        ):
            assert abs(found.mean - wanted) <= 4 * found.standard_error + 1e-15, name
            assert found.standard_error < 0.015
    assert metrics.kl(p, p, 100) == (0, 0)
    assert metrics.kl(p, models["independent"], 1000, 5) == metrics.kl(p, models["independent"], 1000, 5)
    assert metrics.entropy(p, 1000, 5) != metrics.entropy(p, 1000, 6)


@pytest.mark.parametrize(
    "measure",
    [
        lambda m, seed: metrics.entropy(m["nade"], 200, seed),
        lambda m, seed: metrics.kl(m["nade"], m["other nade"], 200, seed),
        lambda m, seed: metrics.held_out(m["nade"], m["tabular"].sample(200, random_state=seed)),
    ],
    ids=["entropy", "kl", "held_out"],
)
def test_standard_errors_are_the_spread_over_seeds(models, measure):
    means, errors = np.array([measure(models, seed) for seed in range(400)]).T
    assert means.std() == pytest.approx(errors.mean(), rel=0.12)  # the spread of 400 has a standard error of 3.5 %
    inside = np.abs(means - means.mean()) < 2 * errors
    assert 0.92 < inside.mean() < 0.98


def test_divergence_from_the_truth_falls_while_nade_trains(models):
    truth = models["tabular"]
    X = truth.sample(4000, random_state=0)
    trained = [NADE(max_epochs=k, **TINY).fit(X) for k in (1, 3, 10, 40)]
    kl = [metrics.kl(truth, model).mean for model in trained]
    assert all(later < 0.8 * earlier for earlier, later in itertools.pairwise(kl)), kl
    assert 0 < kl[-1] < 0.05


def test_likelihood_is_minus_entropy_minus_divergence(models):
    truth, X = models["tabular"], models["tabular"].sample(20_000, random_state=9)
    for q in (models["nade"], models["independent"], truth):
        bound, gap = metrics.entropy(truth).mean, metrics.kl(truth, q).mean
        found = metrics.held_out(q, X)
        assert abs(found.mean - (-bound - gap)) < 4 * found.standard_error
        assert metrics.cross_entropy(truth, q).mean == pytest.approx(bound + gap, abs=1e-12)


def test_infinities_are_said_and_not_warned_of(models):
    sure = Tabular(smoothing=0).fit(STATES[:3])
    assert metrics.kl(models["tabular"], sure).mean == np.inf
    mean, error = metrics.kl(models["nade"], sure, 100, 0)
    assert mean == np.inf
    assert np.isnan(error)
    assert metrics.held_out(sure, STATES).mean == -np.inf
    assert np.isnan(metrics.held_out(sure, STATES[:1]).standard_error)


def test_estimates_show_two_digits_of_their_error():
    shown = {
        (-18.2, 0.26): "-18.20 ± 0.26",
        (0.003124, 0.00004): "0.003124 ± 0.000040",
        (123.4, 12.34): "123.40 ± 12.34",
        (0.5, 0.0): "0.5000 (exact)",
        (-np.inf, np.nan): "-inf ± nan",
    }
    assert [str(metrics.Estimate(*pair)) for pair in shown] == list(shown.values())
    values = np.random.default_rng(0).normal(3, 2, 50)
    found = metrics.estimate(values)
    assert found.mean == pytest.approx(values.mean(), rel=1e-14)
    assert found.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(50), rel=1e-13)
    assert metrics.bits_per_dimension(-64 * np.log(2), 64) == pytest.approx(1, rel=1e-15)


def test_bad_calls_get_clear_errors(models):
    p, q = models["nade"], models["tabular"]
    with pytest.raises(ValueError, match="n_samples must be an integer >= 1, not 0"):
        metrics.entropy(p, 0)
    with pytest.raises(ValueError, match="5 features"):
        metrics.kl(Tabular().fit(STATES[:, :5]), p)
    with pytest.raises(ValueError, match=r"outside \{0, 1\}"):
        metrics.kl(Tabular().fit(STATES * 2), p)
    for call in (metrics.entropy, lambda m: metrics.kl(q, m), lambda m: metrics.kl(m, q)):
        for unfitted in (Tabular(), NADE()):
            with pytest.raises(chainrule.NotFittedError):
                call(unfitted)
    for call in (metrics.held_out, metrics.pit_test, metrics.calibration):
        with pytest.raises(ValueError, match="empty"):
            call(p, STATES[:0])
        with pytest.raises(ValueError, match="features"):
            call(p, STATES[:, :4])
        with pytest.raises(chainrule.NotFittedError):
            call(NADE(), STATES)
    with pytest.raises(ValueError, match="n_bins must be"):
        metrics.calibration(p, STATES, 0)
    with pytest.raises(ValueError, match="two values"):
        metrics.calibration(Tabular(n_values=3).fit(STATES), STATES)


# ---- probability integral transform


def test_pit_is_the_sampler_backwards(models):
    X = rows(300, seed=5)
    for name, model in models.items():
        u = metrics.pit(model, X, random_state=2)
        assert u.dtype == np.float64
        assert ((u > 0) & (u <= 1)).all()
        order = getattr(model, "order_", np.arange(N)).astype(int)
        np.testing.assert_array_equal(model._draw(np.ascontiguousarray(u[:, order])), X, name)
        assert (u != metrics.pit(model, X, random_state=3)).all()
    again = metrics.pit(models["nade"], X, random_state=2)
    assert again.tobytes() == metrics.pit(models["nade"], X, random_state=2).tobytes()


def test_pit_fills_its_interval_evenly(models):
    """Given x, u is uniform on [F(x-), F(x-) + p(x)): for a bit, below or above p(x = 0)."""
    for name in ("nade", "tabular"):
        model = models[name]
        X = np.repeat(STATES[[13]], 5000, axis=0)
        log_p = model.score_samples(STATES[[13]], per_variable=True)[0]
        u = metrics.pit(model, X, random_state=0)
        below = np.where(STATES[13] == 1, 1 - np.exp(log_p), 0)
        v = (u - below) / np.exp(log_p)
        assert all(metrics.kolmogorov_smirnov(column)[1] > 1e-3 for column in v.T)


def test_the_interval_of_a_bit():
    logits, x = np.log([[3.0, 1 / 3]]), np.array([[1, 0]], np.uint8)
    below, mass = Bernoulli(logits).interval(x)
    np.testing.assert_allclose(below, [[0.25, 0]], atol=1e-15)
    np.testing.assert_allclose(mass, [[0.75, 0.75]], atol=1e-15)


@pytest.mark.parametrize("seed", [0, 7])
def test_pit_of_a_models_own_samples_is_uniform_even_with_the_samples_seed(models, seed):
    categories = Tabular().fit(np.random.default_rng(0).integers(0, (2, 3, 5), (300, 3)) * [1, 1, 1])
    for name, model in {**models, "categories": categories}.items():
        found = metrics.pit_test(model, model.sample(3000, random_state=seed), random_state=seed)
        assert found.p_value.min() * len(found.p_value) > 1e-3, f"{name}: {found}"
        assert min(found.overall, found.dependence) > 1e-3, f"{name}: {found}"
        u = metrics.pit(model, model.sample(3000, random_state=seed), random_state=seed)
        counts = np.histogram(u, 20, (0, 1))[0]
        assert ((counts - u.size / 20) ** 2 / (u.size / 20)).sum() < 19 + 5 * np.sqrt(38)


def test_pit_tells_a_wrong_model(models):
    truth = models["tabular"].sample(3000, random_state=0)
    wrong_marginal = metrics.pit_test(models["nade"], truth ^ np.eye(N, dtype=np.uint8)[3], random_state=0)
    assert wrong_marginal.p_value[3] < 1e-12
    assert wrong_marginal.statistic.argmax() == 3
    assert "column 3" in str(wrong_marginal)

    independent = IndependentBernoulli().fit(truth)
    no_dependence = metrics.pit_test(independent, truth, random_state=0)
    assert no_dependence.p_value.min() > 1e-3, "each variable alone is right"
    assert no_dependence.overall > 1e-3
    assert no_dependence.dependence < 1e-12, "but they are not independent"
    assert "independent        < 1e-15" in str(no_dependence)


def test_dependence_is_looked_for_along_the_chain():
    u = np.random.default_rng(0).random((500, 30))
    u[:, 29] = u[:, 0]  # too far apart in the natural order
    assert metrics.uniformity(u).dependence > 1e-3
    order = [29, *range(29)]
    assert metrics.uniformity(u, order).dependence < 1e-6
    assert metrics.uniformity(u[:, :1]).dependence == 1


def test_p_values_are_uniform_under_the_model(models):
    model = models["nade"]
    tests = [metrics.pit_test(model, model.sample(80, random_state=s), random_state=s) for s in range(150)]
    for p_values in (
        np.array([t.dependence for t in tests]),
        np.array([t.overall for t in tests]),
        np.concatenate([t.p_value for t in tests]),
    ):
        assert metrics.kolmogorov_smirnov(p_values)[1] > 1e-3


def test_kolmogorov_smirnov_and_chi_square_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    for n in (5, 30, 300, 3000):
        for power in (1, 1.2):
            u = np.random.default_rng(n).random(n) ** power
            distance, p_value = metrics.kolmogorov_smirnov(u)
            wanted = stats.kstest(u, "uniform", method="exact")
            assert distance == pytest.approx(wanted.statistic, abs=1e-14)
            assert p_value == pytest.approx(wanted.pvalue, abs=0.02)
    assert metrics.kolmogorov_smirnov((np.arange(1000) + 0.5) / 1000) == (pytest.approx(0.0005), 1.0)
    assert metrics.kolmogorov_smirnov(np.full(50, 0.01))[1] < 1e-15
    for freedom, ratio in itertools.product((1, 5, 50, 500), (0.5, 1.0, 1.5)):
        found = metrics._chi_square_tail(freedom * ratio, freedom)
        assert found == pytest.approx(stats.chi2.sf(freedom * ratio, freedom), abs=0.01)


# ---- calibration


def test_calibration_counts_what_it_says(models):
    model, X = models["nade"], rows(500, seed=8)
    p = 1 / (1 + np.exp(-model.conditionals(X).logits))
    found = metrics.calibration(model, X, n_bins=7)
    np.testing.assert_allclose(found.observed, X.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.predicted, p.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.z, (X - p).sum(0) / np.sqrt((p * (1 - p)).sum(0)), rtol=1e-9)
    assert found.bin_count.sum() == X.size
    edges, k = np.linspace(0, 1, 8), 0
    for low, high in itertools.pairwise(edges):
        inside = (p >= low) & (p < high)
        if inside.any():
            assert found.bin_count[k] == inside.sum()
            assert found.bin_predicted[k] == pytest.approx(p[inside].mean(), rel=1e-12)
            assert found.bin_observed[k] == pytest.approx(X[inside].mean(), rel=1e-12)
            error = np.sqrt((p[inside] * (1 - p[inside])).sum()) / inside.sum()
            assert found.bin_error[k] == pytest.approx(error, rel=1e-12)
            k += 1
    assert k == len(found.bin_count)
    assert len(str(found).splitlines()) == k + 2


def test_calibration_of_the_right_and_of_a_wrong_model(models):
    for name, model in models.items():
        z = np.concatenate(
            [metrics.calibration(model, model.sample(500, random_state=s), 5).z for s in range(40)]
        )  # 240 standard normal numbers
        assert abs(z.mean()) < 4 / np.sqrt(len(z)), name
        assert z.std() == pytest.approx(1, abs=4 / np.sqrt(2 * len(z))), name
        found = metrics.calibration(model, model.sample(4000, random_state=1))
        assert (np.abs(found.bin_observed - found.bin_predicted) < 4.5 * found.bin_error + 1e-12).all(), name

    X = models["nade"].sample(3000, random_state=4)
    X[:, 3] ^= (np.random.default_rng(0).random(3000) < 0.2).astype(np.uint8)
    found = metrics.calibration(models["nade"], X)
    assert abs(found.z[3]) > 10
    assert np.abs(found.z[:3]).max() < 5
    assert "column 3" in str(found)


def test_certain_predictions_are_right_or_infinitely_wrong():
    sure = Tabular(smoothing=0).fit([[0, 1], [0, 1]])
    right = metrics.calibration(sure, [[0, 1]])
    assert (right.z == 0).all()
    np.testing.assert_array_equal(right.bin_predicted, [0, 1])
    nearly = Tabular(smoothing=0).fit([[1, 1]] * 19 + [[0, 1]])  # p = 0.95 and p = 1: the last bin is closed
    assert metrics.calibration(nearly, [[1, 1]]).bin_count.tolist() == [2]
    assert metrics.calibration(Tabular(smoothing=0).fit([[0], [0]]), [[1]]).z == np.inf
    assert metrics.calibration(Tabular(smoothing=0).fit([[1], [1]]), [[0]]).z == -np.inf
    for call in (metrics.calibration, metrics.pit):
        with pytest.raises(ValueError, match="row 1 leaves the support of the model before its last variable"):
            call(sure, [[0, 1], [1, 0]])


def test_thresholds_and_names_of_the_model_hold_here_too(models):
    grey = rows(200).astype(float) * 9
    model = IndependentBernoulli(binarize=4.0).fit(grey)
    plain = IndependentBernoulli().fit(rows(200))
    assert str(metrics.calibration(model, grey)) == str(metrics.calibration(plain, rows(200)))
    assert str(metrics.pit_test(model, grey, 0)) == str(metrics.pit_test(plain, rows(200), 0))

    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(rows(200), columns=list("abcdef"))
    named = IndependentBernoulli().fit(frame)
    assert metrics.kl(named, plain, 100, 0) == (0, 0)
    assert str(metrics.pit_test(named, frame, 0)) == str(metrics.pit_test(plain, rows(200), 0))
