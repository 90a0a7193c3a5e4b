"""OpenAI's chat completions."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from farthing import semconv
from farthing.settings import Deployment
from proxy.api_error import ApiError
from proxy.bound import ascii_size, input_bound, parts_of, refuse_unpriced, unbounded
from proxy.formats.chunks import ChunkRelay, read_answer
from proxy.formats.format import Told
from proxy.request import MAX_CHOICES, MAX_COUNT, Asked, check_count, check_present, read_fields
from proxy.stream import EventRelay

# Field -> values that leave a call within the price of its tokens. `auto` is what a request without the field means.
_WITHIN_PRICE: Mapping[str, tuple[object, ...]] = {
    "service_tier": (None, "auto", "default", "flex"),  # priority costs more per token
    "modalities": (None, ["text"]),  # audio tokens have a price of their own
    "audio": (None,),
    "web_search_options": (None,),  # a fee for each search
    "models": (None,),  # other models to fall back to, each with its price
    "plugins": (None,),  # fees
    "chat_template": (None,),  # a template may repeat the prompt
}
_PART_FIELDS = frozenset(("type", "text", "refusal", "image_url", "cache_control"))
_PART_TYPES = frozenset(("text", "refusal", "image_url"))
_PLAIN = frozenset(("role", "content", "name"))  # fields of a message that is text where its content is
_MESSAGE_MEDIA = frozenset(("audio", "images"))
_BOTH_NAMES = ("openai", "azure.ai.openai")  # their newer models refuse max_tokens


class _Request(msgspec.Struct):
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


_COUNTS = (
    ("max_tokens", MAX_COUNT), ("max_completion_tokens", MAX_COUNT), ("n", MAX_CHOICES), ("best_of", MAX_CHOICES),
)  # fmt: skip
_MEANT = frozenset((*_Request.__struct_fields__, *_WITHIN_PRICE, "prediction"))


class Chat:
    """POST /v1/chat/completions."""

    operation = "chat"
    path = "chat/completions"
    api = "openai"
    is_deterministic = False

    def read(self, body: bytes) -> Asked:
        raw, fields, request = read_fields(body, _Request, _MEANT, "a chat completion")
        check_present("messages", request.messages, "message")
        for name, most in _COUNTS:
            if (count := getattr(request, name)) is not None:
                check_count(name, count, most)
        return Asked(
            body, raw, fields, request.model,
            turns=request.messages,
            stream=bool(request.stream),
            wants_usage=bool(request.stream_options) and request.stream_options.get("include_usage") is True,
            temperature=request.temperature,
            # The larger limit, since upstreams differ in which one they honour.
            max_output=max(request.max_completion_tokens or 0, request.max_tokens or 0),
            choices=max(request.n or 1, request.best_of or 1),
            user=request.user or "",
        )  # fmt: skip

    def bound(self, asked: Asked, max_output: int) -> tuple[int, int]:
        refuse_unpriced(asked, _WITHIN_PRICE)
        inputs = input_bound(asked, [image for message in asked.turns for image in _images(message)])
        # Rejected tokens of a prediction are billed as output, beyond max_tokens.
        predicted = len(bytes(asked.raw["prediction"])) if "prediction" in asked.raw else 0
        return inputs, asked.choices * (max_output + predicted)

    def changes(self, asked: Asked, deployment: Deployment, max_output: int) -> dict[str, object]:
        changes = _limit(asked, deployment, max_output) if max_output else {}
        if asked.stream and not asked.wants_usage:
            changes["stream_options"] = {**(asked.fields.get("stream_options") or {}), "include_usage": True}
        return changes

    def told(self, body: bytes) -> Told | None:
        return read_answer(body)

    def relay(self, asked: Asked) -> EventRelay:
        return ChunkRelay(hide_usage=not asked.wants_usage, content=b'"delta"')

    def error(self, error: ApiError) -> bytes:
        return error.body()

    def error_event(self, error: ApiError) -> bytes:
        return error.event()


def _limit(asked: Asked, deployment: Deployment, max_output: int) -> dict[str, object]:
    """Return the limit of output tokens that the hold stands on, where the upstream might not know it as it came."""
    if asked.fields.get("max_tokens"):
        return {}
    if deployment.provider in (*_BOTH_NAMES, semconv.SELF_HOSTED_PROVIDER):  # these honour both names
        name = "max_completion_tokens" if deployment.provider in _BOTH_NAMES else "max_tokens"
        return {} if asked.fields.get("max_completion_tokens") else {name: max_output}
    return {"max_tokens": max_output}  # a compatible server may know this name only


def _images(message: Any) -> list[int]:
    """Return the bytes that each image of a message takes up in the body."""
    if not isinstance(message, dict):
        return []
    if _PLAIN.issuperset(message) and isinstance(message.get("content"), str):
        return []
    for name in cast("dict[str, Any]", message):
        if name.casefold() in _MESSAGE_MEDIA:
            raise unbounded(f"a message with `{name}`", "messages")
    content: Any = message.get("content")
    return [size for part in parts_of(content, "messages") for size in _image(part)]


def _image(part: dict[str, Any]) -> tuple[int, ...]:
    """Return the size of a part that is an image, nothing for text."""
    if part.get("type") not in _PART_TYPES or not _PART_FIELDS.issuperset(part):
        raise unbounded(f"a content part of type {part.get('type')!r}", "messages")
    if "image_url" not in part:
        return ()
    image = part["image_url"]
    return (ascii_size(image.get("url") if isinstance(image, dict) else image),)
