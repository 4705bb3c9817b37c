"""The command, end to end on small data: what it computes, what it prints, its files, its errors and exit codes."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import chainrule
import numpy as np
import pytest
from chainrule import NADE, IndependentBernoulli, Tabular, cli, commands, metrics, tables
from chainrule.verify import Law, Report

COLUMNS = 6
FORMATS = ["npy", "npz", "csv", "parquet"]


def draw(n, seed=0):
    """Bits of which neighbours agree nine times in ten."""
    rng = np.random.default_rng(seed)
    changes = rng.random((n, COLUMNS)) < np.r_[0.5, np.full(COLUMNS - 1, 0.1)]
    return (np.cumsum(changes, axis=1) % 2).astype(np.uint8)


@pytest.fixture
def saved(tmp_path):
    """A fitted model, and its file."""
    model = NADE(n_hidden=5, max_epochs=3, learning_rate=0.02, random_state=0).fit(draw(200))
    model.save(tmp_path / "model.safetensors")
    return model


def write(path, rows, names=None):
    if path.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow (the extra `parquet`) is not installed")
    with tables.writing(path, names) as append:
        append(rows)


def files(folder="."):
    return sorted(os.listdir(folder))


def failed(result, *texts):
    """Exit code 1, nothing on stdout, one line on stderr that says `texts`."""
    code, out, err = result
    assert (code, out) == (1, "")
    assert err.startswith("chainrule: ")
    assert err.count("\n") == 1
    for text in texts:
        assert text in err


# ---- fit


def test_fit_says_what_it_did_and_saves(command):
    np.savez("data.npz", train=draw(300), valid=draw(80, 1), test=draw(70, 2))
    code, out, _ = command("fit", "nade", "data.npz", "--n-hidden", 4, "--max-epochs", 3, "--output", "m.safetensors")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith(f"NADE: 300 rows x {COLUMNS} columns")
    assert "3 epochs, stopped by max_epochs" in lines[0]
    assert [line.split()[:2] for line in lines[2:6]] == [
        ["train", "300"],
        ["validation", "80"],
        ["test", "70"],
        ["independent", "*"],
    ]
    assert "wrote m.safetensors" in lines[-1]
    model = chainrule.load("m.safetensors")
    assert f"{model.score(draw(70, 2)):.2f} ±" in lines[4]
    expected = NADE(n_hidden=4, max_epochs=3, random_state=0).fit(draw(300), X_val=draw(80, 1))
    assert (expected.score_samples(draw(70, 2)) == model.score_samples(draw(70, 2))).all()


def test_fit_as_json(command):
    np.save("data.npy", draw(100))
    code, out, _ = command("fit", "nade", "data.npy", "--max-epochs", 2, "--n-hidden", 3, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["rows"], result["validation"]["rows"], result["columns"]) == (90, 10, COLUMNS)  # a tenth is held out
    assert result["epochs"] == 2
    assert result["output"] == "model.safetensors"
    for split in ("train", "validation", "independent"):
        assert result[split]["bits_per_dimension"] == pytest.approx(-result[split]["nats"] / COLUMNS / math.log(2))
        assert result[split]["standard_error"] > 0
    assert result["independent"]["measured_on"] == "validation"


def test_fit_takes_every_option_of_the_constructor(command):
    for name, (model, purpose) in cli.MODELS.items():
        code, text, _ = command("fit", name, "--help")
        assert code == 0
        assert purpose[1:] in " ".join(text.split())
        for parameter in model._parameter_names():
            offered = f"  --{parameter.replace('_', '-')}" in text
            assert offered != (parameter in cli.PYTHON_ONLY), parameter
    np.save("data.npy", draw(50).astype(float) + 3)
    order = "5,0,1,2,3,4"
    options = [
        "--n-hidden=3",
        "--activation=tanh",
        "--tied",
        "--dtype=float64",
        "--learning-rate=0.02",
        "--binarize=3.5",
    ]
    options += ["--max-epochs=1", "--batch-size=7", "--patience=2", f"--order={order}", "--seed=9", "--max-seconds=50"]
    assert command("fit", "nade", "data.npy", *options, "--quiet")[:2] == (0, "")
    model = chainrule.load("model.safetensors")
    wanted = {
        "n_hidden": 3, "activation": "tanh", "tied": True, "dtype": "float64", "learning_rate": 0.02, "binarize": 3.5,
        "max_epochs": 1, "batch_size": 7, "patience": 2, "order": [5, 0, 1, 2, 3, 4], "random_state": 9,
        "max_seconds": 50.0,
    }  # fmt: skip
    assert {name: model.get_params()[name] for name in wanted} == wanted
    assert command("fit", "nade", "data.npy", *options, "--no-tied", "--quiet")[0] == 0
    assert "V" in chainrule.load("model.safetensors").parameters_


def test_fit_validation_rows(command):
    np.save("data.npy", draw(100))
    np.save("more.npy", draw(40, 1))
    fit = ["fit", "nade", "data.npy", "--max-epochs", 1, "--n-hidden", 2, "--json"]
    rows = {}
    for name, extra in {
        "file": ["--valid", "more.npy"],
        "fraction": ["--valid-fraction", "0.25"],
        "again": ["--valid-fraction", "0.25"],
        "seed": ["--valid-fraction", "0.25", "--seed", "1"],
        "none": ["--valid-fraction", "0"],
    }.items():
        result = json.loads(command(*fit, *extra)[1])
        held_out = result.get("validation", {})
        rows[name] = result["rows"], held_out.get("rows"), held_out.get("nats")
    assert rows["file"][:2] == (100, 40)
    assert rows["fraction"][:2] == rows["seed"][:2] == (75, 25)
    assert rows["fraction"] == rows["again"] != rows["seed"]  # the seed alone decides
    assert rows["none"][:2] == (100, None)
    assert command(*fit, "--valid", "more.npy", "--valid-fraction", "0.1")[0] == 2


@pytest.mark.parametrize(("kind", "model"), [("tabular", Tabular()), ("independent", IndependentBernoulli())])
def test_fit_in_closed_form(command, kind, model):
    np.save("data.npy", draw(60))
    code, out, _ = command("fit", kind, "data.npy", "--output", "m.safetensors")
    assert code == 0
    assert "epochs" not in out
    assert ("independent *" in out) == (kind == "tabular")
    assert chainrule.load("m.safetensors").score(draw(9, 1)) == model.fit(draw(60)).score(draw(9, 1))
    np.save("data.npy", draw(60) * 200.0 - 100)
    assert command("fit", kind, "data.npy", "--binarize", "-1.5", "--output", "m.safetensors")[0] == 0
    assert chainrule.load("m.safetensors").set_params(**{}).n_features_in_ == COLUMNS


def test_fit_on_categories_has_no_baseline(command):
    np.save("data.npy", np.arange(30).reshape(-1, 2) % 3)
    assert json.loads(command("fit", "tabular", "data.npy", "--n-values", "3,4", "--json")[1])["independent"] is None
    assert chainrule.load("model.safetensors").n_values_ == (3, 4)


def test_checkpoint(command):
    if "checkpoint" not in command("fit", "nade", "--help")[1]:
        pytest.skip("fit has no checkpoints")
    np.save("data.npy", draw(60))
    fit = ["fit", "nade", "data.npy", "--n-hidden", 3, "--checkpoint", "fit.checkpoint", "--quiet", "--max-epochs"]
    assert command(*fit, 2)[0] == 0
    assert command(*fit, 4)[0] == 0
    resumed = chainrule.load("model.safetensors")
    os.unlink("fit.checkpoint")
    assert command(*fit, 4)[0] == 0
    straight = chainrule.load("model.safetensors")
    assert resumed.history_["train"] == straight.history_["train"]
    assert (resumed.score_samples(draw(9)) == straight.score_samples(draw(9))).all()


def test_interrupted_before_anything_was_learned(command, monkeypatch):
    np.save("data.npy", draw(60))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(NADE, "_gradient", interrupted)
    assert command("fit", "nade", "data.npy", "--n-hidden", 2, "--quiet")[0] == 130
    assert files() == ["data.npy"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_keeps_and_saves_the_best_model(tmp_path, saved):
    np.save(tmp_path / "data.npy", draw(100))
    fit = ["fit", "nade", "data.npy", "--n-hidden=3", "--max-epochs=1000000", "--patience=1000000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-m", "chainrule", *fit, "--output", "new.safetensors"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        for line in process.stderr:
            if line.startswith("epoch 3"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "stopped by interrupted" in out
    assert "saved in new.safetensors" in err
    assert len(chainrule.load(tmp_path / "new.safetensors").history_["epoch"]) >= 3


# ---- files


@pytest.mark.parametrize("suffix", FORMATS)
def test_round_trips(command, saved, suffix):
    """Scores and samples to a file and back, in any format: the same bits."""
    X = draw(150, 3)
    write(f"data.{suffix}", X, [f"pixel {k}" for k in range(COLUMNS)])
    code, out, _ = command("score", "model.safetensors", f"data.{suffix}", "--output", f"scores.{suffix}", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["nats"] == saved.score(X)
    assert result["standard_error"] == pytest.approx(metrics.held_out(saved, X).standard_error, rel=1e-12)
    assert result["rows"] == 150

    def read(name):
        if suffix in ("npy", "npz"):
            loaded = np.load(f"{name}.{suffix}")
            return loaded if suffix == "npy" else loaded["rows"]
        with tables.reading(f"{name}.{suffix}") as table:
            rows = np.concatenate(list(table.blocks()))
        if suffix == "csv":
            assert Path(f"{name}.csv").read_text().splitlines()[0] == ",".join(table.names)
        return rows[:, 0] if table.n_columns == 1 else rows

    assert read("scores").tobytes() == saved.score_samples(X).tobytes()
    assert (
        command("score", "model.safetensors", f"data.{suffix}", "--per-variable", "--output", f"terms.{suffix}")[0] == 0
    )
    assert read("terms").tobytes() == saved.score_samples(X, per_variable=True).tobytes()
    assert command("sample", "model.safetensors", 70, "--seed", 4, "--output", f"drawn.{suffix}")[0] == 0
    assert (read("drawn") == saved.sample(70, random_state=4)).all()
    assert command("fit", "independent", f"data.{suffix}", "--output", "again.safetensors")[0] == 0
    expected = IndependentBernoulli().fit(X)
    assert (chainrule.load("again.safetensors").logits_ == expected.logits_).all()


@pytest.mark.parametrize("suffix", FORMATS)
def test_blocks_do_not_change_a_bit(command, saved, monkeypatch, suffix):
    monkeypatch.setattr(tables, "BLOCK_VALUES", 10 * COLUMNS)  # ten rows at a time
    X = draw(157, 5)
    write(f"data.{suffix}", X)
    with tables.reading(f"data.{suffix}") as table:
        assert [len(block) for block in table.blocks()] == [10] * 15 + [7]
    code, out, _ = command("score", "model.safetensors", f"data.{suffix}", "--output", f"scores.{suffix}", "--json")
    assert code == 0
    assert json.loads(out)["nats"] == saved.score(X)
    scores = np.ravel(tables.read(f"scores.{suffix}")) if suffix in ("csv", "parquet") else np.load(f"scores.{suffix}")
    assert (scores["rows"] if suffix == "npz" else scores).tobytes() == saved.score_samples(X).tobytes()
    assert command("sample", "model.safetensors", 35, "--output", f"drawn.{suffix}")[0] == 0
    assert (tables.read(f"drawn.{suffix}") == saved.sample(35, random_state=0)).all()
    assert (tables.read(f"data.{suffix}") == X).all()


def test_arrays_of_every_layout(command, saved):
    X = draw(40)
    for rows in (X, np.asfortranarray(X), X.astype(bool), X.astype(">i4"), X.astype(np.float16), X[:, ::-1][:, ::-1]):
        np.save("data.npy", rows)
        np.savez_compressed("data.npz", other=np.arange(3), rows=rows)
        assert (np.asarray(tables.read("data.npy")) == X).all()
        assert (tables.read("data.npz", "rows") == X).all()
        for arguments in (["data.npy"], ["data.npz", "--array", "rows"]):
            assert json.loads(command("score", "model.safetensors", *arguments, "--json")[1])["nats"] == saved.score(X)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0,1,0\n1,1,1\n", None),
        ("0,1,0\n1,1,1", None),
        ("a,b,c\n0,1,0\n1,1,1\n", ("a", "b", "c")),
        ('\ufeff"a, b",b,c\r\n0,1,0\r\n\r\n1,1,1\r\n', ("a, b", "b", "c")),
        ("a;b;c\n0;1.0;0e5\n 1; 1;1\n\n", ("a", "b", "c")),
        ("0\t1\t0\n1\t1\t1\n", None),
        ('x,y,z\n"0","1","0"\n1,1,1\n', ("x", "y", "z")),
        ("x,y,z\nFalse,True,False\nTrue,True,True\n", ("x", "y", "z")),
        ("False,True,False\nTrue,True,True\n", None),
    ],
)
def test_csv_dialects(command, text, names):
    with open("data.csv", "w", encoding="utf-8", newline="") as file:
        file.write(text)
    with tables.reading("data.csv") as table:
        assert table.names == names
        assert np.concatenate(list(table.blocks())).tolist() == [[0, 1, 0], [1, 1, 1]]


def test_a_header_that_counts(command):
    write("data.csv", draw(3).repeat(2, axis=1), [str(k) for k in range(12)])
    assert tables.read("data.csv").shape == (3, 12)


def test_standard_input_and_output(command, saved, monkeypatch):
    code, out, _ = command("sample", "model.safetensors", 20, "--seed", 2)
    assert code == 0
    assert out.splitlines()[0] == "x0,x1,x2,x3,x4,x5"
    monkeypatch.setattr(sys, "stdin", io.StringIO(out))
    code, scores, summary = command("score", "model.safetensors", "-", "--output", "-")
    assert code == 0
    expected = saved.score_samples(saved.sample(20, random_state=2))
    assert scores.splitlines() == ["log_prob", *map(repr, expected.tolist())]
    assert summary.startswith("20 rows: ")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_reader_that_has_seen_enough(tmp_path, saved):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(
        [sys.executable, "-m", "chainrule", "sample", "model.safetensors", "300000"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == "x0,x1,x2,x3,x4,x5\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


# ---- score, sample, info, verify, bench, versions


def test_score_prints_a_summary(command, saved):
    np.save("data.npy", draw(50, 1))
    nats = metrics.held_out(saved, draw(50, 1))
    bits = metrics.bits_per_dimension(nats.mean, COLUMNS)
    code, out, _ = command("score", "model.safetensors", "data.npy")
    assert code == 0
    assert out.startswith(f"50 rows: {nats} nats per row, {bits:.3f} bits per dimension")
    code, out, _ = command("score", "model.safetensors", "data.npy", "--per-variable")
    assert len(out.splitlines()) == 2 + COLUMNS
    result = json.loads(command("score", "model.safetensors", "data.npy", "--per-variable", "--json")[1])
    np.testing.assert_allclose(result["per_variable"], saved.score_samples(draw(50, 1), per_variable=True).mean(0))
    assert command("score", "model.safetensors", "data.npy", "--quiet")[:2] == (0, "")


def test_score_of_thresholded_rows(command, saved):
    np.save("data.npy", draw(50, 1) * 255)
    failed(command("score", "model.safetensors", "data.npy"), "'data.npy': X has", "outside {0, 1}")
    expected = saved.score(draw(50, 1))
    assert (
        json.loads(command("score", "model.safetensors", "data.npy", "--binarize", 127, "--json")[1])["nats"]
        == expected
    )
    Tabular().fit(draw(50)).save("t.safetensors")
    expected = Tabular().fit(draw(50)).score(draw(50, 1))
    assert json.loads(command("score", "t.safetensors", "data.npy", "--binarize", 127, "--json")[1])["nats"] == expected


def test_score_of_the_impossible_is_json_too(command):
    Tabular(smoothing=0).fit(np.zeros((3, 2))).save("model.safetensors")
    np.save("data.npy", np.array([[0, 0], [0, 1]]))
    np.save("other.npy", np.array([[0, 1], [0, 0]]))
    for name in ("data.npy", "other.npy"):
        code, out, _ = command("score", "model.safetensors", name, "--json")
        assert code == 0
        result = json.loads(out, parse_constant=pytest.fail)
        assert (result["nats"], result["standard_error"]) == (None, None)
        assert "-inf" in command("score", "model.safetensors", name)[1]


def test_sample_in_pieces(command, saved):
    for start, n in ((0, 30), (0, 11), (11, 0), (11, 19)):
        sample = ["sample", "model.safetensors", n, "--seed", 3, "--start", start]
        assert command(*sample, "--output", f"{start}-{n}.npy")[0] == 0
    whole, *parts = (np.load(f"{name}.npy") for name in ("0-30", "0-11", "11-0", "11-19"))
    assert parts[1].shape == (0, COLUMNS)
    assert (np.concatenate(parts) == whole).all()
    code, out, _ = command("sample", "model.safetensors", 5, "--output", "a.csv", "--json")
    assert code == 0
    assert json.loads(out)["columns"] == COLUMNS


@pytest.mark.parametrize("suffix", FORMATS)
def test_sample_given(command, saved, suffix, monkeypatch):
    """Observed values stay, the others are the model's own draws; in any format, in blocks, one row for many."""
    given = draw(41).astype(float)
    for k, row in enumerate(given):
        row[k % (COLUMNS + 1) :] = np.nan
    given[7] = np.nan
    if suffix == "parquet":
        arrow = pytest.importorskip("pyarrow", reason="pyarrow (the extra `parquet`) is not installed")
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = [arrow.array([None if np.isnan(v) else bool(v) for v in column]) for column in given.T]
        parquet.write_table(arrow.table(columns, names=[f"x{k}" for k in range(COLUMNS)]), "given.parquet")
    elif suffix == "csv":  # tabs: the row that misses everything is a line of them
        cells = ["\t".join("" if np.isnan(v) else f"{v:g}" for v in row) for row in given]
        Path("given.csv").write_text("\n".join(["\t".join("abcdef"), *cells, ""]))
    else:
        write(f"given.{suffix}", given)
    expected = saved.sample(given=given, random_state=3, start=20)
    sample = ["sample", "model.safetensors", "--given", f"given.{suffix}", "--seed", 3, "--start", 20]
    code, out, _ = command(*sample, "--output", "whole.npy")
    assert code == 0
    assert out.startswith(f"41 rows of {COLUMNS} columns, rows 20 to 60 of seed 3")
    assert (np.load("whole.npy") == expected).all()
    assert (expected == given)[~np.isnan(given)].all()
    monkeypatch.setattr(tables, "BLOCK_ROWS", 9)
    assert command(*sample, 41, "--output", "pieces.npy")[0] == 0
    assert (np.load("pieces.npy") == expected).all()
    failed(command(*sample, 40, "--output", "new.npy"), f"'given.{suffix}' has 41 rows", "not 40")
    write("one.npy", given[3:4])
    sample = ["sample", "model.safetensors", 30, "--given", "one.npy", "--seed", 5, "--output", "many.npy", "--json"]
    code, out, _ = command(*sample)
    assert (code, json.loads(out)["rows"], json.loads(out)["given"]) == (0, 30, "one.npy")
    assert (np.load("many.npy") == saved.sample(30, given=given[3:4], random_state=5)).all()


def test_sample_given_what_the_model_cannot_take(command, saved, monkeypatch):
    given = np.full((25, COLUMNS), np.nan)
    given[:, 0] = 1
    given[22, 2] = 0
    np.save("late.npy", given)
    sample = ["sample", "model.safetensors", "--output", "new.npy", "--given"]
    failed(command(*sample, "late.npy"), "'late.npy': given row 22 misses column 1", "order=[0, 2, 1, 3, 4, 5]")
    monkeypatch.setattr(tables, "BLOCK_ROWS", 10)
    failed(command(*sample, "late.npy"), "'late.npy', after 20 good rows: given row 2 misses column 1")
    np.savez("several.npz", a=given[:20], b=given[:, :4], c=given[:0])
    failed(command(*sample, "several.npz"), "3 arrays (a, b, c)", "--array")
    failed(command(*sample, "several.npz", "--array", "b"), "'several.npz': given has 4 features")
    failed(command(*sample, "several.npz", "--array", "c"), "'several.npz' has no rows")
    assert command(*sample, "several.npz", "--array", "a")[0] == 0
    Path("two.csv").write_text("2,,,,,\n")
    failed(command(*sample, "two.csv"), "'two.csv': given has 1 values outside {0, 1}")
    Path("word.csv").write_text("1,,,,,\n1,,,none,,\n")
    failed(command(*sample, "word.csv"), "'word.csv', line 2, column 4: 'none' is not a number")
    failed(command(*sample, "nothing.npy"), "no file 'nothing.npy'")
    assert files() == ["late.npy", "model.safetensors", "new.npy", "several.npz", "two.csv", "word.csv"]


def test_sample_as_a_picture(command, saved):
    code, out, _ = command("sample", "model.safetensors", 130, "--image", "2x3", "picture.png", "--output", "rows.npy")
    assert code == 0
    assert "wrote rows.npy, picture.png" in out
    assert Path("picture.png").read_bytes()[:4] == b"\x89PNG"
    assert len(np.load("rows.npy")) == 130
    failed(command("sample", "model.safetensors", 3, "--image", "5x5", "new.png"), "25 pixels", "6 variables")
    assert command("sample", "model.safetensors", 3, "--image", "large", "new.png")[0] == 2
    failed(command("sample", "model.safetensors", 3, "--image", "2x3", "new.jpeg2001"), "jpeg2001")
    assert files() == ["model.safetensors", "picture.png", "rows.npy"]


def test_info(command, saved):
    code, out, _ = command("info", "model.safetensors")
    assert code == 0
    assert "NADE, 6 variables, 71 parameters" in out
    assert "n_hidden=5" in out
    assert "training: 3 epochs" in out
    result = json.loads(command("info", "model.safetensors", "--json")[1])
    assert result["parameters"] == 2 * 6 * 5 + 6 + 5
    assert result["bytes"] == os.path.getsize("model.safetensors")
    assert result["arrays"]["W"] == {"dtype": "float32", "shape": [6, 5]}
    assert result["training"]["best_validation"] is None
    assert result["options"]["learning_rate"] == 0.02
    saved.fit(draw(50), X_val=draw(20, 1)).save("model.safetensors")
    training = json.loads(command("info", "model.safetensors", "--json")[1])["training"]
    assert training["best_validation"] == max(saved.history_["validation"])
    Tabular().fit(draw(9)).save("t.safetensors")
    assert json.loads(command("info", "t.safetensors", "--json")[1])["training"] is None


def test_verify(command, saved, monkeypatch):
    code, out, _ = command("verify", "model.safetensors")
    assert code == 0
    assert out.count("holds") == len(out.splitlines()) == len(chainrule.verify(saved))
    assert json.loads(command("verify", "model.safetensors", "--json")[1])["held"] is True
    monkeypatch.setattr(chainrule, "verify", lambda _: Report([Law("one", True, "."), Law("two", False, ".")]))
    code, out, err = command("verify", "model.safetensors")
    assert code == 1
    assert "BROKEN  two" in out
    assert err == "chainrule: a law is broken: two\n"
    code, out, _ = command("verify", "model.safetensors", "--json")
    assert code == 1
    assert json.loads(out)["laws"][1] == {"name": "two", "held": False, "seen": "."}


def test_bench(command, monkeypatch):
    monkeypatch.setattr(
        commands.demonstration, "rows_per_second", lambda call, n_rows, seconds: (call(), n_rows / 2)[1]
    )
    code, out, _ = command("bench", "--quick")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["NADE,", "rows", "score", "gradient", "sample"]
    speeds = json.loads(command("bench", "--quick", "--json")[1])["rows_per_second"]
    assert speeds["score"]["1"] == 250


def test_versions(command):
    assert "instruction set" in command("versions")[1]
    assert json.loads(command("versions", "--json")[1])["chainrule"] == chainrule.__version__


@pytest.mark.parametrize("name", ["fit", "fit nade", "score", "sample", "info", "verify", "bench", "demo", "versions"])
def test_help_has_a_purpose_and_an_example(command, name):
    code, out, _ = command(*name.split(), "--help")
    assert code == 0
    assert f"example:\n  chainrule {name}" in out
    assert "``" not in out
    assert ".." not in out.replace("...", "")


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ("score nothing.safetensors good.npy", ["no file 'nothing.safetensors'"]),
        ("score good.npy good.npy", ["'good.npy' is not a readable .safetensors file"]),
        ("score model.safetensors nothing.npy", ["no file 'nothing.npy'"]),
        ("score model.safetensors wide.npy", ["'wide.npy': X has 12 features", "expecting 6"]),
        ("score model.safetensors nan.npy", ["'nan.npy': X row 1 misses column 2", "n_draws="]),
        ("score model.safetensors empty.npy", ["no rows"]),
        ("score model.safetensors flat.npy", ["shape (6,)", "2-d"]),
        ("score model.safetensors text.npy", ["'text.npy' holds <U1"]),
        ("score model.safetensors objects.npy", ["'objects.npy' holds object"]),
        ("score model.safetensors short.npy", ["'short.npy' is not a readable .npy file", "ends before"]),
        ("score model.safetensors junk.npy", ["'junk.npy' cannot be read"]),
        ("score model.safetensors junk.npz", ["'junk.npz' is not a readable .npz file"]),
        ("score model.safetensors short.npz", ["'short.npz' is not a readable .npz file"]),
        ("score model.safetensors several.npz", ["2 arrays (a, b)", "--array"]),
        ("score model.safetensors several.npz --array c", ["no array 'c'"]),
        ("score model.safetensors good.npy --array c", [".npz files alone"]),
        ("score model.safetensors model.safetensors", ["not one of the formats .npy, .npz, .csv, .parquet"]),
        ("score model.safetensors folder.csv", ["'folder.csv' is a directory"]),
        ("score model.safetensors word.csv", ["'word.csv', line 3, column 2: 'one' is not a number"]),
        ("score model.safetensors hole.csv", ["'hole.csv', line 2, column 3: the cell is empty"]),
        ("score model.safetensors ragged.csv", ["'ragged.csv', line 2: 2 cells", "has 3"]),
        ("score model.safetensors index.csv", ["column 1 has no name", "index=False"]),
        ("score model.safetensors nothing.csv", ["'nothing.csv' is empty"]),
        ("score model.safetensors latin.csv", ["'latin.csv' is not a readable .csv file"]),
        ("score model.safetensors good.npy --output folder.csv", ["'folder.csv' is a directory"]),
        ("score model.safetensors good.npy --output no/where.csv", ["there is no folder", "/no'"]),
        ("score model.safetensors good.npy --output scores.xls", ["not one of the formats"]),
        ("score model.safetensors nan.npy --output scores.csv", ["misses column 2"]),
        ("score model.safetensors late.npy --output scores.csv", ["after 65536 good rows", "outside"]),
        ("sample model.safetensors 9 --output folder.csv", ["is a directory"]),
        ("sample model.safetensors 9 --image 2x3 folder.csv", ["is a directory"]),
        ("info good.npy", ["not a readable .safetensors file"]),
        ("verify nothing.safetensors", ["no file"]),
        ("fit nade nothing.npy", ["no file 'nothing.npy'"]),
        ("fit nade good.npy --output folder.csv", ["'folder.csv' is a directory"]),
        ("fit nade good.npy --output no/where", ["there is no folder", "/no'"]),
        ("fit nade good.npy --learning-rate -1", ["learning_rate must be a number > 0"]),
        ("fit nade good.npy --order backwards", ["order must be one of"]),
        ("fit nade good.npy --valid wide.npy", ["X_val has 12 features"]),
        ("fit nade nan.npy", ["NaN"]),
        ("fit nade one.npy", ["single row"]),
        ("fit nade empty.npy", ["empty"]),
        ("fit nade short.npy", ["'short.npy' is not a readable .npy file"]),
        ("fit nade several.npz", ["2 arrays (a, b)"]),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_leave_no_files(command, saved, arguments, texts):
    X = draw(20)
    np.save("good.npy", X)
    np.save("wide.npy", np.tile(X, 2))
    np.save("nan.npy", np.where((np.arange(20)[:, None] == 1) & (np.arange(COLUMNS) == 2), np.nan, X))
    np.save("empty.npy", X[:0])
    np.save("one.npy", X[:1])
    np.save("flat.npy", X[0])
    np.save("text.npy", X.astype(str).astype("<U1"))
    np.save("objects.npy", X.astype(object))
    if "late.npy" in arguments:
        np.save("late.npy", np.vstack([np.tile(X, (3277, 1)), X + 1]))
    Path("short.npy").write_bytes(Path("good.npy").read_bytes()[:-7])
    Path("junk.npy").write_bytes(b"junk")
    Path("junk.npz").write_bytes(b"junk")
    with zipfile.ZipFile("short.npz", "w") as archive:
        archive.writestr("a.npy", Path("short.npy").read_bytes())
    np.savez("several.npz", a=X, b=X)
    os.mkdir("folder.csv")
    for name, text in {
        "word": "a,b,c\n0,1,0\n0,one,1\n",
        "hole": "0,1,0\n0,1,\n",
        "ragged": "0,1,0\n0,1\n",
        "index": ",a,b\n0,1,0\n",
        "nothing": "\n\n",
    }.items():
        Path(f"{name}.csv").write_text(text)
    Path("latin.csv").write_bytes("größe,b\n0,1\n".encode("latin-1"))
    before = files()
    failed(command(*arguments.split()), *texts)
    assert files() == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["score"],
        ["fit", "colour", "good.npy"],
        ["fit", "nade", "good.npy", "--colour", "red"],
        ["fit", "nade", "good.npy", "--n-hidden", "many"],
        ["fit", "nade", "good.npy", "--activation", "gelu"],
        ["fit", "nade", "good.npy", "--valid-fraction", "1.5"],
        ["sample", "model.safetensors"],
        ["sample", "model.safetensors", "3", "--array", "a"],
        ["sample", "model.safetensors", "-3"],
        ["sample", "model.safetensors", "3", "--json"],
        ["score", "model.safetensors", "good.npy", "--json", "--output", "-"],
    ],
)
def test_wrong_usage_is_exit_code_2(command, saved, arguments):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("chainrule")
    assert err.count("\n") == 1


def test_parquet_errors(command, saved, monkeypatch):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow (the extra `parquet`) is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = [f"x{k}" for k in range(COLUMNS)]
    columns = [[0, 1]] * (COLUMNS - 1)
    parquet.write_table(arrow.table([*columns, [0, None]], names=names), "hole.parquet")
    failed(command("score", "model.safetensors", "hole.parquet"), "column 'x5' has missing values")
    parquet.write_table(arrow.table([*columns, ["a", "b"]], names=names), "text.parquet")
    failed(command("score", "model.safetensors", "text.parquet"), "column 'x5' holds string")
    with open("junk.parquet", "wb") as file:
        file.write(b"junk" * 10)
    failed(command("score", "model.safetensors", "junk.parquet"), "'junk.parquet' is not a readable .parquet file")


def test_without_pyarrow(command, saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    Path("data.parquet").write_text("here")
    failed(command("score", "model.safetensors", "data.parquet"), 'pip install "chainrule[parquet]"')
    failed(command("sample", "model.safetensors", 3, "--output", "new.parquet"), 'pip install "chainrule[parquet]"')
    assert files() == ["data.parquet", "model.safetensors"]


def test_a_full_disk_leaves_the_old_file(command, saved, monkeypatch):
    write("rows.npy", draw(3))
    before = Path("rows.npy").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    failed(command("sample", "model.safetensors", 9, "--output", "rows.npy"), "No space left on device")
    assert Path("rows.npy").read_bytes() == before
    assert files() == ["model.safetensors", "rows.npy"]


@pytest.mark.skipif(sys.platform == "win32", reason="links and devices of POSIX")
def test_links_are_followed_and_devices_left_alone(command, saved, tmp_path):
    os.symlink("real.csv", "link.csv")
    assert command("sample", "model.safetensors", 2, "--output", "link.csv")[0] == 0
    assert os.path.islink("link.csv")
    assert os.path.isfile("real.csv")
    os.mkfifo("pipe.csv")
    failed(command("sample", "model.safetensors", 2, "--output", "pipe.csv"), "not a regular file")
    with pytest.raises(OSError, match="not a regular file"):
        saved.save("pipe.csv")


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_data_are_an_error_or_are_read(command, saved, suffix):
    rng = np.random.default_rng(0)
    write(f"good.{suffix}", draw(30))
    good = Path(f"good.{suffix}").read_bytes()
    codes = set()
    for _ in range(40):
        damaged = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(min(len(good), 400))] = rng.integers(256)
        Path(f"data.{suffix}").write_bytes(damaged[: len(good) if rng.random() < 0.9 else rng.integers(len(good))])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, about headers written by Python 2
            code, out, err = command("score", "model.safetensors", f"data.{suffix}")
        assert (code, out, err.count("\n")) == (1, "", 1) or (code, out.count("\n"), err) == (0, 1, "")
        codes.add(code)
    assert 1 in codes
