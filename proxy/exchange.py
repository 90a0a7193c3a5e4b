"""One call in any format: admit, forward, relay, and then, however it ends, settle and record.

Every path out of a call passes `finish`: success, refusal, an upstream's error, an abort, a cut stream. A request that
an upstream may have begun to work on is never sent again: the hold covers one attempt.
"""
from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from farthing import semconv
from farthing.errors import UpstreamError
from farthing.policy.route import Hedge
from farthing.prices import Usage
from farthing.settings import Settings
from proxy import azure
from proxy.admit import Admission, Admitted
from proxy.answer import Answers, response_headers, take
from proxy.api_error import ApiError
from proxy.attempts import OVERLOADED, REFUSED, RETRIED, Attempts
from proxy.caches import Caches, Ticket
from proxy.call import Call
from proxy.cascade import Cascade
from proxy.counters import Counters
from proxy.dispatch import Target
from proxy.embedding_cache import is_list_of_inputs
from proxy.follow import follow
from proxy.formats import Format
from proxy.formats.chunks import read_answer
from proxy.hedge import Hedges
from proxy.http import (
    JSON,
    ClientGoneError,
    break_off,
    passed_on,
    refuse,
    refuse_too_large,
)
from proxy.http_request import Request
from proxy.inner import InnerRequest
from proxy.keys import Caller
from proxy.letter import Letter
from proxy.metrics import Metrics
from proxy.micro_batch import MicroBatches
from proxy.offers import BATCH_TIER
from proxy.place import enter, leave
from proxy.queue import ShedError
from proxy.record import Recorder
from proxy.request import Asked
from proxy.spend import Spend
from proxy.upstream import Client, NotSentError, Response, Timeouts
from proxy.withheld import Taker, Withheld
from proxy.within import Within

log = logging.getLogger(__name__)


_JSON_BODY = ("content-type", "application/json")
_ENDED_USAGE = Timeouts(connect=1.0, headers=2.0, between=2.0)


@dataclass(frozen=True)
class Worker:
    """What all routes of one worker share."""

    settings: Settings
    client: Client
    admission: Admission
    caches: Caches
    batches: MicroBatches
    spend: Spend
    recorder: Recorder
    metrics: Metrics
    hedges: Hedges
    counters: Counters


class Exchange:
    """The route of one format; the only thing that a priced route can be."""

    def __init__(self, worker: Worker, form: Format) -> None:
        self._form = form
        self._settings = worker.settings
        self._client = worker.client
        self._admission = worker.admission
        self._caches = worker.caches
        self._answers = Answers(form, worker.caches)
        self._batches = worker.batches
        self._spend = worker.spend
        self._recorder = worker.recorder
        self._metrics = worker.metrics
        self._hedges = worker.hedges
        self._cascade = Cascade(worker.admission, worker.counters, self.ask_for_usage, self.finish, self._keep_judged)
        self.name = form.path.partition("/")[0]  # what keys and metrics call the route

    @property
    def form(self) -> Format:
        return self._form

    @property
    def answers(self) -> Answers:
        return self._answers

    async def __call__(self, request: Request, caller: Caller) -> None:
        call: Call | None = None
        try:
            refuse_too_large(request, self._settings.max_request_bytes)
            call, asked = self._admission.identify(self._form, caller, request.headers, request.body)
            call.passed_on, call.is_offline = passed_on(request.headers), request.is_offline
            call.parking = request.parking
            await self._serve(call, asked, request)
        except ApiError as error:
            if call is not None:
                call.fail("refused", error.code, error.status)
            else:
                self._metrics.refused(self.name, error)
            refuse(request, error, self._form.error(error), response_headers(call) if call else ())
        except ClientGoneError:
            log.debug("a client went away")
        except asyncio.CancelledError:
            if call is not None:
                call.fail("aborted", "proxy_stopped", 503)
            raise
        except Exception:
            if call is not None:
                call.fail("error", "internal_error", 500)
            raise
        finally:
            if call is not None and call.is_parked:
                self._admission.limiter.leave(call)
            elif call is not None:
                self.finish(call)

    async def _serve(self, call: Call, asked: Asked, request: Request) -> None:
        try:
            with Within(call.limit_s):
                admitted = await self._admission.admit(self._form, call, asked)
        except TimeoutError:
            message = f"the call was not admitted within {call.limit_s:g} s"
            raise ApiError(504, "deadline_exceeded", message, retry_after_s=1) from None
        ticket = admitted.ticket
        if call.is_consigned and ticket is None:
            self._park(call, admitted)
        elif ticket is None:
            await self._serve_from_upstream(call, admitted, request)
        elif ticket.entry is not None:
            self._serve_cached(call, ticket, request)
        elif ticket.stream is not None:
            await follow(call, ticket, request, self._form)
        else:
            try:
                await self._serve_from_upstream(call, admitted, request)
            finally:
                self._caches.leave(ticket)

    def _serve_cached(self, call: Call, ticket: Ticket, request: Request) -> None:
        entry = ticket.entry
        assert entry is not None
        self._caches.serve(call, ticket)
        call.first_byte_ns = time.time_ns()
        request.answer(200, entry.body, entry.content_type, response_headers(call))

    async def _serve_from_upstream(self, call: Call, admitted: Admitted, request: Request) -> None:
        """Forward; when the client goes, a third party's answer is read to its end, our own engine is told to stop."""
        if request.is_gone:
            call.fail("aborted", "client_disconnected", 499)
            call.usage, call.usage_source = Usage(), "proxy"
            raise ClientGoneError
        task = asyncio.current_task()
        assert task is not None

        def gone() -> None:
            if not call.is_delivered:
                call.fail("aborted", "client_disconnected", 499)
                is_idle = call.deployment is None or not call.deployment.metered or call.is_waiting
                if is_idle and not (admitted.ticket is not None and admitted.ticket.goes_on(task.cancel)):
                    task.cancel()

        request.on_gone = gone
        try:
            await self._forward(call, admitted, request)
        except asyncio.CancelledError:
            request.on_gone = None
            if not request.is_gone or task.uncancel():
                call.fail("aborted", "proxy_stopped", 503)
                raise
            await self.ask_for_usage(call)
            raise ClientGoneError from None
        finally:
            request.on_gone = None

    async def _forward(self, call: Call, admitted: Admitted, request: Request) -> None:
        started = time.time_ns()
        try:
            with Within(max(0.0, call.limit_s - (started - call.started_ns) / 1e9)) as within:
                if admitted.ticket is not None:
                    admitted.ticket.within = within
                if call.chosen is not None and call.chosen.levels and self._form.operation != "embeddings":
                    await self._cascade.run(call, admitted, request, self._ask_in_turn)
                else:
                    await self._ask_in_turn(call, admitted, request)
        except TimeoutError:
            error = ApiError(504, "upstream_timeout", f"no whole answer within {call.limit_s:g} s")
            await self._break_off(call, error, request)
        except UpstreamError as failure:
            if isinstance(failure, NotSentError):
                call.usage, call.usage_source = Usage(), "proxy"
            error = ApiError(502, "upstream_error", f"the model's server failed: {failure}", retry_after_s=1)
            await self._break_off(call, error, request)
        finally:
            call.upstream_ns = time.time_ns() - started

    async def _break_off(self, call: Call, error: ApiError, request: Request) -> None:
        """End a call whose upstream failed: by an answer, or by a last event where a stream has begun.

        Raises:
            ApiError: nothing has been answered yet.
        """
        call.fail("error", error.code, error.status)
        log.warning("%s: %s", call.request_id, error)
        if call.usage is None or call.usage_source == "estimate":
            await self.ask_for_usage(call)
        if not call.is_begun:
            raise error
        if not request.is_ended:  # a client that shared its stream may have been let go before
            await break_off(request, self._form.error_event(error))

    async def _ask_in_turn(self, call: Call, admitted: Admitted, request: Taker) -> None:
        """Ask one deployment after the other until one answers, and relay its answer."""
        attempts = Attempts(admitted.candidates, self._settings.max_attempts)
        target: Target | None = attempts.first()
        while target is not None:
            target = await self._attempt(call, admitted, attempts, target, request)
        if attempts.failure is not None:
            raise attempts.failure

    async def _attempt(
        self, call: Call, admitted: Admitted, attempts: Attempts, target: Target, request: Taker
    ) -> Target | None:
        """Ask one deployment, once it has a place; return whom to ask next, None where that is all."""
        hedge = call.decision.route.hedge if call.decision is not None and call.decision.route is not None else None
        if target.window is None and hedge is None:
            return await self._ask(call, admitted, attempts, target, request)
        try:
            target = await enter(call, attempts.like(target)) if target.window is not None else target
        except ShedError:
            other = attempts.elsewhere(target)
            if other is None:
                raise
            return other
        try:
            return await self._ask(call, admitted, attempts, target, request, hedge)
        except asyncio.CancelledError:
            if call.place is not None:
                target.gave_up(time.monotonic(), call.place.since, call.is_stream)
            raise
        finally:
            leave(call)

    async def _ask(
        self, call: Call, admitted: Admitted, attempts: Attempts, target: Target, request: Taker,
        hedge: Hedge | None = None,
    ) -> Target | None:
        """Ask one deployment; return whom to ask next, None where the call has its answer or none is to be had."""
        if attempts.made or call.deployment is not target.deployment:
            self._admission.assign(call, admitted.asked, target)
        call.usage, call.usage_source = None, ""  # what was said before is of attempts that used nothing
        attempts.begin(target)
        call.attempts = attempts.made
        attempts.failure = None
        started = time.monotonic()
        target.health.began(started)
        try:
            if hedge is None:
                response = await self.post(call, admitted, target)
            else:
                response, target = await self._hedges.post(self, call, admitted, attempts, target, hedge)
            latency_s = time.monotonic() - started
            try:
                wait_asked = attempts.note(target, response)
                if target.window is not None and response.status in OVERLOADED:
                    target.overloaded(time.monotonic())
                following = attempts.after(wait_asked) if response.status in RETRIED else None
                if response.status in REFUSED:
                    following = attempts.past_refusal(target)
                if following is None:
                    await self._answers.relay(call, admitted, response, request)
                    if response.status < 500:
                        target.health.succeeded(latency_s)
                    if target.window is not None and response.status == 200:
                        target.answered(time.monotonic(), latency_s, call)
                    return None
            finally:
                response.close()
        except NotSentError as error:
            target.failed(time.monotonic())
            attempts.failure, following = error, attempts.after()
        except UpstreamError:
            target.failed(time.monotonic())
            raise
        finally:
            target.health.ended()
        if following is None:
            return None
        wait, following_target = following
        await _pause(call, wait)
        return following_target

    async def post(self, call: Call, admitted: Admitted, target: Target) -> Response:
        deployment = target.deployment
        headers = (_JSON_BODY, *call.passed_on, *target.headers)
        body, path = self._admission.body(call, admitted, deployment), self._form.path
        url = azure.url_of(deployment, path) if deployment.api_version else f"{deployment.url}/{path}"
        is_repeatable = not deployment.metered
        rule = call.decision.micro_batch if call.decision is not None else None
        if rule is not None and path == "embeddings" and is_list_of_inputs(admitted.asked.fields["input"]):
            answer = await self._batches.post(rule, Letter.of(call, target, url, headers, body))
            call.batch_calls = answer.shared_by
            return answer
        own: tuple[tuple[str, str], ...] = ()
        if deployment.provider == semconv.SELF_HOSTED_PROVIDER:
            trace = f"00-{call.trace_id.hex()}-{call.span_id.hex()}-01"
            own = ((semconv.HEADER_REQUEST_ID, call.request_id), ("traceparent", trace))
        return await self._client.request("POST", url, body, headers, target.timeouts, is_repeatable, own)

    def _park(self, call: Call, admitted: Admitted) -> None:
        """Leave a call where its provider's batch takes it from; `conclude` ends it, perhaps in another process."""
        target = admitted.candidates[0]
        assert call.parking is not None
        call.usage, call.usage_source = Usage(), "proxy"  # of one that cannot be kept
        body = self._admission.body(call, admitted, self._admission.assign(call, admitted.asked, target))
        try:
            call.parking.park(call, target, self._form.path, body)
        except OSError as error:
            message = f"the line cannot be written down, and is not sent before it is: {error}"
            raise ApiError(503, "disk_failed", message, retry_after_s=1) from None
        call.is_parked = True
        call.usage, call.usage_source = None, ""

    async def conclude(self, call: Call, answer: Response, request: InnerRequest) -> None:
        """Relay the answer that a provider's batch has for a call, settle and record."""
        try:
            await self._answers.relay(call, Admitted(self._form, self._form.read(request.body), []), answer, request)
        except UpstreamError as failure:
            call.fail("error", "upstream_error", 502)
            error = ApiError(502, "upstream_error", f"the model's server failed: {failure}")
            request.answer(502, self._form.error(error), JSON, ())
        call.service_tier, call.first_byte_ns = BATCH_TIER, 0  # whatever the answer calls it; and nobody waited for it
        self.finish(call)

    def _keep_judged(self, call: Call, admitted: Admitted, withheld: Withheld) -> None:
        """Keep an answer that a cascade found good, where a cache wants it."""
        if admitted.ticket is not None:
            self._caches.keep(call, admitted.ticket, withheld.body, withheld.content_type)

    async def ask_for_usage(self, call: Call) -> None:
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
            take(call, read_answer(body))  # the engine's own shape, whatever the client speaks

    def finish(self, call: Call) -> None:
        """Settle and record; the end of every call."""
        call.ended_ns = time.time_ns()
        if call.usage is None and call.outcome != "refused" and not call.is_cache_hit:
            call.usage_source = "missing"
        if call.deployment is not None:
            call.price = self._admission.offers.price(call, call.deployment)  # of the service tier that was served
        if call.hold is not None:
            cost = call.cost_nusd()
            # Nobody knows what was used: the hold is an upper bound and is charged, as its expiry would do.
            call.settled_nusd = call.hold.amount_nusd if cost is None else cost
            self._spend.settle(call.hold, call.settled_nusd)
        if self._form.api == "anthropic":
            self._caches.count_prompt(call)
        if call.taken is not None:
            self._admission.limiter.leave(call)
        self._recorder.put(call)
        self._metrics.called(self.name, call)


async def _pause(call: Call, seconds: float) -> None:
    """Wait between two attempts; none of those made is charged, so a call that ends meanwhile has used nothing."""
    call.usage, call.usage_source, call.is_waiting = Usage(), "proxy", True
    try:
        await asyncio.sleep(seconds)
    finally:
        call.is_waiting = False
