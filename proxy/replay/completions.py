"""OpenAI's legacy completions: a text is the sum of its chunks, choice by choice."""
from __future__ import annotations

from typing import Any

from farthing.prices import Usage
from proxy.replay.choices import add_end, put_together, told

_CHOICE = frozenset(("index", "text", "finish_reason", "logprobs"))


def to_events(answer: dict[str, Any], wants_usage: bool) -> list[bytes] | None:
    """Return a chunk for each choice, one that says why it ended, and the usage where it was asked for."""
    if not all(_CHOICE.issuperset(choice) for choice in answer["choices"]):
        return None
    return told(answer, "text_completion", _begun, {"text": ""}, wants_usage)


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
    return put_together(events, "text_completion", choices, usage)


def _begun(choice: dict[str, Any]) -> dict[str, Any]:
    return choice | {"finish_reason": None}
