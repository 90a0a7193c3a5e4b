"""What an Anthropic answer tells of its price and its instrumentor leaves out: the hour that a cache write is kept for,
and the service tier.

A write for an hour costs 2x the input's price, one for five minutes 1.25x. The instrumentor reads every answer, whole
or streamed, in one function, before it ends the span; ours runs after it.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import wrapt

from farthing import semconv

INSTRUMENTOR = "opentelemetry.instrumentation.genai.anthropic"
_READS = "set_invocation_response_attributes"


def tell_price_facts(wrappers: ModuleType) -> None:
    """Wrap the function of the instrumentor's module `wrappers`; another version without it is left alone."""
    if hasattr(wrappers, _READS):
        wrapt.wrap_function_wrapper(wrappers, _READS, _read)


def _read(wrapped: Callable[..., None], _instance: object, args: Any, kwargs: Mapping[str, Any]) -> None:
    wrapped(*args, **kwargs)
    try:
        invocation, message = args[:2]
        invocation.attributes.update(price_facts(message.usage))
    except (AttributeError, TypeError, ValueError):
        return  # no answer, or an instrumentor of another make: the span is as it would be without us


def price_facts(usage: Any) -> dict[str, Any]:
    """Return the attributes that an Anthropic usage object gives rise to."""
    written = getattr(getattr(usage, "cache_creation", None), "ephemeral_1h_input_tokens", None)
    tier = getattr(usage, "service_tier", None)
    facts = {semconv.CACHE_WRITE_1H_TOKENS: written, semconv.SERVICE_TIER: tier}
    return {name: value for name, value in facts.items() if value and isinstance(value, (int, str))}
