"""A second deployment is asked when the first is slow, before any byte of an answer; the quicker one serves the client.

The second attempt is a call of its own: reserved, charged what it did, and recorded, whichever of the two is used. The
loser is cancelled where cancelling stops it, and read to its end where a third party bills started work.
"""
from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable
from typing import Protocol

from farthing.errors import UpstreamError
from farthing.policy.route import Hedge
from farthing.prices import Usage
from proxy.admit import Admission, Admitted
from proxy.answer import Answers
from proxy.api_error import ApiError
from proxy.attempts import REFUSED, RETRIED, Attempts
from proxy.call import Call
from proxy.counters import Counters
from proxy.dispatch import Target
from proxy.http import EVENT_STREAM
from proxy.place import leave, take_at_once
from proxy.spend import Spend
from proxy.upstream import NotSentError, Response
from proxy.withheld import Withheld

log = logging.getLogger(__name__)

_SEEN = 256  # waits remembered of each model
_ENOUGH = 20  # of them, before a percentile means anything
_BURST = 10.0  # hedges that may follow one another
_BYTES_PER_TOKEN = 4
_OF_NO_USE = RETRIED | REFUSED  # answers that the other attempt may better
Leg = asyncio.Task[Response]


class Route(Protocol):
    """What a hedge needs of its exchange."""

    @property
    def answers(self) -> Answers: ...

    def post(self, call: Call, admitted: Admitted, target: Target) -> Awaitable[Response]: ...

    def ask_for_usage(self, call: Call) -> Awaitable[None]: ...

    def finish(self, call: Call) -> None: ...


class Hedges:
    """The hedges of one worker."""

    def __init__(self, admission: Admission, spend: Spend, counters: Counters) -> None:
        self._admission = admission
        self._spend = spend
        self._counters = counters
        self._waits: dict[str, deque[float]] = {}  # seconds to the first byte, by model
        self._credit = 1.0  # hedges that may be made now
        self._losers: set[asyncio.Task[None]] = set()

    async def post(
        self, route: Route, call: Call, admitted: Admitted, attempts: Attempts, target: Target, rule: Hedge
    ) -> tuple[Response, Target]:
        """Return the first answer and who gives it; `call` is then the attempt that it belongs to."""
        self._credit = min(_BURST, self._credit + rule.max_share)
        started = time.monotonic()
        first: Leg = asyncio.create_task(_leg(route, call, admitted, target))
        second: Leg | None = None
        try:
            await asyncio.wait((first,), timeout=self._delay_s(rule, target))
            pair = None if first.done() else await self._reserve(call, admitted, attempts, target, first)
            if pair is None:
                response = await first
                self._note(target, time.monotonic() - started)
                return response, target
            again, other = pair
            second = asyncio.create_task(_leg(route, again, admitted, other))
            winner = await _quicker(first, second)
        except asyncio.CancelledError:
            await _drop(first)
            if second is not None:
                self._lose(route, again, admitted, other, second)
            raise
        self._note(target, time.monotonic() - started)
        if winner is second:
            self._counters.hedges_won += 1
            call.swap(again)
            target, other = other, target
        self._lose(route, again, admitted, other, first if winner is second else second)
        return await winner, target

    async def stop(self, seconds: float) -> None:
        """Let the losers end, at most for so long; what is left is settled as it stands."""
        if self._losers:
            _, late = await asyncio.wait(self._losers, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _delay_s(self, rule: Hedge, target: Target) -> float | None:
        """Return when to ask the second, None = never: not enough is known, or enough was asked twice."""
        if self._credit < 1.0:
            return None
        if rule.after_ms is not None:
            return rule.after_ms / 1000
        waits = sorted(self._waits.get(target.deployment.model, ()))
        assert rule.percentile is not None
        return waits[int(len(waits) * rule.percentile / 100)] if len(waits) >= _ENOUGH else None

    def _note(self, target: Target, wait_s: float) -> None:
        self._waits.setdefault(target.deployment.model, deque(maxlen=_SEEN)).append(wait_s)

    async def _reserve(
        self, call: Call, admitted: Admitted, attempts: Attempts, target: Target, first: Leg
    ) -> tuple[Call, Target] | None:
        """Reserve for a second attempt elsewhere and take a place there; None = not to be had, or not needed."""
        others = attempts.like(target)[1:]
        if not others:
            return None
        again, other = call.again(), others[0]
        self._admission.assign(again, admitted.asked, other)
        try:
            await self._admission.reserve(again, admitted)
        except ApiError:
            return None
        if first.done() or not take_at_once(again, other):  # it may have answered while the budget was asked
            if again.hold is not None:
                self._spend.settle(again.hold, 0)
            return None
        self._credit -= 1.0
        self._counters.hedged += 1
        attempts.begin(other)
        call.attempts = again.attempts = attempts.made
        other.health.began(time.monotonic())
        return again, other

    def _lose(self, route: Route, call: Call, admitted: Admitted, target: Target, leg: Leg) -> None:
        call.discarded = "hedge"
        task = asyncio.create_task(_end(route, call, admitted, target, leg))
        self._losers.add(task)
        task.add_done_callback(self._losers.discard)


async def _leg(route: Route, call: Call, admitted: Admitted, target: Target) -> Response:
    """Return an answer once its first byte is here; a stream's head alone says nothing."""
    response = await route.post(call, admitted, target)
    if response.headers.get(b"content-type", b"").lower().startswith(EVENT_STREAM.partition(b";")[0]):
        try:
            await response.arrived()
        except BaseException:
            response.close()
            raise
    return response


async def _quicker(first: Leg, second: Leg) -> Leg:
    """Return the first leg with an answer that can be used, else the first."""
    waiting = {first, second}
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for leg in (first, second):
            if leg in done and leg.exception() is None and leg.result().status not in _OF_NO_USE:
                return leg
    return first


async def _drop(leg: Leg) -> None:
    """End a leg that nobody waits for."""
    leg.cancel()
    await asyncio.wait((leg,))
    if not leg.cancelled() and leg.exception() is None:
        leg.result().close()


async def _end(route: Route, call: Call, admitted: Admitted, target: Target, leg: Leg) -> None:
    """Let the attempt that was not used end, and settle what it did."""
    try:
        left_s = max(0.0, call.limit_s - (time.time_ns() - call.started_ns) / 1e9)
        if target.deployment.metered:
            async with asyncio.timeout(left_s):
                await _read_out(route, call, admitted, leg)
        else:
            await _drop(leg)
            await _reckon(route, call, admitted, leg)
    except (UpstreamError, TimeoutError) as error:
        if isinstance(error, NotSentError):
            call.usage, call.usage_source = Usage(), "proxy"
        call.fail("error", "upstream_error", 502)
    finally:
        call.upstream_ns = time.time_ns() - call.started_ns
        target.health.ended()
        leave(call)
        route.finish(call)


async def _read_out(route: Route, call: Call, admitted: Admitted, leg: Leg) -> None:
    """Read an answer to its end for what it used: it is billed whether anyone waits or not."""
    response = await leg
    try:
        if response.status in RETRIED:
            call.usage, call.usage_source = Usage(), "provider"
            call.fail("error", f"upstream_{response.status}", response.status)
        else:
            apart = Admitted(admitted.form, admitted.asked, admitted.candidates)  # without the caches' ticket
            await route.answers.relay(call, apart, response, Withheld())
    finally:
        response.close()


async def _reckon(route: Route, call: Call, admitted: Admitted, leg: Leg) -> None:
    """Say what a cancelled attempt used: what its server says, else what it read where it had not begun to write."""
    failure = None if leg.cancelled() else leg.exception()
    if isinstance(failure, UpstreamError):
        raise failure
    if failure is None and not leg.cancelled() and leg.result().status in RETRIED:
        call.usage, call.usage_source = Usage(), "provider"
        call.fail("error", f"upstream_{leg.result().status}", leg.result().status)
        return
    call.fail("aborted", "hedge_lost", 499)
    await route.ask_for_usage(call)
    if call.usage is None and call.is_stream:
        call.usage, call.usage_source = Usage(len(admitted.asked.body) // _BYTES_PER_TOKEN), "estimate"
