"""Pictures of cost against size, from pytest-benchmark's JSON."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple


def of_threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


class Picture(NamedTuple):
    """A group of costs against sizes: a panel an axis, a line a job."""

    title: str
    caption: str
    about: str
    names: dict[str, str]  # of each axis
    fixed: dict[str, str]  # what stays as it is meanwhile
    jobs: dict[str, tuple[str, str]]  # colour, marker
    straight: bool = False  # linear axes, a line fitted to all sizes


PICTURES = {
    "nade-cost": Picture(
        "Cost against size",
        "cost of score and gradient",
        "NADE, float32, 13 % ones",
        {"n": "variables n", "d": "hidden units d", "rows": "rows"},
        {"n": "d = 500, 100 rows", "d": "n = 784, 100 rows", "rows": "n = 784, d = 500"},
        {"score": ("#0072b2", "o"), "gradient": ("#d55e00", "s")},
    ),
    "wavenet-cost": Picture(
        "Cost of a generated sample",
        "cost of a sample that WaveNet generates",
        "WaveNet, C = 64, S = 128, float32, one stream",
        {"layers": "layers", "length": "samples generated"},
        {"layers": "256 samples", "length": "20 layers"},
        {"a generated sample": ("#0072b2", "o")},
    ),
    "transformer-cost": Picture(
        "Cost of a decoded token",
        "cost of a token against the tokens before it",
        "A decoded token, float32, one row",
        {"gpt2": "tokens before it", "long": "tokens before it"},
        {"gpt2": "12 layers, width 768", "long": "4 layers, width 128, 256 values"},
        {"a decoded token": ("#0072b2", "o")},
        straight=True,
    ),
}


def picture(benchmarks: list[dict[str, Any]], group: str, path: Path) -> str:
    """Draws the costs of a group against each axis; returns the fitted lines in words."""
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    look = PICTURES[group]
    runs = [run["extra_info"] | run["stats"] for run in benchmarks if run["group"] == group]
    if not runs:
        return ""
    most = max(run["threads"] for run in runs)
    runs = [run for run in runs if run["threads"] == most]
    count = len(look.names)
    size, shared = (1 + 3 * count, 3.6), not look.straight
    figure, axes = plt.subplots(1, count, figsize=size, sharey=shared, layout="constrained")
    words = []
    for axis, (key, label) in zip(axes, look.names.items(), strict=True):
        ticks: Iterable[float] = ()
        for job, (colour, marker) in look.jobs.items():
            points = [
                (run["value"], run["median"] * 1e3 / run.get("per", 1))
                for run in runs
                if (run["axis"], run["job"]) == (key, job)
            ]
            x, y = np.array(sorted(points), float).T
            if look.straight:
                slope, at = np.polyfit(x, y, 1)
                line, text = at + slope * x, f"{at:.3g} ms + {slope * 1e3:.2g} ms per 1000"
                off = max(abs(y / line - 1))
                words.append(f"{job}, {look.fixed[key]}, {text} {label}, no size further than {off:.0%} from it")
                axis.set_ylim(0, 1.3 * max(y))
            else:
                axis.set_xscale("log")
                axis.set_yscale("log")
                half = slice(len(x) // 2, None)  # where the cost of a call no longer counts
                slope, at = np.polyfit(np.log(x[half]), np.log(y[half]), 1)
                line, text = np.exp(at) * x**slope, f"slope {slope:.2f}"
                words.append(f"{job} against {label} {slope:.2f}")
            axis.plot(x, y, marker, color=colour, label=text if look.straight else f"{job}, {text}")
            axis.plot(x, line, "-", color=colour, linewidth=1, alpha=0.6)
            ticks = x[::2] if look.straight else x
        axis.set_xticks(list(ticks), [f"{t:g}" for t in ticks], fontsize=8)
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.set_title(look.fixed[key], fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=9)
    axes[0].set_ylabel("milliseconds")
    figure.suptitle(f"{look.about}, {of_threads(most)}", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    what = "Straight lines through all sizes" if look.straight else "Slopes in the logarithms over the larger half"
    return f"{what}, {of_threads(most)}: {'; '.join(words)}."
