"""Files: damaged, foreign and hostile ones give errors; a failed save loses nothing."""

import json
import os
import struct

import chainrule
import numpy as np
import pytest
from chainrule import NADE, io
from safetensors.numpy import save_file


@pytest.fixture
def saved(tmp_path):
    X = np.random.default_rng(0).integers(0, 2, (40, 6))
    model = NADE(n_hidden=4, max_epochs=1, random_state=0).fit(X)
    path = tmp_path / "model.safetensors"
    model.save(path)
    return path


def damaged(path):
    with pytest.raises(
        ValueError,
        match=r"model\.safetensors.*(not a readable|not written by chainrule|damaged|format version|does not know)",
    ):
        chainrule.load(path)


def rewrite(path, change):
    """The same file with its header's model metadata changed."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    meta = json.loads(header["__metadata__"]["chainrule"])
    change(meta)
    header["__metadata__"]["chainrule"] = json.dumps(meta)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        chainrule.load(tmp_path / "nothing.safetensors")


def test_truncated_at_every_length(saved):
    raw = saved.read_bytes()
    for length in [*range(0, 64), *range(64, len(raw), 97), len(raw) - 1]:
        saved.write_bytes(raw[:length])
        damaged(saved)


def test_random_damage_never_crashes(saved):
    raw, rng = saved.read_bytes(), np.random.default_rng(0)
    for _ in range(2000):
        changed = bytearray(raw)
        for _ in range(rng.integers(1, 8)):
            changed[rng.integers(len(raw) if rng.random() < 0.2 else 900)] = rng.integers(256)
        saved.write_bytes(changed)
        try:
            model = chainrule.load(saved)
        except ValueError:
            continue
        model.score_samples(np.zeros((2, model.n_features_in_)))


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04 not this", b"\xff" * 64])
def test_other_formats(saved, content):
    saved.write_bytes(content)
    damaged(saved)


def test_foreign_safetensors(saved):
    save_file({"W": np.zeros((3, 3), np.float32)}, saved)
    damaged(saved)
    save_file({"W": np.zeros((3, 3), np.float32)}, saved, metadata={"chainrule": "[]"})
    damaged(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format_version=99),
        lambda m: m.update(model="os"),
        lambda m: m.update(model=["NADE"]),
        lambda m: m["parameters"].update(n_hidden=3),
        lambda m: m["parameters"].update(colour=3),
        lambda m: m["parameters"].update(activation="gelu"),
        lambda m: m["parameters"].update(dtype="float64"),
        lambda m: m["parameters"].update(tied=True),
        lambda m: m.pop("attributes"),
        lambda m: m.update(attributes=None),
        lambda m: m.update(parameters=7),
    ],
)
def test_inconsistent_metadata(saved, change):
    rewrite(saved, change)
    damaged(saved)


def test_a_failed_save_keeps_the_old_file(saved, monkeypatch):
    model, before = chainrule.load(saved), saved.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(saved)
    assert saved.read_bytes() == before
    assert [f.name for f in saved.parent.iterdir()] == [saved.name]


def test_saving_is_atomic_and_plain(saved):
    io.write_atomically(saved, b"new")
    assert saved.read_bytes() == b"new"
    mask = os.umask(0)
    os.umask(mask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_file_from_a_given_order_or_generator_reads_back(tmp_path):
    X = np.random.default_rng(0).integers(0, 2, (40, 6))
    for options in ({"order": [5, 4, 3, 2, 1, 0]}, {"random_state": np.random.default_rng(3), "order": "random"}):
        model = NADE(n_hidden=4, max_epochs=1, **options).fit(X)
        model.save(tmp_path / "m.safetensors")
        other = chainrule.load(tmp_path / "m.safetensors")
        assert (other.order_ == model.order_).all()
        assert other.score(X) == model.score(X)


def test_constants_of_the_optimizer_are_kept(tmp_path):
    X, constants = np.eye(6, dtype=np.uint8), {"beta2": 0.9}
    NADE(n_hidden=4, max_epochs=1, optimizer_options=constants).fit(X).save(tmp_path / "m.safetensors")
    assert chainrule.load(tmp_path / "m.safetensors").get_params()["optimizer_options"] == constants


def test_notes_about_the_data_are_kept(saved):
    model = chainrule.load(saved)
    assert not hasattr(model, "notes_")
    model.notes_ = {"rate": 8000, "symbols": "\nabß"}
    model.save(saved)
    assert chainrule.load(saved).notes_ == model.notes_
    rewrite(saved, lambda meta: meta.update(notes=3))
    damaged(saved)
