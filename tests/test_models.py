"""What is particular to each model."""

import itertools
import signal
import threading
import time

import chainrule
import numpy as np
import pytest
from chainrule import NADE, IndependentBernoulli, Tabular, datasets, metrics
from reference import nade as reference

rng = np.random.default_rng


# ---- Tabular


def test_tabular_counts():
    X = np.array([[0, 0], [0, 1], [0, 1], [1, 2]])
    model = Tabular(smoothing=0.5).fit(X)
    assert model.n_values_ == (2, 3)
    np.testing.assert_array_equal(model.table_, [[1.5, 2.5, 0.5], [0.5, 0.5, 1.5]])
    np.testing.assert_allclose(np.exp(model.score_samples(X)), np.array([1.5, 2.5, 2.5, 1.5]) / 7, rtol=1e-14)
    all_states = list(itertools.product(range(2), range(3)))
    assert np.exp(model.score_samples(all_states)).sum() == pytest.approx(1, abs=1e-14)


def test_tabular_without_smoothing_gives_unseen_cells_no_probability():
    model = Tabular(smoothing=0).fit([[0, 0], [1, 1]])
    assert model.score_samples([[0, 1]])[0] == -np.inf
    assert model.score_samples([[0, 1]], per_variable=True).sum() == -np.inf
    assert model.score_samples([[1, 1]])[0] == pytest.approx(-np.log(2))
    x = model.sample(1000, random_state=0)
    assert (x[:, 0] == x[:, 1]).all()


def test_tabular_samples_categories():
    X = rng(0).integers(0, 3, (2000, 2)) * [1, 2]
    model = Tabular(smoothing=0.1).fit(X)
    x = model.sample(50_000, random_state=1)
    counts = np.bincount(np.ravel_multi_index(tuple(x.T), model.n_values_), minlength=model.table_.size)
    expected = 50_000 * model.table_.ravel() / model.table_.sum()
    chi2 = ((counts - expected) ** 2 / expected)[expected > 5].sum()
    assert chi2 < 40


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tabular().fit(np.zeros((2, 25))), "24 bits"),
        (lambda: Tabular(smoothing=-1).fit([[0]]), "smoothing must be"),
        (lambda: Tabular(n_values=2).fit([[2]]), "n_values must"),
        (lambda: Tabular(n_values=(2,)).fit([[0, 1]]), "n_values must"),
        (lambda: Tabular().fit([[0.5]]), "outside integers >= 0"),
        (lambda: Tabular().fit([[0, 1]]).score_samples([[0, 2]]), r"outside 0\.\.1 \(first: 2 at row 0, column 1\)"),
    ],
)
def test_tabular_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- Independent


def test_independent_bernoulli_is_the_smoothed_mean():
    X = (rng(1).random((500, 6)) < [0, 0.1, 0.5, 0.7, 0.9, 1]).astype(int)
    model = IndependentBernoulli().fit(X)
    p = (X.sum(0) + 0.5) / 501
    np.testing.assert_allclose(model.conditionals(X[:1]).mean[0], p, rtol=1e-12)
    np.testing.assert_allclose(model.score(X), (X * np.log(p) + (1 - X) * np.log1p(-p)).sum(1).mean(), rtol=1e-12)
    with pytest.raises(ValueError, match="smoothing must be > 0"):
        IndependentBernoulli(smoothing=0).fit(X)


# ---- NADE


@pytest.fixture(scope="module")
def digits():
    return datasets.digits()


@pytest.fixture(scope="module")
def digits_model(digits):
    return NADE(n_hidden=60, max_epochs=15, learning_rate=5e-3, random_state=0).fit(
        digits.train, X_val=digits.validation
    )


def test_nade_beats_independence_on_digits(digits, digits_model):
    nade, independent = (
        metrics.held_out(digits_model, digits.test),
        metrics.held_out(IndependentBernoulli().fit(digits.train), digits.test),
    )
    assert nade.mean > independent.mean + 5
    assert 0.1 < nade.standard_error < 0.6
    assert metrics.bits_per_dimension(-64 * np.log(2), 64) == pytest.approx(1)


def test_nade_scores_as_the_equations_say(digits, digits_model):
    p = digits_model.parameters_
    terms = reference.terms(
        digits.test, p["W"], p["V"], p["b"], p["c"], order=digits_model.order_, flip=digits_model.flip_
    )
    np.testing.assert_allclose(digits_model.score_samples(digits.test), terms.sum(1), rtol=1e-5)


def test_columns_are_flipped_so_that_the_rarer_value_moves(digits, digits_model):
    moves = (digits.train ^ digits_model.flip_).mean(0)
    assert (moves <= 0.5).all()
    assert digits_model.flip_.any()


def test_history_and_early_stopping_keep_the_best_epoch(digits):
    model = NADE(n_hidden=150, learning_rate=0.03, max_epochs=60, patience=3, random_state=1).fit(
        digits.train, X_val=digits.validation
    )
    history = model.history_
    assert model.stopped_ == "patience"
    assert [len(column) for column in history.values()] == [len(history["epoch"])] * 5
    best = max(history["validation"])
    assert history["validation"].index(best) == len(history["epoch"]) - 4
    assert model.score(digits.validation) == best
    assert all(np.diff(history["seconds"]) > 0)


def test_max_seconds(digits):
    began = time.monotonic()
    model = NADE(n_hidden=200, max_epochs=10**6, max_seconds=0.5, random_state=0).fit(digits.train)
    assert model.stopped_ == "max_seconds"
    assert time.monotonic() - began < 3


def test_ctrl_c_keeps_the_best_model_so_far(digits):
    timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    timer.start()
    model = NADE(n_hidden=200, max_epochs=10**6, random_state=0).fit(digits.train, X_val=digits.validation)
    timer.join()
    assert model.stopped_ == "interrupted"
    assert model.score(digits.validation) == max(model.history_["validation"])


def test_divergence_is_an_error(digits):
    with pytest.raises(FloatingPointError, match="lower learning_rate"), np.errstate(all="ignore"):
        NADE(n_hidden=20, activation="relu", learning_rate=1e38, max_epochs=5, random_state=0).fit(digits.train)


def test_binarize_thresholds_every_entrance(digits):
    grey = datasets.digits(binarize=False)
    a = NADE(n_hidden=5, max_epochs=1, random_state=0, binarize=7).fit(grey.train, X_val=grey.validation)
    b = NADE(n_hidden=5, max_epochs=1, random_state=0).fit(digits.train, X_val=digits.validation)
    assert a.score(grey.test) == b.score(digits.test)
    with pytest.raises(ValueError, match=r"outside \{0, 1\}.*binarize"):
        NADE().fit(grey.train)


def test_random_order_is_drawn_and_kept(digits):
    model = NADE(n_hidden=5, max_epochs=1, random_state=5, order="random").fit(digits.train)
    assert sorted(model.order_) == list(range(64))
    assert (model.order_ != np.arange(64)).any()
    given = NADE(n_hidden=5, max_epochs=1, random_state=5, order=model.order_).fit(digits.train)
    assert given.score(digits.test) == model.score(digits.test)


def test_large_n_trains_in_little_memory():
    """Beyond parameters and optimizer: < 50 MB at 784 x 500, 100 rows of half ones (a subprocess, by its peak)."""
    import subprocess
    import sys

    program = """
import resource, numpy as np, chainrule
from chainrule.fit import Parameters
X = (np.random.default_rng(0).random((100, 784)) < 0.5).astype(np.uint8)
P = Parameters({"W": (784, 500), "V": (784, 500), "b": (784,), "c": (500,)}, "float32")
G = P.like()
for p in (P, G): p.flat[:] = 1e-3
chainrule.kernels.exp(np.zeros(10**5), n_threads=2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
chainrule.kernels.nade_gradient(X, P["W"], P["V"], P["b"], P["c"], out=(G["W"], G["V"], G["b"], G["c"]), n_threads=2)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    used = float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert used < 50


# ---- NADE over categories


CARDINALITIES = [3, 2, 5, 1, 4]


def category_rows(n_rows=1500, seed=0):
    """Codes with dependence: a column often repeats the one before it, as far as it can; one column is constant."""
    random = rng(seed)
    x = np.stack([random.integers(0, k, n_rows) for k in CARDINALITIES], axis=1)
    for i in range(1, len(CARDINALITIES)):
        copied = random.random(n_rows) < 0.7
        x[copied, i] = x[copied, i - 1] % CARDINALITIES[i]
    return x.astype(np.uint8)


def category_states():
    return np.array(list(itertools.product(*map(range, CARDINALITIES))), np.uint8)


CATEGORICAL = {
    "conditional": "categorical",
    "n_hidden": 13,
    "max_epochs": 8,
    "batch_size": 32,
    "learning_rate": 0.02,
    "random_state": 3,
    "dtype": "float64",
}


@pytest.fixture(scope="module", params=["plain", "tied", "float32"])
def categories(request):
    more = {
        "plain": {},
        "tied": {"tied": True, "activation": "tanh", "order": "random"},
        "float32": {"dtype": "float32", "activation": "relu", "order": [4, 2, 3, 0, 1]},
    }
    return NADE(**{**CATEGORICAL, **more[request.param]}).fit(category_rows(), X_val=category_rows(300, 1))


def test_nade_over_categories_is_a_density_and_learns(categories):
    model, states = categories, category_states()
    tolerance = 1e-5 if model.dtype == "float32" else 1e-10
    log_prob = model.score_samples(states)
    assert np.exp(log_prob).sum() == pytest.approx(1, abs=tolerance)
    assert model.n_values_.tolist() == CARDINALITIES
    X = category_rows()
    assert model.reference_.tolist() == [int(np.argmax(np.bincount(column))) for column in X.T]
    frequency = [np.bincount(column) / len(X) for column in X.T]
    entropy = -sum((p[p > 0] * np.log(p[p > 0])).sum() for p in frequency)  # of independent columns
    assert model.score(category_rows(500, 2)) > -entropy + 0.5
    report = chainrule.verify(model)
    assert report, f"\n{report}"
    assert all(law.held for law in report)


def test_nade_over_categories_samples_its_density(categories):
    n_samples, states = 100_000, category_states()
    x = categories.sample(n_samples, random_state=11)
    counts = np.bincount(np.ravel_multi_index(x.T.astype(int), CARDINALITIES), minlength=len(states))
    expected = n_samples * np.exp(categories.score_samples(states))
    rare = expected < 10
    counts, expected = (np.append(v[~rare], v[rare].sum()) for v in (counts, expected))
    chi2 = ((counts - expected) ** 2 / np.maximum(expected, 1e-9))[expected > 5].sum()
    freedom = (expected > 5).sum() - 1
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)


def test_nade_over_categories_as_the_equations_say(categories):
    from reference import nade_categorical

    model, X = categories, category_rows(200, 3)
    p = model.parameters_
    first = nade_categorical.starts(model.n_values_[model.order_])
    terms = nade_categorical.terms(
        X, p["W"], p["V" if "V" in p else "W"], p["b"], p["c"], first,
        activation=model.activation, order=model.order_, reference=model.reference_,
    )  # fmt: skip
    np.testing.assert_allclose(model.score_samples(X, per_variable=True), terms, rtol=1e-4, atol=1e-5)


def test_nade_over_categories_gradient_files_and_missing_values(categories, tmp_path):
    model, X = categories, category_rows(40, 4)
    if model.dtype == "float64":
        _, gradient = model.gradient(X)
        for key, parameter in model.parameters_.items():
            index = tuple(0 for _ in parameter.shape)
            kept, scores = parameter[index], []
            for step in (1e-5, -1e-5):
                parameter[index] = kept + step
                scores.append(model.score(X))
            parameter[index] = kept
            assert gradient[key][index] == pytest.approx((scores[0] - scores[1]) / 2e-5, rel=1e-5, abs=1e-9)
    model.save(tmp_path / "a.safetensors")
    other = chainrule.load(tmp_path / "a.safetensors")
    assert other.score_samples(X).tobytes() == model.score_samples(X).tobytes()
    assert (other.sample(9, random_state=1) == model.sample(9, random_state=1)).all()
    other.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    # The likelihood of the first two variables of the order sums over the rest.
    known = X[:5].astype(float)
    known[:, model.order_[2:]] = np.nan
    states = category_states()
    for row, log_prob in zip(known, model.score_samples(known), strict=True):
        fits = (states[:, model.order_[:2]] == row[model.order_[:2]]).all(1)
        assert np.exp(model.score_samples(states[fits])).sum() == pytest.approx(np.exp(log_prob), rel=1e-5)
    completed = model.sample(given=known, random_state=0)
    assert (completed[:, model.order_[:2]] == known[:, model.order_[:2]]).all()
    assert (completed < CARDINALITIES).all()


def test_first_loss_of_categories_is_that_of_the_marginals():
    """Output biases start at the log frequencies, so that training starts at independence."""
    X = category_rows()
    model = NADE(**{**CATEGORICAL, "max_epochs": 1, "learning_rate": 1e-12, "n_hidden": 1}).fit(X)
    model.parameters_["V"][...] = 0
    frequency = [(np.bincount(column) + 0.5) / (len(X) + 0.5 * len(np.bincount(column))) for column in X.T]
    wanted = sum(np.log(p[column]) for p, column in zip(frequency, X.T, strict=True))
    np.testing.assert_allclose(model.score_samples(X), wanted, rtol=1e-9)


def test_two_categories_are_bits():
    X = (rng(0).random((300, 6)) < 0.6).astype(int)
    bits = NADE(**{**CATEGORICAL, "conditional": "bernoulli"}).fit(X)
    codes = NADE(**CATEGORICAL).fit(X)
    np.testing.assert_allclose(codes.score_samples(X), bits.score_samples(X), rtol=1e-8)
    assert codes.reference_.tolist() == bits.flip_.tolist()


def test_categories_are_checked():
    X = category_rows(50)
    with pytest.raises(ValueError, match="conditional must be one of 'bernoulli', 'categorical', not 'gaussian'"):
        NADE(conditional="gaussian", max_epochs=1).fit(X > 0)
    with pytest.raises(ValueError, match=r"outside the integers 0 \.\. K - 1"):
        NADE(**CATEGORICAL).fit(X + 0.5)
    above = X.copy()
    above[3, 1] = 2
    model = NADE(**CATEGORICAL).fit(X)
    assert model.n_values_.tolist() == CARDINALITIES
    with pytest.raises(ValueError, match=r"X has 1 values outside .* row 3, column 1, where K = 2"):
        model.score_samples(above)
    with pytest.raises(ValueError, match=r"X_val has 1 values outside .* row 3, column 1, where K = 2"):
        model.fit(X, X_val=above)
    with pytest.raises(ValueError, match=r"X has 1 values outside .* row 3, column 1, where K = 2"):
        NADE(**CATEGORICAL, warm_start=True).fit(X).fit(above)
    assert model.fit(above, X_val=X).n_values_[1] == 3  # a new fit has its own columns
    constant = NADE(**CATEGORICAL).fit(np.zeros((5, 3)))
    assert constant.score(np.zeros((2, 3))) == 0
    assert (constant.sample(4) == 0).all()


def test_a_damaged_file_of_categories_is_an_error():
    model = NADE(**{**CATEGORICAL, "max_epochs": 1}).fit(category_rows(50))
    state = model._state()
    for name, array, message in (
        ("n_values", np.array([3, 2, 5, 1, 5]), "n_values does not fit"),
        ("n_values", np.array([3, 2, 5, 1, 0]), "n_values is not between"),
        ("reference", np.array([3, 0, 0, 0, 0], np.uint8), "reference is not a value"),
        ("order", np.array([3, 0, 0, 0, 0], np.uint32), "order is not a permutation"),
    ):
        other = NADE(**{**CATEGORICAL, "max_epochs": 1})
        with pytest.raises(ValueError, match=message):
            other._restore({**state, "arrays": {**state["arrays"], name: array}})


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("n_hidden", 0, "n_hidden must be an integer >= 1, not 0"),
        ("n_hidden", 2.5, "n_hidden must be an integer"),
        ("activation", "gelu", "activation must be one of 'sigmoid', 'relu', 'tanh', not 'gelu'"),
        ("order", "sorted", "order must be one of"),
        ("order", [0, 0, 1], "order must be a permutation"),
        ("tied", "yes", "tied must be one of"),
        ("max_epochs", 0, "max_epochs must be"),
        ("batch_size", -3, "batch_size must be"),
        ("learning_rate", 0, "learning_rate must be a number > 0, not 0"),
        ("learning_rate", float("nan"), "learning_rate must be"),
        ("optimizer", "lbfgs", "optimizer must be one of 'sgd', .*, not 'lbfgs'"),
        ("optimizer_options", {"beta3": 1}, "optimizer 'adam' has no constant 'beta3'; it has beta1, beta2, epsilon"),
        ("schedule", "step", "schedule must be one of"),
        ("warmup", -1, "warmup must be"),
        ("weight_decay", -1, "weight_decay must be"),
        ("clip_norm", 0, "clip_norm must be"),
        ("average_decay", 1, "average_decay must be between 0 and 1"),
        ("patience", 0, "patience must be"),
        ("max_seconds", -1, "max_seconds must be"),
        ("dtype", "float16", "dtype must be one of"),
        ("random_state", -1, "random_state must be"),
    ],
)
def test_options_are_checked_when_fitting(option, value, message):
    model = NADE(**{"n_hidden": 3, "max_epochs": 1, option: value})
    with pytest.raises(ValueError, match=message):
        model.fit(np.eye(3))
    with pytest.raises(TypeError):
        NADE(colour="red")


def test_validation_rows_are_checked():
    with pytest.raises(ValueError, match="X_val has 4 features"):
        NADE(n_hidden=2, max_epochs=1).fit(np.eye(3), X_val=np.eye(4))
    with pytest.raises(ValueError, match="X_val is empty"):
        NADE(n_hidden=2, max_epochs=1).fit(np.eye(3), X_val=np.zeros((0, 3)))


def test_mnist_when_it_is_there(data):
    mnist = data("mnist_binary")
    X = mnist["train"][:3000]
    model = NADE(n_hidden=100, max_epochs=2, random_state=0, learning_rate=3e-3).fit(X, X_val=mnist["valid"][:500])
    independent = IndependentBernoulli().fit(X)
    assert model.score(mnist["test"][:500]) > independent.score(mnist["test"][:500]) + 50


def test_show_versions(capsys):
    versions = chainrule.show_versions()
    assert versions["chainrule"] == chainrule.__version__
    assert versions["instruction set"].split()[0] in ("avx2", "avx512", "neon")
    assert "numpy" in capsys.readouterr().out
