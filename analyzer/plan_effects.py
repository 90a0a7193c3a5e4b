"""How much a change would do, with 95 % intervals: a bootstrap over users, since calls of one user go together.

Money is exact per call; latency and errors of a model that a call did not go to are those that the model showed in the
same window. What was never seen has no figure. The draw has a fixed seed: the same window gives the same plan.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analyzer.plan_replay import Replayed

DRAWS = 400
_SEED = 20_260_301
_EDGES = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Range:
    """An estimate with its 95 % interval; None = nothing to estimate it from."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Effect:
    """What would change for one team, or for all."""

    team: str
    requests: int  # of the window
    hit: int  # that would be treated otherwise
    unknown: int  # of these, how many have no price on one side or no usage
    usd_per_day: Range  # less spend is negative
    latency_s: Range  # mean over the hit ones
    error_share: Range  # the same


def effects(calls: Sequence[Replayed], scale: float, days: float) -> list[Effect]:
    """Return the effect on all (`team` is empty) and then on each team that is hit, the most money first."""
    table = _Table(calls, scale / days)
    by_team: dict[str, list[int]] = {}
    for place, call in enumerate(calls):
        if call.is_changed:
            by_team.setdefault(call.team, []).append(place)
    sizes: dict[str, int] = {}
    for call in calls:
        sizes[call.team] = sizes.get(call.team, 0) + 1
    every = [place for places in by_team.values() for place in places]
    whole = table.effect("", every, len(calls), scale)
    teams = [table.effect(team, places, sizes[team], scale) for team, places in by_team.items()]
    return [whole, *sorted(teams, key=lambda one: (-abs(one.usd_per_day.value or 0.0), one.team))]


class _Table:
    """The calls as columns, and the same resamples for every question."""

    def __init__(self, calls: Sequence[Replayed], money_scale: float) -> None:
        self._calls = calls
        models = sorted({name for call in calls for name in (call.recorded_model, call.before.model, call.after.model)})
        self._number = {name: place for place, name in enumerate(models)}
        clusters = {name: place for place, name in enumerate(dict.fromkeys(call.cluster for call in calls))}
        self._cluster = np.array([clusters[call.cluster] for call in calls], dtype=np.int64)
        self._clusters = len(clusters)
        self._served = np.array([self._number[call.recorded_model] for call in calls], dtype=np.int64)
        is_served = np.array([bool(call.recorded_model) for call in calls], dtype=np.float64)
        self._weight = is_served
        self._seconds = np.array([call.duration_s for call in calls], dtype=np.float64)
        self._error = np.array([call.is_error for call in calls], dtype=np.float64)
        self._money = np.array([_difference(call) for call in calls], dtype=np.float64) * money_scale / 1e9

    def effect(self, team: str, places: list[int], requests: int, scale: float) -> Effect:
        """Return the effect on the calls at `places`."""
        calls = [self._calls[place] for place in places]
        unknown = sum(None in (call.before.cost_nusd, call.after.cost_nusd) for call in calls)
        at = np.array(places, dtype=np.int64)
        sides = [np.array([self._side(o) for o in side], dtype=np.int64) for side in _sides(calls)]
        ones = np.ones(self._clusters)
        draws = np.random.default_rng(_SEED).poisson(1.0, (DRAWS if places else 0, self._clusters)).astype(np.float64)
        point = self._figures(ones, at, sides)
        drawn = np.array([self._figures(draw, at, sides) for draw in draws]).reshape(-1, 3)
        money, latency, errors = (_range(point[n], drawn[:, n]) for n in range(3))
        known = money if unknown < len(calls) or not calls else Range(None, None, None)
        sizes = [round(number * scale) for number in (requests, len(calls), unknown)]
        return Effect(team, sizes[0], sizes[1], sizes[2], known, latency, errors)

    def _side(self, outcome: Any) -> int:
        return -1 if outcome.is_cached else self._number[outcome.model]

    def _figures(self, draw: Any, at: Any, sides: list[Any]) -> tuple[float, float, float]:
        """Return money, latency and errors under one weighting of the clusters."""
        weights = draw[self._cluster]
        chosen = weights[at]
        total = chosen.sum()
        money = float((self._money[at] * chosen).sum())
        if not total:
            return money, float("nan"), float("nan")
        served = weights * self._weight
        size = len(self._number)
        counts = np.bincount(self._served, served, size)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = [np.bincount(self._served, served * what, size) / counts for what in (self._seconds, self._error)]
        seconds, errors = (float((_changes(mean, sides) * chosen).sum() / total) for mean in means)
        return money, seconds, errors


def _sides(calls: Sequence[Replayed]) -> tuple[list[Any], list[Any]]:
    return [call.before for call in calls], [call.after for call in calls]


def _changes(mean: Any, sides: list[Any]) -> Any:
    """Return what each call's figure would change by; an answer from a cache takes no time and does not fail."""
    padded = np.append(mean, 0.0)  # place -1 is the cache
    before, after = (padded[side] for side in sides)
    return np.where(sides[0] == sides[1], 0.0, after - before)


def _difference(call: Replayed) -> int:
    if not call.is_changed or call.before.cost_nusd is None or call.after.cost_nusd is None:
        return 0
    return call.after.cost_nusd - call.before.cost_nusd


def _range(value: float, drawn: Any) -> Range:
    finite = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or not len(finite):
        return Range(0.0, 0.0, 0.0) if value == 0 else Range(None, None, None)
    low, high = np.percentile(finite, _EDGES)
    return Range(float(value), float(low), float(high))
