"""Files that are still there, and whole, after a power cut."""
from __future__ import annotations

import os
from pathlib import Path


def write_all(descriptor: int, buffer: bytes) -> None:
    """Write every byte: a full disk writes short without an error, so the return value decides."""
    left = memoryview(buffer)
    while left:
        left = left[os.write(descriptor, left) :]


def write_durably(path: Path, content: bytes) -> None:
    """Write a file; its name is on the disk once its folder is synced too."""
    with path.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Put other content behind a name, whole or not at all."""
    beside = path.with_suffix(".tmp")
    write_durably(beside, content)
    beside.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
