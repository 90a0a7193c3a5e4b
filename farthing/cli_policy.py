"""`farthing policy …`: what may be written in a policy file, what is in force, and what became of it."""
from __future__ import annotations

import json
import sys
from getpass import getuser
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from farthing import control, parts
from farthing.cli_cut import cut
from farthing.cli_plan import plan_lines

app = typer.Typer(help="Write, check, apply and follow policy documents.", no_args_is_help=True)
app.command()(cut)

_Files = Annotated[list[Path], typer.Argument(help="YAML files.", exists=True, dir_okay=False)]
_SMALL = 6  # lines of a change that the history shows as they are
_Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]


@app.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for editors that complete and check them."""
    from farthing.policy.envelope import json_schema

    _say(json.dumps(json_schema(), indent=2))


@app.command()
def validate(files: _Files) -> None:
    """Check policy files together, without a running platform: every problem with its line, and what never acts."""
    checked = parts.load("policies", "check").check([(str(path), path.read_text("utf-8")) for path in files])
    _warn(checked.warnings)
    counted = ", ".join(f"{number} {kind}" for kind, number in checked.counts.items())
    _say(f"good: {counted}")


@app.command()
def apply(
    context: typer.Context,
    files: _Files,
    reason: _Reason = "",
    replace: Annotated[bool, typer.Option("--replace", help="Remove what the files do not name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Validate and say what would change.")] = False,
) -> None:
    """Put policies and budgets in force, all of them or none; the proxies have them milliseconds later."""
    text = "\n---\n".join(path.read_text("utf-8") for path in files)
    asked = {"reason": reason, "replace": str(replace).lower(), "dry_run": str(dry_run).lower()}
    applied = _control(context, "POST", "/v1/apply", {"author": getuser(), **asked}, text)
    _warn(applied["warnings"])
    _tell_changes(applied)
    _tell_pending(applied)
    _say(f"version {applied['version']}" + (", nothing was changed" if dry_run else ""))


@app.command()
def plan(
    context: typer.Context,
    files: _Files,
    days: Annotated[float, typer.Option(help="How many of the last days are replayed.", min=0.01)] = 7.0,
    replace: Annotated[bool, typer.Option("--replace", help="As if what the files do not name were removed.")] = False,
    html: Annotated[Path | None, typer.Option(help="Also write it as a page to this file.")] = None,
) -> None:
    """Predict what applying files would do, by replaying the calls of the last days; nothing is changed."""
    text = "\n---\n".join(path.read_text("utf-8") for path in files)
    asked = {"hours": f"{days * 24:g}", "replace": str(replace).lower()}
    told = _control(context, "POST", "/v1/plan", asked, text)
    _tell_changes(told)
    _warn(told["warnings"])
    for line in plan_lines(told):
        _say(line)
    if html is not None:
        html.write_text(told["html"], "utf-8")
        _say(f"written to {html}")


@app.command()
def explain(
    context: typer.Context,
    request_id: Annotated[str, typer.Argument(help="The answer's header x-farthing-request-id.")],
) -> None:
    """Tell why a request was treated as it was: each policy that matched, what it saw, and what became of it."""
    told = _control(context, "GET", "/v1/explain", {"request_id": request_id})
    served = "from the cache" if told["cache_hit"] else f"by {told['served_model']}"
    _say(f"{told['request_id']}  {told['started_at'][:19]}  asked for {told['asked_model']}, served {served}")
    _say(f"version {told['version']}; the proxy wrote down: {', '.join(told['recorded']['policies']) or 'no policy'}")
    for name, value in told["recorded"]["routing"].items():
        _say(f"  {name}: {value}")
    for one in told["policies"]:
        arm = f" [{one['arm']} side, {one['propensity']:.1%} are treated]" if one["arm"] else ""
        _say(f"  {one['became']:<10} {one['policy']}{arm}: {one['why']}; saw {_seen(one['saw'])}")
    for one in told["budgets"]:
        _say(f"  budget     {one['budget']}: saw {_seen(one['saw'])}")
    if not told["policies"]:
        _say("  no policy matched")


@app.command()
def status(context: typer.Context) -> None:
    """Show the version in force, its policies, and which version each proxy runs."""
    told = _control(context, "GET", "/v1/status")
    by = f", {told['since'][:19]} by {told['author'] or 'somebody'}" if told["since"] else ""
    _say(f"version {told['version']}{by}{': ' + told['reason'] if told['reason'] else ''}")
    for one in told["policies"]:
        _say(f"  {one['mode']:<8} {one['name']:<40} {_rank(one['priority'])}{_trial(one)}{_end(one)}")
    _warn(told["warnings"])
    for one in told["pending"]:
        _say(f"waits for approval: {one['number']}, of {one['author']}: {one['why']}")
    for one in told["guardrails"]:
        _say(f"guardrail of {one['policy']}: {one['says']}")
    for one in told["rollbacks"]:
        if one["stands"]:
            _say(f"rolled back {one['at'][:19]}: {one['policy']} (version {one['version']}): {one['reason']}")
            _say(f"  it acts on nobody now; `farthing policy mode {one['policy']} canary --share 0.1` tries it again")
    for one in told["proxies"]:
        took = "" if one["took_s"] is None else f", took it after {one['took_s'] * 1000:.1f} ms"
        why = f": {one['refused']}" if one["refused"] else ""
        _say(f"proxy {one['name']:<32} {one['state']:<8} version {one['version']}{took}{why}")
    if not told["proxies"]:
        _say("no proxy has asked for the document yet")


@app.command()
def mode(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A policy in force.")],
    to: Annotated[str, typer.Argument(metavar="MODE", help="shadow, canary or enforce.")],
    share: Annotated[
        float | None, typer.Option(help="Of a canary, 0 to 1; ends its ramp.", min=0.0, max=1.0)
    ] = None,
    reason: _Reason = "",
) -> None:
    """Put a policy into another mode; its text stays as it was written otherwise."""
    asked = {"mode": to, "author": getuser(), "reason": reason}
    more = {} if share is None else {"share": f"{share:g}"}
    done = _control(context, "POST", f"/v1/policies/{quote(name, safe='')}/mode", asked | more)
    _tell_changes(done)
    _tell_pending(done)
    _say(f"version {done['version']}")


@app.command()
def approve(
    context: typer.Context, number: Annotated[int, typer.Argument(help="A change that `farthing policy status` lists.")]
) -> None:
    """Put a change in force that waits for a second person; it takes a token of your own."""
    done = _control(context, "POST", f"/v1/pending/{number}/approve")
    _tell_changes(done)
    _say(f"version {done['version']}")


@app.command()
def history(
    context: typer.Context, limit: Annotated[int, typer.Option(help="How many of the newest.", min=1)] = 20
) -> None:
    """Show who changed what, when and why, the newest first."""
    for entry in _control(context, "GET", "/v1/audit")["audit"][:limit]:
        why = f": {entry['reason']}" if entry["reason"] else ""
        _say(f"version {entry['version']:<5} {entry['at'][:19]} {entry['act']} by {entry['author'] or 'somebody'}{why}")
        for change in entry["changes"]:
            _say(f"  {change['change']:<10} {change['kind']} {change['name']}")
            for line in _changed_lines(change):
                _say(f"    {line}")


@app.command()
def diff(
    context: typer.Context,
    since: Annotated[int | None, typer.Argument(metavar="FROM", help="Default: the version before TO.")] = None,
    to: Annotated[int | None, typer.Argument(help="Default: the version in force.")] = None,
) -> None:
    """Show what changed between two versions, as it was written."""
    asked = {name: str(value) for name, value in (("from", since), ("to", to)) if value is not None}
    told = _control(context, "GET", "/v1/diff", asked)
    _say(told["diff"].rstrip("\n") or f"nothing changed between version {told['from']} and {told['to']}")


@app.command()
def revert(
    context: typer.Context,
    version: Annotated[int, typer.Argument(help="The version to go back to.")],
    reason: _Reason = "",
) -> None:
    """Put an earlier version back in force, as a new version."""
    asked = {"version": str(version), "author": getuser(), "reason": reason}
    done = _control(context, "POST", "/v1/revert", asked)
    _tell_changes(done)
    _say(f"version {done['version']}")


def _rank(priority: int | None) -> str:
    return "goes after every policy" if priority is None else f"priority {priority}"


def _trial(one: dict[str, Any]) -> str:
    """Return on how many a policy acts that does not act on all."""
    if "share" not in one or one["is_over"]:
        return ""
    grows = one.get("grows")
    on = f"  acts on {one['share']:.1%}"
    return on if grows is None else f"{on}, growing from {grows['from']} to {grows['to']:.1%} on {grows['until']}"


def _end(one: dict[str, Any]) -> str:
    if not one["expires"]:
        return ""
    return f"  ended with {one['expires']}" if one["is_over"] else f"  until {one['expires']}"


def _changed_lines(change: dict[str, str]) -> list[str]:
    """Return the lines of a small change; a larger one is for `farthing policy diff`."""
    lines = [line for line in change["diff"].splitlines() if line[:1] in ("+", "-")]
    lines = [line for line in lines if not line.startswith(("+++", "---"))]
    return lines if change["change"] == "changed" and len(lines) <= _SMALL else []


def _seen(saw: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in saw.items()) or "every request"


def _control(
    context: typer.Context, method: str, path: str, asked: dict[str, str] | None = None, body: object = None
) -> Any:
    return control.ask(context.obj(), method, path, asked, body)


def _tell_changes(told: dict[str, Any]) -> None:
    for change in told["changes"]:
        _say(f"{change['change']:<10} {change['kind']} {change['name']}")


def _tell_pending(told: dict[str, Any]) -> None:
    if "pending" in told:
        number = told["pending"]
        _say(f"not in force yet: {told['why']}; a second person runs `farthing policy approve {number}`")


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        _say(f"warning: {warning}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
