"""Sound, text and codes from files; mu-law's laws; the baselines that a model of sequences has to beat."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from chainrule import audio, baselines, kernels, metrics, mulaw
from chainrule.mulaw import mu_law_decode, mu_law_encode
from chainrule.text import Bytes, Characters

CODES = np.arange(256)


def tone(n, frequency=440.0, rate=8000, size=0.5):
    return (32767 * size * np.sin(2 * np.pi * frequency * np.arange(n) / rate)).astype(np.int16)


def ar2(n, a=(1.6, -0.8), scale=0.02, seed=0):
    """x_t = a_1 x_(t-1) + a_2 x_(t-2) + scale e_t."""
    e, x = np.random.default_rng(seed).standard_normal(n) * scale, np.zeros(n + 2)
    for t in range(n):
        x[t + 2] = a[0] * x[t + 1] + a[1] * x[t] + e[t]
    return x[2:]


@pytest.fixture
def soundfile():
    return pytest.importorskip("soundfile", reason="soundfile (the extra `audio`) is not installed")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---- mu-law


def test_mu_law_is_its_equation():
    x = np.concatenate([np.linspace(-1, 1, 20001), [0.0, -0.0, 1e-300, np.nextafter(1, 0)]])
    f = np.sign(x) * np.log1p(255 * abs(x)) / np.log(256)
    exact = (f + 1) / 2 * 255 + 0.5
    sure = abs(exact - np.rint(exact)) > 1e-9  # elsewhere one rounding decides
    assert sure.sum() > 20000
    assert (mu_law_encode(x)[sure] == np.floor(exact[sure])).all()
    y = 2 * CODES / 255 - 1
    np.testing.assert_allclose(mu_law_decode(CODES), np.sign(y) * (256.0 ** abs(y) - 1) / 255, rtol=1e-6)


def test_mu_law_laws():
    assert (mu_law_encode(mu_law_decode(CODES)) == CODES).all()
    assert (mu_law_decode(CODES) == -mu_law_decode(255 - CODES)).all()
    assert (np.diff(mu_law_decode(CODES)) > 0).all()
    assert mu_law_decode(CODES).dtype == np.float32
    assert mu_law_decode([0, 255]).tolist() == [-1, 1]
    words = np.arange(-32768, 32768).astype(np.int16)
    codes = mu_law_encode(words)
    assert codes.dtype == np.uint8
    assert (np.diff(codes.astype(int)) >= 0).all()
    assert codes[[0, 32768, -1]].tolist() == [0, 128, 255]
    assert (codes == mu_law_encode(words / 32768)).all()
    assert (codes == mu_law_encode((words / 32768).astype(np.float32))).all()
    assert (codes == mu_law_encode(words.astype(">i2"))).all()
    assert (codes == np.searchsorted(mulaw.edges(), words / 32768, side="right")).all()


def test_mu_law_keeps_shapes():
    for shape in ((), (0,), (3,), (2, 3), (2, 1, 2)):
        x = np.zeros(shape, np.int16)
        assert mu_law_encode(x).shape == mu_law_decode(mu_law_encode(x)).shape == shape
    x = np.linspace(-1, 1, 24).reshape(4, 6)
    assert (mu_law_encode(x.T[::2]) == mu_law_encode(np.ascontiguousarray(x.T[::2]))).all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([0.0, np.nan, np.inf], r"x must be finite: x\[1\] is nan \(2 such values of 3\)"),
        ([[0.5, 0.0], [-1.0, 1.5]], r"x must lie in \[-1, 1\]: x\[1, 1\] is 1.5 "),
        (-2.0, r"x must lie in \[-1, 1\]: x is -2.0"),
        ([0, 1], r"int16, or floats in \[-1, 1\], not int64"),
        (np.zeros(3, np.uint8), "not uint8"),
        (["a"], "not <U1"),
    ],
)
def test_mu_law_takes_samples_alone(x, message):
    with pytest.raises(ValueError, match=message):
        mu_law_encode(x)


@pytest.mark.parametrize(
    ("codes", "message"),
    [([3, 256], r"codes\[1\] is 256"), ([[-1]], r"codes\[0, 0\] is -1"), ([0.5], "not float64"), (999, "codes is 999")],
)
def test_mu_law_decodes_codes_alone(codes, message):
    with pytest.raises(ValueError, match=message):
        mu_law_decode(codes)


# ---- reading


def test_sound_files_round_trip(soundfile):
    x = tone(900)
    audio.write_wav("tone.wav", x, 8000)
    read = audio.read_recordings("tone.wav")
    assert (read.signals[0] == x).all()
    assert (read.signals[0].dtype, read.rate, read.names, read.labels) == (np.int16, 8000, ["tone.wav"], {})
    assert (len(read), read.n_samples, read.seconds, read.is_sound) == (1, 900, 900 / 8000, True)
    audio.write_wav("tone.wav", x / 32768, 8000)  # floats, to the nearest level
    assert (audio.read_recordings("tone.wav", rate=8000).signals[0] == x).all()
    audio.write_wav("full.wav", np.array([-1.0, 1.0, 0.4 / 32768]), 8000)
    assert audio.read_recordings("full.wav").signals[0].tolist() == [-32768, 32767, 0]
    assert sorted(os.listdir()) == ["full.wav", "tone.wav"]


@pytest.mark.parametrize(
    ("kind", "subtype", "dtype"),
    [
        ("wav", "PCM_16", np.int16), ("wav", "PCM_U8", np.int16), ("wav", "PCM_24", np.float32),
        ("wav", "FLOAT", np.float32), ("flac", "PCM_16", np.int16), ("flac", "PCM_24", np.float32),
        ("aiff", "PCM_16", np.int16),
    ],
)  # fmt: skip
def test_kinds_of_sound(soundfile, kind, subtype, dtype):
    soundfile.write(f"a.{kind}", tone(500) / 32768, 16000, subtype=subtype)
    read = audio.read_recordings(f"a.{kind}")
    assert (read.rate, read.signals[0].dtype) == (16000, dtype)
    scale = 32768 if dtype == np.int16 else 1
    np.testing.assert_allclose(read.signals[0] / scale, tone(500) / 32768, atol=1 / 128)


def test_a_folder_is_read_in_order_of_names(soundfile):
    os.mkdir("calls")
    for k, name in enumerate(["b.WAV", "a.flac", "c.wav"]):
        soundfile.write(f"calls/{name}", tone(100 + k), 8000, format=name[-4:].strip(".").upper())
    Path("calls/notes.txt").write_text("not sound")
    Path("calls/.hidden.wav").write_text("not sound")
    read = audio.read_recordings("calls")
    assert read.names == ["a.flac", "b.WAV", "c.wav"]
    assert [*map(len, read.signals)] == [101, 100, 102]
    soundfile.write("calls/d.wav", tone(99) / 32768, 8000, subtype="FLOAT")  # one dtype for all
    mixed = audio.read_recordings("calls")
    assert {s.dtype for s in mixed.signals} == {np.dtype(np.float32)}
    assert (mixed.signals[1] * 32768 == read.signals[1]).all()


def joined(*signals):
    return np.concatenate(signals), np.cumsum([0, *map(len, signals)])


def test_parts_and_labels_of_an_array_file():
    train, offsets = joined(tone(5), tone(7), tone(3))
    np.savez(
        "digits.npz", sample_rate=8000, speakers=["ann", "bo"], train=train, train_offsets=offsets,
        train_digit=[7, 8, 9], train_speaker=[0, 1, 0], valid=tone(4), valid_digit=[3], valid_speaker=[1],
    )  # fmt: skip
    parts = audio.read_splits("digits.npz")
    assert list(parts) == ["train", "validation"]
    assert [s.tolist() for s in parts["train"].signals] == [tone(5).tolist(), tone(7).tolist(), tone(3).tolist()]
    assert parts["train"].labels["digit"].tolist() == [7, 8, 9]
    assert parts["train"].labels["speaker"].tolist() == ["ann", "bo", "ann"]
    whole = audio.read_recordings("digits.npz")
    assert [*map(len, whole.signals)] == [5, 7, 3, 4]
    assert whole.labels["digit"].tolist() == [7, 8, 9, 3]
    assert whole.labels["speaker"].tolist() == ["ann", "bo", "ann", "bo"]
    assert whole.names == ["train 0", "train 1", "train 2", "valid"]


def test_array_files_without_parts():
    np.savez("several.npz", rate=8000, one=tone(5), two=tone(6) / 32768)
    read = audio.read_recordings("several.npz")
    assert read.names == ["one", "two"]
    assert {s.dtype for s in read.signals} == {np.dtype(np.float32)}
    np.savez("rows.npz", x=np.stack([tone(5), tone(5)]), x_digit=[1, 2], noted="by hand")
    read = audio.read_recordings("rows.npz", rate=8000)
    assert (len(read), read.labels["digit"].tolist()) == (2, [1, 2])
    np.save("one.npy", tone(9))
    assert audio.read_recordings("one.npy", 8000).signals[0].tolist() == tone(9).tolist()
    np.save("codes.npy", CODES.reshape(2, -1))
    read = audio.read_recordings("codes.npy")
    assert (len(read), read.signals[0].dtype, read.is_sound) == (2, np.uint8, False)
    np.savetxt("codes.csv", CODES[::-1].reshape(2, -1), "%d", ",")
    assert (np.concatenate(audio.read_recordings("codes.csv").signals) == CODES[::-1]).all()


def test_text_is_codes():
    Path("poem.txt").write_text("abba\nça", encoding="utf-8")
    read = audio.read_recordings("poem.txt")
    assert read.text == Characters("\nabç")
    assert read.text.decode(read.signals[0]) == "abba\nça"
    assert read.signals[0].dtype == np.uint8
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    Path("many.txt").write_text(many, encoding="utf-8")
    read = audio.read_recordings("many.txt")
    assert (read.signals[0].dtype, read.signals[0].tolist()) == (np.int32, [*range(300)])


def test_text_in_given_codes():
    Path("poem").write_text("abba\nça", encoding="utf-8")
    read = audio.read_recordings("poem", text=Bytes())
    assert read.text.decode(read.signals[0]) == "abba\nça".encode()
    assert audio.read_recordings("poem", text=Characters("\nabcç")).signals[0].tolist() == [1, 2, 2, 1, 0, 4, 1]
    with pytest.raises(ValueError, match=r"'poem' has characters the model does not know: \['ç'\]"):
        audio.read_recordings("poem", text=Characters("\nabc"))
    Path("notes.wav").write_text("")
    with pytest.raises(ValueError, match=r"'notes.wav' is empty"):
        audio.read_recordings("notes.wav", text=Bytes())
    np.save("codes.npy", CODES)
    read = audio.read_recordings("codes.npy", text=Bytes())
    assert (read.text, read.signals[0].tolist()) == (None, CODES.tolist())


def test_spoken_digits(data):
    arrays = data("spoken_digits_8k")
    np.savez("digits.npz", **arrays)
    parts = audio.read_splits("digits.npz")
    assert {part: len(X) for part, X in parts.items()} == {"train": 200, "validation": 50, "test": 50}
    assert parts["train"].n_samples == 706794
    assert parts["test"].rate == 8000
    assert set(parts["test"].labels["digit"].tolist()) <= set(range(10))
    assert parts["test"].labels["speaker"][0] == "george"


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([4] * 20, ([4] * 16, [4] * 2, [4] * 2)),
        ([4, 5, 6], ([4], [5], [6])),
        ([100], ([80], [10], [10])),
        ([100, 50], ([80, 40], [10, 5], [10, 5])),
    ],
)
def test_files_without_parts_are_cut_at_their_end(lengths, expected):
    signals = [np.full(n, k, np.int16) for k, n in enumerate(lengths)]
    np.savez("data.npz", sample_rate=8000, **{f"r{k:02}": signal for k, signal in enumerate(signals)})
    parts = audio.read_splits("data.npz")
    assert list(parts) == ["train", "validation", "test"]
    assert tuple([*map(len, part.signals)] for part in parts.values()) == expected
    assert parts["test"].signals[-1][0] == len(lengths) - 1
    assert [*audio.read_splits("data.npz", valid_fraction=0, test_fraction=0)] == ["train"]
    assert [*audio.read_splits("data.npz", valid_fraction=0)] == ["train", "test"]
    parts = audio.read_splits("data.npz", valid_fraction=0.1, test_fraction=0.8)
    assert all(parts[part].n_samples for part in parts)
    with pytest.raises(ValueError, match=r"valid_fraction \+ test_fraction must be below 1, not 1.2"):
        audio.read_splits("data.npz", valid_fraction=0.6, test_fraction=0.6)
    with pytest.raises(ValueError, match=r"test_fraction must be in \[0, 1\), not -0.1"):
        audio.read_splits("data.npz", test_fraction=-0.1)


def test_validation_is_cut_from_training_where_only_it_is_missing():
    train, offsets = joined(*[tone(3)] * 10)
    np.savez("data.npz", sample_rate=8000, train=train, train_offsets=offsets, test=tone(5))
    parts = audio.read_splits("data.npz")
    assert {part: len(X) for part, X in parts.items()} == {"train": 9, "validation": 1, "test": 1}
    assert [*audio.read_splits("data.npz", valid_fraction=0)] == ["train", "test"]


def save(**arrays):
    np.savez("bad.npz", **({"sample_rate": 8000} | arrays))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: save(train=-tone(4).astype(int)), r"'bad.npz': train has values from -\d+ to \d+"),
        (lambda: save(train=[1 << 20]), "codes are 0 to 1048575 at most"),
        (lambda: save(train=np.full(3, np.nan)), r"'bad.npz': train must be finite: .*\[0\] is nan"),
        (lambda: save(train=np.full(3, 2.0)), r"'bad.npz': train must lie in \[-1, 1\]"),
        (lambda: save(train=np.zeros((2, 2, 2))), r"train has shape \(2, 2, 2\)"),
        (lambda: save(train=np.zeros(0, np.int16)), "train is empty"),
        (lambda: save(train=np.zeros((0, 3), np.int16)), "'bad.npz' is empty"),
        (lambda: save(train=np.zeros(3, "U1")), "train holds <U1"),
        (lambda: save(train=tone(5), train_offsets=[0, 6]), "train_offsets must ascend from 0 to the 5 samples"),
        (lambda: save(train=tone(5), train_offsets=[0, 3, 2, 5]), "train_offsets must ascend"),
        (lambda: save(train=tone(5), train_offsets=[0, 0, 5]), "train 0 is empty"),
        (lambda: save(a=tone(5), b=np.zeros(5, np.uint8)), "both sound and integers"),
        (lambda: save(words=["a"]), "holds no recordings"),
        (lambda: save(train=tone(5), sample_rate=0), "sample_rate must be one whole number"),
        (lambda: save(train=tone(5), sample_rate=[1, 2]), "sample_rate must be one whole number"),
        (lambda: save(train=np.array([None])), "'bad.npz' is not a readable .npz file"),
        (lambda: np.savez("bad.npz", train=tone(5)), "'bad.npz' has no sample_rate"),
        (lambda: Path("bad.npz").write_bytes(b"junk"), "'bad.npz' is not a readable .npz file"),
        (lambda: Path("bad.npz").write_bytes(b""), "'bad.npz' is not a readable .npz file"),
    ],
)
def test_bad_array_files(make, message):
    make()
    with pytest.raises(ValueError, match=message):
        audio.read_recordings("bad.npz")


def test_bad_text_and_rates():
    Path("empty.txt").write_text("")
    with pytest.raises(ValueError, match=r"'empty.txt' is empty"):
        audio.read_recordings("empty.txt")
    Path("latin.txt").write_bytes("für".encode("latin-1"))
    with pytest.raises(ValueError, match=r"'latin.txt' is not a readable .txt file"):
        audio.read_recordings("latin.txt")
    save(train=tone(5))
    with pytest.raises(ValueError, match="8000 samples per second, not rate = 16000"):
        audio.read_recordings("bad.npz", rate=16000)
    for rate in (0, 8000.0, True):
        with pytest.raises(ValueError, match="rate must be an integer >= 1"):
            audio.read_recordings("bad.npz", rate=rate)
    with pytest.raises(FileNotFoundError, match="no file or folder 'nowhere'"):
        audio.read_recordings("nowhere")
    save(train=tone(3))
    with pytest.raises(ValueError, match="too short"):
        audio.read_splits("bad.npz")


def test_bad_sound_files(soundfile):
    os.mkdir("calls")
    with pytest.raises(ValueError, match=r"'calls' holds no .wav or .flac files"):
        audio.read_recordings("calls")
    soundfile.write("calls/a.wav", tone(50), 8000)
    soundfile.write("calls/b.wav", tone(50), 16000)
    with pytest.raises(ValueError, match=r"b.wav' has 16000 samples per second, but .*a.wav' has 8000"):
        audio.read_recordings("calls")
    with pytest.raises(ValueError, match=r"a.wav' has 8000 samples per second, not rate = 11025"):
        audio.read_recordings("calls", rate=11025)
    cases = {
        "stereo": (np.zeros((9, 2)), "has 2 channels"),
        "empty": (np.zeros(0), "is empty"),
        "nan": (np.array([0.0, np.nan]), r"must be finite: the signal of 'nan.wav'\[1\] is nan"),
        "loud": (np.array([0.0, 1.5]), r"must lie in \[-1, 1\]"),
    }
    for name, (signal, message) in cases.items():
        soundfile.write(f"{name}.wav", signal, 8000, subtype="FLOAT")
        with pytest.raises(ValueError, match=message):
            audio.read_recordings(f"{name}.wav")
    for name in ("junk.wav", "junk.xyz"):
        Path(name).write_bytes(b"junk" * 20)
        with pytest.raises(ValueError, match=f"'{name}' is not a readable sound file"):
            audio.read_recordings(name)


def test_write_wav_is_all_or_nothing(soundfile, monkeypatch):
    for signal, message in [([0.0, 2.0], "lie in"), ([[0.0]], "1-d"), ([0, 1], "int64")]:
        with pytest.raises(ValueError, match=message):
            audio.write_wav("a.wav", signal, 8000)
    with pytest.raises(FileNotFoundError, match="no folder"):
        audio.write_wav("no/a.wav", tone(3), 8000)
    with pytest.raises(ValueError, match="rate must be an integer >= 1, not 0"):
        audio.write_wav("a.wav", tone(3), 0)
    audio.write_wav("a.wav", tone(3), 8000)
    before = Path("a.wav").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        audio.write_wav("a.wav", tone(30), 8000)
    assert Path("a.wav").read_bytes() == before
    assert os.listdir() == ["a.wav"]


def test_without_soundfile(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    Path("a.wav").write_text("here")
    with pytest.raises(ImportError, match=r'pip install "chainrule\[audio\]"'):
        audio.read_recordings("a.wav")
    with pytest.raises(ImportError, match=r'pip install "chainrule\[audio\]"'):
        audio.write_wav("b.wav", tone(3), 8000)
    found = baselines.compare([mu_law_encode(tone(99))], [mu_law_encode(tone(50))], rate=8000)
    assert list(found) == ["linear prediction, order 2", "unigram", "uniform"]


# ---- baselines


def mu_law_predictor():
    return baselines.LinearPrediction(mulaw.edges(), mu_law_decode(CODES))


@pytest.mark.parametrize("scale", [1e-4, 0.01, 3.0])
@pytest.mark.parametrize("mean", [0.0, 0.013, -0.9, 2.0])
def test_linear_prediction_is_a_code(scale, mean):
    """The masses of all codes sum to 1, wherever the mean is and however narrow the Gaussian."""
    found = mu_law_predictor()
    found.scale_ = scale
    log_mass = found.log_mass(CODES, np.full(256, mean))
    assert np.isfinite(log_mass).all(), "no code is impossible"
    assert np.logaddexp.reduce(log_mass) == pytest.approx(0, abs=1e-12)
    words = baselines.LinearPrediction(*baselines.levels())
    words.scale_ = scale
    log_mass = words.log_mass(np.arange(65536), np.full(65536, mean))
    assert np.isfinite(log_mass).all()
    assert np.logaddexp.reduce(log_mass) == pytest.approx(0, abs=1e-9)


def test_tails_of_the_gaussian():
    mpmath = pytest.importorskip("mpmath", reason="mpmath is not installed")
    z = [-40.0, -3.0, 0.0, 1.0, 8.0, 29.9, 30.0, 30.1, 100.0, 1e4]
    with mpmath.workdps(50):
        exact = [float(mpmath.log(mpmath.erfc(mpmath.mpf(v) / mpmath.sqrt(2)) / 2)) for v in z]
    np.testing.assert_allclose(baselines._log_tail(np.array(z)), exact, rtol=1e-10, atol=1e-15)
    assert baselines._log_tail(np.array([np.inf, -np.inf])).tolist() == [-np.inf, 0]


def test_linear_prediction_of_what_it_is_made_for():
    """16-bit levels of an AR(2) cost their entropy: that of the noise, over bins of 1/32768."""
    scale = 0.02
    signals = [audio.to_int16(ar2(20000, scale=scale, seed=seed)) for seed in range(3)]
    codes = [signal.astype(int) + 32768 for signal in signals]
    found = baselines.LinearPrediction(*baselines.levels()).fit(codes[:2])
    np.testing.assert_allclose(found.coefficients_, (1.6, -0.8), atol=0.01)
    assert found.scale_ == pytest.approx(scale, rel=0.02)
    entropy = np.log2(scale * 32768 * np.sqrt(2 * np.pi * np.e))
    assert found.bits(codes[2:]) == pytest.approx(entropy, abs=0.02)
    assert baselines.compare(signals[:2], signals[2:], rate=8000)["linear prediction, order 2"] == found.bits(codes[2:])


def test_linear_prediction_looks_back_alone(monkeypatch):
    found, x = mu_law_predictor().fit([mu_law_encode(ar2(500))]), mu_law_encode(ar2(40, seed=1))
    terms = found.log_prob(x)
    for t in (0, 1, 20, 39):
        y = x.copy()
        y[t] ^= 255
        assert (found.log_prob(y)[:t] == terms[:t]).all()
    assert (found.log_prob(x[:7]) == terms[:7]).all()
    assert found.log_prob(x[:1]).shape == (1,)
    monkeypatch.setattr(baselines, "AT_ONCE", 3)
    assert (found.log_prob(x) == terms).all()
    again = mu_law_predictor().fit([mu_law_encode(ar2(500))])
    np.testing.assert_allclose(again.coefficients_, found.coefficients_, rtol=1e-9)
    silent = mu_law_predictor().fit([np.full(50, 128, np.uint8)])
    assert 0 <= silent.bits([np.full(9, 128, np.uint8)]) < 8


def test_unigram():
    train, test = [np.array([0, 0, 1]), np.array([2])], [np.array([0, 3])]
    p = np.array([2.5, 1.5, 1.5, 0.5]) / 6
    assert baselines.unigram_bits(train, test, 4) == pytest.approx(-np.log2(p[[0, 3]]).mean())
    assert baselines.compare(train, test, n_values=4) == {
        "unigram": pytest.approx(-np.log2(p[[0, 3]]).mean()),
        "uniform": 2,
    }


def test_flac(soundfile):
    noise = np.random.default_rng(0).integers(-32768, 32768, 20000).astype(np.int16)
    assert baselines.flac_bits([noise], 8000) == pytest.approx(16, abs=0.3)  # nothing to gain
    assert baselines.flac_bits([np.zeros(20000, np.int16)], 8000) < 0.2
    codes = np.random.default_rng(0).integers(0, 256, 20000).astype(np.uint8)
    assert baselines.flac_bits([codes], 8000) == pytest.approx(8, abs=0.3)
    assert baselines.flac_bits([codes[:1], codes[1:]], 8000) == baselines.flac_bits([codes], 8000)
    assert baselines.flac_bits([mu_law_encode(tone(8000))], 8000) < 6


@pytest.mark.parametrize("kind", ["PCM_S8", "PCM_16"])
def test_flac_loses_nothing(soundfile, monkeypatch, kind):
    """What FLAC's size is taken of holds every code, or every sample."""
    written = {}
    write = soundfile.write

    def keep(file, *arguments, **options):
        write(file, *arguments, **options)
        written.update(options, data=file.getvalue())

    monkeypatch.setattr(soundfile, "write", keep)
    x = np.arange(-128, 128).astype(np.int8) if kind == "PCM_S8" else np.arange(-32768, 32768).astype(np.int16)
    assert audio.flac_bytes(x, 8000) == len(written["data"])
    assert written["subtype"] == kind
    Path("a.flac").write_bytes(written["data"])
    read, _ = soundfile.read("a.flac", dtype="int16")
    assert (read == (x.astype(int) * (256 if kind == "PCM_S8" else 1))).all()


def test_bits_per_sample():
    lengths = np.array([10, 20, 40])
    nats = -float(kernels.log(np.array([2.0]))[0]) * np.array([30.0, 50.0, 130.0])
    found = metrics.bits_per_sample(nats, lengths)
    assert found.mean == pytest.approx(3)
    residual = np.array([0.0, -10.0, 10.0])
    assert found.standard_error == pytest.approx(np.sqrt((residual**2).sum() / 6) / lengths.mean())
    assert np.isnan(metrics.bits_per_sample(nats[:1], lengths[:1]).standard_error)
    with pytest.raises(ValueError, match="lengths is empty"):
        metrics.bits_per_sample(nats[:0], lengths[:0])
