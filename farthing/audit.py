"""Every write that was asked of a part's API: who, when, what, and what became of it; one file for a data folder.

A write is on the disk before it is done, and one that cannot be noted is refused. One without a status was cut off by
the end of its process. What has ended never changes; only what is older than the newest `KEPT` may go.
"""
from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from farthing.access import Principal
from farthing.errors import AccessError

log = logging.getLogger(__name__)

FILE = "audit.db"  # below data_dir
KEPT = 1_000_000  # newest writes, about 250 bytes each
MAX_TEXT = 500  # characters of what was asked, and of what became of it
MAX_LISTED = 1000
_BUSY_S = 10.0  # seconds that a part waits for another one's note
_SWEEP = 1000  # writes between two looks for what is too old

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS writes (
    entry INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ns INTEGER NOT NULL,
    part TEXT NOT NULL,
    who TEXT NOT NULL,
    role TEXT NOT NULL,
    client TEXT NOT NULL,
    what TEXT NOT NULL,
    asked TEXT NOT NULL,
    status INTEGER,
    note TEXT NOT NULL DEFAULT ''
);
CREATE TRIGGER IF NOT EXISTS writes_are_final BEFORE UPDATE ON writes WHEN OLD.status IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'an ended write is final'); END;
CREATE TRIGGER IF NOT EXISTS writes_are_kept BEFORE DELETE ON writes
WHEN OLD.entry > (SELECT MAX(entry) FROM writes) - {KEPT}
BEGIN SELECT RAISE(ABORT, 'the newest writes are kept'); END;
"""
_BEGIN = "INSERT INTO writes (at_ns, part, who, role, client, what, asked) VALUES (?, ?, ?, ?, ?, ?, ?)"
_END = "UPDATE writes SET status = ?, note = ? WHERE entry = ?"
_FORGET = "DELETE FROM writes WHERE entry <= ?"
_NEWEST = "SELECT * FROM writes WHERE part = ? AND entry < ? ORDER BY entry DESC LIMIT ?"


@dataclass(frozen=True)
class Asker:
    """Who asked, and from where."""

    principal: Principal
    client: str  # address


@dataclass
class Outcome:
    """How a write ended."""

    status: int = 500  # of HTTP
    note: str = "failed; the log of the part says more"


class Audit:
    """The writes of one part; safe from any thread and beside other processes, and it blocks."""

    def __init__(self, folder: Path, part: str, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._path = folder / FILE
        self._part = part
        self._clock_ns = clock_ns

    def begin(self, asker: Asker, what: str, asked: str) -> int:
        """Note that a write is about to be done; return the number of its entry.

        Raises:
            AccessError: 503, it cannot be noted; it must not be done.
        """
        who = (asker.principal.name, asker.principal.role, asker.client)
        row = (self._clock_ns(), self._part, *who, _text(what), _text(asked))
        try:
            with self._open() as connection:
                entry = connection.execute(_BEGIN, row).lastrowid or 0
                if entry % _SWEEP == 0:
                    connection.execute(_FORGET, (entry - KEPT,))
                return entry
        except (OSError, sqlite3.Error) as error:
            message = f"{self._path} cannot be written ({error}), so nothing was changed"
            raise AccessError(503, "audit_unavailable", message) from None

    def end(self, entry: int, status: int, note: str = "") -> None:
        """Note what became of a write, as an HTTP status; it was done, so a failure here is only logged."""
        try:
            with self._open() as connection:
                connection.execute(_END, (status, _text(note), entry))
        except (OSError, sqlite3.Error) as error:
            log.error("write %d ended with %d %s, which cannot be noted: %s", entry, status, note, error)

    def tell(self, what: str, note: str) -> None:
        """Note what the part did by itself; where that cannot be, it is logged."""
        try:
            self.end(self.begin(Asker(Principal(self._part, ""), ""), what, ""), 200, note)
        except AccessError as error:
            log.error("%s: %s; %s", what, note, error)

    @asynccontextmanager
    async def noted(self, asker: Asker, what: str, asked: str) -> AsyncGenerator[Outcome, None]:
        """Note a write around its doing, which says how it ended; what raises instead has failed.

        Raises:
            AccessError: 503, it cannot be noted; it was not done.
        """
        entry, outcome = await asyncio.to_thread(self.begin, asker, what, asked), Outcome()
        try:
            yield outcome
        finally:
            await asyncio.to_thread(self.end, entry, outcome.status, outcome.note)

    def page(self, query: Mapping[str, str]) -> dict[str, Any]:
        """Answer `GET /v1/writes`: at most `limit` of the newest, those `before` an entry.

        Raises:
            ValueError: one of them is no number, or something else was asked.
            AccessError: 503, the file cannot be read.
        """
        for name, value in query.items():
            if name not in ("limit", "before") or not value.isdecimal() or len(value) > 18:
                raise ValueError(f"{name}={value!r}: allowed are limit and before, each a whole number")
        return {"writes": self.newest(int(query.get("limit", "100")), int(query.get("before", "0")) or 2**62)}

    def newest(self, limit: int = 100, before: int = 2**62) -> list[dict[str, Any]]:
        """Return the newest writes of this part, the newest first; `before` is an entry to go on from.

        Raises:
            AccessError: 503, the file cannot be read.
        """
        if not self._path.exists():
            return []
        try:
            with self._open() as connection:
                found = connection.execute(_NEWEST, (self._part, before, min(limit, MAX_LISTED))).fetchall()
        except (OSError, sqlite3.Error) as error:
            raise AccessError(503, "audit_unavailable", f"{self._path} cannot be read: {error}") from None
        return [_told(row) for row in found]

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection, None, None]:
        """Lend a connection for one transaction; writes are rare, and nothing has to be closed at the end."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=_BUSY_S)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(_SCHEMA)
            with connection:
                yield connection


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a row of sqlite3 iterates over its values
    at = datetime.fromtimestamp(told.pop("at_ns") / 1e9, timezone.utc)
    return {"at": at.isoformat(timespec="milliseconds"), **told}


def _text(given: str) -> str:
    """Return what may stand on a terminal, cut."""
    shown = "".join(one if one.isprintable() else " " for one in given[:MAX_TEXT])
    return shown + "…" if len(given) > MAX_TEXT else shown
