"""The table of caches: answers, embeddings, and an application's own tools and components."""
from __future__ import annotations

from typing import Any

from dashboard import figures_text as text
from dashboard.components.table import Cell, Column, table
from dashboard.snapshot import Snapshot

NOTHING = "No call went through a cache in this period."
_TITLES = {"response": "Answers", "embedding": "Embeddings", "tool": "Tool results", "component": "Components"}
_COLUMNS = (
    Column("Level", is_figure=False),
    Column("Hit rate"),
    Column("Hits"),
    Column("Held", is_wide=True),
    Column("Evicted", is_wide=True),
    Column("Saved"),
    Column("Time saved", is_wide=True),
)


def caches_table(snapshot: Snapshot) -> Any:
    """Lay out what each level of cache did; a saving that nobody knows is no 0."""
    return table(_COLUMNS, [_row(row) for row in snapshot.caches], NOTHING)


def _row(row: dict[str, Any]) -> list[Cell]:
    return [
        Cell(_TITLES.get(row["level"], row["level"])),
        Cell(text.share(row["hits"], row["lookups"])),
        Cell(text.count(row["hits"]), str(row["hits"])),
        Cell(text.size(row["held_bytes"])),
        Cell(text.count(row["evicted"])),
        Cell(text.usd(row["saved_usd"]), text.exact_usd(row["saved_usd"])),
        Cell(text.seconds(row["saved_s"])),
    ]
