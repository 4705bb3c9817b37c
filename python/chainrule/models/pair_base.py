"""What models of a sequence y given a sequence x share: what a network gives them, and the pairs they take."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.kernels.transformer import Cache, TransformerNetwork
from chainrule.models.blocks import Dropout
from chainrule.models.generation import Memory
from chainrule.models.pairs import Pairs, Side
from chainrule.models.taped import TapedModel
from chainrule.ops import Pool, Tape, Variable
from chainrule.validation import not_empty

Codes = npt.NDArray[np.int32]
Named = dict[str, list[Variable]]
Seen = tuple[list[Variable], npt.NDArray[np.uint32]]  # what the decoder's blocks see of x, and its length by row


class PairBase(TapedModel):
    """What a model of y given x implements, and what it takes."""

    source_: Side
    target_: Side

    @property
    def _end(self) -> int:
        """The code of the step after the last token."""
        return self.target_.n_values

    def _memory(self, source: list[Codes]) -> Memory:
        """What `kernels.transformer_step` looks at, of these x."""
        tape = Tape(Pool(), recording=False, n_threads=self.n_threads)
        return self._caches_of(self._looked_at(tape, self._variables(None), source, Dropout(tape)))

    # ---- what a model implements

    def _looked_at(self, tape: Tape, p: Named, source: list[Codes], drop: Dropout) -> Seen:
        """What the decoder's blocks see of these x, and their lengths."""
        raise NotImplementedError

    def _logits(self, tape: Tape, p: Named, inputs: Codes, seen: Seen, drop: Dropout) -> Variable:
        """Of every step of y after these inputs, (rows, steps, V), the end the last of V."""
        raise NotImplementedError

    def _caches_of(self, seen: Seen) -> Memory:
        """The same as `_looked_at` gave, for `kernels.transformer_step`."""
        raise NotImplementedError

    def _network(self) -> TransformerNetwork:
        """The decoder, for `kernels.transformer_step`."""
        raise NotImplementedError

    def _new_state(self, n_rows: int) -> list[Cache]:
        """Empty caches of the decoder."""
        raise NotImplementedError

    # ---- intake

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _pairs(self, X: Any, y: Any, name: str = "", sides: tuple[Side, Side] | None = None) -> Pairs:
        """What a fitted model knows, or what `sides` allow; name: behind "X" and "y"."""
        if y is None:
            raise ValueError(f"y{name} is missing: an {type(self).__name__} is of y given X")
        if sides is None:
            self._check_fitted()
            sides = self.source_, self.target_
        source, target = sides[0].codes(X, "X" + name), sides[1].codes(y, "y" + name)
        if len(source) != len(target):
            raise ValueError(f"y{name} must have {len(source)} sequences, as X{name}, not {len(target)}")
        return Pairs(source, target, sides)

    def _training_input(self, X: Any, X_val: Any) -> tuple[Any, Any]:
        not_empty(X)
        if X_val is not None:
            not_empty(X_val, "X_val")
        return X, X_val

    def _input(self, X: Any, name: str = "X", n_features: int | None = None) -> Any:
        return X  # pairs, which are checked
