"""Anthropic's messages: a content block begins empty, and its deltas fill it."""
from __future__ import annotations

from typing import Any

import msgspec

from farthing.prices import Usage
from proxy.replay.event import named

# Of each kind of block: the field that the deltas fill, and the delta's own type
_FILLED = {
    "text": (("text", "text_delta"),),
    "thinking": (("thinking", "thinking_delta"), ("signature", "signature_delta")),
}
_TEXT_OF = {kind: name for fields in _FILLED.values() for name, kind in fields}


def to_events(answer: dict[str, Any], wants_usage: bool) -> list[bytes] | None:
    """Return the message's start, its blocks one after the other, and its end with the output's tokens."""
    usage = answer["usage"]
    begun = answer | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage | {"output_tokens": 1}}
    events = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(answer["content"]):
        told = _told(block)
        if told is None:
            return None
        start, deltas = told
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": answer["stop_reason"], "stop_sequence": answer.get("stop_sequence")}
    events.append({"type": "message_delta", "delta": end, "usage": {"output_tokens": usage["output_tokens"]}})
    return [named(event) for event in (*events, {"type": "message_stop"})]


def to_answer(events: list[dict[str, Any]], usage: Usage) -> dict[str, Any] | None:
    """Return the message that the events add up to."""
    message: dict[str, Any] = {}
    inputs: dict[int, str] = {}  # of tools, as pieces of JSON
    for event in events:
        kind = event["type"]
        if kind == "message_start":
            message = dict(event["message"])
        elif kind == "content_block_start":
            message["content"].append(dict(event["content_block"]))
        elif kind == "content_block_delta":
            if not _add(message["content"][event["index"]], event["delta"], inputs, event["index"]):
                return None
        elif kind == "message_delta":
            message |= event["delta"]
            message["usage"] = message["usage"] | event["usage"]
    for index, text in inputs.items():
        message["content"][index]["input"] = msgspec.json.decode(text) if text else {}
    return message if message["stop_reason"] else None


def _told(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Return a block as it begins and the deltas that fill it; one of a kind that comes at once has no delta."""
    kind = block["type"]
    if kind == "tool_use":
        text = msgspec.json.encode(block["input"]).decode()
        return block | {"input": {}}, [{"type": "input_json_delta", "partial_json": text}]
    if kind not in _FILLED:
        return (block, []) if kind == "redacted_thinking" else None
    if block.get("citations"):
        return None
    fields = [(name, delta) for name, delta in _FILLED[kind] if block.get(name)]
    empty = {name: "" for name, _ in _FILLED[kind]}
    return block | empty, [{"type": delta, name: block[name]} for name, delta in fields]


def _add(block: dict[str, Any], delta: dict[str, Any], inputs: dict[int, str], index: int) -> bool:
    """Add a delta to its block; False where it is of a kind that is not known here."""
    kind = delta["type"]
    if kind == "input_json_delta":
        inputs[index] = inputs.get(index, "") + delta["partial_json"]
        return True
    if kind not in _TEXT_OF:
        return False
    name = _TEXT_OF[kind]
    block[name] = (block.get(name) or "") + delta[name]
    return True
