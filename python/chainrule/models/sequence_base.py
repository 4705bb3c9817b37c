"""What models of sequences share: between a user's sequences of any lengths, and codes with what they depend on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import text
from chainrule.conditionals.steps import Steps
from chainrule.models.frames import as_frames, features_of_steps
from chainrule.models.sequence_rows import Array, Sequences, as_codes32, as_sequences
from chainrule.models.taped import TapedModel
from chainrule.ops import Tape, Variable
from chainrule.validation import check_int, not_empty

Codes = npt.NDArray[np.int32]


class SequenceBase(TapedModel):
    """What a model of sequences implements, what it takes and gives back, and its file."""

    conditional: str
    hop: int | None = None
    memory_budget: int = 0
    n_values_: int
    n_context_: int
    n_local_: int
    length_: int | None  # of every training sequence, when they are as long as each other
    text_: text.Text | None = None  # how the text of the training sequences became codes
    _takes_context = True
    _learned: tuple[str, ...] = ("n_values_", "n_context_", "n_local_", "length_", "history_", "stopped_")

    # ---- what a model implements

    def _encode(self, arrays: list[Array], name: str, fitted: bool) -> list[Codes]:
        raise NotImplementedError

    def _decode(self, codes: Codes) -> Array:
        raise NotImplementedError

    def _values_in(self, values: list[Codes]) -> int:
        """`n_values_` of a model that is fitted to these."""
        raise NotImplementedError

    @property
    def _steps(self) -> Steps:
        raise NotImplementedError

    @property
    def _window(self) -> int:
        """Steps of a training window."""
        raise NotImplementedError

    @property
    def _most_values(self) -> int:
        """That codes may have."""
        raise NotImplementedError

    @property
    def _reach(self) -> int:
        """Steps before the one before x_t that its conditional depends on."""
        return 0

    def _outputs(
        self,
        tape: Tape,
        p: dict[str, list[Variable]],
        codes: Codes,
        n_steps: int,
        *,
        before: npt.NDArray[np.int64] | None = None,
        frames: tuple[Array, int] | None = None,
        state: list[Array] | None = None,
        update: int | None = None,
    ) -> Variable:
        """Parameters of the conditionals of the last `n_steps` steps, (rows, n_steps, P).

        codes: the values before each step, -1 for none. Without a `state` they begin `_reach` steps earlier, and
        `before` says how many of those steps are before the start of each row. A state is what `_new_state` made, and
        is left as the next chunk needs it. frames: features (rows, frames, features), and the first step's place in
        frame 0. update: of the training, for what it draws; None for the gradient of the likelihood itself.
        """
        raise NotImplementedError

    def _new_state(self, n: int, length: int) -> Any:
        """What steps leave for the next ones, of `n` sequences of at most `length` steps that have not begun."""
        raise NotImplementedError

    def _generate(
        self,
        u_of: Any,
        previous: Codes,
        state: Any,
        features_of: Any,
        low: int,
        high: int,
        chunk: int,
        temperature: float,
    ) -> Iterator[Codes]:
        """Steps [low, high) in chunks, after `previous` and a state: ``u_of(step, n)``, ``features_of(step, n)``."""
        raise NotImplementedError

    # ---- intake

    def _input(self, X: Any, name: str = "X", n_features: int | None = None) -> Any:
        if isinstance(X, Sequences):
            return X
        arrays = as_sequences(text.encoded(X, self.text_, name) if text.is_text(X) else X, name)
        return Sequences(self._encode(arrays, name, n_features is not None))

    def _training_input(self, X: Any, X_val: Any) -> tuple[Any, Any]:
        goes_on = hasattr(self, "n_features_in_")
        if not goes_on:
            if self.text_ is None:
                self.text_ = text.text_of(X)
            if self.text_ is not None and self.conditional != "categorical":
                raise ValueError(f"text needs conditional='categorical', not {self.conditional!r}")
        rows = self._input(X, "X", 1 if goes_on else None)
        held_out = None if X_val is None else self._input(X_val, "X_val", 1)
        not_empty(rows)
        if self.text_ is not None:
            as_codes32(rows.values, self.text_.n_values, "X")
        if held_out is not None:
            not_empty(held_out, "X_val")
            as_codes32(held_out.values, self.n_values_ if goes_on else self._values_in(rows.values), "X_val")
        return rows, held_out

    @staticmethod
    def _with_context(rows: Any, context: Array | None) -> Any:
        return rows if context is None else Sequences(rows.values, context, rows.frames)

    def _remember(self, X: Any, rows: Any) -> None:
        self.n_features_in_ = 1
        lengths = rows.lengths
        self.length_ = int(lengths[0]) if (lengths == lengths[0]).all() else None

    def _known_input(self, X: Any, context: Any = None) -> Any:
        rows = super()._known_input(X, context)
        if getattr(self, "n_local_", 0) and rows.frames is None:
            raise ValueError(f"this {type(self).__name__} was fitted with a local context: local_context= is missing")
        return rows

    def _with_frames(self, X: Any, local_context: Any, name: str, fitted: bool = True) -> Any:
        """Sequences with frames of features, `hop` steps a frame."""
        known = getattr(self, "n_local_", 0) if fitted else None
        if local_context is not None and not self._takes_context:
            raise ValueError(f"{type(self).__name__} takes no context")
        if local_context is None:
            if known:
                raise ValueError(
                    f"this {type(self).__name__} was fitted with a local context: local_context= is missing"
                )
            return X
        if self.hop is None:
            raise ValueError("local_context needs hop, the steps of a frame")
        rows = self._input(X, name, 1 if fitted else None)
        frames = as_frames(local_context, rows.values, self.hop, known, self.dtype)
        return Sequences(rows.values, rows.context, frames)

    def _features(
        self, X: Sequences, rows: Any, first: npt.NDArray[np.int64], n_steps: int
    ) -> tuple[Array, int] | None:
        """Frames of the steps from `first` on of each row: local features beside the row's context."""
        if X.frames is None:
            return None if X.context is None else (X.context[rows].astype(self.dtype)[:, None], 0)
        assert self.hop is not None
        return features_of_steps(X, rows, first, n_steps, self.hop, self.n_local_, self.dtype)

    @property
    def _of_sound(self) -> bool:
        """Values are samples of sound, not codes."""
        return self.conditional == "mu-law"

    def _given_back(self, codes: Codes) -> Any:
        """As the user's data are: text for a model of text."""
        known = self.text_
        return self._decode(codes) if known is None else [known.decode(row) for row in codes]

    # ---- files

    def _state(self) -> dict[str, Any]:
        attributes = {name: getattr(self, name) for name in self._learned}
        if self.text_ is not None:
            attributes["text_"] = text.said(self.text_)
        return self._saved(attributes)

    def _restore(self, state: dict[str, Any]) -> None:
        self._check_options()
        attributes = state["attributes"]
        for name in ("n_values_", "n_context_", "n_local_"):
            setattr(self, name, check_int(name, attributes[name], 0))
        if not 1 <= self.n_values_ <= self._most_values:
            raise ValueError("n_values is not what the conditional can have")
        self.text_ = self._of_text(text.read(attributes.get("text_")))
        self.length_ = None if attributes["length_"] is None else check_int("length_", attributes["length_"], 1)
        self.history_, self.stopped_ = attributes["history_"], attributes["stopped_"]
        self._take_parameters(state["arrays"])

    def _of_text(self, known: text.Text | None) -> text.Text | None:
        """How text becomes codes, checked: every value is a symbol; of tokens there may be fewer."""
        if known is not None:
            fewer = known.n_values < self.n_values_ and not isinstance(known, text.Subwords)
            if fewer or known.n_values > self.n_values_:
                raise ValueError(f"text has {known.n_values} symbols, and the model {self.n_values_} values")
        return known
