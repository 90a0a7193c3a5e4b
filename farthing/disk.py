"""The disk below a folder: what room it has, and when what was written is really on it."""
from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import cast


def free_bytes(folder: Path) -> int:
    """Return the bytes that are left to us on the disk of `folder`."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def sync_filesystem(folder: Path) -> None:
    """Wait until everything that was written to the file system of `folder` is on its disk (syncfs, Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if cast(int, libc.syncfs(descriptor)) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(descriptor)
