"""The control plane of one process: what it keeps, and how a change of it reaches the ledger and the proxies.

Whatever writes to the control database does so on the ledger's owner thread.
"""
from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Engine

from farthing.audit import Audit
from farthing.errors import FarthingError
from farthing.policy import Document
from farthing.settings import Settings
from policies import statement
from policies.access import Access, Route
from policies.approval import PendingStore
from policies.database import open_database
from policies.feed import Edition, Feed, edition
from policies.followers import Followers
from policies.gain_models import GainStore
from policies.guard import Guard
from policies.keys import KeyStore
from policies.ledger import Ledger
from policies.lost import LostLeases
from policies.operations import Operation, Result
from policies.recalls import Recalls
from policies.reconcile import Reconciler
from policies.store import Applied, Store
from policies.tokens import TokenStore

Made = TypeVar("Made")


class ControlPlane:
    """The store, the ledger and the feed of one process; each route is a function of it."""

    def __init__(self, settings: Settings, routes: Sequence[Route]) -> None:
        self.settings = settings
        self.audit = Audit(settings.data_dir, "policies")
        self.engine: Engine = open_database(settings.control_db_url)
        self.store = Store(self.engine)
        self.keys = KeyStore(self.engine)
        self.tokens = TokenStore(self.engine)
        self.pending = PendingStore(self.engine)
        self.gains = GainStore(self.engine)
        try:
            self.access = Access(settings, routes, self.tokens)
            newest = self.store.current()
            self.keys.follow(newest.declared_keys)
            first = self._edition(newest)
            self._ledger = Ledger(self.engine, first.compiled, settings.hold_ttl_s)
            self._ledger.start()
        except FarthingError:
            self.engine.dispose()
            raise
        self.feed = Feed(first)
        self.recalls = Recalls()
        self._crossings = 0  # thresholds that proxies have been told of
        self.followers = Followers()
        self.guard = Guard(self)
        self.reconciler = Reconciler(self)
        self.lost_leases = LostLeases(self)

    def close(self) -> None:
        """Answer what the ledger has queued, then let go of the database."""
        self._ledger.close()
        self.engine.dispose()

    def release_polls(self) -> None:
        """Let every long poll answer that nothing is new."""
        self.feed.publish(self.feed.newest)
        self.recalls.release()

    async def perform(self, operations: Sequence[Operation]) -> list[Result]:
        """Perform operations of the ledger; the results are durable."""
        results = await self._ledger.run(operations)
        self.recalls.note(results)
        if self._ledger.crossings != self._crossings:
            self._crossings = self._ledger.crossings
            await self.restage()
        return results

    def budget_lines(self) -> list[dict[str, Any]]:
        """Return one line for each budget, as the ledger has it."""
        return statement.budgets(self.engine, self.document_in_force, time.time_ns())

    @property
    def ledger_counts(self) -> dict[str, int]:
        return {"commits": self._ledger.commits, "failures": self._ledger.failures}

    @property
    def document_in_force(self) -> Document:
        """The newest document."""
        return self.feed.newest.compiled.document

    async def change(self, act: Callable[[], Applied]) -> Applied:
        """Write a change, let the ledger follow it, then wake the proxies."""

        def write() -> tuple[Edition, Applied]:
            made = act()
            self.keys.follow(made[0].declared_keys)
            newest = self._edition(made[0])
            self._ledger.adopt(newest.compiled)
            return newest, made

        newest, made = await self._ledger.exclusively(write)
        if newest.etag != self.feed.newest.etag:
            self.followers.published(made[0].version)
            self.feed.publish(newest)
        return made

    async def exclusively(self, act: Callable[[], Made]) -> Made:
        """Write to the control database on its owner's thread."""
        return await self._ledger.exclusively(act)

    async def change_keys(self, act: Callable[[], Made]) -> Made:
        """Write a change of what is told and not written (keys, gain models), wake the proxies; the version stays."""

        def write() -> tuple[Edition, Made]:
            made = act()
            return self._edition(self.store.current()), made

        newest, made = await self._ledger.exclusively(write)
        self.feed.publish(newest)
        return made

    def _edition(self, document: Document) -> Edition:
        crossed = statement.crossed(self.engine, document, time.time_ns())
        trained = self.gains.named_by(document)
        return edition(document.with_told(self.keys.in_force(), crossed, trained))

    async def restage(self) -> None:
        """Have proxies follow what budgets do since a threshold was crossed or approved, or a period began."""
        newest = await asyncio.to_thread(lambda: self._edition(self.store.current()))
        if newest.etag != self.feed.newest.etag:
            self.feed.publish(newest)
