"""An icon: a lucide drawing from assets/icons.css, in the colour of the text around it."""
from __future__ import annotations

from dash import html

from dashboard.components.attributes import aria


def icon(name: str, size: int = 16) -> html.Span:
    """Draw the icon `name` at `size` pixels; it carries no meaning of its own for a screen reader."""
    return html.Span(className=f"ic ic-{name}", style={"width": size, "height": size}, **aria(hidden="true"))
