"""`farthing backup` and `farthing restore`: all that is kept, in one folder, with the proof that it is the same."""
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from farthing.errors import BackupError
from farthing.settings import Settings


def add_commands(app: typer.Typer, settings: Callable[[], Settings]) -> None:
    """Add both commands to the command line."""

    @app.command()
    def backup(path: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")]) -> None:
        """Copy warehouse, control database, spool and hash key into a folder; the platform may be running."""
        _tell("backed up", _backed_up(settings(), path.absolute()))
        _say(f"backup    {path}")

    @app.command()
    def restore(
        path: Annotated[Path, typer.Argument(help="A folder that `farthing backup` made.", exists=True)],
        replace: Annotated[bool, typer.Option("--replace", help="Move what is there aside.")] = False,
    ) -> None:
        """Put a backup back and prove that every row is the same; the platform must be stopped."""
        from farthing.restore import restore_backup
        from farthing.supervisor import is_ready

        chosen = settings()
        for part in ("collector", "policies"):
            if is_ready(f"{chosen.url(part)}/healthz"):
                raise BackupError(f"{part} is running at {chosen.url(part)}; stop the platform, then restore")
        _tell("restored", restore_backup(chosen, path.absolute(), replace))

    del backup, restore  # typer has them


def _backed_up(settings: Settings, path: Path) -> dict[str, Any]:
    """Have the running collector write the backup, because it owns the store; else write it here."""
    from farthing.backup import write_backup
    from farthing.http_json import call
    from farthing.supervisor import is_ready
    from farthing.warehouse import Warehouse

    if is_ready(f"{settings.url('collector')}/healthz"):
        key = settings.ingest_keys[0].key if settings.ingest_keys else ""
        url = f"{settings.url('collector')}/v1/backup"
        return call("POST", url, {"path": str(path)}, timeout_s=6 * 3600, key=key, token=settings.control_token)
    if not settings.warehouse and not (settings.data_dir / "warehouse").exists():
        raise BackupError(f"{settings.data_dir} holds no warehouse; name the folder with FARTHING_DATA_DIR")
    warehouse = Warehouse(settings.warehouse_dsn, repair=False, cluster=settings.warehouse_cluster)
    try:
        return write_backup(settings, warehouse, path)
    finally:
        warehouse.close()


def _tell(done: str, document: dict[str, Any]) -> None:
    """Say what was proved: rows and checksum of every table, and the files' hashes."""
    for table in document["tables"]:
        content = table["content"]
        money = f"  {content['cost_usd']} USD" if table["name"] == "requests" else ""  # sums hold it several times
        _say(f"{table['name']:<24}{content['rows']:>12} rows  checksum {content['checksum']:>20}{money}")
    size = sum(facts["bytes"] for facts in document["files"].values())
    _say(f"{done}: {len(document['files'])} files, {size} bytes, every SHA-256 and checksum agrees")
    if document["left_out"]:
        _say(f"not in it: {document['left_out']}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
