"""Fixtures that every test file may use."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from building import digest_program, installed, wheel_build, workshop  # noqa: F401  (fixtures)

DATA = Path(os.environ.get("CHAINRULE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def pytest_configure(config):
    config.addinivalue_line("markers", "wheel: builds or installs the package; skipped where a wheel is being tested")


@pytest.fixture(scope="session")
def data():
    """data("mnist_binary") is the dictionary of that file's arrays; without the file the test is skipped."""
    loaded = {}

    def load(name):
        if name not in loaded:
            path = DATA / f"{name}.npz"
            if not path.exists():
                pytest.skip(f"{path} is not there (CHAINRULE_DATA names the folder of the data sets)")
            with np.load(path, allow_pickle=False) as arrays:
                loaded[name] = {key: arrays[key] for key in arrays.files}
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def run_python():
    """run_python(code, *arguments, timeout=, **environment): what a fresh interpreter prints; a crash or a hang fails the test."""

    def run(code, *arguments, timeout=60, **environment):
        paths = [p for p in sys.path if p]
        process = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert process.returncode == 0, f"exit status {process.returncode}\n{process.stdout}\n{process.stderr}"
        return process.stdout

    return run
