"""The gain models that the analyzer trained, every version of the last few; proxies fetch the newest by checksum.

Only what was read as a proxy will read it comes in here, so that a document never names weights that nobody can use.
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select

from farthing.errors import LedgerError
from farthing.policy import Document
from farthing.policy.gain import GainModel
from farthing.policy.route import Pair
from farthing.policy.trained import Trained
from policies.database import changing, reading, rows
from policies.periods import iso
from policies.tables import gain_models

KEPT = 5  # versions of each pair


class GainStore:
    """The models of one control database; the caller writes on the ledger's owner thread."""

    def __init__(self, engine: Engine, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._engine = engine
        self._clock_ns = clock_ns

    def put(self, pair: Pair, model: GainModel) -> Trained:
        """Keep a model as the newest version of its pair; one that is there already stays what it is."""
        with changing(self._engine, LedgerError("another model came first; send it again")) as connection:
            newest = _newest(connection, pair)
            if newest is not None and newest["checksum"] == model.checksum:
                return _trained(newest)
            version = 1 if newest is None else newest["version"] + 1
            row: dict[str, Any] = {
                **pair._asdict(), "version": version, "checksum": model.checksum, "created_ns": self._clock_ns(),
                "trained": json.dumps(model.trained), "body": model.to_json().decode(),
            }  # fmt: skip
            connection.execute(insert(gain_models).values(row))
            connection.execute(delete(gain_models).where(*_is(pair), gain_models.c.version <= version - KEPT))
        return _trained(row)

    def body(self, checksum: str) -> str | None:
        """Return a model as it was put."""
        with reading(self._engine) as connection:
            found = select(gain_models.c.body).where(gain_models.c.checksum == checksum)
            return connection.execute(found.limit(1)).scalar()

    def listed(self) -> list[dict[str, Any]]:
        """Return every version there is, the newest of each pair first, without its weights."""
        columns = [column for column in gain_models.c if column.name != "body"]
        order = (gain_models.c.weak, gain_models.c.strong, gain_models.c.grade, gain_models.c.version.desc())
        found = rows(self._engine, select(*columns).order_by(*order))
        return [row | {"trained": json.loads(row["trained"]), "at": iso(row.pop("created_ns"))} for row in found]

    def named_by(self, document: Document) -> tuple[Trained, ...]:
        """Return the newest model of each pair that a document's policies name."""
        pairs = document.pairs
        if not pairs:
            return ()
        with reading(self._engine) as connection:
            found = [_newest(connection, pair) for pair in pairs]
        return tuple(_trained(row) for row in found if row is not None)


def _is(pair: Pair) -> tuple[Any, ...]:
    return tuple(gain_models.c[name] == value for name, value in pair._asdict().items())


def _newest(connection: Connection, pair: Pair) -> Any:
    columns = [gain_models.c[name] for name in ("weak", "strong", "grade", "version", "checksum")]
    newest = select(*columns).where(*_is(pair), gain_models.c.version == _last(pair))
    return connection.execute(newest).mappings().first()


def _last(pair: Pair) -> Any:
    return select(func.max(gain_models.c.version)).where(*_is(pair)).scalar_subquery()


def _trained(row: Any) -> Trained:
    return Trained(**{name: row[name] for name in ("weak", "strong", "grade", "version", "checksum")})
