"""A Transformer's step over kept keys and values, against its equations and the kernels that training uses."""

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels import Cache, TransformerBlock, TransformerNetwork, pack, to_panels
from chainrule.kernels.masked import Mask
from checking import DTYPES, C, assert_close, assert_same, assert_same_bits, by_dtype, with_threads
from reference import attention as reference
from test_kernels_attention import compositions, empty_cache
from test_kernels_packed_linear import dequantised, from_bf16

# Blocks, heads, of keys, head size, width, hidden units, values, hidden units' activation; what is special.
NETS = {
    "GPT": (2, 4, 4, 8, 32, 64, 37, "gelu", "tied"),
    "the original": (2, 2, 2, 16, 32, 50, 33, "relu", "post"),
    "heads share keys": (1, 6, 2, 3, 17, 33, 5, "gelu_exact", ""),
    "levels": (1, 2, 2, 8, 16, 24, 37, "gelu", "levels"),
    "no biases": (2, 1, 1, 33, 9, 300, 40, "tanh", "bare"),
    "a decoder": (2, 4, 2, 5, 20, 31, 7, "gelu", "cross"),
    "the original decoder": (2, 2, 1, 64, 40, 64, 32, "sigmoid", "post cross"),
    "wide": (1, 3, 3, 100, 270, 33, 3, "gelu", ""),
}
by_net = pytest.mark.parametrize("name", NETS)


class Net:
    """A network: its parameters, `transformer_step`, and the same pass made of the kernels that training uses."""

    def __init__(self, name, dtype, n_positions=320, format="float32"):
        n_blocks, self.n_heads, self.n_kv, self.size, width, hidden, self.n_values, self.activation, kind = NETS[name]
        self.post, self.cross, self.dtype, self.width = "post" in kind, "cross" in kind, dtype, width
        rng = np.random.default_rng(len(name))
        heads, kept = self.n_heads * self.size, self.n_kv * self.size

        def matrix(n_in, n_out):
            b = None if kind == "bare" else rng.normal(0, 0.3, n_out).astype(dtype)
            return rng.normal(0, n_in**-0.5, (n_in, n_out)).astype(dtype), b

        def norm():
            return rng.normal(1, 0.3, width).astype(dtype), rng.normal(0, 0.3, width).astype(dtype)

        cross = {"cross_norm": norm(), "cross_query": matrix(width, heads), "cross_projection": matrix(heads, width)}
        self.p = {
            "token": rng.normal(size=(self.n_values, width)).astype(dtype),
            "position": rng.normal(size=(n_positions, width)).astype(dtype),
            "blocks": [
                {
                    "norm": norm(), "qkv": matrix(width, heads + 2 * kept), "projection": matrix(heads, width),
                    **(cross if self.cross else {}),
                    "mlp_norm": norm(), "up": matrix(width, hidden), "down": matrix(hidden, width),
                }
                for _ in range(n_blocks)
            ],
            "last_norm": None if self.post else norm(),
        }  # fmt: skip
        self.n_out = 15 if kind == "levels" else self.n_values  # of levels, the parameters of a mixture, with a bias
        output, self.bias = matrix(width, self.n_out)
        self.bias = self.bias if kind == "levels" else None
        self.p["output"] = self.p["token"] if kind == "tied" else output.T
        self.network, self.memories = self.made(format), {}

    def made(self, format="float32"):
        def weights(block, name):
            return pack(to_panels(block[name][0]), block[name][0].shape[1], block[name][1], format=format)

        blocks = [
            TransformerBlock(
                b["norm"], weights(b, "qkv"), weights(b, "projection"), b.get("cross_norm"),
                weights(b, "cross_query") if self.cross else None,
                weights(b, "cross_projection") if self.cross else None,
                b["mlp_norm"], weights(b, "up"), weights(b, "down"),
            )
            for b in self.p["blocks"]
        ]  # fmt: skip
        token = pack(to_panels(self.p["token"].T), self.n_values, format=format)
        output = pack(to_panels(self.p["output"].T), self.n_out, self.bias, format=format)
        return TransformerNetwork(
            blocks, token, output, self.p["position"], self.p["last_norm"], n_heads=self.n_heads,
            n_kv_heads=self.n_kv, activation=self.activation, post_norm=self.post,
        )  # fmt: skip

    def caches(self, rows, capacity=None):
        capacity = capacity or len(self.p["position"])
        return [empty_cache(rows, self.n_kv, self.size, capacity, self.dtype) for _ in self.p["blocks"]]

    def memory(self, rows, steps=45):
        """What cross-attention looks at: keys, values and lengths, and the options that give them to a step."""
        if not self.cross:
            return {}, {}
        if rows not in self.memories:
            self.memories[rows] = self._memory(rows, steps)
        return self.memories[rows]

    def _memory(self, rows, steps):
        rng = np.random.default_rng(rows)
        shape = (len(self.p["blocks"]), 2, rows, steps, self.n_kv * self.size)
        kept, lengths = rng.normal(size=shape).astype(self.dtype), rng.integers(0, steps + 1, rows).astype(np.uint32)
        caches = self.caches(rows, steps)
        for cache, (k, v) in zip(caches, kept, strict=True):
            q = np.zeros((rows, steps, self.n_heads * self.size), self.dtype)
            kernels.attention_step(
                q, k, v, cache, np.zeros(rows, np.uint32), n_heads=self.n_heads, n_kv_heads=self.n_kv
            )
        return {"memory": list(kept), "lengths": lengths}, {"cross": caches, "cross_lengths": lengths}

    def step(self, tokens, lengths=None, caches=None, **options):
        lengths = np.zeros(len(tokens), np.uint32) if lengths is None else lengths
        caches = self.caches(len(tokens)) if caches is None else caches
        options = self.memory(len(tokens))[1] | options
        return kernels.transformer_step(self.network, tokens, lengths, caches, **options)

    def in_steps(self, tokens, parts, **options):
        """Logits of calls of so many tokens each, and the caches."""
        caches, found, at = self.caches(len(tokens)), [], 0
        options = self.memory(len(tokens))[1] | options
        for n in parts:
            lengths = np.full(len(tokens), at, np.uint32)
            found.append(self.step(tokens[:, at : at + n], lengths, caches, **options))
            at += n
        return np.concatenate(found, axis=1), caches

    def linear(self, x, parameters, addend=None):
        W, b = parameters
        flat = x.reshape(-1, W.shape[0])
        addend = None if addend is None else addend.reshape(len(flat), -1)
        y = kernels.masked_linear(flat, to_panels(W), b, mask=Mask.dense(*W.shape), addend=addend)
        return y.reshape(*x.shape[:-1], W.shape[1])

    def activate(self, x):
        if "gelu" in self.activation:
            return kernels.gelu(x, form="erf" if "exact" in self.activation else "tanh")
        return (
            np.where(x < 0, 0, x).astype(x.dtype) if self.activation == "relu" else getattr(kernels, self.activation)(x)
        )

    def plain(self, tokens):
        """The pass that training makes, from kernels that keep nothing."""
        memory = self.memory(len(tokens))[0]
        heads, kept = self.n_heads * self.size, self.n_kv * self.size
        of_heads = {"n_heads": self.n_heads, "n_kv_heads": self.n_kv}
        table = to_panels(self.p["token"].T)
        x = kernels.embedding(tokens, table, self.width, n_values=self.n_values) + self.p["position"][: tokens.shape[1]]

        def normed(x, norm):
            return kernels.layer_norm(x.reshape(-1, self.width), *norm).reshape(x.shape)

        for l, block in enumerate(self.p["blocks"]):

            def attend(x, block=block):
                q, k, v = np.split(self.linear(x, block["qkv"]), [heads, heads + kept], axis=2)
                return kernels.attention(q, k, v, **of_heads)

            def look(x, block=block, l=l):
                q = self.linear(x, block["cross_query"])
                return kernels.attention(q, *memory["memory"][l], causal=False, lengths=memory["lengths"], **of_heads)

            def think(x, block=block):
                return self.activate(self.linear(x, block["up"]))

            sublayers = [
                ("norm", attend, "projection"),
                ("cross_norm", look, "cross_projection"),
                ("mlp_norm", think, "down"),
            ]
            for norm, f, out in sublayers:
                if f is look and not self.cross:
                    continue
                x = self.linear(f(x if self.post else normed(x, block[norm])), block[out], addend=x)
                x = normed(x, block[norm]) if self.post else x
        if self.p["last_norm"] is not None:
            x = normed(x, self.p["last_norm"])
        return self.linear(x, (self.p["output"].T, self.bias))

    def reference(self, tokens, **parameters):
        memory = self.memory(len(tokens))[0]
        p = {**self.p, **parameters}
        logits = reference.transformer_logits(
            p, tokens, self.n_heads, self.n_kv, self.activation, post_norm=self.post, **memory
        )
        return logits if self.bias is None else logits + self.bias

    def tokens(self, rows, steps):
        return np.random.default_rng([rows, steps]).integers(-1, self.n_values, (rows, steps)).astype(np.int32)


def assert_same_caches(some, others, steps):
    """The same keys and values of the first steps."""
    for a, b in zip(some, others, strict=True):
        keys = [c.keys.swapaxes(3, 4).reshape(*c.keys.shape[:2], -1, c.keys.shape[3])[:, :, :steps] for c in (a, b)]
        assert_same_bits(*keys)
        assert_same_bits(a.values[:, :, :steps], b.values[:, :, :steps])
        assert np.isfinite(keys[0]).all()


@by_dtype
@by_net
def test_transformer(name, dtype):
    net = Net(name, dtype)
    tokens = net.tokens(3, 12)
    tokens[:, 0] = -1
    (logits,) = with_threads(lambda t: (net.step(tokens, n_threads=t),))
    assert_same_bits(logits, net.plain(tokens))
    assert_close(logits, net.reference(tokens), dtype, 4 * net.width, c=4 * C)
    for row in range(3):
        mine = slice(row, row + 1)
        options = {
            "cross": [Cache(c.keys[mine], c.values[mine], c.capacity) for c in net.memory(3)[1]["cross"]],
            "cross_lengths": net.memory(3)[1]["cross_lengths"][mine],
        } if net.cross else {}  # fmt: skip
        assert_same_bits(net.step(tokens[mine], **options), logits[mine])
    wide = np.full((3, 17), 7, np.int32)
    wide[:, 2:14] = tokens
    out = np.full((36, net.n_out + 3), 7, dtype)
    inside = out.reshape(3, 12, -1)[:, :, 1:-2]
    assert net.step(wide[:, 2:14], out=inside) is inside
    assert_same_bits(inside, logits)
    assert (out[:, [0, -2, -1]] == 7).all()


@by_net
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda t: t.__name__)
def test_every_split_of_twelve_tokens(name, dtype):
    net = Net(name, dtype, n_positions=12)
    tokens = net.tokens(1, 12)
    whole = net.plain(tokens)
    splits = list(compositions(12))
    every = name in ("GPT", "a decoder") and dtype is np.float32
    for parts in splits if every else splits[:: len(splits) // 40]:
        assert_same_bits(net.in_steps(tokens, parts, n_threads=1)[0], whole)


@by_dtype
@pytest.mark.parametrize("name", ["GPT", "the original decoder", "wide"])
def test_long_prompts(name, dtype):
    net = Net(name, dtype)
    tokens = net.tokens(2, 320)
    whole = net.plain(tokens)
    first = None
    for parts in ([320], [1] * 5 + [300, 15], [256, 1, 63], [255, 2, 40, 23], [31, 33, 256]):
        found, caches = net.in_steps(tokens, parts)
        assert_same_bits(found, whole)
        first = first or caches
        assert_same_caches(caches, first, 320)


@by_dtype
@by_net
def test_ragged_prompts(name, dtype):
    """Rows of different lengths in a batch, and the logits of one step of each."""
    net = Net(name, dtype)
    whole_lengths = np.array([0, 1, 5, 31, 40], np.uint32)
    tokens = net.tokens(5, 60)
    whole = net.plain(tokens)

    def step(lengths, n, caches, **options):
        new = np.stack([row[at : at + n] for row, at in zip(tokens, lengths, strict=True)])
        return net.step(new, lengths, caches, **options)

    def primed():
        """Each row's own prompt in the caches, garbage beyond it: prompts are padded on the right."""
        caches = net.caches(5)
        padded = np.where(np.arange(40) < whole_lengths[:, None], tokens[:, :40], 0).astype(np.int32)
        assert net.step(padded, None, caches, logits=False) is None
        return caches

    caches = primed()
    rows = np.arange(5)
    lengths = whole_lengths
    for n in (1, 1, 7):
        want = np.stack([whole[r, at : at + n] for r, at in enumerate(lengths)])
        assert_same_bits(step(lengths, n, caches), want)
        lengths = lengths + np.uint32(n)
    for last in ([0, 1, 2, 3, 4], [6, 0, 6, 5, 1]):
        again = primed()
        got = step(whole_lengths, 7, again, last=np.array(last, np.uint32))
        assert_same_bits(got, whole[rows, whole_lengths + np.array(last)])
        got = step(whole_lengths + np.uint32(7), 2, again, last=np.ones(5, np.uint32))
        assert_same_bits(got, whole[rows, whole_lengths + 8])
    silent, loud = primed(), primed()
    assert step(whole_lengths, 7, silent, logits=False) is None
    step(whole_lengths, 7, loud)
    for a, b in zip(silent, loud, strict=True):
        assert_same(a[:2], b[:2])


def test_nothing_new():
    net = Net("GPT", np.float32)
    caches = net.caches(2)
    assert net.step(np.zeros((2, 0), np.int32), np.full(2, 320, np.uint32), caches).shape == (2, 0, 37)
    assert net.step(np.zeros((0, 3), np.int32)).shape == (0, 3, 37)
    assert net.step(np.zeros((0, 3), np.int32), last=np.zeros(0, np.uint32)).shape == (0, 37)
    assert np.isnan(caches[0].keys).all()


@by_dtype
@by_net
def test_a_network_of_fewer_bits(name, dtype):
    """bf16: the bits of the network of rounded weights. int8: near the network of the integers' weights."""
    tokens = Net(name, dtype).tokens(3, 14)

    def packed(format):
        """A network, and its parameters as they are packed."""
        net = Net(name, dtype, format=format)

        def near(W):
            w = pack(to_panels(W), W.shape[1], format=format)
            return kernels.from_panels(from_bf16(w.W), w.n_out).astype(dtype) if format == "bf16" else dequantised(w)

        for block in net.p["blocks"]:
            for part, value in block.items():
                if "norm" not in part:
                    block[part] = near(value[0]), value[1]
        net.p["token"], net.p["output"] = near(net.p["token"].T).T, near(net.p["output"].T).T
        return net

    net = packed("bf16")
    logits, _ = net.in_steps(tokens, [12, 1, 1])
    assert_same_bits(logits, net.plain(tokens))
    net = packed("int8")
    logits, _ = net.in_steps(tokens, [12, 1, 1])
    assert_close(logits, net.reference(tokens), dtype, 4 * net.width, c=4 * C)
    assert_same_bits(net.step(tokens, n_threads=3), logits)
