"""When the structure of the data is known and rows are few: MASDE beside MADE of the same width.

MASDE is MADE whose masks follow a graph: pixel i is told of its surroundings, nucleotide i of the one before it, and no
weight has to learn from the rows that the rest does not matter. What it leaves out is lost for good: with more rows
MADE may learn it and overtake. FVSBN, without hidden units, stands beside them as the cheap way to need fewer rows.

Every model is trained on the same few rows, a fifth of them held out to stop early, and scored on the whole test set.

Run: python examples/masde_few_rows.py [--plot rows.png] [--data FOLDER]

Without --data: 8 x 8 digits, which come with the package. With it: mnist_binary.npz, thinned to 14 x 14 pixels, and
uci_dna.npz, 60 nucleotides around a splice site, in FOLDER (arrays "train" and "test"; docs/published.md has the sets).
"""

import argparse
from pathlib import Path

import numpy as np
from chainrule import FVSBN, MADE, MASDE, datasets, random


def grid(side, reach):
    """Adjacency of the pixels of a square image at most `reach` steps apart."""
    y, x = np.divmod(np.arange(side * side), side)
    steps = abs(y[:, None] - y) + abs(x[:, None] - x)
    return ((steps > 0) & (steps <= reach)).astype(int)


def chain(n, reach):
    """Adjacency of places at most `reach` apart."""
    apart = abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return ((apart > 0) & (apart <= reach)).astype(int)


def images(side):
    """What MASDE may be told of an image: by name, its options."""
    near = {"structure": grid(side, 1), "order": "natural"}  # eliminated exactly: the `side` pixels before
    wide = {"structure": grid(side, 2), "order": "natural", "fill": False}  # six of the twelve pixels around
    return {"4 neighbours": near, "12, no fill": wide}


def tasks(folder):
    """Name, training and test rows, kind of variables, hidden units, structures."""
    if folder is None:
        digits = datasets.digits()
        yield "digits, 8 x 8", digits.train, digits.test, "bernoulli", 200, images(8)
        return
    with np.load(folder / "mnist_binary.npz") as file:
        train, test = (file[name].reshape(-1, 28, 28)[:, ::2, ::2].reshape(-1, 196) for name in ("train", "test"))
    yield "MNIST, 14 x 14", train, test, "bernoulli", 500, images(14)
    with np.load(folder / "uci_dna.npz") as file:  # three bits a nucleotide: none or one of them is set
        train, test = ((file[k].reshape(-1, 60, 3) @ [1, 2, 3]).astype(np.uint8) for k in ("train", "test"))
    chains = {"chain": {"structure": chain(60, 1)}, "two back": {"structure": chain(60, 2)}}
    yield "DNA, 60 nucleotides", train, test, "categorical", 200, chains


def held_out(model, rows, test):
    """Mean test log-likelihood in nats; a fifth of the rows stops the training."""
    fifth = len(rows) // 5
    return model.fit(rows[fifth:], X_val=rows[:fifth]).score(test)


def compare(train, test, conditional, hidden, structures, n_rows, repeats, max_epochs):
    """Of each model, the mean over `repeats` draws of `n_rows` training rows."""
    scores = []
    for seed in range(repeats):
        rows = train[random.permutation(random.key_of(seed), 0, len(train))[:n_rows]]
        options = {"conditional": conditional, "random_state": seed, "batch_size": 20, "patience": 30}
        options["max_epochs"] = max_epochs
        models = {"MADE": MADE((hidden,), **options), "FVSBN": FVSBN(**options)}
        for name, structure in structures.items():
            models[f"MASDE, {name}"] = MASDE(hidden_sizes=(hidden,), **structure, **options)
        scores.append([held_out(model, rows, test) for model in models.values()])
    return dict(zip(models, np.mean(scores, axis=0), strict=True))


def picture(results, path):
    """Held-out nats above MADE's, against the number of rows."""
    from matplotlib.figure import Figure  # chainrule[app]

    figure = Figure(figsize=(4.5 * len(results), 3.8), layout="constrained")
    for ax, (title, by_size) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        sizes = list(by_size)
        for name in by_size[sizes[0]]:
            gain = [by_size[n][name] - by_size[n]["MADE"] for n in sizes]
            style = {"color": "0.4", "linestyle": "--"} if name == "MADE" else {"marker": "o"}
            ax.semilogx(sizes, gain, label=name, **style)
        ax.set(title=title, xlabel="training rows", ylabel="held-out nats above MADE's")
        ax.set_xticks(sizes, [str(n) for n in sizes])
        ax.minorticks_off()
        ax.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main(arguments=None):
    """Fit everything, print a table, draw it; every number is measured here."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, help="folder of mnist_binary.npz and uci_dna.npz (default: small digits)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200, 500, 1000], help="training rows")
    parser.add_argument("--repeats", type=int, default=1, help="draws of the training rows (%(default)s)")
    parser.add_argument("--max-epochs", type=int, default=1000, help="of a fit that does not stop (%(default)s)")
    parser.add_argument("--plot", type=Path, help="picture to write (needs chainrule[app])")
    options = parser.parse_args(arguments)

    results = {}
    for title, *task in tasks(options.data):
        results[title] = {}
        for n_rows in options.sizes:
            scores = compare(*task, n_rows, options.repeats, options.max_epochs)
            if not results[title]:
                print(f"{title}: held-out log-likelihood, nats\n{'rows':>6}", *(f"{name:>20}" for name in scores))
            print(f"{n_rows:>6}", *(f"{score:>20.2f}" for score in scores.values()), flush=True)
            results[title][n_rows] = scores
        wins = [n for n, s in results[title].items() if max(s, key=s.get).startswith("MASDE")]
        ahead = [n for n, s in results[title].items() if max(v for k, v in s.items() if "MASDE" in k) > s["MADE"]]
        print(f"MASDE beats MADE at {ahead or 'no'} rows, and all of them at {wins or 'no'} rows\n")
    if options.plot:
        picture(results, options.plot)
        print(f"wrote {options.plot}")


if __name__ == "__main__":
    main()
