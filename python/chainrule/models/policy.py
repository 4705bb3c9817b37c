"""Policy gradient: a model of p(y | x) trained for a reward of whole sequences that it draws."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chainrule import random
from chainrule.fit import Optimizer, Parameters, Training
from chainrule.fit.loop import Callback, ordered_sum
from chainrule.fit.schedules import constant
from chainrule.models.pairs import Pairs

if TYPE_CHECKING:
    from chainrule.models.encoder_decoder import EncoderDecoder

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Reward = Callable[[list[Any], list[Any]], Any]


def reinforce(
    model: EncoderDecoder,
    pairs: Pairs,
    reward: Reward,
    *,
    max_epochs: int,
    learning_rate: float,
    kl_weight: float,
    baseline: str,
    callbacks: Sequence[Callback],
) -> list[float]:
    """Moves `model` along the gradient that `EncoderDecoder.fine_tune` states; mean rewards by epoch."""
    before = copy.copy(model)
    before.parameters_ = model.parameters_.copy()
    key, target = random.key_of(model.random_state, random.REWARD), pairs.sides[1]

    def rewarded(drawn: list[Codes], true: list[Codes]) -> Floats:
        found = np.asarray(reward(target.given_back(drawn), target.given_back(true)), np.float64)
        if found.shape != (len(drawn),) or not np.isfinite(found).all():
            raise ValueError(f"reward must give {len(drawn)} finite numbers, not {found!r}")
        return found

    def objective(rows: npt.NDArray[np.intp], gradient: Parameters) -> Floats:
        batch, n = pairs[rows], len(rows)
        drawn = model._decoded(batch.source, key, training.optimizer.updates * model.batch_size)
        rewards, tried = rewarded(drawn, batch.target), Pairs(batch.source, drawn, batch.sides)
        kept = before._log_prob(tried, False)
        greedy = None
        if baseline == "greedy":
            greedy = rewarded(model._decoded(batch.source, temperature=0.0), batch.target)

        def weight(log_prob: Floats) -> Floats:
            worth = rewards - kl_weight * (log_prob - kept)
            expected = (ordered_sum(worth) - worth) / max(n - 1, 1) if greedy is None else greedy
            return np.asarray((worth - expected) / n)

        model._weighed_gradient(tried, gradient, weight)
        return rewards

    constants: dict[str, Any] = model.optimizer_options or {}
    training = Training(
        objective,
        Optimizer(
            model.parameters_, model.optimizer, clip_norm=model.clip_norm, n_threads=model.n_threads, **constants
        ),
        len(pairs),
        learning_rate=learning_rate,
        schedule=constant,
        batch_size=model.batch_size,
        max_epochs=max_epochs,
        shuffle=random.key_of(model.random_state, random.SHUFFLE),
    )
    training.run(validate=None, patience=1, max_seconds=None, verbose=model.verbose, callbacks=callbacks)
    return training.history["train"]
