"""Who spent it: the tables of models and of teams, the dearest line by line and the others in one.

A column in which there is nothing to see, such as cache hits where no answer was cached, is left out.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import nan

from analyzer import timeline
from analyzer.cost_drivers import named
from analyzer.document import Cell, Column, Paragraph, Section, Table, money
from analyzer.figures import Figures, Row
from analyzer.finding import ZERO
from analyzer.notation import count, exact_usd, rate_usd, seconds, share

LINES = 10  # models or teams that get a line of their own

# column -> what it shows of the totals
_OPTIONAL = {"Cache hits": "cache_hits", "Saved": "saved_usd", "No price": "unpriced"}
_SUMS = ("cost_usd", "saved_usd", "requests", "input_tokens", "output_tokens", "cache_hits", "unpriced")


def by_model(figures: Figures) -> Section:
    """Return the table of models, in the chart's colours."""
    return Section("models", "Cost by model", _table(figures.models, "model", figures, timeline.coloured(figures)))


def by_team(figures: Figures) -> Section:
    """Return the table of teams."""
    return Section("teams", "Top teams", _table(figures.teams, "team", figures, ()))


def _table(rows: Sequence[Row], what: str, figures: Figures, colours: Sequence[str]) -> list[Paragraph | Table]:
    if not rows:
        return [Paragraph("No model call is recorded in this window.")]
    lines = []
    for row in rows[:LINES]:
        colour = colours.index(row[what]) if row[what] in colours else -1
        lines.append(_line(Cell(named(row[what], what), series=colour), row, figures))
    if len(rows) > LINES:
        lines.append(_line(Cell(f"other {what}s"), _others(rows[:LINES], figures.totals), figures))
    total = _line(Cell("Total"), {**figures.totals, "duration_s": figures.coverage["duration_s"]}, figures)
    total = {**total, "Share": Cell("")}
    names = [name for name in total if name not in _OPTIONAL or figures.totals[_OPTIONAL[name]]]
    columns = [Column(what.capitalize(), is_number=False), *(Column(name) for name in names[1:])]
    return [Table(columns, [[line[name] for name in names] for line in lines], [total[name] for name in names])]


def _others(shown: Sequence[Row], totals: Row) -> Row:
    """Return what `totals` has and the lines shown have not; percentiles of a difference are unknown."""
    rest = {name: (totals[name] or 0) - sum(row[name] or 0 for row in shown) for name in _SUMS}
    return {**rest, "duration_s": (nan, nan, nan)}


def _line(label: Cell, row: Row, figures: Figures) -> Mapping[str, Cell]:
    """Return one line; calls from a trace file have no duration, so a p95 of 0 is unknown."""
    cost = row["cost_usd"]
    part = float((cost or ZERO) / figures.spend_usd) if figures.spend_usd else 0.0
    return {
        "": label,
        "Share": Cell(share(part, 1) if cost is not None else share(0, 0), meter=part),
        "Cost": money(cost),
        "Requests": Cell(count(row["requests"])),
        "Per request": _average(cost, row["requests"]),
        "Input tokens": Cell(count(row["input_tokens"])),
        "Output tokens": Cell(count(row["output_tokens"])),
        "Cache hits": Cell(count(row["cache_hits"])),
        "Saved": money(row["saved_usd"] or ZERO),
        "p95": Cell(seconds(row["duration_s"][1] or nan)),
        "No price": Cell(count(row["unpriced"])),
    }


def _average(cost: Decimal | None, requests: int) -> Cell:
    if cost is None or not requests:
        return money(None)
    return Cell(rate_usd(cost / requests), exact_usd(cost / requests))
