"""What models share whose network is written on a tape: one buffer of parameters, a pool of arrays, their files."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrule import random
from chainrule.fit import Parameters
from chainrule.models.sequence_rows import Array
from chainrule.models.trained import TrainedModel
from chainrule.ops import Pool, Variable


class TapedModel(TrainedModel):
    """A trained model with a network of `ops`; a model file implements `_shapes` and `_variables`."""

    parameters_: Parameters
    _pool: Pool
    _seed: int  # of what a training step draws

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the parameters, once what decides them is known."""
        raise NotImplementedError

    def _variables(self, gradient: Parameters | None) -> dict[str, list[Variable]]:
        raise NotImplementedError

    def _build(self) -> None:
        """An empty parameter buffer."""
        self.parameters_ = Parameters(self._shapes(), self.dtype)
        self._pool = Pool()

    def _take_seed(self, purpose: int) -> None:
        """`random_state` where it is an int, else a number that is drawn from it."""
        known = isinstance(self.random_state, int | np.integer)
        self._seed = int(self.random_state) if known else random.key_of(self.random_state, purpose)[0]

    def _saved(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """A file's state: the parameters and these."""
        arrays = {name: np.ascontiguousarray(array) for name, array in self.parameters_.items()}
        return {"arrays": arrays, "attributes": attributes}

    def _take_parameters(self, arrays: dict[str, Array]) -> None:
        """Those of a file, checked."""
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
