"""The segment log between the sender's 200 and the warehouse: what was acknowledged survives a crash and a power cut.

Appends loop over short writes and end in one fdatasync; the folder is fsynced when a segment is born. A segment is
removed only after `forget`, which the flusher calls once the warehouse has it on disk. [0 acknowledged batches lost in
27 power cuts; a log without these syncs lost all.]
"""
from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from farthing.disk import free_bytes
from farthing.durable import replace_durably, sync, write_all, write_durably
from farthing.errors import SpoolFullError
from farthing.warehouse import segment as record

log = logging.getLogger(__name__)

SEGMENT_BYTES = 24 * 1024 * 1024  # past which a segment is closed [a flood's peak 859 MB, of 16 MB 918, of 48 MB 988]
SEGMENT_SPANS = 200_000  # likewise, spans or what takes as much; 8,000,000 empty spans, 16 MB, take 2.4 GB to insert
MIN_FREE_BYTES = 64 * 1024 * 1024  # bytes that appends leave free on the disk, for the store's own merges
DIGESTS_KEPT_S = 900.0  # seconds that the digests of a forgotten segment stay on the disk
_SUFFIX = ".otlp"


@dataclass(frozen=True)
class Segment:
    """A closed segment file, ready to be inserted."""

    path: Path
    size: int  # bytes

    @property
    def token(self) -> str:
        """What the warehouse knows this segment by; the same for every attempt to insert it."""
        return self.path.stem


class Spool:
    """One folder of segments; every method may be called from any thread."""

    def __init__(self, folder: Path, max_bytes: int, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        """Open the spool; the newest segments of the last run become leftovers."""
        self.folder = folder
        self.max_bytes = max_bytes
        self.min_free_bytes = min_free_bytes
        self.corrupt_bytes = 0  # bytes of leftovers that held no whole record
        self._lock = threading.RLock()
        _make_durable_folder(folder)
        for stray in folder.glob("*.tmp"):
            stray.unlink()
        self._closed = [self._repaired(path) for path in sorted(folder.glob(f"*{_SUFFIX}"))]
        self._closed = [segment for segment in self._closed if segment.size]
        self.held_bytes = sum(segment.size for segment in self._closed)
        self._epoch = time.time_ns()
        self._sequence = 0
        self._file: int | None = None  # descriptor of the open segment; None = the next append begins one
        self._path = folder
        self._size = 0
        self._spans = 0  # in the open segment, as far as `append` was told
        self._pruned_at = 0.0

    def append(self, records: Iterable[bytes], spans: int = 0) -> None:
        """Write records and return once they are on the disk.

        Raises:
            SpoolFullError: the disk or the spool is full; nothing of `records` was kept.
        """
        buffer = b"".join(records)
        with self._lock:
            self._refuse_past_limits(len(buffer))
            if self._size + len(buffer) > SEGMENT_BYTES or self._spans + spans > SEGMENT_SPANS:
                self.rotate()
            try:
                descriptor = self._opened()
                write_all(descriptor, buffer)
                os.fdatasync(descriptor)
            except OSError as error:
                self._cut_back()
                raise SpoolFullError(f"the spool {self.folder} cannot be written: {error.strerror}") from error
            self._size += len(buffer)
            self._spans += spans
            self.held_bytes += len(buffer)

    def rotate(self) -> None:
        """Close the open segment, if there is one; the next append begins another."""
        with self._lock:
            if self._file is None:
                return
            os.close(self._file)
            self._file = None
            if self._size:
                self._closed.append(Segment(self._path, self._size))
            else:
                self._path.unlink()
            self._size = self._spans = 0

    def closed(self) -> list[Segment]:
        """Return the closed segments that are still held, oldest first."""
        with self._lock:
            return list(self._closed)

    def forget(self, segment: Segment) -> None:
        """Remove a segment that the warehouse has on disk; its digests are kept beside for the duplicate check."""
        digests = b"".join(record.digests(segment.path))
        seen = segment.path.with_suffix(".seen")
        try:
            write_durably(seen, digests)
        except OSError as error:  # a full disk: it matters more that the segment frees its room
            seen.unlink(missing_ok=True)
            log.warning("the duplicate check forgets %d bodies: %s", len(digests) // 16, error)
        segment.path.unlink()
        self._drop(segment)
        self._prune()

    def bury(self, segment: Segment, records: Iterable[bytes] = ()) -> Path:
        """Move a segment, or only these records of it, to the dead-letter folder; the rest stays as it is."""
        grave = self.folder / "dead-letter"
        grave.mkdir(exist_ok=True)
        target = grave / segment.path.name
        content = b"".join(records)
        if content:
            write_durably(target, content)
        else:
            segment.path.rename(target)
            self._drop(segment)
        sync(grave)
        sync(self.folder)
        return target

    def rewrite(self, segment: Segment, records: Iterable[bytes]) -> None:
        """Replace what a closed segment holds; its token stays."""
        content = b"".join(records)
        replace_durably(segment.path, content)
        with self._lock:
            at = self._closed.index(segment)
            self._closed[at] = Segment(segment.path, len(content))
            self.held_bytes += len(content) - segment.size

    def recent_digests(self, max_age_s: float) -> list[bytes]:
        """Return the digests of bodies accepted in the last `max_age_s` seconds, before this start."""
        digests: list[bytes] = []
        for path in sorted(self.folder.glob("*.seen")):
            if time.time() - path.stat().st_mtime > max_age_s:
                path.unlink()
                continue
            content = path.read_bytes()
            digests += [content[at : at + 16] for at in range(0, len(content) - 15, 16)]
        for segment in self.closed():
            digests += record.digests(segment.path)
        return digests

    def close(self) -> None:
        """Close the open segment; what the spool holds is taken up by the next start."""
        self.rotate()

    def _refuse_past_limits(self, coming: int) -> None:
        if self.held_bytes + coming > self.max_bytes:
            raise SpoolFullError(f"the spool {self.folder} holds {self.held_bytes} of {self.max_bytes} bytes")
        free = free_bytes(self.folder)
        if free - coming < self.min_free_bytes:
            raise SpoolFullError(f"the disk of {self.folder} has {free} bytes left, {self.min_free_bytes} stay free")

    def _drop(self, segment: Segment) -> None:
        with self._lock:
            self._closed.remove(segment)
            self.held_bytes -= segment.size

    def _opened(self) -> int:
        """Return the descriptor of the open segment; begin one where there is none."""
        if self._file is None:
            path = self.folder / f"{self._epoch:019d}-{self._sequence:08d}{_SUFFIX}"
            self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_EXCL, 0o600)
            self._path, self._size, self._spans = path, 0, 0
            self._sequence += 1
            sync(self.folder)
        return self._file

    def _cut_back(self) -> None:
        """Drop a torn tail and begin another file: after a failed sync, later ones of the same file prove nothing."""
        if self._file is None:
            return
        try:
            os.ftruncate(self._file, self._size)
            os.fdatasync(self._file)
        except OSError as error:
            log.error("the tail of %s may be torn: %s", self._path, error)
        self.rotate()

    def _prune(self) -> None:
        """Remove digests that are past their time; looks once a minute."""
        if time.monotonic() - self._pruned_at < 60:
            return
        self._pruned_at = time.monotonic()
        for path in self.folder.glob("*.seen"):
            if time.time() - path.stat().st_mtime > DIGESTS_KEPT_S:
                path.unlink()

    def _repaired(self, path: Path) -> Segment:
        """Return a leftover segment, rewritten without its corrupt bytes where it has any."""
        buffer = path.read_bytes()
        spans = [(start, end) for start, _, end in record.scan(buffer)]
        whole = sum(end - start for start, end in spans)
        self.corrupt_bytes += len(buffer) - whole
        if not spans:
            path.unlink()
        elif whole != len(buffer):
            replace_durably(path, b"".join(buffer[start:end] for start, end in spans))
        return Segment(path, whole)


def _make_durable_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sync(folder)
    sync(folder.parent)
