"""A file that only grows, by whole lines: what a kill or a full disk left of one is taken off before the next."""
from __future__ import annotations

import os
from pathlib import Path

from farthing.durable import write_all


class LineFile:
    """The file as its one writer has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.size = path.read_bytes().rfind(b"\n") + 1  # bytes
        os.ftruncate(self._fd, self.size)

    def add(self, line: bytes) -> int:
        """Write a line, which has no end yet, and return where it begins; it outlives this process from now on.

        Raises:
            OSError: the disk does not take it; nothing of it is there.
        """
        at, whole = self.size, line + b"\n"
        try:
            write_all(self._fd, whole)
        except OSError:
            os.ftruncate(self._fd, at)  # half a line would spoil the one that comes behind it
            raise
        self.size += len(whole)
        return at

    def sync(self) -> None:
        """Have the lines outlive a power cut too."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
