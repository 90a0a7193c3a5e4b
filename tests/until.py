"""Waiting for what other threads and processes do: for the event itself, never for a time in which it should happen."""
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

LIMIT_S = 300.0  # ends a test that will never pass; a loaded machine needs a part of it


def until(condition: Callable[[], Any], what: str = "the condition", seconds: float = LIMIT_S) -> None:
    """Return once `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)
