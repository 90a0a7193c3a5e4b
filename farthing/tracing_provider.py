"""The tracer provider that spans come from: the application's where it has one, else ours.

`import farthing.auto` is often the first line of a program, before the program sets a provider of its own.
OpenTelemetry ignores a second provider, so ours gives way: it hands its spans on to the newcomer's processors.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import wrapt
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from farthing.tracing_marks import mark_started
from farthing.tracing_queue import SpanQueue

log = logging.getLogger("farthing")


class Recorder(SpanProcessor):
    """Marks spans as they start and queues them as they end; raises nothing into the application."""

    def __init__(self, queue: SpanQueue, exit_s: float) -> None:
        self._queue = queue
        self._exit_s = exit_s
        self.is_active = True

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if not self.is_active:
            return
        try:
            mark_started(span, parent_context)
        except Exception:  # OpenTelemetry passes what a processor raises on to the application
            log.debug("farthing: a span was not marked", exc_info=True)

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if self.is_active and context is not None and context.trace_flags.sampled:
            self._queue.put(span)

    def shutdown(self) -> None:
        self._queue.close(self._exit_s)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._queue.flush(timeout_millis / 1000)


class Switch(SpanProcessor):
    """Our provider's only processor: passes everything on to `target`."""

    def __init__(self, target: SpanProcessor) -> None:
        self.target = target

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.target.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        self.target.on_end(span)

    def shutdown(self) -> None:
        self.target.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self.target.force_flush(timeout_millis)


class Provider:
    """Finds or makes the provider, once, and gives way to one that the application sets later."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._switch = Switch(recorder)
        self.current: trace.TracerProvider | None = None
        self.is_ours = False

    def install(self, service: str) -> trace.TracerProvider:
        """Return the provider that client libraries shall be instrumented with."""
        if self.current is not None:
            return self.current
        found = trace.get_tracer_provider()
        if isinstance(found, TracerProvider):
            found.add_span_processor(self._recorder)
            self.current = found
            return found
        self.current = ours = self._make(service)
        if isinstance(found, trace.ProxyTracerProvider):
            trace.set_tracer_provider(ours)
            wrapt.wrap_function_wrapper(trace, "set_tracer_provider", self._set_later)
        self.is_ours = True
        return ours

    def _make(self, service: str) -> TracerProvider:
        resource = Resource.create({SERVICE_NAME: service} if service else {})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # farthing.tracing bounds the exit
        provider.add_span_processor(self._switch)
        return provider

    def _set_later(self, wrapped: Callable[..., None], _instance: object, args: Any, kwargs: Any) -> None:
        theirs = args[0] if args else kwargs.get("tracer_provider")
        if self.is_ours and isinstance(theirs, TracerProvider) and theirs is not self.current and self._step_back():
            theirs.add_span_processor(self._recorder)
            self._switch.target = cast("SpanProcessor", getattr(theirs, "_active_span_processor", self._recorder))
            self.current, self.is_ours = theirs, False
        wrapped(*args, **kwargs)

    def _step_back(self) -> bool:
        """Make OpenTelemetry forget that a provider was set; False where its internals are not as we know them."""
        once = getattr(trace, "_TRACER_PROVIDER_SET_ONCE", None)
        if not hasattr(once, "_done") or not hasattr(trace, "_TRACER_PROVIDER"):
            return False
        setattr(once, "_done", False)  # noqa: B010 - a private field of OpenTelemetry's, checked above
        setattr(trace, "_TRACER_PROVIDER", None)  # noqa: B010 - same
        return True
