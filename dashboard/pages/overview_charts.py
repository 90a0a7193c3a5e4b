"""The two charts of the overview: what was spent over time by model, and how long calls took."""
from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any

from dashboard import figures_text as text
from dashboard.components.chart import Figure, bars, figure, line, money_format
from dashboard.components.legend import Entry
from dashboard.components.palette import OTHERS, QUANTILES, model_colours
from dashboard.filters import href, shown, write_search
from dashboard.period import filled, wall_time
from dashboard.snapshot import Snapshot

MOST_SERIES = 8  # models with a colour of their own; the rest share one
OTHER_MODELS = "\0other"  # key of the series that holds the models past the first few
WHOLE, CUT = 1.0, 0.45  # opacity of a bucket that is whole, and of one that the period cuts


@dataclass(frozen=True)
class CostStack:
    """The spend by model: which models get a series, and what each spent per bucket."""

    snapshot: Snapshot

    @cached_property
    def spend(self) -> dict[str, Decimal]:
        """Spend of each model in the period, dearest first; models without any known cost are left out."""
        return {row["model"]: row["cost_usd"] for row in self.snapshot.by_model if row["cost_usd"]}

    @property
    def named(self) -> list[str]:
        return list(self.spend)[:MOST_SERIES]

    @property
    def rest(self) -> list[str]:
        return list(self.spend)[MOST_SERIES:]

    @cached_property
    def colours(self) -> dict[str, str]:
        return model_colours(self.snapshot.dimensions["models"], self.named)

    @cached_property
    def buckets(self) -> dict[str, dict[int, Decimal]]:
        """Spend per series (OTHER_MODELS = the rest together) and bucket."""
        found: dict[str, dict[int, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        for row in self.snapshot.cost_over_time:
            if row["cost_usd"]:
                found[_series(row["model"], self.named)][int(row["bucket"])] += row["cost_usd"]
        return found


def _series(model: str, named: list[str]) -> str:
    return model if model in named else OTHER_MODELS


def cost_legend(stack: CostStack) -> list[Entry]:
    """Return the legend of the stack: each model's total and share, and the line of the period before."""
    snapshot, whole = stack.snapshot, sum(stack.spend.values(), Decimal(0))

    def entry(label: str, colour: str, spent: Decimal, link: str) -> Entry:
        part = text.share(float(spent), float(whole))
        return Entry(label, colour, text.usd(spent), part, link, exact=text.exact_usd(spent))

    entries = [
        entry(shown(model), stack.colours[model], stack.spend[model], _only_model(snapshot, model))
        for model in stack.named
    ]
    if stack.rest:
        spent = sum((stack.spend[model] for model in stack.rest), Decimal(0))
        entries.append(entry(_label(stack, OTHER_MODELS), OTHERS, spent, ""))
    if snapshot.compares and entries:
        entries.append(Entry("previous period", "", shape="dash"))
    return entries


def _only_model(snapshot: Snapshot, model: str) -> str:
    return href(replace(snapshot.filter, models=(shown(model),)))


def cost_figure(stack: CostStack) -> Figure:
    """Draw the stack, dearest model at the bottom, with the period before as a dotted line."""
    times = sorted({bucket for series in stack.buckets.values() for bucket in series})
    x = [wall_time(bucket, stack.snapshot.filter.zone) for bucket in times]
    opacity = [WHOLE if stack.snapshot.period.is_whole(bucket) else CUT for bucket in times]
    hover = "%{y:" + money_format(float(usd) for series in stack.buckets.values() for usd in series.values()) + "}"
    width = stack.snapshot.period.step_s * 1000 * 0.84
    traces: list[dict[str, Any]] = []
    for model in [*stack.named, *([OTHER_MODELS] if stack.rest else [])]:
        y = [float(stack.buckets[model].get(bucket, 0)) for bucket in times]
        label, colour = _label(stack, model), stack.colours.get(model, OTHERS)
        traces.append({**bars(label, colour, x, y, opacity, hover), "width": width, "offset": 0})
    if stack.snapshot.compares and traces:
        traces.append(_previous(stack.snapshot, hover))
    axis = {"tickprefix": "$"}
    return figure(traces, barmode="stack", yaxis=axis, **_frame(stack.snapshot))


def _label(stack: CostStack, model: str) -> str:
    return f"{len(stack.rest)} more" if model == OTHER_MODELS else shown(model)


def _previous(snapshot: Snapshot, hover: str) -> dict[str, Any]:
    period = snapshot.period
    rows = filled(snapshot.over_time_before, period.before())
    x = [wall_time(bucket + period.seconds, snapshot.filter.zone) for bucket, _ in rows]
    y: list[float | None] = [0.0 if row is None else float(row["cost_usd"] or 0) for _, row in rows]
    return line("previous period", x, y, hover, color="#212529", dash="dot", width=2, shape="hv")


def latency_legend(snapshot: Snapshot) -> list[Entry]:
    """Return the legend of the latency chart, with each percentile over the whole period."""
    values = zip(QUANTILES.items(), snapshot.totals["duration_s"], strict=True)
    return [Entry(name, colour, text.seconds(value), shape="line") for (name, colour), value in values]


def latency_figure(snapshot: Snapshot) -> Figure:
    """Draw p50, p95 and p99 per bucket; a bucket in which no call ended well is a gap."""
    rows = filled(snapshot.over_time, snapshot.period)
    x = [wall_time(bucket, snapshot.filter.zone) for bucket, _ in rows]
    traces = [
        line(name, x, [_seconds(row, place) for _, row in rows], "%{y:.3~f} s", color=colour, width=1.8)
        for place, (name, colour) in enumerate(QUANTILES.items())
    ]
    for trace in traces:
        trace |= _dots_of_lone_points(trace["y"])
    return figure(traces, yaxis={"ticksuffix": " s"}, **_frame(snapshot))


def _seconds(row: Any, place: int) -> float | None:
    value = None if row is None else text.number(row["duration_s"][place])
    return None if value is None else round(value, 4)


def _dots_of_lone_points(y: list[float | None]) -> dict[str, Any]:
    """A point with a gap on both sides has no line; draw it as a dot so that it is seen."""
    edged = [None, *y, None]
    sizes = [
        5 if value is not None and edged[at] is None and edged[at + 2] is None else 0 for at, value in enumerate(y)
    ]
    return {"mode": "lines+markers", "marker": {"size": sizes}} if any(sizes) else {}


def _frame(snapshot: Snapshot) -> dict[str, Any]:
    """Return the time axis: the buckets of the whole period, whether or not there are rows in all of them."""
    zone, period = snapshot.filter.zone, snapshot.period
    buckets = [bucket for bucket, _ in filled(snapshot.over_time, period)]
    first, last = (buckets[0], buckets[-1] + period.step_s) if buckets else period.ends
    return {
        "xaxis": {"range": [wall_time(first, zone), wall_time(last, zone)]},
        "uirevision": write_search(snapshot.filter) or "all",
    }
