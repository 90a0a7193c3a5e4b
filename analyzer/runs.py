"""The record of each run of a job, kept beside the scheduler's own tables so that a restart forgets none."""
from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime
from hashlib import blake2b
from typing import Any

import sqlalchemy as sa

from analyzer.window import Window

_METADATA = sa.MetaData()
_RUNS = sa.Table(
    "farthing_runs",
    _METADATA,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("job", sa.String, nullable=False),
    sa.Column("tenant", sa.String, nullable=False),
    sa.Column("since", sa.String, nullable=False),
    sa.Column("until", sa.String, nullable=False),
    sa.Column("started", sa.String, nullable=False, index=True),
    sa.Column("ended", sa.String, nullable=False),
    sa.Column("ok", sa.Boolean, nullable=False),
    sa.Column("error", sa.String, nullable=False),
    sa.Column("findings", sa.Integer, nullable=False),
)


@dataclass(frozen=True)
class Run:
    """One run of a job over one window; times are ISO 8601 in UTC."""

    run_id: str  # same job and window, same id
    job: str
    tenant: str
    since: str
    until: str
    started: str
    ended: str = ""  # empty = still running, or the process died
    ok: bool = False
    error: str = ""
    findings: int = 0  # rows written


def run_id(job: str, window: Window) -> str:
    """Return the id of a run: 16 hex digits of what it is about."""
    about = "\0".join((job, window.tenant, window.since.isoformat(), window.until.isoformat()))
    return blake2b(about.encode(), digest_size=8).hexdigest()


def begun(job: str, window: Window, now: datetime) -> Run:
    """Return the record of a run that starts now."""
    bounds = (window.since.isoformat(), window.until.isoformat())
    return Run(run_id(job, window), job, window.tenant, *bounds, started=now.isoformat())


def ended(run: Run, now: datetime, findings: int = 0, error: str = "") -> Run:
    """Return `run` as it ended; an error means that it failed."""
    return replace(run, ended=now.isoformat(), ok=not error, error=error, findings=findings)


class RunLog:
    """The stored records; safe from any thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        _METADATA.create_all(engine)

    def put(self, run: Run) -> None:
        """Store `run`; an older record of the same id is replaced."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_RUNS).where(_RUNS.c.run_id == run.run_id))
            connection.execute(sa.insert(_RUNS).values(**asdict(run)))

    def get(self, run_id: str) -> Run | None:
        """Return the record of one run, or None."""
        return next(iter(self._select(sa.select(_RUNS).where(_RUNS.c.run_id == run_id))), None)

    def newest(self, tenant: str, limit: int = 50) -> list[Run]:
        """Return a tenant's runs, newest first."""
        mine = sa.select(_RUNS).where(_RUNS.c.tenant == tenant)
        return self._select(mine.order_by(_RUNS.c.started.desc()).limit(limit))

    def forget_before(self, moment: datetime) -> None:
        """Drop the records of runs that started before `moment`."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_RUNS).where(_RUNS.c.started < moment.isoformat()))

    def _select(self, statement: sa.Select[Any]) -> list[Run]:
        with self._engine.connect() as connection:
            return [Run(**row) for row in connection.execute(statement).mappings()]
