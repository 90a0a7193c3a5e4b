"""OpenAI's legacy completions: a text is the sum of its chunks, choice by choice."""
from __future__ import annotations

from typing import Any

from farthing.prices import Usage
from proxy.replay.chat import add_end, ended, head_of, usage_of
from proxy.replay.event import DONE, plain

_CHOICE = frozenset(("index", "text", "finish_reason", "logprobs"))


def to_events(answer: dict[str, Any], wants_usage: bool) -> list[bytes] | None:
    """Return a chunk for each choice, one that says why it ended, and the usage where it was asked for."""
    choices = answer["choices"]
    if not all(_CHOICE.issuperset(choice) for choice in choices):
        return None
    head = head_of(answer, "text_completion")
    events = [plain(head | {"choices": [choice | {"finish_reason": None}]}) for choice in choices]
    events += [plain(head | {"choices": [ended(choice) | {"text": ""}]}) for choice in choices]
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
            made = choices.setdefault(choice["index"], {"index": choice["index"], "text": "", "logprobs": None})
            made["text"] += choice.get("text") or ""
            add_end(made, choice)
    ordered = [choices[index] for index in sorted(choices)]
    return head_of(events[0], "text_completion") | {"choices": ordered, "usage": usage_of(events, usage)}
