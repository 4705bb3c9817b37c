"""``python -m bench``: run every benchmark at one and two threads, write docs/benchmarks.md, its pictures and
README.md's table, print it.

A thread count is a process of its own (`threads.py`). ``python -m bench EXPRESSION`` runs those that pytest's ``-k``
picks; then, and with CHAINRULE_BENCH_SMOKE=1 (tiny sizes, one round), the page goes to a temporary folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bench.settings import ROOT, SMOKE
from bench.threads import allowed

NOTHING = "ignore:Not saving anything"  # a warning, which would be an error, where an expression picks nothing
OPTIONS = ["--benchmark-enable", "--benchmark-quiet", "--benchmark-disable-gc", "-W", NOTHING]


def run(threads: int, folder: Path, expression: str) -> dict[str, Any] | None:
    """pytest-benchmark's report of one process, None where there is nothing to run. Pictures, and Transformers, which
    take long, have the largest count.
    """
    path = folder / f"{threads}.json"
    command = [sys.executable, "-m", "pytest", "bench", "-q", "-k", expression, *OPTIONS, f"--benchmark-json={path}"]
    environment = os.environ | {"CHAINRULE_BENCH_THREADS": str(threads)}
    if threads == 1 and len(allowed()) > 1:
        command += ["--ignore=bench/test_cost.py", "--ignore=bench/test_transformer.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    if expression and done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        return None
    done.check_returncode()
    return dict(json.loads(path.read_text()))


def main(expression: str = "") -> None:
    """Run, write, print."""
    from bench import pictures, report

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with tempfile.TemporaryDirectory(prefix="chainrule-bench-") as name:
        runs = {count: run(count, Path(name), expression) for count in (2, 1) if count <= len(allowed())}
    results = {count: result for count, result in runs.items() if result is not None}
    if not results:
        raise SystemExit(f"no benchmark is named {expression!r}")
    docs = Path(tempfile.mkdtemp(prefix="chainrule-bench-")) if SMOKE or expression else ROOT / "docs"
    benchmarks = [one for result in results.values() for one in result["benchmarks"]]
    measured = {one["group"] for one in benchmarks}
    slopes = {
        name: pictures.picture(benchmarks, name, docs / "img" / f"{name}.png")
        for name in pictures.PICTURES
        if name in measured
    }
    rates = {count: result["machine_info"]["rates"] for count, result in results.items()}
    page = report.document(benchmarks, rates, slopes, load)
    (docs / "benchmarks.md").write_text(page, encoding="utf-8")
    if docs == ROOT / "docs":
        readme, lines = ROOT / "README.md", list(report.summary(benchmarks, max(results)))
        readme.write_text(report.with_table(readme.read_text(encoding="utf-8"), lines), encoding="utf-8")
    sys.stdout.write(f"{page}\nwritten to {docs / 'benchmarks.md'}\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"the benchmarks failed (exit status {error.returncode}); no page was written") from None
