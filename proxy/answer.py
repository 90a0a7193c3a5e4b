"""How an upstream's answer reaches the client, whole or event by event, and what it says of itself on the way."""
from __future__ import annotations

import time
from functools import lru_cache

from farthing import semconv
from farthing.errors import UpstreamError
from farthing.prices import Usage
from farthing.serving import Headers
from proxy.admit import Admitted
from proxy.broadcast import Broadcast
from proxy.caches import Caches
from proxy.call import Call
from proxy.formats import Format, Told
from proxy.http import EVENT_STREAM, JSON
from proxy.http_request import Request
from proxy.stream import EventRelay, Tape
from proxy.upstream import Response
from proxy.withheld import Taker

_REQUEST_ID, _CACHE = semconv.HEADER_REQUEST_ID.encode(), semconv.HEADER_CACHE.encode()
_POLICY = semconv.HEADER_POLICY.encode()
STREAM_HEADERS = ((b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
_CACHE_SAID = {"": b"miss", "exact": b"hit", "coalesced": b"coalesced", "embedding": b"hit",
               "semantic": b"semantic"}  # fmt: skip
_CACHEABLE_BYTES = 1024 * 1024  # a longer stream is not kept while it passes
_ERROR_BYTES = 1024 * 1024  # of an upstream's own error
_RETRY = (b"retry-after", b"retry-after-ms")  # the official clients take both
_BYTES_PER_TOKEN = 4  # of JSON; the rule of thumb of OpenAI's documentation


class Answers:
    """Relays the answers to calls of one format."""

    def __init__(self, form: Format, caches: Caches) -> None:
        self._form = form
        self._caches = caches

    async def relay(self, call: Call, admitted: Admitted, response: Response, request: Taker) -> None:
        if response.status != 200:
            await self._relay_error(call, response, request)
        elif response.headers.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
            await self._relay_events(call, admitted, response, request)
        else:
            await self._relay_json(call, admitted, response, request)

    async def _relay_error(self, call: Call, response: Response, request: Taker) -> None:
        """The upstream's own error passes through; it charges nothing for it.

        Raises:
            UpstreamError: the answer is none that a client could use.
        """
        status = response.status
        if status >= 300:
            call.usage, call.usage_source = Usage(), "provider"
        if not 400 <= status <= 599:
            raise UpstreamError(f"it answered {status}")
        if status in (401, 403):  # it is this proxy's key that was refused, and the answer may quote it
            raise UpstreamError(f"it refused this proxy's key ({status}); the proxy's operator has to set api_key_env")
        body = await response.read(_ERROR_BYTES)
        call.fail("error", f"upstream_{status}", status)
        retry = [(name, response.headers[name]) for name in _RETRY if name in response.headers]
        content_type = response.headers.get(b"content-type", JSON)
        call.is_begun = call.is_delivered = True
        request.answer(status, body, content_type, [*retry, *response_headers(call)])

    async def _relay_json(self, call: Call, admitted: Admitted, response: Response, request: Taker) -> None:
        body = await response.read()
        told = self._form.told(body)
        take(call, told)
        if told is None or told.is_error:
            call.fail("error", "upstream_error", 200)
        if admitted.ticket is not None:
            body = self._caches.joined(call, admitted.ticket, body)
        call.first_byte_ns = time.time_ns()
        call.is_begun = call.is_delivered = True
        content_type = response.headers.get(b"content-type", JSON)
        request.answer(200, body, content_type, response_headers(call))
        if admitted.ticket is not None:
            self._caches.keep(call, admitted.ticket, body, content_type)

    async def _relay_events(self, call: Call, admitted: Admitted, response: Response, request: Taker) -> None:
        ticket, shared = admitted.ticket, None
        if ticket is not None and ticket.flight is not None and isinstance(request, Request):
            shared = self._caches.shared(call, ticket, self._form, request)
        if shared is None:
            await self._pass_events(call, admitted, response, request)
        else:
            async with shared:
                await self._pass_events(call, admitted, response, shared)

    async def _pass_events(
        self, call: Call, admitted: Admitted, response: Response, request: Taker | Broadcast
    ) -> None:
        relay = self._form.relay(admitted.asked)
        ticket = admitted.ticket
        tape = Tape(_CACHEABLE_BYTES if ticket is not None and ticket.wants_answer else 0)
        call.is_begun = True
        request.begin(200, (*STREAM_HEADERS, *response_headers(call)))

        def pass_on(part: bytes) -> bool:
            goes_on = True
            if out := relay.feed(part):
                call.first_byte_ns = call.first_byte_ns or time.time_ns()
                tape.add(out)
                goes_on = request.put(out)
            call.is_delivered = relay.is_done
            return goes_on

        try:
            await response.pour(pass_on, request.caught_up)
            if out := relay.finish():
                tape.add(out)
                await request.write(out)
        finally:
            _take_stream(call, relay, len(admitted.asked.body))
        if not relay.is_whole and not relay.has_failed:
            raise UpstreamError("the upstream's stream ended before its answer did")
        call.is_delivered = True
        request.end()
        kept = tape.whole()
        call.is_complete = relay.is_done and bool(relay.finish_reason)
        if kept is not None and ticket is not None:
            self._caches.keep(call, ticket, kept, EVENT_STREAM)


def _take_stream(call: Call, relay: EventRelay, asked_bytes: int) -> None:
    """Take what a stream said of itself; usage told on the way is final only once the stream is whole.

    A third party bills what it did and not what arrived, so its broken stream is of unknown usage; our own servers'
    is estimated by its events.
    """
    is_metered = call.deployment is not None and call.deployment.metered
    call.finish_reason = relay.finish_reason
    call.response_id = call.response_id or relay.response_id
    call.service_tier = relay.service_tier or call.service_tier
    if relay.has_failed:
        call.fail("error", "upstream_error", 200)
    if relay.usage is not None and (relay.is_whole or relay.is_usage_last or not is_metered):
        call.usage, call.usage_source, call.reasoning_tokens = relay.usage, "proxy", relay.reasoning
        call.engine_s, call.engine_queue_s = relay.engine_s, relay.engine_queue_s
    elif relay.events and not is_metered:
        output = min(relay.events, call.max_tokens) if call.hold is not None else relay.events
        call.usage, call.usage_source = Usage(asked_bytes // _BYTES_PER_TOKEN, output=output), "estimate"


def take(call: Call, told: Told | None) -> None:
    """Take what a whole answer says of itself."""
    if told is None:
        return
    call.response_id = told.id or call.response_id
    call.service_tier = told.service_tier or call.service_tier
    call.finish_reason, call.is_complete = told.finish_reason or call.finish_reason, told.is_complete
    if told.usage is not None:
        call.usage, call.usage_source, call.reasoning_tokens = told.usage, "proxy", told.reasoning
    if told.engine_s is not None:
        call.engine_s, call.engine_queue_s = told.engine_s, told.engine_queue_s


@lru_cache(maxsize=1024)
def _policies(version: int, names: tuple[str, ...]) -> bytes:
    return " ".join((f"v{version}", *names)).encode()


def response_headers(call: Call) -> Headers:
    headers = [
        (_REQUEST_ID, call.request_id.encode()),
        (_CACHE, b"partial" if call.saved_input_tokens else _CACHE_SAID[call.cache_hit]),
    ]
    if call.decision is not None:
        arms = call.decision.arms
        held_out = tuple([str(arm) for arm in arms if not arm.is_treated]) if arms else ()
        headers.append((_POLICY, _policies(call.decision.version, call.decision.acted + held_out)))
    if call.cut is not None and call.cut.is_any:
        headers.append((semconv.HEADER_TOKENS.encode(), call.cut.header.encode()))
    return headers
