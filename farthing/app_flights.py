"""Work under way, so that calls for the same thing at the same time wait for one of them instead of all working.

A flight that fails, or is given up, hands nothing on; those who waited then work for themselves.
"""
from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass

from farthing.app_cache import Entry

WAIT_S = 30.0  # seconds that a call waits for another one's result


@dataclass(eq=False, slots=True)
class Flight:
    """One result that is being made."""

    owner: object  # the thread or task that makes it; its own calls for the same must not wait for themselves
    done: threading.Event | asyncio.Event
    entry: Entry | None = None


class Flights:
    """What is under way for one function."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}
        self._lock = threading.Lock()

    def join(self, key: Hashable, owner: object, done: threading.Event | asyncio.Event) -> tuple[Flight | None, bool]:
        """Return the flight for `key` and whether the caller is to make it; no flight for who would wait for itself."""
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = Flight(owner, done)
                return flight, True
            return (None, False) if flight.owner == owner else (flight, False)

    def land(self, key: Hashable, flight: Flight) -> None:
        """Let those who wait go on."""
        with self._lock:
            self._flights.pop(key, None)
        flight.done.set()


def wait(flight: Flight) -> Entry | None:
    """Return what another thread makes, None where it makes nothing in time."""
    if isinstance(flight.done, threading.Event):
        flight.done.wait(WAIT_S)
    return flight.entry


async def wait_async(flight: Flight) -> Entry | None:
    """Return what another task of this loop makes, None where it makes nothing in time."""
    if isinstance(flight.done, asyncio.Event):
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await flight.done.wait()
    return flight.entry
