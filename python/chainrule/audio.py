"""Recordings and other sequences from files, and sound to files.

A sequence is a 1-d array: int16 or floats in [-1, 1] are sound, other integers are codes. Sound files are read and
written by libsndfile, through soundfile (``chainrule[audio]``); text and arrays need nothing but NumPy.
"""

from __future__ import annotations

import contextlib
import io as memory
import itertools
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import io, tables
from chainrule.mulaw import FULL_SCALE, as_int16, as_signal
from chainrule.text import Bytes, Characters, Text
from chainrule.validation import check_int

Array = npt.NDArray[Any]
SOUND_FILES = (".wav", ".flac")  # of a folder; a single file may be whatever libsndfile reads
WHOLE = ("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW")  # what int16 holds without loss
RATES = ("sample_rate", "rate")  # names of the rate in a .npz file
ARRAY_FILES = (".npz", ".npy", ".csv", ".parquet")
MOST_VALUES = 1 << 20  # of codes


@dataclass(frozen=True)
class Recordings:
    """Sequences, and what the file says about each.

    `signals` are 1-d arrays: int16 or float32 for sound, one dtype for all; for codes uint8, or int32 where one exceeds
    255. `rate` is in samples per second, None for codes. `labels` has one value for each recording under each name;
    `text` says how the codes were made of text.
    """

    signals: list[Array]
    rate: int | None = None
    names: list[str] = field(default_factory=list)
    labels: dict[str, Array] = field(default_factory=dict)
    text: Text | None = None

    def __len__(self) -> int:
        return len(self.signals)

    @property
    def is_sound(self) -> bool:
        """Samples, not codes."""
        return self.rate is not None

    @property
    def n_samples(self) -> int:
        """Of all recordings together."""
        return sum(map(len, self.signals))

    @property
    def seconds(self) -> float:
        """Of all recordings together."""
        return self.n_samples / self.rate if self.rate else float("nan")

    def __getitem__(self, chosen: slice) -> Recordings:
        """Some of the recordings."""
        return replace(
            self,
            signals=self.signals[chosen],
            names=self.names[chosen],
            labels={name: values[chosen] for name, values in self.labels.items()},
        )

    def between(self, start: float, stop: float) -> Recordings:
        """Of every recording, the part between these fractions of its length."""
        return replace(
            self, signals=[signal[round(start * len(signal)) : round(stop * len(signal))] for signal in self.signals]
        )


# ---- reading


def read_recordings(path: str | os.PathLike[str], rate: int | None = None, *, text: Text | None = None) -> Recordings:
    """All recordings of `path`, those for training first.

    Parameters
    ----------
    path : path
        A sound file; a folder, of which all .wav and .flac files are read, sorted by name; or an array file:

        - .npz: an array for each recording; or `train`, `valid` and `test`, each of them 2-d with a recording per row,
          or 1-d, joined, with the recordings' starts and the end in `train_offsets`. `sample_rate` is the rate, and any
          other `train_<name>` with a value per recording is a label (its values' names are in `<name>s`).
        - .npy, .csv, .parquet: a recording per row.
        - .txt: text, as codes.
    rate : int, optional
        Samples per second where the file does not say; another rate than the file's is an error.
    text : text.Characters, text.Bytes, ..., optional
        How text becomes codes; by default its characters do. With it, any file that is not one of arrays is text.
    """
    return _together(os.fspath(path), list(_read(os.fspath(path), rate, text).values()))


def read_splits(
    path: str | os.PathLike[str],
    rate: int | None = None,
    *,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    text: Text | None = None,
) -> dict[str, Recordings]:
    """Recordings by purpose: the parts `train`, `validation` and `test` of the file, or the ends of what it holds.

    A file without parts gives its last recordings to the test and those before them to validation; where it has fewer
    than three, every recording is cut by time instead. Parameters are those of `read_recordings`.
    """
    for name, fraction in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise ValueError(f"{name} must be in [0, 1), not {fraction!r}")
    if valid_fraction + test_fraction >= 1:
        raise ValueError(f"valid_fraction + test_fraction must be below 1, not {valid_fraction + test_fraction:g}")
    parts = _read(os.fspath(path), rate, text)
    if "train" in parts:
        if "validation" not in parts and valid_fraction:
            train, validation = _cut_off(parts["train"], valid_fraction, len(parts["train"]) == 1)
            parts |= {"train": train, "validation": validation}
    else:
        rest, wanted = parts[""], {"test": test_fraction, "validation": valid_fraction}
        wanted = {part: fraction for part, fraction in wanted.items() if fraction}
        by_time = len(rest) <= len(wanted)
        parts, left = {}, 1.0
        for part, fraction in wanted.items():
            keep = len(wanted) - len(parts)  # a recording for every part that follows
            rest, parts[part] = _cut_off(rest, fraction / left, by_time, keep)
            left -= fraction
        parts["train"] = rest
    return {part: parts[part] for part in tables.SPLITS if part in parts}


def _cut_off(recordings: Recordings, fraction: float, by_time: bool, keep: int = 1) -> tuple[Recordings, Recordings]:
    """All but the last recordings, and those, at least one; or all but the end of every recording, and those ends."""
    n = len(recordings)
    if not by_time:
        at = max(n - max(round(fraction * n), 1), keep)
        return recordings[:at], recordings[at:]
    parts = recordings.between(0, 1 - fraction), recordings.between(1 - fraction, 1)
    if not all(len(signal) for part in parts for signal in part.signals):
        lengths = ", ".join(str(len(signal)) for signal in recordings.signals)
        raise ValueError(f"{n} recording(s) of {lengths} samples are too short to keep {fraction:g} of them apart")
    return parts


def _read(path: str, rate: int | None, text: Text | None = None) -> dict[str, Recordings]:
    """Recordings by part, under "" where the file names none."""
    if rate is not None:
        check_int("rate", rate, 1)
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file or folder {path!r}")
    suffix = Path(path).suffix.lower()
    if Path(path).is_dir():
        return {"": _read_folder(path, rate)}
    if suffix in ARRAY_FILES:
        return _read_npz(path, rate) if suffix == ".npz" else _read_table(path, rate)
    return _read_text(path, text) if suffix == ".txt" or text is not None else _read_sound_file(path, rate)


def _read_folder(path: str, rate: int | None) -> Recordings:
    files = [f for f in Path(path).iterdir() if f.suffix.lower() in SOUND_FILES and not f.name.startswith(".")]
    if not files:
        raise ValueError(f"{path!r} holds no {' or '.join(SOUND_FILES)} files")
    return _sound([str(f) for f in sorted(files)], [f.name for f in sorted(files)], rate)


def _read_sound_file(path: str, rate: int | None) -> dict[str, Recordings]:
    return {"": _sound([path], [Path(path).name], rate)}


def _sound(paths: list[str], names: list[str], rate: int | None) -> Recordings:
    signals, first = [], None
    for path in paths:
        signal, its_rate = _read_sound(path)
        if rate is not None and its_rate != rate:
            raise ValueError(f"{path!r} has {its_rate} samples per second, not rate = {rate}: resample it first")
        if first is not None and its_rate != first:
            raise ValueError(f"{path!r} has {its_rate} samples per second, but {paths[0]!r} has {first}")
        first = its_rate
        signals.append(signal)
    return Recordings(_one_dtype(signals), first, names)


def _read_sound(path: str) -> tuple[Array, int]:
    """One channel of sound: int16 where that loses nothing, else float32; and its rate."""
    soundfile = _soundfile(path)
    try:
        with soundfile.SoundFile(path) as file:
            channels, rate = file.channels, file.samplerate
            signal = file.read(dtype="int16" if file.subtype in WHOLE else "float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path!r} is not a readable sound file: {error.error_string}") from None
    if channels != 1:
        raise ValueError(f"{path!r} has {channels} channels: recordings have one, so mix them or choose one first")
    if not len(signal):
        raise ValueError(f"{path!r} is empty: it has no samples")
    return as_signal(np.ascontiguousarray(signal[:, 0]), f"the signal of {path!r}"), int(rate)


def _soundfile(path: str) -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: it is there, but its library is not
        raise ImportError(f'{path!r}: sound files need soundfile: pip install "chainrule[audio]" ({error})') from None
    return soundfile


def _one_dtype(signals: list[Array]) -> list[Array]:
    """All int16, or all float32, which holds every int16 sample / 32768 exactly."""
    if all(signal.dtype == np.int16 for signal in signals):
        return signals
    return [
        signal.astype(np.float32) / np.float32(FULL_SCALE) if signal.dtype == np.int16 else signal.astype(np.float32)
        for signal in signals
    ]


def _read_npz(path: str, rate: int | None) -> dict[str, Recordings]:
    with _readable(path):
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("it holds one array, as a .npy file does")
        with loaded as file:
            arrays = {name: file[name] for name in file.files}
    known = next((name for name in RATES if name in arrays), None)
    if known:
        its_rate = arrays.pop(known)
        if its_rate.size != 1 or its_rate.dtype.kind not in "iuf" or its_rate < 1 or its_rate != int(its_rate):
            raise ValueError(f"{path!r}: {known} must be one whole number >= 1, not {its_rate}")
        its_rate = int(its_rate.item())
        if rate is not None and rate != its_rate:
            raise ValueError(f"{path!r} has {its_rate} samples per second, not rate = {rate}: resample it first")
        rate = its_rate
    if "train" in arrays:
        named = {part: next((n for n in names if n in arrays), None) for part, names in tables.SPLITS.items()}
        return {part: _part(path, arrays, name, rate) for part, name in named.items() if name is not None}
    belongs = {name for name in arrays for other in arrays if name.startswith(f"{other}_")}  # offsets and labels
    recordings = [
        _part(path, arrays, name, rate)
        for name, array in arrays.items()
        if name not in belongs and array.ndim in (1, 2) and array.dtype.kind in "buif"
    ]
    if not recordings:
        raise ValueError(f"{path!r} holds no recordings: no 1-d or 2-d arrays of numbers")
    return {"": _together(path, recordings)}


def _together(path: str, parts: list[Recordings]) -> Recordings:
    """All recordings of the parts, with the labels that all of them have."""
    signals = [signal for part in parts for signal in part.signals]
    if len({part.is_sound for part in parts}) > 1:
        raise ValueError(f"{path!r} holds both sound and integers that are not int16: keep the arrays of one kind")
    labels = {name for name in parts[0].labels if all(name in part.labels for part in parts)}
    return replace(
        parts[0],
        signals=_one_dtype(signals) if parts[0].is_sound else signals,
        names=[name for part in parts for name in part.names],
        labels={name: np.concatenate([part.labels[name] for part in parts]) for name in sorted(labels)},
    )


def _part(path: str, arrays: dict[str, Array], name: str, rate: int | None) -> Recordings:
    """The recordings of the array `name`, cut by its offsets, with the labels that go with it."""
    array, offsets = arrays[name], arrays.get(f"{name}_offsets")
    if array.ndim == 2:
        signals = list(array)
    elif array.ndim != 1:
        raise ValueError(f"{path!r}: {name} has shape {array.shape}: recordings are 1-d, or the rows of a 2-d array")
    elif offsets is None:
        signals = [array]
    else:
        good = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) > 1
        if not good or offsets[0] != 0 or offsets[-1] != len(array) or (np.diff(offsets.astype(np.int64)) < 0).any():
            raise ValueError(f"{path!r}: {name}_offsets must ascend from 0 to the {len(array)} samples of {name}")
        signals = [array[start:stop] for start, stop in itertools.pairwise(offsets)]
    names = [name] if len(signals) == 1 else [f"{name} {k}" for k in range(len(signals))]
    recordings = _checked(path, signals, names, rate)
    labels = {}
    for other, values in arrays.items():
        label = other.removeprefix(f"{name}_")
        if label not in (other, "offsets") and values.shape == (len(signals),) and values.dtype.kind in "iuU":
            labels[label] = _named(values, arrays.get(f"{label}s"))
    return replace(recordings, labels=labels)


def _named(values: Array, names: Array | None) -> Array:
    """Names in the place of numbers, where the file has them."""
    if names is None or names.dtype.kind != "U" or values.dtype.kind == "U" or values.max(initial=0) >= len(names):
        return values
    return names[values]


def _checked(path: str, signals: list[Array], names: list[str], rate: int | None) -> Recordings:
    """Sound or codes, by their dtype."""
    if not signals:
        raise ValueError(f"{path!r} is empty: it has no recordings")
    for name, signal in zip(names, signals, strict=True):
        if not len(signal):
            raise ValueError(f"{path!r}: {name} is empty: it has no samples")
    if signals[0].dtype.kind == "f" or signals[0].dtype == np.int16:
        if rate is None:
            raise ValueError(f"{path!r} has no sample_rate: say how many samples are a second (rate=, --rate)")
        checked = [as_signal(s, f"{path!r}: {name}") for name, s in zip(names, signals, strict=True)]
        return Recordings(_one_dtype(checked), rate, names)
    codes = [_codes(path, name, s) for name, s in zip(names, signals, strict=True)]
    dtype = _dtype_of(1 + max(int(part.max()) for part in codes))
    return Recordings([part.astype(dtype) for part in codes], None, names)


def _codes(path: str, name: str, values: Array) -> Array:
    if values.dtype.kind not in "bui":
        raise ValueError(f"{path!r}: {name} holds {values.dtype}: sound is int16 or floats, codes are integers")
    low, high = values.min(), values.max()
    if low < 0 or high >= MOST_VALUES:
        raise ValueError(
            f"{path!r}: {name} has values from {low} to {high}: codes are 0 to {MOST_VALUES - 1} at most, and sound is "
            "int16 or floats"
        )
    return values


def _dtype_of(n_values: int) -> type[np.integer[Any]]:
    return np.uint8 if n_values <= 256 else np.int32


def _read_table(path: str, rate: int | None) -> dict[str, Recordings]:
    if Path(path).suffix.lower() == ".npy":
        with _readable(path):
            rows = np.load(path, allow_pickle=False)
    else:
        rows = tables.read(path)
    return {"": _part(path, {"row": rows}, "row", rate)}


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Whatever a damaged file makes NumPy raise is one error that names the file."""
    try:
        yield
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{path!r} is not a readable {Path(path).suffix} file: {error}") from None


def _read_text(path: str, text: Text | None) -> dict[str, Recordings]:
    """One sequence of codes: those of `text`, or the characters in the order of Unicode."""
    name = repr(path)
    if isinstance(text, Bytes):
        codes = text.encode(Path(path).read_bytes(), name)
    else:
        with _readable(path):
            characters = Path(path).read_text(encoding="utf-8-sig")
        text = Characters.of([characters]) if text is None else text
        codes = text.encode(characters, name)
    if not len(codes):
        raise ValueError(f"{path!r} is empty")
    return {"": Recordings([codes.astype(_dtype_of(text.n_values))], None, [Path(path).name], text=text)}


# ---- writing


def write_wav(path: str | os.PathLike[str], signal: Any, rate: int) -> None:
    """One channel of 16-bit sound; the file appears whole, or not at all.

    Parameters
    ----------
    path : path
    signal : array-like (n_samples,)
        int16, or floats in [-1, 1], rounded to 16 bits.
    rate : int
        Samples per second.
    """
    soundfile = _soundfile(os.fspath(path))
    samples, rate = to_int16(signal), check_int("rate", rate, 1)
    data = memory.BytesIO()
    soundfile.write(data, samples, rate, format="WAV", subtype="PCM_16")
    io.write_atomically(path, data.getvalue())


def to_int16(signal: Any) -> npt.NDArray[np.int16]:
    """`signal` as 16-bit samples, 1-d."""
    samples = as_int16(signal, "signal")
    if samples.ndim != 1:
        raise ValueError(f"signal must be 1-d, not {samples.ndim}-d of shape {samples.shape}")
    return samples


def flac_bytes(samples: npt.NDArray[Any], rate: int) -> int:
    """Size of a FLAC file of these int16 or int8 samples at FLAC's best compression."""
    soundfile = _soundfile("FLAC")
    eight = samples.dtype == np.int8
    data = memory.BytesIO()
    # libsndfile takes the upper bits of int16 for eight-bit files
    words = samples.astype(np.int16) << 8 if eight else samples
    soundfile.write(data, words, rate, format="FLAC", subtype="PCM_S8" if eight else "PCM_16", compression_level=1.0)
    return len(data.getvalue())
