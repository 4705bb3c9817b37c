"""Training: optimizers, schedules, averages, weights, checkpoints, streams of data."""

import os
import signal
import subprocess
import sys
import time

import chainrule
import numpy as np
import pytest
from chainrule import NADE, datasets, kernels
from chainrule.fit import OPTIMIZERS, SCHEDULES, Optimizer, Parameters
from chainrule.fit.schedules import inverse, warmed_up

SMALL = {"n_hidden": 12, "max_epochs": 4, "batch_size": 20, "random_state": 0}


@pytest.fixture(scope="module")
def digits():
    split = datasets.digits()
    return datasets.Split(split.train[:200], split.validation[:80], split.test)


def digest(model):
    return model.parameters_.flat.tobytes()


# ---- optimizers and schedules


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains(name, digits):
    rate = {"sgd": 0.1, "momentum": 0.01, "nesterov": 0.01, "adadelta": 1.0, "adagrad": 0.05}.get(name, 0.01)
    decay = 0.01 if name == "adamw" else 0.0
    model = NADE(**{**SMALL, "max_epochs": 12}, optimizer=name, learning_rate=rate, weight_decay=decay).fit(
        digits.train
    )
    assert model.history_["train"][-1] > model.history_["train"][0] + 0.5


def test_weight_decay_is_decoupled_for_adamw_alone():
    def moved(name, weight_decay):
        parameters = Parameters({"p": (3,)}, "float64")
        parameters.flat[:] = 1.0
        gradient = parameters.like()
        Optimizer(parameters, name, weight_decay=weight_decay).step(gradient, 0.1)
        return parameters["p"]

    np.testing.assert_allclose(moved("adamw", 0.5), 1 - 0.1 * 0.5)
    np.testing.assert_allclose(moved("sgd", 0.5), 1 - 0.1 * 0.5)
    np.testing.assert_allclose(moved("adam", 0.5), 1 - 0.1, rtol=1e-6)  # L2 goes through the moments: a full step
    np.testing.assert_array_equal(moved("adam", 0.0), np.ones(3))


def test_clipping_scales_the_whole_gradient_to_the_norm():
    parameters = Parameters({"p": (2,), "q": (1, 2)}, "float64")
    gradient = parameters.like()
    gradient["p"][:], gradient["q"][:] = (3, 0), (0, 4)
    assert Optimizer(parameters, "sgd", clip_norm=1.0).step(gradient, 1.0)
    np.testing.assert_allclose(parameters["p"], [-0.6, 0])
    np.testing.assert_allclose(parameters["q"], [[0, -0.8]])
    gradient["p"][0] = np.inf
    before = parameters.flat.copy()
    assert not Optimizer(parameters, "sgd", clip_norm=1.0).step(gradient, 1.0)
    np.testing.assert_array_equal(parameters.flat, before)


def test_average_follows_with_a_warm_start():
    parameters = Parameters({"p": (1,)}, "float64")
    optimizer, gradient, expected = Optimizer(parameters, "sgd", average_decay=0.9), parameters.like(), 0.0
    gradient["p"][:] = -1
    for t in range(30):
        optimizer.step(gradient, 1.0)
        decay = min(0.9, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * (t + 1)
    np.testing.assert_allclose(optimizer.average["p"], expected, rtol=1e-12)


def test_schedules():
    total = 100
    for name, schedule in SCHEDULES.items():
        factors = [schedule(t, total) for t in range(total + 5)]
        assert factors[0] == 1, name
        assert factors == sorted(factors, reverse=True), name
    np.testing.assert_allclose(
        [SCHEDULES["cosine"](t, 10) for t in range(11)], 0.5 + 0.5 * np.cos(np.pi * np.arange(11) / 10)
    )
    assert SCHEDULES["linear"](25, 100) == 0.75
    assert inverse(0.5)(4, 0) == 1 / 3
    assert [warmed_up(SCHEDULES["constant"], 4)(t, 9) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_schedules_reach_the_optimizer(digits):
    seen = []
    NADE(**SMALL, schedule=lambda t, total: seen.append((t, total)) or 1e-3).fit(digits.train)
    assert seen == [(t, 40) for t in range(40)]
    same = NADE(**SMALL, learning_rate=0.25, schedule=lambda t, total: 2**-6).fit(digits.train)
    assert digest(same) == digest(NADE(**SMALL, learning_rate=2**-8).fit(digits.train))


def test_the_average_is_what_is_kept(digits):
    options = {**SMALL, "learning_rate": 0.03, "average_decay": 0.95}
    model = NADE(**options).fit(digits.train, X_val=digits.validation)
    assert model.score(digits.validation) == max(model.history_["validation"])
    assert digest(model) != digest(
        NADE(**{**options, "average_decay": None}).fit(digits.train, X_val=digits.validation)
    )


# ---- weights


def test_weights_count_as_repetitions(digits):
    X = digits.train[:30]
    weight = np.random.default_rng(0).permutation(
        np.repeat([0, 1, 2], 10)
    )  # as many rows as before: the same smoothing
    options = {"n_hidden": 7, "max_epochs": 5, "random_state": 0, "dtype": "float64"}
    repeated = np.repeat(X, weight, axis=0)
    a = NADE(**options, batch_size=30).fit(X, sample_weight=weight)
    b = NADE(**options, batch_size=len(repeated)).fit(repeated)
    np.testing.assert_allclose(a.score_samples(X), b.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(a.history_["train"], b.history_["train"], rtol=1e-9)
    c = NADE(**options, batch_size=30).fit(X, sample_weight=weight * 17.0)
    np.testing.assert_allclose(a.score_samples(X), c.score_samples(X), rtol=1e-9)


@pytest.mark.parametrize(
    ("weight", "message"),
    [([1.0], r"shape \(3,\)"), ([1, 1, -1], ">= 0"), ([1, np.nan, 1], "finite"), ([0, 0, 0], "not all zero")],
)
def test_bad_weights(weight, message):
    with pytest.raises(ValueError, match=f"sample_weight must.*{message}"):
        NADE(n_hidden=2, max_epochs=1).fit(np.eye(3), sample_weight=weight)


# ---- going on


def test_partial_fit_is_fit_epoch_by_epoch(digits):
    whole = NADE(**SMALL).fit(digits.train)
    parts = NADE(**SMALL)
    for _ in range(SMALL["max_epochs"]):
        parts.partial_fit(digits.train)
    assert digest(parts) == digest(whole)
    assert parts.history_["train"] == whole.history_["train"]
    with pytest.raises(ValueError, match="features"):
        parts.partial_fit(np.eye(3))


def test_partial_fit_streams(digits):
    model = NADE(**SMALL, learning_rate=0.01)
    for _ in range(4):
        for at in range(0, 200, 50):
            model.partial_fit(digits.train[at : at + 50])
    assert model.score(digits.test) > chainrule.IndependentBernoulli().fit(digits.train).score(digits.test)


def test_warm_start_goes_on(digits):
    model = NADE(**SMALL, warm_start=True).fit(digits.train)
    first, flips = model.score(digits.train), model.flip_.copy()
    model.fit(digits.train[:150])
    assert model.score(digits.train) > first
    assert (model.flip_ == flips).all()
    cold = NADE(**SMALL).fit(digits.train)
    bits = digest(cold)
    assert digest(cold.fit(digits.train)) == bits


def test_callbacks_may_use_the_model(digits):
    scores, model = [], NADE(**SMALL)
    model.fit(
        digits.train, X_val=digits.validation, callbacks=[lambda _: scores.append(model.score(digits.validation))]
    )
    assert scores == model.history_["validation"]
    assert NADE(**SMALL).fit(digits.train, X_val=digits.validation).parameters_.flat.tobytes() == digest(model)

    def stop(record):
        raise RuntimeError("enough")

    model = NADE(**SMALL)
    with pytest.raises(RuntimeError, match="enough"):
        model.fit(digits.train, callbacks=[stop])
    with pytest.raises(chainrule.NotFittedError):
        model.sample(1)


def test_callbacks_see_every_epoch_and_can_stop(digits):
    seen = []
    model = NADE(**SMALL).fit(digits.train, X_val=digits.validation, callbacks=[seen.append, lambda r: r["epoch"] == 3])
    assert model.stopped_ == "callback"
    assert [r["epoch"] for r in seen] == [1, 2, 3]
    assert [r["validation"] for r in seen] == model.history_["validation"]


def test_batches_that_are_not_finite_are_skipped_and_reported(digits, caplog):
    class Flaky(NADE):
        calls = 0

        def _gradient(self, X, gradient, weight=None, step=0):
            Flaky.calls += 1
            result = super()._gradient(X, gradient, weight, step)
            return result * np.nan if Flaky.calls % 5 == 0 else result

    model = Flaky(**SMALL).fit(digits.train)
    assert model.history_["skipped"] == [2, 2, 2, 2]
    assert np.isfinite(model.score(digits.train))
    assert "skipped 2 batches" in caplog.text


# ---- checkpoints


def test_resumed_training_ends_in_the_same_bits(digits, tmp_path):
    options = {**SMALL, "learning_rate": 0.01, "schedule": "inverse", "average_decay": 0.9, "clip_norm": 5.0}
    whole = NADE(**{**options, "max_epochs": 8}).fit(digits.train, X_val=digits.validation)
    path = tmp_path / "fit.safetensors"
    NADE(**{**options, "max_epochs": 3}).fit(digits.train, X_val=digits.validation, checkpoint=path)
    resumed = NADE(**{**options, "max_epochs": 8}).fit(digits.train, X_val=digits.validation, checkpoint=path)
    assert digest(resumed) == digest(whole)
    assert resumed.history_["train"] == whole.history_["train"]
    assert resumed.history_["validation"] == whole.history_["validation"]
    again = NADE(**{**options, "max_epochs": 8}).fit(digits.train, X_val=digits.validation, checkpoint=path)
    assert digest(again) == digest(whole)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_resumes(name, digits, tmp_path):
    whole = NADE(**SMALL, optimizer=name).fit(digits.train)
    NADE(**{**SMALL, "max_epochs": 2}, optimizer=name).fit(digits.train, checkpoint=tmp_path / "c")
    assert digest(NADE(**SMALL, optimizer=name).fit(digits.train, checkpoint=tmp_path / "c")) == digest(whole)


KILLED = """
import sys
from chainrule import NADE, datasets
X = datasets.digits()
model = NADE(n_hidden=30, max_epochs=20, batch_size=50, random_state=4)
model.fit(X.train, X_val=X.validation, checkpoint=sys.argv[1])
sys.stdout.write(model.parameters_.flat.tobytes().hex()[:4096])
"""


def test_kill_minus_nine_in_the_middle(tmp_path):
    def run(path):
        return subprocess.run([sys.executable, "-c", KILLED, path], capture_output=True, text=True, check=True).stdout

    whole, path = run(tmp_path / "undisturbed"), tmp_path / "killed"
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.DEVNULL)
        seen, until = path.stat().st_mtime_ns if path.exists() else 0, time.monotonic() + 30
        while time.monotonic() < until and not (path.exists() and path.stat().st_mtime_ns > seen):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert path.exists(), "no checkpoint was written"
    assert run(path) == whole


def test_foreign_checkpoints_are_refused(digits, tmp_path):
    path = tmp_path / "c.safetensors"
    NADE(**SMALL).fit(digits.train, checkpoint=path)
    with pytest.raises(ValueError, match="another fit"):
        NADE(**SMALL, learning_rate=0.5).fit(digits.train, checkpoint=path)
    with pytest.raises(ValueError, match="another fit"):
        NADE(**SMALL).fit(digits.test, checkpoint=path)
    with pytest.raises(ValueError, match="needs an int random_state"):
        NADE(**{**SMALL, "random_state": None}).fit(digits.train, checkpoint=path)
    model_file = tmp_path / "model.safetensors"
    NADE(**SMALL).fit(digits.train).save(model_file)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        NADE(**SMALL).fit(digits.train, checkpoint=model_file)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="not a readable"):
        NADE(**SMALL).fit(digits.train, checkpoint=path)


def test_a_full_disk_stops_the_fit_and_keeps_the_old_checkpoint(digits, tmp_path, monkeypatch):
    path = tmp_path / "c"
    NADE(**{**SMALL, "max_epochs": 1}).fit(digits.train, checkpoint=path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        NADE(**SMALL).fit(digits.train, checkpoint=path)
    assert path.read_bytes() == before


# ---- conditioning and data frames


@pytest.fixture(scope="module")
def fitted(digits):
    return NADE(**{**SMALL, "max_epochs": 20, "learning_rate": 0.01}).fit(digits.train)


def test_given_values_are_kept_and_the_rest_drawn(fitted, digits):
    half = digits.test.astype(float)
    half[:, 32:] = np.nan
    drawn = fitted.sample(given=half, random_state=0)
    assert (drawn[:, :32] == digits.test[:, :32]).all()
    assert set(np.unique(drawn)) == {0, 1}
    assert (drawn == fitted.sample(given=half, random_state=0)).all()
    assert (drawn[100:200] == fitted.sample(given=half[100:200], random_state=0, start=100)).all()
    complete = fitted.sample(given=digits.test, random_state=0)
    assert (complete == digits.test).all()
    nothing = fitted.sample(7, given=np.full((1, 64), np.nan), random_state=3)
    assert (nothing == fitted.sample(7, random_state=3)).all()


@pytest.mark.parametrize("order", ["natural", [3, 1, 0, 2]])
def test_conditional_samples_have_the_conditional_distribution(order):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (300, 1)) ^ (rng.random((300, 4)) < 0.2)
    model = NADE(n_hidden=6, max_epochs=60, learning_rate=0.05, order=order, random_state=0, dtype="float64").fit(X)
    positions = model.order_.astype(int)
    given = np.full((1, 4), np.nan)
    given[0, positions[:2]] = (1, 0)
    drawn = model.sample(40_000, given=given, random_state=1)
    states = np.array([[a, b] for a in (0, 1) for b in (0, 1)])
    full = np.empty((4, 4), np.uint8)
    full[:, positions[:2]] = (1, 0)
    full[:, positions[2:]] = states
    p = np.exp(model.score_samples(full))
    counts = np.bincount(drawn[:, positions[2]] * 2 + drawn[:, positions[3]], minlength=4)
    expected = 40_000 * p / p.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 25


def test_given_that_would_need_an_estimate_is_refused_with_the_order_that_would_do(fitted):
    given = np.zeros((2, 64))
    given[1, 5] = np.nan
    with pytest.raises(ValueError, match=r"given row 1 misses column 5 and knows column 6.*order=\[0, 1, 2, 3, 4, 6"):
        fitted.sample(given=given)
    with pytest.raises(ValueError, match="given must have n_samples = 3 rows or one, not 2"):
        fitted.sample(3, given=np.zeros((2, 64)))
    with pytest.raises(ValueError, match="given has 1 values outside"):
        fitted.sample(given=np.where(np.arange(64) == 3, 0.5, 0.0)[None])
    with pytest.raises(ValueError, match="given has 3 features"):
        fitted.sample(given=np.zeros((2, 3)))


def test_given_on_the_closed_form_models():
    X = np.array([[0, 0], [1, 1], [1, 1], [0, 1]])
    scattered = np.array([[np.nan, 1.0]])
    assert (chainrule.IndependentBernoulli().fit(X).sample(50, given=scattered, random_state=0)[:, 1] == 1).all()
    table = chainrule.Tabular(smoothing=0).fit(X)
    assert (table.sample(50, given=[[1.0, np.nan]], random_state=0) == 1).all()
    with pytest.raises(ValueError, match=r"order=\[1, 0\]"):
        table.sample(given=scattered)


def test_kernels_keep_what_is_observed():
    rng = np.random.default_rng(0)
    W, V = rng.normal(size=(2, 9, 5))
    model = (W, V, np.zeros(9), np.zeros(5))
    u, given = rng.random((20, 9)), rng.integers(0, 2, (20, 9)).astype(np.uint8)
    observed = (rng.random((20, 9)) < 0.5).astype(np.uint8)
    drawn = kernels.nade_sample(u, *model, given=given, observed=observed)
    assert (drawn[observed == 1] == given[observed == 1]).all()
    logits = kernels.nade_logits(drawn, *model)
    free = kernels.bernoulli_sample(logits, u)
    assert (drawn[observed == 0] == free[observed == 0]).all()
    with pytest.raises(ValueError, match="given has values outside"):
        kernels.nade_sample(u, *model, given=given + 1, observed=observed)


def test_data_frames_keep_their_columns(digits, tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(digits.train[:, 20:26], columns=list("abcdef"))
    model = NADE(**SMALL).fit(frame)
    assert list(model.feature_names_in_) == list("abcdef")
    drawn = model.sample(5, random_state=0)
    assert isinstance(drawn, pd.DataFrame)
    assert list(drawn.columns) == list("abcdef")
    assert model.score(frame) == model.score(frame.to_numpy())
    with pytest.raises(ValueError, match="feature names should match"):
        model.score(frame[list("fedcba")])
    model.save(tmp_path / "named.safetensors")
    assert list(chainrule.load(tmp_path / "named.safetensors").sample(1).columns) == list("abcdef")
    unnamed = NADE(**SMALL).fit(frame.to_numpy())
    assert not hasattr(unnamed, "feature_names_in_")
    assert (unnamed.sample(5, random_state=0) == drawn.to_numpy()).all()
