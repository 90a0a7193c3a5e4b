"""OpenAI's chat completions: a message is the sum of its deltas, choice by choice."""
from __future__ import annotations

from typing import Any

from farthing.prices import Usage
from proxy.replay.choices import add_end, put_together, told

_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
_MESSAGE = frozenset(("role", "tool_calls", "annotations", *_TEXTS))
_CHOICE = frozenset(("index", "message", "delta", "finish_reason", "logprobs"))


def to_events(answer: dict[str, Any], wants_usage: bool) -> list[bytes] | None:
    """Return a chunk for each choice, one that says why it ended, and the usage where it was asked for."""
    if not all(_CHOICE.issuperset(one) and _MESSAGE.issuperset(one["message"]) for one in answer["choices"]):
        return None
    return told(answer, "chat.completion.chunk", _begun, {"delta": {}}, wants_usage)


def to_answer(events: list[dict[str, Any]], usage: Usage) -> dict[str, Any] | None:
    """Return the completion that the chunks add up to."""
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        for choice in event["choices"]:
            if not _CHOICE.issuperset(choice):
                return None
            made = choices.setdefault(choice["index"], {"index": choice["index"], "message": {}, "logprobs": None})
            if not _add(made["message"], choice.get("delta") or {}):
                return None
            add_end(made, choice)
    for choice in choices.values():
        choice["message"] = {"role": "assistant", "content": None} | choice["message"]
    return put_together(events, "chat.completion", choices, usage)


def _begun(choice: dict[str, Any]) -> dict[str, Any]:
    delta = {name: value for name, value in choice["message"].items() if value is not None}
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": number, **call} for number, call in enumerate(calls)]
    return {"index": choice["index"], "delta": delta, "logprobs": choice.get("logprobs"), "finish_reason": None}


def _add(message: dict[str, Any], delta: dict[str, Any]) -> bool:
    """Add a delta to its message; False where it has a part that is not known here."""
    for name, value in delta.items():
        if value is None:
            continue
        if name in _TEXTS:
            message[name] = (message.get(name) or "") + value
        elif name == "tool_calls":
            for call in value:
                _add_call(message.setdefault("tool_calls", []), call)
        elif name == "role":
            message["role"] = value
        else:
            return False
    return True


def _add_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    """Add a part of a tool call: its arguments come in pieces, all else once."""
    if part["index"] == len(calls):
        calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
    call = calls[part["index"]]
    call |= {name: value for name, value in part.items() if name not in ("index", "function") and value}
    function = part.get("function") or {}
    for name in ("name", "arguments"):
        call["function"][name] += function.get(name) or ""
