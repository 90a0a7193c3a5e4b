"""What the DSN of a warehouse says: an embedded folder or a server, and what of it may be shown."""
from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from farthing.warehouse.sql import literal

_CHDB = "chdb://"


def folder_of(dsn: str) -> Path | None:
    """Return the folder of an embedded store, None for a server."""
    return Path(dsn.removeprefix(_CHDB)) if dsn.startswith(_CHDB) else None


def login(dsn: str) -> str:
    """Return how a server's dictionary logs in to its own server: as the DSN does."""
    parts = urlsplit(dsn)
    if folder_of(dsn) is not None or not parts.username:
        return ""
    return f"USER {literal(unquote(parts.username))} PASSWORD {literal(unquote(parts.password or ''))} "


def public(dsn: str) -> str:
    """Return the DSN without its user and password."""
    head, at, tail = dsn.rpartition("@")
    return f"{head.split('://', 1)[0]}://…@{tail}" if at else dsn
