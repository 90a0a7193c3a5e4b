"""The frame around every page: navigation, header, and the bar of filters."""
from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html

from dashboard.components.attributes import aria
from dashboard.components.icon import icon
from dashboard.filters import DEFAULT_RANGE, DEFAULT_ZONE, RANGES, zones

REFRESH_S = 10
FONT = "InterV, system-ui, sans-serif"
PAGES = (("/", "Overview", "grid"),)  # address, name, icon

_DARK = ["#e8eaee", "#c5c9d1", "#949ba8", "#6b7280", "#343a44", "#272b33", "#181b21", "#14171c", "#101216", "#0b0d10"]
_THEME: Any = {
    "primaryColor": "indigo",
    "fontFamily": FONT,
    "defaultRadius": "md",
    "cursorType": "pointer",
    "colors": {"dark": _DARK},
}


def shell(page: Any) -> dmc.MantineProvider:
    """Put a page into the frame."""
    return dmc.MantineProvider(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Interval(id="tick", interval=REFRESH_S * 1000),
            html.A("Skip to content", href="#main", className="skip"),
            html.Div([_navigation(), html.Div([_header(), _filter_bar(), page], className="body")], className="shell"),
        ],
        defaultColorScheme="light",
        theme=_THEME,
    )


def _brand() -> html.Div:
    return html.Div([_logo("logo"), html.Span("Farthing")], className="brand")


def _logo(name: str) -> html.Div:
    return html.Div("¼", className=name, **aria(hidden="true"))


def _navigation() -> html.Nav:
    links = [
        dcc.Link([icon(drawing), html.Span(name)], href=address, className="nav on", id=f"nav-{drawing}")
        for address, name, drawing in PAGES
    ]
    return html.Nav([_brand(), *links], className="side", **aria(label="Main"))


def _header() -> html.Header:
    theme: Any = dmc.ColorSchemeToggle(
        id="theme",
        lightIcon=icon("sun"),
        darkIcon=icon("moon"),
        variant="subtle",
        color="gray",
        **aria(label="Switch between light and dark"),
    )
    pause = html.Button(
        [html.Span(className="ic ic-pause", id="pause-icon"), html.Span(f"every {REFRESH_S} s", id="pause-text")],
        id="pause",
        className="pause",
        n_clicks=0,
        title="Pause or resume the refresh",
    )
    live = html.Span([html.I(className="dot", id="dot"), html.Span("reading …", id="freshness")], className="live")
    title = [_logo("logo small"), html.H1("Overview")]
    return html.Header([*title, html.Div(className="grow"), live, pause, theme], className="top")


def _filter_bar() -> html.Div:
    controls = [
        dmc.SegmentedControl(id="f-range", data=list(RANGES), value=DEFAULT_RANGE, size="xs"),
        _many("f-team", "teams"),
        _many("f-model", "models"),
        dmc.Switch(id="f-cmp", label="Compare", checked=True, size="xs"),
        html.Div(className="grow"),
        dmc.Select(
            id="f-tz",
            data=list(zones()),
            value=DEFAULT_ZONE,
            size="xs",
            className="f-zone",
            allowDeselect=False,
            searchable=True,
            limit=60,
            **aria(label="Time zone"),
        ),
    ]
    bar = html.Div(controls, className="filterbar", role="group", **aria(label="Filters"))
    return html.Div([bar, html.Div(id="chips", className="chips")], className="filters")


def _many(name: str, noun: str) -> dmc.MultiSelect:
    return dmc.MultiSelect(
        id=name,
        data=[],
        value=[],
        placeholder=f"All {noun}",
        size="xs",
        className="f-many",
        clearable=True,
        searchable=True,
        hidePickedOptions=True,
        **aria(label=noun.capitalize()),
    )


def register(app: Dash) -> None:
    """Add what the frame does in the browser: no filter change makes a round trip of its own."""
    controls = [
        ("f-range", "value"), ("f-team", "value"), ("f-model", "value"), ("f-cmp", "checked"), ("f-tz", "value"),
    ]  # fmt: skip
    app.clientside_callback(
        ClientsideFunction("farthing", "write_url"),
        Output("url", "search"),
        *[Input(name, prop) for name, prop in controls],
        prevent_initial_call=True,
    )
    app.clientside_callback(
        ClientsideFunction("farthing", "read_url"),
        *[Output(name, prop) for name, prop in controls],
        Output("f-team", "placeholder"),
        Output("f-model", "placeholder"),
        *[Output(f"nav-{drawing}", "href") for _, _, drawing in PAGES],
        Output("chips", "className"),
        Input("url", "search"),
    )
    app.clientside_callback(
        ClientsideFunction("farthing", "pause"),
        Output("tick", "disabled"),
        Output("pause-text", "children"),
        Output("pause-icon", "className"),
        Output("dot", "className"),
        Input("pause", "n_clicks"),
        State("tick", "interval"),
    )
