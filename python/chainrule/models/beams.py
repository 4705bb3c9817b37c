"""Beam search over kept keys and values: the likeliest sequences of many rows side by side."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chainrule import kernels
from chainrule.kernels.transformer import Cache, TransformerNetwork
from chainrule.models.generation import Memory, next_logits, pick, refuse_odd

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]


def best_of_beams(
    network: TransformerNetwork,
    memory: Memory,
    state: list[Cache],
    end: int,
    most: int,
    n_beams: int,
    length_penalty: float,
    n_threads: int | None,
) -> tuple[list[Codes], Floats]:
    """The best sequence found for each row of `memory`, without its end, and its log-likelihood.

    Sequences have at most `most` tokens 0 .. end - 1, then `end`; state: empty caches. The n_beams likeliest unfinished
    ones stay, and each is weighed as if it ended there. Sums are those of a score, term by term, so that they have its
    bits; of equally likely ones that with the likelier beginning, then the one with the lower token comes first.
    """
    n, shorter = len(memory[1]), _length_factors(most, length_penalty)
    best, best_rank, best_score = [np.zeros(0, np.int32)] * n, np.full(n, -np.inf), np.full(n, -np.inf)
    row, score, tokens, seen = np.arange(n), np.zeros(n), np.full((n, 1), -1, np.int32), memory  # of each hypothesis

    def finished(scores: Floats) -> None:
        for x, value, found in zip(row.tolist(), scores.tolist(), tokens, strict=True):
            rank = value / float(shorter[len(found) - 1])
            if rank > best_rank[x]:
                best[x], best_rank[x], best_score[x] = found[1:], rank, value

    for t in range(most):
        logits = next_logits(network, tokens[:, -1], t, state, seen, n_threads)
        refuse_odd(logits)
        likely = np.argsort(-logits[:, :end], axis=1, kind="stable")[:, :n_beams].astype(np.int32)
        columns = [np.full(len(row), end, np.int32), *np.ascontiguousarray(likely.T)]
        terms = np.stack([kernels.softmax_log_prob(logits, column, n_threads=n_threads) for column in columns], axis=1)
        finished(score + terms[:, 0])
        parent, total = np.repeat(np.arange(len(row)), likely.shape[1]), (score[:, None] + terms[:, 1:]).reshape(-1)
        order = np.lexsort((-total, row[parent]))
        x = row[parent[order]]
        place = np.arange(len(order)) - np.searchsorted(x, x)
        chosen = order[
            (place < n_beams) & (total[order] / shorter[-1] > best_rank[x])
        ]  # the others cannot win any more
        if not len(chosen):
            return best, best_score
        moved = parent[chosen]
        if not np.array_equal(row[moved], row):
            seen = pick(memory[0], row[moved]), memory[1][row[moved]]
        state, row, score = pick(state, moved), row[moved], total[chosen]
        tokens = np.concatenate([tokens[moved], likely.reshape(-1)[chosen, None]], axis=1)
    finished(score)
    return best, best_score


def _length_factors(most: int, penalty: float) -> Floats:
    """``((5 + n) / 6)^penalty`` for n = 0 .. most (Wu et al. 2016)."""
    logs: Floats = kernels.log((5.0 + np.arange(most + 1)) / 6.0)
    return np.asarray(kernels.exp(penalty * logs))
