"""The contract every model keeps. A new model joins by adding its name to MODELS."""

import ast
import copy
import itertools
import pickle
from pathlib import Path

import chainrule
import numpy as np
import pytest
from chainrule import (
    FVSBN,
    MADE,
    MASDE,
    NADE,
    IndependentBernoulli,
    MLPConditionals,
    Tabular,
    Transformer,
    WaveNet,
    random,
)
from chainrule.conditionals import Bernoulli, Categorical, LogisticMixture, Softmax
from chainrule.conditionals.categorical import starts
from chainrule.models.base import AutoregressiveModel
from chainrule.models.sequences import SequenceModel
from chainrule.validation import as_codes
from reference.differences import central_differences

N = 8
TRAINED = {"max_epochs": 3, "batch_size": 32, "learning_rate": 0.02, "random_state": 3, "dtype": "float64"}
SMALL = {"n_hidden": 13, **TRAINED}
WAVE = {
    "channels": 4,
    "skip_channels": 5,
    "dilations": (1, 2, 4),
    "n_stacks": 1,
    "conditional": "categorical",
    **TRAINED,
}
ATTENTION = {"n_layers": 2, "n_heads": 2, "width": 8, "context_length": 9, **TRAINED}


def chain(n):
    """The graph of a Markov chain over n columns, by its adjacency matrix."""
    return np.eye(n, k=1, dtype=int) + np.eye(n, k=-1, dtype=int)


MODELS = {
    "independent": (IndependentBernoulli, {}),
    "tabular": (Tabular, {}),
    "nade": (NADE, SMALL),
    "nade-relu-random": (NADE, {**SMALL, "activation": "relu", "order": "random"}),
    "nade-tanh-tied": (NADE, {**SMALL, "activation": "tanh", "tied": True, "order": np.arange(N)[::-1]}),
    "nade-float32": (NADE, {**SMALL, "dtype": "float32", "n_hidden": 40}),
    "nade-categorical": (NADE, {**SMALL, "conditional": "categorical", "order": "random"}),
    "fvsbn": (FVSBN, {**TRAINED, "order": "random"}),
    "mlp-tanh": (MLPConditionals, {**TRAINED, "n_hidden": 5, "activation": "tanh"}),
    "made": (MADE, {**TRAINED, "hidden_sizes": (33,)}),
    "made-residual": (
        MADE,
        {
            **TRAINED,
            "hidden_sizes": (29, 29),
            "order": "random",
            "direct": True,
            "residual": True,
            "activation": "tanh",
        },
    ),
    "made-float32": (MADE, {**TRAINED, "hidden_sizes": (40, 35), "dtype": "float32", "activation": "sigmoid"}),
    "masde-chain": (MASDE, {**TRAINED, "structure": chain(N), "hidden_sizes": (19,), "activation": "sigmoid"}),
    "fvsbn-categorical": (FVSBN, {**TRAINED, "conditional": "categorical"}),
    "mlp-categorical": (MLPConditionals, {**TRAINED, "n_hidden": 5, "conditional": "categorical"}),
    "made-categorical": (
        MADE,
        {**TRAINED, "hidden_sizes": (24, 17), "direct": True, "order": "random", "conditional": "categorical"},
    ),
    "wavenet": (WaveNet, WAVE),
    "wavenet-stacks-float32": (
        WaveNet,
        {**WAVE, "skip_channels": 24, "kernel_size": 3, "dilations": (1, 2), "n_stacks": 2, "dtype": "float32"},
    ),
    "wavenet-mixture": (WaveNet, {**WAVE, "conditional": "logistic-mixture", "n_values": 2, "n_components": 2}),
    "wavenet-float32": (WaveNet, {**WAVE, "dtype": "float32", "channels": 20, "skip_channels": 33}),
    "transformer": (Transformer, ATTENTION),
    "transformer-post-sines": (
        Transformer,
        {
            **ATTENTION,
            "norm": "post",
            "positions": "sinusoidal",
            "activation": "relu",
            "n_heads": 4,
            "n_kv_heads": 2,
            "dropout": 0.1,
        },
    ),
    "transformer-untied": (
        Transformer,
        {**ATTENTION, "tied": False, "activation": "gelu_exact", "n_kv_heads": 1, "n_hidden": 20},
    ),
    "transformer-mixture": (Transformer, {**ATTENTION, "conditional": "logistic-mixture", "n_components": 3}),
    "transformer-mixture-float32": (
        Transformer,
        {**ATTENTION, "conditional": "logistic-mixture", "n_components": 2, "norm": "post", "dtype": "float32"},
    ),
    "transformer-float32": (Transformer, {**ATTENTION, "dtype": "float32", "width": 40, "batch_size": 7}),
    "masde-categorical": (
        MASDE,
        {**TRAINED, "structure": chain(N), "hidden_sizes": (19, 23), "direct": True, "conditional": "categorical"},
    ),
}
# Larger, for work that several threads share.
LARGE = {
    "NADE": {"n_hidden": 70, "order": "random"},
    "FVSBN": {},
    "MLPConditionals": {"n_hidden": 20, "order": "random"},
    "MADE": {"hidden_sizes": (150, 150), "order": "random"},
    "MASDE": {"hidden_sizes": (150, 150), "structure": chain(40)},
    "WaveNet": {"channels": 16, "skip_channels": 24, "dilations": (1, 16), "n_stacks": 1},
    "Transformer": {"width": 48, "context_length": 40},
}
BY_GRADIENT = [name for name, (_, options) in MODELS.items() if "learning_rate" in options]
every_model = pytest.mark.parametrize("name", MODELS)
every_trained_model = pytest.mark.parametrize("name", BY_GRADIENT)


def make(name, **changes):
    model, options = MODELS[name]
    return model(**{**options, **changes})


def rows(n_rows=200, n=N, seed=0):
    """Bits with dependence: noisy copies of their left neighbour, some columns mostly one."""
    rng = np.random.default_rng(seed)
    x = np.empty((n_rows, n), np.uint8)
    x[:, 0] = rng.random(n_rows) < 0.5
    for i in range(1, n):
        x[:, i] = x[:, i - 1] ^ (rng.random(n_rows) < 0.2) if i % 3 else rng.random(n_rows) < 0.8
    return x


def states(n=N):
    return np.array(list(itertools.product((0, 1), repeat=n)), np.uint8)


@pytest.fixture(scope="module")
def fitted():
    return {name: make(name).fit(rows()) for name in MODELS}


def logits(model, X):
    conditionals = model.conditionals(X)
    if isinstance(conditionals, Bernoulli):
        return conditionals.logits
    if isinstance(conditionals, Categorical):  # of two values: of the one that is not the reference
        return np.where(conditionals.reference, -conditionals.logits, conditionals.logits)
    if isinstance(conditionals, Softmax):
        return conditionals.logits[:, :, 1] - conditionals.logits[:, :, 0]
    if isinstance(conditionals, LogisticMixture):
        zero, one = (conditionals.log_prob(np.full(X.shape, v, np.int32), per_variable=True) for v in (0, 1))
        return one - zero
    return np.stack([np.log(p[:, 1]) - np.log(p[:, 0]) for p in conditionals], axis=1)


@every_model
def test_probabilities_sum_to_one(fitted, name):
    total = np.exp(fitted[name].score_samples(states())).sum()
    assert abs(total - 1) < (1e-5 if name.endswith("32") else 1e-10)


@every_model
def test_terms_sum_to_the_score_and_come_from_the_conditionals(fitted, name):
    model, X = fitted[name], rows(50, seed=1)
    terms = model.score_samples(X, per_variable=True)
    tolerance = 1e-5 if name.endswith("32") else 1e-12
    assert terms.shape == X.shape
    assert terms.dtype == np.float64
    np.testing.assert_allclose(terms.sum(1), model.score_samples(X), rtol=tolerance)
    np.testing.assert_allclose(
        terms, -np.logaddexp(0, (1.0 - 2.0 * X) * logits(model, X)), rtol=tolerance, atol=tolerance
    )


@every_model
def test_score_is_the_mean(fitted, name):
    X = rows(33, seed=2)
    assert fitted[name].score(X) == pytest.approx(fitted[name].score_samples(X).mean(), rel=1e-14)


@pytest.mark.parametrize("name", [name for name in BY_GRADIENT if MODELS[name][1]["dtype"] == "float64"])
def test_gradient_equals_central_differences(fitted, name):
    model, X = copy.deepcopy(fitted[name]), rows(20, seed=4)
    for key, parameter in model.parameters_.items():
        if key in ("b1", "b2") or key.endswith("_bias"):  # off the kink of a ReLU without inputs
            parameter += np.random.default_rng(3).uniform(0.01, 0.1, parameter.shape)
    _, gradient = model.gradient(X)
    for key, parameter in model.parameters_.items():
        difference = central_differences(parameter, lambda: model.score(X))
        assert np.abs(gradient[key] - difference).max() <= 1e-6 * np.abs(difference).max(), key


@every_model
def test_no_conditional_sees_its_own_or_a_later_variable(fitted, name):
    model, X = fitted[name], rows(5, seed=5)
    order = getattr(model, "order_", np.arange(N)).astype(int)
    before = logits(model, X)
    for position, column in enumerate(order):
        changed = X.copy()
        changed[:, column] ^= 1
        same = logits(model, changed) == before
        assert same[:, order[: position + 1]].all(), "a conditional moved with its own or a later variable"
        if name != "independent":
            sees = [step for step in range(position + 1, N) if position in parents(model)[step]]
            assert not same[:, order[sees]].all(0).any(), "a conditional ignores an earlier variable"
            blind = np.delete(order, sees)
            assert same[:, blind].all(), "a conditional moved with a variable that is no parent"


def parents(model):
    """By step, the steps before it that its conditional depends on."""
    return [set(p.tolist()) for p in model.parents_] if isinstance(model, MASDE) else [set(range(i)) for i in range(N)]


@every_model
def test_the_sampler_follows_the_scorer(fitted, name):
    """Uniforms on either side of p(x = 0) force any path, so each conditional of the sampler is the scorer's."""
    model, X = fitted[name], states()[::5]
    order = getattr(model, "order_", np.arange(N)).astype(int)
    conditionals = model.conditionals(X)
    if not isinstance(conditionals, list):
        edge = conditionals.interval(np.ones_like(X))[0]
        below = np.nextafter(edge, 0)
    else:
        edge = np.stack([p[:, 0] for p in conditionals], axis=1)
        edge, below = edge * (1 + 1e-12), edge * (1 - 1e-12)
    u = np.ascontiguousarray(np.where(X == 1, edge, below)[:, order])
    np.testing.assert_array_equal(model._draw(u), X)


@every_model
def test_samples_fit_the_density(fitted, name):
    model, n_samples = fitted[name], 100_000
    x = model.sample(n_samples, random_state=11)
    assert x.shape == (n_samples, N)
    counts = np.bincount(x.astype(int) @ (1 << np.arange(N)[::-1]), minlength=2**N)
    expected = n_samples * np.exp(model.score_samples(states()))
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
    chi2 = ((observed - wanted) ** 2 / wanted)[wanted > 1].sum()
    freedom = (wanted > 1).sum() - 1
    assert chi2 < freedom + 4 * np.sqrt(2 * freedom)  # 4 standard deviations
    assert chi2 > freedom - 4 * np.sqrt(2 * freedom)


@every_model
def test_bits_do_not_depend_on_batch_or_chunks(fitted, name):
    model, X = fitted[name], rows(37, seed=6)
    whole = model.score_samples(X)
    assert whole.tobytes() == np.concatenate([model.score_samples(X[k : k + 5]) for k in range(0, 37, 5)]).tobytes()
    assert whole[::-1].tobytes() == model.score_samples(X[::-1]).tobytes()
    table = model.sample(37, random_state=7)
    assert (table[10:29] == model.sample(19, random_state=7, start=10)).all()
    assert (table[36:] == model.sample(1, random_state=7, start=36)).all()
    assert model.sample(0, random_state=7).shape == (0, N)
    assert not (model.sample(37, random_state=8) == table).all()


@every_model
def test_sampling_in_chunks_of_the_base_class(fitted, name, monkeypatch):
    whole = fitted[name].sample(50, random_state=2, start=3)
    monkeypatch.setattr("chainrule.models.base.ROWS_AT_ONCE", 7)
    assert (fitted[name].sample(50, random_state=2, start=3) == whole).all()


@every_trained_model
def test_training_and_scoring_do_not_depend_on_threads(name):
    X = rows(300, 40)
    digests = set()
    for n_threads in (1, 2, 3):
        larger = LARGE[MODELS[name][0].__name__]
        model = make(name, n_threads=n_threads, batch_size=150, **larger).fit(X, X_val=X[:50])
        digests.add(model.parameters_.flat.tobytes() + model.score_samples(X).tobytes())
    assert len(digests) == 1


@every_model
def test_fitting_twice_gives_the_same_model(fitted, name):
    again = make(name).fit(rows())
    assert again.score_samples(states()).tobytes() == fitted[name].score_samples(states()).tobytes()


@every_model
def test_fitting_helps(fitted, name):
    uniform = -N * np.log(2)
    assert fitted[name].score(rows(500, seed=9)) > uniform + 0.5


@every_model
def test_files_and_pickles_round_trip(fitted, name, tmp_path):
    model, path = fitted[name], tmp_path / "model.safetensors"
    model.save(path)
    for other in (chainrule.load(path), pickle.loads(pickle.dumps(model))):
        assert type(other) is type(model)
        assert other.score_samples(states()).tobytes() == model.score_samples(states()).tobytes()
        assert (other.sample(20, random_state=1) == model.sample(20, random_state=1)).all()
    chainrule.load(path).save(tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


@every_model
def test_estimator_habits(name):
    from sklearn.base import clone

    model = make(name)
    for key, value in model.get_params().items():
        assert getattr(model, key) is value
    other = clone(model)
    assert other is not model
    assert repr(other) == repr(model)
    with pytest.raises(ValueError, match="no parameter 'colour'"):
        model.set_params(colour=1)
    with pytest.raises(chainrule.NotFittedError, match="not fitted"):
        model.score_samples(rows(2))
    with pytest.raises(chainrule.NotFittedError, match="not fitted"):
        model.sample()
    with pytest.raises(chainrule.NotFittedError, match="not fitted"):
        model.save("nowhere.safetensors")


@every_model
def test_inputs_are_never_modified_and_any_layout_is_read(fitted, name):
    X = rows(30)
    model = fitted[name]
    expected = model.score_samples(X)
    for other in (
        X.astype(bool),
        X.astype(float),
        X.astype(np.int8),
        np.asfortranarray(X),
        np.repeat(X, 2, 1)[:, ::2],
        X.tolist(),
    ):
        kept = np.array(other, copy=True)
        assert model.score_samples(other).tobytes() == expected.tobytes()
        assert (np.asarray(other) == kept).all()
    frozen = X.copy()
    frozen.setflags(write=False)
    make(name).fit(frozen)
    assert model.score_samples(frozen).tobytes() == expected.tobytes()


BAD = {
    "values": (lambda: rows(4) + 1.5, "outside"),
    "half": (lambda: np.full((3, N), 0.5), r"X has 24 values outside .*first: 0.5 at row 0, column 0"),
    "infinity": (lambda: np.full((3, N), np.inf), "infinity|outside"),
    "rank 1": (lambda: np.zeros(N), "2-d"),
    "rank 3": (lambda: np.zeros((2, N, 1)), "2-d"),
    "width": (lambda: np.zeros((2, N + 1)), "features"),
    "text": (lambda: np.array([["a"] * N]), "numbers"),
    "complex": (lambda: np.zeros((2, N)) + 1j, "Complex"),
    "negative": (lambda: rows(4).astype(int) - 1, "outside"),
}


# Models of sequences take one, rank 1, and sequences of any length.
OF_SEQUENCES = {
    "values": "must hold integer codes; sequence 0 has fractions",
    "half": "must hold integer codes",
    "infinity": "must be finite; sequence 0 has inf at step 0",
    "rank 1": None,
    "rank 3": "must hold sequences of one channel, 1-d",
    "width": None,
    "complex": "must hold numbers, not complex128",
    "negative": "must hold codes 0 to 1; sequence 0 has -1",
}


@every_model
@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_clear_error(fitted, name, case):
    make, message = BAD[case]
    if isinstance(fitted[name], SequenceModel):
        message = OF_SEQUENCES.get(case, message)
    if message is None:
        assert np.isfinite(fitted[name].score_samples(make())).all()
        return
    with pytest.raises(ValueError, match=message):
        fitted[name].score_samples(make())


@every_model
def test_bad_calls_get_clear_errors(fitted, name):
    model = fitted[name]
    with pytest.raises(ValueError, match="empty"):
        make(name).fit(np.zeros((0, N), np.uint8))
    with pytest.raises(ValueError, match=r"NaN|nan"):
        make(name).fit(np.full((3, N), np.nan))
    with pytest.raises(ValueError, match="sequence 0 is empty" if isinstance(model, SequenceModel) else "0 feature"):
        make(name).fit(np.zeros((3, 0), np.uint8))
    with pytest.raises(ValueError, match="empty"):
        model.score(np.zeros((0, N), np.uint8))
    assert model.score_samples(np.zeros((0, N), np.uint8)).shape == (0,)
    with pytest.raises(ValueError, match="n_samples must be an integer >= 0, not -1"):
        model.sample(-1)
    with pytest.raises(ValueError, match="start must be"):
        model.sample(1, start=-1)
    with pytest.raises(ValueError, match="random_state must be"):
        model.sample(1, random_state="seven")


@every_model
def test_verify_holds(fitted, name):
    report = chainrule.verify(fitted[name])
    assert report, f"\n{report}"
    assert len(report) == 6
    skipped = {law.name for law in report if law.held is None}
    assert skipped == (set() if name in BY_GRADIENT else {"scores do not depend on threads"})


def test_verify_on_sequences_of_any_length():
    X = [row[: 3 + k] for k, row in enumerate(rows(5, 60))]
    model = make("wavenet", n_values=3).fit(X)
    report = chainrule.verify(model)
    assert report, f"\n{report}"
    assert report[0].name == "every conditional sums to 1"
    assert "40 of 40 variables" in report[1].seen
    with pytest.raises(TypeError, match="verify needs a WaveNet without a context"):
        chainrule.verify(make("wavenet").fit(X, context=np.eye(5)))


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        ("leak", "no conditional sees its own or a later variable"),
        ("sampler", "the sampler's conditionals are the scorer's"),
        ("chunk", "a row does not depend on its batch"),
    ],
)
def test_verify_finds_a_broken_model_of_sequences(broken, law):
    class Odd(WaveNet):
        def _conditionals(self, X):
            conditionals = super()._conditionals(X)
            conditionals.logits[:, 0] += np.stack(X.values)[:, 5] * (broken == "leak")
            return conditionals

        def _log_prob(self, X, per_variable):
            return super()._log_prob(X, per_variable) + 1e-9 * len(X) * (broken == "chunk")

        def _draw(self, u, *more):
            return super()._draw(u * (1 - 1e-13) if broken == "sampler" else u, *more)

    model = Odd(**WAVE).fit(rows())
    assert law in [found.name for found in chainrule.verify(model) if found.held is False]


class Chain(AutoregressiveModel):
    """A Markov chain over codes along an order: logits of x_i are a table of the value before it."""

    def __init__(self, n_values, *, dtype="float64", n_threads=None, broken=""):
        self.n_values, self.dtype, self.n_threads, self.broken = n_values, dtype, n_threads, broken

    def _input(self, X, name="X", n_features=None):
        return as_codes(X, self.n_values, n_features=n_features, name=name, owner="Chain")

    def _fit(self, X):
        rng = np.random.default_rng(3)
        self.order_, self.first_ = rng.permutation(X.shape[1]), starts(self.n_values)
        self.reference_ = rng.integers(0, self.n_values).astype(np.uint8)
        before = [1, *(self.n_values[k] for k in self.order_[:-1])]
        self.tables_ = [
            rng.normal(size=(k, self.n_values[column] - 1)).astype(self.dtype) * 3
            for k, column in zip(before, self.order_, strict=True)
        ]

    def _conditionals(self, X):
        logits = np.zeros((len(X), self.first_[-1]), self.dtype)
        before = np.zeros(len(X), np.uint8)
        for step, column in enumerate(self.order_):
            logits[:, self.first_[column] : self.first_[column + 1]] = self.tables_[step][before]
            before = X[:, column]
        if self.broken == "leak":
            logits += X[:, self.order_[-1]][:, None]
        return Categorical(logits, self.first_, self.reference_)

    def _log_prob(self, X, per_variable):
        log_prob = self._conditionals(X).log_prob(X, per_variable=per_variable)
        return log_prob + 1e-3 if self.broken == "sum" else log_prob

    def _draw(self, u, given=None, observed=None):
        x = np.zeros(u.shape, np.uint8)
        for step, column in enumerate(self.order_):
            before = x[:, self.order_[step - 1]] if step else np.zeros(len(u), np.uint8)
            z = self.tables_[step][before]
            if self.broken == "sampler" and z.size:
                z[:, 0] = np.nextafter(z[:, 0], 9)
            first, reference = starts([self.n_values[column]]), self.reference_[column : column + 1]
            x[:, column] = Categorical(z, first, reference).sample(u[:, step : step + 1].copy())[:, 0]
        return x


CHAINS = {"few states": [2, 3, 1, 17, 2], "many states": [2, 256, 3, 1, 17, 4, 2]}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("values", CHAINS)
def test_verify_holds_on_codes(values, dtype):
    n_values = CHAINS[values]
    model = Chain(n_values, dtype=dtype).fit(np.zeros((1, len(n_values))))
    report = chainrule.verify(model, n_rows=100)
    assert report, f"\n{report}"
    assert report[0].name == ("probabilities sum to 1" if values == "few states" else "every conditional sums to 1")
    assert [law.name for law in report if law.held is None] == ["a saved model reads back as itself"]


class Wave(AutoregressiveModel):
    """Levels along an order, each a mixture of three logistics whose means follow the level before."""

    def __init__(self, n_values, *, dtype="float64", n_threads=None, broken=""):
        self.n_values, self.dtype, self.n_threads, self.broken = n_values, dtype, n_threads, broken

    def _input(self, X, name="X", n_features=None):
        return np.ascontiguousarray(X, np.int32)

    def _fit(self, X):
        rng = np.random.default_rng(4)
        self.order_ = rng.permutation(X.shape[1])
        self.base_ = np.float64([rng.normal(size=3), rng.normal(size=3) / 2, [-1, -3, -6]]).astype(self.dtype)

    def _given(self, before):
        parameters = np.tile(self.base_, (len(before), 1, 1))
        parameters[:, 1] += (before[:, None] / np.float64(self.n_values)).astype(self.dtype)
        return LogisticMixture(parameters.reshape(len(before), 9), self.n_values, 3)

    def _conditionals(self, X):
        parameters = np.empty((len(X), 9 * X.shape[1]), self.dtype)
        before = X[:, self.order_[-1]] if self.broken == "leak" else np.zeros(len(X), np.int32)
        for column in self.order_:
            parameters[:, 9 * column : 9 * column + 9] = self._given(before).parameters
            before = X[:, column]
        return LogisticMixture(parameters, self.n_values, 3)

    def _log_prob(self, X, per_variable):
        return self._conditionals(X).log_prob(X, per_variable=per_variable)

    def _draw(self, u, given=None, observed=None):
        x, before = np.zeros(u.shape, np.int32), np.zeros(len(u), np.int32)
        for step, column in enumerate(self.order_):
            p = self._given(before)
            if self.broken == "sampler":
                p.parameters[:, 3:6] = np.nextafter(p.parameters[:, 3:6], 9)
            x[:, column] = before = p.sample(u[:, step : step + 1].copy())[:, 0]
        return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_values", [16, 256, 4000])
def test_verify_holds_on_levels(n_values, dtype):
    report = chainrule.verify(Wave(n_values, dtype=dtype).fit(np.zeros((1, 3))), n_rows=50)
    assert report, f"\n{report}"
    assert report[0].name == ("probabilities sum to 1" if n_values == 16 else "every conditional sums to 1")


def test_verify_finds_broken_levels():
    for broken, law in (
        ("leak", "no conditional sees its own or a later variable"),
        ("sampler", "the sampler's conditionals are the scorer's"),
    ):
        report = chainrule.verify(Wave(256, broken=broken).fit(np.zeros((1, 3))), n_rows=50)
        assert law in [law.name for law in report if law.held is False]


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        ("sum", "probabilities sum to 1"),
        ("leak", "no conditional sees its own or a later variable"),
        ("sampler", "the sampler's conditionals are the scorer's"),
    ],
)
def test_verify_finds_broken_codes(broken, law):
    model = Chain(CHAINS["few states"], broken=broken).fit(np.zeros((1, 5)))
    assert law in [law.name for law in chainrule.verify(model, n_rows=100) if law.held is False]


def test_verify_finds_a_broken_model(fitted):
    class Leaky(NADE):
        def _conditionals(self, X):
            return Bernoulli(np.ascontiguousarray(super()._conditionals(X).logits + X))

    leaky = Leaky(**SMALL).fit(rows())
    broken = [law.name for law in chainrule.verify(leaky) if law.held is False]
    assert "no conditional sees its own or a later variable" in broken
    assert "the sampler's conditionals are the scorer's" in broken


def test_verify_finds_independence_that_is_none():
    class Dependent(IndependentBernoulli):
        def _conditionals(self, X):
            return Bernoulli(super()._conditionals(X).logits + X[:, :1])

    model = Dependent().fit(rows())
    assert "no conditional sees its own or a later variable" in [
        law.name for law in chainrule.verify(model) if law.held is False
    ]


def test_verify_takes_data_frames():
    pd = pytest.importorskip("pandas")
    model = IndependentBernoulli().fit(pd.DataFrame(rows(), columns=list("abcdefgh")))
    assert chainrule.verify(model)


def test_verify_says_what_it_takes():
    class Odd(IndependentBernoulli):
        def _conditionals(self, X):
            return None

    with pytest.raises(TypeError, match="verify needs a fitted model of this package, not NADE"):
        chainrule.verify(NADE())
    with pytest.raises(TypeError, match="verify needs a fitted model of this package, not 3"):
        chainrule.verify(3)
    known = "Bernoulli, categorical, softmax, logistic mixture and table conditionals"
    with pytest.raises(TypeError, match=f"verify knows {known}, not NoneType"):
        chainrule.verify(Odd().fit(rows()))


PROMISED = (
    "random.py",
    "mulaw.py",
    "fit",
    "models",
    "conditionals",
    "kernels",
    "ops",
    "masks.py",
    "structures.py",
    "metrics.py",
)
VARIES = {
    "exp", "expm1", "log", "log1p", "log2", "log10", "sin", "cos", "tanh", "power", "dot", "matmul", "einsum", "inner",
    "vdot", "tensordot", "mean", "average", "std", "var", "cumprod", "prod", "logaddexp", "linalg", "convolve",
}  # fmt: skip


def test_no_arithmetic_that_varies_by_machine_on_promised_paths():
    """No libm and no NumPy reduction or transcendental: the walk over the syntax tree that the contract asks for."""
    package = Path(chainrule.__file__).parent
    files = [
        f
        for name in PROMISED
        for f in ([package / name] if name.endswith(".py") else sorted((package / name).glob("*.py")))
    ]
    assert len(files) >= 13
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            where = f"{file.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
                if "math" in names or "cmath" in names:
                    found.append(f"{where} imports math")
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
                found.append(f"{where} @")
            elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
                if not all(isinstance(k, ast.Constant) and isinstance(k.value, int) for k in (node.left, node.right)):
                    found.append(f"{where} **")
            elif (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in ("np", "numpy")
            ):
                if node.attr in VARIES:
                    found.append(f"{where} np.{node.attr}")
            elif isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in ("mean", "dot", "std", "var"):
                    found.append(f"{where} {called}()")
                if called == "sum" and not any(k.arg == "dtype" for k in node.keywords):
                    found.append(f"{where} sum() of unknown dtype")
    assert not found, found


def test_the_walk_would_see_it():
    tree = ast.parse("np.mean(x); x @ y; x ** 0.5; x.sum()")
    assert sum(isinstance(n, ast.MatMult | ast.Pow) for n in ast.walk(tree)) == 2
    assert random.key_of(3) == tuple(int(w) for w in np.random.SeedSequence(3).generate_state(2, np.uint64))
