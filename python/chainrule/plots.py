"""Pictures: every function draws into `ax` (or a new one) and returns it. Needs matplotlib (``chainrule[app]``)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def _axes(ax: Any, figsize: tuple[float, float]) -> Any:
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(figsize=figsize, layout="constrained").subplots()
    return ax


def learning_curve(model: Any, ax: Any = None) -> Any:
    """Mean log-likelihood per epoch, training and validation, from ``model.history_``."""
    ax = _axes(ax, (6, 4))
    history = model.history_
    ax.plot(history["epoch"], history["train"], label="train (while it ran)", color="tab:gray")
    if history["validation"] and history["validation"][0] is not None:
        ax.plot(history["epoch"], history["validation"], label="validation", color="tab:blue")
        best = int(np.argmax(history["validation"]))
        ax.plot(history["epoch"][best], history["validation"][best], "o", color="tab:blue", label="kept")
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
    ax.set_facecolor("tab:blue")
    ax.imshow(np.ma.masked_invalid(canvas), cmap="gray_r", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    return ax
