"""A document as Markdown (CommonMark with tables); what comes from data cannot become markup."""
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from analyzer.document import Block, Bullets, Cards, Cell, Document, Paragraph, StackedBars, Table, Tiles

_MARKUP = re.compile(r"([\\`*\[\]|~$#!_])")


def render(document: Document) -> str:
    """Return the text of a `.md` file."""
    lines = [f"# {plain(document.title)}", ""]
    lines += [f"- {plain(name)}: {plain(value)}" for name, value in document.facts]
    headline = f"**{plain(document.figure)}: {plain(document.spend.text)}** ({document.spend.exact} USD)"
    lines += ["", headline, "", plain(document.summary)]
    for section in document.sections:
        lines += ["", f"## {plain(section.title)}"]
        for block in section.blocks:
            lines += ["", *_block(block)]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Return `text` such that Markdown and HTML show it as it is, on one line."""
    on_one_line = " ".join(text.split())
    safe = on_one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", safe)


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield plain(block.text)
    elif isinstance(block, Bullets):
        yield from (f"- {plain(item)}" for item in block.items)
    elif isinstance(block, Tiles):
        yield from (f"- {plain(tile.label)}: **{_cell(tile.value)}** ({plain(tile.note)})" for tile in block.tiles)
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, StackedBars):
        yield from _table(block.table)
    else:
        yield from _cards(block)


def _table(table: Table) -> Iterator[str]:
    yield _row([Cell(column.name) for column in table.columns])
    yield "|" + "|".join("---:" if column.is_number else "---" for column in table.columns) + "|"
    yield from (_row(row) for row in table.rows)
    if table.total:
        yield _row([Cell(f"{cell.text}") for cell in table.total])


def _row(cells: Sequence[Cell]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(cell: Cell) -> str:
    return plain(cell.text)


def _cards(block: Cards) -> Iterator[str]:
    for card in block.cards:
        figure = f" (**{_cell(card.figure)}** {plain(card.figure_label)})" if card.figure_label else ""
        yield f"- **{plain(card.title)}**{figure}. {plain(card.text)}"
