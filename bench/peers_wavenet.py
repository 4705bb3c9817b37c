"""WaveNet in PyTorch and JAX, as fast as we could write it in each: a step of training, the score, generation.

PyTorch trains by autograd over `conv1d`, as is usual, or with the gradient written out over matrix products of
shifted views (time first), in tiles that stay in cache, into memory that outlives the call; the products of all
layers with their skip weights are one. It scores in overlapping chunks of the receptive field and more, or in
chunks that hand on every layer's last features. It generates with queues, in TorchScript or eagerly.
`torch.compile` was tried and left out: half a minute to compile, then slower than the written-out step of training,
and far slower than TorchScript's generation.

Peers keep 256 logits, that of value 0 held at zero.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from functools import cache
from typing import Any

import numpy as np
import pytest

from bench.ours_wavenet import RATE
from bench.peers_masked import pytorch
from bench.problems import Array
from bench.problems_wavenet import VALUES, Problem

HEAD = ("head1", "head1_bias", "head2", "head2_bias")


class TorchWaveNet:
    """Parameters as tensors: time first, skip weights of all layers one matrix."""

    def __init__(self, problem: Problem) -> None:
        self.torch, self.problem = pytorch(), problem
        p, self.dilations = problem.parameters, problem.dilations
        self.C, self.S, self.L, self.T = problem.channels, problem.skip_channels, len(self.dilations), len(problem.x)
        self.dtype = getattr(self.torch, problem.dtype)
        self.x = self.torch.tensor(problem.x, dtype=self.torch.int64)
        self.embedding = self.torch.tensor(p["embedding"])
        self.W, self.b, self.R, self.r = (
            list(map(self.torch.tensor, p[name]))
            for name in ("filter_gate", "filter_gate_bias", "residual", "residual_bias")
        )
        self.Q, self.q = (self.torch.tensor(stack(p[name])) for name, stack in SKIP.items())
        self.head = [self.torch.tensor(p[name]) for name in HEAD]

    @property
    def parameters(self) -> list[Any]:
        return [self.embedding, *self.W, *self.b, *self.R, *self.r, self.Q, self.q, *self.head]

    def empty(self, *shape: int, **options: Any) -> Any:
        return self.torch.empty(*shape, **{"dtype": self.dtype, **options})


SKIP: dict[str, Any] = {"skip": np.concatenate, "skip_bias": np.stack}


# ---- A step of training


class TorchConv1d(TorchWaveNet):
    """By autograd, channels first (oneDNN), and fused Adam."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.W = [W.permute(2, 1, 0).contiguous() for W in self.W]
        self.R = [R.T[:, :, None].contiguous() for R in self.R]
        self.Q = self.Q.view(self.L, self.C, self.S).permute(0, 2, 1)[..., None].contiguous()
        for k in (0, 2):
            self.head[k] = self.head[k].T[:, :, None].contiguous()
        for parameter in self.parameters:
            parameter.requires_grad_()
        self.optimizer = self.torch.optim.Adam(self.parameters, lr=RATE, fused=True)

    def logits(self, x: Any, last: int | None = None) -> Any:
        """Of all values of a row that begins, or of the `last` ones alone, which see nothing before x."""
        F, whole = self.torch.nn.functional, last is None
        h, skip = F.embedding(x[:-1], self.embedding).T[None], self.torch.zeros(())
        if whole:
            h = F.pad(h, (1, 0))
        for l, d in enumerate(self.dilations):
            past, h = (F.pad(h, (d, 0)), h) if whole else (h, h[..., d:])
            filters, gates = F.conv1d(past, self.W[l], self.b[l], dilation=d).chunk(2, 1)
            u = filters.tanh() * gates.sigmoid()
            skip = skip + F.conv1d(u if last is None else u[..., -last:], self.Q[l], self.q[l])
            if l < self.L - 1:
                h = h + F.conv1d(u, self.R[l], self.r[l])
        H1, c1, H2, c2 = self.head
        return F.conv1d(F.conv1d(skip.relu(), H1, c1).relu(), H2, c2)[0].T

    def step(self) -> Any:
        log_prob = -self.torch.nn.functional.cross_entropy(self.logits(self.x), self.x, reduction="none")
        for parameter in self.parameters:
            parameter.grad = None
        (-log_prob.mean()).backward()
        self.head[2].grad[0] = self.head[3].grad[0] = 0
        self.optimizer.step()
        return log_prob.detach()


class TorchManual(TorchWaveNet):
    """The gradient written out over matrix products, `rows` times at once so that they stay in cache; fused Adam."""

    def __init__(self, problem: Problem, rows: int = 1000) -> None:
        super().__init__(problem)
        torch, T, C, S, L, empty = self.torch, self.T, self.C, self.S, self.L, self.empty
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer = torch.optim.Adam(self.parameters, lr=RATE, fused=True)
        self.tiles = [slice(a, min(a + rows, T)) for a in range(0, T, rows)]
        self.h = [torch.zeros(d + T, C, dtype=self.dtype) for d in self.dilations]  # zeros, then a layer's input
        self.z, self.dz = [empty(T, 2 * C) for _ in self.dilations], empty(T, 2 * C)
        self.u, self.du, self.dh = empty(T, L * C), empty(T, L * C), empty(T, C)
        self.us, self.dus = self.u.split(C, 1), self.du.split(C, 1)
        self.skip, self.dskip, self.a, self.da = (empty(T, S) for _ in range(4))
        self.logits, self.dlogits, self.log_prob = empty(T, VALUES), empty(T, VALUES), empty(T)

    def step(self) -> Any:
        with self.torch.no_grad():
            self.forward()
            self.head_and_back()
            self.back()
            self.optimizer.step()
            return self.log_prob.clone()

    def forward(self) -> None:
        torch = self.torch
        torch.index_select(self.embedding, 0, self.x[:-1], out=self.h[0][self.dilations[0] + 1 :])
        for l, d in enumerate(self.dilations):
            present = self.h[l][d:]
            for tile in self.tiles:
                z, u = self.z[l][tile], self.us[l][tile]
                torch.addmm(self.b[l], self.h[l][tile], self.W[l][0], out=z).addmm_(present[tile], self.W[l][1])
                filters, gates = z.split(self.C, 1)
                torch.mul(filters.tanh_(), gates.sigmoid_(), out=u)
                if l < self.L - 1:
                    following = self.h[l + 1][self.dilations[l + 1] :][tile]
                    torch.add(present[tile], self.r[l], out=following).addmm_(u, self.R[l])

    def head_and_back(self) -> None:
        torch, (H1, c1, H2, c2) = self.torch, self.head
        clip, bias = torch.ops.aten.threshold_backward, self.q.sum(0)
        for tile in self.tiles:
            skip, a, z, x = self.skip[tile], self.a[tile], self.logits[tile], self.x[tile, None]
            torch.addmm(bias, self.u[tile], self.Q, out=skip).relu_()
            torch.addmm(c1, skip, H1, out=a).relu_()
            torch.log_softmax(torch.addmm(c2, a, H2, out=z), 1, out=z)
            self.log_prob[tile] = z.gather(1, x)[:, 0]
            dz, da, dskip = self.dlogits[tile], self.da[tile], self.dskip[tile]
            torch.exp(z, out=dz).scatter_add_(1, x, dz.new_full(x.shape, -1)).div_(self.T)
            clip(torch.mm(dz, H2.T, out=da), a, 0, grad_input=da)
            clip(torch.mm(da, H1.T, out=dskip), skip, 0, grad_input=dskip)
            torch.mm(dskip, self.Q.T, out=self.du[tile])
        for (W, b), inputs, d in (
            (self.head[2:], self.a, self.dlogits),
            (self.head[:2], self.skip, self.da),
            ((self.Q, self.q), self.u, self.dskip),
        ):
            torch.mm(inputs.T, d, out=W.grad)
            b.grad.copy_(d.sum(0))
        self.head[2].grad[:, 0] = self.head[3].grad[0] = 0

    def back(self) -> None:
        torch, dh, C = self.torch, self.dh.zero_(), self.C
        tanh, sigmoid = torch.ops.aten.tanh_backward, torch.ops.aten.sigmoid_backward
        for l in range(self.L - 1, -1, -1):
            d, W, dW = self.dilations[l], self.W[l], self.W[l].grad.zero_()
            if l < self.L - 1:
                dR = self.R[l].grad.zero_()
                torch.sum(dh, 0, out=self.r[l].grad)
            for tile in self.tiles:
                du, dz = self.dus[l][tile], self.dz[tile]
                (filters, gates), (df, dg) = self.z[l][tile].split(C, 1), dz.split(C, 1)
                if l < self.L - 1:
                    dR.addmm_(self.us[l][tile].T, dh[tile])
                    du.addmm_(dh[tile], self.R[l].T)
                tanh(torch.mul(du, gates, out=df), filters, grad_input=df)
                sigmoid(torch.mul(du, filters, out=dg), gates, grad_input=dg)
                dW[0].addmm_(self.h[l][tile].T, dz)
                dW[1].addmm_(self.h[l][d:][tile].T, dz)
                dh[tile].addmm_(dz, W[1].T)
            torch.sum(self.dz, 0, out=self.b[l].grad)
            if d < self.T:
                dh[: self.T - d].addmm_(self.dz[d:], W[0].T)
        self.embedding.grad.zero_().index_add_(0, self.x[:-1], dh[1:])


# ---- The score


class TorchChunks(TorchWaveNet):
    """Chunks of `rows` times that hand on, for every layer, the features that the next one sees."""

    def __init__(self, problem: Problem, rows: int = 1000) -> None:
        super().__init__(problem)
        torch, self.rows = self.torch, min(rows, self.T)
        rows, C, S, empty = self.rows, self.C, self.S, self.empty
        self.embedding = torch.cat([self.embedding, self.embedding.new_zeros(1, C)])  # row 256: before the first
        self.inputs, self.q = torch.cat([self.x.new_full((1,), VALUES), self.x[:-1]]), self.q.sum(0)
        self.h = [torch.zeros(d + rows, C, dtype=self.dtype) for d in self.dilations]
        self.z, self.u, self.skip, self.a, self.logits = map(empty, [rows] * 5, [2 * C, self.L * C, S, S, VALUES])

    def score(self) -> Any:
        with self.torch.inference_mode():
            for h in self.h:
                h.zero_()
            return self.torch.cat([self.chunk(slice(a, a + self.rows)) for a in range(0, self.T, self.rows)])

    def read_out(self, u: Any, x: Any) -> Any:
        torch, n = self.torch, len(x)
        H1, c1, H2, c2 = self.head
        skip = torch.addmm(self.q, u, self.Q, out=self.skip[:n]).relu_()
        logits = torch.addmm(c2, torch.addmm(c1, skip, H1, out=self.a[:n]).relu_(), H2, out=self.logits[:n])
        return -torch.nn.functional.cross_entropy(logits, x, reduction="none")

    def chunk(self, times: slice) -> Any:
        torch, x = self.torch, self.x[times]
        n = len(x)
        torch.index_select(self.embedding, 0, self.inputs[times], out=self.h[0][self.dilations[0] :][:n])
        z = self.z[:n]
        for l, d in enumerate(self.dilations):
            h, present, u = self.h[l], self.h[l][d : d + n], self.u[:n, l * self.C : (l + 1) * self.C]
            torch.addmm(self.b[l], h[:n], self.W[l][0], out=z).addmm_(present, self.W[l][1])
            filters, gates = z.split(self.C, 1)
            torch.mul(filters.tanh_(), gates.sigmoid_(), out=u)
            if l < self.L - 1:
                following = self.h[l + 1][self.dilations[l + 1] :][:n]
                torch.add(present, self.r[l], out=following).addmm_(u, self.R[l])
            h[:d] = h[n : n + d].clone() if n < d else h[n : n + d]
        return self.read_out(self.u[:n], x)


class TorchOverlapping(TorchChunks):
    """Chunks that compute the receptive field before them anew, every layer only what the next ones need."""

    def __init__(self, problem: Problem, rows: int = 8000) -> None:
        super().__init__(problem, rows)

    def chunk(self, times: slice) -> Any:
        torch, F, x = self.torch, self.torch.nn.functional, self.x[times]
        first = times.start - sum(self.dilations)
        h, us = F.embedding(self.inputs[max(first, 0) : times.stop], self.embedding), []
        for l, d in enumerate(self.dilations):
            if first < 0:
                h = F.pad(h, (0, 0, d, 0))
            past, h = h[:-d], h[d:]
            filters, gates = torch.addmm(self.b[l], past, self.W[l][0]).addmm_(h, self.W[l][1]).split(self.C, 1)
            u = filters.tanh_().mul(gates.sigmoid_())
            us.append(u[-len(x) :])
            if l < self.L - 1:
                h = torch.add(h, self.r[l]).addmm_(u, self.R[l])
        return self.read_out(torch.cat(us, 1), x)


class TorchConv1dScore(TorchConv1d):
    """Overlapping chunks through `conv1d`; of 1000, 2000, 4000, 8000 and 16000 times, these are the fastest."""

    def __init__(self, problem: Problem, rows: int = 8000) -> None:
        super().__init__(problem)
        self.chunks = [slice(a, min(a + rows, self.T)) for a in range(0, self.T, rows)]

    def score(self) -> Any:
        with self.torch.inference_mode():
            return self.torch.cat([self.chunk(times) for times in self.chunks])

    def chunk(self, times: slice) -> Any:
        first, x = times.start - sum(self.dilations) - 1, self.x[times]
        logits = self.logits(self.x[: times.stop]) if first < 0 else self.logits(self.x[first : times.stop], len(x))
        return -self.torch.nn.functional.cross_entropy(logits[-len(x) :], x, reduction="none")


# ---- Generation


class TorchQueues(TorchWaveNet):
    """A queue a layer, all in one memory; residual biases are folded into those of later layers."""

    way = "generate"

    def prepare(self, streams: int) -> tuple[Any, ...]:
        torch, C, L, empty = self.torch, self.C, self.L, self.empty
        d, p = np.array(self.dilations), self.problem.parameters
        places = (np.cumsum(d) - d) + np.arange(math.lcm(*self.dilations))[:, None] % d
        added = np.vstack([np.zeros((1, C)), np.cumsum(np.reshape(p["residual_bias"], (-1, C)), 0, float)])
        bias = p["filter_gate_bias"] + np.einsum("lc,lkco->lo", added, np.stack(p["filter_gate"]))
        self.silence = torch.tensor(-np.repeat(added, d, 0), dtype=self.dtype)[:, None]
        self.memory = torch.zeros(int(d.sum()), streams, C, dtype=self.dtype)
        slots, W = self.memory.unbind(), torch.stack(self.W)
        z, u = empty(L, streams, 2 * C), empty(streams, L * C)
        parts = zip(z.unbind(), z[..., :C].unbind(), z[..., C:].unbind(), u.split(C, 1), strict=True)
        return (
            self.memory,
            list(torch.from_numpy(places).unbind()),
            [[slots[place] for place in row] for row in places],
            self.embedding,
            W[:, 0].contiguous(),
            torch.tensor(bias, dtype=self.dtype)[:, None].repeat(1, streams, 1),
            list(W[:, 1].contiguous().unbind()),
            self.R,
            [self.Q, self.q.sum(0), *self.head],
            empty(L, streams, C),
            z,
            u,
            [list(part) for part in parts],
            [empty(streams, self.S), empty(streams, self.S), empty(streams, VALUES)],
            empty(streams, VALUES - 1, dtype=torch.float64),
        )

    @cache  # noqa: B019 - as long as the peer
    def prepared(self, streams: int) -> tuple[Any, ...]:
        return self.prepare(streams)

    def draw(self, u: Array) -> Array:
        """Codes (streams, length) from uniforms."""
        with warnings.catch_warnings():  # TorchScript is deprecated, and the fastest way
            warnings.simplefilter("ignore", DeprecationWarning)
            from bench import torch_queues

        torch, generate = self.torch, getattr(torch_queues, self.way)
        with torch.inference_mode():
            prepared = self.prepared(len(u))
            self.memory.copy_(self.silence.expand_as(self.memory))
            out = torch.empty(u.shape[::-1], dtype=torch.int64)
            uniforms = torch.from_numpy(np.ascontiguousarray(u.T))[..., None]
            generate(*prepared, list(uniforms.unbind()), list(out.unbind()))
            return np.asarray(out.T)

    def sample(self, streams: int, length: int) -> Array:
        return self.draw(np.random.default_rng().random((streams, length)))


class TorchEagerQueues(TorchQueues):
    """The same without TorchScript."""

    way = "eager"


class TorchUsualQueues(TorchWaveNet):
    """A queue a layer as fast WaveNet describes it (Le Paine et al. 2016), layer by layer, eagerly."""

    def draw(self, u: Array) -> Array:
        """Codes (streams, length) from uniforms."""
        with self.torch.inference_mode():
            return self._draw(self.torch.from_numpy(np.ascontiguousarray(u.T))[..., None])

    def _draw(self, u: Any) -> Array:
        torch, (H1, c1, H2, c2), Q = self.torch, self.head, self.Q.view(self.L, self.C, self.S)
        first, codes = self.embedding.new_zeros(u.shape[1], self.C), []
        h, queues = first, [deque([first] * d) for d in self.dilations]
        for uniform in u:  # (streams, 1) of a time
            skip = torch.zeros(())
            for l, queue in enumerate(queues):
                past = queue.popleft()
                queue.append(h)
                filters, gates = torch.addmm(torch.addmm(self.b[l], past, self.W[l][0]), h, self.W[l][1]).chunk(2, 1)
                gated = filters.tanh() * gates.sigmoid()
                skip = skip + torch.addmm(self.q[l], gated, Q[l])
                if l < self.L - 1:
                    h = h + torch.addmm(self.r[l], gated, self.R[l])
            logits = torch.addmm(c2, torch.addmm(c1, skip.relu(), H1).relu(), H2)
            upto = torch.cumsum(torch.softmax(logits, 1, torch.float64)[:, :-1], 1)
            codes.append(torch.searchsorted(upto, uniform, right=True)[:, 0])
            h = self.embedding[codes[-1]]
        return np.asarray(torch.stack(codes, 1))

    def sample(self, streams: int, length: int) -> Array:
        return self.draw(np.random.default_rng().random((streams, length)))


# ---- JAX


class JaxWaveNet:
    """A step of training compiled whole, its state donated; score: a scan over chunks; generation: over times."""

    def __init__(self, problem: Problem) -> None:
        self.jax, self.problem = pytest.importorskip("jax"), problem
        self.jnp, self.dilations = self.jax.numpy, problem.dilations
        self.parameters = self.jax.tree.map(self.jnp.array, problem.parameters)

    def layers(self, p: Any, h: Any, past: Any) -> tuple[Any, list[Any]]:
        """u of all layers, and their inputs; ``past(l, h)`` is what layer l's past adds to z, its bias included."""
        jnp, C, us, inputs = self.jnp, self.problem.channels, [], []
        for l, W in enumerate(p["filter_gate"]):
            inputs.append(h)
            z = past(l, h) + h @ W[1]
            us.append(jnp.tanh(z[:, :C]) * self.jax.nn.sigmoid(z[:, C:]))
            if l < len(p["residual"]):
                h = h + us[-1] @ p["residual"][l] + p["residual_bias"][l]
        return jnp.concatenate(us, 1), inputs

    def past(self, p: Any, l: int, h: Any) -> Any:
        return h @ p["filter_gate"][l][0] + p["filter_gate_bias"][l]

    def head(self, p: Any, u: Any) -> Any:
        relu = self.jax.nn.relu
        skip = relu(u @ self.jnp.concatenate(p["skip"]) + sum(p["skip_bias"]))
        return relu(skip @ p["head1"] + p["head1_bias"]) @ p["head2"] + p["head2_bias"]

    def log_prob(self, z: Any, x: Any) -> Any:
        return self.jnp.take_along_axis(self.jax.nn.log_softmax(z), x[:, None], 1)[:, 0]


class JaxTraining(JaxWaveNet):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        jax, jnp, tree = self.jax, self.jnp, self.jax.tree.map
        self.x = jnp.array(problem.x, jnp.int32)

        def loss(p: Any, x: Any) -> Any:
            h = jnp.pad(p["embedding"][x[:-1]], ((1, 0), (0, 0)))
            u, _ = self.layers(
                p, h, lambda l, h: self.past(p, l, jnp.pad(h, ((self.dilations[l], 0), (0, 0)))[: len(x)])
            )
            value = self.log_prob(self.head(p, u), x)
            return -value.mean(), value

        def step(state: Any, x: Any) -> Any:
            p, m, v, t = state
            (_, value), gradient = jax.value_and_grad(loss, has_aux=True)(p, x)
            for name in ("head2", "head2_bias"):
                gradient[name] = gradient[name].at[..., 0].set(0)
            t = t + 1
            m = tree(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
            v = tree(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
            size, root = RATE / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
            p = tree(lambda p, m, v: p - size * m / (jnp.sqrt(v) / root + 1e-8), p, m, v)
            return (p, m, v, t), value

        self._step = jax.jit(step, donate_argnums=0)
        p = self.parameters
        self.state = (tree(jnp.copy, p), tree(jnp.zeros_like, p), tree(jnp.zeros_like, p), jnp.float32(0))

    def step(self) -> Any:
        self.state, log_prob = self._step(self.state, self.x)
        return self.jax.block_until_ready((self.state, log_prob))[1]


class JaxScore(JaxWaveNet):
    """Chunks that hand on every layer's last features."""

    def __init__(self, problem: Problem, rows: int = 1000) -> None:
        super().__init__(problem)
        jnp, rows = self.jnp, math.gcd(rows, len(problem.x))
        inputs = np.concatenate([[VALUES], problem.x[:-1]]).astype(np.int32)  # row 256: before the first
        self.given = [jnp.array(a.reshape(-1, rows), jnp.int32) for a in (inputs, problem.x)]

        def score(p: Any, inputs: Any, x: Any) -> Any:
            embedding = jnp.concatenate([p["embedding"], jnp.zeros_like(p["embedding"][:1])])

            def chunk(past: Any, given: Any) -> Any:
                u, h = self.layers(
                    p, embedding[given[0]], lambda l, h: self.past(p, l, jnp.concatenate([past[l], h])[:rows])
                )
                kept = [jnp.concatenate([old, new])[rows:] for old, new in zip(past, h, strict=True)]
                return kept, self.log_prob(self.head(p, u), given[1])

            past = [jnp.zeros((d, problem.channels), embedding.dtype) for d in self.dilations]
            return self.jax.lax.scan(chunk, past, (inputs, x))[1].reshape(-1)

        self._score = self.jax.jit(score)

    def score(self) -> Any:
        return self._score(self.parameters, *self.given).block_until_ready()


class JaxQueues(JaxWaveNet):
    """All queues in one memory; the old features of all layers are gathered, and multiplied, at once."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        jax, jnp, p = self.jax, self.jnp, self.parameters
        d = np.array(self.dilations)
        first = np.cumsum(d) - d
        W, b = jnp.stack(p["filter_gate"]), jnp.stack(p["filter_gate_bias"])[:, None]

        def step(state: Any, u: Any) -> Any:
            memory, x, t = state
            places = first + t % d
            z = jnp.einsum("lbi,lio->lbo", memory[places], W[:, 0]) + b
            h = jnp.where(t > 0, p["embedding"][x], 0)
            gated, inputs = self.layers(p, h, lambda l, _: z[l])
            logits = self.head(p, gated).astype(jnp.float64)
            upto = jnp.cumsum(jnp.exp(logits - logits.max(1, keepdims=True)), 1)
            x = (u[:, None] * upto[:, -1:] >= upto[:, :-1]).sum(1)
            return (memory.at[places].set(jnp.stack(inputs)), x, t + 1), x

        def draw(u: Any) -> Any:
            memory = jnp.zeros((int(d.sum()), u.shape[1], problem.channels), p["embedding"].dtype)
            return jax.lax.scan(step, (memory, jnp.zeros(u.shape[1], int), jnp.zeros((), int)), u)[1]

        self._draw = jax.jit(draw)

    def draw(self, u: Array) -> Array:
        with self.jax.enable_x64(True):  # the uniforms, and their sums
            return np.asarray(self._draw(self.jnp.array(u.T))).T

    def sample(self, streams: int, length: int) -> Array:
        return self.draw(np.random.default_rng().random((streams, length)))
