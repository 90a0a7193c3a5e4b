"""`farthing alert`: what was told of, to whom, and whether it arrived."""
from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import typer

from farthing import control

app = typer.Typer(help="Alerts that fired, and the channels that they go to.", no_args_is_help=True)


@app.command("list")
def list_alerts(context: typer.Context) -> None:
    """List the newest alerts that fired, and what became of their messages."""
    answer = control.analyzer(context.obj(), "GET", "/v1/alerts")
    for one in answer["alerts"]:
        typer.echo(f"{one['fired_at'][:16].replace('T', ' ')}  {one['alert']:24}  {one['title']}")
        for delivery in one["deliveries"]:
            typer.echo(f"    {_told(delivery)}")
    if not answer["alerts"]:
        typer.echo("no alert has fired")


@app.command()
def look(context: typer.Context) -> None:
    """Look at all alerts now instead of within the next minute."""
    looked = control.analyzer(context.obj(), "POST", "/v1/alerts/look")
    typer.echo(
        f"{looked['alerts']} alerts looked at, {looked['fired']} fired, {looked['sent']} messages sent, "
        f"{looked['not_sent']} not taken"
    )
    for problem in looked["problems"]:
        typer.echo(problem, err=True)
    if looked["problems"] or looked["not_sent"]:
        raise typer.Exit(1)


@app.command()
def test(
    context: typer.Context, channel: Annotated[str, typer.Argument(help="A name of [[alert_channels]].")]
) -> None:
    """Send a test message through a channel."""
    control.analyzer(context.obj(), "POST", f"/v1/alerts/test?channel={quote(channel)}")
    typer.echo(f"sent to {channel}")


def _told(delivery: dict[str, Any]) -> str:
    if delivery["state"] == "sent":
        return f"{delivery['channel']}: sent {delivery['ended_at'][:16].replace('T', ' ')}"
    if delivery["state"] == "failed":
        return f"{delivery['channel']}: given up after {delivery['tries']} tries: {delivery['error']}"
    why = f" after {delivery['tries']} tries: {delivery['error']}" if delivery["tries"] else ""
    return f"{delivery['channel']}: waiting{why}"
