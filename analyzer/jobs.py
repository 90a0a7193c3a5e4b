"""The analyzer's scheduled work: jobs kept in a job store on disk, so that a restart runs what it has missed.

The store pickles a job as the name of its function and plain arguments; the warehouse cannot be pickled, so a job finds
it in `_contexts`, under the name that was set at the start. At most one run happens at a time in this process.
"""
from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler

from analyzer import figures
from analyzer.alerting.watch import Watch
from analyzer.finding import COLUMNS, rows
from analyzer.gain_job import GainJob, look
from analyzer.runs import Run, RunLog, begun, ended, run_id
from analyzer.window import Window, last_hours
from farthing.errors import FarthingError
from farthing.settings import Settings
from farthing.warehouse.client import Warehouse

log = logging.getLogger(__name__)

ANALYZE = "analyze"  # ids of the jobs
ALERTS = "alerts"
GAINS = "gains"
HOURS = 24.0  # length of the window that a scheduled run looks at
KEEP = timedelta(days=30)  # records of runs older than this are dropped


def now_utc() -> datetime:
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Context:
    """What a running job works with."""

    warehouse: Warehouse
    runs: RunLog
    clock: Callable[[], datetime] = now_utc
    lock: threading.Lock = field(default_factory=threading.Lock)  # one run at a time


_contexts: dict[str, Context] = {}
_watches: dict[str, Watch] = {}
_learners: dict[str, GainJob] = {}


def analyze(context: str, tenant: str, hours: float = HOURS) -> Run:
    """Analyse the last `hours` of `tenant`; this is what the scheduler calls, with plain arguments.

    Raises:
        KeyError: no schedule named `context` runs in this process.
        ValueError: `hours` is out of range.
    """
    found = _contexts[context]
    return analyze_window(found, last_hours(tenant, hours, found.clock()))


def look_at_alerts(context: str) -> None:
    """Look at all alerts once; this is what the scheduler calls.

    Raises:
        KeyError: no schedule named `context` runs in this process.
    """
    _watches[context].look()


def learn_gains(context: str) -> None:
    """Train what new grades teach; this is what the scheduler calls.

    Raises:
        KeyError: no schedule named `context` runs in this process.
    """
    look(_learners[context])


def analyze_window(context: Context, window: Window) -> Run:
    """Write the findings of `window` once, however often it is asked, and return the run's record.

    A failure that has a message for people is recorded and logged, not raised, so that the schedule goes on.
    """
    with context.lock:
        done = context.runs.get(run_id(ANALYZE, window))
        return done if done is not None and done.ok else _recorded(context, window)


def _recorded(context: Context, window: Window) -> Run:
    run = begun(ANALYZE, window, context.clock())
    context.runs.put(run)
    try:
        over = ended(run, context.clock(), findings=_write_findings(context, window, run.run_id))
    except FarthingError as error:
        log.warning("%s of %s failed: %s", run.job, window.tenant, error)
        over = ended(run, context.clock(), error=str(error))
    except BaseException as error:
        context.runs.put(ended(run, context.clock(), error=f"{type(error).__name__}: {error}"))
        raise
    context.runs.put(over)
    context.runs.forget_before(context.clock() - KEEP)
    return over


def _write_findings(context: Context, window: Window, run: str) -> int:
    """Write the findings in one insert and return their number; a run that died after it is not written again."""
    warehouse = context.warehouse
    written = warehouse.ask("findings_of_run", tenant=window.tenant, part=figures.PART, run_id=run)[0]["findings"]
    if written:
        return written
    spend = figures.spend(warehouse, window)
    findings = figures.drivers(warehouse, window, spend) + figures.waste(warehouse, window)
    warehouse.insert("findings", COLUMNS, rows(findings, window, run, context.clock()))
    return len(findings)


class Schedule:
    """The running scheduler of one process and its job store, `<data_dir>/jobs.db`."""

    def __init__(self, settings: Settings, warehouse: Warehouse, clock: Callable[[], datetime] = now_utc) -> None:
        path = settings.data_dir / "jobs.db"
        self.name = str(path)
        self.settings = settings
        self._engine = _engine(path)
        self.context = Context(warehouse, RunLog(self._engine), clock)
        self.watch = Watch(settings, warehouse, self._engine, clock)
        self.learner = GainJob(settings, warehouse, clock)
        self._scheduler = _scheduler(self._engine)

    def start(self) -> None:
        """Start the jobs; one that fell due while nothing ran is run once, now."""
        _contexts[self.name] = self.context
        _watches[self.name] = self.watch
        _learners[self.name] = self.learner
        self._scheduler.start(paused=True)
        self._plan()
        self._scheduler.resume()

    def stop(self) -> None:
        """Wait for the run in progress and stop; safe to repeat."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
        self._engine.dispose()
        _contexts.pop(self.name, None)
        _watches.pop(self.name, None)
        _learners.pop(self.name, None)

    @property
    def next_run_at(self) -> datetime | None:
        """When the job runs next; None where `analyze_interval_s` is 0 and it runs on request alone."""
        job = self._scheduler.get_job(ANALYZE)
        return job.next_run_time if job is not None else None

    def _plan(self) -> None:
        settings = self.settings
        self._plan_one(ANALYZE, settings.analyze_interval_s, "analyze", [self.name, settings.tenant, HOURS])
        self._plan_one(ALERTS, settings.alert_interval_s, "look_at_alerts", [self.name])
        self._plan_one(GAINS, settings.gain_interval_s, "learn_gains", [self.name])

    def _plan_one(self, job: str, interval_s: float, function: str, arguments: list[Any]) -> None:
        """Put a job into the store with today's settings, and keep the time at which it is due."""
        if not interval_s:
            with suppress(JobLookupError):
                self._scheduler.remove_job(job)
            return
        planned = self._scheduler.get_job(job)
        latest = now_utc() + timedelta(seconds=interval_s)
        self._scheduler.add_job(
            f"analyzer.jobs:{function}",
            "interval",
            seconds=interval_s,
            args=arguments,
            id=job,
            next_run_time=min(planned.next_run_time if planned is not None else latest, latest),
            replace_existing=True,
        )


def _engine(path: Path) -> sa.Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    return sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})


def _scheduler(engine: sa.Engine) -> BackgroundScheduler:
    return BackgroundScheduler(
        jobstores={"default": SQLAlchemyJobStore(engine=engine, tablename="farthing_jobs")},
        executors={"default": ThreadPoolExecutor(1)},
        # a run looks at a window and not at the time since the last run, so many missed ones are one, however late
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone=timezone.utc,
    )
