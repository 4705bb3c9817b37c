"""`chainrule fit`, `score` and `sample` for models of sequences: recordings, text, codes."""

from __future__ import annotations

import argparse
import codecs
import importlib.util
import inspect
import itertools
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chainrule import audio, baselines, commands, metrics, mulaw, tables
from chainrule.audio import Recordings
from chainrule.commands import UsageError
from chainrule.fit.progress import Unit, logger
from chainrule.io import check_target, replacing
from chainrule.models.prompts import Prompted
from chainrule.models.transformer import Transformer
from chainrule.models.wavenet import WaveNet
from chainrule.text import Bytes, Codes, Subwords

Array = npt.NDArray[Any]
MOST_SECONDS = 2.0  # of a drawn recording where nothing else is said
TEXT_LENGTH = 500
PER_PICTURE = 10  # drawn recordings beside as many real ones
UNCONDITIONED = 4  # recordings drawn where there are no labels to go through
GLIMPSE = 200  # characters shown after an epoch
LONGEST_ROW = 1024  # that a window is made for
WINDOW = 64
UPDATES, WARMUP = 5000, 100
RECIPES: dict[type, dict[str, Any]] = {  # defaults of `chainrule fit` that are not the constructor's
    Transformer: {
        "context_length": f"{WINDOW}, or the length of rows of one length up to {LONGEST_ROW}",
        "max_epochs": f"those of {UPDATES} updates",
        "optimizer_options": {"beta2": 0.99},
        "schedule": "cosine",
        "warmup": f"{WARMUP}, or a tenth of the updates",
    }
}
CONDITIONALS: dict[type, dict[str, list[str]]] = {  # of sequences of each kind, the first by default
    Transformer: {"sound": ["mu-law"], "text": ["categorical"], "codes": ["categorical", "logistic-mixture"]},
    WaveNet: {
        "sound": ["mu-law", "logistic-mixture"],
        "text": ["categorical"],
        "codes": ["categorical", "logistic-mixture"],
    },
}


class Choice(NamedTuple):
    """How a symbol is drawn; those after the first are for Transformers."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


PLAIN = Choice()


# ---- labels as context


@dataclass(frozen=True)
class Label:
    """One label of the recordings, and the values it had in training."""

    name: str
    values: list[Any]

    def one_hot(self, labels: Array) -> npt.NDArray[np.float32]:
        """(n_recordings, n_values)."""
        for label in labels.tolist():
            if label not in self.values:
                raise ValueError(f"{self.name} {label!r} is not one the model knows: {_listed(self.values)}")
        return np.asarray(labels[:, None] == np.asarray(self.values)[None], np.float32)

    def read(self, text: str) -> Any:
        """The value that is written so."""
        for value in self.values:
            if str(value) == text:
                return value
        raise ValueError(f"{self.name} {text!r} is not one the model knows: {_listed(self.values)}")


@dataclass(frozen=True)
class Context:
    """Labels of each recording, one-hot and side by side: what the model is told."""

    labels: list[Label]

    @property
    def name(self) -> str:
        """Of all of them."""
        return ",".join(label.name for label in self.labels)

    @property
    def turns(self) -> int:
        """Recordings until every value has had its turn."""
        return max(len(label.values) for label in self.labels)

    def turn(self, k: int) -> tuple[Any, ...]:
        """Of every label the k-th of its values, over and over."""
        return tuple(label.values[k % len(label.values)] for label in self.labels)

    def of(self, told: list[tuple[Any, ...]]) -> npt.NDArray[np.float32]:
        """The context of recordings by their labels' values: (n_recordings, values of all labels)."""
        columns = [np.asarray([values[i] for values in told]) for i in range(len(self.labels))]
        return np.concatenate([label.one_hot(part) for label, part in zip(self.labels, columns, strict=True)], axis=1)

    def told(self, recordings: Recordings, path: str) -> list[tuple[Any, ...]]:
        """The labels' values of every recording of a file."""
        for label in self.labels:
            if label.name not in recordings.labels:
                raise ValueError(f"{path!r} has no label {label.name!r} for its recordings, which the model is told")
        return list(zip(*(recordings.labels[label.name].tolist() for label in self.labels), strict=True))

    def read(self, text: str) -> tuple[Any, ...]:
        """The values that are written so, one for each label."""
        parts = text.split(",") if len(self.labels) > 1 else [text]
        if len(parts) != len(self.labels):
            raise ValueError(f"--label {text}: the model is told {self.name}, so {len(self.labels)} values")
        return tuple(label.read(part) for label, part in zip(self.labels, parts, strict=True))

    def noted(self) -> list[dict[str, Any]]:
        """For a model's file."""
        return [{"name": label.name, "values": label.values} for label in self.labels]


def _listed(values: list[Any]) -> str:
    return ", ".join(map(str, values)) or "none"


def _context_of_fit(options: argparse.Namespace, train: Recordings) -> Context | None:
    """The labels that are asked for; if none is, the digit where there is one."""
    names = options.context or ("digit" if "digit" in train.labels else "none")
    if names == "none" or not options.model._takes_context:
        return None
    labels = []
    for name in names.split(","):
        if name not in train.labels:
            raise ValueError(
                f"{options.data!r} has no label {name!r}: --context is of {_listed([*train.labels, 'none'])}"
            )
        labels.append(Label(name, np.unique(train.labels[name]).tolist()))
    return Context(labels)


def _context_of_model(model: Any) -> Context | None:
    noted = _notes(model).get("context")
    return Context([Label(**label) for label in noted]) if noted else None


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
    conditional = _conditional(options.model, given, parts, options.data)
    given = {**_recipe(options.model, given, train), **given}
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
            told[part] = {"context": context.of(context.told(X, path))}
    held_out: dict[str, Any] = told["train"]
    if "validation" in parts:
        held_out = {**held_out, "X_val": parts["validation"].signals}
        if context:
            held_out["context_val"] = told["validation"]["context"]
    model.notes_ = _noted(train, context)
    if train.text is not None:
        held_out = {**held_out, "tokenizer": train.text, "callbacks": [_glimpses(options, model)]}
    fitted = commands.fit_and_save(options, model, train.signals, **held_out)

    measured = {part: X for part, X in parts.items() if part != "train"} or parts
    scores = {part: _measured(model, X, told[part]) for part, X in measured.items()}
    n_values = train.text.n_values if train.text else given.get("n_values")
    compared = _baselines(parts, measured, conditional, n_values)
    written, text = _draw_some(options, model, parts, context) if options.samples else ([], None)
    result = {
        **fitted,
        "recordings": {part: len(X) for part, X in parts.items()},
        "samples": {part: X.n_samples for part, X in parts.items()},
        "rate": train.rate,
        "context": context and context.noted(),
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
    text = _tokenizer(options.tokenizer) if options.tokenizer else Bytes() if options.bytes else None
    parts = audio.read_splits(options.data, options.rate, text=text, **fractions)
    if options.valid:
        known = parts["train"]
        other = audio.read_recordings(options.valid, options.rate or known.rate, text=known.text)
        if (other.rate, other.text) != (known.rate, known.text):
            raise ValueError(f"{options.valid!r} and {options.data!r} are not of one kind")
        parts["validation"] = other
    return {part: parts[part] for part in tables.SPLITS if part in parts}


def _tokenizer(path: str) -> Subwords:
    """What is in the file of a tokenizer."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path!r}")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError('--tokenizer needs tokenizers: pip install "chainrule[text]"') from None
    try:
        return Subwords.of(Tokenizer.from_file(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path!r} is not a tokenizer's file: {error}") from None


def _recipe(kind: type, given: dict[str, Any], train: Recordings) -> dict[str, Any]:
    """The command's own defaults for these data."""
    recipe = dict(RECIPES.get(kind, {}))
    if recipe:
        lengths = {len(signal) for signal in train.signals}
        row = min(lengths) if len(lengths) == 1 and len(train) > 1 else LONGEST_ROW + 1
        recipe["context_length"] = row if row <= LONGEST_ROW else WINDOW
        window = max(given.get("context_length", recipe["context_length"]), 1)
        batch = max(given.get("batch_size", inspect.signature(kind).parameters["batch_size"].default), 1)
        crops = sum(-(-len(signal) // window) for signal in train.signals)
        recipe["max_epochs"] = max(-(-UPDATES * batch // crops), 1)
        updates = given.get("max_epochs", recipe["max_epochs"]) * -(-crops // batch)
        recipe["warmup"] = max(min(WARMUP, updates // 10), 0)
    return recipe


def _conditional(kind: type, given: dict[str, Any], parts: dict[str, Recordings], path: str) -> str:
    """What the model's outputs are; for codes, filled in with their number."""
    train = parts["train"]
    what = "sound" if train.is_sound else "codes" if train.text is None else "text"
    fitting = CONDITIONALS[kind][what]
    conditional: str = given.setdefault("conditional", fitting[0])
    if conditional not in fitting:
        known = " or ".join(fitting)
        raise UsageError(f"--conditional {conditional} does not go with {path}, which is {what}: {known}")
    if what == "codes":
        values = 1 + max(int(signal.max()) for part in parts.values() for signal in part.signals)
        given.setdefault("n_values", max(values, 2))
    return conditional


def _noted(train: Recordings, context: Context | None) -> dict[str, Any]:
    """What `sample` and `score` need to know again; and how long a recording is."""
    notes: dict[str, Any] = {"length": round(float(np.median([len(signal) for signal in train.signals])))}
    if train.rate is not None:
        notes["rate"] = train.rate
    if context:
        notes["context"] = context.noted()
    return notes


def _measured(model: Any, X: Recordings, told: dict[str, Any]) -> dict[str, Any]:
    nats = model.score_samples(X.signals, **told)
    bits, each = metrics.bits_per_sample(nats, list(map(len, X.signals))), metrics.estimate(nats)
    return {
        "recordings": len(X),
        "bits_per_sample": bits.mean,
        "standard_error": bits.standard_error,
        "nats": each.mean,
        "nats_standard_error": each.standard_error,
    }


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
    symbols = f"; {what.text.n_values} different {_unit(what)}s" if what.text else ""
    return ", ".join(names.values()) + rate + symbols


def _unit(X: Recordings) -> str:
    if X.text is not None:
        return X.text.unit
    return "sample" if X.is_sound else "code"


def _amount(X: Recordings) -> str:
    many = "" if len(X) == 1 else "s"
    if X.is_sound:
        return f"{len(X)} recording{many} ({X.seconds:.1f} s)"
    return f"{X.n_samples} {_unit(X)}s" if X.text else f"{len(X)} sequence{many} ({X.n_samples} codes)"


def _fit_text(
    options: argparse.Namespace, result: dict[str, Any], parts: dict[str, Recordings], context: Context | None
) -> str:
    what, name = parts["train"], result["model"]
    unit = _unit(what)
    rate = f" of {what.rate} samples per second" if what.rate else ""
    labels = context.labels if context else []
    told = ", told" * bool(labels) + " and".join(f" the {label.name} ({_listed(label.values)})" for label in labels)
    epochs = f", {result['epochs']} epochs, stopped by {result['stopped']}" if result["epochs"] else ""
    field = f"receptive field {result['receptive_field']} {unit}s"
    if what.rate:
        field += f" ({1000 * result['receptive_field'] / what.rate:.1f} ms)"
    columns = [part for part in parts if part in result]
    table = {
        f"bits per {unit}": columns,
        name: [_with_error(result[part]["bits_per_sample"], result[part]["standard_error"]) for part in columns],
        **_in_nats({part: parts[part] for part in columns}, result),
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


def _in_nats(parts: dict[str, Recordings], result: dict[str, Any]) -> dict[str, list[str]]:
    """What is published of text, per symbol, and of rows, each as a whole."""
    if all(X.text for X in parts.values()):
        nats = {part: result[part]["nats"] * len(X) for part, X in parts.items()}
        rows = {"in nats": [f"{nats[part] / X.n_samples:.4f}" for part, X in parts.items()]}
        if any(isinstance(X.text, Subwords) for X in parts.values()):
            rows["bits per byte"] = [f"{_bits_per_byte(X, nats[part]):.3f}" for part, X in parts.items()]
        return rows
    lengths = {len(signal) for X in parts.values() for signal in X.signals}
    if len(lengths) > 1 or any(X.is_sound for X in parts.values()):
        return {}
    scores = [(result[part]["nats"], result[part]["nats_standard_error"]) for part in parts]
    return {"nats per sequence": [f"{mean:.2f} ± {error:.2f}" for mean, error in scores]}


def _bits_per_byte(X: Recordings, nats: float) -> float:
    """What compares with other tokenizers; of text in UTF-8."""
    assert X.text is not None
    return -nats / math.log(2) / sum(len(str(X.text.decode(codes)).encode()) for codes in X.signals)


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
    """A recording for each label's value, or a few, with a picture beside real ones; or text, or a table of codes."""
    what = parts["train"]
    n = context.turns if context else UNCONDITIONED if what.is_sound else 1
    length = _usual_length(model) if options.sample_length is None else options.sample_length
    drawn = _drawn(model, n, length, seed=model.random_state)
    folder = Path(options.samples)
    folder.mkdir(exist_ok=True)
    if what.text is not None:
        _write_text(str(folder / "sample.txt"), drawn)
        return [str(folder / "sample.txt")], "".join(_shown(drawn))
    if what.rate is None:
        with tables.writing(str(folder / "samples.npy")) as write:
            write(drawn)
        return [str(folder / "samples.npy")], None
    turns = [context.turn(k) for k in range(n)] if context else []
    names = [_file_name(context, values) for values in turns] if context else _numbered(n)
    written = [_write_sound(folder / f"{name}.wav", row, what.rate) for name, row in zip(names, drawn, strict=True)]
    from chainrule import plots

    real = [parts[part] for part in ("test", "validation", "train") if part in parts]
    shown = _real_ones(real, context, min(n, PER_PICTURE))
    beside = [" ".join(map(str, values)) for values in turns[: len(shown)]] or [""] * len(shown)
    longest = len(drawn[0])  # real recordings may be much longer
    plots.spectrograms(
        [*(signal[:longest] for signal in shown), *drawn[: len(shown)]],
        what.rate,
        [f"real {name}".strip() for name in beside] + [f"drawn {name}".strip() for name in beside],
        folder / "spectrograms.png",
        columns=len(shown),
    )
    return [*written, str(folder / "spectrograms.png")], None


def _file_name(context: Context, values: tuple[Any, ...]) -> str:
    return "-".join(f"{label.name}-{value}" for label, value in zip(context.labels, values, strict=True))


def _real_ones(parts: list[Recordings], context: Context | None, n: int) -> list[Array]:
    """The first recording with the labels of each turn, in the first part that has one; or the first few."""
    if context is None:
        return parts[0].signals[:n]
    found: dict[tuple[Any, ...], Array] = {}
    for part in parts:
        if all(label.name in part.labels for label in context.labels):
            for values, signal in zip(context.told(part, ""), part.signals, strict=True):
                found.setdefault(values, signal)
    silence = np.zeros(1, parts[0].signals[0].dtype)
    return [found.get(context.turn(k), silence) for k in range(n)]


def _drawn(
    model: Any,
    n: int,
    length: int,
    *,
    seed: int,
    start: int = 0,
    label: str | None = None,
    choice: Choice = PLAIN,
    given: Array | None = None,
) -> Any:
    """Sequences start, start + 1, ... of the seed; the k-th has the k-th labels in turn, unless some are named.

    An array, or a list of texts. `given` is what each begins with, in codes.
    """
    context = _context_of_model(model)
    if _continues(model, choice):
        prompt, known = _prompt(given, length), choice._asdict()
        known |= {"sliding": True, "random_state": seed, "start": start}
        rows = model.generate([prompt] * n, length - len(prompt), **known) if n else []
        if model.text_ is None:
            return np.stack([np.concatenate([prompt, row]) for row in rows]) if n else np.empty((0, length), np.int32)
        return [model.text_.decode(prompt) + row for row in rows]
    known = {"length": length, "temperature": choice.temperature}
    if context:
        told = [context.turn(k) if label is None else context.read(label) for k in range(start, start + n)]
        known["context"] = context.of(told)
    if given is not None:
        known["given"] = given
    return model.sample(n, random_state=seed, start=start, **known)


def _continues(model: Any, choice: Choice) -> bool:
    """Whether sequences are drawn as a language model's: symbol by symbol, beyond its window too."""
    return isinstance(model, Prompted) and (model.text_ is not None or choice[1:] != PLAIN[1:])


def _prompt(given: Array | None, length: int) -> Codes:
    prompt = np.zeros(0, np.int32) if given is None else given.astype(np.int32)
    if len(prompt) >= length:
        raise ValueError(f"--length {length} counts what is given, which has {len(prompt)} already")
    return prompt


def _typed(model: Any, length: int, seed: int, start: int, choice: Choice, given: Array | None) -> Iterator[str]:
    """One text of a Transformer, as its parts come."""
    prompt = _prompt(given, length)
    parts = model.generate_stream(
        [prompt], length - len(prompt), **choice._asdict(), sliding=True, random_state=seed, start=start
    )
    return _shown(itertools.chain([model.text_.decode(prompt)], (part for (part,) in parts)))


def _shown(parts: Iterable[str | bytes]) -> Iterator[str]:
    """As text; of bytes, those that are no UTF-8 are replaced."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for part in parts:
        yield part if isinstance(part, str) else decoder.decode(part)
    yield decoder.decode(b"", final=True)


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


def _write_text(path: str, texts: Iterable[str | bytes]) -> None:
    with replacing(path) as file:
        file.writelines(part.encode() if isinstance(part, str) else part for part in texts)


def _lines(texts: list[Any]) -> Iterator[Any]:
    """A line break after each."""
    for text in texts:
        yield text
        yield "\n" if isinstance(text, str) else b"\n"


def _glimpses(options: argparse.Namespace, model: Any) -> Callable[[dict[str, Any]], None]:
    """Shows some text after every epoch."""

    def show(record: dict[str, Any]) -> None:
        if options.samples and commands.talks(options):
            text = "".join(_shown(_drawn(model, 1, GLIMPSE, seed=model.random_state)))
            lines = ["  | " + line for line in text.splitlines()]
            if not logger.isEnabledFor(logging.INFO):  # the bar will forget it
                lines.insert(0, f"epoch {record['epoch']}: {_said(Unit(model._unit), record)}")
            _beside_the_bar("\n".join(lines))

    return show


def _said(unit: Unit, record: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in unit.said(record["train"], record["validation"]).items())


def _beside_the_bar(text: str) -> None:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        sys.stderr.write(text + "\n")
    else:
        tqdm.write(text, file=sys.stderr)


# ---- score


def score(options: argparse.Namespace, model: Any) -> int:
    """The log-likelihood of every recording of a file."""
    if options.per_variable:
        raise UsageError("--per-variable is for rows of one length; in Python, score_samples(X, per_variable=True)")
    if options.binarize is not None:
        raise UsageError("--binarize is for models of bits")
    context, began = _context_of_model(model), time.perf_counter()
    X = _read(options.data, options.rate, options.array, model)
    known: dict[str, Any] = {}
    if options.label is not None and context is None:
        raise UsageError("--label is for models that were fitted with --context")
    if context:
        told = context.told(X, options.data) if options.label is None else [context.read(options.label)] * len(X)
        known["context"] = context.of(told)
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
    in_nats = f" ({mean.mean * len(X) / X.n_samples:.4f} nats)" if X.text else ""
    per_unit = f"{_with_error(*bits)} bits per {_unit(X)}{in_nats}"
    if isinstance(X.text, Subwords):
        per_unit += f", {_bits_per_byte(X, mean.mean * len(X)):.3f} per byte"
    lines = [f"{_amount(X)}: {per_unit}, {mean.mean:.1f} nats each ({seconds:.1f} s)"]
    if options.output:
        lines.append(f"wrote {options.output}")
    commands.report(options, result, "\n".join(lines))
    return 0


def _read(path: str, rate: int | None, part: str | None, model: Any) -> Recordings:
    """The recordings of `path`, or of one part of it, in the model's rate and codes."""
    its_rate = _notes(model).get("rate")
    if rate is not None and its_rate is not None and rate != its_rate:
        raise UsageError(f"--rate {rate}: the model was fitted to {its_rate} samples per second")
    if part is None:
        found = audio.read_recordings(path, its_rate or rate, text=model.text_)
    else:
        parts = audio.read_splits(path, its_rate or rate, text=model.text_)
        names = {name: split for split, known in tables.SPLITS.items() for name in known}
        if names.get(part) not in parts:
            raise ValueError(f"{path!r} has no part {part!r}; it has {', '.join(parts)}")
        found = parts[names[part]]
    if its_rate is not None and not found.is_sound:
        raise ValueError(f"{path!r} is not sound, and the model was fitted to sound")
    if found.text != model.text_:
        raise ValueError(
            f"{path!r} is {'not ' * (found.text is None)}text, and the model's data were"
            f"{' not' * (model.text_ is None)}"
        )
    return found


# ---- sample


def sample(options: argparse.Namespace, model: Any) -> int:
    """Draw recordings, text or codes into files, or text onto the terminal."""
    notes, n = _notes(model), options.n_samples if options.n_samples is not None else 1
    rate, choice = notes.get("rate"), Choice(options.temperature, options.top_k, options.top_p)
    if options.image:
        raise UsageError("--image is for models of images")
    if options.array and not options.given:
        raise UsageError("--array names a part of the file of --given")
    if not isinstance(model, Prompted) and (options.prompt is not None or choice[1:] != PLAIN[1:]):
        raise UsageError(f"--prompt, --top-k and --top-p are for Transformers, which {type(model).__name__} is not")
    if options.label is not None and _context_of_model(model) is None:
        raise UsageError("--label is for models that were fitted with --context")
    if options.prompt is not None and (model.text_ is None or options.given):
        raise UsageError("--prompt is for models of text, and in the place of --given")
    output = options.output or ("-" if rate is None else "samples")
    if options.json and output == "-":
        raise UsageError("--json and samples on stdout do not go together: use --output")
    one_file = rate is not None and Path(output).suffix.lower() == ".wav"
    if one_file and n != 1:
        raise UsageError(f"{output} holds one recording, not {n}: name a folder")
    if rate is None and model.text_ is None:
        tables.check_output(output)
    elif output != "-" and (one_file or model.text_ is not None):
        check_target(output)
    given = None
    if options.given:
        given = _read(options.given, None, options.array, model).signals[0]
    elif options.prompt:
        given = model.text_.encode(options.prompt.encode() if model.text_ == Bytes() else options.prompt, "--prompt")
    length = options.length
    if length is None:  # what is given counts towards it
        length = _usual_length(model) + (0 if given is None else len(given))
    began = time.perf_counter()
    if n == 1 and output == "-" and model.text_ is not None and _continues(model, choice):
        for part in _typed(model, length, options.seed, options.start, choice, given):
            sys.stdout.write(part)
            sys.stdout.flush()
        sys.stdout.write("\n")
        return 0
    drawn = _drawn(
        model, n, length, seed=options.seed, start=options.start, label=options.label, choice=choice,
        given=given,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if rate is not None:
        if not one_file:
            Path(output).mkdir(exist_ok=True)
        paths = [Path(output)] if one_file else [Path(output, f"{name}.wav") for name in _numbered(n, options.start)]
        written = [_write_sound(path, row, rate) for path, row in zip(paths, drawn, strict=True)]
    elif model.text_ is not None:
        written = [output]
        if output == "-":
            sys.stdout.writelines(_shown(_lines(drawn)))
        else:
            _write_text(output, _lines(drawn))
    else:
        written = [output]
        with tables.writing(output, tuple(f"x{k}" for k in range(drawn.shape[1]))) as write:
            write(drawn)
    result = {
        "model": options.model,
        "recordings": n,
        "length": length,
        "seed": options.seed,
        "start": options.start,
        "seconds": seconds,
        "written": written,
    }
    if output != "-":
        unit = "code" if model.text_ is None else model.text_.unit
        each = f"{length / rate:.2f} s" if rate else f"{length} {unit}s"
        commands.report(options, result, f"{n} of {each}, in {seconds:.1f} s\nwrote {_shortened(written)}")
    return 0
