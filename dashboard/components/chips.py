"""The active filters, each with a cross that removes it."""
from __future__ import annotations

from dash import dcc, html

from dashboard.components.icon import icon
from dashboard.filters import Chip


def chip_row(chips: list[Chip]) -> list[dcc.Link]:
    """Return a link for each chip; removing one is going to the URL without it, so the Back button brings it back."""
    return [
        dcc.Link(
            [html.Span(chip.label), icon("x", 12)],
            href=chip.href,
            className="chip",
            title=f"Remove the filter: {chip.label}",
        )
        for chip in chips
    ]
