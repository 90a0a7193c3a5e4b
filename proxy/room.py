"""Room on the disk for a file that is mapped: taken when the file is made, since a store that finds none is fatal.

A page of mapped memory that the disk has no block for is a signal and no error: a full disk would kill the worker.
"""
from __future__ import annotations

import os


def take_room(fd: int, size: int) -> None:
    """Have a file `size` bytes long, all of them on the disk.

    Raises:
        OSError: the disk has not got them.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    elif os.fstat(fd).st_size < size:  # macOS: a full disk is as dangerous there as it was
        os.ftruncate(fd, size)
