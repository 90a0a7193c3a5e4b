"""What is the money spent on: which team's use of which model, and which calls have no price at all?

A pair without a price is named with its calls and never counted as 0 dollars.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from analyzer.finding import ZERO, Finding
from analyzer.notation import count, counted, exact_usd, rate_usd, share, usd

KIND = "cost_driver"
QUESTION = "cost_drivers"  # the .sql file whose rows `find` reads
LIMIT = 20  # pairs read
SMALLEST_SHARE = 0.01  # of the spend; a priced pair below it drives nothing


def find(rows: Sequence[Mapping[str, Any]], total_usd: Decimal | None) -> list[Finding]:
    """Return the pairs that matter, dearest first; always at least one finding, so that an old one is superseded."""
    total = total_usd or ZERO
    found = [_driver(row, total) for row in rows if _matters(row, total)]
    found += [_unpriced(row) for row in rows if row["unpriced"]]
    return found or [_nothing()]


def _matters(row: Mapping[str, Any], total: Decimal) -> bool:
    cost = row["cost_usd"] or ZERO
    return cost > 0 and float(cost) >= SMALLEST_SHARE * float(total)


def _driver(row: Mapping[str, Any], total: Decimal) -> Finding:
    cost = row["cost_usd"]
    priced = row["requests"] - row["unpriced"]
    per_request = cost / priced
    tokens = f"{count(row['input_tokens'])} input and {count(row['output_tokens'])} output tokens"
    left_out = f" {counted(row['unpriced'], 'request')} of these have no price and are not in the sum."
    return Finding(
        kind=KIND,
        subject=_subject(row),
        title=f"{_subject(row)}: {share(cost, total)} of the spend",
        detail=f"{counted(row['requests'], 'request')} cost {usd(cost)}, {rate_usd(per_request)} each, for {tokens}."
        + (left_out if row["unpriced"] else ""),
        requests=row["requests"],
        cost_usd=cost,
        evidence=_evidence(row) | {"share": float(cost / total), "usd_per_request": exact_usd(per_request)},
    )


def _unpriced(row: Mapping[str, Any]) -> Finding:
    return Finding(
        kind=KIND,
        subject=_subject(row),
        title=f"{_subject(row)}: cost unknown, no price for {named(row['model'], 'model')}",
        detail=f"{counted(row['unpriced'], 'request')} have no price, so their cost is unknown and in no sum; "
        "add a price for the model under [[prices]] in farthing.toml.",
        requests=row["unpriced"],
        cost_usd=ZERO,
        evidence=_evidence(row) | {"unpriced": row["unpriced"]},
    )


def _nothing() -> Finding:
    return Finding(KIND, "", "No spend", "No request of this window carries money.", 0, ZERO)


def _evidence(row: Mapping[str, Any]) -> dict[str, object]:
    return {name: row[name] for name in ("model", "team", "requests", "input_tokens", "output_tokens", "unpriced")}


def _subject(row: Mapping[str, Any]) -> str:
    return f"{named(row['team'], 'team')} on {named(row['model'], 'model')}"


def named(value: str, what: str) -> str:
    """Return `value`, or `(no team)` where a row names none."""
    return value or f"(no {what})"
