"""Causal convolutions, WaveNet's block and generator, and embeddings against tests/reference/wavenet.py.

Sums are checked twice: near the equations in float64, and bit for bit against the rule of docs/reproducibility.md.
"""

import re

import numpy as np
import pytest
from chainrule import kernels
from chainrule.conditionals import Categorical, LogisticMixture
from chainrule.conditionals.categorical import starts
from chainrule.kernels import from_panels, to_panels
from chainrule.kernels.masked import Mask
from chainrule.kernels.wavenet import Block, Frames, from_gate_panels, gate_order, gate_panels
from reference import wavenet as reference
from reference.masked import chained, fma

DTYPES = (np.float32, np.float64)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
# Errors stay below C eps sqrt(terms), relative to the largest value, at least 1: roundings are independent.
C = 4.0
V, T = ValueError, TypeError


def assert_close(got, want, dtype, terms=1):
    assert got.shape == want.shape
    if want.size:
        error = np.abs(got - want).max() / max(1.0, np.abs(want).max())
        assert error <= C * np.finfo(dtype).eps * np.sqrt(max(terms, 1)), error


def assert_same_bits(a, b):
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def with_threads(call):
    """The results, a tuple of arrays, the same bits for 1 and 3 threads."""
    one, three = call(1), call(3)
    for a, b in zip(one, three, strict=True):
        assert_same_bits(a, b)
    return one


def strided(array):
    """The same values with steps and rows apart, NaN between them."""
    rows, steps, channels = array.shape
    memory = np.full((rows, steps + 2, channels + 5), np.nan, array.dtype)
    memory[:, 1 : steps + 1, 3 : channels + 3] = array
    return memory[:, 1 : steps + 1, 3 : channels + 3]


def room_for(shape, dtype):
    """An array to write, steps and rows apart, and a check that nothing around it was written."""
    memory = np.full((shape[0], shape[1] + 2, shape[2] + 5), 7, dtype)
    inside = memory[:, 1 : shape[1] + 1, 3 : shape[2] + 3]

    def check():
        around = np.ones(memory.shape, bool)
        around[:, 1 : shape[1] + 1, 3 : shape[2] + 3] = False
        assert (memory[around] == 7).all(), "something beside the array was written"

    return inside, check


# ---- Convolutions

# Taps, dilation, inputs, outputs, steps, rows: tails of vectors, panels, tiles of 12 and of 96 steps; chunks of 256.
CONVS = [
    (2, 1, 16, 32, 96, 1),
    (2, 2, 15, 33, 95, 3),
    (3, 7, 17, 1, 97, 1),
    (5, 1, 64, 31, 300, 1),
    (3, 64, 150, 33, 97, 3),
    (1, 1, 33, 65, 1, 3),
    (2, 64, 1, 5, 0, 2),
    (5, 7, 1, 150, 97, 1),
    (2, 7, 150, 64, 1, 3),
    (5, 64, 17, 15, 13, 3),
    (1, 64, 64, 33, 300, 2),
    (16, 1, 17, 4, 30, 1),
]
by_conv = pytest.mark.parametrize("shape", CONVS, ids=str)


class Conv:
    def __init__(self, shape, dtype):
        self.width, self.dilation, n_in, self.n_out, self.steps, self.rows = shape
        rng = np.random.default_rng(shape)
        self.history = (self.width - 1) * self.dilation
        self.x = rng.normal(size=(self.rows, self.history + self.steps, n_in)).astype(dtype)
        self.W = (rng.normal(size=(self.width, n_in, self.n_out)) / np.sqrt(self.width * n_in)).astype(dtype)
        self.b, self.dy = (rng.normal(size=n).astype(dtype) for n in (self.n_out, (self.rows, self.steps, self.n_out)))
        self.panels, self.n_in = to_panels(self.W.reshape(-1, self.n_out)), n_in

    def forward(self, x, b=None, **options):
        return kernels.causal_conv(x, self.panels, self.n_out, b, dilation=self.dilation, **options)


def taps_of(x, width, dilation):
    """(rows, steps, width * channels): what each output meets, the oldest first."""
    steps = x.shape[1] - (width - 1) * dilation
    return np.concatenate([x[:, k * dilation : k * dilation + steps] for k in range(width)], axis=2)


def chained_steps(x, W):
    """`chained` for activations in time."""
    return chained(x.reshape(-1, x.shape[2]), W).reshape(*x.shape[:2], W.shape[1])


@by_dtype
@by_conv
def test_conv(shape, dtype):
    p = Conv(shape, dtype)
    product = chained_steps(taps_of(p.x, p.width, p.dilation), p.W.reshape(-1, p.n_out))
    relu = lambda a: np.where(a < 0, dtype(0), a)  # noqa: E731
    for b in (None, p.b):
        exact = product if b is None else product + b
        want = reference.causal_conv(p.x, p.W, b, p.dilation)
        (got,) = with_threads(lambda t, b=b: (p.forward(p.x, b, n_threads=t),))
        assert_close(got, want, dtype, p.width * p.n_in)
        assert_same_bits(got, exact)
        out, check = room_for(got.shape, dtype)
        assert p.forward(strided(p.x), b, out=out) is out
        assert_same_bits(out, exact)
        check()
        for name, function in {"sigmoid": kernels.sigmoid, "tanh": kernels.tanh, "relu": relu}.items():
            assert_same_bits(p.forward(p.x, b, activation=name), function(exact))
    inside = p.x.copy()
    inside[:, : p.history] = 0
    whole = kernels.causal_conv1d(p.x[:, p.history :], p.W, p.b, dilation=p.dilation)
    assert_same_bits(whole, p.forward(inside, p.b))


@by_dtype
@pytest.mark.parametrize("shape", [CONVS[k] for k in (1, 2, 3, 4)], ids=str)
def test_conv_of_chunks_and_rows(shape, dtype):
    """A chunk with the end of the one before in front of it, and a row by itself, give the bits of the whole."""
    p = Conv(shape, dtype)
    whole = p.forward(p.x, p.b, activation="tanh")
    for cut in (1, 12, 13, p.steps // 2, p.steps - 1):
        parts = [p.x[:, : p.history + cut], p.x[:, cut:]]
        parts = [p.forward(part, p.b, activation="tanh") for part in parts]
        assert_same_bits(np.concatenate(parts, axis=1), whole)
    for row in range(p.rows):
        assert_same_bits(p.forward(p.x[row : row + 1], p.b, activation="tanh"), whole[row : row + 1])


def exact_input_gradient(p):
    """Each step of x meets the outputs that it reached, those of the oldest tap first, in one sum."""
    dx, by_taps = np.zeros(p.x.shape, p.x.dtype), {}
    for s in range(p.x.shape[1]):
        reached = tuple(k for k in range(p.width) if 0 <= s - k * p.dilation < p.steps)
        by_taps.setdefault(reached, []).append(s)
    for reached, steps in by_taps.items():
        if reached:
            inputs = np.concatenate([p.dy[:, np.array(steps) - k * p.dilation] for k in reached], axis=2)
            dx[:, steps] = chained_steps(inputs, np.concatenate([p.W[k].T for k in reached]))
    return dx


@by_dtype
@by_conv
def test_conv_gradients(shape, dtype):
    p = Conv(shape, dtype)
    dx, dW, db = reference.causal_conv_pullback(p.dy, p.x, p.W, p.dilation)

    def call(n_threads):
        got = kernels.causal_conv_input_gradient(p.dy, p.panels, p.n_in, dilation=p.dilation, n_threads=n_threads)
        options = {"dilation": p.dilation, "n_threads": n_threads}
        return got, *kernels.causal_conv_weight_gradient(p.x, p.dy, p.width, **options)

    got_x, got_W, got_b = with_threads(call)
    assert_close(got_x, dx, dtype, p.width * p.n_out)
    if p.x.shape[1] < 200:
        assert_same_bits(got_x, exact_input_gradient(p))
    assert_close(from_panels(got_W, p.n_out).reshape(p.W.shape), dW, dtype, p.rows * p.steps)
    assert_close(got_b, db, dtype, p.rows * p.steps)
    seen = taps_of(p.x, p.width, p.dilation)
    exact_W, exact_b = np.zeros((seen.shape[2], p.n_out), dtype), np.zeros((1, p.n_out), dtype)
    for row in range(p.rows):  # rows one after the other, each in chunks of 256 steps
        for t in range(0, p.steps, 256):
            dy = p.dy[row, t : t + 256]
            exact_W = exact_W + chained(seen[row, t : t + 256].T, dy)
            exact_b = exact_b + chained(np.ones((1, len(dy)), dtype), dy)
    assert_same_bits(from_panels(got_W, p.n_out), exact_W)
    assert_same_bits(got_b, exact_b[0])

    out, check = room_for(dx.shape, dtype)
    kernels.causal_conv_input_gradient(strided(p.dy), p.panels, p.n_in, dilation=p.dilation, out=out)
    assert_same_bits(out, got_x)
    check()
    again = np.full(got_W.shape, 7, dtype)
    kernels.causal_conv_weight_gradient(strided(p.x), strided(p.dy), p.width, dilation=p.dilation, out=again)
    assert_same_bits(from_panels(again, p.n_out), from_panels(got_W, p.n_out))


# ---- Blocks


def gate_places(dense, n_channels, fill=0):
    """(..., 2 channels), filters before gates, at the places of the panels of gates."""
    order = gate_order(n_channels)
    return np.ascontiguousarray(np.where(order >= 0, dense[..., order], dense.dtype.type(fill)))


def from_gate_places(placed, n_channels):
    order = gate_order(n_channels)
    dense = np.zeros((*placed.shape[:-1], 2 * n_channels), placed.dtype)
    dense[..., order[order >= 0]] = placed[..., order >= 0]
    return dense


def block_of(q, dtype):
    """The kernels' arrays of a layer of the reference."""
    last = "residual" not in q
    n_channels = q["filter_gate"].shape[1]
    return Block(
        gate_panels(q["filter_gate"].astype(dtype)),
        gate_places(q["filter_gate_bias"].astype(dtype), n_channels),
        None if last else to_panels(q["residual"].astype(dtype)),
        None if last else q["residual_bias"].astype(dtype),
        to_panels(q["skip"].astype(dtype)),
        q["skip_bias"].astype(dtype),
    )


def test_gate_panels_are_their_own_inverse():
    for n_channels in (1, 15, 16, 17, 48):
        W = np.random.default_rng(0).normal(size=(3, n_channels, 2 * n_channels))
        panels = gate_panels(W)
        assert panels.shape == (-(-n_channels // 16), 3 * n_channels, 32)
        assert_same_bits(from_gate_panels(panels, n_channels), W)
        np.testing.assert_array_equal(panels[0, :, 0], W[:, :, 0].ravel())
        np.testing.assert_array_equal(panels[-1, :, 16 + (n_channels - 1) % 16], W[:, :, -1].ravel())
        assert np.count_nonzero(panels) == W.size


# Channels, skips, taps, dilation, steps, steps of skips, rows; kind of block.
BLOCKS = [
    (1, 1, 2, 1, 1, 1, 1, ""),
    (15, 31, 2, 2, 95, 95, 3, "frames"),
    (16, 32, 2, 7, 96, 50, 2, "last"),
    (17, 33, 3, 5, 97, 97, 1, "first hops"),
    (32, 64, 2, 64, 13, 1, 3, "start"),
    (33, 1, 1, 1, 37, 30, 2, "last hops start"),
    (48, 33, 2, 3, 300, 200, 2, "first start"),
    (90, 40, 3, 1, 25, 25, 1, "hops"),
    (16, 7, 2, 1, 1100, 1040, 1, "hops start"),
    (16, 7, 2, 300, 1500, 1200, 20, "start"),
    (17, 5, 2, 2, 0, 0, 2, ""),
]
by_block = pytest.mark.parametrize("shape", BLOCKS, ids=str)


class Gated:
    """A block, its inputs, and what the reference makes of them."""

    def __init__(self, shape, dtype):
        self.n, self.n_skip, self.width, self.dilation, self.steps, self.skip_steps, self.rows, kind = shape
        rng = np.random.default_rng(shape[:-1])

        def normal(*size, fan_in=1):
            return (rng.normal(size=size) / np.sqrt(fan_in)).astype(dtype)

        n, self.dtype, self.last, self.first = self.n, dtype, "last" in kind, "first" in kind
        self.q = {
            "filter_gate": normal(self.width, n, 2 * n, fan_in=self.width * n),
            "filter_gate_bias": normal(2 * n),
            "residual": normal(n, n, fan_in=n),
            "residual_bias": normal(n),
            "skip": normal(n, self.n_skip, fan_in=n),
            "skip_bias": normal(self.n_skip),
        }
        if self.last:
            del self.q["residual"], self.q["residual_bias"]
        self.block = block_of(self.q, dtype)
        self.history = (self.width - 1) * self.dilation
        self.x = normal(self.rows, self.history + self.steps, n)
        self.skip = normal(self.rows, self.skip_steps, self.n_skip)
        self.start = None
        if "start" in kind:
            self.start = rng.integers(0, self.steps + 1, self.rows).astype(np.uint32)
            self.start[0] = min(self.steps, 5)
        self.hop, self.phase = (5, 3) if "hops" in kind else (1 << 31, 0)
        self.frames = self.a = None
        if "frames" in kind or "hops" in kind:
            n_frames = (self.steps - 1 + self.phase) // self.hop + 1
            self.a = normal(self.rows, n_frames, 2 * n)
            self.frames = Frames(gate_places(self.a, n), self.hop, self.phase)
        self.dy = None if self.last else normal(self.rows, self.steps, n)
        self.dskip = normal(self.rows, self.skip_steps, self.n_skip)
        if self.dy is not None and self.start is not None:
            self.dy[~self.exists] = 0

    @property
    def exists(self):
        """(rows, steps)"""
        start = np.zeros(self.rows, int) if self.start is None else self.start
        return np.arange(self.steps) >= start[:, None]

    @property
    def has_dx(self):
        """(rows, steps of x) whose gradient is computed: what is as early as outputs that do not exist has none."""
        start = np.zeros(self.rows, int) if self.start is None else self.start.astype(int)
        return np.arange(self.x.shape[1]) >= np.where(start > 0, start + self.history, 0)[:, None]

    @property
    def of_frame(self):
        return (np.arange(self.steps) + self.phase) // self.hop

    def run(self, n_threads=None, x=None, rows=slice(None), **more):
        """y, skip and gates, with the room around them checked."""
        m = len(range(self.rows)[rows])
        y, y_check = room_for((m, self.steps, self.n), self.dtype)
        skip, skip_check = room_for((m, self.skip_steps, self.n_skip), self.dtype)
        gates, gates_check = room_for((m, self.steps, len(self.block.b)), self.dtype)
        skip[...] = np.nan if self.first else self.skip[rows]
        start = None if self.start is None else self.start[rows]
        frames = None if self.frames is None else self.frames._replace(a=self.frames.a[rows])
        options = {"y": None if self.last else y, "skip": skip, "gates": gates, "first": self.first, **more}
        kernels.gated_block(
            self.block, (self.x if x is None else x)[rows], dilation=self.dilation, start=start, frames=frames,
            n_threads=n_threads, **options,
        )  # fmt: skip
        y_check(), skip_check(), gates_check()
        return y, skip, gates

    def backwards(self, gates, n_threads=None):
        """dx, dz, the parameters' gradients, dframes."""
        saved, dx = gates.copy(), np.full(self.x.shape, 7, self.dtype)
        gradient = Block(*(None if a is None else np.full(a.shape, 7, self.dtype) for a in self.block))
        dframes = None if self.frames is None else self.frames._replace(a=np.full(self.frames.a.shape, 7, self.dtype))
        kernels.gated_block_gradient(
            self.block, self.x, saved, self.dy, self.dskip, gradient, dilation=self.dilation, start=self.start,
            dframes=dframes, dx=dx, n_threads=n_threads,
        )  # fmt: skip
        return dx, saved, *(a for a in gradient if a is not None), *(() if dframes is None else (dframes.a,))


@by_dtype
@by_block
def test_block(shape, dtype):
    p = Gated(shape, dtype)
    y, skip, gates = with_threads(p.run)
    exists, low = p.exists[..., None], p.steps - p.skip_steps

    z = reference.causal_conv(p.x, p.q["filter_gate"], None, p.dilation)
    z = (z if p.a is None else z + p.a[:, p.of_frame]) + p.q["filter_gate_bias"]
    u = np.where(exists, reference.gate(z), 0)
    terms = p.width * p.n
    more = np.where(exists, u @ p.q["skip"].astype(float) + p.q["skip_bias"], 0)[:, low:]
    assert_close(skip, more if p.first else p.skip + more, dtype, terms)
    f, g = np.split(z, 2, axis=-1)
    want = np.where(exists, np.concatenate([np.tanh(f), reference.sigmoid(g)], -1), 0)
    assert_close(from_gate_places(gates, p.n), want, dtype, terms)
    if not p.last:
        want = np.where(exists, p.x[:, p.history :] + u @ p.q["residual"].astype(float) + p.q["residual_bias"], 0)
        assert_close(y, want, dtype, terms)

    # Bit for bit, by the rule: ((sum + addend) + bias), tanh(f) sigmoid(g).
    if p.steps * p.n > 4000:
        return
    z = chained_steps(taps_of(p.x, p.width, p.dilation), p.q["filter_gate"].reshape(-1, 2 * p.n))
    z = (z if p.a is None else z + p.a[:, p.of_frame]) + p.q["filter_gate_bias"]
    f, g = kernels.tanh(np.ascontiguousarray(z[..., : p.n])), kernels.sigmoid(np.ascontiguousarray(z[..., p.n :]))
    assert_same_bits(from_gate_places(gates, p.n), np.where(exists, np.concatenate([f, g], -1), dtype(0)))
    more = chained_steps(f * g, p.q["skip"])[:, low:]
    more = (more if p.first else more + p.skip) + p.q["skip_bias"]
    assert_same_bits(skip, np.where(exists[:, low:], more, dtype(0) if p.first else p.skip))
    if not p.last:
        want = (chained_steps(f * g, p.q["residual"]) + p.x[:, p.history :]) + p.q["residual_bias"]
        assert_same_bits(y, np.where(exists, want, dtype(0)))


def test_gradient_of_many_chunks_whichever_worker_takes_them():
    """Workers help one another, so that the chunks of one come in runs of any length, other ones each time."""
    p = Gated((16, 16, 2, 3, 40 * 256, 40 * 256, 1, ""), np.float32)
    *_, gates = p.run()
    want = p.backwards(gates, n_threads=1)
    for n_threads in [2, 3, 4, 5] * 8:
        for a, b in zip(p.backwards(gates, n_threads=n_threads), want, strict=True):
            assert_same_bits(a, b)


@by_dtype
@by_block
def test_block_in_parts(shape, dtype):
    """Rows alone, strided x, each output alone and calls on stretches of time give the same bits."""
    p = Gated(shape, dtype)
    whole = p.run()
    for a, b in zip(p.run(x=strided(p.x)), whole, strict=True):
        assert_same_bits(a, b)
    for row in range(p.rows):
        for a, b in zip(p.run(rows=slice(row, row + 1)), whole, strict=True):
            assert_same_bits(a, b[row : row + 1])
    alone = [p.run(skip=None, gates=None)[0], p.run(y=None, gates=None)[1], p.run(y=None, skip=None)[2]]
    for a, b, given in zip(alone, whole, (not p.last, True, True), strict=True):
        if given:
            assert_same_bits(a, b)
    for cut in (1, 11, p.steps // 2):
        if not 0 < cut < p.steps or p.start is not None:
            continue
        for begin, end in ((0, cut), (cut, p.steps)):
            gates = np.empty((p.rows, end - begin, len(p.block.b)), dtype)
            phase = p.phase + begin
            frames = p.frames and Frames(np.ascontiguousarray(p.frames.a[:, phase // p.hop :]), p.hop, phase % p.hop)
            x = p.x[:, begin : p.history + end]
            kernels.gated_block(p.block, x, dilation=p.dilation, frames=frames, gates=gates)
            assert_same_bits(gates, whole[2][:, begin:end])


@by_dtype
@by_block
def test_block_gradient(shape, dtype):
    p = Gated(shape, dtype)
    gates = p.run()[2].copy()
    found = with_threads(lambda t: p.backwards(gates, t))
    dx, dz = found[:2]
    assert (dx[~p.has_dx] == 7).all(), "what does not exist was written"
    gradient = Block(*found[2:4], *((None, None) if p.last else found[4:6]), *found[6 - 2 * p.last : 8 - 2 * p.last])
    n, low, exists = p.n, p.steps - p.skip_steps, p.exists[..., None]

    z = reference.causal_conv(p.x, p.q["filter_gate"], None, p.dilation)
    z = (z if p.a is None else z + p.a[:, p.of_frame]) + p.q["filter_gate_bias"]
    u = np.where(exists, reference.gate(z), 0)
    dskip = np.where(exists, np.concatenate([np.zeros((p.rows, low, p.n_skip)), p.dskip], 1), 0)
    du = dskip @ p.q["skip"].T.astype(float)
    if not p.last:
        du = du + p.dy @ p.q["residual"].T.astype(float)
    want_dz = np.where(exists, reference.gate_pullback(du, z), 0)
    want_dx, dW, db = reference.causal_conv_pullback(want_dz, p.x, p.q["filter_gate"], p.dilation)
    terms = 2 * (p.width + 1) * n + p.n_skip  # from the sums of z to those of dx
    assert_close(from_gate_places(dz, n), want_dz, dtype, terms)
    if not p.last:
        want_dx[:, p.history :] += p.dy
        steps = p.rows * p.steps
        assert_close(from_panels(gradient.residual, n), np.einsum("rti,rto->io", u, p.dy), dtype, steps + terms)
        assert_close(gradient.residual_bias, p.dy.sum((0, 1), dtype=float), dtype, steps)
    assert_close(dx[p.has_dx], want_dx[p.has_dx], dtype, terms)
    steps = p.rows * p.steps + terms
    assert_close(from_gate_panels(gradient.W, n), dW, dtype, steps)
    assert_close(from_gate_places(gradient.b, n), db, dtype, steps)
    assert_close(from_panels(gradient.skip, p.n_skip), np.einsum("rti,rto->io", u, dskip), dtype, steps)
    assert_close(gradient.skip_bias, dskip.sum((0, 1)), dtype, steps)
    if p.a is not None:
        want = np.zeros(p.a.shape)
        for frame in range(p.a.shape[1]):
            want[:, frame] = want_dz[:, p.of_frame == frame].sum(1)
        assert_close(from_gate_places(found[-1], n), want, dtype, steps)

    # What pads the panels has no gradient, so that the padding stays zero in training.
    for panels, columns in ((gradient.residual, n), (gradient.skip, p.n_skip)):
        if panels is not None:
            padding = np.arange(panels.shape[0] * 32).reshape(-1, 32) >= columns
            assert not panels.swapaxes(0, 1)[:, padding].any()
    padding = (gate_order(n) < 0).reshape(-1, 32)
    assert not gradient.W.swapaxes(0, 1)[:, padding].any()
    assert not gradient.b.reshape(-1, 32)[padding].any()
    assert not dz[..., gate_order(n) < 0].any()

    # dz itself, bit for bit: the sum over y's channels and then the skips, times the slopes.
    if p.steps * n <= 4000:
        W = p.q["skip"].T if p.last else np.concatenate([p.q["residual"].T, p.q["skip"].T])
        late = chained_steps(p.dskip if p.last else np.concatenate([p.dy[:, low:], p.dskip], 2), W)
        early = np.zeros((p.rows, low, n), dtype) if p.last else chained_steps(p.dy[:, :low], p.q["residual"].T)
        du = np.concatenate([early, late], axis=1)
        f, g = np.split(from_gate_places(gates, n), 2, axis=-1)
        exact = np.concatenate([du * g * fma(-f, f, dtype(1)), du * fma(-(f * g), g, f * g)], -1)
        assert (from_gate_places(dz, n) == np.where(exists, exact, 0)).all()  # zeros of either sign before the start


def test_gradients_do_not_see_what_does_not_exist():
    """Before the start of a row, dy and dskip are whatever an outer network left there."""
    p = Gated((16, 7, 2, 3, 40, 40, 2, "start"), np.float64)
    gates = p.run()[2].copy()
    before = p.backwards(gates)
    p.dy[~p.exists] = 1e3
    p.dskip[~p.exists] = 1e3
    after = p.backwards(gates)
    for a, b in zip(before, after, strict=True):
        assert_same_bits(a, b)


# ---- Embeddings


@by_dtype
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 15, 0), (256, 33, 700), (3, 64, 257), (17, 150, 600)], ids=str)
def test_embedding(shape, dtype):
    n_values, n_out, n_rows = shape
    rng = np.random.default_rng(shape)
    E, dy = rng.normal(size=(n_values, n_out)).astype(dtype), rng.normal(size=(n_rows, n_out)).astype(dtype)
    index = rng.integers(-2, n_values, n_rows).astype(np.int32)
    panels, seen = to_panels(E), index >= 0
    (got,) = with_threads(lambda t: (kernels.embedding(index, panels, n_out, n_threads=t),))
    assert_same_bits(got, np.where(seen[:, None], E[np.maximum(index, 0)], dtype(0)))
    wide = np.full((n_rows, n_out + 3), 7, dtype)
    kernels.embedding(index, panels, n_out, out=wide[:, 1:-2])
    assert_same_bits(wide[:, 1:-2], got)
    assert (wide[:, [0, -2, -1]] == 7).all()

    (dE,) = with_threads(lambda t: (kernels.embedding_gradient(index, dy, n_values, n_threads=t),))
    want = np.zeros(E.shape)
    np.add.at(want, index[seen], dy[seen].astype(float))
    assert_close(from_panels(dE, n_out), want, dtype, n_rows)
    exact = np.zeros(E.shape, dtype)
    for t in range(0, n_rows, 256):  # chunks of 256 rows, as every sum over rows
        part = np.zeros(E.shape, dtype)
        for row in range(t, min(t + 256, n_rows)):
            if seen[row]:
                part[index[row]] = part[index[row]] + dy[row]
        exact = exact + part
    assert_same_bits(from_panels(dE, n_out), exact)
    padding = np.arange(len(dE) * 32).reshape(-1, 32) >= n_out
    assert not dE.swapaxes(0, 1)[:, padding].any()
    apart = np.full((n_rows, n_out + 3), np.nan, dtype)
    apart[:, :n_out] = dy
    assert_same_bits(kernels.embedding_gradient(index, apart[:, :n_out], n_values), dE)
    if n_rows == 600:  # of sequences
        both = index.reshape(2, 300)
        assert_same_bits(kernels.embedding(both, panels, n_out), got.reshape(2, 300, n_out))
        assert_same_bits(kernels.embedding_gradient(both, dy.reshape(2, 300, n_out), n_values), dE)


@by_dtype
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 15, 0), (256, 33, 700), (33, 64, 257), (17, 150, 600)], ids=str)
def test_embedding_in_an_output_matrix(shape, dtype):
    """Turned, a table is the transpose in panels, and what it gives is the same."""
    n_values, n_out, n_rows = shape
    rng = np.random.default_rng(shape)
    E, dy = rng.normal(size=(n_values, n_out)).astype(dtype), rng.normal(size=(n_rows, n_out)).astype(dtype)
    index = rng.integers(-2, n_values, n_rows).astype(np.int32)
    straight, turned = to_panels(E), to_panels(np.ascontiguousarray(E.T))
    assert turned.shape == (-(-n_values // 32), n_out, 32)
    (got,) = with_threads(lambda t: (kernels.embedding(index, turned, n_out, n_values=n_values, n_threads=t),))
    assert_same_bits(got, kernels.embedding(index, straight, n_out))
    wide = np.full((n_rows, n_out + 3), 7, dtype)
    kernels.embedding(index, turned, n_out, n_values=n_values, out=wide[:, 1:-2])
    assert_same_bits(wide[:, 1:-2], got)
    assert (wide[:, [0, -2, -1]] == 7).all()

    (dE,) = with_threads(lambda t: (kernels.embedding_gradient(index, dy, n_values, turned=True, n_threads=t),))
    assert dE.shape == turned.shape
    assert_same_bits(from_panels(dE, n_values).T, from_panels(kernels.embedding_gradient(index, dy, n_values), n_out))
    padding = np.arange(len(dE) * 32).reshape(-1, 32) >= n_values
    assert not dE.swapaxes(0, 1)[:, padding].any()


# ---- The generator


class Net:
    """A network in the kernels' arrays: its conditionals in parallel, and its sampler."""

    def __init__(
        self, taps, dilations, channels, n_skip, n_values, dtype, *, n_context=0, rows=1, frames=1, hop=1 << 31
    ):
        rng = np.random.default_rng([taps, *dilations, channels, n_skip, n_values])
        p = reference.random_parameters(rng, dilations, n_values, channels, n_skip, taps, n_context)
        self.dtype, self.dilations, self.channels, self.n_values = dtype, dilations, channels, n_values
        self.history, self.hop = [(taps - 1) * d for d in dilations], hop
        self.blocks = [block_of(reference.layer_of(p, l), dtype) for l in range(len(dilations))]
        self.embedding = to_panels(p["embedding"].astype(dtype))
        self.head = to_panels(p["head1"].astype(dtype)), p["head1_bias"].astype(dtype)
        output, bias = p["head2"][:, 1:] - p["head2"][:, :1], p["head2_bias"][1:] - p["head2_bias"][0]
        self.output = to_panels(2 * output.astype(dtype)), bias.astype(dtype)
        self.frames = None
        if n_context:
            seen = rng.normal(size=(rows, frames, n_context))
            self.frames = [gate_places((seen @ U).astype(dtype), channels) for U in p["context"]]

    def context(self, at, rows=slice(None)):
        """Frames of every block from step `at` on."""
        if self.frames is None:
            return None
        first = at // self.hop
        return [Frames(np.ascontiguousarray(a[rows, first:]), self.hop, at - first * self.hop) for a in self.frames]

    def seen(self, before):
        """The first block's input from the value before each step, -1 for none."""
        return kernels.embedding(before, self.embedding, self.channels)

    def logits(self, x):
        """Of every step given those before, (rows, steps, n_values - 1); and every block's input."""
        rows, steps = x.shape
        h, inputs = self.seen(np.concatenate([np.full((rows, 1), -1), x[:, :-1]], 1).astype(np.int32)), []
        skip = np.empty((rows, steps, len(self.head[1])), self.dtype)
        frames = self.context(0) or [None] * len(self.blocks)
        for l, (block, history) in enumerate(zip(self.blocks, self.history, strict=True)):
            inputs.append(h)
            padded = np.concatenate([np.zeros((rows, history, self.channels), self.dtype), h], 1)
            h = None if block.residual is None else np.empty_like(h)
            kernels.gated_block(
                block, padded, dilation=self.dilations[l], frames=frames[l], y=h, skip=skip, first=l == 0
            )
        flat = np.maximum(skip, 0).reshape(rows * steps, -1)
        for (W, b), activation in ((self.head, "relu"), (self.output, None)):
            flat = kernels.masked_linear(flat, W, b, mask=Mask.dense(flat.shape[1], len(b)), activation=activation)
        return flat, inputs

    def state(self, rows):
        return np.zeros(sum(self.history) * rows * self.channels, self.dtype)

    def sample(self, u, state=None, **options):
        state = self.state(len(u)) if state is None else state
        return kernels.wavenet_sample(
            self.blocks, self.dilations, self.embedding, self.head, self.output, u, state, n_values=self.n_values,
            **{"frames": self.context(0), **options},
        )  # fmt: skip


# Taps, dilations, channels, skips, values, rows, steps, numbers of context, frames, hop. One row meets its past taps
# for up to 8 steps at once; above 256 inputs it does not. Dilations with many factors of two and few.
NETS = {
    "powers of two": (2, (1, 2, 4, 8, 16), 16, 32, 256, 1, 75, 0, 1, 1 << 31),
    "other dilations": (2, (3, 24, 6, 5), 17, 33, 5, 1, 75, 2, 1, 1 << 31),
    "three taps": (3, (1, 4, 8), 33, 31, 7, 1, 60, 2, 13, 5),
    "one tap": (1, (1, 1), 15, 1, 2, 3, 9, 0, 1, 1 << 31),
    "a chunk ends between the taps": (2, (2, 8), 150, 40, 10, 1, 26, 0, 1, 1 << 31),
    "a chunk is filled": (4, (8, 1), 64, 64, 18, 1, 40, 0, 1, 1 << 31),
    "a tile": (2, (2, 4, 3), 17, 5, 33, 7, 30, 2, 7, 5),
    "more rows than a tile": (3, (2, 16), 16, 33, 4, 29, 40, 2, 1, 1 << 31),
    "one value": (2, (1,), 3, 2, 1, 2, 5, 0, 1, 1 << 31),
}
by_net = pytest.mark.parametrize("name", NETS)


def net_of(name, dtype):
    *shape, rows, steps, n_context, frames, hop = NETS[name]
    net = Net(*shape, dtype, n_context=n_context, rows=rows, frames=frames, hop=hop)
    rng = np.random.default_rng(len(name))
    return net, rng.random((rows, steps)), rng.integers(0, net.n_values, (rows, steps)).astype(np.uint8)


def check_rings(net, state, inputs, steps):
    """The rings hold the last inputs of every block, those of the parallel scorer, each in its place."""
    rows, at = len(inputs[0]), 0
    for h, history in zip(inputs, net.history, strict=True):
        ring = state[at : at + history * rows * net.channels].reshape(history, rows, net.channels)
        for t in range(max(steps - history, 0), steps):
            assert_same_bits(ring[t % history], h[:, t])
        assert not ring[steps:].any()  # not reached yet
        at += ring.size


@by_dtype
@by_net
def test_samples_are_the_scorers(name, dtype):
    """Draws, states, and uniforms at the very edges of each decision: the scorer's conditionals to the last bit."""
    net, u, path = net_of(name, dtype)
    rows, steps = u.shape
    state = net.state(rows)
    x = net.sample(u, state)
    assert (x.dtype, x.shape) == (np.int32, u.shape)
    logits, inputs = net.logits(x)
    drawn = kernels.categorical_sample(logits, u.reshape(-1, 1), starts([net.n_values]))
    np.testing.assert_array_equal(x, drawn.reshape(x.shape))
    check_rings(net, state, inputs, steps)

    logits, _ = net.logits(path)
    values, conditionals = path.reshape(-1, 1), Categorical(logits, starts([net.n_values]))
    above = conditionals.interval(np.minimum(values + 1, net.n_values - 1).astype(np.uint8))[0]
    last = np.nextafter(np.where(values == net.n_values - 1, 1.0, above), 0)
    for edge in (np.maximum(conditionals.interval(values)[0], 2.0**-53), last):
        np.testing.assert_array_equal(conditionals.sample(edge), values)
        np.testing.assert_array_equal(net.sample(edge.reshape(u.shape)), path)


@by_dtype
@by_net
def test_samples_in_parts(name, dtype):
    """The same bits for any threads, rows one by one, and calls that go on where the last one ended."""
    net, u, _ = net_of(name, dtype)
    rows, steps = u.shape

    def call(n_threads):
        state = net.state(rows)
        return net.sample(u, state, n_threads=n_threads), state

    x, state = with_threads(call)
    for a, b in zip(call(2), (x, state), strict=True):
        assert_same_bits(a, b)
    for row in range(rows):
        mine = slice(row, row + 1)
        assert_same_bits(net.sample(u[mine], frames=net.context(0, mine)), x[mine])
    for length in (1, 3, 11):
        going, previous, parts = net.state(rows), None, []
        for at in range(0, steps, length):
            parts.append(
                net.sample(
                    np.ascontiguousarray(u[:, at : at + length]), going, taken=at, previous=previous,
                    frames=net.context(at), n_threads=1,
                )
            )  # fmt: skip
            previous = np.ascontiguousarray(parts[-1][:, -1])
        assert_same_bits(np.concatenate(parts, axis=1), x)
        assert_same_bits(going, state)
    wide = np.full((rows, steps + 3), 77, np.int32)
    apart = np.full((rows, steps + 2), np.nan)
    apart[:, :steps] = u
    assert net.sample(apart[:, :steps], out=wide[:, 1:-2]).base is wide
    assert_same_bits(wide[:, 1:-2], x)
    assert (wide[:, [0, -2, -1]] == 77).all()
    assert net.sample(u[:, :0], state.copy()).shape == (rows, 0)
    if net.frames is None:
        assert net.sample(u[:0]).shape == (0, steps)


@pytest.mark.parametrize(("taps", "channels"), [(2, 100), (3, 90)])
def test_a_team_of_threads(taps, channels):
    """Weights of more than 1.25 MB: one stream is shared by threads, several streams are not."""
    net = Net(taps, (1, 2, 4, 8, 3, 16), channels, 70, 40, np.float32, n_context=2, rows=1, frames=9, hop=5)
    values = sum(a.size for block in net.blocks for a in block if a is not None)
    assert values * 4 > 1.25 * 2**20
    u = np.random.default_rng(1).random((1, 25))

    def call(n_threads):
        state = net.state(1)
        return net.sample(u, state, n_threads=n_threads), state

    x, state = with_threads(call)
    assert_same_bits(call(2)[0], x)
    logits, inputs = net.logits(x)
    drawn = kernels.categorical_sample(logits, u.reshape(-1, 1), starts([net.n_values]))
    np.testing.assert_array_equal(x[0], drawn[:, 0])
    check_rings(net, state, inputs, 25)
    going = net.state(1)
    first = net.sample(u[:, :13], going, n_threads=3)
    rest = net.sample(u[:, 13:], going, taken=13, previous=first[:, -1].copy(), frames=net.context(13), n_threads=2)
    assert_same_bits(np.concatenate([first, rest], 1), x)
    twice = [Frames(np.repeat(f.a, 2, 0), f.hop, f.phase) for f in net.context(0)]
    for n_threads in (1, 3):
        both = net.sample(np.repeat(u, 2, 0), frames=twice, n_threads=n_threads)
        assert_same_bits(both, np.repeat(x, 2, 0))


@by_dtype
def test_temperature(dtype):
    net, u, _ = net_of("powers of two", dtype)
    for temperature in (0.5, 3.0):
        x = net.sample(u, temperature=temperature)
        logits = net.logits(x)[0] / dtype(temperature)
        drawn = kernels.categorical_sample(logits, u.reshape(-1, 1), starts([net.n_values]))
        np.testing.assert_array_equal(x[0], drawn[:, 0])
    x = net.sample(u, temperature=1e-6)
    logits = np.concatenate([np.zeros((u.size, 1)), net.logits(x)[0]], 1)
    np.testing.assert_array_equal(x[0], logits.argmax(1))


class LevelNet(Net):
    """A network of levels: their places on [-1, 1] times weights go in, the parameters of a mixture come out."""

    def __init__(self, taps, dilations, channels, n_skip, n_values, n_components, dtype, **context):
        super().__init__(taps, dilations, channels, n_skip, 2, dtype, **context)
        rng, K = np.random.default_rng([channels, n_skip, n_values, n_components]), n_components
        self.n_values, self.n_components = n_values, K
        self.embedding = to_panels(rng.normal(size=(1, channels)).astype(dtype))
        self.input_bias = rng.normal(size=channels).astype(dtype)
        bias = np.concatenate([rng.normal(size=2 * K), rng.uniform(-np.log(n_values) - 1, 0, K)])
        output = rng.normal(0, 0.5 * n_skip**-0.5, (n_skip, 3 * K))
        self.output = to_panels(output.astype(dtype)), bias.astype(dtype)

    def seen(self, before):
        last = max(self.n_values - 1, 1)
        places = ((2.0 * before - (self.n_values - 1)) / last).astype(self.dtype).reshape(-1, 1)
        h = kernels.masked_linear(places, self.embedding, self.input_bias, mask=Mask.dense(1, self.channels))
        return np.where(before[..., None] < 0, self.dtype(0), h.reshape(*before.shape, -1))

    def mixture(self, x):
        return LogisticMixture(self.logits(x)[0], self.n_values, self.n_components)

    def sample(self, u, state=None, **options):
        return super().sample(u, state, input_bias=self.input_bias, n_components=self.n_components, **options)


# Taps, dilations, channels, skips, levels, components; rows, steps, numbers of context, frames, hop.
LEVELS = {
    "audio": ((2, (1, 2, 4, 8, 16), 16, 32, 65536, 10), (1, 75, 0, 1, 1 << 31)),
    "a tile": ((2, (2, 4, 3), 17, 5, 17, 3), (7, 30, 2, 7, 5)),
    "more rows than a tile": ((3, (2, 16), 16, 33, 256, 1), (29, 40, 2, 1, 1 << 31)),
    "two levels": ((2, (3,), 5, 7, 2, 5), (3, 9, 0, 1, 1 << 31)),
    "one level": ((2, (1,), 3, 2, 1, 2), (2, 5, 0, 1, 1 << 31)),
    "a team of threads": ((2, (1, 2, 4, 8, 3, 16), 100, 70, 65536, 4), (1, 25, 2, 9, 5)),
}
by_levels = pytest.mark.parametrize("name", LEVELS)


def level_net_of(name, dtype):
    shape, (rows, steps, n_context, frames, hop) = LEVELS[name]
    net = LevelNet(*shape, dtype, n_context=n_context, rows=rows, frames=frames, hop=hop)
    return net, np.random.default_rng(len(name)).random((2, rows, steps))


@by_dtype
@by_levels
def test_levels_are_drawn_as_they_are_scored(name, dtype):
    """Draws, states, and uniforms at the very edges of each decision: the scorer's mixtures to the last bit."""
    net, (u, other) = level_net_of(name, dtype)
    state = net.state(len(u))
    x = net.sample(u, state)
    assert (x.dtype, x.shape) == (np.int32, u.shape)
    np.testing.assert_array_equal(x, net.mixture(x).sample(u.reshape(-1, 1)).reshape(u.shape))
    check_rings(net, state, net.logits(x)[1], u.shape[1])
    assert x.max(initial=0) < net.n_values
    assert len(np.unique(x)) >= min(net.n_values, 4)

    path = net.sample(other)
    mixture, values = net.mixture(path), path.reshape(-1, 1)
    above = mixture.interval(np.minimum(values + 1, net.n_values - 1))[0]
    last = np.nextafter(np.where(values == net.n_values - 1, 1.0, above), 0)
    for edge in (np.maximum(mixture.interval(values)[0], 2.0**-53), last):
        np.testing.assert_array_equal(net.sample(edge.reshape(u.shape)), path)


@by_dtype
@by_levels
def test_levels_in_parts(name, dtype):
    """The same bits for any threads, rows one by one, and calls that go on where the last one ended."""
    net, (u, _) = level_net_of(name, dtype)

    def call(n_threads):
        state = net.state(len(u))
        return net.sample(u, state, n_threads=n_threads), state

    x, state = with_threads(call)
    for row in range(len(u)):
        mine = slice(row, row + 1)
        assert_same_bits(net.sample(u[mine], frames=net.context(0, mine)), x[mine])
    going, previous = net.state(len(u)), None
    for at in range(0, u.shape[1], 4):
        part = np.ascontiguousarray(u[:, at : at + 4])
        previous = net.sample(part, going, taken=at, previous=previous, frames=net.context(at))
        assert_same_bits(previous, x[:, at : at + 4])
        previous = np.ascontiguousarray(previous[:, -1])
    assert_same_bits(going, state)


@by_dtype
def test_temperature_of_levels(dtype):
    """Logits are divided by it, and scales multiplied, floored after that."""
    net, (u, _) = level_net_of("audio", dtype)
    K = net.n_components
    for temperature in (0.5, 3.0):
        x = net.sample(u, temperature=temperature)
        parameters = net.logits(x)[0]
        parameters[:, :K] /= dtype(temperature)
        parameters[:, 2 * K :] += dtype(kernels.log(np.array([temperature]))[0])
        drawn = kernels.logistic_mixture_sample(parameters, u.reshape(-1, 1), net.n_values, K)
        np.testing.assert_array_equal(x, drawn.reshape(u.shape))


def test_the_scorer_is_the_references():
    rng = np.random.default_rng(4)
    dilations = (1, 3, 2)
    p = reference.random_parameters(rng, dilations, 6, 5, 7, 2, 0)
    net = Net(2, dilations, 5, 7, 6, np.float64)
    net.blocks = [block_of(reference.layer_of(p, l), np.float64) for l in range(3)]
    net.embedding, net.head = to_panels(p["embedding"]), (to_panels(p["head1"]), p["head1_bias"])
    net.output = to_panels(p["head2"][:, 1:] - p["head2"][:, :1]), p["head2_bias"][1:] - p["head2_bias"][0]
    x, want = reference.sample(p, dilations, rng.random((3, 20)))
    np.testing.assert_allclose(net.logits(x)[0].reshape(3, 20, 5), want[..., 1:] - want[..., :1], atol=1e-12)


# ---- The border


def readonly(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def entry(array, k, value):
    array = array.copy()
    array.flat[k] = value
    return array


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


CONV = {"x": zeros(2, 7, 5), "W": zeros(2, 15, 32), "n_out": 40, "b": zeros(40), "dilation": 2, "out": zeros(2, 3, 40)}
CONV_INPUT = {"dy": zeros(2, 3, 40), "W": zeros(2, 15, 32), "n_in": 5, "dilation": 2, "out": zeros(2, 7, 5)}
CONV_WEIGHT = {
    "x": zeros(2, 7, 5),
    "dy": zeros(2, 3, 40),
    "width": 3,
    "dilation": 2,
    "out": zeros(2, 15, 32),
    "db": zeros(40),
}
BLOCK = Block(zeros(2, 40, 32), zeros(64), zeros(1, 20, 32), zeros(20), zeros(2, 20, 32), zeros(33))
GATED = {
    "block": BLOCK, "x": zeros(2, 8, 20), "dilation": 3, "start": zeros(2, dtype=np.uint32),
    "frames": Frames(zeros(2, 3, 64), 2), "y": zeros(2, 5, 20), "skip": zeros(2, 4, 33), "gates": zeros(2, 5, 64),
}  # fmt: skip
GATED_GRADIENT = {
    "block": BLOCK, "x": zeros(2, 8, 20), "gates": zeros(2, 5, 64), "dy": zeros(2, 5, 20), "dskip": zeros(2, 4, 33),
    "gradient": Block(*map(np.zeros_like, BLOCK)), "dilation": 3, "start": zeros(2, dtype=np.uint32),
    "dframes": Frames(zeros(2, 3, 64), 2), "dx": zeros(2, 8, 20),
}  # fmt: skip
INDEX = np.array([0, -1, 4], np.int32)
EMBEDDING = {"index": INDEX, "E": zeros(2, 5, 32), "n_out": 40, "out": zeros(3, 40)}
EMBEDDING_GRADIENT = {"index": INDEX, "dy": zeros(3, 40), "n_values": 5, "out": zeros(2, 5, 32)}
LAST = BLOCK._replace(residual=None, residual_bias=None)
SAMPLE = {
    "blocks": [BLOCK, LAST], "dilations": [1, 3], "input": zeros(1, 6, 32), "head": (zeros(2, 33, 32), zeros(33)),
    "output": (zeros(1, 33, 32), zeros(5)), "u": np.full((2, 4), 0.5), "state": zeros(4 * 2 * 20), "n_values": 6,
    "previous": np.full(2, -1, np.int32), "frames": [Frames(zeros(2, 2, 64), 3, 1)] * 2,
    "out": zeros(2, 4, dtype=np.int32),
}  # fmt: skip
ENTRANCES = {
    "conv": (kernels.causal_conv, CONV, "out", "W"),
    "conv input": (kernels.causal_conv_input_gradient, CONV_INPUT, "out", "W"),
    "conv weight": (kernels.causal_conv_weight_gradient, CONV_WEIGHT, "out db", "out"),
    "block": (kernels.gated_block, GATED, "y skip gates", "x"),
    "block gradient": (kernels.gated_block_gradient, GATED_GRADIENT, "gates dx", "x"),
    "embedding": (kernels.embedding, EMBEDDING, "out", "E"),
    "embedding gradient": (kernels.embedding_gradient, EMBEDDING_GRADIENT, "out", "out"),
    "sample": (kernels.wavenet_sample, SAMPLE, "state out", "state"),
}
ARRAYS = [(e, name) for e, (_, good, *_) in ENTRANCES.items() for name, a in good.items() if isinstance(a, np.ndarray)]
CALLED = {  # what the module calls an argument whose name says more to a reader of Python
    ("conv weight", "out"): "dW", ("embedding gradient", "out"): "dE",
}  # fmt: skip
FREE = {  # axes that others follow, or that other arguments are blamed for
    ("conv", "x"): (0, 1, 2), ("conv", "W"): (1,), ("conv", "out"): (2,), ("conv input", "dy"): (2,),
    ("conv input", "W"): (1,), ("conv input", "out"): (0, 1, 2), ("conv weight", "x"): (0, 1, 2),
    ("conv weight", "dy"): (2,), ("conv weight", "out"): (1,), ("block", "x"): (0, 1, 2), ("block", "skip"): (1,),
    ("block gradient", "x"): (0, 1, 2), ("block gradient", "dskip"): (1,), ("sample", "u"): (0, 1),
    ("embedding", "index"): (0,), ("embedding", "E"): (1,), ("embedding gradient", "index"): (0,),
    ("embedding gradient", "dy"): (1,), ("embedding gradient", "out"): (1,),
}  # fmt: skip


def fresh(good):
    return {key: a.copy() if isinstance(a, np.ndarray) else a for key, a in good.items()}


@pytest.mark.parametrize(("entrance", "name"), ARRAYS)
def test_bad_arrays(entrance, name):
    call, good, written, decides = ENTRANCES[entrance]
    good = fresh(good)
    call(**good)
    array, called = good[name], CALLED.get((entrance, name), name)

    def refused(bad, error, message):
        with pytest.raises(error, match=f"^{called} " + message):
            call(**{**good, name: bad})

    if name == decides:
        refused(array.astype(int), T, "must be float32 or float64, not int64")
    else:
        refused(array.astype(np.complex64), T, f"must be {array.dtype}, not complex64")
    for axis in range(array.ndim):
        if axis not in FREE.get((entrance, name), ()):
            refused(np.delete(array, 0, axis), V, "must (be|have)")
            refused(np.concatenate([array, array], axis), V, "must (be|have)")
    if "index" not in name and not (entrance == "embedding gradient" and name == "dy"):
        refused(array[None], V, "must be")
    spread = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
    if name in written.split():
        refused(spread, V, "must (be|have) (C-)?contiguous")
        refused(readonly(array), V, "is written to, but is read-only")
    else:
        call(**{**good, name: readonly(array)})
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    if name != "index":
        refused(memory.view(array.dtype).reshape(array.shape), V, "is not aligned to its elements")


def block_with(**changes):
    return lambda good: good["block"]._replace(**changes)


HUGE = 2**31 + 1
BAD = [
    ("conv", {"dilation": 0}, V, "dilation must be 1 to 2^31, not 0"),
    ("conv", {"dilation": -3}, V, "dilation must be 1 to 2^31, not -3"),
    ("conv", {"dilation": HUGE}, V, "dilation must be 1 to 2^31"),
    ("conv", {"dilation": 2**31}, V, "x must have at least (width - 1) dilation = 2 x 2147483648 steps, not 7"),
    ("conv", {"dilation": 4}, V, "x must have at least (width - 1) dilation = 2 x 4 steps, not 7"),
    ("conv", {"x": zeros(2, 7, 4)}, V, "W must have inputs for 1 to 16 taps of 4 channels, not 15"),
    ("conv", {"x": zeros(2, 7, 0)}, V, "W must have inputs for 1 to 16 taps of 0 channels, not 15"),
    ("conv", {"x": zeros(2, 7, 1), "W": zeros(2, 17, 32)}, V, "W must have inputs for 1 to 16 taps of 1 chan"),
    ("conv", {"W": zeros(2, 0, 32)}, V, "W must have inputs for 1 to 16 taps of 5 channels, not 0"),
    ("conv", {"activation": "gelu"}, V, "activation must be one of sigmoid, relu, tanh, not 'gelu'"),
    ("conv", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("conv", {"b": 3}, T, "kernels take arrays"),
    ("conv input", {"dilation": 0}, V, "dilation must be 1 to 2^31, not 0"),
    ("conv input", {"out": zeros(2, 3, 5)}, V, "out must have at least (width - 1) dilation = 2 x 2 steps, not 3"),
    ("conv input", {"out": zeros(2, 8, 5)}, V, "dy must be 3-d of shape (2, 4, any)"),
    ("conv weight", {"dilation": 0}, V, "dilation must be 1 to 2^31, not 0"),
    ("conv weight", {"dilation": 4}, V, "x must have at least"),
    ("conv weight", {"out": zeros(2, 16, 32)}, V, "dW must have inputs for 1 to 16 taps of 5 channels, not 16"),
    ("conv weight", {"x": zeros(2, 8, 5)}, V, "dy must be 3-d of shape (2, 4, any)"),
    ("block", {"dilation": 0}, V, "dilation must be 1 to 2^31, not 0"),
    ("block", {"dilation": 9}, V, "x must have at least (width - 1) dilation = 1 x 9 steps, not 8"),
    ("block", {"x": zeros(2, 8, 19)}, V, "x must be 3-d of shape (any, any, 20)"),
    ("block", {"block": BLOCK[:5]}, V, "block must be (W, b, residual, residual_bias, skip, skip_bias), not 5 arrays"),
    ("block", {"block": block_with(W=None)}, T, "W must be a NumPy array"),
    ("block", {"block": block_with(W=zeros(2, 40))}, V, "W must be in panels"),
    ("block", {"block": block_with(W=zeros(2, 41, 32))}, V, "W must have inputs for 1 to 16 taps of 20 chan"),
    ("block", {"block": block_with(W=zeros(1, 40, 32))}, V, "W must be in panels of shape (2, 40, 32)"),
    ("block", {"block": block_with(W=zeros(2, 40, 32, dtype=float))}, T, "W must be float32, not float64"),
    ("block", {"block": block_with(W=zeros(2, 80, 32)[:, ::2])}, V, "W must be C-contiguous"),
    ("block", {"block": block_with(b=zeros(63))}, V, "b must be 1-d of length 64"),
    ("block", {"block": block_with(residual=zeros(1, 19, 32))}, V, "residual must be in panels of shape (1, 20, 32)"),
    ("block", {"block": block_with(residual_bias=zeros(19))}, V, "residual_bias must be 1-d of length 20"),
    ("block", {"block": block_with(residual_bias=None)}, T, "residual_bias must be a NumPy array"),
    ("block", {"block": block_with(skip=zeros(20, 32))}, V, "skip must be in panels"),
    ("block", {"block": block_with(skip=zeros(1, 20, 32))}, V, "skip must be in panels of shape (2, 20, 32)"),
    ("block", {"block": block_with(skip=zeros(2, 0, 32))}, V, "W must have inputs for 1 to 16 taps of 0 channels"),
    ("block", {"block": block_with(skip_bias=zeros(0))}, V, "skip_bias must not be empty"),
    ("block", {"block": LAST}, V, "y must be None for a block without a residual"),
    ("block", {"skip": zeros(2, 6, 33)}, V, "skip must have at most 5 steps, not 6"),
    ("block", {"frames": Frames(zeros(2, 2, 64), 2)}, V, "frames must have 3 frames, not 2"),
    ("block", {"frames": Frames(zeros(2, 3, 64), 0)}, V, "hop must be at least 1 and phase 0 to hop - 1, not 0 and 0"),
    ("block", {"frames": Frames(zeros(2, 3, 64), 2, 2)}, V, "hop must be at least 1 and phase 0 to hop - 1, not 2"),
    ("block", {"frames": Frames(zeros(2, 3, 64), 2, -1)}, V, "hop must be at least 1 and phase 0 to hop - 1"),
    ("block", {"frames": Frames(zeros(1, 3, 64), 2)}, V, "frames must be 3-d of shape (2, any, 64)"),
    ("block", {"frames": Frames(zeros(2, 3, 63), 2)}, V, "frames must be 3-d of shape (2, any, 64)"),
    ("block", {"frames": (zeros(2, 3, 64), 2)}, V, "frames must be (array, hop, phase)"),
    ("block", {"frames": zeros(2, 3, 64)}, V, "frames must be (array, hop, phase)"),
    ("block", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("block gradient", {"dilation": 0}, V, "dilation must be 1 to 2^31, not 0"),
    ("block gradient", {"dy": None}, V, "dy must be given exactly when the block has a residual"),
    ("block gradient", {"gradient": LAST}, V, "gradient must have the shapes of the block"),
    ("block gradient", {"gradient": BLOCK._replace(W=zeros(2, 60, 32))}, V, "gradient must have the shapes of"),
    ("block gradient", {"gradient": BLOCK._replace(b=readonly(BLOCK.b))}, V, "b is written to, but is read-only"),
    ("block gradient", {"dskip": zeros(2, 6, 33)}, V, "dskip must have at most 5 steps, not 6"),
    ("block gradient", {"dframes": Frames(zeros(2, 4, 64), 2)}, V, "dframes must have 3 frames, not 4"),
    ("embedding", {"index": np.array([0, 5, 1], np.int32)}, V, "index must be below 5; entry 1 is 5"),
    ("embedding", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("embedding", {"n_values": 4, "E": zeros(1, 40, 32)}, V, "index must be below 4; entry 2 is 4"),
    ("embedding", {"n_values": 40}, V, "E must be in panels of shape (2, 40, 32)"),
    ("embedding gradient", {"turned": True}, V, "dE must be in panels of shape"),
    ("embedding", {"out": zeros(2, 4, 40)[:, :3], "index": np.zeros((2, 3), np.int32)}, V, "out must have its rows at"),
    ("embedding", {"out": zeros(3, 41)}, V, "out must be of shape (3, 40), not (3, 41)"),
    ("embedding gradient", {"index": np.array([0, 1, 7], np.int32)}, V, "index must be below 5; entry 2 is 7"),
    ("sample", {"blocks": []}, V, "blocks must be some, with a dilation each"),
    ("sample", {"dilations": [1]}, V, "blocks must be some, with a dilation each"),
    ("sample", {"dilations": [1, 0]}, V, "dilation must be 1 to 2^31, not 0"),
    ("sample", {"dilations": [1, HUGE]}, V, "dilation must be 1 to 2^31"),
    ("sample", {"dilations": [1, 4]}, V, "state must be 1-d of length 200"),
    ("sample", {"blocks": [LAST, LAST]}, V, "blocks must have the same channels, and a residual but for the last"),
    ("sample", {"blocks": [BLOCK._replace(skip=zeros(1, 20, 32), skip_bias=zeros(32)), LAST]}, V, "blocks must have"),
    ("sample", {"n_values": 0}, V, "n_values must be 1 to 256 for codes, not 0"),
    ("sample", {"n_values": 257}, V, "n_values must be 1 to 256 for codes, not 257"),
    ("sample", {"n_values": 5}, V, "input must be in panels of shape (1, 5, 32)"),
    ("sample", {"previous": np.array([0, 6], np.int32)}, V, "previous must be below 6; entry 1 is 6"),
    ("sample", {"head": (zeros(2, 33, 32),)}, V, "head must be (weights in panels, bias)"),
    ("sample", {"output": (zeros(1, 33, 32),)}, V, "output must be (weights in panels, bias)"),
    ("sample", {"head": (zeros(2, 32, 32), zeros(33))}, V, "head must be in panels of shape (2, 33, 32)"),
    ("sample", {"head": (zeros(2, 33, 32), zeros(32))}, V, "head_bias must be 1-d of length 33"),
    ("sample", {"output": (zeros(2, 33, 32), zeros(5))}, V, "output must be in panels of shape (1, 33, 32)"),
    ("sample", {"output": (zeros(1, 33, 32), zeros(6))}, V, "output_bias must be 1-d of length 5"),
    ("sample", {"frames": [Frames(zeros(2, 2, 64), 3, 1)]}, V, "frames must have one context for every block"),
    ("sample", {"frames": [Frames(zeros(2, 2, 64), 3, 1), None]}, V, "frames must have one context for every block"),
    ("sample", {"frames": [Frames(zeros(2, n, 64), 3, 1) for n in (2, 1)]}, V, "frames must have 2 frames, not 1"),
    ("sample", {"temperature": 0.0}, V, "temperature must be positive"),
    ("sample", {"temperature": np.nan}, V, "temperature must be positive"),
    ("sample", {"taken": -1}, T, "incompatible function arguments"),
    ("sample", {"n_threads": -1}, V, "n_threads must be a positive number"),
]  # fmt: skip


@pytest.mark.parametrize(("entrance", "changes", "error", "message"), BAD)
def test_bad_calls(entrance, changes, error, message):
    call, good, *_ = ENTRANCES[entrance]
    good = fresh(good)
    changes = {key: value(good) if callable(value) else value for key, value in changes.items()}
    with pytest.raises(error, match=re.escape(message)):
        call(**{**good, **changes})


def test_out_lies_apart():
    memory = zeros(3000)
    steps = memory[:70].reshape(2, 7, 5)
    with pytest.raises(V, match="out must share no memory with x"):
        kernels.causal_conv(steps, zeros(1, 5, 32), 5, out=steps)
    with pytest.raises(V, match="out must share no memory with x"):
        kernels.causal_conv(steps, zeros(2, 15, 32), 40, dilation=2, out=memory[69 : 69 + 240].reshape(2, 3, 40))
    kernels.causal_conv(steps, zeros(2, 15, 32), 40, dilation=2, out=memory[70:310].reshape(2, 3, 40))
    with pytest.raises(V, match="out must share no memory with dy"):
        kernels.causal_conv_input_gradient(steps, zeros(1, 5, 32), 5, out=steps)
    for name in ("y", "skip", "gates"):
        x = memory[:320].reshape(2, 8, 20)
        shape = GATED[name].shape
        with pytest.raises(V, match=f"{name} must share no memory with x"):
            kernels.gated_block(**{**GATED, "x": x, name: memory[300 : 300 + np.prod(shape)].reshape(shape)})
    for name in ("x", "gates", "dy", "dskip"):
        dx, shape = memory[:320].reshape(2, 8, 20), GATED_GRADIENT[name].shape
        with pytest.raises(V, match=f"dx must share no memory with {name}"):
            kernels.gated_block_gradient(
                **{**fresh(GATED_GRADIENT), "dx": dx, name: memory[310 : 310 + np.prod(shape)].reshape(shape)}
            )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": zeros(7, 5)}, "x and W must be 3-d"),
        ({"W": zeros(15, 40)}, "x and W must be 3-d"),
        ({"dilation": 0}, "dilation must be an integer >= 1, not 0"),
        ({"dilation": -1}, "dilation must be an integer >= 1, not -1"),
        ({"W": zeros(0, 5, 40)}, "W must have 1 to 16 taps, not 0"),
        ({"W": zeros(17, 5, 40)}, "W must have 1 to 16 taps, not 17"),
        ({"W": zeros(3, 4, 40)}, "W must have 5 inputs, as x has channels, not 4"),
    ],
)
def test_bad_conv1d(changes, message):
    good = {"x": zeros(2, 7, 5), "W": zeros(3, 5, 40), "dilation": 2}
    assert kernels.causal_conv1d(**good).shape == (2, 7, 40)
    with pytest.raises(V, match=re.escape(message)):
        kernels.causal_conv1d(**{**good, **changes})


@by_dtype
def test_nan_goes_where_it_is_seen(dtype):
    """A NaN reaches the outputs that see it, and no other."""
    p = Conv((2, 3, 5, 7, 20, 2), dtype)
    p.x[1, 10, 2] = np.nan
    bad = np.isnan(p.forward(p.x)).any(2)
    assert np.argwhere(bad).tolist() == [[1, 7], [1, 10]]
