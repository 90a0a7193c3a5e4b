"""The virtual keys: a key is shown once, when it is made, and only its digest is kept and handed on to proxies.

A name stays taken after its key was revoked, so that an old row of the warehouse never means somebody else.
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta, timezone
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, insert, select, update

from farthing.errors import KeyRefusedError
from farthing.policy import Key
from farthing.policy.key import ROUTES
from farthing.policy.kinds.key import DeclaredKey
from farthing.virtual_key import digest, new_key, shown
from policies.database import append, changing, rows
from policies.periods import NS_PER_S, iso
from policies.tables import api_keys, key_events

DEFAULT_OVERLAP_S = 86_400.0  # seconds that a rotated key stays good


class KeyStore:
    """The keys of one control database; the caller writes on the ledger's owner thread."""

    def __init__(self, engine: Engine, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._engine = engine
        self._clock_ns = clock_ns

    def in_force(self) -> tuple[Key, ...]:
        """Return every key as proxies are to know it; a revoked one too, so that they can say why they refuse it."""
        return tuple(_key(row) for row in rows(self._engine, select(api_keys).order_by(api_keys.c.name)))

    def listed(self) -> list[dict[str, Any]]:
        """Return every key as people may see it."""
        now = self._clock_ns()
        return [_line(row, now) for row in rows(self._engine, select(api_keys).order_by(api_keys.c.name))]

    def events(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Return who made, rotated or revoked which key, the newest first."""
        query = select(key_events).order_by(key_events.c.entry.desc()).limit(limit)
        return [row | {"at": iso(row["at_ns"])} for row in rows(self._engine, query)]

    def create(self, spec: dict[str, Any], author: str, reason: str) -> str:
        """Make a key and return it; nobody will see it again.

        Raises:
            KeyRefusedError: the name is taken, or something in `spec` is not allowed.
        """
        secret = new_key()
        made = _checked(spec | {"digest": digest(secret.encode()).hex()})
        now = self._clock_ns()
        if made.expires is not None and _ns(made.expires) <= now:
            raise KeyRefusedError(f"expires = {made.expires:%Y-%m-%dT%H:%M:%SZ} has passed; name a later time")
        with self._writing() as connection:
            if _row(connection, made.name) is not None:
                raise KeyRefusedError(f"the name {made.name!r} is taken, if by a revoked key; choose another one")
            connection.execute(insert(api_keys).values(_stored(made, secret, now)))
            _note(connection, now, made.name, "create", author, reason)
        return secret

    def follow(self, declared: Iterable[DeclaredKey]) -> None:
        """Have the keys that there are be as documents declare them; safe to repeat, a start does."""
        wanted = {one.name: declared_fields(one) for one in declared}
        if not wanted:
            return
        with self._writing() as connection:
            rows = connection.execute(select(api_keys).where(api_keys.c.name.in_(wanted))).mappings().all()
            for row in rows:
                fields = wanted[row["name"]]
                if any(row[name] != value for name, value in fields.items()):
                    connection.execute(update(api_keys).where(api_keys.c.name == row["name"]).values(fields))

    def rotate(self, name: str, overlap_s: float, author: str, reason: str) -> tuple[str, datetime]:
        """Put a new key in a key's place; return it, and until when the old one is good.

        Raises:
            KeyRefusedError: there is no such key, or it is revoked.
        """
        secret, now = new_key(), self._clock_ns()
        until = now + int(overlap_s * NS_PER_S)
        with self._writing() as connection:
            old = _live(connection, name)
            changed = {
                "digest": digest(secret.encode()).hex(), "shown": shown(secret),
                "old_digest": old["digest"], "old_until_ns": until,
            }  # fmt: skip
            connection.execute(update(api_keys).where(api_keys.c.name == name).values(changed))
            _note(connection, now, name, "rotate", author, reason)
        return secret, _moment(until)

    def revoke(self, name: str, author: str, reason: str) -> None:
        """End a key, and the one that it was before its rotation, now and for good.

        Raises:
            KeyRefusedError: there is no such key, or it is revoked already.
        """
        now = self._clock_ns()
        with self._writing() as connection:
            _live(connection, name)
            connection.execute(update(api_keys).where(api_keys.c.name == name).values(revoked_ns=now))
            _note(connection, now, name, "revoke", author, reason)

    def _writing(self) -> AbstractContextManager[Connection]:
        return changing(self._engine, KeyRefusedError("another change came first; look at GET /v1/keys and try again"))


def _checked(spec: dict[str, Any]) -> Key:
    try:
        return Key.model_validate(spec)
    except ValidationError as error:
        found = error.errors()[0]
        where, value = ".".join(str(part) for part in found["loc"]), found["input"]
        raise KeyRefusedError(f"{where} = {value!r}: {_allowed(found['loc'], found['type'], found['msg'])}") from None


def _allowed(where: tuple[int | str, ...], kind: str, message: str) -> str:
    if where[:1] == ("name",):
        return "allowed: a-z, 0-9 and -, not starting with -, up to 63 characters"
    if where[:1] == ("routes",):
        return f"allowed: {', '.join(ROUTES)}"
    if where[:1] == ("expires",):
        return "allowed: ISO 8601 with a time zone, such as 2026-12-31T00:00:00Z"
    return "unknown" if kind == "extra_forbidden" else message


def _row(connection: Connection, name: str) -> Any:
    return connection.execute(select(api_keys).where(api_keys.c.name == name)).mappings().first()


def _live(connection: Connection, name: str) -> Any:
    row = _row(connection, name)
    if row is None:
        raise KeyRefusedError(f"there is no key {name!r}; `farthing key list` names those there are", is_missing=True)
    if row["revoked_ns"] is not None:
        raise KeyRefusedError(f"the key {name!r} was revoked on {_moment(row['revoked_ns']):%Y-%m-%d}; create another")
    return row


def _note(connection: Connection, now: int, name: str, act: str, author: str, reason: str) -> None:
    values = {"at_ns": now, "key": name, "act": act, "author": author, "reason": reason}
    append(connection, key_events, values)


def _stored(key: Key, secret: str, now: int) -> dict[str, Any]:
    return {
        "name": key.name, "digest": key.digest, "shown": shown(secret), "tenant": key.tenant, "team": key.team,
        "user_name": key.user, "models": json.dumps(key.models), "routes": json.dumps(key.routes), "created_ns": now,
        "expires_ns": None if key.expires is None else _ns(key.expires),
    }  # fmt: skip


def declared_fields(one: DeclaredKey) -> dict[str, Any]:
    """Return the columns that a document decides."""
    return {
        "tenant": one.tenant, "team": one.team, "user_name": one.user, "models": json.dumps(one.models),
        "routes": json.dumps(one.routes), "expires_ns": None if one.expires is None else _ns(one.expires),
    }  # fmt: skip


def _key(row: Any) -> Key:
    return Key(
        name=row["name"], digest=row["digest"], tenant=row["tenant"], team=row["team"], user=row["user_name"],
        models=json.loads(row["models"]), routes=json.loads(row["routes"]), expires=_maybe(row["expires_ns"]),
        old_digest=row["old_digest"], old_until=_maybe(row["old_until_ns"]), revoked=_maybe(row["revoked_ns"]),
    )  # fmt: skip


def _line(row: Any, now: int) -> dict[str, Any]:
    state = "active"
    if row["revoked_ns"] is not None:
        state = "revoked"
    elif row["expires_ns"] is not None and row["expires_ns"] <= now:
        state = "expired"
    old_until = row["old_until_ns"]
    return {
        "name": row["name"], "shown": row["shown"], "state": state, "tenant": row["tenant"], "team": row["team"],
        "user": row["user_name"], "models": json.loads(row["models"]), "routes": json.loads(row["routes"]),
        "created_at": iso(row["created_ns"]), "expires_at": iso(row["expires_ns"]),
        "revoked_at": iso(row["revoked_ns"]),
        "old_until": iso(old_until) if old_until is not None and old_until > now else None,
    }  # fmt: skip


def _ns(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1) * 1000


def _moment(at_ns: int) -> datetime:
    return datetime.fromtimestamp(at_ns / NS_PER_S, timezone.utc)


def _maybe(at_ns: int | None) -> datetime | None:
    return None if at_ns is None else _moment(at_ns)
