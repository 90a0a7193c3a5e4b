"""What one worker counts, for Prometheus: each call by one look-up, everything else read when somebody asks.

Labels are bounded by what is configured (routes, models, policies, statuses); what a client may choose freely, such as
a team, a user or the model it asked for, is never one.
"""
from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from farthing.prometheus import Family, Kind
from proxy.api_error import ApiError
from proxy.call import Call

MAX_SERIES = 2000  # combinations of labels; what is more is counted as `other`
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds

_Key = tuple[str, int, str, str, str]  # route, status, outcome, model, cache level
_OTHER: _Key = ("other", 0, "other", "", "")
Labelled = Iterable[tuple[dict[str, str], float]]


@dataclass(slots=True)
class _Totals:
    calls: int = 0
    input: int = 0  # tokens, cached ones included
    cached: int = 0
    output: int = 0
    nusd: int = 0
    unknown: int = 0  # calls that were served and whose cost nobody can tell
    retries: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))


@dataclass(frozen=True)
class _Reading:
    name: str
    kind: Kind
    help: str
    read: Callable[[], float | Labelled]


class Metrics:
    """The counts of one worker, and what else is worth reading of its parts."""

    def __init__(self) -> None:
        self._calls: dict[_Key, _Totals] = {}
        self._acted: Counter[str] = Counter()
        self._refused: Counter[tuple[str, str]] = Counter()
        self._readings: list[_Reading] = []

    def read(self, name: str, kind: Kind, what: str, read: Callable[[], float | Labelled]) -> None:
        """Have a part's own number, or numbers with labels, on the page; `read` is called when somebody asks."""
        self._readings.append(_Reading(f"farthing_{name}", kind, what, read))

    def called(self, route: str, call: Call) -> None:
        """Count a finished call."""
        key = (route, call.status, call.outcome, call.deployment.model if call.deployment else "", call.cache_hit)
        totals = self._calls.get(key)
        if totals is None:
            totals = self._new(key)
        seconds = (call.ended_ns - call.started_ns) / 1e9
        totals.calls += 1
        totals.seconds += seconds
        totals.buckets[bisect_left(BOUNDS, seconds)] += 1
        totals.retries += call.attempts - 1 if call.attempts > 1 else 0
        used = call.usage
        if used is not None:
            totals.input += used.input
            totals.cached += used.cache_read + used.cache_audio
            totals.output += used.output_total
        cost = call.settled_nusd if call.settled_nusd is not None else call.cost_nusd()
        if cost is None:
            totals.unknown += 1
        else:
            totals.nusd += cost
        if call.outcome == "refused":
            self._refused[route, call.error_type] += 1
        if call.decision is not None:
            for name in call.decision.acted:
                self._acted[name if name in self._acted or len(self._acted) < MAX_SERIES else "other"] += 1

    def refused(self, route: str, error: ApiError) -> None:
        """Count a request that was refused before it was a call: a bad key, a body that is none."""
        self._refused[route, error.code] += 1

    def _new(self, key: _Key) -> _Totals:
        return self._calls.setdefault(key if len(self._calls) < MAX_SERIES else _OTHER, _Totals())

    def families(self) -> list[Family]:
        """Return all of it as it stands."""
        return [*self._of_calls(), self._durations(), *self._of_reasons(), *self._of_parts()]

    def _of_calls(self) -> Iterator[Family]:
        requests = Family("farthing_requests_total", "counter", "Calls, by how they ended.")
        tokens = Family("farthing_tokens_total", "counter", "Tokens of calls; cached is a part of input.")
        cost = Family("farthing_cost_usd_total", "counter", "What calls cost, USD; of those in a budget, what it paid.")
        unknown = Family("farthing_unpriced_calls_total", "counter", "Calls whose price or usage nobody knows.")
        retries = Family("farthing_retries_total", "counter", "Further attempts of calls.")
        for (route, status, outcome, model, cache), totals in self._calls.items():
            labels = {"route": route, "status": str(status), "outcome": outcome, "model": model, "cache": cache}
            requests.add(totals.calls, **labels)
            retries.add(totals.retries, **labels)
            for kind in ("input", "cached", "output"):
                tokens.add(getattr(totals, kind), **{"kind": kind, **labels})
            cost.add(totals.nusd / 1e9, **labels)
            unknown.add(totals.unknown, **labels)
        return iter((requests, tokens, cost, unknown, retries))

    def _durations(self) -> Family:
        family = Family("farthing_request_seconds", "histogram", "From a whole request to the end of its answer.")
        for route in dict.fromkeys(key[0] for key in self._calls):
            of_route = [totals for key, totals in self._calls.items() if key[0] == route]
            sums = accumulate(map(sum, zip(*(totals.buckets for totals in of_route), strict=True)))
            for bound, count in zip((*map(str, BOUNDS), "+Inf"), sums, strict=True):
                family.add(count, "_bucket", route=route, le=bound)
            family.add(sum(totals.seconds for totals in of_route), "_sum", route=route)
            family.add(sum(totals.calls for totals in of_route), "_count", route=route)
        return family

    def _of_reasons(self) -> Iterator[Family]:
        refused = Family("farthing_refused_total", "counter", "Requests that the proxy itself refused, by reason.")
        for (route, reason), count in self._refused.items():
            refused.add(count, route=route, reason=reason)
        acted = Family("farthing_policy_requests_total", "counter", "Calls that a policy acted on.")
        for name, count in self._acted.items():
            acted.add(count, policy=name)
        return iter((refused, acted))

    def _of_parts(self) -> Iterator[Family]:
        for reading in self._readings:
            family = Family(reading.name, reading.kind, reading.help)
            found = reading.read()
            for labels, value in [({}, found)] if isinstance(found, (int, float)) else found:
                family.add(value, **labels)
            yield family
