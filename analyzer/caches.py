"""What the caches did, level by level: answers, embeddings, and an application's own tools and components.

A level's size and evictions are told where they are known: the proxy's caches tell theirs on its /metrics.
"""
from __future__ import annotations

from analyzer.document import Cell, Column, Paragraph, Section, Table, money
from analyzer.figures import Figures, Row
from analyzer.notation import count, seconds, share, short_bytes

TITLES = {"response": "Answers", "embedding": "Embeddings", "tool": "Tool results", "component": "Components"}
_COLUMNS = (
    Column("Level", False), Column("Calls"), Column("Hits"), Column("Hit rate"), Column("Handed out"),
    Column("Held"), Column("Evicted"), Column("Saved"), Column("Time saved"), Column("Not cacheable"),
)  # fmt: skip
_NONE = (
    "No call went through a cache in this window: neither the proxy's caches nor functions decorated with "
    "farthing.cached_tool or farthing.cached_component."
)


def levels(figures: Figures) -> Section:
    """Return the table of all levels that calls went through."""
    if not figures.caches:
        return Section("caches", "Caches by level", [Paragraph(_NONE)])
    text = "Saved is the list price of what was not asked for again; hits whose price nobody knows are not in it."
    return Section(
        "caches", "Caches by level", [Paragraph(text), Table(_COLUMNS, [_line(row) for row in figures.caches])]
    )


def _line(row: Row) -> list[Cell]:
    return [
        Cell(TITLES[row["level"]]),
        Cell(count(row["lookups"])),
        Cell(count(row["hits"]) + (f" + {count(row['partial'])} in part" if row["partial"] else "")),
        Cell(share(row["hits"], row["lookups"])),
        Cell(_handed_out(row)),
        Cell(short_bytes(row["held_bytes"])),
        Cell(count(row["evicted"])),
        money(row["saved_usd"]),
        Cell(seconds(row["saved_s"])),
        Cell(count(row["skipped"])),
    ]


def _handed_out(row: Row) -> str:
    if row["served_bytes"] is not None:
        return short_bytes(row["served_bytes"])
    return f"{count(row['served_tokens'])} tokens"
