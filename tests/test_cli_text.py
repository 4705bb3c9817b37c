"""`chainrule fit transformer`, and `score` and `sample` of what it fits: text, bytes, rows of codes."""

import json
import os
import re
import sys
from pathlib import Path

import chainrule
import numpy as np
import pytest
from chainrule import cli
from chainrule.sequence_commands import RECIPES
from chainrule.text import Bytes, Characters, Subwords

LINE = "to be or not to be, that is the question.\n"
SMALL = ["--layers=1", "--heads=2", "--width=16", "--context=32", "--max-epochs=2"]
FIT = ["fit", "transformer", *SMALL]


def failed(result, code, *texts):
    assert (result[0], result[1]) == (code, "")
    assert result[2].splitlines()[-1].startswith("chainrule")
    for text in texts:
        assert text in result[2].splitlines()[-1]


@pytest.fixture
def poem(command):
    """A model of a text, as (command, the text)."""
    text = LINE * 30
    Path("poem.txt").write_text(text)
    code, out, err = command(*FIT, "poem.txt", "--sample-length=80")
    assert code == 0, err
    return command, text, out, err


def test_fit(poem, caplog):
    _, text, out, err = poem
    model, lines = chainrule.load("model.safetensors"), out.splitlines()
    assert lines[0].startswith("Transformer: 1134 characters; receptive field 32 characters;")  # the first 90 %
    assert lines[1].split() == ["bits", "per", "character", "validation"]
    assert [line[:28].strip() for line in lines[2:6]] == ["Transformer", "in nats", "unigram", "uniform"]
    nats = model.score_samples(text[1134:])[0] / 126
    assert float(lines[3].split()[-1]) == pytest.approx(nats, abs=6e-5)
    assert float(lines[2].split()[-1]) == pytest.approx(-nats / np.log(2), abs=6e-4)
    assert float(lines[5].split()[-1]) == pytest.approx(np.log2(len(set(text))), abs=6e-4)

    assert "train 1134 characters, validation 126 characters; 16 different characters" in err
    said = "\n".join(record.getMessage() for record in caplog.get_records("setup"))
    epochs = re.findall(r"epoch (\d), train (-\d+\.\d{4}), val (-\d+\.\d{4}), bits/character (\d+\.\d{3})", said)
    assert [epoch[0] for epoch in epochs] == ["1", "2"]
    assert max(float(epoch[2]) for epoch in epochs) == pytest.approx(nats, abs=6e-5)
    assert err.count("  | ") >= 2  # some text after every epoch

    drawn = Path("samples/sample.txt").read_text()
    assert len(drawn) == 80
    assert drawn.startswith(model.sample(1, 32, random_state=0)[0])  # the first window is the density's
    assert model.text_ == Characters("".join(sorted(set(text))))
    assert model.get_params()["schedule"] == "cosine"


def test_the_recipe_is_the_command_s_default(command):
    np.savez("rows.npz", train=np.eye(40, 9, dtype=np.uint8), valid=np.eye(9, dtype=np.uint8))
    arguments = ["--layers=1", "--heads=1", "--width=8", "--batch-size=20", "--patience=2", "--learning-rate=1e-9"]
    code, out, err = command("fit", "transformer", "rows.npz", *arguments, "--json", "--no-samples")
    assert code == 0, err
    result, model = json.loads(out), chainrule.load("model.safetensors")
    assert (result["receptive_field"], result["recordings"]) == (9, {"train": 40, "validation": 9})
    assert {name: model.get_params()[name] for name in ("context_length", "warmup", "max_epochs", "n_values")} == {
        "context_length": 9, "warmup": 100, "max_epochs": 2500, "n_values": 2,
    }  # fmt: skip
    assert RECIPES[chainrule.Transformer]["optimizer_options"] == {"beta2": 0.99}


def test_rows_of_codes(command):
    np.savez("rows.npz", train=np.eye(12, 9, dtype=np.uint8), test=np.eye(9, dtype=np.uint8))
    code, out, err = command("fit", "transformer", "rows.npz", *SMALL, "--context=9")
    assert code == 0, err
    lines, model = out.splitlines(), chainrule.load("model.safetensors")
    assert lines[1].split() == ["bits", "per", "code", "validation", "test"]
    nats = model.score_samples(np.eye(9, dtype=np.uint8))
    error = nats.std(ddof=1) / 3
    assert lines[3].startswith("nats per sequence ")
    assert lines[3].endswith(f"{nats.mean():.2f} ± {error:.2f}")
    assert (np.load("samples/samples.npy") == model.sample(1, 9, random_state=0)).all()
    assert command("sample", "model.safetensors", 3, "--output", "exact.npy")[0] == 0
    assert (np.load("exact.npy") == model.sample(3, random_state=0)).all()
    np.save("given.npy", [[1, 1]])
    arguments = ["--given", "given.npy", "--length=7", "--top-k=1", "--output=likely.csv", "--json"]
    code, out, err = command("sample", "model.safetensors", 2, *arguments)
    assert code == 0, err
    assert json.loads(out)["length"] == 7
    greedy = np.concatenate([[1, 1], model.generate([[1, 1]], 5, temperature=0)[0]])
    assert (np.loadtxt("likely.csv", delimiter=",", skiprows=1) == greedy).all()


def test_rows_of_levels(command):
    np.savez("rows.npz", train=np.arange(12)[:, None] + np.arange(9), test=np.eye(9, dtype=np.uint8))
    given = ["rows.npz", *SMALL, "--context=9", "--conditional=logistic-mixture", "--n-components=2"]
    code, out, err = command("fit", "transformer", *given)
    assert code == 0, err
    model = chainrule.load("model.safetensors")
    assert (model.n_values, model.n_components) == (20, 2)
    assert f" {model.score(np.eye(9, dtype=np.uint8)):.2f} ± " in out
    code, out, err = command("sample", "model.safetensors", 3, "--output", "drawn.npy")
    assert code == 0, err
    assert (np.load("drawn.npy") == model.sample(3, random_state=0)).all()
    failed(command("sample", "model.safetensors", 3, "--top-k=1", "--output", "drawn.npy"), 1, "which levels lack")
    Path("poem.txt").write_text("to be or not to be")
    refused = command("fit", "transformer", "poem.txt", "--conditional=logistic-mixture")
    failed(refused, 2, "does not go with poem.txt, which is text: categorical")


def test_sample(poem):
    command, _, _, _ = poem
    model = chainrule.load("model.safetensors")
    sample = ["sample", "model.safetensors", "--length=60"]
    choice = {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "sliding": True, "random_state": 7}
    options = ["--temperature=0.8", "--top-k=9", "--top-p=0.9", "--seed=7", "--prompt", "to be"]
    code, out, _ = command(*sample, *options)
    expected = ["to be" + model.generate("to be", 55, start=k, **choice)[0] for k in range(3)]
    assert (code, out) == (0, expected[0] + "\n")
    assert command(*sample, *options, "--start=2")[1] == expected[2] + "\n"
    assert command(*sample, *options, 3)[1] == "".join(f"{text}\n" for text in expected)
    code, out, _ = command(*sample, *options, 3, "--output", "drawn.txt")
    assert Path("drawn.txt").read_text() == "".join(f"{text}\n" for text in expected)
    assert out.startswith("3 of 60 characters, in ")
    Path("prompt.txt").write_text("to be")
    assert command(*sample, *options[:-2], "--given", "prompt.txt")[1] == expected[0] + "\n"
    code, out, _ = command(*sample, "--temperature=0")
    assert out == model.generate("", 60, temperature=0, sliding=True)[0] + "\n"
    assert command(*sample, 0)[:2] == (0, "")

    failed(command(*sample, "--prompt", "to be" * 12), 1, "--length 60 counts what is given, which has 60 already")
    failed(command(*sample, "--prompt", "für"), 1, "--prompt has characters the model does not know: ['f', 'ü']")
    failed(command(*sample, "--prompt", "to", "--given", "prompt.txt"), 2, "in the place of --given")
    failed(command(*sample, "--top-p=2"), 1, "top_p")
    failed(command(*sample, "--json"), 2, "--json")
    failed(command(*sample, "--label", "7"), 2, "--label")


def test_score(poem):
    command, text, _, _ = poem
    model = chainrule.load("model.safetensors")
    code, out, _ = command("score", "model.safetensors", "poem.txt")
    nats = model.score_samples(text)[0]
    bits = -nats / len(text) / np.log(2)
    assert code == 0
    assert out.startswith(
        f"1260 characters: {bits:.3f} bits per character ({nats / len(text):.4f} nats), {nats:.1f} nats"
    )
    Path("greek.txt").write_text("αβγ", encoding="utf-8")
    failed(command("score", "model.safetensors", "greek.txt"), 1, "characters the model does not know")
    np.save("codes.npy", np.zeros(5, int))
    failed(command("score", "model.safetensors", "codes.npy"), 1, "'codes.npy' is not text, and the model's data were")


def test_bytes(command):
    Path("verse").write_bytes("für élise\n".encode() * 40)
    code, out, err = command(*FIT, "verse", "--bytes", "--valid-fraction=0.2")
    assert code == 0, err
    model = chainrule.load("model.safetensors")
    assert model.text_ == Bytes()
    assert "Transformer: 384 bytes; receptive field 32 bytes;" in out
    assert "uniform                     8.000" in out
    nats = model.score_samples(Path("verse").read_bytes()[-96:])[0] / 96
    assert f"in nats                     {nats:.4f}" in out
    new = model.generate(["für".encode()], 36, sliding=True, random_state=0)[0]
    sample = ["sample", "model.safetensors", "--length=40", "--prompt=für"]
    assert command(*sample)[1] == ("für".encode() + new).decode(errors="replace") + "\n"
    assert command(*sample, "--output=drawn")[0] == 0
    assert Path("drawn").read_bytes() == "für".encode() + new + b"\n"
    assert "40 bytes" in command(*sample, "--output=drawn")[1]
    assert command("score", "model.safetensors", "verse")[1].startswith("480 bytes: ")


def test_a_tokenizer(command, monkeypatch):
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers (the extra `text`) is not installed")
    text = "to be or not to be, für élise\n" * 40
    Path("poem.md").write_text(text, encoding="utf-8")
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([text], vocab_size=280, show_progress=False)
    made.save("tokenizer.json")
    fit = [*FIT, "poem.md", "--tokenizer=tokenizer.json"]
    code, out, err = command(*fit)
    assert code == 0, err
    model, codes = chainrule.load("model.safetensors"), made.encode(text).ids
    assert model.text_ == Subwords.of(made)
    n = round(0.9 * len(codes))
    assert f"train {n} tokens, validation {len(codes) - n} tokens; {model.n_values_} different tokens" in err
    nats, n_bytes = model.score_samples(codes[n:])[0], len(made.decode(codes[n:]).encode())
    assert f"in nats                     {nats / (len(codes) - n):.4f}\n" in out
    assert f"bits per byte               {-nats / np.log(2) / n_bytes:.3f}\n" in out
    assert (
        f" {-model.score_samples(text)[0] / np.log(2) / len(text.encode()):.3f} per byte"
        in (command("score", "model.safetensors", "poem.md")[1])
    )
    new = model.generate("to be", 20, sliding=True, random_state=0)[0]
    length = 20 + len(made.encode("to be").ids)
    sample = ["sample", "model.safetensors", f"--length={length}", "--prompt=to be"]
    assert command(*sample)[1] == f"to be{new}\n"
    assert f"1 of {length} tokens" in command(*sample, "--output=drawn.txt")[1]
    assert Path("drawn.txt").read_text(encoding="utf-8") == f"to be{new}\n"

    failed(command(*fit[:-1], "--tokenizer=poem.md"), 1, "'poem.md' is not a tokenizer's file")
    failed(command(*fit[:-1], "--tokenizer=none"), 1, "there is no file 'none'")
    failed(command(*fit, "--bytes"), 2, "--bytes")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    failed(command(*fit), 1, '--tokenizer needs tokenizers: pip install "chainrule[text]"')


def test_a_checkpoint_goes_on_to_the_same_bits(poem):
    command, _, _, _ = poem
    whole = Path("model.safetensors").read_bytes()
    stopping = [*FIT, "poem.txt", "--checkpoint=c", "--quiet", "--no-samples"]
    assert command(*stopping, "--max-seconds=0.000001")[0] == 0
    assert chainrule.load("model.safetensors").stopped_ == "max_seconds"
    assert command(*stopping)[0] == 0
    model = chainrule.load("model.safetensors")
    assert model.stopped_ == "max_epochs"
    assert os.path.exists("c")
    assert len(whole) == Path("model.safetensors").stat().st_size or model.history_["epoch"] == [1, 2]


def test_every_option_is_offered(command):
    code, text, _ = command("fit", "transformer", "--help")
    assert code == 0
    assert "example:\n  chainrule fit transformer text.txt" in text
    for parameter in chainrule.Transformer._parameter_names():
        offered = re.search(rf"(^  |, )--{parameter.replace('_', '-')}[ ,\n]", text, re.M) is not None
        assert offered != (parameter in (*cli.PYTHON_ONLY, *cli.NOT_RECORDED)), parameter
    for short in ("--layers", "--heads", "--context", "--seed", "--bytes", "--tokenizer"):
        assert f" {short}" in text


@pytest.mark.parametrize(
    ("arguments", "code", "texts"),
    [
        (["nothing.txt"], 1, ["no file or folder 'nothing.txt'"]),
        (["poem.txt", "--width", "15"], 1, ["width must be a multiple of n_heads = 2, not 15"]),
        (["poem.txt", "--context", "0"], 1, ["context_length must be an integer >= 1"]),
        (["poem.txt", "--conditional", "mu-law"], 2, ["text: categorical"]),
        (["poem.txt", "--valid", "rows.npy"], 1, ["not of one kind"]),
        (["poem.txt", "--valid", "greek.txt"], 1, ["'greek.txt' has characters the model does not know"]),
        (["poem.txt", "--dropout", "1"], 1, ["dropout must be at least 0 and below 1"]),
        (["poem.txt", "--norm", "none"], 2, ["--norm"]),
        (["rows.npy", "--n-values", "2"], 1, ["X must hold codes 0 to 1"]),
        (["poem.txt", "--output", "no/where"], 1, ["there is no folder"]),
    ],
)
def test_errors_leave_no_files(command, arguments, code, texts):
    Path("poem.txt").write_text(LINE * 9)
    Path("greek.txt").write_text("αβγ", encoding="utf-8")
    np.save("rows.npy", np.arange(12).reshape(4, 3))
    before = sorted(os.listdir())
    failed(command("fit", "transformer", "--layers=1", "--heads=2", "--width=16", *arguments), code, *texts)
    assert sorted(os.listdir()) == before


def test_wavenet_has_no_prompts(command):
    Path("poem.txt").write_text(LINE * 9)
    model = chainrule.WaveNet(4, 4, dilations=(1, 2), n_stacks=1, conditional="categorical", crop=50, max_epochs=1)
    model.fit(LINE * 9).save("w.safetensors")
    failed(
        command("sample", "w.safetensors", "--prompt", "to"), 2, "--prompt, --top-k and --top-p are for Transformers"
    )
    failed(command("sample", "w.safetensors", "--top-k", "3"), 2, "WaveNet is not")
    chainrule.NADE(n_hidden=2, max_epochs=1).fit(np.eye(4)).save("rows.safetensors")
    failed(command("sample", "rows.safetensors", 3, "--top-k", 5), 2, "--top-k is for models of sequences", "NADE")
