"""How workers of a host wake one another: each has a named pipe, and a byte in it says that it should look.

A ring that nobody hears is no loss: who waits looks now and then anyway.
"""
from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_MANY = 4096  # rings that are taken at once


class Bell:
    """The pipe of one worker, and the way to those of the others."""

    def __init__(self, folder: Path, seat: int) -> None:
        self._folder = folder
        self._seat = seat
        self._others: dict[int, int] = {}  # seat -> the pipe to it, opened at its first ring
        self._fd = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heeds: dict[Callable[[], None], None] = {}

    def hear(self, heed: Callable[[], None]) -> None:
        """Call `heed` on this event loop whenever another worker rings."""
        self._heeds[heed] = None
        if self._loop is None:
            path = self._path(self._seat)
            with suppress(FileExistsError):
                os.mkfifo(path, 0o600)
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # to write too: else it ends when a ringer goes
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._fd, self._rung)

    def ring(self, seat: int) -> None:
        """Wake the worker of a seat, where there is one that hears."""
        with suppress(OSError):  # it has died, or is full of rings
            if seat not in self._others:
                self._others[seat] = os.open(self._path(seat), os.O_WRONLY | os.O_NONBLOCK)
            os.write(self._others[seat], b"!")

    def close(self) -> None:
        if self._loop is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
        for fd in self._others.values():
            os.close(fd)

    def _path(self, seat: int) -> Path:
        return self._folder / f"bell-{seat}"

    def _rung(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, _MANY)
        for heed in self._heeds:
            heed()
