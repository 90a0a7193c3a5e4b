"""What is asked, in words, whatever the API: read only where a policy routes by it."""
from __future__ import annotations

from typing import Any, cast

from farthing.policy.features import Text
from proxy.request import Asked

_SYSTEM = ("system", "developer")


def text_of(asked: Asked) -> Text:
    """Return the last user message, the system prompt, and how many turns and tools surround them."""
    fields, user, system = asked.fields, "", _words(asked.fields.get("system") or asked.fields.get("instructions"))
    for turn in reversed(asked.turns):
        if isinstance(turn, dict) and (message := cast("dict[str, Any]", turn)).get("role") == "user":
            user = _words(message.get("content"))
            break
    else:
        user = _words(fields.get("prompt") or fields.get("input"))
    first = asked.turns[0] if asked.turns else None
    if not system and isinstance(first, dict) and first.get("role") in _SYSTEM:
        system = _words(cast("dict[str, Any]", first).get("content"))
    tools = fields.get("tools")
    return Text(user, system, max(1, len(asked.turns)), len(cast("list[Any]", tools)) if isinstance(tools, list) else 0)


def _words(content: Any) -> str:
    """Return the text of a content: itself, or its parts of text joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [part if isinstance(part, str) else _part(part) for part in cast("list[Any]", content)]
    return "\n".join([part for part in parts if part])


def _part(part: Any) -> str:
    text = cast("dict[str, Any]", part).get("text") if isinstance(part, dict) else None
    return text if isinstance(text, str) else ""
