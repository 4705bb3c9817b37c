"""WaveNet: dilated causal convolutions over time (van den Oord et al. 2016)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels, mulaw, ops, random
from chainrule.conditionals.steps import CategoricalSteps, MixtureSteps, WaveSteps
from chainrule.fit import Parameters
from chainrule.kernels.masked import panels_shape
from chainrule.kernels.wavenet import Frames
from chainrule.models.sequence_rows import Array, as_codes32
from chainrule.models.sequences import SequenceModel
from chainrule.ops import Tape, Variable
from chainrule.validation import check_int, check_option

BLOCK = ("filter_gate", "filter_gate_bias", "residual", "residual_bias", "skip", "skip_bias")
FOREVER = 1 << 31  # steps of a frame that lasts for a whole sequence
MOST_VALUES = 256  # of codes: the sampler's, and those of a byte
MOST_LEVELS = 1 << 16


class WaveNet(SequenceModel):
    """``log p(x) = sum_t log p(x_t | x_<t)`` by a stack of gated, dilated causal convolutions.

    With ``h_0[t] = E[x_{t-1}]``, a row of a table or weights times a level, and zeros in every layer before the start::

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
    conditional : {"mu-law", "categorical", "logistic-mixture"}
        "mu-law": audio, int16 or floats in [-1, 1], scored as one of 256 codes (counting measure on the codes).
        "categorical": integers 0 .. n_values - 1, up to 256.
        "logistic-mixture": audio scored as 16-bit levels, by a mixture of logistics (counting measure on the levels);
        with `n_values`, integers 0 .. n_values - 1 on a scale, up to 65536.
    n_values : int, optional
        Of "categorical"; by default one more than the largest in the training sequences. Of the levels of a scale.
    n_components : int
        Of "logistic-mixture".
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

    def __init__(
        self,
        channels: int = 64,
        skip_channels: int = 128,
        dilations: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        n_stacks: int = 2,
        kernel_size: int = 2,
        conditional: str = "mu-law",
        n_values: int | None = None,
        n_components: int = 10,
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
        self.n_components = n_components
        self.crop = crop
        self.hop = hop
        self.memory_budget = memory_budget

    # ---- options and values

    def _check_model(self) -> None:
        for name in ("channels", "skip_channels", "n_stacks", "kernel_size", "crop", "n_components"):
            check_int(name, getattr(self, name), 1)
        if self.kernel_size > kernels.MAX_TAPS:
            raise ValueError(f"kernel_size must be at most {kernels.MAX_TAPS}, not {self.kernel_size}")
        if not hasattr(self.dilations, "__len__"):
            raise ValueError(f"dilations must be a sequence of integers, not {self.dilations!r}")
        if not len(self.dilations):
            raise ValueError("dilations must not be empty")
        for dilation in self.dilations:
            check_int("dilations", dilation, 1)
        if self._reach >= FOREVER:
            raise ValueError(f"dilations must give a receptive field below 2^31 steps, not {list(self.dilations)}")
        check_option("conditional", self.conditional, ("mu-law", "categorical", "logistic-mixture"))
        if self.n_values is not None:
            check_int("n_values", self.n_values, 1)
            if self.conditional != "logistic-mixture":
                _check_alphabet("n_values must say", self.n_values)
            elif self.n_values > MOST_LEVELS:
                raise ValueError(f"n_values must be at most {MOST_LEVELS}, not {self.n_values}")
        if self.hop is not None:
            check_int("hop", self.hop, 1)
        check_int("memory_budget", self.memory_budget, 0)

    def _encode(self, arrays: list[Array], name: str, fitted: bool) -> list[npt.NDArray[np.int32]]:
        if self.conditional == "mu-law":
            return [mulaw.mu_law_encode(array).astype(np.int32) for array in arrays]
        if self._of_sound:
            return [mulaw.as_int16(array, name).astype(np.int32) + 32768 for array in arrays]
        if self.conditional == "logistic-mixture":
            return as_codes32(arrays, self.n_values or MOST_LEVELS, name)
        if fitted and hasattr(self, "n_values_"):
            return as_codes32(arrays, self.n_values_, name)
        known = self.n_values if self.text_ is None else self.text_.n_values
        _check_alphabet(f"{name} must have", known or 1 + max((int(part.max()) for part in arrays), default=0))
        return as_codes32(arrays, self.n_values or MOST_VALUES, name)

    def _decode(self, codes: npt.NDArray[np.int32]) -> Array:
        if self.conditional == "logistic-mixture":
            return (codes - 32768).astype(np.int16) if self._of_sound else codes
        small = codes.astype(np.uint8)
        return mulaw.mu_law_decode(small) if self.conditional == "mu-law" else small

    def _values_in(self, values: list[npt.NDArray[np.int32]]) -> int:
        if self._of_sound:
            return 256 if self.conditional == "mu-law" else MOST_LEVELS
        known = None if self.text_ is None else self.text_.n_values
        return known or self.n_values or 1 + max(int(part.max()) for part in values)

    @property
    def _steps(self) -> WaveSteps:
        if self.conditional == "logistic-mixture":
            return MixtureSteps(self.n_values_, self.n_components)
        return CategoricalSteps(self.n_values_)

    @property
    def _window(self) -> int:
        return self.crop

    @property
    def _most_values(self) -> int:
        return MOST_LEVELS if self.conditional == "logistic-mixture" else MOST_VALUES

    @property
    def _of_sound(self) -> bool:
        return self.conditional == "mu-law" or (self.conditional == "logistic-mixture" and self.n_values is None)

    @property
    def _dilations(self) -> list[int]:
        """Of every block."""
        return [int(d) for d in self.dilations] * self.n_stacks

    @property
    def _history(self) -> list[int]:
        """Steps that every block looks back."""
        return [(self.kernel_size - 1) * d for d in self._dilations]

    @property
    def _reach(self) -> int:
        return int(np.sum(self._history, dtype=object))

    @property
    def receptive_field_(self) -> int:
        """Steps before x_t that its conditional depends on."""
        return self._reach + 1

    # ---- parameters

    def _initialise(self, X: Any, weight: Any) -> None:
        values = np.concatenate(X.values)
        self.n_values_ = self._values_in(X.values)
        self.n_context_ = 0 if X.context is None else X.context.shape[1]
        self.n_local_ = 0 if X.frames is None else X.frames[0].shape[1]
        self._build()
        C, S, K = self.channels, self.skip_channels, self.kernel_size
        p, key, row = self.parameters_, random.key_of(self.random_state, random.WEIGHTS), 0

        def drawn(n_in: int, n_out: int, bound: float | None = None) -> Array:
            """Weights uniform to +-sqrt(6 / (n_in + n_out)) (Glorot & Bengio 2010)."""
            nonlocal row
            row += n_in
            u = random.uniform_rows(key, row - n_in, n_in, n_out)
            return (2 * u - 1) * (float(np.sqrt(6.0 / (n_in + n_out))) if bound is None else bound)

        p["input"][...] = kernels.to_panels(drawn(*self._input_shape, bound=1.0))
        for l in range(len(self._dilations)):
            p["filter_gate"][l] = kernels.gate_panels(drawn(K * C, 2 * C).reshape(K, C, 2 * C))
            p["skip"][l] = kernels.to_panels(drawn(C, S))
            if l < len(p["residual"]):
                p["residual"][l] = kernels.to_panels(drawn(C, C))
        p["head"][...] = kernels.to_panels(drawn(S, S))
        p["output"][...] = kernels.to_panels(0.1 * drawn(S, self._steps.n_parameters))
        p["output_bias"][...] = self._steps.initial(values)

    @property
    def _input_shape(self) -> tuple[int, int]:
        """A row of the embedding for every code, or one for a level."""
        return 1 if self._steps.n_components else self.n_values_, self.channels

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Matrices are in panels of 32 outputs, those of blocks one after the other."""
        C, S, K, L = self.channels, self.skip_channels, self.kernel_size, len(self._dilations)
        P, gates, n_features = self._steps.n_parameters, 32 * -(-C // 16), self.n_context_ + self.n_local_
        shapes: dict[str, tuple[int, ...]] = {
            "input": panels_shape(*self._input_shape),
            "filter_gate": (L, *panels_shape(K * C, gates)),
            "filter_gate_bias": (L, gates),
            "residual": (L - 1, *panels_shape(C, C)),
            "residual_bias": (L - 1, C),
            "skip": (L, *panels_shape(C, S)),
            "skip_bias": (L, S),
            "head": panels_shape(S, S),
            "head_bias": (S,),
            "output": panels_shape(S, P),
            "output_bias": (P,),
        }
        if self._steps.n_components:
            shapes["input_bias"] = (C,)
        if n_features:
            shapes["context"] = (L, *panels_shape(n_features, gates))
        return shapes

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
        codes: npt.NDArray[np.int32],
        n_steps: int,
        *,
        before: npt.NDArray[np.int64] | None = None,
        frames: tuple[Array, int] | None = None,
        state: list[Array] | None = None,
        update: int | None = None,
    ) -> Variable:
        steps, dilations, history, last = self._steps, self._dilations, self._history, len(self._dilations) - 1
        room = history if state is not None else [0] * len(history)  # for each block's past, in front of its input
        if steps.n_components:
            h = ops.levels(tape, steps.inputs(codes), p["input"][0], p["input_bias"][0], self.channels, room=room[0])
        else:
            h = ops.embedding(tape, codes, p["input"][0], self.channels, room=room[0])
        skip, looked = None, 0
        for l, dilation in enumerate(dilations):
            if state is not None:
                h = _after(state[l], h)
            else:
                looked += history[l]
            context = self._frames(tape, p, l, frames, looked)
            following, skip = ops.gated_block(
                tape,
                h,
                skip,
                _block(p, l),
                dilation=dilation,
                n_skip_steps=n_steps,
                start=None if before is None else np.maximum(before - looked, 0).astype(np.uint32),
                frames=context,
                room=0 if l == last else room[l + 1],
            )
            if state is not None:
                state[l][...] = h.array[:, h.array.shape[1] - history[l] :]
            if not tape.recording:
                tape.release(h)
                if context is not None:
                    tape.release(context[0])
            h = following
        assert skip is not None
        skip = ops.relu(tape, skip)
        hidden = ops.linear(tape, skip, p["head"][0], p["head_bias"][0], self.skip_channels, "relu", after="relu")
        out = ops.linear(tape, hidden, p["output"][0], p["output_bias"][0], steps.n_parameters, after="relu")
        if not tape.recording:
            tape.release(skip)
            tape.release(hidden)
        return out

    def _frames(
        self, tape: Tape, p: dict[str, list[Variable]], l: int, frames: tuple[Array, int] | None, looked: int
    ) -> tuple[Variable, int, int] | None:
        """``V_l c`` of every frame, the steps of a frame, and the place of the block's first step in the first one."""
        if frames is None:
            return None
        features, at = frames
        hop = self.hop if self.n_local_ and self.hop else FOREVER
        first = (at + looked) // hop
        gates = self.parameters_["filter_gate_bias"].shape[1]
        made = ops.linear(tape, Variable(features[:, first:]), p["context"][l], None, gates, back=False)
        return made, hop, (at + looked) - first * hop

    # ---- samples

    def _new_state(self, n: int, length: int) -> _Rings:
        return _Rings(n, self._history, self.channels, self.dtype)

    def _generate(
        self,
        u_of: Any,
        previous: npt.NDArray[np.int32],
        state: _Rings,
        features_of: Any,
        low: int,
        high: int,
        chunk: int,
        temperature: float,
    ) -> Iterator[npt.NDArray[np.int32]]:
        p, array = self._variables(None), self.parameters_
        blocks = [ops.arrays_of(_block(p, l)) for l in range(len(state))]
        for step in range(low, high, chunk):
            steps, tape = min(chunk, high - step), Tape(self._pool, recording=False, n_threads=self.n_threads)
            features = features_of(step, steps)
            made = [part for l in range(len(blocks)) if (part := self._frames(tape, p, l, features, 0)) is not None]
            frames = [Frames(part[0].array, *part[1:]) for part in made] or None
            previous = kernels.wavenet_sample(
                blocks,
                self._dilations,
                array["input"],
                (array["head"], array["head_bias"]),
                (array["output"], array["output_bias"]),
                u_of(step, steps),
                state.memory,
                n_values=self.n_values_,
                n_components=self._steps.n_components,
                input_bias=array.get("input_bias"),
                temperature=temperature,
                previous=np.ascontiguousarray(previous if previous.ndim == 1 else previous[:, -1]),
                taken=step - low,
                frames=frames,
                n_threads=self.n_threads,
            )
            for part in made:
                tape.release(part[0])
            yield previous


def _check_alphabet(what: str, n_values: int) -> None:
    if n_values > MOST_VALUES:
        raise ValueError(f"{what} at most {MOST_VALUES} values in a WaveNet, not {n_values}: a Transformer takes more")


class _Rings(list[Array]):
    """The last inputs of every block, (rows, steps, channels), zeros at first, in one `memory` as sampling has them."""

    def __init__(self, n: int, history: list[int], channels: int, dtype: Any) -> None:
        *starts, whole = itertools.accumulate(history, initial=0)
        steps = np.zeros((whole, n, channels), dtype)
        self.memory = steps.reshape(-1)
        super().__init__(steps[at : at + h].swapaxes(0, 1) for at, h in zip(starts, history, strict=True))


def _block(p: dict[str, list[Variable]], l: int) -> tuple[Variable | None, ...]:
    """The parameters of block l; the last one has no residual."""
    return tuple(None if l == len(p[name]) else p[name][l] for name in BLOCK)


def _after(history: Array, h: Variable) -> Variable:
    """The activations with their history in front, in the room that was left for it."""
    h.whole[:, : history.shape[1]] = history
    return Variable(h.whole, whole=h.whole)
