"""Text as codes and back: the characters of a text, or bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Characters:
    """The characters that occur in some text, each its own code, in the order of Unicode."""

    symbols: str

    @classmethod
    def of(cls, texts: Iterable[str]) -> Characters:
        """Of these texts."""
        return cls("".join(sorted(set().union(*texts))))

    @property
    def n_values(self) -> int:
        """How many."""
        return len(self.symbols)

    def encode(self, text: str, name: str = "text") -> Codes:
        """Codes; a character that is none of them is an error."""
        if strange := sorted(set(text) - set(self.symbols)):
            raise ValueError(f"{name} has characters the model does not know: {strange[:5]}")
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        known = np.array([ord(symbol) for symbol in self.symbols], np.uint32)
        return np.searchsorted(known, points).astype(np.int32)

    def decode(self, codes: npt.NDArray[Any]) -> str:
        """The text."""
        return "".join(self.symbols[code] for code in codes.tolist())


@dataclass(frozen=True)
class Bytes:
    """Bytes, each its own code."""

    n_values: int = 256

    def encode(self, text: bytes, name: str = "text") -> Codes:
        """Codes."""
        return np.frombuffer(text, np.uint8).astype(np.int32)

    def decode(self, codes: npt.NDArray[Any]) -> bytes:
        """The bytes."""
        return codes.astype(np.uint8).tobytes()


Text: TypeAlias = "Characters | Bytes"


def is_text(X: Any) -> bool:
    """A string, bytes, or a list that begins with either."""
    return isinstance(X, str | bytes) or (isinstance(X, list | tuple) and bool(X) and isinstance(X[0], str | bytes))


def text_of(X: Any) -> Text | None:
    """How the text in `X` becomes codes; None where it is no text."""
    if not is_text(X):
        return None
    texts = _texts(X, "X")
    return Bytes() if isinstance(texts[0], bytes) else Characters.of(texts)


def encoded(X: Any, text: Text | None, name: str) -> list[Codes]:
    """The codes of each text of `X`, for a model of `text`."""
    known, texts = str if isinstance(text, Characters) else bytes, _texts(X, name)
    if text is None or not isinstance(texts[0], known):
        fitted = "integers" if text is None else known.__name__
        raise ValueError(f"{name} holds {type(texts[0]).__name__}, and the model was fitted to {fitted}")
    return [text.encode(part, name) for part in texts]


def _texts(X: Any, name: str) -> Sequence[Any]:
    texts = [X] if isinstance(X, str | bytes) else X
    for i, part in enumerate(texts):
        if not isinstance(part, type(texts[0])):
            raise ValueError(f"{name} must hold {type(texts[0]).__name__} alone; sequence {i} is {type(part).__name__}")
    return texts


def said(text: Text | None) -> Any:
    """As JSON."""
    return {"characters": text.symbols} if isinstance(text, Characters) else text and "bytes"


def read(saved: Any) -> Text | None:
    """What `said` gave."""
    if saved is None or saved == "bytes":
        return saved and Bytes()
    symbols = saved["characters"]
    if not isinstance(symbols, str) or list(symbols) != sorted(set(symbols)):
        raise ValueError("characters are not a string in the order of Unicode")
    return Characters(symbols)
