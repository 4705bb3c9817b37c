"""From pytest-benchmark's JSON to docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from datetime import date
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.pictures import PICTURES, of_threads

LIBRARIES = {
    "torch": "PyTorch",
    "jax": "JAX",
    "numpy": "NumPy",
    "transformers": "transformers",
    "llama_cpp_python": "llama.cpp",
}
PEERS = LIBRARIES | {"float32": "our float32", "one": "our one row", "greedy": "our greedy"}
WAYS = ("torch", "transformers")  # of these the report names the fastest way
HEADINGS = {  # of each group: title, what is timed
    "nade-score": (
        "NADE: score",
        "Log-likelihood of each row. PyTorch is the faster of a loop over the variables and a cumulative sum.",
    ),
    "nade-gradient": (
        "NADE: loss and gradient",
        "Log-likelihood of each row, and the gradient of their mean; the peers by automatic differentiation.",
    ),
    "nade-sample": (
        "NADE: sample",
        "Rows drawn from the model, uniforms included: each library its own. Given the same ones, the rows agree.",
    ),
    "nade-categorical-score": (
        "NADE over categories: score",
        "Log-likelihood of each row of nucleotides (4 values) or characters (65 values). PyTorch loops over the "
        "variables, with cross entropy.",
    ),
    "nade-categorical-gradient": (
        "NADE over categories: loss and gradient",
        "The same with the gradient of the mean; PyTorch by automatic differentiation.",
    ),
    "one-row-score": (
        "One row",
        "Latency of a single 8 x 8 image: the kernel, and the model with its checks of the input.",
    ),
    "nade-epoch": (
        "An epoch of training",
        "`partial_fit`: shuffling, batches, gradient, Adam. The floor is the gradient kernel on the same batches.",
    ),
    "masked-linear": (
        "Masked products",
        "A layer whose mask is a staircase: output o has the inputs up to its degree, degrees spread evenly, so half "
        "the weights are live; rows x inputs x outputs. Plain weights (inputs, outputs), our packing included, and in "
        "the panels that models keep. PyTorch multiplies the dense matrix (MKL), into memory that outlives the call. "
        "The floor is the multiply-adds of the live weights. Results agree with float64 to 1e-5 of their largest.",
    ),
    "dense-linear": (
        "Dense products",
        "The same without a mask: what the kernels are worth where there is nothing to leave out.",
    ),
    "made-train-step": (
        "A step of training: MADE",
        "Gradient and Adam on batches of binarized MNIST. PyTorch is the faster of autograd and of a gradient written "
        "out by hand, both with fused Adam and the gradient masked in place; JAX is one compiled step with its state "
        "donated. The floor is the multiply-adds of live weights, by ones of the data in the first layer, three times "
        "(twice in the first layer), a sigmoid a logit, and a root and a division for each live weight; or bringing "
        "the weights and their moments, if that is longer.",
    ),
    "fvsbn-train-step": ("A step of training: FVSBN", "The same without hidden layers."),
    "made-step-masks": (
        "A step of training under changing masks",
        "The masks fixed; a new order of the variables for every batch; new connectivity too. The floor is our own "
        "step with fixed masks.",
    ),
    "made-score": (
        "MADE: score",
        "`score_samples` with its checks of the input; one row also by the kernel alone, for which 20 "
        "microseconds were asked. The floor is the multiply-adds of live weights and a sigmoid a logit.",
    ),
    "made-sample": (
        "MADE: sample",
        "Uniforms included. PyTorch with a forward pass for every variable, as is usual, and with running sums, which "
        "one hidden layer allows. For 784-8000-8000-784 the floor is our own forward pass of one row.",
    ),
    "made-small": (
        "MADE: small problems",
        "Where the cost of a call counts: a step of training, and the score.",
    ),
    "wavenet-train-step": (
        "A step of training: WaveNet",
        "Gradient and Adam on one row of mu-law codes of spoken digits. PyTorch is the faster of autograd over "
        "`conv1d` and of a gradient written out over matrix products, both with fused Adam; JAX is one compiled step "
        "with its state donated. In rows of their own, PyTorch as it is usually written alone, with the ratio that was "
        "asked for. The floor is three times the multiply-adds, a tanh and a sigmoid a channel, an exponential a "
        "value, and Adam.",
    ),
    "wavenet-score": (
        "WaveNet: score",
        "`score_samples`. The peers go by chunks: those that compute the receptive field anew, and those that hand on "
        "every layer's last features; in rows of their own, PyTorch through `conv1d`. The floor is one pass.",
    ),
    "wavenet-sample": (
        "WaveNet: generation",
        "Every library with a queue a layer: PyTorch with all queues in one memory, by TorchScript or eagerly, JAX in "
        "a compiled scan; in rows of their own, PyTorch with a queue after the other, eagerly. The floor is, for every "
        "time, the longer of its arithmetic and of reading all weights once from where they live. Given the same "
        "uniforms, the codes agree.",
    ),
    "wavenet-real-time": (
        "WaveNet: real time",
        "One stream at 16 kHz on one thread. The floor column is the duration of the sound.",
    ),
    "logistic-mixture": (
        "Mixtures of logistics",
        "Of 16-bit sound: log-likelihoods, and with them the gradient by all parameters. PyTorch in the form of "
        "PixelCNN++, by autograd. The floor is six exponentials a component and a logarithm a sample. Log-likelihoods "
        "agree with float64, ours to 1e-5 and PyTorch's to 1e-3.",
    ),
    "transformer-train-step": (
        "A step of training: Transformer",
        "Gradient and AdamW, weight decay on matrices alone, on windows of tinyshakespeare. PyTorch by autograd over "
        "`scaled_dot_product_attention`, with fused AdamW; JAX is one compiled step with its state donated. The floor "
        "is three times the multiply-adds, a tanh for every hidden unit, an exponential for every head and pair of "
        "steps and for every logit, and AdamW. Losses of three steps agree with float64 to 1e-5, and the parameters "
        "after them, on average, to a hundredth of how far they moved.",
    ),
    "attention": (
        "Attention",
        "Forwards and backwards, causal. PyTorch's `scaled_dot_product_attention` with its own backward pass; and "
        "written out over blocks of queries and the keys they see, which is faster. The floor is two products forwards "
        "and four backwards over the causal half, and an exponential a pair of steps.",
    ),
    "transformer-decode": (
        "Decoding",
        "Milliseconds a token: the most likely tokens after a prompt, by a network of GPT-2's shape with random "
        "weights. The transformers library by `generate` or by a loop of our own over its cache; llama.cpp by its C "
        "interface, in F32, BF16 and Q8_0. Weights of fewer bits also beside our own in float32, 16 rows beside one. "
        "The floor is, for every token, the longer of its arithmetic and of reading all weights and the cache once "
        "from memory. Tokens in float32 agree, logits of fewer bits to 0.02 (bf16) and 0.05 (int8) of the largest.",
    ),
    "transformer-prefill": (
        "Taking in a prompt",
        "Keys and values of every token, logits of the last one. The floor is the multiply-adds, a tanh for every "
        "hidden unit and an exponential for every head and pair of steps.",
    ),
    "encoder-decoder-train-step": (
        "A step of training: EncoderDecoder",
        "Gradient, its norm, and AdamW, on number words and the digits they stand for. PyTorch by autograd, with fused "
        "AdamW: padded, over `scaled_dot_product_attention`, and packed, its matrices over real steps alone. The floor "
        "is three times the multiply-adds of real steps, a tanh for every hidden unit, an exponential for every head "
        "and pair of steps and for every logit, and AdamW. Losses of three steps agree with float64 to 1e-5.",
    ),
    "encoder-decoder-decode": (
        "EncoderDecoder: decoding",
        "The encoder's pass, and the digits one after the other until all rows have stopped. PyTorch padded and "
        "packed, both over kept keys and values in memory that outlives the call. The floor is the multiply-adds of "
        "real steps and the functions. Tokens agree. Beams, without a peer, beside our own greedy decoding.",
    ),
    "optimizers": (
        "Optimizers",
        "One step on the parameters of a 784 x 500 NADE. The floor is the longer of bringing every array once from "
        "where it lives (sgd two, momentum to rmsprop three, adadelta and adam four, an average one more) and, from "
        "adagrad on, of a root and a division for each parameter, at our own rate within caches. PyTorch is the faster "
        "of its fused and its foreach implementations.",
    ),
    "math": (
        "Elementwise functions",
        "The floor is the longer of the arithmetic, within caches, and the memory traffic. NumPy has one thread.",
    ),
}

SUMMARY = {  # of README.md's table, in its order: group, job and size of a row, and what it is called there
    ("nade-score", "mnist", "100 x 784 x 500"): "NADE: score, mnist",
    ("nade-gradient", "mnist", "100 x 784 x 500"): "NADE: loss and gradient, mnist",
    ("nade-gradient", "connect4", "100 x 126 x 100"): "NADE: loss and gradient, connect4",
    ("nade-sample", "mnist", "100 x 784 x 500"): "NADE: sample, mnist",
    ("masked-linear", "forward", "128 x 2016 x 2016"): "masked product, forward",
    ("made-train-step", "mnist", "784-500-784, 100 rows"): "MADE: step, mnist",
    ("made-train-step", "mnist", "784-2000-2000-784, 128 rows"): "MADE: step, mnist",
    ("fvsbn-train-step", "mnist", "784-784, 100 rows"): "FVSBN: step, mnist",
    ("made-score", "mnist", "784-500-784, 10000 rows"): "MADE: score, mnist",
    ("made-sample", "mnist, against a pass a variable", "784-500-784, 100 rows"): "MADE: sample, peers pass by pass",
    ("wavenet-train-step", "spoken digits", "C = 64, S = 128, 20 layers, 8000 samples"): "WaveNet: step",
    ("wavenet-score", "spoken digits", "C = 64, S = 128, 20 layers, 80000 samples"): "WaveNet: score",
    ("wavenet-sample", "one stream", "C = 64, S = 128, 20 layers, 1 x 300 samples"): "WaveNet: generate one stream",
    ("wavenet-sample", "16 streams", "C = 64, S = 128, 20 layers, 16 x 64 samples"): "WaveNet: generate 16 streams",
    ("transformer-train-step", "characters", "6 layers, width 384, 6 heads, 12 x 256 tokens"): "Transformer: step",
    ("attention", "one row", "12 heads of 64, T = 1024"): "attention, forward and backward",
}


class Row(NamedTuple):
    """One line of a table: a job at one thread count, its sides' times in seconds, or in seconds a token."""

    group: str
    job: str
    size: str
    threads: int
    ours: float
    floor: float | None
    peers: dict[str, tuple[float, str]]  # of each library, its fastest way and that way's name
    targets: dict[str, float]

    def ratio(self, library: str) -> float:
        return self.peers[library][0] / self.ours

    def goals(self) -> Iterator[tuple[str, float]]:
        """The targets against peers that were measured."""
        return ((name, goal) for name, goal in self.targets.items() if name in self.peers)

    def verdict(self) -> str:
        """Against the targets where there are some, else against the peers. A target "floor" is a number of floors."""
        if missed := [goal for goal, _ in self.missed()]:
            return "**missed** " + ", ".join(missed)
        goals = [f"{goal:g}x {PEERS[name]}" for name, goal in self.goals()]
        if "floor" in self.targets and self.floor:
            goals.append(f"{self.targets['floor']:g}x the floor")
        if goals:
            return "met " + ", ".join(goals)
        lost = self.lost()
        return "**loses** to " + ", ".join(lost) if lost else ("faster" if self.peers else "")

    def missed(self) -> Iterator[tuple[str, str]]:
        """Targets that were not reached, and what was."""
        for name, goal in self.goals():
            if self.ratio(name) < goal:
                yield f"{goal:g}x {PEERS[name]}", f"{self.ratio(name):.2f}x"
        if "floor" in self.targets and self.floor and self.ours > self.targets["floor"] * self.floor:
            yield f"{self.targets['floor']:g}x the floor", f"{self.ours / self.floor:.2f}x"

    def lost(self) -> list[str]:
        """Peers that are faster."""
        return [PEERS[name] for name in self.peers if name in LIBRARIES and self.ratio(name) < 1]


def rows(benchmarks: list[dict[str, Any]]) -> Iterator[Row]:
    """Of all tables. Rounds of all turns of a side are one sample; its median counts.

    A peer may use as many threads as we do, or fewer if that is faster.
    """
    samples: dict[tuple[str, str, str, int], dict[str, list[float]]] = {}
    info: dict[tuple[str, str, str, int], dict[str, Any]] = {}
    for run in benchmarks:
        if run["group"] in PICTURES:
            continue
        extra = run["extra_info"]
        key = (run["group"], extra["job"], extra["size"], extra["threads"])
        times = [seconds / extra.get("per", 1) for seconds in run["stats"]["data"]]
        samples.setdefault(key, {}).setdefault(extra["side"], []).extend(times)
        if extra["side"] == "chainrule":
            info[key] = extra
    for key, sides in samples.items():
        peers: dict[str, tuple[float, str]] = {}
        for other, group in samples.items():
            if other[:3] != key[:3] or other[3] > key[3]:
                continue
            for side, data in group.items():
                library, _, way = side.partition("-")
                if library in PEERS and (library not in peers or median(data) < peers[library][0]):
                    notes = [way] * (library in WAYS and way != "")
                    notes += [of_threads(other[3])] * (other[3] < key[3] and library != "numpy")
                    peers[library] = median(data), ", ".join(notes)
        floor = info[key].get("floor_ms")
        yield Row(*key, median(sides["chainrule"]), floor and floor / 1e3, peers, info[key].get("targets", {}))


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.{3 if seconds < 1e-3 else 2 if seconds < 1e-1 else 0}f}"


def table(lines: list[Row]) -> Iterator[str]:
    libraries = [name for name in PEERS if any(name in row.peers for row in lines)]
    floors = any(row.floor for row in lines)
    names = ["job", "size", "threads", "chainrule ms"]
    names += [text for name in libraries for text in (f"{PEERS[name]} ms", "ratio")]
    names += ["floor ms", "of floor"] * floors + ["verdict"]
    yield "| " + " | ".join(names) + " |"
    yield "|" + "|".join("---" if name in ("job", "size", "verdict") else "--:" for name in names) + "|"
    for row in sorted(lines, key=lambda row: ([r.job + r.size for r in lines].index(row.job + row.size), -row.threads)):
        cells = [row.job, row.size, str(row.threads), milliseconds(row.ours)]
        for name in libraries:
            if name in row.peers:
                seconds, way = row.peers[name]
                cells += [milliseconds(seconds) + (f" ({way})" if way else ""), f"{row.ratio(name):.1f}x"]
            else:
                cells += ["", ""]
        if floors:
            cells += [milliseconds(row.floor), f"{row.floor / row.ours:.2f}"] if row.floor else ["", ""]
        yield "| " + " | ".join([*cells, row.verdict()]) + " |"


def summary(benchmarks: list[dict[str, Any]], threads: int) -> Iterator[str]:
    """The table of README.md, an empty line, and where we fall short."""
    found = {(row.group, row.job, row.size): row for row in rows(benchmarks) if row.threads == threads}
    yield f"| job ({of_threads(threads)}, float32) | size | chainrule | PyTorch | JAX | of the computed floor |"
    yield "|---|---|--:|--:|--:|--:|"
    for key, name in SUMMARY.items():
        row = found[key]
        peers = [
            f"{milliseconds(row.peers[name][0])} ms, {row.ratio(name):.1f}x" if name in row.peers else ""
            for name in ("torch", "jax")
        ]
        share = f"{row.floor / row.ours:.2f}" if row.floor else ""
        yield "| " + " | ".join([name, row.size, f"{milliseconds(row.ours)} ms", *peers, share]) + " |"
    short = [
        f"{HEADINGS[row.group][0]}, {row.job}, {row.size} ({reached} of {goal})"
        for row in found.values()
        for goal, reached in row.missed()
    ]
    slow = [
        f"{HEADINGS[row.group][0]}, {row.job}, {row.size} ({', '.join(row.lost())})"
        for row in found.values()
        if row.lost()
    ]
    yield ""
    where = f"On {processor()}, {os.cpu_count()} CPUs. Slower than a peer: {'; '.join(slow) or 'nowhere'}."
    yield f"{where} Short of what was asked for:"
    yield from (f"- {row}" for row in short or ["nothing"])


def with_table(page: str, lines: list[str]) -> str:
    """The page with its table of the same first words, and as many paragraphs after it as in `lines`, replaced."""
    before, heading, rest = page.partition(lines[0].split("(")[0])
    if not heading:
        raise ValueError(f"the page has no table that begins with {lines[0]!r}")
    *_, after = rest.split("\n\n", lines.count("") + 1)
    return before + "\n".join(lines) + "\n\n" + after


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """Its name, and the numbers that tell it from others of that name."""
    try:
        lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
        first = {name.strip(): value.strip() for name, value in reversed(lines)}
        return f"{first['model name']} (family {first['cpu family']}, model {first['model']})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def header(load: float | None) -> Iterator[str]:
    from chainrule import _kernels

    yield from ("| | |", "|---|---|")
    yield f"| processor | {processor()}, {os.cpu_count()} CPUs |"
    yield f"| system | {platform.system()} {platform.release()}, Python {platform.python_version()} |"
    yield f"| chainrule | {_kernels.version}, {_kernels.isa}, compiler {_kernels.compiler} |"
    yield "| peers | " + ", ".join(f"{name} {version(package)}" for package, name in LIBRARIES.items()) + " |"
    yield f"| date | {date.today().isoformat()} |"
    if load is not None:
        yield f"| load before the run | {load:.2f} |"


METHOD = """\
`python -m bench` wrote this page. Every figure is a median of many calls. A process has one thread count: it is pinned
to that many CPUs before any library is imported. In it, chainrule and its peers take turns on the same rows and
weights, in the same precision, and their results are asserted equal (log-likelihoods to 1e-5 relative in float32 and
1e-10 in float64, against chainrule's float64; a section says so where it is otherwise). The peers are the fastest
honest forms we know: encoded rows made in advance, contiguous weights, memory that outlives the call, inference mode, a
compiled scan (`bench/peers.py`, `bench/peers_masked.py`, `bench/peers_wavenet.py`, `bench/peers_transformer.py`,
`bench/peers_encoder_decoder.py`); a peer that is faster with one thread than with two is shown with one. Rows are real,
binarized MNIST, connect4, spoken digits, tinyshakespeare and number words, or random bits with p = 1/2 as the worst
case; weights are random, N(0, 0.05) or those that training begins with, and the data's log-odds as biases; those of
WaveNet and of Transformers are random, those that number words are decoded with are fitted.

A floor is the time below which the job cannot go here: its multiply-adds at the rate of the best dense matrix product
measured, plus its sigmoids at our own rate within caches. NADE, score and sample: rows x n x d multiply-adds and d
sigmoids for each move of a hidden state (each 1 of the encoded rows). Gradient: three times the one, twice the other.
Masked networks count live weights alone, as each section says."""


def document(
    benchmarks: list[dict[str, Any]], rates: dict[int, dict[str, str]], slopes: dict[str, str], load: float | None
) -> str:
    """The page; `rates` are those of each thread count, `load` that of the machine before the run."""
    lines = list(rows(benchmarks))
    out = ["# Benchmarks", "", METHOD, "", *header(load), ""]
    counts = sorted(rates, reverse=True)
    out += [
        "| measured in the run | " + " | ".join(map(of_threads, counts)) + " |",
        "|---|" + "--:|" * len(counts),
    ]
    out += [f"| {name} | " + " | ".join(rates[k][name] for k in counts) + " |" for name in rates[counts[0]]]
    cores = [run["extra_info"]["cores"] for run in benchmarks if run["extra_info"]["threads"] == 1]
    if cores:
        out += ["", f"CPU time over wall time of the one-thread benchmarks: at most {max(cores):.2f}."]
    for group, (title, text) in HEADINGS.items():
        members = [row for row in lines if row.group == group]
        if members:
            out += ["", f"## {title}", "", text, "", *table(members)]
    for group, text in slopes.items():
        if text:
            out += ["", f"## {PICTURES[group].title}", "", f"![{PICTURES[group].caption}](img/{group}.png)", "", text]
    return "\n".join(out) + "\n"
