"""Gathers the lines of one of our batches into consignments, each of which goes to a provider as one batch of its own.

Lines meet where deployment and endpoint are the same, and never across batches: a consignment is cancelled, expires and
belongs to somebody as its batch does. What is set aside for a line is released unless the line's row is on the disk.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from farthing.policy.kinds.batch import Batch
from proxy.call import Call
from proxy.consignment import Begun, Consignment, Stored
from proxy.dispatch import Target
from proxy.parked import Parked

GRACE_S = 2 * 3600  # after a batch's window, in which its provider may still tell what became of the lines
_SETTLES_S = 3600  # more that a hold lives, so that what is told last is settled before


class Gatherer:
    """The consignments of one batch, by the one worker that runs it."""

    def __init__(
        self, folder: Path, limits: Callable[[], Batch], expires_at: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._begun = Begun(folder)
        self.expires_at = expires_at
        self.stored = Stored.all(folder)
        self.lines = {line for stored in self.stored for line, _ in stored.rows.values()}
        self._open = {_key(one.consignment): one for one in self.stored if one.consignment.state == "open"}

    @property
    def is_over(self) -> bool:
        """Every line of every consignment has its answer."""
        return all(one.consignment.state == "ended" for one in self.stored)

    @property
    def lifetime_s(self) -> int:
        """Seconds for which something is to be set aside for a line that is begun now."""
        return max(1, int(self.expires_at - self._clock())) + GRACE_S + _SETTLES_S

    def orphans(self) -> list[str]:
        """Return the calls that something may be set aside for and that were never sent."""
        known = {request_id for stored in self.stored for request_id in stored.rows}
        return [request_id for request_id in self._begun.all() if request_id not in known]

    def begin(self, call: Call) -> None:
        """Note a call before anything is set aside for it."""
        self._begun.add(call.request_id)

    def park(self, call: Call, line: int, custom_id: str, target: Target, path: str, body: bytes) -> None:
        """Keep an admitted call until its provider has answered it.

        Raises:
            OSError: it could not be written; nothing of it is kept.
        """
        stored = self._room(target.name, path, len(body))
        stored.add(Parked.of(call, line, custom_id, body))
        self.lines.add(line)

    def close_due(self, is_fed: bool) -> None:
        """Close what need not wait for further lines."""
        oldest = self._clock() - self._limits().provider_wait_s
        for stored in list(self._open.values()):
            if is_fed or stored.consignment.begun_at <= oldest:
                self._close(stored)

    def close(self) -> None:
        """Let the files go."""
        self._begun.close()
        for stored in self.stored:
            stored.close()

    def _room(self, deployment: str, path: str, size: int) -> Stored:
        """Return the open consignment that a line of so many bytes goes into."""
        limits = self._limits()
        stored = self._open.get((deployment, path))
        if stored is not None:
            if len(stored.rows) < limits.provider_lines and stored.size + size <= limits.provider_bytes:
                return stored
            self._close(stored)
        number = max([one.consignment.number for one in self.stored], default=0) + 1
        made = Stored(self._folder, Consignment(number, deployment, path, self._clock()))
        made.write()
        self.stored.append(made)
        self._open[deployment, path] = made
        return made

    def _close(self, stored: Stored) -> None:
        stored.consignment.state = "closed"
        stored.write()
        del self._open[_key(stored.consignment)]


class Parking:
    """The place of one line."""

    def __init__(self, gatherer: Gatherer, line: int, custom_id: str) -> None:
        self._gatherer = gatherer
        self._line = line
        self._custom_id = custom_id

    def begin(self, call: Call) -> int:
        """Note a call before anything is set aside for it; return for how many seconds it is to be."""
        self._gatherer.begin(call)
        return self._gatherer.lifetime_s

    def park(self, call: Call, target: Target, path: str, body: bytes) -> None:
        """Keep an admitted call; see `Gatherer.park`."""
        self._gatherer.park(call, self._line, self._custom_id, target, path, body)


def _key(consignment: Consignment) -> tuple[str, str]:
    return consignment.deployment, consignment.path
