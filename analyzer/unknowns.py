"""What a report does not know, and whether its money agrees with the ledger's."""
from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from analyzer.cost_drivers import named
from analyzer.document import Cell, Column, Paragraph, Section, Table, money
from analyzer.figures import Figures, Row
from analyzer.finding import ZERO
from analyzer.notation import count, counted, moment, share
from analyzer.window import utc

# column of coverage.sql, what it counts, what follows from it
_GAPS = (
    ("unpriced", "No price for the model", "cost unknown, in no sum"),
    ("unknown_usage", "No token counts reported", "cost unknown, in no sum"),
    ("half_usage", "Only input or only output reported", "priced on what was reported, so the cost is a lower bound"),
    ("estimated_usage", "Token counts estimated", "priced on the estimate"),
    ("replayed", "Booked from a trace file", "tokens and cost as in the file, duration unknown"),
    ("unbilled_proxy", "Seen by the application and by the proxy", "billed once, on the proxy's row"),
    ("unbilled_nested", "Span inside another model call", "billed once, on the inner or outer row"),
    ("unbilled_other", "Marked as not billed by its sender", "carries no money"),
    ("refused", "Refused before a model was called", "cost nothing"),
)


def unknowns(figures: Figures) -> Section:
    """Return what is missing, estimated or left out, with the models that lack a price."""
    coverage = figures.coverage
    gaps = [gap for gap in _GAPS if coverage[gap[0]]]
    if not gaps:
        text = "Nothing: every recorded call of this window has token counts and a price, and none was left out."
        tone = "good" if coverage["requests"] else "plain"
        return Section("unknown", "What is unknown", [Paragraph(text, tone)])
    columns = (Column("What", False), Column("Calls"), Column("Of the requests"), Column("What follows", False))
    rows = [
        [Cell(what), Cell(count(coverage[key])), Cell(share(coverage[key], coverage["requests"])), Cell(follows)]
        for key, what, follows in gaps
    ]
    return Section("unknown", "What is unknown", [Table(columns, rows), *_unpriced(figures.unpriced)])


def _unpriced(rows: Sequence[Row]) -> list[Paragraph | Table]:
    if not rows:
        return []
    columns = (
        Column("Model without a price", False), Column("Provider", False), Column("Requests"),
        Column("Input tokens"), Column("Output tokens"), Column("Last seen"),
    )  # fmt: skip
    return [
        Paragraph("Give these models a price: `farthing prices missing` shows how.", tone="warning"),
        Table(columns, [_model(row) for row in rows]),
    ]


def _model(row: Row) -> list[Cell]:
    return [
        Cell(named(row["model"], "model")),
        Cell(named(row["provider"], "provider")),
        Cell(count(row["requests"])),
        Cell(count(row["input_tokens"])),
        Cell(count(row["output_tokens"])),
        Cell(moment(utc(row["last_seen"]))),
    ]


def reconciliation(figures: Figures) -> Section:
    """Return the ledger's charges beside the warehouse's prices, per team."""
    title, rows = "Ledger against warehouse", figures.settled
    if not rows:
        text = "No call of this window went through the proxy, so the ledger was charged nothing to compare with."
        return Section("reconciliation", title, [Paragraph(text)])
    columns = (
        Column("Team", False), Column("Proxy calls"), Column("Warehouse, priced"),
        Column("Ledger, charged"), Column("Difference"), Column("Mismatches"),
    )  # fmt: skip
    return Section("reconciliation", title, [_verdict(rows), Table(columns, [_settled(row) for row in rows])])


def _verdict(rows: Sequence[Row]) -> Paragraph:
    calls, mismatches = sum(row["requests"] for row in rows), sum(row["mismatches"] for row in rows)
    difference = sum((_difference(row) for row in rows), ZERO)
    if mismatches:
        text = f"Of {counted(calls, 'call')}, the ledger charged {count(mismatches)} at an amount other than the price."
        return Paragraph(text, tone="warning")
    if difference:
        return Paragraph("No charged call differs from its price; the difference is the cost of calls not charged.")
    return Paragraph(f"Ledger and warehouse agree to the nano-dollar over {counted(calls, 'call')}.", tone="good")


def _difference(row: Row) -> Decimal:
    return (row["priced_usd"] or ZERO) - (row["ledger_usd"] or ZERO)


def _settled(row: Row) -> list[Cell]:
    return [
        Cell(named(row["team"], "team")),
        Cell(count(row["requests"])),
        money(row["priced_usd"]),
        money(row["ledger_usd"]),
        money(_difference(row)),
        Cell(count(row["mismatches"])),
    ]
