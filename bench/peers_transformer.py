"""Transformers in PyTorch, JAX, the transformers library and llama.cpp, as fast as we could make each of them.

PyTorch trains by autograd over `scaled_dot_product_attention`, with fused AdamW. Tried and left out, no faster (by CPU
time on one thread): `torch.compile`, which takes minutes; memory that is never returned to the system; huge pages. The
transformers library decodes by `generate`, or in a loop of our own over its cache. llama.cpp gets the same weights in a
GGUF file, and is called by its C interface: a batch, and the most likely token of its logits.
"""

from __future__ import annotations

import ctypes
import tempfile
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import threads
from bench.peers_masked import pytorch
from bench.problems import Array
from bench.problems_transformer import DECAY, RATE, Problem

NORMS = ("ln_1", "ln_2")
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def decays(name: str) -> bool:
    """Matrices and tables do, biases and norms do not."""
    return name.endswith("weight") and "ln_" not in name


# ---- A step of training


class TorchTraining:
    """Parameters under GPT-2's names; matrices (outputs, inputs), as `linear` likes them best."""

    def __init__(self, problem: Problem) -> None:
        self.torch, self.shape, self.names = pytorch(), problem.shape, list(problem.parameters)
        self.x, self.t = (self.torch.from_numpy(a.astype(np.int64)) for a in (problem.inputs, problem.targets))
        self.p = {
            name: self.torch.tensor(np.ascontiguousarray(a.T) if name.startswith("h.") else a, requires_grad=True)
            for name, a in problem.parameters.items()
        }
        groups = [
            {"params": [p for name, p in self.p.items() if decays(name) == decayed], "weight_decay": decay}
            for decayed, decay in ((True, DECAY), (False, 0.0))
        ]
        self.optimizer = self.torch.optim.AdamW(groups, lr=RATE, fused=True)

    def linear(self, x: Any, name: str) -> Any:
        return self.torch.nn.functional.linear(x, self.p[f"{name}.weight"], self.p[f"{name}.bias"])

    def norm(self, x: Any, name: str) -> Any:
        gain, bias = self.p[f"{name}.weight"], self.p[f"{name}.bias"]
        return self.torch.nn.functional.layer_norm(x, gain.shape, gain, bias)

    def logits(self) -> Any:
        F, (rows, steps), s = self.torch.nn.functional, self.x.shape, self.shape
        h = F.embedding(self.x, self.p["wte.weight"]) + self.p["wpe.weight"]
        for l in range(s.n_layers):
            qkv = self.linear(self.norm(h, f"h.{l}.ln_1"), f"h.{l}.attn.c_attn")
            q, k, v = (a.view(rows, steps, s.n_heads, -1).transpose(1, 2) for a in qkv.split(s.width, 2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows, steps, s.width)
            h = h + self.linear(y, f"h.{l}.attn.c_proj")
            hidden = self.linear(self.norm(h, f"h.{l}.ln_2"), f"h.{l}.mlp.c_fc")
            h = h + self.linear(F.gelu(hidden, approximate="tanh"), f"h.{l}.mlp.c_proj")
        return F.linear(self.norm(h, "ln_f"), self.p["wte.weight"]).view(rows * steps, s.n_values)

    def step(self) -> float:
        """The loss before it, in nats a token."""
        loss = self.torch.nn.functional.cross_entropy(self.logits(), self.t.view(-1))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def parameters(self) -> dict[str, Array]:
        """Under GPT-2's names and in its layout."""
        arrays = {name: p.detach().numpy() for name, p in self.p.items()}
        return {name: a.T if name.startswith("h.") else a for name, a in arrays.items()}


class JaxTraining:
    """A step compiled whole, its state donated."""

    def __init__(self, problem: Problem) -> None:
        self.jax = jax = pytest.importorskip("jax")
        jnp, tree, s = jax.numpy, jax.tree.map, problem.shape
        self.x, self.t = jnp.array(problem.inputs), jnp.array(problem.targets)
        rows, steps = problem.inputs.shape
        visible = np.tril(np.ones((steps, steps), bool))

        def norm(p: Any, x: Any, name: str) -> Any:
            x = x - x.mean(1, keepdims=True)
            return x * jax.lax.rsqrt((x * x).mean(1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

        def linear(p: Any, x: Any, name: str) -> Any:
            return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

        def loss(p: Any, x: Any, t: Any) -> Any:
            h = (p["wte.weight"][x] + p["wpe.weight"]).reshape(rows * steps, s.width)
            for l in range(s.n_layers):
                qkv = linear(p, norm(p, h, f"h.{l}.ln_1"), f"h.{l}.attn.c_attn")
                q, k, v = qkv.reshape(rows, steps, 3, s.n_heads, -1).transpose(2, 0, 3, 1, 4)
                scores = jnp.where(visible, q @ k.swapaxes(2, 3) / q.shape[3] ** 0.5, -jnp.inf)
                y = (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(h.shape)
                h = h + linear(p, y, f"h.{l}.attn.c_proj")
                hidden = linear(p, norm(p, h, f"h.{l}.ln_2"), f"h.{l}.mlp.c_fc")
                h = h + linear(p, jax.nn.gelu(hidden, approximate=True), f"h.{l}.mlp.c_proj")
            log_prob = jax.nn.log_softmax(norm(p, h, "ln_f") @ p["wte.weight"].T)
            return -jnp.take_along_axis(log_prob, t.reshape(-1, 1), 1).mean()

        def step(state: Any, x: Any, t: Any) -> Any:
            p, m, v, n = state
            value, gradient = jax.value_and_grad(loss)(p, x, t)
            n = n + 1
            m = tree(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
            v = tree(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
            size, root = RATE / (1 - 0.9**n), jnp.sqrt(1 - 0.999**n)
            kept = {name: 1 - RATE * DECAY * decays(name) for name in p}
            p = tree(lambda p, m, v, kept: p * kept - size * m / (jnp.sqrt(v) / root + 1e-8), p, m, v, kept)
            return (p, m, v, n), value

        self._step = jax.jit(step, donate_argnums=0)
        p = tree(jnp.array, problem.parameters)
        self.state = (p, tree(jnp.zeros_like, p), tree(jnp.zeros_like, p), jnp.float32(0))

    def step(self) -> float:
        """The loss before it, in nats a token."""
        self.state, loss = self._step(self.state, self.x, self.t)
        return float(self.jax.block_until_ready((self.state, loss))[1])

    def parameters(self) -> dict[str, Array]:
        return {name: np.asarray(p) for name, p in self.state[0].items()}


# ---- Attention


class TorchAttention:
    """`scaled_dot_product_attention` of contiguous heads; its backward pass called as autograd would call it."""

    def __init__(self, arrays: tuple[Array, ...]) -> None:
        self.torch = pytorch()
        self.q, self.k, self.v, self.dy = (self.torch.from_numpy(a)[None] for a in arrays)

    def run(self) -> tuple[Any, ...]:
        """The result, and the gradients by queries, keys and values."""
        forward = self.torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        backward = self.torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        with self.torch.inference_mode():
            y, statistics = forward(self.q, self.k, self.v, 0.0, True)
            return y, *backward(self.dy, self.q, self.k, self.v, y, statistics, 0.0, True)


class TorchBlocks(TorchAttention):
    """Written out, head by head, over blocks of queries and the keys that they see: no work above the diagonal."""

    def __init__(self, arrays: tuple[Array, ...], block: int = 256) -> None:
        super().__init__(arrays)
        steps, size = arrays[0].shape[1:]
        self.scale = size**-0.5
        hidden = self.torch.full((steps, steps), -np.inf).triu(1)
        blocks = [(slice(a, min(a + block, steps)), slice(0, min(a + block, steps))) for a in range(0, steps, block)]
        self.blocks = [(queries, keys, hidden[queries, keys].contiguous()) for queries, keys in blocks]
        self.results = [self.torch.empty_like(self.q) for _ in range(4)]

    def run(self) -> tuple[Any, ...]:
        torch, scale = self.torch, self.scale
        for gradient in self.results[2:]:
            gradient.zero_()
        with torch.inference_mode():
            for heads in zip(*(a[0] for a in (self.q, self.k, self.v, self.dy, *self.results)), strict=True):
                for queries, keys, hidden in self.blocks:
                    q, dy, y, dq = (heads[n][queries] for n in (0, 3, 4, 5))
                    k, v, dk, dv = (heads[n][keys] for n in (1, 2, 6, 7))
                    p = torch.softmax(torch.addmm(hidden, q, k.T, alpha=scale), 1)
                    torch.mm(p, v, out=y)
                    ds = torch.ops.aten._softmax_backward_data(torch.mm(dy, v.T), p, 1, p.dtype).mul_(scale)
                    torch.mm(ds, k, out=dq)
                    dk.addmm_(ds.T, q)
                    dv.addmm_(p.T, dy)
        return tuple(self.results)


# ---- Decoding


class Library:
    """`GPT2LMHeadModel` of the transformers library."""

    def __init__(self, problem: Problem) -> None:
        self.torch = torch = pytorch()
        library = pytest.importorskip("transformers")
        self.cache, s = library.DynamicCache, problem.shape
        config = library.GPT2Config(
            vocab_size=s.n_values,
            n_positions=s.context_length,
            n_embd=s.width,
            n_layer=s.n_layers,
            n_head=s.n_heads,
            bos_token_id=None,
            eos_token_id=None,
        )
        weights = {f"transformer.{name}": torch.from_numpy(a) for name, a in problem.parameters.items()}
        with torch.device("meta"):
            self.model = library.GPT2LMHeadModel(config).eval()
        self.model.load_state_dict(weights | {"lm_head.weight": weights["transformer.wte.weight"]}, assign=True)

    def decode(self, prompts: Array, n_tokens: int) -> Array:
        """The most likely tokens, by `generate`."""
        x = self.torch.from_numpy(prompts.astype(np.int64))
        options = {"max_new_tokens": n_tokens, "do_sample": False, "pad_token_id": 0}
        with self.torch.inference_mode():
            return np.asarray(self.model.generate(x, attention_mask=self.torch.ones_like(x), **options))[
                :, x.shape[1] :
            ]

    def prefill(self, prompts: Array) -> Array:
        """Logits after the prompts; keys and values are kept."""
        return np.asarray(self._logits(self.torch.from_numpy(prompts.astype(np.int64)), self.cache()))

    def _logits(self, x: Any, cache: Any) -> Any:
        with self.torch.inference_mode():
            return self.model(input_ids=x, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]


class LibraryLoop(Library):
    """By a loop of our own over its cache."""

    def decode(self, prompts: Array, n_tokens: int) -> Array:
        cache, x, out = self.cache(), self.torch.from_numpy(prompts.astype(np.int64)), []
        for _ in range(n_tokens):
            x = self._logits(x, cache).argmax(-1, keepdim=True)
            out.append(x)
        return np.asarray(self.torch.cat(out, 1))


class LlamaCpp:
    """llama.cpp; weights "F32", "BF16" or "Q8_0"; keys and values in float32."""

    def __init__(self, problem: Problem, weights: str = "F32", rows: int = 1) -> None:
        self.api = api = llama_cpp()
        self.rows, self.n_values = rows, problem.shape.n_values
        with tempfile.TemporaryDirectory(prefix="chainrule-bench-") as folder:
            path = write_gguf(problem, weights, Path(folder))
            options = api.llama_model_default_params()
            options.use_mmap = False
            self.model = api.llama_model_load_from_file(str(path).encode(), options)
        options = api.llama_context_default_params()
        options.n_ctx, options.n_seq_max = rows * problem.shape.context_length, rows
        options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = threads.COUNT
        options.type_k = options.type_v = 0  # float32
        self.context = api.llama_init_from_model(self.model, options)
        self.batch = api.llama_batch_init(512, 0, 1)
        weakref.finalize(self, free, api, self.batch, self.context, self.model)

    def _run(self, tokens: Array, start: int) -> Array:
        """Logits after new tokens (rows, steps), of which the first stand at `start`."""
        rows, steps = tokens.shape
        batch, places = self.batch, [(r, t) for r in range(rows) for t in range(steps)]
        batch.n_tokens = len(places)
        for i, (r, t) in enumerate(places):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(tokens[r, t]), start + t, 1
            batch.seq_id[i][0], batch.logits[i] = r, t == steps - 1
        if self.api.llama_decode(self.context, batch):
            raise RuntimeError("llama.cpp failed")
        pointer = ctypes.cast(self.api.llama_get_logits(self.context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, (rows, self.n_values))

    def prefill(self, prompts: Array) -> Array:
        """Logits after the prompts; keys and values are kept."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)
        return self._run(prompts, 0)

    def decode(self, prompts: Array, n_tokens: int) -> Array:
        """The most likely tokens."""
        tokens = np.empty((len(prompts), n_tokens), np.int64)
        tokens[:, 0] = self.prefill(prompts).argmax(1)
        for t in range(1, n_tokens):
            tokens[:, t] = self._run(tokens[:, t - 1 : t], prompts.shape[1] + t - 1).argmax(1)
        return tokens


def free(api: Any, batch: Any, context: Any, model: Any) -> None:
    api.llama_batch_free(batch)
    api.llama_free(context)
    api.llama_model_free(model)


@cache
def llama_cpp() -> Any:
    """The library, silent."""
    api = pytest.importorskip("llama_cpp", reason="no llama-cpp-python")
    pytest.importorskip("gguf")
    api.silence = api.llama_log_callback(lambda *_: None)  # kept alive by the module
    api.llama_log_set(api.silence, None)
    return api


def write_gguf(problem: Problem, weights: str, folder: Path) -> Path:
    """The problem's parameters under llama.cpp's names, matrices (outputs, inputs) in the format asked for."""
    import gguf

    path, s, p = folder / f"{weights}.gguf", problem.shape, problem.parameters
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(s.context_length)
    writer.add_embedding_length(s.width)
    writer.add_feed_forward_length(4 * s.width)
    writer.add_block_count(s.n_layers)
    writer.add_head_count(s.n_heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(s.n_values)
    form = gguf.GGMLQuantizationType[weights]

    def add(name: str, array: Array, *, matrix: bool = False) -> None:
        kind = form if matrix else gguf.GGMLQuantizationType.F32
        writer.add_tensor(f"{name}", gguf.quants.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)

    add("token_embd.weight", p["wte.weight"], matrix=True)
    add("position_embd.weight", p["wpe.weight"])
    names = zip(
        (*NORMS, *MATRICES), ("attn_norm", "ffn_norm", "attn_qkv", "attn_output", "ffn_up", "ffn_down"), strict=True
    )
    for ours, theirs in names:
        for l in range(s.n_layers):
            add(f"blk.{l}.{theirs}.weight", p[f"h.{l}.{ours}.weight"].T, matrix=ours in MATRICES)
            add(f"blk.{l}.{theirs}.bias", p[f"h.{l}.{ours}.bias"])
    add("output_norm.weight", p["ln_f.weight"])
    add("output_norm.bias", p["ln_f.bias"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
