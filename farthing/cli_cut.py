"""`farthing policy cut`: what token policies cut from prompts, and what that input would have cost."""
from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any

import typer

from farthing import control
from farthing.money import format_usd, nusd_from_usd

_MOST = 1000  # lines


def cut(
    context: typer.Context,
    days: Annotated[float, typer.Option(help="How many of the last days are looked at.", min=0.01)] = 7.0,
) -> None:
    """Show what token policies cut from prompts: estimated tokens and their price, by policy and kind of cut."""
    until = datetime.now(timezone.utc)
    asked = {"since": (until - timedelta(days=days)).isoformat(), "until": until.isoformat(), "limit": _MOST}
    rows = control.analyzer(context.obj(), "POST", "/v1/ask/cut_by_policy", asked)["rows"]
    if not rows:
        typer.echo(f"no token policy cut anything in the last {days:g} days")
        return
    typer.echo(f"{'policy':<32}{'mode':<9}{'cut':<12}{'calls':>10}{'tokens':>14}  price of that input")
    for row in rows:
        typer.echo(_line(row))


def _line(row: dict[str, Any]) -> str:
    mode = "shadow" if row["is_shadow"] else "enforce"
    counts = f"{row['requests']:>10,}{row['tokens_cut']:>14,}"
    return f"{row['policy'] or '(unnamed)':<32}{mode:<9}{row['kind']:<12}{counts}  {_money(row)}"


def _money(row: dict[str, Any]) -> str:
    unpriced = row["unpriced_tokens"]
    if row["cut_usd"] is None:
        return "unknown: no price"
    usd = Decimal(row["cut_usd"])
    known = f"{'-' if usd < 0 else ''}{format_usd(nusd_from_usd(abs(usd)))}"
    return f"{known}, and {unpriced:,} tokens without a price" if unpriced else known
