"""What is to be told and what was: a firing is stored with its deliveries, and a delivery ends when it is taken.

    waiting --taken--> sent
       |  ^---not taken: tried again, later each time
       '--not taken for a week--> failed
"""
from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from analyzer.alerting.firing import Fact, Firing

FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(hours=1)
GIVE_UP_AFTER = timedelta(days=7)
KEEP = timedelta(days=100)  # firings older than this are dropped; longer than any period, so that none is told twice

_METADATA = sa.MetaData()
_FIRINGS = sa.Table(
    "farthing_alerts",
    _METADATA,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("alert", sa.String, nullable=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("period", sa.String, nullable=False),
    sa.Column("fired_at", sa.String, nullable=False, index=True),
    sa.Column("subject", sa.String, nullable=False),
    sa.Column("title", sa.String, nullable=False),
    sa.Column("text", sa.String, nullable=False),
    sa.Column("figures", sa.String, nullable=False),
)
_DELIVERIES = sa.Table(
    "farthing_alert_deliveries",
    _METADATA,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("channel", sa.String, primary_key=True),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("due_at", sa.String, nullable=False),
    sa.Column("ended_at", sa.String, nullable=False),
    sa.Column("error", sa.String, nullable=False),
)


@dataclass(frozen=True)
class Delivery:
    """One message that waits."""

    firing: Firing
    channel: str
    tries: int


class Outbox:
    """The stored firings and deliveries; safe from any thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        _METADATA.create_all(engine)

    def holds(self, key: str) -> bool:
        """Tell whether a firing of this key was stored."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(_FIRINGS.c.key).where(_FIRINGS.c.key == key)).scalar()
        return found is not None

    def put(self, firing: Firing, channels: tuple[str, ...]) -> bool:
        """Store a firing and its deliveries together; False: it was there already and nothing is told again."""
        fact = firing.fact
        row = {
            "key": firing.key, "alert": firing.alert, "owner": firing.owner, "period": firing.period,
            "fired_at": firing.fired_at.isoformat(), "subject": fact.subject, "title": fact.title, "text": fact.text,
            "figures": json.dumps(fact.figures, sort_keys=True),
        }  # fmt: skip
        due = {"state": "waiting", "tries": 0, "due_at": firing.fired_at.isoformat(), "ended_at": "", "error": ""}
        with self._engine.begin() as connection:
            if connection.execute(sa.select(_FIRINGS.c.key).where(_FIRINGS.c.key == firing.key)).first():
                return False
            connection.execute(sa.insert(_FIRINGS).values(**row))
            for channel in dict.fromkeys(channels):
                connection.execute(sa.insert(_DELIVERIES).values(key=firing.key, channel=channel, **due))
        return True

    def due(self, now: datetime, limit: int = 200) -> list[Delivery]:
        """Return the deliveries to be tried now, the oldest first."""
        joined = sa.select(_FIRINGS, _DELIVERIES.c.channel, _DELIVERIES.c.tries).join(
            _DELIVERIES, _FIRINGS.c.key == _DELIVERIES.c.key
        )
        waiting = joined.where(_DELIVERIES.c.state == "waiting", _DELIVERIES.c.due_at <= now.isoformat())
        with self._engine.connect() as connection:
            found = connection.execute(waiting.order_by(_FIRINGS.c.fired_at).limit(limit)).mappings().all()
        return [Delivery(_firing(row), row["channel"], row["tries"]) for row in found]

    def sent(self, delivery: Delivery, now: datetime) -> None:
        self._end(delivery, "sent", now, "")

    def failed(self, delivery: Delivery, error: str, now: datetime) -> None:
        """Note that a message was not taken, and when it is tried again."""
        if now - delivery.firing.fired_at >= GIVE_UP_AFTER:
            self._end(delivery, "failed", now, error)
            return
        wait = min(FIRST_WAIT * 2 ** min(delivery.tries, 20), LONGEST_WAIT)
        self._set(delivery, tries=delivery.tries + 1, due_at=(now + wait).isoformat(), error=error)

    def newest(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest firings with their deliveries, as JSON values."""
        with self._engine.connect() as connection:
            query = sa.select(_FIRINGS).order_by(_FIRINGS.c.fired_at.desc()).limit(limit)
            firings = [dict(row) for row in connection.execute(query).mappings()]
            keys = [row["key"] for row in firings]
            query = sa.select(_DELIVERIES).where(_DELIVERIES.c.key.in_(keys)).order_by(_DELIVERIES.c.channel)
            deliveries = [dict(row) for row in connection.execute(query).mappings()]
        for row in firings:
            row["figures"] = json.loads(row["figures"])
            row["deliveries"] = [one for one in deliveries if one["key"] == row["key"]]
        return firings

    def forget_before(self, moment: datetime) -> None:
        """Drop what was told, or given up, before `moment`; what still waits stays."""
        waiting = sa.select(_DELIVERIES.c.key).where(_DELIVERIES.c.state == "waiting")
        old = sa.select(_FIRINGS.c.key).where(_FIRINGS.c.fired_at < moment.isoformat(), _FIRINGS.c.key.not_in(waiting))
        with self._engine.begin() as connection:
            keys = [key for (key,) in connection.execute(old)]
            connection.execute(sa.delete(_DELIVERIES).where(_DELIVERIES.c.key.in_(keys)))
            connection.execute(sa.delete(_FIRINGS).where(_FIRINGS.c.key.in_(keys)))

    def _end(self, delivery: Delivery, state: str, now: datetime, error: str) -> None:
        self._set(delivery, state=state, tries=delivery.tries + 1, ended_at=now.isoformat(), error=error)

    def _set(self, delivery: Delivery, **values: object) -> None:
        where = (_DELIVERIES.c.key == delivery.firing.key, _DELIVERIES.c.channel == delivery.channel)
        with self._engine.begin() as connection:
            connection.execute(sa.update(_DELIVERIES).where(*where).values(**values))


def _firing(row: sa.RowMapping) -> Firing:
    fact = Fact(row["subject"], row["title"], row["text"], json.loads(row["figures"]))
    at = datetime.fromisoformat(row["fired_at"])
    return Firing(row["key"], row["alert"], row["owner"], row["period"], at, fact)
