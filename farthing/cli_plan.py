"""How a plan reads on a terminal."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_UNKNOWN = "unknown"


def plan_lines(told: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a plan: the policies, then the effect on all and on each team, then what to know of it."""
    yield f"{told['requests']:,} calls from {told['since'][:16]} to {told['until'][:16]} UTC"
    for one in told["policies"]:
        now = "" if one["change"] == "removed" else f", acts at once on {one['share']:.0%}"
        yield f"  {one['policy']} ({one['change']}): {one['requests']:,} calls{now} ({one['mode']})"
    yield f"{'team':<24}{'calls':>12}{'hit':>12}  {'USD a day':<40}{'latency':<34}error share"
    for one in told["effects"]:
        money, latency, errors = (_range(one[name], *how) for name, how in _FIGURES.items())
        yield f"{one['team'] or 'all':<24}{one['requests']:>12,}{one['hit']:>12,}  {money:<40}{latency:<34}{errors}"
        for name, what in _COUNTS.items():
            if one[name]["value"]:
                yield f"{'':<24}{_range(one[name], 1.0, ',.1f', '')} {what}"
    for note in told["notes"]:
        yield f"note: {note}"
    yield "predicted at full strength, with 95 % intervals; a holdout verifies it"


_FIGURES = {"usd_per_day": (1.0, ".4f", ""), "latency_s": (1000.0, ".0f", " ms"), "error_share": (100.0, ".2f", " %")}
_COUNTS = {"refused_per_day": "calls a day refused", "tokens_per_day": "tokens a day"}


def _range(found: dict[str, float | None], factor: float, form: str, unit: str) -> str:
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return _UNKNOWN
    return f"{value * factor:+{form}}{unit} ({low * factor:+{form}} to {high * factor:+{form}})"
