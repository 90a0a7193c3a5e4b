"""OpenAI's legacy completions: a prompt, or several, each completed."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from farthing.settings import Deployment
from proxy.api_error import ApiError
from proxy.bound import input_bound, refuse_unpriced
from proxy.formats.chunks import ChunkRelay, read_answer
from proxy.formats.format import Told
from proxy.request import MAX_CHOICES, MAX_COUNT, Asked, check_count, check_present, read_fields
from proxy.stream import EventRelay

_WITHIN_PRICE: Mapping[str, tuple[object, ...]] = {"models": (None,), "plugins": (None,)}


class _Request(msgspec.Struct):
    model: str
    prompt: str | list[Any]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    temperature: float | None = None
    user: str | None = None


_MEANT = frozenset((*_Request.__struct_fields__, *_WITHIN_PRICE))


class Completions:
    """POST /v1/completions."""

    operation = "text_completion"
    path = "completions"
    api = "openai"
    is_deterministic = False

    def read(self, body: bytes) -> Asked:
        raw, fields, request = read_fields(body, _Request, _MEANT, "a completion")
        check_present("prompt", request.prompt, "token")
        check_count("max_tokens", request.max_tokens, MAX_COUNT)
        for name in ("n", "best_of"):
            check_count(name, getattr(request, name), MAX_CHOICES)
        prompts = _prompts(request.prompt)
        return Asked(
            body, raw, fields, request.model,
            turns=prompts,
            stream=bool(request.stream),
            wants_usage=bool(request.stream_options) and request.stream_options.get("include_usage") is True,
            temperature=request.temperature,
            max_output=request.max_tokens or 0,
            choices=len(prompts) * max(request.n or 1, request.best_of or 1),
            user=request.user or "",
        )  # fmt: skip

    def bound(self, asked: Asked, max_output: int) -> tuple[int, int]:
        refuse_unpriced(asked, _WITHIN_PRICE)
        return input_bound(asked, ()), asked.choices * max_output

    def changes(self, asked: Asked, deployment: Deployment, max_output: int) -> dict[str, object]:
        changes: dict[str, object] = {"max_tokens": max_output} if max_output and not asked.max_output else {}
        if asked.stream and not asked.wants_usage:
            changes["stream_options"] = {**(asked.fields.get("stream_options") or {}), "include_usage": True}
        return changes

    def told(self, body: bytes) -> Told | None:
        return read_answer(body)

    def relay(self, asked: Asked) -> EventRelay:
        return ChunkRelay(hide_usage=not asked.wants_usage, content=b'"text"')

    def error(self, error: ApiError) -> bytes:
        return error.body()

    def error_event(self, error: ApiError) -> bytes:
        return error.event()


def _prompts(prompt: str | list[Any]) -> list[Any]:
    """Return the prompts of a request: a text, tokens, or a list of either."""
    if isinstance(prompt, str) or all(isinstance(token, int) for token in prompt):
        return [prompt]
    return cast("list[Any]", prompt)
