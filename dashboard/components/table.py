"""A plain HTML table: names on the left, figures on the right, a bar where proportions matter."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dash import dcc, html

from dashboard.components.attributes import aria, data


@dataclass(frozen=True)
class Column:
    """One column; a phone shows those only that are not `wide`."""

    title: str
    is_figure: bool = True
    is_wide: bool = False  # left out on a phone


@dataclass(frozen=True)
class Cell:
    """What stands in one cell, and the exact value of a rounded figure."""

    content: Any
    exact: str = ""


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], empty: str) -> html.Div:
    """Lay out a table, or say why it is empty."""
    if not rows:
        return html.Div(empty, className="nothing")
    head = html.Thead(html.Tr([html.Th(one.title, className=_class(one), scope="col") for one in columns]))
    body = [html.Tr([_cell(column, cell) for column, cell in zip(columns, row, strict=True)]) for row in rows]
    return html.Div(html.Table([head, html.Tbody(body)], className="tbl"), className="tbl-box")


def name_link(label: str, href: str, colour: str = "") -> Any:
    """Return a name that filters to itself, with a series' colour where it has one."""
    dot = [html.I(className="swatch", style={"background": colour})] if colour else []
    return dcc.Link([*dot, html.Span(label)], href=href, className="name", title=f"Show {label} alone")


def bar(part: float, whole: float) -> html.Div:
    """Return a bar of part / whole; it repeats a figure that stands beside it."""
    width = part / whole * 100 if whole else 0
    return html.Div(html.I(style={"width": f"{width:.1f}%"}), className="bar", **aria(hidden="true"))


def _class(column: Column) -> str:
    return " ".join(name for name, holds in (("r", column.is_figure), ("wide", column.is_wide)) if holds)


def _cell(column: Column, cell: Cell) -> html.Td:
    if not cell.exact:
        return html.Td(cell.content, className=_class(column))
    return html.Td(cell.content, className=_class(column), title=cell.exact, **data(value=cell.exact))
