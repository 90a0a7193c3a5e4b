"""`farthing key …`: hand out keys to the proxy's callers, and take them back; a key is shown once."""
from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta, timezone
from getpass import getuser
from typing import Annotated, Any
from urllib.parse import quote

import typer

from farthing import control
from farthing.errors import SettingsError

app = typer.Typer(help="Hand out keys to the proxy's callers, and take them back.", no_args_is_help=True)

_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_Reason = Annotated[str, typer.Option(help="Why, for the log.")]
_Name = Annotated[str, typer.Argument(help="What policies and reports call the key, such as search-prod.")]


@app.command()
def create(
    context: typer.Context,
    name: _Name,
    team: Annotated[str, typer.Option(help="The team that its calls belong to, whatever they say.")] = "",
    user: Annotated[str, typer.Option(help="The user that its calls belong to, whatever they say.")] = "",
    tenant: Annotated[str, typer.Option(help="The tenant that its calls belong to; default the proxy's own.")] = "",
    model: Annotated[list[str] | None, typer.Option(help="A model it may ask for, or a pattern; repeatable.")] = None,
    route: Annotated[list[str] | None, typer.Option(help="A route it may use, such as chat; repeatable.")] = None,
    expires: Annotated[str, typer.Option(help="When it ends: 90d, 12h, or 2026-12-31.")] = "",
    reason: _Reason = "",
) -> None:
    """Make a key and print it, for the only time; proxies know it milliseconds later."""
    spec: dict[str, Any] = {"name": name, "team": team, "user": user, "tenant": tenant}
    spec |= {"models": model or [], "routes": route or []}
    if expires:
        spec["expires"] = _moment(expires).isoformat()
    made = control.ask(context.obj(), "POST", "/v1/keys", _signed(reason), spec)
    _say(made["key"])
    _note("this is the only time that the key is shown; store it now")


@app.command("list")
def list_keys(context: typer.Context) -> None:
    """List all keys, the revoked ones too."""
    lines: list[dict[str, Any]] = control.ask(context.obj(), "GET", "/v1/keys")["keys"]
    _say(f"{'key':<24}{'':<12}{'state':<9}{'tenant':<12}{'team':<16}{'user':<16}{'expires':<12}may use")
    for line in lines:
        allowed = ", ".join([*line["models"], *(f"/{route}" for route in line["routes"])]) or "everything"
        rotated = f"; the old one until {line['old_until'][:16]}" if line["old_until"] else ""
        who = f"{line['tenant'] or '-':<12}{line['team'] or '-':<16}{line['user'] or '-':<16}"
        end = (line["expires_at"] or "-")[:10]
        _say(f"{line['name']:<24}{line['shown']:<12}{line['state']:<9}{who}{end:<12}{allowed}{rotated}")


@app.command()
def rotate(
    context: typer.Context,
    name: _Name,
    overlap: Annotated[str, typer.Option(help="How long the old key stays good: 24h, 7d, 0m.")] = "24h",
    reason: _Reason = "",
) -> None:
    """Put a new key in a key's place and print it; the old one stays good for a while."""
    asked = {**_signed(reason), "overlap_s": f"{_duration(overlap).total_seconds():g}"}
    made = control.ask(context.obj(), "POST", f"/v1/keys/{quote(name, safe='')}/rotate", asked)
    _say(made["key"])
    _note(f"this is the only time that the key is shown; the old one is good until {made['old_until']}")


@app.command()
def revoke(context: typer.Context, name: _Name, reason: _Reason = "") -> None:
    """End a key now and for good."""
    control.ask(context.obj(), "DELETE", f"/v1/keys/{quote(name, safe='')}", _signed(reason))
    _say(f"revoked   {name}")


def _signed(reason: str) -> dict[str, str]:
    return {"author": getuser(), "reason": reason}


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if found is None:
        raise SettingsError(f"{text!r} is no duration; write minutes, hours or days, such as 30m, 24h or 7d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _moment(text: str) -> datetime:
    """Read a date, an instant or a duration from now."""
    if re.fullmatch(r"\d{1,6}[mhd]", text):
        return datetime.now(timezone.utc) + _duration(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"--expires {text!r}: write a date such as 2026-12-31, or how long, such as 90d") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _note(line: str) -> None:
    """Say something that is not part of the output, so that `KEY=$(farthing key create …)` works."""
    sys.stderr.write(line + "\n")
