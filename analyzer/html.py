"""A document as one HTML file: no script, nothing fetched, light and dark, on paper and on a phone.

Everything that is not markup goes through `escape`; a content security policy in the page forbids what would get past.
"""
from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources

from analyzer.document import (
    Block,
    Bullets,
    Card,
    Cards,
    Cell,
    Column,
    Document,
    Paragraph,
    Section,
    StackedBars,
    Table,
    Tile,
    Tiles,
)
from analyzer.svg import NARROW, WIDE, stacked_bars

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render(document: Document) -> str:
    """Return the text of a `.html` file."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(document.title)} · Farthing</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n<main>\n"
        f"{_header(document)}\n"
        + "\n".join(_section(one) for one in document.sections)
        + "\n</main>\n</body>\n</html>\n"
    )


@cache
def _style() -> str:
    return resources.files("analyzer").joinpath("report.css").read_text("utf-8")


def _header(document: Document) -> str:
    facts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in document.facts)
    contents = "".join(f'<a href="#{escape(one.id)}">{escape(one.title)}</a>' for one in document.sections)
    return (
        f'<header><p class="brand">Farthing</p><h1>{escape(document.title)}</h1><dl class="facts">{facts}</dl>'
        f'<div class="hero"><p class="label">{escape(document.figure)}</p>'
        f'<p class="spend"><data id="spend" value="{document.spend.exact}" data-value="{document.spend.exact}">'
        f'{escape(document.spend.text)}</data></p><p class="exact">{document.spend.exact} USD exactly</p>'
        f'<p class="summary">{escape(document.summary)}</p></div><nav aria-label="Sections">{contents}</nav></header>'
    )


def _section(section: Section) -> str:
    blocks = "\n".join(_block(block) for block in section.blocks)
    return f'<section id="{escape(section.id)}"><h2>{escape(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return f'<p class="{escape(block.tone)}">{escape(block.text)}</p>'
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Tiles):
        return '<div class="tiles">' + "".join(_tile(tile) for tile in block.tiles) + "</div>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, StackedBars):
        return _chart(block)
    return _cards(block)


def _tile(tile: Tile) -> str:
    return (
        f'<div class="tile"><p class="label">{escape(tile.label)}</p><p class="figure">{_value(tile.value)}</p>'
        f'<p class="note">{escape(tile.note)}</p></div>'
    )


def _value(cell: Cell) -> str:
    return f'<data value="{escape(cell.exact)}">{escape(cell.text)}</data>' if cell.exact else escape(cell.text)


def _table(table: Table) -> str:
    head = "".join(f"<th{_class(column)} scope=col>{escape(column.name)}</th>" for column in table.columns)
    rows = "".join(_row(table.columns, row) for row in table.rows)
    total = f"<tfoot>{_row(table.columns, table.total)}</tfoot>" if table.total else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>{total}</table></div>'


def _row(columns: Sequence[Column], cells: Sequence[Cell]) -> str:
    first = f"<th scope=row>{_swatch(cells[0])}{_value(cells[0])}</th>"
    return "<tr>" + first + "".join(_data(*pair) for pair in zip(columns[1:], cells[1:], strict=True)) + "</tr>"


def _data(column: Column, cell: Cell) -> str:
    """Return one cell; on a phone the row is a card, and the column's name stands in it."""
    if not cell.text:
        return '<td class="empty"></td>'
    return f'<td{_class(column)} data-label="{escape(column.name)}">{_meter(cell)}<span>{_value(cell)}</span></td>'


def _meter(cell: Cell) -> str:
    width = 100 * min(1.0, cell.meter)
    return f'<span class="meter"><i style="width:{width:.1f}%"></i></span>' if cell.meter >= 0 else ""


def _class(column: Column) -> str:
    return ' class="number"' if column.is_number else ""


def _swatch(cell: Cell) -> str:
    return f'<i class="swatch s{cell.series}"></i>' if cell.series >= 0 else ""


def _chart(chart: StackedBars) -> str:
    legend = "".join(f'<li><i class="swatch s{i}"></i>{escape(one.name)}</li>' for i, one in enumerate(chart.series))
    return (
        f'<figure><ul class="legend">{legend}</ul><div class="wide">{stacked_bars(chart, WIDE)}</div>'
        f'<div class="narrow">{stacked_bars(chart, NARROW)}</div>'
        f"<details><summary>The figures of this chart</summary>{_table(chart.table)}</details></figure>"
    )


def _cards(block: Cards) -> str:
    return '<div class="cards">' + "".join(_card(card) for card in block.cards) + "</div>"


def _card(card: Card) -> str:
    figure = f'<p class="figure">{_value(card.figure)}<span>{escape(card.figure_label)}</span></p>'
    words = f"<div><h3>{escape(card.title)}</h3><p>{escape(card.text)}</p></div>"
    return f"<article>{words}{figure if card.figure_label else ''}</article>"
