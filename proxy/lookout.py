"""What a worker does for its share of what others wait for: it hears their rings, and looks now and then.

A worker that died rings nobody, and a ring may be lost; so whoever waits for a place looks for both twice a second.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.place_table import PlaceTable

_LOOK_S = 0.5  # seconds between looks


class Lookout:
    """Calls `heed` at every ring, and now and then while `waits` says so."""

    def __init__(self, table: PlaceTable, heed: Callable[[], None], waits: Callable[[], bool]) -> None:
        self._table = table
        self._heed = heed
        self._waits = waits
        self._is_looking = False

    def watch(self) -> None:
        """Begin, on this event loop; to be called whenever something has begun to wait."""
        self._table.bell.hear(self._heed)
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Take what dead workers had, and what was given without a ring that was heard."""
        self._is_looking = False
        if self._waits():
            self._table.reap()
            self._heed()
            self.watch()
