"""The control plane over HTTP: apply and read policies, follow the document, reserve and settle money.

One route table, which says what role each route needs; whatever writes to the control database does so on the ledger's
owner thread.
"""
from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Engine

from farthing import serving
from farthing.errors import DocumentError, FarthingError, LedgerError
from farthing.policy import KINDS, Document
from farthing.semconv import HEADER_FOLLOWER, HEADER_GAINS, HEADER_REFUSED
from farthing.serving import Asgi, Receive, Scope, Send
from farthing.settings import Settings
from policies import (
    approval_api,
    budget_api,
    gain_api,
    key_api,
    lifecycle,
    metrics,
    propose_api,
    slo_api,
    statement,
    token_api,
)
from policies.access import Access, Route
from policies.approval import PendingStore
from policies.changes import Change, by_key
from policies.check import warnings
from policies.database import open_database
from policies.feed import Edition, Feed, edition
from policies.followers import Followers
from policies.gain_models import GainStore
from policies.guard import Guard
from policies.http import HttpError, Reply, Request, first_of, read_request, refusal, send_reply
from policies.keys import KeyStore
from policies.ledger import Ledger
from policies.load import load
from policies.lost import LostLeases
from policies.operations import OfWorkers, Operation, Result
from policies.periods import iso
from policies.recalls import Recalls
from policies.reconcile import Reconciler
from policies.repeat import repeat
from policies.store import Applied, Store
from policies.tokens import TokenStore

MAX_WAIT_S = 60.0  # longest long poll
MAX_OPERATIONS = 1000  # of one POST /v1/ledger
HEALTH_TIMEOUT_S = 5.0

Made = TypeVar("Made")
_operations = msgspec.json.Decoder(list[OfWorkers])


class ControlPlane:
    """The store, the ledger and the feed of one process, and what each route does with them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine: Engine = open_database(settings.control_db_url)
        self.store = Store(self.engine)
        self.keys = KeyStore(self.engine)
        self.tokens = TokenStore(self.engine)
        self.pending = PendingStore(self.engine)
        self.gains = GainStore(self.engine)
        try:
            self.access = Access(settings, ROUTES, self.tokens)
            newest = self.store.current()
            self.keys.follow(newest.declared_keys)
            first = self._edition(newest)
            self._ledger = Ledger(self.engine, first.compiled, settings.hold_ttl_s)
            self._ledger.start()
        except FarthingError:
            self.engine.dispose()
            raise
        self._feed = Feed(first)
        self._recalls = Recalls()
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
        self._feed.publish(self._feed.newest)
        self._recalls.release()

    async def health(self, _request: Request) -> Reply:
        """Answer once the ledger has committed: its thread lives, it is the owner, and the disk takes writes."""
        await asyncio.wait_for(self._ledger.run([]), HEALTH_TIMEOUT_S)
        version = self.document_in_force.version
        return Reply({"status": "ok", "version": version, "ledger": self.ledger_counts})

    async def document(self, request: Request) -> Reply:
        """Send the newest document; a caller that has it already waits for the next."""
        wait_s = min(request.number("wait"), MAX_WAIT_S)
        known = request.headers.get("if-none-match", "").removeprefix("W/")
        if name := request.headers.get(HEADER_FOLLOWER, ""):
            told = [request.headers.get(header, "") for header in (HEADER_REFUSED, HEADER_GAINS)]
            self.followers.heard(name, known, *told)
        if any(one.until_ns is not None and one.until_ns <= time.time_ns() for one in self.document_in_force.crossed):
            await self.restage()
        event = self._feed.replaced()
        if known == self._feed.newest.etag and wait_s > 0:
            await first_of(event, request, wait_s)
        newest = self._feed.newest
        return Reply(newest.body, 304 if known == newest.etag else 200, {"etag": newest.etag})

    async def apply(self, request: Request) -> Reply:
        """Put the objects of a YAML text in force, or tell what that would change."""
        replace, dry_run = request.flag("replace"), request.flag("dry_run")
        request.signature()
        given = await asyncio.to_thread(load, await request.utf8(), "body")
        if dry_run:
            document, changes = await asyncio.to_thread(self.store.plan, given, replace)
            return _applied(self.document_in_force.version, changes, document)
        return await approval_api.submit(self, request, given, replace, "apply")

    async def remove(self, request: Request) -> Reply:
        """Take one object out of force."""
        kind, name = _object_path(request)
        author, reason = request.text("author"), request.text("reason")
        if (kind, name) not in by_key(self.document_in_force):
            raise HttpError(404, "no_such_object", f"there is no {kind} {name!r}; GET /v1/objects lists what there is")
        document, changes = await self.change(lambda: self.store.remove(kind, name, author, reason))
        return _applied(document.version, changes, document)

    async def objects(self, _request: Request) -> Reply:
        """List what is in force, with the YAML of each as it was written."""
        document = self.document_in_force
        sources = await asyncio.to_thread(self.store.sources)
        listed = [
            {"kind": kind, "name": name, "version": sources[kind, name][0], "source": sources[kind, name][1]}
            | {"spec": item.model_dump(mode="json", exclude_defaults=True)}
            for (kind, name), item in by_key(document).items()
        ]
        return Reply({"version": document.version, "objects": listed})

    async def versions(self, _request: Request) -> Reply:
        """List the newest versions."""
        rows = await asyncio.to_thread(self.store.history)
        return Reply({"versions": [row | {"created_at": iso(row.pop("created_ns"))} for row in rows]})

    async def audit(self, _request: Request) -> Reply:
        """List who changed what, and why."""
        rows = await asyncio.to_thread(self.store.audit)
        return Reply({"audit": [row | {"at": iso(row.pop("at_ns"))} for row in rows]})

    async def ledger(self, request: Request) -> Reply:
        """Perform reservations and settlements; the answer is durable."""
        try:
            operations = _operations.decode(await request.body())
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HttpError(400, "bad_operation", f"the body is not a list of operations: {error}") from None
        if len(operations) > MAX_OPERATIONS:
            raise HttpError(413, "too_many_operations", f"{len(operations)} operations; send at most {MAX_OPERATIONS}")
        return Reply(await self.perform(operations) if operations else [])

    async def recalls(self, request: Request) -> Reply:
        """Tell a worker when other workers need what it holds in advance."""
        wait_s = min(request.number("wait"), MAX_WAIT_S)
        recall = self._recalls.of(request.text("worker"))
        if wait_s > 0 and not recall.budgets:
            await first_of(recall.is_there, request, wait_s)
        return Reply({"recalled": recall.taken()})

    async def settlements(self, request: Request) -> Reply:
        """List what holds became, a page at a time."""
        since_ns, after = request.instant_ns("since"), statement.cursor(request.text("after"))
        rows, following = await asyncio.to_thread(statement.settlements, self.engine, since_ns, after)
        return Reply({"settlements": rows, "next": following})

    async def perform(self, operations: Sequence[Operation]) -> list[Result]:
        """Perform operations of the ledger; the results are durable."""
        results = await self._ledger.run(operations)
        self._recalls.note(results)
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
        return self._feed.newest.compiled.document

    async def change(self, act: Callable[[], Applied]) -> Applied:
        """Write a change, let the ledger follow it, then wake the proxies."""

        def write() -> tuple[Edition, Applied]:
            made = act()
            self.keys.follow(made[0].declared_keys)
            newest = self._edition(made[0])
            self._ledger.adopt(newest.compiled)
            return newest, made

        newest, made = await self._ledger.exclusively(write)
        if newest.etag != self._feed.newest.etag:
            self.followers.published(made[0].version)
            self._feed.publish(newest)
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
        self._feed.publish(newest)
        return made

    def _edition(self, document: Document) -> Edition:
        crossed = statement.crossed(self.engine, document, time.time_ns())
        trained = self.gains.named_by(document)
        return edition(document.with_told(self.keys.in_force(), crossed, trained))

    async def restage(self) -> None:
        """Have proxies follow what budgets do since a threshold was crossed or approved, or a period began."""
        newest = await asyncio.to_thread(lambda: self._edition(self.store.current()))
        if newest.etag != self._feed.newest.etag:
            self._feed.publish(newest)


ROUTES = tuple(
    Route(method, template, needs, handler)
    for method, template, needs, handler in (
        ("POST", "/v1/ledger", "proxy", ControlPlane.ledger),
        ("GET", "/v1/document", "proxy", ControlPlane.document),
        ("GET", "/healthz", "nothing", ControlPlane.health),
        ("POST", "/v1/apply", "operator", ControlPlane.apply),
        ("GET", "/v1/objects", "viewer", ControlPlane.objects),
        ("DELETE", "/v1/objects/{kind}/{name}", "operator", ControlPlane.remove),
        ("GET", "/v1/versions", "viewer", ControlPlane.versions),
        ("GET", "/v1/status", "viewer", lifecycle.status),
        ("GET", "/v1/diff", "viewer", lifecycle.diff),
        ("POST", "/v1/revert", "operator", lifecycle.revert),
        ("GET", "/v1/schema", "viewer", lifecycle.schema),
        ("POST", "/v1/plan", "viewer", lifecycle.plan),
        ("GET", "/v1/explain", "viewer", lifecycle.explain),
        ("POST", "/v1/policies/{name}/mode", "operator", lifecycle.set_mode),
        ("GET", "/v1/proposals", "viewer", propose_api.list_proposals),
        ("GET", "/v1/proposals/{name}", "viewer", propose_api.proposal),
        ("POST", "/v1/proposals/{name}/accept", "operator", propose_api.accept),
        ("GET", "/v1/pending", "viewer", approval_api.list_pending),
        ("POST", "/v1/pending/{number}/approve", "operator", approval_api.approve),
        ("POST", "/v1/pending/{number}/refuse", "operator", approval_api.refuse),
        ("GET", "/v1/slos", "viewer", slo_api.slos),
        ("GET", "/v1/audit", "viewer", ControlPlane.audit),
        ("GET", "/v1/budgets", "reader", budget_api.budgets),
        ("GET", "/v1/budget-events", "viewer", budget_api.events),
        ("GET", "/v1/budgets/{name}", "viewer", budget_api.budget),
        ("POST", "/v1/budgets/{name}/top-up", "operator", budget_api.top_up),
        ("POST", "/v1/budgets/{name}/approve", "operator", budget_api.approve),
        ("GET", "/v1/ledger/settlements", "viewer", ControlPlane.settlements),
        ("GET", "/v1/ledger/corrections", "viewer", budget_api.corrections),
        ("GET", "/v1/ledger/recalls", "proxy", ControlPlane.recalls),
        ("GET", "/metrics", "viewer", metrics.page),
        ("GET", "/v1/keys", "operator", key_api.list_keys),
        ("POST", "/v1/keys", "admin", key_api.create),
        ("GET", "/v1/keys/events", "operator", key_api.events),
        ("POST", "/v1/keys/{name}/rotate", "admin", key_api.rotate),
        ("DELETE", "/v1/keys/{name}", "admin", key_api.revoke),
        ("GET", "/v1/gains", "viewer", gain_api.listed),
        ("POST", "/v1/gains", "operator", gain_api.put),
        ("GET", "/v1/gains/{checksum}", "proxy", gain_api.weights),
        ("GET", "/v1/openapi.json", "viewer", lifecycle.openapi),
        ("GET", "/v1/whoami", "reader", token_api.whoami),
        ("GET", "/v1/tokens", "admin", token_api.list_tokens),
        ("POST", "/v1/tokens", "admin", token_api.create),
        ("GET", "/v1/tokens/events", "admin", token_api.events),
        ("DELETE", "/v1/tokens/{name}", "admin", token_api.revoke),
    )
)


def app(settings: Settings) -> Asgi:
    """Return the control plane as an ASGI application; its lifespan opens and closes store and ledger."""
    return PoliciesApp(settings)


def main(settings: Settings) -> None:
    """Serve the control plane until SIGINT or SIGTERM."""
    serve = PoliciesApp(settings)
    site = serving.Site("policies", serve, settings.host, settings.policies_port, on_stop=serve.release_polls)
    asyncio.run(serving.run([site]))


class PoliciesApp:
    """The ASGI application around a control plane that lives as long as its lifespan."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._plane: ControlPlane | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http" and self._plane is not None:
            await send_reply(send, await _reply(self._plane, read_request(scope, receive)))

    def release_polls(self) -> None:
        """Answer the long polls now; they would hold up the end."""
        if self._plane is not None:
            self._plane.release_polls()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._plane = await asyncio.to_thread(ControlPlane, self._settings)
        except FarthingError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        plane, settings = self._plane, self._settings
        looks = (
            repeat(plane.guard.look, settings.guardrail_interval_s, "guardrails are not judged"),
            repeat(plane.reconciler.look, settings.reconcile_interval_s, "expired holds are not corrected"),
            repeat(plane.lost_leases.look, settings.reconcile_interval_s, "lost leases are not corrected"),
        )
        watching = [asyncio.create_task(look) for look in looks]
        await receive()
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await asyncio.to_thread(self._plane.close)
        await send({"type": "lifespan.shutdown.complete"})


async def _reply(plane: ControlPlane, request: Request) -> Reply:
    try:
        route, admitted = plane.access.admit(request)
        return await route.handler(plane, admitted)
    except HttpError as error:
        return refusal(error)
    except DocumentError as error:
        problems = str(error).split("\n")
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        return refusal(HttpError(400, "document_refused", f"refused for {count}; nothing changed", problems))
    except LedgerError as error:
        return refusal(HttpError(503, "ledger_unavailable", str(error)))
    except TimeoutError:
        return refusal(HttpError(503, "ledger_slow", f"the ledger has not answered for {HEALTH_TIMEOUT_S:.0f} s"))


def _object_path(request: Request) -> tuple[str, str]:
    kind, name = request.path.split("/")[3:5]
    return kind.capitalize() if kind.capitalize() in KINDS else kind, name


def _applied(version: int, changes: tuple[Change, ...], document: Document) -> Reply:
    return Reply({"version": version, "changes": changes, "warnings": warnings(document)})
