"""What the collector promises, against power cuts, kills, full disks and flipped bytes: every acknowledged span, once.

The file is also the process that is killed: `python test_proof.py ingest|check FOLDER …` runs the real spool, group
commit and flusher over a real chDB store, and says on its standard output which bodies it has acknowledged.
"""
from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from collector import flush
from collector.commit import GroupCommit
from collector.flush import Flusher
from collector.pricing import Pricing
from collector.spool import Spool
from farthing import otlp, semconv
from farthing.errors import SpoolFullError, WarehouseError
from farthing.prices import PriceBook
from farthing.warehouse import Warehouse, segment
from farthing.warehouse.lane import TRACES, Lane
from tests.power import Disk
from tests.until import LIMIT_S, until

SPANS = 20  # in one body
TENANT = "proof"
REPOSITORY = Path(__file__).resolve().parents[2]


def body(trace_id: bytes, spans: int = SPANS, padding: str = "") -> bytes:
    attributes = otlp.attributes([
        (semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, "openai"), (semconv.REQUEST_MODEL, "gpt-4o-mini"),
        (semconv.USAGE_INPUT_TOKENS, 10), (semconv.USAGE_OUTPUT_TOKENS, 2), ("padding", padding),
    ])  # fmt: skip
    now = time.time_ns()
    window = (now, now + 10**9)
    made = [otlp.span(trace_id, n.to_bytes(8, "big"), b"", "chat", window, attributes) for n in range(1, spans + 1)]
    return otlp.traces([("service.name", "shop")], "test", "1", made)


# ---- the process that is killed


class Pipeline:
    """The collector without its HTTP front."""

    def __init__(self, folder: Path, interval_s: float = 0.2) -> None:
        self.warehouse = Warehouse(f"chdb://{folder / 'warehouse'}")
        self.warehouse.migrate()
        pricing = Pricing(self.warehouse, PriceBook())
        pricing.start()
        self.spool = Spool(folder / "spool", 10**9, min_free_bytes=8 * 2**20)
        self.flusher = Flusher(self.spool, self.warehouse, pricing, interval_s, ballast_bytes=4 * 2**20)


def ingest(folder: Path, die_after_inserts: int = 0) -> None:
    """Acknowledge bodies as fast as they are on the disk, until killed."""
    flush.SYNC_INTERVAL_S = 1.0
    pipeline = Pipeline(folder)
    if die_after_inserts:
        _die_after(pipeline.warehouse, die_after_inserts)
    pipeline.flusher.start()

    async def send(commit: GroupCommit) -> None:
        while True:
            trace_id = os.urandom(16)
            try:
                await commit.put(TENANT, body(trace_id, padding="x" * random.randrange(2000)))
            except SpoolFullError:
                await asyncio.sleep(0.05)
                continue
            os.write(1, f"{trace_id.hex()}\n".encode())
            await asyncio.sleep(0.005)

    async def run() -> None:
        commit = GroupCommit(pipeline.spool)
        await asyncio.gather(*(send(commit) for _ in range(4)))

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
    """Replay what the spool holds and print what the store has."""
    pipeline = Pipeline(folder)
    pipeline.flusher.start()
    pipeline.flusher.stop()
    query = "SELECT {0}, count(), uniqExact({1}) FROM {2} GROUP BY {0}"
    stored = [
        {row[0]: row[1:] for row in pipeline.warehouse._client().query(query.format(*columns)).result_rows}
        for columns in (("TraceId", "SpanId", "otel_traces"), ("trace_id", "span_id", "requests"))
    ]
    unpriced = pipeline.warehouse._client().query("SELECT countIf(isNull(cost_usd)) FROM requests").result_rows[0][0]
    print(json.dumps({
        "spans": stored[0], "requests": stored[1], "unpriced": unpriced, "failures": pipeline.flusher.last_error,
        "set_aside": str(pipeline.warehouse.recovered_from or ""), "waiting": len(pipeline.spool.closed()),
        "corrupt_bytes": pipeline.spool.corrupt_bytes, "dead_letters": pipeline.flusher.dead_letters,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }))  # fmt: skip
    pipeline.warehouse.close()


# ---- the test's side


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, *arguments]
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)


@dataclass
class Tally:
    """What was acknowledged over all runs, and what a check found of it."""

    acknowledged: set[str] = field(default_factory=set)
    set_aside: int = 0
    last: dict[str, object] = field(default_factory=dict)

    def ingest(self, folder: Path, bodies: int = 0, die_after_inserts: int = 0) -> subprocess.Popen[bytes]:
        """Run the pipeline until it has acknowledged so many bodies more, and still runs, or has died by itself."""
        process = start("ingest", str(folder), str(die_after_inserts))
        enough = len(self.acknowledged) + bodies

        def read() -> None:
            for line in process.stdout or ():
                if len(line) == 33:
                    self.acknowledged.add(line.decode().strip())

        self._reader = threading.Thread(target=read)
        self._reader.start()
        try:
            if die_after_inserts:
                process.wait(LIMIT_S)
            else:
                until(lambda: len(self.acknowledged) >= enough or process.poll() is not None, "bodies are acknowledged")
        except BaseException:
            self.kill(process)
            raise
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        self._reader.join()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()

    def check(self, folder: Path) -> dict[str, list[str]]:
        """Return the bodies that are not there exactly once, by what is wrong with them."""
        done = subprocess.run(
            [sys.executable, __file__, "check", str(folder)], capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found = self.last = json.loads(done.stdout.splitlines()[-1])
        self.set_aside += bool(found["set_aside"])
        wrong: dict[str, list[str]] = {}
        for table in ("spans", "requests"):
            for trace in self.acknowledged - set(found[table]):
                wrong.setdefault(f"lost from {table}", []).append(trace)
            for trace, (rows, distinct) in found[table].items():
                if (rows, distinct) != (SPANS, SPANS):
                    wrong.setdefault(f"{rows}/{distinct} in {table}", []).append(trace)
        assert found["waiting"] == 0, found
        return wrong

    def report(self, name: str, wrong: dict[str, list[str]]) -> None:
        lost = sum(len(traces) for kind, traces in wrong.items() if kind.startswith("lost"))
        doubled = sum(len(traces) for kind, traces in wrong.items() if not kind.startswith("lost"))
        spans = len(self.acknowledged) * SPANS
        print(
            f"{name}: acknowledged {spans} spans, lost {lost * SPANS}, duplicated or partial {doubled * SPANS}, "
            f"stores set aside {self.set_aside}, peak RSS of the replay {self.last.get('peak_rss_mb')} MB"
        )


CUTS = [
    pytest.param(1, id="1 cut"),
    pytest.param(12, id="12 cuts", marks=pytest.mark.proof),
]


@pytest.mark.parametrize("cuts", CUTS)
def test_a_power_cut_loses_and_doubles_nothing_that_was_acknowledged(disk: Disk, cuts: int) -> None:
    tally, chance = Tally(), random.Random(5)
    folder = disk.mount / "data"
    for _ in range(cuts):
        process = tally.ingest(folder, chance.randint(60, 300) if cuts == 1 else chance.randint(30, 900))
        disk.cut(process.pid)
        tally.kill(process)
        disk.off()
        disk.on()
    wrong = tally.check(folder)
    tally.report(f"{cuts} power cuts", wrong)
    assert wrong == {} and len(tally.acknowledged) > 20 and tally.last["unpriced"] == 0


@pytest.mark.parametrize("damage", ["metadata", "status"])
def test_a_store_that_does_not_open_is_set_aside_and_its_whole_parts_are_taken_over(
    tmp_path: Path, damage: str
) -> None:
    tally = Tally()
    tally.kill(tally.ingest(tmp_path, 100))
    assert tally.check(tmp_path) == {}
    spoil(tmp_path / "warehouse", damage)
    wrong = tally.check(tmp_path)
    assert (tally.set_aside, wrong) == (1, {})


def spoil(store: Path, damage: str) -> None:
    """Do what a power cut does to files that were not synced: they are there, and empty."""
    if damage == "status":
        (store / "status").write_bytes(b"")
    for path in store.glob("store/*/*/*.sql"):
        path.write_bytes(b"")


KILLS = [
    pytest.param((100,), id="1 kill"),
    pytest.param(tuple(10 + 25 * n for n in range(14)), id="14 kills", marks=pytest.mark.proof),
]


@pytest.mark.parametrize("bodies", KILLS)  # acknowledged before each
def test_a_kill_loses_and_doubles_nothing(tmp_path: Path, bodies: tuple[int, ...]) -> None:
    tally = Tally()
    for count in bodies:
        tally.kill(tally.ingest(tmp_path, count))
        tally.kill(tally.ingest(tmp_path, die_after_inserts=1))  # between the insert and the forgetting
    wrong = tally.check(tmp_path)
    tally.report(f"{2 * len(bodies)} kills", wrong)
    assert wrong == {} and len(tally.acknowledged) > 20


FLIPS = [pytest.param(3, id="3 runs"), pytest.param(20, id="20 runs", marks=pytest.mark.proof)]


@pytest.mark.parametrize("runs", FLIPS)
def test_flipped_bytes_cost_at_most_the_bodies_they_touch(tmp_path: Path, warehouse: Warehouse, runs: int) -> None:
    chance, sent, touched = random.Random(7), 0, 0
    for run in range(runs):
        folder, tenant = tmp_path / f"{run}", f"flips-{os.urandom(4).hex()}"
        ids = [os.urandom(16) for _ in range(40)]
        spool = Spool(folder / "spool", 10**9)
        now = time.time_ns() // 10**6
        spool.append([segment.frame(tenant, made, now, segment.digest(tenant, made)) for made in map(body, ids)])
        spool.close()
        hit = flip(next((folder / "spool").glob("*.otlp")), chance)
        flusher = Flusher(Spool(folder / "spool", 10**9), warehouse, Pricing(warehouse, PriceBook()), 3600)
        flusher.flush()
        query = f"SELECT TraceId, count() FROM otel_traces WHERE Tenant = '{tenant}' GROUP BY TraceId"
        stored = dict(warehouse._client().query(query).result_rows)
        assert set(stored.values()) == {SPANS} and flusher.dead_letters == 0
        assert {one.hex() for n, one in enumerate(ids) if n not in hit} == set(stored)
        sent, touched = sent + len(ids), touched + len(hit)
    print(f"{runs} runs: sent {sent} bodies = stored {sent - touched} + damaged {touched}, lost 0, duplicated 0")


def flip(path: Path, chance: random.Random) -> set[int]:
    """Flip up to 3 bytes of a segment; return the numbers of the records they lie in."""
    buffer = bytearray(path.read_bytes())
    ends = [end for _, _, end in segment.scan(bytes(buffer))]
    places = [chance.randrange(len(buffer)) for _ in range(chance.randint(1, 3))]
    for at in places:
        buffer[at] ^= chance.randint(1, 255)
    path.write_bytes(buffer)
    return {next(n for n, end in enumerate(ends) if at < end) for at in places}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=60M", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def test_a_full_disk_refuses_and_loses_nothing_and_recovers(small_disk: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, "fill", str(small_disk)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    print(said)
    assert said["refused"] > 0 and said["was_readable"] and said["ballast_was_released"] and said["ballast_is_back"]
    assert said["stored"] == said["acknowledged"] * SPANS and said["waiting"] == 0 and said["acknowledged_after"] == 5


def fill(folder: Path) -> None:
    """Fill the disk, by spans and by somebody else, and make room again."""
    flush.SYNC_INTERVAL_S = 0.0
    pipeline = Pipeline(folder, interval_s=3600)
    spool, flusher, warehouse = pipeline.spool, pipeline.flusher, pipeline.warehouse
    flusher.start()
    acknowledged = refused = 0

    def put(times: int) -> int:
        accepted = 0
        for _ in range(times):
            made = body(os.urandom(16), padding=os.urandom(2000).hex())
            try:
                spool.append([segment.frame(TENANT, made, time.time_ns() // 10**6, segment.digest(TENANT, made))])
                accepted += 1
            except SpoolFullError:
                pass
        return accepted

    acknowledged += put(60)
    flusher.flush()
    acknowledged += put(60)
    other = folder / "other"
    with other.open("wb") as handle, suppress(OSError):
        while True:
            os.write(handle.fileno(), b"x" * 65536)
    refused += 20 - put(20)
    with suppress(WarehouseError):
        flusher.flush()
    readable = warehouse._client().query("SELECT count() FROM otel_traces").result_rows[0][0] >= 60 * SPANS
    released = not flusher._ballast.is_held
    refused += 20 - put(20)
    other.unlink()
    for _ in range(3):
        flusher.flush()
        flusher._settle_if_due()
    after = put(5)
    flusher.stop()
    stored = warehouse._client().query("SELECT count() FROM requests").result_rows[0][0]
    print(json.dumps({
        "acknowledged": acknowledged + after, "refused": refused, "acknowledged_after": after, "stored": stored,
        "was_readable": readable, "ballast_was_released": released, "ballast_is_back": flusher._ballast.is_held,
        "waiting": len(spool.closed()), "errors": flusher.last_error,
    }))  # fmt: skip
    warehouse.close()


class Absent:
    """A warehouse that can go away."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self.is_away = True

    def __getattr__(self, name: str) -> object:
        if self.is_away and name != "path":
            raise WarehouseError("warehouse: connection refused")
        return getattr(self._warehouse, name)


def test_a_store_that_is_away_costs_refusals_that_are_counted_and_no_memory(
    tmp_path: Path, warehouse: Warehouse
) -> None:
    rounds = 30  # of 20 bodies; 15 rounds fill the spool
    absent, tenant = Absent(warehouse), f"away-{os.urandom(4).hex()}"
    spool = Spool(tmp_path / "spool", 30_000_000)
    flusher = Flusher(spool, absent, Pricing(absent, PriceBook()), 0.1)  # type: ignore[arg-type]
    flusher.start()
    before = rss_mb()
    sent, stored, refused = asyncio.run(flood(spool, tenant, rounds))
    grown = rss_mb() - before
    until(lambda: flusher.failures > 0, "the flusher has tried")
    assert spool.held_bytes <= 30_000_000
    absent.is_away = False
    flusher.flush()
    flusher.stop()
    query = f"SELECT count() FROM requests WHERE tenant = '{tenant}'"
    rows = warehouse._client().query(query).result_rows[0][0]
    print(f"away for {rounds} rounds: sent {sent * SPANS} spans, stored {rows}, refused {refused * SPANS}")
    print(f"grown by {grown} MB")
    assert rows == stored * SPANS and sent == stored + refused and refused > 0 and spool.closed() == []
    assert grown < 200


async def flood(spool: Spool, tenant: str, rounds: int) -> tuple[int, int, int]:
    commit, sent, stored, refused = GroupCommit(spool), 0, 0, 0
    for _ in range(rounds):
        made = [body(os.urandom(16), padding="x" * 5000) for _ in range(20)]
        answers = await asyncio.gather(*(commit.put(tenant, one) for one in made), return_exceptions=True)
        sent += len(made)
        stored += answers.count(True)
        refused += sum(isinstance(answer, SpoolFullError) for answer in answers)
    return sent, stored, refused


def rss_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


if __name__ == "__main__":
    act, at = sys.argv[1], Path(sys.argv[2])
    if act == "ingest":
        ingest(at, int(sys.argv[3]))
    else:
        {"check": check, "fill": fill}[act](at)
