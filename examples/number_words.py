"""Number words to digits: a sequence given a sequence, read, written and scored character by character.

"two hundred thirty-four thousand five" becomes "234005". Different numbers below a million, most of them of four
digits or more, are drawn and a part of them is held out: no number is in both sets, so what is measured is whether the
rule was learnt. `EncoderDecoder` is fitted by maximum likelihood; then the two remedies for exposure bias are shown,
neither of which is maximum likelihood: scheduled sampling (in training, the decoder sees some of its own tokens), and
fine-tuning by policy gradient for a reward that is not a likelihood, here whether all is right.

    python examples/number_words.py

Two cores take some minutes; the same figures come out on any machine.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence

import numpy as np
from chainrule import EncoderDecoder

ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def words(n: int) -> str:
    """The English name of a number from 0 to 999,999."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + (f"-{ONES[n % 10]}" if n % 10 else "")
    size, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    return f"{words(n // size)} {name}" + (f" {words(n % size)}" if n % size else "")


def numbers(n_rows: int, seed: int) -> list[int]:
    """Different numbers from 1 to 999,999 in random order: of any length alike, until the short ones are used up."""
    rng = np.random.default_rng(seed)
    drawn = {int(10**exponent) for exponent in rng.uniform(0, 6, 4 * n_rows)}
    return rng.permutation(sorted(drawn))[:n_rows].tolist()


def exact(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Share of targets that are met to the last digit."""
    return float(np.mean([a == b for a, b in zip(predictions, targets, strict=True)]))


def report(title: str, model: EncoderDecoder, X: list[str], y: list[str]) -> None:
    """Held-out accuracies and log-likelihood."""
    beams, log_prob = model.beam_search(X, 4)
    assert (log_prob == model.score_samples(X, beams)).all()  # to the last bit
    print(
        f"  {title:<34} {100 * exact(model.predict(X), y):6.1f} {100 * exact(beams, y):6.1f} "
        f"{100 * exact(model.sample(X, random_state=0), y):6.1f} {model.score(X, y):10.4f}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, score, draw; every number is measured here."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--train", type=int, default=10_000, help="numbers to learn from (%(default)s)")
    parser.add_argument("--test", type=int, default=1_000, help="numbers held out (%(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="of a fit (%(default)s)")
    parser.add_argument("--width", type=int, default=64, help="channels (%(default)s)")
    options = parser.parse_args(arguments)

    found = numbers(options.train + options.test, seed=0)
    X, y = [words(n) for n in found], [str(n) for n in found]
    X_test, y_test, X, y = X[: options.test], y[: options.test], X[options.test :], y[options.test :]
    print(f"{len(X)} numbers to learn from, {len(X_test)} held out, such as {X_test[0]!r} -> {y_test[0]!r}\n")

    training = {
        "width": options.width,
        "max_epochs": options.epochs,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warmup": 50,
        "random_state": 0,
    }
    began = time.monotonic()
    print(f"  {'held out':<34} {'greedy':>6} {'beam 4':>6} {'sample':>6} {'nats each':>10}")
    model = EncoderDecoder(**training).fit(X, y)
    report("maximum likelihood", model, X_test, y_test)

    own = EncoderDecoder(**training, scheduled_sampling="linear", scheduled_sampling_options={"floor": 0.5})
    report("scheduled sampling", own.fit(X, y), X_test, y_test)

    def all_right(predictions: list[str], targets: list[str]) -> list[float]:
        return [float(a == b) for a, b in zip(predictions, targets, strict=True)]

    tuned = copy.deepcopy(model).fine_tune(X, y, all_right, max_epochs=2, learning_rate=2e-4, kl_weight=0.02)
    report("maximum likelihood, fine-tuned", tuned, X_test, y_test)

    wrong = [(x, a, b) for x, a, b in zip(X_test, model.predict(X_test), y_test, strict=True) if a != b]
    print(f"\nthe first of the {len(wrong)} that maximum likelihood gets wrong:")
    for x, a, b in wrong[:3]:
        found, taken = model.score_samples([x, x], [a, b])
        print(f"  {x}: {a} (log p {found:.2f}), not {b} ({taken:.2f})")
    print(f"\n{time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
