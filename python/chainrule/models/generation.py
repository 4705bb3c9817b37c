"""Sequences of different lengths go on in one batch, token by token, over kept keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels, random
from chainrule.kernels.transformer import Cache, TransformerNetwork
from chainrule.models.sequence_rows import Array

Codes = npt.NDArray[np.int32]
Memory = tuple[list[Cache], npt.NDArray[np.uint32]]  # what cross-attention looks at, by block, and its steps by row
UNIFORMS_AT_ONCE = 64  # steps


def refuse_odd(logits: Array) -> None:
    """An error where the logits are no numbers, rather than a token all the same."""
    if not np.isfinite(logits).all():
        raise FloatingPointError("the model's logits are not finite: its weights are not, or are too large")


def draw(logits: Array, u: npt.NDArray[np.float64], **choice: Any) -> Codes:
    """A token of each row."""
    refuse_odd(logits)
    return kernels.softmax_sample(logits, u, **choice)


def pick(caches: list[Cache], rows: Any) -> list[Cache]:
    """What is kept of some sequences."""
    return [Cache(cache.keys[rows], cache.values[rows], cache.capacity) for cache in caches]


def next_logits(
    network: TransformerNetwork,
    previous: Codes,
    kept: int,
    caches: list[Cache],
    memory: Memory,
    n_threads: int | None,
) -> Array:
    """Logits after one more token of every row, (rows, V), each with `kept` tokens in its caches."""
    n = len(previous)
    logits = kernels.transformer_step(
        network,
        np.ascontiguousarray(previous[:, None]),
        np.full(n, kept, np.uint32),
        caches,
        last=np.zeros(n, np.uint32),
        cross=memory[0],
        cross_lengths=memory[1],
        n_threads=n_threads,
    )
    assert logits is not None
    return logits


def continued(
    network: TransformerNetwork,
    prompts: list[Codes],
    caches: list[Cache],
    context_length: int,
    max_new: int,
    stops: Codes,
    key: random.Key,
    start: int,
    choice: dict[str, Any],
    n_threads: int | None,
    memory: Memory | None = None,
) -> Iterator[Codes]:
    """The next token of every row, -1 where it has ended, `max_new` times at most.

    A window holds at most T tokens. Where one more comes to a full one, it begins ``ceil(T / 2)`` tokens later, at
    positions from 0 on, and what it keeps is computed anew: so it begins where the number of tokens says, however they
    came about.
    """
    T, n = context_length, len(prompts)
    shift = T - T // 2
    windows = [prompt[-(-max(len(prompt) - T, 0) // shift) * shift :].tolist() for prompt in prompts]
    rows, ended = np.arange(n), np.zeros(n, bool)  # those in the caches

    def step(tokens: Codes, lengths: Array, kept: list[Cache], at: Any = slice(None), **which: Any) -> Any:
        if memory is not None:
            which |= {"cross": pick(memory[0], at), "cross_lengths": memory[1][at]}
        return kernels.transformer_step(network, tokens, lengths, kept, n_threads=n_threads, **which)

    tokens = np.full((n, max(len(window) for window in windows)), -1, np.int32)
    for to, window in zip(tokens, windows, strict=True):
        to[: len(window)] = window
    last = np.array([len(window) - 1 for window in windows], np.uint32)
    logits = step(tokens, np.zeros(n, np.uint32), caches, last=last)
    for k in range(max_new):
        if k % UNIFORMS_AT_ONCE == 0:
            u = random.uniform_steps(key, start, n, k, min(UNIFORMS_AT_ONCE, max_new - k))
        drawn = draw(logits, np.ascontiguousarray(u[rows, k % UNIFORMS_AT_ONCE]), **choice)
        out = np.full(n, -1, np.int32)
        out[rows] = np.where(ended[rows], -1, drawn)
        yield out
        ended[rows] |= np.isin(drawn, stops)
        if ended.all() or k + 1 == max_new:
            return
        going = np.flatnonzero(~ended[rows])
        if 2 * len(going) <= len(rows):  # the others make way
            caches, rows, drawn = pick(caches, going), rows[going], drawn[going]
            memory = None if memory is None else (pick(memory[0], going), memory[1][going])
        lengths = np.zeros(len(rows), np.uint32)
        for at, row in enumerate(rows):
            if ended[row]:
                continue
            window = windows[row]
            window.append(int(drawn[at]))
            if len(window) > T:
                del window[:shift]
                mine = slice(at, at + 1)
                if len(window) > 1:
                    known = np.array([window[:-1]], np.int32)
                    step(known, lengths[:1] * 0, pick(caches, mine), mine, logits=False)
            lengths[at] = len(window) - 1
        logits = step(drawn[:, None], lengths, caches, last=np.zeros(len(rows), np.uint32))
