"""What a crash may leave in an embedded store: a segment stored wholly, in part or not, and a store that does not open.

A power cut loses the unsynced part of a store in any order: rows without the memory of their token, a token without its
rows, a view's rows without its source's. So what the spool still holds is compared with the rows themselves.
"""
from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farthing.warehouse.lane import Lane, Target

log = logging.getLogger(__name__)

_MARKS = {
    "SpanAttributes": "otel_traces", "price_state": "requests", "avoidable_usd": "findings",
    "LogAttributes": "otel_logs", "negative_counts": "otel_metrics",
    "added_by": "own_prices", "repriced_by": "repricings",
}  # fmt: skip
_PART = re.compile(r"([^_]+)_(\d+)_(\d+)_(\d+)(?:_(\d+))?")  # not tmp_merge_… nor delete_tmp_…

Run = Callable[[str], Any]  # runs one statement and returns its rows


def is_stored(run: Run, lane: Lane, database: str, source: str, settings: str) -> bool:
    """Compare what `source` (SQL of a file of OTLP bodies) should have become with the tables of its lane.

    True where all of them hold all of it, each row as often as `source` does; what is there in part is removed.
    """
    found = [_Compared(run, target, database, source, settings) for target in lane.targets]
    try:
        if all(one.stored == one.expected for one in found):
            return True
        for one in found:
            one.remove()
        return False
    finally:
        for one in found:
            run(f"DROP TABLE IF EXISTS {one.stage}")


class _Compared:
    """One table beside the rows that it should hold."""

    def __init__(self, run: Run, target: Target, database: str, source: str, settings: str) -> None:
        self.stage = f"again_{target.table}"
        self._run, self._target = run, target
        rows = target.rows(source).replace("{{database}}", database)
        run(f"DROP TABLE IF EXISTS {self.stage}")
        run(
            f"CREATE TABLE {self.stage} ENGINE = Memory AS SELECT tuple({target.identity}) AS identity, "
            f"{target.received} AS received_at FROM ({rows}) SETTINGS {settings}"
        )
        ((self.expected, first, last),) = run(
            f"SELECT count(), toString(min(received_at)), toString(max(received_at)) FROM {self.stage}"
        )
        self._where = (
            f"{target.received} BETWEEN toDateTime64('{first}', 3) AND toDateTime64('{last}', 3) "
            f"AND tuple({target.identity}) IN (SELECT identity FROM {self.stage})"
        )
        ((self.stored,),) = run(f"SELECT count() FROM {target.table} WHERE {self._where}")

    def remove(self) -> None:
        if not self.stored:
            return
        table = self._target.table
        log.warning("%s holds %d of a segment's %d rows; they are removed and inserted anew", table, self.stored,
                    self.expected)  # fmt: skip
        self._run(f"DELETE FROM {table} WHERE {self._where}")


def salvage(run: Run, aside: Path) -> int:
    """Attach the whole parts of a store that did not open to the tables of the new one; returns how many.

    The parts of a table contain one another where they were merged; the largest whole one is taken.
    """
    attached = 0
    for table, parts in _parts_of(aside).items():
        ((folders,),) = run(
            f"SELECT data_paths FROM system.tables WHERE database = currentDatabase() AND name = '{table}'"
        )
        taken: list[tuple[str, int, int]] = []
        for part in sorted(parts, key=_extent, reverse=True):
            partition, first, last = _range(part.name)
            if any(partition == p and first >= f and last <= t for p, f, t in taken):
                continue
            if _attach(run, table, part, Path(folders[0]) / "detached"):
                taken.append((partition, first, last))
        attached += len(taken)
    return attached


def _parts_of(aside: Path) -> dict[str, list[Path]]:
    """Find the parts by what they hold: the store's own list of its tables may be what is broken."""
    found: dict[str, list[Path]] = {}
    for part in sorted(aside.glob("store/*/*/*/")):
        columns = part / "columns.txt"
        if not _PART.fullmatch(part.name) or not columns.is_file():
            continue
        names = columns.read_text("utf-8", "replace")
        for mark, table in _MARKS.items():
            if f"`{mark}`" in names:
                found.setdefault(table, []).append(part)
    return found


def _range(name: str) -> tuple[str, int, int]:
    match = _PART.fullmatch(name)
    assert match is not None
    return match.group(1), int(match.group(2)), int(match.group(3))


def _extent(part: Path) -> tuple[int, int, int]:
    """Sort key: the widest range of blocks, then the newest form of it (level of merges, version of deletions)."""
    match = _PART.fullmatch(part.name)
    assert match is not None
    first, last, level, version = (int(number or 0) for number in match.groups()[1:])
    return last - first, level, version


def _attach(run: Run, table: str, part: Path, detached: Path) -> bool:
    target = detached / part.name
    try:
        shutil.copytree(part, target, copy_function=_link)
        run(f"ALTER TABLE {table} ATTACH PART '{part.name}'")
    except Exception as error:  # noqa: BLE001 - a broken part, however it shows, must not keep the whole ones out
        log.warning("part %s of %s is not whole and stays in %s: %s", part.name, table, part.parent, error)
        shutil.rmtree(target, ignore_errors=True)
        return False
    return True


def _link(source: str, target: str) -> None:
    os.link(source, target)
