"""Text as codes and back, and models of the tokens of a tokenizer."""

import pickle
import sys

import chainrule
import numpy as np
import pytest
from chainrule import Transformer, text
from chainrule.io import read_safetensors

WORDS = "the naïve café has tea ☕ and cake 🍰, the naïve tea house has none. " * 20


def test_characters():
    known = text.Characters.of(["abba", "cab", "é\n"])
    assert known.symbols == "\nabcé"
    assert known.n_values == 5
    codes = known.encode("abé")
    assert codes.dtype == np.int32
    assert codes.tolist() == [1, 2, 4]
    assert known.decode(codes) == "abé"
    assert known.encode("").shape == (0,)
    with pytest.raises(ValueError, match=r"it has characters the model does not know: \['x', 'y'\]"):
        known.encode("axby", "it")


@pytest.mark.parametrize("known", [None, text.Characters("ab"), text.Bytes(), text.Subwords("{}", 9)])
def test_said_and_read(known):
    assert text.read(text.said(known)) == known


@pytest.mark.parametrize("X", [3, [1, 2], np.array(["a"]), None, [], [["a"]]])
def test_what_is_no_text(X):
    assert not text.is_text(X)
    assert text.text_of(X) is None


@pytest.mark.parametrize("tokenizer", ["gpt2", 3, object()])
def test_what_is_no_tokenizer(tokenizer):
    with pytest.raises(ValueError, match=r"tokenizer must be text.Characters, text.Bytes or a Tokenizer"):
        Transformer(1, 1, 4, 4).fit("ab", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def pairs():
    """A tokenizer of byte pairs, learnt from some words."""
    tokenizers = pytest.importorskip("tokenizers", reason="the tokenizers library is not installed")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=270, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|end|>"],
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([WORDS], trainer)
    made.enable_truncation(5)  # must not cut what a model reads
    made.enable_padding(length=50)
    return made


def test_byte_pairs(pairs):
    known = text.Subwords.of(pairs)
    assert known.n_values == 270
    codes = known.encode(WORDS)
    assert 5 < len(codes) < len(WORDS.encode())
    assert known.decode(codes) == WORDS
    assert known.encode("<|end|>").tolist() == [0]
    assert known.decode(np.array([0])) == "<|end|>"
    assert pickle.loads(pickle.dumps(known)) == known


def test_pieces_are_whole_characters(pairs):
    """However the tokens of a character come, what has been said is a prefix of the text."""
    known = text.Subwords.of(pairs)
    whole = "café 🍰 日本 é"
    codes, spoken, said = known.encode(whole), text.Spoken(known), []
    for k, code in enumerate(codes):
        said.append(spoken.add(np.array([code]), k + 1 == len(codes)))
        assert whole.startswith("".join(said))
        assert "\ufffd" not in said[-1]
    assert "".join(said) == whole
    assert "" in said
    cut = known.encode("🍰")[:-1]  # a character that never ends
    spoken = text.Spoken(known)
    assert spoken.add(cut, False) == ""
    assert spoken.add(cut[:0], True) == known.decode(cut)


def test_words_stand_apart_from_the_prompt():
    """A tokenizer that joins words with spaces puts one between a prompt and what follows it, streamed or not."""
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"tea": 0, "cake": 1, "scone": 2}, unk_token="tea"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model = Transformer(1, 1, 8, 16, max_epochs=2, random_state=0).fit("tea cake scone cake " * 9, tokenizer=words)
    found = model.generate(["tea cake", "scone"], 5, random_state=0)
    assert all(row.startswith(" ") and row.split(" ")[0] == "" and len(row.split()) == 5 for row in found)
    parts = list(model.generate_stream(["tea cake", "scone"], 5, random_state=0))
    assert ["".join(row) for row in zip(*parts, strict=True)] == found


def test_a_model_of_byte_pairs(pairs, tmp_path):
    model = Transformer(1, 2, 16, 32, max_epochs=3, random_state=0).fit(WORDS, X_val="the tea", tokenizer=pairs)
    assert model.n_values_ == 270
    codes = model.text_.encode(WORDS)
    assert model.score_samples(WORDS).tobytes() == model.score_samples(codes).tobytes()
    assert model.score_samples(["日本", "x"]).shape == (2,)  # any text has tokens
    found = model.generate(["the ", ""], 12, random_state=1)
    assert [type(row) for row in found] == [str, str]
    parts = list(model.generate_stream(["the ", ""], 12, random_state=1))
    assert ["".join(row) for row in zip(*parts, strict=True)] == found
    assert all(isinstance(row, str) for row in model.sample(2, 9, random_state=0))
    stopped = model.generate(["the "] * 20, 12, random_state=1, stop=list(range(200)))
    streamed = zip(*model.generate_stream(["the "] * 20, 12, random_state=1, stop=list(range(200))), strict=True)
    assert ["".join(row) for row in streamed] == stopped
    model.save(tmp_path / "model")
    assert "tokenizer" in read_safetensors(tmp_path / "model")[1]["chainrule"]
    loaded = chainrule.load(tmp_path / "model")
    assert loaded.generate(["the ", ""], 12, random_state=1) == found
    again = Transformer(1, 2, 16, 32, max_epochs=3, random_state=0).fit(codes, tokenizer=model.text_)
    assert again.score_samples(WORDS).shape == (1,)
    with pytest.raises(ValueError, match="X must hold codes 0 to 269; sequence 0 has 270 at step 0"):
        Transformer(1, 2, 16, 32).fit([270], tokenizer=pairs)


def test_without_the_library(pairs, monkeypatch):
    model = Transformer(1, 1, 8, 8, max_epochs=1).fit(WORDS, tokenizer=pairs)
    text._tokenizer.cache_clear()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r'needs tokenizers: pip install "chainrule\[text\]"'):
        model.score_samples("tea")
    assert model.score_samples([1, 2]).shape == (1,)
