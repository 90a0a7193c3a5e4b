"""Copies everything that Farthing keeps into one folder: warehouse, control database, audit, spool, hash key.

The folder has its name only once it is whole: until then it is `<name>.partial`, which is removed where anything fails.
The caller sees to it that nothing is inserted meanwhile; what senders bring lies in the spool, which is copied first,
so that a segment is in the copy of the spool, of the warehouse, or of both, where the next start compares them.
"""
from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from farthing import __version__, audit, manifest
from farthing.errors import BackupError, FarthingError
from farthing.settings import Settings
from farthing.warehouse import Warehouse, dump
from farthing.warehouse.lane import LANES

_SQLITE = "sqlite:///"


def write_backup(settings: Settings, warehouse: Warehouse, target: Path) -> dict[str, Any]:
    """Write a backup to `target`, a folder that does not exist yet, and return its manifest.

    Raises:
        BackupError: the folder is there, or something could not be copied; nothing is left behind.
        WarehouseError: the store refused.
    """
    if target.exists():
        raise BackupError(f"{target} is there already; name a folder that does not exist")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        document = _write(settings, warehouse, partial)
        partial.rename(target)
    except (OSError, sqlite3.Error, FarthingError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, FarthingError):
            raise
        raise BackupError(f"the backup {target} cannot be written: {error}; nothing was left behind") from error
    return document


def control_file(settings: Settings) -> Path | None:
    """Return the file of the control database; None where another server keeps it."""
    url = settings.control_db_url
    return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None


def _write(settings: Settings, warehouse: Warehouse, folder: Path) -> dict[str, Any]:
    for lane in LANES:
        spool = settings.data_dir / lane.folder
        _copy_files(_spooled(spool), spool, folder / lane.folder)
    tables = dump.write(warehouse, folder / "warehouse")
    control = control_file(settings)
    has_control = control is not None and control.exists()
    if control is not None and has_control:
        _copy_database(control, folder / "control.db")
    if (writes := settings.data_dir / audit.FILE).exists():
        _copy_database(writes, folder / audit.FILE)
    _copy_files(settings.data_dir.glob("hash.key"), settings.data_dir, folder)
    applied = warehouse.rows("SELECT DISTINCT name FROM schema_migrations ORDER BY name")
    facts = {
        "farthing": __version__,
        "made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "migrations": [str(row[0]) for row in applied],
        "tables": [table.as_json() for table in tables],
        "left_out": "" if has_control else _left_out(settings.control_db_url, control),
    }
    return manifest.write(folder, facts)


def _left_out(url: str, control: Path | None) -> str:
    why = "back it up with its own tools" if control is None else "there is no such file"
    return f"control database {_public(url)}; {why}"


def _spooled(spool: Path) -> Iterable[Path]:
    """Return what the spool holds: segments, the digests of earlier ones, and dead letters."""
    return (path for path in sorted(spool.rglob("*")) if path.is_file() and path.suffix != ".tmp")


def _copy_files(paths: Iterable[Path], root: Path, target: Path) -> None:
    for path in list(paths):
        copy = target / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy2(path, copy)
        except FileNotFoundError:  # digests are let go when their time is over
            if path.suffix != ".seen":
                raise


def _copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite database that others may be writing, as one state of it."""
    read_only = f"{source.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(read_only, uri=True, timeout=60)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
        ((verdict,),) = copy.execute("PRAGMA integrity_check").fetchall()
    if verdict != "ok":
        raise BackupError(f"the database {source} is damaged: {verdict}")


def _public(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.split('://', 1)[0]}://…@{tail}" if at else url
