"""GPT-2 checkpoints: read as the transformers library writes them, and every way in which a file can be wrong."""

import json

import numpy as np
import pytest
from chainrule import Transformer, text
from chainrule.models import gpt2
from reference import transformer as reference
from safetensors.numpy import load_file, save_file

V, T, C, L, H, F = 97, 24, 32, 3, 4, 128


@pytest.fixture(scope="module")
def tensors():
    """A checkpoint of a small GPT-2 with random weights, by name."""
    rng = np.random.default_rng(0)

    def normal(*shape, scale=0.2, centre=0.0):
        return rng.normal(centre, scale, shape).astype(np.float32)

    made = {"wte.weight": normal(V, C), "wpe.weight": normal(T, C)}
    for l in range(L):
        block = {
            "ln_1.weight": normal(C, centre=1), "ln_1.bias": normal(C), "attn.c_attn.weight": normal(C, 3 * C),
            "attn.c_attn.bias": normal(3 * C), "attn.c_proj.weight": normal(C, C), "attn.c_proj.bias": normal(C),
            "ln_2.weight": normal(C, centre=1), "ln_2.bias": normal(C), "mlp.c_fc.weight": normal(C, F),
            "mlp.c_fc.bias": normal(F), "mlp.c_proj.weight": normal(F, C), "mlp.c_proj.bias": normal(C),
        }  # fmt: skip
        made |= {f"h.{l}.{name}": array for name, array in block.items()}
    return made | {"ln_f.weight": normal(C, centre=1), "ln_f.bias": normal(C)}


@pytest.fixture
def written(tensors, tmp_path):
    """written(changes, config) is the path of the checkpoint with some tensors changed, None: left out."""

    def write(changes=(), config=None):
        arrays = {name: array for name, array in {**tensors, **dict(changes)}.items() if array is not None}
        path = tmp_path / "model.safetensors"
        save_file(arrays, path)
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config) if isinstance(config, dict) else config)
        return path

    return write


def equations(tensors):
    """The reference's parameters."""
    p = {name: np.asarray(array, float) for name, array in tensors.items()}

    def pairs(name):
        return [(p[f"h.{l}.{name}.weight"], p[f"h.{l}.{name}.bias"]) for l in range(L)]

    return {
        "token": p["wte.weight"], "output": p["wte.weight"], "position": p["wpe.weight"], "norm": pairs("ln_1"),
        "qkv": pairs("attn.c_attn"), "projection": pairs("attn.c_proj"), "mlp_norm": pairs("ln_2"),
        "up": pairs("mlp.c_fc"), "down": pairs("mlp.c_proj"), "last_norm": (p["ln_f.weight"], p["ln_f.bias"]),
    }  # fmt: skip


def tokens(n=2, length=20, seed=1):
    return np.random.default_rng(seed).integers(0, V, (n, length))


def test_scores_are_those_of_the_equations(tensors, written):
    model = Transformer.from_gpt2(written(), n_heads=H, start=7)
    X = tokens()
    z = reference.network(equations(tensors), np.concatenate([np.full((2, 1), 7), X[:, :-1]], 1), H)
    np.testing.assert_allclose(model.conditionals(X).logits, z, rtol=0, atol=1e-4)
    want = np.take_along_axis(reference.log_softmax(z), X[..., None], 2)[..., 0]
    np.testing.assert_allclose(model.score_samples(X, per_variable=True), want, rtol=0, atol=1e-4)
    double = Transformer.from_gpt2(written(), n_heads=H, start=7, dtype="float64")
    np.testing.assert_allclose(double.conditionals(X).logits, z, rtol=0, atol=1e-12)
    assert model.get_params()["n_layers"] == L
    assert model.context_length == T


@pytest.mark.parametrize("layout", ["plain", "prefix", "prefix and head", "buffers"])
def test_layouts(tensors, written, layout):
    """With and without "transformer.", the output table said again, masks kept as data."""
    want = Transformer.from_gpt2(written(), n_heads=H, start=0).score_samples(tokens())
    changes = {}
    if layout.startswith("prefix"):
        changes = dict.fromkeys(tensors) | {"transformer." + name: array for name, array in tensors.items()}
    if layout == "prefix and head":
        changes["lm_head.weight"] = tensors["wte.weight"].copy()
    if layout == "buffers":
        for l in range(L):
            changes[f"h.{l}.attn.bias"] = np.tril(np.ones((1, 1, T, T), np.float32))
            changes[f"h.{l}.attn.masked_bias"] = np.array(-1e4, np.float32)
    model = Transformer.from_gpt2(written(changes), n_heads=H, start=0)
    assert model.tied
    assert model.score_samples(tokens()).tobytes() == want.tobytes()


def test_another_output_table(tensors, written):
    head = tensors["wte.weight"][::-1].copy()
    model = Transformer.from_gpt2(written({"lm_head.weight": head}), n_heads=H, start=0)
    assert not model.tied
    p = {**equations(tensors), "output": head.astype(float)}
    z = reference.network(p, np.concatenate([np.zeros((2, 1), int), tokens()[:, :-1]], 1), H)
    np.testing.assert_allclose(model.conditionals(tokens()).logits, z, rtol=0, atol=1e-4)


def test_heads_and_activation(tensors, written):
    """From config.json where it is, else heads of 64 channels; an argument comes first."""
    config = {
        "n_head": H,
        "activation_function": "relu",
        "layer_norm_epsilon": 1e-5,
        "vocab_size": V,
        "model_type": "gpt2",
    }
    path = written(config=config)
    model = Transformer.from_gpt2(path.parent, start=0)
    assert (model.n_heads, model.activation) == (H, "relu")
    assert Transformer.from_gpt2(path, n_heads=2).n_heads == 2
    (path.parent / "config.json").unlink()
    with pytest.raises(ValueError, match="n_heads must be given, and divide the width 32; it is None"):
        Transformer.from_gpt2(path)
    for heads in (3, 0, -1, 2.0):
        with pytest.raises(ValueError, match="n_heads must be given, and divide the width 32"):
            Transformer.from_gpt2(path, n_heads=heads)


def test_goes_on_as_any_other_model(written, tmp_path):
    import chainrule

    model = Transformer.from_gpt2(written(), n_heads=H, start=3, learning_rate=1e-3, random_state=0)
    X = tokens(6)
    model.save(tmp_path / "ours")
    loaded = chainrule.load(tmp_path / "ours")
    assert loaded.score_samples(X).tobytes() == model.score_samples(X).tobytes()
    assert (loaded.sample(2, 30, random_state=1) == model.sample(2, 30, random_state=1)).all()
    assert loaded.start_ == 3
    assert (model.generate([[]], 9, random_state=1)[0] == model.generate([[3]], 9, random_state=1)[0]).all()
    assert chainrule.verify(model, n_rows=5)
    before = model.score(X)
    for _ in range(5):
        model.partial_fit(X)
    assert model.score(X) > before
    again = Transformer.from_gpt2(written(), n_heads=H, start=3, warm_start=True, max_epochs=3).fit(X)
    assert again.score(X) > before
    assert len(model.pack("int8").generate([1, 2], 5)[0]) == 5


def test_without_a_start(written):
    model = Transformer.from_gpt2(written(), n_heads=H)
    assert model.start_ is None
    assert len(model.generate([[1, 2]], 5)[0]) == 5
    for call in (
        lambda: model.score_samples(tokens()),
        lambda: model.sample(1, 5),
        lambda: model.generate([[1], []], 5),
        lambda: model.partial_fit(tokens()),
    ):
        with pytest.raises(ValueError, match="this model has no start token: name one when it is read, from_gpt2"):
            call()
    for start, message in ((V, "start must be a token below 97, not 97"), (-1, "start must be an integer >= 0")):
        with pytest.raises(ValueError, match=message):
            Transformer.from_gpt2(written(), n_heads=H, start=start)


def test_with_a_tokenizer(written):
    """Text goes in and comes out."""
    known = text.Characters("".join(map(chr, range(33, 33 + V))))
    model = Transformer.from_gpt2(written(), n_heads=H, start=0, tokenizer=known)
    codes = known.encode("(Hello)")
    want = Transformer.from_gpt2(written(), n_heads=H, start=0).generate([codes], 9, random_state=1)[0]
    assert model.generate("(Hello)", 9, random_state=1) == [known.decode(want)]
    assert model.score_samples("(Hello)").tobytes() == model.score_samples(codes).tobytes()
    with pytest.raises(ValueError, match="text has 2 symbols, and the model 97 values"):
        Transformer.from_gpt2(written(), n_heads=H, tokenizer=text.Characters("ab"))
    with pytest.raises(ValueError, match="text has 98 symbols, and the model 97 values"):
        Transformer.from_gpt2(written(), n_heads=H, tokenizer=text.Subwords("{}", 98))
    assert Transformer.from_gpt2(written(), n_heads=H, tokenizer=text.Subwords("{}", 90)).text_.n_values == 90


def test_end_of_text_starts(tensors, written):
    large = np.zeros((gpt2.END_OF_TEXT + 1, C), np.float32)
    assert Transformer.from_gpt2(written({"wte.weight": large}), n_heads=H).start_ == 50256


def sliced(name):
    return lambda tensors: {name: np.ascontiguousarray(tensors[name][:-1])}


BAD = {
    "missing": (lambda t: {"h.1.mlp.c_fc.bias": None}, "it misses h.1.mlp.c_fc.bias"),
    "missing block": (
        lambda t: {name: None for name in t if name.startswith("h.1.")},
        r"it misses h.1.attn.c_attn.bias, .*, \.\.\.",
    ),
    "no table": (lambda t: {"wte.weight": None}, "wte.weight is missing"),
    "no positions": (lambda t: {"wpe.weight": None}, "wpe.weight is missing"),
    "no blocks": (lambda t: {name: None for name in t if name.startswith("h.")}, "h.0.mlp.c_fc.weight is missing"),
    "unknown": (lambda t: {"h.0.attn.rotary": np.zeros(2, np.float32)}, "it has unknown tensors h.0.attn.rotary"),
    "adapter": (lambda t: {"score.weight": np.zeros((2, C), np.float32)}, "unknown tensors score.weight"),
    "twice": (lambda t: {"transformer.wte.weight": t["wte.weight"]}, "one name with and without 'transformer.'"),
    "turned": (
        lambda t: {"h.2.attn.c_attn.weight": np.ascontiguousarray(t["h.2.attn.c_attn.weight"].T)},
        r"h.2.attn.c_attn.weight must be of shape \(32, 96\), not \(96, 32\)",
    ),
    "short bias": (sliced("h.0.ln_1.bias"), r"h.0.ln_1.bias must be of shape \(32,\), not \(31,\)"),
    "narrow": (lambda t: {"wpe.weight": t["wpe.weight"][:, :-1].copy()}, r"wpe.weight must be of shape \(24, 32\)"),
    "rank": (lambda t: {"wte.weight": t["wte.weight"].reshape(-1)}, "wte.weight must be a matrix, not of shape"),
    "empty": (lambda t: {"wte.weight": np.zeros((0, C), np.float32)}, "wte.weight must be a matrix, not of shape"),
    "half": (lambda t: {"ln_f.bias": t["ln_f.bias"].astype(np.float16)}, "ln_f.bias must be F32, not F16"),
    "double": (lambda t: {"wte.weight": t["wte.weight"].astype(float)}, "wte.weight must be F32, not F64"),
    "integers": (lambda t: {"ln_f.bias": np.zeros(C, np.int32)}, "ln_f.bias must be F32, not I32"),
    "NaN": (lambda t: {"ln_f.bias": t["ln_f.bias"] * np.nan}, "ln_f.bias has values that are not finite"),
    "infinity": (lambda t: {"wte.weight": t["wte.weight"] / np.float32(0)}, "wte.weight has values that are not"),
    "head": (lambda t: {"lm_head.weight": np.zeros((V, C + 1), np.float32)}, "lm_head.weight must be of shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_tensors(tensors, written, case):
    changes, message = BAD[case]
    with np.errstate(divide="ignore"):
        path = written(changes(tensors))
    with pytest.raises(ValueError, match=message):
        Transformer.from_gpt2(path, n_heads=H)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon = 1e-06; this model has 1e-05"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ({"scale_attn_weights": False}, "scale_attn_weights = False"),
        ({"activation_function": "swish"}, "activation_function must be one of"),
        ({"n_head": "four"}, "n_heads must be given, and divide the width 32; it is 'four'"),
        ("{", "is not a readable config.json"),
        ("[1]", "is not a readable config.json: it holds no names"),
    ],
)
def test_bad_configs(written, config, message):
    with pytest.raises(ValueError, match=message):
        Transformer.from_gpt2(written(config=config))


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Transformer.from_gpt2(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*model.safetensors"):
        Transformer.from_gpt2(tmp_path)
    path = tmp_path / "model.safetensors"
    for data in (b"", b"\x08", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"is not a readable .safetensors file|is no GPT-2 checkpoint"):
            Transformer.from_gpt2(path)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A model of the transformers library with random weights, and the folder it saved itself to."""
    torch = pytest.importorskip("torch", reason="torch, of the transformers library, is not installed")
    transformers = pytest.importorskip("transformers", reason="the transformers library is not installed")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=T, n_embd=C, n_layer=L, n_head=H, initializer_range=0.2, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
    folder = tmp_path_factory.mktemp("gpt2")
    model.save_pretrained(folder)
    return model, folder


def test_logits_are_those_of_the_transformers_library(theirs):
    import torch

    model, folder = theirs
    ours = Transformer.from_gpt2(folder, start=0)
    assert ours.n_heads == H
    X = tokens(3, T)
    seen = np.concatenate([np.zeros((3, 1), int), X[:, :-1]], axis=1)
    with torch.no_grad():
        want = model(torch.tensor(seen)).logits.numpy()
    assert np.abs(want).max() > 1
    np.testing.assert_allclose(ours.conditionals(X).logits, want, rtol=0, atol=1e-4)


def test_greedy_tokens_are_those_of_the_transformers_library(theirs):
    import torch

    model, folder = theirs
    ours = Transformer.from_gpt2(folder)
    for prompt in ([5], [1, 2, 3, 4, 5, 6, 7], tokens(1, 12, seed=3)[0].tolist()):
        with torch.no_grad():
            want = model.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=T + 1 - len(prompt), do_sample=False, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        found = ours.generate(prompt, T + 1 - len(prompt), temperature=0)[0]
        assert found.tolist() == want[0, len(prompt) :].tolist()


def test_the_file_is_what_the_transformers_library_writes(theirs):
    """So that what the tests above change is the real thing."""
    _, folder = theirs
    names = {name.removeprefix("transformer.") for name in load_file(folder / "model.safetensors")}
    of_blocks = {f"h.{l}.{name}" for l in range(L) for name in gpt2.BLOCK}
    assert names - {"lm_head.weight"} == of_blocks | {"wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"}
