"""The wheel itself: its contents, and what others make of it once it is installed in an environment of its own."""

import importlib.util
import os
import shutil
import sys
import zipfile

import pytest
from building import PATH, SANITIZED, SCORE, SOURCE, make_environment, run, run_here

pytestmark = pytest.mark.wheel


def test_the_wheel_is_small_and_complete(wheel_build):
    assert wheel_build.wheel.stat().st_size < 10e6
    names = zipfile.ZipFile(wheel_build.wheel).namelist()
    assert len(names) == len(set(names))
    files = {name.removeprefix("chainrule/") for name in names if name.startswith("chainrule/")}
    expected = {"cykernels.pxd", "_kernels.pyi", "py.typed", "include/chainrule/chainrule.h"}
    expected |= {"cmake/chainruleConfig.cmake", "cmake/chainruleConfigVersion.cmake"}
    sources = SOURCE / "python" / "chainrule"
    for pattern in ("**/*.py", "**/*.pyi", "data/*"):
        expected |= {path.relative_to(sources).as_posix() for path in sources.glob(pattern) if path.is_file()}
    assert expected <= files
    library = {"linux": "libchainrule.so", "darwin": "libchainrule.dylib", "win32": "chainrule.dll"}[sys.platform]
    assert f"lib/{library}" in files
    modules = sorted(name.split(".")[0] for name in files if name.endswith((".so", ".pyd")) and "/" not in name)
    assert modules == ["_kernels", "cykernels"]
    left = {f for f in files - expected if not f.endswith((".so", ".pyd")) and not f.startswith("lib/")}
    assert not left, "files that nobody asked for"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_it_imports_and_scores(installed):
    assert installed.run("-c", SCORE).stdout == run_here("-c", SCORE).stdout
    place = installed.run("-c", "import chainrule; print(chainrule.__file__)").stdout.strip()
    assert os.path.realpath(place).startswith(os.path.realpath(installed.folder))


def test_import_brings_no_extras(installed):
    code = "import sys, chainrule; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(installed.run("-c", code).stdout.split())
    assert not loaded & {"sklearn", "scipy", "matplotlib", "torch", "jax", "tqdm", "pandas", "threadpoolctl"}


@pytest.mark.skipif(SANITIZED, reason="sanitizers slow the import")
def test_import_is_fast(installed):
    """Under 0.2 s, NumPy included: CPU time, the best of 5 starts, because others compute here too."""
    code = "import time; start = time.process_time(); import chainrule; print(time.process_time() - start)"
    assert min(float(installed.run("-c", code).stdout) for _ in range(5)) < 0.2


def test_module_answers_build_systems(installed):
    includes, folder, version = installed.run("-m", "chainrule", "--includes", "--cmakedir", "--version").stdout.split()
    assert includes.startswith("-I")
    assert os.path.exists(os.path.join(includes[2:], "chainrule", "chainrule.h"))
    assert os.path.exists(os.path.join(folder, "chainruleConfig.cmake"))
    code = "import chainrule as c; print(c.get_include(), c.get_cmake_dir(), c.__version__)"
    assert installed.run("-c", code).stdout.split() == [includes[2:], folder, version]


def test_cpp_consumer(installed, tmp_path):
    """A program without Python: find_package, every kernel, a law for each."""
    folder = installed.run("-m", "chainrule", "--cmakedir").stdout.strip()
    build = tmp_path / "build"
    run("cmake", "-S", SOURCE / "tests/consumer/cpp", "-B", build, f"-Dchainrule_DIR={folder}")
    run("cmake", "--build", build)
    assert "every law holds" in run(build / "consumer").stdout


def test_cython_consumer(installed, tmp_path):
    """An extension that cimports the table, built by pip, which finds the package by its entry point."""
    project = tmp_path / "project"
    shutil.copytree(SOURCE / "tests/consumer/cython", project)
    installed.run("-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", project)
    installed.run("-c", CONSUMER)


CONSUMER = """
import consumer
import numpy as np
import chainrule
from chainrule import kernels

rng = np.random.default_rng(3)
W, V, b, c = (rng.normal(size=s).astype(np.float32) for s in [(300, 21), (300, 21), 300, 21])
x = (rng.random((17, 300)) < 0.3).astype(np.uint8)
log_prob, logits, odds = np.empty(17), np.empty((17, 300), np.float32), np.empty((17, 300), np.float32)
consumer.score(x, W, V, b, c, log_prob, logits, odds)
assert (log_prob == kernels.nade_score(x, W, V, b, c, activation="relu")).all()
assert (logits == kernels.nade_logits(x, W, V, b, c, activation="relu")).all()
assert (odds == kernels.exp(logits)).all()
gradient = [np.empty_like(p) for p in (W, V, b, c)]
consumer.gradient(x, W, V, b, c, *gradient)
_, expected = kernels.nade_gradient(x, W, V, b, c, activation="relu")
assert all((a == b).all() for a, b in zip(gradient, expected))
dlogits = logits.copy()
consumer.bits(x, dlogits, log_prob)
assert all((a == b).all() for a, b in zip((log_prob, dlogits), kernels.bernoulli_gradient(logits, x)))
first, z = np.array([0, 2, 3, 12], np.uint32), rng.normal(size=(17, 12))
codes, u = rng.integers(0, [3, 2, 10], (17, 3)).astype(np.uint8), rng.random((17, 3))
dz, drawn = np.empty((17, 12)), np.empty((17, 3), np.uint8)
consumer.categories(codes, first, z, u, log_prob, dz, drawn)
assert all((a == b).all() for a, b in zip((log_prob, dz), kernels.categorical_gradient(z, codes, first)))
assert (drawn == kernels.categorical_sample(z, u, first)).all()
values, p = rng.integers(0, 200, (17, 3)).astype(np.int32), rng.normal(size=(17, 45)).astype(np.float32)
terms, dp, levels = np.empty((17, 3)), np.empty_like(p), np.empty((17, 3), np.int32)
consumer.levels(values, 200, 5, p, u, terms, log_prob, dp, levels)
assert (terms == kernels.logistic_mixture_log_prob(p, values, 200, 5, per_variable=True)).all()
assert all((a == b).all() for a, b in zip((log_prob, dp), kernels.logistic_mixture_gradient(p, values, 200, 5)))
assert (levels == kernels.logistic_mixture_sample(p, u, 200, 5)).all()
n, d, ready = 20, 30, np.sort(rng.integers(-1, 20, 30)).astype(np.int32)
upto, before = np.arange(n)[:, None] <= ready, ready[:, None] < np.arange(n)
lanes = [np.arange(mask.shape[1], dtype=np.uint64) for mask in (before, upto)]
words = [(m.astype(np.uint64) << lane).sum(1).astype(np.uint32) for m, lane in zip((before, upto), lanes)]
W, V, b, c = (rng.normal(size=s).astype(np.float32) for s in [(n, d), (d, n), d, n])
bits, u = (rng.random((17, n)) < 0.5).astype(np.uint8), rng.random((40, n))
h, logits, drawn = np.empty((17, d), np.float32), np.empty((17, n), np.float32), np.empty((40, n), np.uint8)
consumer.masked(bits, W, V, b, c, *words, ready, u, h, logits, drawn)
first, last = kernels.Mask(upto), kernels.Mask(before)
assert (h == kernels.masked_linear(kernels.encode(bits), W, b, mask=first, activation="relu")).all()
assert (logits == kernels.masked_linear(h, V, c, mask=last)).all()
layer = kernels.masked.Layer(first, W, b, "relu", ready=ready)
assert (drawn == kernels.masked_sample(u, hidden=[layer], output=kernels.masked.Layer(last, V, c))).all()
x, W, b = (rng.normal(size=s).astype(np.float32) for s in [(2, 46, 5), (2, 15, 32), 40])
y = np.empty((2, 40, 40), np.float32)
consumer.convolve(x, W, b, 3, y)
assert (y == kernels.causal_conv(x, W, 40, b, dilation=3, activation="relu")).all()
x, gain, bias = (rng.normal(size=s).astype(np.float32) for s in [(9, 41), 41, 41])
y, drawn, u = np.empty((9, 41), np.float32), np.empty(9, np.int32), rng.random(9)
consumer.tokens(x, gain, bias, u, 0.8, y, drawn)
assert (y == kernels.gelu(kernels.layer_norm(x, gain, bias), form="erf")).all()
assert (drawn == kernels.softmax_sample(y, u, temperature=0.5, top_k=7, top_p=0.8)).all()
qkv, y = rng.normal(size=(1, 40, 48)).astype(np.float32), np.empty((40, 16), np.float32)
cache = kernels.new_cache(1, 2, 8, 40)
consumer.attend(qkv[0], 2, cache.keys.reshape(-1), cache.values.reshape(-1), y)
assert (y == kernels.attention(*np.split(qkv, 3, axis=2), n_heads=2, scale=0.5)[0]).all()
shapes = {"table": (2, 16, 32), "qkv": (2, 16, 32), "projection": (1, 16, 32), "up": (1, 16, 32), "down": (1, 20, 32)}
panels = {name: rng.normal(size=shape).astype(np.float32) / 4 for name, shape in shapes.items()}
position, gain, bias = (rng.normal(size=s).astype(np.float32) for s in [(40, 16), 16, 16])
tokens, logits = rng.integers(0, 37, 40).astype(np.int32), np.empty((40, 37), np.float32)
table, *matrices = panels.values()
cache = kernels.new_cache(1, 2, 8, 40)
flat = cache.keys.reshape(-1), cache.values.reshape(-1)
consumer.complete(tokens, table, 37, position, gain, bias, *matrices[:3], 20, matrices[3], *flat, logits)
qkv, projection, up, down = (kernels.Weights(W, n) for W, n in zip(matrices, (48, 16, 20, 16)))
block = kernels.TransformerBlock((gain, bias), qkv, projection, None, None, None, (gain, bias), up, down)
table = kernels.Weights(table, 37)
net = kernels.TransformerNetwork(
    [block], table, table, position, (gain, bias), n_heads=2, scale=0.5, activation="relu"
)
fresh = [kernels.new_cache(1, 2, 8, 40)]
assert (logits == kernels.transformer_step(net, tokens[None], np.zeros(1, np.uint32), fresh)[0]).all()
assert consumer.about() == (chainrule.__version__, chainrule._kernels.isa)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel is for Linux")
def test_repaired_wheel_needs_no_compiler(wheel_build, tmp_path):
    """As an index would serve it: libgomp and the like inside, and nothing but the interpreter on the PATH."""
    if not importlib.util.find_spec("auditwheel"):
        pytest.skip("auditwheel cannot be imported")
    if not shutil.which("patchelf", path=PATH):
        pytest.skip("patchelf is not on the PATH")
    if (version := run("patchelf", "--version").stdout.split()[-1]) < "0.14.5":
        pytest.skip(f"auditwheel needs patchelf 0.14.5, this is {version}")
    run(sys.executable, "-m", "auditwheel", "repair", wheel_build.wheel, "--wheel-dir", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert "manylinux" in wheel.name
    assert wheel.stat().st_size < 10e6
    assert any("libgomp" in name for name in zipfile.ZipFile(wheel).namelist())
    environment = make_environment(tmp_path / "venv", wheel)
    (tmp_path / "empty").mkdir()
    assert environment.run("-c", SCORE, env={"PATH": str(tmp_path / "empty")}).stdout == run_here("-c", SCORE).stdout
