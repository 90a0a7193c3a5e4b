"""`farthing token …`: who may use the control API, and as what; a token is shown once."""
from __future__ import annotations

import sys
from getpass import getuser
from typing import Annotated, Any
from urllib.parse import quote

import typer

from farthing import control

app = typer.Typer(help="Hand out tokens of the control API, and take them back.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="What the audit calls its holder, such as ann or ci.")]
_Reason = Annotated[str, typer.Option(help="Why, for the log.")]


@app.command()
def create(
    context: typer.Context,
    name: _Name,
    role: Annotated[str, typer.Option(help="viewer reads, operator changes policies, admin all, proxy is a proxy.")],
    days: Annotated[float | None, typer.Option(help="How long it is good; default: until revoked.")] = None,
    reason: _Reason = "",
) -> None:
    """Make a token and print it, for the only time."""
    asked = {"name": name, "role": role, "author": getuser(), "reason": reason}
    lasting = {} if days is None else {"days": f"{days:g}"}
    made = control.ask(context.obj(), "POST", "/v1/tokens", asked | lasting)
    _say(made["token"])
    sys.stderr.write("this is the only time that the token is shown; store it now\n")


@app.command("list")
def list_tokens(context: typer.Context) -> None:
    """List all tokens, the revoked ones too."""
    lines: list[dict[str, Any]] = control.ask(context.obj(), "GET", "/v1/tokens")["tokens"]
    _say(f"{'token':<24}{'role':<10}{'state':<9}{'made':<12}expires")
    for line in lines:
        ends = (line["expires_at"] or "-")[:10]
        _say(f"{line['name']:<24}{line['role']:<10}{line['state']:<9}{line['created_at'][:10]:<12}{ends}")


@app.command()
def revoke(context: typer.Context, name: _Name, reason: _Reason = "") -> None:
    """End a token now and for good."""
    control.ask(
        context.obj(), "DELETE", f"/v1/tokens/{quote(name, safe='')}", {"author": getuser(), "reason": reason}
    )
    _say(f"revoked   {name}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
