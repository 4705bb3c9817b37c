"""An encoder and a decoder in PyTorch, by hand, as fast as we could make them.

Padded: x side by side, a mask behind their ends, `scaled_dot_product_attention`, as is usual. Packed: matrices take
real steps alone, attention is two products and a softmax, which is faster than the fused one at these sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.peers_masked import pytorch
from bench.problems import Array
from bench.problems_encoder_decoder import CLIP, DECAY, RATE, SHAPE, Problem


def decays(name: str) -> bool:
    """Matrices and tables do, biases and norms do not."""
    return not name.split(".")[0].endswith(("_bias", "_gain"))


class Padded:
    """Parameters under chainrule's names, matrices (outputs, inputs)."""

    def __init__(self, problem: Problem, parameters: dict[str, Array]) -> None:
        self.torch = torch = pytorch()
        self.p = {name: torch.tensor(array) for name, array in parameters.items()}
        codes, real = problem.sources
        self.x, self.at = torch.from_numpy(codes), torch.arange(codes.shape[1])  # x, and where its tokens stand
        nothing = torch.zeros(len(codes), 1, 1, codes.shape[1], dtype=self.p["token"].dtype)
        self.mask = nothing.masked_fill(torch.from_numpy(~real)[:, None, None], -torch.inf)

    def linear(self, x: Any, name: str, l: int) -> Any:
        return self.torch.nn.functional.linear(x, self.p[f"{name}.{l}"], self.p[f"{name}_bias.{l}"])

    def norm(self, x: Any, name: str, l: int | None = None) -> Any:
        block = "" if l is None else f".{l}"
        gain, bias = self.p[f"{name}_gain{block}"], self.p[f"{name}_bias{block}"]
        return self.torch.nn.functional.layer_norm(x, gain.shape, gain, bias)

    def heads(self, x: Any, parts: int) -> Any:
        """Of what stands side by side in the last axis of (rows, steps, parts x width)."""
        return x.view(*x.shape[:2], parts, SHAPE.n_heads, -1).permute(2, 0, 3, 1, 4).unbind()

    def attended(self, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        y = self.torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return y.transpose(1, 2).flatten(2)

    def spread(self, x: Any) -> Any:
        """From the encoder's steps as its matrices take them to (rows, steps, channels)."""
        return x

    def gathered(self, x: Any) -> Any:
        """Back."""
        return x

    def perceptron(self, h: Any, side: str, l: int) -> Any:
        hidden = self.linear(self.norm(h, f"{side}mlp_norm", l), f"{side}up", l)
        return h + self.linear(self.torch.nn.functional.gelu(hidden, approximate="tanh"), f"{side}down", l)

    def memory(self) -> list[Any]:
        """Keys and values of each block's cross-attention."""
        p, side, embedding = self.p, "source_", self.torch.nn.functional.embedding
        h = embedding(self.x, p["source_token"]) + embedding(self.at, p["source_position"])
        for l in range(SHAPE.n_layers):
            qkv = self.linear(self.norm(h, f"{side}norm", l), f"{side}query_key_value", l)
            q, k, v = self.heads(self.spread(qkv), 3)
            h = h + self.linear(self.gathered(self.attended(q, k, v, self.mask)), f"{side}projection", l)
            h = self.perceptron(h, side, l)
        h = self.norm(h, f"{side}last_norm")
        return [self.heads(self.spread(self.linear(h, "cross_key_value", l)), 2) for l in range(SHAPE.n_layers)]

    def crossed(self, h: Any, kv: Any, l: int) -> Any:
        (q,) = self.heads(self.linear(self.norm(h, "cross_norm", l), "cross_query", l), 1)
        return h + self.linear(self.attended(q, *kv, self.mask), "cross_projection", l)

    def logits(self, h: Any) -> Any:
        return self.torch.nn.functional.linear(self.norm(h, "last_norm"), self.p["token"])


class Packed(Padded):
    """Real steps of x alone, one after the other, and attention by products."""

    def __init__(self, problem: Problem, parameters: dict[str, Array]) -> None:
        super().__init__(problem, parameters)
        torch, (_, real) = self.torch, problem.sources
        self.size, self.real = real.shape, torch.from_numpy(np.flatnonzero(real))
        self.x, self.at = self.x.view(-1)[self.real], torch.from_numpy(np.nonzero(real)[1])

    def attended(self, q: Any, k: Any, v: Any, mask: Any = None) -> Any:
        z = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
        p = self.torch.softmax(z if mask is None else z + mask, 3)
        return (p @ v).transpose(1, 2).flatten(2)

    def spread(self, x: Any) -> Any:
        rows, steps = self.size
        return x.new_zeros(rows * steps, x.shape[1]).index_copy(0, self.real, x).view(rows, steps, -1)

    def gathered(self, x: Any) -> Any:
        return x.flatten(0, 1).index_select(0, self.real)


class PaddedTraining(Padded):
    """By autograd, with fused AdamW; the norm of the gradient over all parameters at once."""

    def __init__(self, problem: Problem, parameters: dict[str, Array]) -> None:
        super().__init__(problem, parameters)
        for p in self.p.values():
            p.requires_grad_()
        groups = [
            {"params": [p for name, p in self.p.items() if decays(name) == decayed], "weight_decay": decay}
            for decayed, decay in ((True, DECAY), (False, 0.0))
        ]
        self.optimizer = self.torch.optim.AdamW(groups, lr=RATE, fused=True)
        codes, steps = problem.padded(problem.target), problem.steps(problem.target)
        self.y = self.torch.from_numpy(codes[:, :-1])
        self.causal = self.mask.new_full((codes.shape[1], codes.shape[1]), -np.inf).triu_(1)
        self.t = self.torch.from_numpy(np.where(np.arange(codes.shape[1]) < steps[:, None], codes, -100)).view(-1)

    def step(self) -> float:
        """The loss before it, in nats a step of y."""
        F, memory = self.torch.nn.functional, self.memory()
        h = F.pad(F.embedding(self.y, self.p["token"]), (0, 0, 1, 0)) + self.p["position"]  # nothing before the start
        for l in range(SHAPE.n_layers):
            q, k, v = self.heads(self.linear(self.norm(h, "norm", l), "query_key_value", l), 3)
            h = h + self.linear(self.attended(q, k, v, self.causal), "projection", l)
            h = self.perceptron(self.crossed(h, memory[l], l), "", l)
        loss = F.cross_entropy(self.logits(h).flatten(0, 1), self.t)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.p.values(), CLIP, foreach=True)
        self.optimizer.step()
        return float(loss.detach())


class PackedTraining(Packed, PaddedTraining):
    pass


class PaddedDecoder(Padded):
    """Over keys and values in memory that outlives the call, until all rows have stopped."""

    def __init__(self, problem: Problem, parameters: dict[str, Array]) -> None:
        super().__init__(problem, parameters)
        rows, self.end, self.longest = len(problem.source), problem.n_target, problem.longest
        size = (SHAPE.n_layers, 2, rows, SHAPE.n_heads, self.longest, SHAPE.width // SHAPE.n_heads)
        self.kept = self.torch.empty(size)

    def greedy(self) -> Array:
        """The most likely tokens, the end from a row's end on: (rows, steps)."""
        with self.torch.inference_mode():
            return np.asarray(self._greedy())

    def _greedy(self) -> Any:
        torch, p, rows = self.torch, self.p, len(self.mask)
        memory = [[array.contiguous() for array in kv] for kv in self.memory()]
        out = torch.full((rows, self.longest), self.end)
        h, ended = p["position"][0].expand(rows, 1, -1), torch.zeros(rows, dtype=torch.bool)
        for t in range(self.longest):
            if t:
                h = (torch.nn.functional.embedding(out[:, t - 1], p["token"]) + p["position"][t])[:, None]
            for l in range(SHAPE.n_layers):
                keys, values = self.kept[l]
                q, k, v = self.heads(self.linear(self.norm(h, "norm", l), "query_key_value", l), 3)
                keys[:, :, t : t + 1], values[:, :, t : t + 1] = k, v
                y = self.attended(q, keys[:, :, : t + 1], values[:, :, : t + 1])
                h = h + self.linear(y, "projection", l)
                h = self.perceptron(self.crossed(h, memory[l], l), "", l)
            tokens = self.logits(h)[:, 0].argmax(1).masked_fill_(ended, self.end)
            out[:, t] = tokens
            ended |= tokens == self.end
            if ended.all():
                break
        return out


class PackedDecoder(Packed, PaddedDecoder):
    pass
