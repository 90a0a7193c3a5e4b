"""`farthing slo`: how the service levels of the policy document stand."""
from __future__ import annotations

from typing import Any

import typer

from farthing import control


def slo(context: typer.Context) -> None:
    """Show each service level: what was missed, what is left of its error budget, and how fast that burns."""
    found = control.ask(context.obj(), "GET", "/v1/slos")["slos"]
    for one in found:
        typer.echo(_line(one))
    if not found:
        typer.echo("there is no Slo; write one and `farthing policy apply` it")


def _line(one: dict[str, Any]) -> str:
    what = f"{one['slo']:<28}{one['measure']:<9}{one['objective']:.6g} have to be good"
    if one["good"] is None:
        return f"{what}; no calls to judge yet"
    lately = [burn for burn in one["burns"] if burn["rate"] is not None]
    burns = ", ".join(f"{burn['rate']:.1f}x in {burn['hours']:g} h" for burn in lately)
    state = "met" if one["is_met"] else "MISSED"
    left = f"{one['budget_left']:.0%} of the error budget is left"
    return f"{what}: {state}, {one['good']:.4%} of {one['calls']:,} are; {left}; burns {burns or 'nothing lately'}"
