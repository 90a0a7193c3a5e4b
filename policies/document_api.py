"""The policy document over HTTP: followed, applied, taken apart, and who changed it."""
from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from farthing.policy import KINDS, Document
from farthing.semconv import HEADER_FOLLOWER, HEADER_GAINS, HEADER_REFUSED
from policies import approval_api
from policies.changes import Change, by_key
from policies.check import warnings
from policies.http import MAX_WAIT_S, HttpError, Reply, Request, first_of
from policies.load import load
from policies.periods import iso

if TYPE_CHECKING:
    from policies.plane import ControlPlane


async def document(plane: ControlPlane, request: Request) -> Reply:
    """Send the newest document; a caller that has it already waits for the next."""
    wait_s = min(request.number("wait"), MAX_WAIT_S)
    known = request.headers.get("if-none-match", "").removeprefix("W/")
    if name := request.headers.get(HEADER_FOLLOWER, ""):
        told = [request.headers.get(header, "") for header in (HEADER_REFUSED, HEADER_GAINS)]
        plane.followers.heard(name, known, *told)
    if any(one.until_ns is not None and one.until_ns <= time.time_ns() for one in plane.document_in_force.crossed):
        await plane.restage()
    event = plane.feed.replaced()
    if known == plane.feed.newest.etag and wait_s > 0:
        await first_of(event, request, wait_s)
    newest = plane.feed.newest
    return Reply(newest.body, 304 if known == newest.etag else 200, {"etag": newest.etag})


async def apply(plane: ControlPlane, request: Request) -> Reply:
    """Put the objects of a YAML text in force, or tell what that would change."""
    replace, dry_run = request.flag("replace"), request.flag("dry_run")
    request.signature()
    given = await asyncio.to_thread(load, await request.utf8(), "body")
    if dry_run:
        document, changes = await asyncio.to_thread(plane.store.plan, given, replace)
        return _applied(plane.document_in_force.version, changes, document)
    return await approval_api.submit(plane, request, given, replace, "apply")


async def remove(plane: ControlPlane, request: Request) -> Reply:
    """Take one object out of force."""
    kind, name = _object_path(request)
    author, reason = request.text("author"), request.text("reason")
    if (kind, name) not in by_key(plane.document_in_force):
        raise HttpError(404, "no_such_object", f"there is no {kind} {name!r}; GET /v1/objects lists what there is")
    document, changes = await plane.change(lambda: plane.store.remove(kind, name, author, reason))
    return _applied(document.version, changes, document)


async def objects(plane: ControlPlane, _request: Request) -> Reply:
    """List what is in force, with the YAML of each as it was written."""
    document = plane.document_in_force
    sources = await asyncio.to_thread(plane.store.sources)
    listed = [
        {"kind": kind, "name": name, "version": sources[kind, name][0], "source": sources[kind, name][1]}
        | {"spec": item.model_dump(mode="json", exclude_defaults=True)}
        for (kind, name), item in by_key(document).items()
    ]
    return Reply({"version": document.version, "objects": listed})


async def versions(plane: ControlPlane, _request: Request) -> Reply:
    """List the newest versions."""
    rows = await asyncio.to_thread(plane.store.history)
    return Reply({"versions": [row | {"created_at": iso(row.pop("created_ns"))} for row in rows]})


async def audit(plane: ControlPlane, _request: Request) -> Reply:
    """List who changed what, and why."""
    rows = await asyncio.to_thread(plane.store.audit)
    return Reply({"audit": [row | {"at": iso(row.pop("at_ns"))} for row in rows]})


async def writes(plane: ControlPlane, request: Request) -> Reply:
    """List what was asked of this API to be changed, by whom, and what became of it, the newest first."""
    asked = {name: value for name, value in request.query.items() if name != "author"}
    try:
        return Reply(await asyncio.to_thread(plane.audit.page, asked))
    except ValueError as error:
        raise HttpError(400, "bad_query", str(error)) from None


def _object_path(request: Request) -> tuple[str, str]:
    kind, name = request.path.split("/")[3:5]
    return kind.capitalize() if kind.capitalize() in KINDS else kind, name


def _applied(version: int, changes: tuple[Change, ...], document: Document) -> Reply:
    return Reply({"version": version, "changes": changes, "warnings": warnings(document)})
