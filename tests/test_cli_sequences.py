"""`chainrule fit wavenet`, and `score` and `sample` of what it fits: sound, text, codes."""

import json
import os
from pathlib import Path

import chainrule
import numpy as np
import pytest
from chainrule import NADE, audio, cli

pytest.importorskip("soundfile", reason="soundfile (the extra `audio`) is not installed")
pytest.importorskip("matplotlib", reason="matplotlib (the extra `app`) is not installed")

SMALL = ["--channels=4", "--skip-channels=4", "--dilations=1,2,4", "--stacks=1", "--max-epochs=1", "--crop=200"]
FIT = ["fit", "wavenet", *SMALL]


def failed(result, code, *texts):
    assert (result[0], result[1]) == (code, "")
    assert result[2].splitlines()[-1].startswith("chainrule")
    for text in texts:
        assert text in result[2].splitlines()[-1]


def tone(n, digit=0):
    return (9000 * np.sin(2 * np.pi * (300 + 100 * digit) * np.arange(n) / 8000)).astype(np.int16)


def save_digits(path="digits.npz", n_values=3):
    arrays = {"sample_rate": 8000, "speakers": ["ann", "bo"]}
    for part, n in (("train", 6), ("valid", 3), ("test", 3)):
        digits = np.arange(n) % n_values
        signals = [tone(200 + 10 * k, digit) for k, digit in enumerate(digits)]
        arrays |= {
            part: np.concatenate(signals), f"{part}_offsets": np.cumsum([0, *map(len, signals)]),
            f"{part}_digit": digits, f"{part}_speaker": digits % 2,
        }  # fmt: skip
    np.savez(path, **arrays)


def test_fit_on_labelled_recordings(command):
    save_digits()
    code, out, err = command(*FIT, "digits.npz", "--output", "m.safetensors", "--samples", "drawn")
    assert code == 0, err
    model = chainrule.load("m.safetensors")
    lines = out.splitlines()
    assert lines[0].startswith("WaveNet: 6 recordings (0.2 s) of 8000 samples per second, told the digit (0, 1, 2);")
    field = model.receptive_field_
    assert f"receptive field {field} samples ({field / 8:.1f} ms)" in lines[0]
    assert lines[1].split() == ["bits", "per", "sample", "validation", "test"]
    kinds = ["WaveNet", "FLAC, recordings joined", "linear prediction, order 2", "unigram", "uniform"]
    assert [line[:28].strip() for line in lines[2:7]] == kinds
    assert lines[6].split()[1:] == ["8.000", "8.000"]
    assert "train 6 recordings (0.2 s), validation 3" in err
    assert sorted(os.listdir("drawn")) == ["digit-0.wav", "digit-1.wav", "digit-2.wav", "spectrograms.png"]
    assert Path("drawn/spectrograms.png").read_bytes()[:4] == b"\x89PNG"
    context = np.eye(3, dtype=np.float32)
    drawn = model.sample(3, length=225, context=context, random_state=0)
    for k in range(3):
        read = audio.read_recordings(f"drawn/digit-{k}.wav")
        assert read.rate == 8000
        assert (read.signals[0] == audio.to_int16(drawn[k])).all()

    parts = audio.read_splits("digits.npz")
    nats = model.score_samples(parts["test"].signals, context=context)
    bits = -nats.sum() / parts["test"].n_samples / np.log(2)
    assert float(lines[2].split()[4]) == pytest.approx(bits, abs=6e-4)
    code, out, _ = command("score", "m.safetensors", "digits.npz", "--array", "test", "--output", "s.npy", "--json")
    assert code == 0
    assert json.loads(out)["bits_per_sample"] == pytest.approx(bits, rel=1e-12)
    assert (np.load("s.npy") == nats).all()


def test_fit_as_json(command):
    save_digits()
    code, out, err = command(*FIT, "digits.npz", "--context", "speaker", "--json", "--samples", "drawn")
    assert code == 0, err
    result = json.loads(out)
    assert result["recordings"] == {"train": 6, "validation": 3, "test": 3}
    assert result["context"] == [{"name": "speaker", "values": ["ann", "bo"]}]
    assert result["baselines"]["uniform"] == {"validation": 8.0, "test": 8.0}
    assert result["written"][:2] == [os.path.join("drawn", f"speaker-{name}.wav") for name in ("ann", "bo")]
    assert result["test"]["bits_per_sample"] > 0
    assert result["rate"] == 8000


def test_several_labels(command):
    save_digits()
    code, out, err = command(*FIT, "digits.npz", "--context", "digit,speaker", "--samples", "drawn")
    assert code == 0, err
    assert ", told the digit (0, 1, 2) and the speaker (ann, bo);" in out
    names = ["digit-0-speaker-ann", "digit-1-speaker-bo", "digit-2-speaker-ann"]
    assert sorted(os.listdir("drawn")) == [*(f"{name}.wav" for name in names), "spectrograms.png"]
    model = chainrule.load("model.safetensors")
    context = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 1, 1, 0]], np.float32)
    drawn = model.sample(3, length=225, context=context, random_state=0)
    for name, row in zip(names, drawn, strict=True):
        assert (audio.read_recordings(f"drawn/{name}.wav").signals[0] == audio.to_int16(row)).all()
    code, out, _ = command("score", "model.safetensors", "digits.npz", "--array", "test", "--output", "s.npy", "--json")
    assert code == 0
    nats = model.score_samples(audio.read_splits("digits.npz")["test"].signals, context=context)
    assert (np.load("s.npy") == nats).all()

    sample = ["sample", "model.safetensors", "--length", 60, "--output", "one.wav"]
    assert command(*sample, "--label", "2,bo")[0] == 0
    expected = model.sample(1, length=60, context=[[0, 0, 1, 0, 1]], random_state=0)[0]
    assert (audio.read_recordings("one.wav").signals[0] == audio.to_int16(expected)).all()
    assert command("score", "model.safetensors", "one.wav", "--label", "2,bo")[0] == 0
    failed(command(*sample, "--label", "2"), 1, "digit,speaker", "2 values")
    failed(command(*sample, "--label", "2,cy"), 1, "speaker 'cy' is not one", "ann, bo")


@pytest.mark.parametrize(("conditional", "bits"), [("mu-law", 8), ("logistic-mixture", 16)])
def test_fit_on_a_folder_of_sound(command, conditional, bits):
    if conditional not in command("fit", "wavenet", "--help")[1]:
        pytest.skip(f"WaveNet has no conditional {conditional!r}")
    os.mkdir("calls")
    for k in range(5):
        audio.write_wav(f"calls/{k}.wav", tone(150 + k), 8000)
    code, out, err = command(*FIT, "calls", "--conditional", conditional, "--sample-length=50")
    assert code == 0, err
    assert f"{'uniform':<28}{bits}.000" in out
    assert sorted(os.listdir("samples")) == [*(f"sample-{k}.wav" for k in range(4)), "spectrograms.png"]
    assert len(audio.read_recordings("samples/sample-0.wav").signals[0]) == 50
    audio.write_wav("other.wav", tone(90), 8000)
    code, out, err = command(*FIT, "calls", "--valid", "other.wav", "--no-samples", "--test-fraction=0", "--json")
    assert code == 0, err
    assert json.loads(out)["recordings"] == {"train": 5, "validation": 1}
    assert json.loads(out)["written"] == []


def test_text(command):
    Path("poem.txt").write_text("to be or not to be, that is the question.\n" * 30)
    code, out, err = command(*FIT, "poem.txt", "--sample-length=80")
    assert code == 0, err
    assert "WaveNet: 1008 characters; receptive field" in out  # the first 80 % of it
    assert out.splitlines()[1].startswith("bits per character")
    assert "unigram" in out
    assert "FLAC" not in out
    text = Path("samples/sample.txt").read_text()
    assert len(text) == 80
    assert set(text) <= set(Path("poem.txt").read_text())
    assert "drawn from the model:" in out
    code, out, _ = command("sample", "model.safetensors", "--length", "80")
    assert (code, out) == (0, text + "\n")
    Path("start.txt").write_text("to be")
    code, out, _ = command("sample", "model.safetensors", "--length", "20", "--given", "start.txt")
    assert code == 0
    assert out.startswith("to be")
    code, out, _ = command("score", "model.safetensors", "poem.txt")
    assert code == 0
    assert out.startswith("1260 characters: ")
    Path("greek.txt").write_text("αβγ", encoding="utf-8")
    failed(command("score", "model.safetensors", "greek.txt"), 1, "characters the model does not know")


def test_tables_of_codes(command):
    rows = np.random.default_rng(0).integers(0, 4, (12, 9))
    np.savez("codes.npz", train=rows, test=rows[:3])
    code, out, err = command(*FIT, "codes.npz")
    assert code == 0, err
    assert "WaveNet: 11 sequences (99 codes); " in out
    assert out.splitlines()[1].split() == ["bits", "per", "code", "validation", "test"]
    drawn = np.load("samples/samples.npy")
    assert drawn.shape == (1, 9)
    assert drawn.max() < 4
    assert chainrule.load("model.safetensors").n_values == 4
    code, out, _ = command("sample", "model.safetensors", 2, "--length", 5, "--output", "rows.csv")
    assert code == 0
    assert "2 of 5 codes" in out
    expected = chainrule.load("model.safetensors").sample(2, length=5, random_state=0)
    assert (np.loadtxt("rows.csv", delimiter=",", skiprows=1) == expected).all()


def test_levels(command):
    np.savez("levels.npz", train=np.arange(60).reshape(6, 10) * 11, test=np.arange(10)[None] + 300)
    code, out, err = command(*FIT, "levels.npz", "--conditional", "logistic-mixture", "--no-samples")
    assert code == 0, err
    assert "bits per code" in out
    model = chainrule.load("model.safetensors")
    assert model.n_values_ == 650
    assert command("sample", "model.safetensors", 2, "--output", "drawn.npy")[0] == 0
    assert (np.load("drawn.npy") == model.sample(2, random_state=0)).all()


def test_sample_and_score_sound(command):
    save_digits()
    assert command(*FIT, "digits.npz", "--quiet", "--no-samples")[:2] == (0, "")
    assert sorted(os.listdir()) == ["digits.npz", "model.safetensors"]
    sample = ["sample", "model.safetensors", "--length", 60]
    code, out, _ = command(*sample, 4, "--start", 2, "--output", "drawn")
    assert code == 0
    assert "4 of 0.01 s" in out
    assert sorted(os.listdir("drawn")) == [f"sample-{k}.wav" for k in range(2, 6)]
    assert command(*sample, "--label", 2, "--output", "one.wav")[0] == 0
    model = chainrule.load("model.safetensors")
    expected = model.sample(1, length=60, context=[[0, 0, 1]], random_state=0)[0]
    assert (audio.read_recordings("one.wav").signals[0] == audio.to_int16(expected)).all()
    assert command(*sample, 1, "--start", 2, "--output", "again.wav")[0] == 0  # the third has the third label
    expected = model.sample(1, length=60, context=[[0, 0, 1]], random_state=0, start=2)[0]
    assert (audio.read_recordings("again.wav").signals[0] == audio.to_int16(expected)).all()
    code, out, _ = command("score", "model.safetensors", "drawn", "--label", 1)
    assert code == 0
    assert out.startswith("4 recordings (0.0 s): ")

    failed(command("score", "model.safetensors", "drawn"), 1, "'drawn' has no label 'digit'")
    failed(command("score", "model.safetensors", "drawn", "--label", 7), 1, "digit '7' is not one", "0, 1, 2")
    failed(command("score", "model.safetensors", "drawn", "--rate", 16000), 2, "8000 samples per second")
    failed(command("score", "model.safetensors", "drawn", "--per-variable"), 2, "--per-variable")
    failed(command("score", "model.safetensors", "digits.npz", "--array", "tests"), 1, "no part 'tests'", "train")
    failed(command(*sample, 2, "--output", "two.wav"), 2, "one recording, not 2")
    failed(command(*sample, 1, "--image", "2x2", "a.png"), 2, "--image")


def test_info(command):
    save_digits()
    assert command(*FIT, "digits.npz", "--quiet", "--no-samples")[0] == 0
    code, out, _ = command("info", "model.safetensors")
    assert code == 0
    assert "WaveNet, receptive field 8, " in out
    assert json.loads(command("info", "model.safetensors", "--json")[1])["receptive_field"] == 8


def test_models_of_rows_refuse_options_of_sequences(command):
    NADE(n_hidden=2, max_epochs=1).fit(np.eye(4)).save("rows.safetensors")
    np.save("rows.npy", np.eye(4))
    failed(command("sample", "rows.safetensors", 3, "--length", 5), 2, "--length is for models of sequences", "NADE")
    failed(command("sample", "rows.safetensors", 3, "--temperature", 0.5), 2, "--temperature")
    failed(command("score", "rows.safetensors", "rows.npy", "--rate", 8000), 2, "--rate")


def test_every_option_is_offered(command):
    code, text, _ = command("fit", "wavenet", "--help")
    assert code == 0
    assert "example:\n  chainrule fit wavenet" in text
    assert "``" not in text
    for parameter in chainrule.WaveNet._parameter_names():
        offered = f"  --{parameter.replace('_', '-')} " in text or f", --{parameter.replace('_', '-')} " in text
        assert offered != (parameter in (*cli.PYTHON_ONLY, *cli.NOT_RECORDED)), parameter


@pytest.mark.parametrize(
    ("arguments", "code", "texts"),
    [
        (["nothing.npz"], 1, ["no file or folder 'nothing.npz'"]),
        (["digits.npz", "--context", "colour"], 1, ["no label 'colour'", "digit, speaker, none"]),
        (["digits.npz", "--context", "digit,colour"], 1, ["no label 'colour'", "digit, speaker, none"]),
        (["digits.npz", "--conditional", "categorical"], 2, ["sound: mu-law or logistic-mixture"]),
        (["poem.txt", "--conditional", "mu-law"], 2, ["text: categorical"]),
        (["digits.npz", "--rate", "16000"], 1, ["8000 samples per second, not rate = 16000"]),
        (["digits.npz", "--valid", "poem.txt"], 1, ["not of one kind"]),
        (["digits.npz", "--output", "no/where"], 1, ["there is no folder"]),
        (["digits.npz", "--samples", "no/where"], 1, ["there is no folder"]),
        (["digits.npz", "--samples", "poem.txt"], 1, ["'poem.txt' is not a folder"]),
        (["strange.npz"], 1, ["digit 9 is not one the model knows: 0, 1, 2"]),
        (["digits.npz", "--learning-rate", "-1"], 1, ["learning_rate must be a number > 0"]),
        (["digits.npz", "--dilations", "one"], 2, ["--dilations"]),
        (["unrated.npz"], 1, ["no sample_rate", "--rate"]),
    ],
)
def test_errors_leave_no_files(command, arguments, code, texts):
    save_digits()
    Path("poem.txt").write_text("to be or not to be\n" * 9)
    with np.load("digits.npz") as arrays:
        np.savez("strange.npz", **{**arrays, "test_digit": [0, 1, 9]})
        np.savez("unrated.npz", train=arrays["train"])
    before = sorted(os.listdir())
    failed(command("fit", "wavenet", *arguments), code, *texts)
    assert sorted(os.listdir()) == before
