"""What a backup holds, and the proof that it still does: a manifest with the SHA-256 of every file beside it.

The manifest is written last and names its own digest in a second file, so that a backup without both is none.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farthing.durable import sync
from farthing.errors import BackupError

NAME = "manifest.json"
FORMAT = 1


def write(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Hash and sync every file below `folder`, write the manifest, and return it."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    document = {"format": FORMAT, **facts, "files": files}
    path = folder / NAME
    path.write_text(json.dumps(document, indent=1), "utf-8")
    _digest_file(folder).write_text(f"{_sha256(path)}  {NAME}\n", "utf-8")
    for one in (*(folder / name for name in files), path, _digest_file(folder)):
        sync(one)
    for one in (*sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True), folder):
        sync(one)
    return document


def verified(folder: Path) -> dict[str, Any]:
    """Return the manifest of a backup whose every file is as it was written.

    Raises:
        BackupError: a file is missing or has other bytes; the message names it.
    """
    path = folder / NAME
    try:
        expected = _digest_file(folder).read_text("utf-8").split()[:1]
        if expected != [_sha256(path)]:
            raise BackupError(f"{path} is not what was written; nothing was restored")
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BackupError(f"{folder} is no whole backup ({error}); name a folder that `farthing backup` made") from None
    if document["format"] != FORMAT:
        raise BackupError(f"{path} has format {document['format']}, this version reads {FORMAT}; update Farthing")
    for name, facts in document["files"].items():
        _refuse_if_other(folder / name, facts)
    return document


def _refuse_if_other(path: Path, facts: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise BackupError(f"{path} is missing from the backup; nothing was restored")
    if path.stat().st_size != facts["bytes"] or _sha256(path) != facts["sha256"]:
        raise BackupError(f"{path} is not what was written; nothing was restored")


def _digest_file(folder: Path) -> Path:
    return folder / f"{NAME}.sha256"


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
