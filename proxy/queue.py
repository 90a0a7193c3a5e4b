"""The requests that wait for a place at one model's deployments: bounded, the more important first, then the older.

A place that comes free goes straight to who waits longest, in whatever worker, so nobody who comes later can take it.
Each worker lines its own up and shows the others who of them is next. What cannot be answered before its deadline is
refused when it comes or when its turn comes, and never begun.
"""
from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from time import monotonic
from typing import TYPE_CHECKING

from farthing.policy.flow import MOST_PRIORITY
from proxy.api_error import ApiError
from proxy.counters import Counters
from proxy.lookout import Lookout
from proxy.place_table import PlaceTable
from proxy.window import Window

if TYPE_CHECKING:
    from proxy.dispatch import Target

_LONGEST_WAIT_TOLD_S = 60
_TURN = 59  # bits of a front below its priority: nanoseconds, enough for 18 years
_turn = attrgetter("key")


class ShedError(ApiError):
    """There is no place; another model's deployment may have one."""


@dataclass(order=True, slots=True)
class _Ticket:
    """One that waits; they sort by whose turn is next."""

    key: tuple[int, int]  # (-priority, number)
    came: float = field(compare=False)  # the clock's seconds
    until: float = field(compare=False)  # when its answer is of no use any more
    is_stream: bool = field(compare=False)
    windows: Sequence[tuple[Target, Window]] = field(compare=False)  # where it may go
    place: asyncio.Future[tuple[Target, Window]] = field(compare=False)

    @property
    def priority(self) -> int:
        return -self.key[0]

    @property
    def front(self) -> int:
        """Return what it is compared by with those of other workers, by whom the clock is shared."""
        return (MOST_PRIORITY - self.priority << _TURN) + max(1, int(self.came * 1e9))


class Queue:
    """The queue of one model in one worker, beside those of the other workers."""

    def __init__(
        self, model: str, counters: Counters, table: PlaceTable, clock: Callable[[], float] = monotonic
    ) -> None:
        self._model = model
        self.counters = counters
        self._table = table
        self._line = table.line(model)
        self._clock = clock
        self._tickets: list[_Ticket] = []
        self._numbers = 0
        self._waited_for: dict[Window, None] = {}  # where another worker may give a place
        self._lookout = Lookout(table, self.heed, lambda: bool(self._tickets))

    @property
    def waiting(self) -> int:
        return len(self._tickets)

    @property
    def waiting_anywhere(self) -> int:
        """Return how many wait in all workers."""
        with self._line.lock:
            return self._line.waiting()

    async def enter(
        self, windows: Sequence[tuple[Target, Window]], priority: int, left_s: float, is_stream: bool
    ) -> tuple[Target, Window]:
        """Return a target with a place there that is the caller's now; `leave` gives it back.

        Raises:
            ShedError: 503 or 429, the queue is full or the wait too long.
            ApiError: 504, the deadline comes before any answer can.
        """
        now = self._clock()
        self._refuse_hopeless(windows, left_s, is_stream)
        found = _free(windows) or (_free(windows) if self._table.reap() else None)
        if found is not None:
            return found
        bounds = windows[0][1].bounds
        self._numbers += 1
        place: asyncio.Future[tuple[Target, Window]] = asyncio.get_running_loop().create_future()
        ticket = _Ticket((-priority, self._numbers), now, now + left_s, is_stream, windows, place)
        with self._line.lock:
            wait_s = self._expected_s(windows, self._line.waiting(priority))
            expected_s = min(window.expected_s(is_stream) for _, window in windows)
            if wait_s + expected_s > left_s or wait_s > bounds.max_wait_s:
                self.counters.queue_full += 1
                raise self._full(wait_s)
            self._line_up(ticket, bounds.queue, wait_s)
            for _, window in windows:
                self._share_out(window)  # a place may have come free meanwhile
        return await self._wait(ticket, bounds.max_wait_s)

    def leave(self, window: Window, held_s: float) -> None:
        """Give a place back that was held so long, and hand it to who is next."""
        window.release(held_s)
        if window.places.is_waited_for:
            self.hand_out(window)

    def hand_out(self, window: Window) -> None:
        """Give the free places of a window to those whose turn it is."""
        with self._line.lock:
            self._share_out(window)

    def _share_out(self, window: Window) -> None:
        """Do that under the lock."""
        window.places.share_out(int(window.limit), lambda: self._serve(window))

    def _serve(self, window: Window) -> None:
        """Give a free place to the first of this worker, where there is one."""
        found = self._next(window)
        if found is not None:
            window.places.take()
            found[0].place.set_result((found[1], window))
        self._show(window)

    def _next(self, window: Window) -> tuple[_Ticket, Target] | None:
        """Take the first that may go to a window, and whose turn has not come too late, out of the queue."""
        while (at := self._first(window)) is not None:
            ticket = self._remove(at)
            try:
                self._refuse_hopeless(ticket.windows, ticket.until - self._clock(), ticket.is_stream)
            except ApiError as error:
                ticket.place.set_exception(error)
            else:
                return ticket, next(target for target, other in ticket.windows if other is window)
        return None

    def _first(self, window: Window) -> int | None:
        """Return where the first stands that may go to a window and was not cancelled."""
        for at, ticket in enumerate(self._tickets):
            if not ticket.place.done() and any(other is window for _, other in ticket.windows):
                return at
        return None

    def _show(self, window: Window) -> None:
        """Show the other workers who is next."""
        at = self._first(window)
        window.places.show(self._tickets[at].front if at is not None else 0)

    def _remove(self, at: int) -> _Ticket:
        ticket = self._tickets.pop(at)
        self._line.go(ticket.priority)
        for _, window in ticket.windows:
            self._show(window)
        return ticket

    def _line_up(self, ticket: _Ticket, most: int, wait_s: float) -> None:
        """Put a ticket into the queue; who is least important goes where it is full."""
        if self._line.waiting() >= most:
            least = self._line.least()
            if least is None or least >= ticket.priority:
                self.counters.queue_full += 1
                raise self._full(wait_s)
            if not self._push_out(least):
                self._line.send_off(least)
        insort(self._tickets, ticket)
        self._line.come(ticket.priority)
        for _, window in ticket.windows:
            self._waited_for[window] = None
            self._show(window)
        self.counters.queued += 1
        self._lookout.watch()

    def _push_out(self, priority: int) -> bool:
        """Refuse the last that waits here with this priority; False = there is none."""
        at = bisect_right(self._tickets, (-priority, self._numbers), key=_turn) - 1
        if at < 0 or self._tickets[at].priority != priority:
            return False
        last = self._remove(at)
        self.counters.pushed_out += 1
        if not last.place.done():
            message = f"more important requests wait for {self._model!r}; try again later"
            wait_s = self._expected_s(last.windows, self._line.waiting())
            last.place.set_exception(ShedError(429, "pushed_out", message, retry_after_s=_told(wait_s)))
        return True

    def heed(self) -> None:
        """Do what other workers ask for: let go who has to give way, take the places that they gave."""
        with self._line.lock:
            for priority, count in self._line.sent_off():
                for _ in range(count):
                    self._push_out(priority)
            for window in self._waited_for:
                while window.places.given():
                    self._serve(window)
                self._show(window)
                self._share_out(window)

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
            with self._line.lock:
                window.places.leave()
                self._share_out(window)
            return
        at = bisect_left(self._tickets, ticket)
        if at < len(self._tickets) and self._tickets[at] is ticket:
            with self._line.lock:
                self._remove(at)

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


def _free(windows: Sequence[tuple[Target, Window]]) -> tuple[Target, Window] | None:
    """Take a place where there is one."""
    for target, window in windows:
        if window.take():
            return target, window
    return None


def _told(wait_s: float) -> int:
    """Return whole seconds for Retry-After."""
    return max(1, min(_LONGEST_WAIT_TOLD_S, round(wait_s)))
