"""The disk behind the caches: one file an entry, in a folder that all workers of a machine share.

It is bounded, survives a restart, and is never in a request's way: reads and writes run in threads of its own, and what
cannot be written is dropped and counted. The least recently used files go first.
"""
from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

_WAITING_BYTES = 16 * 1024 * 1024  # to be written; more are dropped
_SPARE = 8  # a sweep leaves 1/8 of the bound free, which all workers together may fill before the next one
_STALE_S = 60.0  # after which a file that was never finished is litter
_BLOCK = 4096  # bytes; what a file takes up at least


class DiskCache:
    """One worker's way to the folder."""

    def __init__(self, folder: Path, max_bytes: int, workers: int = 1) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._step = max_bytes // (_SPARE * max(1, workers))  # bytes that one worker writes between two sweeps
        self._written = self._step  # so that the first write looks at what is there
        self._reader: ThreadPoolExecutor | None = None  # each starts its one thread when there is something to do
        self._writer: ThreadPoolExecutor | None = None
        self._numbers = itertools.count()
        self._waiting = 0  # bytes
        self.hits = self.misses = self.evictions = self.damaged = self.dropped = 0
        self.bytes = self.entries = 0  # as the last sweep found them

    async def many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return what is there of `names`."""
        found = await asyncio.get_running_loop().run_in_executor(self._reading(), self._read, names)
        self.hits += len(found)
        self.misses += not found
        return found

    def put(self, name: str, data: bytes, ttl_s: float) -> None:
        """Keep an entry; returns at once."""
        if self._waiting + len(data) > _WAITING_BYTES or len(data) > self._step:
            self.dropped += 1
            return
        self._waiting += len(data)
        self._writing().submit(self._write, name, data)

    def drop(self, name: str) -> None:
        """Forget an entry that is not what it should be."""
        self.damaged += 1
        self._writing().submit(self._remove, self._path(name))

    def close(self) -> None:
        """Write what waits, and stop."""
        for threads in (self._reader, self._writer):
            if threads is not None:
                threads.shutdown(wait=True)

    def _reading(self) -> ThreadPoolExecutor:
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="cache-read")
        return self._reader

    def _writing(self) -> ThreadPoolExecutor:
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="cache-write")
        return self._writer

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    def _read(self, names: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for name in names:
            path = self._path(name)
            with suppress(OSError):
                found[name] = path.read_bytes()
                os.utime(path)  # it was used
        return found

    def _write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        temporary = path.with_suffix(f".{os.getpid()}-{next(self._numbers)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as handle:
                handle.write(data)
            temporary.replace(path)
        except OSError as error:
            self.dropped += 1
            log.warning("cache: %s cannot be written: %s", path, error)
            self._remove(temporary)
        finally:
            self._waiting -= len(data)
        self._written += _size(len(data))
        if self._written >= self._step:
            self._written = 0
            self._sweep()

    def _sweep(self) -> None:
        """Drop the least recently used files until all of it is well within the bound."""
        kept = sorted(self._files())
        room = self._max_bytes - self._max_bytes // _SPARE
        self.bytes, self.entries = sum(size for _, size, _ in kept), len(kept)
        for _, size, path in kept:
            if self.bytes <= room:
                return
            self._remove(path)
            self.bytes -= size
            self.entries -= 1
            self.evictions += 1

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Yield (last use, bytes, path) of each entry; what a worker left unfinished is removed."""
        now = time.time()
        for path in self._folder.glob("??/*"):
            try:
                found = path.stat()
            except OSError:  # another worker dropped it
                continue
            if not path.suffix:
                yield found.st_mtime, _size(found.st_size), path
            elif now - found.st_mtime > _STALE_S:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        with suppress(OSError):
            path.unlink()


def _size(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK
