"""What each kind of alert looks at, and what it says when it holds; what is unknown makes none hold."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from statistics import median
from typing import Any

from analyzer import figures, scope, slo
from analyzer.alerting.firing import Fact
from analyzer.alerting.pace import Paces
from analyzer.cost_drivers import named
from analyzer.finding import ZERO
from analyzer.notation import count, exact_usd, length, moment, share, usd
from analyzer.window import Window, last_hours, utc
from farthing.policy.kinds.alert import (
    Anomaly,
    BudgetUsed,
    BurnRate,
    Forecast,
    Rollback,
    SloBurn,
    Spend,
    TelemetryGap,
    UnpricedModels,
)
from farthing.policy.kinds.slo import Slo
from farthing.policy.record import Record
from farthing.warehouse.client import Warehouse

NUSD = Decimal(10**9)
_HOUR = timedelta(hours=1)
_MANY = 100  # rows of one question
_FEWEST_DAYS = 3  # with calls, before an hour can be compared with them


@dataclass(frozen=True)
class Scene:
    """What one look sees."""

    warehouse: Warehouse
    tenant: str
    now: datetime
    budgets: Mapping[str, Mapping[str, Any]]  # the ledger's lines, by name
    paces: Paces
    slos: Mapping[str, Slo] = field(default_factory=dict[str, Slo])
    rollbacks: Sequence[Mapping[str, Any]] = ()  # entries of the audit

    def last(self, hours: float) -> Window:
        return last_hours(self.tenant, hours, self.now)

    def ask(self, question: str, window: Window, **values: object) -> Sequence[Mapping[str, Any]]:
        return figures.ask(self.warehouse, window, question, **values)


def facts(scene: Scene, condition: Record) -> list[Fact]:
    """Return what a condition finds now, nothing where it does not hold.

    Raises:
        WarehouseError: the store did not answer.
        ValueError: it names a budget that is not there.
    """
    return _FINDERS[type(condition)](scene, condition)


def _spend(scene: Scene, wanted: Spend) -> list[Fact]:
    window, filters = scene.last(wanted.hours), {"teams": list(wanted.teams), "models": list(wanted.models)}
    totals = scene.ask("totals", window, **filters)[0]
    cost, limit = totals["cost_usd"] or ZERO, Decimal(wanted.above_nusd) / NUSD
    if cost <= limit:
        return []
    whom = _whom(wanted.teams, wanted.models)
    title = f"{whom} spent {usd(cost)} in {length(window.seconds)}, more than {usd(limit)}"
    told = {"cost_usd": exact_usd(cost), "above_usd": exact_usd(limit), "hours": wanted.hours}
    return [Fact(whom, title, f"{count(totals['requests'])} requests. {_driver(scene, window, filters, cost)}", told)]


def _anomaly(scene: Scene, wanted: Anomaly) -> list[Fact]:
    filters = {"teams": list(wanted.teams), "models": list(wanted.models)}
    hour = utc(scene.now).replace(minute=0, second=0, microsecond=0) - _HOUR
    window = Window(scene.tenant, hour - timedelta(days=wanted.days), hour + _HOUR)
    costs: dict[datetime, Decimal] = {}
    for row in scene.ask("cost_over_time", window, step=3600, tz="UTC", **filters):
        at = datetime.fromtimestamp(row["bucket"], timezone.utc)
        costs[at] = costs.get(at, ZERO) + (row["cost_usd"] or ZERO)
    cost = costs.get(hour, ZERO)
    first = min(costs, default=hour)
    same = [hour - timedelta(days=day) for day in range(1, wanted.days + 1)]
    before = [costs.get(at, ZERO) for at in same if at >= first]
    if len(before) < _FEWEST_DAYS or cost <= Decimal(wanted.above_nusd) / NUSD:
        return []
    usual = median(before)
    if cost <= usual * Decimal(wanted.times):
        return []
    whom = _whom(wanted.teams, wanted.models)
    times = f"{cost / usual:.1f} times the median" if usual else "the median was $0.00"
    title = f"{whom} spent {usd(cost)} from {moment(hour)} on, in one hour: {times} of that hour"
    driver = _driver(scene, Window(scene.tenant, hour, hour + _HOUR), filters, cost)
    text = f"The median of this hour over {len(before)} days before is {usd(usual)}. {driver}"
    told = {"cost_usd": exact_usd(cost), "median_usd": exact_usd(usual), "hour": hour.isoformat(), "days": len(before)}
    return [Fact(whom, title, text, told)]


def _budget_used(scene: Scene, wanted: BudgetUsed) -> list[Fact]:
    line = _line(scene, wanted.budget)
    spent, limit = line["spent_nusd"], line["limit_nusd"]
    if not limit or spent < wanted.share * limit:
        return []
    title = f"Budget {wanted.budget} has used {share(spent, limit)} of {_usd(limit)}"
    text = f"Spent {_usd(spent)}, held for calls under way {_usd(line['held_nusd'] + line.get('leased_nusd', 0))}. "
    return [Fact(wanted.budget, title, text + _ends(line), _figures(line) | {"share": spent / limit})]


def _burn_rate(scene: Scene, wanted: BurnRate) -> list[Fact]:
    line = _line(scene, wanted.budget)
    allowed = _even_nusd_per_hour(line)
    times = (wanted.fast_hours, wanted.slow_hours)
    fast, slow = (scene.paces.nusd_per_hour(wanted.budget, hours, scene.now) for hours in times)
    if allowed is None or fast is None or slow is None or min(fast, slow) <= wanted.factor * allowed:
        return []
    title = f"Budget {wanted.budget} burns {min(fast, slow) / allowed:.1f} times as fast as its window allows"
    text = (
        f"{_usd(fast)} an hour over {wanted.fast_hours:g} h, {_usd(slow)} an hour over {wanted.slow_hours:g} h; "
        f"an even pace is {_usd(allowed)} an hour. {_ends(line)}"
    )
    told = {"fast_nusd_per_hour": fast, "slow_nusd_per_hour": slow, "even_nusd_per_hour": allowed}
    return [Fact(wanted.budget, title, text, _figures(line) | told)]


def _forecast(scene: Scene, wanted: Forecast) -> list[Fact]:
    line = _line(scene, wanted.budget)
    pace = scene.paces.nusd_per_hour(wanted.budget, wanted.hours, scene.now)
    if not pace or line["period_end"] is None:
        return []
    left_h = max(0, line["limit_nusd"] - line["spent_nusd"]) / pace
    if left_h > 24 * 366:
        return []
    ends = scene.now + timedelta(hours=left_h)
    if ends >= datetime.fromisoformat(line["period_end"]):
        return []
    title = f"Budget {wanted.budget} will be used up on {moment(ends)}, before its window ends"
    text = f"At {_usd(pace)} an hour, the pace of the last {wanted.hours:g} h. {_ends(line)}"
    told = {"exhausted_at": ends.isoformat(), "nusd_per_hour": pace}
    return [Fact(wanted.budget, title, text, _figures(line) | told)]


def _unpriced_models(scene: Scene, wanted: UnpricedModels) -> list[Fact]:
    window = scene.last(wanted.hours)
    return [
        Fact(
            f"{row['provider']} {row['model']}",
            f"No price for {named(row['model'], 'model')} of {named(row['provider'], 'provider')}",
            f"{count(row['requests'])} requests of the last {length(window.seconds)} have an unknown cost, which is in "
            f"no sum. Add it with `farthing prices add`, then `farthing reprice`.",
            {"requests": row["requests"], "provider": row["provider"], "model": row["model"]},
        )
        for row in scene.ask("unpriced_models", window, limit=_MANY)
    ]


def _telemetry_gap(scene: Scene, wanted: TelemetryGap) -> list[Fact]:
    quiet = timedelta(minutes=wanted.minutes)
    window = scene.last(wanted.before_hours + wanted.minutes / 60)
    totals = scene.ask("totals", window, teams=[], models=[])[0]
    seen = totals["data_until"]
    if not totals["requests"]:
        return []
    last = seen.replace(tzinfo=timezone.utc) if seen.tzinfo is None else seen
    if scene.now - last < quiet:
        return []
    title = f"Nothing was recorded since {moment(last)}"
    text = (
        f"{count(totals['requests'])} requests came in the {wanted.before_hours:g} h before that. Are the collector "
        f"and the applications up? `farthing doctor` tells."
    )
    return [Fact("", title, text, {"last_seen": last.isoformat(), "requests_before": totals["requests"]})]


def _slo(scene: Scene, wanted: SloBurn) -> list[Fact]:
    found = scene.slos.get(wanted.name)
    if found is None:
        raise ValueError(f"there is no Slo {wanted.name!r}; known: {', '.join(sorted(scene.slos)) or 'none'}")
    fast, slow = slo.burns(scene.warehouse, scene.tenant, found, (wanted.fast_hours, wanted.slow_hours), scene.now)
    if fast.rate is None or slow.rate is None or slow.calls < wanted.min_calls:
        return []
    rate = min(fast.rate, slow.rate)
    if rate < wanted.factor:
        return []
    title = f"Slo {wanted.name} burns its error budget {rate:.1f} times as fast as its {found.window_days:g} days allow"
    text = (
        f"{count(fast.missed)} of {count(fast.calls)} calls missed it ({found.measure}) in {wanted.fast_hours:g} h, "
        f"{count(slow.missed)} of {count(slow.calls)} in {wanted.slow_hours:g} h; {found.share:.6g} have to be good. "
        f"{_slo_driver(scene, found, wanted.slow_hours)}"
    )
    told = {"fast_rate": fast.rate, "slow_rate": slow.rate, "objective": found.share, "missed": slow.missed}
    return [Fact(wanted.name, title, text, told)]


def _slo_driver(scene: Scene, found: Slo, hours: float) -> str:
    """Name the team and the model with the most calls that missed an objective."""
    given = {"measure": found.measure, "most": found.most, **scope.parameters(found.scope)}
    rows = scene.ask("slo_drivers", scene.last(hours), **given)
    if not rows:
        return ""
    most = rows[0]
    whose = f"team {named(most['team'], 'team')} on {named(most['model'], 'model')}"
    return f"Most of them: {whose}, {count(most['missed'])}."


def _rollback(scene: Scene, wanted: Rollback) -> list[Fact]:
    since = scene.now - timedelta(hours=wanted.hours)
    return [
        Fact(
            f"{change['name']} in version {entry['version']}",
            f"Policy {change['name']} was rolled back to shadow on {moment(datetime.fromisoformat(entry['at']))}",
            f"{entry['reason']}. `farthing policy status` tells more.",
            {"policy": change["name"], "version": entry["version"], "reason": entry["reason"]},
            is_event=True,
        )
        for entry in scene.rollbacks
        if datetime.fromisoformat(entry["at"]) >= since
        for change in entry["changes"]
        if not wanted.policies or change["name"] in wanted.policies
    ]


def _line(scene: Scene, budget: str) -> Mapping[str, Any]:
    line = scene.budgets.get(budget)
    if line is None:
        raise ValueError(f"there is no budget {budget!r}; known: {', '.join(sorted(scene.budgets)) or 'none'}")
    return line


def _even_nusd_per_hour(line: Mapping[str, Any]) -> float | None:
    """Return the pace that uses a budget up exactly at the end of its window; None where that has no end."""
    if line["period_start"] is None or line["period_end"] is None:
        return None
    start, end = (datetime.fromisoformat(line[name]) for name in ("period_start", "period_end"))
    return line["limit_nusd"] / ((end - start) / _HOUR)


def _driver(scene: Scene, window: Window, filters: Mapping[str, object], cost: Decimal) -> str:
    """Name the team and the model that most of the money went to."""
    parts: list[str] = []
    for question, column in (("cost_by_team", "team"), ("cost_by_model", "model")):
        rows = scene.ask(question, window, limit=1, **filters)
        if rows and rows[0]["cost_usd"]:
            spent = rows[0]["cost_usd"]
            parts.append(f"{column} {named(rows[0][column], column)} {usd(spent)} ({share(spent, cost)})")
    return f"Most of it: {' and '.join(parts)}." if parts else ""


def _whom(teams: Sequence[str], models: Sequence[str]) -> str:
    named_teams = ("Team " if len(teams) == 1 else "Teams ") + ", ".join(teams) if teams else "All teams"
    return f"{named_teams} on {', '.join(models)}" if models else named_teams


def _usd(nusd: float) -> str:
    return usd(Decimal(round(nusd)) / NUSD)


def _ends(line: Mapping[str, Any]) -> str:
    ends = line["period_end"]
    return f"Its window ends on {moment(datetime.fromisoformat(ends))}." if ends else "Its window has no end."


def _figures(line: Mapping[str, Any]) -> dict[str, object]:
    return {name: line[name] for name in ("limit_nusd", "spent_nusd", "held_nusd", "period_end")}


_FINDERS: Mapping[type[Record], Callable[[Scene, Any], list[Fact]]] = {
    Spend: _spend,
    Anomaly: _anomaly,
    BudgetUsed: _budget_used,
    BurnRate: _burn_rate,
    Forecast: _forecast,
    UnpricedModels: _unpriced_models,
    TelemetryGap: _telemetry_gap,
    SloBurn: _slo,
    Rollback: _rollback,
}
