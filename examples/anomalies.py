"""Which images are damaged, and where: anomaly detection with an exact likelihood that can be taken apart.

A NADE of 8x8 digits scores a test set in which every other image has a few pixels flipped. The log-likelihood ranks the
images. Then two ways to name the damaged pixels of an image:

- surprise: -log p(x_i | x_<i), the chain rule's own terms, from one scoring pass; earlier pixels alone are the judges
- repair: log p(image with pixel i flipped) - log p(image), the whole image's opinion, for one more score per pixel

Run: python examples/anomalies.py (needs chainrule[app]).
"""

import argparse
from pathlib import Path

import numpy as np
from chainrule import NADE, IndependentBernoulli, datasets, random
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

PIXELS = 64


def damage(images, n_flips, seed):
    """Flip `n_flips` random pixels of every image; the damaged images, and 1 where they were flipped."""
    u = random.uniform_rows(random.key_of(seed), 0, *images.shape)
    flips = (np.argsort(np.argsort(u, axis=1), axis=1) < n_flips).astype(np.uint8)
    return images ^ flips, flips


def auc(anomaly, score):
    """Probability that a random anomaly scores higher than a random normal image (Mann-Whitney), ties counted half."""
    a, b = score[anomaly == 1][:, None], score[anomaly == 0]
    return np.mean((a > b) + 0.5 * (a == b))


def surprise(model, images):
    """-log p(x_i | x_<i) in nats, (n_images, 64)."""
    return -model.score_samples(images, per_variable=True)


def repair(model, images):
    """Nats that the whole image gains when pixel i is flipped back, (n_images, 64): 64 exact scores an image."""
    flipped = images[:, None, :] ^ np.eye(PIXELS, dtype=np.uint8)
    return model.score_samples(flipped.reshape(-1, PIXELS)).reshape(-1, PIXELS) - model.score_samples(images)[:, None]


def found(scores, flips, n_flips):
    """Share of the flipped pixels that are among the `n_flips` highest scores of their image."""
    named = np.argsort(-scores, axis=1)[:, :n_flips]
    return np.mean(np.take_along_axis(flips, named, axis=1))


def picture(images, flips, evidence, path):
    """A row of images with their flipped pixels framed, and under it each kind of evidence as a map."""
    figure = Figure(figsize=(1.55 * len(images) + 1, 5), layout="constrained")
    axes = figure.subplots(1 + len(evidence), len(images), squeeze=False)
    for ax, image in zip(axes[0], images, strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
    for (name, maps), row in zip(evidence.items(), axes[1:], strict=True):
        for ax, values in zip(row, maps, strict=True):
            drawn = ax.imshow(values.reshape(8, 8), cmap="cividis", vmin=0, vmax=5)
        figure.colorbar(drawn, ax=list(row), label=f"{name}, nats", extend="max")
    for flipped, column in zip(flips, axes.T, strict=True):
        for ax in column:
            ax.set(xticks=[], yticks=[])
            for y, x in np.argwhere(flipped.reshape(8, 8)):
                ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, ec="#D55E00", lw=1.8))
    figure.suptitle("damaged images (flipped pixels framed), and what gives them away")
    figure.savefig(path, dpi=120)


def main(arguments=None):
    """Fit, damage, rank, diagnose; every number printed is measured here."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--flips", type=int, default=3, help="pixels to flip in a damaged image (%(default)s)")
    parser.add_argument("--max-seconds", type=float, default=10, help="budget of the fit (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("anomalies.png"), help="picture to write (%(default)s)")
    options = parser.parse_args(arguments)

    data = datasets.digits()
    nade = NADE(
        n_hidden=200, learning_rate=2e-3, batch_size=50, patience=10, max_seconds=options.max_seconds, random_state=0
    ).fit(data.train, X_val=data.validation)

    images, anomaly = data.test.copy(), np.arange(len(data.test)) % 2
    damaged, flips = damage(images[anomaly == 1], options.flips, seed=1)
    images[anomaly == 1] = damaged
    print(f"{len(images)} test images, {len(damaged)} of them with {options.flips} of {PIXELS} pixels flipped\n")

    print("AUC of -log p(image): does a damaged image score lower than a sound one?")
    for name, model in {"NADE": nade, "independent pixels": IndependentBernoulli().fit(data.train)}.items():
        print(f"  {name:<20} {auc(anomaly, -model.score_samples(images)):.3f}")

    evidence = {"surprise": surprise(nade, damaged), "repair gain": repair(nade, damaged)}
    chance = options.flips / PIXELS
    print(f"\nshare of flipped pixels among the {options.flips} most suspect of their image (by chance {chance:.3f}):")
    for name, scores in evidence.items():
        print(f"  {name:<20} {found(scores, flips, options.flips):.3f}")

    shown = slice(0, 6)
    picture(damaged[shown], flips[shown], {k: v[shown] for k, v in evidence.items()}, options.output)
    print(f"\nwrote {options.output}")


if __name__ == "__main__":
    main()
