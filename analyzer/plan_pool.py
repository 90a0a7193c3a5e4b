"""The deployments as they would have stood at each call of a replay: what they showed in the window, and who was asked.

A deployment's latency and errors are its means over the window, its load the replayed calls that had not ended; what a
call would cost there is priced from its own tokens, where the proxy has only an estimate.
"""
from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from farthing.deployments import named
from farthing.policy import Facts, RouteAction, choose
from farthing.policy.choose import UNPRICED
from farthing.policy.strategies import Candidate
from farthing.settings import Deployment, Settings

CostAt = Callable[[Deployment], int | None]


class Shown:
    """What each deployment, or else its model, showed in a window."""

    def __init__(self, settings: Settings, rows: Sequence[Mapping[str, Any]]) -> None:
        self._at: dict[str, list[Deployment]] = {}  # by the URL, which is what rows have
        for deployment in named(settings.served()):
            self._at.setdefault(deployment.url, []).append(deployment)
        sums: dict[str, list[float]] = {}
        for row in rows:
            if not row["cache_hit"]:
                for name in {self.place_of(row), row["model"]}:
                    one = sums.setdefault(name, [0.0, 0.0, 0.0])
                    one[0] += 1
                    one[1] += row["duration_s"]
                    one[2] += row["outcome"] == "error"
        self._means = {name: (1000 * total / number, bad / number) for name, (number, total, bad) in sums.items()}

    def place_of(self, row: Mapping[str, Any]) -> str:
        """Return the place that served a call, empty where the settings do not tell."""
        found = self._at.get(row["deployment"], [])
        if len(found) > 1:
            found = [one for one in found if one.model == row["model"]]
        return place(found[0].name) if len(found) == 1 else ""

    def of(self, deployment: Deployment) -> tuple[float, float]:
        """Return mean latency in ms and the share of errors; 0 and 0 for what was never seen."""
        return self._means.get(place(deployment.name), self._means.get(deployment.model, (0.0, 0.0)))


def place(deployment: str) -> str:
    """Return the name of a deployment as no model has it."""
    return f"@{deployment}"


class Pool:
    """The deployments on their way through one document's replay."""

    def __init__(self, settings: Settings, shown: Shown) -> None:
        self._shown = shown
        self._of: dict[str, list[Deployment]] = {}
        for deployment in named(settings.served()):
            self._of.setdefault(deployment.model, []).append(deployment)
        self._ends: dict[str, list[datetime]] = {}  # deployment -> when its calls under way end

    def choose(
        self, route: RouteAction, facts: Facts, prefix: str, models: Iterable[str], cost_at: CostAt,
        at: datetime, draw: Callable[[], float],
    ) -> Deployment | None:  # fmt: skip
        """Return who would be asked; None where no deployment of the settings serves it."""
        known = [one for model in models for one in self._of.get(model, ())]
        candidates = [self._candidate(route, one, cost_at(one), at) for one in known]
        found = choose.first(route, facts, prefix, candidates, draw) if candidates else None
        if found is None:
            return None
        chosen = known[candidates.index(found[0])]
        seconds = self._shown.of(chosen)[0] / 1000
        heapq.heappush(self._ends.setdefault(chosen.name, []), at + timedelta(seconds=seconds))
        return chosen

    def _candidate(self, route: RouteAction, one: Deployment, cost: int | None, at: datetime) -> Candidate:
        latency_ms, errors = self._shown.of(one)
        ends = self._ends.get(one.name, [])
        while ends and ends[0] <= at:
            heapq.heappop(ends)
        weight = route.weights.get(one.name, route.weights.get(one.model, one.weight))
        asked = UNPRICED if cost is None else cost
        return Candidate(
            one.name, weight, len(ends), one.max_in_flight, latency_ms, errors, asked, one.quality, one.region
        )
