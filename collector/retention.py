"""Has the warehouse let go of old rows: at the start, daily, and when its disk is full."""
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone

from farthing.errors import WarehouseError
from farthing.settings import Settings
from farthing.warehouse import Warehouse, retention

log = logging.getLogger(__name__)

INTERVAL_S = 86_400.0  # seconds between rounds
FULL_INTERVAL_S = 60.0  # seconds between rounds while the disk is full
RETRY_S = 300.0  # seconds until a round that failed is repeated


def keep_days(settings: Settings) -> dict[str, int]:
    """Return how long each table keeps its rows, days; 0 = for ever."""
    return {
        "otel_traces": settings.keep_spans_days,
        "otel_metrics": settings.keep_spans_days,
        "otel_logs": settings.keep_spans_days,
        "requests": settings.keep_requests_days,
        "findings": settings.keep_findings_days,
    }


class Retention:
    """Rounds over one warehouse; called by one thread."""

    def __init__(
        self, warehouse: Warehouse, keep: Mapping[str, int], note: Callable[[str], None] = lambda _: None
    ) -> None:
        self._warehouse = warehouse
        self._note = note  # told what was dropped
        self._keep = dict(keep)
        self._due = 0.0  # of the monotonic clock
        self._urgent_at = -FULL_INTERVAL_S
        self.dropped_rows = 0
        self.dropped_bytes = 0
        self.ran_at = ""  # ISO time of the last whole round, UTC
        self.error = ""  # why the last round failed; empty = it did not

    def run_if_due(self) -> None:
        """Run a round where the last one was a day ago."""
        if time.monotonic() >= self._due:
            self.run()

    def make_room(self) -> None:
        """Run a round because the disk is full."""
        if time.monotonic() - self._urgent_at >= FULL_INTERVAL_S:
            self._urgent_at = time.monotonic()
            self.run()

    def run(self) -> None:
        """Drop what is past its time; a store that refuses is asked again later."""
        now = datetime.now(timezone.utc)
        try:
            gone = retention.drop_expired(self._warehouse, self._keep, now.date())
        except WarehouseError as error:
            self.error = str(error)
            self._due = time.monotonic() + RETRY_S
            log.warning("retention: %s", error)
            return
        rows, size = sum(one.rows for one in gone), sum(one.size for one in gone)
        if gone:
            self._note(f"{rows} rows past their time dropped, {size} bytes")
        self.dropped_rows += rows
        self.dropped_bytes += size
        self.ran_at, self.error = now.isoformat(timespec="seconds"), ""
        self._due = time.monotonic() + INTERVAL_S

    def status(self) -> dict[str, object]:
        """Return what is kept how long and what was let go since the start."""
        return {
            "keep_days": self._keep,
            "ran_at": self.ran_at,
            "dropped_rows": self.dropped_rows,
            "dropped_bytes": self.dropped_bytes,
            "error": self.error,
        }
