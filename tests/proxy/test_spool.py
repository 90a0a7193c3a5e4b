"""proxy/spool.py: a body on the disk, and a disk that takes none."""
from __future__ import annotations

import os
from pathlib import Path

from proxy.spool import Spool


def test_a_body_is_there_as_it_came_and_has_no_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "uploads")
    for part in (b"one ", b"two"):
        spool.write(part)
    assert spool.file is not None and not spool.error
    spool.file.seek(0)
    assert spool.file.read() == b"one two" and os.listdir(tmp_path / "uploads") == []
    spool.close()
    assert spool.file is None


def test_a_disk_that_takes_nothing_is_said_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_text("a file where the folder should be")
    spool = Spool(tmp_path / "uploads")
    spool.write(b"x" * 100_000)
    spool.close()
    assert "uploads" in spool.error and spool.file is None


def test_a_disk_that_is_full_is_said_and_raises_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.file is not None
    spool.file.close()
    with open("/dev/full", "r+b", buffering=0) as spool.file:
        spool.write(b"x" * 100_000)
        assert "No space left" in spool.error and spool.file is None
