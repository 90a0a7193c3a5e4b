"""How many tokens a text has, estimated from its bytes; and its words, which the same pass finds.

No tokenizer fits every upstream, and one costs a millisecond where this costs a tenth. The weights were fitted to
SmolLM2's tokenizer: a token for a short word, more for the letters past four, one a digit. [docs/tokens.md]
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import msgspec

MEDIA_TOKENS = 1_000  # of an image or a file whose size in tokens its own model decides
TURN_TOKENS = 4  # that a chat template puts around each turn
_MEDIA = frozenset((
    "image", "image_url", "input_image", "input_audio", "audio", "file", "input_file", "document", "video",
    "redacted_thinking",
))  # fmt: skip
_SILENT = frozenset(("type", "role", "id", "tool_call_id", "tool_use_id", "call_id", "cache_control", "signature"))
_DEEPEST = 16  # levels of a turn that are walked; what lies deeper is counted as its JSON

_LETTERS = bytes(byte for byte in range(128) if chr(byte).isalpha())
_DIGITS = b"0123456789"
_MARKS = bytes(byte for byte in range(33, 127) if not chr(byte).isalnum())
_FOREIGN = bytes(range(128, 256))
# Letters in lower case, digits and other bytes of UTF-8 as they are; the rest parts words.
_FOLD = bytes(
    ord(chr(byte).lower()) if byte > 127 or chr(byte).isalnum() else ord(" ") for byte in range(128)
) + _FOREIGN


class Measured(NamedTuple):
    """A text's estimated tokens and its words in lower case."""

    tokens: int
    words: list[bytes]


def measure(text: str) -> Measured:
    """Return the estimated tokens and the words of a text."""
    raw = text.encode("utf-8", "replace")
    words = raw.translate(_FOLD).split()
    size = len(raw)
    letters, digits, marks, foreign = (
        size - len(raw.translate(None, kind)) for kind in (_LETTERS, _DIGITS, _MARKS, _FOREIGN)
    )
    long = max(0, letters - 4 * len(words)) / 2.5
    tokens = len(words) + long + 0.8 * digits + 0.6 * marks + 0.5 * foreign + 0.5 * raw.count(b"\n")
    return Measured(round(tokens), words)


def measure_value(value: object) -> Measured:
    """Return the estimated tokens and words of all text in a JSON value; media count as a constant each."""
    texts: list[str] = []
    media = _walk(value, texts, _DEEPEST)
    found = measure("\n".join(texts)) if texts else Measured(0, [])
    return Measured(found.tokens + media * MEDIA_TOKENS, found.words)


def _walk(value: object, texts: list[str], depth: int) -> int:
    """Collect the texts in `value`; return how many media are in it."""
    if isinstance(value, str):
        texts.append(value)
        return 0
    if value is None or isinstance(value, bool | int | float):
        return 0
    if depth <= 0:
        texts.append(msgspec.json.encode(value).decode())
        return 0
    if isinstance(value, list):
        return _all(cast("list[Any]", value), texts, depth)
    known = cast("dict[str, Any]", value)
    kind = known.get("type")
    if isinstance(kind, str) and kind in _MEDIA:
        return 1
    return _all((one for name, one in known.items() if name not in _SILENT), texts, depth)


def _all(values: Iterable[object], texts: list[str], depth: int) -> int:
    return sum([_walk(one, texts, depth - 1) for one in values])
