"""The six key figures of the overview."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from dashboard import figures_text as text
from dashboard.components.kpi import Change, Good, Kpi
from dashboard.components.sparkline import Values
from dashboard.period import Row, filled
from dashboard.snapshot import Snapshot

P50, P95, P99 = range(3)  # places in the store's duration_s

Totals = Mapping[str, Any]


def overview_kpis(snapshot: Snapshot) -> list[Kpi]:
    """Return the key figures in the order in which they are read."""
    return [one(snapshot) for one in (_spend, _requests, _latency, _tokens, _cache, _unpriced)]


def _spend(snapshot: Snapshot) -> Kpi:
    totals, cost = snapshot.totals, spend_of(snapshot.totals)
    per_thousand = cost * 1000 / totals["requests"] if cost is not None and totals["requests"] else None
    return Kpi(
        key="spend",
        label="Spend",
        text=text.usd(cost) if cost is not None else "unknown",
        exact=text.exact_usd(cost) if cost is not None else "unknown",
        title=f"{text.exact_usd(cost)} USD" if cost is not None else "no call in this period has a price",
        sub="" if per_thousand is None else f"{text.usd(per_thousand)} per 1k requests",
        course=_course(snapshot, lambda row: float(row["cost_usd"] or 0), 0.0),
        **_change(snapshot, lambda one: _float(spend_of(one)), lambda one: text.usd(spend_of(one)), "down"),
    )


def spend_of(totals: Totals) -> Decimal | None:
    """Return what was spent; None where there were calls and no cost is known of any."""
    if totals["cost_usd"] is None:
        return None if totals["requests"] else Decimal(0)
    return totals["cost_usd"]


def _requests(snapshot: Snapshot) -> Kpi:
    totals = snapshot.totals
    refused = f" · {text.count(totals['refused'])} refused" if totals["refused"] else ""
    return Kpi(
        key="requests",
        label="Requests",
        text=text.count(totals["requests"]),
        exact=str(totals["requests"]),
        sub=f"{text.plural(totals['errors'], 'error')}{refused}",
        course=_course(snapshot, lambda row: float(row["requests"]), 0.0),
        **_change(snapshot, lambda one: float(one["requests"]), lambda one: text.count(one["requests"]), "neither"),
    )


def _latency(snapshot: Snapshot) -> Kpi:
    p50, p95, p99 = snapshot.totals["duration_s"]
    known = text.number(p95) is not None
    return Kpi(
        key="p95",
        label="p95 latency",
        text=text.seconds(p95),
        exact=repr(p95) if known else "unknown",
        title=f"{p95!r} s" if known else "no call has ended well in this period",
        sub=f"p50 {text.seconds(p50)} · p99 {text.seconds(p99)}",
        course=_course(snapshot, lambda row: text.number(row["duration_s"][P95]), None),
        from_zero=False,
        **_change(
            snapshot,
            lambda one: text.number(one["duration_s"][P95]),
            lambda one: text.seconds(one["duration_s"][P95]),
            "down",
        ),
    )


def _tokens(snapshot: Snapshot) -> Kpi:
    totals = snapshot.totals
    tokens_in, tokens_out = totals["input_tokens"], totals["output_tokens"]
    return Kpi(
        key="tokens",
        label="Tokens",
        text=text.count(_tokens_of(totals)),
        exact=str(_tokens_of(totals)),
        sub=f"{text.count(tokens_in or 0)} in · {text.count(tokens_out or 0)} out",
        extra={"in": str(tokens_in or 0), "out": str(tokens_out or 0)},
        course=_course(snapshot, lambda row: float(_tokens_of(row)), 0.0),
        **_change(snapshot, lambda one: float(_tokens_of(one)), lambda one: text.count(_tokens_of(one)), "neither"),
    )


def _tokens_of(figures: Totals) -> int:
    return (figures["input_tokens"] or 0) + (figures["output_tokens"] or 0)


def _cache(snapshot: Snapshot) -> Kpi:
    totals = snapshot.totals
    saved = totals["saved_usd"] or Decimal(0)
    hits = totals["cache_hits"]
    of_all = f" · {text.share(hits, totals['requests'])}" if hits else ""
    return Kpi(
        key="cache",
        label="Cache hits",
        text=text.count(hits),
        exact=str(hits),
        title=f"{hits} of {totals['requests']} requests came from the cache; saved {text.exact_usd(saved)} USD",
        sub=f"saved {text.usd(saved)}{of_all}",
        extra={"saved": text.exact_usd(saved)},
        course=_course(snapshot, lambda row: float(row["cache_hits"]), 0.0),
        **_change(snapshot, lambda one: float(one["cache_hits"]), lambda one: text.count(one["cache_hits"]), "up"),
    )


def _unpriced(snapshot: Snapshot) -> Kpi:
    unpriced, unknown = snapshot.totals["unpriced"], snapshot.totals["unknown_usage"]
    total = unpriced + unknown
    none_missing = "every call is priced" if snapshot.totals["requests"] else "no calls"
    return Kpi(
        key="unpriced",
        label="Not in the spend",
        text=text.count(total),
        exact=str(total),
        title="calls whose cost is not known: their model has no price, or nobody reported their tokens",
        sub=f"{text.count(unpriced)} no price · {text.count(unknown)} no usage" if total else none_missing,
        extra={"unpriced": str(unpriced), "unknown": str(unknown)},
        tone="warn" if total else "",
        **_change(
            snapshot,
            lambda one: float(one["unpriced"] + one["unknown_usage"]),
            lambda one: text.count(one["unpriced"] + one["unknown_usage"]),
            "down",
        ),
    )


def _course(snapshot: Snapshot, value: Callable[[Row], float | None], missing: float | None) -> Values:
    """Return a figure per bucket; a bucket without calls is 0 for a sum and a gap for a percentile."""
    rows = filled(snapshot.over_time, snapshot.period)
    return [missing if row is None else value(row) for _, row in rows]


def _change(
    snapshot: Snapshot, value: Callable[[Totals], float | None], written: Callable[[Totals], str], good: Good
) -> dict[str, Any]:
    """Return the comparison with the period before, or why there is none."""
    if not snapshot.filter.compare:
        return {}
    if not snapshot.can_compare:
        return {"change_note": "no full prior period"}
    before = snapshot.totals_before
    return {"change": Change(value(snapshot.totals), value(before), written(before), good)}


def _float(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)
