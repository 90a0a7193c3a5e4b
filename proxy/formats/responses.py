"""OpenAI's Responses API: typed events instead of chunks, and state that the provider may keep."""
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from farthing.prices import Usage
from farthing.settings import Deployment
from proxy.api_error import ApiError
from proxy.bound import (
    TEMPLATE_TOKENS,
    ascii_size,
    input_bound,
    parts_of,
    refuse_nameless,
    refuse_unpriced,
    unbounded,
)
from proxy.formats.chunks import Timings
from proxy.formats.format import Told
from proxy.request import MAX_COUNT, Asked, check_count, check_present, read_fields
from proxy.stream import EventRelay, Tokens, data_of, events_of, tier_of

_WITHIN_PRICE: Mapping[str, tuple[object, ...]] = {
    "service_tier": (None, "auto", "default", "flex"),  # priority costs more per token
    "previous_response_id": (None,),  # the provider adds a conversation that is not here
    "conversation": (None,),
    "prompt": (None,),  # a template kept at the provider
    "background": (None, False),  # answered before anything is used
}
_PART_TYPES = frozenset(("input_text", "output_text", "refusal", "input_image", "summary_text", "reasoning_text"))
_ITEM_TYPES = frozenset((None, "message", "function_call", "function_call_output", "reasoning"))
_LAST = re.compile(rb'"type":\s*"response\.(?:completed|incomplete|failed)"')
_FAILED = re.compile(rb'"type":\s*"error"')
_ID = re.compile(rb'"response":\s*\{[^{}]{0,200}?"id":\s*"([^"]{1,200})"')
_FINISH = {"completed": "stop", "incomplete": "length"}


class _Request(msgspec.Struct):
    model: str
    input: str | list[Any] = ""
    instructions: Any = None
    tools: list[Any] | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    user: str | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: Tokens = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: Tokens = None


class _Usage(msgspec.Struct):
    input_tokens: Tokens = None
    output_tokens: Tokens = None
    input_tokens_details: _InputDetails | None = None
    output_tokens_details: _OutputDetails | None = None

    def usage(self) -> Usage | None:
        if self.input_tokens is None:
            return None
        cached = min((self.input_tokens_details and self.input_tokens_details.cached_tokens) or 0, self.input_tokens)
        return Usage(input_uncached=self.input_tokens - cached, cache_read=cached, output=self.output_tokens or 0)


class _Answer(msgspec.Struct):
    id: str | None = None
    status: str | None = None
    usage: _Usage | None = None
    service_tier: Any = None
    timings: Timings | None = None
    error: Any = None

    def told(self) -> Told:
        details = self.usage.output_tokens_details if self.usage else None
        return Told(
            id=self.id or "",
            usage=self.usage.usage() if self.usage else None,
            reasoning=(details.reasoning_tokens or 0) if details else 0,
            service_tier=tier_of(self.service_tier),
            finish_reason=_FINISH.get(self.status or "", ""),
            is_complete=self.status == "completed",
            is_error=self.error is not None or self.status == "failed",
            engine_s=self.timings.engine_s if self.timings else None,
            engine_queue_s=self.timings.queue_s if self.timings else None,
        )


class _Event(msgspec.Struct):
    response: _Answer | None = None


_decode = msgspec.json.Decoder(_Answer).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_MEANT = frozenset((*_Request.__struct_fields__, *_WITHIN_PRICE))


class Responses:
    """POST /v1/responses."""

    operation = "responses"
    path = "responses"
    api = "openai"
    is_deterministic = False

    def read(self, body: bytes) -> Asked:
        raw, fields, request = read_fields(body, _Request, _MEANT, "a response")
        if not (fields.get("prompt") or fields.get("previous_response_id") or fields.get("conversation")):
            check_present("input", request.input, "text or item")
        check_count("max_output_tokens", request.max_output_tokens, MAX_COUNT)
        items = [request.input] if isinstance(request.input, str) else request.input
        return Asked(
            body, raw, fields, request.model,
            turns=[request.instructions, *items] if request.instructions else items,
            stream=bool(request.stream),
            temperature=request.temperature,
            max_output=request.max_output_tokens or 0,
            user=request.user or "",
        )  # fmt: skip

    def bound(self, asked: Asked, max_output: int) -> tuple[int, int]:
        refuse_unpriced(asked, _WITHIN_PRICE)
        for tool in asked.fields.get("tools") or ():
            kind = tool.get("type") if isinstance(tool, dict) else None
            if kind not in ("function", "custom"):
                raise unbounded(f"the tool {kind!r}, which the provider runs and charges for", "tools")
        images = [size for item in asked.turns for size in _images(item)]
        return input_bound(asked, images, TEMPLATE_TOKENS), max_output

    def changes(self, asked: Asked, deployment: Deployment, max_output: int) -> dict[str, object]:
        return {"max_output_tokens": max_output} if max_output and not asked.max_output else {}

    def told(self, body: bytes) -> Told | None:
        try:
            return _decode(body).told()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def relay(self, asked: Asked) -> EventRelay:
        return ResponsesRelay()

    def error(self, error: ApiError) -> bytes:
        return error.body()

    def error_event(self, error: ApiError) -> bytes:
        said = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
        return b"event: error\ndata: " + msgspec.json.encode(said) + b"\n\n"


class ResponsesRelay(EventRelay):
    """Typed events; the last one repeats the whole response, usage included."""

    def _noticed(self, whole: bytes) -> bytes:
        self.events += whole.count(b'.delta"')
        if not self.response_id and (found := _ID.search(whole)):
            self.response_id = found.group(1).decode("utf-8", "replace")
        if _FAILED.search(whole):
            self.has_failed = True
        if _LAST.search(whole):
            for event in events_of(whole):
                if _LAST.search(event):
                    self._take_last(event)
        return whole

    def _take_last(self, event: bytes) -> None:
        self.is_done = True
        try:
            answer = _decode_event(data_of(event)).response
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if answer is None:
            return
        told = answer.told()
        self.usage, self.reasoning, self.is_usage_last = told.usage, told.reasoning, True
        self.service_tier = told.service_tier
        self.engine_s, self.engine_queue_s = told.engine_s, told.engine_queue_s
        self.finish_reason, self.response_id = told.finish_reason, told.id or self.response_id
        self.has_failed = self.has_failed or told.is_error


def _images(item: Any) -> list[int]:
    """Return the bytes that each image of an input item takes up in the body."""
    if not isinstance(item, dict):
        return []
    known = cast("dict[str, Any]", item)
    refuse_nameless(known, "input")
    if known.get("type") not in _ITEM_TYPES:
        raise unbounded(f"an input item of type {known.get('type')!r}", "input")
    parts = [*parts_of(known.get("content"), "input"), *parts_of(known.get("output"), "input")]
    for part in parts:
        if part.get("type") not in _PART_TYPES or "file_id" in part:
            raise unbounded(f"an input part of type {part.get('type')!r}", "input")
    return [ascii_size(part.get("image_url")) for part in parts if part.get("type") == "input_image"]
