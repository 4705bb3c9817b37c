"""WaveNet: dilated causal convolutions over time (van den Oord et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels, mulaw, ops, random
from chainrule.conditionals import Categorical
from chainrule.conditionals.categorical import count_values, starts
from chainrule.fit import Parameters
from chainrule.kernels.masked import panels_shape
from chainrule.kernels.wavenet import Frames
from chainrule.models.sequences import Array, Crops, SequenceModel, Sequences, as_codes32
from chainrule.ops import Pool, Tape, Variable
from chainrule.ops.layers import arrays_of
from chainrule.validation import check_int, check_option

BLOCK = ("filter_gate", "filter_gate_bias", "residual", "residual_bias", "skip", "skip_bias")
STEPS_AT_ONCE = 8192  # scored in one chunk, over all its sequences
FOREVER = 1 << 31  # steps of a frame that lasts for a whole sequence


class WaveNet(SequenceModel):
    """``log p(x) = sum_t log p(x_t | x_<t)`` by a stack of gated, dilated causal convolutions.

    With ``h_0[t] = E[x_{t-1}]`` and zeros, in every layer, before the start::

        z = sum_k h_l[t - (K-1-k) d_l] W_lk + V_l c + b_l        f, g: the halves of z
        u = tanh(f) sigmoid(g)
        h_{l+1} = h_l + u R_l + r_l        skip = sum_l (u S_l + s_l)
        parameters of p(x_t | x_<t) = relu(relu(skip) H_1 + c_1) H_2 + c_2

    Training sees all steps at once; a generated step costs every weight once, since layers keep the inputs they will
    meet again (`sample`, `stream`). ``L ((2 K + 1) C^2 + C S) + S^2 + S P`` multiply-adds a step, for L blocks of C
    channels, S skip channels and P parameters.

    Parameters
    ----------
    channels, skip_channels : int
        C and S.
    dilations : sequence of int
        Of one stack.
    n_stacks : int
        The dilations are repeated so often.
    kernel_size : int
        Taps K of each convolution.
    conditional : {"mu-law", "categorical"}
        "mu-law": audio, int16 or floats in [-1, 1], scored as one of 256 codes (counting measure on the codes).
        "categorical": integers 0 .. n_values - 1, up to 256.
    n_values : int, optional
        Of "categorical"; by default one more than the largest in the training sequences.
    crop : int
        Steps of a training window; windows are drawn anew in every epoch, and look back on what is before them.
    hop : int, optional
        Steps of a frame of local context.
    batch_size : int
        Windows per gradient.
    memory_budget : int
        Bytes of gates that a training step may keep; those beyond are computed again on the way back.
    **training
        As in the other trained models.

    Attributes
    ----------
    receptive_field_ : int
        Steps before x_t that its conditional depends on.
    length_ : int or None
        Of the training sequences, when all are as long as each other.
    """

    n_values_: int
    length_: int | None

    def __init__(
        self,
        channels: int = 64,
        skip_channels: int = 128,
        dilations: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        n_stacks: int = 2,
        kernel_size: int = 2,
        conditional: str = "mu-law",
        n_values: int | None = None,
        crop: int = 8000,
        hop: int | None = None,
        batch_size: int = 1,
        memory_budget: int = 1 << 30,
        **training: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **training)
        self.channels = channels
        self.skip_channels = skip_channels
        self.dilations = dilations
        self.n_stacks = n_stacks
        self.kernel_size = kernel_size
        self.conditional = conditional
        self.n_values = n_values
        self.crop = crop
        self.hop = hop
        self.memory_budget = memory_budget

    # ---- options and values

    def _check_model(self) -> None:
        for name in ("channels", "skip_channels", "n_stacks", "kernel_size", "crop"):
            check_int(name, getattr(self, name), 1)
        if self.kernel_size > 16:
            raise ValueError(f"kernel_size must be at most 16, not {self.kernel_size}")
        if not hasattr(self.dilations, "__len__"):
            raise ValueError(f"dilations must be a sequence of integers, not {self.dilations!r}")
        if not len(self.dilations):
            raise ValueError("dilations must not be empty")
        for dilation in self.dilations:
            check_int("dilations", dilation, 1)
        if self.kernel_size * int(np.sum(self.dilations, dtype=object)) * self.n_stacks >= FOREVER:
            raise ValueError(f"dilations must give a receptive field below 2^31 steps, not {list(self.dilations)}")
        check_option("conditional", self.conditional, ("mu-law", "categorical"))
        if self.n_values is not None:
            check_int("n_values", self.n_values, 1)
            if self.n_values > 256:
                raise ValueError(f"n_values must be at most 256, not {self.n_values}")
        if self.hop is not None:
            check_int("hop", self.hop, 1)
        check_int("memory_budget", self.memory_budget, 0)

    def _encode(self, arrays: list[Array], name: str, fitted: bool) -> list[npt.NDArray[np.int32]]:
        if self.conditional == "mu-law":
            return [mulaw.mu_law_encode(array).astype(np.int32) for array in arrays]
        if fitted and hasattr(self, "n_values_"):
            return as_codes32(arrays, self.n_values_, name)
        return as_codes32(arrays, self.n_values or 256, name)

    def _decode(self, codes: npt.NDArray[np.int32]) -> Array:
        small = codes.astype(np.uint8)
        return mulaw.mu_law_decode(small) if self.conditional == "mu-law" else small

    @property
    def _dilations(self) -> list[int]:
        """Of every block."""
        return [int(d) for d in self.dilations] * self.n_stacks

    @property
    def _history(self) -> list[int]:
        """Steps that every block looks back."""
        return [(self.kernel_size - 1) * d for d in self._dilations]

    @property
    def receptive_field_(self) -> int:
        """Steps before x_t that its conditional depends on."""
        return int(np.sum(self._history, dtype=np.int64)) + 1

    # ---- parameters

    def _initialise(self, X: Any, weight: Any) -> None:
        values = np.concatenate(X.values)
        self.n_values_ = 256 if self.conditional == "mu-law" else int(self.n_values or values.max() + 1)
        self.n_context_ = 0 if X.context is None else X.context.shape[1]
        self.n_local_ = 0 if X.frames is None else X.frames[0].shape[1]
        self._build()
        p, key, C, K = (
            self.parameters_,
            random.key_of(self.random_state, random.WEIGHTS),
            self.channels,
            self.kernel_size,
        )
        self._scatter("embedding", random.uniform_rows(key, 0, self.n_values_, C) * 2 - 1)
        row = self.n_values_
        for l in range(len(self._dilations)):
            for name, n_in, n_out in (
                ("filter_gate", K * C, 2 * C),
                ("residual", C, C),
                ("skip", C, self.skip_channels),
            ):
                if name == "residual" and l == len(p["residual"]):
                    continue
                drawn = _glorot(key, row, n_in, n_out)
                panels = (
                    kernels.gate_panels(drawn.reshape(K, C, 2 * C))
                    if name == "filter_gate"
                    else kernels.to_panels(drawn)
                )
                p[name][l] = panels
                row += n_in
        for name, n_out in (("head", self.skip_channels), ("output", self.n_values_ - 1)):
            self._scatter(name, _glorot(key, row, self.skip_channels, n_out) * (0.1 if name == "output" else 1.0))
            row += self.skip_channels
        counts = count_values(values.astype(np.uint8)[:, None], [self.n_values_])
        p["output_bias"][...] = Categorical.marginal_logits(counts)

    def _scatter(self, name: str, dense: Array) -> None:
        self.parameters_[name][...] = kernels.to_panels(dense)

    def _build(self) -> None:
        """An empty parameter buffer, panels of 32 outputs for matrices."""
        C, S, K, L = self.channels, self.skip_channels, self.kernel_size, len(self._dilations)
        P, gates = self.n_values_ - 1, -(-C // 16)
        n_frames = self.n_context_ + getattr(self, "n_local_", 0)
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": panels_shape(self.n_values_, C),
            "filter_gate": (L, gates, K * C, 32),
            "filter_gate_bias": (L, 32 * gates),
            "residual": (L - 1, *panels_shape(C, C)),
            "residual_bias": (L - 1, C),
            "skip": (L, *panels_shape(C, S)),
            "skip_bias": (L, S),
            "head": panels_shape(S, S),
            "head_bias": (S,),
            "output": panels_shape(S, P),
            "output_bias": (P,),
        }
        if n_frames:
            shapes["context"] = (L, *panels_shape(n_frames, 32 * gates))
        self.parameters_ = Parameters(shapes, self.dtype)
        self._pool = Pool()

    def _variables(self, gradient: Parameters | None) -> dict[str, list[Variable]]:
        """Every parameter with its gradient; those of blocks block by block."""
        made = {}
        for name, array in self.parameters_.items():
            to = None if gradient is None else gradient[name]
            if name in BLOCK or name == "context":
                made[name] = [Variable(array[l], None if to is None else to[l]) for l in range(len(array))]
            else:
                made[name] = [Variable(array, to)]
        return made

    # ---- the network

    def _outputs(
        self,
        tape: Tape,
        p: dict[str, list[Variable]],
        index: npt.NDArray[np.int32],
        n_steps: int,
        *,
        before: npt.NDArray[np.int64] | None = None,
        frames: tuple[Array, int] | None = None,
        state: list[Array] | None = None,
    ) -> Variable:
        """Parameters of the conditionals of the last `n_steps` steps, (rows, n_steps, P).

        index: the values before each step, -1 for none. Without a `state` it begins a receptive field earlier, and
        `before` says how many of its steps are before the start of each row. A state is the last inputs of every block,
        which it is left with anew. frames: features (rows, frames, features), and the first step's place in frame 0.
        """
        dilations, history = self._dilations, self._history
        room = history if state is not None else [0] * len(history)
        h = ops.embedding(tape, index, p["embedding"][0], self.channels, room=room[0])
        skip, looked = None, 0
        for l, dilation in enumerate(dilations):
            if state is not None:
                h = _after(state[l], h)
            else:
                looked += history[l]
            start = None if before is None else np.maximum(before - looked, 0).astype(np.uint32)
            following, skip = ops.gated_block(
                tape, h, skip, _block(p, l), dilation=dilation, n_skip_steps=n_steps, start=start,
                frames=self._frames(tape, p, l, frames, looked), room=0 if l + 1 == len(dilations) else room[l + 1],
            )  # fmt: skip
            if state is not None:
                state[l][...] = h.array[:, h.array.shape[1] - history[l] :]
            if not tape.recording and following is not h:
                tape.release(h)
            h = following
        if not tape.recording:
            tape.release(h)
        assert skip is not None
        skip = ops.relu(tape, skip)
        hidden = ops.linear(tape, skip, p["head"][0], p["head_bias"][0], self.skip_channels, "relu", after="relu")
        out = ops.linear(tape, hidden, p["output"][0], p["output_bias"][0], self.n_values_ - 1, after="relu")
        if not tape.recording:
            tape.release(skip)
            tape.release(hidden)
        return out

    def _frames(
        self, tape: Tape, p: dict[str, list[Variable]], l: int, frames: tuple[Array, int] | None, looked: int
    ) -> tuple[Variable, int, int] | None:
        """``V_l c`` of every frame, its hop, and the place of the block's first step in its first frame."""
        if frames is None:
            return None
        features, at = frames
        hop = (self.hop or FOREVER) if getattr(self, "n_local_", 0) else FOREVER
        first = (at + looked) // hop
        context = Variable(features[:, first:])
        made = ops.linear(tape, context, p["context"][l], None, 32 * -(-self.channels // 16), back=False)
        return made, hop, (at + looked) - first * hop

    def _features(
        self, X: Sequences, rows: Any, first: npt.NDArray[np.int64], n_steps: int
    ) -> tuple[Array, int] | None:
        """Frames of the steps from `first` on of each row: local features beside the row's context."""
        if not self.n_context_ and X.frames is None:
            return None
        context = None if X.context is None else np.asarray(X.context)[rows].astype(self.dtype)
        if X.frames is None:
            assert context is not None
            return np.ascontiguousarray(context[:, None]), 0
        assert self.hop is not None
        at = int(first[0]) % self.hop
        n_frames = (at + n_steps - 1) // self.hop + 1
        parts = np.zeros((len(rows), n_frames, self.n_context_ + self.n_local_), self.dtype)
        for i, row in enumerate(rows):
            known, begin = X.frames[row], int(first[i]) // self.hop
            low, high = max(begin, 0), min(begin + n_frames, len(known))
            if low < high:
                parts[i, low - begin : high - begin, : self.n_local_] = known[low:high]
            if context is not None:
                parts[i, :, self.n_local_ :] = context[i]
        return parts, at

    # ---- training

    def _crop_gradient(
        self, X: Any, crops: Crops, weight: npt.NDArray[np.float64], gradient: Parameters
    ) -> npt.NDArray[np.float64]:
        reach, n, steps = int(np.sum(self._history, dtype=np.int64)), len(crops), int(crops.length.max())
        index = np.full((n, reach + steps), -1, np.int32)
        target = np.zeros((n, steps), np.uint8)
        share = np.zeros((n, steps), self.dtype)
        for i, (row, start, length) in enumerate(zip(crops.row, crops.start, crops.length, strict=True)):
            values, low = X.values[row], max(int(start) - reach - 1, 0)
            index[i, reach - (start - 1 - low) : reach + length] = values[low : start + length - 1]
            target[i, :length] = values[start : start + length]
            share[i, :length] = weight[i]
        tape = Tape(self._pool, memory_budget=self.memory_budget, n_threads=self.n_threads)
        out = self._outputs(
            tape, self._variables(gradient), index, steps,
            before=np.maximum(reach - crops.start, 0),
            frames=self._features(X, crops.row, crops.start - reach, reach + steps),
        )  # fmt: skip
        logits, log_prob = out.array.reshape(n * steps, -1), np.empty(n * steps)
        out.gradient = self._pool.take(out.array.shape, out.array.dtype)
        kernels.categorical_gradient(
            logits, target.reshape(-1, 1), starts([self.n_values_]), weight=share.reshape(-1), log_prob=log_prob,
            out=out.gradient.reshape(n * steps, -1), n_threads=self.n_threads,
        )  # fmt: skip
        tape.backward()
        terms = np.where(np.arange(steps) < crops.length[:, None], log_prob.reshape(n, steps), 0.0)
        return np.add.accumulate(terms, axis=1)[:, -1]

    # ---- densities

    def _chunks(self, X: Any) -> Iterator[tuple[npt.NDArray[np.intp], int, Categorical, npt.NDArray[np.uint8]]]:
        lengths = X.lengths
        by_length, p = np.argsort(-lengths, kind="stable"), self._variables(None)
        at = 0
        while at < len(by_length):
            longest = int(lengths[by_length[at]])
            rows = by_length[at : at + max(STEPS_AT_ONCE // longest, 1)]
            at += len(rows)
            state = [np.zeros((len(rows), h, self.channels), self.dtype) for h in self._history]
            for low in range(0, longest, STEPS_AT_ONCE):
                steps = min(STEPS_AT_ONCE, longest - low)
                index, codes = np.full((len(rows), steps), -1, np.int32), np.zeros((len(rows), steps), np.uint8)
                for i, row in enumerate(rows):
                    values = X.values[row]
                    part = values[low : low + steps]
                    codes[i, : len(part)] = part
                    known = values[max(low - 1, 0) : low + steps - 1]
                    skipped = 1 if low == 0 else 0
                    index[i, skipped : skipped + len(known)] = known
                yield rows, low, self._conditional(index, steps, X, rows, low, state, p), codes

    def _conditional(self, index: Any, steps: int, X: Any, rows: Any, low: int, state: Any, p: Any) -> Categorical:
        tape = Tape(self._pool, recording=False, n_threads=self.n_threads)
        frames = self._features(X, rows, np.full(len(rows), low), steps)
        out = self._outputs(tape, p, index, steps, frames=frames, state=state)
        tape.pool.give(out.whole)  # valid until the next chunk is asked for
        logits = out.array.reshape(len(rows), -1)
        return Categorical(logits, starts(np.full(steps, self.n_values_)))

    def _conditionals(self, X: Any) -> Categorical:
        if not self._equal(X):
            raise ValueError("conditionals needs sequences of one length")
        rows = ([c.logits.copy() for _, _, c, _ in self._chunks(X[i : i + 1])] for i in range(len(X)))
        logits = np.concatenate([np.concatenate(row, axis=1) for row in rows])
        return Categorical(logits, starts(np.full(int(X.lengths[0]), self.n_values_)))

    # ---- samples

    def _generate(
        self,
        u_of: Any,
        n: int,
        length: int,
        prefix: list[npt.NDArray[np.int32]] | None,
        context: Array | None,
        frames: list[Array] | None,
        temperature: float,
        chunk: int,
    ) -> Iterator[npt.NDArray[np.int32]]:
        rows, p, given = np.arange(n), self._variables(None), 0
        X = Sequences(prefix or [np.zeros(0, np.int32)] * n, context, frames)
        state = [np.zeros((n, h, self.channels), self.dtype) for h in self._history]
        previous = np.full(n, -1, np.int32)
        if prefix is not None and n:
            given = len(prefix[0])
            values = np.stack(prefix).astype(np.int32)
            for low in range(0, given, STEPS_AT_ONCE):
                steps = min(STEPS_AT_ONCE, given - low)
                index = np.concatenate([previous[:, None], values[:, low : low + steps - 1]], axis=1)
                self._conditional(np.ascontiguousarray(index), steps, X, rows, low, state, p)
                previous = np.ascontiguousarray(values[:, low + steps - 1])
                yield values[:, low : low + steps]
        rings = np.concatenate([np.ascontiguousarray(part.swapaxes(0, 1)).reshape(-1) for part in state])
        blocks = [arrays_of(_block(p, l)) for l in range(len(state))]
        for low in range(given, length, chunk):
            steps = min(chunk, length - low)
            tape = Tape(self._pool, recording=False, n_threads=self.n_threads)
            features = self._features(X, rows, np.full(n, low), steps)
            contexts = None
            if features is not None:
                made = [self._frames(tape, p, l, features, 0) for l in range(len(blocks))]
                contexts = [Frames(part[0].array, *part[1:]) for part in made if part is not None]
            drawn = kernels.wavenet_sample(
                blocks, self._dilations, self.parameters_["embedding"],
                (self.parameters_["head"], self.parameters_["head_bias"]),
                (self.parameters_["output"], self.parameters_["output_bias"]),
                u_of(low, steps), rings, n_values=self.n_values_, temperature=temperature, previous=previous,
                taken=low - given, frames=contexts, n_threads=self.n_threads,
            )  # fmt: skip
            previous = np.ascontiguousarray(drawn[:, -1])
            yield drawn

    # ---- files

    def _state(self) -> dict[str, Any]:
        attributes = {name: getattr(self, name) for name in ("n_values_", "n_context_", "n_local_", "length_")}
        return {
            "arrays": {name: np.ascontiguousarray(a) for name, a in self.parameters_.items()},
            "attributes": attributes,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._check_options()
        attributes = state["attributes"]
        for name in ("n_values_", "n_context_", "n_local_"):
            setattr(self, name, check_int(name, attributes[name], 0))
        if not 1 <= self.n_values_ <= 256:
            raise ValueError("n_values is not between 1 and 256")
        self.length_ = None if attributes["length_"] is None else check_int("length_", attributes["length_"], 1)
        self._build()
        for name, array in self.parameters_.items():
            given = state["arrays"][name]
            if given.shape != array.shape or given.dtype != array.dtype:
                raise ValueError(f"{name} is {given.dtype} of shape {given.shape}")
            array[...] = given
        self.n_features_in_ = 1

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pool = Pool()


def _glorot(key: random.Key, row: int, n_in: int, n_out: int) -> npt.NDArray[np.float64]:
    """Weights uniform to +-sqrt(6 / (n_in + n_out)) (Glorot & Bengio 2010)."""
    bound = float(np.sqrt(6.0 / (n_in + n_out)))
    return (random.uniform_rows(key, row, n_in, n_out) * 2 - 1) * bound


def _block(p: dict[str, list[Variable]], l: int) -> tuple[Variable | None, ...]:
    """The parameters of block l; the last one has no residual."""
    return tuple(None if l == len(p[name]) else p[name][l] for name in BLOCK)


def _after(history: Array, h: Variable) -> Variable:
    """The activations with their history in front, in the room that was left for it."""
    h.whole[:, : history.shape[1]] = history
    return Variable(h.whole, whole=h.whole)
