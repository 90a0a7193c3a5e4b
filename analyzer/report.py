"""One report of one window: an HTML file and a Markdown file with the same figures, and `latest.*` beside them.

Files appear whole or not at all: each is written under another name, synced and renamed.
"""
from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from analyzer import figures, html, markdown
from analyzer.sections import document
from analyzer.window import Window, utc
from farthing.warehouse.client import Warehouse

LATEST = "latest"  # stem of the newest report


@dataclass(frozen=True)
class Report:
    """Where a report lies, and the figure that everybody asks for first."""

    html: Path
    markdown: Path
    spend_usd: Decimal
    summary: str


def make(
    warehouse: Warehouse, folder: Path, window: Window, now: datetime, sections: Sequence[str] = (), called: str = ""
) -> Report:
    """Write the report about `window` into `folder`; of the named sections, or of all.

    A report that is `called` something has files of its own beside the newest one.

    Raises:
        WarehouseError: the store refused a question.
        OSError: the folder cannot be written.
    """
    found = figures.gather(warehouse, window)
    written = document(found, now)
    if sections:
        written = replace(written, sections=[one for one in written.sections if one.id in sections])
    texts = {"html": html.render(written), "md": markdown.render(written)}
    suffix = f"-{called}" if called else ""
    stem = f"report{suffix}-{stamp(now)}"
    folder.mkdir(parents=True, exist_ok=True)
    for ending, text in texts.items():
        for name in (stem, LATEST + suffix):
            _write(folder / f"{name}.{ending}", text)
    return Report(folder / f"{stem}.html", folder / f"{stem}.md", found.spend_usd, written.summary)


def stamp(now: datetime) -> str:
    """Return a time as a part of a file name, to the millisecond, UTC: `20261121T040506789Z`."""
    at = utc(now)
    return f"{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}Z"


def _write(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".report-")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(text.encode("utf-8", "replace"))
            handle.flush()
            os.fsync(handle.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
