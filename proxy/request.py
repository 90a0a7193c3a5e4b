"""A chat completion request, read as its upstream will read it.

The hold is computed from what is read here, so a body that two JSON readers could take differently is refused: a field
that is there twice, or one that differs from a field with a meaning in case alone (Go's decoder takes that one too).
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.api_error import ApiError

MAX_COUNT = 100_000_000  # tokens; no model answers or reads more
_MAX_CHOICES = 128  # OpenAI's limit of `n`
_MAX_MODEL = 256  # characters of a model's name

# Fields that decide what a call may cost, beside those of `ChatRequest`; `proxy.bound` reads them.
_COSTLY = (
    "audio", "chat_template", "modalities", "models", "plugins", "prediction", "service_tier", "web_search_options",
)  # fmt: skip


class ChatRequest(msgspec.Struct):
    """What the proxy reads of a request; everything else passes through as it is."""

    model: str
    messages: list[Any]
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    best_of: int | None = None
    temperature: float | None = None
    user: str | None = None

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options) and self.stream_options.get("include_usage") is True

    @property
    def max_output(self) -> int:
        """The larger limit, since upstreams differ in which one they honour; 0 = none is named."""
        return max(self.max_completion_tokens or 0, self.max_tokens or 0)

    @property
    def choices(self) -> int:
        return max(self.n or 1, self.best_of or 1)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was sent and as it is read."""

    body: bytes
    raw: dict[str, msgspec.Raw]  # every field as it was sent
    fields: dict[str, Any]
    chat: ChatRequest


_MEANT = frozenset((*ChatRequest.__struct_fields__, *_COSTLY))
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_fields = msgspec.json.Decoder(dict[str, Any]).decode


def read_request(body: bytes) -> Asked:
    """Read a request's body.

    Raises:
        ApiError: 400; it is not a chat request, or not one that every reader takes alike.
    """
    try:
        raw, fields = _decode_raw(body), _decode_fields(body)
        asked = Asked(body, raw, fields, msgspec.convert(fields, ChatRequest))
    except msgspec.ValidationError as error:
        raise ApiError(400, "invalid_request", f"the request is not a chat completion: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "invalid_json", f"the body is not JSON: {error}") from None
    _check_names(asked)
    _check_values(asked.chat)
    return asked


def _check_names(asked: Asked) -> None:
    for name in asked.raw:
        if name not in _MEANT and (meant := name.casefold()) in _MEANT:
            message = f"the field {name!r} is unknown; did you mean {meant!r}?"
            raise ApiError(400, "invalid_request", message, param=name)
    repeated = "" if _is_compact(asked) else _repeated(asked.body)
    if repeated:
        raise ApiError(400, "invalid_request", f"the field {repeated!r} is there twice; send it once", param=repeated)


def _is_compact(asked: Asked) -> bool:
    """Tell whether fields, quotes, colons and commas account for every byte, which leaves none for a second field."""
    known = sum([len(name.encode()) + len(bytes(value)) for name, value in asked.raw.items()])
    return known + 4 * len(asked.raw) + 1 == len(asked.body)


def _repeated(body: bytes) -> str:
    """Return a field that is there twice, or nothing; slower, for bodies with spaces or escapes."""
    try:
        pairs = json.loads(body.decode(), object_pairs_hook=list, parse_int=str, parse_float=str)
    except RecursionError:
        raise ApiError(400, "invalid_json", "the body is not JSON: it is nested too deeply") from None
    names = [name for name, _ in pairs]
    return next((name for name in names if names.count(name) > 1), "") if len(set(names)) < len(names) else ""


def _check_values(chat: ChatRequest) -> None:
    if not 1 <= len(chat.model) <= _MAX_MODEL:
        message = f"`model` has {len(chat.model)} characters; allowed are 1 to {_MAX_MODEL}"
        raise ApiError(400, "invalid_request", message, param="model")
    if not chat.messages:
        raise ApiError(400, "invalid_request", "`messages` is empty; send at least one message", param="messages")
    for name in ("max_tokens", "max_completion_tokens"):
        _check_count(name, getattr(chat, name), MAX_COUNT)
    for name in ("n", "best_of"):
        _check_count(name, getattr(chat, name), _MAX_CHOICES)


def _check_count(name: str, value: int | None, most: int) -> None:
    if value is not None and not 1 <= value <= most:
        message = f"{name} is {value}; it must be 1 or more, and {most} at most"
        raise ApiError(400, "invalid_request", message, param=name)
