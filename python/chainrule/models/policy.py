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
from chainrule.models.pair_drawing import PairDrawing
from chainrule.models.pair_scoring import PairScoring
from chainrule.models.pair_training import PairTraining
from chainrule.models.pairs import Pairs
from chainrule.validation import check_int, check_option, check_positive, not_empty

if TYPE_CHECKING:
    from typing_extensions import Self

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Reward = Callable[[list[Any], list[Any]], Any]


class FineTuning(PairTraining, PairScoring, PairDrawing):
    """A model of y given x that can go on training for a reward of what it draws."""

    rewards_: list[float]  # mean reward of each epoch

    def fine_tune(
        self,
        X: Any,
        y: Any,
        reward: Reward,
        *,
        max_epochs: int = 1,
        learning_rate: float = 1e-4,
        kl_weight: float = 0.1,
        baseline: str = "batch",
        callbacks: Sequence[Callback] = (),
    ) -> Self:
        """Go on training for a reward of whole sequences, by policy gradient (REINFORCE, Williams 1992).

        Ascends the mean over x of ``E[R(y', y)] - kl_weight KL(p(. | x) || q(. | x))``, y' from p(. | x), q the model
        as it was before this call. One y' is drawn for each x, and its gradient is
        ``(R(y', y) - kl_weight log(p(y' | x) / q(y' | x)) - b) grad log p(y' | x)``, with a baseline b that does not
        depend on y': unbiased. q is what keeps the model from forgetting all but the reward.

        **This is not maximum likelihood**: p(y | x) becomes that of a policy, which tends to put its mass on few y.
        Scores stay exact, of that policy. Leave it out where likelihoods are reported, coded or thresholded.

        Parameters
        ----------
        X, y : as in `fit`
        reward : callable
            ``reward(predictions, targets)``, lists as `predict` gives them, to an array (n,) of finite numbers, higher
            is better. It need not have a gradient.
        max_epochs : int
        learning_rate : float
            Of the constructor's optimizer, from a fresh state, without schedule, weight decay and dropout.
        kl_weight : float
            At least 0, in units of the reward per nat.
        baseline : {"batch", "greedy"}
            b: the mean of the others in the batch, or the reward of the greedy prediction (self-critical, Rennie et al.
            2017), for one more decoding.
        callbacks : as in `fit`; "train" is the mean reward

        Notes
        -----
        A batch costs one decoding, a score by q, and a step of training. Draws depend on (random_state, update, row).
        """
        pairs: Any = self._pairs(X, y)
        self._check_options()
        not_empty(pairs)
        check_int("max_epochs", max_epochs, 1)
        check_positive("learning_rate", learning_rate)
        if kl_weight != 0:
            check_positive("kl_weight", kl_weight)
        check_option("baseline", baseline, ("batch", "greedy"))
        before = copy.copy(self)
        before.parameters_ = self.parameters_.copy()
        key, target = random.key_of(self.random_state, random.REWARD), pairs.sides[1]

        def rewarded(drawn: list[Codes], true: list[Codes]) -> Floats:
            found = np.asarray(reward(target.given_back(drawn), target.given_back(true)), np.float64)
            if found.shape != (len(drawn),) or not np.isfinite(found).all():
                raise ValueError(f"reward must give {len(drawn)} finite numbers, not {found!r}")
            return found

        def objective(rows: npt.NDArray[np.intp], gradient: Parameters) -> Floats:
            batch, n = pairs[rows], len(rows)
            drawn = self._decoded(batch.source, key, training.optimizer.updates * self.batch_size)
            rewards, tried = rewarded(drawn, batch.target), Pairs(batch.source, drawn, batch.sides)
            kept = before._log_prob(tried, False)
            greedy = None
            if baseline == "greedy":
                greedy = rewarded(self._decoded(batch.source, temperature=0.0), batch.target)

            def weight(log_prob: Floats) -> Floats:
                worth = rewards - kl_weight * (log_prob - kept)
                expected = (ordered_sum(worth) - worth) / max(n - 1, 1) if greedy is None else greedy
                return np.asarray((worth - expected) / n)

            self._weighed_gradient(tried, gradient, weight)
            return rewards

        constants: dict[str, Any] = self.optimizer_options or {}
        training = Training(
            objective,
            Optimizer(
                self.parameters_, self.optimizer, clip_norm=self.clip_norm, n_threads=self.n_threads, **constants
            ),
            len(pairs),
            learning_rate=learning_rate,
            schedule=constant,
            batch_size=self.batch_size,
            max_epochs=max_epochs,
            shuffle=random.key_of(self.random_state, random.SHUFFLE),
        )
        training.run(validate=None, patience=1, max_seconds=None, verbose=self.verbose, callbacks=callbacks)
        self.rewards_ = training.history["train"]
        self.__dict__.pop("_ongoing", None)
        return self
