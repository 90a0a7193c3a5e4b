"""What the collector promises while its store is stopped for minutes and senders do not slow down.

The file is also the process whose memory is watched: `python test_away_proof.py FOLDER PORT DSN` is a whole collector.
The short form of this is in test_proof.py: a store that is away costs refusals that are counted and no memory.
"""
from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from google.rpc.status_pb2 import Status

from collector.main import app
from farthing import otlp, semconv
from farthing.serving import Site, run
from farthing.settings import Settings
from farthing.warehouse import Warehouse
from tests.clickhouse_http import ClickHouse
from tests.ports import free_port
from tests.until import until

REPOSITORY = Path(__file__).resolve().parents[2]
SENDERS = 4  # connections, each as fast as it is answered, and none waits as Retry-After asks
SPANS = 256  # in a body
SPOOL_BYTES = 512 * 2**20
BEFORE_S, STOPPED_S = 10, 180
PEAK_MB = 400  # of the collector
TRACE = b"\xff" * 16  # stands in a body for the trace that it gets


def serve(folder: Path, port: int, dsn: str) -> None:
    """Be a collector, until terminated."""
    settings = Settings(data_dir=folder, warehouse=dsn, collector_grpc_port=0, spool_max_bytes=SPOOL_BYTES)
    warehouse = Warehouse(dsn)
    try:
        asyncio.run(run([Site("collector", app(settings, warehouse), "127.0.0.1", port)]))
    finally:
        warehouse.close()


@contextmanager
def collector(folder: Path, dsn: str) -> Iterator[tuple[int, int]]:
    """Run one as a process of its own; yield its port and its pid."""
    port = free_port()
    command = [sys.executable, __file__, str(folder), str(port), dsn]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    try:
        until(lambda: child.poll() is not None or _answers(port), "it listens")
        yield port, child.pid
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def ask(port: int, method: str, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path)
    said = connection.getresponse().read()
    connection.close()
    return json.loads(said)


class Senders:
    """Send bodies with spans of their own until told to stop, and count the answers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._body = body()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.sent = 0  # spans
        self.answers: Counter[str] = Counter()  # spans by "stored", or by why they were refused
        self._threads = [threading.Thread(target=self._send) for _ in range(SENDERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        while not self._stop.is_set():
            with self._lock:
                self.sent += SPANS
            connection.request("POST", "/v1/traces", self._fresh(), {"content-type": "application/x-protobuf"})
            response = connection.getresponse()
            said = response.read()
            with self._lock:
                self.answers["stored" if response.status == 200 else _reason(response.status, said)] += SPANS
        connection.close()

    def _fresh(self) -> bytes:
        return self._body.replace(TRACE, os.urandom(16))


def body() -> bytes:
    """Return a body of one trace, every span with the attributes of a usual call."""
    started = time.time_ns()
    attributes = otlp.attributes([
        (semconv.OPERATION_NAME, "chat"), (semconv.PROVIDER_NAME, "openai"), (semconv.REQUEST_MODEL, "gpt-4o-mini"),
        (semconv.RESPONSE_MODEL, "gpt-4o-mini"), (semconv.USAGE_INPUT_TOKENS, 1000), (semconv.USAGE_OUTPUT_TOKENS, 200),
        (semconv.TEAM, "search"), (semconv.FEATURE, "answers"), (semconv.USER, "someone"),
        (semconv.SERVER_ADDRESS, "api.openai.com"),
    ])  # fmt: skip
    ids = [number.to_bytes(8, "big") for number in range(1, SPANS + 1)]
    spans = [otlp.span(TRACE, one, b"", "chat", (started, started + 10**9), attributes) for one in ids]
    return otlp.traces([("service.name", "shop")], "test", "1", spans)


def _reason(status: int, said: bytes) -> str:
    """Return why a body was refused, without the figures and the paths in it."""
    why = Status.FromString(said).message
    return f"{status}: " + re.sub(r"\d+", "N", re.sub(r"/\S+", "…", why))


def peak_mb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.proof
def test_a_store_that_is_stopped_for_minutes_at_full_rate_loses_and_doubles_nothing(tmp_path: Path) -> None:
    server = ClickHouse(tmp_path / "clickhouse")
    server.start()
    try:
        with collector(tmp_path / "home", server.dsn) as (port, pid):
            until(lambda: ask(port, "GET", "/v1/status")["retention"]["ran_at"] != "", "the store has its tables")
            senders = Senders(port)
            senders.start()
            time.sleep(BEFORE_S)
            server.kill()
            stopped = time.monotonic()
            time.sleep(STOPPED_S)
            took = time.monotonic() - stopped
            server.start()
            senders.stop()
            until(lambda: ask(port, "GET", "/v1/status")["spool_bytes"] == 0, "the spool is empty", 1200)
            peak, status = peak_mb(pid), ask(port, "GET", "/v1/status")
        reader = Warehouse(server.dsn)
        ((rows, spans),) = reader.rows("SELECT count(), uniqExact(TraceId, SpanId) FROM otel_traces")
        ((calls,),) = reader.rows("SELECT count() FROM requests")
        reader.close()
    finally:
        server.stop()
    refused = {why: count for why, count in senders.answers.items() if why != "stored"}
    print(f"the store was stopped for {took:.0f} s at {senders.sent / (BEFORE_S + took):,.0f} spans a second")
    print(f"sent {senders.sent} = stored {rows} + refused {sum(refused.values())}, by reason {refused}")
    print(f"lost {senders.answers['stored'] - spans}, duplicated {rows - spans}; peak memory {peak} MB")
    assert senders.sent == rows + sum(refused.values())
    assert rows == spans == calls == senders.answers["stored"] == status["accepted_spans"]
    assert status["dead_letters"] == 0 and refused and peak < PEAK_MB


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
