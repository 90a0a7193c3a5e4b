"""OpenAI's embeddings: no stream, no output tokens, and the same answer every time."""
from __future__ import annotations

from typing import Any

import msgspec

from farthing.settings import Deployment
from proxy.api_error import ApiError
from proxy.bound import input_bound
from proxy.formats.chunks import ChunkRelay, Reported
from proxy.formats.format import Told
from proxy.request import Asked, check_present, read_fields
from proxy.stream import EventRelay


class _Request(msgspec.Struct):
    model: str
    input: str | list[Any]
    user: str | None = None


class _Answer(msgspec.Struct):
    data: msgspec.Raw = msgspec.Raw()
    usage: Reported | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode
_MEANT = frozenset(_Request.__struct_fields__)


class Embeddings:
    """POST /v1/embeddings."""

    operation = "embeddings"
    path = "embeddings"
    api = "openai"
    is_deterministic = True

    def read(self, body: bytes) -> Asked:
        raw, fields, request = read_fields(body, _Request, _MEANT, "an embeddings request")
        check_present("input", request.input, "text")
        return Asked(body, raw, fields, request.model, user=request.user or "")

    def bound(self, asked: Asked, max_output: int) -> tuple[int, int]:
        return input_bound(asked, ()), 0

    def changes(self, asked: Asked, deployment: Deployment, max_output: int) -> dict[str, object]:
        return {}

    def told(self, body: bytes) -> Told | None:
        try:
            answer = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        usage = answer.usage.usage() if answer.usage else None
        return Told(usage=usage, is_complete=bool(bytes(answer.data)), is_error=answer.error is not None)

    def relay(self, asked: Asked) -> EventRelay:
        return ChunkRelay(hide_usage=False, content=b'"embedding"')

    def error(self, error: ApiError) -> bytes:
        return error.body()

    def error_event(self, error: ApiError) -> bytes:
        return error.event()
