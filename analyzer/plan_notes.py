"""What a plan cannot know, said plainly: which effects are not in its figures, and why."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analyzer.plan_effects import Effect
from analyzer.plan_replay import Outcome, Replayed
from analyzer.plan_tokens import is_predicted
from farthing.policy import Document, Policy

_LOADED = ("least_in_flight", "latency", "score", "prefix_affinity")  # strategies that look at the load
_WHY = {
    "cascade": "how often a first answer is not good enough depends on its text",
    "gain": "what the stronger model gains is read from the prompt, which nobody kept",
    "tier": "what a prompt asks for was not written down; a tier policy in force does that",
}


@dataclass(frozen=True)
class Seen:
    """What the notes are about."""

    changed: Mapping[str, str]  # policies that differ, by name
    before: Document
    after: Document
    total: int
    replayed: int
    whole: Effect
    calls: Sequence[Replayed]
    per_day: float  # calls a day that each replayed one stands for
    rows: Sequence[Mapping[str, Any]]

    @property
    def policies(self) -> list[Policy]:
        rules = {one.name: one for one in (*self.before.rules, *self.after.rules)}
        return [rules[name] for name in self.changed]


def notes(seen: Seen) -> list[str]:
    """Return one sentence for each thing that the reader of a plan has to know."""
    return [*_of_the_window(seen), *_of_routes(seen), *_of_tokens(seen), *_of_budgets(seen)]


def _of_the_window(seen: Seen) -> Iterator[str]:
    if not seen.total:
        yield "There were no calls in the window, so nothing can be predicted."
    if seen.replayed < seen.total:
        yield f"{seen.replayed:,} of {seen.total:,} calls were replayed, drawn evenly, and scaled up."
    by_key = [one.name for one in seen.policies if one.match.key]
    if by_key and not any(row["api_key"] for row in seen.rows):
        yield f"No call of the window names a key, so {', '.join(by_key)} hit none."
    if seen.whole.unknown:
        yield f"{seen.whole.unknown:,} of the calls hit have no price on one side; their money is not in it."


def _of_routes(seen: Seen) -> Iterator[str]:
    sides = [one for call in seen.calls if call.is_changed for one in (call.before, call.after)]
    for strategy, number in sorted(Counter(one.unpredicted for one in sides if one.unpredicted).items()):
        why = _WHY.get(strategy, "what it goes by is not stored, or the settings have no such deployment")
        yield f"Who serves {number:,} calls by strategy {strategy} is not predicted: {why}.{_bounds(seen, strategy)}"
    actions = [one.action.route for one in seen.policies if one.action.route is not None]
    if any(one.strategy in _LOADED for one in actions):
        yield "Load is that of the replayed calls alone, with the mean latency of each deployment in the window."
    if any(one.hedge for one in actions):
        yield "Second requests of a hedge are not predicted: they depend on single waits."


def _bounds(seen: Seen, strategy: str) -> str:
    """Return between what a strategy's calls would cost, where that is known."""
    found = [_difference(call.before, call.after) for call in seen.calls if call.after.unpredicted == strategy]
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return ""
    low, high = (sum(one[n] for one in known) * seen.per_day / 1e9 for n in (0, 1))
    return f" It is {low:+.4f} USD a day if the first always serves, and {high:+.4f} if every model is asked."


def _difference(before: Outcome, after: Outcome) -> tuple[int, int] | None:
    if before.cost_nusd is None or after.bounds_nusd is None:
        return None
    low, high = after.bounds_nusd
    return low - before.cost_nusd, high - before.cost_nusd


def _of_tokens(seen: Seen) -> Iterator[str]:
    for one in seen.policies:
        if one.action.tokens is not None and not is_predicted(one.action.tokens):
            yield (
                f"What {one.name} would cut by compressing or of retrieved passages is predicted only where it ran in "
                f"shadow as it is now."
            )
    if any(one.action.tokens is not None for one in seen.policies):
        yield "Shorter input may change how long an answer is; that is not predicted."


def _of_budgets(seen: Seen) -> Iterator[str]:
    if seen.before.budgets != seen.after.budgets:
        yield (
            "Budgets refuse by what calls cost; a proxy sets aside the most that a call can cost, so near a limit it "
            "refuses earlier. Top-ups, what thresholds do, and calls refused in the window are not replayed."
        )
