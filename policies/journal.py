"""The ledger's rows: how balances and holds are read from the control database and written to it.

Statements are composed by SQLAlchemy once and then run on the driver: compiling them per commit costs more than SQLite
itself takes [56 µs against 13 µs for 16 rows].
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, Row, bindparam, insert, select, update
from sqlalchemy.sql.dml import Insert, Update

from farthing.errors import LedgerError
from policies.balance import Balance
from policies.operations import HoldId
from policies.periods import Period
from policies.tables import balances, holds, ledger_owner

FIGURES = ("configured_nusd", "limit_nusd", "spent_nusd", "held_nusd", "overrun_nusd", "refused")


class Prepared:
    """A statement compiled for one dialect, run with many rows at once."""

    def __init__(self, statement: Insert | Update, engine: Engine) -> None:
        compiled: Any = statement.compile(dialect=engine.dialect)
        self._sql: str = compiled.string
        self._order: list[str] | None = compiled.positiontup  # None: the driver takes names

    def run(self, connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        order = self._order
        given: Any = list(rows) if order is None else [tuple([row[name] for name in order]) for row in rows]
        if given:
            connection.exec_driver_sql(self._sql, given)


class Journal:
    """Reads and writes inside the caller's transaction."""

    def __init__(self, engine: Engine) -> None:
        of_balance = (balances.c.budget == bindparam("b_budget")) & (balances.c.period == bindparam("b_period"))
        of_hold = (
            (holds.c.request_id == bindparam("h_request_id"))
            & (holds.c.attempt == bindparam("h_attempt"))
            & (holds.c.budget == bindparam("h_budget"))
        )
        closing = {name: bindparam(name) for name in ("charged_nusd", "overrun_nusd", "state", "settled_ns")}
        self._add_balances = Prepared(insert(balances), engine)
        self._set_balances = Prepared(
            update(balances).where(of_balance).values({name: bindparam(name) for name in FIGURES}), engine
        )
        self._open = Prepared(insert(holds), engine)
        self._close = Prepared(update(holds).where(of_hold).values(closing), engine)

    def take_over(self, connection: Connection) -> int:
        """Become the owner: no earlier owner can commit from here on. Return the new epoch."""
        connection.execute(update(ledger_owner).values(epoch=ledger_owner.c.epoch + 1))
        return connection.execute(select(ledger_owner.c.epoch)).scalar_one()

    def assert_owner(self, connection: Connection, epoch: int) -> None:
        """Lock the ledger for this transaction.

        Raises:
            LedgerError: another process has taken over.
        """
        mine = update(ledger_owner).where(ledger_owner.c.epoch == epoch).values(commits=ledger_owner.c.commits + 1)
        if connection.execute(mine).rowcount != 1:
            raise LedgerError("another control process has taken the ledger over; stop one of the two")

    def open_holds(self, connection: Connection) -> list[Row[Any]]:
        """Return the rows of all open holds, the oldest first."""
        query = select(holds).where(holds.c.state == "open").order_by(holds.c.reserved_ns)
        return list(connection.execute(query).all())

    def lines(self, connection: Connection, hold: HoldId) -> list[Row[Any]]:
        """Return the rows of one hold, whatever its state, in order of budget."""
        query = select(holds).where(holds.c.request_id == hold[0], holds.c.attempt == hold[1])
        return list(connection.execute(query.order_by(holds.c.budget)).all())

    def balance(self, connection: Connection, budget: str, period: str) -> Balance | None:
        """Return the stored balance of a budget in a period."""
        query = select(balances).where(balances.c.budget == budget, balances.c.period == period)
        row = connection.execute(query).first()
        return None if row is None else _balance(row)

    def write_balances(self, connection: Connection, changed: Iterable[Balance]) -> None:
        """Write balances, new or known."""
        rows = [(balance.stored, _balance_row(balance)) for balance in changed]
        self._add_balances.run(connection, [row for stored, row in rows if not stored])
        self._set_balances.run(connection, [row for stored, row in rows if stored])

    def write_holds(
        self, connection: Connection, opened: Iterable[Mapping[str, Any]], closed: Iterable[Mapping[str, Any]]
    ) -> None:
        """Write new holds, then what became of holds."""
        self._open.run(connection, opened)
        self._close.run(connection, closed)


def _balance(row: Row[Any]) -> Balance:
    return Balance(
        budget=row.budget,
        period=Period(row.period, row.start_ns, row.end_ns),
        configured_nusd=row.configured_nusd,
        hard=row.limit_nusd is not None,
        spent_nusd=row.spent_nusd,
        held_nusd=row.held_nusd,
        overrun_nusd=row.overrun_nusd,
        refused=row.refused,
        stored=True,
    )


def _balance_row(balance: Balance) -> dict[str, Any]:
    row = {name: getattr(balance, name) for name in FIGURES}
    row |= {"budget": balance.budget, "period": balance.period.name}
    row |= {"b_budget": balance.budget, "b_period": balance.period.name}
    return row | {"start_ns": balance.period.start_ns, "end_ns": balance.period.end_ns}


def opened_row(hold: HoldId, balance: Balance, amount_nusd: int, reserved_ns: int) -> dict[str, Any]:
    """Return the row of a new hold in one budget."""
    return {
        "request_id": hold[0],
        "attempt": hold[1],
        "budget": balance.budget,
        "period": balance.period.name,
        "held_nusd": amount_nusd,
        "charged_nusd": 0,
        "overrun_nusd": 0,
        "state": "open",
        "reserved_ns": reserved_ns,
        "settled_ns": None,
    }


def closed_row(hold: HoldId, budget: str, charge: tuple[int, int], state: str, settled_ns: int) -> dict[str, Any]:
    """Return what became of a hold in one budget; `charge` is what was charged and the overrun."""
    return {
        "h_request_id": hold[0],
        "h_attempt": hold[1],
        "h_budget": budget,
        "charged_nusd": charge[0],
        "overrun_nusd": charge[1],
        "state": state,
        "settled_ns": settled_ns,
    }
