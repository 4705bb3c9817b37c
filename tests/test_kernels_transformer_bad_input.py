"""What attention, packed products and a Transformer's step refuse."""

import re

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels import Cache, TransformerBlock, TransformerNetwork, Weights
from checking import T, V, arrays_of, fresh, readonly, unaligned, zeros


def counts(*values):
    return np.array(values, np.uint32)


ATTENTION = {
    "q": zeros(2, 3, 8), "k": zeros(2, 5, 4), "v": zeros(2, 5, 4), "n_heads": 4, "n_kv_heads": 2,
    "lengths": counts(5, 0), "out": zeros(2, 3, 8), "statistics": zeros(2, 4, 3),
}  # fmt: skip
GRADIENT = {key: ATTENTION[key] for key in ("q", "k", "v", "n_heads", "n_kv_heads", "lengths", "statistics")} | {
    "y": zeros(2, 3, 8), "dy": zeros(2, 3, 8), "dq": zeros(2, 3, 8), "dk": zeros(2, 5, 4), "dv": zeros(2, 5, 4),
}  # fmt: skip
CACHE = kernels.new_cache(2, 2, 2, 40)
STEP = {
    "q": zeros(2, 3, 8), "k": zeros(2, 3, 4), "v": zeros(2, 3, 4), "cache": CACHE, "lengths": counts(37, 0),
    "n_heads": 4, "n_kv_heads": 2, "out": zeros(2, 3, 8),
}  # fmt: skip
PLAIN = Weights(zeros(2, 300, 32), 40, None, zeros(40))
INT8 = Weights(zeros(2, 300, 32, dtype=np.int8), 40, np.ones((2, 2, 32), np.float32), zeros(40))
PRODUCT = {"x": zeros(3, 300), "weights": PLAIN, "addend": zeros(3, 40), "out": zeros(3, 40)}
NORM = (np.ones(6, np.float32), zeros(6))
DECODER = TransformerBlock(
    NORM, Weights(zeros(1, 6, 32), 16), Weights(zeros(1, 8, 32), 6), NORM, Weights(zeros(1, 6, 32), 8),
    Weights(zeros(1, 8, 32), 6), NORM, Weights(zeros(1, 6, 32), 9), Weights(zeros(1, 9, 32), 6),
)  # fmt: skip
GPT = DECODER._replace(cross_norm=None, cross_query=None, cross_projection=None)
NETWORK = {
    "blocks": [GPT, GPT], "token": Weights(zeros(1, 6, 32), 7), "output": Weights(zeros(1, 6, 32), 7),
    "position": zeros(50, 6), "norm": NORM, "n_heads": 4, "n_kv_heads": 2,
}  # fmt: skip
TOKENS = {
    "network": TransformerNetwork(**NETWORK), "tokens": zeros(2, 3, dtype=np.int32), "lengths": counts(37, 0),
    "caches": [CACHE, kernels.new_cache(2, 2, 2, 40)], "last": counts(0, 2), "out": zeros(2, 7),
}  # fmt: skip
LOOKING = TOKENS | {
    "network": TransformerNetwork(**NETWORK | {"blocks": [DECODER, DECODER]}),
    "cross": [kernels.new_cache(2, 2, 2, 9) for _ in "12"], "cross_lengths": counts(9, 0),
}  # fmt: skip
# The call, its arguments, what it writes, and what decides the precision.
ENTRANCES = {
    "attention": (kernels.attention, ATTENTION, "out statistics", "q"),
    "gradient": (kernels.attention_gradient, GRADIENT, "dq dk dv", "q"),
    "step": (kernels.attention_step, STEP, "out", "q"),
    "product": (kernels.packed_linear, PRODUCT, "out", "x"),
    "network": (TransformerNetwork, NETWORK, "", "position"),
    "tokens": (kernels.transformer_step, TOKENS, "out", None),
    "looking": (kernels.transformer_step, LOOKING, "out", None),
}
FREE = {  # axes that others follow, or that other arguments are blamed for
    ("attention", "q"): (0, 1, 2), ("attention", "k"): (1,), ("gradient", "q"): (0, 1, 2), ("gradient", "k"): (1,),
    ("step", "q"): (0, 1, 2), ("product", "x"): (0, 1), ("network", "position"): (0, 1), ("tokens", "tokens"): (0, 1),
    ("looking", "tokens"): (0, 1),
}  # fmt: skip


@pytest.mark.parametrize(("entrance", "name"), arrays_of(ENTRANCES))
def test_bad_arrays(entrance, name):
    call, good, written, decides = ENTRANCES[entrance]
    good = fresh(good)
    call(**good)
    array = good[name]

    def refused(bad, error, message):
        with pytest.raises(error, match=f"^{name} " + message):
            call(**{**good, name: bad})

    if name == decides:
        refused(array.astype(int), T, "must be float32 or float64, not int64")
    else:
        refused(array.astype(np.complex64), T, f"must be {array.dtype}, not complex64")
    for axis in range(array.ndim):
        if axis not in FREE.get((entrance, name), ()):
            refused(np.delete(array, 0, axis), V, "must be")
            refused(np.concatenate([array, array], axis), V, "must be")
    refused(array[None], V, "must be")
    spread = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
    refused(spread, V, "must (be|have) (C-)?(contiguous|its rows)")
    if name in written.split():
        refused(readonly(array), V, "is written to, but is read-only")
    else:
        call(**{**good, name: readonly(array)})
    refused(unaligned(array), V, "is not aligned to its elements")


def replaced(key, **changes):
    return lambda good: good[key]._replace(**changes)


def blocks_with(**changes):
    return lambda good: [good["blocks"][0], good["blocks"][1]._replace(**changes)]


def cached(**changes):
    return lambda good: [CACHE, good["caches"][1]._replace(**changes)]


BAD = [
    ("step", {"n_heads": 3}, V, "q must be of channels that are a multiple of n_heads = 3"),
    ("gradient", {"n_heads": 3}, V, "q must be of channels that are a multiple of n_heads = 3"),
    ("attention", {"n_heads": 0}, V, "q must be of channels that are a multiple of n_heads = 0"),
    ("attention", {"n_kv_heads": 3}, V, "n_heads must be a multiple of n_kv_heads, not 4 and 3"),
    ("attention", {"n_kv_heads": 0}, V, "n_heads must be a multiple of n_kv_heads, not 4 and 0"),
    ("attention", {"n_kv_heads": -1}, T, "incompatible function arguments"),
    ("attention", {"q": zeros(2, 3, 0)}, V, "a head must have channels"),
    ("attention", {"q": zeros(2, 3, 12)}, V, "k must be 3-d of shape (2, any, 6)"),
    ("attention", {"q": zeros(1, 3, 8)}, V, "k must be 3-d of shape (1, any, 4)"),
    ("attention", {"k": zeros(2, 6, 4)}, V, "v must be 3-d of shape (2, 6, 4)"),
    ("attention", {"q": zeros(2, 4, 8)}, V, "out must be 3-d of shape (2, 4, 8)"),
    ("attention", {"lengths": counts(5, 6)}, V, "lengths must be at most 5; entry 1 is 6"),
    ("attention", {"statistics": zeros(2, 3, 4)}, V, "statistics must be C-contiguous of shape (2, 4, 3)"),
    ("attention", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("attention", {"k": 3}, T, "kernels take arrays"),
    ("gradient", {"q": zeros(2, 3, 12)}, V, "k must be 3-d of shape (2, any, 6)"),
    ("gradient", {"q": zeros(2, 4, 8)}, V, "statistics must be C-contiguous of shape (2, 4, 4)"),
    ("gradient", {"k": zeros(2, 6, 4), "v": zeros(2, 6, 4)}, V, "dk must be 3-d of shape (2, 6, 4)"),
    ("gradient", {"lengths": counts(6, 5)}, V, "lengths must be at most 5; entry 0 is 6"),
    ("gradient", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("step", {"k": None}, V, "k and v must be given both, or neither"),
    ("step", {"v": None}, V, "k and v must be given both, or neither"),
    ("step", {"q": zeros(2, 4, 8)}, V, "out must be 3-d of shape (2, 4, 8)"),
    ("step", {"q": zeros(2, 4, 8), "out": zeros(2, 4, 8)}, V, "k must be 3-d of shape (2, 4, 4)"),
    ("step", {"cache": CACHE[:2]}, V, "cache must be (keys, values, capacity)"),
    ("step", {"cache": CACHE.keys}, V, "cache must be (keys, values, capacity)"),
    ("step", {"cache": CACHE._replace(capacity="40")}, T, "cache's capacity must be an integer in range, not 40"),
    ("step", {"cache": CACHE._replace(capacity=-1)}, T, "cache's capacity must be an integer in range, not -1"),
    ("step", {"cache": CACHE._replace(capacity=64)}, V, "cache must be C-contiguous of shape (2, 2, 64, 32)"),
    ("step", {"cache": CACHE._replace(capacity=65)}, V, "cache must be C-contiguous of shape (2, 2, 3, 2, 32)"),
    ("step", {"cache": CACHE._replace(keys=None)}, T, "cache must be a NumPy array"),
    ("step", {"cache": CACHE._replace(keys=zeros(2, 2, 2, 2, 32, dtype=float))}, T, "cache must be float32, not float"),
    ("step", {"cache": CACHE._replace(keys=zeros(2, 2, 2, 3, 32))}, V, "cache must be C-contiguous of shape (2, 2, 2,"),
    ("step", {"cache": CACHE._replace(values=zeros(2, 2, 40, 2))}, V, "cache must be C-contiguous of shape (2, 2, 40,"),
    ("step", {"cache": CACHE._replace(values=readonly(CACHE.values))}, V, "cache is written to, but is read-only"),
    ("step", {"cache": CACHE._replace(values=zeros(4, 2, 40, 32)[::2])}, V, "cache must be C-contiguous"),
    ("step", {"lengths": counts(38, 0)}, V, "cache has room for 40 steps; sequence 0 has 38 and 3 new ones"),
    ("step", {"lengths": counts(0, 2**32 - 1)}, V, "cache has room for 40 steps; sequence 1 has 4294967295"),
    ("step", {"k": None, "v": None, "lengths": counts(0, 41)}, V, "cache has room for 40 steps; sequence 1 has 41 and"),
    ("step", {"n_kv_heads": 3}, V, "n_heads must be a multiple of n_kv_heads, not 4 and 3"),
    ("step", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("product", {"x": zeros(3, 299)}, V, "weights must be C-contiguous in panels (2, 299, 32)"),
    ("product", {"x": zeros(4, 300)}, V, "out must be 2-d of shape (4, 40)"),
    ("product", {"x": zeros(3, 300, dtype=float)}, T, "weights must be float64, uint16 (bf16) or int8, not float32"),
    ("product", {"weights": PLAIN[:3]}, V, "weights must be (W, n_out, scale, b)"),
    ("product", {"weights": PLAIN._replace(n_out=0)}, V, "weights must have outputs, not 0"),
    ("product", {"weights": PLAIN._replace(n_out=65)}, V, "weights must be C-contiguous in panels (3, 300, 32)"),
    ("product", {"weights": PLAIN._replace(n_out=32)}, V, "weights must be C-contiguous in panels (1, 300, 32)"),
    ("product", {"weights": PLAIN._replace(n_out=39)}, V, "b must be 1-d of length 39"),
    ("product", {"weights": PLAIN._replace(W=zeros(2, 600, 32)[:, ::2])}, V, "weights must be C-contiguous in panels"),
    ("product", {"weights": PLAIN._replace(W=zeros(2, 300, 32, dtype=int))}, T, "weights must be float32, uint16 (bf1"),
    ("product", {"weights": PLAIN._replace(b=zeros(40, dtype=float))}, T, "b must be float32, not float64"),
    ("product", {"weights": PLAIN._replace(b=zeros(80)[::2])}, V, "b must be contiguous"),
    ("product", {"weights": PLAIN._replace(W=zeros(2, 0, 32)), "x": zeros(3, 0)}, V, "weights must have inputs"),
    ("product", {"weights": INT8._replace(scale=None)}, V, "weights must have a scale, being int8"),
    ("product", {"weights": INT8._replace(scale=zeros(2, 1, 32))}, V, "scale must be C-contiguous of shape (2, 2, 32)"),
    ("product", {"weights": INT8._replace(scale=zeros(2, 2, 32, dtype=float))}, T, "scale must be float32, not float6"),
    ("product", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("network", {"blocks": []}, V, "blocks must be some"),
    ("network", {"blocks": [GPT, GPT[:8]]}, V, "a block must be a TransformerBlock, of 9 parts"),
    ("network", {"blocks": [GPT, DECODER]}, V, "blocks must all have cross-attention, or none"),
    ("network", {"blocks": [DECODER, GPT]}, V, "blocks must all have cross-attention, or none"),
    ("network", {"blocks": blocks_with(cross_norm=NORM)}, V, "cross_norm, cross_query and cross_projection must be gi"),
    ("network", {"blocks": blocks_with(cross_query=DECODER[4])}, V, "cross_norm, cross_query and cross_projection mus"),
    ("network", {"blocks": blocks_with(norm=None)}, V, "a block's norms must be given"),
    ("network", {"blocks": blocks_with(mlp_norm=None)}, V, "a block's norms must be given"),
    ("network", {"blocks": blocks_with(norm=NORM[:1])}, V, "norm must be (gain, bias)"),
    ("network", {"blocks": blocks_with(mlp_norm=(NORM[0], zeros(7)))}, V, "mlp_norm must be 1-d of length 6"),
    ("network", {"blocks": blocks_with(query_key_value=Weights(zeros(1, 6, 32), 15))}, V, "query_key_value must have"),
    ("network", {"blocks": blocks_with(query_key_value=GPT.projection)}, V, "query_key_value must be C-contiguous in"),
    ("network", {"blocks": blocks_with(projection=Weights(zeros(1, 8, 32), 7))}, V, "projection must have 6 outputs,"),
    ("network", {"blocks": blocks_with(projection=Weights(zeros(1, 9, 32), 6))}, V, "projection must be C-contiguous"),
    ("network", {"blocks": blocks_with(up=Weights(zeros(1, 7, 32), 9))}, V, "up must be C-contiguous in panels (1, 6,"),
    ("network", {"blocks": blocks_with(down=Weights(zeros(1, 8, 32), 6))}, V, "down must be C-contiguous in panels (1"),
    ("network", {"blocks": blocks_with(down=Weights(zeros(1, 9, 32), 5))}, V, "down must have 6 outputs, not 5"),
    ("network", {"blocks": blocks_with(down=Weights(zeros(1, 9, 32, dtype=float), 6))}, T, "down must be float32, uin"),
    ("network", {"token": Weights(zeros(1, 7, 32), 7)}, V, "token must be C-contiguous in panels (1, 6, 32)"),
    ("tokens", {"out": zeros(2, 8)}, V, "out must be of shape (2, 7), not (2, 8)"),
    ("network", {"output": Weights(zeros(2, 6, 32), 7)}, V, "output must be C-contiguous in panels (1, 6, 32)"),
    ("network", {"position": zeros(50, 7)}, V, "token must be C-contiguous in panels (1, 7, 32)"),
    ("network", {"position": zeros(50, 12)[:, :6]}, V, "position must be C-contiguous"),
    ("network", {"norm": NORM[:1]}, V, "norm must be (gain, bias)"),
    ("network", {"norm": (zeros(6, dtype=float), zeros(6))}, T, "norm must be float32, not float64"),
    ("network", {"n_heads": 3}, V, "n_heads must be a multiple of n_kv_heads, not 3 and 2"),
    ("network", {"n_heads": 0}, V, "n_heads must be a multiple of n_kv_heads, not 0 and 2"),
    ("network", {"n_heads": 16}, V, "a head must have channels"),
    ("network", {"activation": "swish"}, V, "activation must be one of"),
    ("network", {"epsilon": 0.0}, V, "epsilon must be positive, not 0.0"),
    ("network", {"epsilon": np.nan}, V, "epsilon must be positive, not nan"),
    ("tokens", {"tokens": np.array([[0, 1, 6], [2, 7, 0]], np.int32)}, V, "tokens must be below 7; that of row 1, ste"),
    ("tokens", {"tokens": zeros(3, 3, dtype=np.int32)}, V, "out must be of shape (3, 7), not (2, 7)"),
    ("tokens", {"tokens": zeros(3, 3, dtype=np.int32), "out": None}, V, "lengths must be 1-d of length 3"),
    ("tokens", {"lengths": counts(48, 0)}, V, "tokens must end within 50 positions; row 0 has 48 and 3 new ones"),
    ("tokens", {"lengths": counts(38, 0)}, V, "caches has room for 40 steps; sequence 0 has 38 and 3 new ones"),
    ("tokens", {"last": counts(2, 3)}, V, "last must be below the number of steps, 3; entry 1 is 3"),
    ("tokens", {"last": None}, V, "out must be of shape (2, 3, 7), not (2, 7)"),
    ("tokens", {"last": None, "out": zeros(2, 6, 7)[:, ::2]}, None, ""),
    ("tokens", {"last": None, "out": zeros(2, 4, 7)[:, :3]}, V, "out must have its rows at one distance from each oth"),
    ("tokens", {"caches": [CACHE]}, V, "caches must be a list of one cache for every block"),
    ("tokens", {"caches": (CACHE, CACHE)}, V, "caches must be a list of one cache for every block"),
    ("tokens", {"caches": [CACHE, CACHE.keys]}, V, "caches must be (keys, values, capacity)"),
    ("tokens", {"caches": cached(keys=zeros(2, 2, 2, 3, 32))}, V, "caches must be C-contiguous of shape (2, 2, 2, 2,"),
    ("tokens", {"caches": cached(keys=CACHE.keys)}, V, "caches must share no memory with one another"),
    ("tokens", {"caches": [CACHE, CACHE]}, V, "caches must share no memory with one another"),
    ("tokens", {"cross": LOOKING["cross"]}, V, "cross must be given for a network with cross-attention, and for no ot"),
    ("tokens", {"n_threads": -1}, V, "n_threads must be a positive number"),
    ("looking", {"cross": None}, V, "cross must be given for a network with cross-attention, and for no other"),
    ("looking", {"cross": LOOKING["cross"][:1]}, V, "cross must be a list of one cache for every block"),
    ("looking", {"cross_lengths": None}, V, "cross_lengths must be given with cross"),
    ("looking", {"cross_lengths": counts(9, 10)}, V, "cross has room for 9 steps; sequence 1 has 10"),
    ("looking", {"cross": LOOKING["caches"]}, V, "caches must share no memory with cross"),
    ("looking", {"cross": [LOOKING["cross"][0]] * 2}, None, ""),  # what is read alone may be shared
]  # fmt: skip


@pytest.mark.parametrize(("entrance", "changes", "error", "message"), BAD)
def test_bad_calls(entrance, changes, error, message):
    call, good, *_ = ENTRANCES[entrance]
    good = fresh(good)
    changes = {key: value(good) if callable(value) else value for key, value in changes.items()}
    if error is None:
        call(**{**good, **changes})
        return
    with pytest.raises(error, match=re.escape(message)):
        call(**{**good, **changes})


OVERLAPS = [
    (e, out, name) for e, (_, good, written, _) in ENTRANCES.items() for out in written.split() for name in good
]


@pytest.mark.parametrize(("entrance", "out", "name"), OVERLAPS)
def test_outputs_lie_apart(entrance, out, name):
    """What is written shares no memory with anything else of its dtype, not even the last element."""
    call, good, *_ = ENTRANCES[entrance]
    good = fresh(good)
    a, b = good[out], good[name]
    if name == out or not isinstance(b, np.ndarray) or b.dtype != a.dtype:
        return
    for shared in (0, 1):
        memory = np.zeros(a.size + b.size, a.dtype)
        good[out] = memory[: a.size].reshape(a.shape)
        good[name] = memory[a.size - shared : a.size - shared + b.size].reshape(b.shape)
        if not shared:
            call(**good)
            continue
        with pytest.raises(
            V, match=f"^({out} must share no memory with {name}|{name} must share no memory with {out})$"
        ):
            call(**good)


def test_a_cache_lies_apart():
    memory = zeros(2 * 2 * 2 * 2 * 32 + 2 * 2 * 40 * 32)
    keys = memory[:512].reshape(2, 2, 2, 2, 32)
    for at, fits in ((511, False), (512, True)):
        cache = Cache(keys, memory[at : at + 5120].reshape(2, 2, 40, 32), 40)
        if fits:
            kernels.attention_step(**{**STEP, "cache": cache})
            kernels.attention_step(**{**STEP, "cache": cache, "out": zeros(2, 3, 8)})
        else:
            with pytest.raises(V, match="cache must share no memory with one another"):
                kernels.attention_step(**{**STEP, "cache": cache})
    for name in ("q", "k", "v", "out"):
        array = memory[: STEP[name].size].reshape(STEP[name].shape)
        with pytest.raises(V, match="must share no memory with"):
            kernels.attention_step(**{**STEP, "cache": cache, name: array})
    kernels.attention_step(**{**STEP, "cache": cache, "k": None, "v": None, "q": memory[:48].reshape(2, 3, 8)})
    with pytest.raises(V, match="out must share no memory with cache"):
        kernels.attention_step(**{**STEP, "cache": cache, "k": None, "v": None, "out": memory[:48].reshape(2, 3, 8)})
    with pytest.raises(V, match="out must share no memory with caches"):
        kernels.transformer_step(**{**TOKENS, "caches": [TOKENS["caches"][1], cache], "out": memory[:14].reshape(2, 7)})


@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_side_by_side(steps):
    """dq, dk and dv may be channels of one array, one after the other, but not overlap."""
    good = {key: a for key, a in GRADIENT.items() if key not in ("dq", "dk", "dv")}
    for key in ("q", "y", "dy"):
        good[key] = zeros(2, steps, 8)
    good |= {"k": zeros(2, steps, 4), "v": zeros(2, steps, 4), "statistics": zeros(2, 4, steps), "lengths": None}
    for rows in (1, 2):
        few = {key: a[:rows] if isinstance(a, np.ndarray) else a for key, a in good.items()}
        memory = zeros(2, steps + 1, 20)[:rows, :steps]
        parts = {"dq": memory[..., :8], "dk": memory[..., 8:12], "dv": memory[..., 12:16]}
        kernels.attention_gradient(**few, **parts)
        for name, begin in {"dk": 7, "dv": 11}.items():
            bad = {**parts, name: memory[..., begin : begin + 4]}
            with pytest.raises(V, match="must share no memory with"):
                kernels.attention_gradient(**few, **bad)


def test_the_statistics_are_needed():
    good = fresh(GRADIENT)
    good["statistics"] = None
    with pytest.raises(T, match="kernels take arrays"):
        kernels.attention_gradient(**good)
