"""Identical requests in flight: the first one asks the upstream, the others wait for its answer, or share its stream.

A leader that fails or goes away fails nobody: one that waits takes its place. After a second failure all that wait go
on alone, since a failure that lasts must not let them fail one after the other until their deadlines.
"""
from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

MAX_LEADERS = 2  # of one flight

Answer = TypeVar("Answer")


class Flight(Generic[Answer]):
    """One request under way, and who waits for its answer."""

    __slots__ = ("_flights", "_key", "leaders", "shared", "waiting")

    def __init__(self, flights: Flights[Answer], key: Hashable) -> None:
        self._flights = flights
        self._key = key
        self.leaders = 1
        self.shared: Answer | None = None  # an answer that is not whole yet; who comes now need not wait
        self.waiting: deque[asyncio.Future[Answer | Flight[Answer] | None]] = deque()

    def land(self, answer: Answer) -> None:
        """Give everybody the answer."""
        self.close()
        self._tell_all(answer)

    def share(self, answer: Answer) -> None:
        """Give everybody who waits, and whoever still comes, an answer that is on its way."""
        self.shared = answer
        self._tell_all(answer)

    def close(self) -> None:
        """Take nobody else on board."""
        self._flights.remove(self._key, self)

    def give_up(self) -> None:
        """Let somebody else lead, or everybody go alone."""
        if self.leaders >= MAX_LEADERS:
            self.close()
            self._tell_all(None)
            return
        while self.waiting:
            heir = self.waiting.popleft()
            if not heir.done():
                self.leaders += 1
                heir.set_result(self)
                return
        self.close()

    def _tell_all(self, answer: Answer | None) -> None:
        for one in self.waiting:
            if not one.done():
                one.set_result(answer)
        self.waiting.clear()


class Flights(Generic[Answer]):
    """All requests of one worker that others may wait for."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight[Answer]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def waiting(self) -> int:
        """Requests that wait for another one's answer."""
        return sum(not one.done() for flight in self._flights.values() for one in flight.waiting)

    def lead(self, key: Hashable) -> Flight[Answer] | None:
        """Return a flight to lead (and to end), None where an identical request is under way."""
        if key in self._flights:
            return None
        made = self._flights[key] = Flight(self, key)
        return made

    @property
    def shared(self) -> Iterator[Answer]:
        """Answers that are on their way."""
        return (flight.shared for flight in self._flights.values() if flight.shared is not None)

    async def join(self, key: Hashable) -> Answer | Flight[Answer] | None:
        """Return the answer of an identical request, a flight to lead (and to end), or None: go on alone."""
        flight = self._flights.get(key)
        if flight is None:
            return self.lead(key)
        if flight.shared is not None:
            return flight.shared
        told: asyncio.Future[Answer | Flight[Answer] | None] = asyncio.get_running_loop().create_future()
        flight.waiting.append(told)
        try:
            return await told
        except asyncio.CancelledError:  # its own deadline; what it was given at the same moment goes to the next one
            if told.done() and not told.cancelled() and isinstance(given := told.result(), Flight):
                given.give_up()
            else:
                told.cancel()
            raise

    def remove(self, key: Hashable, flight: Flight[Answer]) -> None:
        if self._flights.get(key) is flight:  # else it is gone, and another may have its place
            del self._flights[key]
