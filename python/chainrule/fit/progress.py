"""What a user sees of a long fit: a tqdm bar, or a log line per epoch where tqdm is not installed."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("chainrule")


class Progress:
    """Rows done of rows to do, with the likelihoods of the last epoch."""

    def __init__(self, n_rows: int, verbose: bool) -> None:
        self.bar: Any = None
        if verbose:
            try:
                from tqdm.auto import tqdm
            except ImportError:
                logger.info("install chainrule[app] for a progress bar")
            else:
                self.bar = tqdm(total=n_rows, unit="row", unit_scale=True, smoothing=0.05, dynamic_ncols=True)

    def rows(self, n: int) -> None:
        """`n` more rows were trained on."""
        if self.bar is not None:
            self.bar.update(n)

    def epoch(self, epoch: int, train: float, validation: float | None) -> None:
        """An epoch ended, with these mean log-likelihoods in nats."""
        shown = {"epoch": epoch, "train": f"{train:.2f}"} | ({} if validation is None else {"val": f"{validation:.2f}"})
        if self.bar is not None:
            self.bar.set_postfix(shown)
        logger.info("%s", ", ".join(f"{name} {value}" for name, value in shown.items()))

    def close(self) -> None:
        """The end, early or not."""
        if self.bar is not None:
            self.bar.close()
