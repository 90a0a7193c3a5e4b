"""A file that keeps room on the disk, given back when the disk is full: a store cannot even delete without room.

While the ballast is away the spool refuses that much more, so that senders do not eat what the store needs to drain.
"""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from collector.spool import Spool
from farthing.disk import free_bytes

BALLAST_BYTES = 64 * 1024 * 1024


class Ballast:
    """One file of fixed size, there or not."""

    def __init__(self, path: Path, size: int = BALLAST_BYTES) -> None:
        self._path = path
        self.size = size

    @property
    def is_held(self) -> bool:
        return self._path.exists()

    def release(self) -> bool:
        """Give the room back; False where that was done before."""
        was_held = self.is_held
        self._path.unlink(missing_ok=True)
        return was_held

    def restore(self) -> bool:
        """Take the room again once there is twice as much of it; True where it is held."""
        if self.is_held:
            return True
        if free_bytes(self._path.parent) < 2 * self.size:
            return False
        descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self.size)
        except OSError:
            self._path.unlink()
        finally:
            os.close(descriptor)
        return self.is_held


class Room:
    """The ballast of one disk and the spools on it, which stay off it together."""

    def __init__(self, ballast: Ballast, spools: Sequence[Spool]) -> None:
        self.ballast = ballast
        self._least = [(spool, spool.min_free_bytes) for spool in spools]

    def give(self) -> bool:
        """Give the ballast to the store and keep senders off it; False where that was done before."""
        if not self.ballast.release():
            return False
        for spool, least in self._least:
            spool.min_free_bytes = least + self.ballast.size
        return True

    def take_back(self) -> None:
        if self.ballast.restore():
            for spool, least in self._least:
                spool.min_free_bytes = least
