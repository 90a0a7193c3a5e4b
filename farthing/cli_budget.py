"""`farthing budget …`: what budgets have spent, hold and have left, and how to change them."""
from __future__ import annotations

import json
import re
import sys
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from getpass import getuser
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from farthing import control
from farthing.errors import ServeError, SettingsError
from farthing.money import format_usd, nusd_from_usd

app = typer.Typer(help="What budgets have spent, hold and have left, and how to change them.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="The budget's name.")]
_Json = Annotated[bool, typer.Option("--json", help="As JSON, amounts in nano-dollars.")]
_Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]
_AMOUNTS = (("limit", "limit_nusd"), ("spent", "spent_nusd"), ("held", "held_nusd"), ("leased", "leased_nusd"),
            ("free", "free_nusd"))  # fmt: skip


@app.command("list")
def list_budgets(context: typer.Context, as_json: _Json = False) -> None:
    """List every budget: its limit, and what of it is spent, held, leased to proxy workers, and free."""
    lines: list[dict[str, Any]] = _control(context, "GET", "/v1/budgets")["budgets"]
    if as_json:
        _say(json.dumps(lines))
        return
    _say(f"{'budget':<24}" + "".join(f"{title:>16}" for title, _ in _AMOUNTS) + f"{'used':>7}  state")
    for line in lines:
        amounts = "".join(f"{_money(line, line[name]):>16}" for _, name in _AMOUNTS)
        _say(f"{line['name']:<24}{amounts}{_share(line):>7}  {_state(line)}")


@app.command()
def show(context: typer.Context, name: _Name, as_json: _Json = False) -> None:
    """Show one budget: its figures, how fast it goes, when it is gone, and what was granted on top."""
    line = _budget(context, name)
    if as_json:
        _say(json.dumps(line))
        return
    for title, text in _facts(line):
        _say(f"{title:<16}{text}")
    for grant in line["grants"]:
        why = f": {grant['reason']}" if grant["reason"] else ""
        what = _money(line, grant["amount_nusd"]) if grant["amount_nusd"] else "approval"
        _say(f"{'granted':<16}{what} at {grant['at'][:19]}Z by {grant['author']}{why}")


@app.command("set")
def set_budget(
    context: typer.Context,
    name: _Name,
    limit: Annotated[str, typer.Option(help="Such as '600 USD'; the budget is made where there is none.")] = "",
    per_request: Annotated[str, typer.Option(help="The most that one call may cost, such as '0.50 USD'.")] = "",
    suspend: Annotated[bool, typer.Option("--suspend", help="Refuse every call from now on.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Take calls again.")] = False,
    reason: _Reason = "",
) -> None:
    """Change a budget's own document, comments and all, and put it in force."""
    changes = {"limit": limit, "per_request": per_request, "suspended": "true" if suspend else ""}
    changes = {key: value for key, value in changes.items() if value}
    if suspend and resume:
        raise SettingsError("--suspend and --resume: give one of them")
    if not changes and not resume:
        raise SettingsError("nothing to set; give --limit, --per-request, --suspend or --resume")
    objects: list[dict[str, Any]] = _control(context, "GET", "/v1/objects")["objects"]
    source = next((one["source"] for one in objects if (one["kind"], one["name"]) == ("Budget", name)), "")
    if not source and not limit:
        raise SettingsError(f"there is no budget {name!r}; --limit makes it")
    text = source or f"apiVersion: farthing/v1\nkind: Budget\nmetadata: {{name: {name}}}\n"
    for key, value in changes.items():
        text = _with(text, key, value)
    if resume:
        text = _with(text, "suspended", "")
    asked = urlencode({"author": getuser(), "reason": reason})
    applied = _control(context, "POST", f"/v1/apply?{asked}", text)
    _say(f"budget {name}: {applied['changes'][0]['change']}, version {applied['version']}")


@app.command()
def suspend(context: typer.Context, name: _Name, reason: _Reason = "") -> None:
    """Refuse every call of a budget's scope from now on; the same as `set NAME --suspend`."""
    set_budget(context, name, suspend=True, reason=reason)


@app.command()
def resume(context: typer.Context, name: _Name, reason: _Reason = "") -> None:
    """Take calls again; the same as `set NAME --resume`."""
    set_budget(context, name, resume=True, reason=reason)


@app.command("top-up")
def top_up(
    context: typer.Context,
    name: _Name,
    amount: Annotated[str, typer.Argument(help="Such as '50 USD', on top of the limit in the window that runs.")],
    reason: _Reason = "",
) -> None:
    """Raise a budget's limit in the window that runs, and in no other."""
    asked = urlencode({"amount": amount, "author": getuser(), "reason": reason})
    made = _control(context, "POST", f"/v1/budgets/{quote(name, safe='')}/top-up?{asked}")
    _say(f"budget {name}: {format_usd(made['granted_nusd'])} on top of its limit in {made['period']}")


@app.command()
def approve(context: typer.Context, name: _Name, reason: _Reason = "") -> None:
    """Let calls go on that a threshold with `act: approve` holds up, until the window ends."""
    asked = urlencode({"author": getuser(), "reason": reason})
    made = _control(context, "POST", f"/v1/budgets/{quote(name, safe='')}/approve?{asked}")
    _say(f"budget {name}: approved in {made['period']}")


@app.command()
def explain(context: typer.Context, name: _Name, as_json: _Json = False) -> None:
    """Say where a budget stands and who spends: the teams and models of its scope, as the warehouse has them."""
    line = _budget(context, name)
    spenders = _spenders(context, line)
    if as_json:
        _say(json.dumps(line | {"spenders": spenders}))
        return
    for sentence in _story(line):
        _say(sentence)
    if spenders:
        others = [name for name in line["scope"] if name not in ("team", "model")]
        wider = f" (its {', '.join(others)} narrows that further, these sums do not)" if others else ""
        _say(f"\nwho spends, of the teams and models of its scope{wider}:")
    for row in spenders:
        _say(f"  {row['team'] or '-':<20}{row['model']:<28}{row['requests']:>9} calls{_usd(row['cost_usd']):>16}")


def _control(context: typer.Context, method: str, path: str, body: object = None) -> Any:
    return control.ask(context.obj(), method, path, body=body)


def _budget(context: typer.Context, name: str) -> dict[str, Any]:
    return _control(context, "GET", f"/v1/budgets/{quote(name, safe='')}")


def _with(text: str, key: str, value: str) -> str:
    """Return a YAML document with one key of its top level set, or taken out where there is no value."""
    line = re.compile(rf"^{key}:.*\n?", re.MULTILINE)
    written = f"{key}: {value}\n" if value else ""
    if line.search(text):
        return line.sub(lambda _: written, text, count=1)
    return text.rstrip("\n") + "\n" + written


def _money(line: dict[str, Any], nusd: int) -> str:
    """Write an amount in the currency that the budget is thought of in."""
    currency = line["currency"]
    if currency is None:
        return format_usd(nusd)
    return f"{nusd / nusd_from_usd(currency['usd']):,.2f} {currency['name']}"


def _usd(text: str) -> str:
    return f"${float(text):,.4f}"


def _share(line: dict[str, Any]) -> str:
    return f"{line['spent_nusd'] / line['limit_nusd']:.0%}" if line["limit_nusd"] else "-"


def _state(line: dict[str, Any]) -> str:
    if line["suspended"]:
        return "suspended"
    words = [f"crossed {', '.join(line['crossed'])}"] if line["crossed"] else []
    if line["exhausted_at"]:
        words.append("spent" if line["spent_nusd"] >= line["limit_nusd"] else f"gone {line['exhausted_at'][:16]}Z")
    return "; ".join(words) or ("ok" if line["hard"] else "ok, never refuses")


def _facts(line: dict[str, Any]) -> list[tuple[str, str]]:
    window = line["window"]
    kind = f"the last {window['rolling']}" if "rolling" in window else f"{window['calendar']}, {window['tz']}"
    until = f", from {line['period_start'][:16]}Z to {line['period_end'][:16]}Z" if line["period_end"] else ""
    facts = [("budget", line["name"] + (f", owned by {line['owner']}" if line["owner"] else ""))]
    facts += [("scope", json.dumps(line["scope"]) if line["scope"] else "everything"), ("window", kind + until)]
    facts += [(title, _money(line, line[name])) for title, name in _AMOUNTS]
    if (currency := line["currency"]) is not None:
        day = f" of {currency['as_of']}" if currency["as_of"] else ""
        facts.append(("rate", f"1 {currency['name']} = {currency['usd']} USD{day}; it does not move"))
    if line["per_request_nusd"] is not None:
        facts.append(("a call at most", _money(line, line["per_request_nusd"])))
    if line["burn_nusd_per_hour"] is not None:
        facts.append(("burn", f"{_money(line, line['burn_nusd_per_hour'])} an hour, since the window began"))
    if line["forecast_nusd"] is not None:
        facts.append(("forecast", f"{_money(line, line['forecast_nusd'])} at the window's end"))
    facts.append(("gone at", (line["exhausted_at"] or "not in this window")[:19]))
    facts.append(("refused", f"{line['refused']} calls"))
    if line["thresholds"]:
        facts.append(("thresholds", ", ".join(line["thresholds"]) + f"; crossed: {', '.join(line['crossed']) or '-'}"))
    facts.append(("state", _state(line)))
    return facts


def _story(line: dict[str, Any]) -> list[str]:
    """Say in sentences why the budget refuses or not."""
    money = {title: _money(line, line[name]) for title, name in _AMOUNTS}
    said = [f"{line['name']}: {money['spent']} of {money['limit']} is spent ({_share(line)})."]
    said.append(f"Set aside are {money['held']} for calls under way and {money['leased']} leased to proxy workers.")
    if line["suspended"]:
        said.append(f"It is suspended and refuses every call; `farthing budget set {line['name']} --resume` ends that.")
    elif not line["hard"]:
        said.append("It is soft: it counts and never refuses.")
    else:
        said.append(f"A call is refused when what it may cost at worst does not fit into the {money['free']} left.")
    if line["refused"]:
        said.append(f"It has refused {line['refused']} calls in this window.")
    if line["exhausted_at"] and line["spent_nusd"] < line["limit_nusd"]:
        said.append(f"As it goes, it is gone at {line['exhausted_at'][:16]}Z.")
    if line["overrun_nusd"]:
        said.append(f"{_money(line, line['overrun_nusd'])} of real cost came past the limit and could not be charged.")
    return said


def _spenders(context: typer.Context, line: dict[str, Any]) -> list[dict[str, Any]]:
    since = line["period_start"] or datetime(1970, 1, 1, tzinfo=timezone.utc).isoformat()
    asked = {"since": since, "until": datetime.now(timezone.utc).isoformat(), "limit": 100}
    try:
        rows = control.analyzer(context.obj(), "POST", "/v1/ask/cost_drivers", asked)["rows"]
    except ServeError as error:
        sys.stderr.write(f"who spends is not known: {error}\n")
        return []
    scope = line["scope"]
    return [row for row in rows if all(_fits(row[name], scope.get(name, [])) for name in ("team", "model"))][:20]


def _fits(value: str, patterns: list[str]) -> bool:
    return not patterns or any(fnmatchcase(value, pattern.replace("[", "[[]")) for pattern in patterns)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
