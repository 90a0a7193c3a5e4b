"""One look at all alerts: what holds now is stored, then what waits is sent.

What could not be looked at, because the control plane or the warehouse is away, is looked at by the next look; what was
stored is sent whether or not anything could be looked at.
"""
from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from analyzer import report_schedule
from analyzer.alerting import channels as sending
from analyzer.alerting.conditions import Scene, facts
from analyzer.alerting.firing import Fact, firing
from analyzer.alerting.outbox import KEEP, Outbox
from analyzer.alerting.pace import Paces
from analyzer.alerting.post import DeliveryError
from farthing import http_json
from farthing.errors import FarthingError
from farthing.policy.document import Document
from farthing.policy.kinds.alert import Alert
from farthing.settings import AlertChannel, Settings
from farthing.warehouse.client import Warehouse

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looked:
    """What one look did."""

    alerts: int = 0
    fired: int = 0
    sent: int = 0
    not_sent: int = 0
    problems: tuple[str, ...] = ()


class Watch:
    """Looks at the alerts of one tenant."""

    def __init__(
        self, settings: Settings, warehouse: Warehouse, engine: sa.Engine, clock: Callable[[], datetime]
    ) -> None:
        """Prepare.

        Raises:
            SettingsError: a channel is wrong.
        """
        self._settings = settings
        self._warehouse = warehouse
        self._clock = clock
        self._channels: Mapping[str, AlertChannel] = sending.check(settings.alert_channels)
        self._paces = Paces(engine)
        self._lock = threading.Lock()
        self.outbox = Outbox(engine)

    def look(self) -> Looked:
        """Look at all alerts once, and send what is due."""
        with self._lock:
            alerts, fired, problems = self._fire()
            sent, not_sent = self._deliver()
            self.outbox.forget_before(self._clock() - KEEP)
        for problem in problems:
            log.warning("alerts: %s", problem)
        return Looked(alerts, fired, sent, not_sent, tuple(problems))

    def test(self, channel: str) -> None:
        """Send a test message at once.

        Raises:
            KeyError: there is no such channel.
            DeliveryError: it was not taken.
        """
        fact = Fact(channel, "Test of an alert channel", f"The channel {channel} works.")
        sending.send(self._channels[channel], firing("test", "", "hour", fact, self._clock()))

    @property
    def channels(self) -> list[str]:
        return sorted(self._channels)

    def _fire(self) -> tuple[int, int, list[str]]:
        try:
            document = Document.model_validate(self._get("/v1/document"))
            budgets = {one["name"]: one for one in self._get("/v1/budgets")["budgets"]}
        except (FarthingError, ValueError) as error:
            return 0, 0, [f"the control plane's document cannot be read: {error}"]
        now = self._clock()
        self._paces.note(budgets.values(), now)
        fired, problems = self._reports(document, now)
        try:
            scene = self._scene(document, budgets, now)
        except FarthingError as error:
            return 0, fired, [*problems, f"the control plane's audit cannot be read: {error}"]
        for alert in document.alerts:
            try:
                fired += sum([self._store(alert, fact, now) for fact in facts(scene, alert.when.condition)])
            except (FarthingError, ValueError) as error:
                problems.append(f"alert {alert.name}: {error}")
        return len(document.alerts), fired, problems

    def _scene(self, document: Document, budgets: Mapping[str, Any], now: datetime) -> Scene:
        is_asked = any(alert.when.rollback for alert in document.alerts)
        audit = self._get("/v1/audit")["audit"] if is_asked else []
        rollbacks = [entry for entry in audit if entry["act"] == "rollback"]
        slos = {one.name: one for one in document.slos}
        return Scene(self._warehouse, self._settings.tenant, now, budgets, self._paces, slos, rollbacks)

    def _reports(self, document: Document, now: datetime) -> tuple[int, list[str]]:
        """Make the reports that are due and were not made yet."""
        made, problems, settings = 0, list[str](), self._settings
        for one in document.reports:
            if self.outbox.holds(report_schedule.due(one, now).key):
                continue
            try:
                found = report_schedule.made(one, self._warehouse, settings.reports, settings.tenant, now)
                made += self.outbox.put(found, one.to)
            except (FarthingError, OSError) as error:
                problems.append(f"report {one.name}: {error}")
        return made, problems

    def _store(self, alert: Alert, fact: Fact, now: datetime) -> bool:
        return self.outbox.put(firing(alert.name, alert.owner, alert.every, fact, now), alert.to)

    def _deliver(self) -> tuple[int, int]:
        sent = not_sent = 0
        for delivery in self.outbox.due(self._clock()):
            channel = self._channels.get(delivery.channel)
            try:
                if channel is None:
                    known = ", ".join(self.channels) or "none"
                    raise DeliveryError(f"the settings have no alert channel {delivery.channel!r}; known: {known}")
                sending.send(channel, delivery.firing)
            except DeliveryError as error:
                log.warning("alerts: %s to %s: %s", delivery.firing.alert, delivery.channel, error)
                self.outbox.failed(delivery, str(error), self._clock())
                not_sent += 1
            else:
                self.outbox.sent(delivery, self._clock())
                sent += 1
        return sent, not_sent

    def _get(self, path: str) -> Any:
        url, token = self._settings.url("policies") + path, self._settings.control_token
        return http_json.call("GET", url, timeout_s=10.0, token=token)
