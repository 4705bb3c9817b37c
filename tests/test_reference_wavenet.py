"""The equations of WaveNet (reference/wavenet.py) against central differences, themselves and causality."""

import numpy as np
import pytest
from reference import wavenet as reference

SHAPES = {"taps 2": (2, (1, 2, 4, 1, 2)), "taps 3": (3, (1, 3)), "tap 1": (1, (1,)), "one layer": (2, (3,))}
by_shape = pytest.mark.parametrize(("K", "dilations"), SHAPES.values(), ids=SHAPES)


def differences(function, a, step=1e-5):
    """The gradient of a number with respect to every element of `a`, in place and back."""
    out = np.zeros(a.shape)
    for index in np.ndindex(a.shape):
        kept = a[index]
        a[index] = kept + step
        above = function()
        a[index] = kept - step
        out[index] = (above - function()) / (2 * step)
        a[index] = kept
    return out


def assert_close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def problem(K, dilations, n_context=2, T=11, V=5, C=3, S=4):
    rng = np.random.default_rng(0)
    p = reference.random_parameters(rng, dilations, V, C, S, K, n_context)
    return p, rng.integers(0, V, (2, T)), rng.normal(size=(2, n_context)) if n_context else None


@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 4])
def test_conv(K, dilation):
    rng = np.random.default_rng(1)
    T, n_in, n_out = 6, 3, 4
    x = rng.normal(size=(2, (K - 1) * dilation + T, n_in))
    W, b = rng.normal(size=(K, n_in, n_out)), rng.normal(size=n_out)
    y = reference.causal_conv(x, W, b, dilation)
    t, r, o = 4, 1, 2  # one output, term by term
    want = b[o] + sum(x[r, t + k * dilation, i] * W[k, i, o] for k in range(K) for i in range(n_in))
    np.testing.assert_allclose(y[r, t, o], want, rtol=1e-14)
    dy = rng.normal(size=(2, T, n_out))
    got = reference.causal_conv_pullback(dy, x, W, dilation)
    for g, a in zip(got, (x, W, b), strict=True):
        assert_close(g, differences(lambda: (dy * reference.causal_conv(x, W, b, dilation)).sum(), a))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("n_context", [0, 2])
def test_block(last, n_context):
    p, _, context = problem(2, (1, 2), n_context)
    rng, d, T = np.random.default_rng(2), 2, 5
    q, h = reference.layer_of(p, 1 if last else 0), rng.normal(size=(2, d + T, 3))
    dnext, dskip = None if last else rng.normal(size=(2, T, 3)), rng.normal(size=(2, T, 4))

    def loss():
        following, skip = reference.gated_block(h, q, d, context)
        return (skip * dskip).sum() + (0 if last else (following * dnext).sum())

    dh, dq = reference.gated_block_pullback(dnext, dskip, h, q, d, context)
    assert dq.keys() == (q.keys() if n_context else q.keys() - {"context"})
    assert_close(dh, differences(loss, h))
    for name, value in dq.items():
        assert_close(value, differences(loss, q[name]))


@by_shape
@pytest.mark.parametrize("n_context", [0, 2])
def test_gradient(K, dilations, n_context):
    p, x, context = problem(K, dilations, n_context)
    weight = np.array([0.3, 1.4])
    found = reference.gradient(p, dilations, x, context, weight)
    assert found.keys() == p.keys()

    def loss():
        return -(weight * reference.log_prob(p, dilations, x, context)).sum()

    for name, value in p.items():
        pairs = zip(found[name], value, strict=True) if isinstance(value, list) else [(found[name], value)]
        for g, a in pairs:
            assert_close(g, differences(loss, a))


@by_shape
def test_is_causal_and_sees_the_receptive_field(K, dilations):
    field = 1 + (K - 1) * sum(dilations)  # codes before t that reach the logits at t
    T = field + 3
    p, x, context = problem(K, dilations, T=T)
    before = reference.logits(p, dilations, x, context)
    for t in (0, T // 2, T - 1):
        changed = x.copy()
        changed[:, t] = (changed[:, t] + 1) % 5
        moved = np.abs(reference.logits(p, dilations, changed, context) - before).max((0, 2)) > 0
        assert not moved[: t + 1].any()
        assert moved[t + 1 : t + 2].all()
        assert not moved[t + 1 + field :].any()


@by_shape
def test_probabilities(K, dilations):
    p, x, context = problem(K, dilations, T=3, V=3)
    every = np.stack(np.meshgrid(*[range(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    total = np.exp(reference.log_prob(p, dilations, every, np.repeat(context[:1], 27, 0))).sum()
    np.testing.assert_allclose(total, 1, rtol=1e-12)
    less = {k: v for k, v in p.items() if k != "context"}
    np.testing.assert_allclose(
        reference.logits(p, dilations, x, 0 * context), reference.logits(less, dilations, x), rtol=1e-12
    )


def test_samples():
    dilations = (1, 2)
    p, _, context = problem(2, dilations)
    u = np.random.default_rng(3).random((2, 7))
    x, z = reference.sample(p, dilations, u, context)
    np.testing.assert_array_equal(x, reference.draw(z, u))
    q = np.exp(reference.log_softmax(z))
    upto = np.concatenate([np.zeros((2, 7, 1)), q.cumsum(-1)], -1)
    assert (np.take_along_axis(upto, x[..., None], -1)[..., 0] <= u + 1e-12).all()
    assert (u < np.take_along_axis(upto, x[..., None] + 1, -1)[..., 0] + 1e-12).all()
    assert reference.draw(np.zeros(4), np.array([0.0, 0.25, 0.5, 1.0])[:, None]).ravel().tolist() == [0, 1, 2, 3]
