"""Finds rows that describe one call and corrects which of them is billed; safe to repeat, in part or in full.

A comparison is `wide` where the rows received over a time are compared with all that started near them, up to 15
minutes away, and narrow where only among one another, which costs a tenth. A correction is stored beside the parts
(lightweight UPDATE), so that it costs what it changes and not what the parts hold.
"""
from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from farthing.warehouse.billing import BILLED, DUPLICATE, REASONS, REPLAYED, Row, corrections

if TYPE_CHECKING:
    from farthing.warehouse.client import Warehouse

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
SLOT = timedelta(minutes=15)  # see the .sql files
NAMED = 500  # rows that one statement names on a cluster, in its address
_staged = struct.Struct("<BQQQ")  # verdict, block, offset, span


def slots_of(warehouse: Warehouse, received_ms: tuple[int, int]) -> list[datetime]:
    """Return the quarter hours in which the calls started that were received over [since, until)."""
    rows = warehouse.look("fresh", since_ms=received_ms[0], until_ms=received_ms[1])
    return [slot.replace(tzinfo=timezone.utc) for slot, _ in rows]


def find(
    warehouse: Warehouse, received_ms: tuple[int, int], near: Sequence[datetime] | None
) -> list[tuple[Row, int]]:
    """Return the rows whose verdict is wrong among those that share a call with one received over [since, until).

    Args:
        warehouse: whose `requests` to look at.
        received_ms: the time of receipt, [since, until).
        near: compare with all rows that started in these quarter hours and their neighbours; None: among one another.
    """
    around = {slot + step for slot in near or () for step in (-SLOT, timedelta(0), SLOT)}
    where = {
        "since_ms": received_ms[0],
        "until_ms": received_ms[1],
        "is_wide": near is not None,
        "slots": sorted(around),
    }
    if not warehouse.look("keys", **where):
        return []
    return corrections([_row(*row) for row in warehouse.look("calls", **where)])


def moments(found: Sequence[tuple[Row, int]]) -> list[datetime]:
    """Return when the calls of these rows started."""
    return [EPOCH + timedelta(microseconds=row.started_us) for row, _ in found]


def store(warehouse: Warehouse, found: Sequence[tuple[Row, int]]) -> None:
    """Give these rows the right verdict.

    Losers first: between two statements a call is then billed less than once, never twice.
    """
    if warehouse.cluster:  # its other nodes know nothing of a stage
        for verdict, rows in _by_verdict(found):
            for first in range(0, len(rows), NAMED):
                _correct(warehouse, "correct_named", verdict, rows[first : first + NAMED])
        return
    stage = f"upkeep_stage_{threading.get_ident()}"
    warehouse.command(f"DROP TABLE IF EXISTS {stage}")
    warehouse.command(f"CREATE TABLE {stage} (verdict UInt8, block UInt64, offset UInt64, span UInt64) ENGINE = Memory")
    try:
        warehouse.insert_binary(stage, b"".join(_staged.pack(verdict, *row.place, row.span) for row, verdict in found))
        for verdict, rows in _by_verdict(found):
            _correct(warehouse, "correct", verdict, rows, stage=stage)
    finally:
        warehouse.command(f"DROP TABLE IF EXISTS {stage}")


def _by_verdict(found: Sequence[tuple[Row, int]]) -> Iterator[tuple[int, list[Row]]]:
    for verdict in (REPLAYED, DUPLICATE, BILLED):
        yield verdict, [row for row, other in found if other == verdict]


def _correct(warehouse: Warehouse, step: str, verdict: int, rows: Sequence[Row], **where: object) -> None:
    if rows:
        started = [row.started_us for row in rows]
        where = where or {"places": [(*row.place, row.span) for row in rows]}
        bounds = {"first_us": min(started), "last_us": max(started)}
        warehouse.work(step, verdict=verdict, reason=REASONS[verdict], **bounds, **where)


def materialise(warehouse: Warehouse, before: float) -> None:
    """Write the corrections made before this time (seconds since the epoch) into the parts; every reader pays for them.

    Merges do so by themselves, but a part that has grown large may wait for one for ever.
    """
    for (partition,) in warehouse.look("patched", before_s=int(before)):
        warehouse.command(f"ALTER TABLE requests APPLY PATCHES IN PARTITION ID '{partition}'")


def _row(started_us: int, block: int, offset: int, *rest: Any) -> Row:
    return Row(started_us, (block, offset), *rest)
