"""The colour of each model: its identity on every chart, table and legend, whatever the filter says."""
from __future__ import annotations

from collections.abc import Sequence

COLOURS = (
    "#4c6ef5", "#f59f00", "#12b886", "#e8590c", "#7950f2", "#e64980", "#15aabf", "#82c91e", "#a9742f", "#5c7c9e",
)  # fmt: skip
OTHERS = "#868e96"
QUANTILES = {"p50": "#4dabf7", "p95": "#4c6ef5", "p99": "#e8590c"}


def model_colours(models: Sequence[str], shown: Sequence[str]) -> dict[str, str]:
    """Return the colour of each of `shown`, taken by its place among all `models` that the tenant has.

    With more models than colours two of them may want the same one; the later takes the next that is free.
    """
    places = {model: place for place, model in enumerate(sorted(models))}
    taken: dict[str, str] = {}
    for model in shown:
        wanted = places.get(model, len(taken))
        choices = [COLOURS[(wanted + offset) % len(COLOURS)] for offset in range(len(COLOURS))]
        taken[model] = next((one for one in choices if one not in taken.values()), OTHERS)
    return taken
