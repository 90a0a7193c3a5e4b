"""The files that callers upload and batches write, on this host's disk; a file is there whole or not at all.

Every file belongs to an owner, and nobody else learns that it exists.
"""
from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from farthing.durable import write_durably
from proxy.api_error import ApiError

_BLOCK = 1024 * 1024
_UNFINISHED_S = 86_400  # after which nobody is making it any more
_ID = re.compile(r"file-[0-9a-f]{24}")


class FileRecord(msgspec.Struct):
    """What is known of a file."""

    id: str
    bytes: int
    created_at: int  # epoch seconds
    filename: str
    purpose: str  # batch | batch_output
    owner: str
    expires_at: int

    def described(self) -> dict[str, object]:
        """Return it as OpenAI's API does."""
        return {
            "id": self.id, "object": "file", "bytes": self.bytes, "created_at": self.created_at,
            "filename": self.filename, "purpose": self.purpose, "expires_at": self.expires_at, "status": "processed",
        }  # fmt: skip


_decode = msgspec.json.Decoder(FileRecord).decode


class Files:
    """One folder a file, below one folder."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def add(self, owner: str, filename: str, source: BinaryIO, size: int, keep_days: int) -> FileRecord:
        """Keep an uploaded file: the next `size` bytes of `source`."""
        return self._add(owner, filename, "batch", keep_days, lambda path: _copy(source, size, path))

    def adopt(self, owner: str, filename: str, source: Path, keep_days: int) -> FileRecord:
        """Keep what a batch wrote; `source` stays where it is too."""
        return self._add(owner, filename, "batch_output", keep_days, lambda path: shutil.copyfile(source, path))

    def get(self, owner: str, file_id: str) -> FileRecord:
        """Return what is known of a file.

        Raises:
            ApiError: 404.
        """
        record = self._record(file_id) if _ID.fullmatch(file_id) else None
        if record is None or record.owner != owner or record.expires_at <= self._clock():
            raise ApiError(404, "file_not_found", f"there is no file {file_id!r} of yours; see GET /v1/files")
        return record

    def path(self, file_id: str) -> Path:
        """Return where the bytes of a file lie."""
        return self._folder / file_id / "content"

    def of(self, owner: str) -> list[FileRecord]:
        """Return an owner's files, the newest first."""
        now = self._clock()
        found = [record for record in self._all() if record.owner == owner and record.expires_at > now]
        return sorted(found, key=lambda record: (record.created_at, record.id), reverse=True)

    def delete(self, owner: str, file_id: str) -> None:
        """Forget a file; a batch that reads it keeps what it reads.

        Raises:
            ApiError: 404.
        """
        shutil.rmtree(self._folder / self.get(owner, file_id).id, ignore_errors=True)

    def sweep(self) -> None:
        """Forget files whose time is over, and what was left of those that were never whole."""
        now = self._clock()
        sweep_unfinished(self._folder, "file-", now)
        for record in self._all():
            if record.expires_at <= now:
                shutil.rmtree(self._folder / record.id, ignore_errors=True)

    def _add(
        self, owner: str, filename: str, purpose: str, keep_days: int, write: Callable[[Path], object]
    ) -> FileRecord:
        file_id = f"file-{secrets.token_hex(12)}"
        now = int(self._clock())
        with making(self._folder, file_id) as folder:
            write(folder / "content")
            size = (folder / "content").stat().st_size
            record = FileRecord(file_id, size, now, filename, purpose, owner, now + keep_days * 86_400)
            write_durably(folder / "record.json", msgspec.json.encode(record))
        return record

    def _record(self, file_id: str) -> FileRecord | None:
        try:
            return _decode((self._folder / file_id / "record.json").read_bytes())
        except FileNotFoundError:
            return None

    def _all(self) -> Iterator[FileRecord]:
        for folder in self._folder.glob("file-*"):
            if (record := self._record(folder.name)) is not None:
                yield record


@contextmanager
def making(folder: Path, name: str) -> Iterator[Path]:
    """Yield a new folder that gets its name once it is whole; nothing is left of one that does not."""
    new = folder / f".{name}"
    new.mkdir(parents=True)
    try:
        yield new
        new.rename(folder / name)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def sweep_unfinished(folder: Path, prefix: str, now: float) -> None:
    """Remove what a process that was killed was making."""
    for new in folder.glob(f".{prefix}*"):
        with suppress(FileNotFoundError):  # another worker was quicker
            if new.stat().st_mtime < now - _UNFINISHED_S:
                shutil.rmtree(new, ignore_errors=True)


def _copy(source: BinaryIO, size: int, path: Path) -> None:
    """Write a part of another file as `write_durably` does."""
    with path.open("wb") as file:
        while size and (block := source.read(min(size, _BLOCK))):
            file.write(block)
            size -= len(block)
        file.flush()
        os.fsync(file.fileno())
