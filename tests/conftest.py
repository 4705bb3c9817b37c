"""Fixtures that every test file may use."""

import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from building import digest_program, installed, wheel_build, workshop  # noqa: F401  (fixtures)

pytest.register_assert_rewrite("checking", "masked_problems")
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


def command_and_environment(code, arguments, environment):
    paths = os.pathsep.join(path for path in sys.path if path)
    return [sys.executable, "-c", code, *map(str, arguments)], {**os.environ, "PYTHONPATH": paths, **environment}


@pytest.fixture(scope="session")
def run_python():
    """run_python(code, *arguments, timeout=, **environment): what a fresh interpreter prints; it must end well."""

    def run(code, *arguments, timeout=60, **environment):
        command, environment = command_and_environment(code, arguments, environment)
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
        assert process.returncode == 0, f"exit status {process.returncode}\n{process.stdout}\n{process.stderr}"
        return process.stdout

    return run


@pytest.fixture(scope="session")
def python_process():
    """python_process(code, *arguments): a fresh interpreter to talk with, killed at the end of the block."""

    @contextlib.contextmanager
    def start(code, *arguments, **environment):
        command, environment = command_and_environment(code, arguments, environment)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    return start


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """command("score", ...) -> (exit code, stdout, stderr), in a folder of its own, the logger left as it was."""
    from chainrule import cli

    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("chainrule")
    level = logger.level

    def run(*arguments):
        try:
            code = cli.main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    logger.setLevel(level)
