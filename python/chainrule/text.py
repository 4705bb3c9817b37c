"""Text as codes and back: its characters, bytes, or the tokens of a tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from chainrule.validation import check_int

Codes = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Characters:
    """The characters that occur in some text, each its own code, in the order of Unicode."""

    symbols: str
    unit: ClassVar[str] = "character"

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
    unit: ClassVar[str] = "byte"

    def encode(self, text: bytes, name: str = "text") -> Codes:
        """Codes."""
        return np.frombuffer(text, np.uint8).astype(np.int32)

    def decode(self, codes: npt.NDArray[Any]) -> bytes:
        """The bytes."""
        return codes.astype(np.uint8).tobytes()


@dataclass(frozen=True)
class Subwords:
    """What a tokenizer of the `tokenizers` library (``chainrule[text]``) makes of text: byte pairs, word pieces.

    Any text that becomes the same tokens is one to the model: its density is that of the tokens.
    """

    json: str  # as that library writes it
    n_values: int
    unit: ClassVar[str] = "token"

    @classmethod
    def of(cls, tokenizer: Any) -> Subwords:
        """Of a ``tokenizers.Tokenizer``."""
        return cls(tokenizer.to_str(), 1 + max(tokenizer.get_vocab().values()))

    def encode(self, text: str, name: str = "text") -> Codes:
        """The whole text's tokens; none are put before or after it."""
        return np.array(_tokenizer(self.json).encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, codes: npt.NDArray[Any]) -> str:
        """The text; bytes that are no characters yet are U+FFFD."""
        decoded: str = _tokenizer(self.json).decode(codes.tolist(), skip_special_tokens=False)
        return decoded


@functools.lru_cache(maxsize=4)
def _tokenizer(json: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ImportError('text in the tokens of a tokenizer needs tokenizers: pip install "chainrule[text]"') from None
    made = Tokenizer.from_str(json)
    made.no_truncation()
    made.no_padding()
    return made


Text: TypeAlias = "Characters | Bytes | Subwords"


def as_tokenizer(tokenizer: Any) -> Text | None:
    """Of this module, or of the `tokenizers` library."""
    if tokenizer is None or isinstance(tokenizer, Characters | Bytes | Subwords):
        return tokenizer
    if not hasattr(tokenizer, "to_str") or not hasattr(tokenizer, "get_vocab"):
        raise ValueError(
            "tokenizer must be text.Characters, text.Bytes or a Tokenizer of the tokenizers library, "
            f"not {type(tokenizer).__name__}"
        )
    return Subwords.of(tokenizer)


class Spoken:
    """The text of tokens as they come, `after` some others: a character comes when all its tokens have."""

    def __init__(self, text: Text, after: Iterable[int] = ()) -> None:
        self.text = text
        self.said = [int(code) for code in after]  # the tokens of the last piece, beside which the next ones are read
        self.held: list[int] = []

    def add(self, codes: Codes, last: bool) -> Any:
        """What further tokens add; all that is held back, if they are the last."""
        self.held += codes.tolist()
        known, whole = (self.text.decode(np.array(part, np.int32)) for part in (self.said, self.said + self.held))
        if isinstance(self.text, Subwords) and str(whole).endswith("\ufffd") and not last:
            return ""
        if self.held:
            self.said, self.held = self.held, []
        return whole[len(known) :]


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
    known, texts = bytes if isinstance(text, Bytes) else str, _texts(X, name)
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
    if isinstance(text, Subwords):
        return {"tokenizer": text.json, "n_values": text.n_values}
    return {"characters": text.symbols} if isinstance(text, Characters) else text and "bytes"


def read(saved: Any) -> Text | None:
    """What `said` gave."""
    if saved is None or saved == "bytes":
        return saved and Bytes()
    if "tokenizer" in saved:
        return Subwords(str(saved["tokenizer"]), check_int("n_values", saved["n_values"], 1))
    symbols = saved["characters"]
    if not isinstance(symbols, str) or list(symbols) != sorted(set(symbols)):
        raise ValueError("characters are not a string in the order of Unicode")
    return Characters(symbols)
