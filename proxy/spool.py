"""A request's body on the disk, as it comes: of a large upload no more is in memory than what came last.

The file has no name, so whatever ends the process leaves nothing behind.
"""
from __future__ import annotations

import tempfile
from pathlib import Path
from typing import BinaryIO


class Spool:
    """One body; a disk that takes no more is said by `error`, and what still comes is dropped."""

    def __init__(self, folder: Path) -> None:
        self.file: BinaryIO | None = None
        self.error = ""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - `close` closes it
        except OSError as error:
            self._fail(error)

    def write(self, data: bytes) -> None:
        if self.file is not None:
            try:
                self.file.write(data)
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        if self.file is not None:
            try:
                self.file.close()
            except OSError as error:  # what was still to be written
                self.error = str(error)
            self.file = None

    def _fail(self, error: OSError) -> None:
        self.close()
        self.error = str(error)
