"""Marks where Anthropic is to keep a prompt: behind the tools, the system prompt and the conversation so far.

What changes from call to call, the last turn, is never marked: writing to the provider's cache costs more than input
does, and nobody would read it. A client that sets marks of its own is left alone.
"""
from __future__ import annotations

from typing import Any, Literal, cast

from proxy.request import Asked

Ttl = Literal["5m", "1h"]

_OWN = b'"cache_control"'
_MARKED = frozenset(("text", "image", "document", "tool_use", "tool_result"))  # thinking takes no mark


def breakpoints(asked: Asked, ttl: Ttl) -> dict[str, object]:
    """Return the fields of a messages request with marks in them, three at most; none where the client set its own."""
    if _OWN in asked.body:
        return {}
    mark = {"type": "ephemeral"} if ttl == "5m" else {"type": "ephemeral", "ttl": ttl}
    fields = asked.fields
    marked = {
        "tools": _last_marked(fields.get("tools"), mark),
        "system": _content(fields.get("system"), mark),
        "messages": _history(fields["messages"], mark),
    }
    return {name: value for name, value in marked.items() if value is not None}


def _history(messages: list[Any], mark: dict[str, str]) -> list[Any] | None:
    """Mark the last block before the newest turn."""
    for index in range(len(messages) - 2, -1, -1):
        message = messages[index]
        content = _content(cast("dict[str, Any]", message).get("content"), mark) if isinstance(message, dict) else None
        if content is not None:
            return [*messages[:index], {**message, "content": content}, *messages[index + 1 :]]
    return None


def _content(content: Any, mark: dict[str, str]) -> list[Any] | None:
    """Mark the last block of a content, which may be a mere text; None where it has none that takes a mark."""
    if isinstance(content, str):
        return [{"type": "text", "text": content, "cache_control": mark}] if content.strip() else None
    if not isinstance(content, list):
        return None
    blocks = cast("list[Any]", content)
    for index in range(len(blocks) - 1, -1, -1):
        if _takes_mark(blocks[index]):
            return [*blocks[:index], {**blocks[index], "cache_control": mark}, *blocks[index + 1 :]]
    return None


def _takes_mark(block: Any) -> bool:
    if not isinstance(block, dict):
        return False
    known = cast("dict[str, Any]", block)
    kind = known.get("type")
    return isinstance(kind, str) and kind in _MARKED and (kind != "text" or bool(str(known.get("text", "")).strip()))


def _last_marked(tools: Any, mark: dict[str, str]) -> list[Any] | None:
    if not isinstance(tools, list) or not tools or not isinstance(tools[-1], dict):
        return None
    return [*tools[:-1], {**tools[-1], "cache_control": mark}]
