"""The sections of a report: figures in, document out, nothing asked and nothing drawn.

Every sentence with a number takes it from the same `Figures` as the table below it, so the two cannot disagree.
"""
from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from math import nan

from analyzer import caches, timeline
from analyzer.document import (
    Card,
    Cards,
    Cell,
    Document,
    Paragraph,
    Section,
    Tile,
    Tiles,
    money,
)
from analyzer.figures import Figures
from analyzer.finding import ZERO, Finding
from analyzer.method import method
from analyzer.notation import count, counted, exact_usd, length, moment, rate_usd, seconds, share, short_count, usd
from analyzer.spenders import by_model, by_team
from analyzer.unknowns import reconciliation, unknowns

CARDS = 6  # findings of a kind that are shown; the others are summed up


def document(figures: Figures, made_at: datetime) -> Document:
    """Return the whole report about `figures`."""
    window = figures.window
    facts = [
        ("From", moment(window.since)),
        ("To", moment(window.until)),
        ("Length", length(window.seconds)),
        ("Tenant", window.tenant),
        ("Made", moment(made_at)),
    ]
    sections = [
        _headline(figures),
        _over_time(figures),
        by_model(figures),
        by_team(figures),
        _drivers(figures),
        _waste(figures),
        caches.levels(figures),
        unknowns(figures),
        reconciliation(figures),
        method(),
    ]
    return Document("Inference cost report", facts, _spend(figures), _summary(figures), sections)


def _spend(figures: Figures) -> Cell:
    return Cell(usd(figures.spend_usd), exact_usd(figures.spend_usd))


def _summary(figures: Figures) -> str:
    requests = figures.totals["requests"]
    if not requests:
        return "No model call is recorded in this window."
    text = f"{counted(requests, 'request')} cost {usd(figures.spend_usd)}"
    if figures.spend_usd and requests > 1:
        text += f", {rate_usd(figures.spend_usd / requests)} a request on average"
    dearest = next((finding for finding in figures.drivers if finding.cost_usd), None)
    text += f". The largest part is {dearest.title}." if dearest else "."
    avoidable = _avoidable(figures)
    if avoidable:
        text += f" {usd(avoidable)} of it is predicted to be avoidable: identical requests that were paid for again."
    return text + _doubt(figures)


def _doubt(figures: Figures) -> str:
    unknown = figures.totals["unpriced"] + figures.totals["unknown_usage"]
    if not unknown:
        return ""
    return f" The cost of {counted(unknown, 'request')} is unknown and not in the sum."


def _avoidable(figures: Figures) -> Decimal:
    return sum((finding.avoidable_usd for finding in figures.waste), ZERO)


def _headline(figures: Figures) -> Section:
    return Section("headline", "At a glance", [Tiles([*_served(figures), *_latency(figures), *_money(figures)])])


def _served(figures: Figures) -> list[Tile]:
    totals = figures.totals
    ends = f"{count(totals['errors'])} failed · {count(totals['refused'])} refused"
    cached = f"{count(totals['cache_read_tokens'] or 0)} read from a provider's cache"
    tokens = (totals["input_tokens"] or 0) + (totals["output_tokens"] or 0)
    return [
        Tile("Requests", _counted(totals["requests"]), ends),
        Tile("Input tokens", _short(totals["input_tokens"]), cached),
        Tile("Output tokens", _short(totals["output_tokens"]), f"{count(tokens)} tokens in all"),
    ]


def _money(figures: Figures) -> list[Tile]:
    totals = figures.totals
    hits = share(totals["cache_hits"], totals["requests"])
    unpriced, no_usage = totals["unpriced"], totals["unknown_usage"]
    why = f"{count(unpriced)} without a price · {count(no_usage)} without token counts"
    return [
        Tile("Cache hits", _counted(totals["cache_hits"]), f"{hits} of the requests"),
        Tile("Saved by the cache", money(totals["saved_usd"] or ZERO), "list price of answers not bought again"),
        Tile("Avoidable, predicted", money(_avoidable(figures)), "identical requests paid for again"),
        Tile("Cost unknown", _counted(unpriced + no_usage), why),
        Tile("Usage estimated", _counted(figures.coverage["estimated_usage"]), "not reported by the provider"),
    ]


def _latency(figures: Figures) -> list[Tile]:
    timed, quantiles = figures.coverage["timed"], figures.coverage["duration_s"]
    p50, p95, p99 = quantiles if timed else (nan, nan, nan)
    note = f"{counted(timed, 'timed request')}" if timed else "no request of the window was timed"
    return [
        Tile("Latency, median", Cell(seconds(p50)), note),
        Tile("Latency, p95", Cell(seconds(p95)), f"p99 {seconds(p99)}"),
    ]


def _counted(number: int | None) -> Cell:
    return Cell(count(number), str(number or 0))


def _short(number: int | None) -> Cell:
    return Cell(short_count(number or 0), str(number or 0))


def _over_time(figures: Figures) -> Section:
    chart = timeline.bars(figures)
    text = f"USD per {length(figures.step_s)}, UTC."
    if any(one.values[index] for one in chart.series for index in chart.partial):
        text += " A pale bar reaches past the window and is not complete."
    if not figures.spend_usd:
        return Section("over-time", "Cost over time", [Paragraph("Nothing was spent in this window.")])
    return Section("over-time", "Cost over time", [Paragraph(text), chart])


def _drivers(figures: Figures) -> Section:
    cards = [_card(finding, money(finding.cost_usd), "spent") for finding in figures.drivers[:CARDS]]
    return Section("drivers", "Cost drivers", [Cards(cards), *_rest(figures.drivers)])


def _waste(figures: Figures) -> Section:
    text = (
        "Identical requests that were paid for more than once. The saving is predicted from the recorded calls, with "
        "an exact cache that keeps each answer for the whole window; it is not verified by a holdout."
    )
    cards = [_card(finding, money(finding.avoidable_usd), "avoidable, predicted") for finding in figures.waste[:CARDS]]
    return Section("waste", "Repeated requests", [Paragraph(text), Cards(cards), *_rest(figures.waste)])


def _rest(findings: Sequence[Finding]) -> list[Paragraph]:
    """Name what the cards leave out; an unpriced pair is among the unknowns."""
    rest = findings[CARDS:]
    if not rest:
        return []
    avoidable = sum((finding.avoidable_usd for finding in rest), ZERO)
    cost = sum((finding.cost_usd for finding in rest), ZERO)
    amount = f"{usd(avoidable)} avoidable" if avoidable else f"{usd(cost)} spent"
    return [Paragraph(f"And {counted(len(rest), 'more finding')}, {amount} in all; GET /v1/findings lists each.")]


def _card(finding: Finding, figure: Cell, label: str) -> Card:
    if not finding.requests:
        return Card(finding.title, finding.detail, Cell(""), "")
    unknown = finding.cost_usd == 0 and finding.avoidable_usd == 0
    return Card(finding.title, finding.detail, money(None) if unknown else figure, "cost unknown" if unknown else label)
