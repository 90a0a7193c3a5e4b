"""Which chat requests the semantic cache may look at, and how one falls into a text to compare and all the rest.

The rest (system prompt, parameters, tools, whatever field there is) must be the same to the byte; only the one user
message is compared by meaning. A conversation of several turns is left alone: its last message alone means nothing.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, cast

import msgspec

MAX_TEXT = 2000  # characters; a longer one is past what the encoder was trained on, and its details drown in the mean

_FREE = frozenset(("model", "messages", "user", "metadata", "store", "safety_identifier", "prompt_cache_key"))
_ACTING = ("tools", "functions", "logprobs", "modalities", "audio", "web_search_options")
_BEFORE = ("system", "developer")


@dataclass(frozen=True)
class Split:
    """One request that may be compared."""

    partition: bytes  # digest of all but the text
    text: str  # of the user message
    body: int  # hash of the whole request


def split(
    request: Mapping[str, Any], tenant: str, served_model: str, key: bytes, allow_sampled: bool = False
) -> Split | str:
    """Return `request`, OpenAI's chat body as read, in its two parts, or why it is none for this cache.

    Args:
        allow_sampled: also take requests whose temperature is not 0, which ask for a different answer each time.
    """
    if refused := _refused(request, allow_sampled):
        return refused
    if not all(isinstance(message, dict) for message in request["messages"]):
        return "turns"  # the upstream's to refuse
    *before, last = request["messages"]
    text = _text(last)
    if not 0 < len(text) <= MAX_TEXT:
        return "length"
    if any(message.get("role") not in _BEFORE for message in before) or last.get("role") != "user":
        return "turns"
    fields = {name: value for name, value in request.items() if name not in _FREE and value is not None}
    extra = {name: value for name, value in last.items() if name not in ("role", "content")}
    rest = msgspec.json.encode([tenant, served_model, before, fields, extra], order="deterministic")
    partition = blake2b(rest, digest_size=16, key=key[:64])
    whole = partition.copy()
    whole.update(b"\0" + text.encode())
    return Split(partition.digest(), text, int.from_bytes(whole.digest()[:8]))


def _refused(request: Mapping[str, Any], allow_sampled: bool) -> str:
    if any(request.get(name) for name in _ACTING):
        return "tools"
    if request.get("n") not in (None, 1):
        return "choices"
    if not allow_sampled and request.get("temperature") != 0:
        return "sampled"
    return ""


def _text(message: Mapping[str, Any]) -> str:
    """Return a message's text, or nothing where it has parts that are none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts: list[Any] = content if isinstance(content, list) else []
    texts: list[str] = []
    for part in parts:
        known = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
        text = known.get("text")
        if known.get("type") != "text" or not isinstance(text, str):
            return ""
        texts.append(text)
    return "".join(texts)
