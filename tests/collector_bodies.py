"""OTLP bodies and ports for tests that run a collector in a process of its own."""
from __future__ import annotations

import time
import uuid

from farthing import otlp, semconv


def trace_body(calls: int, model: str = "gpt-4o-mini", provider: str = "openai") -> bytes:
    """Return an OTLP body of so many priced model calls that ended just now."""
    now = time.time_ns()
    attributes = otlp.attributes([
        (semconv.OPERATION_NAME, "chat"),
        (semconv.PROVIDER_NAME, provider),
        (semconv.REQUEST_MODEL, model),
        (semconv.USAGE_INPUT_TOKENS, 11),
        (semconv.USAGE_OUTPUT_TOKENS, 3),
    ])
    spans = [
        otlp.span(uuid.uuid4().bytes, uuid.uuid4().bytes[:8], b"", "chat", (now - 10**9, now), attributes)
        for _ in range(calls)
    ]
    return otlp.traces([("service.name", "shop")], "test", "1", spans)


def span_with_ids(trace_id: bytes, span_id: bytes, parent_span_id: bytes = b"", at_ns: int = 1) -> bytes:
    """Return a span whose ids may be of any length, which no span of ours has."""
    ids = otlp.field(0x0A, trace_id) + otlp.field(0x12, span_id) + otlp.field(0x22, parent_span_id)
    at = at_ns.to_bytes(8, "little")
    return ids + otlp.field(0x2A, b"chat") + b"\x39" + at + b"\x41" + at
