"""`farthing propose`: what the newest findings lead to, as documents that are ready to be accepted."""
from __future__ import annotations

import sys
from getpass import getuser
from typing import Annotated
from urllib.parse import quote

import typer

from farthing import control
from farthing.cli_plan import plan_lines


def propose(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A proposal, to see it with its plan; default: list all.")] = "",
    accept: Annotated[bool, typer.Option("--accept", help="Put it in force: in shadow, or as a soft budget.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
) -> None:
    """Turn findings into ready documents, each with its predicted effect."""
    settings, path = context.obj(), f"/v1/proposals/{quote(name, safe='')}"
    if not name:
        for one in control.ask(settings, "GET", "/v1/proposals")["proposals"]:
            _say(f"{one['name']:<40}{one['kind']:<8}{one['title']}")
        return
    if accept:
        done = control.ask(settings, "POST", f"{path}/accept", {"author": getuser(), "reason": reason})
        _say(f"version {done['version']}")
        return
    one = control.ask(settings, "GET", path)
    _say(f"{one['document']}\n{one['detail']}")
    for line in plan_lines(one["plan"]):
        _say(line)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
