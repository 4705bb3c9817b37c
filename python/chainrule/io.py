"""Models as files: one .safetensors file, arrays unpadded, everything else as JSON in one metadata value.

Files are written to a temporary name, flushed, and renamed, so that a crash or a full disk loses nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from chainrule.models.base import AutoregressiveModel

FORMAT_VERSION = 1


def save(model: AutoregressiveModel, path: str | os.PathLike[str]) -> None:
    """Write `model` to `path`, atomically."""
    from safetensors.numpy import save as serialize

    state = model._state()
    arrays = {name: np.ascontiguousarray(array) for name, array in state["arrays"].items()}
    header = {
        "format_version": FORMAT_VERSION,
        "model": type(model).__name__,
        "parameters": {name: _plain(value) for name, value in model.get_params().items() if _is_plain(value)},
        "attributes": state["attributes"],
    }
    if hasattr(model, "feature_names_in_"):
        header["feature_names"] = model.feature_names_in_.tolist()
    if hasattr(model, "notes_"):  # about the data, not the model: the rate of sound, what labels mean
        header["notes"] = model.notes_
    write_atomically(path, serialize(arrays, {"chainrule": json.dumps(header, sort_keys=True)}))


def load(path: str | os.PathLike[str]) -> Any:
    """Read a model written by `save`.

    A missing file is a FileNotFoundError; a truncated, foreign or damaged one a ValueError that says what is wrong.
    No code is run from the file.
    """
    from chainrule import models

    arrays, metadata = read_safetensors(path)
    try:
        header = json.loads(metadata["chainrule"])
        version, name = header["format_version"], header["model"]
        parameters, attributes = header["parameters"], header["attributes"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{os.fspath(path)!r} was not written by chainrule: its metadata has no model") from None
    if version != FORMAT_VERSION:
        raise ValueError(f"{os.fspath(path)!r} has format version {version!r}; this chainrule reads {FORMAT_VERSION}")
    if not isinstance(name, str) or name not in models.__all__:
        raise ValueError(f"{os.fspath(path)!r} holds a model {name!r} that this chainrule does not know")
    try:
        model = getattr(models, name)(**parameters)
        model._restore({"arrays": arrays, "attributes": attributes})
        if "feature_names" in header:
            names = np.asarray([str(name) for name in header["feature_names"]], dtype=object)
            if names.shape != (model.n_features_in_,):
                raise ValueError(f"it names {names.size} columns of {model.n_features_in_}")
            model.feature_names_in_ = names
        if "notes" in header:
            model.notes_ = dict(header["notes"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{os.fspath(path)!r} is damaged: {error!r}") from None
    return model


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """Arrays and metadata of a .safetensors file; a damaged one is a ValueError, a missing one a FileNotFoundError."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r}")
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{os.fspath(path)!r} is not a readable .safetensors file: {error}") from None


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """`data` at `path`, or the old file untouched."""
    with replacing(path) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the context ends well; otherwise the old one stays."""
    check_target(path)
    target = Path(os.path.realpath(path))
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def check_target(path: str | os.PathLike[str]) -> None:
    """An OSError where `path` cannot become a file: its folder is missing, or it is a directory or a device."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{os.fspath(path)!r} is a directory")
    if target.exists() and not target.is_file():
        raise OSError(f"{os.fspath(path)!r} is not a regular file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(target.parent)!r}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold `value`: not so a Generator, which a loaded model does not need."""
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(item) for name, item in value.items())
    return value is None or isinstance(value, bool | int | float | str | list | tuple | np.ndarray | np.generic)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
