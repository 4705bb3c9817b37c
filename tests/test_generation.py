"""Prompts continued: batches of any lengths, choices, stops, streams, beyond the context, bad input."""

import copy

import numpy as np
import pytest
from chainrule import Transformer, kernels, random
from chainrule.models import generation
from reference import transformer as reference

V, T = 11, 16
SMALL = {
    "n_layers": 2, "n_heads": 2, "width": 16, "context_length": T, "n_values": V, "max_epochs": 1, "random_state": 3,
    "dtype": "float64",
}  # fmt: skip
PROMPTS = [[3], [1, 2, 3, 4, 5], [7, 7], [10, 0, 10, 0, 10, 0, 10], [4] * 9]


def made(**changes):
    model = Transformer(**{**SMALL, **changes}).fit(np.arange(200) * 7 % V)
    rng = np.random.default_rng(0)
    for array in model.parameters_.values():
        array += rng.normal(0, 0.8 * array.shape[-2] ** -0.5 if array.ndim > 2 else 0.3, array.shape)
    return model


@pytest.fixture(scope="module")
def model():
    return made()


def logits(model, tokens):
    """After the last token, by the whole network on all of them."""
    state = model._new_state(1, T)
    return model._step(model._network(), np.array([tokens], np.int32), 0, state)[0, -1]


CHOICES = {
    "plain": {},
    "greedy": {"temperature": 0.0},
    "cold": {"temperature": 0.4},
    "top k": {"top_k": 3},
    "top p": {"top_p": 0.6},
    "both, hot": {"top_k": 5, "top_p": 0.8, "temperature": 1.7},
    "top p of nothing": {"top_p": 0.0},
}


@pytest.mark.parametrize("name", CHOICES)
def test_tokens_are_drawn_from_the_whole_networks_logits(model, name):
    choice = CHOICES[name]
    found = model.generate(PROMPTS, 7, random_state=5, start=2, **choice)
    u = random.uniform_steps(random.key_of(5), 2, len(PROMPTS), 0, 7)
    for row, prompt in enumerate(PROMPTS):
        tokens = list(prompt)
        for k in range(7):
            tokens.append(reference.choose(logits(model, tokens), u[row, k], **choice))
        assert found[row].tolist() == tokens[len(prompt) :]
        assert found[row].dtype == np.int32


def test_a_row_depends_on_nothing_beside_it(model):
    together = model.generate(PROMPTS, 8, random_state=5)
    for row, prompt in enumerate(PROMPTS):
        (alone,) = model.generate(prompt, 8, random_state=5, start=row)
        assert (alone == together[row]).all()
        assert (model.generate([prompt], 5, random_state=5, start=row)[0] == alone[:5]).all()
    for n_threads in (1, 3):
        other = copy.deepcopy(model).set_params(n_threads=n_threads)
        again = other.generate(PROMPTS, 8, random_state=5)
        assert all((a == b).all() for a, b in zip(again, together, strict=True))
    many = model.generate([[1]] * 40, 8, random_state=5)
    assert len({tuple(row.tolist()) for row in many}) > 30
    assert not all((a == b).all() for a, b in zip(model.generate(PROMPTS, 8, random_state=6), together, strict=True))


def test_what_has_not_begun_is_a_sample(model):
    """An empty prompt sees what the first step of a sequence sees; the same uniforms give the same tokens."""
    drawn = model.sample(3, T, random_state=5)
    found = model.generate([[], [], []], T, random_state=5)
    assert (np.stack(found) == drawn).all()


def test_streams(model):
    found = model.generate(PROMPTS, 8, random_state=5, stop=[2, 5])
    stream = np.stack(list(model.generate_stream(PROMPTS, 8, random_state=5, stop=[2, 5])), axis=1)
    assert stream.dtype == np.int32
    for row, tokens in zip(stream, found, strict=True):
        assert (row[: len(tokens)] == tokens).all()
        assert (row[len(tokens) :] == -1).all()
    assert stream.shape[1] == max(map(len, found))
    first = next(model.generate_stream(PROMPTS, 8, random_state=5))  # as it is made
    assert (first == stream[:, 0]).all()


@pytest.mark.parametrize("stop", [2, [2], (2, 5), range(4), np.arange(V)])
def test_stops(model, stop):
    """A row ends with the first stop, and those that go on are not moved by it."""
    prompts = PROMPTS * 4
    free, found = (model.generate(prompts, 8, random_state=5, stop=s) for s in ((), stop))
    wanted = set(np.atleast_1d(np.asarray(stop)).tolist())
    for whole, part in zip(free, found, strict=True):
        at = next((k for k, token in enumerate(whole.tolist()) if token in wanted), 7)
        assert part.tolist() == whole[: at + 1].tolist()


def windows(tokens):
    """What the window of a sliding generation holds after so many tokens."""
    shift = T - T // 2
    over = max(len(tokens) - T, 0)
    return tokens[-(-over // shift) * shift :]


def test_beyond_the_context(model):
    """The window that a token sees begins where the number of tokens says; prompts may be longer than it."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, V, n).tolist() for n in (1, 5, T - 1, T, T + 1, 2 * T, 40)]
    found = model.generate(prompts, 50, random_state=5, sliding=True)
    u = random.uniform_steps(random.key_of(5), 0, len(prompts), 0, 50)
    for row, prompt in enumerate(prompts):
        tokens = list(prompt)
        for k in range(50):
            assert T // 2 < len(windows(tokens)) <= T or len(tokens) <= T // 2
            tokens.append(reference.choose(logits(model, windows(tokens)), u[row, k]))
        assert found[row].tolist() == tokens[len(prompt) :]
    greedy = model.generate(prompts[2], 40, temperature=0, sliding=True)[0]
    cut = [*prompts[2], *greedy[:23].tolist()]  # continued from where it was
    assert (model.generate(cut, 17, temperature=0, sliding=True)[0] == greedy[23:]).all()
    stopped = model.generate(prompts, 50, random_state=5, sliding=True, stop=[0])
    for whole, part in zip(found, stopped, strict=True):
        assert (whole[: len(part)] == part).all()


@pytest.mark.parametrize("context_length", [1, 2, 3])
def test_small_windows(context_length):
    small = made(context_length=context_length)
    found = small.generate([[1], [2, 3, 4, 5]], 20, random_state=0, sliding=True)
    assert [len(row) for row in found] == [20, 20]
    assert (small.generate([2, 3, 4, 5], 20, random_state=0, start=1, sliding=True)[0] == found[1]).all()


def test_a_full_window_is_enough(model):
    (found,) = model.generate([1] * T, 1, random_state=0)
    assert len(found) == 1
    assert len(model.generate([1, 2], T - 1, random_state=0)[0]) == T - 1
    with pytest.raises(
        ValueError, match="prompts and max_new_tokens must fit context_length = 16: prompt 1 of 2 tokens"
    ):
        model.generate([[1], [1, 2]], T, random_state=0)
    with pytest.raises(ValueError, match="sliding=True goes on beyond it"):
        model.generate([1] * (T + 1), 1)


def test_text():
    text = "to be or not to be, that is the question. " * 8
    model = Transformer(1, 2, 16, 16, max_epochs=2, random_state=0).fit(text)
    found = model.generate(["to be", "", "that"], 9, random_state=1)
    assert [type(row) for row in found] == [str] * 3
    assert [len(row) for row in found] == [9, 9, 9]
    assert model.generate("to be", 9, random_state=1) == found[:1]
    assert [
        "".join(row) for row in zip(*model.generate_stream(["to be", "", "that"], 9, random_state=1), strict=True)
    ] == found
    stopped = model.generate(["to be", "", "that"], 9, random_state=1, stop=" o")
    assert all(len(row) == 9 or row[-1] in " o" for row in stopped)
    assert all(not set(row[:-1]) & set(" o") for row in stopped)
    assert model.generate(["to be", "", "that"], 9, random_state=1, stop=[" ", "o"]) == stopped
    parts = list(model.generate_stream(["to be", "", "that"], 9, random_state=1, stop=" o"))
    assert ["".join(row) for row in zip(*parts, strict=True)] == stopped
    codes = model.text_.encode("to be")
    assert model.generate([codes], 9, random_state=1) == found[:1]
    for call, message in (
        (lambda: model.generate("Zebra", 3), r"prompts has characters the model does not know: \['Z'\]"),
        (lambda: model.generate(b"to", 3), "prompts holds bytes, and the model was fitted to str"),
        (lambda: model.generate("to", 3, stop="Z"), r"stop has characters the model does not know"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    raw = Transformer(1, 2, 16, 16, max_epochs=1, random_state=0).fit(text.encode())
    assert [type(row) for row in raw.generate([b"to", b""], 3, stop=b"\n")] == [bytes, bytes]


def test_packed_weights_continue_too(model):
    for format in ("bf16", "int8"):
        packed = model.pack(format)
        together = packed.generate(PROMPTS, 8, random_state=5)
        for row, prompt in enumerate(PROMPTS):
            assert (packed.generate(prompt, 8, random_state=5, start=row)[0] == together[row]).all()


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, r"prompts must hold at least one prompt; one that is empty is \[\[\]\]"),
        ([[1], [], [1, V]], {}, "prompts must hold codes 0 to 10; sequence 2 has 11 at step 1"),
        ([[-1]], {}, "prompts must hold codes 0 to 10; sequence 0 has -1 at step 0"),
        ([[0.5]], {}, "prompts must hold integer codes"),
        ([[np.nan]], {}, "prompts must be finite"),
        (np.zeros((2, 2, 2)), {}, "prompts must hold sequences of one channel"),
        ("to", {}, "prompts holds str, and the model was fitted to integers"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens must be an integer >= 1, not 0"),
        ([[1]], {"max_new_tokens": 2.5}, "max_new_tokens must be"),
        ([[1]], {"temperature": -1.0}, "temperature must be"),
        ([[1]], {"temperature": np.nan}, "temperature must be"),
        ([[1]], {"top_k": -1}, "top_k must be"),
        ([[1]], {"top_p": 1.5}, "top_p must be"),
        ([[1]], {"top_p": np.nan}, "top_p must be"),
        ([[1]], {"stop": [V]}, "stop must hold codes 0 to 10"),
        ([[1]], {"stop": "\n"}, "stop holds str, and the model was fitted to integers"),
        ([[1]], {"start": -1}, "start must be"),
        ([[1]], {"random_state": "seven"}, "random_state must be"),
    ],
)
def test_bad_calls(model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate(prompts, **{"max_new_tokens": 3, **options})
    with pytest.raises(ValueError, match=message):
        next(model.generate_stream(prompts, **{"max_new_tokens": 3, **options}))


def test_no_token_from_what_is_no_number():
    z = np.zeros((2, 5), np.float32)
    assert generation.draw(z, np.full(2, 0.5)).tolist() == kernels.softmax_sample(z, np.full(2, 0.5)).tolist()
    for bad in (np.nan, np.inf, -np.inf):
        z[1, 3] = bad
        with pytest.raises(FloatingPointError, match="logits are not finite"):
            generation.draw(z, np.full(2, 0.5))
