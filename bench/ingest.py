"""Claim: a span costs microseconds from its OTLP body to two typed, priced, durable rows, near what the store can do.

    python bench/ingest.py [--rounds 3] [--dir FOLDER]

Each round sends realistic 20-attribute spans to the collector's ASGI application (checks, spool with fdatasync), has
them flushed (protobuf, both views, dialects, prices), and counts the process's CPU time, chDB's threads included, and
what follows an insert: merges, one round of the upkeep (as every five seconds) and the sums of the hour. Those come
once an hour, so they are measured on an hour of 800,000 calls, 230 a second: each costs less in a fuller one. Spans are
of the hour that runs, as a service sends them; an hour that is over is summed again for late ones, in at most 2 % of
the time. The ceiling beside it, in the same run, is chDB's own INSERT SELECT of the finished rows into tables of the
same make.
Prints lines for people, then one line of JSON; exit 1 on a missed limit.
"""
from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from verdict import conclude

from collector.main import Collector
from farthing import otlp, semconv
from farthing.serving import Asgi, Scope
from farthing.settings import IngestKey, Settings
from farthing.warehouse import Warehouse, rollup

LIMITS = {
    "cpu_us_per_span_at_10k": ("<=", 20.0),
    "cpu_us_per_span_at_50k": ("<=", 16.0),
    "over_ceiling_at_10k": ("<=", 3.0),
    "over_ceiling_at_50k": ("<=", 3.0),
}
SIZES = {"10k": (10_240, 5), "50k": (51_200, 2)}  # spans between two flushes, and flushes in a round
SPANS_IN_BODY = 512
HOUR = 800_000  # calls of the hour that is summed up, at least
Message = MutableMapping[str, Any]
TABLES = {"otel_traces": "Tenant", "requests": "tenant"}
MODELS = (
    ("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-haiku-4-5"), ("farthing", "smollm2-135m"),
)  # fmt: skip


def main() -> int:
    """Run the claim's measurements and judge them."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        figures = asyncio.run(measure(Path(folder), arguments.rounds))
    return conclude("ingest", figures, LIMITS, chdb=version("chdb"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--dir", default=None, help="folder on the disk to measure")
    return parser.parse_args()


async def measure(folder: Path, rounds: int) -> dict[str, float]:
    """Return CPU µs per span of the collector and of the ceiling, at each size, measured in turns."""
    names = [f"{size}-{n}" for size, (_, flushes) in SIZES.items() for n in range(flushes)]
    tenants = [f"{number}-{name}" for number in range(rounds + 1) for name in names]
    settings = Settings(
        data_dir=folder,
        collector_grpc_port=0,
        flush_interval_s=3600,
        upkeep_interval_s=3600,
        ingest_keys=tuple(IngestKey(f"key-{one}", one) for one in tenants),
    )
    warehouse = Warehouse(settings.warehouse_dsn)
    started_ns = time.time_ns() - 60 * 10**9
    bodies = [body(number, started_ns) for number in range(max(spans for spans, _ in SIZES.values()) // SPANS_IN_BODY)]
    collector = Collector(settings, warehouse)
    application = Application(collector)
    await application.start()
    runs: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for size, (spans, flushes) in SIZES.items():
            sending = [(f"{number}-{size}-{n}", bodies[: spans // SPANS_IN_BODY]) for n in range(flushes)]
            found = await _round(collector, application, warehouse, sending)
            for name, value in found.items():
                runs[f"{name}_at_{size}"].append(value)
        runs["hourly_sums_us_per_span"].append(await _hourly_sums(warehouse))
    for size in SIZES:
        ours, summed = runs[f"cpu_us_per_span_at_{size}"], runs["hourly_sums_us_per_span"]
        runs[f"cpu_us_per_span_at_{size}"] = [one + other for one, other in zip(ours, summed, strict=True)]
    for values in runs.values():
        del values[0]  # the first round warms up
    await application.stop()
    warehouse.close()
    figures = {name: round(statistics.median(values), 2) for name, values in runs.items()}
    for size in SIZES:
        ours, ceiling = runs[f"cpu_us_per_span_at_{size}"], runs[f"ceiling_us_per_span_at_{size}"]
        ratios = [one / other for one, other in zip(ours, ceiling, strict=True)]
        figures[f"over_ceiling_at_{size}"] = round(statistics.median(ratios), 2)
    for name, value in figures.items():
        print(f"{name:36} {value:8.2f}   of {[round(one, 2) for one in runs.get(name, [])]}")
    print(f"{'peak RSS':36} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024:8} MB")
    return figures


async def _round(
    collector: Collector, application: Application, warehouse: Warehouse, sending: list[tuple[str, list[bytes]]]
) -> dict[str, float]:
    """Send, flush, merge and keep up, beginning with empty tables; then insert the finished rows likewise."""
    spans = sum(len(bodies) for _, bodies in sending) * SPANS_IN_BODY
    for table in TABLES:
        warehouse.command(f"TRUNCATE TABLE {table}")
    received = stored = 0.0
    for tenant, bodies in sending:

        async def send(tenant: str = tenant, bodies: list[bytes] = bodies) -> None:
            statuses = await asyncio.gather(*(application.post("/v1/traces", one, f"key-{tenant}") for one in bodies))
            assert set(statuses) == {200}, statuses

        received += await _cpu_us(send)
        stored += await _cpu_us(lambda: asyncio.to_thread(collector._flusher.flush))
    stored += await _cpu_us(lambda: _merged(warehouse))
    kept = await _cpu_us(lambda: asyncio.to_thread(collector._upkeep._guarded_round))
    ceiling = await _ceiling(warehouse, [tenant for tenant, _ in sending], spans)
    return {
        "cpu_us_per_span": (received + stored + kept) / spans,
        "receive_and_spool_us_per_span": received / spans,
        "insert_us_per_span": stored / spans,
        "upkeep_us_per_span": kept / spans,
        "ceiling_us_per_span": ceiling / spans,
    }


async def _ceiling(warehouse: Warehouse, tenants: list[str], spans: int) -> float:
    """Return CPU µs of inserting finished rows once more, into empty tables of the same make."""
    single = "SETTINGS max_threads = 1, max_insert_threads = 1"
    for table in TABLES:
        warehouse.command(f"CREATE TABLE ready_{table} AS {table} ENGINE = Memory")
        warehouse.command(f"INSERT INTO ready_{table} SELECT * FROM {table}")
        found = warehouse._client().query(f"SELECT count() FROM ready_{table}").result_rows[0][0]
        assert found == spans, f"{table} holds {found} of {spans} spans"
        warehouse.command(f"CREATE TABLE ceiling_{table} AS {table}")

    async def insert() -> None:
        for tenant in tenants:
            for table, column in TABLES.items():
                rows = f"SELECT * FROM ready_{table} WHERE {column} = '{tenant}'"
                warehouse.command(f"INSERT INTO ceiling_{table} {rows} {single}")
        await _merged(warehouse)

    taken = await _cpu_us(insert)
    for table in TABLES:
        warehouse.command(f"DROP TABLE ready_{table}")
        warehouse.command(f"DROP TABLE ceiling_{table}")
    return taken


async def _hourly_sums(warehouse: Warehouse) -> float:
    """Return CPU µs a call of summing up a full hour, which is made of what the last round left."""
    while (calls := warehouse.rows("SELECT count() FROM requests")[0][0]) < HOUR:
        warehouse.command("INSERT INTO requests SELECT * FROM requests")
    await _merged(warehouse)
    return await _cpu_us(lambda: asyncio.to_thread(_sum_up, warehouse)) / calls


def _sum_up(warehouse: Warehouse) -> None:
    """Compute the sums of the hours that the spans started in, as the upkeep does when an hour is over."""
    hours = warehouse.rows("SELECT DISTINCT toStartOfHour(started_at, 'UTC') FROM requests")
    rollup.roll(warehouse, [hour.replace(tzinfo=timezone.utc) for (hour,) in hours])


async def _merged(warehouse: Warehouse) -> None:
    """Wait until no merge is under way."""
    quiet = 0
    while quiet < 3:
        merging = warehouse._client().query("SELECT count() FROM system.merges").result_rows[0][0]
        quiet = 0 if merging else quiet + 1
        await asyncio.sleep(0.1)


async def _cpu_us(act: Callable[[], Awaitable[None]]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    await act()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e6


class Application:
    """Calls an ASGI application as a server would, without the sockets."""

    def __init__(self, application: Asgi) -> None:
        self._application = application
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message] = asyncio.Queue()

    async def start(self) -> None:
        scope: Scope = {"type": "lifespan"}
        self._life = asyncio.create_task(self._run(scope))
        await self._tell("lifespan.startup")

    async def stop(self) -> None:
        await self._tell("lifespan.shutdown")
        await self._life

    async def _run(self, scope: Scope) -> None:
        await self._application(scope, self._told.get, self._said.put)

    async def _tell(self, event: str) -> None:
        await self._told.put({"type": event})
        answer = await self._said.get()
        assert answer["type"] == f"{event}.complete", answer

    async def post(self, path: str, content: bytes, key: str) -> int:
        """Return the status that a sender would get."""
        headers = [(b"content-type", b"application/x-protobuf"), (semconv.HEADER_TENANT_KEY.encode(), key.encode())]
        scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
        said: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Message) -> None:
            said.append(message)

        await self._application(scope, receive, send)
        return int(str(said[0]["status"]))


def body(number: int, started_ns: int = 1_795_000_000_000_000_000) -> bytes:
    """Return an OTLP body as an instrumented service sends it: 512 spans, 10 resource and 20 span attributes."""
    chance = random.Random(number)
    resource_attributes = [
        ("service.name", f"shop-{number % 4}"), ("service.version", "1.4.2"), ("deployment.environment.name", "prod"),
        ("host.name", f"node-{number % 4}"), ("k8s.pod.name", f"shop-7f9c5d-x{number % 4}"),
        ("k8s.namespace.name", "inference"), ("telemetry.sdk.language", "python"),
        ("telemetry.sdk.name", "opentelemetry"), ("telemetry.sdk.version", "1.45.2"), ("process.pid", 4711),
    ]  # fmt: skip
    spans = [_span(chance, started_ns + (number * SPANS_IN_BODY + n) * 1_000_000) for n in range(SPANS_IN_BODY)]
    return otlp.traces(resource_attributes, "opentelemetry.instrumentation.openai_v2", "2.1b0", spans)


def _span(chance: random.Random, started: int) -> bytes:
    provider, model = chance.choice(MODELS)
    tokens_in, tokens_out = int(chance.lognormvariate(6.3, 1)), int(chance.lognormvariate(5, 0.8))
    attributes = otlp.attributes([
        (semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, provider),
        (semconv.REQUEST_MODEL, model), (semconv.RESPONSE_MODEL, model),
        (semconv.RESPONSE_ID, f"chatcmpl-{chance.getrandbits(128):032x}"),
        (semconv.REQUEST_MAX_TOKENS, 1024), ("gen_ai.request.temperature", 0.7),
        (semconv.RESPONSE_FINISH_REASONS, ("stop",)),
        (semconv.USAGE_INPUT_TOKENS, tokens_in), (semconv.USAGE_OUTPUT_TOKENS, tokens_out),
        (semconv.USAGE_CACHE_READ_TOKENS, int(tokens_in * chance.random())),
        (semconv.SERVER_ADDRESS, f"api.{provider}.com"), (semconv.SERVER_PORT, 443),
        (semconv.TEAM, f"team-{chance.randrange(20)}"), (semconv.FEATURE, f"feature-{chance.randrange(8)}"),
        (semconv.USER, f"user-{chance.randrange(500)}"), (semconv.RESPONSE_TTFC, chance.lognormvariate(-1, 0.5)),
        (semconv.REQUEST_STREAM, chance.random() < 0.7), (semconv.tag_attribute("tier"), "batch"),
        (semconv.REQUEST_HASH, hashlib.sha256(str(chance.randrange(10_000)).encode()).hexdigest()),
    ])  # fmt: skip
    ended = started + int(chance.lognormvariate(7, 0.7) * 1e6)
    return otlp.span(chance.randbytes(16), chance.randbytes(8), b"", f"chat {model}", (started, ended), attributes)


if __name__ == "__main__":
    raise SystemExit(main())
