"""A disk that can lose its power: an ext4 image on a loop device, whose file system is shut down under its users."""
from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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

    def cut(self) -> None:
        descriptor = os.open(self.mount, os.O_RDONLY)
        fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        os.close(descriptor)

    def off(self) -> None:
        subprocess.run(["umount", self.mount], check=True, capture_output=True)


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
