"""How many cores a run has, the same for every library: decided here, before any of them is imported.

The process is pinned to that many CPUs, so that a library which ignores its own setting (XLA sizes its pool once, by
the affinity it finds) cannot use more; the settings keep them from starting more threads than cores.
"""

from __future__ import annotations

import os


def allowed() -> list[int]:
    """The CPUs this process may run on; their count alone where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


COUNT = int(os.environ.get("CHAINRULE_BENCH_THREADS") or len(allowed()))


def limit() -> None:
    """Keep this process, and the libraries it will import, to COUNT cores."""
    cpus = allowed()
    if len(cpus) < COUNT:
        raise ValueError(f"CHAINRULE_BENCH_THREADS is {COUNT}, but this process may use {len(cpus)} CPUs")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus[:COUNT])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(COUNT)
    os.environ["JAX_PLATFORMS"] = "cpu"
    flag = f"--xla_cpu_multi_thread_eigen={'true' if COUNT > 1 else 'false'}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
