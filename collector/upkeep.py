"""Keeps the stored rows true after they were inserted: one billed row per call, and hourly sums that follow the rows.

The flusher says what came in. New rows are compared at once among one another, and with all rows near them as soon as
that costs next to nothing beside ingest; then the hours that changed are rolled. How far the wide comparison got is
noted in the warehouse, and a start begins there, so a crash repeats work and skips none.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone

from farthing.warehouse import Warehouse, corrections, rollup

log = logging.getLogger(__name__)

SWEEP_SHARE = 0.002  # of the time, that wide comparisons may take; a small store has one in every round
ROLL_SHARE = 0.02  # likewise, that an hour whose rows keep coming late may take to be rolled again and again
SLICE_MS = 6 * 3600 * 1000  # of receive time that one wide comparison takes on, bounds its memory
APART_MS = 5000  # of receive time between two inserts that are compared one by one
SLACK_MS = 60_000  # before the noted time that a start compares again
ROUND_S = 20.0  # seconds past which a round leaves further hours to the next one
NOTE_EVERY_S = 60.0  # seconds between notes of how far the comparison got
TIDY_EVERY_S = 600.0  # seconds between removals of what was superseded

Range = tuple[int, int]  # [since, until) of the time of receipt, ms since the epoch


class Upkeep:
    """A thread that looks after rows once they are in the warehouse."""

    def __init__(
        self,
        warehouse: Warehouse,
        fresh: Callable[[], tuple[list[Range], int]],
        interval_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; `fresh` is the flusher's account of what was inserted since it was last asked."""
        self._warehouse = warehouse
        self._fresh = fresh
        self._interval_s = interval_s
        self._clock = clock
        self._unswept: list[Range] = []  # compared narrowly at most
        self._is_started = False
        self._rolled_until = rollup.EPOCH
        self._sweep_at = self._noted_at = self._tidy_at = 0.0  # monotonic: not before
        self._roll_at: dict[datetime, float] = {}  # likewise, of hours that were rolled again
        self._has_days = True  # of other hours than they were made of, perhaps
        self._is_untidy = True
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="farthing-upkeep", daemon=True)
        self.corrected = 0  # rows whose money was taken away or given back
        self.failures = 0
        self.last_error = ""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def settle(self) -> None:
        """Do now all that is due for the rows inserted before this call; what fails is repeated by later rounds."""
        self._guarded_round(is_asked_for=True)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._guarded_round()

    def _guarded_round(self, is_asked_for: bool = False) -> None:
        try:
            with self._lock:
                self._round(is_asked_for)
        except Exception as error:  # noqa: BLE001 - the loop must outlive whatever one round brings
            self.failures += 1
            self.last_error = str(error)
            log.warning("upkeep: %s", error)

    def _round(self, is_asked_for: bool) -> None:
        self._compare(is_asked_for)
        self._roll(is_asked_for)
        self._tidy()
        self._warehouse.give_back_memory()

    def _left_by_the_last_run(self) -> list[Range]:
        swept_ms = rollup.reached_ms(self._warehouse, "swept") - SLACK_MS
        ((first_ms, last_ms),) = self._warehouse.look("received")
        since = max(swept_ms, first_ms)
        return [(since, last_ms + 1)] if since <= last_ms else []

    def _compare(self, is_asked_for: bool) -> None:
        if not self._is_started:
            self._rolled_until = rollup.rolled_until(self._warehouse)
            self._unswept = self._left_by_the_last_run()
            self._is_started = True
        inserted, complete_ms = self._fresh()
        came = _joined((first, last + 1) for first, last in inserted)
        self._unswept = _joined([*self._unswept, *came])
        if not self._unswept:
            return
        if is_asked_for or time.monotonic() >= self._sweep_at:
            self._sweep()
            self._note_swept(complete_ms)
            return
        for one in came:
            for part in self._slices(one):
                self._correct(part, is_wide=False)

    def _sweep(self) -> None:
        started = time.monotonic()
        while self._unswept:
            _, until = self._unswept[0]
            for part in self._slices(self._unswept[0]):
                self._correct(part, is_wide=True)
                self._unswept[0] = (part[1], until)
            del self._unswept[0]
        now = time.monotonic()
        self._sweep_at = now + (now - started) / SWEEP_SHARE - self._interval_s

    def _slices(self, received: Range) -> list[Range]:
        """Return what is compared at once: where it is long, only the parts of it in which any rows were received.

        A clock that once stood in 1970 makes it 56 years long.
        """
        since, until = received
        if until - since <= SLICE_MS:
            return [received]
        found = self._warehouse.look("received_slices", since_ms=since, until_ms=until, slice_ms=SLICE_MS)
        starts = [since + int(number) * SLICE_MS for (number,) in found]
        return [(start, min(start + SLICE_MS, until)) for start in starts]

    def _correct(self, received_ms: Range, is_wide: bool) -> None:
        slots = corrections.slots_of(self._warehouse, received_ms)
        if not slots:
            return
        found = corrections.find(self._warehouse, received_ms, slots if is_wide else None)
        if self._warehouse.path is None:  # on a server another collector may have rolled further, without these rows
            self._rolled_until = rollup.rolled_until(self._warehouse)
        changed = slots + corrections.moments(found)
        self._note_stale(changed)
        if found:
            corrections.store(self._warehouse, found)
            self.corrected += len(found)
            self._note_stale(changed)

    def _note_swept(self, complete_ms: int) -> None:
        if complete_ms and time.monotonic() >= self._noted_at:
            at = datetime.fromtimestamp(complete_ms / 1000, timezone.utc)
            rollup.note(self._warehouse, "swept", at)
            self._noted_at = time.monotonic() + NOTE_EVERY_S

    def _note_stale(self, moments: list[datetime]) -> None:
        """Note the hours of these moments that are rolled already."""
        hours = sorted({moment.replace(minute=0, second=0, microsecond=0) for moment in moments})
        rollup.note_stale(self._warehouse, [hour for hour in hours if hour < self._rolled_until])

    def _roll(self, is_asked_for: bool) -> None:
        deadline = time.monotonic() + ROUND_S
        until = rollup.settled_until(datetime.fromtimestamp(self._clock(), timezone.utc))
        while self._rolled_until < until and time.monotonic() < deadline:
            self._rolled_until = rollup.extend(self._warehouse, until)
            self._warehouse.boundary.moved()
            self._has_days = True
        stale = [hour for hour in rollup.stale_hours(self._warehouse) if is_asked_for or self._may_roll(hour)]
        while stale and time.monotonic() < deadline:
            self._roll_again(stale[: rollup.AT_ONCE])
            stale = stale[rollup.AT_ONCE :]
        while self._has_days and time.monotonic() < deadline:
            self._has_days = rollup.roll_days(self._warehouse)

    def _may_roll(self, hour: datetime) -> bool:
        return time.monotonic() >= self._roll_at.get(hour, 0.0)

    def _roll_again(self, hours: list[datetime]) -> None:
        started = time.monotonic()
        rollup.roll(self._warehouse, hours)
        self._has_days = True
        now = time.monotonic()
        self._roll_at = {hour: at for hour, at in self._roll_at.items() if at > now}
        self._roll_at |= dict.fromkeys(hours, now + (now - started) / len(hours) / ROLL_SHARE)
        self._is_untidy = True

    def _tidy(self) -> None:
        if time.monotonic() < self._tidy_at:
            return
        self._tidy_at = time.monotonic() + TIDY_EVERY_S
        corrections.materialise(self._warehouse, self._clock() - TIDY_EVERY_S)
        if self._is_untidy:
            rollup.sweep_out(self._warehouse, datetime.fromtimestamp(self._clock(), timezone.utc))
            self._is_untidy = False


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """Return the ranges in order, those that touch as one."""
    joined: list[Range] = []
    for since, until in sorted(ranges):
        if joined and since <= joined[-1][1] + APART_MS:
            joined[-1] = (joined[-1][0], max(until, joined[-1][1]))
        else:
            joined.append((since, until))
    return joined
