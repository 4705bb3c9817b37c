"""What a user sees of a long fit: a tqdm bar, or a log line per epoch where tqdm is not installed."""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

logger = logging.getLogger("chainrule")
NATS_PER_BIT = 0.6931471805599453
RECENT = 0.02  # weight of a batch in the likelihood that is shown while an epoch runs
SHOWN_EVERY = 0.2  # seconds


class Unit(NamedTuple):
    """What likelihoods are means over: rows, or steps of sequences, of which a row of the training loop has several."""

    name: str = "row"
    per_row: float = 1.0

    def said(self, train: float, validation: float | None) -> dict[str, str]:
        """Mean log-likelihoods in nats; those of steps, which are small, with more digits, and in bits too."""
        digits = 2 if self.name == "row" else 4
        shown = {"train": f"{train:.{digits}f}"}
        if validation is not None:
            shown["val"] = f"{validation:.{digits}f}"
        if self.name != "row":
            bits = -(train if validation is None else validation) / NATS_PER_BIT
            shown[f"bits/{self.name}"] = f"{bits:.3f}"
        return shown


class Progress:
    """Units done of those of `n_rows` rows, with the likelihoods of the last batches and of the last epoch."""

    def __init__(self, n_rows: int, verbose: bool, unit: Unit, max_seconds: float | None = None) -> None:
        self.unit = unit
        self.bar: Any = None
        self.recent: float | None = None
        self.next = 0.0
        self.shown = {} if max_seconds is None else {"budget": f"{max_seconds:.0f} s"}
        if verbose:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                logger.info("install chainrule[app] for a progress bar")
            else:
                settings: dict[str, Any] = {"unit_scale": True, "smoothing": 0.05, "dynamic_ncols": True}
                self.bar = tqdm(total=n_rows * unit.per_row, unit=f" {unit.name}s", **settings)

    def rows(self, n: int, log_likelihood: float) -> None:
        """`n` more rows were trained on, of this log-likelihood together, in nats."""
        if self.bar is None:
            return
        mean = log_likelihood / n
        if mean - mean == 0:  # finite
            self.recent = mean if self.recent is None else self.recent + RECENT * (mean - self.recent)
        self.bar.update(min(n * self.unit.per_row, self.bar.total - self.bar.n))  # rounding may add up to more
        now = time.monotonic()
        if now >= self.next and self.recent is not None:
            self.next = now + SHOWN_EVERY
            self.bar.set_postfix({**self.shown, "train": self.unit.said(self.recent, None)["train"]}, refresh=False)

    def epoch(self, epoch: int, train: float, validation: float | None) -> None:
        """An epoch ended, with these mean log-likelihoods in nats."""
        said = {"epoch": str(epoch), **self.unit.said(train, validation)}
        if self.bar is not None:
            self.shown |= said
            self.bar.set_postfix(self.shown)
        logger.info("%s", ", ".join(f"{name} {value}" for name, value in said.items()))

    def close(self) -> None:
        """The end, early or not."""
        if self.bar is not None:
            self.bar.close()
