"""The filter that a URL spells, and the URL that a filter spells.

The URL is the only place where a filter lives. A default is left out of it, so what it does spell is what a chip shows;
a part that this page cannot use is shown too, because a filter that is silently dropped looks like one that works.
"""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from urllib.parse import parse_qsl, urlencode
from zoneinfo import available_timezones

RANGES = {"1h": 3600, "24h": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400}  # name -> seconds
DEFAULT_RANGE = "24h"
DEFAULT_ZONE = "UTC"
NOBODY = "(none)"  # how a call without a team, or without a model, is written


@dataclass(frozen=True)
class Filter:
    """What the reader wants to see."""

    range: str = DEFAULT_RANGE
    teams: tuple[str, ...] = ()  # empty = all
    models: tuple[str, ...] = ()  # empty = all
    zone: str = DEFAULT_ZONE  # time zone of axes and of day boundaries
    compare: bool = True  # against the period of the same length before
    unused: tuple[tuple[str, str], ...] = ()  # parts of the URL that mean nothing here


@dataclass(frozen=True)
class Chip:
    """An active part of a filter, and where removing it leads."""

    label: str
    href: str


def read_filter(search: str | None) -> Filter:
    """Read the query part of a URL; what cannot be understood is kept in `unused`."""
    found = Filter()
    for key, value in parse_qsl((search or "").removeprefix("?"), keep_blank_values=True):
        found = _with_part(found, key, value)
    return found


def _with_part(found: Filter, key: str, value: str) -> Filter:
    if key == "range" and value in RANGES:
        return replace(found, range=value)
    if key == "tz" and value in zones():
        return replace(found, zone=value)
    if key == "cmp" and value in ("0", "1"):
        return replace(found, compare=value == "1")
    if key == "team" and value:
        return replace(found, teams=_added(found.teams, value))
    if key == "model" and value:
        return replace(found, models=_added(found.models, value))
    return replace(found, unused=(*found.unused, (key, value)))


def _added(values: tuple[str, ...], value: str) -> tuple[str, ...]:
    return values if value in values else (*values, value)


def write_search(wanted: Filter) -> str:
    """Return the query part of the URL, with its question mark; empty where all is as by default."""
    parts: list[tuple[str, str]] = []
    if wanted.range != DEFAULT_RANGE:
        parts.append(("range", wanted.range))
    parts += [("team", team) for team in wanted.teams]
    parts += [("model", model) for model in wanted.models]
    if wanted.zone != DEFAULT_ZONE:
        parts.append(("tz", wanted.zone))
    if not wanted.compare:
        parts.append(("cmp", "0"))
    parts += wanted.unused
    return f"?{urlencode(parts)}" if parts else ""


def href(wanted: Filter) -> str:
    """Return the address of the overview under a filter."""
    return f"/{write_search(wanted)}"


def chips(active: Filter) -> list[Chip]:
    """Return one chip for each part of the filter that is not the default."""
    return [Chip(label, href(without)) for label, without in _parts(active)]


def _parts(active: Filter) -> Iterator[tuple[str, Filter]]:
    if active.range != DEFAULT_RANGE:
        yield f"last {active.range}", replace(active, range=DEFAULT_RANGE)
    for team in active.teams:
        yield f"team: {team}", replace(active, teams=tuple(one for one in active.teams if one != team))
    for model in active.models:
        yield f"model: {model}", replace(active, models=tuple(one for one in active.models if one != model))
    if active.zone != DEFAULT_ZONE:
        yield f"time zone: {active.zone}", replace(active, zone=DEFAULT_ZONE)
    if not active.compare:
        yield "no comparison", replace(active, compare=True)
    for part in active.unused:
        left = tuple(one for one in active.unused if one != part)
        yield f"{part[0]}={part[1]} (not used here)", replace(active, unused=left)


def stored(names: tuple[str, ...]) -> list[str]:
    """Return names as the warehouse spells them: a call without a team has an empty one."""
    return ["" if name == NOBODY else name for name in names]


def shown(name: str) -> str:
    """Return a stored name as the page and the URL spell it."""
    return name or NOBODY


@cache
def zones() -> tuple[str, ...]:
    """Return the time zones to choose from, UTC first."""
    places = sorted(name for name in available_timezones() if "/" in name and not name.startswith(("Etc/", "SystemV/")))
    return (DEFAULT_ZONE, *places)
