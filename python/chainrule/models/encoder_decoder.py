"""EncoderDecoder: p(y | x) of one sequence given another (Vaswani et al. 2017)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels, ops
from chainrule.fit import Parameters
from chainrule.kernels.masked import panels_shape
from chainrule.kernels.transformer import Cache, TransformerNetwork
from chainrule.models.blocks import Drawn, Dropout, Stack, check_blocks, sinusoids, variables
from chainrule.models.generation import Memory
from chainrule.models.pair_base import Named, Seen
from chainrule.models.pairs import Side
from chainrule.models.policy import FineTuning
from chainrule.models.scheduled_sampling import truth_of
from chainrule.models.sequence_rows import Array
from chainrule.ops import Tape, Variable
from chainrule.validation import check_int

Codes = npt.NDArray[np.int32]


class EncoderDecoder(FineTuning):
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

    # ---- options

    def _check_model(self) -> None:
        check_blocks(self)
        for name in ("max_source", "max_target"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)
        truth_of(self.scheduled_sampling, self.scheduled_sampling_options)

    # ---- parameters

    @property
    def _encoder(self) -> Stack:
        return self._stack(prefix="source_")

    @property
    def _decoder(self) -> Stack:
        return self._stack(cross=True)

    def _stack(self, **which: Any) -> Stack:
        hidden = self.n_hidden or 4 * self.width
        sizes = self.n_layers, self.n_heads, self.n_heads, self.width, hidden
        return Stack(*sizes, self.activation, self.norm, **which)

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

    def _looked_at(self, tape: Tape, p: Named, source: list[Codes], drop: Dropout) -> Seen:
        lengths = np.array([len(part) for part in source], np.uint32)
        codes = np.full((len(source), int(lengths.max())), -1, np.int32)
        for to, part in zip(codes, source, strict=True):
            to[: len(part)] = part
        table, positions = p["source_token"][0], p["source_position"][0]
        h = drop(ops.tokens(tape, codes, table, self.source_.n_values, positions))
        h = self._encoder.run(tape, p, h, drop, lengths=lengths)
        return self._decoder.looked_at(tape, p, h), lengths

    def _caches_of(self, seen: Seen) -> Memory:
        return self._decoder.caches_of(seen[0]), seen[1]

    def _logits(self, tape: Tape, p: Named, inputs: Codes, seen: Seen, drop: Dropout) -> Variable:
        table, n_values = p["token"][0], self._end + 1
        h = drop(ops.tokens(tape, inputs, table, n_values, p["position"][0], tied=True))
        return ops.linear(tape, self._decoder.run(tape, p, h, drop, seen=seen), table, None, n_values)

    def _network(self) -> TransformerNetwork:
        token = kernels.pack(self.parameters_["token"], self._end + 1)
        return self._decoder.network(self.parameters_, token, token, self._positions()["position"])

    def _new_state(self, n_rows: int) -> list[Cache]:
        return self._decoder.new_state(n_rows, self.target_.longest, self.dtype)

    # ---- files

    def _state(self) -> dict[str, Any]:
        learned = ("history_", "stopped_", "rewards_")
        sides = {"source_": self.source_.said(), "target_": self.target_.said()}
        return self._saved(sides | {name: getattr(self, name) for name in learned})

    def _restore(self, state: dict[str, Any]) -> None:
        self._check_options()
        attributes = state["attributes"]
        self.source_ = Side.read(attributes["source_"], may_be_empty=False)
        self.target_ = Side.read(attributes["target_"], may_be_empty=True)
        self.history_, self.stopped_ = attributes["history_"], attributes["stopped_"]
        self.rewards_ = list(attributes["rewards_"])
        self._take_parameters(state["arrays"])
