"""analyzer/jobs.py: findings once a window, a schedule that a restart does not forget."""
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from analyzer import jobs
from analyzer.jobs import ANALYZE, Context, Schedule, analyze, analyze_window
from analyzer.runs import begun
from analyzer.window import Window
from farthing.errors import WarehouseError
from farthing.settings import Settings
from farthing.warehouse.client import Warehouse
from tests.until import until


@pytest.fixture
def settings(tmp_path: Path, tenant: str) -> Settings:
    return Settings(data_dir=tmp_path, tenant=tenant, analyze_interval_s=3600.0)


@pytest.fixture
def schedule(settings: Settings, warehouse: Warehouse, noon: datetime) -> Iterator[Schedule]:
    made = Schedule(settings, warehouse, clock=lambda: noon + timedelta(hours=1))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def window(tenant: str, noon: datetime) -> Window:
    return Window(tenant, noon - timedelta(hours=23), noon + timedelta(hours=1))


def findings(warehouse: Warehouse, tenant: str) -> list[dict]:
    return warehouse.ask("findings", tenant=tenant, part="test", limit=100)


def test_a_run_writes_findings_of_every_kind_and_its_record(
    schedule: Schedule, warehouse: Warehouse, put_calls, window: Window
) -> None:
    put_calls(window.tenant, [{"team": "search", "hash": "h", "input": 10, "output": 1, "temperature": 0.0}] * 3)
    run = analyze_window(schedule.context, window)
    assert (run.ok, run.error, run.findings) == (True, "", 2)
    rows = findings(warehouse, window.tenant)
    assert sorted(row["kind"] for row in rows) == ["cache_waste", "cost_driver"]
    assert schedule.context.runs.newest(window.tenant) == [run]


def test_the_same_window_is_written_once_however_often_it_runs(
    schedule: Schedule, warehouse: Warehouse, window: Window
) -> None:
    assert analyze_window(schedule.context, window) == analyze_window(schedule.context, window)
    assert len(findings(warehouse, window.tenant)) == 2


def test_a_run_that_died_after_its_insert_is_completed_and_not_doubled(
    schedule: Schedule, warehouse: Warehouse, window: Window, noon: datetime
) -> None:
    done = analyze_window(schedule.context, window)
    schedule.context.runs.put(begun(ANALYZE, window, noon))  # as if the process had died before it could record the end
    again = analyze_window(schedule.context, window)
    assert (again.run_id, again.ok, again.findings) == (done.run_id, True, 2)
    assert len(findings(warehouse, window.tenant)) == 2


def test_a_later_run_supersedes_findings_that_no_longer_hold(
    schedule: Schedule, warehouse: Warehouse, put_calls, window: Window
) -> None:
    put_calls(window.tenant, [{"team": "search", "hash": "h", "input": 10, "output": 1}] * 2)
    analyze_window(schedule.context, window)
    later = Context(warehouse, schedule.context.runs, clock=lambda: window.until + timedelta(days=1))
    analyze_window(later, replace(window, since=window.until, until=window.until + timedelta(days=1)))
    assert {row["title"] for row in findings(warehouse, window.tenant)} == {"No spend", "No repeated requests"}


def test_the_scheduled_function_takes_plain_arguments_and_finds_its_context(
    schedule: Schedule, tenant: str, noon: datetime
) -> None:
    run = analyze(schedule.name, tenant, hours=2.0)
    assert (run.since, run.until) == ((noon - timedelta(hours=1)).isoformat(), (noon + timedelta(hours=1)).isoformat())


def test_a_failed_run_is_recorded_with_its_reason(schedule: Schedule, window: Window) -> None:
    class Away:
        def ask(self, *_: object, **__: object) -> list[dict]:
            raise WarehouseError("the store is away")

    context = Context(Away(), schedule.context.runs, schedule.context.clock)  # type: ignore[arg-type]
    run = analyze_window(context, window)
    assert (run.ok, run.error, run.findings) == (False, "the store is away", 0)
    assert schedule.context.runs.newest(window.tenant)[0].error == "the store is away"
    assert analyze_window(schedule.context, window).ok  # and a failed one may be tried again


def test_the_job_survives_a_restart_with_the_time_at_which_it_is_due(settings: Settings, warehouse: Warehouse) -> None:
    first = Schedule(settings, warehouse)
    first.start()
    due = first.next_run_at
    first.stop()
    second = Schedule(settings, warehouse)
    second.start()
    try:
        assert second.next_run_at == due is not None
    finally:
        second.stop()


def test_a_shorter_interval_takes_hold_at_the_next_start(settings: Settings, warehouse: Warehouse) -> None:
    for seconds in (3600.0, 60.0):
        schedule = Schedule(replace(settings, analyze_interval_s=seconds), warehouse)
        schedule.start()
        due = schedule.next_run_at
        schedule.stop()
    assert due is not None
    assert due <= datetime.now(timezone.utc) + timedelta(seconds=60)


def test_runs_that_were_missed_while_nothing_ran_become_one(
    settings: Settings, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "now_utc", lambda: datetime.now(timezone.utc) - timedelta(hours=9))
    killed = Schedule(settings, warehouse)
    killed._scheduler.start(paused=True)
    killed._plan()  # due eight hours ago and every hour since, in a process that did nothing
    monkeypatch.undo()
    schedule = Schedule(settings, warehouse)
    schedule.start()
    until(lambda: any(run.ended for run in schedule.context.runs.newest(settings.tenant)), "the missed run is made up")
    runs = schedule.context.runs.newest(settings.tenant)
    due = schedule.next_run_at
    schedule.stop()
    killed._scheduler.remove_all_jobs()
    killed.stop()
    assert [run.ok for run in runs] == [True]
    assert due is not None and due > datetime.now(timezone.utc)


def test_an_interval_of_0_leaves_the_job_to_requests(settings: Settings, warehouse: Warehouse) -> None:
    for seconds in (60.0, 0.0):
        schedule = Schedule(replace(settings, analyze_interval_s=seconds), warehouse)
        schedule.start()
        due = schedule.next_run_at
        schedule.stop()
    assert due is None


def test_old_records_are_dropped_and_new_ones_kept(schedule: Schedule, window: Window) -> None:
    old = begun(ANALYZE, replace(window, since=window.since - timedelta(days=60)), window.until - timedelta(days=60))
    schedule.context.runs.put(old)
    new = analyze_window(schedule.context, window)
    assert schedule.context.runs.newest(window.tenant) == [new]
