"""POST /v1/chat/completions: admit, forward, relay, and then, however it ends, settle and record.

Every path out of a call passes `_finish`: success, refusal, an upstream's error, an abort, a cut stream. A stream that
has begun is never restarted.
"""
from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from farthing import semconv
from farthing.errors import UpstreamError
from farthing.prices import Usage
from farthing.serving import Receive, Scope, Send
from farthing.settings import Deployment, Settings
from proxy.admit import Admission, Admitted
from proxy.api_error import ApiError
from proxy.cache import ExactCache
from proxy.call import Call
from proxy.dispatch import Deployments
from proxy.http import EVENT_STREAM, JSON, ClientGoneError, Headers, answer, begin_stream, read_body, refuse, until_gone
from proxy.record import Recorder
from proxy.spend import Spend
from proxy.stream import Answer, EventRelay, Tape, read_answer
from proxy.upstream import Client, NotSentError, Response, Timeouts

log = logging.getLogger(__name__)

_CACHEABLE_BYTES = 1024 * 1024  # a longer stream is not kept while it passes
_ENDED_USAGE = Timeouts(connect=1.0, headers=2.0, between=2.0)


class Chat:
    """The route; one object per worker."""

    def __init__(
        self, settings: Settings, client: Client, admission: Admission, deployments: Deployments, cache: ExactCache,
        spend: Spend, recorder: Recorder,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._client = client
        self._admission = admission
        self._deployments = deployments
        self._cache = cache
        self._spend = spend
        self._recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        call: Call | None = None
        try:
            body = await read_body(receive, self._settings.max_request_bytes)
            call, request = self._admission.identify(headers, body)
            admitted = await self._admission.admit(call, request, body)
            if admitted.cached is not None:
                await self._serve_cached(call, admitted, send)
            else:
                await self._serve(call, admitted, receive, send)
        except ApiError as error:
            if call is not None:
                call.fail("error" if call.upstream_ns else "refused", error.code, error.status)
            await refuse(send, error, _response_headers(call) if call else ())
        except ClientGoneError:
            log.debug("a client went away")
        finally:
            if call is not None:
                self._finish(call)

    async def _serve_cached(self, call: Call, admitted: Admitted, send: Send) -> None:
        entry = admitted.cached
        assert entry is not None
        call.is_cache_hit, call.usage, call.response_id = True, entry.usage, entry.response_id
        call.first_byte_ns = time.time_ns()
        await answer(send, 200, entry.body, entry.content_type, _response_headers(call))

    async def _serve(self, call: Call, admitted: Admitted, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(until_gone(receive))
        work = asyncio.create_task(self._forward(call, admitted, send))
        try:
            await asyncio.wait((gone, work), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await self._abandon(call, work)
            await work
        finally:
            gone.cancel()
            work.cancel()

    async def _abandon(self, call: Call, work: asyncio.Task[None]) -> None:
        """The client has gone: a third party bills on, so read to the end; our own engine is told to stop."""
        call.fail("aborted", "client_disconnected", 499)
        assert call.deployment is not None
        if call.deployment.metered:
            return  # the caller goes on waiting; sends to a client that has gone do nothing
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        await self._ask_for_usage(call)
        raise ClientGoneError

    async def _forward(self, call: Call, admitted: Admitted, send: Send) -> None:
        started = time.time_ns()
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                response, deployment = await self._open(call, admitted)
                self._deployments.in_flight[deployment] += 1
                try:
                    await self._relay(call, admitted, response, send)
                finally:
                    self._deployments.in_flight[deployment] -= 1
                    response.close()
        except TimeoutError:
            call.upstream_ns = time.time_ns() - started
            raise ApiError(504, "upstream_timeout", f"no whole answer within {self._settings.request_timeout_s:g} s") from None
        except UpstreamError as error:
            call.upstream_ns = time.time_ns() - started
            await self._broken(call, error)
        finally:
            call.upstream_ns = time.time_ns() - started

    async def _broken(self, call: Call, error: UpstreamError) -> None:
        if isinstance(error, NotSentError):
            call.usage, call.usage_source = Usage(), "proxy"
        else:
            await self._ask_for_usage(call)
        if not call.first_byte_ns:
            raise ApiError(502, "upstream_error", f"the model's server failed: {error}", retry_after_s=1)
        call.fail("error", "upstream_cut", 502)
        log.warning("%s: stream cut: %s", call.request_id, error)

    async def _open(self, call: Call, admitted: Admitted) -> tuple[Response, Deployment]:
        """Connect to the first deployment that takes the request; nothing has been answered yet, so asking on is safe."""
        failure: UpstreamError | None = None
        for deployment in admitted.candidates:
            call.deployment, call.price = deployment, self._admission.price(call, deployment)
            try:
                return await self._post(call, admitted, deployment), deployment
            except UpstreamError as error:
                failure = error
        raise failure or UpstreamError("no deployment is configured")

    async def _post(self, call: Call, admitted: Admitted, deployment: Deployment) -> Response:
        headers = [("content-type", "application/json"), *self._deployments.headers(deployment)]
        if deployment.provider == semconv.SELF_HOSTED_PROVIDER:
            headers.append((semconv.HEADER_REQUEST_ID, call.request_id))
            headers.append(("traceparent", f"00-{call.trace_id.hex()}-{call.span_id.hex()}-01"))
        return await self._client.request("POST", f"{deployment.url}/chat/completions", admitted.body, headers)

    async def _relay(self, call: Call, admitted: Admitted, response: Response, send: Send) -> None:
        if response.status != 200:
            await self._relay_error(call, response, send)
        elif response.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            await self._relay_events(call, admitted, response, send)
        else:
            await self._relay_json(call, admitted, response, send)

    async def _relay_error(self, call: Call, response: Response, send: Send) -> None:
        """The upstream's own error passes through; it charges nothing for it."""
        body = await response.read()
        call.fail("error", f"upstream_{response.status}", response.status)
        call.usage, call.usage_source = Usage(), "provider"
        retry = [(b"retry-after", response.headers[b"retry-after"])] if b"retry-after" in response.headers else []
        content_type = response.headers.get(b"content-type", JSON)
        await answer(send, response.status, body, content_type, [*retry, *_response_headers(call)])

    async def _relay_json(self, call: Call, admitted: Admitted, response: Response, send: Send) -> None:
        body = await response.read()
        found = read_answer(body)
        _take(call, found)
        if found is not None and found.choices:
            call.finish_reason = found.choices[0].finish_reason or ""
        call.first_byte_ns = time.time_ns()
        await answer(send, 200, body, JSON, _response_headers(call))
        self._keep(call, admitted, body, JSON)

    async def _relay_events(self, call: Call, admitted: Admitted, response: Response, send: Send) -> None:
        relay, tape = EventRelay(hide_usage=not admitted.request.wants_usage), Tape(_CACHEABLE_BYTES)
        await begin_stream(send, _response_headers(call))
        try:
            async for part in response.parts():
                if out := relay.feed(part):
                    call.first_byte_ns = call.first_byte_ns or time.time_ns()
                    tape.add(out)
                    await send({"type": "http.response.body", "body": out, "more_body": True})
        finally:
            _take_stream(call, relay)
        await send({"type": "http.response.body", "body": relay.finish()})
        kept = tape.whole()
        if kept is not None and relay.answer is not None:
            self._keep(call, admitted, kept, EVENT_STREAM)

    def _keep(self, call: Call, admitted: Admitted, body: bytes, content_type: bytes) -> None:
        """Keep a whole, good answer where a cache policy wants it."""
        if admitted.cache_key is None or call.usage is None or call.decision is None or call.decision.cache is None:
            return
        answer_kept = (body, content_type, call.usage, call.response_id)
        self._cache.put(admitted.cache_key, answer_kept, call.decision.cache.max_bytes)

    async def _ask_for_usage(self, call: Call) -> None:
        """Ask the engine what a request that did not end well had used; without an answer the estimate stays."""
        deployment = call.deployment
        if deployment is None or deployment.provider != semconv.SELF_HOSTED_PROVIDER:
            return
        try:
            url = f"{deployment.url}/ended/{call.request_id}"
            response = await self._client.request("GET", url, timeouts=_ENDED_USAGE)
            body = await response.read()
        except UpstreamError:
            return
        if response.status == 200:
            _take(call, read_answer(body))

    def _finish(self, call: Call) -> None:
        """Settle and record; the end of every call."""
        call.ended_ns = time.time_ns()
        if call.usage is None and call.outcome != "refused" and not call.is_cache_hit:
            call.usage_source = "missing"
        if call.is_reserved:
            cost = call.cost_nusd()
            # Nobody knows what was used: the hold is an upper bound and is charged, as its expiry would do.
            call.settled_nusd = call.held_nusd if cost is None else cost
            self._spend.settle(call.request_id, call.settled_nusd)
        self._recorder.put(call)


def _take_stream(call: Call, relay: EventRelay) -> None:
    """Take what a stream said of itself; one that broke off before its usage is estimated by its events."""
    _take(call, relay.answer)
    call.finish_reason = relay.finish_reason
    call.response_id = call.response_id or relay.response_id
    if call.usage is None and relay.events:
        call.usage, call.usage_source = Usage(output=relay.events), "estimate"


def _take(call: Call, found: Answer | None) -> None:
    """Take what an answer says of itself."""
    if found is None:
        return
    call.response_id = found.id or call.response_id
    if found.usage is not None:
        call.usage, call.usage_source = found.usage.usage(), "proxy"
        call.reasoning_tokens = found.usage.reasoning
    if found.timings is not None:
        call.engine_s, call.engine_queue_s = found.timings.engine_s, found.timings.queue_s


def _response_headers(call: Call) -> Headers:
    headers = [
        (semconv.HEADER_REQUEST_ID.encode(), call.request_id.encode()),
        (semconv.HEADER_CACHE.encode(), b"hit" if call.is_cache_hit else b"miss"),
    ]
    if call.decision is not None:
        names = " ".join((f"v{call.decision.version}", *call.decision.acted))
        headers.append((semconv.HEADER_POLICY.encode(), names.encode()))
    return headers
