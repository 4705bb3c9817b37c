"""Columns of masked matrices in another order, against tests/reference/masked.py."""

import numpy as np
import pytest
from chainrule import kernels
from chainrule.kernels import from_panels, to_panels
from chainrule.kernels.masked import Mask
from checking import T, V, assert_same_bits, by_dtype, entry, readonly, with_threads
from masked_problems import Problem, by_mask, storages_of
from reference import masked as reference
from reference.nade import random_order


@by_dtype
@by_mask
@pytest.mark.parametrize("turned", [False, True])
def test_permute_columns(kind, dtype, turned):
    for n_in, n_out in [(0, 0), (1, 1), (5, 31), (33, 32), (17, 33), (70, 100), (1, 300), (300, 1), (400, 400)]:
        p = Problem(kind, 1, n_in, n_out, dtype)
        rng = np.random.default_rng(n_in)
        live = np.ones(p.W.shape, bool) if p.live is None else p.live
        rows = random_order(rng, n_out if turned else n_in)
        live = reference.keep(live, rows, turned)
        W, columns = rng.normal(size=live.shape).astype(dtype), random_order(rng, live.shape[1])
        for gap, panels in zip((0, 3), storages_of(W)[2:], strict=True):

            def permuted(n_threads, back=False, panels=panels, columns=columns, gap=gap, p=p, rows=rows):
                out = np.full((len(panels), panels.shape[1] + gap, 32), 7, dtype)[:, : panels.shape[1]]
                options = {"mask": p.mask, "rows": rows, "turned": turned, "back": back, "n_threads": n_threads}
                return kernels.permute_columns(panels, columns, out=out, **options)

            def plain(panels, width=live.shape[1]):
                assert (from_panels(panels, 32 * len(panels))[:, width:] == 7).all()
                return from_panels(panels, width)

            got, want = plain(with_threads(permuted)), reference.permute(W, columns)
            assert_same_bits(got[live], want[live])
            assert ((got == want) | (got == 7)).all()  # the row of a panel comes whole
            want = reference.permute_back(W, live, columns)
            assert_same_bits(plain(with_threads(lambda n_threads: permuted(n_threads, back=True))), want)
            options = {"mask": p.mask, "rows": rows, "turned": turned}
            assert kernels.permute_columns(panels, columns, back=True, out=panels, **options) is panels
            assert_same_bits(from_panels(panels, live.shape[1]), want)


def test_bad_columns():
    rng = np.random.default_rng(0)
    W, columns = to_panels(rng.normal(size=(4, 40))), random_order(rng, 40)
    good = {"W": W, "columns": columns, "mask": Mask(np.ones((4, 40), bool)), "out": np.zeros_like(W)}
    kernels.permute_columns(**good)
    kernels.permute_columns(**{**good, "mask": Mask(np.ones((40, 4), bool)), "turned": True})
    apart, memory = np.zeros((2, 6, 32))[:, :4], np.zeros(2 * 4 * 32 + 32)
    for changes, error, message in (
        ({"W": np.zeros((4, 40))}, V, "W and out must stand in panels"),
        ({"out": np.zeros((4, 40))}, V, "W and out must stand in panels"),
        ({"out": np.zeros((2, 4, 32), np.float32)}, T, "out must be float64, not float32"),
        ({"out": apart}, V, "out must be laid out as W"),
        ({"out": readonly(W)}, V, "out is written to, but is read-only"),
        ({"out": np.zeros((1, 4, 32))}, V, "out must be of shape"),
        ({"W": np.zeros((2, 5, 32))}, V, "W must be of shape"),
        ({"turned": True}, V, "W must be of shape"),
        ({"W": memory[:-32].reshape(2, 4, 32), "out": memory[32:].reshape(2, 4, 32)}, V, "out must be W or share no"),
        ({"W": W.astype(int)}, T, "W must be float32 or float64"),
        ({"rows": columns[:3]}, V, "rows must be 1-d of length 4"),
        ({"columns": entry(columns, 0, 40)}, V, "columns must be a permutation"),
        ({"columns": columns[:4]}, V, "columns must be 1-d of length 40"),
        ({"columns": columns.astype(int)}, T, "columns must be uint32, not int64"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            kernels.permute_columns(**{**good, **changes})
