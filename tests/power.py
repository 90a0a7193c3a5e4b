"""A disk that can lose its power: an ext4 image on a loop device, whose file system is shut down under its users."""
from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.until import until

EXT4_IOC_SHUTDOWN, NOLOGFLUSH = 0x8004587D, 2  # drops every unsynced page and the unflushed journal, as xfstests do


class Disk:
    """A file system on a loop device that can lose its power."""

    def __init__(self, image: Path, mount: Path, megabytes: int) -> None:
        self.image, self.mount = image, mount
        mount.mkdir()
        subprocess.run(["truncate", "-s", f"{megabytes}M", image], check=True)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
        self.on()

    def on(self) -> None:
        subprocess.run(["mount", "-o", "loop", self.image, self.mount], check=True, capture_output=True)

    def cut(self, pid: int) -> None:
        """Take the power from the disk and, with it, from the process that writes to it.

        A sync under way may return without an error though the file system is down already, and what a machine without
        power acknowledged then nobody could have heard: so the process stops first, and no thread of it goes on.
        """
        os.kill(pid, signal.SIGSTOP)
        until(lambda: not running(pid), "every thread stands still")
        descriptor = os.open(self.mount, os.O_RDONLY)
        fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        os.close(descriptor)

    def off(self) -> None:
        subprocess.run(["umount", self.mount], check=True, capture_output=True)


def running(pid: int) -> list[str]:
    """Return the threads of a process that are neither stopped nor in the system, where they stop as they leave it."""
    stats: list[str] = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it ended just now
            stats.append(path.read_text())
    return [stat for stat in stats if stat.rpartition(")")[2].split()[0] not in "TtDZX"]


@contextmanager
def powered(folder: Path, megabytes: int) -> Iterator[Disk]:
    """Mount a disk below `folder`; skips the test where that needs rights or tools that are not here."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("a power cut needs root and mkfs.ext4")
    try:
        made = Disk(folder / "disk.img", folder / "disk", megabytes)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop device can be mounted here: {error.stderr!r}")
    yield made
    subprocess.run(["umount", "-l", made.mount], check=False, capture_output=True)
