"""Which reports of the policy document are due: each about the whole day, week or month that ended last, told once.

A report that was due while nothing ran is made by the next look; its firing has a key by name and stretch, so that
neither a restart nor a second look sends it again.
"""
from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from analyzer import report
from analyzer.alerting.firing import Fact, Firing, firing, start_of
from analyzer.notation import exact_usd, moment, usd
from analyzer.window import Window
from farthing.policy.kinds.budget import zone
from farthing.policy.kinds.report import Report
from farthing.warehouse.client import Warehouse

FILES = "files"  # figure of a firing: the paths that an e-mail carries


def stretch(wanted: Report, now: datetime) -> tuple[datetime, datetime]:
    """Return the newest stretch whose report is due, UTC: it has ended, and `at` has passed since."""
    local = now.astimezone(zone(wanted.tz)).replace(tzinfo=None)  # wall clock: some days have 23 hours
    hours, minutes = map(int, wanted.at.split(":"))
    end = _start_of(wanted.every, local)
    if local < end + timedelta(hours=hours, minutes=minutes):
        end = _start_of(wanted.every, end - timedelta(hours=1))
    start = _start_of(wanted.every, end - timedelta(hours=1))
    return _utc(start, wanted.tz), _utc(end, wanted.tz)


def due(wanted: Report, now: datetime) -> Firing:
    """Return the firing of the newest stretch, without what the report says: its key tells whether it was sent."""
    since, until = stretch(wanted, now)
    fact = Fact(f"{since.isoformat()} {until.isoformat()}", "", "", is_event=True)
    return firing(f"report/{wanted.name}", wanted.owner, wanted.every, fact, now)


def made(wanted: Report, warehouse: Warehouse, folder: Path, tenant: str, now: datetime) -> Firing:
    """Write the report and return what is to be sent.

    Raises:
        WarehouseError: the store refused a question.
        OSError: the folder cannot be written.
    """
    since, until = stretch(wanted, now)
    found = report.make(warehouse, folder, Window(tenant, since, until), now, wanted.sections, wanted.name)
    path = found.html if wanted.format == "html" else found.markdown
    title = f"{wanted.name}: {usd(found.spend_usd)} from {moment(since)} to {moment(until)}"
    figures = {"spend_usd": exact_usd(found.spend_usd), "since": since.isoformat(), "until": until.isoformat()}
    text = f"{found.summary}\n\n{path}"
    empty = due(wanted, now)
    return replace(empty, fact=replace(empty.fact, title=title, text=text, figures={**figures, FILES: [str(path)]}))


def _start_of(every: str, local: datetime) -> datetime:
    return start_of(every, local.replace(tzinfo=timezone.utc)).replace(tzinfo=None)


def _utc(local: datetime, tz: str) -> datetime:
    return local.replace(tzinfo=zone(tz)).astimezone(timezone.utc)
