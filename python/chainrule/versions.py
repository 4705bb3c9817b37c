"""What runs here: versions, instruction set, threads."""

from __future__ import annotations

import os
import platform
import sys

import numpy as np

from chainrule import _kernels
from chainrule.validation import check_int


def get_num_threads() -> int:
    """Threads a kernel uses by default: `set_num_threads`, else ``OMP_NUM_THREADS``, else the physical cores that
    affinity and the container's quota leave to this process; threadpoolctl's limits are obeyed.
    """
    return _kernels.get_num_threads()


def set_num_threads(n: int | None) -> None:
    """Use `n` threads by default from now on, in the whole process; None gives the automatic choice back."""
    _kernels.set_num_threads(0 if n is None else check_int("n", n, 1))


def show_versions() -> dict[str, str]:
    """Print, and return, what a bug report needs. ``CHAINRULE_ISA`` forces the instruction set before import."""
    import safetensors

    versions = {
        "chainrule": _kernels.version,
        "instruction set": _kernels.isa + (" (forced)" if os.environ.get("CHAINRULE_ISA") else ""),
        "threads": f"{get_num_threads()} of {os.cpu_count()} CPUs",
        "compiler": _kernels.compiler,
        "C ABI": str(_kernels.abi_version),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
        "platform": platform.platform(),
    }
    sys.stdout.writelines(f"{name:>15}: {value}\n" for name, value in versions.items())
    return versions
