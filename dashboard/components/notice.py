"""What a page says when it has no figures: the store did not answer, or nothing has arrived yet."""
from __future__ import annotations

from dash import html

from farthing.errors import WarehouseError

MOST_REASON = 240  # characters of the store's own words


def store_error(error: WarehouseError) -> html.Div:
    """Say calmly that the figures could not be read, what the reader can do, and what the store said."""
    reason = str(error)
    reason = reason if len(reason) <= MOST_REASON else f"{reason[:MOST_REASON]}…"
    return html.Div(
        [
            html.B("The figures could not be read just now."),
            html.P(
                "It asks again with every refresh; figures below, if any, are from the last answer. If this stays, "
                "see that the station is running and that its disk has room, or choose a shorter range."
            ),
            html.Details([html.Summary("What the store said"), html.Code(reason)]),
        ],
        className="card notice",
        role="alert",
    )


def first_steps(collector: str) -> html.Section:
    """Show how the first request gets here."""
    return html.Section(
        [
            html.H2("No model call has arrived yet"),
            html.P("Add one line to an application that calls a model, and start it. Its first request appears here."),
            html.Pre(html.Code("import farthing.auto"), className="snippet"),
            html.P(["Spans are expected at ", html.Code(collector), " (OTLP/HTTP). This page looks every 10 seconds."]),
        ],
        className="card first",
    )
