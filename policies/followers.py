"""Which proxies follow the document, the version each runs, and since when; in memory, refilled by their next polls.

A proxy names itself in its long poll and says by `If-None-Match` what it runs: asking again is its receipt.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FORGOTTEN_S = 3600.0  # a proxy that has been silent for so long is no longer listed
LOST_S = 90.0  # and for so long is called lost: three polls of 30 s
MAX_FOLLOWERS = 10_000
MAX_NAME = 200  # characters


@dataclass
class Follower:
    """One proxy worker."""

    name: str
    version: int  # that it runs; -1: none yet
    since_s: float  # when it first said so, monotonic
    seen_s: float  # when it last asked, monotonic
    refused: str  # why it did not take the newest document; empty: it did
    gains: str = ""  # the gain models that it uses, and why not the others


class Followers:
    """All proxies that have asked for the document lately."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._known: dict[str, Follower] = {}
        self._published: dict[int, float] = {}  # version -> when it was put out

    def published(self, version: int) -> None:
        """Note that a version is out from now on."""
        self._published = {version: self._clock_s()}

    def heard(self, name: str, etag: str, refused: str = "", gains: str = "") -> None:
        """Note a proxy's question; `etag` is of the document that it runs."""
        name, version, now = name[:MAX_NAME], _version(etag), self._clock_s()
        known = self._known.get(name)
        if known is None or known.version != version:
            if known is None and len(self._known) >= MAX_FOLLOWERS:
                self._forget(now)
            if known is None and len(self._known) >= MAX_FOLLOWERS:
                return
            known = self._known[name] = Follower(name, version, now, now, refused)
        known.seen_s, known.refused, known.gains = now, refused[:MAX_NAME], gains[:MAX_NAME]

    def status(self, newest: int) -> list[dict[str, Any]]:
        """Return one line for each proxy, by name."""
        now = self._clock_s()
        self._forget(now)
        return [self._line(one, newest, now) for _, one in sorted(self._known.items())]

    def _line(self, one: Follower, newest: int, now: float) -> dict[str, Any]:
        out = self._published.get(one.version)
        silent = now - one.seen_s
        state = "lost" if silent > LOST_S else "refused" if one.refused else "behind" if one.version < newest else "up"
        return {
            "name": one.name,
            "version": one.version,
            "state": state,
            "running_for_s": round(now - one.since_s, 3),
            "silent_for_s": round(silent, 3),
            "took_s": None if out is None else round(max(0.0, one.since_s - out), 4),
            "refused": one.refused,
            "gain_models": one.gains,
        }

    def _forget(self, now: float) -> None:
        self._known = {name: one for name, one in self._known.items() if now - one.seen_s <= FORGOTTEN_S}


def _version(etag: str) -> int:
    number = etag.removeprefix("W/").strip('"').removeprefix("v").partition("-")[0]
    return int(number) if number.isdecimal() and len(number) < 19 else -1
