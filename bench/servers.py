"""The servers that a benchmark measures: each in a process of its own, and what that process has used."""
from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path


@contextmanager
def process(
    command: list[str],
    port: int,
    core: int | None = None,
    environ: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[int]:
    """Run a server, on one core where it is named, until it listens; yield its process id. `log` takes what it says."""
    env, root = {**os.environ, **(environ or {})}, Path(__file__).parent.parent
    with log.open("wb") if log else nullcontext() as said:
        started = subprocess.Popen(command, env=env, cwd=root, stdout=said, stderr=said and subprocess.STDOUT)
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
    family, parents = {pid}, _parents()
    while more := {one for one, parent in parents.items() if parent in family and one not in family}:
        family |= more
    return sum(_own_cpu_s(one) for one in family)


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _own_cpu_s(pid: int) -> float:
    """Return the time of one process, with the threads that have ended, in nanoseconds' steps.

    Its clock, clock_getcpuclockid(3): /proc/<pid>/stat has steps of 10 ms, and the task folder only living threads.
    """
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:  # it has ended
        return 0.0


def _parents() -> dict[int, int]:
    """Return the parent of every process."""
    found: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended
                found[int(entry.name)] = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
    return found


def _wait_for(port: int, started: subprocess.Popen[bytes]) -> None:
    for _ in range(2400):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if started.poll() is not None:
            break
        time.sleep(0.05)
    raise SystemExit(f"{started.args} does not listen on {port}")
