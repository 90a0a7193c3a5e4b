"""The policy documents: every version kept with its author, its reason and its YAML as written.

A version is one transaction: the document, the texts of the objects it set and the audit entry, or nothing of them. An
apply that changes nothing makes no version.
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Engine, insert, select

from farthing.errors import DocumentError
from farthing.policy import EMPTY, Document
from policies.changes import Change, applied, by_key, removed
from policies.database import append, changing, reading, rows
from policies.difference import difference, one_difference
from policies.edit import with_field
from policies.load import Key, Objects, load
from policies.tables import audit, documents, objects

Applied = tuple[Document, tuple[Change, ...]]


class Store:
    """The documents table and its companions; safe to use from several threads."""

    def __init__(self, engine: Engine, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._engine = engine
        self._clock_ns = clock_ns

    def current(self) -> Document:
        """Return the newest document, or the empty one of version 0."""
        with reading(self._engine) as connection:
            return _newest(connection)

    def apply(self, yaml_text: str, author: str, reason: str, replace: bool = False) -> Applied:
        """Put the objects of a YAML text in force; with `replace`, all others are removed.

        Raises:
            DocumentError: the text is refused as a whole; nothing changed.
        """
        return self.put(load(yaml_text), author, reason, replace)

    def put(self, given: Objects, author: str, reason: str, replace: bool = False, act: str = "apply") -> Applied:
        """Do what `apply` does, with a text already read; `act` is what the audit calls it."""
        with self._writing() as connection:
            document, changes = applied(_newest(connection), given, replace)
            set_now = {(c.kind, c.name) for c in changes if c.change in ("added", "changed")}
            sources = {key: given.sources[key] for key in set_now}
            if set_now or any(change.change == "removed" for change in changes):
                self._keep(connection, document, _Entry(act, author, reason, given.text, changes), sources)
        return document, changes

    def plan(self, given: Objects, replace: bool = False) -> Applied:
        """Return what `put` would do, and do nothing."""
        return applied(self.current(), given, replace)

    def remove(self, kind: str, name: str, author: str, reason: str) -> Applied:
        """Take one object out of force.

        Raises:
            DocumentError: there is no such object.
        """
        with self._writing() as connection:
            before = _newest(connection)
            if (kind, name) not in by_key(before):
                raise DocumentError(f"there is no {kind} {name!r} in version {before.version}; see GET /v1/objects")
            document, changes = removed(before, (kind, name))
            self._keep(connection, document, _Entry("remove", author, reason, "", changes), {})
        return document, changes

    def revert(self, version: int, author: str, reason: str) -> Applied:
        """Put an earlier version back in force, as a new version.

        Raises:
            DocumentError: there is no such version.
        """
        with self._writing() as connection:
            before, then = _newest(connection), _at(connection, version)
            items = tuple(then.items())
            texts = _sources_at(connection, version)
            sources = {(item.KIND, item.name): texts.get((item.KIND, item.name), "") for item in items}
            whole = "---\n".join(text.removeprefix("---\n") for text in sources.values())
            document, changes = applied(before, Objects(items, sources, whole), replace=True)
            if document is not before:
                set_now = {(c.kind, c.name) for c in changes if c.change in ("added", "changed")}
                entry = _Entry("revert", author, reason or f"back to version {version}", whole, changes)
                self._keep(connection, document, entry, {key: sources[key] for key in set_now})
        return document, changes

    def edited(self, key: Key, fields: Mapping[str, object]) -> Objects:
        """Return an object in force with fields set anew in its own text, comments kept; nothing is written.

        Raises:
            DocumentError: there is no such object, or it cannot hold that value.
        """
        with reading(self._engine) as connection:
            newest = _newest(connection)
            text = _sources_at(connection, newest.version).get(key, "") if key in by_key(newest) else ""
        if not text:
            raise DocumentError(f"there is no {key[0]} {key[1]!r} in version {newest.version}; see GET /v1/objects")
        for field, value in fields.items():
            text = with_field(text, field, value)
        return load(text, "/".join(key))

    def set_since_ns(self) -> dict[Key, int]:
        """Return for each object when the version was made that set it last, Unix time in nanoseconds."""
        with reading(self._engine) as connection:
            made = select(objects.c.kind, objects.c.name, documents.c.created_ns).join(
                documents, documents.c.version == objects.c.version
            )
            rows = connection.execute(made.order_by(objects.c.version)).all()
        return {(row.kind, row.name): row.created_ns for row in rows}

    def between(self, old: int, new: int) -> tuple[tuple[Change, ...], str]:
        """Return what changed between two versions, as changes and as a unified diff of what was written.

        Raises:
            DocumentError: there is no such version.
        """
        with reading(self._engine) as connection:
            documents = [_at(connection, version) for version in (old, new)]
            texts = [_in_force(_sources_at(connection, one.version), one) for one in documents]
        after = Objects(tuple(documents[1].items()), {}, "")
        changes = applied(documents[0], after, replace=True)[1]
        return tuple(c for c in changes if c.change != "unchanged"), difference(*texts)

    def at(self, version: int) -> Document:
        """Return an earlier document.

        Raises:
            DocumentError: there is no such version.
        """
        with reading(self._engine) as connection:
            return _at(connection, version)

    def sources(self) -> dict[Key, tuple[int, str]]:
        """Return for each object ever set the version that set it last, and its YAML text."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(objects).order_by(objects.c.version)).all()
        return {(row.kind, row.name): (row.version, row.source) for row in rows}

    def history(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest versions, the newest first, each with its YAML text as written."""
        columns = [column for column in documents.c if column.name != "canonical"]
        return rows(self._engine, select(*columns).order_by(documents.c.version.desc()).limit(limit))

    def audit(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest audit entries, the newest first."""
        entries = rows(self._engine, select(audit).order_by(audit.c.entry.desc()).limit(limit))
        return [row | {"changes": json.loads(row["changes"])} for row in entries]

    def _writing(self) -> AbstractContextManager[Connection]:
        clash = DocumentError("another change came first; read the current version and try again")
        return changing(self._engine, clash)

    def _keep(self, connection: Connection, document: Document, entry: _Entry, sources: Mapping[Key, str]) -> None:
        now = self._clock_ns()
        connection.execute(insert(documents).values(_document_row(document, entry, now)))
        texts = [{"version": document.version, "kind": k, "name": n, "source": t} for (k, n), t in sources.items()]
        if texts:
            connection.execute(insert(objects), texts)
        before = _sources_at(connection, document.version - 1)
        append(connection, audit, _audit_row(document, entry, now, before, sources))


@dataclass(frozen=True)
class _Entry:
    act: str  # apply | accept | remove | revert | mode | rollback
    author: str
    reason: str
    source: str
    changes: tuple[Change, ...]


def _told(change: Change, before: Mapping[Key, str], sources: Mapping[Key, str]) -> dict[str, str]:
    key = (change.kind, change.name)
    old = before.get(key) if change.change != "added" else None
    return asdict(change) | {"diff": one_difference(key, old, sources.get(key))}


def _newest(connection: Connection) -> Document:
    newest = select(documents.c.canonical).order_by(documents.c.version.desc()).limit(1)
    canonical = connection.execute(newest).scalar()
    return EMPTY if canonical is None else Document.from_json(canonical.encode())


def _document_row(document: Document, entry: _Entry, now: int) -> dict[str, Any]:
    return {
        "version": document.version,
        "created_ns": now,
        "author": entry.author,
        "reason": entry.reason,
        "source": entry.source,
        "canonical": document.to_json().decode(),
        "checksum": document.checksum,
    }


def _at(connection: Connection, version: int) -> Document:
    if version == 0:
        return EMPTY
    canonical = connection.execute(select(documents.c.canonical).where(documents.c.version == version)).scalar()
    if canonical is None:
        newest = _newest(connection).version
        raise DocumentError(f"there is no version {version}; allowed: 0 to {newest}, see `farthing policy history`")
    return Document.from_json(canonical.encode())


def _sources_at(connection: Connection, version: int) -> dict[Key, str]:
    """Return the newest text of each object up to a version, of removed ones too."""
    rows = connection.execute(select(objects).where(objects.c.version <= version).order_by(objects.c.version)).all()
    return {(row.kind, row.name): row.source for row in rows}


def _in_force(texts: Mapping[Key, str], document: Document) -> dict[Key, str]:
    return {key: text for key, text in texts.items() if key in by_key(document)}


def _audit_row(
    document: Document, entry: _Entry, now: int, before: Mapping[Key, str], sources: Mapping[Key, str]
) -> dict[str, Any]:
    changes = json.dumps([_told(change, before, sources) for change in entry.changes if change.change != "unchanged"])
    return {
        "version": document.version,
        "at_ns": now,
        "author": entry.author,
        "reason": entry.reason,
        "act": entry.act,
        "changes": changes,
    }
