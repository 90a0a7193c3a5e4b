"""Charts as inline SVG: no script, colours by class, so that the page's light and dark themes reach them."""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from decimal import Decimal
from html import escape

from analyzer.document import StackedBars
from analyzer.notation import tick_usd, usd

TICKS = 4  # at least so many parts of the axis are looked for
LABEL_PX = 7.4  # width of a digit at the size of the axis's labels, with room for a wide font
_DAY_S = 86_400


@dataclass(frozen=True)
class Frame:
    """The drawing's size in CSS pixels, and the space that the axes take."""

    width: int
    height: int
    left: int  # for the labels of the money axis, at least
    labels: int  # times written below
    bottom: int = 26
    top: int = 10
    right: int = 4

    @property
    def plot(self) -> tuple[int, int]:
        """Width and height of the part where bars are."""
        return self.width - self.left - self.right, self.height - self.top - self.bottom


WIDE = Frame(width=1040, height=300, left=56, labels=8)
NARROW = Frame(width=340, height=220, left=40, labels=3)


def stacked_bars(chart: StackedBars, frame: Frame) -> str:
    """Return the `<svg>` of `chart`; a bar that reaches past the window is pale."""
    totals = [sum(column) for column in zip(*(one.values for one in chart.series), strict=True)]
    step, top = axis(max(totals, default=0.0))
    frame = _with_room(frame, step, top)
    parts = [*_grid(frame, step, top), *_bars(chart, frame, totals, top), *_times(chart, frame)]
    return (
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="Cost over time, stacked by model">'
        + "".join(parts)
        + "</svg>"
    )


def _with_room(frame: Frame, step: float, top: float) -> Frame:
    """Return `frame` with space on the left for the longest label of the money axis."""
    longest = max(len(tick_usd(tick * step, step)) for tick in range(round(top / step) + 1))
    return replace(frame, left=max(frame.left, math.ceil(longest * LABEL_PX) + 12))


def axis(largest: float) -> tuple[float, float]:
    """Return the distance of two ticks, 1, 2 or 5 times a power of ten, and the top of the axis."""
    if largest <= 0:
        return 1.0, 1.0
    power = 10.0 ** math.floor(math.log10(largest / TICKS))
    step = max((power * factor for factor in (1, 2, 5) if power * factor * TICKS <= largest * 1.000001), default=power)
    return step, step * math.ceil(largest / step - 1e-9)


def _grid(frame: Frame, step: float, top: float) -> Iterator[str]:
    height = frame.plot[1]
    for tick in range(round(top / step) + 1):
        y = frame.top + height - height * tick * step / top
        yield f'<line class="grid" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="end" x="{frame.left - 8}" y="{y + 4:.1f}">{escape(tick_usd(tick * step, step))}</text>'


def _bars(chart: StackedBars, frame: Frame, totals: Sequence[float], top: float) -> Iterator[str]:
    slot = frame.plot[0] / max(1, len(chart.starts))
    width = min(64.0, slot * 0.78)
    for index, total in enumerate(totals):
        if total <= 0:
            continue
        x = frame.left + slot * index + (slot - width) / 2
        pale = ' class="pale"' if index in chart.partial else ""
        yield f"<g{pale}><title>{escape(_caption(chart, index, total))}</title>"
        yield from _stack(chart, frame, index, (x, width), top)
        yield "</g>"


def _stack(chart: StackedBars, frame: Frame, index: int, place: tuple[float, float], top: float) -> Iterator[str]:
    y = float(frame.top + frame.plot[1])
    for number, series in enumerate(chart.series):
        height = frame.plot[1] * series.values[index] / top
        if height <= 0:
            continue
        y -= height
        yield f'<rect class="s{number}" x="{place[0]:.2f}" y="{y:.2f}" width="{place[1]:.2f}" height="{height:.2f}"/>'


def _caption(chart: StackedBars, index: int, total: float) -> str:
    parts = [f"{one.name} {_written(one.values[index])}" for one in chart.series if one.values[index] > 0]
    return f"{time_label(chart.starts[index], chart.step_s, True)} UTC: {_written(total)} ({', '.join(parts)})"


def _written(amount: float) -> str:
    return usd(Decimal(f"{amount:.9f}"))


def _times(chart: StackedBars, frame: Frame) -> Iterator[str]:
    number = len(chart.starts)
    every = max(1, math.ceil(number / frame.labels))
    slot = frame.plot[0] / max(1, number)
    is_several_days = number > 0 and chart.starts[0] // _DAY_S != chart.starts[-1] // _DAY_S
    for index in range(every // 2, number, every):
        label = time_label(chart.starts[index], chart.step_s, is_several_days)
        x = min(frame.left + slot * (index + 0.5), frame.width - len(label) * LABEL_PX / 2)
        yield f'<text class="middle" x="{x:.1f}" y="{frame.height - 8}">{label}</text>'


def time_label(start: int, step_s: int, with_day: bool) -> str:
    """Write when a bar starts, UTC: `04:00`, `21 Nov 04:00`, or `21 Nov` where a bar is a day or longer."""
    at = datetime.fromtimestamp(start, timezone.utc)
    if step_s >= _DAY_S:
        return f"{at:%d %b %Y}" if step_s > 7 * _DAY_S else f"{at:%d %b}"
    return f"{at:%d %b %H:%M}" if with_day else f"{at:%H:%M}"
