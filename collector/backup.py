"""Who may ask a running collector for a backup, and where it goes.

Only someone on this machine: the folder is on this machine, and a page in a browser must not reach it either, which is
why the request has to be JSON (a page's request across origins would be asked about first, and is not answered).
"""
from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from farthing.errors import IngestError
from farthing.serving import Scope


def header_map(scope: Scope) -> dict[str, str]:
    """Return the headers of a request, names in lower case."""
    return {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}


def content_type(headers: Mapping[str, str]) -> str:
    """Return the type that a request's body is said to have, in lower case and without its parameters."""
    return headers.get("content-type", "").split(";")[0].strip().lower()


def backup_target(scope: Scope, body: bytes) -> Path:
    """Return the folder that a request names.

    Raises:
        IngestError: 401 for a request from elsewhere, 415 and 400 for one that names no folder.
    """
    client = scope.get("client")
    if client is None or not ip_address(client[0]).is_loopback:
        raise IngestError(401, "a backup is asked for on the machine itself: run `farthing backup PATH` there")
    if content_type(header_map(scope)) != "application/json":
        raise IngestError(415, 'send application/json: {"path": "/an/absolute/folder"}')
    try:
        path = Path(json.loads(body)["path"])
    except (ValueError, KeyError, TypeError):
        raise IngestError(400, 'the body names no folder; send {"path": "/an/absolute/folder"}') from None
    if not path.is_absolute():
        raise IngestError(400, f"path {str(path)!r} is not absolute; send a folder such as /var/backups/farthing-1")
    return path
