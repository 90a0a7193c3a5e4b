"""Anthropic's Messages API: cached input is counted beside `input_tokens`, and usage comes in two parts of a stream."""
from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from farthing.prices import Usage
from farthing.settings import Deployment
from proxy.api_error import ApiError
from proxy.bound import ascii_size, input_bound, parts_of, refuse_unpriced, unbounded
from proxy.formats.format import Told
from proxy.request import MAX_COUNT, Asked, check_count, check_present, read_fields
from proxy.stream import EventRelay, Tokens, data_of, events_of, tier_of

_WITHIN_PRICE: Mapping[str, tuple[object, ...]] = {
    "service_tier": (None, "standard_only"),  # auto may take the priority tier
    "mcp_servers": (None, []),  # the provider calls tools whose answers are input
    "container": (None,),  # priced by the hour
    "context_management": (None,),
    "speed": (None, "standard"),  # fast mode costs a multiple
}
# The longest system prompt that tools add: 530 tokens in Anthropic's table of tool use; twice that for what may come.
_TOOL_TOKENS = 1060
_PART_TYPES = frozenset(("text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking", "search_result"))
_START = re.compile(rb'"type":\s*"message_start"')
_DELTA = re.compile(rb'"type":\s*"message_delta"')
_STOP = re.compile(rb'"type":\s*"message_stop"')
_FAILED = re.compile(rb'^data:\s*\{\s*"type":\s*"error"', re.MULTILINE)
_KINDS = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
    429: "rate_limit_error", 500: "api_error", 502: "api_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


class _Request(msgspec.Struct):
    model: str
    messages: list[Any]
    max_tokens: int
    system: Any = None
    tools: list[Any] | None = None
    stream: bool | None = None
    temperature: float | None = None
    metadata: dict[str, Any] | None = None


class _Written(msgspec.Struct):
    ephemeral_1h_input_tokens: Tokens = None


class _Usage(msgspec.Struct):
    input_tokens: Tokens = None
    output_tokens: Tokens = None
    cache_read_input_tokens: Tokens = None
    cache_creation_input_tokens: Tokens = None
    cache_creation: _Written | None = None
    service_tier: Any = None


class _Delta(msgspec.Struct):
    stop_reason: str | None = None


class _Answer(msgspec.Struct):
    id: str | None = None
    type: str | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None
    error: Any = None


class _Event(msgspec.Struct):
    """message_start carries a message, message_delta the rest of its usage."""

    message: _Answer | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Answer).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_MEANT = frozenset((*_Request.__struct_fields__, *_WITHIN_PRICE))


class Messages:
    """POST /v1/messages."""

    operation = "chat"
    path = "messages"
    api = "anthropic"
    is_deterministic = False

    def read(self, body: bytes) -> Asked:
        raw, fields, request = read_fields(body, _Request, _MEANT, "a message request")
        check_present("messages", request.messages, "message")
        check_count("max_tokens", request.max_tokens, MAX_COUNT)
        user = (request.metadata or {}).get("user_id")
        return Asked(
            body, raw, fields, request.model,
            turns=[request.system, *request.messages] if request.system else request.messages,
            stream=bool(request.stream),
            temperature=request.temperature,
            max_output=request.max_tokens,
            user=user if isinstance(user, str) else "",
        )  # fmt: skip

    def bound(self, asked: Asked, max_output: int) -> tuple[int, int]:
        refuse_unpriced(asked, _WITHIN_PRICE)
        for tool in asked.fields.get("tools") or ():
            kind = tool.get("type") if isinstance(tool, dict) else "?"
            if kind not in (None, "custom"):
                raise unbounded(f"the tool {kind!r}, which the provider runs or describes itself", "tools")
        images = [size for turn in asked.turns for size in _images(turn)]
        return input_bound(asked, images, _TOOL_TOKENS), max_output

    def changes(self, asked: Asked, deployment: Deployment, max_output: int) -> dict[str, object]:
        return {}

    def told(self, body: bytes) -> Told | None:
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        usage = _usage((answer.usage,))
        is_error = answer.error is not None or answer.type == "error"
        reason = answer.stop_reason or ""
        return Told(
            answer.id or "", usage, service_tier=tier_of(answer.usage.service_tier) if answer.usage else "",
            finish_reason=reason, is_complete=bool(reason), is_error=is_error,
        )  # fmt: skip

    def relay(self, asked: Asked) -> EventRelay:
        return MessagesRelay()

    def error(self, error: ApiError) -> bytes:
        kind = _KINDS.get(error.status, "invalid_request_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": error.message}})

    def error_event(self, error: ApiError) -> bytes:
        return b"event: error\ndata: " + self.error(error) + b"\n\n"


class MessagesRelay(EventRelay):
    """From message_start, which has the input's tokens, over message_delta, which has the output's, to the stop."""

    def __init__(self) -> None:
        super().__init__()
        self._reported: list[_Usage | None] = []

    def _noticed(self, whole: bytes) -> bytes:
        self.events += whole.count(b'"content_block_delta"')
        if _START.search(whole) or _DELTA.search(whole):
            for event in events_of(whole):
                if _START.search(event) or _DELTA.search(event):
                    self._take(event)
        self.is_done = self.is_done or _STOP.search(whole) is not None
        self.has_failed = self.has_failed or _FAILED.search(whole) is not None
        return whole

    def _take(self, event: bytes) -> None:
        try:
            said = _decode_event(data_of(event))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if said.message is not None:
            self.response_id = said.message.id or self.response_id
            self._reported.append(said.message.usage)
        elif said.usage is not None:
            self._reported.append(said.usage)
            self.is_usage_last = True
        if said.delta is not None and said.delta.stop_reason:
            self.finish_reason = said.delta.stop_reason
        self.usage = _usage(self._reported)
        told = [tier_of(report.service_tier) for report in self._reported if report is not None]
        self.service_tier = next((tier for tier in reversed(told) if tier), "")


_COUNTS = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def _usage(reports: Any) -> Usage | None:
    """Return the usage of several reports; each number is as the last one that names it says, since they add up."""
    known: dict[str, int] = {}
    for report in reports:
        for name in _COUNTS if report is not None else ():
            if (value := getattr(report, name)) is not None:
                known[name] = value
        if report is not None and report.cache_creation is not None:
            known["written_1h"] = report.cache_creation.ephemeral_1h_input_tokens or 0
    if "input_tokens" not in known:
        return None
    written = known.get("cache_creation_input_tokens", 0)
    written_1h = min(known.get("written_1h", 0), written)  # the last report may correct the total alone
    return Usage(
        input_uncached=known["input_tokens"],
        cache_read=known.get("cache_read_input_tokens", 0),
        cache_write=written - written_1h,
        output=known.get("output_tokens", 0),
        cache_write_1h=written_1h,
    )


def _images(turn: Any) -> list[int]:
    """Return the bytes that each image of a turn, or of a tool's result in it, takes up in the body."""
    content: Any = cast("dict[str, Any]", turn).get("content") if isinstance(turn, dict) else turn
    sizes: list[int] = []
    for part in parts_of(content, "messages"):
        if part.get("type") not in _PART_TYPES:
            raise unbounded(f"a content block of type {part.get('type')!r}", "messages")
        if part.get("type") == "image":
            source = part.get("source")
            data = cast("dict[str, Any]", source).get("data") if isinstance(source, dict) else None
            sizes.append(ascii_size(data))
        elif part.get("type") == "tool_result":
            sizes += _images(part)
    return sizes
