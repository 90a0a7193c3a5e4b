"""The cheap model first, the next one where its answer is too weak: every attempt is reserved, paid and recorded anew.

An attempt that was not good enough is a call of its own, with its own hold and its own row, marked as discarded; the
client gets one answer, and no byte of it before it has been judged.
"""
from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from farthing.errors import UpstreamError
from farthing.policy.route import Cascade as Rule
from farthing.prices import Usage
from proxy.admit import Admission, Admitted
from proxy.api_error import ApiError
from proxy.attempts import RETRIED
from proxy.call import Call
from proxy.counters import Counters
from proxy.dispatch import Target
from proxy.http_request import Request
from proxy.judge import quality_of
from proxy.upstream import NotSentError
from proxy.withheld import Taker, Withheld

Ask = Callable[[Call, Admitted, Taker], Awaitable[None]]
_USUAL = Rule()


class Cascade:
    """Escalates for one route."""

    def __init__(
        self, admission: Admission, counters: Counters, ask_for_usage: Callable[[Call], Awaitable[None]],
        finish: Callable[[Call], None], keep: Callable[[Call, Admitted, Withheld], None],
    ) -> None:  # fmt: skip
        self._admission = admission
        self._counters = counters
        self._ask_for_usage = ask_for_usage
        self._finish = finish
        self._keep = keep

    async def run(self, call: Call, admitted: Admitted, request: Request, ask: Ask) -> None:
        """Ask level after level; `call` is the attempt whose answer the client gets, in the end."""
        assert call.chosen is not None and call.decision is not None and call.decision.route is not None
        rule = call.decision.route.cascade or _USUAL
        ticket, admitted.ticket = admitted.ticket, None  # what is kept is decided here
        for level in call.chosen.levels[1:]:
            withheld = Withheld()
            failure = await self._try(call, admitted, withheld, ask)
            if request.is_gone:
                return
            call.quality = quality_of(call, admitted.asked, withheld) if failure is None else 0.0
            is_own_fault = 400 <= withheld.status < 500 and withheld.status not in RETRIED  # no other model helps
            is_good = failure is None and (is_own_fault or call.quality >= rule.min_quality)
            if is_good or not await self._escalate(call, admitted, level, failure):
                if failure is not None:
                    raise failure
                self._counters.kept_weak += not is_good
                await self._give(call, withheld, request)
                admitted.ticket = ticket
                if is_good:
                    self._keep(call, admitted, withheld)
                return
        admitted.ticket = ticket
        await ask(call, admitted, request)

    async def _try(self, call: Call, admitted: Admitted, withheld: Withheld, ask: Ask) -> Exception | None:
        """Ask one level; return how it failed, where it did."""
        try:
            await ask(call, admitted, withheld)
        except (ApiError, UpstreamError) as error:
            return error
        finally:
            call.is_begun = call.is_delivered = False  # the client has heard of nothing yet
            call.first_byte_ns = 0
        return None

    async def _give(self, call: Call, withheld: Withheld, request: Request) -> None:
        call.first_byte_ns = time.time_ns()
        call.is_begun = call.is_delivered = True
        await withheld.release(request)

    async def _escalate(self, call: Call, admitted: Admitted, level: list[Target], failure: Exception | None) -> bool:
        """Reserve for the next level and end the attempt before it; False = there is no budget for it."""
        following, before = call.again(), admitted.candidates
        admitted.candidates = level
        self._admission.assign(following, admitted.asked, level[0])
        try:
            await self._admission.reserve(following, admitted)
        except ApiError:
            admitted.candidates = before
            return False
        call.swap(following)  # whoever holds `call` holds the attempt that goes on
        await self._end(following, failure)
        self._counters.escalated += 1
        return True

    async def _end(self, call: Call, failure: Exception | None) -> None:
        """Settle and record an attempt that gave no answer."""
        call.discarded = "cascade"
        call.upstream_ns = time.time_ns() - call.started_ns
        try:
            if isinstance(failure, ApiError):
                call.fail("refused", failure.code, failure.status)
            elif failure is not None:
                call.fail("error", "upstream_error", 502)
                if isinstance(failure, NotSentError):
                    call.usage, call.usage_source = Usage(), "proxy"
                elif call.usage is None or call.usage_source == "estimate":
                    await self._ask_for_usage(call)
        finally:
            self._finish(call)
