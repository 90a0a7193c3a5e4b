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

from farthing.warehouse import view

log = logging.getLogger(__name__)

_IDS = "tenant, trace_id, span_id, received_at"
_TABLES = {  # table -> what identifies a row's span there
    "otel_traces": "Tenant, TraceId, SpanId, ReceivedAt",
    "requests": _IDS,
}
_MARKS = {"SpanAttributes": "otel_traces", "price_state": "requests", "avoidable_usd": "findings"}
_PART = re.compile(r"([^_]+)_(\d+)_(\d+)_(\d+)(?:_(\d+))?")  # not tmp_merge_… nor delete_tmp_…

Run = Callable[[str], Any]  # runs one statement and returns its rows


def is_stored(run: Run, source: str, settings: str) -> bool:
    """Compare the spans of `source` (SQL of a file of OTLP bodies) with the tables; what is there in part is removed.

    True where both tables hold all of it, each span as often as `source` does.
    """
    run("DROP TABLE IF EXISTS otlp_again")
    run(
        "CREATE TABLE otlp_again (tenant String, trace_id String, span_id String, received_at DateTime64(3), "
        "is_call Bool) ENGINE = Memory"
    )
    try:
        run(
            "INSERT INTO otlp_again SELECT Tenant, TraceId, SpanId, ReceivedAt, "
            f"{view.is_call()} FROM (SELECT *, SpanAttributes AS a "
            f"FROM ({view.explode_spans(source)})) SETTINGS {settings}"
        )
        return _is_whole(run)
    finally:
        run("DROP TABLE IF EXISTS otlp_again")


def _is_whole(run: Run) -> bool:
    ((spans, calls, first, last),) = run(
        "SELECT count(), countIf(is_call), toString(min(received_at)), toString(max(received_at)) FROM otlp_again"
    )
    stored: dict[str, int] = {}
    where: dict[str, str] = {}
    for table, columns in _TABLES.items():
        received = columns.rsplit(" ", 1)[-1]
        where[table] = (
            f"{received} BETWEEN toDateTime64('{first}', 3) AND toDateTime64('{last}', 3) "
            f"AND ({columns}) IN (SELECT {_IDS} FROM otlp_again)"
        )
        ((stored[table],),) = run(f"SELECT count() FROM {table} WHERE {where[table]}")
    if stored == {"otel_traces": spans, "requests": calls}:
        return True
    for table, count in stored.items():
        if count:
            log.warning("%s holds %d of a segment's %d spans; they are removed and inserted anew", table, count, spans)
            run(f"DELETE FROM {table} WHERE {where[table]}")
    return False


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
