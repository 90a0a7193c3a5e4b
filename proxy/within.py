"""A limit on how long a block may take, where every call passes one.

Nearly every block ends long before its limit, so a timer for each [4 µs] is made only once the end is near: until then
it waits in a set that is looked through now and then. `asyncio.timeout` does the same for more kinds of callers.
"""
from __future__ import annotations

import asyncio
import threading
from types import TracebackType

_LOOK_S = 0.5  # seconds between two looks at the limits that are far off


class Within:
    """`with Within(seconds):` raises TimeoutError out of a block of the running task that takes longer."""

    __slots__ = ("_cancelling", "_far", "_handle", "_seconds", "has_expired", "task", "until")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.has_expired = False
        self._handle: asyncio.TimerHandle | None = None
        self._far: _Far | None = None

    def __enter__(self) -> Within:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        self.task = task
        self._cancelling = task.cancelling()  # asked for by others before: their cancellation is none of ours
        self._start(loop, self._seconds)
        return self

    def postpone(self, seconds: float) -> float | None:
        """Let the block go on for `seconds` from now; return what was left of its time, None where that is longer."""
        loop = asyncio.get_running_loop()
        left_s = self.until - loop.time()
        if self.has_expired or seconds <= left_s:
            return None
        self.end()
        self._start(loop, seconds)
        return left_s

    def _start(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.until = loop.time() + seconds  # by the event loop's clock
        if seconds <= 2 * _LOOK_S:
            self.arm(loop)
            return
        far = _own.far
        if far is None or far.loop is not loop:
            far = _own.far = _Far(loop)
        far.limits.add(self)
        far.look_later()
        self._far = far

    def arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the timer: the end is near."""
        self._handle = loop.call_at(self.until, self._expire)

    def end(self) -> None:
        """Limit no more what is left of the block."""
        if self._far is not None:
            self._far.limits.discard(self)
        if self._handle is not None:
            self._handle.cancel()

    def _expire(self) -> None:
        self.has_expired = True
        self.task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        if not self.has_expired:
            return
        is_ours_alone = self.task.uncancel() <= self._cancelling
        if is_ours_alone and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error


class _Far:
    """The limits of one event loop that are far off."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.limits: set[Within] = set()
        self._is_looking = False

    def look_later(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self.loop.call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Make the timers of those that may end before the look after the next."""
        soon = self.loop.time() + 2 * _LOOK_S
        for within in [one for one in self.limits if one.until <= soon]:
            self.limits.discard(within)
            within.arm(self.loop)
        self._is_looking = bool(self.limits)
        if self._is_looking:
            self.loop.call_later(_LOOK_S, self._look)


class _Own(threading.local):
    far: _Far | None = None  # of the event loop that this thread runs


_own = _Own()
