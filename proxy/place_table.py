"""The places at deployments and who waits for them, in a file that all workers of a host have mapped.

Every worker has a column of its own in each count, so that what a dead one left is taken off. What one worker does to
another is a single cell that is written once: a worker that is killed while it holds the lock leaves no half of it.
"""
from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from farthing.errors import ServeError
from farthing.policy.flow import MOST_PRIORITY
from proxy.bell import Bell
from proxy.shared_map import WORKERS, SharedMap

DEPLOYMENTS = 512  # with a limit, on one host; and as many models
LEARNED = 14  # numbers that a window keeps
_LEVELS = MOST_PRIORITY + 1
_CELL = 8  # bytes
_KEY = 2  # cells
_PLACES = _KEY + LEARNED + 3 * WORKERS  # cells of a deployment
_LINE = _KEY + 2 * WORKERS * _LEVELS  # of a model
_FREE = bytes(_KEY * _CELL)
_LINES_AT = DEPLOYMENTS * _PLACES
_SIZE = (_LINES_AT + DEPLOYMENTS * _LINE) * _CELL


class Places:
    """The places at one deployment; everything but `occupied` and `learned` is for who has the lock."""

    __slots__ = ("_bell", "_fronts", "_given", "_held", "_seat", "_taken", "learned", "lock")

    def __init__(self, shared: SharedMap, bell: Bell, at: int) -> None:
        self.lock, self._seat, self._bell = shared, shared.seat, bell
        start = at + _KEY + LEARNED
        cells = memoryview(shared.map).cast("q")
        self.learned = memoryview(shared.map).cast("d")[at + _KEY : start]  # as the window says; 0 = nothing yet
        self._held = cells[start : start + 2 * WORKERS]
        self._taken = cells[start : start + WORKERS]
        self._given = cells[start + WORKERS : start + 2 * WORKERS]  # by others, and not looked at yet
        self._fronts = cells[start + 2 * WORKERS : start + 3 * WORKERS]

    @property
    def occupied(self) -> int:
        """Places that are not free, over all workers."""
        return sum(self._held.tolist())

    @property
    def own(self) -> int:
        """Those that this worker has."""
        return self._taken[self._seat]

    @property
    def is_waited_for(self) -> bool:
        """Tell whether anybody waits, in any worker."""
        return any(self._fronts.tolist())

    def take(self) -> None:
        self._taken[self._seat] += 1

    def leave(self) -> None:
        self._taken[self._seat] -= 1

    def show(self, front: int) -> None:
        """Say who of this worker is next, 0 = nobody waits; the smallest number of all workers is."""
        self._fronts[self._seat] = front

    def next(self) -> int | None:
        """Return the seat of the worker whose turn it is, None where nobody waits."""
        if not self.is_waited_for:
            return None
        fronts = self._fronts.tolist()
        return fronts.index(min([front for front in fronts if front]))

    def give(self, seat: int) -> None:
        """Give a place to another worker; until it has looked it is asked for no further one."""
        self._fronts[seat] = 0
        self._given[seat] += 1
        self._bell.ring(seat)

    def given(self) -> bool:
        """Take note of one place that another worker gave; the caller takes it, or it is free again."""
        if not self._given[self._seat]:
            return False
        self._given[self._seat] -= 1
        return True

    def columns(self) -> set[int]:
        """Return the seats that anything is written for."""
        counts = zip(self._taken, self._given, self._fronts, strict=True)
        return {seat for seat, found in enumerate(counts) if any(found)}

    def clear(self, seat: int) -> None:
        self._taken[seat] = self._given[seat] = self._fronts[seat] = 0

    def close(self) -> None:
        for view in (self.learned, self._held, self._taken, self._given, self._fronts):
            view.release()


class Line:
    """Who waits for one model, counted by worker and priority; for who has the lock."""

    __slots__ = ("_bell", "_seat", "_sent_off", "_waiting", "lock")

    def __init__(self, shared: SharedMap, bell: Bell, at: int) -> None:
        self.lock, self._seat, self._bell = shared, shared.seat, bell
        cells, start, length = memoryview(shared.map).cast("q"), at + _KEY, WORKERS * _LEVELS
        self._waiting = cells[start : start + length]
        self._sent_off = cells[start + length : start + 2 * length]  # by others, and not looked at yet

    def come(self, level: int) -> None:
        self._waiting[self._seat * _LEVELS + level] += 1

    def go(self, level: int) -> None:
        self._waiting[self._seat * _LEVELS + level] -= 1

    def waiting(self, least: int = 0) -> int:
        """Return how many wait whose priority is no less."""
        return sum([self._at(level) for level in range(least, _LEVELS)])

    def least(self) -> int | None:
        """Return the least priority that anybody waits with."""
        return next((level for level in range(_LEVELS) if self._at(level) > 0), None)

    def send_off(self, level: int) -> None:
        """Have another worker refuse one that waits with this priority."""
        for seat in range(WORKERS):
            at = seat * _LEVELS + level
            if self._waiting[at] > self._sent_off[at]:
                self._sent_off[at] += 1
                self._bell.ring(seat)
                return

    def sent_off(self) -> list[tuple[int, int]]:
        """Return (priority, how many) other workers want refused, once."""
        start = self._seat * _LEVELS
        found = [(level, count) for level in range(_LEVELS) if (count := self._sent_off[start + level])]
        for level, _ in found:
            self._sent_off[start + level] = 0
        return found

    def clear(self, seat: int) -> None:
        for at in range(seat * _LEVELS, (seat + 1) * _LEVELS):
            self._waiting[at] = self._sent_off[at] = 0

    def close(self) -> None:
        self._waiting.release()
        self._sent_off.release()

    def _at(self, level: int) -> int:
        return max(0, sum(self._waiting[level::_LEVELS]) - sum(self._sent_off[level::_LEVELS]))


class PlaceTable:
    """The file as one worker sees it; it is empty again once no worker has it open."""

    def __init__(self, folder: Path) -> None:
        self.shared = SharedMap(folder, "places-1", _SIZE, is_kept=False)
        self.bell = Bell(folder, self.shared.seat)
        self._opened: list[Places | Line] = []
        with self.shared:
            self._empty(self.shared.seat)

    @property
    def seat(self) -> int:
        return self.shared.seat

    def close(self) -> None:
        with self.shared:
            self._empty(self.shared.seat)
        for opened in self._opened:
            opened.close()
        self.bell.close()
        self.shared.close()

    def places(self, deployment: str) -> Places:
        """Return the places of a deployment.

        Raises:
            ServeError: the file is full.
        """
        made = Places(self.shared, self.bell, self._find(deployment, 0, _PLACES))
        self._opened.append(made)
        return made

    def line(self, model: str) -> Line:
        """Return who waits for a model.

        Raises:
            ServeError: the file is full.
        """
        made = Line(self.shared, self.bell, self._find(model, _LINES_AT, _LINE))
        self._opened.append(made)
        return made

    def reap(self) -> bool:
        """Take off what workers had that have died, where this one looks for it; tell whether there was any."""
        if not self.shared.looks():
            return False
        with self.shared:
            seats = {seat for opened in self._opened if isinstance(opened, Places) for seat in opened.columns()}
            found = self.shared.vacated(sorted(seats))
            for seat in found:
                self._empty(seat)
        return bool(found)

    def _find(self, name: str, start: int, length: int) -> int:
        """Return the first cell of a record, which is made where there is none."""
        key = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_KEY * _CELL).digest()
        with self.shared:
            for at in range(start, start + DEPLOYMENTS * length, length):
                found = self._key(at)
                if found == _FREE:
                    self.shared.map[at * _CELL : (at + _KEY) * _CELL] = key
                if found in (key, _FREE):
                    return at
        raise ServeError(f"proxy: only {DEPLOYMENTS} deployments can have a limit; {name!r} is one more")

    def _key(self, at: int) -> bytes:
        return self.shared.map[at * _CELL : (at + _KEY) * _CELL]

    def _empty(self, seat: int) -> None:
        """Clear the columns of a worker."""
        for kind, start, length in ((Places, 0, _PLACES), (Line, _LINES_AT, _LINE)):
            for at in range(start, start + DEPLOYMENTS * length, length):
                if self._key(at) == _FREE:
                    break
                record = kind(self.shared, self.bell, at)
                record.clear(seat)
                record.close()
