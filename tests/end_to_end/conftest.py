"""The whole platform, started as a user starts it, once for all end-to-end tests."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from farthing.http_json import call
from tests.ports import free_ports
from tests.until import until

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS: tuple[str, ...] = ("collector", "dashboard", "policies", "proxy", "engine", "analyzer")


@dataclass
class Platform:
    """A running `farthing up`."""

    process: subprocess.Popen[str]
    ports: dict[str, int]
    data_dir: Path
    environ: dict[str, str]
    lines: list[str]

    def url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.ports[part]}"

    def get(self, part: str, path: str) -> Any:
        return call("GET", self.url(part) + path)

    def post(self, part: str, path: str, body: object = None) -> Any:
        return call("POST", self.url(part) + path, body)

    def apply(self, document: str) -> int:
        """Apply policies and return their version; does not wait for the proxy."""
        return self.post("policies", "/v1/apply?author=test&reason=test", document)["version"]

    def until_applied(self, version: int) -> None:
        until(lambda: self.get("proxy", "/v1/status")["policy_version"] >= version, "the proxy runs the policies")

    def until_quiet(self) -> None:
        """Wait until every span and every settlement has arrived where it belongs."""

        def is_quiet() -> bool:
            status = self.get("proxy", "/v1/status")
            return not (status["spans_waiting"] or status["settlements_waiting"] or status["in_flight"])

        until(is_quiet, "the proxy has nothing left to send")
        self.post("collector", "/v1/flush")

    def ask(self, question: str, **parameters: object) -> list[dict[str, Any]]:
        return self.post("analyzer", f"/v1/ask/{question}", parameters)["rows"]

    def totals(self, team: str) -> dict[str, Any]:
        return self.ask("totals", teams=[team], models=[])[0]

    def budget(self, name: str) -> dict[str, Any]:
        return next(one for one in self.get("policies", "/v1/budgets")["budgets"] if one["name"] == name)

    def pid_of(self, part: str) -> int:
        """Return the process id of a child of this `farthing up`."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            words = path.read_bytes().split(b"\0")
            if part.encode() in words and str(self.process.pid).encode() in words and b"--parent" in words:
                return int(path.parent.name)
        raise AssertionError(f"no process runs {part}")

    def run_app(self, code: str) -> Any:
        """Run an application that knows two addresses only; return the JSON of its last line."""
        environ = {
            **os.environ,
            "OPENAI_BASE_URL": f"{self.url('proxy')}/v1",
            "OPENAI_API_KEY": "any",
            "OTEL_SERVICE_NAME": "test-app",
            "FARTHING_COLLECTOR_URL": self.url("collector"),
            "FARTHING_PROXY_URL": self.url("proxy"),
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])


def now() -> datetime:
    return datetime.now(timezone.utc)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    data_dir = tmp_path_factory.mktemp("platform")
    ports = dict(zip(PARTS, free_ports(len(PARTS)), strict=True))
    environ = {**os.environ, "FARTHING_DATA_DIR": str(data_dir)}
    environ |= {f"FARTHING_{part.upper()}_PORT": str(port) for part, port in ports.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "farthing", "up"], cwd=REPOSITORY, env=environ, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))  # type: ignore[union-attr]
    reader.start()
    until(
        lambda: any(line.startswith("ready") for line in lines) or process.poll() is not None, "the platform is up", 300
    )
    assert process.poll() is None, "".join(lines)
    yield Platform(process, ports, data_dir, environ, lines)
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 0, "".join(lines)
    reader.join()
    process.stdout.close()
