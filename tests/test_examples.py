"""The examples run, say what they claim, and write their pictures."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

EXAMPLES = Path(__file__).parent.parent / "examples"
pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="the examples are not beside the tests")


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_anomalies(tmp_path, capsys):
    anomalies = load("anomalies")
    anomalies.main(["--max-seconds", "2", "--output", str(tmp_path / "anomalies.png")])
    printed = capsys.readouterr().out
    figures = {name: float(value) for name, value in re.findall(r"^  (\w[\w ]*?) +(\d\.\d+)$", printed, re.M)}
    assert figures.keys() == {"NADE", "independent pixels", "surprise", "repair gain"}
    assert figures["NADE"] > figures["independent pixels"] > 0.75
    assert min(figures["surprise"], figures["repair gain"]) > 0.4  # 0.047 by chance
    assert (tmp_path / "anomalies.png").read_bytes()[:4] == b"\x89PNG"


def test_the_measures_of_the_anomaly_example():
    anomalies = load("anomalies")
    images = np.zeros((50, 64), np.uint8)
    damaged, flips = anomalies.damage(images, 3, seed=0)
    assert (flips.sum(1) == 3).all()
    assert (damaged == flips).all()
    assert anomalies.auc(np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 2.0, 3.0])) == 3.5 / 4
    assert anomalies.found(flips.astype(float), flips, 3) == 1
    assert anomalies.found(-flips.astype(float), flips, 3) == 0


def test_draw_a_seven(tmp_path, capsys):
    load("draw_a_seven").main(["--max-seconds", "3", "--output", str(tmp_path / "digits.png")])
    printed = capsys.readouterr().out
    alone, given = (float(value) for value in re.findall(r"^  log p\(.*\) +(-\d+\.\d+)$", printed, re.M))
    assert given > alone + 0.5  # the digit's name is worth up to log 10 = 2.3 nats
    assert float(re.search(r"(\d+\.\d)% of 299", printed)[1]) > 80
    assert (tmp_path / "digits.png").read_bytes()[:4] == b"\x89PNG"


def test_masde_few_rows(tmp_path, capsys):
    example = load("masde_few_rows")
    example.main(["--sizes", "50", "100", "--max-epochs", "200", "--plot", str(tmp_path / "rows.png")])
    printed = capsys.readouterr().out
    scores = {
        int(n): [*map(float, rest.split())] for n, rest in re.findall(r"^ +(\d+)((?: +-\d+\.\d+){4})$", printed, re.M)
    }
    assert scores.keys() == {50, 100}
    assert all(later > earlier for earlier, later in zip(*scores.values(), strict=True))
    assert "MASDE beats MADE at [50" in printed
    assert (tmp_path / "rows.png").read_bytes()[:4] == b"\x89PNG"


def test_the_structures_of_the_masde_example():
    example = load("masde_few_rows")
    assert np.flatnonzero(example.grid(3, 1)[4]).tolist() == [1, 3, 5, 7]
    assert example.grid(5, 2)[12].sum() == 12
    assert (example.chain(4, 1) == np.eye(4, k=1) + np.eye(4, k=-1)).all()


def gpt2_checkpoint(folder):
    """A tiny GPT-2 with random weights, and a tokenizer of words."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers (the extra `text`) is not installed")
    words = {"[UNK]": 0, "The": 1, "statement": 2}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    rng, C = np.random.default_rng(0), 64
    shapes = {"wte.weight": (3, C), "wpe.weight": (64, C), "ln_f.weight": (C,), "ln_f.bias": (C,)}
    for name, n_in, n_out in (("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)):
        shapes |= {f"h.0.{name}.weight": (n_in * C, n_out * C), f"h.0.{name}.bias": (n_out * C,)}
    shapes |= {f"h.0.{norm}.{part}": (C,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    arrays = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(arrays, folder / "model.safetensors")


def test_gpt(tmp_path, capsys):
    gpt2_checkpoint(tmp_path)
    load("gpt").main(["--max-seconds", "4", "--gpt2", str(tmp_path)])
    printed = capsys.readouterr().out
    bits = float(re.search(r"^(\d\.\d+) bits a character$", printed, re.M)[1])
    assert bits < 6  # log2 103 = 6.7 before any training
    exact, rounded = (float(b) for b in re.findall(r"^(?:float32|int8) +(\d\.\d+) bits, +\d+ ch", printed, re.M))
    assert exact == pytest.approx(bits, abs=1e-3)
    assert rounded == pytest.approx(exact, abs=0.02)
    assert "generated, top-p 0.9\n  | The statement " in printed
    last = printed.splitlines()[-2:]
    assert last[0] == f"{tmp_path}, in eight bits"
    assert last[1].startswith("The statement ")


def test_number_words(capsys):
    load("number_words").main(["--train", "300", "--test", "50", "--epochs", "2", "--width", "16"])
    printed = capsys.readouterr().out
    rows = re.findall(r"^  ([a-z][\w ,-]+?) +(\d+\.\d) +(\d+\.\d) +(\d+\.\d) +(-\d+\.\d{4})$", printed, re.M)
    assert [row[0] for row in rows] == ["maximum likelihood", "scheduled sampling", "maximum likelihood, fine-tuned"]
    assert float(rows[0][4]) > -13  # nats a number; 14 for digits and ends at random
    assert "300 numbers to learn from, 50 held out" in printed


def test_the_numbers_of_the_number_words():
    example = load("number_words")
    assert example.words(234005) == "two hundred thirty-four thousand five"
    assert [example.words(n) for n in (0, 13, 40, 99)] == ["zero", "thirteen", "forty", "ninety-nine"]
    assert example.words(100000) == "one hundred thousand"
    assert example.words(719321) == "seven hundred nineteen thousand three hundred twenty-one"
    found = example.numbers(3000, seed=1)
    assert len(set(found)) == 3000
    assert len({example.words(n) for n in found}) == 3000
    assert min(found) > 0
    assert max(found) < 1_000_000
    first, last = (np.mean([n < 1000 for n in part]) for part in (found[:300], found[300:]))
    assert abs(first - last) < 0.06  # what is held out is as what is learnt from


def test_every_example_is_in_the_readme():
    readme = (EXAMPLES / "README.md").read_text()
    for example in EXAMPLES.glob("*.py"):
        assert f"]({example.name})" in readme
