"""What the collector promises for metrics and logs, against kills and power cuts: every acknowledged item, once.

The file is also the process that is killed: `python test_proof_signals.py ingest|check FOLDER …` runs the whole
collector without its doors, and says on its standard output which bodies it has acknowledged.
"""
from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from collector import flush
from collector.answers import LOGS as LOGS_SIGNAL
from collector.answers import METRICS as METRICS_SIGNAL
from collector.commit import GroupCommit
from collector.flush import MAX_TRIES, Flusher
from collector.intake import Delivery
from collector.main import Collector
from collector.pricing import Pricing
from collector.spool import Spool
from farthing.errors import SpoolFullError, WarehouseError
from farthing.prices import PriceBook
from farthing.settings import IngestKey, PriceOverride, Settings
from farthing.warehouse import Warehouse, segment
from farthing.warehouse.lane import LOGS, METRICS, TRACES, Lane
from tests.power import Disk
from tests.until import LIMIT_S, until

ITEMS = 20  # in one body
TENANT = "proof"
REPOSITORY = Path(__file__).resolve().parents[2]


def metrics_body(name: str, padding: str = "") -> bytes:
    """A body of ITEMS points, told apart by their session."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="gen_ai.client.token.usage")
    metric.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    for n in range(ITEMS):
        point = metric.sum.data_points.add(as_int=n, time_unix_nano=time.time_ns() + n)
        for key, text in (("session.id", name), ("gen_ai.request.model", "m"), ("gen_ai.tool.name", padding)):
            point.attributes.add(key=key).value.string_value = text
    return request.SerializeToString()


def logs_body(name: str, padding: str = "") -> bytes:
    """A body of ITEMS events of model calls; half of them look alike but for their number."""
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for n in range(ITEMS):
        record = records.add(event_name="claude_code.api_request", time_unix_nano=time.time_ns())
        texts = {"session.id": name, "model": "claude-test-1", "gen_ai.tool.name": padding,
                 "event.sequence": str(n), "request_id": f"req_{n // 2}"}  # fmt: skip
        for key, text in texts.items():
            record.attributes.add(key=key).value.string_value = text
        record.attributes.add(key="input_tokens").value.int_value = 10 + n
        record.attributes.add(key="output_tokens").value.int_value = 1
    return request.SerializeToString()


# ---- the process that is killed


def opened(folder: Path) -> tuple[Collector, Warehouse]:
    warehouse = Warehouse(f"chdb://{folder / 'warehouse'}")
    settings = Settings(
        data_dir=folder, flush_interval_s=0.2, ingest_keys=(IngestKey("k", TENANT),),
        prices=(PriceOverride("anthropic", "claude-test-1", "3", "15"),),
    )  # fmt: skip
    collector = Collector(settings, warehouse)
    collector.open()
    return collector, warehouse


def ingest(folder: Path, die_after_inserts: int = 0) -> None:
    """Acknowledge bodies as fast as they are on the disk, until killed."""
    flush.SYNC_INTERVAL_S = 1.0
    collector, warehouse = opened(folder)
    if die_after_inserts:
        _die_after(warehouse, die_after_inserts)
    intake = collector._intake

    async def send(kind: str) -> None:
        make, what = {"m": (metrics_body, METRICS_SIGNAL), "l": (logs_body, LOGS_SIGNAL)}[kind]
        while True:
            name = uuid.uuid4().hex
            try:
                await intake.take(Delivery(what, TENANT, make(name, "x" * random.randrange(500))))
            except SpoolFullError:
                await asyncio.sleep(0.05)
                continue
            os.write(1, f"{kind}{name}\n".encode())
            await asyncio.sleep(0.01)

    async def run() -> None:
        intake.start(*(GroupCommit(spool) for spool in collector._spools))
        await asyncio.gather(send("m"), send("l"), send("m"), send("l"))

    asyncio.run(run())


def _die_after(warehouse: Warehouse, inserts: int) -> None:
    insert, left = warehouse.insert_otlp, [inserts]

    def counted(segment: Path, token: str, lane: Lane = TRACES) -> None:
        insert(segment, token, lane)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    warehouse.insert_otlp = counted


def check(folder: Path) -> None:
    """Replay what the spools hold and print how often each body's items are stored."""
    collector, warehouse = opened(folder)
    collector.close()

    def counts(key: str, table: str) -> dict[str, int]:
        return dict(warehouse._client().query(f"SELECT {key}, count() FROM {table} GROUP BY 1").result_rows)

    unpriced = warehouse._client().query("SELECT countIf(isNull(cost_usd)) FROM requests").result_rows[0][0]
    print(json.dumps({
        "m": [counts("attributes['session.id']", "otel_metrics")],
        "l": [counts("LogAttributes['session.id']", "otel_logs"), counts("session", "requests")],
        "unpriced": unpriced, "waiting": sum(len(spool.closed()) for spool in collector._spools),
        "error": [one.last_error for one in collector._flushers],
    }))  # fmt: skip
    warehouse.close()


# ---- the test's side


class Tally:
    """What was acknowledged over all runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.acknowledged: set[str] = set()

    def ingest(self, bodies: int = 0, die_after_inserts: int = 0) -> subprocess.Popen[bytes]:
        """Run the collector until it has acknowledged so many bodies more, and still runs, or has died by itself."""
        enough = len(self.acknowledged) + bodies
        process = subprocess.Popen(
            [sys.executable, __file__, "ingest", str(self.folder), str(die_after_inserts)], stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(process,))
        self._reader.start()
        try:
            if die_after_inserts:
                process.wait(LIMIT_S)
            else:
                until(lambda: self._has(enough) or process.poll() is not None, "bodies are acknowledged")
        except BaseException:
            self.kill(process)
            raise
        return process

    def _has(self, bodies: int) -> bool:
        return len(self.acknowledged) >= bodies and {one[0] for one in tuple(self.acknowledged)} == {"m", "l"}

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        for line in process.stdout or ():
            if len(line) == 34:
                self.acknowledged.add(line.decode().strip())

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        self._reader.join()
        if process.stdout is not None:
            process.stdout.close()

    def check(self) -> dict[str, int]:
        """Return how many bodies are wrong, by what is wrong with them."""
        done = subprocess.run(
            [sys.executable, __file__, "check", str(self.folder)], capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout.splitlines()[-1])
        assert (found["waiting"], found["unpriced"]) == (0, 0), found
        wrong: dict[str, int] = {}
        for kind in ("m", "l"):
            for stored in found[kind]:
                partial = [name for name, count in stored.items() if count != ITEMS]
                wrong["partial"] = wrong.get("partial", 0) + len(partial)
                for name in (one[1:] for one in self.acknowledged if one[0] == kind):
                    if (count := stored.get(name, 0)) != ITEMS:
                        wrong[f"{kind}: {count} of {ITEMS}"] = wrong.get(f"{kind}: {count} of {ITEMS}", 0) + 1
        return {what: count for what, count in wrong.items() if count}


KILLS = [
    pytest.param((60,), id="1 kill"),
    pytest.param(tuple(10 + 20 * n for n in range(14)), id="14 kills", marks=pytest.mark.proof),
]


@pytest.mark.parametrize("bodies", KILLS)  # acknowledged before each
def test_a_kill_loses_and_doubles_no_metric_and_no_log(tmp_path: Path, bodies: tuple[int, ...]) -> None:
    tally = Tally(tmp_path)
    for count in bodies:
        tally.kill(tally.ingest(count))
        tally.kill(tally.ingest(die_after_inserts=1))  # between the insert and the forgetting
    wrong = tally.check()
    print(f"{2 * len(bodies)} kills: acknowledged {len(tally.acknowledged) * ITEMS} items, wrong: {wrong or 'none'}")
    assert wrong == {} and {one[0] for one in tally.acknowledged} == {"m", "l"} and len(tally.acknowledged) > 20


CUTS = [pytest.param(1, id="1 cut"), pytest.param(8, id="8 cuts", marks=pytest.mark.proof)]


@pytest.mark.parametrize("cuts", CUTS)
def test_a_power_cut_loses_and_doubles_no_metric_and_no_log(disk: Disk, cuts: int) -> None:
    tally, chance = Tally(disk.mount / "data"), random.Random(5)
    for _ in range(cuts):
        process = tally.ingest(chance.randint(30, 150))
        disk.cut(process.pid)
        tally.kill(process)
        disk.off()
        disk.on()
    wrong = tally.check()
    print(f"{cuts} power cuts: acknowledged {len(tally.acknowledged) * ITEMS} items, wrong: {wrong or 'none'}")
    assert wrong == {} and len(tally.acknowledged) > 20


# ---- what the last run left, part by part

LANES: dict[str, tuple[Lane, Callable[[str], bytes], dict[str, str]]] = {
    "metrics": (METRICS, metrics_body, {"otel_metrics": "attributes['session.id']"}),
    "logs": (LOGS, logs_body, {"otel_logs": "LogAttributes['session.id']", "requests": "session"}),
}
LOST = ("nothing", "some of the first table", "some of the last table", "all of the last table", "everything")


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("name", LANES)
def test_a_leftover_is_made_whole_whatever_of_it_was_lost(
    warehouse: Warehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, lost: str
) -> None:
    lane, make, tables = LANES[name]
    spool, session, beside = spooled(tmp_path, make)
    flushing = Flusher(spool, warehouse, Pricing(warehouse, PriceBook()), 3600, lane=lane)
    flushing.flush()
    names = list(tables)
    gone = {"nothing": [], "everything": names, "some of the first table": names[:1]}.get(lost, names[-1:])
    for table in gone:
        some = " AND rand() % 2 = 0" if lost.startswith("some") else ""
        warehouse.command(f"DELETE FROM {table} WHERE {tables[table]} = '{session}'{some}")
    after = Spool(tmp_path, 10**9)
    Flusher(after, warehouse, Pricing(warehouse, PriceBook()), 3600, lane=lane).flush()
    for table, key in tables.items():
        query = f"SELECT countIf({key} = '{session}'), countIf({key} = '{beside}') FROM {table}"
        assert warehouse._client().query(query).result_rows == [(ITEMS, ITEMS)]
    assert ("removed and inserted anew" in caplog.text) is (lost != "nothing")


def spooled(folder: Path, *makes: Callable[[str], bytes]) -> tuple[Spool, str, str]:
    """Spool two bodies of each kind for two tenants; return the spool and their sessions."""
    spool, names = Spool(folder, 10**9), [uuid.uuid4().hex, uuid.uuid4().hex]
    framed: list[bytes] = []
    for name in names:
        for make in makes:
            body = make(name)
            framed.append(segment.frame(name, body, time.time_ns() // 10**6, segment.digest(name, body)))
    spool.append(framed)
    spool.rotate()
    return spool, names[0], names[1]


@pytest.mark.parametrize("name", LANES)
def test_a_poison_body_is_buried_and_the_others_go_on(warehouse: Warehouse, tmp_path: Path, name: str) -> None:
    lane, make, tables = LANES[name]
    spool = Spool(tmp_path, 10**9)
    spool.append([b"\x05not p"])
    spool.rotate()
    session = uuid.uuid4().hex
    spool.append([segment.frame(session, make(session), 1, segment.digest(session, make(session)))])
    flushing = Flusher(spool, warehouse, Pricing(warehouse, PriceBook()), 3600, lane=lane)
    for _ in range(MAX_TRIES + 1):
        flushing.flush()
    assert flushing.dead_letters == 1 and len(list((tmp_path / "dead-letter").iterdir())) == 1
    for table, key in tables.items():
        query = f"SELECT count() FROM {table} WHERE {key} = '{session}'"
        assert warehouse._client().query(query).result_rows == [(ITEMS,)]


def test_a_full_disk_that_one_lane_meets_keeps_the_senders_of_all_off_it(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise WarehouseError("warehouse: Code: 243. DB::Exception: Cannot reserve 1.00 MiB, not enough space")

    traces, logs = (Spool(tmp_path / lane.folder, 10**9, min_free_bytes=5) for lane in (TRACES, LOGS))
    pricing, session = Pricing(warehouse, PriceBook()), uuid.uuid4().hex
    beside = Flusher(logs, warehouse, pricing, 3600, lane=LOGS)
    flushing = Flusher(traces, warehouse, pricing, 3600, ballast_bytes=2**20, also=[beside])
    flushing._settle_if_due(is_last=True)
    logs.append([segment.frame(session, logs_body(session), 1, segment.digest(session, b""))])
    with monkeypatch.context() as patch:
        patch.setattr(warehouse, "insert_otlp", full)
        assert flushing._ballast.is_held
        flushing.flush()
    assert not flushing._ballast.is_held and {traces.min_free_bytes, logs.min_free_bytes} == {2**20 + 5}
    flushing._settle_if_due(is_last=True)
    assert flushing._ballast.is_held and {traces.min_free_bytes, logs.min_free_bytes} == {5}
    flushing.flush()
    query = f"SELECT count() FROM requests WHERE session = '{session}'"
    assert warehouse._client().query(query).result_rows == [(ITEMS,)] and beside.dead_letters == 0


if __name__ == "__main__":
    act, at = sys.argv[1], Path(sys.argv[2])
    if act == "ingest":
        ingest(at, int(sys.argv[3]))
    else:
        check(at)
