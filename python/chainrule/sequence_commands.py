"""`chainrule fit`, `score` and `sample` for models of sequences: recordings, text, codes."""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import audio, baselines, commands, metrics, mulaw, tables
from chainrule.audio import Recordings
from chainrule.commands import UsageError
from chainrule.io import check_target, replacing

Array = npt.NDArray[Any]
MOST_SECONDS = 2.0  # of a drawn recording where nothing else is said
TEXT_LENGTH = 500
PER_PICTURE = 10  # drawn recordings beside as many real ones
UNCONDITIONED = 4  # recordings drawn where there are no labels to go through


# ---- labels as context


@dataclass(frozen=True)
class Context:
    """One label of each recording, one-hot: what the model is told."""

    name: str
    values: list[Any]

    def of(self, labels: Array) -> npt.NDArray[np.float32]:
        """(n_recordings, n_values)."""
        for label in labels.tolist():
            if label not in self.values:
                raise ValueError(f"{self.name} {label!r} is not one the model knows: {_listed(self.values)}")
        return np.asarray(labels[:, None] == np.asarray(self.values)[None], np.float32)

    def of_recordings(self, recordings: Recordings, path: str) -> npt.NDArray[np.float32]:
        """The context of every recording of a file."""
        if self.name not in recordings.labels:
            raise ValueError(f"{path!r} has no label {self.name!r} for its recordings, which the model is told")
        return self.of(recordings.labels[self.name])

    def of_text(self, text: str, n: int) -> npt.NDArray[np.float32]:
        """The same value, as it is written, for `n` recordings."""
        found = [value for value in self.values if str(value) == text]
        if not found:
            raise ValueError(f"{self.name} {text!r} is not one the model knows: {_listed(self.values)}")
        return self.of(np.repeat(np.asarray(found), n))


def _listed(values: list[Any]) -> str:
    return ", ".join(map(str, values)) or "none"


def _context_of_fit(options: argparse.Namespace, train: Recordings) -> Context | None:
    """The label that is asked for; if none is, the digit where there is one."""
    name = options.context or ("digit" if "digit" in train.labels else "none")
    if name == "none":
        return None
    if name not in train.labels:
        raise ValueError(
            f"{options.data!r} has no label {name!r}: --context is one of {_listed([*train.labels, 'none'])}"
        )
    return Context(name, np.unique(train.labels[name]).tolist())


def _context_of_model(model: Any) -> Context | None:
    noted = _notes(model).get("context")
    return Context(noted["name"], noted["values"]) if noted else None


def _notes(model: Any) -> dict[str, Any]:
    notes: dict[str, Any] = getattr(model, "notes_", {})
    return notes


# ---- fit


def fit(options: argparse.Namespace) -> int:
    """Read, fit, save, compare with the baselines, draw."""
    for path in filter(None, (options.output, getattr(options, "checkpoint", None))):
        check_target(path)
    parts = _parts(options)
    train = parts["train"]
    if options.samples:
        _check_samples_can_be_written(options.samples, train)
    given = {k.removeprefix(commands.MODEL_OPTION): v for k, v in vars(options).items() if _is_model_option(k)}
    conditional = _conditional(given, parts, options.data)
    if "random_state" in options.model._parameter_names():
        given.setdefault("random_state", 0)
    if "verbose" in options.model._parameter_names():
        given["verbose"] = commands.talks(options) and sys.stderr.isatty()
    model = options.model(**given)
    context = _context_of_fit(options, train)
    if commands.talks(options):
        sys.stderr.write(_about_parts(parts) + "\n")

    told: dict[str, dict[str, Any]] = {part: {} for part in parts}
    if context:  # all of them before the fit, which may be long
        for part, X in parts.items():
            path = options.valid if part == "validation" and options.valid else options.data
            told[part] = {"context": context.of_recordings(X, path)}
    held_out: dict[str, Any] = told["train"]
    if "validation" in parts:
        held_out = {**held_out, "X_val": parts["validation"].signals}
        if context:
            held_out["context_val"] = told["validation"]["context"]
    model.notes_ = _noted(train, context)
    fitted = commands.fit_and_save(options, model, train.signals, **held_out)

    measured = {part: X for part, X in parts.items() if part != "train"} or parts
    scores = {part: _measured(model, X, told[part]) for part, X in measured.items()}
    compared = _baselines(parts, measured, conditional, given.get("n_values"))
    written, text = _draw_some(options, model, parts, context) if options.samples else ([], None)
    result = {
        **fitted,
        "recordings": {part: len(X) for part, X in parts.items()},
        "samples": {part: X.n_samples for part, X in parts.items()},
        "rate": train.rate,
        "context": context and {"name": context.name, "values": context.values},
        "receptive_field": model.receptive_field_,
        **scores,
        "baselines": compared,
        "written": written,
        "text": text,
    }
    commands.report(options, result, _fit_text(options, result, parts, context))
    return 0


def _is_model_option(name: str) -> bool:
    return name.startswith(commands.MODEL_OPTION)


def _parts(options: argparse.Namespace) -> dict[str, Recordings]:
    """Recordings by purpose; other files of text get the codes of the first."""
    fractions = {
        "valid_fraction": 0.0 if options.valid else options.valid_fraction,
        "test_fraction": options.test_fraction,
    }
    parts = audio.read_splits(options.data, options.rate, **fractions)
    if options.valid:
        known = parts["train"]
        other = audio.read_recordings(options.valid, options.rate or known.rate)
        if other.rate != known.rate:
            raise ValueError(f"{options.valid!r} and {options.data!r} are not of one kind")
        parts["validation"] = _in_symbols(other, known.symbols, options.valid)
    return {part: parts[part] for part in tables.SPLITS if part in parts}


def _in_symbols(recordings: Recordings, symbols: str | None, path: str) -> Recordings:
    """Text in the codes of a model's symbols."""
    if symbols == recordings.symbols:
        return recordings
    if symbols is None or recordings.symbols is None:
        raise ValueError(
            f"{path!r} is {'not ' if symbols else ''}text, the model's data were{'' if symbols else ' not'}"
        )
    if strange := sorted(set(recordings.symbols) - set(symbols)):
        raise ValueError(f"{path!r} has characters the model does not know: {strange[:5]}")
    code = np.array([symbols.index(symbol) for symbol in recordings.symbols], np.uint8)
    return Recordings([code[signal] for signal in recordings.signals], None, recordings.names, symbols=symbols)


def _conditional(given: dict[str, Any], parts: dict[str, Recordings], path: str) -> str:
    """What the model's outputs are; for codes, filled in with their number."""
    sound = parts["train"].is_sound
    default = "mu-law" if sound else "categorical"
    conditional: str = given.setdefault("conditional", default)
    if sound == (conditional == "categorical"):
        kind = "sound: mu-law or logistic-mixture" if sound else "text or codes: categorical"
        raise UsageError(f"--conditional {conditional} does not go with {path}, which is {kind}")
    if not sound:
        symbols = parts["train"].symbols
        values = 1 + max(int(signal.max()) for part in parts.values() for signal in part.signals)
        given.setdefault("n_values", len(symbols) if symbols else max(values, 2))
    return conditional


def _noted(train: Recordings, context: Context | None) -> dict[str, Any]:
    """What `sample` and `score` need to know again; and how long a recording is."""
    notes: dict[str, Any] = {"length": round(float(np.median([len(signal) for signal in train.signals])))}
    if train.rate is not None:
        notes["rate"] = train.rate
    if train.symbols is not None:
        notes["symbols"] = train.symbols
    if context:
        notes["context"] = {"name": context.name, "values": context.values}
    return notes


def _measured(model: Any, X: Recordings, told: dict[str, Any]) -> dict[str, Any]:
    nats = model.score_samples(X.signals, **told)
    bits = metrics.bits_per_sample(nats, list(map(len, X.signals)))
    return {"recordings": len(X), "bits_per_sample": bits.mean, "standard_error": bits.standard_error}


def _baselines(
    parts: dict[str, Recordings], measured: dict[str, Recordings], conditional: str, n_values: int | None
) -> dict[str, dict[str, float]]:
    """Bits per sample by baseline and part, on the values the model scores."""

    def values(X: Recordings) -> list[Array]:
        if conditional == "mu-law":
            return [mulaw.mu_law_encode(signal) for signal in X.signals]
        return [audio.to_int16(signal) for signal in X.signals] if X.is_sound else X.signals

    train = values(parts["train"])
    found: dict[str, dict[str, float]] = {}
    for part, X in measured.items():
        for name, bits in baselines.compare(train, values(X), rate=X.rate, n_values=n_values).items():
            found.setdefault(name, {})[part] = bits
    return found


def _about_parts(parts: dict[str, Recordings]) -> str:
    what = parts["train"]
    names = {part: f"{part} {_amount(X)}" for part, X in parts.items()}
    rate = f"; {what.rate} samples per second" if what.is_sound else ""
    symbols = f"; {len(what.symbols)} different characters" if what.symbols else ""
    return ", ".join(names.values()) + rate + symbols


def _unit(X: Recordings) -> str:
    return "sample" if X.is_sound else "character" if X.symbols else "code"


def _amount(X: Recordings) -> str:
    many = "" if len(X) == 1 else "s"
    if X.is_sound:
        return f"{len(X)} recording{many} ({X.seconds:.1f} s)"
    return f"{X.n_samples} characters" if X.symbols else f"{len(X)} sequence{many} ({X.n_samples} codes)"


def _fit_text(
    options: argparse.Namespace, result: dict[str, Any], parts: dict[str, Recordings], context: Context | None
) -> str:
    what, name = parts["train"], result["model"]
    unit = _unit(what)
    rate = f" of {what.rate} samples per second" if what.rate else ""
    told = f", told the {context.name} ({_listed(context.values)})" if context else ""
    epochs = f", {result['epochs']} epochs, stopped by {result['stopped']}" if result["epochs"] else ""
    field = f"receptive field {result['receptive_field']} {unit}s"
    if what.rate:
        field += f" ({1000 * result['receptive_field'] / what.rate:.1f} ms)"
    columns = [part for part in parts if part in result]
    table = {
        f"bits per {unit}": columns,
        name: [_with_error(result[part]["bits_per_sample"], result[part]["standard_error"]) for part in columns],
        **{kind: [f"{bits[part]:.3f}" for part in columns] for kind, bits in result["baselines"].items()},
    }
    lines = [
        f"{name}: {_amount(what)}{rate}{told}; {field}; {result['seconds']:.1f} s{epochs}",
        *(f"{row:<28}" + "".join(f"{cell:<18}" for cell in cells).rstrip() for row, cells in table.items()),
    ]
    if result["text"]:
        lines += ["drawn from the model:", *("  " + line for line in result["text"][:300].splitlines())]
    written = [f"{options.output} ({commands.size_of(options.output)})"]
    if result["written"]:
        written.append(f"{options.samples}/: {_shortened([Path(path).name for path in result['written']])}")
    return "\n".join([*lines, "wrote " + ", ".join(written)])


def _with_error(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f}" if math.isfinite(error) else f"{value:.3f}"


def _shortened(names: list[str]) -> str:
    return ", ".join(names if len(names) < 5 else [names[0], "...", *names[-2:]])


# ---- what is drawn


def _check_samples_can_be_written(folder: str, what: Recordings) -> None:
    if Path(folder).exists() and not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder!r} is not a folder: samples go to one (--samples, --no-samples)")
    if not Path(folder).resolve().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(Path(folder).resolve().parent)!r}")
    if what.is_sound:
        for module, extra in (("soundfile", "audio"), ("matplotlib", "app")):
            if importlib.util.find_spec(module) is None:
                raise ImportError(
                    f'drawn recordings need {module}: pip install "chainrule[{extra}]", or say --no-samples'
                )


def _draw_some(
    options: argparse.Namespace, model: Any, parts: dict[str, Recordings], context: Context | None
) -> tuple[list[str], str | None]:
    """A recording for each label, or a few, with a picture beside real ones; or some text, or a table of codes."""
    what = parts["train"]
    n = len(context.values) if context else UNCONDITIONED if what.is_sound else 1
    drawn = _drawn(model, n, options.sample_length, seed=model.random_state)
    folder = Path(options.samples)
    folder.mkdir(exist_ok=True)
    if what.symbols:
        text = _as_text(drawn[0], what.symbols)
        _write_text(str(folder / "sample.txt"), text)
        return [str(folder / "sample.txt")], text
    if what.rate is None:
        with tables.writing(str(folder / "samples.npy")) as write:
            write(drawn)
        return [str(folder / "samples.npy")], None
    names = [f"{context.name}-{value}" for value in context.values] if context else _numbered(len(drawn))
    written = [_write_sound(folder / f"{name}.wav", row, what.rate) for name, row in zip(names, drawn, strict=True)]
    from chainrule import plots

    real = next(parts[part] for part in ("test", "validation", "train") if part in parts)
    shown = _real_ones(real, context, min(len(drawn), PER_PICTURE))
    beside = [str(value) for value in context.values[: len(shown)]] if context else [""] * len(shown)
    longest = len(drawn[0])  # real recordings may be much longer
    plots.spectrograms(
        [*(signal[:longest] for signal in shown), *drawn[: len(shown)]],
        what.rate,
        [f"real {name}".strip() for name in beside] + [f"drawn {name}".strip() for name in beside],
        folder / "spectrograms.png",
        columns=len(shown),
    )
    return [*written, str(folder / "spectrograms.png")], None


def _real_ones(real: Recordings, context: Context | None, n: int) -> list[Array]:
    """The first recording of every label, or the first few; silence where there is none."""
    if context is None:
        return real.signals[:n]
    labels = real.labels[context.name].tolist()
    nothing = np.zeros(1, real.signals[0].dtype)
    return [real.signals[labels.index(v)] if v in labels else nothing for v in context.values[:n]]


def _drawn(
    model: Any,
    n: int,
    length: int | None,
    *,
    seed: int,
    start: int = 0,
    label: str | None = None,
    temperature: float = 1.0,
    given: Array | None = None,
) -> Array:
    """Sequences start, start + 1, ... of the seed; the k-th has the k-th label in turn, unless one is named."""
    context = _context_of_model(model)
    if length is None:  # --given counts towards it
        length = _usual_length(model) + (0 if given is None else len(given))
    known: dict[str, Any] = {"length": length, "temperature": temperature}
    if context:
        turn = np.asarray(context.values)[np.arange(start, start + n) % len(context.values)]
        known["context"] = context.of(turn) if label is None else context.of_text(label, n)
    elif label is not None:
        raise UsageError("--label is for models that were fitted with --context")
    if given is not None:
        known["given"] = given
    drawn: Array = model.sample(n, random_state=seed, start=start, **known)
    return drawn


def _usual_length(model: Any) -> int:
    """Of a recording that is drawn: the median one's in training, if that is short."""
    notes = _notes(model)
    most = round(MOST_SECONDS * notes["rate"]) if "rate" in notes else TEXT_LENGTH
    return max(1, min(int(notes.get("length", most)), most))


def _numbered(n: int, start: int = 0) -> list[str]:
    return [f"sample-{k}" for k in range(start, start + n)]


def _write_sound(path: Path, signal: Array, rate: int) -> str:
    audio.write_wav(path, signal, rate)
    return str(path)


def _as_text(codes: Array, symbols: str) -> str:
    return "".join(symbols[code] for code in codes.tolist())


def _write_text(path: str, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


# ---- score


def score(options: argparse.Namespace, model: Any) -> int:
    """The log-likelihood of every recording of a file."""
    if options.per_variable:
        raise UsageError("--per-variable is for rows of one length; in Python, score_samples(X, per_variable=True)")
    if options.binarize is not None:
        raise UsageError("--binarize is for models of bits")
    notes, context, began = _notes(model), _context_of_model(model), time.perf_counter()
    X = _read(options.data, options.rate, options.array, notes)
    known: dict[str, Any] = {}
    if options.label is not None and context is None:
        raise UsageError("--label is for models that were fitted with --context")
    if context:
        known["context"] = (
            context.of_recordings(X, options.data) if options.label is None else context.of_text(options.label, len(X))
        )
    try:
        nats = model.score_samples(X.signals, **known)
    except ValueError as error:
        raise ValueError(f"{options.data!r}: {error}") from None
    bits = metrics.bits_per_sample(nats, list(map(len, X.signals)))
    if options.output:
        with tables.writing(options.output, ("log_prob",)) as write:
            write(nats)
    mean, seconds = metrics.estimate(nats), time.perf_counter() - began
    result = {
        "model": options.model,
        "data": options.data,
        "recordings": len(X),
        "samples": X.n_samples,
        "nats": mean.mean,
        "standard_error": mean.standard_error,
        "bits_per_sample": bits.mean,
        "seconds": seconds,
        "output": options.output,
    }
    lines = [f"{_amount(X)}: {_with_error(*bits)} bits per {_unit(X)}, {mean.mean:.1f} nats each ({seconds:.1f} s)"]
    if options.output:
        lines.append(f"wrote {options.output}")
    commands.report(options, result, "\n".join(lines))
    return 0


def _read(path: str, rate: int | None, part: str | None, notes: dict[str, Any]) -> Recordings:
    """The recordings of `path`, or of one part of it, in the model's rate and symbols."""
    its_rate = notes.get("rate")
    if rate is not None and its_rate is not None and rate != its_rate:
        raise UsageError(f"--rate {rate}: the model was fitted to {its_rate} samples per second")
    if part is None:
        found = audio.read_recordings(path, its_rate or rate)
    else:
        parts = audio.read_splits(path, its_rate or rate)
        names = {name: split for split, known in tables.SPLITS.items() for name in known}
        if names.get(part) not in parts:
            raise ValueError(f"{path!r} has no part {part!r}; it has {', '.join(parts)}")
        found = parts[names[part]]
    if its_rate is not None and not found.is_sound:
        raise ValueError(f"{path!r} is not sound, and the model was fitted to sound")
    return _in_symbols(found, notes.get("symbols"), path)


# ---- sample


def sample(options: argparse.Namespace, model: Any) -> int:
    """Draw recordings, text or codes into files."""
    notes, n = _notes(model), options.n_samples if options.n_samples is not None else 1
    rate, symbols = notes.get("rate"), notes.get("symbols")
    if options.image:
        raise UsageError("--image is for models of images")
    if options.array and not options.given:
        raise UsageError("--array names a part of the file of --given")
    output = options.output or ("-" if rate is None else "samples")
    if options.json and output == "-":
        raise UsageError("--json and samples on stdout do not go together: use --output")
    one_file = rate is not None and Path(output).suffix.lower() == ".wav"
    if one_file and n != 1:
        raise UsageError(f"{output} holds one recording, not {n}: name a folder")
    if rate is None and symbols is None:
        tables.check_output(output)
    elif output != "-" and (one_file or symbols is not None):
        check_target(output)
    given = None
    if options.given:
        given = _read(options.given, None, options.array, notes).signals[0]
    began = time.perf_counter()
    drawn = _drawn(
        model, n, options.length, seed=options.seed, start=options.start, label=options.label,
        temperature=options.temperature, given=given,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if rate is not None:
        if not one_file:
            Path(output).mkdir(exist_ok=True)
        paths = [Path(output)] if one_file else [Path(output, f"{name}.wav") for name in _numbered(n, options.start)]
        written = [_write_sound(path, row, rate) for path, row in zip(paths, drawn, strict=True)]
    elif symbols is not None:
        text = "\n".join(_as_text(row, symbols) for row in drawn) + "\n"
        written = [output]
        if output == "-":
            sys.stdout.write(text)
        else:
            _write_text(output, text)
    else:
        written = [output]
        with tables.writing(output, tuple(f"x{k}" for k in range(drawn.shape[1]))) as write:
            write(drawn)
    result = {
        "model": options.model,
        "recordings": n,
        "length": int(drawn.shape[1]),
        "seed": options.seed,
        "start": options.start,
        "seconds": seconds,
        "written": written,
    }
    if output != "-":
        each = f"{drawn.shape[1] / rate:.2f} s" if rate else f"{drawn.shape[1]} {'characters' if symbols else 'codes'}"
        commands.report(options, result, f"{n} of {each}, in {seconds:.1f} s\nwrote {_shortened(written)}")
    return 0
