"""How much a change would do, with 95 % intervals: a bootstrap over users, since calls of one user go together.

Money is exact per call; latency and errors of a model or deployment that a call did not go to are those that it showed
in the same window. What was never seen has no figure. The draw has a fixed seed: the same window gives the same plan.
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
    refused_per_day: Range  # calls that a budget or a limit of tokens would refuse
    tokens_per_day: Range  # that are paid for


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
        sides = [(call.before, call.after) for call in calls]
        shown = {name for call in calls for name in (call.recorded_model, call.recorded_place)}
        names = sorted(shown | {one.served_by for pair in sides for one in pair} | {""})
        self._number = {name: place for place, name in enumerate(names)}
        clusters = {name: place for place, name in enumerate(dict.fromkeys(call.cluster for call in calls))}
        self._cluster = np.array([clusters[call.cluster] for call in calls], dtype=np.int64)
        self._clusters = len(clusters)
        self._served = [  # each call tells of its model, and of its deployment
            np.array([self._number[name] for name in column], dtype=np.int64)
            for column in ([call.recorded_model for call in calls], [call.recorded_place for call in calls])
        ]
        self._seconds = np.array([call.duration_s for call in calls], dtype=np.float64)
        self._error = np.array([call.is_error for call in calls], dtype=np.float64)
        differences = [
            [_difference(call) / 1e9 for call in calls],
            [bool(call.after.refused_by) - bool(call.before.refused_by) for call in calls],
            [_more_tokens(call) for call in calls],
        ]
        self._sums = np.array(differences, dtype=np.float64).reshape(3, -1) * money_scale  # [3, calls] a day

    def effect(self, team: str, places: list[int], requests: int, scale: float) -> Effect:
        """Return the effect on the calls at `places`."""
        calls = [self._calls[place] for place in places]
        unknown = sum(None in (call.before.cost_nusd, call.after.cost_nusd) for call in calls)
        at = np.array(places, dtype=np.int64)
        sides = [np.array([self._side(o) for o in side], dtype=np.int64) for side in _sides(calls)]
        ones = np.ones(self._clusters)
        draws = np.random.default_rng(_SEED).poisson(1.0, (DRAWS if places else 0, self._clusters)).astype(np.float64)
        point = self._figures(ones, at, sides)
        drawn = np.array([self._figures(draw, at, sides) for draw in draws]).reshape(-1, 5)
        money, refused, tokens, latency, errors = (_range(point[n], drawn[:, n]) for n in range(5))
        known = money if unknown < len(calls) or not calls else Range(None, None, None)
        sizes = [round(number * scale) for number in (requests, len(calls), unknown)]
        return Effect(team, sizes[0], sizes[1], sizes[2], known, latency, errors, refused, tokens)

    def _side(self, outcome: Any) -> int:
        return -1 if outcome.is_cached else self._number[outcome.served_by]

    def _figures(self, draw: Any, at: Any, sides: list[Any]) -> tuple[float, ...]:
        """Return money, refusals, tokens, latency and errors under one weighting of the clusters."""
        weights = draw[self._cluster]
        chosen = weights[at]
        total = chosen.sum()
        sums = [float(value) for value in (self._sums[:, at] * chosen).sum(axis=1)]
        if not total:
            return *sums, float("nan"), float("nan")
        counts = self._by_place(weights)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = [self._by_place(weights * what) / counts for what in (self._seconds, self._error)]
        seconds, errors = (float((_changes(mean, sides) * chosen).sum() / total) for mean in means)
        return *sums, seconds, errors

    def _by_place(self, weights: Any) -> Any:
        """Return sums over the calls that each model, and each deployment, served."""
        total = sum(np.bincount(served, weights, len(self._number)) for served in self._served)
        return np.where(np.arange(len(self._number)) == self._number[""], 0.0, total)


def _sides(calls: Sequence[Replayed]) -> tuple[list[Any], list[Any]]:
    """Return both outcomes of each call; one that a side refuses has no latency to compare."""
    before = [call.after if call.before.refused_by else call.before for call in calls]
    after = [before[n] if call.after.refused_by else call.after for n, call in enumerate(calls)]
    return before, after


def _changes(mean: Any, sides: list[Any]) -> Any:
    """Return what each call's figure would change by; an answer from a cache takes no time and does not fail."""
    padded = np.append(mean, 0.0)  # place -1 is the cache
    before, after = (padded[side] for side in sides)
    return np.where(sides[0] == sides[1], 0.0, after - before)


def _more_tokens(call: Replayed) -> int:
    """Return by how many tokens more are paid for; 0 where nobody knows."""
    before, after = call.before.tokens, call.after.tokens
    return 0 if before is None or after is None else after - before


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
