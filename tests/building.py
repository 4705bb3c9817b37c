"""Builds that several test files share: the wheel, an environment it is installed in, the digest program.

One CMake build per session makes them all, so that the digests are those of the very objects inside the wheel.
CHAINRULE_TEST_BUILD names a folder that is kept, and built incrementally, from session to session.
"""

import importlib.util
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1]
LEVELS = {"x86_64": ("avx2", "avx512"), "AMD64": ("avx2", "avx512")}.get(platform.machine(), ("neon",))
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # tools of the test extra first
# Names that would lead a new environment back to this one, or change what it measures.
INHERITED = ("PYTHONPATH", "PYTHONHOME", "CHAINRULE_ISA", "OMP_NUM_THREADS", "COVERAGE_PROCESS_START")


def run(*command, timeout=600, check=True, **options):
    """The finished process, output as text; a failure shows the end of what it printed."""
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    environment |= {"PATH": PATH, "CMAKE_GENERATOR": "Ninja"} | options.pop("env", {})
    command = [str(word) for word in command]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, **options)
    if check and process.returncode:
        said = (process.stdout + process.stderr)[-8000:]
        pytest.fail(f"{' '.join(command)}\nreturned {process.returncode}:\n{said}", pytrace=False)
    return process


def run_here(*arguments, emulator=(), **options):
    """This interpreter, which finds what this process finds."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return run(*emulator, sys.executable, *arguments, env={"PYTHONPATH": paths} | options.pop("env", {}), **options)


# Prints one digest of a sample, its scores and their gradient: what every copy of the package must agree on.
SCORE = """
import hashlib
import numpy as np
from chainrule import kernels

u = np.asarray(kernels.uniforms((1, 2), 0, 5000))
W, V, b, c = (np.float32(4 * u[k : k + n].reshape(shape) - 2) for k, n, shape in
              [(0, 900, (30, 30)), (1000, 900, (30, 30)), (2000, 30, 30), (3000, 30, 30)])
x = kernels.nade_sample(u[4000:4990].reshape(33, 30), W, V, b, c)
log_prob, gradient = kernels.nade_gradient(x, W, V, b, c)
assert (log_prob == kernels.nade_score(x, W, V, b, c)).all()
print(hashlib.sha256(b"".join(map(np.ndarray.tobytes, (x, log_prob, *gradient)))).hexdigest())
"""


@dataclass
class Build:
    """A wheel and the CMake build folder it came from."""

    wheel: Path
    folder: Path


@dataclass
class Environment:
    """A virtual environment with a chainrule of its own and this one's other packages."""

    folder: Path

    @property
    def python(self):
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def run(self, *arguments, **options):
        return run(self.python, *arguments, **options)


def make_environment(folder, wheel):
    run(sys.executable, "-m", "venv", "--clear", folder)
    environment = Environment(folder)
    environment.run("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", wheel)
    # What the wheel needs, and what its consumers build with, is read from here: tests use no network.
    places = []
    for name in ("numpy", "safetensors", "Cython", "scikit_build_core", "packaging", "pathspec", "cmake", "ninja"):
        if spec := importlib.util.find_spec(name):
            places.append(str(Path(spec.origin).parents[1]))
    site = environment.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip()
    (Path(site) / "parent.pth").write_text("\n".join(dict.fromkeys(places)) + "\n")
    return environment


@pytest.fixture(scope="session")
def workshop(tmp_path_factory):
    """Folder for this session's builds."""
    if not (SOURCE / "CMakeLists.txt").exists():
        pytest.skip("the sources are not here: an installed package is being tested")
    kept = os.environ.get("CHAINRULE_TEST_BUILD")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("build")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def wheel_build(workshop):
    """The wheel of these sources, built as pip builds it, plus the digest program."""
    requirements_here = all(importlib.util.find_spec(name) for name in ("scikit_build_core", "pybind11", "Cython"))
    wheels = workshop / "wheels"
    for old in wheels.glob("*.whl"):
        old.unlink()
    run(
        *(sys.executable, "-m", "pip", "wheel", SOURCE, "--no-deps", "--wheel-dir", wheels),
        *(["--no-build-isolation"] if requirements_here else []),
        f"--config-settings=build-dir={workshop / 'wheel'}",
        "--config-settings=cmake.define.CHAINRULE_TOOLS=ON",
        timeout=1800,
    )
    (wheel,) = wheels.glob("*.whl")
    return Build(wheel, workshop / "wheel")


@pytest.fixture(scope="session")
def digest_program(wheel_build):
    """The program that prints a digest of every kernel's results."""
    return wheel_build.folder / "chainrule_digest"


@pytest.fixture(scope="session")
def installed(wheel_build, tmp_path_factory):
    """An environment of its own with the wheel in it."""
    return make_environment(tmp_path_factory.mktemp("installed") / "venv", wheel_build.wheel)
