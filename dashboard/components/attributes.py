"""The `aria-` and `data-` attributes of an element, whose names are no names of Python."""
from __future__ import annotations

from typing import Any


def aria(**values: str) -> Any:
    """Return `aria-` attributes: aria(label="Filters") is aria-label."""
    return {f"aria-{name}": value for name, value in values.items()}


def data(**values: str) -> Any:
    """Return `data-` attributes: data(value="1") is data-value."""
    return {f"data-{name}": value for name, value in values.items()}
