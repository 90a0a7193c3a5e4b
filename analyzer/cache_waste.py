"""Which identical requests were paid for again: what would an exact cache have saved?

The saving is predicted from the rows, an upper bound with a cache that keeps every answer for the whole window; only a
holdout can verify it. Asking again at a temperature above 0 may be meant, so that part is told apart.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyzer.cost_drivers import named
from analyzer.finding import ZERO, Finding
from analyzer.notation import counted, exact_usd, share, usd

KIND = "cache_waste"
QUESTION = "duplicate_requests"  # the .sql file whose rows `find` reads
LIMIT = 20  # (team, model) pairs read
_EVIDENCE = ("team", "model", "groups", "requests", "repeats", "worst_hash", "worst_calls")  # columns kept as they are


def find(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Return what was paid for repeats, costliest first; at least one finding, so that an old one is superseded."""
    return [_waste(row) for row in rows if row["avoidable_usd"]] or [_nothing()]


def _waste(row: Mapping[str, Any]) -> Finding:
    avoidable, safe = row["avoidable_usd"], row["safe_usd"] or ZERO
    who = f"{named(row['team'], 'team')} on {named(row['model'], 'model')}"
    repeats = counted(row["repeats"], "repeated call")
    return Finding(
        kind=KIND,
        subject=who,
        title=f"{who}: {repeats} paid for again",
        detail=f"{counted(row['groups'], 'distinct request')} came {counted(row['requests'], 'time')} in all and cost "
        f"{usd(row['cost_usd'])}; of that, {usd(avoidable)} came after each first answer. "
        + _safety(avoidable, safe),
        requests=row["requests"],
        cost_usd=row["cost_usd"],
        avoidable_usd=avoidable,
        evidence=_evidence(row),
    )


def _safety(avoidable: Any, safe: Any) -> str:
    if safe == avoidable:
        return "All of it asked for temperature 0 and is safe to answer from an exact cache."
    sampled = f"{usd(avoidable - safe)} is for sampled answers (temperature above 0 or not given)"
    if not safe:
        return f"None of it asked for temperature 0: {sampled}, where a repeat may be meant."
    return f"{usd(safe)} ({share(safe, avoidable)}) asked for temperature 0 and is safe to cache; {sampled}."


def _evidence(row: Mapping[str, Any]) -> dict[str, object]:
    return {
        **{name: row[name] for name in _EVIDENCE},
        "state": "predicted",
        "safe_usd": exact_usd(row["safe_usd"]),
        "sampled_usd": exact_usd(row["avoidable_usd"] - (row["safe_usd"] or ZERO)),
    }


def _nothing() -> Finding:
    return Finding(KIND, "", "No repeated requests", "No identical request was paid for more than once.", 0, ZERO)
