"""The anthropic library's own spans (since 2.x) are silenced where an instrumentor's span stands for the same call.

The library starts them as soon as any tracer provider is set, and then sends its trace context to Anthropic. Under a
provider that Farthing set, both would be our doing, so all of them are off; under the application's own provider only
the doubles are.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, cast

from opentelemetry import trace

from farthing.tracing_marks import inference_operation


def silence_native_spans(base_client: ModuleType, is_our_provider: Callable[[], bool]) -> None:
    """Replace `BaseClient._tracer`, which is None for a client without spans; older versions have none."""
    native = getattr(base_client.BaseClient, "_tracer", None)
    if not isinstance(native, property) or native.fget is None:
        return
    tracer_of = native.fget

    def tracer(client: Any) -> Any:
        options = cast("Mapping[str, object]", getattr(client, "_open_telemetry", None) or {})
        is_own_choice = "tracer_provider" in options
        if not is_own_choice and (is_our_provider() or inference_operation(trace.get_current_span())):
            return None
        return tracer_of(client)

    base_client.BaseClient._tracer = property(tracer)
