"""What a crash may leave: a segment stored wholly, in part or not, and an embedded store that does not open.

A power cut loses the unsynced part of a store in any order: rows without the memory of their token, a token without its
rows, a view's rows without its source's. So what the spool still holds is compared with the rows themselves.
"""
from __future__ import annotations

import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, Self

from farthing.warehouse.lane import Lane, Target

log = logging.getLogger(__name__)

_MARKS = {
    "SpanAttributes": "otel_traces", "price_state": "requests", "avoidable_usd": "findings",
    "LogAttributes": "otel_logs", "negative_counts": "otel_metrics",
    "added_by": "own_prices", "repriced_by": "repricings",
}  # fmt: skip
_PART = re.compile(r"([^_]+)_(\d+)_(\d+)_(\d+)(?:_(\d+))?")  # not tmp_merge_… nor delete_tmp_…

_NAME = "formatRowNoNewline('Values', identity)"  # a row as SQL names it
_NAMED = 2_000  # rows that one statement names on a cluster, where it passes through Keeper, 1 MB at most

Run = Callable[[str], Any]  # runs one statement and returns its rows


class Store(Protocol):
    """What a comparison needs of the store."""

    cluster: str

    @property
    def database(self) -> str: ...

    @property
    def client(self) -> Any: ...

    def rows(self, statement: str) -> Any: ...

    def change(self, statement: str) -> None: ...


class Comparison:
    """What a segment should have become beside the rows of its lane's tables, while a `with` holds it."""

    def __init__(self, store: Store, lane: Lane, source: str, settings: str) -> None:
        """Take the segment as `source`, SQL of a file of OTLP bodies, and the settings that it needs."""
        self._compared = [_Compared(store, target, source, settings) for target in lane.targets]

    def __enter__(self) -> Self:
        try:
            for one in self._compared:
                one.measure()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._compared:
            one.forget()

    def is_whole(self) -> bool:
        """True where all tables hold all of it, each row as often as the segment does."""
        return all(one.stored() == one.expected for one in self._compared)

    def remove(self) -> None:
        """Remove what is there of it."""
        for one in self._compared:
            one.remove()


class _Compared:
    """One table beside the rows that it should hold."""

    def __init__(self, store: Store, target: Target, source: str, settings: str) -> None:
        self._store, self._target = store, target
        self._rows = target.rows(source).replace("{{database}}", store.database)
        self._settings = settings
        self._ids = f"otlp_again_{int(time.time())}_{uuid.uuid4().hex}"
        self._where = ""
        self.expected = 0

    def measure(self) -> None:
        target, run = self._target, self._store.client.command
        run(
            f"CREATE TABLE {self._ids} ENGINE = Memory AS SELECT tuple({target.identity}) AS identity, "
            f"{target.received} AS received_at FROM ({self._rows}) {self._settings}"
        )
        ((self.expected, first, last),) = self._store.rows(
            f"SELECT count(), toString(min(received_at)), toString(max(received_at)) FROM {self._ids}"
        )
        self._where = (
            f"{target.received} BETWEEN toDateTime64('{first}', 3) AND toDateTime64('{last}', 3) "
            f"AND tuple({target.identity})"
        )

    def stored(self) -> int:
        ids = f"GLOBAL IN (SELECT identity FROM {self._ids})"
        ((found,),) = self._store.rows(f"SELECT count() FROM {self._target.table} WHERE {self._where} {ids}")
        return int(found)

    def remove(self) -> None:
        stored, table = self.stored(), self._target.table
        if not stored:
            return
        log.warning(
            "%s holds %d of a segment's %d rows; they are removed and inserted anew", table, stored, self.expected
        )
        for ids in self._lists():
            self._store.change(f"DELETE FROM {table} WHERE {self._where} IN {ids}")

    def forget(self) -> None:
        self._store.client.command(f"DROP TABLE IF EXISTS {self._ids}")

    def _lists(self) -> Iterator[str]:
        """Yield what names the rows: the table of them, or on a cluster, whose other nodes lack it, its content."""
        if not self._store.cluster:
            yield f"(SELECT identity FROM {self._ids})"
            return
        names = self._store.rows(
            f"SELECT concat('(', arrayStringConcat(groupArray({_NAME}), ','), ')') "
            f"FROM (SELECT *, rowNumberInAllBlocks() AS n FROM {self._ids}) GROUP BY intDiv(n, {_NAMED})"
        )
        for (ids,) in names:
            yield ids


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
