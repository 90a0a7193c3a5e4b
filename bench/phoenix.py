"""CPU per stored span over HTTP: the collector's process beside Phoenix's (`arize-phoenix`), fed with the same bodies.

Phoenix answers before it stores, so each is given time until all that was sent is in its store, and the processor time
of the whole process tree up to there counts. Phoenix lives in a virtual environment of its own, made on the first run.
"""
from __future__ import annotations

import http.client
import sqlite3
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import ingest
from servers import cpu_s, free_port, process
from verdict import conclude

from farthing import http_json

RELEASE = "20.26.1"
LIMITS = {"phoenix_over_farthing": (">=", 200.0)}
BODIES = {"farthing": 400, "phoenix": 4}  # of 512 spans each; Phoenix stores some 120 spans a second
_ENVIRONMENT = Path(__file__).parent / ".cache" / f"phoenix-{RELEASE}"


def main() -> int:
    """Compare, and judge the ratio."""
    figures = compare()
    for name, value in figures.items():
        print(f"{name:28} {value:10.1f}")
    return conclude("phoenix", figures, LIMITS, phoenix=RELEASE)


def compare() -> dict[str, float]:
    """Return CPU µs per stored span of both, and how many times the one is the other."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = _phoenix(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        ours = _farthing(Path(folder))
    return {"farthing_us_per_span": ours, "phoenix_us_per_span": theirs, "phoenix_over_farthing": theirs / ours}


def _farthing(folder: Path) -> float:
    port = free_port()
    given = {"data_dir": folder, "collector_port": port, "collector_grpc_port": 0}
    options = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "farthing", *options, "collector"]
    address = f"http://127.0.0.1:{port}"

    def stored() -> int:
        status = http_json.call("POST", f"{address}/v1/flush")
        return 0 if status["spool_bytes"] and status["last_error"] else status["accepted_spans"]

    return _cpu_us_per_span("farthing", command, port, stored, {})


def _phoenix(folder: Path) -> float:
    port, grpc_port = free_port(), free_port()
    environ = {
        "PHOENIX_WORKING_DIR": str(folder), "PHOENIX_PORT": str(port), "PHOENIX_GRPC_PORT": str(grpc_port),
        "PHOENIX_HOST": "127.0.0.1", "PHOENIX_TELEMETRY_ENABLED": "false", "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
    }  # fmt: skip

    def stored() -> int:
        with sqlite3.connect(f"file:{folder / 'phoenix.db'}?mode=ro", uri=True, timeout=10) as database:
            return int(database.execute("SELECT count(*) FROM spans").fetchone()[0])

    return _cpu_us_per_span("phoenix", [str(_installed() / "phoenix"), "serve"], port, stored, environ)


def _installed() -> Path:
    """Return the folder with Phoenix's commands; install it where it is not there yet."""
    programs = _ENVIRONMENT / "bin"
    if not (programs / "phoenix").exists():
        print(f"installing arize-phoenix {RELEASE} into {_ENVIRONMENT}", file=sys.stderr)
        venv.create(_ENVIRONMENT, with_pip=True)
        subprocess.run([programs / "pip", "install", "-q", f"arize-phoenix=={RELEASE}"], check=True)
    return programs


def _cpu_us_per_span(
    name: str, command: list[str], port: int, stored: Callable[[], int], environ: dict[str, str]
) -> float:
    """Start a server, warm it up with one body, then send the rest and wait until it is stored."""
    warm, *bodies = [ingest.body(number) for number in range(BODIES[name] + 1)]
    with process(command, port, environ=environ) as pid:
        _send(port, [warm])
        _wait(lambda: stored() >= ingest.SPANS_IN_BODY)
        before = cpu_s(pid)
        _send(port, bodies)
        spans = len(bodies) * ingest.SPANS_IN_BODY
        _wait(lambda: stored() >= spans + ingest.SPANS_IN_BODY)
        return (cpu_s(pid) - before) * 1e6 / spans


def _send(port: int, bodies: Iterable[bytes]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for body in bodies:
        connection.request("POST", "/v1/traces", body, {"content-type": "application/x-protobuf"})
        answer = connection.getresponse()
        assert answer.status == 200, (answer.status, answer.read()[:200])
        answer.read()
    connection.close()


def _wait(is_done: Callable[[], bool], limit_s: float = 300.0) -> None:
    until = time.monotonic() + limit_s
    while not is_done():
        assert time.monotonic() < until, f"not done after {limit_s} s"
        time.sleep(0.5)


if __name__ == "__main__":
    raise SystemExit(main())
