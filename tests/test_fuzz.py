"""Every public entrance with arrays nobody meant: an answer or a clear error, never a crash, never a changed input.

A seeded sample; CHAINRULE_FUZZ=1000000 runs that many cases.
"""

import os

import chainrule
import numpy as np
import pytest
from chainrule import FVSBN, MADE, MASDE, NADE, IndependentBernoulli, Tabular, kernels

CASES = int(os.environ.get("CHAINRULE_FUZZ", 3000))
DTYPES = ["u1", "i1", "i8", "f2", "f4", "f8", "?", "c8", "O", "U1", "M8[s]"]
CLEAR = (ValueError, TypeError, FloatingPointError, BufferError)


def odd_array(rng, like=None):
    """An array of some dtype, rank, layout and content; often close to one that would do."""
    if like is not None and rng.random() < 0.6:
        array = np.array(like)
        if array.size and rng.random() < 0.4:
            array = array.astype(rng.choice(["u1", "f4", "f8", "i8"]))
        if array.size and rng.random() < 0.3:
            with np.errstate(invalid="ignore"):
                array.reshape(-1)[rng.integers(array.size)] = rng.choice([0, 1, 2, 255, 77])
        if array.ndim and rng.random() < 0.2:
            array = array[: rng.integers(len(array) + 1)]
    else:
        shape = tuple(rng.integers(0, 6, rng.integers(0, 4)))
        array = np.asarray(rng.random(shape) * rng.choice([1, 2, 300])).astype(str(rng.choice(DTYPES[:7])))
        if rng.random() < 0.15:
            array = array.astype(str(rng.choice(DTYPES[7:10])))
        array = np.asarray(array)
    if array.dtype.kind == "f" and array.size and rng.random() < 0.2:
        array.reshape(-1)[0] = rng.choice([np.nan, np.inf, -np.inf, -0.0])
    layout = rng.random()
    if layout < 0.15:
        array = array.T
    elif layout < 0.3 and array.ndim:
        array = array[::-1]
    elif layout < 0.4:
        array = np.asfortranarray(array)
    elif layout < 0.5:
        array.setflags(write=False)
    return array


def attempt(call, *arrays):
    kept, said = [array.copy() for array in arrays], "no error"
    try:
        call(*arrays)
    except CLEAR as error:
        said = str(error)
    assert said
    for array, before in zip(arrays, kept, strict=True):
        assert array.tobytes() == before.tobytes(), "an input was changed"


@pytest.fixture(scope="module")
def models():
    X = np.random.default_rng(0).integers(0, 2, (60, 4)).astype(np.uint8)
    options = {"n_hidden": 3, "max_epochs": 1, "random_state": 0}
    return X, [
        NADE(**options).fit(X),
        NADE(**options, binarize=0.5, order="random", tied=True, dtype="float64").fit(X),
        IndependentBernoulli().fit(X),
        Tabular().fit(X),
        MADE((5,), max_epochs=1, random_state=0, direct=True).fit(X),
        MADE((5,), max_epochs=1, random_state=0, n_masks=2, resample_masks="both", conditional="categorical").fit(X),
        MASDE(np.eye(4, k=1) + np.eye(4, k=-1), (5,), max_epochs=1, random_state=0).fit(X),
    ]


@pytest.mark.filterwarnings("ignore")
def test_models(models):
    X, fitted = models
    rng = np.random.default_rng(1)
    for _ in range(CASES):
        model, array = fitted[rng.integers(len(fitted))], odd_array(rng, X)
        entrance = rng.integers(6)
        if entrance == 0:
            attempt(model.score_samples, array)
        elif entrance == 1:
            attempt(lambda a, m=model: m.score_samples(a, per_variable=True), array)
        elif entrance == 2:
            attempt(model.conditionals, array)
        elif entrance == 3:
            attempt(lambda a, m=model: m.sample(given=a, random_state=0), array)
        elif entrance == 4:
            attempt(lambda a, m=model: type(m)(**m.get_params()).fit(a), array)
        else:
            weight = odd_array(rng, np.ones(len(X)))
            attempt(lambda a, w: NADE(n_hidden=2, max_epochs=1).fit(a, sample_weight=w), array, weight)


@pytest.mark.filterwarnings("ignore")
def test_kernels():
    rng = np.random.default_rng(2)
    n, d = 5, 3
    x, u = rng.integers(0, 2, (6, n)).astype(np.uint8), rng.random((6, n))
    order, flip = rng.permutation(n).astype(np.uint32), rng.integers(0, 2, n).astype(np.uint8)
    for _ in range(CASES):
        dtype = rng.choice(["f4", "f8"])
        good = [rng.normal(size=s).astype(dtype) for s in ((n, d), (n, d), n, d)]
        arrays = [x, *good]
        spoiled = rng.integers(7)
        extra = {"order": order, "flip": flip}
        if spoiled < 5:
            arrays[spoiled] = odd_array(rng, arrays[spoiled])
        else:
            extra[("order", "flip")[spoiled - 5]] = odd_array(rng, (order, flip)[spoiled - 5])
        call = rng.integers(4)
        if call == 0:
            attempt(lambda *a, e=extra: kernels.nade_score(*a, **e), *arrays)
        elif call == 1:
            attempt(lambda *a, e=extra: kernels.nade_gradient(*a, **e), *arrays)
        elif call == 2:
            attempt(lambda *a, e=extra: kernels.nade_sample(u, *a[1:], **e), *arrays)
        else:
            z = odd_array(rng, good[0])
            name = kernels.FUNCTIONS[rng.integers(len(kernels.FUNCTIONS))]
            attempt(getattr(kernels, name), z)
            attempt(kernels.logsumexp, z)
            attempt(lambda a: kernels.bernoulli_log_prob(a, x), z)
            levels = odd_array(rng, x[:n, :1].astype(np.int32))
            attempt(lambda a, b: kernels.logistic_mixture_gradient(a, b, 2, 1), z, levels)
            attempt(lambda a, b: kernels.logistic_mixture_sample(a, b, 9, 1), z, levels)


PRETENDED = {
    "NADE": NADE(n_hidden=2, max_epochs=1, random_state=0),
    "FVSBN": FVSBN(max_epochs=1, random_state=0, conditional="categorical"),
    "MADE": MADE((5, 5), max_epochs=1, random_state=0, direct=True, residual=True),
    "MADE of several masks": MADE((5,), max_epochs=1, random_state=0, n_masks=3, resample_masks="both"),
    "MASDE": MASDE([[], [0], [1], [0, 2]], (5,), max_epochs=1, random_state=0),
}


@pytest.mark.parametrize("name", PRETENDED)
def test_bytes_that_pretend_to_be_a_model(name, tmp_path):
    path = tmp_path / "m.safetensors"
    X = np.random.default_rng(0).integers(0, 2, (20, 4))
    PRETENDED[name].fit(X).save(path)
    raw, rng = path.read_bytes(), np.random.default_rng(3)
    for _ in range(CASES):
        changed = bytearray(raw)
        for _ in range(rng.integers(1, 6)):
            at = rng.integers(len(changed))
            what = rng.integers(4)
            if what == 0:
                changed[at] = rng.integers(256)
            elif what == 1:
                changed[at] ^= 1 << rng.integers(8)
            elif what == 2:
                del changed[at : at + rng.integers(1, 9)]
            else:
                changed[at:at] = rng.bytes(rng.integers(1, 9))
            changed = changed or bytearray(b"\x00")
        path.write_bytes(changed)
        try:
            model = chainrule.load(path)
        except ValueError as error:
            said = str(error)
        else:
            said = "m.safetensors is sound"
            model.score_samples(np.zeros((1, model.n_features_in_)))
            with np.errstate(all="ignore"):
                model.sample(2, random_state=0)
        assert "m.safetensors" in said
