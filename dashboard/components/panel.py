"""A card with a heading."""
from __future__ import annotations

from typing import Any

from dash import html

from dashboard.components.attributes import aria


def panel(title: str, *content: Any, sub: Any = "", name: str = "") -> html.Section:
    """Lay `content` out under a heading; `sub` says in a few words what is measured."""
    heading = html.Header([html.H2(title), html.Span(sub, className="sub")], className="panel-head")
    return html.Section([heading, *content], className=f"card panel {name}".strip(), **aria(label=title))
