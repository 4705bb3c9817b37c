"""EncoderDecoder: p(y | x) against enumeration, differences and its cached steps; beams, training, files, bad input.

The contract's list (test_contract.py) is of densities of rows, p(x); this one needs an x beside every y, so that its
laws are tested here.
"""

import copy
import itertools
import pickle

import chainrule
import numpy as np
import pytest
from chainrule import EncoderDecoder, kernels
from chainrule.models import pair_scoring
from chainrule.models import pairs as pairs_of_models
from chainrule.models.blocks import Dropout, Stack
from chainrule.models.generation import next_logits
from chainrule.models.scheduled_sampling import TRUTH
from chainrule.ops import Pool, Tape, Variable

V, MOST = 3, 3  # of y
SMALL = {
    "n_layers": 2, "n_heads": 2, "width": 8, "batch_size": 16, "max_epochs": 3, "learning_rate": 0.02,
    "random_state": 3, "dtype": "float64",
}  # fmt: skip
SHAPES = {
    "small": {},
    "post": {"norm": "post"},
    "sines": {"positions": "sinusoidal"},
    "relu": {"activation": "relu", "n_hidden": 19},
    "exact gelu, one head": {"activation": "gelu_exact", "n_heads": 1, "n_layers": 1},
    "wide": {"width": 66, "n_heads": 2, "n_layers": 1},
    "float32": {"dtype": "float32", "width": 20},
}
every_shape = pytest.mark.parametrize("name", SHAPES)


def pairs(n=40, seed=0, longest=7):
    """Sources over 4 symbols, and what is left of them without the largest symbol, at most MOST tokens."""
    rng = np.random.default_rng(seed)
    X = [rng.integers(0, 4, rng.integers(1, longest + 1)) for _ in range(n)]
    X[0] = np.array([0, 3, 1, 2, 0, 1, 3])[:longest]
    return X, [x[x < V][:MOST] for x in X]


def every_y(longest=MOST):
    return [list(y) for n in range(longest + 1) for y in itertools.product(range(V), repeat=n)]


@pytest.fixture(scope="module")
def fitted():
    return {name: EncoderDecoder(**{**SMALL, **options}).fit(*pairs()) for name, options in SHAPES.items()}


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


# ---- the density


@every_shape
def test_probabilities_sum_to_one(fitted, name):
    model, Y = fitted[name], every_y()
    for x in pairs()[0][:4]:
        total = np.exp(model.score_samples([x] * len(Y), Y)).sum()
        assert abs(total - 1) < (1e-5 if name == "float32" else 1e-12)


def test_what_is_shorter_and_the_rest_sum_to_one(fitted):
    """The mass of longer y is that of their beginnings without an end."""
    model, x = fitted["small"], pairs()[0][0]
    shorter, beginnings = every_y(1), [list(y) for y in itertools.product(range(V), repeat=2)]
    ended = np.exp(model.score_samples([x] * len(shorter), shorter)).sum()
    terms = model.score_samples([x] * len(beginnings), beginnings, per_variable=True)
    rest = sum(np.exp(row[:2].sum()) for row in terms)
    assert abs(ended + rest - 1) < 1e-12


@every_shape
def test_terms_are_those_of_the_conditionals_and_the_end_is_a_step(fitted, name):
    model, (X, _) = fitted[name], pairs()
    for length in range(MOST + 1):
        Y = np.random.default_rng(length).integers(0, V, (len(X), length))
        terms = model.score_samples(X, Y, per_variable=True)
        conditionals = model.conditionals(X, Y)
        steps = min(length + 1, MOST)  # at max_target tokens y is at its end
        assert conditionals.logits.shape == (len(X), steps, V + 1)
        codes = np.hstack([Y, np.full((len(X), 1), V)])[:, :steps].astype(np.int32)
        assert np.stack(terms).tobytes() == conditionals.log_prob(codes, per_variable=True).tobytes()
        assert model.score_samples(X, Y).tobytes() == conditionals.log_prob(codes).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_decoder_sees_is_kept_as_steps_keep_it(dtype):
    """More than a panel of steps, several rows and heads, a size that fills no vector, another memory in each block."""
    rows, steps, heads, size = 2, 37, 2, 5
    stack = Stack(3, 2 * heads, heads, 2 * heads * size, 8, "relu", "pre", cross=True)
    random = np.random.default_rng(0)
    seen = [Variable(random.normal(size=(rows, steps, 2 * heads * size)).astype(dtype)) for _ in range(stack.n_layers)]
    caches = stack.caches_of(seen)
    assert len(caches) == stack.n_layers
    for kv, cache in zip(seen, caches, strict=True):
        kept = kernels.new_cache(rows, heads, size, steps, dtype)
        k, v = np.split(kv.array, 2, axis=-1)
        query = np.zeros((rows, steps, 2 * heads * size), dtype)
        kernels.attention_step(
            query, k, v, kept, np.zeros(rows, np.uint32), n_heads=stack.n_heads, n_kv_heads=stack.n_kv_heads
        )
        np.testing.assert_array_equal(cache.keys, kept.keys)
        np.testing.assert_array_equal(cache.values, kept.values)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "float32"])
def test_gradient_equals_central_differences(fitted, name):
    small = {"width": 6 if name == "wide" else 4, "n_hidden": 5, "max_epochs": 1}
    (X, Y), step, rng = pairs(6, seed=4), 1e-5, np.random.default_rng(3)
    model = EncoderDecoder(**{**SMALL, **SHAPES[name], **small}).fit(X, Y)
    for key, parameter in model.parameters_.items():
        # Attention is of something, and norms of few channels are not of small variance, where differences are bent.
        size = 2.0 if key.endswith(("token", "position")) else 0.1 if key.endswith(("_bias", "_gain")) else 0.4
        parameter += rng.normal(size=parameter.shape) * size
    _, gradient = model.gradient(X, Y)
    assert gradient.keys() == model.parameters_.keys()
    sizes = {"source_token": model.source_.n_values, "token": V + 1}
    for key, parameter in model.parameters_.items():
        padded = np.zeros(parameter.shape, bool)
        if parameter.shape[-1] == 32:  # a matrix in panels
            padded[..., sizes.get(key) or model.parameters_[key + "_bias"].shape[1] :] = True
            assert not gradient[key][padded].any()
        difference = np.zeros(parameter.shape)
        for place in zip(*np.nonzero(~padded), strict=True):
            kept = parameter[place]
            parameter[place] = kept + step
            up = model.score(X, Y)
            parameter[place] = kept - step
            difference[place] = (up - model.score(X, Y)) / (2 * step)
            parameter[place] = kept
        assert np.abs(gradient[key] - difference).max() <= 1e-6 * np.abs(difference).max(), key


@every_shape
def test_no_step_sees_itself_or_a_later_one(fitted, name):
    model, X = fitted[name], pairs()[0]
    Y = np.random.default_rng(1).integers(0, V, (len(X), MOST))
    before = model.conditionals(X, Y).logits
    for t in range(MOST):
        changed = Y.copy()
        changed[:, t] = (changed[:, t] + 1) % V
        moved = (model.conditionals(X, changed).logits != before).any(axis=2)
        assert not moved[:, : t + 1].any()
        assert moved[:, t + 1 :].all()


@every_shape
def test_every_step_sees_all_of_x(fitted, name):
    model = fitted[name]
    x, y = np.array([0, 1, 2, 3, 0, 1]), [[0, 1, 2]] * 6
    moved = [np.where(np.arange(6) == k, (x + 1) % 4, x) for k in range(6)]
    logits = model.conditionals([*moved, x], [*y, y[0]]).logits
    assert (logits[:-1] != logits[-1]).any(axis=2).all()


# ---- bits


@every_shape
def test_training_and_cached_steps_are_the_scorer(fitted, name):
    """One pass of training's operations, all steps at once, and one token after the other: the same logits."""
    model, (X, Y) = fitted[name], pairs(seed=2)
    checked = model._pairs(X, Y)
    inputs, target, counts = model.target_.steps(checked.target)
    tape = Tape(Pool(), recording=False)
    p, drop = model._variables(None), Dropout(tape)
    whole = model._logits(tape, p, inputs, model._looked_at(tape, p, checked.source, drop), drop).array
    memory, state, network = model._memory(checked.source), model._new_state(len(X)), model._network()
    real = np.arange(inputs.shape[1]) < counts[:, None]
    terms = np.zeros(target.shape)
    for t in range(inputs.shape[1]):
        step = next_logits(network, inputs[:, t], t, state, memory, None)
        assert step[real[:, t]].tobytes() == np.ascontiguousarray(whole[real[:, t], t]).tobytes()
        terms[:, t] = kernels.softmax_log_prob(step, target[:, t].copy())
    found = np.add.accumulate(np.where(real, terms, 0.0), axis=1)[:, -1]
    assert found.tobytes() == model.score_samples(X, Y).tobytes()


@every_shape
def test_padding_never_changes_a_row(fitted, name):
    model, (X, Y) = fitted[name], pairs(seed=5)
    scores, drawn = model.score_samples(X, Y), model.sample(X, random_state=1)
    best, log_prob = model.beam_search(X, 2)
    for k, (x, y) in enumerate(zip(X, Y, strict=True)):
        assert model.score_samples([x], [y]).tobytes() == scores[k : k + 1].tobytes()
        assert same(model.sample([x], random_state=1, start=k), [drawn[k]])
        alone = model.beam_search([x], 2)
        assert same(alone[0], [best[k]])
        assert alone[1].tobytes() == log_prob[k : k + 1].tobytes()
    assert model.score_samples(X[::-1], Y[::-1]).tobytes() == scores[::-1].tobytes()


def test_bits_do_not_depend_on_chunks(fitted, monkeypatch):
    model, (X, Y) = fitted["small"], pairs(seed=6)

    def everything():
        best, log_prob = model.beam_search(X, 3)
        scores = model.score_samples(X, Y).tobytes() + log_prob.tobytes()
        return scores, [*model.predict(X), *model.sample(X, random_state=7, start=2), *best]

    whole = everything()
    for module, name, size in ((pairs_of_models, "STEPS_AT_ONCE", 25), (pair_scoring, "LOGITS_AT_ONCE", 1)):
        monkeypatch.setattr(module, name, size)
        parts = everything()
        assert parts[0] == whole[0]
        assert same(parts[1], whole[1])


def test_training_scoring_and_drawing_do_not_depend_on_threads():
    X, Y = pairs(300, longest=20)
    digests = set()
    options = {**SMALL, "width": 48, "batch_size": 150, "dropout": 0.1, "scheduled_sampling": "linear"}
    for n_threads in (1, 2, 3):
        model = EncoderDecoder(**{**options, "dtype": "float32", "n_threads": n_threads})
        model.fit(X, Y, X_val=X[:50], y_val=Y[:50])
        model.fine_tune(X, Y, lambda drawn, true: [-abs(len(a) - len(b)) for a, b in zip(drawn, true, strict=True)])
        best, log_prob = model.beam_search(X[:40])
        drawn = b"".join(y.tobytes() for y in [*best, *model.sample(X, random_state=1), *model.predict(X)])
        digests.add(model.parameters_.flat.tobytes() + model.score_samples(X, Y).tobytes() + log_prob.tobytes() + drawn)
    assert len(digests) == 1


def test_fitting_twice_gives_the_same_model_and_other_seeds_another(fitted):
    X, Y = pairs()
    again = EncoderDecoder(**SMALL).fit(X, Y)
    assert again.score_samples(X, Y).tobytes() == fitted["small"].score_samples(X, Y).tobytes()
    other = EncoderDecoder(**{**SMALL, "random_state": 4}).fit(X, Y)
    assert other.score_samples(X, Y).tobytes() != again.score_samples(X, Y).tobytes()


# ---- drawing


def test_samples_fit_the_density(fitted):
    model, x, Y, n = fitted["small"], pairs()[0][1], every_y(), 20_000
    drawn = model.sample([x] * n, random_state=11)
    counts = dict.fromkeys(map(tuple, Y), 0)
    for y in drawn:
        counts[tuple(y.tolist())] += 1
    wanted = n * np.exp(model.score_samples([x] * len(Y), Y))
    observed = np.array([counts[tuple(y)] for y in Y])
    chi2 = ((observed - wanted) ** 2 / wanted)[wanted > 5].sum()
    freedom = (wanted > 5).sum() - 1
    assert freedom > 20
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)


def test_draws_depend_on_seed_and_row_alone(fitted):
    model, X = fitted["small"], pairs(60, seed=8)[0]
    table = model.sample(X, random_state=7)
    assert same(model.sample(X[10:30], random_state=7, start=10), table[10:30])
    assert not same(model.sample(X, random_state=8), table)
    assert same(model.sample(X), model.sample(X, random_state=SMALL["random_state"]))


def test_choices_narrow_a_draw_to_the_prediction(fitted):
    model, X = fitted["small"], pairs(seed=9)[0]
    greedy = model.predict(X)
    for choice in ({"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-9}):
        assert same(model.sample(X, random_state=5, **choice), greedy)
    logits = model.conditionals(X[:1], [greedy[0]]).logits[0]
    assert logits.argmax(1).tolist()[: len(greedy[0])] == greedy[0].tolist()


@every_shape
def test_a_beam_that_holds_all_finds_the_best(fitted, name):
    model, X, Y = fitted[name], pairs(seed=10)[0][:8], every_y()
    best, log_prob = model.beam_search(X, len(Y))
    for x, y, found in zip(X, best, log_prob, strict=True):
        scores = model.score_samples([x] * len(Y), Y)
        assert found == scores.max()
        assert y.tolist() == Y[int(scores.argmax())]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 3.0])
def test_beams_rank_by_the_length_penalty_and_report_the_score(fitted, penalty):
    model, X, Y = fitted["small"], pairs(seed=10)[0][:8], every_y()
    best, log_prob = model.beam_search(X, len(Y), length_penalty=penalty)
    assert log_prob.tobytes() == model.score_samples(X, best).tobytes()
    sizes = np.array([len(y) for y in Y])
    for x, y in zip(X, best, strict=True):
        ranks = model.score_samples([x] * len(Y), Y) / ((5 + sizes) / 6) ** penalty
        assert y.tolist() == Y[int(ranks.argmax())]


@pytest.mark.parametrize("n_beams", [1, 2, 5])
def test_beams_are_no_worse_than_greedy_and_scored_bit_for_bit(fitted, n_beams):
    X = pairs(100, seed=11)[0]
    for name in ("small", "float32"):
        model = fitted[name]
        best, log_prob = model.beam_search(X, n_beams)
        assert log_prob.tobytes() == model.score_samples(X, best).tobytes()
        assert (log_prob >= model.score_samples(X, model.predict(X))).all()


# ---- training


def test_it_learns_to_copy():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdef"), rng.integers(1, 6))) for _ in range(500)]
    options = {"n_layers": 1, "width": 32, "batch_size": 32, "learning_rate": 5e-3, "random_state": 0}
    model = EncoderDecoder(**options, max_epochs=30).fit(words[100:], words[100:], X_val=words[:100], y_val=words[:100])
    assert np.mean([a == b for a, b in zip(model.predict(words[:100]), words[:100], strict=True)]) > 0.9
    steps = sum(min(len(word) + 1, 5) for word in words[:100])
    assert max(model.history_["validation"]) == pytest.approx(
        model.score_samples(words[:100], words[:100]).sum() / steps
    )


def test_callbacks_score_and_draw():
    X, Y = pairs()
    model, seen = EncoderDecoder(**SMALL), []

    def look(record):
        seen.append(model.score(X, Y))
        model.predict(X[:3])

    model.fit(X, Y, callbacks=[look])
    assert len(seen) == SMALL["max_epochs"]
    assert seen[-1] == model.score(X, Y)


def test_weights_of_rows_are_repetitions():
    X, Y = pairs(24)
    model = EncoderDecoder(**{**SMALL, "batch_size": 100, "max_epochs": 1, "optimizer": "sgd", "clip_norm": None})
    twice = copy.deepcopy(model).fit([*X, *X[:12]], [*Y, *Y[:12]])
    weighted = copy.deepcopy(model).fit(X, Y, sample_weight=[2] * 12 + [1] * 12)
    np.testing.assert_allclose(twice.parameters_.flat, weighted.parameters_.flat, rtol=0, atol=1e-12)


def test_partial_fit_warm_start_and_checkpoints(tmp_path):
    X, Y = pairs()
    model = EncoderDecoder(**SMALL)
    for _ in range(SMALL["max_epochs"]):
        model.partial_fit(X, Y)
    once = EncoderDecoder(**SMALL).fit(X, Y)
    np.testing.assert_array_equal(model.parameters_.flat, once.parameters_.flat)
    warm = EncoderDecoder(**SMALL, warm_start=True).fit(X, Y)
    before = warm.score(X, Y)
    warm.fit(X[:20], Y[:20])
    assert warm.score(X[:20], Y[:20]) > before - 1
    cut = EncoderDecoder(**{**SMALL, "max_epochs": 1}).fit(X, Y, checkpoint=tmp_path / "c")
    assert cut.score(X, Y) < once.score(X, Y)
    resumed = EncoderDecoder(**SMALL).fit(X, Y, checkpoint=tmp_path / "c")
    assert resumed.parameters_.flat.tobytes() == once.parameters_.flat.tobytes()
    with pytest.raises(ValueError, match="of another fit"):
        EncoderDecoder(**SMALL).fit(X, Y[::-1], checkpoint=tmp_path / "c")


def test_dropout_trains_and_leaves_scores_alone():
    X, Y = pairs()
    model = EncoderDecoder(**SMALL, dropout=0.3).fit(X, Y)
    assert model.parameters_.flat.tobytes() != EncoderDecoder(**SMALL).fit(X, Y).parameters_.flat.tobytes()
    assert model.score_samples(X, Y).tobytes() == model.score_samples(X, Y).tobytes()
    assert model.gradient(X, Y)[0] == model.score(X, Y)


# ---- scheduled sampling


def test_the_schedules_of_scheduled_sampling():
    make = {name: entry[0] for name, entry in TRUTH.items()}
    assert [make["linear"]()(t, 11) for t in (0, 5, 10)] == [1.0, 0.5, 0.0]
    assert make["linear"](k=0.9, c=0.01, floor=0.25)(50, 1) == pytest.approx(0.4)
    assert make["linear"](k=0.9, c=0.01, floor=0.25)(500, 1) == 0.25
    assert make["exponential"](k=0.99)(70, 1) == pytest.approx(0.99**70)
    assert make["exponential"]()(200, 200) == pytest.approx(0.05)
    assert make["inverse_sigmoid"](k=20)(50, 1) == pytest.approx(20 / (20 + np.exp(2.5)))
    assert make["inverse_sigmoid"]()(50, 200) == make["inverse_sigmoid"](k=20)(50, 1)


def test_scheduled_sampling_shows_the_models_own_tokens(fitted):
    """Coins fall per token; what is drawn follows the model's conditional given the mixed tokens before it."""
    model = copy.deepcopy(fitted["small"])
    n = 4000
    x, y = pairs()[0][2], [0, 1]
    checked = model._pairs([x] * n, [y] * n)
    tape = Tape(Pool(), recording=False)
    seen = model._looked_at(tape, model._variables(None), checked.source, Dropout(tape))
    inputs = model.target_.steps(checked.target)[0]
    mixed = model._partly_drawn(inputs, seen, 0.6, 3)
    assert (mixed[:, 0] == -1).all()
    assert ((mixed[:, 1:] >= 0) & (mixed[:, 1:] < V)).all()  # the end is never an input
    assert mixed.tobytes() == model._partly_drawn(inputs, seen, 0.6, 3).tobytes()
    assert mixed.tobytes() != model._partly_drawn(inputs, seen, 0.6, 4).tobytes()
    assert model._partly_drawn(inputs, seen, 1.0, 3).tobytes() == inputs.tobytes()

    def going_on(before):
        p = np.exp(model.score_samples([x] * V, [[*before, v] for v in range(V)], per_variable=True)[0][: len(before)])
        terms = model.score_samples([x] * V, [[*before, v] for v in range(V)], per_variable=True)
        p = np.exp([row[len(before)] for row in terms])
        return p / p.sum()

    def near(found, p, count):
        assert abs(found - p) < 4 * np.sqrt(p * (1 - p) / count)

    first = going_on([])
    for v in range(V):
        near((mixed[:, 1] == v).mean(), 0.4 * first[v] + 0.6 * (v == y[0]), n)
    for u in range(V):
        given = mixed[mixed[:, 1] == u]
        for v, p in enumerate(going_on([u])):
            near((given[:, 2] == v).mean(), 0.4 * p + 0.6 * (v == y[1]), len(given))


def test_scheduled_sampling_trains_and_teacher_forcing_is_its_limit():
    X, Y = pairs()
    forced = EncoderDecoder(**SMALL).fit(X, Y)
    assert EncoderDecoder(**SMALL, scheduled_sampling=lambda t, total: 1.0).fit(X, Y).parameters_.flat.tobytes() == (
        forced.parameters_.flat.tobytes()
    )
    digests = set()
    for name in ("linear", "exponential", "inverse_sigmoid"):
        model = EncoderDecoder(**SMALL, scheduled_sampling=name)
        fits = [copy.deepcopy(model).fit(X, Y) for _ in range(2)]
        assert fits[0].parameters_.flat.tobytes() == fits[1].parameters_.flat.tobytes()
        digests.add(fits[0].parameters_.flat.tobytes())
    assert len(digests | {forced.parameters_.flat.tobytes()}) == 4


# ---- policy gradient


def test_the_gradient_of_a_policy_is_that_of_the_expected_reward(fitted, monkeypatch):
    """Over all y, weighted by their probability, REINFORCE's gradient is that of E[R] - w KL, by differences."""
    model, x, Y, weight, step = copy.deepcopy(fitted["small"]), pairs()[0][3], every_y(), 0.3, 1e-5
    before = copy.deepcopy(model)
    rng = np.random.default_rng(0)
    reward = rng.normal(size=len(Y))
    for parameter in model.parameters_.values():
        parameter += rng.normal(size=parameter.shape) * 0.01
    X = [x] * len(Y)
    kept = before.score_samples(X, Y)

    def objective():
        log_prob = model.score_samples(X, Y)
        return (np.exp(log_prob) * (reward - weight * (log_prob - kept))).sum()

    gradient = model.parameters_.like()

    def weigh(log_prob):
        worth = reward - weight * (log_prob - kept)
        return np.exp(log_prob) * (worth - 1.7)  # any baseline

    model._weighed_gradient(model._pairs(X, Y), gradient, weigh)
    for key in ("token", "source_query_key_value", "cross_key_value", "last_norm_gain"):
        parameter = model.parameters_[key]
        for place in [tuple(rng.integers(0, size) for size in parameter.shape) for _ in range(10)]:
            kept_value = parameter[place]
            parameter[place] = kept_value + step
            up = objective()
            parameter[place] = kept_value - step
            difference = (up - objective()) / (2 * step)
            parameter[place] = kept_value
            assert abs(-gradient[key][place] - difference) <= 1e-6 * np.abs(gradient[key]).max() + 1e-11, key


@pytest.mark.parametrize("baseline", ["batch", "greedy"])
def test_fine_tuning_raises_the_reward(fitted, baseline):
    X, Y = pairs(200, seed=12)

    def reward(predictions, targets):
        assert len(predictions) == len(targets)
        return [float((y == 0).sum()) for y in predictions]

    def mean(model):
        return np.mean(reward(model.sample(X, random_state=9), X))

    model = copy.deepcopy(fitted["small"])
    model.fine_tune(X, Y, reward, max_epochs=6, learning_rate=5e-3, kl_weight=0.0, baseline=baseline)
    assert len(model.rewards_) == 6
    assert mean(model) > mean(fitted["small"]) + 0.5
    assert np.exp(model.score_samples([X[0]] * len(every_y()), every_y())).sum() == pytest.approx(1, abs=1e-10)
    held = copy.deepcopy(fitted["small"])
    held.fine_tune(X, Y, reward, max_epochs=6, learning_rate=5e-3, kl_weight=100.0, baseline=baseline)
    far, near = (
        (other.score_samples(X, drawn) - fitted["small"].score_samples(X, drawn)).mean()
        for other in (model, held)
        for drawn in [other.sample(X, random_state=1)]
    )
    assert near < far / 5  # nats from the model it began with


def test_bad_fine_tuning_gets_clear_errors(fitted):
    model, (X, Y) = copy.deepcopy(fitted["small"]), pairs(20)

    def reward(predictions, targets):
        return np.zeros(len(predictions))

    for options, message in (
        ({"baseline": "none"}, "baseline must be one of 'batch', 'greedy', not 'none'"),
        ({"kl_weight": -1}, "kl_weight must be a number > 0, not -1"),
        ({"max_epochs": 0}, "max_epochs must be an integer >= 1"),
        ({"learning_rate": 0}, "learning_rate must be a number > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fine_tune(X, Y, reward, **options)
    with pytest.raises(ValueError, match="reward must give 16 finite numbers"):
        model.fine_tune(X, Y, lambda predictions, targets: 0.0)
    with pytest.raises(ValueError, match="reward must give 16 finite numbers"):
        model.fine_tune(X, Y, lambda predictions, targets: np.full(len(predictions), np.nan))
    with pytest.raises(ValueError, match="X is empty"):
        model.fine_tune([], [], reward)
    with pytest.raises(ValueError, match="y must have 20 sequences, as X, not 1"):
        model.fine_tune(X, Y[:1], reward)


# ---- text, files, habits


def test_text_on_either_side(tmp_path):
    X, Y = ["ab", "b", "abba"] * 10, ["XY", "", "ZZZ"] * 10
    model = EncoderDecoder(**{**SMALL, "max_epochs": 30}).fit(X, Y)
    assert (model.source_.text.symbols, model.target_.text.symbols) == ("ab", "XYZ")
    assert (model.source_.longest, model.target_.longest) == (4, 3)
    assert model.predict(X[:3]) == Y[:3]
    assert model.predict("abba") == ["ZZZ"]
    assert all(isinstance(y, str) for y in [*model.sample(X), *model.beam_search(X)[0]])
    model.save(tmp_path / "m")
    assert chainrule.load(tmp_path / "m").predict(X[:3]) == Y[:3]
    with pytest.raises(ValueError, match=r"X has characters the model does not know: \['c'\]"):
        model.predict(["abc"])
    with pytest.raises(ValueError, match="X must hold text, as in fit"):
        model.predict([[0, 1]])
    with pytest.raises(ValueError, match="y holds bytes, and the model was fitted to str"):
        model.score_samples(X[:1], [b"XY"])
    mixed = EncoderDecoder(**SMALL).fit([[0, 1], [1]], [b"xy", b""])
    assert mixed.target_.n_values == 256
    assert all(isinstance(y, bytes) for y in mixed.predict([[1], [0]]))
    with pytest.raises(ValueError, match="X holds str, and the model was fitted to integers"):
        mixed.predict(["ab"])


@every_shape
def test_files_and_pickles_round_trip(fitted, name, tmp_path):
    model, (X, Y), path = fitted[name], pairs(seed=13), tmp_path / "model.safetensors"
    model.save(path)
    for other in (chainrule.load(path), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert type(other) is EncoderDecoder
        assert other.score_samples(X, Y).tobytes() == model.score_samples(X, Y).tobytes()
        assert same(other.sample(X, random_state=1), model.sample(X, random_state=1))
        assert other.history_ == model.history_
    chainrule.load(path).save(tmp_path / "again")
    assert path.read_bytes() == (tmp_path / "again").read_bytes()


def test_a_damaged_file_is_an_error(fitted, tmp_path):
    import json

    from chainrule.io import read_safetensors
    from safetensors.numpy import save_file

    fitted["small"].save(tmp_path / "m")
    arrays, metadata = read_safetensors(tmp_path / "m")
    header = json.loads(metadata["chainrule"])

    def refused(arrays, change=lambda attributes: None):
        changed = json.loads(json.dumps(header))
        change(changed["attributes"])
        save_file(arrays, tmp_path / "bad", {"chainrule": json.dumps(changed)})
        with pytest.raises(ValueError, match="is damaged"):
            chainrule.load(tmp_path / "bad")

    refused({key: array for key, array in arrays.items() if key != "cross_query"})
    refused({**arrays, "token": arrays["token"][:, :4].copy()})
    refused({**arrays, "token": arrays["token"].astype(np.float32)})
    refused(arrays, lambda attributes: attributes["target_"].update(longest=0))
    refused(arrays, lambda attributes: attributes["target_"].update(n_values=1 << 40))
    refused(arrays, lambda attributes: attributes["source_"].update(text={"characters": "ba"}))


def test_the_command_says_what_it_does_not_take(fitted, tmp_path, capsys):
    from chainrule.cli import main

    path = str(tmp_path / "m.safetensors")
    fitted["small"].save(path)
    for arguments in (["score", path, "x.csv"], ["sample", path, "3"]):
        assert main(arguments) == 1
        assert "is a model of y given x, which has no command" in capsys.readouterr().err
    assert main(["verify", path]) == 1
    assert "not p(y | x)" in capsys.readouterr().err
    assert main(["info", path]) == 0
    assert "EncoderDecoder" in capsys.readouterr().out


def test_estimator_habits(fitted):
    from sklearn.base import clone

    model = EncoderDecoder(**SMALL, scheduled_sampling="linear", scheduled_sampling_options={"floor": 0.5})
    assert clone(model).get_params() == model.get_params()
    assert "floor" in repr(model)
    assert model.__sklearn_tags__().target_tags.required
    X, Y = pairs(33, seed=2)
    assert fitted["small"].score(X, Y) == pytest.approx(fitted["small"].score_samples(X, Y).mean(), rel=1e-14)
    with pytest.raises(chainrule.NotFittedError):
        model.predict(X)
    with pytest.raises(TypeError, match="verify checks densities of rows and of sequences, not p"):
        chainrule.verify(fitted["small"])


def test_nothing_and_only_ends():
    X, Y = pairs(5)
    model = EncoderDecoder(**SMALL).fit(X, Y)
    assert model.score_samples([], []).shape == (0,)
    assert model.predict([]) == model.sample([]) == model.beam_search([])[0] == []
    assert model.beam_search([])[1].shape == (0,)
    ends = EncoderDecoder(**SMALL).fit(X, [[]] * 5)
    assert ends.score(X, [[]] * 5) == 0  # the only y there is
    assert same([*ends.predict(X), *ends.beam_search(X)[0]], [[]] * 10)


# ---- bad input

X1, Y1 = [[0, 1, 2], [3]], [[0], [1, 2]]
BAD = {
    "an empty source": ([[0], []], Y1, "X must hold no empty sequence; sequence 1 is empty"),
    "a source too long": ([[0], [1] * 8], Y1, "X must have sequences of at most 7 tokens; sequence 1 has 8"),
    "a target too long": (X1, [[0], [1] * 4], "y must have sequences of at most 3 tokens; sequence 1 has 4"),
    "an unknown token": ([[0], [4]], Y1, "X must hold codes 0 to 3; sequence 1 has 4 at step 0"),
    "the end as a token": (X1, [[0], [1, 3]], "y must hold codes 0 to 2; sequence 1 has 3 at step 1"),
    "a negative token": (X1, [[0], [-1]], "y must hold codes 0 to 2; sequence 1 has -1 at step 0"),
    "NaN": (X1, [[0.0], [np.nan]], "y must be finite; sequence 1 has nan at step 0"),
    "NaN in X": ([[np.nan], [0.0]], Y1, "X must be finite; sequence 0 has nan at step 0"),
    "fractions": (X1, [[0.0], [0.5]], "y must hold integer codes; sequence 1 has fractions"),
    "other numbers of x and y": (X1, Y1[:1], "y must have 2 sequences, as X, not 1"),
    "no y": (X1, None, "y is missing"),
    "complex numbers": ([[0], [1j]], Y1, "X must hold numbers, not complex128"),
    "matrices": ([np.zeros((2, 2))] * 2, Y1, "X must hold sequences of one channel"),
    "text": (["ab", "c"], Y1, "X holds str, and the model was fitted to integers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_clear_error(fitted, case):
    X, Y, message = BAD[case]
    for call in (fitted["small"].score_samples, fitted["small"].gradient, fitted["small"].partial_fit):
        with pytest.raises(ValueError, match=message):
            call(X, Y)


def test_bad_calls_get_clear_errors(fitted):
    model, (X, Y) = fitted["small"], pairs(10)
    for options, message in (
        ({"n_heads": 3}, "width must be a multiple of n_heads = 3, not 8"),
        ({"norm": "both"}, "norm must be one of"),
        ({"positions": "none"}, "positions must be one of"),
        ({"activation": "tanh"}, "activation must be one of"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"n_layers": 0}, "n_layers must be an integer >= 1"),
        ({"max_target": 0}, "max_target must be an integer >= 1"),
        ({"max_source": 2}, "X must have sequences of at most 2 tokens"),
        ({"scheduled_sampling": "cosine"}, "scheduled_sampling must be one of None, 'linear'"),
        ({"scheduled_sampling": "linear", "scheduled_sampling_options": {"k": 2}}, "k must be above 0 and at most 1"),
        (
            {"scheduled_sampling": "exponential", "scheduled_sampling_options": {"c": 2}},
            "scheduled_sampling_options of 'exponential' must be one of 'k', not 'c'",
        ),
        ({"scheduled_sampling_options": {"k": 2}}, "scheduled_sampling_options are of a schedule by name"),
    ):
        with pytest.raises(ValueError, match=message):
            EncoderDecoder(**{**SMALL, **options}).fit(X, Y)
    with pytest.raises(ValueError, match="X is empty"):
        EncoderDecoder(**SMALL).fit([], [])
    with pytest.raises(ValueError, match="X_val is empty"):
        EncoderDecoder(**SMALL).fit(X, Y, X_val=[], y_val=[])
    with pytest.raises(ValueError, match="y_val is missing"):
        EncoderDecoder(**SMALL).fit(X, Y, X_val=X)
    with pytest.raises(ValueError, match="X is empty"):
        model.score([], [])
    with pytest.raises(ValueError, match="n_beams must be an integer >= 1"):
        model.beam_search(X, 0)
    with pytest.raises(ValueError, match="length_penalty must be a number > 0"):
        model.beam_search(X, length_penalty=-1)
    with pytest.raises(ValueError, match="start must be an integer >= 0"):
        model.sample(X, start=-1)
    with pytest.raises(ValueError, match="temperature"):
        model.sample(X, temperature=-1)
    with pytest.raises(ValueError, match="conditionals needs sequences y of one length"):
        model.conditionals(X1, Y1)


def test_weights_that_are_no_numbers_are_an_error_where_a_token_is_chosen(fitted):
    model, (X, Y) = copy.deepcopy(fitted["small"]), pairs(5)
    model.parameters_["down"][...] = np.nan
    assert np.isnan(model.score_samples(X, Y)).all()
    for call in (model.predict, model.sample, model.beam_search):
        with pytest.raises(FloatingPointError, match="logits are not finite"):
            call(X)


def test_inputs_are_left_alone(fitted):
    X, Y = pairs(10)
    for part in (*X, *Y):
        part.setflags(write=False)
    copies = [part.copy() for part in (*X, *Y)]
    EncoderDecoder(**SMALL).fit(X, Y)
    fitted["small"].score_samples(X, Y)
    assert same(copies, [*X, *Y])
