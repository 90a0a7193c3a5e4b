"""A batch as it lies on this host's disk: its record, its input and a journal with one line for each answer.

An answer is in the journal before its call is settled, and a line that is in the journal is never asked again, whatever
kills the process. One that was under way then is asked again: nobody can know whether it was answered.
"""
from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

import msgspec

from farthing.durable import write_durably
from proxy.api_error import ApiError
from proxy.files import making, sweep_unfinished
from proxy.line_file import LineFile

WINDOW_S = 86_400
FINAL = frozenset(("failed", "completed", "expired", "cancelled"))
_ID = re.compile(r"batch_[0-9a-f]{24}")


class BatchRecord(msgspec.Struct):
    """What is known of a batch; times are epoch seconds, 0 = not yet."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    created_at: int
    keep_days: int
    key: str  # name of the key that its lines are asked with
    tenant: str
    team: str
    user: str
    tags: str  # as the caller sent them
    metadata: dict[str, str] | None = None
    status: str = "validating"
    errors: list[dict[str, Any]] = []
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int = 0
    finalizing_at: int = 0
    ended_at: int = 0

    @property
    def expires_at(self) -> int:
        return self.created_at + WINDOW_S

    def described(self, is_cancelling: bool) -> dict[str, Any]:
        """Return it as OpenAI's API does."""
        status = "cancelling" if is_cancelling and self.status not in FINAL else self.status
        errors = {"object": "list", "data": self.errors} if self.errors else None
        return {
            "id": self.id, "object": "batch", "endpoint": self.endpoint, "errors": errors,
            "input_file_id": self.input_file_id, "completion_window": "24h", "status": status,
            "output_file_id": self.output_file_id, "error_file_id": self.error_file_id,
            "created_at": self.created_at, "in_progress_at": self.in_progress_at or None,
            "expires_at": self.expires_at, "finalizing_at": self.finalizing_at or None,
            **{f"{end}_at": self.ended_at if self.status == end else None for end in FINAL},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
        }  # fmt: skip


class Answered(msgspec.Struct):
    """A line of the journal."""

    line: int  # of the input, from 1
    is_good: bool  # it goes to the output file, else to the error file
    record: msgspec.Raw


_decode = msgspec.json.Decoder(BatchRecord).decode
_decode_answered = msgspec.json.Decoder(Answered).decode


class Journal:
    """The answers of one batch so far, by the one worker that holds its lock."""

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)
        self.lines = {answered.line: answered.is_good for answered in self.read()}

    def add(self, answered: Answered) -> None:
        """Write an answer down; it outlives this process from now on, and a power cut from the next `sync` on.

        Raises:
            OSError: the disk does not take it; nothing of it is there.
        """
        self._file.add(msgspec.json.encode(answered))
        self.lines[answered.line] = answered.is_good

    def read(self) -> Iterator[Answered]:
        with self._file.path.open("rb") as file:
            for line in file:
                yield _decode_answered(line)

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


class Batches:
    """All batches of this host: one folder each."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def folder(self, batch_id: str) -> Path:
        return self._folder / batch_id

    def create(self, record: BatchRecord, source: Path) -> None:
        """Keep a new batch; its input is a link, so that the uploaded file may be deleted meanwhile."""
        with making(self._folder, record.id) as folder:
            try:
                os.link(source, folder / "input")
            except OSError:  # a file system without links
                shutil.copyfile(source, folder / "input")
            write_durably(folder / "batch.json", msgspec.json.encode(record))

    def get(self, owner: str, batch_id: str) -> BatchRecord:
        """Return a batch.

        Raises:
            ApiError: 404.
        """
        record = self.read(batch_id) if _ID.fullmatch(batch_id) else None
        if record is None or record.owner != owner:
            raise ApiError(404, "batch_not_found", f"there is no batch {batch_id!r} of yours; see GET /v1/batches")
        return record

    def of(self, owner: str) -> list[BatchRecord]:
        """Return an owner's batches, the newest first."""
        found = [record for record in self.all() if record.owner == owner]
        return sorted(found, key=lambda record: (record.created_at, record.id), reverse=True)

    def all(self, but: Set[str] = frozenset()) -> Iterator[BatchRecord]:
        for folder in self._folder.glob("batch_*"):
            if folder.name not in but and (record := self.read(folder.name)) is not None:
                yield record

    def read(self, batch_id: str) -> BatchRecord | None:
        try:
            return _decode((self.folder(batch_id) / "batch.json").read_bytes())
        except FileNotFoundError:
            return None

    def write(self, record: BatchRecord) -> None:
        """Put a new state in the place of the old one, at once."""
        path = self.folder(record.id) / "batch.json"
        new = path.with_suffix(".new")
        write_durably(new, msgspec.json.encode(record))
        new.rename(path)

    def cancel(self, batch_id: str) -> None:
        """Ask whichever worker runs it to stop."""
        (self.folder(batch_id) / "cancel").touch()

    def is_cancelled(self, batch_id: str) -> bool:
        return (self.folder(batch_id) / "cancel").exists()

    def claim(self, batch_id: str) -> Lock | None:
        """Return the right to run a batch, None where another worker has it."""
        return Lock.take(self.folder(batch_id) / "lock")

    def claim_slot(self, most: int) -> Lock | None:
        """Return one of this host's `most` rights to run a batch at all."""
        slots = self._folder / ".slots"
        slots.mkdir(parents=True, exist_ok=True)
        return next((lock for number in range(most) if (lock := Lock.take(slots / str(number))) is not None), None)

    def sweep(self) -> None:
        """Forget batches that ended long ago, and what was left of those that were never whole."""
        now = self._clock()
        sweep_unfinished(self._folder, "batch_", now)
        for record in self.all():
            if record.status in FINAL and record.ended_at + record.keep_days * 86_400 <= now:
                shutil.rmtree(self.folder(record.id), ignore_errors=True)


class Lock:
    """A file lock; the system gives it back when the process dies, however it does."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, path: Path) -> Lock | None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return cls(fd)

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def new_id() -> str:
    return f"batch_{secrets.token_hex(12)}"
