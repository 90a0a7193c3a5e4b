"""What a report says, before anybody decides how it looks: HTML and Markdown are two readings of one document."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from analyzer.notation import exact_usd, usd


@dataclass(frozen=True)
class Cell:
    """One figure or text; `exact` is the machine's value where the text may be rounded."""

    text: str
    exact: str = ""
    meter: float = -1.0  # part of a whole, 0 to 1, drawn as a bar behind the text; below 0 = none
    series: int = -1  # colour of the chart's series; below 0 = none


def money(amount: Decimal | None) -> Cell:
    """Return an amount in dollars; None is unknown."""
    return Cell(usd(amount), "" if amount is None else exact_usd(amount))


@dataclass(frozen=True)
class Paragraph:
    text: str
    tone: str = "plain"  # plain | good | warning


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Tile:
    """One headline figure."""

    label: str
    value: Cell
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Column:
    name: str
    is_number: bool = True


@dataclass(frozen=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    total: Sequence[Cell] = ()


@dataclass(frozen=True)
class Series:
    """One colour of a chart."""

    name: str
    values: Sequence[float]  # one a bar


@dataclass(frozen=True)
class StackedBars:
    """Amounts over time, in USD."""

    starts: Sequence[int]  # of each bar, epoch seconds
    step_s: int  # width of a bar, seconds
    series: Sequence[Series]  # the first lies at the bottom
    partial: frozenset[int]  # bars that reach past the window
    table: Table  # the same figures, to be read


@dataclass(frozen=True)
class Card:
    """One finding."""

    title: str
    text: str
    figure: Cell
    figure_label: str


@dataclass(frozen=True)
class Cards:
    cards: Sequence[Card]


Block = Paragraph | Bullets | Tiles | Table | StackedBars | Cards


@dataclass(frozen=True)
class Section:
    id: str  # anchor
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    title: str
    facts: Sequence[tuple[str, str]]  # window, tenant, when it was made
    spend: Cell
    summary: str  # the report in two sentences
    sections: Sequence[Section]
    figure: str = "Spend"  # what the headline figure is
