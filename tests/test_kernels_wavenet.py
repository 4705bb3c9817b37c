"""Causal convolutions, WaveNet's block and generator, and embeddings against tests/reference/wavenet.py.

Sums are checked twice: near the equations in float64, and bit for bit against the rule of docs/reproducibility.md.
"""

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels import from_panels, to_panels
from chainrule.kernels.wavenet import Block, Frames, from_gate_panels, gate_order, gate_panels
from checking import assert_close, assert_same_bits, by_dtype, room_for, strided, with_threads
from reference import wavenet as reference
from reference.masked import chained, fma

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
        (out,), check = room_for(got.shape, dtype=dtype)
        assert p.forward(*strided(p.x), b, out=out) is out
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

    (out,), check = room_for(dx.shape, dtype=dtype)
    kernels.causal_conv_input_gradient(*strided(p.dy), p.panels, p.n_in, dilation=p.dilation, out=out)
    assert_same_bits(out, got_x)
    check()
    again = np.full(got_W.shape, 7, dtype)
    kernels.causal_conv_weight_gradient(*strided(p.x), *strided(p.dy), p.width, dilation=p.dilation, out=again)
    assert_same_bits(from_panels(again, p.n_out), from_panels(got_W, p.n_out))


@by_dtype
def test_nan_goes_where_it_is_seen(dtype):
    """A NaN reaches the outputs that see it, and no other."""
    p = Conv((2, 3, 5, 7, 20, 2), dtype)
    p.x[1, 10, 2] = np.nan
    bad = np.isnan(p.forward(p.x)).any(2)
    assert np.argwhere(bad).tolist() == [[1, 7], [1, 10]]


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
        (y,), y_check = room_for((m, self.steps, self.n), dtype=self.dtype)
        (skip,), skip_check = room_for((m, self.skip_steps, self.n_skip), dtype=self.dtype)
        (gates,), gates_check = room_for((m, self.steps, len(self.block.b)), dtype=self.dtype)
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
    for a, b in zip(p.run(x=strided(p.x)[0]), whole, strict=True):
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
