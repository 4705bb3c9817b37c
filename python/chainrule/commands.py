"""What each command of ``chainrule`` does with its parsed options; the result is the exit code."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import chainrule
from chainrule import demo as demonstration
from chainrule import kernels, metrics, random, tables
from chainrule.fit.loop import ordered_sum
from chainrule.io import check_target, write_atomically
from chainrule.models.sequences import SequenceModel
from chainrule.validation import as_bits

Array = npt.NDArray[Any]
MODEL_OPTION = "model option "  # prefix of a constructor argument's name among the parsed options
SPLIT = 1000  # the stream of `random` that --valid-fraction draws from
PICTURES = 100


class UsageError(Exception):
    """Options that make no sense together."""


def models_sequences(model: Any) -> bool:
    """Whether `model` is one of recordings or text, not of rows."""
    return isinstance(model, SequenceModel)


def talks(options: argparse.Namespace) -> bool:
    """Whether progress and summaries are wanted."""
    return not (getattr(options, "quiet", False) or getattr(options, "json", False))


def report(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """One JSON object (null for a number that JSON lacks), or `text`: on stderr where stdout carries rows."""
    if options.json:
        print(json.dumps(_plain(result)))
    elif talks(options):
        print(text, file=sys.stderr if getattr(options, "output", None) == "-" else sys.stdout)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def size_of(path: str) -> str:
    """Of a file, for the eye."""
    size = Path(path).stat().st_size
    return f"{size} bytes" if size < 1000 else f"{size / 1e3:.0f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"


def _watched(blocks: Iterable[Array], total: int | None, hide: bool) -> Iterator[Array]:
    """`blocks`, counted by a progress bar on a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield from blocks
        return
    with tqdm(total=total, unit="row", unit_scale=True, leave=False, disable=hide or None) as bar:
        for block in blocks:
            yield block
            bar.update(len(block))


# ---- fit


def fit(options: argparse.Namespace) -> int:
    """Read, fit, save, then say how good the model is."""
    for path in filter(None, (options.output, getattr(options, "checkpoint", None))):
        check_target(path)
    given = {k.removeprefix(MODEL_OPTION): v for k, v in vars(options).items() if k.startswith(MODEL_OPTION)}
    names = options.model._parameter_names()
    seed = given.setdefault("random_state", 0) if "random_state" in names else options.seed
    if "verbose" in names:
        given["verbose"] = talks(options) and sys.stderr.isatty()
    model = options.model(**given)

    rows = _rows_to_fit(options, seed, 0.1 if "patience" in names else 0.0)
    fitted = fit_and_save(options, model, rows["train"], X_val=rows.get("validation"))
    result = {**fitted, "rows": len(rows["train"]), "columns": model.n_features_in_}
    scores = {split: _measured(model, X) for split, X in rows.items()}
    baseline = None if isinstance(model, chainrule.IndependentBernoulli) else _baseline(given, rows)
    report(options, {**result, **scores, "independent": baseline}, _fit_text(result, scores, baseline))
    return 0


def fit_and_save(options: argparse.Namespace, model: Any, X: Any, **held_out: Any) -> dict[str, Any]:
    """Fit and save `model`; Ctrl-C keeps the best so far. What happened, for the report."""
    began = time.perf_counter()
    checkpoint = {"checkpoint": options.checkpoint} if getattr(options, "checkpoint", None) else {}
    model.fit(X, **held_out, **checkpoint)
    seconds = time.perf_counter() - began
    history, stopped = getattr(model, "history_", None), getattr(model, "stopped_", None)
    if stopped == "interrupted" and not (history and history["epoch"]):
        raise KeyboardInterrupt  # no epoch was finished: there is nothing worth keeping
    model.save(options.output)
    if stopped == "interrupted":
        sys.stderr.write(f"chainrule: interrupted; the best model so far is saved in {options.output}\n")
    return {
        "model": type(model).__name__,
        "output": options.output,
        "epochs": len(history["epoch"]) if history else None,
        "stopped": stopped,
        "seconds": seconds,
    }


def _rows_to_fit(options: argparse.Namespace, seed: Any, default_fraction: float) -> dict[str, Array]:
    rows = tables.read_splits(options.data, options.array)
    if options.valid:
        rows["validation"] = tables.read_splits(options.valid)["train"]
    elif options.valid_fraction is not None or "validation" not in rows:
        fraction = default_fraction if options.valid_fraction is None else options.valid_fraction
        n = len(rows["train"])
        if fraction and n:
            if n < 2:
                raise ValueError(f"{options.data!r} has a single row: use --valid or --valid-fraction 0")
            order = random.permutation(random.key_of(seed, SPLIT), 0, n)
            kept = min(max(round(fraction * n), 1), n - 1)
            X = rows["train"]
            rows["validation"], rows["train"] = X[np.sort(order[:kept])], X[np.sort(order[kept:])]
    if getattr(options, "binarize", None) is not None:  # a model without that option of its own
        rows = {split: as_bits(X, binarize=options.binarize, name=split) for split, X in rows.items()}
    return {split: rows[split] for split in tables.SPLITS if split in rows}


def _measured(model: Any, X: Array) -> dict[str, Any]:
    nats = metrics.held_out(model, X)
    bits = metrics.bits_per_dimension(nats.mean, model.n_features_in_)
    return {"rows": len(X), "nats": nats.mean, "standard_error": nats.standard_error, "bits_per_dimension": bits}


def _baseline(given: dict[str, Any], rows: dict[str, Array]) -> dict[str, Any] | None:
    """Independent variables, on the validation rows if there are any; None for values other than bits."""
    split = "validation" if "validation" in rows else "train"
    try:
        baseline = chainrule.IndependentBernoulli(binarize=given.get("binarize")).fit(rows["train"])
        return {"measured_on": split, **_measured(baseline, rows[split])}
    except ValueError:
        return None


def _fit_text(result: dict[str, Any], scores: dict[str, Any], baseline: dict[str, Any] | None) -> str:
    epochs = f", {result['epochs']} epochs, stopped by {result['stopped']}" if result["epochs"] else ""
    lines = [
        f"{result['model']}: {result['rows']} rows x {result['columns']} columns, {result['seconds']:.1f} s{epochs}",
        f"{'':<14}{'rows':>9}{'nats per row':>20}{'bits per dimension':>21}",
    ]
    if baseline:
        scores = {**scores, "independent *": baseline}
    for name, score in scores.items():
        nats = f"{score['nats']:.2f} ± {score['standard_error']:.2f}"
        lines.append(f"{name:<14}{score['rows']:>9}{nats:>20}{score['bits_per_dimension']:>21.3f}")
    if baseline:
        lines.append(f"* the baseline of independent variables, on the {baseline['measured_on']} rows")
    return "\n".join([*lines, f"wrote {result['output']} ({size_of(result['output'])})"])


# ---- score


class _Mean:
    """Mean and standard error of a stream; the bits do not depend on its blocks."""

    def __init__(self) -> None:
        self.n, self.sum, self.origin, self.shifted, self.squares = 0, 0.0, 0.0, 0.0, 0.0

    def add(self, values: npt.NDArray[np.float64]) -> None:
        if not self.n and values.size and np.isfinite(values[0]):
            self.origin = float(values[0])  # sums of squares about a value near the mean keep their digits
        self.n += len(values)
        shifted = values - self.origin
        self.sum = ordered_sum(np.append(self.sum, values))
        with np.errstate(invalid="ignore"):
            self.shifted = ordered_sum(np.append(self.shifted, shifted))
            self.squares = ordered_sum(np.append(self.squares, shifted * shifted))

    def estimate(self) -> metrics.Estimate:
        n = self.n
        spread = self.squares - self.shifted * self.shifted / n
        return metrics.Estimate(self.sum / n, math.sqrt(max(spread, 0.0) / (n - 1) / n) if n > 1 else math.nan)


def score(options: argparse.Namespace, model: Any) -> int:
    """Stream the rows through the model: constant memory."""
    if options.output == "-" and options.json:
        raise UsageError("--json and --output - would both write to stdout")
    if options.output:
        tables.check_output(options.output)
    threshold = options.binarize
    if threshold is not None and "binarize" in model.get_params():
        model.set_params(binarize=threshold)
        threshold = None
    mean, began = _Mean(), time.perf_counter()
    with contextlib.ExitStack() as stack:
        table = stack.enter_context(tables.reading(options.data, options.array))
        write: tables.Write | None = None
        by_variable = np.zeros((1, model.n_features_in_))
        for block in _watched(table.blocks(), table.n_rows, not talks(options) or options.output == "-"):
            try:
                rows = block if threshold is None else as_bits(block, binarize=threshold)
                log_prob = model.score_samples(rows, per_variable=options.per_variable)
            except ValueError as error:
                after = f", after {mean.n} good rows" if mean.n else ""
                raise ValueError(f"{options.data!r}{after}: {error}") from None
            if options.output and write is None:  # not before the data are known to fit the model
                names = (table.names or columns_of(model)) if options.per_variable else ("log_prob",)
                write = stack.enter_context(tables.writing(options.output, names))
            if write:
                write(log_prob)
            if options.per_variable:
                by_variable = np.add.accumulate(np.concatenate([by_variable, log_prob]), axis=0)[-1:]
                log_prob = np.add.accumulate(log_prob, axis=1)[:, -1]
            mean.add(log_prob)
        if not mean.n:
            raise ValueError(f"{options.data!r} has no rows")
        columns = table.names or columns_of(model)

    nats, seconds = mean.estimate(), time.perf_counter() - began
    bits = metrics.bits_per_dimension(nats.mean, model.n_features_in_)
    result = {
        "model": options.model,
        "data": options.data,
        "rows": mean.n,
        "nats": nats.mean,
        "standard_error": nats.standard_error,
        "bits_per_dimension": bits,
        "seconds": seconds,
        "output": options.output,
    }
    lines = [f"{mean.n} rows: {nats} nats per row, {bits:.3f} bits per dimension ({seconds:.1f} s)"]
    if options.per_variable:
        result["per_variable"] = means = by_variable[0] / mean.n
        worst = np.argsort(means, kind="stable")[:10]
        lines.append(f"least predictable, mean nats ({len(worst)} of {len(means)} variables; all with --json):")
        lines += [f"  {columns[k]:<12}{means[k]:>10.4f}" for k in worst]
    if options.output:
        lines.append(f"wrote {options.output}")
    report(options, result, "\n".join(lines))
    return 0


# ---- sample


def sample(options: argparse.Namespace, model: Any) -> int:
    """Draw rows in chunks: to a file, to stdout, into a picture."""
    output = options.output or (None if options.image else "-")
    if options.json and output == "-":
        raise UsageError("--json and rows on stdout do not go together: use --output FILE or --image")
    if options.n_samples is None and not options.given:
        raise UsageError("sample needs N, a number of rows, or --given FILE")
    if options.array and not options.given:
        raise UsageError("--array names an array of the file of --given")
    if output:
        tables.check_output(output)
    names = columns_of(model)
    model.__dict__.pop("feature_names_in_", None)  # arrays, not data frames
    n = model.n_features_in_
    shape = _image_shape(options.image[0], n) if options.image else None
    if options.image:
        check_target(options.image[1])
    began, shown, count = time.perf_counter(), np.empty((0, n)), 0
    with contextlib.ExitStack() as stack:
        write: tables.Write | None = None
        for rows in _watched(_drawn(options, model), options.n_samples, not talks(options) or output == "-"):
            if output and write is None:  # not before the observed values are known to fit the model
                write = stack.enter_context(tables.writing(output, names))
            if write:
                write(rows)
            count += len(rows)
            if len(shown) < PICTURES:
                shown = np.concatenate([shown, rows[: PICTURES - len(shown)]])
    seconds = time.perf_counter() - began
    written = [path for path in (output, options.image and options.image[1]) if path and path != "-"]
    if shape:
        _picture(shown, shape, options.image[1])
    if output != "-":
        result = {
            "model": options.model,
            "rows": count,
            "columns": n,
            "given": options.given,
            "seed": options.seed,
            "start": options.start,
            "seconds": seconds,
            "output": output,
            "image": options.image and options.image[1],
        }
        report(
            options,
            result,
            f"{count} rows of {n} columns, rows {options.start} to {options.start + count - 1} of seed {options.seed}, "
            f"in {seconds:.1f} s\nwrote {', '.join(written)}",
        )
    return 0


def _drawn(options: argparse.Namespace, model: Any) -> Iterator[Array]:
    """The rows in chunks, at least one, which may be empty."""
    chunk = tables.rows_at_once(model.n_features_in_)

    def rows(n_samples: int, given: Array | None = None) -> Iterator[Array]:
        for at in range(0, max(n_samples, 1), chunk):
            n = min(chunk, n_samples - at)
            yield model.sample(n, given=given, random_state=options.seed, start=options.start + at)

    if not options.given:
        yield from rows(options.n_samples)
        return
    done = 0
    with tables.reading(options.given, options.array, missing=True) as table:
        blocks = table.blocks()
        block, following = next(blocks, None), next(blocks, None)
        if block is None or not len(block):
            raise ValueError(f"{options.given!r} has no rows")
        alone = len(block) == 1 and following is None and options.n_samples is not None
        while block is not None:
            try:
                yield from (
                    rows(options.n_samples, block)
                    if alone
                    else [model.sample(given=block, random_state=options.seed, start=options.start + done)]
                )
            except ValueError as error:
                after = f", after {done} good rows" if done else ""
                raise ValueError(f"{options.given!r}{after}: {error}") from None
            done += len(block)
            block, following = following, next(blocks, None)
    if not alone and options.n_samples not in (None, done):
        raise ValueError(f"{options.given!r} has {done} rows: N must be that, or be left out, not {options.n_samples}")


def columns_of(model: Any) -> tuple[str, ...]:
    """Names of the variables: those of the data it was fitted to where the model knows them."""
    return tuple(map(str, getattr(model, "feature_names_in_", (f"x{k}" for k in range(model.n_features_in_)))))


def _image_shape(text: str, n_features: int) -> tuple[int, int]:
    try:
        height, width = map(int, text.lower().split("x"))
    except ValueError:
        raise UsageError(f"--image needs a shape such as 28x28, not {text!r}") from None
    if height < 1 or width < 1 or height * width != n_features:
        raise ValueError(f"--image {text} has {height * width} pixels, but the model has {n_features} variables")
    return height, width


def _picture(rows: Array, shape: tuple[int, int], path: str) -> None:
    from chainrule import plots

    try:
        figure = plots.image_grid(rows, shape).figure
        data = io.BytesIO()
        figure.savefig(data, dpi=120, format=Path(path).suffix.removeprefix(".") or "png")
    except ImportError:
        raise ImportError('--image needs matplotlib: pip install "chainrule[app]"') from None
    write_atomically(path, data.getvalue())


# ---- info, verify, versions, demo, bench


def info(options: argparse.Namespace) -> int:
    """What is in a model file."""
    model = chainrule.load(options.model)
    arrays = model._state()["arrays"]
    learned = getattr(model, "parameters_", arrays)
    result = {
        "file": options.model,
        "bytes": Path(options.model).stat().st_size,
        "model": type(model).__name__,
        "columns": model.n_features_in_,
        "receptive_field": getattr(model, "receptive_field_", None),
        "parameters": sum(int(array.size) for array in learned.values()),
        "arrays": {name: {"dtype": str(a.dtype), "shape": list(a.shape)} for name, a in arrays.items()},
        "options": model.get_params(),
        "training": _training(model),
    }
    step = "step" if models_sequences(model) else "row"
    width = f"receptive field {model.receptive_field_}" if step == "step" else f"{result['columns']} variables"
    lines = [
        f"{options.model} ({size_of(options.model)}): {result['model']}, {width}, {result['parameters']} parameters",
        *("  {:<12}{} {}".format(name, a.dtype, " x ".join(map(str, a.shape))) for name, a in arrays.items()),
        "options: " + ", ".join(f"{name}={value!r}" for name, value in model.get_params().items()),
    ]
    if training := result["training"]:
        best = training["best_validation"]
        lines.append(
            f"training: {training['epochs']} epochs, {training['seconds']:.1f} s, stopped by {training['stopped']}"
            + ("" if best is None else f"; best validation {best:.2f} nats per {step}, epoch {training['best_epoch']}")
        )
    report(options, result, "\n".join(lines))
    return 0


def _training(model: Any) -> dict[str, Any] | None:
    history = getattr(model, "history_", None)
    if not history or not history["epoch"]:
        return None
    validation = [-math.inf if score is None else score for score in history["validation"]]
    best = int(np.argmax(validation)) if np.isfinite(validation).any() else None
    return {
        "epochs": len(history["epoch"]),
        "seconds": history["seconds"][-1],
        "stopped": model.stopped_,
        "last_train": history["train"][-1],
        "best_validation": None if best is None else validation[best],
        "best_epoch": None if best is None else history["epoch"][best],
    }


def verify(options: argparse.Namespace) -> int:
    """The laws of a density, on a user's model."""
    model = chainrule.load(options.model)
    try:
        found = chainrule.verify(model)
    except TypeError as error:
        raise ValueError(str(error)) from None
    laws = [{"name": law.name, "held": law.held, "seen": law.seen} for law in found]
    report(options, {"model": options.model, "held": bool(found), "laws": laws}, str(found))
    if not found:
        broken = ", ".join(law.name for law in found if law.held is False)
        sys.stderr.write(f"chainrule: a law is broken: {broken}\n")
    return 0 if found else 1


def versions(options: argparse.Namespace) -> int:
    """What a bug report needs."""
    if not options.json:
        chainrule.show_versions()
        return 0
    with contextlib.redirect_stdout(io.StringIO()):
        found = chainrule.show_versions()
    report(options, found, "")
    return 0


def demo(options: argparse.Namespace) -> int:
    """The demonstration on handwritten digits."""
    return demonstration.demo(options)


def bench(options: argparse.Namespace) -> int:
    """NADE's kernels on synthetic rows; the cost depends on how many ones there are, hence 13 %, as in MNIST."""
    n, d, n_rows, ones, seconds = 784, 500, 500, 0.13, 0.1 if options.quick else 1.0
    key = random.key_of(0)
    u = random.uniform_rows(key, 0, n_rows, n)
    x = (u < ones).astype(np.uint8)
    W, V = ((random.uniform_rows(key, row, 1, n * d).reshape(n, d) * 0.1 - 0.05).astype(np.float32) for row in (1, 2))
    b, c = np.full(n, -1.9, np.float32), np.zeros(d, np.float32)
    log_prob, out = np.empty(n_rows), (np.empty_like(W), np.empty_like(V), np.empty_like(b), np.empty_like(c))
    calls: dict[str, Callable[[int], Any]] = {
        "score": lambda k: kernels.nade_score(x, W, V, b, c, out=log_prob, n_threads=k),
        "gradient": lambda k: kernels.nade_gradient(x, W, V, b, c, log_prob=log_prob, out=out, n_threads=k),
        "sample": lambda k: kernels.nade_sample(random.uniform_rows(key, 0, n_rows, n, k), W, V, b, c, n_threads=k),
    }
    threads = sorted({1, chainrule.get_num_threads()})
    speeds = {
        name: {k: demonstration.rows_per_second(partial(call, k), n_rows, seconds) for k in threads}
        for name, call in calls.items()
    }
    isa = chainrule._kernels.isa
    what = f"NADE, {n} variables x {d} hidden sigmoids, float32, {n_rows} synthetic rows with {ones:.0%} ones"
    lines = [
        f"{what}; instruction set {isa}",
        "rows per second" + "".join(f"{f'{k} thread' + 's' * (k > 1):>14}" for k in threads),
        *(f"  {name:<13}" + "".join(f"{by[k]:>14,.0f}" for k in threads) for name, by in speeds.items()),
    ]
    report(options, {"what": what, "isa": isa, "threads": threads, "rows_per_second": speeds}, "\n".join(lines))
    return 0
