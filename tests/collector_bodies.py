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
