"""A line without axes under a key figure, as an SVG mask: the theme colours it, and no script draws it."""
from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from dash import html

WIDTH, HEIGHT, MARGIN = 120, 32, 2

Values = Sequence[float | None]


def sparkline(values: Values, from_zero: bool) -> html.Div:
    """Draw `values`; None is a gap. A sum starts at zero, a ratio gets a band of at least a quarter around it."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return html.Div(className="spark-none")
    drawing = quote(_svg(values, _scale(known, from_zero)), safe=" =/:")
    return html.Div(className="spark", style={"--m": f'url("data:image/svg+xml,{drawing}")'})


def _scale(known: Sequence[float], from_zero: bool) -> tuple[float, float]:
    if from_zero:
        return 0.0, max(known) or 1.0
    mean = sum(known) / len(known)
    low, high = min(*known, mean * 0.75), max(*known, mean * 1.25)
    return low, high if high > low else low + 1


def _svg(values: Values, scale: tuple[float, float]) -> str:
    lines = [_points(run, len(values), scale) for run in _runs(values)]
    areas = "".join(f"M{line[0][0]},{HEIGHT}L{_path(line)}L{line[-1][0]},{HEIGHT}Z" for line in lines)
    strokes = "".join(f"M{_path(line)}" for line in lines)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' preserveAspectRatio='none'>"
        f"<path d='{areas}' fill-opacity='.14'/>"
        f"<path d='{strokes}' fill='none' stroke='#000' stroke-width='1.6' vector-effect='non-scaling-stroke'/></svg>"
    )


def _runs(values: Values) -> list[list[tuple[int, float]]]:
    """Split `values` at the gaps into runs of (position, value)."""
    runs: list[list[tuple[int, float]]] = [[]]
    for position, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((position, value))
    return [run for run in runs if run]


def _points(run: list[tuple[int, float]], length: int, scale: tuple[float, float]) -> list[tuple[float, float]]:
    low, high = scale
    tall = HEIGHT - 2 * MARGIN
    return [
        (round(at * WIDTH / (length - 1), 1), round(HEIGHT - MARGIN - (value - low) / (high - low) * tall, 1))
        for at, value in run
    ]


def _path(line: list[tuple[float, float]]) -> str:
    return "L".join(f"{x:g},{y:g}" for x, y in line)
