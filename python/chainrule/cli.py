"""The command ``chainrule``: what can be asked, and the exit codes. What is then done stands in `commands`."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import chainrule
from chainrule import commands, sequence_commands
from chainrule.models.base import AutoregressiveModel
from chainrule.models.prompts import Prompted
from chainrule.models.trained import TrainedModel

MODELS: dict[str, tuple[type[AutoregressiveModel], str]] = {
    "nade": (chainrule.NADE, "bits, each given the ones before it, through a hidden layer that all share"),
    "made": (chainrule.MADE, "bits or small categories, through one masked network: one pass scores, one pass samples"),
    "fvsbn": (chainrule.FVSBN, "a logistic regression of each variable on those before it"),
    "mlp": (chainrule.MLPConditionals, "a network of its own for each variable: the textbook's baseline"),
    "masde": (chainrule.MASDE, "made, with the connections that a known graph leaves: for few rows"),
    "tabular": (chainrule.Tabular, "a few bits or small categories: every combination has its own probability"),
    "independent": (chainrule.IndependentBernoulli, "independent bits: the baseline of every other model"),
}
SEQUENCES: dict[str, tuple[type[AutoregressiveModel], str]] = {  # models of recordings, text and sequences of codes
    "wavenet": (
        chainrule.WaveNet,
        "sound or text, each sample given those before it, through dilated causal convolutions",
    ),
    "transformer": (
        chainrule.Transformer,
        "text, codes or sound, each symbol given those before it in a window, through causal attention",
    ),
}
PYTHON_ONLY = ("callbacks", "verbose", "warm_start")  # constructor arguments that make no sense on a command line
NOT_RECORDED = ("binarize", "hop")  # and those of what a file of recordings does not have: bits, frames of features
SHORT = {"n_stacks": "--stacks", "n_layers": "--layers", "n_heads": "--heads", "context_length": "--context"}

DATA = 'rows: .npy, .npz, .csv or, with chainrule[parquet], .parquet; "-" is CSV on standard input'
RECORDINGS = (
    "recordings: a .npz file, a folder of .wav and .flac files, or one of them (chainrule[audio]); text: a .txt file; "
    "or codes: .npy, .npz, .csv, .parquet"
)
PARTS = (
    "Arrays `train`, `valid` and `test` of a .npz file, cut by `train_offsets` and so on, are for fitting, for "
    "validation and for one last score"
)
RATE = "samples per second, where the file does not say"
CODES = "Exit codes: 0 good; 1 an error, on one line of stderr; 2 wrong usage; 130 Ctrl-C."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the result is the exit code."""
    options = _parsed(arguments)
    logging.basicConfig(format="%(message)s")
    shown = commands.talks(options) and not (sys.stderr.isatty() and importlib.util.find_spec("tqdm"))
    logging.getLogger("chainrule").setLevel(logging.INFO if shown else logging.WARNING)  # a line per epoch, or a bar
    try:
        code = options.run(options)
        sys.stdout.flush()
        return int(code)
    except KeyboardInterrupt:
        sys.stderr.write("chainrule: interrupted\n")
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough, as in `chainrule sample ... | head`
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except commands.UsageError as error:
        sys.stderr.write(f"chainrule: {error}\n")
        return 2
    except (OSError, ValueError, ImportError, ArithmeticError, MemoryError) as error:
        sys.stderr.write(f"chainrule: {' '.join(_described(error).split())}\n")
        return 1


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if len(rest) == 1 and rest[0].isdecimal() and getattr(options, "n_samples", 0) is None:
        options.n_samples = int(rest.pop())  # argparse before 3.13 misses an N that may be left out after an option
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _described(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


class _Parser(argparse.ArgumentParser):
    """One line for an error."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="chainrule",
        description="Exact-likelihood autoregressive models on the CPU.",
        epilog=f"`chainrule COMMAND --help` has an example of each. {CODES}",
    )
    parser.add_argument("--version", action="version", version=f"chainrule {chainrule.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, purpose: str, example: str, run: Callable[[Any], int], json: bool = True) -> _Parser:
        sub = _command(subparsers, name, purpose, example)
        if json:
            sub.add_argument("--json", action="store_true", help="print one JSON object on stdout, and nothing else")
        sub.set_defaults(run=run)
        return sub

    fit = _command(subparsers, "fit", "fit a model to data and save it", "chainrule fit nade data.npz --seed 1")
    kinds = fit.add_subparsers(dest="kind", metavar="MODEL", required=True)
    for name, (model, purpose) in MODELS.items():
        _add_fit(kinds, name, model, purpose)
    for name, (model, purpose) in SEQUENCES.items():
        _add_fit_sequences(kinds, name, model, purpose)

    score = command(
        "score",
        "log-likelihood of every row, in nats",
        "chainrule score model.safetensors test.csv --output scores.npy",
        _score,
    )
    score.add_argument("model", metavar="MODEL", help="a file that `chainrule fit` or model.save wrote")
    score.add_argument(
        "data",
        metavar="DATA",
        help=f"{DATA}; streamed, so it may be larger than memory. For a model of sequences, {RECORDINGS}",
    )
    _add_data_options(score)
    _add_binarize(score)
    score.add_argument("--per-variable", action="store_true", help="the chain rule's terms log p(x_i | x_<i)")
    score.add_argument(
        "--output", metavar="FILE", help='where the scores go: .npy, .npz, .csv or .parquet; "-" is CSV on stdout'
    )

    sequences = score.add_argument_group("models of sequences")
    sequences.add_argument("--rate", type=int, metavar="R", help=RATE)
    sequences.add_argument(
        "--label", metavar="VALUES", help="of all recordings, for a model that is told some: `7`, or `7,theo`"
    )

    sample = command(
        "sample",
        "draw rows from a model",
        "chainrule sample model.safetensors 1000 --seed 7 --output samples.csv --image 8x8 samples.png",
        _sample,
    )
    sample.add_argument("model", metavar="MODEL")
    sample.add_argument(
        "n_samples",
        metavar="N",
        nargs="?",
        type=_count,
        help="rows; any number, they are drawn in chunks. With --given, its number of rows unless it has a single one",
    )
    sample.add_argument(
        "--given",
        metavar="FILE",
        help="rows with observed values, and NaN or an empty cell where one is missing: these are drawn from their "
        "exact conditional distribution; formats as in `chainrule score`",
    )
    sample.add_argument("--array", metavar="NAME", help="the array of a .npz file that holds several")
    sample.add_argument(
        "--seed", type=_count, default=0, metavar="S", help="row k depends on S and k alone (%(default)s)"
    )
    sample.add_argument("--start", type=_count, default=0, metavar="K", help="first row of the table (%(default)s)")
    sample.add_argument(
        "--output", metavar="FILE", help='.npy, .npz, .csv or .parquet; "-", CSV on stdout, without --image'
    )
    sample.add_argument(
        "--image", nargs=2, metavar=("HxW", "FILE"), help="a picture of the first 100 rows as images (chainrule[app])"
    )

    sequences = sample.add_argument_group(
        "models of sequences",
        "N is 1 unless given; --output is a folder for .wav files, or one of them; a file of text, or standard output; "
        "or a table of codes. --given is a file whose first recording is gone on with.",
    )
    sequences.add_argument(
        "--length", type=_count, metavar="L", help="samples, characters or codes of each, those of --given included"
    )
    sequences.add_argument(
        "--label", metavar="VALUES", help="what the model is told; one value after the other of each label unless given"
    )
    sequences.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="below 1 sharpens every conditional, so that what is likely comes more often (%(default)s: the model's)",
    )
    prompts = sample.add_argument_group(
        "Transformers",
        "Text is shown as it comes. It goes on beyond the window, whose last half is then the beginning of the next.",
    )
    prompts.add_argument("--prompt", metavar="TEXT", help="text that is gone on with")
    prompts.add_argument(
        "--top-k", type=_count, default=0, metavar="K", help="only the K most likely symbols (%(default)s: all)"
    )
    prompts.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="of those, only the smallest set whose probability reaches P (%(default)s: all)",
    )

    info = command("info", "what a model file holds", "chainrule info model.safetensors", commands.info)
    info.add_argument("model", metavar="MODEL")

    verify = command(
        "verify",
        "check the laws of a density on a model; exit code 1 if one is broken",
        "chainrule verify model.safetensors",
        commands.verify,
    )
    verify.add_argument("model", metavar="MODEL")

    bench = command("bench", "rows per second of NADE on this machine", "chainrule bench --quick", commands.bench)
    bench.add_argument("--quick", action="store_true", help="shorter and less exact")

    demo = command(
        "demo",
        "fit NADE to handwritten digits and show what comes out",
        "chainrule demo --max-seconds 10",
        commands.demo,
        json=False,
    )
    demo.add_argument("--output", type=Path, default=Path("chainrule-demo"), help="folder to write (%(default)s)")
    demo.add_argument("--max-seconds", type=float, default=40, help="budget of the fit (%(default)s)")

    command("versions", "versions, instruction set and threads", "chainrule versions", commands.versions)
    return parser


def _command(subparsers: Any, name: str, purpose: str, example: str, **options: Any) -> _Parser:
    parser: _Parser = subparsers.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **options,
    )
    return parser


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--array", metavar="NAME", help="the array of a .npz file that holds several")
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")


def _add_binarize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--binarize", type=float, metavar="T", help="values above T are 1, the others 0")


# ---- score, sample: of rows or of sequences, as the model says


def _density(path: str) -> Any:
    """The model in a file, which must be of p(x)."""
    model = chainrule.load(path)
    if isinstance(model, chainrule.EncoderDecoder):
        raise ValueError(f"{path} is a model of y given x, which has no command: chainrule.load reads it in Python")
    return model


def _score(options: argparse.Namespace) -> int:
    model = _density(options.model)
    if commands.models_sequences(model):
        return sequence_commands.score(options, model)
    _refuse_options_of_sequences(options, model, rate=None, label=None)
    return commands.score(options, model)


def _sample(options: argparse.Namespace) -> int:
    model = _density(options.model)
    if commands.models_sequences(model):
        return sequence_commands.sample(options, model)
    _refuse_options_of_sequences(
        options, model, length=None, label=None, temperature=1.0, prompt=None, top_k=0, top_p=1.0
    )
    return commands.sample(options, model)


def _refuse_options_of_sequences(options: argparse.Namespace, model: Any, **unset: Any) -> None:
    for name, value in unset.items():
        if getattr(options, name) != value:
            flag = f"--{name.replace('_', '-')}"
            raise commands.UsageError(f"{flag} is for models of sequences, which {type(model).__name__} is not")


# ---- fit: options from the model's signature and docstring, so that the two never differ


def _add_fit(kinds: Any, name: str, model: type[AutoregressiveModel], purpose: str) -> None:
    parameters = inspect.signature(model).parameters
    stops_early = "patience" in parameters
    example = f"chainrule fit {name} data.npz --output {name}.safetensors"
    parser = _command(kinds, name, purpose, example, usage=f"chainrule fit {name} [options] DATA")
    parser.description = f"Fit {model.__name__}: {purpose}."
    parser.set_defaults(run=commands.fit, model=model)
    parser.add_argument(
        "data",
        metavar="DATA",
        help=f"{DATA}. Arrays `train`, `valid` and `test` of a .npz file are for fitting, for validation and for one "
        "last score",
    )
    held_out = parser.add_mutually_exclusive_group()
    held_out.add_argument("--valid", metavar="DATA2", help="validation rows")
    held_out.add_argument(
        "--valid-fraction",
        type=_fraction,
        metavar="P",
        help="part of DATA, drawn by the seed, that is kept for validation where no validation rows are given "
        f"({0.1 if stops_early else 0})",
    )
    _add_fit_output(parser, model)
    _add_data_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, and nothing else")
    if "binarize" not in parameters:
        _add_binarize(parser)
    group = _add_model_options(parser, model)
    if "random_state" not in parameters:
        group.add_argument("--seed", type=_count, default=0, metavar="S", help="of --valid-fraction (%(default)s)")


def _add_fit_sequences(kinds: Any, name: str, model: type[AutoregressiveModel], purpose: str) -> None:
    prompted = issubclass(model, Prompted)
    data = "text.txt" if prompted else "recordings.npz --max-seconds 600"
    example = f"chainrule fit {name} {data} --output {name}.safetensors"
    parser = _command(kinds, name, purpose, example, usage=f"chainrule fit {name} [options] DATA")
    parser.description = f"Fit {model.__name__}: {purpose}."
    parser.set_defaults(run=sequence_commands.fit, model=model)
    parser.add_argument("data", metavar="DATA", help=f"{RECORDINGS}. {PARTS}")
    held_out = parser.add_mutually_exclusive_group()
    held_out.add_argument("--valid", metavar="DATA2", help="validation recordings")
    for part, group, fraction in (("valid", held_out, 0.1), ("test", parser, 0.0 if prompted else 0.1)):
        group.add_argument(
            f"--{part}-fraction",
            type=_fraction,
            metavar="P",
            default=fraction,
            help=f"part of DATA, from its end, for {'validation' if part == 'valid' else 'the test'} where the file "
            "names none (%(default)s)",
        )
    parser.add_argument("--rate", type=_count, metavar="R", help=RATE)
    if prompted:
        symbols = parser.add_mutually_exclusive_group()
        symbols.add_argument("--bytes", action="store_true", help="text as bytes, not characters; of any file")
        symbols.add_argument(
            "--tokenizer",
            metavar="FILE",
            help="text as the tokens of a tokenizer.json of the tokenizers library (chainrule[text]); it is kept with "
            "the model",
        )
        parser.set_defaults(context=None)
    else:
        parser.set_defaults(bytes=False, tokenizer=None)
        parser.add_argument(
            "--context",
            metavar="NAMES",
            help="labels of the recordings that the model is told, as in `digit,speaker`; by default `digit` where "
            "there is one; or `none`",
        )
    _add_fit_output(parser, model)
    samples = parser.add_mutually_exclusive_group()
    samples.add_argument(
        "--samples",
        metavar="FOLDER",
        default="samples",
        help="where drawn recordings go, one for each label's value, with a picture beside real ones; or drawn text "
        "(%(default)s)",
    )
    samples.add_argument("--no-samples", dest="samples", action="store_const", const="", help="draw nothing")
    parser.add_argument(
        "--sample-length",
        type=_count,
        metavar="L",
        help="samples or characters of each; by default the median of the recordings, but no more than 2 s or 500",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, and nothing else")
    _add_model_options(parser, model, without=NOT_RECORDED, recipe=sequence_commands.RECIPES.get(model, {}))


def _add_fit_output(parser: argparse.ArgumentParser, model: type[AutoregressiveModel]) -> None:
    parser.add_argument("--output", default="model.safetensors", metavar="FILE", help="where to save (%(default)s)")
    if issubclass(model, TrainedModel):
        parser.add_argument(
            "--checkpoint",
            metavar="FILE",
            help="written after every epoch; when it exists, training goes on from it, to the same bits",
        )


def _add_model_options(
    parser: argparse.ArgumentParser,
    model: type[AutoregressiveModel],
    without: tuple[str, ...] = (),
    recipe: dict[str, Any] | None = None,
) -> Any:
    """The constructor's arguments; `recipe` has those whose defaults are the command's own, or how they are found."""
    group = parser.add_argument_group(f"options of {model.__name__}")
    for parameter in inspect.signature(model).parameters.values():
        if parameter.name not in (*PYTHON_ONLY, *without):
            if recipe and parameter.name in recipe:
                parameter = parameter.replace(default=recipe[parameter.name])
            _add_model_option(group, parameter, *_documented(model).get(parameter.name, ("", "")))
    return group


def _documented(model: type) -> dict[str, tuple[str, str]]:
    """Type and description of each parameter in the NumPy-style docstring."""
    text = ""
    for cls in model.__mro__:  # options that a base class takes are documented there
        doc = inspect.cleandoc(vars(cls).get("__doc__") or "")
        section = re.search(r"^Parameters\n-+\n(.*?)(?:\n\n\S+\n-+\n|\Z)", doc, re.S | re.M)
        text = (section[1] + "\n" if section else "") + text
    found = {}
    for entry in re.finditer(r"^(\w[\w, ]*) : (.*)\n((?:[ ]+.*(?:\n|\Z))*)", text, re.M):
        names, kinds = entry[1].split(", "), entry[2].split(", ")
        for k, name in enumerate(names):
            kind = kinds[k] if 1 < len(names) == len(kinds) else entry[2]
            found[name] = kind, " ".join(entry[3].replace("``", "`").split())
    return found


def _add_model_option(group: Any, parameter: inspect.Parameter, kind: str, description: str) -> None:
    flags = [f"--{parameter.name.replace('_', '-')}"]
    default, kind = parameter.default, kind.removesuffix(", optional")
    required = default is parameter.empty
    annotation = str(parameter.annotation).removesuffix(" | None")
    if parameter.name in SHORT:
        flags = [SHORT[parameter.name], *flags]
    if parameter.name == "random_state":  # the same command, the same bits
        flags, default, kind, annotation = [*flags, "--seed"], 0, "int", "int"
    choices = re.fullmatch(r"\{(.*)\}", kind)
    words = [description.rstrip("."), "" if choices or kind == annotation else kind]
    words.append("" if required or default is None else f"default {default}")
    settings: dict[str, Any] = {
        "dest": commands.MODEL_OPTION + parameter.name,
        "default": argparse.SUPPRESS,
        "help": "; ".join(filter(None, words)).replace("%", "%%"),
    }
    if parameter.name == "structure":
        settings |= {"type": _graph, "metavar": "FILE", "required": required}
        settings["help"] = "adjacency matrix of the graph: a .npy file, or a .csv file without a header"
    elif parameter.name == "dilations":  # "1,2,4", and one alone too
        settings |= {"type": _integers, "metavar": "D,D,..."}
    elif annotation == "bool":
        settings["action"] = argparse.BooleanOptionalAction
    elif annotation == "str" and choices:
        settings["choices"] = [ast.literal_eval(choice.strip()) for choice in choices[1].split(",")]
    else:
        settings["type"] = {"int": int, "float": float, "str": str}.get(annotation, _literal)
        settings["metavar"] = annotation.upper() if annotation in ("int", "float") else "VALUE"
    group.add_argument(*flags, **settings)


def _literal(text: str) -> Any:
    """A number, a tuple ("2,0,1"), ... where `text` is one in Python, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip("()[], ").split(","))


def _graph(path: str) -> Any:
    """A matrix from a file."""
    try:
        if path.endswith(".npy"):
            return np.load(path, allow_pickle=False)
        return np.loadtxt(path, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from None


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


if __name__ == "__main__":
    sys.exit(main())
