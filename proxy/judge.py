"""How good an answer is, by what it says of itself: a few rules, and the model's own certainty where it is told.

No rule knows whether an answer is right. Cut off, empty, refused or broken answers are found; a wrong one that looks
well is found by its log probabilities alone, where the client asked for them.
"""
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import exp
from typing import Any, cast

from proxy.call import Call
from proxy.request import Asked
from proxy.withheld import Withheld

_GOOD = 1.0
_CUT, _BLOCKED, _EMPTY, _BROKEN, _UNSURE = 0.2, 0.0, 0.0, 0.1, 0.3
_CUT_REASONS = ("length", "max_tokens", "model_context_window_exceeded", "incomplete")
_BLOCKED_REASONS = ("content_filter", "refusal")
_LOOKED_AT = 240  # characters of an answer's begin, where models say that they do not know
_UNSURE_WORDS = re.compile(
    r"\b(i (do not|don't|don’t) know|i('|’)?m not sure|i am not sure|i (cannot|can't|can’t|am unable to)|"
    r"as an ai( language)? model|i (do not|don't|don’t) have (enough|access))\b",
    re.IGNORECASE,
)


def quality_of(call: Call, asked: Asked, withheld: Withheld) -> float:
    """Return 0 to 1."""
    if call.outcome != "ok" or withheld.status != 200:
        return 0.0
    if call.finish_reason in _BLOCKED_REASONS:
        return _BLOCKED
    if call.finish_reason in _CUT_REASONS:
        return _CUT
    answers = list(_answers(withheld))
    text = "".join([part for answer in answers for part in _texts(answer)])
    if not text.strip():
        return _GOOD if any(_calls_tool(answer) for answer in answers) else _EMPTY
    if _wants_json(asked) and not _is_json(text):
        return _BROKEN
    if _UNSURE_WORDS.search(text[:_LOOKED_AT]):
        return _UNSURE
    chances = [chance for answer in answers for chance in _logprobs(answer)]
    return exp(sum(chances) / len(chances)) if chances else _GOOD


def _answers(withheld: Withheld) -> Iterator[dict[str, Any]]:
    """Yield the answer, or the events of a stream, as objects."""
    lines = withheld.body.splitlines() if withheld.is_stream else [withheld.body]
    for line in lines:
        data = line.removeprefix(b"data:").strip() if withheld.is_stream else line
        if data[:1] == b"{":
            try:
                read = json.loads(data)
            except (ValueError, RecursionError):
                continue
            if isinstance(read, dict):
                yield cast("dict[str, Any]", read)


def _texts(answer: dict[str, Any]) -> Iterator[str]:
    """Yield the text of an answer or an event, in whichever API."""
    for choice in _dicts(answer.get("choices")):
        yield from _strings(choice.get("text"))
        for name in ("message", "delta"):
            yield from _content(_dict(choice.get(name)).get("content"))
    if str(answer.get("type", "")).endswith("_text.delta"):  # an event of Responses
        yield from _strings(answer.get("delta"))
    yield from _strings(_dict(answer.get("delta")).get("text"))  # an event of Messages
    yield from _content(answer.get("content"))
    for item in _dicts(answer.get("output")):
        yield from _content(item.get("content"))


def _content(content: Any) -> Iterator[str]:
    yield from _strings(content)
    for part in _dicts(content):
        yield from _strings(part.get("text"))


def _calls_tool(answer: dict[str, Any]) -> bool:
    found = json.dumps(answer)
    return '"tool_calls": [{' in found or '"tool_use"' in found or '"function_call"' in found


def _logprobs(answer: dict[str, Any]) -> Iterator[float]:
    for choice in _dicts(answer.get("choices")):
        for token in _dicts(_dict(choice.get("logprobs")).get("content")):
            chance = token.get("logprob")
            if isinstance(chance, (int, float)):
                yield max(-30.0, min(0.0, float(chance)))


def _wants_json(asked: Asked) -> bool:
    kind = _dict(asked.fields.get("response_format")).get("type")
    return kind in ("json_object", "json_schema")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value


def _dict(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [_dict(one) for one in cast("list[Any]", value) if isinstance(one, dict)] if isinstance(value, list) else []
