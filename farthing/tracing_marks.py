"""What is written on a span when it starts: the tags in force, and which span of a nested call carries no money.

An agent framework's chat span holds the client library's chat span of the same call. Both report the same tokens, so
the outer one is marked unbilled as soon as the inner one starts.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from farthing.semconv import ALIASES, BILLED, INFERENCE_OPERATIONS, OPERATION_ALIASES, UNBILLED_REASON
from farthing.tags import current_tags

_ENCLOSING = "_farthing_enclosing"  # attribute of a live span object: the inference span that it was started below


def inference_operation(span: object) -> str | None:
    """Return the operation of a span that is one model call, and None for every other span."""
    attributes = cast("Mapping[str, object] | None", getattr(span, "attributes", None))
    if not attributes:
        return None
    for alias in ALIASES["operation"]:
        name = attributes.get(alias)
        if name is not None:
            operation = OPERATION_ALIASES.get(str(name), str(name))
            return operation if operation in INFERENCE_OPERATIONS else None
    return None


def mark_started(span: Span, context: Context | None) -> None:
    """Put the tags in force on `span`, and take the money off the inference span around it."""
    tags = current_tags(context)
    if tags is not None:
        span.set_attributes(tags.attributes)
    _mark_enclosing(span, trace.get_current_span(context))


def mark_unbilled(span: Span, reason: str) -> None:
    """Say that another span of the same call carries the money; `reason` is `proxy` or `nested`."""
    span.set_attribute(BILLED, False)
    span.set_attribute(UNBILLED_REASON, reason)


def _mark_enclosing(span: Span, parent: Span) -> None:
    if not parent.is_recording():
        return
    around = inference_operation(parent)
    enclosing = parent if around else cast("Span | None", getattr(parent, _ENCLOSING, None))
    if enclosing is None:
        return
    setattr(span, _ENCLOSING, enclosing)
    operation = inference_operation(span)
    if operation and enclosing.is_recording() and _same_kind(operation, inference_operation(enclosing)):
        mark_unbilled(enclosing, "nested")


def _same_kind(inner: str, outer: str | None) -> bool:
    # An embedding below a chat span (a semantic cache, a retriever) is a call of its own, not the same one again.
    return (inner == "embeddings") == (outer == "embeddings")
