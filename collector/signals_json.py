"""OTLP/JSON requests of metrics and logs as protobuf messages: proto3 JSON with ids in hex.

The generic reader of the protobuf library is slower than the one for traces (otlp_json.py) and enough for these.
"""
from __future__ import annotations

from base64 import b64encode
from typing import Any, TypeVar

import msgspec
from google.protobuf.json_format import ParseDict
from google.protobuf.json_format import ParseError as JsonError
from google.protobuf.message import Message

from collector.otlp_json import count_json_items
from farthing.errors import IngestError

_IDS = frozenset(("traceId", "trace_id", "spanId", "span_id"))
_Request = TypeVar("_Request", bound=Message)
_anything = msgspec.json.Decoder(dict[str, Any])


def request_from_json(body: bytes, request: _Request, path: tuple[tuple[str, ...], ...], most: int) -> _Request:
    """Fill `request` from its JSON form and return it; the items that lie at `path` are counted before.

    Raises:
        IngestError: 413 for more than `most` items or too many objects; 400 for bytes that are not such a request, or
            nest too deeply.
    """
    if count_json_items(body, path) > most:
        raise IngestError(413, f"the body holds more than {most} items; send smaller batches")
    name = type(request).DESCRIPTOR.name
    try:
        return ParseDict(_with_binary_ids(_anything.decode(body)), request, ignore_unknown_fields=True)
    except RecursionError:
        raise IngestError(400, "the JSON body is nested too deeply") from None
    except (JsonError, msgspec.DecodeError, ValueError, TypeError, AttributeError) as error:
        raise IngestError(400, f"the body is not an OTLP/JSON {name}: {str(error)[:300]}") from None


def _with_binary_ids(value: Any, key: str = "") -> Any:
    """Return the document with its ids as proto3 JSON has bytes: base64."""
    if isinstance(value, dict):
        return {name: _with_binary_ids(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_binary_ids(inner) for inner in value]
    if key in _IDS and isinstance(value, str):
        return b64encode(bytes.fromhex(value)).decode()
    return value
