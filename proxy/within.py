"""A limit on how long a block may take, where every call passes two of them.

`asyncio.timeout` does the same for more kinds of callers at three times the cost.
"""
from __future__ import annotations

import asyncio
from types import TracebackType


class Within:
    """`with Within(seconds):` raises TimeoutError out of a block of the running task that takes longer."""

    __slots__ = ("_cancelling", "_handle", "_has_expired", "_seconds", "_task")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._has_expired = False

    def __enter__(self) -> Within:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()  # asked for by others before: their cancellation is none of ours
        self._handle = loop.call_later(self._seconds, self._expire)
        return self

    def postpone(self, seconds: float) -> float | None:
        """Let the block go on for `seconds` from now; return what was left of its time, None where that is longer."""
        loop = asyncio.get_running_loop()
        left_s = self._handle.when() - loop.time()
        if self._has_expired or seconds <= left_s:
            return None
        self._handle.cancel()
        self._handle = loop.call_later(seconds, self._expire)
        return left_s

    def _expire(self) -> None:
        self._has_expired = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        if not self._has_expired:
            return
        is_ours_alone = self._task.uncancel() <= self._cancelling
        if is_ours_alone and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error
