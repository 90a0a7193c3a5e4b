"""The folder of an embedded store: who has it open, whether it has room, and where a broken one is put."""
from __future__ import annotations

import fcntl
import mmap
from datetime import datetime
from pathlib import Path

from farthing.disk import free_bytes
from farthing.errors import WarehouseError


def refuse_if_in_use(path: Path) -> None:
    """ClickHouse locks `<path>/status`; chDB itself reports a locked folder like a broken one."""
    status = path / "status"
    if not status.exists():
        return
    with status.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WarehouseError(
                f"the warehouse {path} is in use by another process; stop that one, "
                "or set FARTHING_DATA_DIR to another folder"
            ) from None
        fcntl.flock(handle, fcntl.LOCK_UN)


def is_full(path: Path) -> bool:
    """Tell whether the store may not open for want of room; such a one is whole."""
    return free_bytes(path) < 16 * 2**20


def set_aside(path: Path, why: str) -> Path:
    """Rename the folder, so that a new store can take its place; return where it is now."""
    aside = path.with_name(f"{path.name}.{why}-{datetime.now():%Y%m%dT%H%M%S}")
    path.rename(aside)
    return aside


def resident_bytes() -> int:
    """Return the memory that this process holds; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * mmap.PAGESIZE
