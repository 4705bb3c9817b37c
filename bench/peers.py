"""NADE in PyTorch and JAX, as fast as we could write it in each.

The peers are given what we give ourselves, and a little more: the encoded coordinates (the likelihood is the same),
float rows made in advance, contiguous weights [n, d], buffers that outlive the call, no autograd where none is needed,
a compiled scan. What was tried and is slower: indexing ``W[i]`` under autograd (2.4 times: every step adds a whole zero
matrix), new tensors for each step (1.5 times), states as [rows, n, d] or cut into blocks, `torch.compile` of the
cumulative sum (8 times the loop), a scan unrolled 4 or 8 times, a scan over the transposed state.

One class per way of computing; every class has some of score, gradient, sample and draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench import threads
from bench.problems import Array, Categories, Problem


class TorchLoop:
    """A loop over the variables with a running state ``a``, updated in place."""

    def __init__(self, problem: Problem) -> None:
        self.torch = torch = pytest.importorskip("torch")
        torch.set_num_threads(threads.COUNT)
        self.rows, self.n, self.d = problem.shape
        self.dtype = getattr(torch, problem.dtype)
        self.parameters = [torch.tensor(p).requires_grad_() for p in problem.parameters]
        self.y = torch.tensor(problem.y, dtype=self.dtype)
        self.y_columns = self.y.T.contiguous()
        with torch.inference_mode():
            self.h = torch.empty(self.rows, self.d, dtype=self.dtype)
            self.z = torch.empty(self.n, self.rows, dtype=self.dtype)

    def log_prob(self, z: Any) -> Any:
        return -self.torch.nn.functional.softplus((1 - 2 * self.y) * z).sum(1)

    def score(self) -> Any:
        torch = self.torch
        with torch.inference_mode():
            W, V, b, c = self.parameters
            a = c.repeat(self.rows, 1)
            for z, y, w, v in zip(self.z.unbind(), self.y_columns.unbind(), W.unbind(), V.unbind(), strict=True):
                torch.mv(torch.sigmoid(a, out=self.h), v, out=z)
                a.addr_(y, w)
            return self.log_prob(self.z.T + b)

    def logits(self) -> Any:
        """By operations that autograd can follow."""
        torch = self.torch
        W, V, b, c = self.parameters
        a, z = c.expand(self.rows, self.d), []
        for y, w, v in zip(self.y_columns.unbind(), W.unbind(), V.unbind(), strict=True):
            z.append(torch.mv(torch.sigmoid(a), v))
            a = torch.addr(a, y, w)
        return torch.stack(z, 1) + b

    def gradient(self) -> tuple[Any, Any]:
        log_prob = self.log_prob(self.logits())
        return log_prob.detach(), self.torch.autograd.grad(-log_prob.mean(), self.parameters)

    def sample(self) -> Any:
        return self.draw(self.torch.rand(self.n, self.rows, dtype=self.dtype))

    def draw(self, u: Any) -> Any:
        """Encoded rows, by columns, from uniforms [n, rows]; the thresholds of the logits are prepared in one piece."""
        torch = self.torch
        with torch.inference_mode():
            W, V, b, c = self.parameters
            a = c.repeat(self.rows, 1)
            bound = torch.logit(torch.as_tensor(u)).add_(b[:, None]).neg_()
            drawn = torch.empty_like(bound)
            z = self.z[0]
            for y, t, w, v in zip(drawn.unbind(), bound.unbind(), W.unbind(), V.unbind(), strict=True):
                torch.mv(torch.sigmoid(a, out=self.h), v, out=z)
                torch.ge(z, t, out=y)
                a.addr_(y, w)
            return drawn


class TorchCumsum(TorchLoop):
    """All states at once, ``cumsum([c, y_1 W_1, ..., y_{n-1} W_{n-1}])``, [n, rows, d], then one batched product."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        with self.torch.inference_mode():
            self.a = self.torch.empty(self.n, self.rows, self.d, dtype=self.dtype)

    def score(self) -> Any:
        torch, a = self.torch, self.a
        with torch.inference_mode():
            W, V, b, c = self.parameters
            a[0] = c
            torch.mul(self.y_columns[:-1, :, None], W[:-1, None], out=a[1:])
            return self.log_prob(torch.einsum("nrd,nd->rn", a.cumsum_(0).sigmoid_(), V) + b)

    def logits(self) -> Any:
        torch = self.torch
        W, V, b, c = self.parameters
        a = torch.cat([c.expand(1, self.rows, self.d), self.y_columns[:-1, :, None] * W[:-1, None]]).cumsum(0)
        return torch.einsum("nrd,nd->rn", a.sigmoid_(), V) + b


class TorchCategories:
    """A loop over the variables with a running state; a step's logits are one product, its likelihood cross entropy."""

    def __init__(self, problem: Categories) -> None:
        self.torch = torch = pytest.importorskip("torch")
        torch.set_num_threads(threads.COUNT)
        self.rows, self.n, self.d = problem.shape
        self.K = problem.n_values
        self.parameters = [torch.tensor(p).requires_grad_() for p in problem.parameters]
        self.y = torch.tensor(problem.x.T.astype(np.int64)).contiguous()

    def log_prob(self) -> Any:
        torch, F = self.torch, self.torch.nn.functional
        W, V, b, c = self.parameters
        moves = F.pad(W.view(self.n, self.K - 1, self.d), (0, 0, 1, 0)).unbind()  # code 0 moves nothing
        rows_of_v, biases = V.view(self.n, self.K - 1, self.d).unbind(), b.view(self.n, self.K - 1).unbind()
        a, z = c.expand(self.rows, self.d), []
        for y, w, v, bias in zip(self.y.unbind(), moves, rows_of_v, biases, strict=True):
            z.append(torch.addmm(bias, torch.sigmoid(a), v.T))
            a = a + F.embedding(y, w)
        logits = F.pad(torch.stack(z, 1), (1, 0))
        return (
            -F.cross_entropy(logits.reshape(-1, self.K), self.y.T.reshape(-1), reduction="none")
            .view(self.rows, self.n)
            .sum(1)
        )

    def score(self) -> Any:
        with self.torch.inference_mode():
            return self.log_prob()

    def gradient(self) -> tuple[Any, Any]:
        log_prob = self.log_prob()
        return log_prob.detach(), self.torch.autograd.grad(-log_prob.mean(), self.parameters)


class JaxScan:
    """`lax.scan` over the variables, compiled."""

    def __init__(self, problem: Problem) -> None:
        self.jax = jax = pytest.importorskip("jax")
        jnp = jax.numpy
        rows, n, d = problem.shape
        self.parameters = tuple(map(jnp.asarray, problem.parameters))
        self.y = jnp.asarray(np.ascontiguousarray(problem.y.T, problem.dtype))

        def log_prob(parameters: Any, y: Any) -> Any:
            W, V, b, c = parameters

            def step(a: Any, inputs: Any) -> Any:
                y, w, v = inputs
                return a + y[:, None] * w, jax.nn.sigmoid(a) @ v

            _, z = jax.lax.scan(step, jnp.broadcast_to(c, (rows, d)), (y, W, V))
            return -jax.nn.softplus((1 - 2 * y) * (z + b[:, None])).sum(0)

        def loss(parameters: Any, y: Any) -> Any:
            value = log_prob(parameters, y)
            return -value.mean(), value

        def draw(parameters: Any, u: Any) -> Any:
            W, V, b, c = parameters

            def step(a: Any, inputs: Any) -> Any:
                bound, w, v = inputs
                y = (jax.nn.sigmoid(a) @ v >= bound).astype(a.dtype)
                return a + y[:, None] * w, y

            bounds = -jax.scipy.special.logit(u) - b[:, None]
            return jax.lax.scan(step, jnp.broadcast_to(c, (rows, d)), (bounds, W, V))[1]

        self._score, self._gradient, self._draw = map(jax.jit, (log_prob, jax.value_and_grad(loss, has_aux=True), draw))
        self._sample = jax.jit(lambda parameters, key: draw(parameters, jax.random.uniform(key, (n, rows))))
        self.key = jax.random.key(0)

    def score(self) -> Any:
        return self._score(self.parameters, self.y).block_until_ready()

    def gradient(self) -> tuple[Any, Any]:
        (_, log_prob), gradients = self.jax.block_until_ready(self._gradient(self.parameters, self.y))
        return log_prob, gradients

    def sample(self) -> Any:
        return self._sample(self.parameters, self.key).block_until_ready()

    def draw(self, u: Array) -> Any:
        return self._draw(self.parameters, self.jax.numpy.asarray(u))
