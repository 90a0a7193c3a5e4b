"""The places at deployments and of batches, who waits for them and how deployments fare, in a file of all workers.

Every worker has a column of its own in each count, so that what a dead one left is taken off. What one worker does to
another is a single cell that is written once: a worker that is killed while it holds the lock leaves no half of it.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from pathlib import Path

from farthing.errors import ServeError
from farthing.policy.flow import MOST_PRIORITY
from proxy.bell import Bell
from proxy.shared_map import WORKERS, SharedMap
from proxy.vitals import CELLS, Vitals

DEPLOYMENTS = 512  # with a limit, on one host; as many models, and as many deployments whose vitals are shared
KINDS = 512  # of batches, that are under way or wait at once
LEARNED = 14  # numbers that a window keeps
_LEVELS = MOST_PRIORITY + 1
_CELL = 8  # bytes
_KEY = 2  # cells
_PLACES = _KEY + LEARNED + 3 * WORKERS  # cells of a deployment
_LINE = _KEY + 2 * WORKERS * _LEVELS  # of a model
_FREE = bytes(_KEY * _CELL)
# Where the records of each sort begin, in cells
_DEPLOYMENTS = range(0, DEPLOYMENTS * _PLACES, _PLACES)
_MODELS = range(_DEPLOYMENTS.stop, _DEPLOYMENTS.stop + DEPLOYMENTS * _LINE, _LINE)
_KINDS = range(_MODELS.stop, _MODELS.stop + KINDS * _PLACES, _PLACES)
_VITALS = range(_KINDS.stop, _KINDS.stop + DEPLOYMENTS * (_KEY + CELLS), _KEY + CELLS)


class Places:
    """The places at one deployment, or of a kind of batch; all but `occupied` and `learned` is for who has the lock."""

    __slots__ = ("_bell", "_columns", "_fronts", "_given", "_held", "_name", "_seat", "_taken", "learned", "lock")

    def __init__(self, shared: SharedMap, bell: Bell, at: int) -> None:
        self.lock, self._seat, self._bell = shared, shared.seat, bell
        start = at + _KEY + LEARNED
        cells = memoryview(shared.map).cast("q")
        self.learned = memoryview(shared.map).cast("d")[at + _KEY : start]  # as the window says; 0 = nothing yet
        self._name = memoryview(shared.map)[at * _CELL : (at + _KEY) * _CELL]
        self._columns = cells[start : start + 3 * WORKERS]
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

    @property
    def is_unused(self) -> bool:
        """Tell whether nobody has anything written here."""
        return not any(self._columns.tolist())

    def is_of(self, key: bytes) -> bool:
        """Tell whose they are."""
        return self._name == key

    def take(self) -> None:
        self._taken[self._seat] += 1

    def leave(self) -> None:
        self._taken[self._seat] -= 1

    def show(self, front: int) -> None:
        """Say who of this worker is next, 0 = nobody waits; the smallest number of all workers is."""
        self._fronts[self._seat] = front

    def next(self) -> int | None:
        """Return the seat of the worker whose turn it is, None where nobody waits."""
        fronts = self._fronts.tolist()
        return fronts.index(min([front for front in fronts if front])) if any(fronts) else None

    def share_out(self, most: int, serve: Callable[[], None]) -> None:
        """Give each free place to the worker whose next one has waited longest; `serve` gives one to this worker's."""
        while (seat := self.next()) is not None and self.occupied < most:
            if seat == self._seat:
                serve()
            else:
                self.give(seat)

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
        for view in (self._name, self.learned, self._columns, self._held, self._taken, self._given, self._fronts):
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


def key_of(name: str) -> bytes:
    """Return what a record is found by."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_KEY * _CELL).digest()


class PlaceTable:
    """The file as one worker sees it; it is empty again once no worker has it open."""

    def __init__(self, folder: Path) -> None:
        self.shared = SharedMap(folder, "places-2", _VITALS.stop * _CELL, is_kept=False)
        self.bell = Bell(folder, self.shared.seat)
        self._opened: list[Places | Line | Vitals] = []
        self._kinds: dict[int, Places] = {}  # by where they lie
        with self.shared:
            self._empty(self.shared.seat)

    @property
    def seat(self) -> int:
        return self.shared.seat

    def close(self) -> None:
        with self.shared:
            self._empty(self.shared.seat)
        for opened in (*self._opened, *self._kinds.values()):
            opened.close()
        self.bell.close()
        self.shared.close()

    def places(self, deployment: str) -> Places:
        """Return the places of a deployment.

        Raises:
            ServeError: the file is full.
        """
        made = Places(self.shared, self.bell, self._named(deployment, _DEPLOYMENTS))
        self._opened.append(made)
        return made

    def line(self, model: str) -> Line:
        """Return who waits for a model.

        Raises:
            ServeError: the file is full.
        """
        made = Line(self.shared, self.bell, self._named(model, _MODELS))
        self._opened.append(made)
        return made

    def vitals(self, deployment: str) -> Vitals:
        """Return how a deployment fares; one too many has vitals that this worker sees alone."""
        with self.shared:
            at = self._find(key_of(deployment), _VITALS)
        if at is None:
            return Vitals()
        made = self._vitals_at(at)
        self._opened.append(made)
        return made

    def _vitals_at(self, at: int) -> Vitals:
        start = (at + _KEY) * _CELL
        return Vitals(memoryview(self.shared.map)[start : start + CELLS * _CELL], self.shared.seat)

    def of_kind(self, key: bytes) -> Places | None:
        """Return the places of a kind of batch, for who has the lock; None = all are in use by others.

        They are the kind's own for as long as anything is written there, and anybody's then.
        """
        at = self._find(key, _KINDS)
        if at is None:
            at = next((at for at in _KINDS if self._of_kind(at).is_unused), None)
            if at is None:
                return None
            self._write_key(at, key)
        return self._of_kind(at)

    def _of_kind(self, at: int) -> Places:
        if at not in self._kinds:
            self._kinds[at] = Places(self.shared, self.bell, at)
        return self._kinds[at]

    def reap(self) -> bool:
        """Take off what workers had that have died, where this one looks for it; tell whether there was any."""
        if not self.shared.looks():
            return False
        with self.shared:
            looked_at = [*[one for one in self._opened if not isinstance(one, Line)], *self._kinds.values()]
            seats = {seat for record in looked_at for seat in record.columns()}
            found = self.shared.vacated(sorted(seats))
            for seat in found:
                self._empty(seat)
        return bool(found)

    def _named(self, name: str, records: range) -> int:
        """Return the first cell of the record of a deployment or a model.

        Raises:
            ServeError: the file is full.
        """
        with self.shared:
            at = self._find(key_of(name), records)
        if at is None:
            raise ServeError(f"proxy: only {DEPLOYMENTS} deployments can have a limit; {name!r} is one more")
        return at

    def _find(self, key: bytes, records: range) -> int | None:
        """Return the first cell of a record, which is made where there is none; None = there is no room for it."""
        for at in records:
            found = self._key(at)
            if found == _FREE:
                self._write_key(at, key)
            if found in (key, _FREE):
                return at
        return None

    def _key(self, at: int) -> bytes:
        return self.shared.map[at * _CELL : (at + _KEY) * _CELL]

    def _write_key(self, at: int, key: bytes) -> None:
        self.shared.map[at * _CELL : (at + _KEY) * _CELL] = key

    def _empty(self, seat: int) -> None:
        """Clear the columns of a worker."""
        places, line = partial(Places, self.shared, self.bell), partial(Line, self.shared, self.bell)
        kinds = ((places, _DEPLOYMENTS), (line, _MODELS), (places, _KINDS), (self._vitals_at, _VITALS))
        for kind, records in kinds:
            for at in records:
                if self._key(at) == _FREE:
                    break
                record = kind(at)
                record.clear(seat)
                record.close()
