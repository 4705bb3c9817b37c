"""The command, the pictures, and the examples in the docs."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import chainrule
import numpy as np
import pytest
from chainrule import cli, datasets

ROOT = Path(__file__).parent.parent


def test_demo(tmp_path, capsys):
    assert cli.main(["demo", "--output", str(tmp_path / "out"), "--max-seconds", "2"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "nats per image",
        "bits per pixel",
        "independent pixels",
        "scoring",
        "sampling",
        "instruction set",
        "holds",
    ):
        assert text in printed
    assert "BROKEN" not in printed
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "digits.safetensors",
        "learning_curve.png",
        "samples.png",
    ]
    assert chainrule.load(tmp_path / "out" / "digits.safetensors").score(datasets.digits().test) > -25
    for name in ("samples.png", "learning_curve.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"


def test_versions_and_errors(capsys, tmp_path):
    assert cli.main(["versions"]) == 0
    assert "instruction set" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main(["paint"])
    assert stop.value.code == 2
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["demo", "--max-seconds", "0.2", "--output", str(tmp_path / "file")]) == 1
    assert "chainrule: " in capsys.readouterr().err


def test_the_command_is_installed():
    version = subprocess.run(
        [sys.executable, "-m", "chainrule.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout == f"chainrule {chainrule.__version__}\n"


def test_digits_are_the_ones_described():
    split = datasets.digits()
    assert [part.shape for part in split] == [(1199, 64), (299, 64), (299, 64)]
    assert split.train.dtype == np.uint8
    assert set(np.unique(split.train)) == {0, 1}
    assert datasets.digits(binarize=False).train.max() == 16


def modules():
    return [
        m.name
        for m in pkgutil.walk_packages(chainrule.__path__, "chainrule.")
        if m.name.split(".")[-1] not in ("_kernels", "cykernels", "__main__")
    ]


@pytest.mark.parametrize("name", modules())
def test_docstring_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_public_names_are_documented():
    for name in chainrule.__all__:
        if name != "__version__":
            assert getattr(chainrule, name).__doc__, name


def test_readme_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 4
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(blocks[0], names)
    assert Path("digits.safetensors").is_file()
    p = names["model"].parameters_
    names.update(x=names["data"].test, W=p["W"], V=p["V"], b=p["b"], c=p["c"])
    exec(blocks[1], names)
    assert names["chunk"].shape == (1, 5000 % 1024)
    exec(blocks[2], names)
    assert len(names["gpt"].generate("to be", 40, top_p=0.9, random_state=7)[0]) == 40
    exec(blocks[3], names)
    assert names["log_prob"].shape == (299,)
    live = np.arange(64)[:, None] <= names["degrees"]
    expected = np.maximum(names["x"].astype(float) @ (names["W"] * live) + names["c"], 0)
    np.testing.assert_allclose(names["h"], expected, atol=1e-4)


def test_links_in_the_docs_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
