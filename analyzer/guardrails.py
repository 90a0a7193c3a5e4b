"""Has a policy on trial made worse what it may not make worse? Judged from both sides of its draw, at any time.

Each observation is one unit of the draw (a request, a user, a session) weighted by the inverse of the probability with
which it came to its side, so that a growing canary does not compare early days with late ones.
"""
from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from analyzer import slo
from analyzer.sequence import BURN_IN, radius
from analyzer.window import utc
from farthing.policy import Policy
from farthing.policy.holdout import Guardrail
from farthing.policy.kinds.slo import Slo

MAX_CALLS = 100_000  # read for all trials together


@dataclass(frozen=True)
class Verdict:
    """One guardrail of one policy, looked at now."""

    policy: str
    metric: str
    max_increase: float
    treated: int  # units
    control: int
    treated_mean: float | None
    control_mean: float | None
    excess_low: float | None  # the increase beyond the allowed one is at least this, at any look, with 95 %
    is_crossed: bool
    says: str


def judge(
    policies: Iterable[Policy], since: Mapping[str, datetime], rows: Sequence[Mapping[str, Any]],
    slos: Mapping[str, Slo] | None = None, tenant: str = "",
) -> list[Verdict]:  # fmt: skip
    """Return a verdict for each guardrail; `since` says from when on each policy is as it is."""
    sides = _sides(rows)
    return [
        _verdict(policy, rail, _observations(policy, value, sides.get(policy.name, []), since[policy.name]))
        if (value := _value_of(rail, slos or {}, tenant)) is not None
        else _not_judged(policy, rail)
        for policy in policies
        for rail in policy.verify.guardrails
    ]


Side = tuple[Mapping[str, Any], bool, float]  # row, treated, propensity


def _sides(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Side]]:
    """Read the sides that the proxy wrote down, by policy."""
    found: dict[str, list[Side]] = {}
    for row in rows:
        for arm in json.loads(row["arms"] or "[]"):
            policy, _, rest = str(arm).partition(":")
            side, _, propensity = rest.partition(":")
            found.setdefault(policy, []).append((row, side == "treatment", float(propensity)))
    return found


@dataclass(frozen=True)
class _Observations:
    """One entry a unit: its mean, its side, and the probability of the treated side."""

    values: Any  # [units] float64
    treated: Any  # [units] bool
    propensity: Any  # [units] float64


def _observations(policy: Policy, value_of: ValueOf, sides: Sequence[Side], since: datetime) -> _Observations:
    sums: dict[tuple[str, bool, float], list[float]] = {}
    for row, treated, propensity in sides:
        value = value_of(row)
        if value is not None and utc(row["started_at"]) >= since and 0 < propensity < 1:
            fact = "" if policy.verify.unit == "request" else row[policy.verify.unit]
            sums.setdefault((fact or row["span_id"], treated, propensity), []).append(value)
    return _Observations(
        np.array([sum(values) / len(values) for values in sums.values()], dtype=np.float64),
        np.array([treated for _, treated, _ in sums], dtype=bool),
        np.array([propensity for _, _, propensity in sums], dtype=np.float64),
    )


ValueOf = Callable[[Mapping[str, Any]], float | None]


def _value_of(rail: Guardrail, slos: Mapping[str, Slo], tenant: str) -> ValueOf | None:
    """Return what a guardrail looks at in a call; None where it names an objective that is not there."""
    if rail.slo is None:
        return lambda row: _value(rail, row)
    found = slos.get(rail.slo)
    return None if found is None else lambda row: slo.missed(found, row, tenant)


def _not_judged(policy: Policy, rail: Guardrail) -> Verdict:
    says = f"there is no Slo {rail.slo!r}, so this guardrail guards nothing; apply one of that name"
    return Verdict(policy.name, rail.title, rail.max_increase, 0, 0, None, None, None, False, says)


def _value(rail: Guardrail, row: Mapping[str, Any]) -> float | None:
    if rail.metric == "errors":
        return float(row["outcome"] == "error")
    found = {"cost": row["cost_usd"], "latency": row["duration_s"], "ttft": row["ttft_s"]}[rail.metric]
    return None if found is None else float(found)


def _verdict(policy: Policy, rail: Guardrail, seen: _Observations) -> Verdict:
    treated, control = int(seen.treated.sum()), int((~seen.treated).sum())
    told = (policy.name, rail.title, rail.max_increase, treated, control)
    units = f"{policy.verify.unit}s"
    if not treated or not control:
        where = "on either side" if treated == control else "where it does not act" if treated else "where it acts"
        return Verdict(*told, None, None, None, False, f"{rail.title}: nothing measured yet {where}")
    means = (float(seen.values[seen.treated].mean()), float(seen.values[~seen.treated].mean()))
    if treated + control < BURN_IN:
        says = f"{rail.title}: {treated + control} of {BURN_IN} {units} that a first look needs"
        return Verdict(*told, *means, None, False, says)
    low = _excess_low(rail, seen)
    acting, not_acting = (_shown(rail, mean) for mean in means)
    says = f"{rail.title}: {acting} where it acts, {not_acting} where it does not ({treated} and {control} {units})"
    if low > 0:
        allowed = f"the allowed increase of {rail.max_increase * 100:.3g}%"
        says += f"; at least {_shown(rail, low)} more than {allowed}, with 95% confidence over all looks"
    return Verdict(*told, *means, low, low > 0, says)


def _shown(rail: Guardrail, value: float) -> str:
    """Return a figure of a guardrail as people read it."""
    if rail.is_share:
        return f"{value:.1%}"
    return f"{value:.3g} USD" if rail.metric == "cost" else f"{value:.3g} s"


def _excess_low(rail: Guardrail, seen: _Observations) -> float:
    """Return the lower end of the sequence for: treated mean, less the held out one and what it may grow by."""
    centre = float(seen.values.mean())
    relative = 0.0 if rail.is_share else rail.max_increase
    allowed = rail.max_increase if rail.is_share else relative * centre
    weights = np.where(seen.treated, 1 / seen.propensity, -(1 + relative) / (1 - seen.propensity))
    stream = (seen.values - centre) * weights - allowed
    return float(stream.mean()) - radius(len(stream), float(stream.var()))
