"""Claim: a flood does not make the collector grow, and at half its speed a light sender waits milliseconds.

    python bench/receive.py [--seconds 20] [--dir FOLDER]

The real server, its spool and its store in one process, on loopback; the senders are processes of their own. First
four connections send as fast as they are answered, then one keeps to half of what was stored in that time while
another sends ten spans at a time, 20 times a second, and notes how long each answer takes. Prints lines for people,
then one line of JSON; exit 1 on a missed limit.
"""
from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from ingest import SPANS_IN_BODY, body
from verdict import conclude

from collector.main import app
from farthing import otlp
from farthing.serving import Site, run
from farthing.settings import Settings
from farthing.warehouse import Warehouse

LIMITS = {
    "peak_rss_mb": ("<=", 900.0),
    "light_p99_ms": ("<=", 50.0),
    "unanswered_spans": ("<=", 0.0),  # sent, and neither accepted nor refused
}
CONNECTIONS = 4
HEADERS = {"content-type": "application/x-protobuf"}


def main() -> int:
    """Run the claim's measurements and judge them; or be one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=20, help="of each of the two parts")
    parser.add_argument("--dir", default=None, help="folder on the disk to measure")
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "serve":
        serve(Path(arguments.dir), arguments.port)
        return 0
    if arguments.role:
        acts = {"flood": flood, "light": light}
        print(json.dumps(acts[arguments.role](arguments.port, arguments.seconds, arguments.rate)))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        figures = measure(Path(folder), arguments.seconds)
    for name, value in figures.items():
        print(f"{name:28} {value:>12,.2f}")
    return conclude("receive", figures, LIMITS, chdb=version("chdb"), load=round(os.getloadavg()[0], 1))


def measure(folder: Path, seconds: float) -> dict[str, float]:
    """Return what the two parts of the run came to."""
    port = _free_port()
    collector = _process("serve", port, seconds, folder=folder)
    try:
        _until_up(port, collector)
        idle_rss_mb = _peak_rss_mb(collector.pid)
        begin = time.monotonic()
        flooding = json.loads(_process("flood", port, seconds).communicate()[0])
        flooded_rss_mb = _peak_rss_mb(collector.pid)
        _drain(port)
        rate = flooding["spans"] / (time.monotonic() - begin)
        half, lightly = _process("flood", port, seconds, rate / 2), _process("light", port, seconds)
        steady, waits = json.loads(half.communicate()[0]), json.loads(lightly.communicate()[0])
        _drain(port)
        accepted, peak_rss_mb = _status(port)["accepted_spans"], _peak_rss_mb(collector.pid)
    finally:
        collector.terminate()
        collector.wait()
    sent = flooding["spans"] + steady["spans"] + waits["spans"]
    return {
        "flood_accepted_spans_per_s": flooding["spans"] / seconds,
        "flood_stored_spans_per_s": rate,
        "flood_refused_bodies": flooding["refused"],
        "idle_rss_mb": idle_rss_mb,
        "flooded_rss_mb": flooded_rss_mb,
        "peak_rss_mb": peak_rss_mb,
        "half_spans_per_s": steady["spans"] / seconds,
        "light_answers": len(waits["ms"]),
        "light_p50_ms": statistics.median(waits["ms"]),
        "light_p99_ms": sorted(waits["ms"])[int(len(waits["ms"]) * 0.99)],
        "unanswered_spans": float(abs(sent - accepted)),
    }


def serve(folder: Path, port: int) -> None:
    """Be the collector, until terminated."""
    settings = Settings(data_dir=folder, collector_grpc_port=0)
    warehouse = Warehouse(settings.warehouse_dsn)
    try:
        asyncio.run(run([Site("collector", app(settings, warehouse), "127.0.0.1", port)]))
    finally:
        warehouse.close()


def flood(port: int, seconds: float, rate: float) -> dict[str, int]:
    """Send bodies as fast as they are answered, or so many spans a second where `rate` is set."""
    bodies = [(one, _marks(one)) for one in map(body, range(16))]
    counts, lock = Counter[str](), threading.Lock()
    begin = time.monotonic()

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        number = 0
        while (elapsed := time.monotonic() - begin) < seconds:
            if rate and (ahead := number * SPANS_IN_BODY / rate - elapsed) > 0:
                time.sleep(ahead)
            status = _post(connection, _fresh(*bodies[number % len(bodies)]))
            number += 1
            with lock:
                counts["spans"] += SPANS_IN_BODY * (status == 200)
                counts["refused"] += status != 200
            if status != 200:
                time.sleep(1)  # as Retry-After asks
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(1 if rate else CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: counts[name] for name in ("spans", "refused")}


def light(port: int, seconds: float, _rate: float) -> dict[str, Any]:
    """Send ten spans 20 times a second; note how long each answer takes, in ms."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    begin, waits, accepted = time.monotonic(), [], 0
    for number in range(int(seconds * 20)):
        time.sleep(max(0.0, begin + number / 20 - time.monotonic()))
        spans = [otlp.span(os.urandom(16), os.urandom(8), b"", "chat", (1, 2), b"") for _ in range(10)]
        one = otlp.traces([("service.name", "light")], "bench", "1", spans)
        started = time.perf_counter()
        accepted += 10 * (_post(connection, one) == 200)
        waits.append((time.perf_counter() - started) * 1000)
    return {"ms": waits, "spans": accepted}


def _marks(one: bytes) -> list[int]:
    """Return where eight bytes are that tell each span of a body, and each answer, from those of other bodies."""
    traces = [found.end() for found in re.finditer(rb"\x0a\x10(?=.{16}\x12\x08)", one, re.DOTALL)]
    return traces + [found.end() for found in re.finditer(b"chatcmpl-", one)]


def _fresh(one: bytes, marks: list[int]) -> bytes:
    """Return the body with spans and answers of its own: what was seen before is not stored again, or corrected."""
    body, own = bytearray(one), os.urandom(4).hex().encode()
    for at in marks:
        body[at : at + 8] = own
    return bytes(body)


def _post(connection: http.client.HTTPConnection, content: bytes, path: str = "/v1/traces") -> int:
    connection.request("POST", path, content, HEADERS)
    response = connection.getresponse()
    response.read()
    return response.status


def _status(port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/v1/status")
    return json.loads(connection.getresponse().read())


def _drain(port: int) -> None:
    """Wait until the store holds all that was accepted."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    _post(connection, b"", "/v1/flush")
    connection.close()


def _process(role: str, port: int, seconds: float, rate: float = 0, folder: Path | None = None) -> Any:
    command = [sys.executable, __file__, "--role", role, "--port", str(port), "--seconds", str(seconds)]
    command += ["--rate", str(rate), *(["--dir", str(folder)] if folder else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _until_up(port: int, collector: Any) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert collector.poll() is None, "the collector did not start"
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _peak_rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    raise SystemExit(main())
