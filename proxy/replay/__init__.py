"""A kept answer in the other form: a whole answer told as the API's own events, and events put back together.

What a converter does not know it refuses by returning None, and the call goes upstream: a hit never loses a part.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from farthing.prices import Usage
from proxy.replay import chat, completions, messages, responses
from proxy.stream import data_of, events_of

Answer = dict[str, Any]
_TO_EVENTS: Mapping[str, Callable[[Answer, bool], list[bytes] | None]] = {
    "chat/completions": chat.to_events,
    "completions": completions.to_events,
    "responses": responses.to_events,
    "messages": messages.to_events,
}
_TO_ANSWER: Mapping[str, Callable[[list[Answer], Usage], Answer | None]] = {
    "chat/completions": chat.to_answer,
    "completions": completions.to_answer,
    "responses": responses.to_answer,
    "messages": messages.to_answer,
}


def as_events(path: str, body: bytes, wants_usage: bool) -> bytes | None:
    """Return a whole answer as the stream that the API at `path` would have sent, None where that cannot be told."""
    try:
        events = _TO_EVENTS[path](msgspec.json.decode(body), wants_usage)
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return b"".join(events) if events is not None else None


def as_answer(path: str, stream: bytes, usage: Usage) -> bytes | None:
    """Return a whole stream as the one answer that the API at `path` would have given; `usage` is what it used."""
    try:
        answer = _TO_ANSWER[path](read_events(stream), usage)
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return msgspec.json.encode(answer) if answer is not None else None


def read_events(stream: bytes) -> list[Answer]:
    """Return the data of each event; comments and the closing [DONE] have none."""
    data = [data_of(event) for event in events_of(stream)]
    return [msgspec.json.decode(one) for one in data if one and one != b"[DONE]"]

