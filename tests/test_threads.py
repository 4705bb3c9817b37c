"""Threads, forks, signals, the host's floating-point mode: kernels live well with all of them."""

import concurrent.futures
import contextlib
import ctypes
import os
import platform
import signal
import sys
import threading
import time

import numpy as np
import pytest
from chainrule import _kernels, kernels
from reference.nade import random_bits, random_model, random_order

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

# What every script below starts with: a job long enough for several threads, and whether two results are the same bits.
COMMON = """
import os, signal, sys, threading, time
import numpy as np
from chainrule import _kernels, kernels

rng = np.random.default_rng(0)
n, d = 200, 100
x, u = (rng.random((300, n)) < 0.3).astype(np.uint8), rng.random((300, n))
model = [rng.normal(size=s).astype(np.float32) * np.float32(0.3) for s in ((n, d), (n, d), n, d)]

def job(n_threads=None):
    log_prob, gradient = kernels.nade_gradient(x, *model, n_threads=n_threads)
    return [kernels.nade_score(x, *model, n_threads=n_threads), kernels.nade_sample(u, *model, n_threads=n_threads),
            log_prob, *gradient, kernels.uniforms((1, 2), 0, 10**6, n_threads=n_threads)]

def same(a, b):
    return all(p.tobytes() == q.tobytes() for p, q in zip(a, b, strict=True))
"""


# ---- fork


@posix
def test_fork_after_a_kernel(run_python):
    """libgomp's threads do not survive a fork, and waiting for them hangs: the child, and its child, must be serial."""
    code = (
        COMMON
        + """
want = job(2)
def child(depth):
    signal.alarm(20)  # a hang becomes a failure
    good = same(job(2), want) and same(job(), want) and _kernels.get_num_threads() == 1
    if good and depth:
        pid = os.fork()
        if pid == 0:
            child(depth - 1)
        good = os.waitpid(pid, 0)[1] == 0
    os._exit(0 if good else 1)
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        child(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert same(job(2), want)  # the parent has its threads still
print("forked")
"""
    )
    assert "forked" in run_python(code, timeout=50)


@posix
def test_fork_while_another_thread_is_inside_a_kernel(run_python):
    code = (
        COMMON
        + """
want, stop = job(2), threading.Event()
def work():
    while not stop.is_set():
        job(2)
thread = threading.Thread(target=work)
thread.start()
try:
    for _ in range(5):
        time.sleep(0.005)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            os._exit(0 if same(job(2), want) else 1)
        assert os.waitpid(pid, 0)[1] == 0
finally:
    stop.set()
    thread.join()
assert same(job(2), want)
print("forked")
"""
    )
    assert "forked" in run_python(code, timeout=50, PYTHONWARNINGS="ignore")


@posix
def test_multiprocessing_pool_of_forks(run_python):
    code = (
        COMMON
        + """
import multiprocessing
def part(k):
    return kernels.nade_score(x[k : k + 100], *model)
want = kernels.nade_score(x, *model, n_threads=2)
with multiprocessing.get_context("fork").Pool(2) as pool:
    parts = pool.map_async(part, [0, 100, 200]).get(timeout=20)
assert same([np.concatenate(parts)], [want])
print("forked")
"""
    )
    assert "forked" in run_python(code, timeout=50, PYTHONWARNINGS="ignore")


# ---- Python threads


def jobs():
    """Calls of many sizes: workspaces of different threads must not meet."""
    for k in range(24):
        rng = np.random.default_rng(k)
        m, n, d = int(rng.integers(1, 80)), int(rng.integers(1, 150)), int(rng.integers(1, 90))
        model = random_model(rng, n, d, (np.float32, np.float64)[k % 2])
        options = {"order": random_order(rng, n), "activation": ("sigmoid", "relu", "tanh")[k % 3]}
        yield random_bits(rng, m, n), rng.random((m, n)), model, options


def do(job, n_threads):
    x, u, model, options = job
    log_prob, gradient = kernels.nade_gradient(x, *model, n_threads=n_threads, **options)
    return [
        kernels.nade_score(x, *model, n_threads=n_threads, **options),
        kernels.nade_sample(u, *model, n_threads=n_threads, **options),
        log_prob, *gradient,
        kernels.bernoulli_log_prob(kernels.nade_logits(x, *model, **options), x),
    ]  # fmt: skip


def test_eight_python_threads_at_once():
    todo = list(jobs())
    want = [do(job, 1) for job in todo]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = [(k, pool.submit(do, todo[k], 1 + r % 3)) for r in range(6) for k in range(len(todo))]
        for k, future in futures:
            for a, b in zip(future.result(), want[k], strict=True):
                assert a.tobytes() == b.tobytes()


@pytest.fixture(scope="module")
def long_job():
    """Arguments of a score that takes about half a second on one thread."""
    rng = np.random.default_rng(0)
    n, d = 784, 500
    model = random_model(rng, n, d, np.float32)
    x = random_bits(rng, 256, n, p=0.5)
    start = time.perf_counter()
    kernels.nade_score(x, *model, n_threads=1)
    seconds = time.perf_counter() - start
    return np.tile(x, (max(1, round(0.5 / seconds)), 1)), model


def test_other_python_threads_run_while_a_kernel_does(long_job):
    x, model = long_job
    ticks, done = [], threading.Event()

    def kernel():
        kernels.nade_score(x, *model, n_threads=1)
        done.set()

    thread = threading.Thread(target=kernel)
    start = time.perf_counter()
    thread.start()
    while not done.is_set():
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    thread.join()
    seconds = time.perf_counter() - start
    gaps = np.diff([start, *ticks])
    assert seconds > 0.1
    assert gaps.max() < seconds / 3, f"a kernel of {seconds:.2f} s stopped another thread for {gaps.max():.2f} s"


# ---- How many threads


def test_set_num_threads():
    default = _kernels.get_num_threads()
    assert default >= 1
    try:
        for n in (1, 3, 7):
            _kernels.set_num_threads(n)
            assert _kernels.get_num_threads() == n
        _kernels.set_num_threads(0)
        assert _kernels.get_num_threads() == default
    finally:
        _kernels.set_num_threads(0)


THREADS_USED = """
import sys, threading
import numpy as np
from chainrule import _kernels, kernels

def threads_of_this_process():
    import os
    return len(os.listdir("/proc/self/task"))

x, W = np.zeros((4000, 300), np.uint8), np.zeros((300, 50), np.float32)
def used(n_threads=None):
    # what libgomp started for one call, this thread included
    before = threads_of_this_process()
    kernels.nade_score(x, W, W.copy(), np.zeros(300, np.float32), np.zeros(50, np.float32), n_threads=n_threads)
    return threads_of_this_process() - before + 1
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")


@linux
@pytest.mark.parametrize("n", [1, 2, 5])
def test_omp_num_threads_is_taken_as_given(run_python, n):
    output = run_python(THREADS_USED + "print(_kernels.get_num_threads(), used())", OMP_NUM_THREADS=str(n))
    assert output.split() == [str(n), str(n)]


@linux
def test_argument_then_package_call_then_environment(run_python):
    code = (
        THREADS_USED
        + """
print(used(1)); _kernels.set_num_threads(3); print(used(2), used(), used(5))
"""
    )
    # Threads stay in libgomp's pool: each number is what that call added.
    assert run_python(code, OMP_NUM_THREADS="7").split() == ["1", "2", "2", "3"]


@linux
def test_default_respects_affinity(run_python):
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from chainrule import _kernels
print(_kernels.get_num_threads())
"""
    environment = {"OMP_NUM_THREADS": ""} if "OMP_NUM_THREADS" in os.environ else {}
    assert run_python(code, **environment).split() == ["1"]


@linux
@pytest.mark.parametrize(
    ("given", "spins"), [({}, "10000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")]
)
def test_idle_threads_sleep_soon_unless_the_user_says_otherwise(run_python, monkeypatch, given, spins):
    """What libgomp reads when it is loaded; the environment is afterwards as it was."""
    code = """
import os, sys
os.dup2(1, 2)  # where libgomp prints
before = dict(os.environ)
import chainrule
print("the same:", dict(os.environ) == before)
"""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    output = run_python(code, **given, OMP_DISPLAY_ENV="VERBOSE")
    if "GOMP_SPINCOUNT" not in output:
        pytest.skip("the OpenMP runtime is not libgomp")
    assert f"GOMP_SPINCOUNT = '{spins}'" in output
    assert "the same: True" in output


def test_threadpoolctl_is_obeyed(run_python):
    pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")
    if sys.platform == "darwin":
        pytest.skip("built without OpenMP on macOS")
    code = """
import threadpoolctl
from chainrule import _kernels
before = _kernels.get_num_threads()
with threadpoolctl.threadpool_limits(1):
    print(_kernels.get_num_threads())
with threadpoolctl.threadpool_limits(3, user_api="openmp"):
    print(_kernels.get_num_threads())
assert _kernels.get_num_threads() == before
print(before)
"""
    assert run_python(code, OMP_NUM_THREADS="5").split() == ["1", "3", "5"]
    assert run_python(code).split()[0] == "1"


# ---- Signals

LONG = """
import signal, sys, threading, time
import numpy as np
from chainrule import kernels

rng = np.random.default_rng(0)
m, n, d = 4000, 784, 4096  # several seconds
model = [rng.random(s, dtype=np.float32) * np.float32(0.1) - np.float32(0.05) for s in ((n, d), (n, d), n, d)]
x = rng.integers(0, 2, (m, n), np.uint8)
u = rng.random((m, n))
run = {"score": lambda: kernels.nade_score(x, *model),
       "gradient": lambda: kernels.nade_gradient(x, *model),
       "sample": lambda: kernels.nade_sample(u, *model)}[sys.argv[1]]
"""


@posix
@pytest.mark.parametrize("kernel", ["score", "gradient", "sample"])
def test_ctrl_c_arrives_within_a_tenth_of_a_second(python_process, kernel):
    code = (
        LONG
        + """
want = kernels.nade_score(x[:50], *model)
for k in range(5):
    try:
        print("running", flush=True)
        run()
        print("ran to its end", flush=True)
        break
    except KeyboardInterrupt:
        print(time.monotonic(), flush=True)
    assert np.array_equal(kernels.nade_score(x[:50], *model), want)  # and nothing is left broken
"""
    )
    seconds = []
    with python_process(code, kernel) as process:
        for k in range(5):
            assert process.stdout.readline() == "running\n"
            time.sleep(0.05 + 0.03 * k)
            sent = time.monotonic()  # one clock for all processes
            process.send_signal(signal.SIGINT)
            seconds.append(float(process.stdout.readline()) - sent)
        assert process.wait(30) == 0
    seconds.sort()
    assert seconds[2] < 0.1, seconds
    assert seconds[-1] < 0.5, seconds


@posix
def test_an_error_raised_by_a_signal_handler_stops_the_kernel(run_python):
    """Not Ctrl-C alone: whatever a handler raises comes out of the call (a timeout, say)."""
    code = (
        LONG
        + """
class Timeout(Exception): pass
def ring(number, frame): raise Timeout
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.1)
start = time.perf_counter()
try:
    run()
except Timeout:
    print(time.perf_counter() - start)
"""
    )
    assert float(run_python(code, "score")) < 0.6


@posix
def test_a_signal_handler_may_call_kernels(run_python):
    """It runs inside the interrupted kernel, on its thread: their workspaces must not be the same."""
    code = (
        COMMON
        + """
want, calls = job(2), []
big = (rng.random((700, n)) < 0.3).astype(np.uint8)
big_want = kernels.nade_gradient(big, *model)[1]
def ring(number, frame):
    W, V, b, c = model
    y = x[: (300, 7)[len(calls) % 2]]
    calls.append(kernels.nade_gradient(y, np.hstack([W] * 3), np.hstack([V] * 3), b, np.hstack([c] * 3)))
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.005, 0.03)
good = True
for k in range(6):
    good &= same(kernels.nade_gradient(big, *model, n_threads=1 + k % 2)[1], big_want)
    good &= same(job(1 + k % 2), want)
signal.setitimer(signal.ITIMER_REAL, 0)
assert len(calls) > 1, len(calls)
assert good
print("handled", len(calls))
"""
    )
    assert "handled" in run_python(code, timeout=50)


def test_interruption_is_for_the_main_thread(run_python):
    """Ctrl-C while a kernel runs in another thread is the main thread's affair; the kernel's result is whole."""
    code = (
        LONG
        + """
x = x[:200]
want, result = kernels.nade_score(x, *model), []
thread = threading.Thread(target=lambda: result.append(kernels.nade_score(x, *model)))
thread.start()
try:
    time.sleep(0.02)
    signal.raise_signal(signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    pass
thread.join()
assert np.array_equal(result[0], want)
print("whole")
"""
    )
    if sys.platform == "win32":
        pytest.skip("raise_signal ends a process on Windows")
    assert "whole" in run_python(code, "score")


# ---- The host's floating-point mode


class FloatMode:
    """This thread's floating-point control word, through glibc's fenv_t."""

    def __init__(self):
        if platform.libc_ver()[0] != "glibc" or platform.machine() not in ("x86_64", "aarch64"):
            pytest.skip("knows the layout of glibc's fenv_t on x86-64 and aarch64 alone")
        self.libm = ctypes.CDLL("libm.so.6")
        x86 = platform.machine() == "x86_64"
        self.word = 7 if x86 else 0  # mxcsr follows the x87 environment; fpcr comes first
        self.flush = 0x8040 if x86 else 1 << 24  # flush results, and on x86 operands
        self.control = 0xFFC0 if x86 else 0xFFFFFFFF  # without the sticky flags
        self.upward = 0x4000 if x86 else 1 << 22

    def get(self):
        environment = (ctypes.c_uint32 * 16)()
        self.libm.fegetenv(environment)
        return environment

    def control_word(self):
        return self.get()[self.word] & self.control

    @contextlib.contextmanager
    def set(self, bits):
        before, changed = self.get(), self.get()
        changed[self.word] |= bits
        self.libm.fesetenv(changed)
        try:
            yield
        finally:
            self.libm.fesetenv(before)


def denormal_inputs():
    """Numbers that only a machine that keeps denormals tells from zero; made before the mode is changed."""
    rng = np.random.default_rng(0)
    m, n, d = 256, 30, 64  # all sizes here are for two threads
    for dtype, huge, tiny, far in ((np.float32, 1e37, 3e-39, -100), (np.float64, 1e306, 1e-308, -740)):
        W, V = rng.random((n, d)) * huge, rng.normal(size=(n, d)) * tiny
        yield {
            "model": [np.asarray(p, dtype) for p in (W, V, np.zeros(n), np.zeros(d))],
            "x": random_bits(rng, m, n, p=0.5),
            "zeros": np.zeros((800, 100), np.uint8),
            "u": rng.random((m, n)),
            "far": np.full((800, 100), far, dtype),  # log p of 0 is -e^far, a denormal
            "adam": [np.asarray(rng.random(250_000) * scale, dtype) for scale in (1, tiny**0.5, tiny, tiny)],
            "tiny": np.asarray(rng.random(100_000) * tiny, dtype),
        }


def denormal_results(inputs, n_threads):
    for i in inputs:
        model, options = i["model"], {"activation": "relu", "n_threads": n_threads}
        yield kernels.nade_sample(i["u"], *model, **options)
        yield kernels.nade_score(i["x"], *model, **options)
        yield kernels.nade_logits(i["x"], *model, **options)
        log_prob, gradient = kernels.nade_gradient(i["x"], *model, **options)
        yield from (log_prob, *gradient)
        yield kernels.bernoulli_log_prob(i["far"], i["zeros"], n_threads=n_threads, per_variable=True)
        adam = [p.copy() for p in i["adam"]]
        kernels.optimizer_step("adam", *adam, learning_rate=1e-3, beta1=0.9, beta2=0.999, n_threads=n_threads)
        yield from adam
        yield np.array(kernels.sum_squares(i["adam"][1].astype(np.float64) * 1e-150, n_threads=n_threads))
        yield kernels.exp(i["far"], n_threads=n_threads)
        yield kernels.log(i["tiny"], n_threads=n_threads)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_host_that_flushes_denormals_changes_nothing(n_threads):
    mode = FloatMode()
    inputs = list(denormal_inputs())
    want = [a.tobytes() for a in denormal_results(inputs, 1)]
    for i in inputs:  # with zeros in place of denormals, results are others
        x, (W, V, b, c) = i["x"], i["model"]
        assert np.abs(V).min() > 0
        assert np.abs(V).max() < np.finfo(V.dtype).tiny * 10
        assert np.ptp(kernels.nade_logits(x, W, V, b, c, activation="relu")) > 0.1
        assert -1e-40 < kernels.bernoulli_log_prob(i["far"], i["zeros"], per_variable=True).max() < 0
    smallest, one = 5e-324, float(os.getpid() > 0)
    with mode.set(mode.flush):
        flushing = mode.control_word()
        flushed = smallest * one
        got = [a.tobytes() for a in denormal_results(inputs, n_threads)]
        after = mode.control_word()
    assert flushed == 0.0
    assert smallest * one > 0
    assert len(got) == len(want)
    assert [k for k in range(len(got)) if got[k] != want[k]] == []
    assert after == flushing  # the host's mode is given back
    assert mode.control_word() == flushing & ~mode.flush


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_host_that_rounds_upward_changes_nothing(n_threads):
    mode = FloatMode()
    job = max(jobs(), key=lambda job: job[0].size * len(job[2][3]))
    want = [a.tobytes() for a in do(job, 1)]
    third = [1.0, 3.0]
    with mode.set(mode.upward):
        upward = mode.control_word()
        rounded = third[0] / third[1]
        got = [a.tobytes() for a in do(job, n_threads)]
        after = mode.control_word()
    assert rounded > third[0] / third[1]  # it was on
    assert got == want
    assert after == upward


def test_the_mode_is_given_back_after_an_interruption(run_python):
    """An exception leaves the kernel through the same door."""
    FloatMode()
    code = (
        LONG
        + f"""
sys.path.insert(0, {os.path.dirname(__file__)!r})
import test_threads
mode = test_threads.FloatMode()
with mode.set(mode.flush):
    before = mode.control_word()
    threading.Timer(0.05, signal.raise_signal, (signal.SIGINT,)).start()
    try:
        run()
    except KeyboardInterrupt:
        print("restored" if mode.control_word() == before else "changed")
"""
    )
    assert run_python(code, "score").split() == ["restored"]
