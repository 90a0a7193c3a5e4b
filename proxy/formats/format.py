"""What a wire format has to say of itself, so that one admission path and one exchange serve them all."""
from __future__ import annotations

from typing import Protocol

import msgspec

from farthing.prices import Usage
from farthing.settings import Deployment
from proxy.api_error import ApiError
from proxy.request import Asked
from proxy.stream import EventRelay


class Told(msgspec.Struct, frozen=True):
    """What a whole answer says of itself."""

    id: str = ""
    usage: Usage | None = None
    reasoning: int = 0  # tokens of the output
    service_tier: str = ""  # what the provider served it as
    finish_reason: str = ""
    is_complete: bool = False  # nothing of it is missing, so it may be kept
    is_error: bool = False
    engine_s: float | None = None  # seconds, from the bundled engine only
    engine_queue_s: float | None = None


class Format(Protocol):
    """One of the APIs that clients speak."""

    operation: str  # gen_ai.operation.name of its calls
    path: str  # what follows an upstream's base URL, and /v1/ here
    api: str  # openai | anthropic: which upstreams understand it
    is_deterministic: bool  # the same request has one answer, whatever its temperature

    def read(self, body: bytes) -> Asked:
        """Read a request; raises ApiError where it is none."""
        ...

    def bound(self, asked: Asked, max_output: int) -> tuple[int, int]:
        """Return the most input and output tokens of a call with `max_output` tokens a choice; raises ApiError."""
        ...

    def changes(self, asked: Asked, deployment: Deployment, max_output: int) -> dict[str, object]:
        """Return the fields to set in what is forwarded; `max_output` is a limit to enforce, 0 = none."""
        ...

    def told(self, body: bytes) -> Told | None:
        """Read a whole answer, None where it is none."""
        ...

    def relay(self, asked: Asked) -> EventRelay:
        """Return what relays the answer as events."""
        ...

    def error(self, error: ApiError) -> bytes:
        """Return an error's body as the API shapes it."""
        ...

    def error_event(self, error: ApiError) -> bytes:
        """Return the last event of a stream that broke off."""
        ...
