"""Has a small model of this proxy sum up the turns that were cut, and puts what it says before what follows them.

The summary is a call like any other: it goes through the proxy's own chat route with the caller's key and tags, so it
is admitted, held, charged and recorded. Whatever goes wrong with it, the caller's own call goes on without.
"""
from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from farthing import semconv
from farthing.policy.tokens import Summary
from proxy.http_request import Handler
from proxy.inner import InnerRequest
from proxy.tokens.count import measure
from proxy.tokens.plan import Plan
from proxy.tokens.turns import Turn, edited

log = logging.getLogger(__name__)

PURPOSE = "purpose=history-summary"  # the tag by which such calls are told from the application's own
_TAGS, _DEADLINE = semconv.HEADER_TAGS.encode(), semconv.HEADER_DEADLINE.encode()
_MAX_CHARACTERS = 24_000  # of the turns that are summed up; the newest of them
_ASKED = (
    "Sum up this part of a conversation for the one who goes on with it. Keep names, numbers, decisions and open "
    "questions. Answer with the summary alone."
)
_INTRODUCED = "Earlier in this conversation, summed up: "


class Summaries:
    """Writes summaries through the proxy's own routes."""

    def __init__(self, routes: Handler) -> None:
        self._routes = routes

    async def write(self, rule: Summary, turns: Sequence[Turn], headers: Mapping[bytes, bytes]) -> str:
        """Return the summary of `turns`, '' where none was to be had."""
        said = "\n".join([f"{turn.kind}: {_text(turn)}" for turn in turns])[-_MAX_CHARACTERS:]
        messages = [{"role": "system", "content": _ASKED}, {"role": "user", "content": said}]
        body = {"model": rule.model, "messages": messages, "max_tokens": rule.max_tokens, "temperature": 0}
        tags = headers.get(_TAGS, b"")
        given = {
            **headers,
            _TAGS: b"%b,%b" % (tags, PURPOSE.encode()) if tags else PURPOSE.encode(),
            _DEADLINE: b"%d" % max(1, round(rule.timeout_s * 1000)),
        }
        request = InnerRequest("/v1/chat/completions", given, msgspec.json.encode(body))
        await self._routes(request)
        if request.status != 200:
            log.warning("no summary of the history: %d %s", request.status, request.answered[:200])
            return ""
        return _answer(request.answered)


def with_summary(made: Plan, text: str) -> None:
    """Put a summary into the first turn of the user that follows what was cut, so that turns still alternate."""
    made.cut.has_no_summary = True
    if not text or made.kept is None:
        return
    users = [index for index in made.kept if made.turns[index].kind == "user"]
    first_cut = next(index for index in range(len(made.turns)) if index not in set(made.kept))
    at = next((index for index in users if index > first_cut), users[-1] if users else -1)
    if at < 0:
        return
    turn = made.turns[at]
    new = _introduced(turn.value, f"{_INTRODUCED}{text}")
    if new is not None:
        turn.value = new
        made.edited.add(at)
        made.cut.has_no_summary = False
        made.cut.summary = measure(text).tokens
        made.cut.after += made.cut.summary


def _introduced(value: Any, text: str) -> Any:
    """Return a turn of the user that begins with `text`."""
    content = value.get("content") if isinstance(value, dict) else None
    if isinstance(content, str):
        return {**value, "content": f"{text}\n\n{content}"}
    if not isinstance(content, list):
        return None
    is_told = False

    def tell(first: str) -> str:
        nonlocal is_told
        told, is_told = is_told, True
        return first if told else f"{text}\n\n{first}"

    new = edited(value, tell)
    return new if is_told else None


def _text(turn: Turn) -> str:
    value = turn.value
    content = cast("dict[str, Any]", value).get("content", value) if isinstance(value, dict) else value
    if isinstance(content, str):
        return content
    parts = [one.get("text") for one in cast("list[Any]", content) if isinstance(one, dict)] if content else []
    texts = [text for text in parts if isinstance(text, str)]
    return "\n".join(texts) if texts else msgspec.json.encode(value).decode()


def _answer(body: bytes) -> str:
    try:
        content = msgspec.json.decode(body)["choices"][0]["message"]["content"]
    except (msgspec.DecodeError, KeyError, IndexError, TypeError):
        return ""
    return content.strip() if isinstance(content, str) else ""
