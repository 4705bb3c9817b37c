"""WaveNet's generator: its draws are those of the conditionals computed in parallel."""

import numpy as np
import pytest
from chainrule import kernels
from chainrule.conditionals import Categorical, LogisticMixture
from chainrule.conditionals.categorical import starts
from chainrule.kernels import to_panels
from chainrule.kernels.masked import Mask
from chainrule.kernels.wavenet import Frames
from checking import assert_same_bits, by_dtype, with_threads
from reference import wavenet as reference
from test_kernels_wavenet import block_of, gate_places


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
