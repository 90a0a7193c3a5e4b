"""OpenAI's responses: the last event repeats the whole response, so only telling it as events takes work."""
from __future__ import annotations

from typing import Any

from farthing.prices import Usage
from proxy.replay.event import named

# Of each kind of part: the events that carry its text, and the field that holds it
_PARTS = {"output_text": ("response.output_text", "text"), "refusal": ("response.refusal", "refusal")}


def to_events(answer: dict[str, Any], wants_usage: bool) -> list[bytes] | None:
    """Return the response's beginning, its items one after the other, and the whole of it at the end."""
    begun = answer | {"status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun}, {"type": "response.in_progress", "response": begun}
    ]  # fmt: skip
    for index, item in enumerate(answer["output"]):
        told = _item(item, index)
        if told is None:
            return None
        events += told
    events.append({"type": "response.completed", "response": answer})
    return [named(event | {"sequence_number": number}) for number, event in enumerate(events)]


def to_answer(events: list[dict[str, Any]], usage: Usage) -> dict[str, Any] | None:
    """Return the response of the last event, where it is whole."""
    last = events[-1]
    return last["response"] if last["type"] == "response.completed" else None


def _item(item: dict[str, Any], index: int) -> list[dict[str, Any]] | None:
    """Return the events of one item, None where it is of a kind that is not known here."""
    at = {"output_index": index, "item_id": item.get("id", "")}
    if item["type"] == "message":
        parts = [_part(part, at | {"content_index": number}) for number, part in enumerate(item["content"])]
        if any(part is None for part in parts):
            return None
        empty, told = item | {"status": "in_progress", "content": []}, [event for part in parts for event in part or ()]
    elif item["type"] == "function_call":
        empty, name = item | {"status": "in_progress", "arguments": ""}, "response.function_call_arguments"
        told = [{"type": f"{name}.delta", "delta": item["arguments"]} | at,
                {"type": f"{name}.done", "arguments": item["arguments"], "name": item["name"]} | at]  # fmt: skip
    elif item["type"] == "reasoning" and not item.get("summary") and not item.get("content"):
        empty, told = item, []
    else:
        return None
    return [
        {"type": "response.output_item.added", "output_index": index, "item": empty},
        *told,
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]


def _part(part: dict[str, Any], at: dict[str, Any]) -> list[dict[str, Any]] | None:
    if part["type"] not in _PARTS or part.get("annotations"):
        return None
    name, field = _PARTS[part["type"]]
    empty = {"logprobs": []} if field == "text" else {}
    return [
        {"type": "response.content_part.added", "part": part | {field: ""}} | at,
        {"type": f"{name}.delta", "delta": part[field]} | empty | at,
        {"type": f"{name}.done", field: part[field]} | empty | at,
        {"type": "response.content_part.done", "part": part} | at,
    ]
