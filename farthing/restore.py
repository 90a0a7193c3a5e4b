"""Puts a backup back, into a folder (or an empty server) of its own, and proves that the same rows are there.

Every file is verified before anything is touched. An embedded store is filled beside the place that it is to take and
moved there when its checksums agree, so that a restore that fails leaves what was there before.
"""
from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from farthing import audit, manifest
from farthing.backup import control_file
from farthing.disk import sync_filesystem
from farthing.errors import BackupError
from farthing.settings import Settings
from farthing.warehouse import Warehouse, dump
from farthing.warehouse.dsn import folder_of
from farthing.warehouse.embedded import refuse_if_in_use
from farthing.warehouse.lane import LANES
from farthing.warehouse.migrate import shipped


def restore_backup(settings: Settings, source: Path, replace: bool = False) -> dict[str, Any]:
    """Restore the backup `source` and return its manifest.

    Args:
        replace: what is there is moved aside (a server's tables: emptied) instead of being a reason to refuse.

    Raises:
        BackupError: the backup is not whole, the target is not empty, or the rows came out different.
        WarehouseError: the store refused, or is open in another process.
    """
    document = manifest.verified(source)
    unknown = sorted(set(document["migrations"]) - {migration.name for migration in shipped()})
    if unknown:
        made_by = document["farthing"]
        raise BackupError(f"the backup was made by a newer version ({made_by}, with {unknown[0]}); update Farthing")
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    staging = settings.data_dir / f"restoring-{datetime.now():%Y%m%dT%H%M%S%f}"
    folder = folder_of(settings.warehouse_dsn)
    if folder is not None:
        refuse_if_in_use(folder)
    held = list(_held(settings))
    if held and not replace:
        raise BackupError(
            f"{held[0]} is there already; restore into an empty FARTHING_DATA_DIR, or say --replace to move it aside"
        )
    staging.mkdir()
    try:
        _fill_warehouse(settings, source, document, staging / "warehouse" if folder else None, replace)
        places = _stage_files(settings, source, staging)
        if folder is not None:
            places[staging / "warehouse"] = folder
        sync_filesystem(staging)
        _move(held, places)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return document


def _held(settings: Settings) -> Iterator[Path]:
    """Yield what a restore would put itself in the place of."""
    control = control_file(settings)
    spools = (settings.data_dir / lane.folder for lane in LANES)
    files = (settings.data_dir / name for name in (audit.FILE, "hash.key"))
    for path in (folder_of(settings.warehouse_dsn), control, *files, *spools):
        if path is not None and path.exists() and (path.is_file() or any(path.iterdir())):
            yield path


def _fill_warehouse(
    settings: Settings, source: Path, document: Mapping[str, Any], folder: Path | None, replace: bool
) -> None:
    tables = [dump.Table.from_json(entry) for entry in document["tables"]]
    dsn = f"chdb://{folder}" if folder else settings.warehouse_dsn
    warehouse = Warehouse(dsn, repair=False, cluster=settings.warehouse_cluster)
    try:
        warehouse.migrate()
        filled = sorted(name for name, rows in dump.row_counts(warehouse).items() if rows)
        if filled and not replace:
            raise BackupError(f"the warehouse has rows in {', '.join(filled)}; say --replace to delete them")
        for name in filled:
            warehouse.change(f"TRUNCATE TABLE {name}")
        dump.load(warehouse, source / "warehouse", tables)
    finally:
        warehouse.close()


def _stage_files(settings: Settings, source: Path, staging: Path) -> dict[Path, Path]:
    """Copy the other files; return where each is to be."""
    control = control_file(settings)
    places: dict[Path, Path] = {}
    for name, place in (
        ("control.db", control), *((name, settings.data_dir / name) for name in (audit.FILE, "hash.key")),
        *((lane.folder, settings.data_dir / lane.folder) for lane in LANES),
    ):  # fmt: skip
        if place is None or not (source / name).exists():
            continue
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy2
        copy(source / name, staging / name)
        places[staging / name] = place
    return places


def _move(held: list[Path], places: Mapping[Path, Path]) -> None:
    stamp = f"before-restore-{datetime.now():%Y%m%dT%H%M%S}"
    for path in held:
        for suffix in ("", "-wal", "-shm"):  # a database goes with its journal
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(path.with_name(f"{path.name}.{stamp}{suffix}"))
    for staged, place in places.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            place.rmdir()  # empty, or `held` would have named it
        staged.rename(place)
