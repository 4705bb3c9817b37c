"""EncoderDecoder: p(y | x) of one sequence given another (Vaswani et al. 2017)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels, ops, random
from chainrule.conditionals import Softmax
from chainrule.fit import Parameters, Training
from chainrule.fit.loop import Callback, ordered_sum
from chainrule.fit.schedules import TRUTH, Schedule, constant
from chainrule.kernels.masked import panels_shape
from chainrule.kernels.transformer import Cache
from chainrule.models.beams import best_of_beams
from chainrule.models.blocks import Drawn, Dropout, Stack, check_blocks, sinusoids, variables
from chainrule.models.generation import Memory, continued, draw, next_logits
from chainrule.models.pairs import Pairs, Side
from chainrule.models.policy import Reward, reinforce
from chainrule.models.sequence_rows import Array
from chainrule.models.trained import TrainedModel
from chainrule.ops import Pool, Tape, Variable
from chainrule.validation import check_int, check_option, check_positive, not_empty

if TYPE_CHECKING:
    from typing_extensions import Self

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Named = dict[str, list[Variable]]
STEPS_AT_ONCE = 8192  # of sources and targets, side by side
LOGITS_AT_ONCE = 1 << 24


class EncoderDecoder(TrainedModel):
    """``log p(y | x) = sum_t log p(y_t | y_<t, x)`` of a sequence y given a sequence x; its end is a step of y, too.

    An encoder of `n_layers` blocks, each step of which sees all of x, and a decoder of as many, whose blocks have three
    sublayers: causal attention to y so far, attention to the encoder's result, a perceptron (`Transformer` has the
    equations of sublayers)::

        m = encoder(E[x] + P),  h = decoder(E'[y_{t-1}] + P', m),  log p(y_t = v | y_<t, x) = (log softmax(h[t] E''))_v

    where E'' is E' transposed, and nothing stands for E' before the start. After its last token y has the step "end";
    with as many tokens as `max_target` it is at its end by itself. So p(. | x) sums to one over all y of at most
    `max_target` tokens, the empty one included, and every draw ends.

    Parameters
    ----------
    n_layers, n_heads, width : int
        Blocks of the encoder and of the decoder each, heads of ``width / n_heads`` channels, channels.
    norm, positions, n_hidden, activation, dropout : as in `Transformer`
    max_source, max_target : int, optional
        Tokens of the longest x and y; by default of the longest in training.
    scheduled_sampling : {"linear", "exponential", "inverse_sigmoid"} or callable, optional
        In training, the decoder sees the true token before each step with probability e, and else one that is drawn
        from the model, a coin a token (Bengio et al. 2015); e falls with the updates i, or is what a callable
        ``(i, total updates)`` gives. Tokens are drawn step by step, each given all that the decoder sees before it:
        over kept keys and values that costs one pass of the decoder, no more than the common short cut, in which all
        are drawn at once given the true ones. The end is never drawn. No gradient flows through a draw, and the targets
        stay the true ones.

        **This is not maximum likelihood**: its optimum is not the distribution of the data. Scores stay exact, of a
        model that was fitted to something else; leave it out where likelihoods are reported, coded or thresholded.
    scheduled_sampling_options : dict, optional
        "linear": ``e = max(floor, k - c i)``, k 1, floor 0, and c such that e is there with the last update.
        "exponential": ``k^i``, k such that e is 0.05 in the end. "inverse_sigmoid": ``k / (k + exp(i / k))``, k a tenth
        of all updates.
    batch_size : int
        Pairs per gradient.
    **training
        As in the other trained models. Weight decay is that of matrices and tables, not of biases and norms.

    Attributes
    ----------
    source_, target_ : pairs.Side
        What x and y may be: ``text`` (how characters or bytes became codes), ``n_values``, ``longest``.
    rewards_ : list of float
        Mean reward of each epoch of the last `fine_tune`.

    Notes
    -----
    ``history_`` is in nats a step of y. A score costs a pass over x and a pass over y, a drawn token all weights of the
    decoder once and ``2 (len(x) + t) C`` multiply-adds of attention in a block, C = `width`.

    Examples
    --------
    >>> from chainrule import EncoderDecoder
    >>> words = ["ab", "ba", "abba", "bb", "aab"] * 8
    >>> capitals = [word.upper() for word in words]
    >>> model = EncoderDecoder(1, 2, 16, max_epochs=60, learning_rate=0.01, random_state=0).fit(words, capitals)
    >>> model.predict(["abba", "ba"])
    ['ABBA', 'BA']
    """

    source_: Side
    target_: Side
    rewards_: list[float]
    _pool: Pool
    _seed: int

    def __init__(
        self,
        n_layers: int = 2,
        n_heads: int = 4,
        width: int = 128,
        norm: str = "pre",
        positions: str = "learned",
        n_hidden: int | None = None,
        activation: str = "gelu",
        dropout: float = 0.0,
        max_source: int | None = None,
        max_target: int | None = None,
        scheduled_sampling: Any = None,
        scheduled_sampling_options: dict[str, float] | None = None,
        batch_size: int = 64,
        optimizer: str = "adamw",
        clip_norm: float | None = 1.0,
        **training: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, optimizer=optimizer, clip_norm=clip_norm, **training)
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.width = width
        self.norm = norm
        self.positions = positions
        self.n_hidden = n_hidden
        self.activation = activation
        self.dropout = dropout
        self.max_source = max_source
        self.max_target = max_target
        self.scheduled_sampling = scheduled_sampling
        self.scheduled_sampling_options = scheduled_sampling_options

    # ---- options and intake

    def _check_model(self) -> None:
        check_blocks(self)
        for name in ("max_source", "max_target"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)
        self._truth()

    def _truth(self) -> Schedule:
        """The probability that the decoder sees a true token, by (update, total updates)."""
        chosen, options = self.scheduled_sampling, self.scheduled_sampling_options or {}
        if chosen is None or callable(chosen):
            if options:
                raise ValueError(f"scheduled_sampling_options are of a schedule by name, not of {chosen!r}")
            return constant if chosen is None else chosen
        check_option("scheduled_sampling", chosen, (None, *TRUTH))
        make, known = TRUTH[chosen]
        for name in options:
            check_option(f"scheduled_sampling_options of {chosen!r}", name, known)
        return make(**options)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _pairs(self, X: Any, y: Any, name: str = "", sides: tuple[Side, Side] | None = None) -> Pairs:
        """What a fitted model knows, or what `sides` allow; name: behind "X" and "y"."""
        if y is None:
            raise ValueError(f"y{name} is missing: an EncoderDecoder is of y given X")
        if sides is None:
            self._check_fitted()
            sides = self.source_, self.target_
        source, target = sides[0].codes(X, "X" + name), sides[1].codes(y, "y" + name)
        if len(source) != len(target):
            raise ValueError(f"y{name} must have {len(source)} sequences, as X{name}, not {len(target)}")
        return Pairs(source, target, sides)

    def _training_pairs(self, X: Any, y: Any, goes_on: bool) -> Pairs:
        self._check_options()
        if goes_on or y is None:
            return self._pairs(X, y)
        source = Side.of(X, "X", self.max_source, may_be_empty=False)
        return self._pairs(X, y, sides=(source, Side.of(y, "y", self.max_target, may_be_empty=True)))

    def _training_input(self, X: Any, X_val: Any) -> tuple[Any, Any]:
        not_empty(X)
        if X_val is not None:
            not_empty(X_val, "X_val")
        return X, X_val

    def _input(self, X: Any, name: str = "X", n_features: int | None = None) -> Any:
        return X  # pairs, which are checked

    def fit(  # type: ignore[override]  # of y given X, no context
        self,
        X: Any,
        y: Any,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight: Any = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Fit to pairs by maximum likelihood, but for `scheduled_sampling`.

        Parameters
        ----------
        X, y : lists of sequences of integers, or of text
            As many of one as of the other. The characters of text, or its bytes, become codes, on each side by
            themselves. Sequences of y may be empty.
        X_val, y_val : optional
            Held-out pairs, scored after every epoch; the best epoch's parameters are kept.
        sample_weight : array-like (n_pairs,), optional
        callbacks, checkpoint : as in the other models
        """
        pairs = self._training_pairs(X, y, self.warm_start and hasattr(self, "n_features_in_"))
        held_out = None if X_val is None else self._pairs(X_val, y_val, "_val", pairs.sides)
        super().fit(pairs, X_val=held_out, sample_weight=sample_weight, callbacks=callbacks, checkpoint=checkpoint)
        return self

    def partial_fit(self, X: Any, y: Any, *, sample_weight: Any = None) -> Self:  # type: ignore[override]
        """One epoch over pairs, going on from the present parameters and optimizer state."""
        pairs = self._training_pairs(X, y, hasattr(self, "n_features_in_"))
        super().partial_fit(pairs, sample_weight=sample_weight)
        return self

    # ---- parameters

    @property
    def _encoder(self) -> Stack:
        hidden = self.n_hidden or 4 * self.width
        sizes = self.n_layers, self.n_heads, self.n_heads, self.width, hidden
        return Stack(*sizes, self.activation, self.norm, prefix="source_")

    @property
    def _decoder(self) -> Stack:
        hidden = self.n_hidden or 4 * self.width
        sizes = self.n_layers, self.n_heads, self.n_heads, self.width, hidden
        return Stack(*sizes, self.activation, self.norm, cross=True)

    @property
    def _end(self) -> int:
        """The code of the step after the last token."""
        return self.target_.n_values

    @property
    def _tables(self) -> list[str]:
        return ["source_token", "token", *(["source_position", "position"] if self.positions == "learned" else [])]

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        C = self.width
        shapes: dict[str, tuple[int, ...]] = {
            "source_token": panels_shape(C, self.source_.n_values),
            "token": panels_shape(C, self._end + 1),
        }
        if self.positions == "learned":
            shapes |= {"source_position": (self.source_.longest, C), "position": (self.target_.longest, C)}
        return shapes | self._encoder.shapes() | self._decoder.shapes()

    def _build(self) -> None:
        self.parameters_ = Parameters(self._shapes(), self.dtype)
        self._pool = Pool()

    def _initialise(self, X: Any, weight: Any) -> None:
        self.source_, self.target_ = X.sides
        self.rewards_ = []
        self._build()
        p, drawn = self.parameters_, Drawn(self.random_state)
        p["source_token"][...] = kernels.to_panels(drawn(self.width, self.source_.n_values))
        p["token"][...] = kernels.to_panels(drawn(self.width, self._end + 1))
        for name in self._tables[2:]:
            p[name][...] = drawn(*p[name].shape)
        self._encoder.fill(p, drawn)
        self._decoder.fill(p, drawn)

    def _decays(self) -> list[str]:
        return [*self._tables, *self._encoder.matrices, *self._decoder.matrices]

    def _live(self) -> npt.NDArray[np.uint64]:
        return self.parameters_.ranges_of(self._decays())

    def _spared(self) -> npt.NDArray[np.uint64]:
        decays = set(self._decays())
        return self.parameters_.ranges_of(name for name in self.parameters_ if name not in decays)

    def _positions(self) -> dict[str, Array]:
        """Of x and of y, by name."""
        sides = {"source_position": self.source_, "position": self.target_}
        if self.positions == "learned":
            return {name: np.ascontiguousarray(self.parameters_[name]) for name in sides}
        return {name: sinusoids(side.longest, self.width, self.dtype) for name, side in sides.items()}

    def _variables(self, gradient: Parameters | None) -> Named:
        made = variables(self.parameters_, gradient, (self._encoder, self._decoder))
        if self.positions == "sinusoidal":
            made |= {name: [Variable(table)] for name, table in self._positions().items()}
        return made

    # ---- the network

    def _looked_at(
        self, tape: Tape, p: Named, source: list[Codes], drop: Dropout
    ) -> tuple[list[Variable], npt.NDArray[np.uint32]]:
        """What the decoder's blocks see of these x, and their lengths."""
        lengths = np.array([len(part) for part in source], np.uint32)
        codes = np.full((len(source), int(lengths.max())), -1, np.int32)
        for to, part in zip(codes, source, strict=True):
            to[: len(part)] = part
        table, positions = p["source_token"][0], p["source_position"][0]
        h = drop(ops.tokens(tape, codes, table, self.source_.n_values, positions))
        h = self._encoder.run(tape, p, h, drop, lengths=lengths)
        return self._decoder.looked_at(tape, p, h), lengths

    def _memory(self, source: list[Codes]) -> Memory:
        """The same, for `kernels.transformer_step`."""
        tape = Tape(Pool(), recording=False, n_threads=self.n_threads)
        seen, lengths = self._looked_at(tape, self._variables(None), source, Dropout(tape))
        return self._decoder.caches_of(seen), lengths

    def _logits(
        self, tape: Tape, p: Named, inputs: Codes, seen: tuple[list[Variable], Array], drop: Dropout
    ) -> Variable:
        table, n_values = p["token"][0], self._end + 1
        h = drop(ops.tokens(tape, inputs, table, n_values, p["position"][0], tied=True))
        return ops.linear(tape, self._decoder.run(tape, p, h, drop, seen=seen), table, None, n_values)

    def _network(self) -> kernels.TransformerNetwork:
        token = kernels.pack(self.parameters_["token"], self._end + 1)
        return self._decoder.network(self.parameters_, token, token, self._positions()["position"])

    def _steps(self, target: list[Codes]) -> tuple[Codes, Codes, npt.NDArray[np.int64]]:
        """What the decoder sees before each step, what the step is, (rows, steps), and how many steps each row has."""
        counts = np.array([min(len(part) + 1, self.target_.longest) for part in target], np.int64)
        codes = np.full((len(target), 1 + int(counts.max())), -1, np.int32)
        for to, part, n in zip(codes, target, counts, strict=True):
            to[n] = self._end
            to[1 : 1 + len(part)] = part
        inputs = np.where(np.arange(codes.shape[1] - 1) < counts[:, None], codes[:, :-1], np.int32(-1))
        return inputs, np.maximum(codes[:, 1:], 0), counts

    # ---- training

    def _training(self, X: Any, weight: Floats | None) -> Training:
        scale = np.ones(len(X)) if weight is None else weight * (len(X) / ordered_sum(weight))
        if isinstance(self.random_state, int | np.integer):
            self._seed = int(self.random_state)
        else:
            self._seed = random.key_of(self.random_state, random.DROPOUT)[0]
        truth, total = self._truth(), self.max_epochs * -(-len(X) // self.batch_size)

        def objective(rows: npt.NDArray[np.intp], gradient: Parameters) -> Floats:
            batch, share, update = X[rows], scale[rows], training.optimizer.updates
            steps = ordered_sum(share * self._steps(batch.target)[2]) or 1.0
            true = truth(update, total)
            log_prob = self._weighed_gradient(batch, gradient, share / steps, update=update, true=true)
            return share * log_prob * (len(rows) / steps)  # so that their mean is in nats a step

        training = self._trainer(objective, len(X))
        return training

    def _mean(self, X: Any) -> float:
        return ordered_sum(self._log_prob(X, False)) / float(self._steps(X.target)[2].sum(dtype=np.int64))

    def _gradient(self, X: Any, gradient: Parameters, weight: Any = None, step: int = 0) -> Floats:
        return self._weighed_gradient(X, gradient, np.full(len(X), 1.0 / len(X)))

    def _weighed_gradient(
        self,
        X: Pairs,
        gradient: Parameters,
        weight: Floats | Callable[[Floats], Floats],
        *,
        update: int | None = None,
        true: float = 1.0,
    ) -> Floats:
        """Fills the gradient of ``-sum_r weight_r log p(y_r | x_r)``; returns the log-likelihoods.

        weight: (n,), or what gives them from the log-likelihoods. update: of the training, for what it draws; None for
        the likelihood itself. true: the probability of a true token.
        """
        tape = Tape(self._pool, n_threads=self.n_threads)
        p = self._variables(gradient)
        drop = Dropout(tape) if update is None else Dropout(tape, self.dropout, self._seed, update)
        seen = self._looked_at(tape, p, X.source, drop)
        inputs, target, counts = self._steps(X.target)
        real = np.arange(target.shape[1]) < counts[:, None]
        if update is not None and true < 1:
            inputs = np.where(real, self._partly_drawn(inputs, seen, true, update), np.int32(-1))
        out = self._logits(tape, p, inputs, seen, drop)
        out.gradient = out.array
        if callable(weight):
            terms = kernels.softmax_log_prob(out.array, target, n_threads=self.n_threads)
            weight = weight(np.add.accumulate(np.where(real, terms, 0.0), axis=1)[:, -1])
        shares = np.where(real, weight[:, None], 0.0).astype(self.dtype)
        terms, _ = kernels.softmax_gradient(
            out.array, target, weight=shares, out=out.gradient, n_threads=self.n_threads
        )
        tape.backward()
        return np.add.accumulate(np.where(real, terms, 0.0), axis=1)[:, -1]

    def _partly_drawn(self, inputs: Codes, seen: tuple[list[Variable], Array], true: float, update: int) -> Codes:
        """The tokens the decoder sees, each true with this probability, else drawn given those before it.

        The encoder's pass is that of the training step, dropout included; the decoder draws without.
        """
        n, T = inputs.shape
        u = random.uniform_rows(
            random.key_of(self._seed, random.TRUTH), update << 32, n, 2 * self.target_.longest
        )  # coins and draws
        memory, network, state = self._decoder.caches_of(seen[0]), self._network(), self._new_state(n)
        mixed = inputs.copy()
        for t in range(T - 1):
            logits = next_logits(network, mixed[:, t], t, state, (memory, seen[1]), self.n_threads)
            tokens = draw(np.ascontiguousarray(logits[:, : self._end]), np.ascontiguousarray(u[:, 2 * t]))
            mixed[:, t + 1] = np.where(u[:, 2 * t + 1] < true, inputs[:, t + 1], tokens)
        return mixed

    def _new_state(self, n_rows: int) -> list[Cache]:
        return self._decoder.new_state(n_rows, self.target_.longest, self.dtype)

    def gradient(self, X: Any, y: Any) -> tuple[float, dict[str, npt.NDArray[Any]]]:  # type: ignore[override]
        """Mean log-likelihood of the pairs, and its gradient by each array of `parameters_`."""
        return super().gradient(self._pairs(X, y))

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
        self.rewards_ = reinforce(
            self,
            pairs,
            reward,
            max_epochs=max_epochs,
            learning_rate=learning_rate,
            kl_weight=kl_weight,
            baseline=baseline,
            callbacks=callbacks,
        )
        self.__dict__.pop("_ongoing", None)
        return self

    # ---- densities

    def _chunks(self, X: Pairs) -> Iterator[tuple[Array, int, Array, Codes]]:
        """Rows, a step, logits (rows, steps, V) from there on and what the steps are, of chunk after chunk."""
        network, V = self._network(), self._end + 1
        inputs, target, counts = self._steps(X.target)
        sizes = counts + np.array([len(part) for part in X.source], np.int64)
        for rows in _together(np.argsort(-sizes, kind="stable"), sizes):
            memory, T = self._memory([X.source[row] for row in rows]), int(counts[rows].max())
            state, n = self._new_state(len(rows)), len(rows)
            steps = max(LOGITS_AT_ONCE // (n * V), 1)
            for low in range(0, T, steps):
                part = np.ascontiguousarray(inputs[rows, low : min(low + steps, T)])
                logits = kernels.transformer_step(
                    network,
                    part,
                    np.full(n, low, np.uint32),
                    state,
                    cross=memory[0],
                    cross_lengths=memory[1],
                    n_threads=self.n_threads,
                )
                assert logits is not None
                yield rows, low, logits, np.ascontiguousarray(target[rows, low : low + part.shape[1]])

    def _log_prob(self, X: Any, per_variable: bool) -> Any:
        if not len(X):
            return [] if per_variable else np.zeros(0)
        counts = self._steps(X.target)[2]
        terms = np.zeros((len(X), int(counts.max())))
        for rows, low, logits, target in self._chunks(X):
            found = kernels.softmax_log_prob(logits, target, n_threads=self.n_threads)
            terms[rows, low : low + found.shape[1]] = found
        if per_variable:
            return [row[:n].copy() for row, n in zip(terms, counts, strict=True)]
        real = np.arange(terms.shape[1]) < counts[:, None]
        return np.add.accumulate(np.where(real, terms, 0.0), axis=1)[:, -1]

    def score_samples(self, X: Any, y: Any, *, per_variable: bool = False) -> Any:  # type: ignore[override]
        """``log p(y | x)`` of each pair, exact, in nats, the end included: float64 (n_pairs,).

        A value does not depend on the pairs beside it, bit for bit.

        Parameters
        ----------
        X, y : as in `fit`
        per_variable : bool
            The chain rule's terms ``log p(y_t | y_<t, x)``, and that of the end where it is not certain: a list of
            arrays.
        """
        return self._log_prob(self._pairs(X, y), per_variable)

    def score(self, X: Any, y: Any) -> float:  # type: ignore[override]
        """Mean log-likelihood of the pairs, in nats a pair; higher is better."""
        log_prob = self.score_samples(X, y)
        not_empty(log_prob)
        return ordered_sum(log_prob) / len(log_prob)

    def conditionals(self, X: Any, y: Any) -> Softmax:  # type: ignore[override]
        """The distribution of every step of y, all y of one length; code ``target_.n_values`` is the end."""
        pairs = self._pairs(X, y)
        if len({len(part) for part in pairs.target}) != 1:
            raise ValueError("conditionals needs sequences y of one length")
        logits = np.empty((len(pairs), int(self._steps(pairs.target)[2][0]), self._end + 1), self.dtype)
        for rows, low, part, _ in self._chunks(pairs):
            logits[rows, low : low + part.shape[1]] = part
        return Softmax(logits)

    # ---- predictions

    def predict(self, X: Any) -> list[Any]:
        """The most likely token at each step, y by y (greedy): a list of int32 arrays, or of text."""
        source = self._known_sources(X)
        return self.target_.given_back(self._decoded(source, temperature=0.0))

    def sample(  # type: ignore[override]  # one y for each x
        self,
        X: Any,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        random_state: Any = None,
        start: int = 0,
    ) -> list[Any]:
        """A draw of y for each x, exact: a list of int32 arrays, or of text.

        With an int `random_state`, row k depends on (random_state, start + k) and its x alone.

        Parameters
        ----------
        X : as in `fit`
        temperature, top_k, top_p : as in `Transformer.generate`; by default draws are of the model's density
        random_state, start : as in the other models
        """
        source = self._known_sources(X)
        check_int("start", start, 0)
        if random_state is None and isinstance(self.random_state, int | np.integer):
            random_state = self.random_state
        key = random.key_of(random_state)
        drawn = self._decoded(source, key, start, temperature=temperature, top_k=top_k, top_p=top_p)
        return self.target_.given_back(drawn)

    def beam_search(self, X: Any, n_beams: int = 4, *, length_penalty: float = 0.0) -> tuple[list[Any], Floats]:
        """The best y found for each x by beam search, and its log-likelihood, that of `score_samples` bit for bit.

        At every step each of the `n_beams` unfinished y is weighed as if it ended there, and the `n_beams` likeliest of
        its continuations stay; it ends when no continuation can be better than the best y so far.

        Parameters
        ----------
        X : as in `fit`
        n_beams : int
            The cost is that of so many draws.
        length_penalty : float
            a >= 0 in the ranking of y of n tokens, ``log p(y | x) / ((5 + n) / 6)^a`` (Wu et al. 2016); 0 ranks by
            likelihood, which favours short y.

        Returns
        -------
        y : list of int32 arrays, or of text
        log_prob : float64 (n,)
        """
        source = self._known_sources(X)
        check_int("n_beams", n_beams, 1)
        if length_penalty != 0:
            check_positive("length_penalty", length_penalty)
        network, most = self._network(), self.target_.longest
        found: list[Codes] = []
        scores = [np.zeros(0)]
        for rows in self._in_order(source, n_beams):
            best, log_prob = best_of_beams(
                network,
                self._memory([source[row] for row in rows]),
                self._new_state(len(rows)),
                self._end,
                most,
                n_beams,
                length_penalty,
                self.n_threads,
            )
            found += best
            scores.append(log_prob)
        return self.target_.given_back(found), np.concatenate(scores)

    def _known_sources(self, X: Any) -> list[Codes]:
        self._check_fitted()
        return self.source_.codes(X, "X")

    def _in_order(self, source: list[Codes], each: int = 1) -> Iterator[npt.NDArray[np.intp]]:
        """Rows that are decoded together."""
        sizes = np.array([(len(part) + self.target_.longest) * each for part in source], np.int64)
        return _together(np.arange(len(source)), sizes)

    def _decoded(self, source: list[Codes], key: random.Key = (0, 0), start: int = 0, **choice: Any) -> list[Codes]:
        """A y for each x, without its end."""
        network, most, found = self._network(), self.target_.longest, []
        for rows in self._in_order(source):
            parts = continued(
                network,
                [np.full(1, -1, np.int32)] * len(rows),
                self._new_state(len(rows)),
                most,
                most,
                np.full(1, self._end, np.int32),
                key,
                start + int(rows[0]),
                choice,
                self.n_threads,
                memory=self._memory([source[row] for row in rows]),
            )
            tokens = np.stack(list(parts), axis=1)
            found += [row[(row >= 0) & (row != self._end)] for row in tokens]
        return found

    # ---- files

    def _state(self) -> dict[str, Any]:
        return {
            "arrays": {name: np.ascontiguousarray(array) for name, array in self.parameters_.items()},
            "attributes": {
                "source_": self.source_.said(),
                "target_": self.target_.said(),
                "history_": self.history_,
                "stopped_": self.stopped_,
                "rewards_": self.rewards_,
            },
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._check_options()
        attributes, arrays = state["attributes"], state["arrays"]
        self.source_ = Side.read(attributes["source_"], may_be_empty=False)
        self.target_ = Side.read(attributes["target_"], may_be_empty=True)
        self.history_, self.stopped_ = attributes["history_"], attributes["stopped_"]
        self.rewards_ = list(attributes["rewards_"])
        for name, shape in self._shapes().items():  # before memory for them is asked for
            if arrays[name].shape != shape or arrays[name].dtype != self.dtype:
                raise ValueError(f"{name} is {arrays[name].dtype} of shape {arrays[name].shape}")
        self._build()
        for name, array in self.parameters_.items():
            array[...] = arrays[name]
        self.n_features_in_ = 1

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pool = Pool()


def _together(order: npt.NDArray[np.intp], sizes: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.intp]]:
    """Rows in this order, as many at once as are `STEPS_AT_ONCE` steps, each as long as the longest; or one."""
    at = 0
    while at < len(order):
        longest = np.maximum.accumulate(sizes[order[at : at + STEPS_AT_ONCE]])
        fit = int(np.count_nonzero(longest * np.arange(1, len(longest) + 1) <= STEPS_AT_ONCE))
        yield order[at : at + max(fit, 1)]
        at += max(fit, 1)
