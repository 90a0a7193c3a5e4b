"""Watches the policies on trial, and takes one back to shadow once a guardrail of it is crossed beyond doubt.

The verdict is an always-valid confidence sequence, so looking every minute makes no false alarm likelier. The reason
stands in the audit, in the status, and in the history like any other change.
"""
from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from policies import warehouse

if TYPE_CHECKING:
    from policies.plane import ControlPlane

log = logging.getLogger(__name__)

AUTHOR = "guardrail"


class Guard:
    """What the guardrails of a control plane say."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.verdicts: list[dict[str, Any]] = []  # of the newest look

    async def look(self) -> None:
        """Judge the guardrails now, and roll back what crossed one."""
        plane = self._plane
        tried = [one for one in plane.document_in_force.policies if one.verify.guardrails and one.trial() is not None]
        if not tried:
            self.verdicts = []
            return
        since = await asyncio.to_thread(plane.store.set_since_ns)
        since_ns = {one.name: since["Policy", one.name] for one in tried}
        slos = plane.document_in_force.slos
        self.verdicts = await asyncio.to_thread(warehouse.guardrails, plane.settings, tried, slos, since_ns)
        for name in dict.fromkeys(one["policy"] for one in self.verdicts if one["is_crossed"]):
            await self._roll_back(name, since_ns[name])

    async def _roll_back(self, name: str, judged_since_ns: int) -> None:
        """Take a policy back to shadow, unless somebody has changed it since it was judged."""
        plane = self._plane
        reason = "; ".join(one["says"] for one in self.verdicts if one["policy"] == name and one["is_crossed"])
        if (await asyncio.to_thread(plane.store.set_since_ns))["Policy", name] != judged_since_ns:
            return
        key, fields = ("Policy", name), {"mode": "shadow"}
        await plane.change(lambda: plane.store.put(plane.store.edited(key, fields), AUTHOR, reason, act="rollback"))
        log.warning("policy %s is back in shadow: %s", name, reason)
