"""Randomness by counters: a key and a position give a number, whatever else was drawn, on any machine.

Uniforms come from the raw words of NumPy's Philox4x64 (`kernels.uniforms`), never from `Generator` methods, whose
streams may change between NumPy versions. docs/reproducibility.md, "Randomness".
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from chainrule import kernels

RandomState: TypeAlias = "int | np.random.Generator | np.random.RandomState | None"
Key: TypeAlias = tuple[int, int]

# Streams of one seed, so that initial weights, data order, samples and their tests never share numbers.
SAMPLE, WEIGHTS, ORDER, SHUFFLE, PIT, MASKS, DROPOUT, MISSING, PICK, TRUTH, REWARD = range(11)


def key_of(random_state: Any, stream: int = SAMPLE) -> Key:
    """A Philox key for one use of `random_state`.

    An int gives the same key at every call; a Generator or RandomState is advanced once; None draws a fresh key. The
    stream SAMPLE of an int is the key of ``numpy.random.Philox(seed)``.
    """
    if random_state is None:
        words = np.random.SeedSequence().generate_state(2, np.uint64)
    elif isinstance(random_state, np.random.Generator):
        words = np.asarray(random_state.bit_generator.random_raw(2), np.uint64)
    elif isinstance(random_state, np.random.RandomState):
        words = random_state.randint(0, 2**32, size=4, dtype=np.uint32).view(np.uint64)
    elif isinstance(random_state, int | np.integer) and not isinstance(random_state, bool) and random_state >= 0:
        spawn = (stream,) if stream else ()
        words = np.random.SeedSequence(int(random_state), spawn_key=spawn).generate_state(2, np.uint64)
    else:
        raise ValueError(
            f"random_state must be a non-negative int, a numpy Generator or RandomState, or None, not {random_state!r}"
        )
    return int(words[0]), int(words[1])


def uniform_rows(
    key: Key, start: int, n_rows: int, n_columns: int, n_threads: int | None = None
) -> npt.NDArray[np.float64]:
    """Rows start .. start + n_rows - 1 of an endless table of uniforms in (0, 1): row k depends on (key, k) alone."""
    blocks = (n_columns + 3) // 4
    table = kernels.uniforms(key, start * blocks, n_rows * blocks * 4, n_threads=n_threads)
    return table.reshape(n_rows, blocks * 4)[:, :n_columns]


def uniform_steps(key: Key, start: int, n_rows: int, step: int, n_steps: int) -> npt.NDArray[np.float64]:
    """Uniforms of steps [step, step + n_steps) of sequences start .. start + n_rows - 1: by (step, sequence) alone.

    Step t of sequence k has number t % 1024 of row (t // 1024) 2^32 + k of a table of 1024 columns.
    """
    u, at = np.empty((n_rows, n_steps)), np.arange(step, step + n_steps)
    for stretch in range(step // 1024, (step + n_steps - 1) // 1024 + 1):
        mine = at // 1024 == stretch
        for row in range(0, n_rows, 256):
            rows = min(256, n_rows - row)
            table = uniform_rows(key, (stretch << 32) + start + row, rows, 1024)
            u[row : row + rows, mine] = table[:, at[mine] % 1024]
    return u


def permutation(key: Key, index: int, n: int) -> npt.NDArray[np.intp]:
    """The `index`-th permutation of 0..n-1 of this key: the order of n uniforms."""
    return ascending(uniform_rows(key, index, 1, n)[0])


def ascending(u: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """The stable order of uniforms: of numbers that all differ, what any sort says, and the quickest is not stable."""
    order = np.argsort(u)
    placed = u[order]
    return np.argsort(u, kind="stable") if (placed[1:] == placed[:-1]).any() else order
