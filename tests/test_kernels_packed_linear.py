"""Products with packed weights, of float32, bf16 and int8."""

import itertools

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels import pack, to_panels
from chainrule.kernels.masked import Mask
from checking import V, assert_close, assert_same_bits, by_dtype, with_threads

ROWS, INPUTS, OUTPUTS = (1, 2, 12, 13, 40), (1, 31, 256, 257, 600), (1, 31, 32, 33, 100, 330)
by_inputs = pytest.mark.parametrize("n_in", INPUTS)


def product(n_in, n_out, n_rows, dtype):
    rng = np.random.default_rng([n_in, n_out, n_rows])
    x, addend = rng.normal(size=(n_rows, n_in)).astype(dtype), rng.normal(size=(n_rows, n_out)).astype(dtype)
    return (
        x,
        (rng.normal(size=(n_in, n_out)) / np.sqrt(n_in)).astype(dtype),
        rng.normal(size=n_out).astype(dtype),
        addend,
    )


def as_bf16(W):
    """Rounded to 8 significant bits, to even where two are as near, by arithmetic on significands."""
    exponent = np.maximum(np.frexp(W.astype(float))[1], -125)  # denormals have fewer
    return np.ldexp(np.rint(np.ldexp(W.astype(float), 8 - exponent)), exponent - 8).astype(np.float32)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def dequantised(weights):
    """(n_in, n_out), float64: integers times the scale of their output and 256 inputs."""
    panels, n_in, lanes = weights.W.shape
    scale = np.repeat(weights.scale, 256, axis=1)[:, :n_in]
    return (weights.W * scale.astype(float)).transpose(1, 0, 2).reshape(n_in, panels * lanes)[:, : weights.n_out]


@by_dtype
@by_inputs
def test_plain_products_are_masked_linear(n_in, dtype):
    for n_rows, n_out in itertools.product(ROWS, OUTPUTS):
        x, W, b, addend = product(n_in, n_out, n_rows, dtype)
        panels, mask = to_panels(W), Mask.dense(n_in, n_out)
        for bias, more in itertools.product((None, b), (None, addend)):
            w = pack(panels, n_out, bias)
            assert w.W is panels
            (y,) = with_threads(lambda t, w=w, more=more, x=x: (kernels.packed_linear(x, w, addend=more, n_threads=t),))
            assert_same_bits(y, kernels.masked_linear(x, panels, bias, mask=mask, addend=more))
        wide = [np.full((n_rows, n + 5), np.nan, dtype) for n in (n_in, n_out)]
        wide[0][:, 2:-3], wide[1][:, 2:-3] = x, addend
        out = np.full((n_rows, n_out + 4), 7, dtype)
        kernels.packed_linear(wide[0][:, 2:-3], w, addend=wide[1][:, 2:-3], out=out[:, 1:-3])
        assert_same_bits(out[:, 1:-3], y)
        assert (out[:, [0, -3, -2, -1]] == 7).all()
        assert kernels.packed_linear(x[:0], w).shape == (0, n_out)


@by_dtype
@by_inputs
@pytest.mark.parametrize("format", ["bf16", "int8"])
def test_products_with_fewer_bits(n_in, format, dtype):
    for n_rows, n_out in itertools.product(ROWS, OUTPUTS):
        x, W, b, addend = product(n_in, n_out, n_rows, dtype)
        w = pack(to_panels(W), n_out, b, format=format)
        if format == "bf16":
            assert (w.W.dtype, w.scale) == (np.uint16, None)
            near = kernels.from_panels(from_bf16(w.W), n_out).astype(float)
            assert (near == as_bf16(W.astype(np.float32))).all()
            assert (np.abs(near - W) <= 2.0**-8 * np.abs(W)).all()
        else:
            assert (w.W.dtype, w.scale.dtype, w.scale.shape) == (
                np.int8,
                np.float32,
                (-(-n_out // 32), -(-n_in // 256), 32),
            )
            near = dequantised(w)
            for start in range(0, n_in, 256):
                chunk, of = np.s_[start : start + 256], np.abs(W[start : start + 256]).max(0)
                assert (np.abs(near[chunk] - W[chunk]) <= of / 127 * 0.5001).all()
                np.testing.assert_allclose(np.abs(near[chunk]).max(0), of, rtol=1e-6)
        (y,) = with_threads(
            lambda t, w=w, x=x, addend=addend: (kernels.packed_linear(x, w, addend=addend, n_threads=t),)
        )
        assert_close(y, x.astype(float) @ near + addend + b, dtype, n_in)
        if format == "bf16":  # the rule of plain weights, on widened ones
            plain = kernels.packed_linear(x, pack(to_panels(near.astype(dtype)), n_out, b), addend=addend)
            assert_same_bits(y, plain)


def test_rounding_to_bf16():
    """Ties to even, denormals, infinities by overflow, both signs of zero."""
    tie = 1 + 2.0**-8
    values = [
        0.0,
        -0.0,
        1.0,
        tie,
        1 + 3 * 2.0**-8,
        np.nextafter(np.float32(tie), 2),
        -tie,
        1e-40,
        2.0**-149,
        3.3e38,
        3.4e38,
        -3.4e38,
    ]
    values += np.random.default_rng(0).normal(size=2000).tolist()
    W = np.zeros((1, len(values), 32), np.float32)
    W[0, :, 0] = values
    got = from_bf16(pack(W, 1, format="bf16").W)[0, :, 0]
    with np.errstate(over="ignore"):
        want = as_bf16(W[0, :, 0])
    assert_same_bits(got[2:], want[2:])
    assert np.signbit(got[:2]).tolist() == [False, True]
    assert got[3:5].tolist() == [1, 1 + 4 * 2.0**-8]
    assert np.isinf(got[10:12]).all()


def test_a_chunk_of_zeros():
    """Outputs whose weights are all zero have a scale and stay zero."""
    W = np.zeros((1, 300, 32), np.float32)
    W[0, 299, 1] = 1e-44
    w = pack(W, 32, format="int8")
    assert (w.scale > 0).all()
    assert not kernels.packed_linear(np.ones((1, 300), np.float32), w).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_packed(bad):
    W = np.zeros((1, 5, 32), np.float32)
    W[0, 2, 3] = bad
    assert pack(W, 32).W is W
    for format in ("bf16", "int8"):
        with pytest.raises(V, match=f"W must be finite to be kept as {format}; 1 weights are not"):
            pack(W, 32, format=format)
    with pytest.raises(V, match="format must be one of"):
        pack(W, 32, format="int4")
