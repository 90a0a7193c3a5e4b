"""Moves closed segments into the warehouse, about once a second, each exactly once.

A segment is inserted with its name as deduplication token, so an insert that was cut off can be repeated; it is
removed only after a later sync of the store's file system, because the store does not sync its parts itself. What the
last run left is compared with what the store holds: after a power cut the store may know a token whose rows it lost.
"""
from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from collector.ballast import BALLAST_BYTES, Ballast, Room
from collector.pricing import Pricing
from collector.retention import Retention
from collector.spool import Segment, Spool
from farthing.errors import FarthingError, WarehouseError
from farthing.warehouse import Warehouse
from farthing.warehouse import segment as record
from farthing.warehouse.lane import TRACES, Lane

log = logging.getLogger(__name__)

SYNC_INTERVAL_S = 10.0  # seconds between syncs of the store's file system
MAX_TRIES = 5  # failures that are not the store's after which a segment is examined
# ClickHouse's codes for a store that is away, busy, full or misconfigured: such a segment waits, however long it takes.
# Every other code is about the segment, once a later one was taken.
_STORE = {
    60, 74, 75, 76, 81, 107, 115, 159, 160, 164, 173, 192, 193, 194, 198, 202, 209, 210, 236, 241, 242, 243, 252, 279,
    285, 286, 319, 394, 425, 473, 497, 499, 516, 999, 1001,
}  # fmt: skip
_CODE = re.compile(r"Code: (\d+)\b")
_FULL = re.compile(r"Code: 243\b|No space left|NOT_ENOUGH_SPACE")


class Flusher:
    """A thread that empties the spool of a lane into the warehouse, and after it those of the lanes `also`."""

    def __init__(
        self,
        spool: Spool,
        warehouse: Warehouse,
        pricing: Pricing,
        interval_s: float,
        ballast_bytes: int = BALLAST_BYTES,
        retention: Retention | None = None,
        is_migrated: bool = True,
        lane: Lane = TRACES,
        also: Sequence[Flusher] = (),
    ) -> None:
        """Take up what the spool holds; a store that could not be migrated yet is, before the first insert."""
        self._spool = spool
        self._warehouse = warehouse
        self._pricing = pricing
        self._interval_s = interval_s
        self._retention = retention
        self._is_migrated = is_migrated
        self._lane = lane
        self._also = also
        self._ballast = Ballast(spool.folder.parent / "ballast", ballast_bytes)
        self._room = Room(self._ballast, [spool, *(one._spool for one in also)])
        for one in also:
            one._room = self._room
        self._leftovers = {segment.token for segment in spool.closed()}
        self._inserted: dict[str, Segment] = {}  # in the warehouse, perhaps not yet on its disk
        self._tries: dict[str, int] = {}
        self._synced_at = time.monotonic()
        self._fresh: list[tuple[int, int]] = []
        self._complete_ms = 0
        self._stop = threading.Event()
        self._flush_lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="farthing-flush", daemon=True)
        self.dead_letters = len(list(spool.folder.glob("dead-letter/*")))
        self.failures = 0  # attempts that failed and are repeated
        self.last_error = ""

    def start(self) -> None:
        self._restore_ballast()
        self._thread.start()

    def stop(self) -> None:
        """Flush what is held and return; what cannot be flushed stays in the spool for the next start."""
        self._stop.set()
        self._thread.join()
        self._guarded_rounds(is_last=True)

    def flush(self) -> None:
        """Insert everything that was acknowledged before this call."""
        for one in (self, *self._also):
            one._flush()

    def _flush(self) -> None:
        with self._flush_lock:
            started_ms = time.time_ns() // 1_000_000
            self._spool.rotate()
            if not self._migrated():
                return
            suspects: list[tuple[Segment, WarehouseError]] = []
            for segment in self._spool.closed():
                if segment.token in self._inserted:
                    continue
                error = self._insert(segment)
                if error is None:
                    self._bury(suspects)
                elif self._is_suspect(segment, error):
                    suspects.append((segment, error))
                else:
                    return
                self._settle_if_due()
            if not suspects:
                self._complete_ms = started_ms

    def fresh(self) -> tuple[list[tuple[int, int]], int]:
        """Return when the rows were received that were inserted since the last call, and until when none is missing.

        Both in ms since the epoch; each pair is the first and the last moment of one segment.
        """
        lanes = [one._taken() for one in (self, *self._also)]
        return [pair for fresh, _ in lanes for pair in fresh], min(complete_ms for _, complete_ms in lanes)

    def _taken(self) -> tuple[list[tuple[int, int]], int]:
        with self._flush_lock:
            fresh, self._fresh = self._fresh, []
            return fresh, self._complete_ms

    @contextmanager
    def paused(self) -> Generator[None]:
        """Insert nothing meanwhile, in any lane; what the spools hold is closed. Senders are acknowledged as ever."""
        with ExitStack() as held:
            for one in (self, *self._also):
                held.enter_context(one._flush_lock)
                one._spool.rotate()
            yield

    def _migrated(self) -> bool:
        """Bring a store up to date that was away at the start."""
        if not self._is_migrated:
            try:
                self._warehouse.migrate()
            except WarehouseError as error:
                self._failed(error)
                return False
            self._is_migrated = True
            log.info("the warehouse answers and is up to date")
        return True

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._guarded_rounds()

    def _guarded_rounds(self, is_last: bool = False) -> None:
        for one in (self, *self._also):
            one._guarded_round(is_last)

    def _guarded_round(self, is_last: bool = False) -> None:
        try:
            self._flush()
        except Exception as error:  # noqa: BLE001 - the loop must outlive whatever one round brings
            self._failed(error)
        try:
            self._settle_if_due(is_last)
            if self._retention is not None and self._is_migrated and not is_last:
                self._retention.run_if_due()
        except Exception as error:  # noqa: BLE001 - as above; a full spool is emptied here
            self._failed(error)

    def _insert(self, segment: Segment) -> WarehouseError | None:
        """Insert one segment; the error means: not now."""
        try:
            self._pricing.prepare(segment.path, self._lane)
            self._warehouse.make_room_for(segment.size)
            token = self._lane.token(segment.token)
            if segment.token in self._leftovers:
                self._warehouse.insert_otlp_again(segment.path, token, self._lane)
            else:
                self._warehouse.insert_otlp(segment.path, token, self._lane)
        except WarehouseError as error:
            self._failed(error)
            if self._warehouse.path is None:  # it may go on with it, or have stored it before the answer was lost
                self._leftovers.add(segment.token)
            if _FULL.search(str(error)):
                self._make_room()
            return error
        self._tries.pop(segment.token, None)
        self._inserted[segment.token] = segment
        received = record.received_ms(segment.path)
        if received is not None:
            self._fresh.append(received)
        return None

    def _is_suspect(self, segment: Segment, error: WarehouseError) -> bool:
        """True: it may be the segment's own fault, so go on to the next one, which tells."""
        if _is_the_stores(error):
            return False
        self._tries[segment.token] = self._tries.get(segment.token, 0) + 1
        if self._tries[segment.token] < MAX_TRIES:
            return False
        return self._tries[segment.token] > MAX_TRIES or not self._is_cured(segment)

    def _is_cured(self, segment: Segment) -> bool:
        """Move the bodies that the warehouse refuses, if it takes the others, to the dead letters."""
        buffer = segment.path.read_bytes()
        records = [buffer[start:end] for start, _, end in record.scan(buffer)]
        if not records:
            self._bury([(segment, WarehouseError("it holds no whole record"))])
            return True
        hollow = [record.hollow(one) for one in records]
        if self._refused(segment.path, hollow[:1]):
            return False  # even nothing is refused: it is not the bodies
        poison = set(self._refused(segment.path, records))
        if not poison:
            return False
        # The hollow ones keep the number of rows, and with it the blocks that the store may have taken already.
        grave = self._spool.bury(segment, [records[n] for n in sorted(poison)])
        self._spool.rewrite(segment, [hollow[n] if n in poison else one for n, one in enumerate(records)])
        self.dead_letters += 1
        self._tries.pop(segment.token)
        log.error("the warehouse refuses %d of %d bodies, kept as %s", len(poison), len(records), grave)
        return True

    def _refused(self, path: Path, records: list[bytes], first: int = 0) -> list[int]:
        """Return the numbers of the records that do not pass a dry run, found by halving."""
        if self._passes(path.with_suffix(".tmp"), records):
            return []
        if len(records) == 1:
            return [first]
        half = len(records) // 2
        return self._refused(path, records[:half], first) + self._refused(path, records[half:], first + half)

    def _passes(self, trial: Path, records: list[bytes]) -> bool:
        trial.write_bytes(b"".join(records))
        try:
            self._warehouse.check_otlp(trial, self._lane)
        except WarehouseError as error:
            if _is_the_stores(error):
                raise
            return False
        finally:
            trial.unlink()
        return True

    def _bury(self, suspects: list[tuple[Segment, WarehouseError]]) -> None:
        """The store works, so it is the segments that do not."""
        while suspects:
            segment, error = suspects.pop()
            grave = self._spool.bury(segment)
            self.dead_letters += 1
            self._tries.pop(segment.token, None)
            log.error("the warehouse refused %s %d times, kept as %s: %s", segment.token, MAX_TRIES, grave, error)

    def _settle_if_due(self, is_last: bool = False) -> None:
        with self._flush_lock:
            if is_last or time.monotonic() - self._synced_at >= SYNC_INTERVAL_S:
                self._settle_on_disk()
                self._restore_ballast()

    def _settle_on_disk(self) -> None:
        self._synced_at = time.monotonic()
        if self._lane is not TRACES and not self._inserted:
            return  # traces sync for whatever else was written
        try:
            self._warehouse.sync()
        except (OSError, FarthingError) as error:
            self._failed(error)
            return
        for token, segment in list(self._inserted.items()):
            self._spool.forget(segment)
            del self._inserted[token]
            self._leftovers.discard(token)

    def _make_room(self) -> None:
        """Give the ballast to the store, keep senders off it, and let go of old rows and of what is stored already."""
        if self._warehouse.path is not None and self._room.give():
            log.error("the disk of %s is full; senders wait, the store gets the ballast", self._spool.folder)
            self._settle_on_disk()
        if self._retention is not None:
            self._retention.make_room()

    def _restore_ballast(self) -> None:
        if self._warehouse.path is not None:
            self._room.take_back()

    def _failed(self, error: BaseException) -> None:
        self.failures += 1
        self.last_error = str(error)
        log.warning("flush: %s", error)


def _is_the_stores(error: WarehouseError) -> bool:
    """Tell whether an error says something of the store, and nothing of what it was given."""
    found = _CODE.search(str(error))
    return found is None or int(found.group(1)) in _STORE
