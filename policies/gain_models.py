"""The gain models that the analyzer trained, every version of the last few; proxies fetch the newest by checksum.

Only what was read as a proxy will read it comes in here, so that a document never names weights that nobody can use.
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, insert, select

from farthing.errors import LedgerError
from farthing.policy import Document
from farthing.policy.gain import GainModel
from farthing.policy.route import Pair
from farthing.policy.trained import Trained
from policies.database import changing, reading, rows
from policies.periods import iso
from policies.tables import gain_models

KEPT = 5  # versions of each tenant and pair
_NAMES = ("tenant", *Pair._fields)  # of what a model is about


class GainStore:
    """The models of one control database; the caller writes on the ledger's owner thread."""

    def __init__(self, engine: Engine, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._engine = engine
        self._clock_ns = clock_ns

    def put(self, tenant: str, pair: Pair, model: GainModel) -> Trained:
        """Keep a model as the newest version of its tenant and pair; one that is there already stays what it is."""
        with changing(self._engine, LedgerError("another model came first; send it again")) as connection:
            newest = next(iter(_newest(connection, pair, gain_models.c.tenant == tenant)), None)
            if newest is not None and newest["checksum"] == model.checksum:
                return _trained(newest)
            version = 1 if newest is None else newest["version"] + 1
            row: dict[str, Any] = {
                "tenant": tenant, **pair._asdict(), "version": version, "checksum": model.checksum,
                "created_ns": self._clock_ns(), "trained": json.dumps(model.trained), "body": model.to_json().decode(),
            }  # fmt: skip
            connection.execute(insert(gain_models).values(row))
            old = (gain_models.c.tenant == tenant, gain_models.c.version <= version - KEPT)
            connection.execute(delete(gain_models).where(*_is(pair), *old))
        return _trained(row)

    def body(self, checksum: str) -> str | None:
        """Return a model as it was put."""
        with reading(self._engine) as connection:
            found = select(gain_models.c.body).where(gain_models.c.checksum == checksum)
            return connection.execute(found.limit(1)).scalar()

    def listed(self) -> list[dict[str, Any]]:
        """Return every version there is, the newest of each tenant and pair first, without its weights."""
        columns = [column for column in gain_models.c if column.name != "body"]
        order = [gain_models.c[name] for name in _NAMES]
        found = rows(self._engine, select(*columns).order_by(*order, gain_models.c.version.desc()))
        return [row | {"trained": json.loads(row["trained"]), "at": iso(row.pop("created_ns"))} for row in found]

    def named_by(self, document: Document) -> tuple[Trained, ...]:
        """Return the newest models of the pairs that a document's policies name, one for each tenant that has one."""
        pairs = document.pairs
        if not pairs:
            return ()
        with reading(self._engine) as connection:
            return tuple(_trained(row) for pair in pairs for row in _newest(connection, pair))


def _is(pair: Pair) -> tuple[Any, ...]:
    return tuple(gain_models.c[name] == value for name, value in pair._asdict().items())


def _newest(connection: Connection, pair: Pair, *where: ColumnElement[bool]) -> Sequence[Any]:
    """Return the newest version of each tenant, by the tenant's name."""
    last = select(gain_models.c.tenant, func.max(gain_models.c.version).label("version"))
    newest = last.where(*_is(pair), *where).group_by(gain_models.c.tenant).subquery()
    columns = [gain_models.c[name] for name in (*_NAMES, "version", "checksum")]
    is_newest = (gain_models.c.tenant == newest.c.tenant) & (gain_models.c.version == newest.c.version)
    found = select(*columns).join(newest, is_newest).where(*_is(pair)).order_by(gain_models.c.tenant)
    return connection.execute(found).mappings().all()


def _trained(row: Any) -> Trained:
    return Trained(**{name: row[name] for name in (*_NAMES, "version", "checksum")})
