"""OpenAI's chat completions: a message is the sum of its deltas, choice by choice."""
from __future__ import annotations

from typing import Any

from farthing.prices import Usage
from proxy.replay.event import DONE, plain

_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")
_MESSAGE = frozenset(("role", "tool_calls", "annotations", *_TEXTS))
_CHOICE = frozenset(("index", "message", "delta", "finish_reason", "logprobs"))
_HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")


def to_events(answer: dict[str, Any], wants_usage: bool) -> list[bytes] | None:
    """Return a chunk for each choice, one that says why it ended, and the usage where it was asked for."""
    choices = answer["choices"]
    if not all(_CHOICE.issuperset(choice) and _MESSAGE.issuperset(choice["message"]) for choice in choices):
        return None
    head = head_of(answer, "chat.completion.chunk")
    events = [plain(head | {"choices": [_begun(choice)]}) for choice in choices]
    events += [plain(head | {"choices": [ended(choice) | {"delta": {}}]}) for choice in choices]
    if wants_usage:
        events.append(plain(head | {"choices": [], "usage": answer["usage"]}))
    return [*events, DONE]


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
    ordered = [choices[index] for index in sorted(choices)]
    return head_of(events[0], "chat.completion") | {"choices": ordered, "usage": usage_of(events, usage)}


def head_of(answer: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return what every chunk says as well as the whole answer."""
    return {name: answer[name] for name in _HEAD if name in answer} | {"object": kind}


def ended(choice: dict[str, Any]) -> dict[str, Any]:
    """Return why a choice ended."""
    return {"index": choice["index"], "logprobs": None, "finish_reason": choice["finish_reason"]}


def add_end(made: dict[str, Any], choice: dict[str, Any]) -> None:
    """Add to a choice what a chunk says beside its text: the tokens' probabilities, and why it ended."""
    made["finish_reason"] = choice.get("finish_reason") or made.get("finish_reason")
    told = choice.get("logprobs")
    if told and made["logprobs"]:
        for name, values in told.items():
            made["logprobs"][name] = (made["logprobs"].get(name) or []) + values if values else values
    elif told:
        made["logprobs"] = dict(told)


def usage_of(events: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
    """Return the usage as the stream told it, else as it was counted: its event may have been hidden."""
    told = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
    if told is not None:
        return told
    counts = {"prompt_tokens": usage.input, "completion_tokens": usage.output_total}
    cached = {"cached_tokens": usage.cache_read + usage.cache_audio}
    return counts | {"total_tokens": usage.input + usage.output_total, "prompt_tokens_details": cached}


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
