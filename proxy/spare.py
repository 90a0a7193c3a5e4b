"""How many lines of batches are under way at each model, over all workers of a host."""
from __future__ import annotations

from collections import Counter

from proxy.place_table import PlaceTable, key_of


class Spare:
    """The lines of one worker, beside those of the others; without a table it counts its own alone."""

    def __init__(self, table: PlaceTable | None) -> None:
        self._table = table
        self._own: Counter[str] = Counter()  # model -> lines under way

    @property
    def lines(self) -> int:
        """Lines of this worker."""
        return self._own.total()

    def take(self, model: str, most: int) -> bool:
        """Begin a line where fewer than `most` are under way; `leave` ends it."""
        if not (self._own[model] < most if self._table is None else self._counted(self._table, model, most)):
            return False
        self._own[model] += 1
        return True

    def leave(self, model: str) -> None:
        """A line has ended."""
        self._own -= Counter((model,))  # and nothing is kept of a model that has none
        if self._table is not None:
            with self._table.shared:
                places = self._table.of_kind(_key(model))
                assert places is not None, "it is this worker's while a line of it is under way"
                places.leave()

    def _counted(self, table: PlaceTable, model: str, most: int) -> bool:
        """Count a line among those of all workers, where there is room."""
        table.reap()  # else the lines of a dead worker would be in the way
        with table.shared:
            places = table.of_kind(_key(model))
            if places is None or places.occupied >= most:
                return False
            places.take()
        return True


def _key(model: str) -> bytes:
    return key_of(f"lines of {model}")
