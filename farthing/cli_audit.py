"""`farthing audit`: every write that somebody asked of the platform, with what became of it, the newest first."""
from __future__ import annotations

import sys
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from farthing.errors import ServeError
from farthing.http_json import call
from farthing.settings import Settings

PARTS = ("policies", "analyzer", "collector")


def audit(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="How many of the newest.", min=1, max=1000)] = 50,
    part: Annotated[list[str] | None, typer.Option(help=f"Only this one: {', '.join(PARTS)}; may be repeated.")] = None,
) -> None:
    """Show who asked the control plane, the analyzer and the collector to change what, and what became of it."""
    settings: Settings = context.obj()
    unknown = sorted(set(part or ()) - set(PARTS))
    if unknown:
        raise ServeError(f"--part {unknown[0]!r}: allowed are {', '.join(PARTS)}")
    asked = part or PARTS
    writes: list[dict[str, Any]] = []
    failed: list[str] = []
    for one in asked:
        try:
            writes += _writes(settings, one, limit)
        except ServeError as error:
            failed.append(f"{one} is left out: {error}")
    for write in sorted(writes, key=lambda one: one["at"], reverse=True)[:limit]:
        _say(_line(write))
    for why in failed:
        sys.stderr.write(f"{why}\n")
    if len(failed) == len(asked):
        raise typer.Exit(2)


def _writes(settings: Settings, part: str, limit: int) -> list[dict[str, Any]]:
    query = urlencode({"limit": limit})
    return call("GET", f"{settings.url(part)}/v1/writes?{query}", token=settings.control_token)["writes"]


def _line(write: dict[str, Any]) -> str:
    role = f" ({write['role']})" if write["role"] else ""
    at = f" at {write['client']}" if write["client"] else ""
    asked = f" [{write['asked']}]" if write["asked"] else ""
    note = f" {write['note']}" if write["note"] else ""
    ended = "cut off" if write["status"] is None else write["status"]
    who = f"{write['who'] or 'no token'}{role}{at}"
    return f"{write['at'][:19]} {write['part']:<9} {who}: {write['what']}{asked} -> {ended}{note}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
