"""One server-sent event as bytes."""
from __future__ import annotations

from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"


def plain(data: Any) -> bytes:
    """Return an event of OpenAI's older APIs, which have no names."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def named(data: dict[str, Any]) -> bytes:
    """Return an event whose name is its type."""
    return b"event: " + data["type"].encode() + b"\n" + plain(data)
