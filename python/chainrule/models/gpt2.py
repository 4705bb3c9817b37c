"""GPT-2 checkpoints as they are usually kept: tensors in a .safetensors file, a config.json beside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule import kernels
from chainrule.fit import Parameters

Array = npt.NDArray[Any]
END_OF_TEXT = 50256
HEAD_SIZE = 64
BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # masks, kept as data
PREFIX = "transformer."

# Tensors of a block, as the parameter each is, and its shape for a width of C; matrices are (in, out).
BLOCK = {
    "ln_1.weight": "norm_gain",
    "ln_1.bias": "norm_bias",
    "attn.c_attn.weight": "query_key_value",
    "attn.c_attn.bias": "query_key_value_bias",
    "attn.c_proj.weight": "projection",
    "attn.c_proj.bias": "projection_bias",
    "ln_2.weight": "mlp_norm_gain",
    "ln_2.bias": "mlp_norm_bias",
    "mlp.c_fc.weight": "up",
    "mlp.c_fc.bias": "up_bias",
    "mlp.c_proj.weight": "down",
    "mlp.c_proj.bias": "down_bias",
}
ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu": "gelu_exact", "relu": "relu"}
FIXED = {  # what a config.json may not change
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


@dataclass(frozen=True)
class Checkpoint:
    """A checked file: the options of its model, and its tensors by name."""

    path: str
    options: dict[str, Any]
    n_values: int
    tensor: Callable[[str], Array]


def read(path: str | os.PathLike[str], n_heads: int | None = None) -> Checkpoint:
    """Names, shapes and dtypes checked, before any tensor is read."""
    from safetensors import SafetensorError, safe_open

    file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    said = os.fspath(file)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {said!r}")
    try:
        opened: Any = safe_open(said, framework="numpy")
        found = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{said!r} is not a readable .safetensors file: {error}") from None
    stored = {name.removeprefix(PREFIX): name for name in found}
    if len(stored) < len(found):
        raise ValueError(f"{said!r} has tensors of one name with and without {PREFIX!r}")
    sizes = {
        name: (found[original].get_dtype(), tuple(found[original].get_shape()))
        for name, original in stored.items()
        if not BUFFERS.fullmatch(name)
    }
    options, wanted = _options(said, sizes, _config(file), n_heads)
    _check(said, sizes, wanted)

    def tensor(name: str) -> Array:
        array: Array = opened.get_tensor(stored[name])
        return array

    options["tied"] = "lm_head.weight" not in sizes or np.array_equal(tensor("lm_head.weight"), tensor("wte.weight"))
    return Checkpoint(said, options, wanted["wte.weight"][0], tensor)


def _config(file: Path) -> dict[str, Any]:
    beside = file.parent / "config.json"
    if not beside.is_file():
        return {}
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("it holds no names")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(beside)!r} is not a readable config.json: {error}") from None
    for name, value in FIXED.items():
        if config.get(name, value) != value:
            raise ValueError(f"{os.fspath(beside)!r} has {name} = {config[name]!r}; this model has {value!r}")
    return config


def _options(
    path: str, sizes: dict[str, tuple[str, tuple[int, ...]]], config: dict[str, Any], n_heads: int | None
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """The model's options, and the shapes its tensors must have."""

    def shape(name: str) -> tuple[int, int]:
        if name not in sizes:
            raise ValueError(f"{path!r} is no GPT-2 checkpoint: {name} is missing")
        if len(sizes[name][1]) != 2 or 0 in sizes[name][1]:
            raise ValueError(f"{path!r}: {name} must be a matrix, not of shape {sizes[name][1]}")
        return sizes[name][1]  # type: ignore[return-value]

    (V, C), (T, _), (_, F) = shape("wte.weight"), shape("wpe.weight"), shape("h.0.mlp.c_fc.weight")
    blocks = [int(name.split(".")[1]) for name in sizes if re.fullmatch(r"h\.\d{1,4}\..*", name)]
    L, activation = 1 + max(blocks), config.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{path!r}: activation_function must be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
    heads = n_heads or config.get("n_head") or (C // HEAD_SIZE if C % HEAD_SIZE == 0 else None)
    if not isinstance(heads, int) or heads < 1 or C % heads:
        raise ValueError(f"{path!r}: n_heads must be given, and divide the width {C}; it is {heads!r}")
    options = {
        "n_layers": L, "n_heads": heads, "width": C, "context_length": T, "n_hidden": F,
        "activation": ACTIVATIONS[activation], "n_values": V,
    }  # fmt: skip
    of_block: dict[str, tuple[int, ...]] = {
        "attn.c_attn.weight": (C, 3 * C), "attn.c_attn.bias": (3 * C,), "attn.c_proj.weight": (C, C),
        "mlp.c_fc.weight": (C, F), "mlp.c_fc.bias": (F,), "mlp.c_proj.weight": (F, C),
    }  # fmt: skip
    wanted: dict[str, tuple[int, ...]] = {"wte.weight": (V, C), "wpe.weight": (T, C)}
    wanted |= {f"h.{l}.{name}": of_block.get(name, (C,)) for l in range(L) for name in BLOCK}
    wanted |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
    if "lm_head.weight" in sizes:
        wanted["lm_head.weight"] = (V, C)
    return options, wanted


def _check(path: str, sizes: dict[str, tuple[str, tuple[int, ...]]], wanted: dict[str, tuple[int, ...]]) -> None:
    for what, names in (
        ("misses", wanted.keys() - sizes.keys()),
        ("has unknown tensors", sizes.keys() - wanted.keys()),
    ):
        if names:
            few = ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(f"{path!r} is no GPT-2 checkpoint: it {what} {few}")
    for name, shape in wanted.items():
        if sizes[name][1] != shape:
            raise ValueError(f"{path!r}: {name} must be of shape {shape}, not {sizes[name][1]}")
        if sizes[name][0] != "F32":
            raise ValueError(f"{path!r}: {name} must be F32, not {sizes[name][0]}")


def fill(parameters: Parameters, checkpoint: Checkpoint) -> None:
    """The tensors as the parameters of a Transformer."""

    def checked(name: str) -> Array:
        array = checkpoint.tensor(name)
        if not np.isfinite(array).all():
            raise ValueError(f"{checkpoint.path!r}: {name} has values that are not finite")
        return array

    p = parameters
    p["token"][...] = kernels.to_panels(checked("wte.weight").T)
    p["position"][...] = checked("wpe.weight")
    if "output" in p:
        p["output"][...] = kernels.to_panels(checked("lm_head.weight").T)
    for l in range(len(p["norm_gain"])):
        for name, ours in BLOCK.items():
            array = checked(f"h.{l}.{name}")
            p[ours][l] = kernels.to_panels(array) if array.ndim == 2 else array
    p["last_norm_gain"][...], p["last_norm_bias"][...] = checked("ln_f.weight"), checked("ln_f.bias")
