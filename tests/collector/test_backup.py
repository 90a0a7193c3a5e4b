"""collector/backup.py: a running collector writes a backup for someone on its own machine, and for nobody else."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from collector.backup import backup_target
from farthing.errors import IngestError

BODY = b'{"path": "/var/backups/farthing"}'


def scope(address: str = "127.0.0.1", content_type: str = "application/json") -> dict[str, Any]:
    return {"client": (address, 4711), "headers": [(b"Content-Type", content_type.encode())]}


def test_a_request_from_this_machine_names_its_folder() -> None:
    assert backup_target(scope(), BODY) == Path("/var/backups/farthing")
    assert backup_target(scope("::1", "application/json; charset=utf-8"), BODY) == Path("/var/backups/farthing")


@pytest.mark.parametrize(
    ("asked", "body", "status", "says"),
    [
        (scope("192.0.2.7"), BODY, 401, "on the machine itself"),
        (scope("::ffff:192.0.2.7"), BODY, 401, "on the machine itself"),
        ({"client": None, "headers": []}, BODY, 401, "on the machine itself"),
        (scope(content_type="text/plain"), BODY, 415, "application/json"),
        (scope(), b"", 400, "names no folder"),
        (scope(), b'{"path": 7}', 400, "names no folder"),
        (scope(), b'["path"]', 400, "names no folder"),
        (scope(), b'{"path": "backups/one"}', 400, "not absolute"),
    ],
)
def test_other_requests_are_refused(asked: dict[str, Any], body: bytes, status: int, says: str) -> None:
    with pytest.raises(IngestError, match=says) as refused:
        backup_target(asked, body)
    assert refused.value.status == status
