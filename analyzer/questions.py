"""Which stored questions another process may ask over HTTP, with what parameters.

An embedded warehouse belongs to this process, so the command line and the control plane ask here. Only the questions
below can be asked, no SQL travels, and the tenant is never a parameter.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from analyzer.notation import exact_usd
from analyzer.window import last_hours, utc

_WINDOW = ("since", "until")
_FILTERS = ("teams", "models")

# question -> its parameters besides the tenant; a test compares them with the .sql files
QUESTIONS: dict[str, tuple[str, ...]] = {
    "totals": (*_WINDOW, *_FILTERS),
    "over_time": (*_WINDOW, *_FILTERS, "step", "tz"),
    "cost_over_time": (*_WINDOW, *_FILTERS, "step", "tz"),
    "cost_by_model": (*_WINDOW, *_FILTERS, "limit"),
    "cost_by_team": (*_WINDOW, *_FILTERS, "limit"),
    "cost_drivers": (*_WINDOW, "limit"),
    "duplicate_requests": (*_WINDOW, "limit"),
    "unpriced_models": (*_WINDOW, "limit"),
    "tokens_cut": (*_WINDOW, "limit"),
    "cut_by_policy": (*_WINDOW, "limit"),
    "cache_levels": (*_WINDOW, *_FILTERS),
    "coverage": _WINDOW,
    "settled": _WINDOW,
    "settled_calls": (*_WINDOW, "request_ids"),
    "leased_calls": (*_WINDOW, "workers", "after", "limit"),
    "findings": ("limit",),
    "dimensions": (),
    "call": ("request_id",),
    "decided_call": ("request_id",),
}

MAX_LIMIT = 10_000  # rows
_YEARS = (1971, 2262)  # that the warehouse can hold and compare
MAX_STEP_S = 366 * 86_400
_HOURS = 24.0  # length of the window where none is named


class ParameterError(ValueError):
    """A parameter of a question is unknown or cannot be read; the message names it and what is allowed."""


def parameters(question: str, given: Mapping[str, Any], now: datetime) -> dict[str, object]:
    """Return the values to bind, defaults filled in.

    Raises:
        KeyError: the question is not on the list.
        ParameterError: a parameter is unknown or bad.
    """
    names = QUESTIONS[question]
    for name in given:
        if name not in names:
            raise ParameterError(f"{question}: unknown parameter {name!r}; allowed are {', '.join(names) or 'none'}")
    window = last_hours("", _HOURS, now)
    defaults: dict[str, object] = {
        "until": window.until, "teams": [], "models": [], "request_ids": [], "workers": [], "after": "", "limit": 100,
        "step": 3600, "tz": "UTC",
    }  # fmt: skip
    values = {name: _READ[name](name, given[name]) if name in given else defaults.get(name) for name in names}
    if "since" in names and values["since"] is None:
        values["since"] = _moment("until", values["until"]) - timedelta(hours=_HOURS)
    return values


def _moment(name: str, value: Any) -> datetime:
    try:
        read = utc(value if isinstance(value, datetime) else datetime.fromisoformat(value))
    except (TypeError, ValueError, OverflowError):
        read = None
    if read is None or not _YEARS[0] <= read.year < _YEARS[1]:
        allowed = "an ISO 8601 time such as 2026-11-21T04:05:06Z; without a zone it is UTC"
        raise ParameterError(f"{name} = {value!r}; allowed is {allowed}")
    return read


def moment(name: str, text: str) -> datetime:
    """Read a time that a query string names; there a `+` that nobody encoded has become a space.

    Raises:
        ParameterError: it cannot be read.
    """
    return _moment(name, text.replace(" ", "+") if "T" in text else text)


def _names(name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ParameterError(f"{name} = {value!r}; allowed is a list of names, empty for all")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ParameterError(f"{name} = {value!r}; allowed is a text")
    return value


def _whole(top: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= top:
            raise ParameterError(f"{name} = {value!r}; allowed is a whole number from 1 to {top:,}")
        return value

    return read


def _zone(name: str, value: Any) -> str:
    from zoneinfo import available_timezones

    if value not in available_timezones():
        raise ParameterError(f"{name} = {value!r}; allowed is a zone such as Europe/Berlin")
    return value


_READ: dict[str, Callable[[str, Any], object]] = {
    "since": _moment,
    "until": _moment,
    "teams": _names,
    "models": _names,
    "request_ids": _names,
    "workers": _names,
    "after": _text,
    "limit": _whole(MAX_LIMIT),
    "step": _whole(MAX_STEP_S),
    "tz": _zone,
    "request_id": _text,
}


def plain(value: Any) -> Any:
    """Return a value of a row as JSON has it: money as text with nine places, times in ISO 8601, no number as null."""
    if isinstance(value, Decimal):
        return exact_usd(value)
    if isinstance(value, datetime):
        return utc(value).isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
