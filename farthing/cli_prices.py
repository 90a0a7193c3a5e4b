"""`farthing prices` and `farthing reprice`: what a token costs, since when, and what nobody has a price for.

The running collector answers, because one process at a time has an embedded warehouse open.
"""
from __future__ import annotations

import json
import shlex
import sys
from decimal import Decimal
from getpass import getuser
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from farthing.errors import PriceError
from farthing.http_json import call
from farthing.money import format_usd
from farthing.settings import Settings

app = typer.Typer(help="Show, add and date prices, and list what has none.", no_args_is_help=True)

_REPRICE_S = 3600.0  # seconds that a repricing may take
_OPTIONAL = ("cache_read", "cache_write", "cache_write_1h", "input_audio", "cache_audio", "output_audio")
_Rate = Annotated[str, typer.Option(help="USD per million tokens; default: as the kind that it is a sort of.")]


@app.command()
def show(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Default: every model met so far.")] = "",
    provider: Annotated[str, typer.Option(help="Default: every provider that has the model.")] = "",
    date: Annotated[str, typer.Option(help="ISO date, UTC; default: today.")] = "",
) -> None:
    """Show the prices that hold on a date, USD per million tokens, and where each comes from."""
    found = _get(context, "", {"model": model, "provider": provider, "date": date})["prices"]
    if not found:
        what = "/".join(filter(None, (provider, model))) or "any model"
        day = f" on {date}" if date else ""
        raise PriceError(f"no price for {what}{day}; add one with `farthing prices add`")
    _table(found)


@app.command()
def history(
    context: typer.Context,
    provider: Annotated[str, typer.Argument(help="Such as openai.")],
    model: Annotated[str, typer.Argument(help="The model's name as calls have it.")],
) -> None:
    """Show every price that a model had, has and will have, and who added which."""
    told = _get(context, "/history", {"provider": provider, "model": model})
    if not told["prices"]:
        raise PriceError(f"no price for {provider}/{model}, on any date; add one with `farthing prices add`")
    _table(told["prices"])
    for one in told["added"]:
        reason = f": {one['reason']}" if one["reason"] else ""
        _say(f"from {one['valid_from']}, added {one['at'][:16]} by {one['by'] or 'somebody'}{reason}")


@app.command()
def add(
    context: typer.Context,
    provider: Annotated[str, typer.Argument(help="Who bills, such as openai or farthing.")],
    model: Annotated[str, typer.Argument(help="The model's name as calls have it.")],
    input: Annotated[str, typer.Option(help="USD per million tokens.")],
    output: Annotated[str, typer.Option(help="USD per million tokens.")],
    since: Annotated[str, typer.Option("--from", help="First day that it holds, ISO date, UTC.")],
    service_tier: Annotated[str, typer.Option(help="flex, priority, batch, …; default: the standard one.")] = "",
    cache_read: _Rate = "",
    cache_write: _Rate = "",
    cache_write_1h: _Rate = "",
    input_audio: _Rate = "",
    cache_audio: _Rate = "",
    output_audio: _Rate = "",
    tier: Annotated[
        list[str] | None,
        typer.Option(help='JSON: {"over": 200000, "input": "6", "output": "22.5"}; may be repeated.'),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "",
) -> None:
    """Add a price of your own; it holds from its first day on, before the public price."""
    kinds = (cache_read, cache_write, cache_write_1h, input_audio, cache_audio, output_audio)
    said: dict[str, Any] = {
        "provider": provider, "model": model, "input": input, "output": output, "valid_from": since,
        "service_tier": service_tier, "tiers": [_tier(one) for one in tier or ()], "by": getuser(), "reason": reason,
        **dict(zip(_OPTIONAL, kinds, strict=True)),
    }  # fmt: skip
    settings = _settings(context)
    given = {name: value for name, value in said.items() if value or name in ("input", "output")}
    told = call("POST", f"{settings.url('collector')}/v1/prices", given, **_let_in(settings))
    _table(told["prices"])
    _say(f"calls before now keep their cost until `farthing reprice --since {since} --model {shlex.quote(model)}`")


@app.command()
def missing(
    context: typer.Context,
    hours: Annotated[float, typer.Option(help="How far back, hours.")] = 24.0 * 7,
) -> None:
    """List the models that calls named and nobody has a price for, and how to add one."""
    found = _get(context, "/missing", {"hours": f"{hours:g}"})["missing"]
    if not found:
        _say(f"every call of the last {hours:g} hours whose usage is known has a price")
    for row in found:
        tier = f" ({row['service_tier']})" if row["service_tier"] else ""
        _say(f"{row['provider'] or '?'}/{row['model'] or '?'}{tier}")
        tokens = f"{row['input_tokens'] or 0:,} tokens in, {row['output_tokens'] or 0:,} out"
        _say(f"    {row['requests']:,} calls, {tokens}, from {row['first_seen'][:16]} to {row['last_seen'][:16]}")
        if row["provider"] and row["model"]:
            _say(f"    {_adding(row)}")
        else:
            _say("    its spans name no provider or no model; have the emitter set gen_ai.provider.name")


def reprice(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="ISO date or time, UTC, inclusive.")],
    until: Annotated[str, typer.Option(help="ISO date or time, UTC, exclusive; default: now.")] = "",
    model: Annotated[str, typer.Option(help="Only calls of this model.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change.")] = False,
) -> None:
    """Price the calls of a period anew, exactly as if they came in now; what budgets were charged stays."""
    settings = _settings(context)
    said = {"since": since, "until": until, "model": model, "by": getuser(), "reason": reason, "dry_run": dry_run}
    url = f"{settings.url('collector')}/v1/prices/reprice"
    told = call("POST", url, said, timeout_s=_REPRICE_S, **_let_in(settings))
    _say(f"{'model':<40}{'rows':>10}{'changed':>10}{'old cost':>16}{'new cost':>16}{'difference':>16}")
    for row in told["models"]:
        note = f"  {row['unpriced']} without a price" if row["unpriced"] else ""
        _row(f"{row['provider']}/{row['model']}", row, note)
    total = {name: sum(row[name] for row in told["models"]) for name in ("rows", "changed")}
    money = {name: sum((Decimal(row[name]) for row in told["models"]), Decimal(0)) for name in ("old_usd", "new_usd")}
    _row("all", {**total, **money})
    did = "nothing was written" if dry_run or not total["changed"] else "repriced"
    _say(f"{told['since']} to {told['until']}: {did}")


def _row(name: str, row: dict[str, Any], note: str = "") -> None:
    old, new = (int(Decimal(row[which]).scaleb(9)) for which in ("old_usd", "new_usd"))
    money = f"{format_usd(old):>16}{format_usd(new):>16}{_signed(new - old):>16}"
    _say(f"{name:<40}{row['rows']:>10}{row['changed']:>10}{money}{note}")


def _signed(nusd: int) -> str:
    return ("-" if nusd < 0 else "+" if nusd else "") + format_usd(abs(nusd))


def _table(prices: list[dict[str, Any]]) -> None:
    for price in prices:
        tier = f" ({price['service_tier']})" if price["service_tier"] else ""
        until = "" if price["valid_to"] > "2149" else f" to {price['valid_to']}"
        since = "always" if price["valid_from"] == "1970-01-01" else f"from {price['valid_from']}"
        _say(f"{price['provider']}/{price['model']}{tier}  {since}{until}  [{price['version']}]")
        _say(f"    {_kinds(price['rates'])}")
        for size in price["tiers"]:
            _say(f"    over {size['over']:,} input tokens: {_kinds(size['rates'])}")


def _kinds(rates: dict[str, str]) -> str:
    return "  ".join(f"{kind} {rate}" for kind, rate in rates.items())


def _adding(row: dict[str, Any]) -> str:
    tier = f" --service-tier {shlex.quote(row['service_tier'])}" if row["service_tier"] else ""
    pair = f"{shlex.quote(row['provider'])} {shlex.quote(row['model'])}"
    return f"farthing prices add {pair} --input USD --output USD --from {row['first_seen'][:10]}{tier}"


def _tier(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        example = '{"over": 200000, "input": "6", "output": "22.5"}'
        raise PriceError(f"--tier {text!r}: write JSON, such as {example}") from None


def _get(context: typer.Context, path: str, asked: dict[str, str]) -> Any:
    settings = _settings(context)
    query = urlencode({name: value for name, value in asked.items() if value})
    return call("GET", f"{settings.url('collector')}/v1/prices{path}?{query}", **_let_in(settings))


def _settings(context: typer.Context) -> Settings:
    return context.obj()


def _let_in(settings: Settings) -> dict[str, Any]:
    """Return a key that the collector takes, its own tenant's first, and the token of the settings."""
    keys = sorted(settings.ingest_keys, key=lambda key: key.tenant != settings.tenant)
    return {"key": keys[0].key if keys else "", "token": settings.control_token}


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
