"""Transformer: causal attention over a window of tokens (Vaswani et al. 2017; Radford et al. 2019)."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels, mulaw, ops
from chainrule.conditionals.steps import DrawnSteps, MixtureSteps, SoftmaxSteps
from chainrule.fit import Parameters
from chainrule.kernels.masked import panels_shape
from chainrule.kernels.transformer import FORMATS, Cache
from chainrule.models import gpt2
from chainrule.models.blocks import Drawn, Dropout, Stack, check_blocks, sinusoids, variables
from chainrule.models.crops import Crops
from chainrule.models.generation import refuse_odd
from chainrule.models.prompts import NO_START, Prompted
from chainrule.models.sequence_rows import Array, Sequences, as_codes32
from chainrule.ops import Tape, Variable
from chainrule.text import as_tokenizer
from chainrule.validation import check_int, check_option

Codes = npt.NDArray[np.int32]
MATRICES = ("token", "output", "position")  # beside those of blocks
MOST_VALUES = 1 << 20
MOST_LEVELS = 1 << 16
STEPS_AT_ONCE = 2048  # scored together, over windows side by side
LOGITS_AT_ONCE = 1 << 24
CACHE_AT_ONCE = 1 << 28  # bytes of keys and values of the sequences that are drawn side by side


class Transformer(Prompted):
    """``log p(x) = sum_t log p(x_t | x_<t)`` by causal attention, decoder only.

    With ``h[t] = E[x_{t-1}] + P[t]``, nothing for E before the start, a block has two sublayers f, attention and a
    perceptron, and norms LN (Ba et al. 2016)::

        norm="pre":  h <- h + f(LN(h)), and a last LN      norm="post":  h <- LN(h + f(h))
        attention:   sum_j softmax_j(q_t . k_j / sqrt(s)) v_j over j <= t, heads of size s side by side, then a matrix
        perceptron:  g(h U + u) D + d
        log p(x_t = v | x_<t) = (log softmax(h[t] O'))_v

    A sequence longer than `context_length` T is a sequence of windows of T steps, each of which starts anew: its first
    step sees the one symbol before it alone. So the density is exact for any length, and its mean over windows is what
    the validation loss of common training scripts measures. Training crops stand anywhere.

    Scoring and drawing are one kernel over kept keys and values (`kernels.transformer_step`): a token costs every
    weight once and ``2 T C`` multiply-adds of attention in a block, C = `width`, whether it is scored, drawn or
    continued, and has the same bits in all three.

    Parameters
    ----------
    n_layers, n_heads, width : int
        Blocks, heads of ``width / n_heads`` channels, channels.
    context_length : int
        T, of a window.
    norm : {"pre", "post"}
        As in GPT-2, or as in the first Transformer, which wants `warmup`.
    conditional : {"categorical", "mu-law", "logistic-mixture"}
        "categorical": integers 0 .. n_values - 1 of any vocabulary, a logit for each; or text, whose characters or
        bytes become such codes. "mu-law": audio, int16 or floats in [-1, 1], as one of 256 codes. "logistic-mixture":
        integers 0 .. n_values - 1, up to 65536, on a scale, such as pixels, counts or ratings: a mixture of logistics
        (Salimans et al. 2017) in the place of their logits, ``h[t] O' + o`` its parameters.
    positions : {"learned", "sinusoidal"}
    n_hidden : int, optional
        Of the perceptron; 4 `width` by default.
    n_kv_heads : int, optional
        Heads of keys and values, each shared by ``n_heads / n_kv_heads`` heads of queries (Ainslie et al. 2023).
    activation : {"gelu", "gelu_exact", "relu"}
        "gelu" is the tanh form, as in GPT-2 (Hendrycks & Gimpel 2016).
    tied : bool
        O is E. Of a mixture it never is.
    dropout : float
        Rate at which channels of the tokens and of the sublayers' results are dropped in training.
    n_values : int, optional
        Of integers; by default one more than the largest in the training sequences.
    n_components : int
        Of "logistic-mixture".
    batch_size : int
        Windows per gradient.
    **training
        As in the other trained models. Weight decay is that of matrices and tables, not of biases and norms.

    Attributes
    ----------
    start_ : int or None
        The token before the first one: -1 for none, a zero in its place. None: the checkpoint it was read from has
        none.
    text_ : text.Characters, text.Bytes, text.Subwords or None
        How text became codes.

    Examples
    --------
    >>> from chainrule import Transformer
    >>> text = "to be or not to be, that is the question. " * 20
    >>> model = Transformer(1, 2, 16, context_length=32, max_epochs=2, random_state=0).fit(text)
    >>> model.score_samples("to be").shape
    (1,)
    >>> len(model.generate("to be", 8, random_state=1)[0])
    8
    """

    _takes_context = False
    _learned = (*Prompted._learned, "start_")
    format_: str | None = None  # of packed weights
    _packed: kernels.TransformerNetwork | None = None

    def __init__(
        self,
        n_layers: int = 4,
        n_heads: int = 4,
        width: int = 128,
        context_length: int = 256,
        norm: str = "pre",
        conditional: str = "categorical",
        positions: str = "learned",
        n_hidden: int | None = None,
        n_kv_heads: int | None = None,
        activation: str = "gelu",
        tied: bool = True,
        dropout: float = 0.0,
        n_values: int | None = None,
        n_components: int = 5,
        batch_size: int = 12,
        optimizer: str = "adamw",
        weight_decay: float = 0.1,
        clip_norm: float | None = 1.0,
        **training: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size, optimizer=optimizer, weight_decay=weight_decay, clip_norm=clip_norm, **training
        )
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.width = width
        self.context_length = context_length
        self.norm = norm
        self.conditional = conditional
        self.positions = positions
        self.n_hidden = n_hidden
        self.n_kv_heads = n_kv_heads
        self.activation = activation
        self.tied = tied
        self.dropout = dropout
        self.n_values = n_values
        self.n_components = n_components

    # ---- options and values

    def _check_model(self) -> None:
        check_blocks(self)
        for name in ("context_length", "n_components"):
            check_int(name, getattr(self, name), 1)
        for name in ("n_kv_heads", "n_values"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)
        if self.n_heads % self._n_kv_heads:
            raise ValueError(f"n_kv_heads must divide n_heads = {self.n_heads}, not be {self.n_kv_heads}")
        check_option("conditional", self.conditional, ("categorical", "mu-law", "logistic-mixture"))
        if self.n_values is not None and self.n_values > self._most_values:
            raise ValueError(f"n_values must be at most {self._most_values}, not {self.n_values}")
        check_option("tied", self.tied, (True, False))

    def _encode(self, arrays: list[Array], name: str, fitted: bool) -> list[Codes]:
        if self.conditional == "mu-law":
            return [mulaw.mu_law_encode(array).astype(np.int32) for array in arrays]
        known = getattr(self, "n_values_", None) if fitted else None
        return as_codes32(arrays, known or self.n_values or self._most_values, name)

    def _decode(self, codes: Codes) -> Array:
        return mulaw.mu_law_decode(codes.astype(np.uint8)) if self.conditional == "mu-law" else codes

    def _values_in(self, values: list[Codes]) -> int:
        if self.conditional == "mu-law":
            return 256
        if self.text_ is not None:
            return self.text_.n_values
        return self.n_values or 1 + max(int(part.max()) for part in values)

    @property
    def _levels(self) -> bool:
        return self.conditional == "logistic-mixture"

    @property
    def _steps(self) -> DrawnSteps:
        return MixtureSteps(self.n_values_, self.n_components) if self._levels else SoftmaxSteps(self.n_values_)

    @property
    def _window(self) -> int:
        return self.context_length

    @property
    def _most_values(self) -> int:
        return MOST_LEVELS if self._levels else MOST_VALUES

    @property
    def _shared(self) -> bool:
        """The matrix of the logits is the embedding's."""
        return self.tied and not self._levels

    @property
    def _n_kv_heads(self) -> int:
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def _stack(self) -> Stack:
        hidden = self.n_hidden or 4 * self.width
        return Stack(self.n_layers, self.n_heads, self._n_kv_heads, self.width, hidden, self.activation, self.norm)

    @property
    def receptive_field_(self) -> int:
        """Most steps before x_t that its conditional depends on."""
        return self.context_length

    # ---- parameters

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The tables are in panels of 32 values, as the matrix of the logits is kept."""
        n_out = self._steps.n_parameters
        shapes: dict[str, tuple[int, ...]] = {"token": panels_shape(self.width, self.n_values_)}
        if not self._shared:
            shapes["output"] = panels_shape(self.width, n_out)
        if self._levels:
            shapes["output_bias"] = (n_out,)
        if self.positions == "learned":
            shapes["position"] = (self.context_length, self.width)
        return shapes | self._stack.shapes()

    def _initialise(self, X: Any, weight: Any) -> None:
        self.n_values_, self.n_context_, self.n_local_, self.start_ = self._values_in(X.values), 0, 0, -1
        self.format_ = None
        self._build()
        p, drawn, steps = self.parameters_, Drawn(self.random_state), self._steps
        p["token"][...] = kernels.to_panels(drawn(self.width, self.n_values_))
        if "output" in p:
            scale = 0.1 if self._levels else 1.0  # a mixture starts as its bias says
            p["output"][...] = kernels.to_panels(drawn(self.width, steps.n_parameters, scale))
        if isinstance(steps, MixtureSteps):
            p["output_bias"][...] = steps.initial(np.concatenate(X.values))
        if "position" in p:
            p["position"][...] = drawn(self.context_length, self.width)
        self._stack.fill(p, drawn)

    def _live(self) -> npt.NDArray[np.uint64]:
        return self.parameters_.ranges_of([*MATRICES, *self._stack.matrices])

    def _spared(self) -> npt.NDArray[np.uint64]:
        decayed = {*MATRICES, *self._stack.matrices}
        return self.parameters_.ranges_of(name for name in self.parameters_ if name not in decayed)

    def _variables(self, gradient: Parameters | None) -> dict[str, list[Variable]]:
        made = variables(self.parameters_, gradient, [self._stack])
        if self.positions == "sinusoidal":
            made["position"] = [Variable(self._positions)]
        return made

    @property
    def _positions(self) -> Array:
        if self.positions == "learned":
            return self.parameters_["position"]
        return sinusoids(self.context_length, self.width, self.dtype)

    # ---- the network, for training

    def _pieces(self, lengths: npt.NDArray[np.int64]) -> Crops:
        return self._crops(lengths)

    def _outputs(
        self,
        tape: Tape,
        p: dict[str, list[Variable]],
        codes: Codes,
        n_steps: int,
        *,
        update: int | None = None,
        **looking_back: Any,
    ) -> Variable:
        self._refuse_packed("trained")
        table = p["token"][0]
        drop = Dropout(tape) if update is None else Dropout(tape, self.dropout, self._seed, update)
        h = drop(ops.tokens(tape, self._started(codes), table, self.n_values_, p["position"][0], tied=self._shared))
        h = self._stack.run(tape, p, h, drop)
        matrix, bias = table if self._shared else p["output"][0], p["output_bias"][0] if self._levels else None
        return ops.linear(tape, h, matrix, bias, self._steps.n_parameters)

    def _started(self, codes: Codes) -> Codes:
        """With the start token where there is none before."""
        if self.start_ is None:
            raise ValueError(NO_START)
        return codes if self.start_ < 0 else np.where(codes < 0, np.int32(self.start_), codes)

    # ---- the network, for scoring and drawing

    def _network(self) -> kernels.TransformerNetwork:
        """What `kernels.transformer_step` takes."""
        if self.format_ is None:
            return self._made("float32")
        if self._packed is None:
            self._packed = self._made(self.format_)
        return self._packed

    def _made(self, format: str) -> kernels.TransformerNetwork:
        p, n_out = self.parameters_, self._steps.n_parameters
        token = kernels.pack(p["token"], self.n_values_, format=format)
        bias = p["output_bias"] if self._levels else None
        output = token if self._shared else kernels.pack(p["output"], n_out, bias, format=format)
        return self._stack.network(p, token, output, np.ascontiguousarray(self._positions), format=format)

    def pack(self, format: str) -> Transformer:
        """The same model with weights of fewer bits, for scoring and drawing: "bf16" or "int8" (`kernels.pack`).

        A step of decoding reads half or a quarter of the bytes. Its scores and samples are those of the rounded
        weights, normalised as any, and outside the contract of the same bits everywhere. It cannot be trained or saved;
        the model it was made from can.
        """
        self._check_fitted()
        check_option("format", format, FORMATS[1:])
        other = copy.copy(self)
        other.format_ = format
        return other

    def _refuse_packed(self, what: str) -> None:
        if self.format_ is not None:
            raise ValueError(f"a model packed as {self.format_} cannot be {what}: the one it was made from can")

    def _continued(self, *given: Any) -> Iterator[Codes]:
        if self._levels:
            raise ValueError("generate chooses among tokens by their logits, which levels lack: sample(given=) goes on")
        return super()._continued(*given)

    def _new_state(self, n: int, length: int) -> list[Cache]:
        return self._stack.new_state(n, min(length, self.context_length), self.dtype)

    def _drawn_at_once(self, length: int) -> int:
        return max(1, CACHE_AT_ONCE // self._bytes_kept(length))

    def _bytes_kept(self, length: int) -> int:
        """Of keys and values of one sequence of `length` steps, and its logits: about."""
        steps = -(-min(length, self.context_length) // 32) * 32
        return (2 * self.n_layers * self.width * steps + self._steps.n_parameters) * np.dtype(self.dtype).itemsize

    def _chunks(self, X: Sequences) -> Iterator[tuple[Array, Array, Array, Codes]]:
        """Windows side by side, long ones first; of large vocabularies in several chunks."""
        windows, network, at = self._pieces(X.lengths), self._network(), 0
        order = np.argsort(-windows.length, kind="stable")
        state: list[Cache] | None = None
        while at < len(order):
            longest = int(windows.length[order[at]])
            chosen = order[at : at + max(STEPS_AT_ONCE // longest, 1)]
            at += len(chosen)
            rows, first, n = windows.row[chosen], windows.start[chosen], len(chosen)
            if state is None or n != len(state[0].keys) or longest > state[0].capacity:
                state = self._new_state(n, longest)
            steps = max(LOGITS_AT_ONCE // (n * self._steps.n_parameters), 1)
            for low in range(0, longest, steps):
                codes = np.full((n, 1 + min(steps, longest - low)), -1, np.int32)  # and the one before the chunk
                for i, (row, start) in enumerate(zip(rows, first + low, strict=True)):
                    part = X.values[row][max(start - 1, 0) : start + codes.shape[1] - 1]
                    codes[i, int(start == 0) :][: len(part)] = part
                logits = self._step(network, codes[:, :-1], low, state)
                yield rows, first + low, logits, np.maximum(codes[:, 1:], 0)

    def _step(self, network: Any, seen: Codes, kept: int, state: list[Cache], **which: Any) -> Any:
        """Logits of the steps after those `seen`, each row with `kept` steps in its caches."""
        seen = np.ascontiguousarray(self._started(seen))
        lengths = np.full(len(seen), kept, np.uint32)
        return kernels.transformer_step(network, seen, lengths, state, n_threads=self.n_threads, **which)

    def _prime(self, seen: Codes, X: Sequences, low: int, state: list[Cache]) -> None:
        end, T = low + seen.shape[1], self.context_length
        begin = max(low, end // T * T)  # of what is left of the window that `end` is in
        if begin < end:
            self._step(self._network(), seen[:, begin - low :], begin % T, state, logits=False)

    def _generate(
        self,
        u_of: Any,
        previous: Codes,
        state: list[Cache],
        features_of: Any,
        low: int,
        high: int,
        chunk: int,
        temperature: float,
    ) -> Iterator[Codes]:
        network, conditional, first = self._network(), self._steps, np.zeros(len(previous), np.uint32)
        for step in range(low, high, chunk):
            u = np.ascontiguousarray(u_of(step, min(chunk, high - step)).T)
            drawn = np.empty(u.shape, np.int32)
            for t, uniforms in enumerate(u):
                kept = (step + t) % self.context_length
                logits = self._step(network, previous[:, None], kept, state, last=first)
                refuse_odd(logits)
                previous = conditional.draw(logits, uniforms, temperature)
                drawn[t] = previous
            yield np.ascontiguousarray(drawn.T)

    # ---- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .safetensors file, atomically; `chainrule.load` reads it."""
        self._refuse_packed("saved")
        super().save(path)

    def _restore(self, state: dict[str, Any]) -> None:
        start = state["attributes"]["start_"]
        super()._restore(state)
        if start is not None and check_int("start_", start, -1) >= self.n_values_:
            raise ValueError(f"start_ must be a token below {self.n_values_}, not {start}")
        self.start_ = start

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_packed"}

    # ---- checkpoints of others

    @classmethod
    def from_gpt2(
        cls,
        path: str | os.PathLike[str],
        *,
        n_heads: int | None = None,
        start: int | None = None,
        tokenizer: Any = None,
        **options: Any,
    ) -> Transformer:
        """A GPT-2 checkpoint: a .safetensors file, or a folder with ``model.safetensors``; nothing is downloaded.

        Scores, draws and continues as a model fitted here does, and can be trained on (`partial_fit`, or `fit` with
        ``warm_start=True``).

        Parameters
        ----------
        path : path
            The names and shapes of its tensors are those of GPT-2, "transformer." in front or not, all float32; any
            that is missing, unknown, of another shape or another dtype is an error. Buffers of masks are passed over. A
            ``config.json`` beside it is read, and must not ask for what GPT-2 does not do.
        n_heads : int, optional
            By default that of config.json; else as many as have 64 channels, as in all models that were published.
        start : int, optional
            The token before the first one of a sequence; by default 50256, "<|endoftext|>", where the vocabulary has
            it. Without one only prompts can be continued.
        tokenizer : Tokenizer of the tokenizers library, optional
            The checkpoint's own, ``tokenizers.Tokenizer.from_file("tokenizer.json")``: text goes in and comes out.
            Otherwise its tokens are integers.
        **options
            Of training, as in the constructor.
        """
        checkpoint = gpt2.read(path, n_heads)
        model = cls(**checkpoint.options, **options)
        model._check_options()
        V = model.n_values_ = checkpoint.n_values
        if start is None and V > gpt2.END_OF_TEXT:
            start = gpt2.END_OF_TEXT
        if start is not None and check_int("start", start, 0) >= V:
            raise ValueError(f"start must be a token below {V}, not {start}")
        model.n_context_, model.n_local_, model.length_, model.start_ = 0, 0, None, start
        model.history_, model.stopped_, model.text_ = {}, "from_gpt2", model._of_text(as_tokenizer(tokenizer))
        model._build()
        gpt2.fill(model.parameters_, checkpoint)
        model.n_features_in_ = 1
        return model
