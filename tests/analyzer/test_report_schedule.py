"""analyzer/report_schedule.py: a report about each whole stretch, sent once to the channels it names."""
from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.message import Message as Mail
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from analyzer.alerting.watch import Watch
from analyzer.report_schedule import due, stretch
from farthing import http_json
from farthing.policy.kinds.report import Report
from farthing.settings import AlertChannel, Settings
from farthing.warehouse import Warehouse
from policies.main import app as control_plane
from tests.ports import free_port

REPORTS = """\
apiVersion: farthing/v1
kind: Report
metadata: {name: daily, owner: finance}
every: day
sections: [headline, teams]
to: [notes, mail]
"""


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("every", "now", "since", "until"),
    [
        ("day", "2026-11-20T06:00", "2026-11-19T00:00", "2026-11-20T00:00"),
        ("day", "2026-11-20T05:59", "2026-11-18T00:00", "2026-11-19T00:00"),
        ("week", "2026-11-20T12:00", "2026-11-09T00:00", "2026-11-16T00:00"),
        ("week", "2026-11-16T05:00", "2026-11-02T00:00", "2026-11-09T00:00"),
        ("month", "2026-03-01T07:00", "2026-02-01T00:00", "2026-03-01T00:00"),
        ("month", "2026-01-01T05:00", "2025-11-01T00:00", "2025-12-01T00:00"),
    ],
)
def test_a_report_is_about_the_whole_stretch_that_ended_last(every: str, now: str, since: str, until: str) -> None:
    wanted = Report.model_validate({"name": "r", "every": every, "to": ["ops"]})
    assert stretch(wanted, at(now)) == (at(since), at(until))


def test_a_stretch_is_of_the_zone_s_own_midnights_when_the_clocks_change() -> None:
    wanted = Report.model_validate({"name": "r", "every": "day", "tz": "Europe/London", "to": ["ops"]})
    since, until = stretch(wanted, at("2026-03-30T12:00"))  # the clocks went forward on the 29th
    assert (since, until) == (at("2026-03-29T00:00"), at("2026-03-29T23:00"))


def test_the_same_stretch_has_the_same_key_and_the_next_another() -> None:
    wanted = Report.model_validate({"name": "r", "every": "day", "to": ["ops"]})
    keys = [due(wanted, at(f"2026-11-{day}")).key for day in ("20T07:00", "20T23:00", "21T05:00", "21T07:00")]
    assert keys[0] == keys[1] == keys[2] != keys[3]


@pytest.fixture
def inbox() -> Iterator[tuple[int, list[Mail]]]:
    got: list[Any] = []

    class Inbox(Message):
        def handle_message(self, message: Any) -> None:
            got.append(message)

    port = free_port()
    server = Controller(Inbox(), hostname="127.0.0.1", port=port)
    server.start()
    yield port, got
    server.stop()


def test_a_report_is_made_and_sent_once_and_a_restart_sends_no_other(
    serve: Any, warehouse: Warehouse, tenant: str, put_calls: Any, tmp_path: Path, inbox: tuple[int, list[Mail]]
) -> None:
    now = at("2026-11-20T12:00")
    put_calls(tenant, [{"team": "search", "input": 1_000_000, "output": 0, "at": now - timedelta(hours=20)}])
    notes, (port, got) = tmp_path / "notes.jsonl", inbox
    channels = (
        AlertChannel("notes", "file", to=str(notes)),
        AlertChannel("mail", "email", to="ann@x.org", smtp=f"127.0.0.1:{port}", sender="f@y.org"),
    )
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'jobs.db'}")
    with serve(control_plane(Settings(data_dir=tmp_path))) as control:
        url = f"http://127.0.0.1:{control}"
        http_json.call("POST", f"{url}/v1/apply", REPORTS)
        settings = Settings(data_dir=tmp_path, tenant=tenant, alert_channels=channels, policies_url=url)
        looks = [Watch(settings, warehouse, engine, lambda: now).look() for _ in range(2)]
    engine.dispose()
    assert [(look.fired, look.sent, look.problems) for look in looks] == [(1, 2, ()), (0, 0, ())]
    (line,) = [json.loads(text) for text in notes.read_text().splitlines()]
    assert line["title"] == "daily: $0.1500 from 2026-11-19 00:00 UTC to 2026-11-20 00:00 UTC"
    (path,) = line["figures"]["files"]
    page = Path(path).read_text("utf-8")
    assert "Top teams" in page and "Repeated requests" not in page
    assert (tmp_path / "reports" / "latest-daily.html").read_text("utf-8") == page
    assert not (tmp_path / "reports" / "latest.html").exists()
    (mail,) = got
    attached = next(part for part in mail.walk() if part.get_filename())
    assert attached.get_content_type() == "text/html" and attached.get_filename() == Path(path).name
