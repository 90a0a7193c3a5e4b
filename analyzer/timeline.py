"""How did cost move: the rows of cost_over_time.sql as bars, the dearest models each in a colour, the others in one."""
from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal

from analyzer.cost_drivers import named
from analyzer.document import Cell, Column, Series, StackedBars, Table, money
from analyzer.figures import Figures
from analyzer.finding import ZERO
from analyzer.notation import count
from analyzer.svg import time_label

COLOURS = 7  # models that get one; the last colour is that of all others
OTHERS = "other models"


def coloured(figures: Figures) -> list[str]:
    """Return the models that have a colour of their own, dearest first."""
    return [row["model"] for row in figures.models if row["cost_usd"]][:COLOURS]


def bars(figures: Figures) -> StackedBars:
    """Return the chart of the window; a bucket without calls is 0, which for a sum is a fact."""
    starts, step = _starts(figures), figures.step_s
    names = coloured(figures)
    amounts = _amounts(figures, names)
    series = [Series(named(name, "model"), [float(amounts.get((at, name), ZERO)) for at in starts]) for name in names]
    rest = [float(amounts.get((at, OTHERS), ZERO)) for at in starts]
    if any(rest):
        series.append(Series(OTHERS, rest))
    since, until = figures.window.since.timestamp(), figures.window.until.timestamp()
    partial = frozenset(i for i, at in enumerate(starts) if at < since or at + step > until)
    return StackedBars(starts, step, series, partial, _table(figures, starts))


def _starts(figures: Figures) -> list[int]:
    step = figures.step_s
    first = math.floor(figures.window.since.timestamp() / step)
    return [number * step for number in range(first, math.ceil(figures.window.until.timestamp() / step))]


def _amounts(figures: Figures, names: Sequence[str]) -> dict[tuple[int, str], Decimal]:
    amounts: dict[tuple[int, str], Decimal] = {}
    for row in figures.over_time:
        key = (row["bucket"], row["model"] if row["model"] in names else OTHERS)
        amounts[key] = amounts.get(key, ZERO) + (row["cost_usd"] or ZERO)
    return amounts


def _table(figures: Figures, starts: Sequence[int]) -> Table:
    rows: list[list[Cell]] = []
    for at in starts:
        mine = [row for row in figures.over_time if row["bucket"] == at]
        if mine:
            cost = sum((row["cost_usd"] or ZERO for row in mine), ZERO)
            calls = sum(row["requests"] for row in mine)
            rows.append([Cell(time_label(at, figures.step_s, True)), Cell(count(calls)), money(cost)])
    return Table((Column("From, UTC", is_number=False), Column("Requests"), Column("Cost")), rows)
