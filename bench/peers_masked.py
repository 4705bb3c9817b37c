"""Masked products and masked networks in PyTorch and JAX, as fast as we could write them in each.

A mask costs the peers next to nothing here: their weights are zero where they are not live and stay so, because only
the gradient is masked, in place (``F.linear(x, W * mask)`` reads, multiplies and writes every matrix twice more). They
get encoded float rows made in advance, one tensor a batch, and Adam fused (PyTorch) or compiled with the step (JAX).
`torch.compile` is left out: it takes half a minute, and what it could fuse is little beside the matrix products.

One class per way of computing; every class has some of step, score and draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench import threads
from bench.ours_masked import RATE
from bench.problems import Array
from bench.problems_masked import Problem, Product, batches


def pytorch() -> Any:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(threads.COUNT)
    return torch


class TorchProducts:
    """A layer's three products with the dense matrix, into memory that outlives the call."""

    def __init__(self, product: Product) -> None:
        self.torch = pytorch()
        self.x, self.dy, self.W, self.b = map(self.torch.from_numpy, product.arrays().values())
        self.y, self.dx, self.dW = map(self.torch.empty_like, (self.dy, self.x, self.W))

    def forward(self) -> Any:
        return self.torch.addmm(self.b, self.x, self.W, out=self.y)

    def to_input(self) -> Any:
        return self.torch.mm(self.dy, self.W.T, out=self.dx)

    def to_weights(self) -> Any:
        return self.torch.mm(self.x.T, self.dy, out=self.dW)

    def matrix(self, result: Any) -> Array:
        return np.asarray(result)


class TorchLinear(TorchProducts):
    """`F.linear`, weights (n_out, n_in)."""

    def __init__(self, product: Product) -> None:
        super().__init__(product)
        self.W = self.W.T.contiguous()

    def forward(self) -> Any:
        with self.torch.inference_mode():
            return self.torch.nn.functional.linear(self.x, self.W, self.b)


class TorchNetwork:
    """Weights, biases and masks of a network, and its score."""

    def __init__(self, problem: Problem) -> None:
        self.torch = torch = pytorch()
        self.W, self.b = ([torch.tensor(layer[k]) for layer in problem.layers] for k in (0, 2))
        self.masks = [torch.tensor(live, dtype=torch.float32) for _, live, _ in problem.layers]
        self.y = torch.tensor(problem.encoded[0], dtype=torch.float32)
        self.batches = batches(problem, torch.from_numpy)

    def logits(self, y: Any) -> Any:
        for W, b in zip(self.W[:-1], self.b[:-1], strict=True):
            y = self.torch.addmm(b, y, W).relu_()
        return self.torch.addmm(self.b[-1], y, self.W[-1])

    def log_prob(self, z: Any, y: Any) -> Any:
        function = self.torch.nn.functional.binary_cross_entropy_with_logits
        return -function(z, y, reduction="none").sum(1)

    def score(self) -> Any:
        with self.torch.inference_mode():
            return self.log_prob(self.logits(self.y), self.y)


class TorchTiles(TorchNetwork):
    """512 rows at once, so that activations stay in cache."""

    def score(self) -> Any:
        with self.torch.inference_mode():
            return self.torch.cat([self.log_prob(self.logits(y), y) for y in self.y.split(512)])


class TorchAutograd(TorchNetwork):
    """A step by autograd and fused Adam."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.parameters = [*self.W, *self.b]
        for parameter in self.parameters:
            parameter.requires_grad_()
        self.optimizer = self.torch.optim.Adam(self.parameters, lr=RATE, fused=True)

    def step(self) -> Any:
        y = next(self.batches)
        log_prob = self.log_prob(self.logits(y), y)
        for parameter in self.parameters:
            parameter.grad = None
        (-log_prob.mean()).backward()
        for W, mask in zip(self.W, self.masks, strict=True):
            W.grad.mul_(mask)
        self.optimizer.step()
        return log_prob.detach()


class TorchManual(TorchNetwork):
    """A step with the gradient written out, into memory that outlives it, and fused Adam."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.rows = len(problem.batches[0])
        for parameter in (*self.W, *self.b):
            parameter.grad = self.torch.zeros_like(parameter)
        self.optimizer = self.torch.optim.Adam([*self.W, *self.b], lr=RATE, fused=True)
        self.h, self.dh = ([self.torch.empty(self.rows, len(b)) for b in self.b] for _ in range(2))

    def step(self) -> Any:
        torch, inputs = self.torch, [next(self.batches), *self.h]
        last = len(self.W) - 1
        with torch.no_grad():
            for layer, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
                torch.addmm(b, inputs[layer], W, out=self.h[layer])
                if layer < last:
                    self.h[layer].relu_()
            log_prob = self.log_prob(self.h[-1], inputs[0])
            torch.sigmoid(self.h[-1], out=self.dh[-1]).sub_(inputs[0]).div_(self.rows)
            for layer in range(last, -1, -1):
                W, b, mask = self.W[layer], self.b[layer], self.masks[layer]
                torch.mm(inputs[layer].T, self.dh[layer], out=W.grad).mul_(mask)
                torch.sum(self.dh[layer], 0, out=b.grad)
                if layer:
                    before = self.dh[layer - 1]
                    torch.mm(self.dh[layer], W.T, out=before)
                    torch.ops.aten.threshold_backward(before, self.h[layer - 1], 0, grad_input=before)
            self.optimizer.step()
        return log_prob


class TorchPasses(TorchNetwork):
    """Sampling with a whole forward pass for every variable."""

    def draw(self, u: Any) -> Any:
        """Encoded rows from uniforms (rows, n)."""
        torch = self.torch
        with torch.inference_mode():
            bound = -torch.logit(torch.as_tensor(u))
            y = torch.zeros(bound.shape)
            for i in range(y.shape[1]):
                y[:, i] = self.logits(y)[:, i] >= bound[:, i]
            return y

    def sample(self) -> Any:
        return self.draw(self.torch.rand(self.y.shape))


class TorchRunning(TorchPasses):
    """Sampling by a running sum, as in NADE: for one hidden layer, whose every unit is computed anew at each step."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.V = self.W[1].T.contiguous()
        self.h = self.torch.empty(len(self.y), len(self.b[0]))

    def draw(self, u: Any) -> Any:
        torch = self.torch
        with torch.inference_mode():
            bound = (torch.logit(torch.as_tensor(u)) + self.b[1]).neg_().T.contiguous()
            a, drawn, z = self.b[0].repeat(bound.shape[1], 1), torch.empty_like(bound), torch.empty(bound.shape[1])
            for y, t, w, v in zip(drawn.unbind(), bound.unbind(), self.W[0].unbind(), self.V.unbind(), strict=True):
                torch.mv(torch.clamp(a, min=0, out=self.h), v, out=z)
                torch.ge(z, t, out=y)
                a.addr_(y, w)
            return drawn.T


class JaxNetwork:
    """Score, and a step of training compiled whole, with its state donated."""

    def __init__(self, problem: Problem) -> None:
        self.jax = jax = pytest.importorskip("jax")
        jnp, tree = jax.numpy, jax.tree.map
        layers = [(jnp.array(W), jnp.array(b)) for W, _, b in problem.layers]
        self.masks = [(jnp.array(live, np.float32), jnp.float32(1)) for _, live, _ in problem.layers]
        self.parameters = layers
        self.y = jnp.array(problem.encoded[0], np.float32)
        self.batches = batches(problem, jnp.array)

        def log_prob(layers: Any, y: Any) -> Any:
            h = y
            for W, b in layers[:-1]:
                h = jax.nn.relu(h @ W + b)
            W, b = layers[-1]
            return -jax.nn.softplus((1 - 2 * y) * (h @ W + b)).sum(1)

        def loss(layers: Any, y: Any) -> Any:
            value = log_prob(layers, y)
            return -value.mean(), value

        def step(state: Any, masks: Any, y: Any) -> Any:
            layers, m, v, t = state
            (_, value), gradient = jax.value_and_grad(loss, has_aux=True)(layers, y)
            gradient = tree(jnp.multiply, gradient, masks)
            t = t + 1
            m = tree(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
            v = tree(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
            size, root = RATE / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
            layers = tree(lambda p, m, v: p - size * m / (jnp.sqrt(v) / root + 1e-8), layers, m, v)
            return (layers, m, v, t), value

        self._score, self._step = jax.jit(log_prob), jax.jit(step, donate_argnums=0)
        copies = [tree(jnp.copy, layers), tree(jnp.zeros_like, layers), tree(jnp.zeros_like, layers)]
        self.state = (*copies, jnp.float32(0))

    def score(self) -> Any:
        return self._score(self.parameters, self.y).block_until_ready()

    def step(self) -> Any:
        self.state, log_prob = self._step(self.state, self.masks, next(self.batches))
        return self.jax.block_until_ready((self.state, log_prob))[1]
