"""Proxy workers as processes of their own, which can be killed, before the rig's upstream and control plane."""
from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from farthing import http_json
from tests.conftest import REPOSITORY
from tests.ports import free_port
from tests.proxy.rig import Rig
from tests.until import until


@dataclass(frozen=True)
class Workers:
    """Those that run behind one port."""

    url: str
    processes: list[subprocess.Popen[bytes]]

    def kill(self, pid: int) -> None:
        (killed,) = [process for process in self.processes if process.pid == pid]
        self.processes.remove(killed)
        killed.kill()
        killed.communicate()


@contextmanager
def workers(rig: Rig, folder: Path, max_in_flight: int = 0) -> Iterator[Workers]:
    """Run two proxy workers on one port; those that nobody killed have to end well."""
    port = free_port()
    started = [start(rig, folder, port, 2, max_in_flight, subprocess.PIPE) for _ in range(2)]
    made = Workers(f"http://127.0.0.1:{port}", started)
    try:
        for process in made.processes:
            until(lambda pid=process.pid: listens(pid, port), "a worker listens")
        yield made
    finally:
        for process in made.processes:
            process.terminate()
        said = [process.communicate(timeout=300)[1] for process in made.processes]
    assert not any(process.returncode for process in made.processes), said


@contextmanager
def process(rig: Rig, folder: Path, port: int, config: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Run a proxy alone until the block ends, or until it is killed before."""
    with start(rig, folder, port, config=config) as started:
        try:
            until(lambda: is_up(port), "the proxy answers")
            yield started
        finally:
            started.kill()


def start(
    rig: Rig, folder: Path, port: int, number: int = 1, max_in_flight: int = 0, stderr: int | None = None,
    config: str = "",
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start one of so many workers that serves `gpt-plain`, or what `config` says."""
    url = rig.settings.deployments[1].url
    (folder / "farthing.toml").write_text(
        config or f"[[deployments]]\nmodel = 'gpt-plain'\nurl = '{url}'\nprovider = 'openai'\nmetered = true\n"
        f"max_in_flight = {max_in_flight}\n"
        "[[prices]]\nprovider = 'openai'\nmodel = 'gpt-plain'\ninput = '1'\noutput = '2'\n"
    )
    environ = {
        **os.environ, "FARTHING_CONFIG": str(folder / "farthing.toml"), "FARTHING_DATA_DIR": str(folder / "data"),
        "FARTHING_PROXY_PORT": str(port), "FARTHING_PROXY_WORKERS": str(number),
        "FARTHING_POLICIES_URL": rig.policies, "FARTHING_COLLECTOR_URL": str(rig.settings.collector_url),
    }  # fmt: skip
    command = [sys.executable, "-m", "farthing", "proxy"]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environ, stderr=stderr)


def listens(pid: int, port: int) -> bool:
    """Tell whether process `pid` has a socket that listens on `port`."""
    inodes = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
              if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"}  # fmt: skip
    links: list[str] = []
    for entry in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            links.append(os.readlink(entry))
    return any(f"socket:[{inode}]" in links for inode in inodes)


def is_up(port: int) -> bool:
    try:
        http_json.call("GET", f"http://127.0.0.1:{port}/healthz")
    except Exception:  # noqa: BLE001 - whatever it is, it is not up
        return False
    return True
