"""Changes that wait for a second person: those whose predicted effect is above what one person may do alone.

What is weighed is what a change does at once: a policy in shadow does nothing, a canary its share. An effect that
cannot be predicted counts as above. Going back to what was in force before, and taking a policy out, never wait.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, insert, select, update

from farthing.settings import Settings
from policies.database import next_number, rows, writing
from policies.periods import iso
from policies.tables import pending


@dataclass(frozen=True)
class Waiting:
    """One change that waits."""

    number: int
    author: str
    reason: str
    act: str  # apply | mode
    source: str  # YAML
    replace: bool
    base_version: int  # on which it was weighed


class PendingStore:
    """The changes that wait, and those that were decided."""

    def __init__(self, engine: Engine, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._engine = engine
        self._clock_ns = clock_ns

    def keep(self, waiting: Waiting, why: str) -> int:
        """Keep a change until somebody decides about it; return its number."""
        with writing(self._engine) as connection:
            number = next_number(connection, pending.c.number)
            row = {
                "number": number, "at_ns": self._clock_ns(), "author": waiting.author, "reason": waiting.reason,
                "act": waiting.act, "source": waiting.source, "replaces": int(waiting.replace),
                "base_version": waiting.base_version, "why": why, "state": "waiting", "decided_by": "",
            }  # fmt: skip
            connection.execute(insert(pending).values(row))
        return number

    def get(self, number: int) -> Waiting | None:
        """Return a change that still waits; None = there is none of that number."""
        found = rows(self._engine, select(pending).where((pending.c.number == number) & (pending.c.state == "waiting")))
        return next((_waiting(row) for row in found), None)

    def decide(self, number: int, state: str, by: str) -> None:
        """Note that a change was approved or refused, and by whom."""
        decided = {"state": state, "decided_by": by, "decided_ns": self._clock_ns()}
        with writing(self._engine) as connection:
            connection.execute(update(pending).where(pending.c.number == number).values(decided))

    def listed(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest changes that wait or waited, the newest first."""
        found = rows(self._engine, select(pending).order_by(pending.c.number.desc()).limit(limit))
        return [row | {"at": iso(row.pop("at_ns")), "decided_at": iso(row.pop("decided_ns"))} for row in found]


def _waiting(row: dict[str, Any]) -> Waiting:
    return Waiting(
        row["number"], row["author"], row["reason"], row["act"], row["source"], bool(row["replaces"]),
        row["base_version"],
    )  # fmt: skip


def is_bounded(settings: Settings) -> bool:
    """Tell whether there is anything that one person may not do alone."""
    return bool(settings.approval_usd_per_day or settings.approval_share)


def too_much(settings: Settings, plan: dict[str, Any]) -> str:
    """Return why a planned change needs a second person; empty = it does not."""
    at_once = max((1.0 if hit["change"] == "removed" else hit["share"] for hit in plan["policies"]), default=0.0)
    whole = plan["effects"][0]
    if not at_once or not whole["hit"]:
        return ""
    money, share = whole["usd_per_day"]["value"], at_once * whole["hit"] / max(1, plan["requests"])
    if settings.approval_share and share > settings.approval_share:
        return f"it treats {share:.0%} of the calls otherwise; one person may do {settings.approval_share:.0%}"
    bound = settings.approval_usd_per_day
    if bound and (money is None or abs(money) * at_once > bound):
        moved = "an unknown amount" if money is None else f"{abs(money) * at_once:.2f} USD"
        return f"it moves {moved} a day; one person may move {bound:.2f} USD"
    return ""
