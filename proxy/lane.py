"""How many loads of one kind are under way at once, over all workers of a host; who has waited longest goes next.

Each worker keeps its own in order and shows the others since when the first of them waits, so a load that has come goes
as soon as a place is free and nobody else's is older. Many kinds come and go, so a record of the table is a kind's only
while anything is written in it; where all of them are in use a kind waits for one.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Generic, TypeVar

from proxy.place_table import Places, PlaceTable

Load = TypeVar("Load")


class Lane(Generic[Load]):
    """The loads of one kind in one worker."""

    __slots__ = ("_begin", "_clock", "_kind", "_places", "_ready", "_table", "most", "under_way")

    def __init__(
        self, table: PlaceTable, kind: bytes, begin: Callable[[Load], bool], clock: Callable[[], float] = monotonic
    ) -> None:
        """`begin` sets a load going, and tells whether there was anything left to send."""
        self._table = table
        self._kind = kind
        self._begin = begin
        self._clock = clock
        self._places: Places | None = None
        self._ready: deque[tuple[int, Load]] = deque()  # (nanoseconds when it came, what)
        self.most = 1  # under way at once, over all workers, as the newest call says
        self.under_way = 0  # of this worker

    @property
    def ready(self) -> list[Load]:
        """Return what waits for a place."""
        return [load for _, load in self._ready]

    @property
    def waits(self) -> bool:
        return bool(self._ready)

    def put(self, load: Load) -> None:
        """Let a load go, now or when its turn comes."""
        self._ready.append((max(1, int(self._clock() * 1e9)), load))
        self.go()

    def go(self) -> None:
        """Take the places that other workers gave, and share out those that are free."""
        with self._table.shared:
            places = self._places
            if places is None or not places.is_of(self._kind):
                places = self._places = self._table.of_kind(self._kind)
            if places is None:
                return
            while places.given():
                self._serve(places)
            self._show(places)
            places.share_out(self.most, lambda: self._serve(places))

    def leave(self) -> None:
        """One that was under way has ended."""
        places = self._places
        assert places is not None
        self.under_way -= 1
        places.leave()
        if places.is_waited_for:
            self.go()

    def _serve(self, places: Places) -> None:
        """Give a free place to the first that has anything to send."""
        while self._ready:
            _, load = self._ready.popleft()
            if self._begin(load):
                self.under_way += 1
                places.take()
                break
        self._show(places)

    def _show(self, places: Places) -> None:
        places.show(self._ready[0][0] if self._ready else 0)
