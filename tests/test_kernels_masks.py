"""Masks and panels: what is live, and where it stands."""

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels import from_panels, to_panels
from chainrule.kernels.masked import Mask, panels_shape
from checking import assert_same_bits
from masked_problems import MASKS, Problem


def test_masks_are_what_they_say():
    rng = np.random.default_rng(0)
    for kind, make in MASKS.items():
        live = np.ones((70, 90), bool) if make is None else make(rng, 70, 90)
        mask = Mask.dense(70, 90) if make is None else Mask(live)
        assert (mask.n_in, mask.n_out) == (70, 90)
        of_panels = to_panels(live.astype(np.uint8)).reshape(-1, 32).any(1) if make is not None else np.ones(210, bool)
        expected = np.flatnonzero(np.diff(np.concatenate([[0], of_panels.astype(int), [0]])))
        ranges = mask.ranges()
        assert (np.diff(ranges.ravel()) >= 0).all()
        assert all(begin < end for begin, end in ranges)
        covered = np.zeros(210 * 32, int)
        for begin, end in ranges:
            covered[begin:end] += 1
        assert (covered.reshape(-1, 32) == of_panels[:, None]).all(), kind
        assert len(expected) // 2 <= len(ranges) <= len(expected) // 2 + 2  # cut between panels at most
    for shape in ((0, 0), (0, 5), (5, 0)):
        assert Mask(np.zeros(shape, bool)).ranges().shape == (0, 2)
    kept = live.copy()
    mask = Mask(kept)
    W, x = np.ones((70, 90)), np.ones((1, 70))
    before = kernels.masked_linear(x, W, mask=mask)
    kept[...] = True
    assert_same_bits(before, kernels.masked_linear(x, W, mask=mask))
    with pytest.raises(ValueError, match=r"live must be 2-d \(n_in, n_out\), not of shape \(3,\)"):
        Mask([True, False, True])


def test_a_staircase_is_its_mask():
    rng = np.random.default_rng(0)
    for n_in, n_out in [(0, 0), (0, 5), (5, 0), (1, 1), (31, 33), (32, 64), (70, 40), (300, 290)]:
        for spread in (1, 3, 1000):
            first, last = (np.sort(rng.integers(0, spread, n)).astype(np.int32) for n in (n_in, n_out))
            stairs, mask = Mask.staircase(first, last), Mask(first[:, None] <= last)
            assert (stairs.n_in, stairs.n_out) == (n_in, n_out)
            assert (stairs.live_array() == mask.live_array()).all()
            assert (stairs.ranges() == mask.ranges()).all()
            p = Problem("none", 3, n_in, n_out, np.float32)
            for product in (
                lambda mask, p=p: kernels.masked_linear(p.x, p.W, mask=mask),
                lambda mask, p=p: kernels.masked_linear_input_gradient(p.dy, p.W, mask=mask),
                lambda mask, p=p: kernels.masked_linear_weight_gradient(p.x, p.dy, mask=mask),
            ):
                assert_same_bits(product(stairs), product(mask))


def test_panels_round_trip():
    rng = np.random.default_rng(0)
    for shape in ((0, 0), (3, 0), (0, 3), (5, 1), (5, 32), (5, 33), (7, 100)):
        W = rng.normal(size=shape)
        panels = to_panels(W)
        assert panels.shape == panels_shape(*shape)
        for p, k, j in np.ndindex(*panels.shape):
            assert panels[p, k, j] == (W[k, 32 * p + j] if 32 * p + j < shape[1] else 0)
        assert_same_bits(from_panels(panels, shape[1]), W)
