"""How fast budgets are used up, from what the ledger said of them at each look."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

EVERY = timedelta(minutes=5)  # a look sooner after the one before replaces it
KEEP = timedelta(days=32)

_METADATA = sa.MetaData()
_LOOKS = sa.Table(
    "farthing_budget_looks",
    _METADATA,
    sa.Column("budget", sa.String, primary_key=True),
    sa.Column("at", sa.String, primary_key=True),
    sa.Column("period", sa.String, nullable=False),
    sa.Column("spent_nusd", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True)
class Look:
    at: datetime
    period: str
    spent_nusd: int


class Paces:
    """The stored looks; safe from any thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        _METADATA.create_all(engine)

    def note(self, budgets: Iterable[Mapping[str, Any]], now: datetime) -> None:
        """Keep what the ledger's lines say now."""
        lines = [{"budget": one["name"], "at": now.isoformat(), "period": one["period_start"] or "",
                  "spent_nusd": one["spent_nusd"]} for one in budgets]  # fmt: skip
        with self._engine.begin() as connection:
            for line in lines:
                of_it = _LOOKS.c.budget == line["budget"]
                newest = sa.select(_LOOKS.c.at).where(of_it).order_by(_LOOKS.c.at.desc()).limit(2)
                times = connection.execute(newest).scalars().all()
                if len(times) == 2 and now - datetime.fromisoformat(times[1]) < EVERY:
                    connection.execute(sa.delete(_LOOKS).where(of_it, _LOOKS.c.at == times[0]))
                connection.execute(sa.delete(_LOOKS).where(of_it, _LOOKS.c.at == line["at"]))
                connection.execute(sa.insert(_LOOKS).values(**line))
            connection.execute(sa.delete(_LOOKS).where(_LOOKS.c.at < (now - KEEP).isoformat()))

    def nusd_per_hour(self, budget: str, hours: float, now: datetime) -> float | None:
        """Return how much was spent an hour over the last `hours`; None where the looks do not reach back so far."""
        since = now - timedelta(hours=hours)
        with self._engine.connect() as connection:
            query = sa.select(_LOOKS.c.at, _LOOKS.c.period, _LOOKS.c.spent_nusd).where(_LOOKS.c.budget == budget)
            rows = connection.execute(query.order_by(_LOOKS.c.at)).all()
        looks = [Look(datetime.fromisoformat(at), period, spent) for at, period, spent in rows]
        before = [number for number, look in enumerate(looks) if look.at <= since]
        if not before:
            return None
        looks = looks[before[-1] :]
        length_h = (looks[-1].at - looks[0].at).total_seconds() / 3600
        return spent_over(looks) / length_h if length_h > 0 else None


def spent_over(looks: list[Look]) -> int:
    """Return what was spent between the first and the last look, nano-dollars; a new period begins at 0."""
    total = 0
    for earlier, later in pairwise(looks):
        begins_at = earlier.spent_nusd if earlier.period == later.period else 0
        total += max(0, later.spent_nusd - begins_at)
    return total
