"""The servers that a benchmark measures: each in a process of its own, and what that process has used."""
from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@contextmanager
def process(
    command: list[str], port: int, core: int | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run a server, on one core where it is named, until it listens; yield its process id."""
    started = subprocess.Popen(command, env={**os.environ, **(environ or {})}, cwd=Path(__file__).parent.parent)
    if core is not None:
        pin(started.pid, core)
    try:
        _wait_for(port, started)
        yield started.pid
    finally:
        started.terminate()
        started.wait(60)


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, where the machine has as many."""
    os.sched_setaffinity(pid, {core % (os.cpu_count() or 1)})


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far, its threads and its living descendants included, seconds."""
    stats = _stats()
    family, parents = {pid}, {one: int(fields[1]) for one, fields in stats.items()}
    while more := {one for one, parent in parents.items() if parent in family and one not in family}:
        family |= more
    return sum(int(stats[one][11]) + int(stats[one][12]) for one in family & stats.keys()) / TICKS_PER_S


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _stats() -> dict[int, list[str]]:
    """Return the fields of /proc/<pid>/stat behind the name, of every process."""
    found: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(") ")[2].split()
    return found


def _wait_for(port: int, started: subprocess.Popen[bytes]) -> None:
    for _ in range(2400):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if started.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"{started.args} does not listen on {port}")
