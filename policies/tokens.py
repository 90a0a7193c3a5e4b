"""Tokens of the control API: shown once, kept as a digest, with a role; who made or revoked one stays on record.

The digest needs neither salt nor stretching: a token has 256 random bits, so there is nothing to guess.
"""
from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from farthing.access import TOKEN_PREFIX, Principal
from farthing.errors import TokenRefusedError
from farthing.policy.record import NAME_PATTERN
from policies.database import append, rows, writing
from policies.periods import NS_PER_S, iso
from policies.tables import token_events, tokens

ROLES = ("viewer", "operator", "admin", "proxy")
MAX_DAYS = 3650.0


class TokenStore:
    """The tokens of one control database, all of them in memory, because every request is checked."""

    def __init__(self, engine: Engine, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._engine = engine
        self._clock_ns = clock_ns
        self._known: dict[str, tuple[Principal, int | None]] = {}  # digest -> whose, and until when
        self._reload()

    def find(self, token: str) -> Principal | None:
        """Return whose a token is; None = it is unknown, revoked or over."""
        owner, expires_ns = self._known.get(_digest(token), (None, None))
        return None if expires_ns is not None and expires_ns <= self._clock_ns() else owner

    def create(self, name: str, role: str, days: float | None, author: str, reason: str) -> str:
        """Make a token and return it; nobody will see it again.

        Raises:
            TokenRefusedError: the name is taken or no name, or there is no such role.
        """
        if not re.fullmatch(NAME_PATTERN, name):
            raise TokenRefusedError(f"name={name!r}: allowed: a-z, 0-9 and -, up to 63 characters")
        if role not in ROLES:
            raise TokenRefusedError(f"role={role!r}: allowed are {', '.join(ROLES)}")
        if days is not None and not 0 < days <= MAX_DAYS:
            raise TokenRefusedError(f"days={days:g}: allowed is more than 0, up to {MAX_DAYS:g}")
        token, now = TOKEN_PREFIX + secrets.token_urlsafe(32), self._clock_ns()
        expires = None if days is None else now + int(days * 86_400) * NS_PER_S
        row = {"name": name, "digest": _digest(token), "role": role, "created_ns": now, "expires_ns": expires}
        with writing(self._engine) as connection:
            if connection.execute(select(tokens.c.name).where(tokens.c.name == name)).scalar() is not None:
                raise TokenRefusedError(f"the name {name!r} is taken, if by a revoked token")
            connection.execute(insert(tokens).values(row))
            _note(connection, now, name, "create", author, reason)
        self._reload()
        return token

    def revoke(self, name: str, author: str, reason: str) -> None:
        """End a token now and for good.

        Raises:
            TokenRefusedError: there is no such token, or it is revoked already.
        """
        now = self._clock_ns()
        live = (tokens.c.name == name) & tokens.c.revoked_ns.is_(None)
        with writing(self._engine) as connection:
            if not connection.execute(update(tokens).where(live).values(revoked_ns=now)).rowcount:
                where = "GET /v1/tokens lists them"
                raise TokenRefusedError(f"there is no token {name!r} in force; {where}", is_missing=True)
            _note(connection, now, name, "revoke", author, reason)
        self._reload()

    def listed(self) -> list[dict[str, Any]]:
        """Return every token as people may see it, by name."""
        now = self._clock_ns()
        found = rows(self._engine, select(tokens).order_by(tokens.c.name))
        return [_line(row, now) for row in found]

    def events(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Return who made or revoked which token, the newest first."""
        found = rows(self._engine, select(token_events).order_by(token_events.c.entry.desc()).limit(limit))
        return [row | {"at": iso(row.pop("at_ns"))} for row in found]

    def _reload(self) -> None:
        found = rows(self._engine, select(tokens).where(tokens.c.revoked_ns.is_(None)))
        self._known = {row["digest"]: (Principal(row["name"], row["role"]), row["expires_ns"]) for row in found}


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()


def _line(row: dict[str, Any], now: int) -> dict[str, Any]:
    ends = row["expires_ns"]
    state = "revoked" if row["revoked_ns"] else "over" if ends is not None and ends <= now else "good"
    times = {"created_at": iso(row["created_ns"]), "expires_at": iso(ends)}
    return {"name": row["name"], "role": row["role"], "state": state, **times}


def _note(connection: Connection, now: int, name: str, act: str, author: str, reason: str) -> None:
    entry = {"at_ns": now, "token": name, "act": act, "author": author, "reason": reason}
    append(connection, token_events, entry)
