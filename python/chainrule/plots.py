"""Pictures: every function draws into `ax` (or a new one) and returns it. Needs matplotlib (``chainrule[app]``).

Colours are told apart by colour-blind readers too; likelihoods are in nats; error bars are one standard error.
"""

from __future__ import annotations

import io as memory
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import io, metrics

BLUE, ORANGE, GRAY, PALE = "#0072B2", "#D55E00", "0.35", "0.85"  # the first two of Okabe & Ito's palette
DOT = {"ms": 4, "alpha": 0.8, "mew": 0, "color": BLUE}


def _axes(ax: Any, figsize: tuple[float, float]) -> Any:
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=figsize, layout="constrained").subplots()
    return ax


def _data_and_samples(model: Any, X: Any, n_samples: int, random_state: Any) -> tuple[Any, Any]:
    """`X` as the model reads it, thresholded and as integers, and as many samples as asked for."""
    return model._known_input(X), np.asarray(model.sample(n_samples, random_state=random_state))


def _square(ax: Any, low: float, high: float) -> None:
    """Both axes from `low` to `high`, and the diagonal."""
    margin = 0.04 * (high - low)
    ax.axline((low, low), slope=1, color=GRAY, lw=1, zorder=1)
    ax.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), aspect="equal")


def learning_curve(model: Any, ax: Any = None) -> Any:
    """Mean log-likelihood per epoch, training and validation, from ``model.history_``."""
    ax = _axes(ax, (6, 4))
    history = model.history_
    ax.plot(history["epoch"], history["train"], label="train (while it ran)", color=GRAY)
    if history["validation"] and history["validation"][0] is not None:
        ax.plot(history["epoch"], history["validation"], label="validation", color=BLUE)
        best = int(np.argmax(history["validation"]))
        ax.plot(history["epoch"][best], history["validation"][best], "o", color=BLUE, label="kept")
    ax.set(xlabel="epoch", ylabel="log-likelihood, nats per row")
    ax.legend(frameon=False)
    return ax


def image_grid(X: npt.NDArray[Any], shape: tuple[int, int], ax: Any = None, *, columns: int = 10) -> Any:
    """Rows of `X` as images of `shape`, `columns` side by side, one pixel apart; large values are dark."""
    ax = _axes(ax, (5, 5))
    height, width = shape
    rows = -(-len(X) // columns)
    canvas = np.full((rows * (height + 1) + 1, columns * (width + 1) + 1), np.nan)
    for k, image in enumerate(np.asarray(X, float).reshape(-1, height, width)):
        top, left = (k // columns) * (height + 1) + 1, (k % columns) * (width + 1) + 1
        canvas[top : top + height, left : left + width] = image
    ax.set_facecolor(BLUE)
    ax.imshow(np.ma.masked_invalid(canvas), cmap="gray_r", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    return ax


def per_variable_scores(model: Any, X: Any, ax: Any = None, shape: tuple[int, int] | None = None) -> Any:
    """Which variables are hard: the mean of ``-log p(x_i | x_<i)`` over the rows of `X`, in nats.

    Bars with standard errors by column, or a heat map when ``shape=(height, width)`` is given.
    """
    surprise = -model.score_samples(X, per_variable=True)
    mean, n = surprise.mean(0), surprise.shape[1]
    label = r"$-\log p(x_i\,|\,x_{<i})$, mean nats"
    if shape is not None:
        ax = _axes(ax, (5.5, 4.5))
        image = ax.imshow(mean.reshape(shape), cmap="cividis", vmin=0, interpolation="nearest")
        ax.figure.colorbar(image, ax=ax, label=label)
        ax.set(xticks=[], yticks=[])
        return ax
    ax = _axes(ax, (7, 4))
    error = surprise.std(0, ddof=1) / np.sqrt(len(surprise)) if len(surprise) > 1 else None
    ax.bar(np.arange(n), mean, yerr=error, color=BLUE, ecolor=GRAY, width=0.8, error_kw={"lw": 1})
    ax.set(xlabel="variable i", ylabel=label, xlim=(-0.7, n - 0.3), ylim=(0, None))
    names = getattr(model, "feature_names_in_", None)
    if names is not None and n <= 40:
        ax.set_xlabel("variable")
        ax.set_xticks(np.arange(n), list(names), rotation=90)
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def marginals(model: Any, X: Any, ax: Any = None, n_samples: int = 10_000, random_state: Any = None) -> Any:
    """How often each variable is 1 in `X` against how often in `n_samples` samples of the model.

    Bars are binomial standard errors ``sqrt(f (1 - f) / n)``; points of a model with the right marginals are on the
    diagonal but for noise.
    """
    ax = _axes(ax, (4.8, 4.8))
    data, drawn = _data_and_samples(model, X, n_samples, random_state)
    x, y = (np.asarray(rows, float).mean(0) for rows in (drawn, data))
    bars = (np.sqrt(f * (1 - f) / len(rows)) for f, rows in ((x, drawn), (y, data)))
    xerr, yerr = bars
    _square(ax, 0, 1)
    ax.errorbar(x, y, yerr=yerr, xerr=xerr, fmt="o", ecolor=BLUE, elinewidth=0.7, **DOT)
    ax.set(
        xlabel=f"frequency of 1 in {n_samples:,} samples of the model",
        ylabel=f"frequency of 1 in {len(data):,} rows of data",
    )
    return ax


def correlations(model: Any, X: Any, ax: Any = None, n_samples: int = 10_000, random_state: Any = None) -> Any:
    """Correlation of every pair of variables in `X` against that in `n_samples` samples of the model.

    The band is two standard errors of the difference, ``2 (1 - r^2) sqrt(1/n_data + 1/n_samples)``. Pairs with a column
    that is constant in either set have no correlation and are left out.
    """
    ax = _axes(ax, (4.8, 4.8))
    data, drawn = _data_and_samples(model, X, n_samples, random_state)
    varies = (np.ptp(data, 0) > 0) & (np.ptp(drawn, 0) > 0)
    pairs = np.triu_indices(int(varies.sum()), 1)
    x, y = (np.atleast_2d(np.corrcoef(rows[:, varies], rowvar=False))[pairs] for rows in (drawn, data))
    both = np.concatenate([x, y]) if len(x) else np.array([-1.0, 1.0])
    low, high = min(0.0, float(both.min())), max(0.0, float(both.max()))
    r = np.linspace(low, high, 101)
    band = 2 * (1 - r * r) * np.sqrt(1 / len(data) + 1 / n_samples)
    _square(ax, low, high)
    ax.fill_between(r, r - band, r + band, color=PALE, lw=0, zorder=0, label="2 standard errors")
    alpha = 0.8 if len(x) < 200 else 0.3
    ax.plot(x, y, "o", **(DOT | {"ms": 3, "alpha": alpha}), rasterized=len(x) > 5000)
    ax.set(
        xlabel=f"correlation in {n_samples:,} samples of the model",
        ylabel=f"correlation in {len(data):,} rows of data",
    )
    ax.legend(frameon=False, loc="upper left")
    return ax


def calibration(model: Any, X: Any, ax: Any = None, n_bins: int = 10) -> Any:
    """Reliability diagram of a model of bits: how often a 1 came against how probable it was, all variables together.

    The gray bars are the share of predictions in each bin. The numbers are those of `metrics.calibration`.
    """
    ax = _axes(ax, (4.8, 4.8))
    found = metrics.calibration(model, X, n_bins)
    share = found.bin_count / found.bin_count.sum()
    left = np.minimum((found.bin_predicted * n_bins).astype(int), n_bins - 1) / n_bins
    ax.bar(left, share, 1 / n_bins, align="edge", color=PALE, ec="white", label="share of predictions", zorder=0)
    _square(ax, 0, 1)
    ax.errorbar(
        found.bin_predicted, found.bin_observed, found.bin_error, fmt="o-", lw=1, ms=5, color=BLUE, label="observed"
    )
    ax.set(xlabel="predicted probability of 1", ylabel="observed frequency of 1")
    ax.legend(frameon=False, loc="upper left")
    return ax


def pit(
    model: Any, X: Any, ax: Any = None, *, column: int | None = None, bins: int = 20, random_state: Any = None
) -> Any:
    """Histogram of the PIT values of `column`, or of all variables together; flat if the model is right.

    The band holds a flat histogram's bars with probability 95 %. The p-values are those of `metrics.pit_test`: a model
    that ignores dependence can have a flat histogram, and is caught by the second.
    """
    ax = _axes(ax, (6, 4))
    u = metrics.pit(model, X, random_state)
    test = metrics.uniformity(u, getattr(model, "order_", None))
    if column is None:
        values, p_value, what = u.reshape(-1), test.overall, f"{u.shape[1]} variables"
    else:
        values, p_value, what = u[:, column], test.p_value[column], f"variable {column}"
    title = f"{len(u):,} rows, {what}\np-values: uniform {metrics._shown(p_value)}"
    if column is None:
        title += f", independent {metrics._shown(test.dependence)}"
    density, edges = np.histogram(values, bins, (0, 1), density=True)
    width = 1.96 * np.sqrt((bins - 1) / len(values))  # of a binomial count of probability 1/bins, over its mean
    ax.axhspan(1 - width, 1 + width, color=PALE, lw=0, label="95 % if the model is right")
    ax.stairs(density, edges, baseline=None, color=BLUE, lw=1.5)
    ax.axhline(1, color=GRAY, lw=1)
    ax.set(
        xlabel=r"$u_i = F(x_i{-}\,|\,x_{<i}) + v\,p(x_i\,|\,x_{<i})$",
        ylabel="density",
        xlim=(0, 1),
        ylim=(0, max(1 + 2.5 * width, 1.25 * density.max())),
    )
    ax.set_title(title, fontsize="medium")
    ax.legend(frameon=False, loc="lower left")
    return ax


def spectrograms(
    signals: Sequence[npt.NDArray[Any]],
    rate: int,
    titles: Sequence[str],
    path: str | os.PathLike[str] | None = None,
    *,
    columns: int = 2,
    window: float = 0.032,
    decibels: float = 70.0,
) -> Any:
    """Spectrograms side by side, for the ear's eye: samples of a model beside real recordings. Returns the figure.

    All panels have one time scale, one frequency scale and one range of levels, so that what looks different is.

    Parameters
    ----------
    signals : sequence of 1-d arrays
        int16, or floats in [-1, 1].
    rate : int
        Samples per second.
    titles : sequence of str
        One for each signal.
    path : path, optional
        Where to write the picture, atomically; its suffix is the format.
    columns : int
        Panels side by side.
    window : float
        Seconds of sound in a column of pixels (a Hann window, moved by a quarter of it).
    decibels : float
        Range shown, down from the loudest point of all signals.
    """
    from matplotlib.figure import Figure

    if len(signals) != len(titles) or not len(signals):
        raise ValueError(f"titles must be one for each of the signals: {len(signals)} signals, {len(titles)} titles")
    columns = min(columns, len(signals))
    rows = -(-len(signals) // columns)
    size = max(round(window * rate), 4)
    powers = [_power(signal, size) for signal in signals]
    loudest = max(float(power.max()) for power in powers)
    top = 10 * np.log10(loudest) if loudest > 0 else 0.0
    longest = max(len(signal) for signal in signals) / rate
    figure = Figure(figsize=(1.4 + (2.6 if columns < 5 else 1.7) * columns, 0.8 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for k, (signal, power, title) in enumerate(zip(signals, powers, titles, strict=True)):
        with np.errstate(divide="ignore"):
            level = np.maximum(10 * np.log10(power), top - decibels)
        image = panels.flat[k].imshow(
            level, origin="lower", aspect="auto", cmap="magma", vmin=top - decibels, vmax=top, interpolation="nearest",
            extent=(0, len(signal) / rate, 0, rate / 2000),
        )  # fmt: skip
        panels.flat[k].set_title(title, fontsize="medium")
        panels.flat[k].set(xlim=(0, longest), facecolor=image.cmap(0.0))
        panels.flat[k].locator_params(nbins=4)
        panels.flat[k].tick_params(labelbottom=k + columns >= len(signals))
    for ax in panels.flat[len(signals) :]:
        ax.set_axis_off()
    figure.supxlabel("time, s", fontsize="medium")
    figure.supylabel("frequency, kHz", fontsize="medium")
    figure.colorbar(image, ax=panels, label="level, dB of full scale", pad=0.01)
    if path is not None:
        data = memory.BytesIO()
        figure.savefig(data, dpi=120, format=Path(path).suffix.removeprefix(".") or "png")
        io.write_atomically(path, data.getvalue())
    return figure


def _power(signal: npt.NDArray[Any], size: int) -> npt.NDArray[np.float64]:
    """Power by frequency and time, (size // 2 + 1, columns): 1 for a sine of full scale."""
    x = np.asarray(signal, np.float64) / (32768.0 if np.asarray(signal).dtype == np.int16 else 1.0)
    step, half = max(size // 4, 1), size // 2
    padded = np.pad(x, (half, half))  # so that the first and last samples are in the middle of a window
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::step]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(size) + 0.5) / size)
    spectrum = np.fft.rfft(frames * hann, axis=1) * (2 / hann.sum())
    return np.asarray(np.abs(spectrum.T) ** 2)
