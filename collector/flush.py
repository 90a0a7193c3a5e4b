"""Moves closed segments into the warehouse, about once a second, each exactly once.

A segment is inserted with its name as deduplication token, so an insert that was cut off can be repeated; it is
removed only after a later sync of the store's file system, because the store does not sync its parts itself.
"""
from __future__ import annotations

import logging
import re
import threading
import time

from collector.pricing import Pricing
from collector.spool import Segment, Spool
from farthing.errors import FarthingError, WarehouseError
from farthing.warehouse import Warehouse

log = logging.getLogger(__name__)

SYNC_INTERVAL_S = 10.0  # seconds between syncs of the store's file system
MAX_TRIES = 5  # non-retryable failures after which a segment is a dead letter
# ClickHouse's codes for input that will never parse: CANNOT_PARSE_*, ATTEMPT_TO_READ_AFTER_EOF, PROTOBUF_BAD_CAST, …
_POISON = re.compile(r"Code: (?:26|27|32|33|36|72|117|436|441|442|443|444|445|621)\b")


class Flusher:
    """A thread that empties the spool into the warehouse."""

    def __init__(self, spool: Spool, warehouse: Warehouse, pricing: Pricing, interval_s: float) -> None:
        self._spool = spool
        self._warehouse = warehouse
        self._pricing = pricing
        self._interval_s = interval_s
        self._inserted: list[Segment] = []  # in the warehouse, perhaps not yet on its disk
        self._tries: dict[str, int] = {}
        self._synced_at = time.monotonic()
        self._stop = threading.Event()
        self._flush_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="farthing-flush", daemon=True)
        self.dead_letters = 0
        self.failures = 0  # attempts that failed and are repeated
        self.last_error = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Flush what is held and return; what cannot be flushed stays in the spool for the next start."""
        self._stop.set()
        self._thread.join()
        self.flush()
        self._settle_on_disk()

    def flush(self) -> None:
        """Insert everything that was acknowledged before this call."""
        with self._flush_lock:
            self._spool.rotate()
            for segment in self._spool.closed():
                if segment not in self._inserted and not self._insert(segment):
                    return

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.flush()
                if time.monotonic() - self._synced_at >= SYNC_INTERVAL_S:
                    self._settle_on_disk()
            except Exception as error:  # noqa: BLE001 - the loop must outlive whatever one round brings
                self._failed(error)

    def _insert(self, segment: Segment) -> bool:
        """Insert one segment; False means: not now, keep the order and try again."""
        try:
            self._pricing.prepare(segment.path)
            self._warehouse.insert_otlp(segment.path, segment.token)
        except WarehouseError as error:
            self._failed(error)
            return self._is_buried(segment, error)
        self._tries.pop(segment.token, None)
        self._inserted.append(segment)
        return True

    def _is_buried(self, segment: Segment, error: WarehouseError) -> bool:
        if not _POISON.search(str(error)):
            return False
        self._tries[segment.token] = self._tries.get(segment.token, 0) + 1
        if self._tries[segment.token] < MAX_TRIES:
            return False
        grave = self._spool.bury(segment)
        self.dead_letters += 1
        log.error("the warehouse refused %s %d times, kept as %s: %s", segment.token, MAX_TRIES, grave, error)
        return True

    def _settle_on_disk(self) -> None:
        self._synced_at = time.monotonic()
        if not self._inserted:
            return
        try:
            self._warehouse.sync()
        except (OSError, FarthingError) as error:
            self._failed(error)
            return
        while self._inserted:
            self._spool.forget(self._inserted.pop(0))

    def _failed(self, error: BaseException) -> None:
        self.failures += 1
        self.last_error = str(error)
        log.warning("flush: %s", error)
