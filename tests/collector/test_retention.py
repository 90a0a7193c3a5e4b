"""collector/retention.py: rows past their time go by whole partitions, the others stay, on every kind of store."""
from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from collector.flush import Flusher
from collector.pricing import Pricing
from collector.retention import Retention, keep_days
from collector.spool import Spool
from farthing.errors import WarehouseError
from farthing.prices import PriceBook
from farthing.settings import Settings
from farthing.testing import SeedRequest, seed_requests
from farthing.warehouse import Warehouse, retention
from farthing.warehouse.lane import Lane
from farthing.warehouse.retention import Partition
from tests.conftest import REPOSITORY, STORES

NOW = datetime.now(timezone.utc)
KEEP = {"otel_traces": 30, "requests": 400, "findings": 400}


@pytest.fixture(params=[*STORES[:2], pytest.param(STORES[2], marks=pytest.mark.proof)])
def warehouse(request: pytest.FixtureRequest) -> Warehouse:
    """Each kind of store in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def aged(warehouse: Warehouse) -> Iterator[str]:
    """The tenant of one call each of today, 25, 40 and 500 days ago; the old days are no other test's."""
    tenant = uuid.uuid4().hex
    for days in (0, 25, 40, 500):
        at = NOW - timedelta(days=days)
        seed_requests(warehouse, [SeedRequest(at, "gpt-4o-mini")], tenant, received_at=at)
    yield tenant


def days_of(warehouse: Warehouse, table: str, tenant: str) -> list[int]:
    received, owner = ("ReceivedAt", "Tenant") if table == "otel_traces" else ("received_at", "tenant")
    days = f"dateDiff('day', toDate({received}), toDate('{NOW:%Y-%m-%d}'))"
    found = warehouse.rows(f"SELECT {days} AS d FROM {table} WHERE {owner} = '{tenant}' ORDER BY d")
    return [int(row[0]) for row in found]


def test_each_table_keeps_its_own_days(warehouse: Warehouse, aged: str) -> None:
    keeping = Retention(warehouse, KEEP)
    keeping.run_if_due()
    assert days_of(warehouse, "otel_traces", aged) == [0, 25]
    assert days_of(warehouse, "requests", aged) == [0, 25, 40]
    status = keeping.status()
    assert status["keep_days"] == KEEP and status["error"] == "" and str(status["ran_at"]).startswith("20")
    assert keeping.dropped_rows >= 3 and keeping.dropped_bytes > 0
    before = keeping.dropped_rows
    keeping.run_if_due()
    assert keeping.dropped_rows == before


def test_zero_days_keep_for_ever(warehouse: Warehouse, aged: str) -> None:
    Retention(warehouse, dict.fromkeys(KEEP, 0)).run()
    assert days_of(warehouse, "otel_traces", aged) == [0, 25, 40, 500]
    Retention(warehouse, KEEP).run()


def test_dropped_partitions_free_their_room_at_once(embedded_warehouse: Warehouse) -> None:
    tenant, at = uuid.uuid4().hex, NOW - timedelta(days=90)
    seed_requests(embedded_warehouse, [SeedRequest(at, "gpt-4o-mini")] * 2000, tenant, received_at=at)
    parts = "SELECT path FROM system.parts WHERE active AND table = 'otel_traces' AND partition = "
    folders = [Path(row[0]) for row in embedded_warehouse.rows(f"{parts}'{at:%Y-%m-%d}'")]
    assert folders and all(folder.exists() for folder in folders)
    Retention(embedded_warehouse, KEEP).run()
    assert [folder for folder in folders if folder.exists()] == []


def test_a_full_disk_lets_old_rows_go_and_the_insert_is_repeated(
    warehouse: Warehouse, aged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = Retention(warehouse, KEEP)
    spool = Spool(tmp_path / "spool", 10**9)
    flushing = Flusher(spool, warehouse, Pricing(warehouse, PriceBook()), 3600, 2**20, retention=keeping)
    spool.append([b"\x05not p"])

    def full(_path: Path, _token: str, _lane: Lane) -> None:
        raise WarehouseError("warehouse: Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space")

    monkeypatch.setattr(warehouse, "insert_otlp", full)
    flushing.flush()
    assert days_of(warehouse, "otel_traces", aged) == [0, 25]
    ran_at = keeping.ran_at
    assert ran_at
    monkeypatch.setattr(Retention, "run", lambda _self: pytest.fail("the full disk is looked at once a minute"))
    flushing.flush()
    assert len(spool.closed()) == 1


def test_a_store_that_refuses_is_said_and_asked_again(
    embedded_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = Retention(embedded_warehouse, KEEP)
    with monkeypatch.context() as patch:
        patch.setattr("collector.retention.RETRY_S", 0.0)
        patch.setattr(embedded_warehouse, "rows", lambda _s: (_ for _ in ()).throw(WarehouseError("away")))
        keeping.run_if_due()
    assert keeping.status()["error"] == "away"
    keeping.run_if_due()
    assert keeping.status()["error"] == ""


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("2026-11-18", date(2026, 11, 19)),
        ("2026-12-31", date(2027, 1, 1)),
        ("202611", date(2026, 12, 1)),
        ("202612", date(2027, 1, 1)),
        ("tuple()", None),
        ("0", None),
    ],
)
def test_a_partition_ends_where_its_last_row_can_be(name: str, ends: date | None) -> None:
    assert Partition("t", name, "", 1, 1).ends == ends


def test_a_partition_goes_a_day_after_its_last_row_is_past_its_time() -> None:
    held = [Partition("t", "2026-11-01", "20261101", 1, 1), Partition("t", "tuple()", "all", 1, 1)]
    assert retention.expired(held, {"t": 30}, date(2026, 12, 2)) == []
    assert retention.expired(held, {"t": 30}, date(2026, 12, 3)) == held[:1]
    assert retention.expired(held, {"t": 0}, date(2099, 1, 1)) == []


def test_the_settings_name_the_days_of_each_table(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, keep_spans_days=7, keep_requests_days=0, keep_findings_days=90)
    signals = {"otel_traces": 7, "otel_metrics": 7, "otel_logs": 7}
    assert keep_days(settings) == {**signals, "requests": 0, "findings": 90}


FULL_DISK = """
import os, sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from collector.flush import Flusher
from collector.pricing import Pricing
from collector.retention import Retention
from collector.spool import Spool
from farthing.prices import PriceBook
from farthing.testing import SeedRequest, seed_requests, write_segment
from farthing.warehouse import Warehouse

home, now = Path(sys.argv[1]), datetime.now(timezone.utc)
calls = lambda at: [SeedRequest(at, "gpt-4o-mini", user=os.urandom(300).hex()) for _ in range(5000)]
warehouse = Warehouse(f"chdb://{home / 'warehouse'}")
warehouse.migrate()
for days in (90, 91, 92):
    at = now - timedelta(days=days)
    seed_requests(warehouse, calls(at), "old", received_at=at)
spool = Spool(home / "spool", 10**9, min_free_bytes=0)
keeping = Retention(warehouse, {"otel_traces": 30, "requests": 400, "findings": 400})
flushing = Flusher(spool, warehouse, Pricing(warehouse, PriceBook()), 3600, 4 * 2**20, retention=keeping)
flushing._restore_ballast()
path = write_segment(home / "new", calls(now), "new")
spool.append([path.read_bytes()])
path.unlink()
filler = os.open(home / "filler", os.O_CREAT | os.O_WRONLY)
try:
    while True:
        os.write(filler, b"x" * 4096)
except OSError:
    pass
flushing.flush()
failed = flushing.last_error
flushing.flush()
count = "SELECT countIf(Tenant = 'old'), countIf(Tenant = 'new') FROM otel_traces"
print(*warehouse.rows(count)[0], keeping.dropped_rows, "Code: 243" in failed, sep="|")
warehouse.close()
"""


def test_a_disk_that_is_really_full_takes_new_spans_once_old_ones_went(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        command = [sys.executable, "-c", FULL_DISK, str(disk)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=REPOSITORY)
        assert ran.stdout.strip() == "0|5000|15000|True", ran.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)
