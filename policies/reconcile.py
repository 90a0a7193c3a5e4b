"""Corrects what was charged in full because nobody told the ledger what it cost, once the warehouse knows the call.

A proxy that dies, or whose disk is lost, may have sent a call's span and not its settlement. A call is corrected once,
however often its span is read. What a worker had leased is `lost.py`'s to correct.
"""
from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from policies import statement, warehouse
from policies.operations import Settle
from policies.periods import NS_PER_S

if TYPE_CHECKING:
    from policies.plane import ControlPlane

log = logging.getLogger(__name__)

LOOK_BACK_NS = 7 * 86_400 * NS_PER_S  # a span that has not come in a week will not
AT_ONCE = 500  # calls asked for in one question


class Reconciler:
    """Asks the warehouse for the calls that the ledger has charged by guess."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    async def look(self) -> int:
        """Correct what the warehouse knows by now; return how many calls that was."""
        plane = self._plane
        guessed = await asyncio.to_thread(statement.guessed, plane.engine, time.time_ns() - LOOK_BACK_NS)
        corrected = 0
        for start in range(0, len(guessed), AT_ONCE):
            some = guessed[start : start + AT_ONCE]
            since_ns = min(reserved_ns for _, _, reserved_ns in some)
            names = [request_id for request_id, _, _ in some]
            settled = await asyncio.to_thread(warehouse.settled_calls, plane.settings, names, since_ns)
            operations = [Settle(name, attempt, settled[name]) for name, attempt, _ in some if name in settled]
            if operations:
                await plane.perform(operations)
            corrected += len(operations)
        if corrected:
            log.info("%d expired holds are corrected to what their calls cost", corrected)
        return corrected
