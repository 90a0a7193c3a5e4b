"""What the ledger has not been told yet, on the disk: it outlives the worker and is told by whichever starts next.

Every line is one operation; the last one of an attempt counts. The ledger takes an operation once however often it is
told, so a file is kept until all of it has been taken. A lock on the file tells whether its worker lives.
"""
from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

log = logging.getLogger(__name__)

Operation = dict[str, Any]


class Backlog:
    """The file of one worker, made when it is first needed."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._path = folder / f"backlog-{worker}.jsonl"
        self._file: BinaryIO | None = None
        self._unfinished: set[str] = set()  # calls under way that are kept at the most that they may cost

    def begin(self, operation: Operation) -> None:
        """Keep a charge that a call may come to; `keep` says later what it came to."""
        self._unfinished.add(operation["request_id"])
        self.keep([operation])

    def keep(self, operations: Iterable[Operation], is_finished: bool = False) -> None:
        """Write operations behind the others; a killed process leaves them there."""
        file = self._file or self._open()
        lines: list[bytes] = []
        for operation in operations:
            lines.append(msgspec.json.encode(operation) + b"\n")
            if is_finished:
                self._unfinished.discard(operation["request_id"])
        file.write(b"".join(lines))

    async def sync(self) -> None:
        """Wait until what was kept is on the disk."""
        if self._file is not None:
            await asyncio.to_thread(os.fdatasync, self._file.fileno())

    def all_taken(self) -> None:
        """Forget what was kept: the ledger has taken everything that has ended."""
        if self._file is not None and not self._unfinished:
            self._file.truncate(0)
            self._file.seek(0)

    def adopt(self) -> list[Operation]:
        """Take over what workers that have died left behind; it stays on the disk until `all_taken`."""
        found: list[Operation] = []
        for path in sorted(self._folder.glob("backlog-*.jsonl")):
            if path == self._path:
                continue
            with path.open("rb") as left:
                try:
                    fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # its worker lives
                operations = _read(left)
                self.take_over(operations)
                path.unlink()
                found += operations
        if found:
            log.warning("ledger: %d operations of workers that died are told to it now", len(found))
        return found

    def take_over(self, operations: list[Operation]) -> None:
        """Have operations of a worker that died on the disk before what it left them in goes."""
        if operations:
            self.keep(operations)
            os.fsync((self._file or self._open()).fileno())

    def close(self) -> None:
        """Let the file go; an empty one is removed."""
        if self._file is not None:
            if self._file.tell() == 0:
                self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return self._file


def _read(file: BinaryIO) -> list[Operation]:
    """Return the last operation of each attempt; a line that the end of its process cut is none."""
    last: dict[tuple[str, str, int], Operation] = {}  # in order of the first of each
    for line in file:
        try:
            operation = msgspec.json.decode(line, type=Operation)
            last[operation["op"], *_subject(operation)] = operation
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            log.warning("ledger: a line of %s cannot be read: %r", file.name, line[:200])
    return list(last.values())


def _subject(operation: Operation) -> tuple[str, int]:
    """Return what an operation is about: an attempt, or a worker."""
    return (operation["worker"], 0) if operation["op"] == "retire" else (operation["request_id"], operation["attempt"])
