"""WaveNets to train, score and sample with: mu-law codes of spoken digits, random weights of a fitted model's size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from bench import floors, problems
from bench.problems import Array
from bench.settings import SMOKE

VALUES = 256
STACK = (1, 2, 4) if SMOKE else tuple(2**i for i in range(10))
RATE = 16_000  # samples a second of speech as WaveNet's authors had it


@dataclass(frozen=True, eq=False)
class Problem:
    """Codes (T,), and parameters as `tests/reference/wavenet.py` names them; taps are 2, the value 0 has logit 0."""

    x: Array
    parameters: dict[str, Any]
    dilations: tuple[int, ...]

    @property
    def channels(self) -> int:
        return int(self.parameters["embedding"].shape[1])

    @property
    def skip_channels(self) -> int:
        return len(self.parameters["head1"])

    @property
    def dtype(self) -> str:
        return str(self.parameters["embedding"].dtype)

    @property
    def size(self) -> str:
        return f"C = {self.channels}, S = {self.skip_channels}, {len(self.dilations)} layers"

    def astype(self, dtype: str) -> Problem:
        cast = {k: [w.astype(dtype) for w in v] if isinstance(v, list) else v.astype(dtype) for k, v in self.items()}
        return replace(self, parameters=cast)

    def items(self) -> Any:
        return self.parameters.items()

    @property
    def multiply_adds(self) -> int:
        """Of one time: filter and gate, residual (not in the last layer), skip, head. The embedding is looked up."""
        C, S, L = self.channels, self.skip_channels, len(self.dilations)
        return L * (4 * C * C + C * C + C * S) - C * C + S * S + S * VALUES

    @property
    def functions(self) -> int:
        """A tanh and a sigmoid for every channel and layer, an exponential for every value: of one time."""
        return 2 * self.channels * len(self.dilations) + VALUES

    @property
    def bytes_a_step(self) -> int:
        """Weights and biases that one generated time reads; of the embedding one row."""
        arrays = [a for k, v in self.items() if k != "embedding" for a in (v if isinstance(v, list) else [v])]
        return sum(a.nbytes for a in arrays)

    def _arithmetic(self, times: int, passes: int = 1) -> float:
        fmas = passes * times * self.multiply_adds / floors.fma_rate(self.dtype)
        return fmas + times * self.functions / floors.function_rate("sigmoid", self.dtype)

    def floor(self, *, step: bool = False) -> float:
        """Seconds to score the codes; a step of training: three times the multiply-adds, functions once, and Adam."""
        if not step:
            return self._arithmetic(len(self.x))
        arrays = [a for _, v in self.items() for a in (v if isinstance(v, list) else [v])]
        return self._arithmetic(len(self.x), 3) + floors.adam(sum(a.size for a in arrays))

    def generation_floor(self, streams: int, length: int) -> float:
        """Seconds: for every time the longer of its arithmetic and of reading all weights once."""
        reading = self.bytes_a_step / floors.read_bandwidth(self.bytes_a_step)
        return length * max(self._arithmetic(streams), reading)


def mu_law(x: Array) -> Array:
    """Codes of int16 samples: 256 levels, finer near silence."""
    x = x / 32768.0
    companded = np.sign(x) * np.log1p(255 * abs(x)) / np.log(256)
    return np.asarray(np.floor((companded + 1) / 2 * 255 + 0.5), np.uint8)


@cache
def problem(times: int, channels: int = 64, skip_channels: int = 128, stacks: int = 2, depth: int = 0) -> Problem:
    """`stacks` times the dilations 1 to 512 (or as many layers as `depth`, in stacks); the training recordings."""
    if SMOKE:
        times, channels, skip_channels = min(times, 40), 8, 16
    dilations = (STACK * max(stacks, -(-depth // len(STACK))))[: depth or None]
    C, S, L = channels, skip_channels, len(dilations)
    rng = np.random.default_rng(1)

    def normal(*shape: int, fan_in: float = 400) -> Array:
        return rng.normal(0, fan_in**-0.5, shape).astype(np.float32)

    p: dict[str, Any] = {
        "embedding": normal(VALUES, C, fan_in=9),
        "filter_gate": [normal(2, C, 2 * C, fan_in=2 * C) for _ in range(L)],
        "filter_gate_bias": [normal(2 * C) for _ in range(L)],
        "residual": [normal(C, C, fan_in=4 * C) for _ in range(L - 1)],
        "residual_bias": [normal(C) for _ in range(L - 1)],
        "skip": [normal(C, S, fan_in=4 * C) for _ in range(L)],
        "skip_bias": [normal(S) for _ in range(L)],
        "head1": normal(S, S, fan_in=S),
        "head1_bias": normal(S),
        "head2": normal(S, VALUES, fan_in=S),
        "head2_bias": normal(VALUES),
    }
    p["head2"][:, 0] = p["head2_bias"][0] = 0
    return Problem(mu_law(problems.load("spoken_digits_8k")[0][:times]), p, dilations)
