"""Draw the digit you ask for, and read one: a MADE of p(image | digit).

The class is a context: a one-hot vector that every pixel depends on, the first one included. The same model, scored
under all ten contexts, is a classifier by Bayes' rule: p(digit | image) is proportional to p(image | digit) p(digit).

Run: python examples/draw_a_seven.py (needs chainrule[app]).
"""

import argparse
from pathlib import Path

import numpy as np
from chainrule import MADE, datasets
from matplotlib.figure import Figure

CLASSES = np.eye(10)


def read(model, images, prior):
    """The likeliest digit of each image, (n,): log p(image | digit) + log p(digit), largest."""
    evidence = [model.score_samples(images, context=np.tile(c, (len(images), 1))) for c in CLASSES]
    return np.argmax(np.stack(evidence, axis=1) + np.log(prior), axis=1)


def main(arguments=None):
    """Fit, compare, classify, draw; every number printed is measured here."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--max-seconds", type=float, default=15, help="budget of each of the two fits (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("digits.png"), help="picture to write (%(default)s)")
    options = parser.parse_args(arguments)

    data, labels = datasets.digits(), datasets.digit_labels()
    context = datasets.Split(*(CLASSES[part] for part in labels))
    settings = {"learning_rate": 2e-3, "dropout": 0.3, "direct": True, "max_epochs": 300, "random_state": 0}
    settings |= {"max_seconds": options.max_seconds, "patience": 20}
    model = MADE((300,), **settings).fit(
        data.train, context=context.train, X_val=data.validation, context_val=context.validation
    )
    blind = MADE((300,), **settings).fit(data.train, X_val=data.validation)

    print("nats per test image")
    print(f"  log p(image)          {blind.score(data.test):7.2f}")
    print(f"  log p(image | digit)  {model.score(data.test, context=context.test):7.2f}")
    prior = np.bincount(labels.train) / len(labels.train)
    guess = read(model, data.test, prior)
    print(f"\nread by Bayes' rule: {np.mean(guess == labels.test):.1%} of {len(guess)} test images right")

    columns = 12
    drawn = model.sample(10 * columns, context=np.repeat(CLASSES, columns, axis=0), random_state=1)
    framed = np.pad(drawn.reshape(10, columns, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    sheet = framed.transpose(0, 2, 1, 3).reshape(100, 10 * columns)
    figure = Figure(figsize=(columns / 2, 5.2), layout="constrained")
    ax = figure.subplots()
    ax.imshow(sheet, cmap="gray_r", interpolation="nearest")
    ax.set(xticks=[], yticks=np.arange(10) * 10 + 4.5, yticklabels=range(10), ylabel="digit asked for")
    ax.set_title("samples of p(image | digit)")
    figure.savefig(options.output, dpi=120)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
