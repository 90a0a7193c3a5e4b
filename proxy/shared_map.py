"""A file that all workers of a host have mapped, and the seat that each of them has at it.

What is in it changes under the file's lock. The system lets go of the lock and of the seat of a process that dies, so
nobody ever waits for a dead worker, and what it left in its columns is found and taken off.
"""
from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from pathlib import Path
from time import monotonic

from farthing.errors import ServeError
from proxy.room import take_room

WORKERS = 32  # that may share a file
_LOOK_S = 0.5  # seconds between looks for workers that died


class SharedMap:
    """The file as one worker sees it; `with` takes its lock, which costs two system calls and no disk."""

    def __init__(self, folder: Path, name: str, size: int, is_kept: bool = True) -> None:
        """Open a file of so many bytes; what is not to be kept is empty again once nobody had it open.

        Raises:
            ServeError: all seats are taken.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._fd = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        self.looked_at = 0.0  # monotonic seconds, for workers that died
        try:
            with self:
                self.seat, self._seat_fd = self._claim()
                if not is_kept and all(self._is_vacant(seat) for seat in range(WORKERS) if seat != self.seat):
                    os.ftruncate(self._fd, 0)
                take_room(self._fd, size)
        except BaseException:
            os.close(self._fd)
            raise
        self.map = mmap.mmap(self._fd, size)

    def __enter__(self) -> None:
        flock(self._fd, LOCK_EX)

    def __exit__(self, *_: object) -> None:
        flock(self._fd, LOCK_UN)

    def close(self) -> None:
        """Leave the seat; its columns are to be empty."""
        os.close(self._seat_fd)
        self.map.close()
        os.close(self._fd)

    def looks(self) -> bool:
        """Tell whether it is time to look for workers that died."""
        now = monotonic()
        if now - self.looked_at < _LOOK_S:
            return False
        self.looked_at = now
        return True

    def vacated(self, seats: Iterable[int]) -> list[int]:
        """Return those of the other seats whose worker has died; under the lock, so that nobody takes them."""
        return [seat for seat in seats if seat != self.seat and self._is_vacant(seat)]

    def _claim(self) -> tuple[int, int]:
        """Take a seat that no living worker has."""
        for seat in range(WORKERS):
            if (fd := self._taken(seat)) is not None:
                return seat, fd
        raise ServeError(f"proxy: {self.folder} has {WORKERS} workers already; run fewer, or give others a data_dir")

    def _taken(self, seat: int) -> int | None:
        """Take a seat, and return what keeps it; None where a living worker has it."""
        fd = os.open(self._path(seat), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            flock(fd, LOCK_EX | LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd

    def _is_vacant(self, seat: int) -> bool:
        if not self._path(seat).exists():
            return True
        fd = self._taken(seat)
        if fd is not None:
            os.close(fd)
        return fd is not None

    def _path(self, seat: int) -> Path:
        return self.folder / f"worker-{seat}"
