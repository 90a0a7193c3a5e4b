"""The requests that wait for a place at one model's deployments: bounded, the more important first, then the older.

A place that comes free goes straight to who waits longest, so nobody who comes later can take it. What cannot be
answered before its deadline is refused when it comes or when its turn comes, and never begun.
"""
from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from proxy.api_error import ApiError
from proxy.counters import Counters
from proxy.window import Window

if TYPE_CHECKING:
    from proxy.dispatch import Target

_LONGEST_WAIT_TOLD_S = 60


class ShedError(ApiError):
    """There is no place; another model's deployment may have one."""


@dataclass(order=True, slots=True)
class _Ticket:
    """One that waits; they sort by whose turn is next."""

    key: tuple[int, int]  # (-priority, number)
    until: float = field(compare=False)  # when its answer is of no use any more, the clock's seconds
    is_stream: bool = field(compare=False)
    windows: Sequence[tuple[Target, Window]] = field(compare=False)  # where it may go
    place: asyncio.Future[tuple[Target, Window]] = field(compare=False)


class Queue:
    """The queue of one model in one worker."""

    def __init__(self, model: str, counters: Counters, clock: Callable[[], float] = monotonic) -> None:
        self._model = model
        self.counters = counters
        self._clock = clock
        self._tickets: list[_Ticket] = []
        self._numbers = 0

    @property
    def waiting(self) -> int:
        return len(self._tickets)

    async def enter(
        self, windows: Sequence[tuple[Target, Window]], priority: int, left_s: float, is_stream: bool
    ) -> tuple[Target, Window]:
        """Return a target with a place there that is the caller's now; `leave` gives it back.

        Raises:
            ShedError: 503 or 429, the queue is full or the wait too long.
            ApiError: 504, the deadline comes before any answer can.
        """
        until = self._clock() + left_s
        self._refuse_hopeless(windows, left_s, is_stream)
        for target, window in windows:
            if window.has_room:
                window.take()
                return target, window
        bounds = windows[0][1].bounds
        self._numbers += 1
        place: asyncio.Future[tuple[Target, Window]] = asyncio.get_running_loop().create_future()
        ticket = _Ticket((-priority, self._numbers), until, is_stream, windows, place)
        ahead = bisect_left(self._tickets, ticket)
        wait_s = self._expected_s(windows, ahead)
        expected_s = min(window.expected_s(is_stream) for _, window in windows)
        if wait_s + expected_s > left_s or wait_s > bounds.max_wait_s:
            self.counters.queue_full += 1
            raise self._full(wait_s)
        self._line_up(ticket, bounds.queue, wait_s)
        return await self._wait(ticket, bounds.max_wait_s)

    def leave(self, window: Window, held_s: float) -> None:
        """Give a place back that was held so long, and hand it to who is next."""
        window.release(held_s)
        self.hand_out(window)

    def hand_out(self, window: Window) -> None:
        """Give the free places of a window to those whose turn it is."""
        while window.has_room and (found := self._next(window)) is not None:
            ticket, target = found
            try:
                self._refuse_hopeless(ticket.windows, ticket.until - self._clock(), ticket.is_stream)
            except ApiError as error:
                ticket.place.set_exception(error)
            else:
                window.take()
                ticket.place.set_result((target, window))

    def _next(self, window: Window) -> tuple[_Ticket, Target] | None:
        """Take the first that may go to a window out of the queue; who was cancelled goes too."""
        for at, ticket in enumerate(self._tickets):
            target = next((target for target, other in ticket.windows if other is window), None)
            if target is not None and not ticket.place.done():
                del self._tickets[at]
                return ticket, target
        return None

    def _line_up(self, ticket: _Ticket, most: int, wait_s: float) -> None:
        """Put a ticket into the queue; who is least important goes where it is full."""
        if len(self._tickets) >= most:
            last = self._tickets[-1] if self._tickets else ticket
            if last <= ticket:
                self.counters.queue_full += 1
                raise self._full(wait_s)
            self._tickets.pop()
            self.counters.pushed_out += 1
            if not last.place.done():
                message = f"more important requests wait for {self._model!r}; try again later"
                last.place.set_exception(ShedError(429, "pushed_out", message, retry_after_s=_told(wait_s)))
        insort(self._tickets, ticket)
        self.counters.queued += 1

    async def _wait(self, ticket: _Ticket, most_s: float) -> tuple[Target, Window]:
        try:
            async with asyncio.timeout(most_s):
                return await ticket.place
        except TimeoutError:
            self._give_up(ticket)
            self.counters.waited_out += 1
            message = f"no place came free at {self._model!r} within {most_s:g} s; try again later"
            raise ShedError(503, "overloaded", message, retry_after_s=_told(most_s)) from None
        except asyncio.CancelledError:
            self._give_up(ticket)
            raise

    def _give_up(self, ticket: _Ticket) -> None:
        """Leave the queue, or give a place back that came too late."""
        if ticket.place.done() and not ticket.place.cancelled() and ticket.place.exception() is None:
            window = ticket.place.result()[1]
            window.untake()
            self.hand_out(window)
            return
        at = bisect_left(self._tickets, ticket)
        if at < len(self._tickets) and self._tickets[at] is ticket:
            del self._tickets[at]

    def _refuse_hopeless(self, windows: Sequence[tuple[Target, Window]], left_s: float, is_stream: bool) -> None:
        expected = min(window.expected_s(is_stream) for _, window in windows)
        if left_s < expected:
            self.counters.hopeless += 1
            message = f"{left_s:.3f} s are left of the deadline and answers of {self._model!r} take "
            raise ApiError(504, "deadline_unmeetable", f"{message}{expected:.3f} s; allow more time", retry_after_s=1)

    def _expected_s(self, windows: Sequence[tuple[Target, Window]], ahead: int) -> float:
        """Return how long one with so many ahead of it will wait; 0 = nobody can tell yet."""
        rate = sum([window.limit / window.held_s for _, window in windows if window.held_s])
        return (ahead + 1) / rate if rate else 0.0

    def _full(self, wait_s: float) -> ShedError:
        message = f"too many requests wait for {self._model!r}; try again later"
        return ShedError(503, "overloaded", message, retry_after_s=_told(wait_s))


def _told(wait_s: float) -> int:
    """Return whole seconds for Retry-After."""
    return max(1, min(_LONGEST_WAIT_TOLD_S, round(wait_s)))
