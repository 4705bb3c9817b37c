"""Exact-likelihood autoregressive models on the CPU.

Models (`NADE`, `Tabular`, `IndependentBernoulli`) have scikit-learn's habits: `fit`, `score_samples` (nats), `score`,
`sample`, `save`; `load` reads them back; `verify` checks the laws of a density on a fitted model. `chainrule.kernels`
holds the kernels as functions on arrays.
"""

from __future__ import annotations

from chainrule import _idle, _kernels, kernels  # noqa: F401  (_idle comes first)
from chainrule.io import load
from chainrule.models import (
    FVSBN,
    MADE,
    MASDE,
    NADE,
    EncoderDecoder,
    IndependentBernoulli,
    MLPConditionals,
    Tabular,
    Transformer,
    WaveNet,
)
from chainrule.models.base import NotFittedError
from chainrule.paths import get_cmake_dir, get_include
from chainrule.verify import verify
from chainrule.versions import get_num_threads, set_num_threads, show_versions

__version__: str = _kernels.version

__all__ = [
    "FVSBN",
    "MADE",
    "MASDE",
    "NADE",
    "EncoderDecoder",
    "IndependentBernoulli",
    "MLPConditionals",
    "NotFittedError",
    "Tabular",
    "Transformer",
    "WaveNet",
    "__version__",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "kernels",
    "load",
    "set_num_threads",
    "show_versions",
    "verify",
]
