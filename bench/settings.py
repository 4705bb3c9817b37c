"""Settings of a run, from the environment."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("CHAINRULE_DATA") or ROOT.parent / "shared" / "data")
SMOKE = os.environ.get("CHAINRULE_BENCH_SMOKE") == "1"  # tiny sizes, one round: does it run?
TURNS = 1 if SMOKE else 3  # ours, PyTorch, JAX, ours, ...: each job's sides take turns
